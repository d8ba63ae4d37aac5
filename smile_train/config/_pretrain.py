"""The configuration of a pretraining run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from smile_train.config._presets import load_config
from smile_train.config._shared import (
    CHANGEABLE,
    Count,
    MaskOptions,
    MotionTarget,
    OptimiserOptions,
    Options,
    PathText,
    RunOptions,
    StudentOptions,
    TargetOptions,
    TeacherOptions,
    TeacherTarget,
    Weight,
    Whole,
)
from smile_train.config._video import VideoOptions

ProbeTask = Literal[
    "motion family", "direction", "object class", "speed", "rotation", "count", "occluded when"
]  # fmt: skip


class SourceOptions(Options):
    """Where clips come from: rendered from a recipe, read from a corpus, or cut from natural videos."""

    recipe: PathText | None = None
    """A preset or a path of a recipe. Its size and frames are the student's."""
    overrides: list[str] = []
    """key.path=value for the recipe."""
    bank: PathText | None = None
    """Folder of the object bank; by default the run's."""
    backgrounds: PathText | None = None
    """Folder or list of background images and videos; by default the run's."""
    corpus: PathText | None = None
    """Folder of a corpus, instead of a recipe. Labels of motion (a target of kind motion, a mask of
    kind occlusion or with motion_source exact) also need bank and backgrounds."""
    video: VideoOptions | None = None
    """Natural videos, instead of a recipe."""
    weight: Weight = (1.0, 1.0)
    """How often clips of this source are drawn, relative to the others. [first, last] changes linearly from
    the stage's first step to its last."""

    @model_validator(mode="after")
    def _check(self) -> SourceOptions:
        given = [name for name in ("recipe", "corpus", "video") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"needs one of recipe, corpus and video, got {' and '.join(given) or 'none'}")
        if self.recipe is None and self.overrides:
            raise ValueError(f"overrides have no effect with {given[0]}")
        if self.video is not None and (self.bank or self.backgrounds):
            raise ValueError("bank and backgrounds have no effect with video")
        return self


class StageOptions(Options):
    """A stage. What a later stage leaves out is as in the stage before; a given group replaces all of it.

    A stage starts from the weights of the stage before, with a new optimiser and schedule.
    """

    steps: Count
    """Optimiser steps."""
    sources: Annotated[list[SourceOptions], Field(min_length=1)] | None = None
    """Where clips come from. Several sources are mixed by their weights."""
    masks_per_clip: Count | None = None
    """Student passes per clip, each with its own mask, for one pass of the teacher; 1 by default."""
    mask: MaskOptions | None = None
    """Which tokens are hidden."""
    optimiser: OptimiserOptions | None = None
    """Optimiser and schedule."""


class Stage(Options):
    """A stage in which every option is filled in; see `StageOptions`."""

    steps: Count
    """Optimiser steps."""
    sources: list[SourceOptions]
    """Where clips come from."""
    masks_per_clip: Count
    """Student passes per clip."""
    mask: MaskOptions
    """Which tokens are hidden."""
    optimiser: OptimiserOptions
    """Optimiser and schedule."""


class TrainingProbeOptions(Options):
    """Motion probes while the run trains, see docs/pretraining.md, "Probes while training"."""

    every: Count = 500
    """Steps between probes. Every stage also ends with one."""
    tasks: Annotated[list[ProbeTask], Field(min_length=1)] = ["direction", "rotation"]
    """Tasks of smile-train probe. The score of a checkpoint is the mean of their accuracies."""
    num_train: Annotated[int, Field(ge=50)] = 150
    """Training clips of each task."""
    num_test: Annotated[int, Field(ge=50)] = 100
    """Test clips of each task."""
    test_split: Literal["train", "val", "test"] = "val"
    """Split of the bank with the objects of the test clips. The probes select a checkpoint, so test objects
    are kept for its evaluation."""


class PretrainConfig(Options):
    """A pretraining run."""

    seed: Whole = 0
    """Of the data, the masks and the initial weights."""
    bank: PathText | None = None
    """Folder of the object bank, for all sources without their own."""
    backgrounds: PathText | None = None
    """Folder or list of background images and videos, for all sources without their own."""
    stages: Annotated[list[StageOptions], Field(min_length=1)]
    """The stages, in their order."""
    batch_size: Count
    """Clips per step, over all processes."""
    start_from: PathText | None = None
    """A run's folder, a weights file, or the name of a shipped encoder. Only the weights are used."""
    student: StudentOptions
    """The student."""
    teacher: TeacherOptions = TeacherOptions()
    """The teacher, for a target of kind teacher."""
    targets: Annotated[list[TargetOptions], Field(min_length=1)] = [TeacherTarget()]
    """What the student predicts for each token; the losses are added."""
    predicted_tokens: Literal["masked", "visible", "all"] = "masked"
    """Tokens that the loss is computed on."""
    visible_weight: Annotated[float, Field(gt=0, le=1)] | None = None
    """With predicted_tokens all: weight of visible tokens in the loss, divided by the square root of their
    distance to the nearest masked token (after V-JEPA 2.1). The distance is the number of tokens along
    time, rows or columns, whichever is largest. Masked tokens have the weight 1. By default every token has
    the weight 1."""
    render: Annotated[Literal["device", "cpu"], CHANGEABLE] = "device"
    """Where frames of a stage with a single recipe are rendered: on the training device, or by the workers.
    Mixtures, corpora and videos always use the workers."""
    probes: TrainingProbeOptions | None = None
    """Motion probes while the run trains; null computes none."""
    run: RunOptions = RunOptions()
    """How the run computes and what it keeps."""

    @model_validator(mode="after")
    def _check(self) -> PretrainConfig:
        if [target.kind for target in self.targets].count("motion") > 1:
            raise ValueError("targets: give at most one target of kind motion, with all offsets and parts")
        if all(target.decoder == "own" for target in self.targets):
            raise ValueError("targets: every target has decoder own; give one of them decoder shared")
        if self.visible_weight is not None and self.predicted_tokens != "all":
            raise ValueError("visible_weight: has an effect only with predicted_tokens all")
        if self.stages[0].sources is None:
            raise ValueError("stages.0: sources is missing")
        for number, stage in enumerate(self.resolved_stages):
            for place, source in enumerate(stage.sources):
                where = f"stages.{number}.sources.{place}"
                if source.recipe is not None and source.bank is None:
                    raise ValueError(f"{where}: bank is missing: give it here or as bank of the run")
                if source.video is not None and source.video.path is None:
                    raise ValueError(
                        f"{where}: video.path is missing: give it here or as backgrounds of the run"
                    )
            if any(sum(source.weight[end] for source in stage.sources) == 0 for end in (0, 1)):
                raise ValueError(f"stages.{number}: every weight of sources is 0 at one end of the stage")
            check_schedule(stage.optimiser, stage.steps, f"stages.{number}")
        if self.batch_size % self.run.accumulate:
            raise ValueError(
                f"batch_size: {self.batch_size} must be a multiple of run.accumulate {self.run.accumulate}"
            )
        return self

    @property
    def resolved_stages(self) -> list[Stage]:
        """The stages with every option filled in."""
        filled: list[Stage] = []
        for given in self.stages:
            sources = [self._with_run_paths(source) for source in given.sources or []]
            before = filled[-1] if filled else None
            filled.append(
                Stage(
                    steps=given.steps,
                    sources=sources or (before.sources if before else []),
                    masks_per_clip=given.masks_per_clip or (before.masks_per_clip if before else 1),
                    mask=given.mask or (before.mask if before else MaskOptions()),
                    optimiser=given.optimiser or (before.optimiser if before else OptimiserOptions()),
                )
            )
        return filled

    @property
    def motion_offsets(self) -> tuple[int, ...]:
        """Offsets of the labels of motion of all clips, ascending: what targets and masks need together.

        The axis of offsets of these labels has this order. It is empty if nothing needs labels of motion.
        """
        by_targets = {o for one in self.targets if isinstance(one, MotionTarget) for o in one.offsets}
        by_masks = {o for stage in self.resolved_stages for o in stage.mask.motion_offsets}
        return tuple(sorted(by_targets | by_masks))

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def _with_run_paths(self, source: SourceOptions) -> SourceOptions:
        """Return a source in which the run's bank and backgrounds replace missing ones."""
        if source.video is not None:
            video = source.video.model_copy(update={"path": source.video.path or self.backgrounds})
            return source.model_copy(update={"video": video})
        own = {"bank": source.bank or self.bank, "backgrounds": source.backgrounds or self.backgrounds}
        return source.model_copy(update=own)

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> PretrainConfig:
        """Read a preset by name, or a YAML file, with ``key.path=value`` overrides.

        Raises:
            UserError: unknown preset, missing file, or mistakes in it, all at once.
        """
        return load_config(cls, name_or_path, overrides)


def check_schedule(optimiser: OptimiserOptions, steps: int, where: str) -> None:
    """Refuse a schedule that does not fit the number of steps.

    Raises:
        ValueError: the warm-up is longer, or the cosine is shorter.
    """
    warmup, cosine = optimiser.warmup_steps, optimiser.cosine_steps
    if warmup > (cosine or steps):
        raise ValueError(f"{where}: optimiser.warmup_steps {warmup} is above steps {steps}")
    if cosine is not None and cosine < steps:
        raise ValueError(f"{where}: optimiser.cosine_steps {cosine} is below steps {steps}")
