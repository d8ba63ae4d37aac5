"""Files of a source: finding them, naming them, telling their contents apart."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from pathlib import Path

LISTED_ALREADY = "a link to a folder that is listed already"


def walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return every file below a folder in order of its relative path, and the links that are not followed.

    A link to a folder is followed unless that folder is listed already; so every file stands once, under
    its own name where it has one below ``folder``, and links round in circles come to an end.
    """
    files: list[Path] = []
    left_out: list[Path] = []
    seen: set[tuple[int, int]] = set()
    # Links last, so that what they lead to is known by its own name if it has one.
    waiting = deque([folder])
    while waiting:
        place = waiting.popleft()
        if _identity(place) in seen:
            left_out.append(place)
            continue
        for root, names, found in os.walk(place):
            seen.add(_identity(Path(root)))
            files += [Path(root, name) for name in found]
            inner = {name: Path(root, name) for name in sorted(names)}
            waiting += [path for path in inner.values() if path.is_symlink()]
            own = {name: path for name, path in inner.items() if not path.is_symlink()}
            left_out += [path for path in own.values() if _identity(path) in seen]
            names[:] = [name for name, path in own.items() if _identity(path) not in seen]

    return sorted(files, key=Path.as_posix), sorted(left_out, key=Path.as_posix)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def shown(name: str) -> str:
    """Return a file name as valid UTF-8, other bytes as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def key_of(data: bytes) -> str:
    """Return the key of a file's content: 32 hex digits."""
    return hashlib.sha256(data).hexdigest()[:32]
