"""Find the files of a source, print their names, and identify their contents."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

REPEATED_LINK = "a link to a folder that is listed already"
# Written by operating systems, archivers and network disks beside the data; hidden files begin with a dot.
SYSTEM_NAMES = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "$recycle.bin",
    "system volume information", "lost+found",
}  # fmt: skip
SPLIT_NAME = re.compile(r"(train|training|trainval|val|valid|validation|dev|test|testing)([-_]?\d+)?", re.I)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or belongs to a system; it is never data."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder and not hidden, sorted; nothing if there is no such folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if not is_hidden(path.name))


def is_split(name: str) -> bool:
    """Return whether a folder of this name contains a split, such as ``train`` or ``val2017``."""
    return bool(SPLIT_NAME.fullmatch(name))


def without_splits(folders: list[PurePosixPath]) -> list[PurePosixPath]:
    """Drop the first part of relative folders if all first parts name splits: ``train/cat`` is ``cat``."""
    if all(folder.parts and is_split(folder.parts[0]) for folder in folders):
        return [PurePosixPath(*folder.parts[1:]) for folder in folders]
    return folders


def walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return every file below a folder in order of its relative path, and the links that are not followed.

    A link to a folder is followed unless that folder is listed already. So every file is listed once,
    by its own path if it has one below ``folder``, and cycles of links end. Hidden files and folders are
    left out.
    """
    files: list[Path] = []
    skipped: list[Path] = []
    seen: set[tuple[int, int]] = set()
    # Links last, so that the folders that they lead to are listed by their own paths first.
    queue = deque([folder])
    while queue:
        top = queue.popleft()
        if _identity(top) in seen:
            skipped.append(top)
            continue
        for root, names, found in os.walk(top):
            seen.add(_identity(Path(root)))
            files += [Path(root, name) for name in found if not is_hidden(name)]
            inner = {name: Path(root, name) for name in sorted(names) if not is_hidden(name)}
            queue += [path for path in inner.values() if path.is_symlink()]
            own = {name: path for name, path in inner.items() if not path.is_symlink()}
            skipped += [path for path in own.values() if _identity(path) in seen]
            names[:] = [name for name, path in own.items() if _identity(path) not in seen]

    return sorted(files, key=Path.as_posix), sorted(skipped, key=Path.as_posix)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def printable(name: str) -> str:
    """Return a file name as valid UTF-8; other bytes become escapes such as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def content_key(data: bytes) -> str:
    """Return 32 hex digits that identify a file's content: half of its sha256."""
    return hashlib.sha256(data).hexdigest()[:32]


def other_suffixes(files: Iterable[Path], suffixes: Sequence[str]) -> str:
    """Return the numbers of the files without one of some suffixes, for example ``"3 .txt, 1 .xyz"``."""
    counts = Counter(file.suffix.lower() or "without suffix" for file in files)
    others = [(suffix, count) for suffix, count in counts.most_common() if suffix not in suffixes]
    return ", ".join(f"{count} {suffix}" for suffix, count in others)
