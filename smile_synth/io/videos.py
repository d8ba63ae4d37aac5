"""Encode and decode videos: exact, deterministic, on one thread."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from smile_synth.io.atomic import write_bytes
from smile_synth.io.images import Reject, check_size
from smile_synth.io.pixel_format import PixelFormat

UInt8 = NDArray[np.uint8]

SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".vob", ".wmv",
    ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".gif",
)  # fmt: skip
DEFAULT_CRF = 18
# Streams of one image: covers, and thumbnails of the timeline.
_STILL = Disposition.attached_pic | Disposition.timed_thumbnails
# Frames between two entries of `VideoInfo`, at least.
_MIN_ENTRY_DISTANCE = 16


# --- encode


def encode_h264(frames: UInt8, fps: float, crf: int = DEFAULT_CRF) -> bytes:
    """Encode frames ``[T, H, W, 3]`` uint8 RGB with even sides as an mp4 file.

    Args:
        frames: of the video.
        fps: frames per second.
        crf: constant rate factor of x264, 0 (best) to 51.
    """
    options = {"crf": str(crf), "preset": "veryfast", "tune": "fastdecode"}
    # With macroblock trees x264 reads uninitialised memory: equal frames sometimes give other bytes.
    options["x264-params"] = "mbtree=0"
    # Space for the index at the beginning, so that a browser can play the file while it loads.
    muxing = {"moov_size": str(2048 + 32 * len(frames))}
    return _encode(frames, fps, ("mp4", "libx264", "yuv420p"), options, muxing)


def encode_small_h264(frames: UInt8, fps: float, crf: int = 23) -> bytes:
    """Encode frames as `encode_h264` does, but smaller and slower to decode; for pages."""
    options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    return _encode(frames, fps, ("mp4", "libx264", "yuv420p"), options, {})


def encode_ffv1(frames: UInt8, fps: float) -> bytes:
    """Encode frames ``[T, H, W, 3]`` uint8 RGB without loss as a Matroska file."""
    return _encode(frames, fps, ("matroska", "ffv1", "bgr0"), {"level": "3", "slices": "4"}, {})


def write_mp4(path: Path, frames: UInt8, fps: float) -> None:
    """Write frames ``[T, H, W, 3]`` uint8 RGB as H.264; the file appears complete or not at all."""
    write_bytes(path, encode_h264(frames, fps))


def _encode(
    frames: UInt8,
    fps: float,
    format_codec_pixels: tuple[str, str, str],
    options: dict[str, str],
    muxing: dict[str, str],
) -> bytes:
    """Encode on one thread, bit-exact: the bytes do not depend on the load of the machine."""
    out = io.BytesIO()
    format, codec, pixels = format_codec_pixels
    with av.open(out, "w", format=format, options={"fflags": "+bitexact", **muxing}) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.codec_context.thread_count = 1
        stream.options = {**options, "flags": "+bitexact", "threads": "1"}
        convert = PixelFormat()
        for frame in frames:
            container.mux(stream.encode(convert.from_rgb(frame, pixels)))
        container.mux(stream.encode(None))
    return out.getvalue()


# --- decode


def decode_video(data: bytes) -> UInt8:
    """Decode the content of a video file to frames ``[T, H, W, 3]`` uint8 RGB.

    Raises:
        Reject: damaged, without frames, or frames differ in size.
    """
    convert = PixelFormat()
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
            stream = video_stream(container)
            stream.codec_context.thread_count = 1
            frames = [convert.to_rgb(frame) for frame in container.decode(stream)]
    except av.FFmpegError as error:
        raise Reject(f"cannot be decoded: {error.strerror}") from None
    if not frames:
        raise Reject("holds no frame that can be decoded")
    if len({frame.shape for frame in frames}) > 1:
        raise Reject("holds frames of more than one size")
    return np.stack(frames)


@dataclass(frozen=True)
class VideoInfo:
    """The frames of a video file.

    Attributes:
        height: of the upright frames.
        width: of the upright frames.
        num_frames: number of frames that can be decoded.
        entries: (frame number, presentation time) where decoding can start; empty: only at the beginning.
        cut_short: why the frames after ``num_frames`` cannot be decoded; empty for a complete file.
    """

    height: int
    width: int
    num_frames: int
    entries: tuple[tuple[int, int], ...]
    cut_short: str = ""


def inspect_video(file: Path) -> VideoInfo:
    """Decode a video once to find its frames. A file that is cut short has the frames before the cut.

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
                packets += is_stored(packet)
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
        if not cut_short and lacks_packets(file, container, packets):
            cut_short = f"the file ends after {number} frames"
    if number == 0:
        raise Reject("holds no frame that can be decoded")
    return VideoInfo(*size_hw, number, tuple(entries) if seekable else (), cut_short)


def read_frames(file: Path, info: VideoInfo, numbers: Sequence[int]) -> UInt8:
    """Decode frames by number to RGB ``[K, H, W, 3]`` uint8, in the order of ``numbers``.

    Decoding starts at the nearest entry before the first of these frames and ends at the last one.

    Raises:
        OSError: the file cannot be opened.
        Reject: the file has changed and lacks these frames.
    """
    first, requested, convert = min(numbers), set(numbers), PixelFormat()
    near: list[tuple[int, int]] = [entry for entry in info.entries if 0 < entry[0] <= first][-1:]
    # Start again at the beginning where a container does not seek exactly.
    starts: list[tuple[int, int | None]] = [*near, (0, None)]
    for start in starts:
        found: dict[int, UInt8] = {}
        with _open(file) as (container, stream):
            try:
                for number, frame in _frames_from(container, stream, *start):
                    if number in requested:
                        found[number] = convert.to_rgb(frame, exact=True)
                    if len(found) == len(requested):
                        break
            except av.FFmpegError:
                continue
        if len(found) == len(requested) and all(
            f.shape[:2] == (info.height, info.width) for f in found.values()
        ):
            return np.stack([found[n] for n in numbers])
    raise Reject("has changed since it was indexed")


def is_video(path: Path) -> bool:
    """Return whether a file name has a suffix of videos."""
    return path.suffix.lower() in SUFFIXES


def video_stream(container: Any) -> Any:
    """Return the first video stream of an open container that is no cover image.

    Raises:
        Reject: there is none, or no decoder for it.
    """
    found = [s for s in container.streams.video if not s.disposition & _STILL]
    if not found:
        is_cover = bool(container.streams.video)
        raise Reject("holds no video, only a cover" if is_cover else "holds no image, only sound or data")
    # Some phones store a preview as an ordinary stream of one frame.
    found.sort(key=lambda stream: (stream.codec_context is None, stream.frames == 1))
    if found[0].codec_context is None:
        raise Reject("holds no video that can be decoded")
    return found[0]


def is_stored(packet: Any) -> bool:
    """Return whether a packet is in the file; PyAV adds an empty one at the end."""
    return bool(packet.size or packet.dts is not None)


def lacks_packets(file: Path, container: Any, packets: int) -> bool:
    """Return whether a file was cut, so that fewer packets can be read than its header says.

    Args:
        file: the path.
        container: the file, opened and read to its end.
        packets: number of packets of its video that were read.
    """
    name = container.format.name
    if name == "gif":  # has no number of frames in its header
        with file.open("rb") as opened:
            opened.seek(-1, os.SEEK_END)
            return opened.read(1) != b";"
    if name == "avi":  # the header also counts repeated frames, which have no data
        return _lacks_riff_bytes(file)
    stream = video_stream(container)
    if packets >= stream.frames:
        return False
    if name.startswith("mov,"):
        # A video that was trimmed without encoding stores frames that its edit list hides.
        options = {"ignore_editlist": "1"}
        with av.open(os.path.abspath(file), metadata_errors="replace", options=options) as whole:
            packets = sum(map(is_stored, whole.demux(whole.streams[stream.index])))
    return bool(packets < stream.frames)


def _lacks_riff_bytes(file: Path) -> bool:
    """Return whether a RIFF file is shorter than the sizes in its chunks say."""
    size, end = file.stat().st_size, 0
    with file.open("rb") as opened:
        while (head := opened.read(8))[:4] == b"RIFF":
            end += 8 + int.from_bytes(head[4:], "little")
            end += end % 2
            opened.seek(end)
    return end > size + 1  # the last byte of padding may be missing


@contextmanager
def _open(file: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file for decoding on this thread; yields PyAV's container and video stream."""
    if file.stat().st_size == 0:
        raise Reject("is empty")
    try:
        # FFmpeg reads some relative paths as URLs.
        container = av.open(os.path.abspath(file), metadata_errors="replace")
    except av.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise
        raise Reject(f"is no video: {error.strerror}") from None
    with container:
        stream = video_stream(container)
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        yield container, stream


def _frames_from(container: Any, stream: Any, number: int, pts: int | None) -> Iterator[tuple[int, Any]]:
    """Yield (number, frame) from frame ``number`` on; nothing if the seek to its time ``pts`` fails."""
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
