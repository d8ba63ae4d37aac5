"""Segment Anything (SA-1B): ``<image>.jpg`` and ``<image>.json`` with the masks of one image."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from smile_synth.core.errors import UserError
from smile_synth.io.files import walk
from smile_synth.io.images import Reject
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions, Rejected
from smile_synth.objects.readers._annotated import Annotated, AnnotatedImage, cut_annotated
from smile_synth.objects.readers._coco import parse_json
from smile_synth.objects.readers._kinds import is_kind
from smile_synth.objects.readers._segments import pack_region
from smile_synth.objects.readers._sidecars import Pair, has_sidecar, read_sidecars


def is_sa1b(path: Path) -> bool:
    """Return whether this is a JSON file of SA-1B, or a folder with such files beside their images."""
    is_label = partial(is_kind, format="sa1b")
    return is_label(path) if path.is_file() else has_sidecar(path, walk(path)[0], is_label)


def read_sa1b(source: str, options: ReadOptions) -> list[Item]:
    """List the images of a folder that have a JSON file of SA-1B, in order of their paths.

    Masks have no category. The class is the path of the file's folder relative to the source; for files
    directly in the source, the source's own name.

    Raises:
        UserError: no such folder, or no JSON file in it.
    """
    return read_sidecars(source, ".json", _cut, options, image_name=_image_name)


def _parse(path: Path) -> dict[str, Any]:
    data = parse_json(path, ("annotations",), lambda entry: entry)
    if not isinstance(data.get("image"), dict):
        raise UserError(f"{path}: no 'image' at top")
    return data


def _image_name(path: Path) -> str:
    return str(_parse(path)["image"].get("file_name") or path.with_suffix(".jpg").name)


def _cut(pair: Pair) -> Iterator[CutOut | Rejected]:
    try:
        data = _parse(pair.label.path)
    except UserError as error:
        raise Reject(f"unusable labels: {error}") from None
    entries = [entry for entry in data["annotations"] if isinstance(entry, dict)]
    objects = [
        Annotated(str(entry.get("id", number)), pair.label.class_name, pack_region(entry.get("segmentation")))
        for number, entry in enumerate(entries)
    ]
    if not objects:
        raise Reject("no objects: the list of annotations is empty")
    return cut_annotated(AnnotatedImage(pair.name, pair.path), objects)


SA1B = Format("sa1b", is_sa1b, read_sa1b)
