"""What the readers of masks share: align a mask with its image, find its objects, cut them out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from smile_synth.core.errors import UserError
from smile_synth.io.images import Reject, load_rgb, read_bytes
from smile_synth.objects._item import CutOut, UInt8

VOID = 255
MAX_MISFIT = 2
HALF = 128


@dataclass(frozen=True)
class Photo:
    """A decoded image, of which objects are cut.

    Attributes:
        name: inside its source.
        key: as ``CutOut.image_key``.
        rgb: ``[H, W, 3]`` uint8.
        licence: of the image.
    """

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
        """Cut an object out, as tight as alpha > 0.

        ``truncation`` is the share of the outline's pixel edges that lie on the border of the image;
        the outline is that of alpha > 0, because annotators stop short of the border by part of a pixel.

        Args:
            alpha: ``[h, w]`` uint8, a window of the image.
            corner_yx: row and column of the window's first pixel.
            class_name: the label.
            object_id: of the object within the image.
            covered: as ``CutOut.covered``.

        Raises:
            Reject: alpha is 0 everywhere.
        """
        rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
        if not len(rows):
            raise Reject("empty mask: no pixel lies inside")
        y, x = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        top, left = corner_yx[0] + y.start, corner_yx[1] + x.start
        alpha = alpha[y, x]
        bottom, right = top + alpha.shape[0], left + alpha.shape[1]
        return CutOut(
            class_name=class_name,
            source=f"{self.name}#{object_id}",
            source_image=self.name,
            image_key=self.key,
            rgba=np.dstack([self.rgb[top:bottom, left:right], alpha]),
            from_photo=True,
            annotation_id=object_id,
            licence=self.licence,
            truncation=_truncation(
                alpha > 0, top, left, self.rgb.shape[0] - bottom, self.rgb.shape[1] - right
            ),
            covered=covered,
        )


def _truncation(inside: NDArray[np.bool_], *to_border: int) -> float:
    top, left, bottom, right = to_border
    padded = np.pad(inside, 1)
    outline = sum(int(np.count_nonzero(np.diff(padded, axis=axis))) for axis in (0, 1))
    sides = ((top, inside[0]), (left, inside[:, 0]), (bottom, inside[-1]), (right, inside[:, -1]))
    return sum(int(np.count_nonzero(edge)) for gap, edge in sides if gap == 0) / outline


def read_mask(path: Path) -> bytes:
    """Return a mask file's content.

    Raises:
        Reject: as `read_bytes`, saying that it is the mask.
    """
    try:
        return read_bytes(path)
    except Reject as reason:
        raise Reject(f"unusable mask: {reason}") from None


def aligned(data: bytes, mask: NDArray[Any]) -> tuple[UInt8, NDArray[Any]]:
    """Decode the image that a mask ``[H, W]`` belongs to; return RGB and mask of one size.

    Published masks can be a pixel or two larger or smaller than their image. Both start at the top
    left; what only one of them has is dropped.

    Raises:
        Reject: as `load_rgb`, or the sizes differ by more than ``MAX_MISFIT`` pixels.
    """
    height, width = mask.shape
    try:
        return load_rgb(data, (height, width)), mask
    except Reject as reason:
        if not str(reason).startswith("size differs"):
            raise
    rgb = load_rgb(data)
    if abs(rgb.shape[0] - height) > MAX_MISFIT or abs(rgb.shape[1] - width) > MAX_MISFIT:
        raise Reject(
            f"size differs: the image has {rgb.shape[0]}x{rgb.shape[1]} pixels, its mask {height}x{width}"
        )
    height, width = min(height, rgb.shape[0]), min(width, rgb.shape[1])
    return rgb[:height, :width], mask[:height, :width]


def regions(labels: NDArray[Any]) -> Iterator[tuple[int, tuple[slice, slice], NDArray[np.bool_]]]:
    """Yield (label, window, inside) of every label but 0, ascending; ``inside`` is of the window's size."""
    for number, window in enumerate(ndimage.find_objects(labels.astype(np.int32)), start=1):
        if window is not None:
            yield number, window, labels[window] == number


def corner_of(window: tuple[slice, slice]) -> tuple[int, int]:
    """Return row and column of a window's first pixel."""
    return window[0].start, window[1].start


def need_folders(source: str, *names: str) -> Path:
    """Return a source's folder.

    Raises:
        UserError: there is no such folder, or it lacks one of the named ones.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(
            f"object source '{source}': {'not a folder' if folder.exists() else 'no such folder'}"
        )
    for name in names:
        if not (folder / name).is_dir():
            raise UserError(
                f"object source '{source}': no folder {name}/ in it, expected {'/ and '.join(names)}/"
            )
    return folder
