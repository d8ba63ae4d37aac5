"""How fast a corpus is written, beside what its encoder alone can do; and that the cost per clip stays flat.

    uv run python benchmarks/corpus_speed.py --out benchmarks/results/corpus_speed.json

Clips of 16x224x224 with two objects, one process; the flat cost with tiny clips.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import record
from rich.console import Console
from rich.table import Table

from smile_synth import ObjectBank, Recipe, annotate, build_bank, composite, generate, sample_scene
from smile_synth.corpus import KINDS, MEDIA
from smile_synth.strict_yaml import parse

TINY = """
size: [16, 16]
num_frames: 2
backgrounds: [{kind: noise}]
objects: {count: 1, side: [8]}
motion: [{family: still}]
"""


def rate(function: Callable[[int], object], clips: int, repeats: int) -> dict[str, float]:
    function(0)
    rates = []
    for repeat in range(repeats):
        began = time.perf_counter()
        for index in range(clips):
            function(repeat * clips + index)
        rates.append(clips / (time.perf_counter() - began))
    return {
        "clips_per_second": round(statistics.median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=40, help="per repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--flat", type=int, nargs="*", default=[100, 1000, 10000], help="numbers of tiny clips"
    )
    arguments = parser.parse_args()
    clips, repeats = arguments.clips, arguments.repeats
    recipe = Recipe.load("smile-gaussian-noise")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank")
        bank = ObjectBank.open(Path(folder) / "bank")
        scenes = [sample_scene(recipe, bank, seed=0, index=i) for i in range(clips * repeats)]
        frames = [composite(scene, bank) for scene in scenes[:clips]]
        encode = MEDIA["h264"].encode
        steps: dict[str, Callable[[int], object]] = {
            "encoder alone (H.264)": lambda i: encode(frames[i % clips], 8.0, 18),
            "render alone": lambda i: composite(scenes[i], bank),
            "masks, boxes, visibility alone": lambda i: annotate(scenes[i], bank).labels,
            "tracks alone": lambda i: KINDS["tracks"](annotate(scenes[i], bank)),
            "flow alone": lambda i: KINDS["flow"](annotate(scenes[i], bank)),
        }
        for name, step in steps.items():
            result[name] = rate(step, clips if "flow" not in name else max(1, clips // 8), repeats)
        for name, layout, kinds in (
            ("corpus, folder: boxes, masks, tracks", "folder", ["tracks"]),
            ("corpus, shards: boxes, masks, tracks", "shards", ["tracks"]),
            ("corpus, shards: with flow, too", "shards", ["tracks", "flow"]),
        ):
            rates = []
            for repeat in range(repeats):
                began = time.perf_counter()
                out = Path(folder) / f"{layout}{len(kinds)}{repeat}"
                generate(recipe, bank, out=out, num_clips=clips, seed=repeat, layout=layout, labels=kinds)
                rates.append(clips / (time.perf_counter() - began))
            result[name] = {
                "clips_per_second": round(statistics.median(rates), 1),
                "lowest": round(min(rates), 1),
                "highest": round(max(rates), 1),
            }
        flat = []
        tiny = parse(Recipe, TINY, name="tiny")
        for count in arguments.flat:
            began = time.perf_counter()
            out = Path(folder) / f"tiny{count}"
            generate(tiny, bank, out=out, num_clips=count, seed=0, layout="shards", media="npz")
            seconds = time.perf_counter() - began
            began = time.perf_counter()
            generate(tiny, bank, out=out, num_clips=count, seed=0, layout="shards", media="npz")
            flat.append(
                {
                    "clips": count,
                    "milliseconds_per_clip": round(1000 * seconds / count, 2),
                    "continue_milliseconds_per_clip": round(1000 * (time.perf_counter() - began) / count, 3),
                    "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                }
            )
    table = Table("16x224x224, two objects, one process", "clips/s (median)", "lowest", "highest")
    for name, row in result.items():
        table.add_row(name, *(f"{value:.1f}" for value in row.values()))
    Console().print(table, flat)
    record.write(arguments.out, {"clips": clips, "repeats": repeats, "results": result, "flat": flat})


if __name__ == "__main__":
    main()
