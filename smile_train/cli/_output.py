"""What several commands print. Under torchrun only rank 0 prints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from smile_synth.cli import Update, console, errors, print_labelled, progress_bar
from smile_synth.core.errors import UserError, counted

if TYPE_CHECKING:
    from smile_train.evaluate import DenseResult, MotionProbeResult
    from smile_train.training.trainer import TrainResult

LogLine = Mapping[str, Any]
SHOWN_FILES = 10
# Values of a log line that are not losses or scores, or that have their own place in the progress line.
_NOT_SHOWN = ("step", "loss", "baseline_loss", "lr", "grad_norm", "clips_per_second", "data_wait", "mfu")


def quiet_unless_rank_0() -> None:
    """Print nothing in the processes of torchrun other than rank 0."""
    console.quiet = errors.quiet = int(os.environ.get("RANK", "0")) > 0


class TrainingProgress:
    """The progress of a training command.

    Attributes:
        total_steps: of the run, set when it is known.
    """

    total_steps = 0

    def __init__(self, what: str, progress: Update) -> None:
        """Show the progress of ``what`` on a progress bar."""
        self._what, self._progress = what, progress

    def on_log(self, line: LogLine) -> None:
        """Show a line of the log; for ``on_log`` of `train`."""
        self._progress(line["step"], self.total_steps, what=self._what, remark=describe_step(line))

    def videos(self, done: int, total: int) -> None:
        """Show how many videos are indexed or tested."""
        self._progress(done, total, what="videos")


@contextmanager
def training_progress(what: str) -> Iterator[TrainingProgress]:
    """Show the progress of a training.

    An error of a process other than rank 0 is printed with the number of the process: it may be the only
    process with this error.

    Raises:
        UserError: as raised inside.
    """
    rank = int(os.environ.get("RANK", "0"))
    try:
        with progress_bar(what, "") as progress:
            yield TrainingProgress(what, progress)
    except UserError as error:
        if rank == 0:
            raise
        errors.quiet = False
        raise UserError(f"process {rank}: {error}") from None


def describe_step(line: LogLine) -> str:
    """Return losses, scores and rates of a line of the log."""
    shown = [f"loss {line['loss']:.3f}"]
    shown += [
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in line.items()
        if name not in _NOT_SHOWN and "loss/" not in name and not name.startswith("baseline_")
    ]
    shown.append(f"{line['clips_per_second']:.1f} clips/s")
    if "mfu" in line:
        shown.append(f"MFU {100 * line['mfu']:.1f} %")
    shown.append(f"{100 * line['data_wait']:.0f} % waiting for data")
    return ", ".join(shown)


def print_training_end(result: TrainResult, remark: str) -> None:
    """Print steps, rate and ``remark``, or that the run was complete before; and unreadable videos."""
    from smile_train.training.trainer import UNREADABLE

    if result.clips_per_second == 0:
        console.print(f"{result.folder}: all {result.steps} steps are done, there is nothing to continue")
        return
    console.print(f"{result.steps} steps in {result.folder}, {result.clips_per_second:.0f} clips/s, {remark}")
    replaced = result.folder / UNREADABLE
    if replaced.is_file():
        names = {json.loads(line)[0] for line in replaced.read_text().splitlines()}
        print_labelled("unreadable", f"{counted(len(names), 'video')} replaced by others, see {replaced}")


def print_test(test: Mapping[str, Any], file: Path) -> None:
    """Print the scores of the test of a fine-tuning; ``file`` has those of each class and video."""
    print_skipped([*test["unreadable"].items()])
    scores = {"top-1": "top1", "top-5": "top5", "mean of classes": "mean_class_accuracy"}
    shown = ", ".join(f"{name} {100 * test[key]:.1f} %" for name, key in scores.items())
    console.print(f"test of {test['num_videos']} videos: {shown}; {file}")


def print_heads(test: Mapping[str, Any], file: Path) -> None:
    """Print the selected heads of a probe; ``file`` has the scores of all heads and videos."""
    table = Table("head", "layer", "rate", "decay", "validation %", "top-1 %", "top-5 %", "classes %")
    for head in test["selected"]:
        values = [head.get(key) for key in ("validation_top1", "top1", "top5", "mean_class_accuracy")]
        table.add_row(
            head["kind"], str(head["layer"]), f"{head['learning_rate']:g}", f"{head['weight_decay']:g}",
            *("" if value is None else f"{100 * value:.1f}" for value in values),
        )  # fmt: skip
    print_skipped([*test["selected"][0].get("unreadable", {}).items()])
    console.print(table)
    console.print(f"{len(test['grid'])} heads, the best of each kind on the validation videos; {file}")


def print_teacher_scores(scores: Mapping[str, Any]) -> None:
    """Print the scores of a trained CLIP, the content of its ``result.json``."""
    table = Table("zero-shot, held-out backgrounds", "attribute", "accuracy %", "most frequent %", "values")
    for name, attributes in scores["zero_shot"].items():
        for attribute, row in attributes.items():
            table.add_row(
                name, attribute, f"{100 * row['accuracy']:.1f}", f"{100 * row['most_frequent']:.1f}",
                str(row["num_values"]),
            )  # fmt: skip
    console.print(table)
    near = scores["patch_neighbours"]
    console.print(
        "nearest patch token in another image: a token on an object finds an object in "
        f"{100 * near['object_finds_object']:.1f} % (chance {100 * near['share_of_object_tokens']:.1f} %), "
        f"an object of its class in {100 * near['object_finds_same_class']:.1f} % "
        f"(chance {100 * near['same_class_by_chance']:.1f} %)"
    )


def print_unreadable(unreadable: Sequence[tuple[Path | str, str]]) -> None:
    """Print how many files of the data cannot be used, and the first of them with the reasons."""
    if unreadable:
        errors.print(f"{len(unreadable)} files cannot be read, or not to their end", style="yellow")
    for file, reason in unreadable[:SHOWN_FILES]:
        errors.print(f"  {file}: {reason}")


def print_skipped(broken: Sequence[tuple[str, str]]) -> None:
    """Print every video that was skipped, with the reason."""
    for name, reason in broken:
        print_labelled("skipped", f"{name}: {reason}")


def print_passed_over(*sources: str | Path | None) -> None:
    """Print how many files of other suffixes are in folders of videos; lists and None are left out."""
    from smile_train.data.video_lists import passed_over

    for source in sources:
        others = "" if source is None else passed_over(source)
        if others:
            print_labelled("passed over", f"{source}: {others}, which are no suffixes of videos")


def print_motion_probes(result: MotionProbeResult) -> None:
    """Print scores of motion probes with their controls."""
    from smile_train.evaluate import format_interval

    table = Table(
        "task", "features", "accuracy %", "95 % interval", "above random encoders",
        title=f"linear probes, {result.num_test} test clips with held-out objects and backgrounds",
    )  # fmt: skip
    for task in result.num_classes:
        for row in (r for r in result.rows if r.task == task):
            own = row.features == "encoder"
            table.add_row(
                f"{task} ({result.num_classes[task]})" if own else "",
                Text("this encoder", "bold") if own else row.features,
                f"{100 * row.accuracy:.1f}",
                format_interval(row.low, row.high),
                format_interval(*row.margin, signed=True) if row.margin else "",
            )
        table.add_section()
    console.print(table)


def print_dense_probes(result: DenseResult) -> None:
    """Print the measures of dense probes with their controls."""
    table = Table(
        "measure", "features", "value", "95 % interval", "minus random",
        title=f"{result.num_test} clips with held-out objects, {counted(result.num_videos, 'real video')}",
    )  # fmt: skip
    for row in result.rows:
        own = row.features == "encoder"
        if own:
            table.add_section()
        table.add_row(
            row.measure if own else "",
            Text("this encoder", "bold") if own else row.features,
            f"{row.value:.2f}",
            f"{row.low:.2f} .. {row.high:.2f}",
            "{:+.2f} .. {:+.2f}".format(*row.margin) if row.margin else "",
        )
    console.print(table)
