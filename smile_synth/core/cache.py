"""The folder of files that can be deleted and made again at any time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: the wanted one if it can be written, else one of this user in TMPDIR.

    The wanted one is SMILE_CACHE, else smile-video in XDG_CACHE_HOME or in ~/.cache.
    """
    wanted = _wanted()
    return wanted if _can_be_written(wanted) else Path(tempfile.gettempdir()) / f"smile-video-{os.getuid()}"


def cache_problem() -> str:
    """Return a line about a cache folder that is not the wanted one; empty if it is."""
    wanted, used = _wanted(), cache_folder()
    if wanted == used:
        return ""
    beside = f"the cache is in '{used}'" if _can_be_written(used) else "there is no cache, starts are slower"
    return f"'{wanted}' cannot be written: {beside}; set SMILE_CACHE to another folder"


def _wanted() -> Path:
    folder = os.environ.get("SMILE_CACHE")
    if folder:
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "smile-video"


def _can_be_written(folder: Path) -> bool:
    """Return whether a folder can be written or made, and belongs to this user; ``~`` means no home."""
    if folder.parts[0].startswith("~"):
        return False
    # os.path, because Path.exists raises an error for a folder that must not be read.
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    # Numba runs the code that it finds in the cache, so the folder of another user is not used.
    own = existing != folder or os.stat(folder).st_uid in (os.getuid(), 0)
    return own and os.path.isdir(existing) and os.access(existing, os.W_OK | os.X_OK)
