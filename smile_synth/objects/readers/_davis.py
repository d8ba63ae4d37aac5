"""DAVIS: ``JPEGImages/<size>/<sequence>/`` and ``Annotations/<size>/<sequence>/``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from smile_synth.core.errors import UserError
from smile_synth.io.files import printable
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions
from smile_synth.objects.readers._folders import check_folder, find_image
from smile_synth.objects.readers._masks import VOID, cut_labels, decode_mask, palette_indices
from smile_synth.objects.readers._voc import is_voc


def is_davis(path: Path) -> bool:
    """Return whether a folder has DAVIS's layout."""
    return not is_voc(path) and (path / "JPEGImages").is_dir() and bool(_resolutions(path))


def read_davis(source: str, options: ReadOptions) -> list[Item]:
    """List the frames of a DAVIS folder that have a mask, by sequence and frame.

    ``Annotations/<resolution>/<sequence>/<frame>.png`` is the mask of the image of the same name below
    ``JPEGImages``. If both folders have several resolutions, the highest one is used: a name without a
    number, such as ``Full-Resolution``, before ``1080p`` before ``480p``. In a mask 0 is background and
    255 is void, except where 255 is the only number (DAVIS 2016). An object's class is its sequence, whose
    frames count as one image. A mask may differ from its frame by two pixels per side.

    Raises:
        UserError: not such a folder, or without masks.
    """
    folder = check_folder(source, "JPEGImages", "Annotations")
    resolutions = _resolutions(folder)
    if not resolutions:
        raise UserError(
            f"object source '{source}': no masks, expected Annotations/<resolution>/<sequence>/<frame>.png "
            "and the same names below JPEGImages/"
        )
    resolution = max(resolutions, key=_height)
    frames = folder / "JPEGImages" / resolution
    masks = sorted((folder / "Annotations" / resolution).glob("*/*.png"))
    items = []
    for mask in masks:
        path = find_image(frames / mask.parent.name, mask.stem)
        sequence, name = printable(mask.parent.name), printable(f"{mask.parent.name}/{mask.stem}")
        items.append(Item(name, (path, mask), partial(_cut, name, sequence, path, mask)))
    return items


def _resolutions(folder: Path) -> list[str]:
    """Return the names below Annotations that contain masks and also exist below JPEGImages."""
    return [
        path.name
        for path in sorted((folder / "Annotations").glob("*/"))
        if (folder / "JPEGImages" / path.name).is_dir() and next(path.glob("*/*.png"), None)
    ]


def _height(resolution: str) -> float:
    number = re.search(r"\d+", resolution)
    return int(number[0]) if number else float("inf")


def _cut(name: str, sequence: str, path: Path, mask: Path) -> Iterator[CutOut]:
    labels = decode_mask(mask, palette_indices)
    if not np.isin(labels, (0, VOID)).all():
        labels = np.where(labels == VOID, 0, labels)
    key = f"sequence {sequence}"
    return cut_labels(name, path, labels, class_name=lambda _: sequence, image_key=key)


DAVIS = Format("davis", is_davis, read_davis)
