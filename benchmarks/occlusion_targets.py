"""Measure how often the sampler reaches an occlusion target, judged by the labels themselves.

    python benchmarks/occlusion_targets.py [--clips 200] [--out FILE.json]

A clip counts as a hit when its labels (`smile_synth.annotate`), not the sampler, say that the target is met.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import record
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from smile_synth import Labels, ObjectBank, Recipe, annotate, build_bank, sample_scenes
from smile_synth.objects import CutOutOptions
from smile_synth.sources import Sources

PRESETS = ("smile-gaussian", "tracking-hard")
TARGETS = {
    "below .5 for 3-6 frames": "{visibility: 0.5, frames: [3, 6]}",
    "fully hidden for 2 frames": "{visibility: 0, frames: 2}",
    "total overlap in .2-.4": "{overlap: [0.2, 0.4]}",
}
BATCH = 20


def has_run(visibility: NDArray[np.float64], limit: float, frames: tuple[int, int]) -> bool:
    """Return whether one object's visibility ``[T]`` has the run, with more before and after."""
    hidden = [bool(v <= limit) for v in visibility]
    seen = [bool(not h and np.isfinite(v)) for h, v in zip(hidden, visibility, strict=True)]
    for start in range(1, len(hidden) - 1):
        stop = start
        while stop < len(hidden) and hidden[stop]:
            stop += 1
        if frames[0] <= stop - start <= frames[1] and seen[start - 1] and stop < len(seen) and seen[stop]:
            return True
    return False


def met(target: Any, labels: Labels) -> bool:
    """Judge a clip by its labels."""
    if target.overlap is not None:
        covered = 1 - labels.modal_masks.sum() / labels.amodal_masks.sum()
        return bool(target.overlap[0] <= covered <= target.overlap[1])
    return any(has_run(row, target.visibility, target.frames) for row in labels.visibility)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    console = Console(width=120)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        build_bank(["builtin:shapes"], Path(folder) / "bank", cut=CutOutOptions(max_side=96))
        bank = ObjectBank.open(Path(folder) / "bank")
        for preset in PRESETS:
            for name, text in TARGETS.items():
                recipe = Recipe.load(preset, [f"occlusion=[{text}]"])
                sample_scenes(recipe, Sources(bank), seed=1, indices=range(2))
                task = progress.add_task(f"{preset}: {name}", total=options.clips)
                hits, claimed, wrong, seconds, tries = 0, 0, 0, 0.0, []
                ways: Counter[str] = Counter()
                for start in range(0, options.clips, BATCH):
                    begin = time.process_time()
                    indices = range(start, min(start + BATCH, options.clips))
                    scenes = sample_scenes(recipe, Sources(bank), seed=0, indices=indices)
                    seconds += time.process_time() - begin
                    for scene in scenes:
                        reached = bool(scene.factors["occlusion.reached"])
                        hit = met(recipe.occlusion[0], annotate(scene, Sources(bank)).labels)
                        hits, claimed, wrong = hits + hit, claimed + reached, wrong + (reached and not hit)
                        ways[str(scene.factors.get("occlusion.by", "missed"))] += 1
                        tries.append(float(scene.factors["occlusion.tries"]))
                        progress.advance(task)
                rows.append(
                    {
                        "preset": preset, "target": name, "hits": hits, "claimed": claimed,
                        "claimed_but_not_so": wrong, "by": dict(ways.most_common()),
                        "mean_tries": round(float(np.mean(tries)), 2),
                        "clips_per_second": round(options.clips / seconds, 1),
                    }
                )  # fmt: skip
    table = Table("preset", "target", "hits %", "claimed, not so", "tries", "clips/s", "by")
    for row in rows:
        by = ", ".join(f"{way} {count}" for way, count in row["by"].items())
        hit = f"{100 * row['hits'] / options.clips:.1f}"
        table.add_row(
            row["preset"], row["target"], hit, str(row["claimed_but_not_so"]), str(row["mean_tries"]),
            str(row["clips_per_second"]), by,
        )  # fmt: skip
    console.print(table)
    if options.out:
        record.write(options.out, {"clips": options.clips, "rows": rows})


if __name__ == "__main__":
    main()
