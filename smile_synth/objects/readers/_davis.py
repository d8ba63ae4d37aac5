"""DAVIS, YouTube-VOS and MOSE: ``JPEGImages/[<size>/]<sequence>/`` and ``Annotations/`` alike."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from smile_synth.core.errors import UserError
from smile_synth.io.files import entries, printable
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions
from smile_synth.objects.readers._folders import check_folder, find_image
from smile_synth.objects.readers._masks import cut_labels, decode_mask, mask_indices, without_void
from smile_synth.objects.readers._voc import is_voc

# DAVIS 2017 has a second set of masks, with all salient objects.
MASK_FOLDERS = ("Annotations", "Annotations_unsupervised")


def is_davis(path: Path) -> bool:
    """Return whether a folder has the layout of DAVIS, YouTube-VOS or MOSE."""
    return not is_voc(path) and bool(_mask_folders(path))


def read_davis(source: str, options: ReadOptions) -> list[Item]:
    """List the frames that have a mask, by sequence and frame.

    ``Annotations/<resolution>/<sequence>/<frame>.png`` is the mask of the image of the same name in
    ``JPEGImages``. If both folders have several resolutions, the highest one is used: a name without a
    number, such as ``Full-Resolution``, before ``1080p`` before ``480p``. YouTube-VOS and MOSE have no such
    folders. Without ``Annotations``, the masks in ``Annotations_unsupervised`` are used.

    Void is as in `without_void`. An object's class is its category in ``meta.json`` (YouTube-VOS), else its
    sequence. The frames of a sequence count as one image. A mask may differ from its frame by two pixels per
    side.

    Raises:
        UserError: not such a folder, or without masks.
    """
    folder = check_folder(source, "JPEGImages")
    if not any((folder / name).is_dir() for name in MASK_FOLDERS):
        check_folder(source, "JPEGImages", MASK_FOLDERS[0])
    found = _mask_folders(folder)
    if not found:
        raise UserError(
            f"object source '{source}': no masks, expected Annotations/[<resolution>/]<sequence>/<frame>.png "
            "and the same names below JPEGImages/"
        )
    masks_folder = max(found, key=lambda path: _height(found[path]))
    frames = folder / "JPEGImages" / found[masks_folder]
    categories = _categories(folder / "meta.json")
    items = []
    for mask in [path for sequence in entries(masks_folder) for path in _masks(sequence)]:
        path = find_image(frames / mask.parent.name, mask.stem)
        sequence, name = printable(mask.parent.name), printable(f"{mask.parent.name}/{mask.stem}")
        cut = partial(_cut, name, sequence, categories.get(sequence, {}), path, mask)
        items.append(Item(name, (path, mask), cut))
    return items


def _mask_folders(folder: Path) -> dict[Path, str]:
    """Return the folders of sequences of masks, and the name of their resolution, empty if there is none."""
    for name in MASK_FOLDERS:
        top, images = folder / name, folder / "JPEGImages"
        levels = {path: path.name for path in entries(top) if (images / path.name).is_dir()}
        found = {path: level for path, level in levels.items() if any(map(_masks, entries(path)))}
        if not found and any(map(_masks, levels)):
            found = {top: ""}
        if found:
            return found
    return {}


def _masks(sequence: Path) -> list[Path]:
    return [path for path in entries(sequence) if path.suffix.lower() == ".png"] if sequence.is_dir() else []


def _categories(path: Path) -> dict[str, dict[str, str]]:
    """Return the category of every object id of every sequence; empty without a usable ``meta.json``."""
    try:
        videos = json.loads(path.read_text("utf-8-sig"))["videos"]
        return {
            name: {
                number: entry["category"]
                for number, entry in video["objects"].items()
                if isinstance(entry.get("category"), str)
            }
            for name, video in videos.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _height(resolution: str) -> float:
    number = re.search(r"\d+", resolution)
    return int(number[0]) if number else float("inf")


def _cut(name: str, sequence: str, categories: Mapping[str, str], path: Path, mask: Path) -> Iterator[CutOut]:
    labels = without_void(decode_mask(mask, mask_indices))
    return cut_labels(
        name,
        path,
        labels,
        class_name=lambda number: categories.get(str(number), sequence),
        image_key=f"sequence {sequence}",
    )


DAVIS = Format("davis", is_davis, read_davis)
