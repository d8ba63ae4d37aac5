"""What --dry-run prints: the cost of a run, the memory of a process and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from smile_synth.cli import console
from smile_synth.core.errors import UserError

if TYPE_CHECKING:
    from smile_train.config import RunOptions
    from smile_train.training.cost import Cost

GIB = 2**30


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a planned run.

    Attributes:
        name: of the stage.
        steps: of the stage.
        what: its data and masks, in a few words.
        cost: of one clip.
    """

    name: str
    steps: int
    what: str
    cost: Cost


def last_rate(out: Path | None) -> float | None:
    """Return the last rate in the log of a run, in clips per second."""
    from smile_train.training.logging import read_log

    lines = read_log(out) if out else []
    return float(lines[-1]["clips_per_second"]) if lines else None


def print_plan(
    stages: Sequence[PlannedStage],
    *,
    clip: str,
    batch_size: int,
    run: RunOptions,
    processes: int,
    clips_per_second: float | None,
) -> None:
    """Print what a run costs.

    Args:
        stages: of the run.
        clip: the size of a clip, for example 16x224x224.
        batch_size: clips of a step over all processes.
        run: options of the run.
        processes: number of processes, one per GPU.
        clips_per_second: rate of all processes together, if known.

    Raises:
        UserError: the batch cannot be divided over the processes.
    """
    if batch_size % (processes * run.accumulate):
        raise UserError(
            f"batch_size {batch_size}: must be a multiple of {processes} processes x accumulate "
            f"{run.accumulate}"
        )
    _print_parts(stages[0].cost)
    clips_of_pass = batch_size // (processes * run.accumulate)
    shards = processes if run.parallel == "fsdp" else 1
    console.print(
        f"clip {clip}; clips per step: {batch_size}; processes: {processes}; clips per pass of a process: "
        f"{clips_of_pass}",
        highlight=False,
    )
    columns = []
    for stage in stages:
        clips, cost = stage.steps * batch_size, stage.cost
        memory = cost.memory_bytes(clips_of_pass, shards=shards) / GIB
        columns.append({
            "steps": f"{stage.steps:,}",
            "clips": f"{clips:,}",
            "visible tokens": f"{cost.num_visible:,} of {cost.num_tokens:,}",
            "GFLOP per clip": f"{cost.step_gflops:,.4g}",
            "EFLOP in all": f"{clips * cost.step_gflops / 1e9:,.3g}",
            "GiB per process": f"{memory:,.3g}",
            "hours": f"{clips / clips_per_second / 3600:,.2f}" if clips_per_second else "",
        })  # fmt: skip
    table = Table("", *(stage.name for stage in stages))
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    console.print(table)
    for stage in stages:
        console.print(f"{stage.name}: {stage.what}", highlight=False)
    _print_total(stages, batch_size, clips_per_second)


def _print_parts(cost: Cost) -> None:
    table = Table("part", "parameters", "GFLOP per clip, forward")
    for part in {**cost.parameters, **cost.forward_gflops}:
        gflops = cost.forward_gflops.get(part)
        table.add_row(part, f"{cost.parameters.get(part, 0):,}", "" if gflops is None else f"{gflops:,.3f}")
    console.print(table)


def _print_total(stages: Sequence[PlannedStage], batch_size: int, clips_per_second: float | None) -> None:
    steps = sum(stage.steps for stage in stages)
    clips = steps * batch_size
    console.print(
        "GFLOP: forward and backward passes of a step, and the teacher's pass. GiB: weights, gradients, "
        "AdamW and one pass; the allocator needs some more"
    )
    if clips_per_second is None:
        time = "time: give --clips-per-second, or --out of a run that has logged its rate"
    else:
        time = f"time: {clips / clips_per_second / 3600:,.2f} hours at {clips_per_second:g} clips/s"
    console.print(f"in all {steps:,} steps, {clips:,} clips; {time}")
