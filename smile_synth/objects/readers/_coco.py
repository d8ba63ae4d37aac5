"""COCO and LVIS instance annotations."""

from __future__ import annotations

import json
import mmap
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.files import entries
from smile_synth.io.matching import match_files
from smile_synth.objects._item import Format, Item, ReadOptions, unusable
from smile_synth.objects.readers._annotated import Annotated, AnnotatedImage, cut_annotated
from smile_synth.objects.readers._folders import is_image
from smile_synth.objects.readers._kinds import describe, kind_of
from smile_synth.objects.readers._segments import Region, pack_region

SECTIONS = ("images", "annotations", "categories")
# COCO's own folder also contains captions and key points of the same images.
INSTANCE_FILES = ("annotations.json", "instances_*.json", "lvis_v1_*.json")
CROWD = "crowd region"
NO_TEXTS = ("", "0", "0.0", "false", "no", "none", "null")


class CocoAnnotation(NamedTuple):
    """The used part of an annotation; ``region`` is text, the reason, if it cannot be used."""

    annotation_id: Any
    image_id: Any
    category_id: Any
    crowd: bool
    region: Region


class _ImageEntry(NamedTuple):
    """The used part of an entry of ``images``.

    ``names`` are the possible paths of its file; ``key`` is its image key, empty for the hash of the file.
    """

    names: list[str]
    size_hw: tuple[int, int] | None
    licence: str
    key: str


def is_coco(path: Path) -> bool:
    """Return whether this is a JSON file, or a folder that contains COCO's instance annotations."""
    return path.suffix.lower() == ".json" if path.is_file() else bool(_instance_files(path))


def read_coco(source: str, options: ReadOptions) -> list[Item]:
    """List the annotated images of a COCO or LVIS JSON file, in the file's order.

    Polygons become anti-aliased alpha, run lengths a hard one. ``covered`` assumes that the object with the
    smaller area is in front. Crowd regions are rejected unless ``options.crowd``.

    The reader searches images by ``file_name``, then by the last two parts of ``coco_url``, then by its
    last part: in ``options.images``, or else beside the JSON file, in ``images/``, in a folder named after
    the split (``train2017`` of ``instances_train2017.json``) and in ``images/<split>``. If the file is in a
    folder ``annotations``, it also searches beside that folder. Images that are still missing are matched by
    the end of their names (see `match_files`).

    Every annotation is packed during parsing. Memory: twice the file's size while its text is decoded,
    then once, plus about 0.5 KB and 4 bytes per coordinate for each annotation, which stay.

    Args:
        source: the file, or a folder with one such file in it or in its ``annotations/``.
        options: ``images``, ``crowd`` and ``notes`` are used.

    Raises:
        UserError: no such file, several files, not JSON, not COCO's structure, or no image was found.
    """
    file = find_json(source, _instance_files, ", ".join(SECTIONS))
    kind = kind_of(file)
    if kind and kind.format != "coco":
        raise UserError(f"{file}: {describe(file)}")
    return document_items(source, file, parse_json(file, SECTIONS, _pack_annotation), options)


def document_items(source: str, file: Path, data: dict[str, Any], options: ReadOptions) -> list[Item]:
    """List the annotated images of a parsed document; the key ``image_key`` of an image is optional.

    Raises:
        UserError: as `read_coco`.
    """
    classes, licences = _classes(file, data["categories"]), _licences(data.get("licenses"))
    images, rejected = _read_images(data["images"], licences)
    groups: dict[Any, list[CocoAnnotation]] = defaultdict(list)
    for number, found in enumerate(data["annotations"]):
        annotation = _pack(found) if isinstance(found, dict) else found
        if not isinstance(annotation, CocoAnnotation):
            reason = f"unusable entry: not an annotation but {type(found).__name__}"
        elif annotation.image_id not in images:
            reason = (
                f"unknown image: annotation {annotation.annotation_id} has image_id {annotation.image_id}"
            )
        else:
            groups[annotation.image_id].append(annotation)
            continue
        rejected.append(unusable(f"annotations[{number}]", reason))

    annotated = [(image, groups[image_id]) for image_id, image in images.items() if image_id in groups]
    folders = _image_folders(file, options.images)
    below = options.images or (file.parent.parent if file.parent.name == "annotations" else file.parent)
    matches = match_files([image.names for image, _ in annotated], folders, below=below, suitable=is_image)
    if annotated and not matches.paths and not matches.problems:
        raise UserError(
            f"object source '{source}': none of its {len(annotated)} images was found, first "
            f"{annotated[0][0].names[0]}; searched in {', '.join(map(str, folders))}; "
            "pass their folder as images="
        )
    if matches.note:
        options.notes.append(f"{file}: {matches.note}")
    items: list[Item] = []
    for number, (image, of_image) in enumerate(annotated):
        name = image.names[0]
        if number in matches.problems:
            items.append(unusable(name, matches.problems[number]))
            continue
        path = matches.paths.get(number, folders[0] / name)
        objects = tuple(_annotated(annotation, classes, options.crowd) for annotation in of_image)
        found_image = AnnotatedImage(name, path, image.size_hw, image.licence, image.key)
        items.append(Item(name, (path, file), partial(cut_annotated, found_image, objects)))
    return items + rejected


def _annotated(annotation: CocoAnnotation, classes: Mapping[Any, str], crowd: bool) -> Annotated:
    object_id = "" if annotation.annotation_id is None else _text(annotation.annotation_id)
    class_name = classes.get(annotation.category_id)
    problem = "" if class_name is not None else f"unknown category: category_id {annotation.category_id}"
    if annotation.crowd and not crowd:
        problem = CROWD
    return Annotated(object_id, class_name or "", annotation.region, problem)


# --- Finding the annotation file and the images


def json_files(folder: Path) -> list[Path]:
    """Return the JSON files in a folder and in its ``annotations/``."""
    visible = entries(folder) + entries(folder / "annotations")
    return [path for path in visible if path.suffix.lower() == ".json" and path.is_file()]


def _instance_files(folder: Path) -> list[Path]:
    files = [path for path in json_files(folder) if _mentions_sections(path)]
    return [path for path in files if any(path.match(pattern) for pattern in INSTANCE_FILES)] or files


def _mentions_sections(path: Path) -> bool:
    # Parsing takes a minute for the larger files; this takes a fraction of a second.
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return all(text.find(f'"{section}"'.encode()) >= 0 for section in SECTIONS)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def find_json(source: str, files_in: Callable[[Path], list[Path]], content: str) -> Path:
    """Return the annotation file of a source: the source itself, or the only file of its folder.

    Args:
        source: a file or a folder.
        files_in: returns the annotation files of a folder.
        content: what they contain, for the message.

    Raises:
        UserError: no such path, or another number of files than one.
    """
    path = Path(source)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"object source '{source}': no such file or folder")
    files = files_in(path)
    if not files:
        raise UserError(f"object source '{source}': no .json with {content} in it or in its annotations/")
    if len(files) > 1:
        names = ", ".join(file.relative_to(path).as_posix() for file in files)
        raise UserError(f"object source '{source}': {len(files)} annotation files, pass one of {names}")
    return files[0]


def _image_folders(file: Path, images: Path | None) -> list[Path]:
    if images is not None:
        if not images.is_dir():
            raise UserError(f"folder of images '{images}': no such folder")
        return [images]
    split = file.stem.rsplit("_", 1)[-1]
    bases = [file.parent, *([file.parent.parent] if file.parent.name == "annotations" else [])]
    names = (".", "images", split, f"images/{split}", "JPEGImages", f"{split}/JPEGImages")
    places = [base / name for base in bases for name in names]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


# --- Parsing


def parse_json(file: Path, sections: Sequence[str], hook: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Parse a JSON file with lists under the keys ``sections``; ``hook`` is the parser's object hook.

    Raises:
        UserError: unreadable, not JSON, or of another structure.
    """
    try:
        data = json.loads(file.read_text("utf-8-sig"), object_hook=hook)
    # RecursionError: nested too deep; ValueError: not UTF-8, not JSON, or a number of thousands of digits.
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(
            f"{file}: a {type(data).__name__} at top, expected an object with {', '.join(sections)}"
        )
    for section in sections:
        if section not in data:
            keys = ", ".join(map(_text, data)) or "none"
            raise UserError(f"{file}: no '{section}' at top, its keys are {keys}{nearest(section, data)}")
        if not isinstance(data[section], list):
            raise UserError(f"{file}: '{section}' must be a list")
    return data


def _pack_annotation(entry: dict[str, Any]) -> dict[str, Any] | CocoAnnotation:
    """Pack an annotation as soon as it is parsed, because plain lists need several times the memory."""
    return _pack(entry) if "image_id" in entry and "segmentation" in entry else entry


def _pack(entry: dict[str, Any]) -> CocoAnnotation:
    return CocoAnnotation(
        annotation_id=entry.get("id"),
        image_id=identifier(entry.get("image_id")),
        category_id=identifier(entry.get("category_id")),
        crowd=is_true(entry.get("iscrowd")),
        region=pack_region(entry.get("segmentation")),
    )


def identifier(value: Any) -> Any:
    """Return an id in one form: tools write ``7``, ``7.0`` and ``"7"``. Unhashable values become text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int | float | str | tuple) else str(value)


def is_true(value: Any) -> bool:
    return value.strip().lower() not in NO_TEXTS if isinstance(value, str) else bool(value)


def _whole(value: Any) -> int | None:
    try:
        return int(float(value)) or None
    except (OverflowError, TypeError, ValueError):
        return None


def _read_images(
    entries: list[Any], licences: Mapping[Any, str]
) -> tuple[dict[Any, _ImageEntry], list[Item]]:
    """Return the usable entries of ``images`` by id, and the others."""
    images: dict[Any, _ImageEntry] = {}
    rejected: list[Item] = []
    names: set[str] = set()
    for number, entry in enumerate(entries):
        image = _read_image(entry, licences)
        if image is None:
            rejected.append(unusable(f"images[{number}]", "unusable entry: no id or no file name"))
        elif identifier(entry["id"]) in images or image.names[0] in names:
            reason = f"listed twice: an earlier entry has id {entry['id']} or file {image.names[0]}"
            rejected.append(unusable(f"images[{number}]", reason))
        else:
            images[identifier(entry["id"])] = image
            names.add(image.names[0])
    return images, rejected


def _read_image(entry: object, licences: Mapping[Any, str]) -> _ImageEntry | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | float | str | tuple):
        return None
    names = [_text(entry["file_name"])] if entry.get("file_name") else []
    if entry.get("coco_url"):
        parts = PurePosixPath(unquote(urlsplit(_text(entry["coco_url"])).path)).parts
        names += ["/".join(parts[-2:]), *parts[-1:]]
    if not names:
        return None
    height, width = _whole(entry.get("height")), _whole(entry.get("width"))
    size_hw = (height, width) if height is not None and width is not None else None
    licence = licences.get(identifier(entry.get("license")), "")
    return _ImageEntry(names, size_hw, licence, _text(entry.get("image_key", "")))


def _classes(file: Path, entries: list[Any]) -> dict[Any, str]:
    """Return the names of categories by id."""
    names: dict[Any, str] = {}
    for number, entry in enumerate(entries):
        valid = isinstance(entry, dict) and isinstance(entry.get("id"), int | float | str)
        if not valid or "name" not in entry:
            raise UserError(f"{file}: categories[{number}] lacks an id or a name")
        name = names.setdefault(identifier(entry["id"]), _text(entry["name"]))
        if name != _text(entry["name"]):
            raise UserError(f"{file}: categories: id {entry['id']} is both '{name}' and '{entry['name']}'")
    return names


def _licences(entries: object) -> dict[Any, str]:
    """Return the names, or else the addresses, of licences by id; tools write incomplete ones."""
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return {
        identifier(entry.get("id")): _text(entry.get("name") or entry.get("url") or "") for entry in found
    }


def _text(value: object) -> str:
    """Return a value as valid UTF-8 without NUL: JSON allows text that files and file names do not."""
    return str(value).replace("\0", "?").encode("utf-8", "replace").decode()


COCO = Format("coco", is_coco, read_coco)
