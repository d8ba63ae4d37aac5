"""Read images with a mask each: ``images/<anything>`` and ``masks/<the same>``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from smile_synth.core.errors import UserError
from smile_synth.io.files import LISTED_ALREADY, key_of, shown, walk
from smile_synth.io.images import SUFFIXES, Reject, opened, read_bytes
from smile_synth.objects._folder import LostItem
from smile_synth.objects._item import CutOut, Item, ReadOptions, UInt8
from smile_synth.objects._mask_cut import (
    HALF,
    VOID,
    Photo,
    aligned,
    corner_of,
    need_folders,
    read_mask,
    regions,
)

IMAGES, MASKS = "images", "masks"
MAX_IDS = 1000
# A grey mask of more levels than this that reaches 255 is a soft matte.
MAX_GREY_IDS = 16


def is_pairs(path: Path) -> bool:
    """Tell whether a folder holds ``images/`` and ``masks/``."""
    return (path / IMAGES).is_dir() and (path / MASKS).is_dir()


def read_pairs(source: str, options: ReadOptions) -> list[Item]:
    """List images and masks of the same path but for the suffix, in order of the images' paths.

    The class is the image's folder relative to ``images/``, for images directly in it the source's own
    name. What a mask means is told from its pixels:

    - one value beside 0: an object. Masks stored as JPEG are cut at one half, other levels being noise;
    - a palette, grey levels or 16-bit numbers: every number but 0 is an object. 255 of a palette is void
      where it is not the only number, as in VOC; in grey masks it is an object like any other;
    - a soft matte: 8-bit grey that reaches 255 and has more than 16 other levels, or other levels only in
      places too thin to hold 3x3 equal pixels (a mask with anti-aliased edges); it becomes the alpha;
    - colours: every colour but black is an object. Colour masks with equal channels count as grey, alpha
      is ignored.

    A mask may differ from its image by two pixels a side. What has no partner is rejected.

    Raises:
        UserError: not such a folder, or both folders are empty.
    """
    folder = need_folders(source, IMAGES, MASKS)
    unusable: list[Item] = []
    pictures = _by_stem(folder, IMAGES, unusable)
    masks = _by_stem(folder, MASKS, unusable)
    if not pictures and not masks:
        raise UserError(f"object source '{source}': no images in {IMAGES}/ and {MASKS}/")
    items: list[Item] = []
    for stem, path in pictures.items():
        name = shown(path.relative_to(folder).as_posix())
        if stem in masks:
            parent = stem.rpartition("/")[0] or folder.resolve().name
            items.append(_Pair(name, path, masks[stem], shown(parent)))
        else:
            items.append(LostItem(name, f"no mask: nothing named so in {MASKS}/"))
    for stem in masks.keys() - pictures.keys():
        name = shown(masks[stem].relative_to(folder).as_posix())
        unusable.append(LostItem(name, f"no image: nothing named so in {IMAGES}/"))
    return items + sorted(unusable, key=lambda item: item.source)


def _by_stem(folder: Path, name: str, unusable: list[Item]) -> dict[str, Path]:
    """Return a folder's images by their path without suffix; others are added to the unusable ones."""
    found: dict[str, Path] = {}
    files, links = walk(folder / name)
    unusable += [LostItem(shown(link.relative_to(folder).as_posix()), LISTED_ALREADY) for link in links]
    for path in files:
        label = shown(path.relative_to(folder).as_posix())
        stem = path.relative_to(folder / name).with_suffix("").as_posix()
        if path.suffix.lower() not in SUFFIXES:
            unusable.append(LostItem(label, f"not an image: expected {', '.join(SUFFIXES)}"))
        elif stem in found:
            unusable.append(LostItem(label, f"ambiguous name: {found[stem].name} stands beside it"))
        else:
            found[stem] = path
    return found


@dataclass(frozen=True)
class _Pair:
    source: str
    path: Path
    mask: Path
    class_name: str

    def cut_outs(self) -> Iterator[CutOut]:
        mask = _load_mask(self.mask)
        data = read_bytes(self.path)
        rgb, values = aligned(data, mask.values)
        if not values.any():
            raise Reject("empty mask: no pixel lies inside")
        photo = Photo(self.source, key_of(data), rgb)
        if mask.matte:
            yield photo.cut(values.astype(np.uint8), (0, 0), class_name=self.class_name, object_id="matte")
            return
        for label, window, inside in regions(values):
            yield photo.cut(
                inside * np.uint8(255),
                corner_of(window),
                class_name=self.class_name,
                object_id=mask.names[label],
            )


@dataclass(frozen=True)
class _Mask:
    """Alpha, or labels ``[H, W]``, whose names say what the file holds there."""

    values: NDArray[Any]
    matte: bool
    names: tuple[str, ...] = ()


def _load_mask(path: Path) -> _Mask:
    data = read_mask(path)
    try:
        with opened(data) as image:
            palette, jpeg = image.mode == "P", image.format == "JPEG"
            if image.mode.startswith("F"):
                raise Reject(f"mode {image.mode}, expected whole numbers or colours")
            colour = not palette and len(image.getbands()) > 2
            # Grey with alpha keeps its grey.
            pixels = np.asarray(image.convert("RGB" if colour else "L" if image.mode == "LA" else image.mode))
        if colour and (pixels == pixels[..., :1]).all():
            colour, pixels = False, pixels[..., 0]
        if colour:
            return _labelled(pixels.astype(np.int64) @ (1 << 16, 1 << 8, 1), "#{:06x}")
        if jpeg:
            return _labelled((pixels >= HALF).astype(np.int64), "{}")
        if not palette and pixels.dtype == np.uint8 and _is_matte(pixels):
            return _Mask(pixels, matte=True)
        numbers = pixels.astype(np.int64)
        if palette and not np.isin(numbers, (0, VOID)).all():
            numbers[numbers == VOID] = 0
        return _labelled(numbers, "{}")
    except Reject as reason:
        raise Reject(f"unusable mask: {reason}") from None


def _is_matte(gray: UInt8) -> bool:
    levels = np.flatnonzero(np.bincount(gray.ravel(), minlength=256))
    partial = levels[(levels > 0) & (levels < 255)]
    if 255 not in levels or not len(partial):
        return False
    if len(partial) > MAX_GREY_IDS:
        return True
    flat = ndimage.minimum_filter(gray, 3) == ndimage.maximum_filter(gray, 3)
    return not np.isin(gray[flat], partial).any()


def _labelled(numbers: NDArray[np.int64], name: str) -> _Mask:
    """Number what a mask holds 1, 2, ... in ascending order."""
    found, labels = np.unique(numbers, return_inverse=True)
    known = found[found != 0]
    if len(known) > MAX_IDS:
        raise Reject(f"{len(known)} different values, at most {MAX_IDS} objects are expected")
    start = len(found) - len(known)  # 0, the least value, is the background, if it is there at all
    names = ("", *(name.format(int(value)) for value in known))
    return _Mask(labels.reshape(numbers.shape) + 1 - start, matte=False, names=names)
