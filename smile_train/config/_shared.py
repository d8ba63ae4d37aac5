"""Option groups that several kinds of runs share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from smile_synth.io.strict_yaml import StrictModel

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]


def _expanded(path: object) -> object:
    """Return a path with ``~`` and variables such as ``$DATA`` replaced.

    Raises:
        ValueError: a variable is not set.
    """
    if not isinstance(path, str) or os.path.exists(path):
        return path
    text = os.path.expandvars(os.path.expanduser(path))
    unset = re.search(r"\$(\w+|\{\w+\})", text)
    if unset:
        raise ValueError(f"the environment variable {unset[0]} is not set, in '{path}'")
    return text


PathText = Annotated[str, BeforeValidator(_expanded)]


class _Changeable:
    """Marks an option that may be changed when a run is continued, because results do not depend on it."""

    def __repr__(self) -> str:
        return "CHANGEABLE"


CHANGEABLE = _Changeable()

# Offsets of the labels of motion that masks use, see `smile_synth.core.clip.TokenMotion`.
OCCLUSION_OFFSETS = (-1, 1)
MOTION_OFFSET = 0


class Options(StrictModel):
    """Base of all option groups. The text below a field is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def fixed_values(options: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Return all options except those marked `CHANGEABLE`, by dotted key, as plain values for JSON."""
    return dict(_fixed(options, prefix))


def _fixed(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            if CHANGEABLE not in field.metadata:
                yield from _fixed(getattr(value, name), f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple) and any(isinstance(item, BaseModel) for item in value):
        for number, item in enumerate(value):
            yield from _fixed(item, f"{key}.{number}")
    else:
        yield key, list(value) if isinstance(value, tuple) else value


class StudentOptions(Options):
    """The student."""

    size: Literal["tiny", "small", "base", "large", "huge"]
    """Width and depth of encoder and decoder."""
    patch_size: Count = 16
    """Side of a token in pixels."""
    tubelet_size: Count = 2
    """Frames of a token."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the encoder: probability at the last block, rising linearly from 0."""
    positions: Literal["joint", "separable"] = "joint"
    """Sine-cosine position table: over the token index (joint, as published), or over time, row and column in
    separate channels (separable)."""
    patch_filters: Literal["random", "motion-energy"] = "random"
    """Initial filters of the patch embedding: random (as published), or three quarters of them pairs of
    space-time Gabor filters, which respond to motion (Adelson and Bergen, 1985). With motion-energy, small
    students learn the target motion faster."""
    checkpointing: Annotated[bool, CHANGEABLE] = False
    """Recompute blocks in the backward pass: less memory, about a third more operations."""
    decoder_chunk: Annotated[Whole, CHANGEABLE] = 0
    """Clips per pass of the decoder. Fewer clips need less memory; 0 is the whole batch."""


class TeacherOptions(Options):
    """The frozen image model whose tokens are predicted."""

    model: str = "tiny-clip"
    """tiny-clip (ships with the project), an open_clip name, local-dir:FOLDER, or timm:NAME."""
    pretrained: PathText | None = None
    """A tag of open_clip, or a weights file. For timm: only a file."""
    force_quick_gelu: bool = False
    """Replace GELU by QuickGELU. Needed for OpenAI's weights in a model with plain GELU."""
    normalisation: Literal["own", "clip", "imagenet"] = "own"
    """Mean and std that normalise pixels: the model's own, OpenAI CLIP's, or ImageNet's (as published)."""
    layers: Annotated[list[int], Field(min_length=1)] = [-1]
    """Blocks whose tokens are predicted, concatenated; 0 is the first, -1 the last."""
    final_norm: bool = True
    """Apply the model's final norm layer to the tokens."""
    projection: bool = False
    """Apply CLIP's projection to the space that images and texts share."""
    input_size: tuple[Count, Count] | None = None
    """Height and width that frames are resized to. By default frames are not resized; the model's position
    table is interpolated."""
    grid: Literal["match", "interpolate"] = "match"
    """match: the token grid must equal the student's. interpolate: it is interpolated to the student's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the teacher's forward pass; auto is the precision of the run."""
    compile: Annotated[bool, CHANGEABLE] = False
    """Use torch.compile."""


class TargetBase(Options):
    """Options of every target."""

    weight: Positive = 1.0
    """Weight of this loss in the sum."""
    decoder: Literal["shared", "own"] = "shared"
    """shared: the target is predicted by the decoder that all such targets share. own: by blocks, a norm and
    a linear layer for this target alone, from the same input tokens. At least one target has shared."""
    encoder_blocks: list[Whole] = []
    """Blocks of the encoder, 0 is the first. After each of them a norm and a linear layer also predict the
    target of the visible tokens, and these losses are added. The decoder is not used for this, since its
    pass over all tokens costs more than several encoder blocks."""


class TeacherTarget(TargetBase):
    """Predict the teacher's tokens."""

    kind: Literal["teacher"] = "teacher"
    """Selects this target."""
    norm: Literal["zscore", "layernorm", "none"] = "zscore"
    """zscore: normalise each channel over the tokens of the clip (as published). layernorm: normalise each
    token over its channels."""
    loss: Literal["l2", "smooth_l1", "cosine"] = "l2"
    """l2 is the mean squared error (as published); cosine is 1 - cosine similarity."""


class PixelTarget(TargetBase):
    """Predict pixels."""

    kind: Literal["pixels"] = "pixels"
    """Selects this target."""
    per_patch: bool = True
    """Normalise pixels within each token."""
    loss: Literal["l2", "smooth_l1", "cosine"] = "l2"
    """As in the target teacher."""


class MotionTarget(TargetBase):
    """Predict the exact motion of the token's owner, which follows from the scene.

    Natural videos have no scene: their tokens are left out of this loss. See docs/labels.md, "Token motion".
    """

    kind: Literal["motion"] = "motion"
    """Selects this target."""
    offsets: Annotated[list[int], Field(min_length=1)] = [0]
    """Frames to which the motion is predicted. n is the first frame of the tubelet that is n tubelets
    later; 0 is the last frame of the token's own tubelet."""
    displacement: NonNegative = 1.0
    """Weight of the mean displacement: smooth L1 (beta .1) of sign(v) log(1 + |v|), v in pixels. At offset 0
    it is the optical flow inside the tubelet."""
    spread: NonNegative = 1.0
    """Weight of the standard deviation of the displacement within the token; same loss as displacement."""
    linear: NonNegative = 0.0
    """Weight of the local rotation, scale and shear: smooth L1 (beta .1) of 10 times the values."""
    visibility: NonNegative = 0.0
    """Weight of the visibility in the frames of offsets: binary cross-entropy."""
    camera: NonNegative = 0.0
    """Weight of the displacement of the background; same loss as displacement."""
    depth: NonNegative = 0.0
    """Weight of the rank of the token's owner from the front, among the owners that the tubelet shows:
    cross-entropy of the classes 0, 1, 2, and 3 or more."""
    same_object: NonNegative = 0.0
    """Weight of a contrastive loss: tokens of a clip get similar embeddings if one object owns both, in the
    same or in different tubelets, and different embeddings if not. The background counts as one object.
    Compares up to 64 of the tokens that the loss is computed on, at equal steps."""
    background_weight: NonNegative = 1.0
    """Weight of tokens of the background relative to tokens of objects."""

    @model_validator(mode="after")
    def _check(self) -> MotionTarget:
        parts = ("displacement", "spread", "linear", "visibility", "camera", "depth", "same_object")
        if not any(getattr(self, part) for part in parts):
            raise ValueError("every part has the weight 0; give displacement or another part a weight")
        if len(set(self.offsets)) < len(self.offsets):
            raise ValueError(f"offsets: should differ, got {self.offsets}")
        return self


TargetOptions = Annotated[TeacherTarget | PixelTarget | MotionTarget, Field(discriminator="kind")]


class FinalMaskOptions(Options):
    """Values of mask options in a stage's last step. They change linearly from the mask's own values.

    The number of masked tokens of a step then follows from the ratio of that step.
    """

    ratio: Fraction | None = None
    """Share of masked tokens in the last step; null keeps the ratio. As all others here."""
    object_visible_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of object tokens that stay visible."""
    occlusion_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Masked share of the tokens at occlusions."""
    motion_weight: NonNegative | None = None
    """Weight of motion."""

    @property
    def given(self) -> dict[str, float]:
        """The options that change, by name."""
        return {name: value for name, value in self if value is not None}


class MaskOptions(Options):
    """Which tokens are hidden from the student."""

    kind: Literal["trajectory", "tube", "block", "random", "clear-past", "occlusion"] = "trajectory"
    """trajectory (object tokens first; natural videos get a tube mask), tube, block (blocks that last the
    whole clip), random, clear-past (random tokens of all tubelets but the first ones) or occlusion (tokens at
    occlusions first)."""
    ratio: Fraction = 0.8
    """Share of masked tokens. Of T x H x W tokens, T x int(ratio x H x W) are masked. With clear-past it is
    the share of the tubelets after the clear ones, and T is their number."""
    clear_tubelets: Count | None = None
    """With clear-past: the first tubelets, in which no token is masked; by default half of the tubelets."""
    occlusion_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """With occlusion: masked share of the tokens whose owner is hidden, or outside of the frame, one tubelet
    later or earlier (exact; docs/labels.md, "Token motion"). Random others are masked up to ratio. Natural
    videos get a random mask."""
    object_tokens: Literal["coverage", "boxes", "boxes-oversize"] = "coverage"
    """How object tokens are found: by exact visible coverage, by boxes, or by boxes that are one token too
    large (as published)."""
    coverage_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """With coverage: tokens whose mean visible coverage by objects is above this value are object tokens."""
    object_rule: Literal["share", "tubelet-visible", "tubelet-tube"] = "share"
    """Which object tokens stay visible. share: a random share. tubelet-visible: those of one random tubelet.
    tubelet-tube: those of one random tubelet that the tube mask does not mask. Published as tube+traj_mask,
    tube+picked_frame_visible and tube."""
    object_visible_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of object tokens that stay visible, with object_rule share."""
    visible_tubelets: Annotated[list[Whole], Field(min_length=1)] | None = None
    """Fixed tubelets (numbers from 0) instead of a random one, with the other two rules."""
    motion_weight: NonNegative = 0.0
    """Mask moving tokens more often: a token's weight is 1 + motion_weight x its motion / the clip's mean
    motion."""
    motion_source: Literal["frames", "exact"] = "frames"
    """What motion_weight measures. frames: the mean absolute difference to the frame before. exact: the
    length of the displacement within the tubelet, relative to the background's; 0 in natural videos."""
    cross_clip: bool = False
    """Use another clip's mask for the second and later masks, as published. Results then depend on
    accumulate and on the number of processes."""
    final: FinalMaskOptions | None = None
    """Other values in the stage's last step: {ratio: 0.9} with ratio 0.5 masks more from step to step."""

    @model_validator(mode="after")
    def _check(self) -> MaskOptions:
        final = self.final.given if self.final is not None else {}
        motion_weight = max(self.motion_weight, final.get("motion_weight", 0.0))
        if self.final is not None and not final:
            raise ValueError(f"final: give one of {', '.join(FinalMaskOptions.model_fields)}")
        if self.kind == "block" and motion_weight:
            raise ValueError("motion_weight: has no effect on block masks; use random, tube or trajectory")
        if self.visible_tubelets is not None and self.object_rule == "share":
            raise ValueError("visible_tubelets: only with object_rule tubelet-visible or tubelet-tube")
        if self.clear_tubelets is not None and self.kind != "clear-past":
            raise ValueError(f"clear_tubelets: only with kind clear-past, and kind is {self.kind}")
        if (self.occlusion_share < 1 or "occlusion_share" in final) and self.kind != "occlusion":
            raise ValueError(f"occlusion_share: only with kind occlusion, and kind is {self.kind}")
        if "object_visible_share" in final and (self.kind, self.object_rule) != ("trajectory", "share"):
            raise ValueError("final.object_visible_share: only with kind trajectory and object_rule share")
        if self.motion_source == "exact" and not motion_weight:
            raise ValueError("motion_source: has no effect without motion_weight")
        return self

    def at(self, progress: float) -> MaskOptions:
        """Return the options at a point of the stage: 0 is its first step, 1 its last."""
        if self.final is None:
            return self
        own = {
            name: (1 - progress) * getattr(self, name) + progress * last
            for name, last in self.final.given.items()
        }
        return self.model_copy(update={**own, "final": None})

    @property
    def summary(self) -> str:
        """Kind and ratio, for example "tube, ratio 0.5 to 0.9"."""
        first, last = self.at(0).ratio, self.at(1).ratio
        return f"{self.kind}, ratio {first:g}" + (f" to {last:g}" if last != first else "")

    @property
    def motion_offsets(self) -> tuple[int, ...]:
        """Offsets of the labels of motion that the mask needs; empty without."""
        exact = (MOTION_OFFSET,) if self.motion_source == "exact" else ()
        return exact + (OCCLUSION_OFFSETS if self.kind == "occlusion" else ())


class OptimiserOptions(Options):
    """AdamW and its schedule. Learning rates are multiplied by (samples per step) / 256.

    A sample is a clip with one mask: a step of 128 clips with 2 masks each has 256 samples.
    """

    base_lr: Positive = 1.5e-4
    """Peak learning rate."""
    warmup_lr: NonNegative = 1e-6
    """Learning rate of step 0. It rises linearly to base_lr."""
    final_lr: NonNegative = 1e-5
    """Learning rate at the end of the cosine."""
    warmup_steps: Whole = 0
    """Steps in which the learning rate rises linearly to base_lr."""
    cosine_steps: Count | None = None
    """Steps from the stage's start to the cosine's end; by default the stage's steps. A larger
    value stops the stage before the cosine ends, as published."""
    schedule_epoch: tuple[Count, Count] | None = None
    """[a, b]: epoch k, of a steps, starts at position k x b of the schedule. The published code with two
    masks has a = 1875 and b = 937, so its learning rate jumps back at every epoch."""
    weight_decay: NonNegative = 0.05
    """Weight decay of AdamW. Not applied to 1-D tensors and the mask token."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a block divided by that of the next block; 1 gives all blocks the same."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    """AdamW's decay rates of the averages of the gradient and of its square."""
    clip_norm: NonNegative = 0.0
    """Gradients with a larger norm are scaled down to this norm; 0 does not clip."""


class RunOptions(Options):
    """How a run computes and what it keeps."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the forward passes; auto is bf16 on CUDA and fp32 on the CPU."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a moving average of the weights, which is saved as an extra file; 0 computes no average."""
    accumulate: Annotated[Count, CHANGEABLE] = 1
    """Gradient accumulation: parts of a process's batch that are computed one after the other. More parts
    need less memory."""
    parallel: Annotated[Literal["ddp", "fsdp"], CHANGEABLE] = "ddp"
    """Under torchrun: a copy of the model in each process (ddp), or sharded parameters (fsdp)."""
    compile: Annotated[bool, CHANGEABLE] = False
    """Use torch.compile."""
    device: Annotated[Literal["auto", "cpu", "cuda"], CHANGEABLE] = "auto"
    """auto uses CUDA if there is a GPU."""
    threads: Annotated[Whole, CHANGEABLE] = 0
    """CPU threads of torch; 0 keeps torch's default."""
    workers: Annotated[Whole, CHANGEABLE] = 1
    """Worker processes that make clips, per training process; 0 makes the clips in the training process."""
    checkpoint_every: Annotated[Count, CHANGEABLE] = 500
    """Steps between checkpoints."""
    keep_checkpoints: Annotated[Count, CHANGEABLE] = 2
    """Number of last checkpoints that are kept; older ones are deleted."""
    peak_tflops: Annotated[Positive | None, CHANGEABLE] = None
    """Peak TFLOPS of the device at the run's precision, for the MFU. By default known for common GPUs."""
    wandb: Annotated[str | None, CHANGEABLE] = None
    """Project of Weights & Biases to which the log is also sent; needs the extra wandb."""


def as_pair(value: object) -> object:
    """Read a single number ``x`` as ``[x, x]``."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value, value
    return tuple(value) if isinstance(value, list) else value


Weight = Annotated[tuple[NonNegative, NonNegative], BeforeValidator(as_pair)]
