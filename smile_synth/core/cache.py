"""The folder of files that can be deleted and made again at any time."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: SMILE_CACHE, else smile-video in XDG_CACHE_HOME or in ~/.cache."""
    folder = os.environ.get("SMILE_CACHE")
    if folder:
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "smile-video"
