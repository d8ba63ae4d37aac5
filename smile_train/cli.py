"""The command line of smile-train; the only module of this package that prints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from smile_synth.cli import Version, console, errors, print_labelled, progress_bar, run_app
from smile_synth.core.errors import UserError

app = typer.Typer(
    help="CLIP-guided masked pretraining on procedurally animated clips, and what was learned.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A preset's name or the path of a YAML file.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, for example steps=100.")
]

EncoderOption = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        help="A run's folder, its student.safetensors or one of its checkpoints; a file of VideoMAE or "
        "SMILE; a folder of smile-train export or of transformers; timm:NAME@FILE or clip:NAME@WEIGHTS.",
    ),
]
NumFramesOption = Annotated[
    int | None,
    typer.Option("--num-frames", min=1, help="Of a clip, where the checkpoint does not tell: 16."),
]
SideOption = Annotated[
    int | None,
    typer.Option("--side", min=1, help="Of its frames in px, where the checkpoint does not tell: 224."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
CacheOption = Annotated[Path | None, typer.Option("--cache", help="Folder that keeps features.")]
DecodersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes that decode.")]
StrictOption = Annotated[bool, typer.Option("--strict", help="Fail when a video cannot be read.")]


def main() -> None:
    """Run smile-train."""
    run_app(app)


@app.callback()
def _options(version: Version = False) -> None:
    pass


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")],
    overrides: OverridesArgument = None,
    num_train: Annotated[int, typer.Option("--num-train", min=50, help="Training clips of a probe.")] = 1200,
    num_test: Annotated[int, typer.Option("--num-test", min=50, help="Test clips of a probe.")] = 800,
) -> None:
    """Go the whole way once: objects, corpus, pretraining, probes, one page. Under 6 minutes on 2 cores."""
    from smile_train.demo import run_demo

    with progress_bar("demo", "") as progress:

        def stage(what: str, done: int, total: int, remark: str) -> None:
            progress(done, total, what=what, remark=remark)

        result = run_demo(out, overrides or [], stage=stage, num_train=num_train, num_test=num_test)
    print_examination(result.examination)
    run = result.pretrained
    console.print(
        f"loss {run.loss:.3f} after {run.steps} steps (predicting the clip's mean: {run.loss_of_mean:.3f})"
    )
    console.print(f"corpus: {result.corpus}   contact sheet: {out / 'contact_sheet.png'}")
    console.print(f"page:   {result.page}")


def print_examination(examination: Any) -> None:
    """Print probe scores with their controls."""
    from smile_train.evaluate import format_interval

    table = Table(
        "task", "features", "accuracy %", "95 % interval", "above random encoders",
        title=f"linear probes, {examination.num_test} clips with held-out objects and backgrounds",
    )  # fmt: skip
    for task in examination.num_classes:
        for row in (r for r in examination.rows if r.task == task):
            own = row.features == "encoder"
            table.add_row(
                f"{task} ({examination.num_classes[task]})" if own else "",
                Text("this encoder", "bold") if own else row.features,
                f"{100 * row.accuracy:.1f}",
                format_interval(row.low, row.high),
                format_interval(*row.margin, signed=True) if row.margin else "",
            )
        table.add_section()
    console.print(table)


@app.command("pretrain")
def pretrain_command(
    config: ConfigArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the run; an unfinished one is continued.")
    ] = None,
    overrides: OverridesArgument = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if a file of the data cannot be read.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, tell what it costs, train nothing.")
    ] = False,
    clips_per_second: Annotated[
        float | None,
        typer.Option("--clips-per-second", min=0.001, help="A measured rate, for the time of a dry run."),
    ] = None,
) -> None:
    """Pretrain a student; under torchrun, on several processes together."""
    from smile_train.config import PretrainConfig
    from smile_train.training.pretrain import plan, pretrain

    rank = int(os.environ.get("RANK", "0"))
    if rank > 0:
        console.quiet = errors.quiet = True  # the first process tells it all
    loaded = PretrainConfig.load(config, overrides or [])
    if dry_run:
        print_plan(loaded, *plan(loaded, strict=strict), clips_per_second or _last_rate(out))
        return
    if out is None:
        raise UserError("--out is missing: the folder of the run")
    total = loaded.total_steps
    try:
        with progress_bar("pretraining", "steps") as progress:
            result = pretrain(
                loaded,
                out,
                strict=strict,
                on_line=lambda line: progress(line["step"], total, remark=_remark(line)),
            )
    except UserError as error:
        if rank == 0:
            raise
        errors.quiet = False  # it may be this process alone that cannot read a clip, or has too little memory
        raise UserError(f"process {rank}: {error}") from None
    print_unreadable(result.unreadable)
    if result.clips_per_second == 0:
        console.print(f"{result.folder}: all {result.steps} steps are done, there is nothing to continue")
        return
    console.print(
        f"{result.steps} steps in {result.folder}, {result.clips_per_second:.0f} clips/s, "
        f"loss {result.loss:.4f} (predicting the clip's mean: {result.loss_of_mean:.4f})"
    )


def _remark(line: dict[str, Any]) -> str:
    mfu = f", MFU {100 * line['mfu']:.1f} %" if "mfu" in line else ""
    rate = f"{line['clips_per_second']:.1f} clips/s{mfu}, {100 * line['data_wait']:.0f} % waiting for data"
    return f"loss {line['loss']:.3f}, {rate}"


def _last_rate(out: Path | None) -> float | None:
    from smile_train.training.logging import read_log

    lines = read_log(out) if out else []
    return float(lines[-1]["clips_per_second"]) if lines else None


def print_unreadable(unreadable: list[tuple[Path, str]]) -> None:
    """Tell how many files of the data were not used, and the first of them with their reasons."""
    if unreadable:
        errors.print(f"{len(unreadable)} files not used, or not to their end", style="yellow")
    for file, reason in unreadable[:10]:
        errors.print(f"  {file}: {reason}")


def print_plan(config: Any, data: Any, cost: Any, clips_per_second: float | None) -> None:
    """Print what a run would do and cost."""
    print_unreadable(data.unreadable)
    table = Table("part", "parameters", "GFLOP forward, per clip")
    for part in {**cost.parameters, **cost.forward_gflops}:
        flops = cost.forward_gflops.get(part)
        table.add_row(part, f"{cost.parameters.get(part, 0):,}", "" if flops is None else f"{flops:,.3f}")
    console.print(table)
    height, width = data.size_hw
    clips, at_once = config.total_steps * config.batch_size, config.batch_size // config.accumulate
    who = "student forward and backward" + (", and teacher" if "teacher" in cost.parameters else "")
    memory = (cost.state_bytes + at_once * cost.saved_bytes) / 2**30
    console.print(
        f"clips {data.num_frames}x{height}x{width}: {cost.num_tokens} tokens, {cost.num_visible} visible, "
        f"{cost.num_tokens - cost.num_visible} masked\n"
        f"a step: {cost.step_gflops:,.1f} GFLOP per clip, {who}\n"
        f"memory: {cost.state_bytes / 2**30:.2f} GiB for weights, gradients and optimiser, and about "
        f"{cost.saved_bytes / 2**20:,.0f} MiB per clip of a pass (batch_size / processes / accumulate): "
        f"{memory:,.1f} GiB in one process, with {at_once} clips a pass"
    )
    for number, stage in enumerate(config.stages, 1):
        names = ", ".join(source.recipe or source.corpus for source in stage.sources)
        console.print(
            f"stage {number}: {stage.steps:,} steps of {config.batch_size} clips, {stage.mask.kind} mask, "
            f"{stage.masks_per_clip} masks a clip, from {names}",
        )
    console.print(f"in all {config.total_steps:,} steps, {clips:,} clips")
    if clips_per_second is None:
        console.print("time: give --clips-per-second, or --out of a run that has logged its rate")
    else:
        hours = clips / clips_per_second / 3600
        console.print(f"time: {hours:,.2f} hours at {clips_per_second:g} clips/s")


@app.command("teacher")
def teacher_command(
    out: Annotated[Path, typer.Option("--out", help="Folder of the CLIP; an unfinished one is continued.")],
    config: Annotated[
        str, typer.Argument(metavar="[CONFIG]", help="A preset's name or a YAML file.")
    ] = "tiny-clip",
    overrides: OverridesArgument = None,
    materials: Annotated[
        Path | None,
        typer.Option("--materials", help="Folder of the objects and backgrounds; made if missing."),
    ] = None,
) -> None:
    """Train a small CLIP on rendered images with known captions, in open_clip's format."""
    from smile_train.config import TeacherTrainingConfig
    from smile_train.materials import build_materials
    from smile_train.training.teacher import train_teacher

    loaded = TeacherTrainingConfig.load(config, overrides or [])
    with progress_bar("objects", "") as progress:
        built = build_materials(materials or out / "materials", progress=progress)
    with progress_bar("contrastive", "steps") as progress:
        result = train_teacher(
            loaded,
            built,
            out,
            on_step=lambda done, total, loss: progress(done, total, remark=f"loss {loss:.3f}"),
        )
    table = Table(
        "zero-shot", "accuracy %", "most frequent %", "values", title="held-out objects and backgrounds"
    )
    for key, row in result["zero_shot"].items():
        table.add_row(
            key, f"{100 * row['accuracy']:.1f}", f"{100 * row['most_frequent']:.1f}", str(row["num_values"])
        )
    console.print(table)
    near = result["patch_neighbours"]
    console.print(
        "nearest patch token in another image: an object's token finds an object in "
        f"{100 * near['object_finds_object']:.1f} % (chance {100 * near['share_of_object_tokens']:.1f} %), "
        f"one of its class in {100 * near['object_finds_same_class']:.1f} % "
        f"(chance {100 * near['same_class_by_chance']:.1f} %)"
    )


@app.command("embed")
def embed_command(
    videos: Annotated[Path, typer.Argument(metavar="VIDEOS", help="A video, or a folder of videos.")],
    checkpoint: EncoderOption,
    out: Annotated[Path, typer.Option("--out", help="A .parquet or .npz file.")],
    view: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="How clips are read, for example stride_frames=4."),
    ] = None,
    layer: Annotated[
        int, typer.Option("--layer", min=-1, help="Block to read; -1: after the last norm.")
    ] = -1,
    per_frame: Annotated[bool, typer.Option("--per-frame", help="Keep the times apart.")] = False,
    num_frames: NumFramesOption = None,
    side: SideOption = None,
    device: DeviceOption = "auto",
    cache: CacheOption = None,
    workers: DecodersOption = 1,
    strict: StrictOption = False,
) -> None:
    """Write one feature per real video: encoder tokens, averaged over tokens and windows."""
    from smile_synth.io.strict_yaml import parse
    from smile_train.evaluate import ViewOptions, embed_videos

    with progress_bar("embedding", "videos") as progress:
        report = embed_videos(
            videos, checkpoint, out, view=parse(ViewOptions, "{}", name="view", overrides=view or []),
            layer=layer, pooling="frames" if per_frame else "mean", num_frames=num_frames, side=side,
            device=device, cache=cache, workers=workers, strict=strict, progress=progress,
        )  # fmt: skip
    _print_broken(report.broken)
    console.print(
        f"{report.num_videos} videos ({report.num_windows} windows), {report.width} values each, in {out}; "
        f"{len(report.broken)} skipped"
    )


def _print_broken(broken: list[tuple[str, str]]) -> None:
    for name, reason in broken:
        print_labelled("skipped", f"{name}: {reason}")


@app.command("evaluate")
def evaluate_command(
    videos: Annotated[
        Path,
        typer.Argument(metavar="VIDEOS", help="A folder per class, or a list; of two, the training one."),
    ],
    checkpoint: EncoderOption,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, for example protocols=[linear,knn]."),
    ] = None,
    test: Annotated[Path | None, typer.Option("--test", help="The test list, or a folder.")] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Folds, where no test list is given; 5.")
    ] = None,
    by_group: Annotated[bool, typer.Option("--leave-one-group-out", help="Instead of folds.")] = False,
    classes: Annotated[
        str, typer.Option("--classes", metavar="A,B", help="Only these, where no test list is given.")
    ] = "",
    group: Annotated[
        str | None, typer.Option("--group", help="Regular expression on file names: what belongs together.")
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder that listed paths start from.")] = None,
    hmdb: Annotated[
        int | None,
        typer.Option("--hmdb", min=1, max=3, help="VIDEOS is HMDB51's folder of splits; its number."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Skip and list what a list names and is not there.")
    ] = False,
    num_frames: NumFramesOption = None,
    side: SideOption = None,
    device: DeviceOption = "auto",
    cache: CacheOption = None,
    workers: DecodersOption = 1,
    out: Annotated[Path | None, typer.Option("--out", help="A .json file for scores by video.")] = None,
    strict: StrictOption = False,
) -> None:
    """Score a frozen or fine-tuned encoder on labelled real videos, beside its controls."""
    from smile_synth.io.strict_yaml import parse
    from smile_train.evaluate import (
        EvaluateOptions,
        evaluate_videos,
        k_fold,
        leave_one_group_out,
        load_encoder,
        read_hmdb,
        read_official,
        read_videos,
        select_classes,
    )
    from smile_train.training.pretrain import choose_device

    if out is not None and out.suffix != ".json":
        raise UserError(f"out '{out}': expected a .json file")
    options = parse(EvaluateOptions, "{}", name="settings", overrides=overrides or [])
    ways = {"--test": test, "--hmdb": hmdb, "--folds": folds, "--leave-one-group-out": by_group or None}
    chosen = [name for name, value in ways.items() if value is not None]
    if len(chosen) > 1:
        raise UserError(f"{' and '.join(chosen)}: choose one, each says how the videos are split")
    if classes and (test is not None or hmdb is not None):
        raise UserError(f"--classes: not with {chosen[0]}, whose lists say what is in the set")
    if hmdb is not None:
        if root is None:
            raise UserError("--hmdb: needs --root, the folder of the classes")
        found, split = read_hmdb(videos, root=root, number=hmdb, group=group, allow_missing=allow_missing)
        splits = [split]
    elif test is not None:
        found, split = read_official(videos, test, root=root, group=group, allow_missing=allow_missing)
        splits = [split]
    else:
        found = read_videos(videos, root=root, group=group, allow_missing=allow_missing)
        if classes:
            found = select_classes(found, classes.split(","))
        splits = leave_one_group_out(found) if by_group else k_fold(found, folds or 5, seed=options.seed)
    encoder = load_encoder(checkpoint, num_frames=num_frames, side=side, device=choose_device(device))
    with progress_bar("features", "") as progress:
        result = evaluate_videos(
            encoder, found, splits, options, cache=cache, workers=workers, strict=strict,
            stage=lambda what, done, total: progress(done, total, what=what),
        )  # fmt: skip
    _print_broken(result.broken)
    for name, protocol, reason in result.left_out:
        print_labelled(f"left out of {protocol}", f"{name}: {reason}")
    _print_scores(result)
    if out is not None:
        result.save(out)


def _print_scores(result: Any) -> None:
    """Print scores of real videos with their controls, a table for each protocol, and what made them."""
    from smile_train.evaluate import format_interval

    for protocol in dict.fromkeys(row.protocol for row in result.rows):
        rows = [row for row in result.rows if row.protocol == protocol]
        table = Table(
            "features", "correct %", "95 % interval", "per class %", "above random",
            title=f"{protocol}: {rows[0].num_videos} videos in {rows[0].num_groups} groups",
            box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0),
        )  # fmt: skip
        for row in rows:
            table.add_row(
                Text("this encoder", "bold") if row.features == "encoder" else row.features,
                f"{100 * row.accuracy:.1f}",
                format_interval(row.low, row.high),
                f"{100 * row.per_class:.1f}",
                format_interval(row.margin.low, row.margin.high, signed=True) if row.margin else "",
            )
        console.print(table)
        remarks = []
        if rows[0].chance == rows[0].chance:
            remarks.append(f"always the most frequent answer: {100 * rows[0].chance:.1f}")
        if rows[0].margin:
            smallest = 100 * rows[0].margin.smallest
            remarks.append(f"a difference to random encoders below {smallest:.1f} points means nothing here")
        console.print("; ".join(remarks))
    console.print(
        f"\n{result.encoder['name']}: {len(result.videos)} videos in {len(set(result.groups))} groups and "
        f"{len(set(result.labels))} classes, {len(result.splits)} split(s), {len(result.broken)} skipped\n"
        f"settings: {_told(result.settings)}",
    )


def _told(settings: dict[str, Any]) -> str:
    """Return the settings of an evaluation in a line; those of fine-tuning where there is any."""
    from smile_train.training.checkpoint import flat

    tuned = "finetune" in settings["protocols"]
    flat_settings = {k: v for k, v in flat(settings).items() if tuned or not k.startswith("finetune.")}
    return ", ".join(f"{k}={v}" for k, v in flat_settings.items() if k != "protocols")


@app.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(metavar="A.json", help="Scores of smile-train evaluate --out.")],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="Of another encoder on the same videos.")],
) -> None:
    """Compare two encoders video by video, with the smallest difference that means something."""
    from smile_train.evaluate import compare_evaluations, format_interval

    table = Table("protocol", "A %", "B %", "A - B", "95 % interval", "smallest that counts", "groups")
    for protocol, a, b, difference in compare_evaluations(first, second):
        table.add_row(
            protocol, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * difference.mean:+.1f}",
            format_interval(difference.low, difference.high, signed=True), f"{100 * difference.smallest:.1f}",
            str(difference.num_groups),
        )  # fmt: skip
    console.print(table)


@app.command("ablate")
def ablate_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A shipped study's name or a YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the study; what is done is not done again.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="For example seeds=[0].")
    ] = None,
    predict: Annotated[bool, typer.Option("--predict", help="Only say what it will cost here.")] = False,
    shard_index: Annotated[int, typer.Option("--shard-index", min=0, help="This process' share.")] = 0,
    num_shards: Annotated[int, typer.Option("--num-shards", min=1, help="Processes, one per GPU.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="auto|HOST:PORT", help="Work on a Ray cluster whose machines share the folders."
        ),
    ] = None,
) -> None:
    """Train and probe every arm of a study, then write its table, plot and page."""
    from smile_train.ablate import PAGE, Study, StudyRun

    if shard_index >= num_shards:
        raise UserError(f"--shard-index {shard_index}: must be below --num-shards {num_shards}")
    if ray is not None and num_shards > 1:
        raise UserError("--ray and --num-shards: choose one, each spreads the arms")
    with progress_bar("study", "") as progress:
        run = StudyRun(Study.load(study, overrides or []), out, progress=progress)
        left = sum(not cell.done for cell in run.cells)
        standing = f"{len(run.cells) - left} of {len(run.cells)} runs are done, {left} are left"
        if predict or ray is None:  # this machine tells nothing of a cluster's
            estimate = run.estimate(shard=(shard_index, num_shards))
            standing += f": about {left * estimate.seconds_each / 60:.0f} minutes in one process"
    errors.print(standing)
    if predict:
        return
    with progress_bar("study", "") as progress:
        run.run(
            shard=(shard_index, num_shards),
            ray=ray,
            stage=lambda what, done, total, remark: progress(done, total, what=what, remark=remark),
        )
    if num_shards > 1 and not all(cell.done for cell in run.cells):
        console.print(f"this share is done; the last one writes {out / PAGE}")
        return
    table = Table("probe", "arm", "accuracy %", "95 % interval", "random %", "difference", "95 % interval")
    for row in run.report():
        paired = (row.difference, row.difference_low, row.difference_high)
        told = ["" if value != value else f"{100 * value:+.1f}" for value in paired]
        table.add_row(
            row.task, row.arm, f"{100 * row.mean:.1f}",
            f"{100 * row.low:.1f} .. {100 * row.high:.1f}", f"{100 * row.random:.1f}",
            told[0], f"{told[1]} .. {told[2]}" if told[1] else "",
        )  # fmt: skip
    console.print(table)
    console.print(f"page: {out / PAGE}")


@app.command("export")
def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder or its student.safetensors.")],
    to: Annotated[str, typer.Option("--to", help="transformers, timm, safetensors or onnx.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
) -> None:
    """Write the encoder in another library's format, with a model card, and read it back."""
    from smile_train.export import export_run

    report = export_run(run, out, to=to)
    console.print(f"{', '.join(report.files)} in {report.folder}; {report.checked}")


@app.command("probe")
def probe_command(
    checkpoint: EncoderOption,
    bank: Annotated[Path, typer.Option("--bank", help="Object bank with train and test splits.")],
    train_backgrounds: Annotated[
        Path | None, typer.Option("--train-backgrounds", help="Folder of images.")
    ] = None,
    test_backgrounds: Annotated[
        Path | None,
        typer.Option("--test-backgrounds", help="Folder of images that share none with the first."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    num_train: Annotated[int, typer.Option("--num-train", min=50)] = 1200,
    num_test: Annotated[int, typer.Option("--num-test", min=50)] = 800,
    out: Annotated[Path | None, typer.Option("--out", help="A .json file for the scores.")] = None,
    factors: Annotated[
        bool, typer.Option("--factors", help="Also ask for speed, rotation, count and when it is hidden.")
    ] = False,
    teacher: Annotated[
        str, typer.Option("--teacher", help="Image model whose frame features are a control; '' for none.")
    ] = "clip:tiny-clip",
    num_frames: NumFramesOption = None,
    side: SideOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Probe what a frozen encoder knows of motion, beside its controls on the same clips."""
    import json
    from dataclasses import asdict, replace

    from smile_synth.backgrounds import BackgroundFolder
    from smile_synth.io.atomic import write_bytes
    from smile_synth.sources import Sources
    from smile_train.evaluate import FACTORS, TASKS, all_controls, examine_motion, load_encoder
    from smile_train.training.checkpoint import steps_of
    from smile_train.training.pretrain import choose_device

    if out is not None and out.suffix != ".json":
        raise UserError(f"out '{out}': expected a .json file")
    on = choose_device(device)
    encoder = load_encoder(checkpoint, num_frames=num_frames, side=side, device=on)
    train = Sources.open(bank, train_backgrounds)
    test = replace(train, backgrounds=BackgroundFolder(test_backgrounds) if test_backgrounds else None)
    with progress_bar("probing", "probes") as progress:
        examination = examine_motion(
            encoder, train, test, seed=seed, num_train=num_train, num_test=num_test,
            tasks=FACTORS if factors else TASKS, plain=all_controls(teacher or None, on), progress=progress,
        )  # fmt: skip
    print_examination(examination)
    if out is not None:
        scores = {"step": steps_of(checkpoint), **asdict(examination)}
        write_bytes(out, (json.dumps(scores, indent=1) + "\n").encode())


@app.command("report")
def report_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, finished or not.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="A .html file; RUN/report.html unless given.")
    ] = None,
    num_clips: Annotated[int, typer.Option("--num-clips", min=4, help="Clips shown to the student.")] = 32,
) -> None:
    """Lay out a run as one page: curves, losses by token, masks, features, attention, neighbours."""
    from smile_synth.cli import check_suffix, print_findings
    from smile_synth.io.atomic import write_bytes
    from smile_train.report import report_run

    target = out or run / "report.html"
    check_suffix(target, ".html")
    page, findings = report_run(run, num_clips=num_clips)
    write_bytes(target, page.encode())
    print_findings(findings)
    console.print(f"{run} in {target} ({len(page) / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
