"""Train `tiny-cpu` on a CPU, and measure its loss and the rank of its features on held-out clips.

    uv run python benchmarks/learn_cpu.py --out benchmarks/results/learn_cpu.json

The test clips show objects of the bank's test split, which no training clip shows. The loss is compared with
that of predicting each clip's mean target, and the effective rank of the clips' features with that of the
encoder with its initial weights. Seconds are wall time, and processor time of the training process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import record
import torch
from rich.console import Console
from rich.progress import Progress

from smile_train.batch import normalise
from smile_train.config import PretrainConfig
from smile_train.distributed import World
from smile_train.evaluate import effective_rank
from smile_train.materials import build_materials
from smile_train.models import Student, load_student
from smile_train.training.logging import read_log
from smile_train.training.pretrain import PretrainTask, pretrain

# The loss must fall below this share of predicting the mean, and features must keep this share of their rank.
LOSS_SHARE, RANK_SHARE = 0.9, 0.5


@torch.no_grad()
def measure(student: Student, config: PretrainConfig, num_clips: int) -> dict[str, float]:
    """Return loss, baseline loss and effective rank on clips of another seed."""
    task = PretrainTask(config, None)
    phase, world = task.phases[0], World(0, 1, torch.device("cpu"))
    sums, features = {"loss": 0.0, "baseline_loss": 0.0}, []
    num_steps = num_clips // config.batch_size
    student.eval()
    with closing(task.batches(phase, 0, world)) as batches:
        for batch in islice(batches, num_steps):
            for values in task.losses(student, batch, phase):
                for name in sums:
                    sums[name] += float(values[name]) / (num_steps * phase.num_passes)
            features.append(student.encode(normalise(batch.frames)).mean(1))
    means = {name: round(value, 4) for name, value in sums.items()}
    return {**means, "effective_rank": round(effective_rank(torch.cat(features)), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny-cpu"))
    parser.add_argument("--clips", type=int, default=512, help="test clips")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    materials = build_materials(arguments.run / "materials")
    overrides = [f"bank={materials.bank.path}", *arguments.overrides]
    config = PretrainConfig.load("tiny-cpu", overrides)
    (source,) = config.stages[0].sources or []
    held_out_overrides = json.dumps([*source.overrides, "objects.split=test"])
    held_out = PretrainConfig.load(
        "tiny-cpu",
        [
            *overrides,
            f"stages.0.sources.0.overrides={held_out_overrides}",
            f"seed={config.seed + 1}",
            "run.workers=0",
        ],
    )
    run = arguments.run / f"seed{config.seed}-{config.total_steps}"
    began, began_processor = time.perf_counter(), time.process_time()
    with Progress(console=Console(stderr=True)) as progress:
        shown = progress.add_task("tiny-cpu", total=config.total_steps)
        pretrain(config, run, on_log=lambda line: progress.update(shown, completed=line["step"]))
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - began_processor
    log = read_log(run)
    first = PretrainTask(config, None).student
    trained = measure(load_student(run), held_out, arguments.clips)
    untrained = measure(first, held_out, arguments.clips)
    curve = {line["step"]: round(line["loss"], 4) for line in log[:: max(len(log) // 24, 1)]}
    result: dict[str, Any] = {
        "steps": config.total_steps,
        "clips": config.total_steps * config.batch_size,
        "seconds": round(seconds),
        "processor_seconds": round(processor_seconds),
        "test_clips": arguments.clips,
        "trained": trained,
        "untrained": untrained,
        "loss_by_step": curve,
    }
    record.write(arguments.out, result)
    learned = trained["loss"] < LOSS_SHARE * trained["baseline_loss"]
    spans = trained["effective_rank"] > RANK_SHARE * untrained["effective_rank"]
    Console().print(result)
    if not (learned and spans):
        sys.exit(f"learned: {learned}, features span enough: {spans}")


if __name__ == "__main__":
    main()
