"""Pascal VOC: ``JPEGImages/`` and ``SegmentationObject/``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.io.files import entries, printable
from smile_synth.io.images import Reject
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions
from smile_synth.objects.readers._folders import check_folder, find_image, read_names
from smile_synth.objects.readers._masks import VOID, cut_labels, decode_mask, mask_numbers, numbered, regions

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
VOID_COLOUR = 0xE0E0C0  # of number 255 in VOC's palette
# Files of class names: of CVAT and Datumaro, of LabelMe, and of other tools.
LABEL_MAP, NAME_FILES = "labelmap.txt", ("class_names.txt", "labels.txt", "classes.txt")
OWN_NAMES = re.compile(r"(2007|2008|2009|2010|2011|2012)_\d{6}")


class _Names(NamedTuple):
    """Class names by their number and by their colour in class masks."""

    by_number: dict[int, str]
    by_colour: dict[int, str]


def is_voc(path: Path) -> bool:
    """Return whether a folder has VOC's layout."""
    return (path / "JPEGImages").is_dir() and (path / "SegmentationObject").is_dir()


def read_voc(source: str, options: ReadOptions) -> list[Item]:
    """List the images of a VOC folder that have an object mask, in order of their names.

    A mask ``SegmentationObject/<name>.png`` contains 0 (or black) for background, 255 for void and an
    object's number or colour elsewhere. An object's class is the most frequent value of its pixels in
    ``SegmentationClass/<name>.png``. The folder's ``labelmap.txt`` (CVAT, Datumaro), ``class_names.txt``
    (LabelMe), ``labels.txt`` or ``classes.txt`` names it. Without such a file 1..20 are VOC's classes if the
    files are VOC's own (``2007_000027``, or lists in ``ImageSets/Main/``); other numbers n become
    ``class n``.
    Without a class mask the class is the name of the n-th object of ``Annotations/<name>.xml``, without both
    ``object``. A mask may differ from its image by two pixels per side.

    Raises:
        UserError: not such a folder, or without masks.
    """
    folder = check_folder(source, "JPEGImages", "SegmentationObject")
    masks = [path for path in entries(folder / "SegmentationObject") if path.suffix.lower() == ".png"]
    if not masks:
        raise UserError(f"object source '{source}': no .png in SegmentationObject/")
    names = _class_names(folder, masks)
    items = []
    for mask in masks:
        name, path = printable(mask.stem), find_image(folder / "JPEGImages", mask.stem)
        items.append(Item(name, (path, mask), partial(_cut, name, path, mask, names)))
    return items


def _class_names(folder: Path, masks: Sequence[Path]) -> _Names:
    lines = [line for line in read_names(folder, LABEL_MAP) if not line.startswith("#")]
    if lines:  # label:colour:parts:actions
        fields = [line.split(":") for line in lines]
        coloured = [(_colour(field[1]), field[0]) for field in fields if len(field) > 1]
        by_colour = {colour: name for colour, name in coloured if colour is not None}
        return _Names(_numbered_names([field[0] for field in fields]), by_colour)
    names = read_names(folder, *NAME_FILES)
    if names:
        return _Names(_numbered_names(names), {})
    own = all(OWN_NAMES.fullmatch(mask.stem) for mask in masks)
    own |= (folder / "ImageSets" / "Main" / "aeroplane_train.txt").is_file()
    return _Names(dict(enumerate(CLASSES, 1)) if own else {}, {})


def _numbered_names(names: list[str]) -> dict[int, str]:
    """Number names from 0 for the background. Lists without a background start at 1."""
    names = [name for name in names if name != "__ignore__"]
    start = 0 if names and names[0].strip("_").lower() in ("background", "bg") else 1
    return dict(enumerate(names, start))


def _colour(text: str) -> int | None:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        return None
    red, green, blue = map(int, parts)
    return red << 16 | green << 8 | blue


def _numbers(path: Path) -> tuple[NDArray[np.int64], bool]:
    """Return the numbers or colours of a mask with void as 0, and whether they are colours."""
    numbers, colour = decode_mask(path, mask_numbers)
    return np.where(numbers == (VOID_COLOUR if colour else VOID), 0, numbers), colour


def _cut(name: str, path: Path, mask: Path, names: _Names) -> Iterator[CutOut]:
    numbers, colour = _numbers(mask)
    labels, ids = numbered(numbers, "#{:06x}" if colour else "{}")
    classes = _classes(mask, labels, ids, names)
    return cut_labels(
        name,
        path,
        labels,
        class_name=lambda label: classes.get(label) or "object",
        object_id=ids.__getitem__,
    )


def _classes(mask: Path, labels: NDArray[np.int64], ids: Sequence[str], names: _Names) -> dict[int, str]:
    """Return the class of each label: from the class mask, else from the XML file."""
    root, name = mask.parents[1], mask.stem
    class_mask, xml = root / "SegmentationClass" / f"{name}.png", root / "Annotations" / f"{name}.xml"
    if class_mask.is_file():
        values, colour = _numbers(class_mask)
        if values.shape != labels.shape:
            raise Reject(
                f"size differs: the class mask has {values.shape[0]}x{values.shape[1]} pixels, "
                f"the object mask {labels.shape[0]}x{labels.shape[1]}"
            )
        known = names.by_colour if colour else names.by_number
        text = "class #{:06x}" if colour else "class {}"
        return {n: known.get(v, text.format(v)) for n, v in _most_frequent(labels, values).items()}
    if xml.is_file():
        try:
            objects = ElementTree.parse(xml).getroot().findall("object")
        except (ElementTree.ParseError, OSError) as error:
            raise Reject(f"damaged XML: {xml.name}: {error}") from None
        given = {str(n): (entry.findtext("name") or "").strip() for n, entry in enumerate(objects, 1)}
        return {label: given.get(number, "") for label, number in enumerate(ids)}
    return {}


def _most_frequent(labels: NDArray[np.int64], values: NDArray[np.int64]) -> dict[int, int]:
    """Return the value other than 0 that most pixels of each object have."""
    found = {}
    for label, window, inside in regions(labels):
        counted, counts = np.unique(values[window][inside], return_counts=True)
        counts[counted == 0] = 0
        if counts.any():
            found[label] = int(counted[counts.argmax()])
    return found


VOC = Format("voc", is_voc, read_voc)
