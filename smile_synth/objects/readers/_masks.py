"""Shared by the readers of masks: align a mask with its image, find the objects in it, cut them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from smile_synth.io.files import content_key
from smile_synth.io.images import Reject, UInt8, decode_rgb, open_image, read_bytes
from smile_synth.objects._item import SCALED, CutOut

VOID = 255  # "no object" in the masks of VOC, DAVIS and many semantic maps
HALF = 128
MAX_IDS = 1000  # objects in a mask
MAX_SIZE_DIFFERENCE = 2

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image ``rgb`` ``[H, W, 3]`` uint8 from which objects are cut.

    ``key`` is its image key; ``scaled`` says how values of more than 8 bits were scaled.
    """

    name: str
    key: str
    rgb: UInt8
    licence: str = ""
    scaled: str = ""

    @classmethod
    def decode(
        cls,
        name: str,
        data: bytes,
        size_hw: tuple[int, int] | None = None,
        licence: str = "",
        key: str = "",
    ) -> Photo:
        """Decode the content of an image file; without a key it is the hash of the content.

        Raises:
            Reject: as `decode_rgb`.
        """
        decoded = decode_rgb(data, size_hw)
        return cls(name, key or content_key(data), decoded.rgb, licence, decoded.scaled)

    def cut(
        self,
        alpha: UInt8,
        corner_yx: tuple[int, int],
        *,
        class_name: str,
        object_id: str,
        covered: float = 0.0,
    ) -> CutOut:
        """Cut an object out, cropped to alpha > 0.

        ``alpha`` is ``[h, w]`` uint8, a window of the image; ``corner_yx`` is the window's first pixel.
        ``truncation`` is the share of the outline's pixel edges that are on the border of the image. It uses
        the outline of alpha > 0, because annotators stop short of the border by part of a pixel.

        Raises:
            Reject: alpha is 0 everywhere.
        """
        rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        if not len(rows):
            raise Reject("empty mask: no pixel is inside")
        y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        top, left = corner_yx[0] + y.start, corner_yx[1] + x.start
        alpha = alpha[y, x]
        bottom, right = top + alpha.shape[0], left + alpha.shape[1]
        to_border = (top, left, self.rgb.shape[0] - bottom, self.rgb.shape[1] - right)
        return CutOut(
            class_name=class_name,
            source=f"{self.name}#{object_id}",
            source_image=self.name,
            image_key=self.key,
            rgba=np.dstack([self.rgb[top:bottom, left:right], alpha]),
            from_photo=True,
            annotation_id=object_id,
            licence=self.licence,
            truncation=_truncation(alpha > 0, *to_border),
            covered=covered,
            attributes={SCALED: self.scaled} if self.scaled else {},
        )


def _truncation(inside: NDArray[np.bool_], *to_border: int) -> float:
    top, left, bottom, right = to_border
    padded = np.pad(inside, 1)
    outline = sum(int(np.count_nonzero(np.diff(padded, axis=axis))) for axis in (0, 1))
    sides = ((top, inside[0]), (left, inside[:, 0]), (bottom, inside[-1]), (right, inside[:, -1]))
    return sum(int(np.count_nonzero(edge)) for gap, edge in sides if gap == 0) / outline


def cut_labels(
    source: str,
    path: Path,
    labels: NDArray[Any],
    *,
    class_name: Callable[[int], str],
    object_id: Callable[[int], str] = str,
    image_key: str = "",
) -> Iterator[CutOut]:
    """Cut every object of a label mask ``[H, W]`` (0 for background) from the image ``path``, by label.

    ``class_name`` and ``object_id`` return the class and the id of a label. Without an ``image_key`` it is
    the hash of the file.

    Raises:
        Reject: the image cannot be read, has another size, or no pixel has a label.
    """
    photo, labels = aligned(source, read_bytes(path), labels, image_key)
    if not labels.any():
        raise Reject("empty mask: no pixel is inside")
    for label, window, inside in regions(labels):
        corner_yx = window[0].start, window[1].start
        alpha = inside * np.uint8(255)
        yield photo.cut(alpha, corner_yx, class_name=class_name(label), object_id=object_id(label))


def regions(labels: NDArray[Any]) -> Iterator[tuple[int, Window, NDArray[np.bool_]]]:
    """Yield (label, window, inside) of every label but 0, ascending; ``inside`` has the window's size."""
    for label, window in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if window is not None:
            yield label, window, labels[window] == label


def aligned(name: str, data: bytes, mask: NDArray[Any], key: str = "") -> tuple[Photo, NDArray[Any]]:
    """Decode the image of a mask ``[H, W]``; return the photo and the mask in one size.

    Published masks can be a pixel or two larger or smaller than their image. Both are aligned at the top
    left, and the excess rows and columns are dropped. Without a key it is the hash of the content.

    Raises:
        Reject: as `decode_rgb`, or the sizes differ by more than ``MAX_SIZE_DIFFERENCE`` pixels.
    """
    height, width = mask.shape
    try:
        return Photo.decode(name, data, (height, width), key=key), mask
    except Reject as reason:
        if not str(reason).startswith("size differs"):
            raise
    photo = Photo.decode(name, data, key=key)
    found_height, found_width = photo.rgb.shape[:2]
    if max(abs(found_height - height), abs(found_width - width)) > MAX_SIZE_DIFFERENCE:
        raise Reject(
            f"size differs: the image has {found_height}x{found_width} pixels, its mask {height}x{width}"
        )
    height, width = min(height, found_height), min(width, found_width)
    return replace(photo, rgb=photo.rgb[:height, :width]), mask[:height, :width]


def decode_mask(path: Path, decode: Callable[[Image.Image], Any]) -> Any:
    """Open a mask file and return ``decode(image)``.

    Raises:
        Reject: as `read_bytes`, `open_image` and ``decode``; the reason says that it is the mask.
    """
    try:
        with open_image(read_bytes(path)) as image:
            return decode(image)
    except Reject as reason:
        raise Reject(f"unusable mask: {reason}") from None


def mask_numbers(image: Image.Image) -> tuple[NDArray[np.int64], bool]:
    """Return the numbers ``[H, W]`` of a mask: palette indices, grey levels, or colours as 0xRRGGBB.

    Colour masks with equal channels count as grey; alpha is ignored.

    Returns:
        The numbers, and whether they are colours.

    Raises:
        Reject: the mask contains floats.
    """
    if image.mode.startswith("F"):
        raise Reject(f"mode {image.mode}, expected whole numbers or colours")
    colour = image.mode != "P" and len(image.getbands()) > 2
    # Grey with alpha keeps its grey.
    pixels = np.asarray(image.convert("RGB" if colour else "L" if image.mode == "LA" else image.mode))
    if colour and (pixels == pixels[..., :1]).all():
        colour, pixels = False, pixels[..., 0]
    if colour:
        return pixels.astype(np.int64) @ (1 << 16, 1 << 8, 1), True
    return pixels.astype(np.int64), False


def numbered(numbers: NDArray[np.int64], id_format: str = "{}") -> tuple[NDArray[np.int64], list[str]]:
    """Replace the numbers of a mask by labels 1, 2, ... in ascending order; 0 stays 0.

    Returns:
        The labels, and the id of each label.

    Raises:
        Reject: more than ``MAX_IDS`` numbers.
    """
    found, labels = np.unique(numbers, return_inverse=True)
    objects = found[found != 0]
    if len(objects) > MAX_IDS:
        raise Reject(f"{len(objects)} different values, at most {MAX_IDS} objects are allowed")
    start = len(found) - len(objects)  # 1 if there is background, which is the least value
    ids = ["", *(id_format.format(int(value)) for value in objects)]
    return labels.reshape(numbers.shape) + 1 - start, ids


def mask_indices(image: Image.Image) -> NDArray[np.int64]:
    """Return the numbers ``[H, W]`` of a mask with a palette or in grey.

    Raises:
        Reject: the mask is in colour.
    """
    numbers, colour = mask_numbers(image)
    if colour:
        raise Reject(f"mode {image.mode}, expected a palette or grey")
    return numbers


def without_void(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers ``[H, W]`` with void as 0: 255, unless it is the only number beside 0.

    255 is a number like any other beside larger ones, and among evenly spaced grey levels (85, 170, 255).
    """
    found = np.unique(numbers)
    found = found[found != 0].astype(np.int64)
    levels = np.arange(1, len(found) + 1) * VOID / max(1, len(found))
    if VOID not in found or found[-1] > VOID or (np.abs(found - levels) <= 1).all():
        return numbers
    return np.where(numbers == VOID, 0, numbers)
