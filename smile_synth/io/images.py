"""Decode image files: upright, 8 bits a channel, every problem told in one line."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

UInt8 = NDArray[np.uint8]

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 90_000_000  # a larger image or frame is taken for a decompression bomb


class Reject(Exception):
    """Why a file, or something in it, is left out: a kind, that reports count by, then ``: `` and details."""


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        Reject: missing, empty, or not to be read.
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
    """Refuse images and frames that would fill the memory.

    Raises:
        Reject: more than `MAX_PIXELS`.
    """
    if height * width > MAX_PIXELS:
        limit = f"more than {MAX_PIXELS // 10**6} million are not read"
        raise Reject(f"image too large: {width}x{height} pixels, {limit}")


@contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
    """Open an image file's content with Pillow; what goes wrong inside the block becomes `Reject`.

    Pillow warns of odd metadata; who reads many files at once silences that, for all threads together.

    Raises:
        Reject: no image, damaged, or too large.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(image.height, image.width)
            yield image
    except Reject:
        raise
    except UnidentifiedImageError:
        raise Reject("not an image") from None
    except Image.DecompressionBombError:
        raise Reject(f"image too large: more than {MAX_PIXELS // 10**6} million pixels") from None
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise Reject(f"damaged image: {error}") from None


def load_rgba(data: bytes) -> UInt8:
    """Decode an image file to straight RGBA ``[H, W, 4]`` uint8, upright.

    EXIF orientation is applied. 16-bit colour keeps its high byte, exact where it was widened from 8.

    Raises:
        Reject: as `opened`, animated, or without alpha.
    """
    with opened(data) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise Reject("animated image")
        if not image.has_transparency_data:
            raise Reject(f"no alpha channel: mode {image.mode}")
        if image.mode.startswith(("I", "F")):
            raise Reject(f"no alpha channel: a transparent colour in mode {image.mode} is not supported")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))


def load_rgb(data: bytes, size_hw: tuple[int, int] | None = None) -> UInt8:
    """Decode an image file to RGB ``[H, W, 3]`` uint8.

    Alpha is ignored, CMYK is converted, 16 bits keep their high byte, an animation shows its first frame.
    EXIF orientation is applied, unless only the image as stored has the size asked for: annotations are
    made on either.

    Args:
        data: the file's content.
        size_hw: the size that annotations are made for; None: any.

    Raises:
        Reject: as `opened`, or of another size.
    """
    with opened(data) as image:
        upright = ImageOps.exif_transpose(image)
        chosen = image if size_hw == image.size[::-1] and size_hw != upright.size[::-1] else upright
        if size_hw is not None and chosen.size[::-1] != size_hw:
            (h, w), (found_w, found_h) = size_hw, chosen.size
            raise Reject(f"size differs: the image has {found_h}x{found_w} pixels, expected {h}x{w}")
        if chosen.mode.startswith(("I", "F")):
            values = np.asarray(chosen).astype(np.float64)
            # Pillow gives 16-bit grey as it is stored; 32-bit floats are 0..255 by its convention.
            gray = np.clip(values // 256 if chosen.mode.startswith("I") else values, 0, 255).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        if "transparency" in chosen.info:
            chosen = chosen.convert("RGBA")
        return np.array(chosen.convert("RGB"))
