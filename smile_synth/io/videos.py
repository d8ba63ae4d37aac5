"""Read frames of natural video by number: exact, deterministic, one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from smile_synth.io.images import Reject, check_size
from smile_synth.io.pixel_format import PixelFormat

UInt8 = NDArray[np.uint8]

SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".gif")
_MIN_ENTRY_DISTANCE = 16


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is used.

    Attributes:
        height, width: of its upright frames.
        num_frames: frames that can be decoded.
        entries: (frame number, presentation time) where decoding can start; empty: at the beginning only.
        cut_short: why frames beyond ``num_frames`` cannot be decoded; empty for a whole file.
    """

    height: int
    width: int
    num_frames: int
    entries: tuple[tuple[int, int], ...]
    cut_short: str = ""


def inspect_video(file: Path) -> VideoInfo:
    """Decode a video once, to know which frames it has. A file cut in the middle counts up to the cut.

    Raises:
        OSError: the file cannot be opened.
        Reject: no frame can be decoded, it is too large, or frames differ in size.
    """
    size_hw, number, packets, seekable, cut_short = (0, 0), 0, 0, True, ""
    entries: list[tuple[int, int]] = []
    last_pts: int | None = None
    with _open(file) as (container, stream):
        try:
            for packet in container.demux(stream):
                packets += packet.size > 0
                for frame in packet.decode():
                    if number and _upright_hw(frame) != size_hw:
                        raise Reject(f"changes its size at frame {number}")
                    size_hw = _upright_hw(frame)
                    check_size(*size_hw)
                    seekable &= frame.pts is not None and (last_pts is None or frame.pts > last_pts)
                    if frame.key_frame and (not entries or number - entries[-1][0] >= _MIN_ENTRY_DISTANCE):
                        entries.append((number, frame.pts))
                    last_pts = frame.pts
                    number += 1
        except av.FFmpegError as error:
            cut_short = f"{error.strerror} after {number} frames"
        if not cut_short and (packets < stream.frames or _lacks_gif_trailer(file)):
            cut_short = f"the file ends after {number} frames"
    if number == 0:
        raise Reject("holds no frame that can be decoded")
    return VideoInfo(*size_hw, number, tuple(entries) if seekable else (), cut_short)


def read_frames(file: Path, info: VideoInfo, numbers: Sequence[int]) -> UInt8:
    """Decode frames by number to RGB ``[K, H, W, 3]``, in the order asked for.

    Decoding starts at the last key frame that leads to the first of them and ends with the last of them.

    Raises:
        OSError: the file cannot be opened.
        Reject: the file does not hold these frames any more.
    """
    first, wanted, convert = min(numbers), set(numbers), PixelFormat()
    near: list[tuple[int, int]] = [entry for entry in info.entries if 0 < entry[0] <= first][-1:]
    starts: list[tuple[int, int | None]] = [*near, (0, None)]
    for start in starts:  # from the beginning where a container does not seek exactly
        found: dict[int, UInt8] = {}
        with _open(file) as (container, stream):
            try:
                for number, frame in _frames_from(container, stream, *start):
                    if number in wanted:
                        found[number] = convert.to_rgb(frame, exact=True)
                    if len(found) == len(wanted):
                        break
            except av.FFmpegError:
                continue
        if len(found) == len(wanted) and all(
            f.shape[:2] == (info.height, info.width) for f in found.values()
        ):
            return np.stack([found[n] for n in numbers])
    raise Reject("has changed since it was indexed")


def _lacks_gif_trailer(file: Path) -> bool:
    """Return whether a gif ends early; its header does not tell the number of frames."""
    with file.open("rb") as opened:
        is_gif = opened.read(4) == b"GIF8"
        opened.seek(-1, os.SEEK_END)
        return is_gif and opened.read(1) != b";"


@contextmanager
def _open(file: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file for decoding on the calling thread; yields PyAV's container and video stream."""
    if file.stat().st_size == 0:
        raise Reject("is empty")
    try:
        # An absolute path is never taken for an address.
        container = av.open(os.path.abspath(file), metadata_errors="replace")
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise
        raise Reject(f"is no video: {error.strerror}") from None
    with container:
        if not container.streams.video or container.streams.video[0].codec_context is None:
            raise Reject("holds no video that can be decoded")
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield container, stream


def _frames_from(container: Any, stream: Any, number: int, pts: int | None) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) from frame ``number`` on; nothing if a seek to its time does not lead there."""
    if pts is not None:
        container.seek(pts, stream=stream)
    for frame in container.decode(stream):
        if pts is not None:
            if frame.pts is None or frame.pts > pts or frame.is_corrupt:
                return
            if frame.pts < pts:
                continue
            pts = None
        yield number, frame
        number += 1


def _upright_hw(frame: Any) -> tuple[int, int]:
    return (frame.width, frame.height) if frame.rotation % 180 else (frame.height, frame.width)
