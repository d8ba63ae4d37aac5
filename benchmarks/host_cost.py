"""Measure what a batch costs on the host before a GPU can draw it: scenes and render parameters.

    python benchmarks/host_cost.py --out benchmarks/results/host_cost.json

Processor time of one thread, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

from smile_synth import BackgroundFolder, ObjectBank, Recipe, build_bank, sample_scenes
from smile_synth.backgrounds import write_images
from smile_synth.compositing import build_parameters
from smile_synth.objects import CutOutOptions
from smile_synth.sources import Sources

BATCH = 256
PRESETS = ("smile-gaussian", "smile-gaussian-noise", "smile-gaussian-image")


def milliseconds(function: Callable[[int], object], repeats: int) -> dict[str, float]:
    """Return the processor time of a call; the first call compiles kernels and does not count."""
    function(0)
    spent = []
    for repeat in range(repeats):
        began = time.process_time()
        function(repeat + 1)
        spent.append(1000 * (time.process_time() - began))
    return {"median": statistics.median(spent), "lowest": min(spent), "highest": max(spent)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank", cut=CutOutOptions(max_side=256))
        write_images(Path(folder) / "images", count=12, seed=0, size=320)
        sources = Sources(ObjectBank.open(Path(folder) / "bank"), BackgroundFolder(Path(folder) / "images"))
        for preset in PRESETS:
            recipe = Recipe.load(preset)

            def sample(batch: int, recipe: Recipe = recipe) -> Any:
                indices = range(batch * BATCH, (batch + 1) * BATCH)
                return sample_scenes(recipe, sources, seed=0, indices=indices)

            scenes, frames = sample(0), range(recipe.num_frames)
            spent = {
                "scenes": milliseconds(sample, arguments.repeats),
                "parameters": milliseconds(
                    lambda _, scenes=scenes, frames=frames: build_parameters(scenes, sources.objects, frames),  # type: ignore[misc] # defaults in a lambda
                    arguments.repeats,
                ),
            }
            entries = build_parameters(scenes, sources.objects, frames).entries
            rate = 1000 * BATCH / sum(row["median"] for row in spent.values())
            rows[preset] = {
                "milliseconds": spent,
                "bytes_per_clip": entries.nbytes // BATCH,
                "clips_per_second_and_core": round(rate),
                "cores_for_100000_clips_per_second": round(100_000 / rate, 1),
            }
    record.write(arguments.out, {"batch": BATCH, "repeats": arguments.repeats, "rows": rows})


if __name__ == "__main__":
    main()
