"""Images with one mask each: ``images/<anything>`` and ``masks/<the same>``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from smile_synth.core.errors import UserError
from smile_synth.io.files import REPEATED_LINK, content_key, printable, walk
from smile_synth.io.images import SUFFIXES, Reject, UInt8, read_bytes
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions, unusable
from smile_synth.objects.readers._folders import check_folder
from smile_synth.objects.readers._masks import HALF, VOID, Photo, aligned, cut_labels, decode_mask

IMAGES, MASKS = "images", "masks"
MAX_IDS = 1000
# A grey mask that reaches 255 and has more levels than this is a soft matte.
MAX_GREY_IDS = 16


def is_pairs(path: Path) -> bool:
    """Return whether a folder contains ``images/`` and ``masks/``."""
    return (path / IMAGES).is_dir() and (path / MASKS).is_dir()


def read_pairs(source: str, options: ReadOptions) -> list[Item]:
    """List images and masks of the same path except for the suffix, in order of the images' paths.

    The class is the image's folder relative to ``images/``; for images directly in it, the source's own
    name. The pixels of a mask decide what it means:

    - one value beside 0: an object. Masks stored as JPEG are thresholded at one half, because compression
      adds other levels;
    - a palette, grey levels or 16-bit numbers: every number but 0 is an object. 255 of a palette is void
      unless it is the only number, as in VOC; in grey masks it is an object like any other;
    - a soft matte: 8-bit grey that reaches 255 and has more than 16 other levels, or other levels only in
      regions too thin to contain 3x3 equal pixels (a mask with anti-aliased edges); it becomes the alpha;
    - colours: every colour but black is an object. Colour masks with equal channels count as grey, alpha
      is ignored.

    A mask may differ from its image by two pixels per side. Files without a partner are rejected.

    Raises:
        UserError: not such a folder, or both folders are empty.
    """
    folder = check_folder(source, IMAGES, MASKS)
    rejected: list[Item] = []
    images = _by_stem(folder, IMAGES, rejected)
    masks = _by_stem(folder, MASKS, rejected)
    if not images and not masks:
        raise UserError(f"object source '{source}': no images in {IMAGES}/ and {MASKS}/")
    items: list[Item] = []
    for stem, path in images.items():
        name = _name(path, folder)
        if stem in masks:
            class_name = printable(stem.rpartition("/")[0] or folder.resolve().name)
            cut = partial(_cut, name, class_name, path, masks[stem])
            items.append(Item(name, (path, masks[stem]), cut))
        else:
            items.append(unusable(name, f"no mask: no file of this name in {MASKS}/"))
    for stem in masks.keys() - images.keys():
        rejected.append(unusable(_name(masks[stem], folder), f"no image: no file of this name in {IMAGES}/"))
    return items + sorted(rejected, key=lambda item: item.source)


def _name(path: Path, folder: Path) -> str:
    return printable(path.relative_to(folder).as_posix())


def _by_stem(folder: Path, name: str, rejected: list[Item]) -> dict[str, Path]:
    """Return a folder's images by their path without suffix; append the other files to ``rejected``."""
    found: dict[str, Path] = {}
    files, links = walk(folder / name)
    rejected += [unusable(_name(link, folder), REPEATED_LINK) for link in links]
    for path in files:
        label = _name(path, folder)
        stem = path.relative_to(folder / name).with_suffix("").as_posix()
        if path.suffix.lower() not in SUFFIXES:
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
    data = read_bytes(path)
    rgb, alpha = aligned(data, values)
    yield Photo(name, content_key(data), rgb).cut(alpha, (0, 0), class_name=class_name, object_id="matte")


def _decode(image: Image.Image) -> tuple[NDArray[Any], list[str]]:
    """Return labels ``[H, W]`` and the id of each label; or alpha ``[H, W]`` and no ids."""
    palette = image.mode == "P"
    if image.mode.startswith("F"):
        raise Reject(f"mode {image.mode}, expected whole numbers or colours")
    colour = not palette and len(image.getbands()) > 2
    # Grey with alpha keeps its grey.
    pixels = np.asarray(image.convert("RGB" if colour else "L" if image.mode == "LA" else image.mode))
    if colour and (pixels == pixels[..., :1]).all():
        colour, pixels = False, pixels[..., 0]
    if colour:
        return _labels(pixels.astype(np.int64) @ (1 << 16, 1 << 8, 1), "#{:06x}")
    if image.format == "JPEG":
        return _labels((pixels >= HALF).astype(np.int64), "{}")
    if not palette and pixels.dtype == np.uint8 and _is_matte(pixels):
        return pixels, []
    numbers = pixels.astype(np.int64)
    if palette and not np.isin(numbers, (0, VOID)).all():
        numbers[numbers == VOID] = 0
    return _labels(numbers, "{}")


def _is_matte(gray: UInt8) -> bool:
    levels = np.flatnonzero(np.bincount(gray.ravel(), minlength=256))
    partial = levels[(levels > 0) & (levels < 255)]
    if 255 not in levels or not len(partial):
        return False
    if len(partial) > MAX_GREY_IDS:
        return True
    flat = ndimage.minimum_filter(gray, 3) == ndimage.maximum_filter(gray, 3)
    return not np.isin(gray[flat], partial).any()


def _labels(numbers: NDArray[np.int64], id_format: str) -> tuple[NDArray[Any], list[str]]:
    """Replace the numbers of a mask by labels 1, 2, ... in ascending order; 0 stays 0."""
    found, labels = np.unique(numbers, return_inverse=True)
    objects = found[found != 0]
    if len(objects) > MAX_IDS:
        raise Reject(f"{len(objects)} different values, at most {MAX_IDS} objects are allowed")
    start = len(found) - len(objects)  # 1 if there is background, which is the least value
    ids = ["", *(id_format.format(int(value)) for value in objects)]
    return labels.reshape(numbers.shape) + 1 - start, ids


PAIRS = Format("pairs", is_pairs, read_pairs)
