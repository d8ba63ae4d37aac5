"""Read COCO and LVIS instance annotations."""

from __future__ import annotations

import json
import math
import mmap
import os
from array import array
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.files import key_of
from smile_synth.io.images import Reject, load_rgb, read_bytes
from smile_synth.objects._folder import LostItem
from smile_synth.objects._item import CutOut, Item, ReadOptions, Rejected, UInt8
from smile_synth.objects._mask_cut import HALF, Photo, corner_of
from smile_synth.objects._polygons import union_coverage

SECTIONS = ("images", "annotations", "categories")
# Beside these, COCO's own folder holds captions and key points of the same images.
INSTANCE_NAMES = ("annotations.json", "instances_*.json", "lvis_v1_*.json")


@dataclass(frozen=True, slots=True)
class _Rle:
    """Run lengths down the columns, first outside; as a list or in COCO's compressed text."""

    size_hw: tuple[int, int]
    counts: array[int] | str


@dataclass(frozen=True, slots=True)
class _Annotation:
    """What is kept of an annotation; a region that cannot be used is the reason why."""

    annotation_id: Any
    image_id: Any
    category_id: Any
    crowd: bool
    region: tuple[array[float], ...] | _Rle | str


def is_coco(path: Path) -> bool:
    """Tell whether this is a JSON file, or a folder that holds COCO's instance annotations."""
    return path.suffix.lower() == ".json" if path.is_file() else bool(_instance_files(path))


def read_coco(source: str, options: ReadOptions) -> list[Item]:
    """List the annotated images of a COCO or LVIS JSON file, in the file's order.

    Polygons become anti-aliased alpha, run lengths a hard one. ``covered`` takes the object of the smaller
    area to lie in front. Crowd regions are rejected unless ``options.crowd``.

    Images are looked for under ``file_name``, then under the last two parts of ``coco_url``, then under
    its last part: in ``options.images``, else beside the JSON file, in ``images/``, in a folder named after
    the split (``train2017`` of ``instances_train2017.json``) and in ``images/<split>``; where the file
    stands in a folder ``annotations``, beside that folder, too.

    The file is parsed in one piece, each annotation packed as soon as it is read. Memory: twice the
    file's size while its text is decoded, then once, plus about 0.5 KB and 4 bytes per coordinate for each
    annotation, which is what remains.

    Args:
        source: the file, or a folder with one such file in it or in its ``annotations/``.
        options: ``images`` and ``crowd`` are used.

    Raises:
        UserError: no such file, several, not JSON, not of COCO's form, or none of its images is there.
    """
    file = _find_file(source)
    data = _parse(file)
    classes, licences = _names(file, data, "categories"), _names(file, data, "licenses")
    pictures: dict[Any, _Entry] = {}
    unusable: list[Item] = []
    taken: set[str] = set()
    for place, entry in enumerate(data["images"]):
        image = _entry(entry, licences)
        if image is None:
            unusable.append(LostItem(f"images[{place}]", "unusable entry: no id or no file name"))
        elif entry["id"] in pictures or image.name in taken:
            reason = f"listed twice: id {entry['id']} or {image.name} is in 'images' before"
            unusable.append(LostItem(f"images[{place}]", reason))
        else:
            pictures[entry["id"]] = image
            taken.add(image.name)
    groups: dict[Any, list[_Annotation]] = {image_id: [] for image_id in pictures}
    for place, found in enumerate(data["annotations"]):
        annotation = _packed(found) if isinstance(found, dict) else found
        if not isinstance(annotation, _Annotation):
            reason = f"unusable entry: not an annotation but {type(found).__name__}"
        elif not isinstance(annotation.image_id, Hashable) or annotation.image_id not in groups:
            reason = (
                f"unknown image: annotation {annotation.annotation_id} has image_id {annotation.image_id}"
            )
        else:
            groups[annotation.image_id].append(annotation)
            continue
        unusable.append(LostItem(f"annotations[{place}]", reason))
    del data

    find = _Finder(file, options.images)
    items: list[Item] = []
    for image_id, group in groups.items():
        if group:
            image = pictures[image_id]
            class_names = tuple(_class_of(annotation, classes) for annotation in group)
            items.append(
                _CocoImage(
                    source=image.name,
                    path=find(image),
                    file=file,
                    size_hw=image.size_hw,
                    licence=image.licence,
                    crowd=options.crowd,
                    annotations=tuple(group),
                    class_names=class_names,
                )
            )
    if items and not find.found:
        raise UserError(
            f"object source '{source}': none of its {len(items)} images is there, first {items[0].source}; "
            f"looked in {', '.join(map(str, find.folders)) or 'no folder'}; name their folder (--images DIR)"
        )
    return items + unusable


def _instance_files(folder: Path) -> list[Path]:
    places = [place for place in (folder, folder / "annotations") if place.is_dir()]
    for patterns in (INSTANCE_NAMES, ("*.json",)):
        named = {path for place in places for pattern in patterns for path in place.glob(pattern)}
        if files := [path for path in sorted(named) if path.is_file() and _mentions_sections(path)]:
            return files
    return []


def _mentions_sections(path: Path) -> bool:
    # Parsing would take a minute for the larger files; this takes a fraction of a second.
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
        raise UserError(f"object source '{source}': {len(files)} annotation files, name one of {names}")
    return files[0]


def _parse(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text("utf-8-sig"), object_hook=_pack_annotations)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{file}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep, or a number of thousands of digits
        raise UserError(f"{file}: not to be read as JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(
            f"{file}: a {type(data).__name__} at top, expected an object with {', '.join(SECTIONS)}"
        )
    for section in SECTIONS:
        if section not in data:
            keys = ", ".join(map(_text, data)) or "none"
            raise UserError(f"{file}: no '{section}' at top, its keys are {keys}{nearest(section, data)}")
        if not isinstance(data[section], list):
            raise UserError(f"{file}: '{section}' is no list")
    return data


def _names(file: Path, data: dict[str, Any], section: str) -> dict[Any, str]:
    """Return the names of categories or licences by id."""
    names: dict[Any, str] = {}
    entries = data.get(section)
    for place, entry in enumerate(entries if isinstance(entries, list) else ()):
        if (
            not isinstance(entry, dict)
            or "name" not in entry
            or not isinstance(entry.get("id"), int | float | str)
        ):
            raise UserError(f"{file}: {section}[{place}] lacks an id or a name")
        if names.setdefault(entry["id"], _text(entry["name"])) != _text(entry["name"]):
            known = names[entry["id"]]
            raise UserError(f"{file}: {section}: id {entry['id']} is both '{known}' and '{entry['name']}'")
    return names


def _text(value: object) -> str:
    """Return a value as text that can be written anywhere: JSON allows what UTF-8 and file names do not."""
    return str(value).replace("\0", "?").encode("utf-8", "replace").decode()


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is kept of an entry of ``images``; ``names`` are where its file may stand."""

    name: str
    names: tuple[str, ...]
    size_hw: tuple[int, int] | None
    licence: str


def _entry(entry: object, licences: Mapping[Any, str]) -> _Entry | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | float | str):
        return None
    names = [_text(entry["file_name"])] if entry.get("file_name") else []
    if entry.get("coco_url"):
        parts = PurePosixPath(unquote(urlsplit(_text(entry["coco_url"])).path)).parts
        names += ["/".join(parts[-2:]), *parts[-1:]]
    if not names:
        return None
    height, width = entry.get("height"), entry.get("width")
    size_hw = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    licence = entry.get("license")
    known = licences.get(licence, "") if isinstance(licence, int | float | str) else ""
    return _Entry(names[0], tuple(dict.fromkeys(names)), size_hw, known)


class _Finder:
    """Finds images in the folders they may stand in."""

    def __init__(self, file: Path, images: Path | None) -> None:
        if images is not None:
            if not images.is_dir():
                raise UserError(f"folder of images '{images}': no such folder")
            self.folders = [images]
        else:
            split = file.stem.rsplit("_", 1)[-1]
            bases = [file.parent, *([file.parent.parent] if file.parent.name == "annotations" else [])]
            places = [base / name for base in bases for name in (".", "images", split, f"images/{split}")]
            self.folders = [place for place in dict.fromkeys(places) if place.is_dir()]
        self.found = 0

    def __call__(self, image: _Entry) -> Path:
        for folder in self.folders:
            for name in image.names:
                if os.path.isfile(folder / name):  # unlike Path's, False for names the system refuses
                    self.found += 1
                    return folder / name
        return self.folders[0] / image.name


def _pack_annotations(entry: dict[str, Any]) -> dict[str, Any] | _Annotation:
    """Pack what is an annotation by its keys as soon as it is parsed; plain lists take several times more."""
    return _packed(entry) if "image_id" in entry and "segmentation" in entry else entry


def _packed(entry: dict[str, Any]) -> _Annotation:
    return _Annotation(
        annotation_id=entry.get("id"),
        image_id=entry.get("image_id"),
        category_id=entry.get("category_id"),
        crowd=bool(entry.get("iscrowd")),
        region=_region(entry.get("segmentation")),
    )


def _region(given: object) -> tuple[array[float], ...] | _Rle | str:
    if not given:
        return "no segmentation: missing or empty"
    try:
        if isinstance(given, dict):
            height, width = given["size"]
            counts = given["counts"]
            return _Rle((int(height), int(width)), counts if isinstance(counts, str) else array("q", counts))
        if isinstance(given, list):
            return tuple(array("f", ring) for ring in given)
    except (KeyError, OverflowError, TypeError, ValueError):
        pass
    return "bad segmentation: neither lists of numbers nor run lengths"


def _class_of(annotation: _Annotation, classes: Mapping[Any, str]) -> str | None:
    return classes.get(annotation.category_id) if isinstance(annotation.category_id, Hashable) else None


@dataclass(frozen=True)
class _CocoImage:
    source: str
    path: Path
    file: Path
    size_hw: tuple[int, int] | None
    licence: str
    crowd: bool
    annotations: tuple[_Annotation, ...]
    class_names: tuple[str | None, ...]

    def cut_outs(self) -> Iterator[CutOut | Rejected]:
        data = read_bytes(self.path)
        photo = Photo(self.source, key_of(data), load_rgb(data, self.size_hw), self.licence)
        usable: list[tuple[float, str, str, _Shape]] = []
        ids: set[str] = set()
        for place, (annotation, class_name) in enumerate(
            zip(self.annotations, self.class_names, strict=True)
        ):
            given = annotation.annotation_id
            object_id = _text(f"nr{place}" if given is None else given)
            try:
                if object_id in ids:
                    raise Reject(f"listed twice: another annotation of the image has id {object_id}")
                ids.add(object_id)
                if annotation.crowd and not self.crowd:
                    raise Reject("crowd region")
                if class_name is None:
                    raise Reject(f"unknown category: category_id {annotation.category_id}")
                shape = _shape(annotation.region, photo.rgb.shape[:2])
            except Reject as reason:
                yield Rejected(f"{self.source}#{object_id}", str(reason))
            else:
                usable.append((shape.area, object_id, class_name, shape))
        usable.sort(key=lambda entry: entry[0])
        claimed = np.zeros(photo.rgb.shape[:2], np.bool_)
        for _, object_id, class_name, shape in usable:
            window, alpha = shape.draw()
            inside = alpha >= HALF
            before = claimed[window]
            covered = int((before & inside).sum()) / max(1, int(inside.sum()))
            before |= inside
            try:
                yield photo.cut(
                    alpha, corner_of(window), class_name=class_name, object_id=object_id, covered=covered
                )
            except Reject as reason:
                yield Rejected(f"{self.source}#{object_id}", str(reason))


class _Shape(Protocol):
    """A checked region of an image: its area, before it is drawn, and its alpha within a window."""

    @property
    def area(self) -> float: ...

    def draw(self) -> tuple[tuple[slice, slice], UInt8]: ...


def _shape(region: tuple[array[float], ...] | _Rle | str, size_hw: tuple[int, ...]) -> _Shape:
    if isinstance(region, str):
        raise Reject(region)
    height, width = size_hw
    return _runs(region, height, width) if isinstance(region, _Rle) else _polygons(region, height, width)


@dataclass(frozen=True)
class _Polygons:
    rings: list[NDArray[np.float64]]
    window: tuple[slice, slice]

    @property
    def area(self) -> float:
        """The sum of the rings' areas by the shoelace formula."""
        return sum(abs(_shoelace(ring)) for ring in self.rings)

    def draw(self) -> tuple[tuple[slice, slice], UInt8]:
        y, x = self.window
        rings = [ring - (x.start, y.start) for ring in self.rings]
        return self.window, union_coverage(rings, y.stop - y.start, x.stop - x.start)


def _polygons(region: tuple[array[float], ...], height: int, width: int) -> _Polygons:
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
    y = slice(math.floor(max(0.0, top)), math.ceil(min(height, bottom)))
    x = slice(math.floor(max(0.0, left)), math.ceil(min(width, right)))
    return _Polygons(rings, (y, x))


def _shoelace(ring: NDArray[np.float64]) -> float:
    x, y = (ring - ring[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


@dataclass(frozen=True)
class _Runs:
    counts: NDArray[np.int64]
    height: int
    width: int

    @property
    def area(self) -> float:
        return float(self.counts[1::2].sum())

    def draw(self) -> tuple[tuple[slice, slice], UInt8]:
        # Columns that hold nothing before and after are left away, so that only the window is unpacked.
        ends = np.cumsum(self.counts)
        starts, stops = (ends - self.counts)[1::2], ends[1::2]
        starts, stops = starts[stops > starts], stops[stops > starts]
        left, right = (
            (int(starts[0]) // self.height, -(-int(stops[-1]) // self.height)) if len(stops) else (0, 1)
        )
        steps = np.zeros((right - left) * self.height + 1, np.int8)
        steps[starts - left * self.height] = 1
        steps[stops - left * self.height] -= 1
        alpha = np.cumsum(steps[:-1], dtype=np.int8).astype(np.uint8) * np.uint8(255)
        window = slice(0, self.height), slice(left, right)
        return window, alpha.reshape(right - left, self.height).T


def _runs(region: _Rle, height: int, width: int) -> _Runs:
    if region.size_hw != (height, width):
        given = "x".join(map(str, region.size_hw))
        raise Reject(f"size differs: the image has {height}x{width} pixels, its run lengths {given}")
    counts = (
        _decompressed(region.counts) if isinstance(region.counts, str) else np.array(region.counts, np.int64)
    )
    # The sum alone could overflow.
    if (counts < 0).any() or (counts > height * width).any() or counts.sum() != height * width:
        raise Reject(f"damaged run lengths: they do not add up to {height}x{width} pixels")
    return _Runs(counts, height, width)


def _decompressed(text: str) -> NDArray[np.int64]:
    """Decode COCO's compressed run lengths.

    Five bits a character, lowest first, 32 marks that more follow, the last one's 16 is the sign; from the
    fourth number on the difference to the one before the last. (pycocotools decodes it, too, but reads
    memory that is not its own where the text is damaged.)
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
        raise Reject("damaged run lengths: the compressed text breaks off")
    return np.array(numbers, np.int64)
