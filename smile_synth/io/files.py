"""Find the files of a source, print their names, and identify their contents."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from pathlib import Path

REPEATED_LINK = "a link to a folder that is listed already"


def walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return every file below a folder in order of its relative path, and the links that are not followed.

    A link to a folder is followed unless that folder is listed already. So every file is listed once,
    by its own path if it has one below ``folder``, and cycles of links end.
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
            files += [Path(root, name) for name in found]
            inner = {name: Path(root, name) for name in sorted(names)}
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
