"""Images with one mask each: ``images/<anything>`` and ``masks/<the same>``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from smile_synth.core.errors import UserError
from smile_synth.io.files import REPEATED_LINK, entries, printable, walk
from smile_synth.io.images import SUFFIXES, UInt8, read_bytes
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions, unusable
from smile_synth.objects.readers._folders import check_folder, class_names, is_image
from smile_synth.objects.readers._masks import (
    HALF,
    aligned,
    cut_labels,
    decode_mask,
    mask_numbers,
    numbered,
    without_void,
)

# Names of the two folders, compared without case.
FOLDERS = (
    ("images", "masks"), ("images", "mask"), ("image", "mask"), ("image", "masks"), ("imgs", "masks"),
    ("img", "mask"), ("img", "masks"), ("img_dir", "ann_dir"), ("images", "annotations"),
    ("images", "labels"),
    ("images", "segmentations"), ("images", "gt"), ("image", "label"), ("jpegimages", "segmentationclass"),
)  # fmt: skip
# Ends of the names of masks that the names of their images lack.
MASK_END = re.compile(r"[ _.-](masks?|segmentation|seg|labels?|gt|matte|alpha)$", re.I)
# A grey mask that reaches 255 and has more levels than this is a soft matte.
MAX_GREY_IDS = 16


def is_pairs(path: Path) -> bool:
    """Return whether a folder contains a folder of images and one of masks, both with images in them."""
    found = pair_folders(path)
    return found is not None and all(_contains_images(folder) for folder in found)


def pair_folders(path: Path) -> tuple[Path, Path] | None:
    """Return the folder of images and the folder of masks; None if there is no such pair of names."""
    inner = {entry.name.lower(): entry for entry in entries(path) if entry.is_dir()}
    return next(((inner[a], inner[b]) for a, b in FOLDERS if a in inner and b in inner), None)


def _contains_images(folder: Path) -> bool:
    return any(is_image(path) for path in walk(folder)[0])


def read_pairs(source: str, options: ReadOptions) -> list[Item]:
    """List images and masks of the same path, in order of the images' paths.

    The names of the two folders are pairs of ``FOLDERS``. The suffixes may differ, and names of masks may
    have an end such as ``_mask`` more. The class is the image's folder relative to ``images/`` without a
    split (see `class_names`); for images directly in it, the source's own name. The pixels of a mask decide
    what it means:

    - one value beside 0: an object. Masks stored as JPEG are thresholded at one half, because compression
      adds other levels;
    - a palette, grey levels or 16-bit numbers: every number but 0 is an object. 255 is void as in
      `without_void`, so semantic maps give one object per class;
    - a soft matte: 8-bit grey that reaches 255 and has other levels only in regions too thin to contain 3x3
      equal pixels (a mask with anti-aliased edges), or more than 16 other levels, at most half of their
      pixels in such regions; it becomes the alpha;
    - colours: every colour but black is an object. Colour masks with equal channels count as grey, alpha
      is ignored.

    A mask may differ from its image by two pixels per side. Files without a partner are rejected.

    Raises:
        UserError: not such a folder, or both folders are empty.
    """
    folder = check_folder(source)
    found = pair_folders(folder)
    if found is None:
        check_folder(source, "images", "masks")
    images_folder, masks_folder = found or (folder, folder)
    rejected: list[Item] = []
    images = _by_stem(folder, images_folder, rejected)
    masks = _by_stem(folder, masks_folder, rejected)
    masks = {stem if stem in images else MASK_END.sub("", stem): path for stem, path in masks.items()}
    if not images and not masks:
        raise UserError(
            f"object source '{source}': no images in {images_folder.name}/ and {masks_folder.name}/"
        )
    items: list[Item] = []
    classes = class_names(folder, [PurePosixPath(stem).parent for stem in images])
    for (stem, path), class_name in zip(images.items(), classes, strict=True):
        name = _name(path, folder)
        if stem in masks:
            cut = partial(_cut, name, printable(class_name), path, masks[stem])
            items.append(Item(name, (path, masks[stem]), cut))
        else:
            items.append(unusable(name, f"no mask: no file of this name in {masks_folder.name}/"))
    for stem in masks.keys() - images.keys():
        reason = f"no image: no file of this name in {images_folder.name}/"
        rejected.append(unusable(_name(masks[stem], folder), reason))
    return items + sorted(rejected, key=lambda item: item.source)


def _name(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder).as_posix())


def _by_stem(folder: Path, inner: Path, rejected: list[Item]) -> dict[str, Path]:
    """Return a folder's images by their path without suffix; append the other files to ``rejected``."""
    found: dict[str, Path] = {}
    files, links = walk(inner)
    rejected += [unusable(_name(link, folder), REPEATED_LINK) for link in links]
    for path in files:
        label = _name(path, folder)
        stem = path.relative_to(inner).with_suffix("").as_posix()
        if not is_image(path):
            rejected.append(unusable(label, f"not an image: expected {', '.join(SUFFIXES)}"))
        elif stem in found:
            rejected.append(unusable(label, f"ambiguous name: {found[stem].name} has the same one"))
        else:
            found[stem] = path
    return found


def _cut(name: str, class_name: str, path: Path, mask: Path) -> Iterator[CutOut]:
    values, ids = decode_mask(mask, _decode)
    if ids:
        yield from cut_labels(name, path, values, class_name=lambda _: class_name, object_id=ids.__getitem__)
        return
    photo, alpha = aligned(name, read_bytes(path), values)
    yield photo.cut(alpha, (0, 0), class_name=class_name, object_id="matte")


def _decode(image: Image.Image) -> tuple[NDArray[Any], list[str]]:
    """Return labels ``[H, W]`` and the id of each label; or alpha ``[H, W]`` and no ids."""
    numbers, colour = mask_numbers(image)
    if colour:
        return numbered(numbers, "#{:06x}")
    if image.format == "JPEG":
        return numbered((numbers >= HALF).astype(np.int64))
    if image.mode in ("L", "LA", "RGB", "RGBA") and _is_matte(numbers.astype(np.uint8)):
        return numbers.astype(np.uint8), []
    return numbered(without_void(numbers))


def _is_matte(gray: UInt8) -> bool:
    levels = np.flatnonzero(np.bincount(gray.ravel(), minlength=256))
    partial = levels[(levels > 0) & (levels < 255)]
    if 255 not in levels or not len(partial):
        return False
    flat = ndimage.minimum_filter(gray, 3) == ndimage.maximum_filter(gray, 3)
    num_flat = np.count_nonzero(np.isin(gray[flat], partial))
    # A map of many classes has 255 for void, but most of its pixels are inside regions of one number.
    most = np.count_nonzero(np.isin(gray, partial)) / 2 if len(partial) > MAX_GREY_IDS else 0
    return bool(num_flat <= most)


PAIRS = Format("pairs", is_pairs, read_pairs)
