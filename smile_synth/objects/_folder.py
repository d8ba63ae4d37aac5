"""Read cut-outs from a folder: ``<class>/<anything>.png`` or ``.webp``, straight alpha."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.io.files import LISTED_ALREADY, key_of, shown, walk
from smile_synth.io.images import SUFFIXES, Reject, load_rgba, read_bytes
from smile_synth.objects._item import CutOut, Item, ReadOptions, Rejected

INDEX = "index.csv"
# Files looked at to tell cut-outs from plain images.
PEEK = 16


@dataclass(frozen=True)
class FolderItem:
    """One file with one object, and what ``index.csv`` says of it."""

    source: str
    path: Path
    class_name: str
    row: dict[str, str] = field(default_factory=dict)

    def cut_outs(self) -> Iterator[CutOut | Rejected]:
        """Yield the object."""
        if self.path.suffix.lower() not in SUFFIXES:
            raise Reject("not an image")
        data = read_bytes(self.path)
        named = self.row.get("source_image") or self.row.get("src_item") or ""
        yield CutOut(
            class_name=self.class_name,
            source=self.source,
            source_image=named or self.source,
            image_key=named or key_of(data),
            licence=self.row.get("licence") or "",
            annotation_id=self.row.get("annotation_id") or self.row.get("coco_ann_id") or "",
            rgba=load_rgba(data),
        )


@dataclass(frozen=True)
class LostItem:
    """Something that is known by name only, with the reason why it cannot be used."""

    source: str
    reason: str

    def cut_outs(self) -> Iterator[CutOut | Rejected]:
        """Give the reason."""
        raise Reject(self.reason)


def is_cut_outs(folder: Path) -> bool:
    """Tell whether the first few images below a folder have alpha; files without any reader count not."""
    pictures = (path for path in walk(folder)[0] if path.suffix.lower() in SUFFIXES)
    return any(_has_alpha(path) for path in islice(pictures, PEEK))


def _has_alpha(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return bool(image.has_transparency_data)
    except Exception:  # read again, and reported, by whichever reader takes the folder
        return False


class ListedFile(NamedTuple):
    """A file below a folder: its relative path, the file, and the class that its place says."""

    name: str
    path: Path
    class_name: str


def list_files(folder: Path) -> tuple[list[ListedFile], list[LostItem]]:
    """Return every file below a folder in order of its path, and what cannot be used of it.

    The class is the path of the file's folder; files directly in the folder take the folder's own name.
    """
    found, links = walk(folder)
    files: list[ListedFile] = []
    lost = [LostItem(shown(link.relative_to(folder).as_posix()), LISTED_ALREADY) for link in links]
    for path in found:
        relative = path.relative_to(folder)
        name, parent = relative.as_posix(), relative.parent.as_posix()
        if shown(name) != name:
            lost.append(LostItem(shown(name), "file name is not UTF-8"))
        else:
            own = folder.resolve().name or "object"
            files.append(ListedFile(name, path, own if parent == "." else parent))
    return files, lost


def read_folder(source: str, options: ReadOptions) -> list[Item]:
    """List every file below a folder, in order of its path.

    The class is the path of the file's folder relative to the source; files directly in the source
    take the source's own name. Links are followed, to every folder once. A file ``index.csv`` beside the
    class folders may say more: columns ``file`` (path relative to the source), ``licence``,
    ``annotation_id``, and ``source_image`` (or ``src_item``), the image the file was cut from; without
    it each file counts as an image of its own.

    Raises:
        UserError: no such folder, no files in it, or an unusable ``index.csv``.
    """
    folder = Path(source)
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise UserError(f"object source '{source}': {what}")
    rows = _read_index(folder / INDEX)
    files, unusable = list_files(folder)
    items: list[Item] = [
        FolderItem(file.name, file.path, file.class_name, rows.pop(file.name, {}))
        for file in files
        if file.name != INDEX
    ]
    items += unusable
    if not items:
        raise UserError(f"object source '{source}': the folder is empty; expected <class>/<name>.png")
    items += [LostItem(name, f"missing file: listed in {INDEX}") for name in sorted(rows)]
    return items


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
