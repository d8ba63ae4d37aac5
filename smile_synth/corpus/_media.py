"""Media: ways to store the frames of a clip. The bytes of the files depend on the frames alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, check_name
from smile_synth.io.images import Reject
from smile_synth.io.videos import decode_video, encode_ffv1, encode_h264

UInt8 = NDArray[np.uint8]
# File name without the number of the clip -> content.
Members = dict[str, bytes]


@dataclass(frozen=True)
class Medium:
    """One way to store frames.

    Attributes:
        encode: frames ``[T, H, W, 3]`` uint8, fps, quality -> files.
        decode: files -> frames ``[T, H, W, 3]`` uint8; raises `Reject` if they are damaged.
        names: number of frames -> names of the files, in order.
        lossless: whether decoding returns the exact frames.
        even_sides: whether height and width must be even.
    """

    encode: Callable[[UInt8, float, int], Members]
    decode: Callable[[Mapping[str, bytes]], UInt8]
    names: Callable[[int], tuple[str, ...]]
    lossless: bool = True
    even_sides: bool = False


def image_bytes(frame: UInt8, suffix: str) -> bytes:
    """Encode an RGB image ``[H, W, 3]`` uint8: ``.png``, lossless ``.webp`` or ``.jpg`` of quality 95."""
    options = {
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 4],
        ".webp": [cv2.IMWRITE_WEBP_QUALITY, 101],  # above 100 means lossless
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    }[suffix]
    return cv2.imencode(suffix, frame[..., ::-1], options)[1].tobytes()


def npz_bytes(**arrays: NDArray[np.generic]) -> bytes:
    """Return arrays as the content of an .npz file, with fixed times and fast compression."""
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


def npz_arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays of the content of an .npz file.

    Raises:
        Reject: damaged.
    """
    try:
        with np.load(io.BytesIO(data)) as arrays:
            return dict(arrays)
    except Exception as error:  # damaged files make NumPy raise almost any exception
        raise Reject(f"is no .npz file that can be read: {error}") from None


def _npz_frames(data: bytes) -> UInt8:
    frames = npz_arrays(data).get("frames", np.empty(0))
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise Reject("holds no RGB frames")
    return frames


def _images(suffix: str) -> Medium:
    def names(num_frames: int) -> tuple[str, ...]:
        digits = max(3, len(str(num_frames - 1)))
        return tuple(f"{t:0{digits}d}{suffix}" for t in range(num_frames))

    def encode(frames: UInt8, fps: float, quality: int) -> Members:
        images = (image_bytes(frame, suffix) for frame in frames)
        return dict(zip(names(len(frames)), images, strict=True))

    def decode(members: Mapping[str, bytes]) -> UInt8:
        images: list[Any] = []
        for name, data in members.items():
            try:  # OpenCV returns None for most damaged files, and raises for some
                image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            except cv2.error:
                image = None
            if image is None:
                raise Reject(f"{name} is no image that can be decoded")
            images.append(image)
        if len({image.shape for image in images}) > 1:
            raise Reject("holds images of more than one size")
        return np.ascontiguousarray(np.stack(images)[..., ::-1])

    return Medium(encode, decode, names)


def _single_file(
    name: str,
    encode: Callable[[UInt8, float, int], bytes],
    decode: Callable[[bytes], UInt8],
    **flags: bool,
) -> Medium:
    return Medium(
        lambda frames, fps, quality: {name: encode(frames, fps, quality)},
        lambda members: decode(members[name]),
        lambda num_frames: (name,),
        **flags,
    )


MEDIA: dict[str, Medium] = {
    "h264": _single_file("mp4", encode_h264, decode_video, lossless=False, even_sides=True),
    "ffv1": _single_file("mkv", lambda frames, fps, quality: encode_ffv1(frames, fps), decode_video),
    "png": _images(".png"),
    "webp": _images(".webp"),
    "npz": _single_file("npz", lambda frames, fps, quality: npz_bytes(frames=frames), _npz_frames),
}


def check_medium(name: str, quality: int, size_hw: tuple[int, int]) -> None:
    """Check that a medium exists and can store frames of a size.

    Raises:
        UserError: an unknown medium, a quality outside 0..51, or an odd side where even ones are needed.
    """
    check_name("media", name, MEDIA)
    if not 0 <= quality <= 51:
        raise UserError(f"quality {quality}: H.264 has 0 (best) to 51")
    if MEDIA[name].even_sides and (size_hw[0] % 2 or size_hw[1] % 2):
        raise UserError(
            f"size {size_hw[0]}x{size_hw[1]}: media 'h264' needs even sides; the other media allow odd ones"
        )
