"""Decode image files: upright, 8 bits per channel, every problem in one line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

UInt8 = NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 90_000_000  # protects from decompression bombs
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
TIFF_SIGNATURES = (b"II*\0", b"MM\0*")
ORIENTATION = 0x0112  # EXIF's tag
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Reject(Exception):
    """Why a file, or something in it, cannot be used: the kind of problem, optionally ``: `` and details."""


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        Reject: missing, empty or unreadable.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise Reject("missing file") from None
    except OSError as error:
        raise Reject(f"unreadable file: {error.strerror}") from None
    if not data:
        raise Reject("empty file")
    return data


def check_size(height: int, width: int) -> None:
    """Refuse images and frames that need too much memory.

    Raises:
        Reject: more than `MAX_PIXELS`.
    """
    if height * width > MAX_PIXELS:
        limit = f"the limit is {MAX_PIXELS // 10**6} million"
        raise Reject(f"image too large: {width}x{height} pixels, {limit}")


@contextmanager
def open_image(data: bytes) -> Iterator[Image.Image]:
    """Open an image file's content with Pillow; an exception inside the block becomes `Reject`.

    Pillow warns of odd metadata. Callers that use several threads silence warnings for all of them at once.

    Raises:
        Reject: no image, damaged, or too large.
    """
    try:
        with _opened(data) as image:
            check_size(image.height, image.width)
            yield image
    except Reject:
        raise
    except UnidentifiedImageError:
        raise Reject("not an image") from None
    except Image.DecompressionBombError:
        raise Reject(f"image too large: more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception as error:  # damaged files make Pillow raise almost any exception
        raise Reject(f"damaged image: {error}") from None


def _opened(data: bytes) -> Image.Image:
    """Open an image and read its pixels; a PNG file whose metadata Pillow refuses is read without them."""
    try:
        image = Image.open(io.BytesIO(data))
        check_size(image.height, image.width)
        image.load()
    except Exception:  # damaged files make Pillow raise almost any exception; others are raised again below
        pixels_only = _without_metadata(data)
        deep = _deep_colour(data) if data[:4] in TIFF_SIGNATURES else None
        if pixels_only is not None:
            return Image.open(io.BytesIO(pixels_only))
        if deep is not None:
            return deep
        raise
    bits = data[24] if image.format == "PNG" else max(getattr(image, "tag_v2", {}).get(258, (8,)))
    deep = (
        _deep_colour(data) if bits > 8 and image.mode == "RGB" and "transparency" not in image.info else None
    )
    if deep is not None:
        deep.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
    return deep or image


def _deep_colour(data: bytes) -> Image.Image | None:
    """Decode a colour image of more than 8 bits, of which Pillow keeps the high bytes only or nothing.

    None: OpenCV cannot decode it either, or it is no colour image. ``info["scaled"]`` is as in `Decoded`.
    """
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # OpenCV returns None for most files that it cannot decode, and raises for some
        return None
    if bgr is None or bgr.ndim != 3 or bgr.shape[2] < 3:
        return None
    values, scaled = _to_8_bits(bgr[..., 2::-1])
    image = Image.fromarray(values)
    image.info["scaled"] = scaled
    return image


def _without_metadata(data: bytes) -> bytes | None:
    """Return a PNG file without text, colour profiles and other chunks that pixels do not need.

    Pillow refuses whole files because of large or damaged ones. None: no PNG file, or no such chunks.
    """
    kept, position = [data[:8]], 8
    if data[:8] != PNG_SIGNATURE:
        return None
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in PIXEL_CHUNKS:
            kept.append(data[position:end])
        position = end
    result = b"".join(kept)
    return result if len(result) < len(data) else None


def _upright(image: Image.Image) -> Image.Image:
    """Apply EXIF orientation; metadata that cannot be read counts as upright."""
    try:
        method = TRANSPOSITIONS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises almost any exception for damaged metadata
        method = None
    return image if method is None else image.transpose(method)


def load_rgba(data: bytes) -> UInt8:
    """Decode an image file to straight RGBA ``[H, W, 4]`` uint8, upright.

    EXIF orientation is applied. 16-bit colour keeps its high byte, which is exact for widened 8-bit colour.

    Raises:
        Reject: as `open_image`, animated, or without alpha.
    """
    with open_image(data) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise Reject("animated image")
        if not image.has_transparency_data:
            raise Reject(f"no alpha channel: mode {image.mode}")
        if image.mode.startswith(("I", "F")):
            raise Reject(f"no alpha channel: a transparent colour in mode {image.mode} is not supported")
        return np.asarray(_upright(image).convert("RGBA"))


class Decoded(NamedTuple):
    """RGB ``[H, W, 3]`` uint8, and how values of more than 8 bits were scaled; "" for 8 and full 16 bits."""

    rgb: UInt8
    scaled: str


def load_rgb(data: bytes, size_hw: tuple[int, int] | None = None) -> UInt8:
    """Decode an image file to RGB ``[H, W, 3]`` uint8; see `decode_rgb`.

    Raises:
        Reject: as `decode_rgb`.
    """
    return decode_rgb(data, size_hw).rgb


def decode_rgb(data: bytes, size_hw: tuple[int, int] | None = None) -> Decoded:
    """Decode an image file to RGB.

    Alpha is ignored, CMYK is converted, of an animation the first frame is used. EXIF orientation is
    applied, except where only the stored image has the expected size: some annotations are made on the
    stored image. Whole numbers of more than 8 bits keep the upper 8 of the bits in use (8, 10, 12, 14, 16
    or more); floats are 0..1, 0..255, or else are scaled from their least to their largest value.

    Args:
        data: the file's content.
        size_hw: the expected size; None: any.

    Raises:
        Reject: as `open_image`, or of another size.
    """
    with open_image(data) as image:
        upright = _upright(image)
        chosen = image if size_hw == image.size[::-1] and size_hw != upright.size[::-1] else upright
        if size_hw is not None and chosen.size[::-1] != size_hw:
            (h, w), (found_w, found_h) = size_hw, chosen.size
            raise Reject(f"size differs: the image has {found_h}x{found_w} pixels, expected {h}x{w}")
        if chosen.mode.startswith(("I", "F")):
            values, scaled = _to_8_bits(np.asarray(chosen))
            return Decoded(np.repeat(values[..., None], 3, axis=2), scaled)
        if "transparency" in chosen.info:
            chosen = chosen.convert("RGBA")
        return Decoded(np.array(chosen.convert("RGB")), chosen.info.get("scaled", ""))


def _to_8_bits(values: NDArray[Any]) -> tuple[UInt8, str]:
    """Scale numbers to 0..255; return them and how they were scaled."""
    if np.issubdtype(values.dtype, np.integer):
        values = np.maximum(values, 0)
        highest = int(values.max(initial=0))
        bits = next((bits for bits in (8, 10, 12, 14, 16) if highest < 1 << bits), highest.bit_length())
        return (values >> (bits - 8)).astype(np.uint8), "" if bits == 16 else f"whole numbers of {bits} bits"
    finite = np.where(np.isfinite(values), values, 0).astype(np.float64)
    lowest, highest = finite.min(initial=0), finite.max(initial=0)
    if lowest < 0 or highest > 255:
        span = f"floats of {lowest:g}..{highest:g}"
        return ((finite - lowest) * (255 / (highest - lowest)) + 0.5).astype(np.uint8), span
    if highest <= 1:
        return (finite * 255 + 0.5).astype(np.uint8), "floats of 0..1" if highest else ""
    return finite.astype(np.uint8), ""
