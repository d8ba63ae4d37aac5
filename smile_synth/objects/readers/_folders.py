"""Shared by the readers of folders: check a folder, list its files, find an image by its name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from smile_synth.core.errors import UserError
from smile_synth.io.files import REPEATED_LINK, is_split, printable, walk, without_splits
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


def own_name(folder: Path) -> str:
    """Return a folder's name; for a split such as ``train``, that of the folder above it."""
    path = folder.resolve()
    name = path.parent.name if is_split(path.name) and path.parent.name else path.name
    return printable(name) or "object"


def class_names(folder: Path, parents: Iterable[PurePosixPath]) -> list[str]:
    """Return the class of files by their folders relative to ``folder``: that path without a split.

    For files directly in ``folder`` or in a split, the class is the folder's own name.
    """
    own = own_name(folder)
    return [own if str(path) == "." else path.as_posix() for path in without_splits(list(parents))]


class ListedFile(NamedTuple):
    """A file below a folder: its relative path, the file, and the class given by its folder."""

    name: str
    path: Path
    class_name: str


def list_files(folder: Path) -> tuple[list[ListedFile], list[Item]]:
    """Return every file below a folder in order of its path, and the unusable links and names.

    See `class_names` for the classes.
    """
    found, links = walk(folder)
    rejected = [unusable(printable(link.relative_to(folder).as_posix()), REPEATED_LINK) for link in links]
    relative = {path: PurePosixPath(path.relative_to(folder).as_posix()) for path in found}
    bad = [path for path, name in relative.items() if printable(str(name)) != str(name)]
    rejected += [unusable(printable(str(relative.pop(path))), "file name is not UTF-8") for path in bad]
    classes = class_names(folder, [name.parent for name in relative.values()])
    named = zip(relative.items(), classes, strict=True)
    return [ListedFile(str(name), path, class_name) for (path, name), class_name in named], rejected


def is_image(path: Path) -> bool:
    """Return whether a file has the suffix of an image."""
    return path.suffix.lower() in SUFFIXES


def read_image(path: Path) -> bytes:
    """Return the content of a file below a folder.

    Raises:
        Reject: as `read_bytes`, or the suffix is not that of an image.
    """
    if not is_image(path):
        raise Reject("not an image")
    return read_bytes(path)


def find_image(folder: Path, stem: str) -> Path:
    """Return the image file of a name without suffix; the first candidate if none exists."""
    names = [stem + suffix for lower in SUFFIXES for suffix in (lower, lower.upper())]
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def read_names(folder: Path, *files: str) -> list[str]:
    """Return the lines of the first of some text files in a folder that exists; none if none does.

    Raises:
        UserError: the file is not UTF-8.
    """
    path = next((folder / file for file in files if (folder / file).is_file()), None)
    if path is None:
        return []
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as UTF-8 text ({error})") from None
    return [line.strip() for line in lines if line.strip()]
