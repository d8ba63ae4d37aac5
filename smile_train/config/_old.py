"""Typed run configurations: the strict form of the YAML files in configs/train/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from smile_synth.io.resources import find_config
from smile_synth.io.strict_yaml import StrictModel, load

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]


class StudentOptions(StrictModel):
    """The student.

    Attributes:
        size: tiny, small, base, large or huge.
        patch_size: side of a token in pixels.
        tubelet_size: frames per token.
        drop_path: stochastic depth, 0..1.
        positions: joint, as published, or separable in time, row and column.
        checkpointing: less memory for about a third more work: the backward pass computes blocks again.
        decoder_chunk: clips decoded at a time, so that the decoder's memory does not grow with the batch; 0
            decodes the batch at once.
    """

    size: Literal["tiny", "small", "base", "large", "huge"]
    patch_size: Count = 16
    tubelet_size: Count = 2
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    positions: Literal["joint", "separable"] = "joint"
    checkpointing: bool = False
    decoder_chunk: Whole = 0


class TeacherOptions(StrictModel):
    """The frozen image model whose tokens are predicted.

    Attributes:
        model: tiny-clip (ships with the project), an open_clip name, local-dir:FOLDER, or timm:NAME.
        pretrained: a tag of open_clip or a file of weights; timm takes a file alone.
        force_quick_gelu: needed for OpenAI's weights from a file.
        normalisation: pixel statistics: the model's own, OpenAI's (clip), or imagenet as the published code
            feeds it.
        layers: blocks whose tokens are predicted, 0 the first, -1 the last; several stand side by side.
        final_norm: put tokens through the model's last norm.
        projection: and through the projection to the space shared with text.
        input_size: height and width that frames are resized to; left out, they go in as they are, with the
            model's positions interpolated.
        grid: match, or interpolate tokens to the student's patches.
        precision: auto as the run computes, or fp32 or bf16 whatever the run does.
        compile: with torch.compile.
        cache: folder that keeps tokens, for clips that come back unchanged.
    """

    model: str = "tiny-clip"
    pretrained: str | None = None
    force_quick_gelu: bool = False
    normalisation: Literal["own", "clip", "imagenet"] = "own"
    layers: Annotated[list[int], Field(min_length=1)] = [-1]
    final_norm: bool = True
    projection: bool = False
    input_size: tuple[Count, Count] | None = None
    grid: Literal["match", "interpolate"] = "match"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    cache: str | None = None


class HeadOptions(StrictModel):
    """One thing to predict for each token.

    Attributes:
        kind: the teacher's tokens, or pixels.
        norm: of the teacher's tokens: zscore over the clip (as published), layernorm per token, none.
        per_patch: normalise pixels within each token.
        loss: l2 (mean of squares, as published), smooth_l1 or cosine (1 - cosine of the angle).
        weight: of its loss in the sum.
    """

    kind: Literal["teacher", "pixels"] = "teacher"
    norm: Literal["zscore", "layernorm", "none"] = "zscore"
    per_patch: bool = True
    loss: Literal["l2", "smooth_l1", "cosine"] = "l2"
    weight: Positive = 1.0


class TargetOptions(HeadOptions):
    """What is predicted.

    Attributes:
        kind, norm, per_patch, loss, weight: of the first head, see `HeadOptions`.
        tokens: the loss is on masked tokens, visible ones or all.
        also: further heads.
    """

    tokens: Literal["masked", "visible", "all"] = "masked"
    also: list[HeadOptions] = []

    @property
    def heads(self) -> list[HeadOptions]:
        """All heads, the first one included."""
        return [self, *self.also]


class MaskOptions(StrictModel):
    """Which tokens are hidden.

    Attributes:
        kind: trajectory (objects first), tube, block (tubes side by side) or random.
        ratio: share of the tokens of each frame, rounded down.
        object_tokens: which tokens are an object's, for a trajectory mask: by its exact visible coverage,
            under its boxes, or under boxes one token too wide and high (boxes-oversize), as published.
        coverage_threshold: a token is an object's where its mean visible coverage is above this.
        object_rule: what a trajectory mask leaves visible of objects: a share of their tokens (share), one
            random tubelet (tubelet-visible), or one where they follow the tubes (tubelet-tube). Published as
            tube+traj_mask, tube+picked_frame_visible and tube.
        object_visible_share: for the rule share.
        visible_tubelets: for the tubelet rules, fixed ones instead of one at random.
        motion_weight: tokens that move are hidden more often: weight 1 + this x motion / mean motion.
        cross_clip: every further mask of a clip is that of another clip computed with it, as published; here
            accumulate and the number of processes change what is learned.
    """

    kind: Literal["trajectory", "tube", "block", "random"] = "trajectory"
    ratio: Share = 0.8
    object_tokens: Literal["coverage", "boxes", "boxes-oversize"] = "coverage"
    coverage_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    object_rule: Literal["share", "tubelet-visible", "tubelet-tube"] = "share"
    object_visible_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    visible_tubelets: Annotated[list[Whole], Field(min_length=1)] | None = None
    motion_weight: NonNegative = 0.0
    cross_clip: bool = False

    @model_validator(mode="after")
    def _check(self) -> MaskOptions:
        if self.kind == "block" and self.motion_weight:
            raise ValueError("motion_weight: block masks have none; use random, tube or trajectory")
        if self.visible_tubelets is not None and self.object_rule == "share":
            raise ValueError("visible_tubelets: only with object_rule tubelet-visible or tubelet-tube")
        return self


class OptimiserOptions(StrictModel):
    """AdamW and its schedule.

    Attributes:
        lr_per_256: peak learning rate for 256 clips a step; scaled with the batch.
        warmup_steps: linear, from warmup_lr_per_256.
        final_lr_per_256: at the last step, along a cosine.
        cosine_steps: where the cosine ends, counted from the stage's first step; left out, where the stage
            ends. Longer than the stage, it is never annealed: the published early stopping.
        weight_decay: not on 1-D tensors.
        layer_decay: each block of the encoder learns this much slower than the one after it; 1 is none.
        betas: of AdamW.
        clip_norm: gradient clipping; 0 is none.
    """

    lr_per_256: Positive = 1.5e-4
    warmup_lr_per_256: NonNegative = 1e-6
    final_lr_per_256: NonNegative = 1e-5
    warmup_steps: Whole = 0
    cosine_steps: Count | None = None
    weight_decay: NonNegative = 0.05
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    betas: tuple[Share, Share] = (0.9, 0.95)
    clip_norm: NonNegative = 0.0


def _ends(value: object) -> object:
    """Read a single weight as one that stays."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value, value
    return tuple(value) if isinstance(value, list) else value


class SourceOptions(StrictModel):
    """Where clips come from: rendered from a recipe, or read from a written corpus.

    Attributes:
        recipe: a synth preset or a path.
        recipe_overrides: key.path=value for the recipe.
        bank: folder of the object bank.
        backgrounds: folder or list of images and videos, where the recipe wants them.
        corpus: folder of a corpus of smile-synth generate, in the place of all the above.
    """

    recipe: str | None = None
    recipe_overrides: list[str] = []
    bank: str | None = None
    backgrounds: str | None = None
    corpus: str | None = None


class MixtureEntry(SourceOptions):
    """One source of several; recipe, bank and backgrounds that it leaves out are the run's.

    Attributes:
        weight: how often its clips are drawn, relative to the others; [first, last] runs from the stage's
            first step to its last in a straight line.
    """

    weight: Annotated[tuple[NonNegative, NonNegative], BeforeValidator(_ends)] = (1.0, 1.0)


class StageOptions(SourceOptions):
    """A later stage: from the weights of the stage before, with a new optimiser and schedule.

    What is left out is as in the first stage; a group that is given (mask, optimiser) replaces the whole one.

    Attributes:
        steps: optimiser steps of this stage.
        mixture, masks_per_clip, mask, optimiser: see `PretrainConfig`.
    """

    steps: Count
    mixture: list[MixtureEntry] | None = None
    masks_per_clip: Count | None = None
    mask: MaskOptions | None = None
    optimiser: OptimiserOptions | None = None


class Stage(StrictModel):
    """A stage with everything filled in; what `PretrainConfig.stages` gives."""

    steps: Count
    sources: list[MixtureEntry]
    masks_per_clip: Count
    mask: MaskOptions
    optimiser: OptimiserOptions


class PretrainConfig(SourceOptions):
    """A pretraining run.

    Attributes:
        recipe, recipe_overrides, sources, corpus: where clips come from, see `SourceOptions`.
            Their size and frames are the student's.
        mixture: several sources; each entry fills in what it leaves out from the keys above.
        seed: of the data, the masks and the initial weights.
        steps: optimiser steps of the first stage.
        then: later stages.
        start_from: a run's folder or a checkpoint whose weights, and nothing else, this run begins with.
        batch_size: clips per step, over all processes.
        accumulate: parts that each process does its share of a step in; more need less memory.
        masks_per_clip: student passes per clip, each with a mask of its own, for one pass of the teacher.
        precision: of the forward passes; auto is bf16 on CUDA and fp32 on the CPU.
        compile: pass student and teacher through torch.compile.
        parallel: under torchrun, copies of the student (ddp) or its parameters spread out (fsdp).
        ema_decay: also keep an average of the weights, which moves by 1 - this per step; 0 keeps none.
        workers: processes that render or read, for each training process; 0 does it there.
        threads: of torch on the CPU; 0 leaves torch's own choice.
        device: auto takes CUDA where there is one.
        render: where the frames of a stage with one recipe are drawn: on the device, from scenes that workers
            draw, or by the workers on the cpu. Mixtures and corpora are theirs in any case.
        checkpoint_every: steps.
        keep_checkpoints: the last so many, beside the best.
        peak_tflops: of the device at this precision, for the MFU; known for some GPUs.
        wandb: a project of Weights & Biases that is told the log, too; needs the extra wandb.
        student, teacher, target, mask, optimiser: see there.
    """

    mixture: list[MixtureEntry] = []
    seed: Whole = 0
    steps: Count
    then: list[StageOptions] = []
    start_from: str | None = None
    batch_size: Count
    accumulate: Count = 1
    masks_per_clip: Count = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    workers: Whole = 1
    threads: Whole = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    render: Literal["device", "cpu"] = "device"
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 2
    peak_tflops: Positive | None = None
    wandb: str | None = None
    student: StudentOptions
    teacher: TeacherOptions = TeacherOptions()
    target: TargetOptions = TargetOptions()
    mask: MaskOptions = MaskOptions()
    optimiser: OptimiserOptions = OptimiserOptions()

    @model_validator(mode="after")
    def _check(self) -> PretrainConfig:
        for number, later in enumerate(self.then):
            # What a mixture's entries have of their own goes before what is the stage's.
            inherits = self.mixture and later.mixture is None
            for key in ("recipe", "corpus", "bank", "backgrounds") if inherits else ():
                given = {None, *(getattr(source, key) for source in self.stages[number + 1].sources)}
                if getattr(later, key) not in given:
                    raise ValueError(
                        f"then.{number}.{key}: no effect, as the entries of mixture have their own; give "
                        f"then.{number}.mixture, [] for none"
                    )
        for number, stage in enumerate(self.stages):
            where = f"then.{number - 1}." if number else ""
            options = stage.optimiser
            for source in stage.sources:
                if source.corpus is None and (source.recipe is None or source.bank is None):
                    missing = "recipe" if source.recipe is None else "bank"
                    raise ValueError(f"{where}{missing} is missing: give recipe and bank, or corpus")
            if any(sum(source.weight[end] for source in stage.sources) == 0 for end in (0, 1)):
                raise ValueError(f"{where}mixture: every weight is 0 at one end of the stage")
            steps, warmup, cosine = stage.steps, options.warmup_steps, options.cosine_steps
            if warmup > steps:
                raise ValueError(f"{where}optimiser.warmup_steps {warmup} is above {where}steps {steps}")
            if cosine is not None and cosine < steps:
                raise ValueError(f"{where}optimiser.cosine_steps {cosine} is below {where}steps {steps}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}"
            )
        return self

    @property
    def stages(self) -> list[Stage]:
        """The stages, each with what it leaves out filled in."""
        stages = []
        for later in (None, *self.then):
            own = _sources(self, later) if later else self
            mixture = later.mixture if later and later.mixture is not None else self.mixture
            sources = [_filled(entry, own) for entry in mixture] or [_filled(MixtureEntry(), own)]
            stages.append(
                Stage(
                    steps=later.steps if later else self.steps,
                    sources=sources,
                    masks_per_clip=(later and later.masks_per_clip) or self.masks_per_clip,
                    mask=(later and later.mask) or self.mask,
                    optimiser=(later and later.optimiser) or self.optimiser,
                )
            )
        return stages

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all stages."""
        return self.steps + sum(stage.steps for stage in self.then)

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> PretrainConfig:
        """Read a preset by name, or a YAML file, with ``key.path=value`` overrides.

        Raises:
            UserError: unknown preset, missing file, or mistakes in it, all at once.
        """
        return load(cls, find_config(name_or_path, "train"), overrides)


def _sources(first: SourceOptions, second: SourceOptions) -> SourceOptions:
    """Return the keys of ``second``, those it leaves out from ``first``; a recipe goes with its overrides."""
    if second.corpus is not None:
        return SourceOptions(corpus=second.corpus)
    same_recipe = second.recipe is None
    return SourceOptions(
        recipe=first.recipe if same_recipe else second.recipe,
        recipe_overrides=[*(first.recipe_overrides if same_recipe else []), *second.recipe_overrides],
        bank=second.bank or first.bank,
        backgrounds=second.backgrounds or first.backgrounds,
        corpus=first.corpus if same_recipe else None,
    )


def _filled(entry: MixtureEntry, own: SourceOptions) -> MixtureEntry:
    filled = _sources(own, entry)
    if filled.corpus is not None:
        return MixtureEntry(corpus=filled.corpus, weight=entry.weight)
    return MixtureEntry(**filled.model_dump(), weight=entry.weight)


class TeacherTrainingConfig(StrictModel):
    """Training of a small CLIP on rendered images with captions.

    Attributes:
        recipe: a synth preset or a path; the first frame of each clip is an image.
        seed: of the data and the initial weights.
        steps, batch_size: of the contrastive training.
        lr: peak learning rate, reached after warmup_steps.
        weight_decay: not on 1-D tensors.
        workers, threads: as in pretraining.
        checkpoint_every: steps.
        vision_width, vision_layers, vision_heads, patch_size: the image tower.
        text_width, text_layers, text_heads, context_length: the text tower.
        embed_dim: of the common space.
    """

    recipe: str
    seed: Whole = 0
    steps: Count
    batch_size: Count
    lr: Positive
    warmup_steps: Whole = 0
    weight_decay: NonNegative = 0.05
    workers: Whole = 1
    threads: Whole = 0
    checkpoint_every: Count = 500
    vision_width: Count
    vision_layers: Count
    vision_heads: Count
    patch_size: Count
    text_width: Count
    text_layers: Count
    text_heads: Count
    context_length: Count
    embed_dim: Count

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> TeacherTrainingConfig:
        """Read a preset by name, or a YAML file; errors as `PretrainConfig.load`."""
        return load(cls, find_config(name_or_path, "train"), overrides)
