"""Clips per second on one core: 16x224x224, two objects, the `smile-gaussian` presets.

    uv run python benchmarks/render_cpu.py --out benchmarks/results/render_cpu.json

Beside our own numbers stands the plain pipeline of this kind, re-created: every frame opens the object
with PIL, resizes and rotates it and blends it in floats at a whole-pixel position, without a boundary
rule, from the same scenes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record
from PIL import Image
from rich.console import Console
from rich.table import Table

from smile_synth import ObjectBank, Recipe, Scene, annotate, build_bank, composite, sample_scene
from smile_synth.scene import Picture


def plain_pipeline(scene: Scene, files: list[Path]) -> np.ndarray:
    """Paste as the plain way does: PIL open, resize, rotate, float blend, whole pixels."""
    height, width = scene.size_hw
    frames = np.zeros((scene.num_frames, height, width, 3), np.uint8)
    for t in range(scene.num_frames):
        for k, layer in enumerate(scene.layers[1:], 1):
            assert isinstance(layer.surface, Picture)
            pose = scene.object_to_frame[k, t]
            object_wh = np.array([layer.surface.width, layer.surface.height])
            sides = np.hypot(pose[0, :2], pose[1, :2]) * object_wh
            angle = -np.degrees(np.arctan2(pose[1, 0], pose[0, 0]))
            center = (pose @ [*(object_wh / 2), 1])[:2]
            picture = Image.open(files[layer.surface.texture_id]).convert("RGBA")
            picture = picture.resize((max(int(sides[0]), 1), max(int(sides[1]), 1)))
            picture = picture.rotate(int(angle), expand=True)
            rgba = np.asarray(picture, np.float32)
            x, y = (int(v) for v in center - np.array(picture.size) / 2)
            x0, y0, x1, y1 = (
                max(x, 0),
                max(y, 0),
                min(x + picture.width, width),
                min(y + picture.height, height),
            )
            if x1 <= x0 or y1 <= y0:
                continue
            part = rgba[y0 - y : y1 - y, x0 - x : x1 - x]
            alpha = part[..., 3:] / 255
            below = frames[t, y0:y1, x0:x1]
            frames[t, y0:y1, x0:x1] = (part[..., :3] * alpha + below * (1 - alpha)).astype(np.uint8)
    return frames


def rates(function: Callable[[int], object], clips: int, repeats: int) -> list[float]:
    """Return clips/s of each repeat, after one round to warm up."""
    function(0)
    out = []
    for repeat in range(repeats):
        began = time.perf_counter()
        for index in range(clips):
            function(repeat * clips + index)
        out.append(clips / (time.perf_counter() - began))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=40, help="per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank", max_side=256)
        bank = ObjectBank.open(Path(folder) / "bank")
        files = []
        for i in range(len(bank)):
            rgba = bank.texture(i).level(0).astype(np.float64)
            rgba[..., :3] *= 255 / np.maximum(rgba[..., 3:], 1)
            files.append(Path(folder) / f"{i}.png")
            Image.fromarray(rgba.clip(0, 255).astype(np.uint8)).save(files[-1])

        def scenes(name: str, count: int) -> list[Scene]:
            return [sample_scene(Recipe.load(name), bank, seed=0, index=i) for i in range(count)]

        recipe = Recipe.load("smile-gaussian")
        total = arguments.clips * arguments.repeats
        black, noise = scenes("smile-gaussian", total), scenes("smile-gaussian-noise", total)
        cases: dict[str, Callable[[int], object]] = {
            "sample a scene": lambda i: sample_scene(recipe, bank, seed=0, index=i),
            "render, black": lambda i: composite(black[i], bank),
            "render, noise": lambda i: composite(noise[i], bank),
            "sample and render, black": lambda i: composite(
                sample_scene(recipe, bank, seed=0, index=i), bank
            ),
            "labels (masks, boxes, visibility)": lambda i: annotate(black[i], bank).labels,
            "plain pipeline, black": lambda i: plain_pipeline(black[i], files),
        }
        result = {}
        table = Table("16x224x224, two objects", "clips/s (median)", "lowest", "highest")
        for name, function in cases.items():
            measured = rates(function, arguments.clips, arguments.repeats)
            result[name] = {
                "clips_per_second": round(statistics.median(measured), 1),
                "lowest": round(min(measured), 1),
                "highest": round(max(measured), 1),
            }
            table.add_row(name, *(f"{value:.1f}" for value in result[name].values()))
    Console().print(table)
    record.write(arguments.out, {"clips": arguments.clips, "repeats": arguments.repeats, "results": result})


if __name__ == "__main__":
    main()
