"""Decode frames of video files by their numbers.

PyAV decodes, or torchcodec where it is installed together with the FFmpeg libraries that it needs. Both
return the same pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.io.pixel_format import PixelFormat

UInt8 = NDArray[np.uint8]
Int = NDArray[np.int64]
Float = NDArray[np.float64]
Frames = Iterator[tuple[int, UInt8]]  # frame numbers and upright frames [H, W, 3]
_DEFAULT_FPS = 25.0
_MIN_SEEK = 8  # a seek over fewer frames saves no time
# Formats that store when a frame is shown. Others, such as avi with B frames, do not seek exactly.
_SEEKABLE = ("mov,", "matroska,")


@dataclass(frozen=True)
class FileFacts:
    """Properties of a video file.

    Attributes:
        height, width: of its upright frames.
        num_frames: number of stored frames.
        fps: frames per second, on average.
        duration_seconds: from the first frame to the end of the last.
    """

    height: int
    width: int
    num_frames: int
    fps: float
    duration_seconds: float


def file_facts(path: Path) -> FileFacts:
    """Read the properties of a video; decodes one frame.

    Raises:
        UserError: see `frame_index` and `decode`.
    """
    index = frame_index(path)
    for _, frame in decode(path, index, [0]):
        height, width = frame.shape[:2]
        num_frames, duration = len(index), index.duration_seconds
        return FileFacts(height, width, num_frames, num_frames / duration, duration)
    raise UserError("holds no frames")


@dataclass(frozen=True)
class FrameIndex:
    """The frames that a file shows, in the order of their times.

    Attributes:
        times: in seconds ``[N]``.
        stamps: the same in units of the stream ``[N]``.
        entries: frames where decoding can start.
        seeks: whether the file format seeks exactly.
    """

    times: Float
    stamps: Int
    entries: Int
    seeks: bool

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.times)

    @property
    def duration_seconds(self) -> float:
        """Time from the first frame to the end of the last, which lasts as long as the median frame."""
        last = np.median(np.diff(self.times)) if len(self.times) > 1 else 1 / _DEFAULT_FPS
        return float(self.times[-1] - self.times[0] + last)


def frame_index(path: Path) -> FrameIndex:
    """Find the frames of a file from its packets, without decoding.

    Raises:
        UserError: the file cannot be opened, is cut short or holds no image. The text lacks the file's name.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        stored = [(p.pts, p.is_keyframe, p.is_discard) for p in container.demux(stream) if p.size]
        if len(stored) < stream.frames:
            raise UserError(f"is cut short: {len(stored)} of {stream.frames} frames are there")
        # A video cut without encoding holds frames before its beginning, which are not shown.
        packets = [(pts, is_key) for pts, is_key, is_discarded in stored if not is_discarded]
        if not packets:
            raise UserError("holds no frames")
        if len({pts for pts, _ in packets if pts is not None}) < len(packets):
            numbers = np.arange(len(packets))
            times = numbers / float(stream.average_rate or _DEFAULT_FPS)
            return FrameIndex(times, numbers, np.zeros(1, np.int64), seeks=False)
        unit = stream.time_base
        stamps = np.sort(np.array([pts for pts, _ in packets], np.int64))
        keys = np.array([pts for pts, is_key in packets if is_key], np.int64)
        entries = np.union1d([0], np.searchsorted(stamps, keys))
        seeks = container.format.name.startswith(_SEEKABLE)
        return FrameIndex(stamps * unit.numerator / unit.denominator, stamps, entries, seeks)


def decode(path: Path, index: FrameIndex, numbers: Sequence[int]) -> Frames:
    """Yield (number, upright frame ``[H, W, 3]`` uint8) for increasing frame numbers.

    Ends early if the file holds fewer frames than its packets say.

    Raises:
        UserError: the file cannot be decoded.
    """
    left = list(numbers)
    readers = [_decode_from_beginning]
    if index.seeks:
        readers = [_decode_seeking, *readers]
        if _torchcodec() is not None:
            readers = [_decode_torchcodec, *readers]
    for reader in readers:
        try:
            for number, frame in reader(path, index, tuple(left)):
                yield number, frame
                left.remove(number)
        except UserError:
            if reader is readers[-1]:
                raise
        if not left:
            return


def _decode_torchcodec(path: Path, index: FrameIndex, numbers: Sequence[int]) -> Frames:
    """Yield frames by torchcodec; none if it counts other frames than PyAV."""
    with _opened(path) as container:
        stream = container.streams.video[0].index
        decoder = _torchcodec()(os.path.abspath(path), stream_index=stream, dimension_order="NHWC")
        # Releases without this field do not turn frames upright.
        if len(decoder) == len(index) and hasattr(decoder.metadata, "rotation"):
            for number in numbers:
                yield number, decoder.get_frame_at(number).data.numpy()


def _decode_from_beginning(path: Path, index: FrameIndex, numbers: Sequence[int]) -> Frames:
    yield from _decode_seeking(path, replace(index, entries=index.entries[:1]), numbers)


def _decode_seeking(path: Path, index: FrameIndex, numbers: Sequence[int]) -> Frames:
    """Yield frames by PyAV."""
    convert = PixelFormat()
    with _opened(path) as container:
        for number, frame in _frames_at(container, index, numbers):
            yield number, convert.to_rgb(frame)


def _frames_at(container: Any, index: FrameIndex, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Yield frames by increasing number, seeking where that saves time; ends if a frame is not found."""
    frames, following = _numbered(container, index, 0), 0
    for number in numbers:
        entry = int(index.entries[np.searchsorted(index.entries, number, side="right") - 1])
        if entry >= following + _MIN_SEEK:
            frames = _numbered(container, index, entry)
        found = next((frame for n, frame in frames if n == number), None)
        if found is None:
            return
        yield number, found
        following = number + 1


def _numbered(container: Any, index: FrameIndex, entry: int) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) from an entry on; nothing if the seek does not reach it exactly."""
    stream = container.streams.video[0]
    if entry:
        container.seek(int(index.stamps[entry]), stream=stream)
    number = entry
    for frame in container.decode(stream):
        if entry and number == entry:
            if frame.pts is None or frame.pts > index.stamps[entry] or frame.is_corrupt:
                return
            if frame.pts < index.stamps[entry]:
                continue
        yield number, frame
        number += 1


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file for decoding on the calling thread, and report its faults in one line."""
    try:
        if path.stat().st_size == 0:
            raise UserError("is empty")
        # FFmpeg reads some relative paths as URLs.
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise UserError("holds no image, only sound or data")
            container.streams.video[0].thread_type = "NONE"  # threads of the decoder hang forked processes
            yield container
    except (OSError, ValueError, RuntimeError, IndexError, av.error.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"cannot be decoded: {reason.splitlines()[0]}") from None


@cache
def _torchcodec() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video")
    except (ImportError, OSError):
        return None
    except (RuntimeError, ValueError) as error:  # either FFmpeg is missing, or it refuses these bytes
        return None if "libtorchcodec" in str(error) else VideoDecoder
    return VideoDecoder
