"""That a clip's cost stays the same from a hundred to a hundred thousand of them, tiny ones.

uv run python benchmarks/corpus_flat.py --out benchmarks/results/corpus_flat.json
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import record
from rich.console import Console

from smile_synth import ObjectBank, Recipe, build_bank, generate
from smile_synth.io.strict_yaml import parse
from smile_synth.sources import Sources

TINY = """
size: [16, 16]
num_frames: 2
backgrounds: [{kind: noise}]
objects: {count: 1, side: [8]}
motion: [{family: still}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, nargs="*", default=[100, 1000, 10000, 100000])
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank")
        bank = ObjectBank.open(Path(folder) / "bank")
        recipe = parse(Recipe, TINY, name="tiny")
        for count in (10, *arguments.clips):  # the first loads what is needed
            seconds = []
            for _ in range(2):
                began = time.perf_counter()
                out = Path(folder) / f"tiny{count}"
                generate(
                    recipe, Sources(bank), out=out, num_clips=count, seed=0, layout="shards", media="npz"
                )
                seconds.append(time.perf_counter() - began)
            rows.append(
                {
                    "clips": count,
                    "milliseconds_per_clip": round(1000 * seconds[0] / count, 2),
                    "continue_milliseconds_per_clip": round(1000 * seconds[1] / count, 3),
                    "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                }
            )
    Console().print(rows[1:])
    record.write(arguments.out, {"rows": rows[1:]})


if __name__ == "__main__":
    main()
