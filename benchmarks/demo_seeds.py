"""The demo's training and probes over three seeds, on the same config: does it beat random encoders?

    uv run python benchmarks/demo_seeds.py --work runs/demo_seeds --out benchmarks/results/demo_seeds.json

About 15 minutes on 2 cores. A killed run continues.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import record
from rich.console import Console
from rich.table import Table

from smile_synth.io.strict_yaml import dump
from smile_train.demo import demo_config
from smile_train.evaluate import MotionProbeOptions, format_interval, load_encoder, probe_motion
from smile_train.materials import build_materials
from smile_train.training.pretrain import pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    console = Console()
    materials = build_materials(arguments.work / "materials")
    runs = []
    for seed in arguments.seeds:
        config = demo_config(materials, [f"seed={seed}"])
        began = time.perf_counter()
        result = pretrain(config, arguments.work / f"seed-{seed}")
        middle = time.perf_counter()
        probe = probe_motion(
            load_encoder(result.folder),
            materials.train,
            materials.heldout,
            MotionProbeOptions(num_train=600, num_test=400, seed=seed),
        )
        runs.append(
            {
                "seed": seed,
                "loss": round(result.loss, 4),
                "pretrain_seconds": round(middle - began, 1),
                "probe_seconds": round(time.perf_counter() - middle, 1),
                **asdict(probe),
            }
        )
        console.print(f"seed {seed}: loss {result.loss:.3f} in {middle - began:.0f} s")
        write(arguments.out, runs, dump(demo_config(materials, [])))
    table = Table("task", "features", *(f"seed {s}" for s in arguments.seeds), "mean")
    for task in runs[0]["num_classes"]:
        for features in dict.fromkeys(row["features"] for row in runs[0]["rows"]):
            found = [
                next(r for r in run["rows"] if (r["task"], r["features"]) == (task, features)) for run in runs
            ]
            cells = [
                f"{100 * row['accuracy']:.1f} ({format_interval(row['low'], row['high'])})"
                + (f"\n{format_interval(*row['margin'], signed=True)}" if row["margin"] else "")
                for row in found
            ]
            table.add_row(task, features, *cells, f"{100 * np.mean([row['accuracy'] for row in found]):.1f}")
        table.add_section()
    console.print(table)


def write(path: Path, runs: list[dict[str, object]], config: str) -> None:
    """Write what there is so far, without paths of the machine it ran on."""
    lines = [line for line in config.splitlines() if not line.startswith(("bank:", "backgrounds:"))]
    record.write(path, {"config": "\n".join(lines) + "\n", "runs": runs})


if __name__ == "__main__":
    main()
