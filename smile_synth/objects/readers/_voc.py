"""Pascal VOC: ``JPEGImages/`` and ``SegmentationObject/``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from smile_synth.core.errors import UserError
from smile_synth.io.files import printable
from smile_synth.io.images import Reject, UInt8
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions
from smile_synth.objects.readers._folders import check_folder, find_image
from smile_synth.objects.readers._masks import VOID, cut_labels, decode_mask, palette_indices, regions

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


def is_voc(path: Path) -> bool:
    """Return whether a folder has VOC's layout."""
    return (path / "JPEGImages").is_dir() and (path / "SegmentationObject").is_dir()


def read_voc(source: str, options: ReadOptions) -> list[Item]:
    """List the images of a VOC folder that have an object mask, in order of their names.

    A mask ``SegmentationObject/<name>.png`` contains 0 for background, 255 for void and an object's number
    elsewhere. An object's class is the most frequent value of its pixels in
    ``SegmentationClass/<name>.png`` (1..20 are VOC's classes, a higher number n becomes ``class n``).
    Without that file it is the name of the n-th object of ``Annotations/<name>.xml``, without both
    ``object``. A mask may differ from its image by two pixels per side.

    Raises:
        UserError: not such a folder, or without masks.
    """
    folder = check_folder(source, "JPEGImages", "SegmentationObject")
    masks = sorted(
        path for path in (folder / "SegmentationObject").iterdir() if path.suffix.lower() == ".png"
    )
    if not masks:
        raise UserError(f"object source '{source}': no .png in SegmentationObject/")
    items = []
    for mask in masks:
        name, path = printable(mask.stem), find_image(folder / "JPEGImages", mask.stem)
        items.append(Item(name, (path, mask), partial(_cut, name, path, mask)))
    return items


def _cut(name: str, path: Path, mask: Path) -> Iterator[CutOut]:
    numbers = decode_mask(mask, palette_indices)
    classes = _classes(mask, numbers)
    labels = np.where(numbers == VOID, 0, numbers)
    return cut_labels(name, path, labels, class_name=lambda number: classes.get(number, "object"))


def _classes(mask: Path, numbers: UInt8) -> dict[int, str]:
    root, name = mask.parents[1], mask.stem
    class_mask, xml = root / "SegmentationClass" / f"{name}.png", root / "Annotations" / f"{name}.xml"
    if class_mask.is_file():
        labels = decode_mask(class_mask, palette_indices)
        if labels.shape != numbers.shape:
            raise Reject(
                f"size differs: the class mask has {labels.shape[0]}x{labels.shape[1]} pixels, "
                f"the object mask {numbers.shape[0]}x{numbers.shape[1]}"
            )
        return _most_frequent(numbers, labels)
    if xml.is_file():
        try:
            objects = ElementTree.parse(xml).getroot().findall("object")
        except (ElementTree.ParseError, OSError) as error:
            raise Reject(f"damaged XML: {xml.name}: {error}") from None
        return {n: (entry.findtext("name") or "").strip() or "object" for n, entry in enumerate(objects, 1)}
    return {}


def _most_frequent(numbers: UInt8, labels: UInt8) -> dict[int, str]:
    """Return the name of the class that most pixels of each object have."""
    names = {}
    for number, window, inside in regions(numbers):
        counts = np.bincount(labels[window][inside], minlength=256)
        counts[[0, VOID]] = 0
        label = int(counts.argmax())
        if counts[label]:
            names[number] = CLASSES[label - 1] if label <= len(CLASSES) else f"class {label}"
    return names


VOC = Format("voc", is_voc, read_voc)
