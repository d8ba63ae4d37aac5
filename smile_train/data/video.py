"""Read clips of videos: choose frames, and fit them to the size of a clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream
from smile_train.config import Count, FrameOptions, SamplingOptions
from smile_train.data.decoding import FileFacts, FrameIndex, decode, frame_index

UInt8 = NDArray[np.uint8]
Int = NDArray[np.int64]
Float = NDArray[np.float64]


class ViewOptions(FrameOptions):
    """The clips and crops of a video in an evaluation.

    With the defaults a clip shows neither the length nor the size nor the aspect of its video, except the
    length of a short one. ``fit`` pad and height show the aspect.
    """

    stride_frames: Count = 2
    """Distance between the frames of a window, in frames."""
    fit: Literal["crop", "pad", "height"] = "crop"
    """How a frame becomes a square. crop: resize the short side, crop the long side. pad: resize the long
    side, fill the rest with the colour of the border. height: resize the height, crop or pad the width."""
    clips: Annotated[int, Field(ge=0)] = 0
    """Clips of a video, spread evenly. 0: all windows without overlap; with segments, one clip."""
    crops: Count = 1
    """Crops of a clip, spread evenly along the longer side; 1 is the middle. More than 1 needs fit crop."""

    @model_validator(mode="after")
    def _check(self) -> ViewOptions:
        if self.crops > 1 and self.fit != "crop":
            raise ValueError(f"crops: {self.crops} crops need fit=crop, got fit={self.fit}")
        return self


class ReadOptions(ViewOptions, SamplingOptions):
    """View options, with the length and size of the clips."""

    num_frames: Count
    """Frames of a clip."""
    side: Count
    """Height and width of a clip, in pixels."""

    @classmethod
    def of(cls, view: ViewOptions, *, num_frames: int, side: int) -> ReadOptions:
        """Return the options for clips of this length and size."""
        return cls(**view.model_dump(), num_frames=num_frames, side=side)


# --- clips


def read_random_clip(path: Path, options: SamplingOptions, short_side: int, rng: RandomStream) -> UInt8:
    """Return a clip ``[T, H, W, 3]`` uint8 of random frames: a window at a random time, or random segments.

    Args:
        path: of the video.
        options: frames of the clip.
        short_side: frames with a longer short side are reduced to it; others keep their size.
        rng: draws the frames.

    Raises:
        UserError: see `read_windows`.
    """
    index = frame_index(path, past_damage=options.damaged == "decode")
    frames = _random_frames(index, options, rng)
    return next(_clips(path, index, [frames], partial(_reduce, short_side=short_side)))


def read_windows(path: Path, options: ReadOptions) -> Iterator[UInt8]:
    """Yield clips ``[T, side, side, 3]`` uint8: clip by clip, and of each clip crop by crop.

    One clip, and what overlaps it, is in memory at a time.

    Raises:
        UserError: the file cannot be decoded, is cut short or holds no image. The text lacks the file's name.
    """
    index = frame_index(path, past_damage=options.damaged == "decode")
    fit = partial(_fit, side=options.side, fit=options.fit)
    for clip in _clips(path, index, _test_frames(index, options), fit):
        yield from _crops(clip, options.side, options.crops)


def test_views(path: Path, sampling: SamplingOptions, side: int, clips: int = 1, crops: int = 1) -> UInt8:
    """Return the clips of a video for a test, ``[clips * crops, T, side, side, 3]`` uint8, crops innermost.

    Args:
        path: of the video.
        sampling: frames of a clip. Windows are spread evenly over the video; 1 is in the middle. Of
            segments, 1 clip shows the centre of each, 2 clips its beginning and its centre (as published for
            Something-Something v2), n clips n evenly spread places with the centre among them.
        side: the short side of a frame is resized to it.
        clips: of a video.
        crops: of a clip, evenly spread along the longer side; 1 is the middle.

    Raises:
        UserError: see `read_windows`.
    """
    views = ReadOptions(**sampling.model_dump(), side=side, clips=clips, crops=crops)
    return np.stack(list(read_windows(path, views)))


def is_short(facts: FileFacts, options: ReadOptions) -> bool:
    """Return whether a video is shorter than one window."""
    steps = options.num_frames - 1
    if options.stride_seconds is None:
        return facts.num_frames <= steps * options.stride_frames
    return facts.duration_seconds <= steps * options.stride_seconds


def _clips(
    path: Path, index: FrameIndex, clips: Sequence[Int], fit: Callable[[UInt8], UInt8]
) -> Iterator[UInt8]:
    """Yield clips ``[T, H, W, 3]`` of fitted frames by their frame numbers; the clips are in order."""
    kept: dict[int, UInt8] = {}
    image: UInt8 | None = None
    done = 0
    for number, frame in decode(path, index, np.unique(np.concatenate(clips)).tolist()):
        previous, image = image, fit(frame)
        if previous is not None and previous.shape != image.shape:
            raise UserError(f"changes its size at frame {number}")
        kept[number] = image
        while done < len(clips) and clips[done].max() <= number:
            yield np.stack([kept[n] for n in clips[done].tolist()])
            done += 1
            needed = set(np.concatenate(clips[done:]).tolist()) if done < len(clips) else set()
            kept = {n: image for n, image in kept.items() if n in needed}
    if image is None:
        raise UserError("holds no frames")
    # Fewer frames are decoded than stored: complete the first clip, leave out the others.
    if done == 0:
        yield np.stack([kept.get(n, image) for n in clips[0].tolist()])


# --- which frames


def _random_frames(index: FrameIndex, options: SamplingOptions, rng: RandomStream) -> Int:
    """Return the frame numbers ``[T]`` of a training clip."""
    available, t = len(index), options.num_frames
    if options.sampling == "segments":
        return _segments(available, t, rng.randoms(t))
    if options.stride_seconds is None:
        room: float = available - (t - 1) * options.stride_frames  # number of possible first frames
    else:
        room = index.duration_seconds - (t - 1) * options.stride_seconds
    numbers = _strided(index, options, start=max(room, 0) * rng.random())
    return _lengthened(numbers, options, available)[:t]


def _test_frames(index: FrameIndex, options: ReadOptions) -> list[Int]:
    """Return the frame numbers ``[T]`` of every clip of an evaluation."""
    available, t = len(index), options.num_frames
    if options.sampling == "segments":
        count = max(options.clips, 1)
        places = np.sort((np.arange(count) / count + 0.5) % 1)
        return [_segments(available, t, place) for place in places]
    numbers = _lengthened(_strided(index, options, start=0), options, available)
    room = len(numbers) - t
    if options.clips == 0:
        starts = np.arange(0, room + 1, t)
    elif options.clips == 1:
        starts = np.array([room // 2])
    else:
        starts = np.linspace(0, room, options.clips).round().astype(np.int64)
    return [numbers[start : start + t] for start in starts]


def _segments(available: int, num_frames: int, places: Float) -> Int:
    """Return the frame at a place, 0 <= place < 1, of each of ``num_frames`` equal parts of a video."""
    numbers = (np.arange(num_frames) + places) * available / num_frames
    return np.minimum(numbers.astype(np.int64), available - 1)


def _strided(index: FrameIndex, options: FrameOptions, start: float) -> Int:
    """Return all frames at the stride of a window from ``start`` on, in frames or in seconds."""
    if options.stride_seconds is None:
        return np.arange(int(start), len(index), options.stride_frames)
    # The tolerances are for the rounding of times: a frame at the end of the video, or exactly at its time.
    grid = np.arange(start, max(index.duration_seconds - 1e-9, start + 1e-9), options.stride_seconds)
    return np.searchsorted(index.times - index.times[0], grid + 1e-6, side="right") - 1


def _lengthened(numbers: Int, options: SamplingOptions, available: int) -> Int:
    """Return at least ``num_frames`` frames."""
    t = options.num_frames
    if len(numbers) >= t:
        return numbers
    if options.short == "loop":
        return numbers[np.arange(t) % len(numbers)]
    if options.short == "stretch":
        return np.linspace(0, available - 1, t).round().astype(np.int64)
    return np.pad(numbers, (0, t - len(numbers)), mode="edge")


# --- sizes


def resize(frame: UInt8, height: int, width: int) -> UInt8:
    """Resize a frame ``[H, W, 3]`` uint8: by area averaging to a smaller size, else bilinearly."""
    if frame.shape[:2] == (height, width):
        return frame
    smaller = height <= frame.shape[0] and width <= frame.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(frame, (width, height), interpolation=method), np.uint8)


def _scaled(frame: UInt8, side: int, of: int) -> UInt8:
    """Resize a frame so that ``of`` pixels become ``side`` pixels."""
    height, width = (max(round(length * side / of), 1) for length in frame.shape[:2])
    return resize(frame, height, width)


def _reduce(frame: UInt8, short_side: int) -> UInt8:
    """Reduce a frame whose short side is longer than ``short_side``."""
    height, width = frame.shape[:2]
    shortest = min(height, width)
    if shortest <= short_side:
        return frame
    # Averaging by a whole factor, then bilinear: a sixth of the time of averaging alone.
    factor = shortest // short_side
    part = resize(frame, height // factor, width // factor)
    size = round(width * short_side / shortest), round(height * short_side / shortest)
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _fit(frame: UInt8, side: int, fit: str) -> UInt8:
    """Resize a frame for `_crops`: its short side becomes ``side``, or all of it a square (pad, height)."""
    height, width = frame.shape[:2]
    if fit == "crop":
        return _scaled(frame, side, min(height, width))
    frame = _scaled(frame, side, max(height, width) if fit == "pad" else height)
    height, width = frame.shape[:2]
    if width > side:
        return frame[:, (width - side) // 2 :][:, :side]
    if (height, width) == (side, side):
        return frame
    # The mean of the two borders that touch the padding avoids an edge there.
    axis = 0 if height < side else 1
    square = np.empty((side, side, 3), np.uint8)
    square[:] = np.concatenate([frame.take(0, axis), frame.take(-1, axis)]).mean(0).round()
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = frame
    return square


def _crops(clip: UInt8, side: int, count: int) -> Iterator[UInt8]:
    """Yield ``[T, side, side, 3]``, evenly spread along the longer side."""
    height, width = clip.shape[1:3]
    room = max(height, width) - side
    for start in [room // 2] if count == 1 else np.linspace(0, room, count).round().astype(int).tolist():
        part = clip[:, start : start + side] if height > width else clip[:, :, start : start + side]
        yield np.ascontiguousarray(part)
