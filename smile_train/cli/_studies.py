"""smile-train demo, quickstart, ablate, report and export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table
from typer import Argument, Option

from smile_synth.cli import check_suffix, console, errors, print_findings, progress_bar
from smile_synth.core.errors import UserError
from smile_train.cli import _options as options
from smile_train.cli._evaluate import GROUP_HELP, evaluate_command, read_splits
from smile_train.cli._output import print_motion_probes

RAY_HELP = "Run the arms on this Ray cluster, whose machines share the folders."


def demo_command(
    overrides: options.Overrides = None,
    *,
    out: Annotated[Path, Option("--out", help="Folder of all files of the demo.")],
    num_train: options.NumTrain = 600,
    num_test: options.NumTest = 400,
    videos: Annotated[
        Path | None,
        Option(
            "--videos", help="Your videos, a folder per class: the encoder is evaluated on them at the end."
        ),
    ] = None,
    group: Annotated[str | None, Option("--group", help=GROUP_HELP)] = None,
) -> None:
    """Make objects and a corpus, pretrain, probe and write a page; under 6 minutes on 2 cores."""
    from smile_train.demo import run_demo

    if videos is not None:  # errors before the training, not after it
        read_splits(videos, test=None, hmdb=None, classes="", folds=5, seed=0, group=group)
    with progress_bar("demo", "") as progress:

        def stage(what: str, done: int, total: int, remark: str) -> None:
            progress(done, total, what=what, remark=remark)

        result = run_demo(out, overrides or [], progress=stage, num_train=num_train, num_test=num_test)
    print_motion_probes(result.probe)
    run = result.pretrained
    console.print(f"loss {run.loss:.3f} after {run.steps} steps (baseline: {run.baseline_loss:.3f})")
    console.print(f"corpus: {result.corpus}   contact sheet: {out / 'contact_sheet.png'}")
    console.print(f"page:   {result.page}")
    if videos is not None:
        evaluate_command(videos, checkpoint=str(run.folder), group=group, out=out / "videos.json")


def quickstart_command(
    images: Annotated[
        Path, Argument(metavar="IMAGES", help="A folder of images, with or without masks or annotations.")
    ],
    out: Annotated[Path, Option("--out", help="Folder of all files; a stopped quickstart there continues.")],
    minutes: Annotated[
        float, Option("--minutes", min=2.0, help="About how long the whole takes on this machine.")
    ] = 60.0,
    device: options.Device = "auto",
) -> None:
    """Turn a folder of images into a small video encoder and a page of what it learned."""
    from smile_train.quickstart import quickstart

    with progress_bar("quickstart", "") as progress:
        result = quickstart(
            images, out, minutes=minutes, device=device,
            progress=lambda what, done, total, remark: progress(done, total, what=what, remark=remark),
        )  # fmt: skip
    print_motion_probes(result.probe)
    for problem in result.problems:
        console.print(problem, style="yellow")
    console.print(f"encoder: {result.run} (for --checkpoint and smile_train.load_encoder)")
    console.print(f"page:    {result.page}")


def ablate_command(
    study: Annotated[str, Argument(metavar="STUDY", help="Name of a shipped study or path of a YAML file.")],
    overrides: Annotated[
        list[str] | None, Argument(metavar="[KEY=VALUE]...", help="Overrides, for example num_train=400.")
    ] = None,
    *,
    out: Annotated[Path, Option("--out", help="Folder of the study; finished runs there are kept.")],
    predict: Annotated[bool, Option("--predict", help="Only estimate the time on this machine.")] = False,
    shard_index: Annotated[
        int, Option("--shard-index", min=0, help="Number, from 0, of this process; see --num-shards.")
    ] = 0,
    num_shards: Annotated[
        int, Option("--num-shards", min=1, help="Number of processes that share the runs, one per GPU.")
    ] = 1,
    ray: Annotated[str | None, Option("--ray", metavar="auto|HOST:PORT", help=RAY_HELP)] = None,
) -> None:
    """Pretrain and probe every arm of a study, then write its table, plot and page."""
    from smile_train.ablate import PAGE, Study, StudyRun

    if shard_index >= num_shards:
        raise UserError(f"--shard-index {shard_index}: must be below --num-shards {num_shards}")
    if ray is not None and num_shards > 1:
        raise UserError("--ray and --num-shards: choose one, each distributes the runs")
    with progress_bar("study", "") as progress:
        run = StudyRun(Study.load(study, overrides or []), out, progress=progress)
        left = sum(not cell.done for cell in run.cells)
        state = f"{len(run.cells) - left} of {len(run.cells)} runs are done, {left} are left"
        if predict or ray is None:  # the estimate is of this machine, not of a cluster
            estimate = run.estimate(shard=(shard_index, num_shards))
            state += f": about {left * estimate.seconds_each / 60:.0f} minutes in one process"
    errors.print(state)
    if predict:
        return
    with progress_bar("study", "") as progress:
        run.run(
            shard=(shard_index, num_shards),
            ray=ray,
            progress=lambda what, done, total, remark: progress(done, total, what=what, remark=remark),
        )
    if num_shards > 1 and not all(cell.done for cell in run.cells):
        console.print(f"the runs of this process are done; the last process writes {out / PAGE}")
        return
    table = Table("probe", "arm", "accuracy %", "95 % interval", "random %", "difference", "95 % interval")
    for row in run.report():
        paired = (row.difference, row.difference_low, row.difference_high)
        shown = ["" if value != value else f"{100 * value:+.1f}" for value in paired]
        table.add_row(
            row.task, row.arm, f"{100 * row.mean:.1f}",
            f"{100 * row.low:.1f} .. {100 * row.high:.1f}", f"{100 * row.random:.1f}",
            shown[0], f"{shown[1]} .. {shown[2]}" if shown[1] else "",
        )  # fmt: skip
    console.print(table)
    console.print(f"page: {out / PAGE}")


def report_command(
    run: Annotated[Path, Argument(metavar="RUN", help="Folder of a pretraining run, finished or not.")],
    out: Annotated[
        Path | None, Option("--out", help="The .html file to write; default RUN/report.html.")
    ] = None,
    num_clips: Annotated[int, Option("--num-clips", min=4, help="Number of clips that are encoded.")] = 32,
    video: Annotated[
        Path | None, Option("--video", help="A real video, shown with its optical flow.")
    ] = None,
) -> None:
    """Write a page about a pretraining run: curves, losses by token, masks, features, motion, attention."""
    from smile_synth.io.atomic import write_bytes
    from smile_train.report import report_run

    target = out or run / "report.html"
    check_suffix(target, ".html")
    page, findings = report_run(run, num_clips=num_clips, video=video)
    write_bytes(target, page.encode())
    print_findings(findings)
    console.print(f"{run} in {target} ({len(page) / 1e6:.1f} MB)")


def export_command(
    run: Annotated[Path, Argument(metavar="RUN", help="A run's folder or one of its weights files.")],
    to: Annotated[str, Option("--to", help="Format: transformers or onnx.")],
    out: options.NewFolder,
) -> None:
    """Write an encoder or classifier in another library's format, with a model card, and check it."""
    from smile_train.export import export_run

    report = export_run(run, out, to=to)
    console.print(f"{', '.join(report.files)} in {report.folder}; {report.checked}")
