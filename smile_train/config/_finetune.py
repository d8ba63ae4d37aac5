"""The configurations of training on labelled videos: fine-tuning and probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from smile_train.config._presets import load_config
from smile_train.config._shared import (
    CHANGEABLE,
    Count,
    Fraction,
    NonNegative,
    Options,
    PathText,
    Positive,
    RunOptions,
    Whole,
)
from smile_train.config._video import AugmentationOptions, FrameOptions

Share = Annotated[float, Field(ge=0, lt=1)]


class EncoderOptions(Options):
    """The video encoder."""

    size: Literal["tiny", "small", "base", "large", "huge"] | None = None
    """Width and depth. With start_from it is only compared with the weights; without, it is needed."""
    patch_size: Count = 16
    """Side of a token in pixels, without start_from."""
    tubelet_size: Count = 2
    """Frames of a token, without start_from."""
    positions: Literal["joint", "separable"] = "joint"
    """Position table, without start_from; as of a student."""
    num_frames: Count | None = None
    """Frames of a clip; by default those of the pretraining, 16 if unknown."""
    side: Count | None = None
    """Side of a clip's square frames in pixels; by default that of the pretraining, 224 if unknown."""
    drop_path: Share = 0.0
    """Stochastic depth: probability at the last block, rising linearly from 0."""
    checkpointing: Annotated[bool, CHANGEABLE] = False
    """Compute blocks again in the backward pass: less memory, about a third more work."""


class LabelledVideosOptions(Options):
    """Labelled videos. A source of them is a list, or a folder with one folder per class."""

    train: PathText | None = None
    """Source of the training videos."""
    validation: PathText | None = None
    """Source of the validation videos."""
    test: PathText | None = None
    """Source of the test videos."""
    root: PathText | None = None
    """Folder that paths in lists are relative to; by default the folder of each list."""
    hmdb_splits: PathText | None = None
    """Folder of HMDB51's files CLASS_test_splitN.txt, instead of train and test. Needs root."""
    split_number: Annotated[int, Field(ge=1, le=3)] = 1
    """N of these files."""
    group: str | None = None
    """Regular expression for file names. Videos with the same match (its first group, or all of it) are one
    group, for example of one person. By default every video is a group."""
    test_groups: list[str] = []
    """Groups of the training videos that are the test videos, instead of test."""
    validation_share: Share = 0.0
    """Share of the groups of the training videos that are the validation videos, instead of validation."""
    allow_missing: bool = False
    """Leave out videos of a list whose files are missing."""

    @model_validator(mode="after")
    def _check(self) -> LabelledVideosOptions:
        if self.hmdb_splits is not None and (self.train or self.test):
            raise ValueError("hmdb_splits: replaces train and test; leave these out")
        if self.hmdb_splits is not None and self.root is None:
            raise ValueError("hmdb_splits: needs root, the folder of the videos")
        if self.test_groups and (self.test or self.hmdb_splits):
            raise ValueError("test_groups: replaces test and hmdb_splits; leave these out")
        if self.validation_share and self.validation:
            raise ValueError("validation_share: replaces validation; leave one out")
        return self


class ViewCountOptions(Options):
    """Views of a test video. The probabilities of its views are averaged."""

    clips: Annotated[Count, CHANGEABLE] = 1
    """Clips, spread evenly over the video."""
    crops: Annotated[Count, CHANGEABLE] = 1
    """Crops of a clip, spread evenly along the longer side."""


class FinetuneTestOptions(ViewCountOptions):
    """The test after the last step."""

    weights: Annotated[Literal["last", "best", "average"], CHANGEABLE] = "last"
    """last: of the last step. best: with the highest validation accuracy. average: needs run.ema_decay."""


class MixingOptions(Options):
    """Mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899) and label smoothing (arXiv 1512.00567)."""

    mixup: NonNegative = 0.8
    """Parameter of Mixup's Beta distribution; 0 is without Mixup."""
    cutmix: NonNegative = 1.0
    """Parameter of CutMix's Beta distribution; 0 is without CutMix."""
    probability: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Probability that a pair of clips is mixed."""
    switch_probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of CutMix where both are on."""
    label_smoothing: Share = 0.1
    """Weight of the uniform distribution in a clip's target."""


class FinetuneOptimiserOptions(Options):
    """AdamW and its schedule. Learning rates are given for 256 clips per step and scale with their number."""

    base_lr: Positive = 1e-3
    """Peak learning rate of the head."""
    warmup_lr: NonNegative = 1e-6
    """Learning rate of step 0. It rises linearly to base_lr."""
    final_lr: NonNegative = 1e-6
    """Learning rate at the end of the cosine."""
    warmup_epochs: NonNegative = 5.0
    """Epochs of the linear rise."""
    weight_decay: NonNegative = 0.05
    """Not applied to 1-D tensors."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    """Learning rate of a block relative to the next one; 1 is the same for all."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """AdamW's decay rates of its two averages."""
    clip_norm: NonNegative = 0.0
    """Largest norm of the gradient; 0 does not clip."""


class _VideoTraining(Options):
    """Options that fine-tuning and probes have in common."""

    seed: Whole = 0
    """Of the data, all random changes and the initial weights."""
    start_from: PathText | None = None
    """Weights of the encoder: a run's folder, a weights file (also a published one), a folder of a VideoMAE
    of transformers, or the name of a shipped encoder. null is random weights."""
    encoder: EncoderOptions = EncoderOptions()
    """The encoder."""
    videos: LabelledVideosOptions = LabelledVideosOptions()
    """The labelled videos."""
    frames: FrameOptions = FrameOptions()
    """Which frames of a video make a clip."""
    augmentation: AugmentationOptions
    """Random changes of a training clip."""
    repeats: Count = 1
    """Clips of a video in an epoch (repeated augmentation). The batch holds all of them."""
    epochs: Positive
    """Passes over the training videos."""
    batch_size: Count
    """Clips per step, over all processes."""

    @model_validator(mode="after")
    def _check_encoder(self) -> _VideoTraining:
        if self.start_from is None and self.encoder.size is None:
            raise ValueError("encoder.size: is missing; needed for random weights, without start_from")
        return self


class FinetuneConfig(_VideoTraining):
    """Fine-tuning of a whole encoder on labelled videos, as published for VideoMAE (arXiv 2203.12602)."""

    optimiser: FinetuneOptimiserOptions = FinetuneOptimiserOptions()
    """Optimiser and schedule."""
    mixing: MixingOptions = MixingOptions()
    """Mixup, CutMix and label smoothing."""
    head_init_scale: Positive = 1e-3
    """Factor of the head's initial weights."""
    validate_every_epochs: Annotated[Positive, CHANGEABLE] = 1.0
    """Epochs between validations, with one centre view per video."""
    test: FinetuneTestOptions = FinetuneTestOptions()
    """The test after the last step."""
    run: RunOptions = RunOptions()
    """How the run computes and what it keeps."""

    @model_validator(mode="after")
    def _check(self) -> FinetuneConfig:
        if self.optimiser.warmup_epochs > self.epochs:
            raise ValueError(f"optimiser.warmup_epochs: {self.optimiser.warmup_epochs} is above epochs")
        if self.batch_size % (2 * self.run.accumulate) and (self.mixing.mixup or self.mixing.cutmix):
            raise ValueError(
                f"batch_size: {self.batch_size} must be a multiple of 2 x run.accumulate "
                f"{self.run.accumulate}, because pairs of clips are mixed"
            )
        has_validation = self.videos.validation is not None or self.videos.validation_share > 0
        if self.test.weights == "best" and not has_validation:
            raise ValueError("test.weights: best needs videos.validation or videos.validation_share")
        if self.test.weights == "average" and not self.run.ema_decay:
            raise ValueError("test.weights: average needs run.ema_decay")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> FinetuneConfig:
        """Read a preset by name, or a YAML file; errors as `PretrainConfig.load`."""
        return load_config(cls, name_or_path, overrides)


class HeadGridOptions(Options):
    """Heads of one kind: one for every combination of layer, learning rate and weight decay."""

    kind: Literal["linear", "linear_plain", "attentive"] = "linear"
    """linear: mean token, batch normalisation without parameters, linear layer (as published for linear
    probes). linear_plain: without the normalisation. attentive: a block in which a learned query attends to
    all tokens, with MLP and norms, and a linear layer (as V-JEPA 2, arXiv 2506.09985)."""
    layers: Annotated[list[Annotated[int, Field(ge=-1)]], Field(min_length=1)] = [-1]
    """Blocks whose tokens are read, from 0; -1 is after the last norm."""
    learning_rates: Annotated[list[Positive], Field(min_length=1)] = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    """Peak learning rates for 256 clips per step; they scale with their number."""
    weight_decays: Annotated[list[NonNegative], Field(min_length=1)] = [0.0]
    """Weight decays; not applied to 1-D tensors."""


class ProbeConfig(_VideoTraining):
    """Training of many heads on one frozen encoder, which runs once per batch for all heads.

    All heads see the same clips. Of each entry of heads, the head with the highest accuracy on the validation
    videos is tested.
    """

    heads: Annotated[list[HeadGridOptions], Field(min_length=1)] = [HeadGridOptions()]
    """The grids of heads."""
    optimiser: Literal["adamw", "sgd"] = "adamw"
    """AdamW with betas .9 and .999, or SGD with momentum .9. The learning rate falls to 0 along a cosine."""
    warmup_epochs: NonNegative = 0.0
    """Epochs in which the learning rate rises linearly from 0."""
    test: ViewCountOptions = ViewCountOptions()
    """The test after the last step."""
    run: RunOptions = RunOptions()
    """How the run computes and what it keeps. accumulate divides the pass of the encoder only."""

    @model_validator(mode="after")
    def _check(self) -> ProbeConfig:
        if self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs: {self.warmup_epochs} is above epochs {self.epochs}")
        if self.encoder.drop_path or self.run.ema_decay:
            raise ValueError("encoder.drop_path and run.ema_decay: have no effect in a probe; leave them out")
        if self.videos.validation is None and not self.videos.validation_share:
            raise ValueError(
                "videos.validation_share: is missing; a head is selected on videos held out from training"
            )
        return self

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> ProbeConfig:
        """Read a preset by name, or a YAML file; errors as `PretrainConfig.load`."""
        return load_config(cls, name_or_path, overrides)
