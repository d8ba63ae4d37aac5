"""YOLO segmentation: images, and text files with one polygon per line."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from smile_synth.core.errors import UserError
from smile_synth.io.files import entries, walk
from smile_synth.io.images import Reject, read_bytes
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions, Rejected
from smile_synth.objects.readers._annotated import Annotated, AnnotatedImage, cut_annotated
from smile_synth.objects.readers._folders import check_folder, read_names
from smile_synth.objects.readers._segments import Region
from smile_synth.objects.readers._sidecars import Pair, has_sidecar, read_sidecars

LINE = re.compile(r"\s*\d+(\.0*)?(\s+-?\d*\.?\d+(e[-+]?\d+)?){4,}\s*", re.I)
NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt")


def is_yolo(path: Path) -> bool:
    """Return whether this is YOLO's ``data.yaml``, or a folder of images with text files of YOLO's lines."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml")
    return has_sidecar(path, walk(path)[0], _is_label)


def _is_label(path: Path) -> bool:
    if path.suffix.lower() != ".txt":
        return False
    try:
        with path.open(encoding="utf-8") as file:
            first = next((line for line in file if line.strip()), "")
    except (OSError, UnicodeDecodeError):
        return False
    return bool(LINE.fullmatch(first))


def read_yolo(source: str, options: ReadOptions) -> list[Item]:
    """List the images of a YOLO segmentation data set, in order of their paths.

    A line of ``labels/<path>.txt`` (or of the text file beside the image) is ``class x y x y ...`` in shares
    of width and height. Class names are those of the ``names`` in the folder's YAML file, or else the lines
    of ``classes.txt`` or ``obj.names``; other numbers n become ``class n``. Boxes are rejected.

    Args:
        source: the folder, or its YAML file.
        options: ``images`` and ``notes`` are used.

    Raises:
        UserError: no such folder, no text files, or an unusable YAML file.
    """
    given = Path(source)
    folder = given.parent if given.is_file() else check_folder(source)
    settings = _settings(given) if given.is_file() else _settings_in(folder)
    if isinstance(settings.get("path"), str) and (folder / settings["path"]).is_dir():
        folder = folder / settings["path"]
    names = _names(settings.get("names")) or dict(enumerate(read_names(folder, *NAME_FILES)))
    cut = partial(_cut, names, bool(settings.get("kpt_shape")))
    return read_sidecars(str(folder), ".txt", cut, options, image_name=_image_name)


def _settings_in(folder: Path) -> dict[str, Any]:
    files = [path for path in entries(folder) if path.suffix.lower() in (".yaml", ".yml")]
    found = [settings for path in files if "names" in (settings := _settings(path))]
    return found[0] if found else {}


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    return settings if isinstance(settings, dict) else {}


def _names(given: object) -> dict[int, str]:
    """Return class names by number, from a list or a mapping."""
    pairs = given.items() if isinstance(given, dict) else enumerate(given if isinstance(given, list) else [])
    return {int(number): str(name) for number, name in pairs if str(number).isdecimal()}


def _image_name(path: Path) -> str:
    raise UserError("no image: a text file without an image of its name")


def _cut(names: Mapping[int, str], has_keypoints: bool, pair: Pair) -> Iterator[CutOut | Rejected]:
    try:
        lines = read_bytes(pair.label.path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise Reject("unusable labels: the text file is not UTF-8") from None
    except Reject as reason:
        raise Reject(
            "no objects: the text file is empty" if str(reason) == "empty file" else str(reason)
        ) from None
    objects = [_object(str(number), line, names) for number, line in enumerate(lines) if line.strip()]
    if not objects:
        raise Reject("no objects: the text file is empty")
    if has_keypoints:
        raise Reject("not an outline: the data set has key points")
    return cut_annotated(AnnotatedImage(pair.name, pair.path), objects, shares=True)


def _object(object_id: str, line: str, names: Mapping[int, str]) -> Annotated:
    try:
        number, *values = map(float, line.replace(",", " ").split())
        name = names.get(int(number), f"class {int(number)}")
    except (OverflowError, ValueError):
        return Annotated(object_id, "", f"damaged line: expected a class and coordinates, got '{line[:40]}'")
    region: Region = (array("f", values),)
    if len(values) in (4, 5):  # some tools append a score
        region = "not an outline: a box of YOLO detection"
    return Annotated(object_id, name, region)


YOLO = Format("yolo", is_yolo, read_yolo)
