"""A folder of cut-outs: ``<class>/<anything>.png`` or ``.webp``, straight alpha."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path

from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.io.files import content_key, walk
from smile_synth.io.images import SUFFIXES, load_rgba
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions, unusable
from smile_synth.objects.readers._folders import ListedFile, check_folder, list_files, read_image

INDEX = "index.csv"
# Images that are opened to distinguish cut-outs from plain images.
NUM_CHECKED = 16


def is_rgba(folder: Path) -> bool:
    """Return whether one of the first few images below a folder has alpha."""
    images = (path for path in walk(folder)[0] if path.suffix.lower() in SUFFIXES)
    return any(_has_alpha(path) for path in islice(images, NUM_CHECKED))


def _has_alpha(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return bool(image.has_transparency_data)
    except Exception:  # the reader of the folder reports damaged files
        return False


def read_rgba(source: str, options: ReadOptions) -> list[Item]:
    """List every file below a folder, in order of its path.

    The class is the path of the file's folder relative to the source; for files directly in the source,
    the source's own name. An ``index.csv`` in the source adds facts about files: its column ``file`` is the
    path. Optional columns are ``licence``, ``annotation_id`` (or ``coco_ann_id``), and ``source_image``
    (or ``src_item``), the image that the file was cut from. Without it each file counts as its own image.

    Raises:
        UserError: no such folder, no files in it, or an unusable ``index.csv``.
    """
    folder = check_folder(source)
    rows = _read_index(folder / INDEX)
    files, rejected = list_files(folder)
    items = [
        Item(file.name, (file.path,), partial(_cut, file, rows.pop(file.name, {})))
        for file in files
        if file.name != INDEX
    ]
    items += rejected
    if not items:
        raise UserError(f"object source '{source}': the folder is empty; expected <class>/<name>.png")
    return items + [unusable(name, f"missing file: listed in {INDEX}") for name in sorted(rows)]


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable CSV file in UTF-8 ({error})") from None
    if rows and "file" not in rows[0]:
        raise UserError(f"{path}: no column 'file'; its columns are {', '.join(map(str, rows[0]))}")
    return {row["file"] or "": row for row in rows}


def _cut(file: ListedFile, row: Mapping[str, str]) -> Iterator[CutOut]:
    data = read_image(file.path)
    image = row.get("source_image") or row.get("src_item") or ""
    yield CutOut(
        class_name=file.class_name,
        source=file.name,
        source_image=image or file.name,
        image_key=image or content_key(data),
        licence=row.get("licence") or "",
        annotation_id=row.get("annotation_id") or row.get("coco_ann_id") or "",
        rgba=load_rgba(data),
    )


RGBA = Format("rgba", is_rgba, read_rgba)
