"""Shared by the readers of masks: align a mask with its image, find the objects in it, cut them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from smile_synth.io.files import content_key
from smile_synth.io.images import Reject, UInt8, load_rgb, open_image, read_bytes
from smile_synth.objects._item import CutOut

VOID = 255  # "no object" in the masks of VOC and DAVIS
HALF = 128
MAX_SIZE_DIFFERENCE = 2

Window = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image ``rgb`` ``[H, W, 3]`` uint8 from which objects are cut; ``key`` is its image key."""

    name: str
    key: str
    rgb: UInt8
    licence: str = ""

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
    data = read_bytes(path)
    rgb, labels = aligned(data, labels)
    if not labels.any():
        raise Reject("empty mask: no pixel is inside")
    photo = Photo(source, image_key or content_key(data), rgb)
    for label, window, inside in regions(labels):
        corner_yx = window[0].start, window[1].start
        alpha = inside * np.uint8(255)
        yield photo.cut(alpha, corner_yx, class_name=class_name(label), object_id=object_id(label))


def regions(labels: NDArray[Any]) -> Iterator[tuple[int, Window, NDArray[np.bool_]]]:
    """Yield (label, window, inside) of every label but 0, ascending; ``inside`` has the window's size."""
    for label, window in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if window is not None:
            yield label, window, labels[window] == label


def aligned(data: bytes, mask: NDArray[Any]) -> tuple[UInt8, NDArray[Any]]:
    """Decode the image of a mask ``[H, W]``; return RGB and mask in one size.

    Published masks can be a pixel or two larger or smaller than their image. Both are aligned at the top
    left, and the excess rows and columns are dropped.

    Raises:
        Reject: as `load_rgb`, or the sizes differ by more than ``MAX_SIZE_DIFFERENCE`` pixels.
    """
    height, width = mask.shape
    try:
        return load_rgb(data, (height, width)), mask
    except Reject as reason:
        if not str(reason).startswith("size differs"):
            raise
    rgb = load_rgb(data)
    if max(abs(rgb.shape[0] - height), abs(rgb.shape[1] - width)) > MAX_SIZE_DIFFERENCE:
        raise Reject(
            f"size differs: the image has {rgb.shape[0]}x{rgb.shape[1]} pixels, its mask {height}x{width}"
        )
    height, width = min(height, rgb.shape[0]), min(width, rgb.shape[1])
    return rgb[:height, :width], mask[:height, :width]


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


def palette_indices(image: Image.Image) -> UInt8:
    """Return the 8-bit values ``[H, W]`` of a mask with a palette or in grey.

    Raises:
        Reject: another mode.
    """
    if image.mode not in ("P", "L", "1"):
        raise Reject(f"mode {image.mode}, expected a palette or 8-bit grey")
    return np.asarray(image).astype(np.uint8)
