"""Options of natural videos as training data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from smile_synth.io.config_types import PositiveRange, ShareRange
from smile_train.config._shared import Count, Options, PathText, Positive

_RAND_AUGMENT = r"^(rand(-(m|n|p|mstd|mmax|inc)[0-9.]+)*)?$"


class FrameOptions(Options):
    """Which frames of a video make a clip."""

    sampling: Literal["window", "segments"] = "window"
    """window: frames at a fixed distance from a random start. segments: one frame in each of num_frames equal
    parts of the video, random in training and central in a test, as for Something-Something v2."""
    stride_frames: Count = 4
    """Distance between the frames of a window."""
    stride_seconds: Positive | None = None
    """Distance in seconds, instead of stride_frames. A time selects the frame that is on screen then."""
    short: Literal["repeat", "loop", "stretch"] = "repeat"
    """If a video is shorter than a window: repeat its last frame, loop it, or spread num_frames over it."""
    damaged: Literal["refuse", "decode"] = "refuse"
    """What happens to damaged and incomplete videos. refuse: they are not used. decode: a frame that cannot
    be decoded is replaced by the one before it."""


class SamplingOptions(FrameOptions):
    """Which frames of a video make a clip, and their number."""

    num_frames: Count = 16
    """Frames of a clip."""


class CropOptions(Options):
    """Which part of the frames a clip has."""

    kind: Literal["multi_scale", "random_resized", "center"] = "multi_scale"
    """multi_scale: the published crop of pretraining. random_resized: of fine-tuning. center: no random."""
    area: ShareRange = (0.08, 1.0)
    """Share of the frame's area that random_resized keeps."""
    aspect: PositiveRange = (0.75, 4 / 3)
    """Aspect of the part that random_resized cuts."""
    short_side: Count | None = None
    """Larger frames are first reduced to this short side; by default 10/7 of the clip's side, 320 at 224."""


class AugmentationOptions(Options):
    """Random changes of a clip, the same for all its frames."""

    crop: CropOptions = CropOptions()
    """The crop."""
    flip: bool = False
    """Mirror half of the clips. Use false where left and right have a meaning."""
    rand_augment: Annotated[str, Field(pattern=_RAND_AUGMENT)] = ""
    """RandAugment in timm's notation, for example rand-m7-n4-mstd0.5-inc1; empty is none."""
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability of random erasing: a box of all frames becomes noise."""


class VideoOptions(Options):
    """Natural videos."""

    path: PathText | None = None
    """A folder or a list of videos; by default the run's backgrounds. Labels are ignored in pretraining."""
    root: PathText | None = None
    """Folder that paths in the list are relative to; by default the list's own."""
    side: Count = 224
    """Side of a clip's square frames in pixels."""
    sampling: SamplingOptions = SamplingOptions()
    """Which frames."""
    augmentation: AugmentationOptions = AugmentationOptions()
    """Random changes."""
