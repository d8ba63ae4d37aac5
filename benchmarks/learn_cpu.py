"""Train `tiny-cpu` on a CPU and say what came of it: held-out loss, and whether features collapsed.

    uv run python benchmarks/learn_cpu.py --out benchmarks/results/learn_cpu.json

Objects of the test clips are those of the bank's test split, which no training clip showed. The loss
stands beside that of predicting each clip's mean target; the effective rank of the clips' features beside
that of the encoder with its first weights. Seconds are those of the clock, and those that the training
process had a processor: what the clock would say if nothing else ran, as another process renders ahead.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch
from rich.console import Console
from rich.progress import Progress

from smile_train.config import PretrainConfig
from smile_train.data.synthetic import normalise, open_data, training_batches
from smile_train.evaluate import effective_rank
from smile_train.materials import build_materials
from smile_train.models import Student, load_student
from smile_train.training.logging import read_log
from smile_train.training.pretrain import build_student, build_teacher, make_masker, make_targets, pretrain

# The loss must fall below this share of predicting the mean, and features must keep this share of their rank.
LOSS_SHARE, RANK_SHARE = 0.9, 0.5


@torch.no_grad()
def examine(student: Student, config: PretrainConfig, num_clips: int) -> dict[str, float]:
    """Return loss, loss of the mean and effective rank on clips with objects of the test split."""
    held_out = [*config.recipe_overrides, "objects.split=test"]
    config = config.model_copy(update={"recipe_overrides": held_out, "seed": config.seed + 1})
    data = open_data(config)
    stage = replace(data.stages[0], end_step=num_clips // config.batch_size)
    targets = make_targets(config, build_teacher(config, data.size_hw, data.num_frames))
    masker = make_masker(config, config.stages[0], student)
    losses, means, features = [], [], []
    student.eval()
    for batch in training_batches(
        stage, seed=config.seed, batch_size=config.batch_size, start_step=0,
        patch_size=config.student.patch_size, tubelet_size=config.student.tubelet_size, workers=0,
    ):  # fmt: skip
        mask = masker(batch.indices, batch.frames, coverage=batch.coverage)
        values, inputs = targets(batch.frames), normalise(batch.frames)
        wanted = targets.pick(values, mask, masker.num_masked)
        losses.append(float(targets.loss(student(inputs, mask, masker.num_masked), wanted)))
        means.append(float(targets.loss_of_mean(values, wanted)))
        features.append(student.encode(inputs).mean(1))
    return {
        "loss": round(sum(losses) / len(losses), 4),
        "loss_of_mean": round(sum(means) / len(means), 4),
        "effective_rank": round(effective_rank(torch.cat(features)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny-cpu"))
    parser.add_argument("--clips", type=int, default=512, help="test clips")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    materials = build_materials(arguments.run / "materials")
    config = PretrainConfig.load("tiny-cpu", [f"bank={materials.bank.path}", *arguments.overrides])
    run = arguments.run / f"seed{config.seed}-{config.total_steps}"
    began, began_processor = time.perf_counter(), time.process_time()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("tiny-cpu", total=config.total_steps)
        pretrain(config, run, on_step=lambda done, total, loss: progress.update(task, completed=done))
    seconds, processor_seconds = time.perf_counter() - began, time.process_time() - began_processor
    log = read_log(run)
    student = load_student(run)
    data = open_data(config)
    first = build_student(config, data.size_hw, data.num_frames, student.config.target_dim)
    trained, untrained = examine(student, config, arguments.clips), examine(first, config, arguments.clips)
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
    learned = trained["loss"] < LOSS_SHARE * trained["loss_of_mean"]
    spans = trained["effective_rank"] > RANK_SHARE * untrained["effective_rank"]
    Console().print(result)
    if not (learned and spans):
        sys.exit(f"learned: {learned}, features span enough: {spans}")


if __name__ == "__main__":
    main()
