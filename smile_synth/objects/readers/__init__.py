"""Readers of object sources: one file per format. To add a format, write its file and list it here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from smile_synth.core.errors import UserError, check_name, nearest
from smile_synth.io.files import entries, is_split
from smile_synth.objects._item import CutOut, Format, Item, Reader, ReadOptions, Rejected
from smile_synth.objects.readers._coco import COCO
from smile_synth.objects.readers._davis import DAVIS
from smile_synth.objects.readers._drawn import read_drawn
from smile_synth.objects.readers._folders import is_image
from smile_synth.objects.readers._ignored import refuse_ignored_labels
from smile_synth.objects.readers._images import IMAGES
from smile_synth.objects.readers._kinds import describe
from smile_synth.objects.readers._labelme import LABELME
from smile_synth.objects.readers._pairs import PAIRS
from smile_synth.objects.readers._photos import read_photos
from smile_synth.objects.readers._rgba import RGBA
from smile_synth.objects.readers._sa1b import SA1B
from smile_synth.objects.readers._shapes import read_shapes
from smile_synth.objects.readers._voc import VOC
from smile_synth.objects.readers._yolo import YOLO
from smile_synth.objects.readers._youtube_vis import YOUTUBE_VIS

__all__ = ["FORMATS", "GENERATORS", "list_items", "registry"]


def registry(formats: Iterable[Format]) -> dict[str, Format]:
    """Return formats by name, in the given order.

    Raises:
        ValueError: two formats have the same name.
    """
    found: dict[str, Format] = {}
    for format in formats:
        if format.name in found:
            raise ValueError(f"two formats have the name '{format.name}'")
        found[format.name] = format
    return found


# Detection tries them in this order; the last two have no annotations, and the last one accepts any folder.
FORMATS = registry([YOUTUBE_VIS, SA1B, LABELME, COCO, VOC, DAVIS, PAIRS, YOLO, RGBA, IMAGES])
WITHOUT_ANNOTATIONS = (RGBA.name, IMAGES.name)
MAX_WRAPPERS = 3  # folders that contain only one folder
# Sources that are not paths, by the name before ``:COUNT``.
GENERATORS: dict[str, Reader] = {
    "builtin:shapes": read_shapes,
    "builtin:photos": read_photos,
    "drawn": read_drawn,
}


def list_items(source: str, format_name: str | None, options: ReadOptions) -> tuple[str, Sequence[Item]]:
    """Return the format of a source and its items.

    Args:
        source: a path, or a name of ``GENERATORS``. A folder of splits (``train/``, ``valid/``, ``test/``)
            is read as all of its splits that have annotations.
        format_name: a key of ``FORMATS``; None: detect the format.
        options: passed to the reader.

    Raises:
        UserError: unknown format or name, no such path, unknown content, no annotated image, the reader
            refuses the source, or annotations would be ignored.
    """
    name = source if source.startswith("builtin:") else source.split(":")[0]
    path = Path(source)
    # An existing folder of that name has priority.
    if name in GENERATORS and not path.exists():
        return name, GENERATORS[name](source, options)
    if source.startswith("builtin:"):
        check_name("object source", source, GENERATORS)
    if not path.exists():
        raise UserError(f"object source '{source}': no such file or folder{nearest(source, GENERATORS)}")
    if format_name is not None:
        check_name("format", format_name, FORMATS)
    if format_name not in WITHOUT_ANNOTATIONS:
        parts = _annotated_folders(path, list(FORMATS) if format_name is None else [format_name])
        if parts:
            return _read_parts(source, parts, options)
    if format_name is None:
        format_name = _detect(path, WITHOUT_ANNOTATIONS)
        if format_name is None:
            raise UserError(
                f"object source '{source}': unknown format; expected a folder, or an annotation .json or "
                f".yaml file{'; ' + advice if (advice := describe(path)) else ''}"
            )
        refuse_ignored_labels(source, format_name)
    return format_name, FORMATS[format_name].read(source, options)


def _detect(path: Path, names: Iterable[str]) -> str | None:
    return next((name for name in names if FORMATS[name].detect(path)), None)


def _annotated_folders(path: Path, names: Sequence[str], depth: int = 0) -> dict[Path, str | None]:
    """Return where the annotations of a source are, and their formats; None for a split without any.

    That is the path itself, or its folders of splits, or the only folder in it, as archives are unpacked.
    """
    annotated = [name for name in names if name not in WITHOUT_ANNOTATIONS]
    if found := _detect(path, annotated):
        return {path: found}
    inner = entries(path)
    folders = [entry for entry in inner if entry.is_dir()]
    splits = {folder: _detect(folder, annotated) for folder in folders if is_split(folder.name)}
    if splits:
        return splits if any(splits.values()) else {}
    if len(folders) == 1 and not any(map(is_image, inner)) and depth < MAX_WRAPPERS:
        return _annotated_folders(folders[0], names, depth + 1)
    return {}


def _read_parts(
    source: str, parts: dict[Path, str | None], options: ReadOptions
) -> tuple[str, Sequence[Item]]:
    formats = list(dict.fromkeys(name for name in parts.values() if name))
    if len(formats) > 1:
        each = ", ".join(f"{folder.name}/ {name}" for folder, name in parts.items() if name)
        raise UserError(f"object source '{source}': several formats, pass one folder of {each}")
    options.notes.extend(
        f"{folder}: no annotations in it, not used" for folder, name in parts.items() if name is None
    )
    items: list[Item] = []
    for folder, name in parts.items():
        if name is not None:
            # A source keeps its path as given, because messages name it.
            found = FORMATS[name].read(source if folder == Path(source) else str(folder), options)
            items += [_prefixed(folder.name, item) for item in found] if len(parts) > 1 else found
    if not items:
        raise UserError(f"object source '{source}': no annotated image in it (read as {formats[0]})")
    return formats[0], items


def _prefixed(folder: str, item: Item) -> Item:
    """Put the name of a split before the names of an item and of its objects."""
    return replace(item, source=f"{folder}/{item.source}", cut=partial(_cut_prefixed, folder, item.cut))


def _cut_prefixed(folder: str, cut: Callable[[], Iterable[CutOut | Rejected]]) -> Iterator[CutOut | Rejected]:
    for found in cut():
        if isinstance(found, CutOut):
            image = f"{folder}/{found.source_image}"
            yield replace(found, source=f"{folder}/{found.source}", source_image=image)
        else:
            yield replace(found, source=f"{folder}/{found.source}")
