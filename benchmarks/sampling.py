"""Measure how fast scenes are sampled on one core, and that cost grows linearly in objects and frames.

    python benchmarks/sampling.py [--repeats 5] [--seconds 2] [--out FILE.json]

Rendering and labels are not part of it. Banks are drawn shapes in a temporary folder.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import record
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from smile_synth import ObjectBank, Recipe, build_bank, sample_scene, sample_scenes
from smile_synth.objects import CutOutOptions
from smile_synth.sources import Sources

BATCH = 256
# name -> (preset, overrides, clips at once)
RATES: dict[str, tuple[str, list[str], int]] = {
    "smile-gaussian": ("smile-gaussian", [], BATCH),
    "smile-gaussian, one by one": ("smile-gaussian", [], 1),
    "smile-linear": ("smile-linear", [], BATCH),
    "tracking-hard without targets": ("tracking-hard", ["occlusion=[]"], BATCH),
    "tracking-hard": ("tracking-hard", [], BATCH),
}
OBJECTS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
FRAMES = (1, 10, 20, 50, 100, 200, 500, 1000)


def rate(draw: Callable[[int], int], seconds: float) -> float:
    """Return clips per second of this process's time; ``draw(start)`` draws some and returns how many.

    Sampling runs on one thread, so that this is one core's rate, however busy the machine is.
    """
    done, start = 0, time.process_time()
    while (passed := time.process_time() - start) < seconds:
        done += draw(done)
    return done / passed


def drawer(recipe: Recipe, bank: ObjectBank, batch: int) -> Callable[[int], int]:
    if batch == 1:
        return lambda start: len([sample_scene(recipe, Sources(bank), seed=0, index=start)])
    return lambda start: len(
        sample_scenes(recipe, Sources(bank), seed=0, indices=range(start, start + batch))
    )


def grown() -> Iterator[tuple[str, int, list[str]]]:
    """Yield (what grows, its value, overrides of smile-linear)."""
    for count in OBJECTS:
        yield "objects", count, [f"objects.count={count}"]
    for frames in FRAMES:
        yield "frames", frames, [f"num_frames={frames}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    console = Console(width=110)
    rates: dict[str, Any] = {}
    curves: dict[str, list[dict[str, float]]] = {"objects": [], "frames": []}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        build_bank(["builtin:shapes"], Path(folder) / "bank", cut=CutOutOptions(max_side=96))
        bank = ObjectBank.open(Path(folder) / "bank")
        task = progress.add_task("sampling", total=len(RATES) + len(OBJECTS) + len(FRAMES))
        for name, (preset, overrides, batch) in RATES.items():
            draw = drawer(Recipe.load(preset, overrides), bank, batch)
            draw(0)
            measured = sorted(rate(draw, options.seconds) for _ in range(options.repeats))
            rates[name] = {
                "clips_per_second": round(statistics.median(measured), 1),
                "lowest": round(measured[0], 1),
                "highest": round(measured[-1], 1),
            }
            progress.advance(task)
        for what, value, overrides in grown():
            draw = drawer(Recipe.load("smile-linear", overrides), bank, 4)
            draw(0)
            per_clip = [1000 / rate(draw, options.seconds / 4) for _ in range(options.repeats)]
            curves[what].append({"value": value, "milliseconds": round(statistics.median(per_clip), 4)})
            progress.advance(task)
    table = Table("what", "clips/s (median)", "lowest", "highest")
    for name, row in rates.items():
        table.add_row(name, *(str(row[key]) for key in ("clips_per_second", "lowest", "highest")))
    console.print(table)
    for what, rows in curves.items():
        console.print(what, ", ".join(f"{row['value']}: {row['milliseconds']} ms" for row in rows))
    if options.out:
        record.write(
            options.out,
            {
                "repeats": options.repeats, "seconds": options.seconds, "batch": BATCH, "rates": rates,
                "curves": curves,
            },
        )  # fmt: skip


if __name__ == "__main__":
    main()
