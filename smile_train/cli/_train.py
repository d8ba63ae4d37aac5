"""smile-train pretrain, finetune, train-probe and teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from smile_synth.cli import progress_bar
from smile_synth.core.errors import UserError
from smile_train.cli import _options as options
from smile_train.cli._output import (
    print_heads,
    print_passed_over,
    print_teacher_scores,
    print_test,
    print_training_end,
    print_unreadable,
    training_progress,
)
from smile_train.cli._plan import PlannedStage, last_rate, print_plan

if TYPE_CHECKING:
    from smile_train.config import SourceOptions, Stage


def pretrain_command(
    config: options.Config,
    overrides: options.Overrides = None,
    *,
    out: options.OptionalRun = None,
    strict: options.Strict = False,
    dry_run: options.DryRun = False,
    clips_per_second: options.ClipsPerSecond = None,
    processes: options.Processes = 1,
) -> None:
    """Pretrain a student; under torchrun on several processes. If stopped, run it again to resume."""
    from smile_train.config import PretrainConfig
    from smile_train.training.pretrain import plan, pretrain

    loaded = PretrainConfig.load(config, overrides or [])
    if dry_run:
        planned = plan(loaded, strict=strict)
        print_unreadable(planned.data.unreadable)
        height, width = planned.data.size_hw
        print_plan(
            [
                PlannedStage(f"stage {number}", stage.steps, _describe(stage), cost)
                for number, (stage, cost) in enumerate(
                    zip(loaded.resolved_stages, planned.costs, strict=True), 1
                )
            ],
            clip=f"{planned.data.num_frames}x{height}x{width}",
            batch_size=loaded.batch_size,
            run=loaded.run,
            processes=processes,
            clips_per_second=clips_per_second or last_rate(out),
        )
        return
    folder = _required(out)
    with training_progress("pretraining") as shown:
        shown.total_steps = loaded.total_steps
        result = pretrain(loaded, folder, strict=strict, on_log=shown.on_log, progress=shown.videos)
    print_unreadable(result.unreadable)
    print_training_end(result, f"loss {result.loss:.4f} (baseline: {result.baseline_loss:.4f})")


def finetune_command(
    config: options.Config,
    overrides: options.Overrides = None,
    *,
    out: options.OptionalRun = None,
    dry_run: options.DryRun = False,
    clips_per_second: options.ClipsPerSecond = None,
    processes: options.Processes = 1,
    num_videos: Annotated[
        int | None, Option("--num-videos", min=1, help="For --dry-run without lists: training videos.")
    ] = None,
    num_classes: Annotated[
        int | None, Option("--num-classes", min=1, help="For --dry-run without lists: classes.")
    ] = None,
) -> None:
    """Fine-tune an encoder on labelled videos and test it. If stopped, run it again to resume."""
    from smile_train.config import FinetuneConfig
    from smile_train.training.finetune import FinetuneTask, plan
    from smile_train.training.trainer import train

    loaded = FinetuneConfig.load(config, overrides or [])
    if dry_run:
        planned = plan(loaded, processes=processes, num_videos=num_videos, num_classes=num_classes)
        encoder = planned.classifier.encoder
        print_plan(
            [
                PlannedStage(
                    "fine-tuning", planned.steps,
                    f"{planned.num_videos:,} videos of {planned.classifier.num_classes} classes, "
                    f"{loaded.epochs:g} epochs of {planned.steps_per_epoch:,.1f} steps",
                    planned.cost,
                )
            ],
            clip=f"{encoder.num_frames}x{encoder.size_hw[0]}x{encoder.size_hw[1]}",
            batch_size=loaded.batch_size,
            run=loaded.run,
            processes=processes,
            clips_per_second=clips_per_second or last_rate(out),
        )  # fmt: skip
        return
    folder = _required(out)
    with training_progress("fine-tuning") as shown:
        task = FinetuneTask(loaded, folder, shown.videos)
        shown.total_steps = task.phases[-1].end_step
        result = train(task, folder, on_log=shown.on_log)
    videos = loaded.videos
    print_passed_over(videos.train, videos.validation, videos.test)
    print_training_end(result, f"loss {result.loss:.4f}")
    if task.test is not None:
        print_test(task.test, folder / "test.json")


def train_probe_command(
    config: options.Config, overrides: options.Overrides = None, *, out: options.Run
) -> None:
    """Train linear and attentive heads on a frozen encoder. If stopped, run it again to resume."""
    from smile_train.config import ProbeConfig
    from smile_train.training.probe import ProbeTask
    from smile_train.training.trainer import train

    loaded = ProbeConfig.load(config, overrides or [])
    with training_progress("training heads") as shown:
        task = ProbeTask(loaded, out, shown.videos)
        shown.total_steps = task.phases[-1].end_step
        result = train(task, out, on_log=shown.on_log)
    videos = loaded.videos
    print_passed_over(videos.train, videos.validation, videos.test)
    print_training_end(result, f"{len(task.model.specs)} heads")
    print_heads(task.test, out / "test.json")


def _required(out: Path | None) -> Path:
    if out is None:
        raise UserError("--out is missing: the folder of the run")
    return out


def _describe(stage: Stage) -> str:
    """Return the sources and masks of a stage in a few words."""
    names = [_name(source) for source in stage.sources]
    masks = f"{stage.masks_per_clip} masks" if stage.masks_per_clip > 1 else "1 mask"
    return f"{', '.join(names)}; {masks} per clip, {stage.mask.summary}"


def _name(source: SourceOptions) -> str:
    if source.video is not None:
        return f"videos {source.video.path}"
    return f"corpus {source.corpus}" if source.corpus else f"recipe {source.recipe}"


def teacher_command(
    config: Annotated[
        str, Argument(metavar="[CONFIG]", help="Name of a preset or path of a YAML file.")
    ] = "tiny-clip",
    overrides: options.Overrides = None,
    *,
    out: options.Run,
    materials: Annotated[
        Path | None, Option("--materials", help="Folder of objects and backgrounds; created if missing.")
    ] = None,
) -> None:
    """Train a small CLIP on rendered images with captions, in open_clip's format."""
    from smile_train.config import TeacherTrainingConfig
    from smile_train.materials import build_materials
    from smile_train.training.teacher import train_teacher

    loaded = TeacherTrainingConfig.load(config, overrides or [])
    with progress_bar("objects", "") as progress:
        built = build_materials(materials or out / "materials", progress=progress)
    with training_progress("training") as shown:
        shown.total_steps = loaded.steps
        result = train_teacher(loaded, built, out, on_log=shown.on_log)
    print_teacher_scores(result)
