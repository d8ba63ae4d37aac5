"""Run benchmarks of two checkouts in turn, and compare their speeds.

    git worktree add /tmp/old COMMIT && (cd /tmp/old && uv sync)
    uv run python benchmarks/compare_commits.py /tmp/old --out benchmarks/results/compare_commits.json

Each checkout runs its own scripts with its own environment: old, new, old, new. Each speed is the median
over the runs. The ratio is that of the medians; its range is that of the ratios run by run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import record
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parents[1]
COMMANDS = {
    "sampling": ["--repeats", "3", "--seconds", "1"],
    "render_cpu": ["--clips", "20", "--repeats", "3"],
    "stream_cpu": ["--seconds", "2", "--repeats", "1"],
    "corpus_speed": ["--clips", "40", "--repeats", "1"],
}


def speeds(result: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every speed of a benchmark's result with its place in it."""
    if isinstance(result, dict):
        if "clips_per_second" in result:
            yield name, float(result["clips_per_second"])
        for key, value in result.items():
            yield from speeds(value, f"{name} / {key}" if name else key)


def run(checkout: Path, script: str, arguments: list[str]) -> dict[str, float]:
    """Run one benchmark of a checkout and return its speeds in clips per second."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        python = checkout / ".venv" / "bin" / "python"
        subprocess.run(
            [python, f"benchmarks/{script}.py", *arguments, "--out", out], cwd=checkout, check=True,
            stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return dict(speeds(json.loads(out.read_text())))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="checkout of the old commit, with its environment")
    parser.add_argument("--only", choices=COMMANDS, nargs="+", default=list(COMMANDS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    old = options.old.resolve()
    rows: dict[str, dict[str, Any]] = {}
    for script in options.only:
        pairs = [
            [run(checkout, script, COMMANDS[script]) for checkout in (old, HERE)] for _ in range(options.runs)
        ]
        for name in (key for key in pairs[0][0] if key in pairs[0][1]):
            before, after = ([pair[side][name] for pair in pairs] for side in (0, 1))
            ratios = [new / was for was, new in zip(before, after, strict=True)]
            rows[f"{script}: {name}"] = {
                "old": statistics.median(before),
                "new": statistics.median(after),
                "ratio": statistics.median(after) / statistics.median(before),
                "lowest": min(ratios),
                "highest": max(ratios),
            }
    commit = subprocess.run(
        ["git", "-C", old, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    record.write(options.out, {"runs": options.runs, "old_commit": commit, "rows": rows})
    table = Table("clips per second", "old", "new", "new / old", "run by run")
    for name, row in rows.items():
        spread = f"{row['lowest']:.2f} .. {row['highest']:.2f}"
        table.add_row(name, f"{row['old']:.1f}", f"{row['new']:.1f}", f"{row['ratio']:.2f}", spread)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
