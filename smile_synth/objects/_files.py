"""Files of a source: finding them, naming them, telling their pictures apart."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def walk(folder: Path) -> list[Path]:
    """Return every file below a folder in order of its relative path; links are followed, loops are not."""
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root).resolve()
        # A link to a folder above it would be walked for ever.
        folders[:] = [name for name in folders if not here.is_relative_to((Path(root) / name).resolve())]
        found += [Path(root) / name for name in files]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def shown(name: str) -> str:
    """Return a file name as valid UTF-8, other bytes as escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def key_of(data: bytes) -> str:
    """Return the picture key of a file's content: 32 hex digits."""
    return hashlib.sha256(data).hexdigest()[:32]
