"""Estimate on paper how fast the Triton kernel can draw on an H200; nothing is measured.

    python benchmarks/roofline.py --out benchmarks/results/roofline.json

Instructions come from the compiled kernel in benchmarks/results/kernels.json: those of each function of its
source, times how often a tile executes that function. How many tiles the layers reach is counted in drawn
scenes. Both branches of a border rule are counted, so that the instructions are an upper bound.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import record

from smile_synth import BackgroundFolder, ObjectBank, Recipe, build_bank, sample_scenes
from smile_synth.backgrounds import write_images
from smile_synth.compositing._parameters import FIXED_ONE, IMAGE, NOISE, SOLID, build_parameters
from smile_synth.objects import CutOutOptions
from smile_synth.sources import Sources

# Of NVIDIA's data sheet of the H200 SXM: bytes/s; 67 TFLOP/s of fp32 and 34 of fp64, two in an instruction.
# The conversion unit executes 16 instructions per clock and multiprocessor, an eighth of fp32's.
LIMITS = {"memory": 4.8e12, "issue": 67e12 / 2, "float64": 34e12 / 2, "conversions": 67e12 / 2 / 8}
ROW = "plain, bfloat16, sm_90"
TILE_ROWS, TILE_COLUMNS, PIXELS_PER_THREAD = 16, 32, 4
# Functions of the kernel's source, by what causes a tile to execute them once.
PARTS = {
    "tile": ("_kernel", "_rounded", "_reaching", ""),
    "entry": ("_draw_subframe", "_sample"),
    "solid": ("_solid",),
    "noise": ("_noise", "_project", "_seed"),
    "image": ("_image",),
    "two levels": (
        "_add_level", "_add_texel", "_neighbours", "_fixed_position", "_fraction", "_channel",
    ),
}  # fmt: skip
PATHS = {
    "solid background, two objects": ("smile-gaussian", []),
    "image under camera motion, two objects": (
        "smile-gaussian-image",
        ["camera=[{pan: {rate: 2}, roll: {rate: 2}}]"],
    ),
    "noise background, two objects": ("smile-gaussian-noise", []),
}


def reached_tiles(entries: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return how many tiles each entry reaches."""
    columns = -(-entries["x1"] // TILE_COLUMNS) - entries["x0"] // TILE_COLUMNS
    return columns * (-(-entries["y1"] // TILE_ROWS) - entries["y0"] // TILE_ROWS)


def texels(entries: np.ndarray[Any, Any], level: str) -> Any:
    """Return how many texels of a level are in each entry's box of pixels."""
    step = {name: entries[level][name] / FIXED_ONE for name in ("u_x", "u_y", "v_x", "v_y")}
    per_pixel = np.abs(step["u_x"] * step["v_y"] - step["u_y"] * step["v_x"])
    return per_pixel * (entries["x1"] - entries["x0"]) * (entries["y1"] - entries["y0"])


def estimate(recipe: Recipe, sources: Sources, parts: dict[str, list[int]], clips: int) -> dict[str, Any]:
    """Return bytes and instructions per output pixel, and the clips/s that each limit allows."""
    scenes = sample_scenes(recipe, sources, seed=0, indices=range(clips))
    entries = build_parameters(scenes, sources.objects, range(recipe.num_frames)).entries
    tiles, kind, far = reached_tiles(entries), entries["kind"], entries["level"] % 1 > 0
    (height, width), frames = recipe.size, recipe.num_frames
    pixels = clips * frames * height * width
    times = {
        "tile": clips * frames * (-(-height // TILE_ROWS)) * (-(-width // TILE_COLUMNS)),
        "entry": tiles.sum(),
        "solid": tiles[kind == SOLID].sum(),
        "noise": tiles[kind == NOISE].sum(),
        "image": tiles[kind == IMAGE].sum(),
        "two levels": (tiles * (1 + far) / 2)[kind == IMAGE].sum(),
    }
    counts = np.zeros(3)
    for part, functions in PARTS.items():
        counts += float(times[part]) * np.sum([parts.get(name, [0, 0, 0]) for name in functions], axis=0)
    # A tile of 512 pixels is drawn by 128 threads.
    instructions, float64, conversions = counts * TILE_ROWS * TILE_COLUMNS / PIXELS_PER_THREAD / pixels
    image = entries[kind == IMAGE]
    read = 4 * (texels(image, "near").sum() + texels(image, "far").sum()) / pixels
    per_pixel = {
        "memory": 6 + read,
        "issue": instructions,
        "float64": float64,
        "conversions": conversions,
    }
    rates = {
        limit: LIMITS[limit] / (per_pixel[limit] * pixels / clips) for limit in LIMITS if per_pixel[limit]
    }
    return {
        "tiles_per_clip": {name: round(float(value) / clips, 1) for name, value in times.items()},
        "bytes_written": 6,
        "bytes_read": round(float(read), 2),
        **{
            key: round(float(per_pixel[name]), 2)
            for key, name in (
                ("instructions", "issue"),
                ("float64", "float64"),
                ("conversions", "conversions"),
            )
        },
        "clips_per_second": {limit: round(rate) for limit, rate in rates.items()},
        "bound_by": min(rates, key=lambda limit: rates[limit]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=64)
    arguments = parser.parse_args()
    table = json.loads((Path(__file__).parent / "results" / "kernels.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank", cut=CutOutOptions(max_side=256))
        write_images(Path(folder) / "images", count=12, seed=0, size=320)
        sources = Sources(ObjectBank.open(Path(folder) / "bank"), BackgroundFolder(Path(folder) / "images"))
        paths = {
            name: {"preset": preset, **estimate(
                Recipe.load(preset, changes), sources, table["rows"][ROW]["parts"], arguments.clips
            )}
            for name, (preset, changes) in PATHS.items()
        }  # fmt: skip
    record.write(arguments.out, {"row": ROW, "clips": arguments.clips, "limits": LIMITS, "paths": paths})


if __name__ == "__main__":
    main()
