"""Decode frames of videos by their numbers.

PyAV decodes files, or torchcodec where it is installed together with the FFmpeg libraries that it needs.
Both return the same pixels. A folder of numbered images is a video, too.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
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
from smile_synth.io.images import Reject, load_rgb, read_bytes
from smile_synth.io.pixel_format import PixelFormat
from smile_synth.io.videos import is_stored, lacks_packets, video_stream
from smile_train.data.frame_folders import frame_files

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
    """Properties of a video.

    Attributes:
        height, width: of its upright frames.
        num_frames: number of frames that it shows.
        fps: frames per second, on average.
        duration_seconds: from the first frame to the end of the last.
    """

    height: int
    width: int
    num_frames: int
    fps: float
    duration_seconds: float


def file_facts(path: Path, *, past_damage: bool = False) -> FileFacts:
    """Read the properties of a video; decodes one frame.

    Raises:
        UserError: see `frame_index` and `decode`.
    """
    index = frame_index(path, past_damage=past_damage)
    for _, frame in decode(path, index, [0]):
        height, width = frame.shape[:2]
        num_frames, duration = len(index), index.duration_seconds
        return FileFacts(height, width, num_frames, num_frames / duration, duration)
    raise UserError("holds no frames")


@dataclass(frozen=True)
class FrameIndex:
    """The frames that a video shows, in the order of their times.

    Attributes:
        times: in seconds ``[N]``.
        stamps: the same in units of the stream ``[N]``.
        entries: frames where decoding can start.
        seeks: whether the file format seeks exactly.
        files: the images of a folder.
        past_damage: whether frames that cannot be decoded repeat the frame before them.
    """

    times: Float
    stamps: Int
    entries: Int
    seeks: bool
    files: tuple[Path, ...] = ()
    past_damage: bool = False

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self.times)

    @property
    def duration_seconds(self) -> float:
        """Time from the first frame to the end of the last, which lasts as long as the median frame."""
        last = np.median(np.diff(self.times)) if len(self.times) > 1 else 1 / _DEFAULT_FPS
        return float(self.times[-1] - self.times[0] + last)


def frame_index(path: Path, *, past_damage: bool = False) -> FrameIndex:
    """Find the frames of a video without decoding: from the packets of a file, or the images in a folder.

    Args:
        path: a file, or a folder of numbered images. Images have no times; they get 25 frames per second.
        past_damage: accept a file that is cut short; see `FrameIndex`.

    Raises:
        UserError: the file cannot be opened, is cut short or holds no image. The text lacks the file's name.
    """
    if path.is_dir():
        files = frame_files(path)
        return _even_index(len(files), _DEFAULT_FPS, files, past_damage)
    with _opened(path) as (container, stream):
        stored = [p for p in _packets(container, stream, past_damage) if is_stored(p)]
        if not past_damage and lacks_packets(path, container, len(stored)):
            raise UserError(f"is cut short: {len(stored)} of {stream.frames} frames are there")
        # A video cut without encoding holds frames outside of its edit list, which are not shown.
        packets = [(p.pts, p.is_keyframe) for p in stored if p.size and not p.is_discard]
        if not packets:
            raise UserError("holds no frames")
        if len({pts for pts, _ in packets if pts is not None}) < len(packets):
            fps = float(stream.average_rate or _DEFAULT_FPS)
            return _even_index(len(packets), fps, past_damage=past_damage)
        unit = stream.time_base
        stamps = np.sort(np.array([pts for pts, _ in packets], np.int64))
        keys = np.array([pts for pts, is_key in packets if is_key], np.int64)
        entries = np.union1d([0], np.searchsorted(stamps, keys))
        seeks = container.format.name.startswith(_SEEKABLE)
        times = stamps * unit.numerator / unit.denominator
        return FrameIndex(times, stamps, entries, seeks, past_damage=past_damage)


def _even_index(
    count: int, fps: float, files: tuple[Path, ...] = (), past_damage: bool = False
) -> FrameIndex:
    """Return the index of frames without times, which are decoded in order."""
    numbers = np.arange(count)
    return FrameIndex(numbers / fps, numbers, np.zeros(1, np.int64), False, files, past_damage)


def content_digest(path: Path) -> str:
    """Return the sha256 of a video's file, or of all images of a folder.

    Raises:
        OSError: a file cannot be read.
        UserError: see `frame_files`.
    """
    whole = hashlib.sha256()
    for file in frame_files(path) if path.is_dir() else ():
        whole.update(f"{file.name} {content_digest(file)}\n".encode(errors="surrogateescape"))
    if path.is_dir():
        return whole.hexdigest()
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def decode(path: Path, index: FrameIndex, numbers: Sequence[int]) -> Frames:
    """Yield (number, upright frame ``[H, W, 3]`` uint8) for increasing frame numbers.

    Ends early if the file holds fewer frames than its packets say.

    Raises:
        UserError: the file cannot be decoded.
    """
    if index.past_damage or index.files:
        yield from _decode_images(index, numbers) if index.files else _decode_damaged(path, index, numbers)
        return
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
    with _opened(path) as (_, stream):
        decoder = _torchcodec()(os.path.abspath(path), stream_index=stream.index, dimension_order="NHWC")
        # Releases without this field do not turn frames upright.
        if len(decoder) == len(index) and hasattr(decoder.metadata, "rotation"):
            for number in numbers:
                yield number, decoder.get_frame_at(number).data.numpy()


def _decode_from_beginning(path: Path, index: FrameIndex, numbers: Sequence[int]) -> Frames:
    yield from _decode_seeking(path, replace(index, entries=index.entries[:1]), numbers)


def _decode_seeking(path: Path, index: FrameIndex, numbers: Sequence[int]) -> Frames:
    """Yield frames by PyAV."""
    convert = PixelFormat()
    with _opened(path) as (container, _):
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
    stream = video_stream(container)
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


def _decode_images(index: FrameIndex, numbers: Sequence[int]) -> Frames:
    """Yield the images of a folder; past damage, the nearest readable one before, for a damaged one."""
    for number in numbers:
        first = 0 if index.past_damage else number
        for other in range(number, first - 1, -1):
            file = index.files[other]
            try:
                image = load_rgb(read_bytes(file))
            except Reject as error:
                reason = f"frame '{file.name}': {error}"
                continue
            yield number, image
            break
        else:
            raise UserError(reason)


def _decode_damaged(path: Path, index: FrameIndex, numbers: Sequence[int]) -> Frames:
    """Yield every frame, or instead of it the last one before it that can be decoded, else the first one."""
    convert, left = PixelFormat(), deque(numbers)
    shown = None
    with _opened(path) as (container, stream):
        for number, frame in _decodable(container, stream, index):
            while left and left[0] < number:
                yield left.popleft(), convert.to_rgb(frame if shown is None else shown)
            shown = frame
            if not left:
                return
        if shown is None:
            raise UserError("holds no frame that can be decoded")
        for number in left:
            yield number, convert.to_rgb(shown)


def _decodable(container: Any, stream: Any, index: FrameIndex) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) for all frames that can be decoded, in order; numbers follow the times."""
    following, number_of = 0, {stamp: number for number, stamp in enumerate(index.stamps.tolist())}
    for packet in _packets(container, stream, past_damage=True):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        for frame in frames:
            number = max(number_of.get(frame.pts, following), following)
            yield number, frame
            following = number + 1


def _packets(container: Any, stream: Any, past_damage: bool) -> Iterator[Any]:
    """Yield the packets of a stream; past damage, those before the first that cannot be read."""
    try:
        yield from container.demux(stream)
    except av.FFmpegError:
        if not past_damage:
            raise


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file for decoding on the calling thread, and report its faults in one line.

    Yields PyAV's container and the video stream.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError("is empty")
        # FFmpeg reads some relative paths as URLs.
        with av.open(os.path.abspath(path), metadata_errors="replace") as container:
            stream = video_stream(container)
            stream.thread_type = "NONE"  # threads of the decoder hang forked processes
            yield container, stream
    except Reject as error:
        raise UserError(str(error)) from None
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
