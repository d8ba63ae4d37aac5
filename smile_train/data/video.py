"""Read clips of real videos: frames by number or time, fitted to a square, in windows.

PyAV decodes, or torchcodec where it is installed with the FFmpeg that it needs: the same pixels, and a few
clips of a long video sooner, since it decodes from the nearest key frame on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from smile_synth.core.errors import UserError
from smile_synth.io.pixel_format import PixelFormat
from smile_synth.io.strict_yaml import StrictModel
from smile_train.config import Count, Positive, Whole

UInt8 = NDArray[np.uint8]
_DEFAULT_FPS = 25.0


class ViewOptions(StrictModel):
    """How a video becomes clips; by default nothing of its length, size or aspect is left in them.

    What a video shorter than a clip is filled up with tells its length, and the bars of pad and height tell
    its aspect.

    Attributes:
        stride_frames: every how many frames one is taken.
        stride_seconds: instead, the time between two frames, each the one shown at its time.
        fit: crop, the shorter side becomes ``side`` and the middle is kept; pad, the longer side does and the
            rest takes the border's colour; height, the height does, wide frames are cropped, narrow ones
            padded.
        short: of a video shorter than a clip, repeat its last frame, loop it, or stretch it (frames at even
            distances, repeated).
        clips: evenly spread over the video; 0 takes window after window without overlap, an unfinished last
            one left out.
        crops: 1 takes the middle, 3 also both ends of the longer side (fit crop only).
    """

    stride_frames: Count = 2
    stride_seconds: Positive | None = None
    fit: Literal["crop", "pad", "height"] = "crop"
    short: Literal["repeat", "loop", "stretch"] = "repeat"
    clips: Whole = 0
    crops: Literal[1, 3] = 1

    @model_validator(mode="after")
    def _check(self) -> ViewOptions:
        if self.crops > 1 and self.fit != "crop":
            raise ValueError(f"crops: {self.crops} are those of fit=crop, got fit={self.fit}")
        return self


class ReadOptions(ViewOptions):
    """View options, and the clips that an encoder reads.

    Attributes:
        num_frames: of a clip.
        side: of its square frames in pixels.
    """

    num_frames: Count
    side: Count

    @classmethod
    def of(cls, view: ViewOptions, *, num_frames: int, side: int) -> ReadOptions:
        """Return the options for clips of this length and size."""
        return cls(**view.model_dump(), num_frames=num_frames, side=side)


@dataclass(frozen=True)
class FileFacts:
    """What can be told of a video without looking at an image.

    Attributes:
        height, width: of its upright frames.
        num_frames: that are stored.
        fps: frames per second, on average.
        duration_seconds: from the first frame to the end of the last.
    """

    height: int
    width: int
    num_frames: int
    fps: float
    duration_seconds: float


def read_clip_at(path: Path, options: ReadOptions, place: float) -> UInt8:
    """Return the one clip that starts at ``place`` (0 the first, 1 the last possible start) of a video.

    Raises:
        UserError: as `read_windows`.
    """
    return next(_windows(path, options, place))


def read_windows(path: Path, options: ReadOptions) -> Iterator[UInt8]:
    """Yield clips ``[T, side, side, 3]`` uint8: window by window, of each window crop by crop.

    One window and what overlaps it is in memory at a time.

    Raises:
        UserError: the file cannot be decoded, is cut short or holds no image.
    """
    for window in _windows(path, options):
        if options.fit == "crop" and options.crops > 1:
            yield from _ends(window, options.side)
        else:
            yield window


def _windows(path: Path, options: ReadOptions, place: float | None = None) -> Iterator[UInt8]:
    times = _times(path)
    plans = _plan(times, options, place)
    kept: dict[int, UInt8] = {}
    last: UInt8 | None = None
    done = 0
    for number, frame in _frames(path, sorted({n for plan in plans for n in plan}), len(times)):
        last = kept[number] = fit_square(frame, options.side, options.fit, options.crops > 1)
        while done < len(plans) and max(plans[done]) <= number:
            yield np.stack([kept[n] for n in plans[done]])
            done += 1
            alive = {n for plan in plans[done:] for n in plan}
            kept = {n: image for n, image in kept.items() if n in alive}
    if last is None:
        raise UserError("holds no frames")
    # Fewer frames come out than are stored: the first window is completed, others are left out.
    if done == 0:
        yield np.stack([kept.get(n, last) for n in plans[0]])


def _frames(path: Path, numbers: list[int], available: int) -> Iterator[tuple[int, UInt8]]:
    """Yield frames ``[H, W, 3]``, upright, and their numbers, which are given in order."""
    with _opened(path) as container:
        decoder = _seeking_decoder(path, container.streams.video[0].index, available)
        if decoder is not None:
            for number in numbers:
                yield number, decoder.get_frame_at(number).data.numpy()
            return
        wanted = iter(numbers)
        following, convert = next(wanted), PixelFormat()
        for number, frame in enumerate(_decoded(container)):
            if number == following:
                yield number, convert.to_rgb(frame)
                following = next(wanted, -1)
                if following < 0:
                    return


def _seeking_decoder(path: Path, stream: int, available: int) -> Any:
    """Return torchcodec's decoder of a file, or None where there is none that counts the same frames."""
    decoder_class = _torchcodec()
    if decoder_class is None:
        return None
    try:
        decoder = decoder_class(os.path.abspath(path), stream_index=stream, dimension_order="NHWC")
    except (RuntimeError, ValueError):  # PyAV reads it, or says why not
        return None
    # its releases that do not turn videos upright do not tell that they are turned
    same = len(decoder) == available and hasattr(decoder.metadata, "rotation")
    return decoder if same else None


@cache
def _torchcodec() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")
    except (ImportError, OSError):
        return None
    except (RuntimeError, ValueError) as error:  # FFmpeg is not there, or it is and says what it was given
        return None if "libtorchcodec" in str(error) else VideoDecoder
    return VideoDecoder


def file_facts(path: Path) -> FileFacts:
    """Read what a video's packets and header say.

    Raises:
        UserError: the file cannot be opened or holds no image.
    """
    times = _times(path)
    with _opened(path) as container:
        stream = container.streams.video[0]
        step = float(np.median(np.diff(times))) if len(times) > 1 else 1 / _DEFAULT_FPS
        duration = float(times[-1] - times[0] + step)
        frame = next(iter(_decoded(container)), None)
        if frame is None:
            raise UserError("holds no frames")
        height, width = (stream.height, stream.width)
        if frame.rotation % 180:
            height, width = width, height
        return FileFacts(height, width, len(times), len(times) / duration, duration)


def is_short(facts: FileFacts, options: ReadOptions) -> bool:
    """Return whether a video is shorter than one clip."""
    steps = options.num_frames - 1
    if options.stride_seconds is None:
        return facts.num_frames <= steps * options.stride_frames
    return facts.duration_seconds <= steps * options.stride_seconds


class _opened:
    """A file opened for decoding on the calling thread; its faults become one line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container: Any = None

    def __enter__(self) -> Any:
        try:
            if self._path.stat().st_size == 0:
                raise UserError("is empty")
            # An absolute path is never taken for an address.
            self._container = av.open(os.path.abspath(self._path), metadata_errors="replace")
        except (OSError, ValueError, av.error.FFmpegError) as error:
            raise UserError(f"cannot be decoded: {_reason(error)}") from None
        if not self._container.streams.video:
            self._container.close()
            raise UserError("holds no image, only sound or data")
        stream = self._container.streams.video[0]
        stream.thread_type = "NONE"  # frame threads hang forked readers
        return self._container

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._container.close()
        if isinstance(error, (OSError, ValueError, RuntimeError, IndexError, av.error.FFmpegError)):
            raise UserError(f"cannot be decoded: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    told = getattr(error, "strerror", None) or str(error)
    return (told.splitlines() or [type(error).__name__])[0]


def _times(path: Path) -> NDArray[np.float64]:
    """Return when each stored frame is shown, in seconds; nothing is decoded."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        stamps = {float(p.pts * p.time_base) for p in packets if p.pts is not None}
        if len(packets) < stream.frames:
            raise UserError(f"is cut short: {len(packets)} of {stream.frames} frames are there")
        if not packets:
            raise UserError("holds no frames")
        if len(stamps) != len(packets):
            return np.arange(len(packets)) / float(stream.average_rate or _DEFAULT_FPS)
        return np.sort(np.array(list(stamps)))


def _decoded(container: Any) -> Iterator[Any]:
    yield from container.decode(container.streams.video[0])


def _plan(times: NDArray[np.float64], options: ReadOptions, place: float | None) -> list[list[int]]:
    """Return the frame numbers of every window."""
    available = len(times)
    if options.stride_seconds is None:
        numbers = np.arange(0, available, options.stride_frames)
    else:
        step = float(np.median(np.diff(times))) if available > 1 else 1 / _DEFAULT_FPS
        grid = np.arange(0.0, times[-1] - times[0] + step - 1e-9, options.stride_seconds)
        # the frame shown at a time is the last one that began by then
        numbers = np.searchsorted(times - times[0], grid + 1e-6, side="right") - 1
    t = options.num_frames
    if len(numbers) < t:
        if options.short == "loop":
            numbers = numbers[np.arange(t) % len(numbers)]
        elif options.short == "stretch":
            numbers = np.linspace(0, available - 1, t).round().astype(np.int64)
        else:
            numbers = np.concatenate([numbers, np.repeat(numbers[-1:], t - len(numbers))])
    room = len(numbers) - t
    if place is not None:
        starts = np.array([round(place * room)])
    elif options.clips == 0:
        starts = np.arange(0, room + 1, t)
    elif options.clips == 1:
        starts = np.array([room // 2])
    else:
        starts = np.linspace(0, room, options.clips).round().astype(np.int64)
    return [[int(n) for n in numbers[start : start + t]] for start in starts]


def fit_square(frame: UInt8, side: int, fit: str = "crop", keep_ends: bool = False) -> UInt8:
    """Resize a frame ``[H, W, 3]`` by area averaging, then crop or pad it to ``[side, side, 3]``.

    Args:
        frame: upright.
        side: in pixels.
        fit: see `ReadOptions`.
        keep_ends: with crop, leave the longer side uncropped.
    """
    height, width = frame.shape[:2]
    fixed = {"crop": min(height, width), "pad": max(height, width), "height": height}[fit]
    scale = side / fixed
    new_h, new_w = max(round(height * scale), 1), max(round(width * scale), 1)
    if fit == "crop":
        new_h, new_w = max(new_h, side), max(new_w, side)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(frame, (new_w, new_h), interpolation=interpolation))
    if keep_ends and fit == "crop":
        return resized.astype(np.uint8)
    y, x = max((new_h - side) // 2, 0), max((new_w - side) // 2, 0)
    inner: UInt8 = resized[y : y + side, x : x + side].astype(np.uint8)
    if inner.shape[:2] == (side, side):
        return inner
    # the mean of the two borders that touch the padding: no line where the image ends
    axis = 0 if inner.shape[0] < side else 1
    border = np.concatenate([inner.take(0, axis), inner.take(-1, axis)])
    square = np.empty((side, side, 3), np.uint8)
    square[:] = border.mean(0).round().astype(np.uint8)
    top, left = (side - inner.shape[0]) // 2, (side - inner.shape[1]) // 2
    square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return square


def _ends(window: UInt8, side: int) -> list[UInt8]:
    """Return the middle and both ends of the longer side."""
    height, width = window.shape[1:3]
    y, x = height - side, width - side
    places = [(y // 2, x // 2), (0, 0), (y, x)]
    return [np.ascontiguousarray(window[:, top : top + side, left : left + side]) for top, left in places]
