"""Time of the labels of motion on one core: 16x224x224, two objects, tokens of 2x16x16.

    uv run python benchmarks/motion_labels.py --out benchmarks/results/motion_labels.json

Beside them are the times of rendering the same clips and of their owner maps, from which masks and token
coverage are made. The cases take turns, and processor time is counted, because other work on the machine
would distort the time of the clock. The scenes are sampled before.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import record
from rich.console import Console
from rich.table import Table

from smile_synth import Recipe, Scene, Sources, annotate, build_bank, composite, sample_scenes
from smile_synth.objects import CutOutOptions

TOKEN = (2, 16)
ONE, FIVE = (1,), (-2, -1, 0, 1, 2)


def with_segmentation(scene: Scene, sources: Sources, offsets: tuple[int, ...]) -> None:
    """Compute both the owners of all frames and the labels of motion."""
    annotation = annotate(scene, sources)
    _ = annotation.segmentation
    annotation.token_motion(TOKEN, offsets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank", cut=CutOutOptions(max_side=256))
        sources = Sources.open(Path(folder) / "bank")
        scenes = sample_scenes(Recipe.load("smile-gaussian"), sources, seed=0, indices=range(arguments.clips))
        cases: dict[str, Callable[[Scene], object]] = {
            "render": lambda scene: composite(scene, sources),
            "owner map": lambda scene: annotate(scene, sources).segmentation,
            "motion, 1 offset": lambda scene: annotate(scene, sources).token_motion(TOKEN, ONE),
            "motion, 5 offsets": lambda scene: annotate(scene, sources).token_motion(TOKEN, FIVE),
            "owner map and motion, 1 offset": lambda scene: with_segmentation(scene, sources, ONE),
            "owner map and motion, 5 offsets": lambda scene: with_segmentation(scene, sources, FIVE),
        }
        for case in cases.values():
            case(scenes[0])  # compiles the kernels
        measured: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(arguments.repeats):
            for name, case in cases.items():
                began = time.process_time()
                for scene in scenes:
                    case(scene)
                measured[name].append(1000 * (time.process_time() - began) / len(scenes))
    render = measured["render"]
    rows = {
        name: {
            "milliseconds": round(statistics.median(values), 3),
            "lowest": round(min(values), 3),
            "highest": round(max(values), 3),
            # Pairs of the same turn, which ran at about the same speed of the processor.
            "share_of_render": round(
                statistics.median(one / whole for one, whole in zip(values, render, strict=True)), 3
            ),
        }
        for name, values in measured.items()
    }
    table = Table("16x224x224, two objects", "ms a clip (median)", "lowest", "highest", "of rendering")
    for name, row in rows.items():
        table.add_row(name, *map(str, row.values()))
    Console().print(table)
    record.write(arguments.out, {"clips": arguments.clips, "repeats": arguments.repeats, "results": rows})


if __name__ == "__main__":
    main()
