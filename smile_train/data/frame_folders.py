"""Videos that are stored as folders of numbered images: Jester, Something-Something v1, TSN's rawframes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from smile_synth.core.errors import UserError
from smile_synth.io import images

_NUMBERED = re.compile(r"(.*?)(\d+)")
# TSN stores optical flow beside the frames: flow_x_00001.jpg, or x_00001.jpg.
_FLOW = re.compile(r"(flow|[xy]_).*", re.IGNORECASE)


def frame_folders(files: Iterable[Path]) -> list[Path]:
    """Return the folders that hold at least two frames, in order of their paths."""
    counts: defaultdict[Path, int] = defaultdict(int)
    for file in files:
        counts[file.parent] += _series(file) is not None
    return sorted((folder for folder, count in counts.items() if count > 1), key=Path.as_posix)


def frame_files(folder: Path) -> tuple[Path, ...]:
    """Return the frames of a folder in order of their numbers.

    Raises:
        UserError: none, or images of several series. The text lacks the folder's name.
    """
    series: defaultdict[str, list[Path]] = defaultdict(list)
    for file in folder.iterdir():
        name = _series(file)
        if name is not None:
            series[name].append(file)
    if len(series) != 1:
        names = ", ".join(f"'{name}*'" for name in sorted(series))
        raise UserError(
            f"holds images of several series: {names}" if series else "is a folder without numbered images"
        )
    (files,) = series.values()
    return tuple(sorted(files, key=_number))


def _series(file: Path) -> str | None:
    """Return the name of a frame before its number; None for a file that is no frame."""
    match = _NUMBERED.fullmatch(file.stem)
    if not match or file.suffix.lower() not in images.SUFFIXES:
        return None
    return None if file.name.startswith(".") or _FLOW.fullmatch(match[1]) else match[1]


def _number(file: Path) -> int:
    match = _NUMBERED.fullmatch(file.stem)
    return int(match[2]) if match else 0
