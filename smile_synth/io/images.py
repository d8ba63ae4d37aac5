"""Decode image files: upright, 8 bits per channel, every problem in one line."""

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
MAX_PIXELS = 90_000_000  # protects from decompression bombs


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
        with Image.open(io.BytesIO(data)) as image:
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
        return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))


def load_rgb(data: bytes, size_hw: tuple[int, int] | None = None) -> UInt8:
    """Decode an image file to RGB ``[H, W, 3]`` uint8.

    Alpha is ignored, CMYK is converted, 16 bits keep their high byte, of an animation the first frame is
    used. EXIF orientation is applied, except where only the stored image has the expected size: some
    annotations are made on the stored image.

    Args:
        data: the file's content.
        size_hw: the expected size; None: any.

    Raises:
        Reject: as `open_image`, or of another size.
    """
    with open_image(data) as image:
        upright = ImageOps.exif_transpose(image)
        chosen = image if size_hw == image.size[::-1] and size_hw != upright.size[::-1] else upright
        if size_hw is not None and chosen.size[::-1] != size_hw:
            (h, w), (found_w, found_h) = size_hw, chosen.size
            raise Reject(f"size differs: the image has {found_h}x{found_w} pixels, expected {h}x{w}")
        if chosen.mode.startswith(("I", "F")):
            values = np.asarray(chosen).astype(np.float64)
            # Pillow returns 16-bit grey as stored; 32-bit floats are 0..255 by its convention.
            gray = np.clip(values // 256 if chosen.mode.startswith("I") else values, 0, 255).astype(np.uint8)
            return np.repeat(gray[..., None], 3, axis=2)
        if "transparency" in chosen.info:
            chosen = chosen.convert("RGBA")
        return np.array(chosen.convert("RGB"))
