"""Measure which share of a training's time its motion probes take, with their default options.

    uv run python benchmarks/probe_share.py --out benchmarks/results/probe_share.json

Processor seconds of the training process, which computes both; the preset is `smile-tiny-motion`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import record
from rich.console import Console

from smile_train.config import PretrainConfig, TrainingProbeOptions
from smile_train.materials import build_materials
from smile_train.training.pretrain import pretrain

EVERY, NUM_PROBES = 10, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/probe-share"), help="a new folder")
    parser.add_argument("--materials", type=Path, help="made by an earlier run")
    arguments = parser.parse_args()
    materials = build_materials(arguments.materials or arguments.run / "materials")
    steps = EVERY * NUM_PROBES
    config = PretrainConfig.load(
        "smile-tiny-motion",
        [
            f"bank={materials.bank.path}", f"backgrounds={materials.train_backgrounds.path}",
            f"stages.0.steps={steps}", "stages.0.optimiser.warmup_steps=0", f"probes={{every: {EVERY}}}",
        ],
    )  # fmt: skip
    stamps: list[float] = []
    pretrain(config, arguments.run / "run", on_log=lambda line: stamps.append(time.process_time()))
    seconds = [end - start for start, end in zip(stamps[:-1], stamps[1:], strict=True)]
    with_probe = seconds[EVERY - 2 :: EVERY]  # the first line has no difference
    step = median(s for k, s in enumerate(seconds) if (k + 2) % EVERY)
    options = TrainingProbeOptions()
    probe = median(with_probe[1:]) - step
    result: dict[str, Any] = {
        "options": options.model_dump(),
        "step_seconds": round(step, 4),
        "first_probe_seconds": round(with_probe[0] - step, 2),
        "probe_seconds": round(probe, 2),
        "share": round(probe / (probe + options.every * step), 4),
    }
    record.write(arguments.out, result)
    Console().print(result)


if __name__ == "__main__":
    main()
