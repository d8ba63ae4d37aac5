"""Shared by the readers of folders: check a folder, list its files, find an image by its name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from smile_synth.core.errors import UserError
from smile_synth.io.files import REPEATED_LINK, printable, walk
from smile_synth.io.images import SUFFIXES, Reject, read_bytes
from smile_synth.objects._item import Item, unusable


def check_folder(source: str, *names: str) -> Path:
    """Return a source's folder.

    Raises:
        UserError: there is no such folder, or it lacks one of the named subfolders.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise UserError(
            f"object source '{source}': {'not a folder' if folder.exists() else 'no such folder'}"
        )
    for name in names:
        if not (folder / name).is_dir():
            raise UserError(
                f"object source '{source}': no folder {name}/ in it, expected {'/ and '.join(names)}/"
            )
    return folder


class ListedFile(NamedTuple):
    """A file below a folder: its relative path, the file, and the class given by its folder."""

    name: str
    path: Path
    class_name: str


def list_files(folder: Path) -> tuple[list[ListedFile], list[Item]]:
    """Return every file below a folder in order of its path, and the unusable links and names.

    The class is the path of the file's folder; for files directly in the folder, the folder's own name.
    """
    found, links = walk(folder)
    files: list[ListedFile] = []
    rejected = [unusable(printable(link.relative_to(folder).as_posix()), REPEATED_LINK) for link in links]
    for path in found:
        relative = path.relative_to(folder)
        name, parent = relative.as_posix(), relative.parent.as_posix()
        if printable(name) != name:
            rejected.append(unusable(printable(name), "file name is not UTF-8"))
        else:
            own = folder.resolve().name or "object"
            files.append(ListedFile(name, path, own if parent == "." else parent))
    return files, rejected


def read_image(path: Path) -> bytes:
    """Return the content of a file below a folder.

    Raises:
        Reject: as `read_bytes`, or the suffix is not that of an image.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise Reject("not an image")
    return read_bytes(path)


def find_image(folder: Path, stem: str) -> Path:
    """Return the image file of a name without suffix; the first candidate if none exists."""
    names = [stem + suffix for lower in SUFFIXES for suffix in (lower, lower.upper())]
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
