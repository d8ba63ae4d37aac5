"""Typed run configurations: the strict form of the YAML files in configs/train/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from smile_synth.resources import find_config
from smile_synth.strict_yaml import StrictModel, load

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
        cross_clip: every further mask of a clip is that of another clip of the batch, as published.
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
        weight_decay: not on 1-D tensors.
        betas: of AdamW.
        clip_norm: gradient clipping; 0 is none.
    """

    lr_per_256: Positive = 1.5e-4
    warmup_lr_per_256: NonNegative = 1e-6
    final_lr_per_256: NonNegative = 1e-5
    warmup_steps: Whole = 0
    weight_decay: NonNegative = 0.05
    betas: tuple[Share, Share] = (0.9, 0.95)
    clip_norm: NonNegative = 0.0


class PretrainConfig(StrictModel):
    """A pretraining run.

    Attributes:
        recipe: a synth preset or a path; its size and frames are the student's.
        recipe_overrides: key.path=value for the recipe.
        bank: folder of the object bank.
        backgrounds: folder of pictures, where the recipe wants them.
        seed: of the data, the masks and the initial weights.
        steps: optimiser steps in all.
        batch_size: clips per step and process.
        workers: processes that render; 0 renders in the training process.
        threads: of torch on the CPU; 0 leaves torch's own choice.
        device: auto takes CUDA where there is one.
        checkpoint_every: steps.
        student, teacher, target, mask, optimiser: see there.
    """

    recipe: str
    recipe_overrides: list[str] = []
    bank: str
    backgrounds: str | None = None
    seed: Whole = 0
    steps: Count
    batch_size: Count
    workers: Whole = 1
    threads: Whole = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: Count = 500
    student: StudentOptions
    teacher: TeacherOptions = TeacherOptions()
    target: TargetOptions = TargetOptions()
    mask: MaskOptions = MaskOptions()
    optimiser: OptimiserOptions = OptimiserOptions()

    @model_validator(mode="after")
    def _check(self) -> PretrainConfig:
        if self.optimiser.warmup_steps > self.steps:
            raise ValueError(
                f"optimiser.warmup_steps {self.optimiser.warmup_steps} is above steps {self.steps}"
            )
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> PretrainConfig:
        """Read a preset by name, or a YAML file, with ``key.path=value`` overrides.

        Raises:
            UserError: unknown preset, missing file, or mistakes in it, all at once.
        """
        return load(cls, find_config(name_or_path, "train"), overrides)


class TeacherTrainingConfig(StrictModel):
    """Training of a small CLIP on rendered pictures with captions.

    Attributes:
        recipe: a synth preset or a path; the first frame of each clip is a picture.
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
