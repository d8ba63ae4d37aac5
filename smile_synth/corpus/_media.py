"""Media kinds: frames become files whose bytes depend on the frames alone, and frames again."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.atomic import write_bytes
from smile_synth.io.pixel_format import PixelFormat

UInt8 = NDArray[np.uint8]
# File name without its clip's number -> content.
Members = dict[str, bytes]


@dataclass(frozen=True)
class Medium:
    """One way to keep frames.

    Attributes:
        encode: frames ``[T, H, W, 3]`` uint8, fps, quality -> files.
        decode: files -> frames ``[T, H, W, 3]`` uint8.
        names: number of frames -> the names of the files, in order.
        lossless: whether decoding gives back every value.
        even: whether both sides must be even.
    """

    encode: Callable[[UInt8, float, int], Members]
    decode: Callable[[Mapping[str, bytes]], UInt8]
    names: Callable[[int], tuple[str, ...]]
    lossless: bool = True
    even: bool = False


def _container(
    frames: UInt8, fps: float, format: str, codec: str, pixels: str, options: dict[str, str]
) -> bytes:
    """Encode in one thread and mux bit-exactly: bytes do not depend on how busy the machine is."""
    out = io.BytesIO()
    height, width = frames.shape[1:3]
    muxing = {"fflags": "+bitexact"}
    if format == "mp4":
        # Room for the index in front, so that a browser can play while it loads.
        muxing["moov_size"] = str(2048 + 32 * len(frames))
    with av.open(out, "w", format=format, options=muxing) as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.thread_count = 1
        stream.options = {**options, "flags": "+bitexact", "threads": "1"}
        convert = PixelFormat()
        for frame in frames:
            container.mux(stream.encode(convert.from_rgb(frame, pixels)))
        container.mux(stream.encode(None))
    return out.getvalue()


def _h264(frames: UInt8, fps: float, quality: int) -> bytes:
    options = {"crf": str(quality), "preset": "veryfast", "tune": "fastdecode"}
    # With macroblock trees x264 reads memory that it never wrote: the same frames, now and then other bytes.
    options["x264-params"] = "mbtree=0"
    return _container(frames, fps, "mp4", "libx264", "yuv420p", options)


def _ffv1(frames: UInt8, fps: float, quality: int) -> bytes:
    return _container(frames, fps, "matroska", "ffv1", "bgr0", {"level": "3", "slices": "4"})


def decode_video(data: bytes) -> UInt8:
    """Decode a video file's content to frames ``[T, H, W, 3]`` uint8 RGB."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        convert = PixelFormat()
        return np.stack([convert.to_rgb(frame) for frame in container.decode(stream)])


def image_bytes(frame: UInt8, suffix: str) -> bytes:
    """Encode an RGB image ``[H, W, 3]`` uint8: ``.png``, ``.webp`` without loss, ``.jpg`` of quality 95."""
    options = {
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 4],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 is lossless
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    }[suffix]
    return cv2.imencode(suffix, frame[..., ::-1], options)[1].tobytes()


def npz_bytes(**arrays: NDArray[np.generic]) -> bytes:
    """Return arrays as the content of an .npz file; its times are fixed, it is packed fast, not tight."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in arrays.items():
            content = _npy_header(array.dtype, array.shape) + array.tobytes()
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content, zipfile.ZIP_DEFLATED, 1)
    return out.getvalue()


@lru_cache(maxsize=64)
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _images(suffix: str) -> Medium:
    def names(num_frames: int) -> tuple[str, ...]:
        digits = max(3, len(str(num_frames - 1)))
        return tuple(f"{t:0{digits}d}{suffix}" for t in range(num_frames))

    def encode(frames: UInt8, fps: float, quality: int) -> Members:
        images = (image_bytes(frame, suffix) for frame in frames)
        return dict(zip(names(len(frames)), images, strict=True))

    def decode(members: Mapping[str, bytes]) -> UInt8:
        read: list[Any] = [
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in members.values()
        ]
        return np.ascontiguousarray(np.stack(read)[..., ::-1])

    return Medium(encode, decode, names)


def _single(
    name: str, encode: Callable[[UInt8, float, int], bytes], decode: Callable[[bytes], UInt8], **more: bool
) -> Medium:
    return Medium(
        lambda frames, fps, quality: {name: encode(frames, fps, quality)},
        lambda members: decode(members[name]),
        lambda num_frames: (name,),
        **more,
    )


def npz_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file's content."""
    with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)


def _read_npz(data: bytes) -> UInt8:
    return np.asarray(npz_arrays(data)["frames"])


MEDIA: dict[str, Medium] = {
    "h264": _single("mp4", _h264, decode_video, lossless=False, even=True),
    "ffv1": _single("mkv", _ffv1, decode_video),
    "png": _images(".png"),
    "webp": _images(".webp"),
    "npz": _single("npz", lambda frames, fps, quality: npz_bytes(frames=frames), _read_npz),
}
DEFAULT_QUALITY = 18


def check_medium(name: str, quality: int, size_hw: tuple[int, int]) -> None:
    """Refuse what cannot be encoded.

    Raises:
        UserError: an unknown medium, a quality that H.264 lacks, or an odd side where it needs even ones.
    """
    if name not in MEDIA:
        raise UserError(f"media '{name}': allowed are {', '.join(MEDIA)}{nearest(name, MEDIA)}")
    if not 0 <= quality <= 51:
        raise UserError(f"quality {quality}: H.264 takes 0 (best) to 51")
    if MEDIA[name].even and (size_hw[0] % 2 or size_hw[1] % 2):
        raise UserError(
            f"size {size_hw[0]}x{size_hw[1]}: an mp4 (yuv420p) needs even sides; other media do not"
        )


def write_mp4(path: Path, frames: UInt8, fps: float, *, crf: int = DEFAULT_QUALITY) -> None:
    """Write frames ``[T, H, W, 3]`` uint8 as H.264; the file appears whole or not at all."""
    write_bytes(path, _h264(frames, fps, crf))
