"""COCO and LVIS instance annotations."""

from __future__ import annotations

import json
import math
import mmap
import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.files import content_key
from smile_synth.io.images import Reject, UInt8, load_rgb, read_bytes
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions, Rejected, unusable
from smile_synth.objects._polygons import union_coverage
from smile_synth.objects.readers._masks import HALF, Photo

SECTIONS = ("images", "annotations", "categories")
# COCO's own folder also contains captions and key points of the same images.
INSTANCE_FILES = ("annotations.json", "instances_*.json", "lvis_v1_*.json")

Rings = tuple["array[float]", ...]


class _RunLengths(NamedTuple):
    """Run lengths down the columns, the first one outside; a list or COCO's compressed text."""

    size_hw: tuple[int, int]
    counts: array[int] | str


class _Annotation(NamedTuple):
    """The used part of an annotation; ``region`` is text, the reason, if it cannot be used."""

    annotation_id: Any
    image_id: Any
    category_id: Any
    crowd: bool
    region: Rings | _RunLengths | str


class _ImageEntry(NamedTuple):
    """The used part of an entry of ``images``; ``names`` are the possible paths of its file."""

    names: list[str]
    size_hw: tuple[int, int] | None
    licence: str


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
    folder ``annotations``, it also searches beside that folder.

    Every annotation is packed during parsing. Memory: twice the file's size while its text is decoded,
    then once, plus about 0.5 KB and 4 bytes per coordinate for each annotation, which stay.

    Args:
        source: the file, or a folder with one such file in it or in its ``annotations/``.
        options: ``images`` and ``crowd`` are used.

    Raises:
        UserError: no such file, several files, not JSON, not COCO's structure, or no image was found.
    """
    file = _find_file(source)
    data = _parse(file)
    classes, licences = _names(file, data, "categories"), _names(file, data, "licenses")
    images, rejected = _read_images(data["images"], licences)
    groups: dict[Any, list[_Annotation]] = defaultdict(list)
    for number, found in enumerate(data["annotations"]):
        annotation = _pack(found) if isinstance(found, dict) else found
        if not isinstance(annotation, _Annotation):
            reason = f"unusable entry: not an annotation but {type(found).__name__}"
        elif not isinstance(annotation.image_id, Hashable) or annotation.image_id not in images:
            reason = (
                f"unknown image: annotation {annotation.annotation_id} has image_id {annotation.image_id}"
            )
        else:
            groups[annotation.image_id].append(annotation)
            continue
        rejected.append(unusable(f"annotations[{number}]", reason))

    folders = _image_folders(file, options.images)
    items: list[Item] = []
    any_found = False
    for image_id, image in images.items():
        if image_id in groups:
            path = _find_image(image, folders)
            any_found |= path is not None
            path = path or folders[0] / image.names[0]
            class_names = tuple(_class_of(annotation, classes) for annotation in groups[image_id])
            cut = partial(_cut, image, path, tuple(groups[image_id]), class_names, options.crowd)
            items.append(Item(image.names[0], (path, file), cut))
    if items and not any_found:
        raise UserError(
            f"object source '{source}': none of its {len(items)} images was found, first {items[0].source}; "
            f"searched in {', '.join(map(str, folders))}; pass their folder as images="
        )
    return items + rejected


# --- Finding the annotation file and the images


def _instance_files(folder: Path) -> list[Path]:
    places = [place for place in (folder, folder / "annotations") if place.is_dir()]
    for patterns in (INSTANCE_FILES, ("*.json",)):
        named = {path for place in places for pattern in patterns for path in place.glob(pattern)}
        if files := [path for path in sorted(named) if path.is_file() and _mentions_sections(path)]:
            return files
    return []


def _mentions_sections(path: Path) -> bool:
    # Parsing takes a minute for the larger files; this takes a fraction of a second.
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            return all(text.find(f'"{section}"'.encode()) >= 0 for section in SECTIONS)
    except (OSError, ValueError):  # an empty file cannot be mapped
        return False


def _find_file(source: str) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    if not path.is_dir():
        raise UserError(f"object source '{source}': no such file or folder")
    files = _instance_files(path)
    if not files:
        raise UserError(
            f"object source '{source}': no .json with {', '.join(SECTIONS)} in it or in its annotations/"
        )
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
    places = [base / name for base in bases for name in (".", "images", split, f"images/{split}")]
    return [place for place in dict.fromkeys(places) if place.is_dir()]


def _find_image(image: _ImageEntry, folders: list[Path]) -> Path | None:
    candidates = (folder / name for folder in folders for name in image.names)
    # os.path.isfile, unlike Path.is_file, returns False for names that the system refuses.
    return next((path for path in candidates if os.path.isfile(path)), None)


# --- Parsing


def _parse(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8-sig"), object_hook=_pack_annotation)
    # RecursionError: nested too deep; ValueError: not UTF-8, not JSON, or a number of thousands of digits.
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(
            f"{file}: a {type(data).__name__} at top, expected an object with {', '.join(SECTIONS)}"
        )
    for section in SECTIONS:
        if section not in data:
            keys = ", ".join(map(_text, data)) or "none"
            raise UserError(f"{file}: no '{section}' at top, its keys are {keys}{nearest(section, data)}")
        if not isinstance(data[section], list):
            raise UserError(f"{file}: '{section}' must be a list")
    return data


def _pack_annotation(entry: dict[str, Any]) -> dict[str, Any] | _Annotation:
    """Pack an annotation as soon as it is parsed, because plain lists need several times the memory."""
    return _pack(entry) if "image_id" in entry and "segmentation" in entry else entry


def _pack(entry: dict[str, Any]) -> _Annotation:
    return _Annotation(
        annotation_id=entry.get("id"),
        image_id=entry.get("image_id"),
        category_id=entry.get("category_id"),
        crowd=bool(entry.get("iscrowd")),
        region=_pack_region(entry.get("segmentation")),
    )


def _pack_region(segmentation: object) -> Rings | _RunLengths | str:
    if not segmentation:
        return "no segmentation: missing or empty"
    try:
        if isinstance(segmentation, dict):
            (height, width), counts = segmentation["size"], segmentation["counts"]
            size_hw = int(height), int(width)
            return _RunLengths(size_hw, counts if isinstance(counts, str) else array("q", counts))
        if isinstance(segmentation, list):
            return tuple(array("f", ring) for ring in segmentation)
    except (KeyError, OverflowError, TypeError, ValueError):
        pass
    return "bad segmentation: neither lists of numbers nor run lengths"


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
        elif entry["id"] in images or image.names[0] in names:
            reason = f"listed twice: an earlier entry has id {entry['id']} or file {image.names[0]}"
            rejected.append(unusable(f"images[{number}]", reason))
        else:
            images[entry["id"]] = image
            names.add(image.names[0])
    return images, rejected


def _read_image(entry: object, licences: Mapping[Any, str]) -> _ImageEntry | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | float | str):
        return None
    names = [_text(entry["file_name"])] if entry.get("file_name") else []
    if entry.get("coco_url"):
        parts = PurePosixPath(unquote(urlsplit(_text(entry["coco_url"])).path)).parts
        names += ["/".join(parts[-2:]), *parts[-1:]]
    if not names:
        return None
    height, width, licence = entry.get("height"), entry.get("width"), entry.get("license")
    size_hw = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return _ImageEntry(names, size_hw, licences.get(licence, "") if isinstance(licence, Hashable) else "")


def _names(file: Path, data: dict[str, Any], section: str) -> dict[Any, str]:
    """Return the names of categories or licences by id."""
    names: dict[Any, str] = {}
    entries = data.get(section)
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        valid = isinstance(entry, dict) and isinstance(entry.get("id"), int | float | str)
        if not valid or "name" not in entry:
            raise UserError(f"{file}: {section}[{number}] lacks an id or a name")
        name = names.setdefault(entry["id"], _text(entry["name"]))
        if name != _text(entry["name"]):
            raise UserError(f"{file}: {section}: id {entry['id']} is both '{name}' and '{entry['name']}'")
    return names


def _class_of(annotation: _Annotation, classes: Mapping[Any, str]) -> str | None:
    return classes.get(annotation.category_id) if isinstance(annotation.category_id, Hashable) else None


def _text(value: object) -> str:
    """Return a value as valid UTF-8 without NUL: JSON allows text that files and file names do not."""
    return str(value).replace("\0", "?").encode("utf-8", "replace").decode()


# --- Cutting


class _Shape(NamedTuple):
    """A valid region: its area, and a function that returns its first (row, column) and its alpha."""

    area: float
    draw: Callable[[], tuple[tuple[int, int], UInt8]]


def _cut(
    image: _ImageEntry,
    path: Path,
    annotations: tuple[_Annotation, ...],
    class_names: tuple[str | None, ...],
    crowd: bool,
) -> Iterator[CutOut | Rejected]:
    """Cut the annotated objects out, the smallest first."""
    data, source = read_bytes(path), image.names[0]
    photo = Photo(source, content_key(data), load_rgb(data, image.size_hw), image.licence)
    shapes: dict[str, tuple[_Shape, str]] = {}
    ids: set[str] = set()
    for number, (annotation, class_name) in enumerate(zip(annotations, class_names, strict=True)):
        given = annotation.annotation_id
        object_id = _text(f"nr{number}" if given is None else given)
        try:
            if object_id in ids:
                raise Reject(f"listed twice: another annotation of the image has id {object_id}")
            ids.add(object_id)
            if annotation.crowd and not crowd:
                raise Reject("crowd region")
            if class_name is None:
                raise Reject(f"unknown category: category_id {annotation.category_id}")
            shapes[object_id] = _shape(annotation.region, *photo.rgb.shape[:2]), class_name
        except Reject as reason:
            yield Rejected(f"{source}#{object_id}", str(reason))
    claimed = np.zeros(photo.rgb.shape[:2], np.bool_)
    for object_id, (shape, name) in sorted(shapes.items(), key=lambda entry: entry[1][0].area):
        (top, left), alpha = shape.draw()
        inside = alpha >= HALF
        window = claimed[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        covered = int((window & inside).sum()) / max(1, int(inside.sum()))
        window |= inside
        try:
            yield photo.cut(alpha, (top, left), class_name=name, object_id=object_id, covered=covered)
        except Reject as reason:
            yield Rejected(f"{source}#{object_id}", str(reason))


def _shape(region: Rings | _RunLengths | str, height: int, width: int) -> _Shape:
    if isinstance(region, str):
        raise Reject(region)
    if isinstance(region, _RunLengths):
        return _run_length_shape(region, height, width)
    return _polygon_shape(region, height, width)


def _polygon_shape(region: Rings, height: int, width: int) -> _Shape:
    rings = []
    for coordinates in region:
        if len(coordinates) % 2:
            raise Reject(f"bad polygon: an odd number of coordinates, {len(coordinates)}")
        if len(coordinates) < 6:
            raise Reject(f"bad polygon: {len(coordinates) // 2} points, at least 3 are needed")
        ring = np.array(coordinates, np.float64).reshape(-1, 2)
        if not np.isfinite(ring).all():
            raise Reject("bad polygon: a coordinate is not a finite number")
        rings.append(ring)
    points = np.concatenate(rings)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise Reject("outside the image: the whole polygon")
    y0, x0 = math.floor(max(0.0, top)), math.floor(max(0.0, left))
    y1, x1 = math.ceil(min(height, bottom)), math.ceil(min(width, right))

    def draw() -> tuple[tuple[int, int], UInt8]:
        return (y0, x0), union_coverage([ring - (x0, y0) for ring in rings], y1 - y0, x1 - x0)

    return _Shape(sum(abs(_shoelace(ring)) for ring in rings), draw)


def _shoelace(ring: NDArray[np.float64]) -> float:
    x, y = (ring - ring[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _run_length_shape(region: _RunLengths, height: int, width: int) -> _Shape:
    if region.size_hw != (height, width):
        given = "x".join(map(str, region.size_hw))
        raise Reject(f"size differs: the image has {height}x{width} pixels, its run lengths {given}")
    text = isinstance(region.counts, str)
    counts = _decompress(str(region.counts)) if text else np.array(region.counts, np.int64)
    # The sum alone could overflow.
    if (counts < 0).any() or (counts > height * width).any() or counts.sum() != height * width:
        raise Reject(f"damaged run lengths: their sum is not {height}x{width} pixels")
    return _Shape(float(counts[1::2].sum()), partial(_draw_runs, counts, height, width))


def _draw_runs(counts: NDArray[np.int64], height: int, width: int) -> tuple[tuple[int, int], UInt8]:
    values = np.zeros(len(counts), np.uint8)
    values[1::2] = 255
    return (0, 0), np.repeat(values, counts).reshape(width, height).T


def _decompress(text: str) -> NDArray[np.int64]:
    """Decode COCO's compressed run lengths.

    Five bits per character, lowest first; bit 32 means that more follow; bit 16 of the last one is the
    sign. From the fourth number on, each is the difference to the one before the last. (The decoder of
    pycocotools reads memory outside of the text if the text is damaged.)
    """
    numbers: list[int] = []
    value = shift = 0
    for code in text.encode("latin-1", "replace"):
        bits = code - 48
        if not 0 <= bits < 64 or shift > 35:
            raise Reject("damaged run lengths: not COCO's compressed text")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    if shift:
        raise Reject("damaged run lengths: the compressed text is incomplete")
    return np.array(numbers, np.int64)


COCO = Format("coco", is_coco, read_coco)
