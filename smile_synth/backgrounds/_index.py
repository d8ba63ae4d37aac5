"""What is known of every file of a source, found out once and kept in the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smile_synth.core.cache import cache_folder
from smile_synth.io import videos as _videos
from smile_synth.io.images import Reject, load_rgb, read_bytes
from smile_synth.io.videos import VideoInfo, inspect_video

_FORMAT = 1
_SETTLED_NS = 2 * 10**9  # a file younger than this may still change without its time changing


@dataclass(frozen=True)
class Entry:
    """One file of a source.

    Attributes:
        sha256: of its content; empty for a file that cannot be read.
        size_hw: of an image.
        video: of a video.
        problem: why it is not used.
    """

    sha256: str = ""
    size_hw: tuple[int, int] | None = None
    video: VideoInfo | None = None
    problem: str = ""


def index_files(
    root: Path, names: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> list[Entry]:
    """Look into every file that is new or has another size or time than in the cached index.

    A file is read whole and decoded whole, on all cores. A cache that cannot be read or written costs
    time, nothing else.
    """
    place = (
        cache_folder()
        / "backgrounds"
        / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.json"
    )
    known = _load(place)
    now_ns = time.time_ns()
    stamps = [_stamp(root / name) for name in names]
    fresh: dict[str, Entry] = {}
    for name, stamp in zip(names, stamps, strict=True):
        if name in known and stamp is not None and known[name][0] == stamp:
            fresh[name] = known[name][1]
    missing = [name for name in dict.fromkeys(names) if name not in fresh]
    if not missing:
        return [fresh[name] for name in names]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        with warnings.catch_warnings():
            # Here once for all threads: the filters are the whole process's.
            warnings.simplefilter("ignore")
            found = pool.map(lambda name: _inspect(root / name), missing)
            for done, (name, entry) in enumerate(zip(missing, found, strict=True), 1):
                fresh[name] = entry
                if progress:
                    progress(done, len(missing))
            pool.shutdown()
    finally:
        # Stopped half-way, what is known is kept, too.
        pool.shutdown(cancel_futures=True)
        settled = {
            name: (stamp, fresh[name])
            for name, stamp in zip(names, stamps, strict=True)
            if name in fresh and stamp is not None and stamp[1] < now_ns - _SETTLED_NS
        }
        _save(place, settled)
    return [fresh[name] for name in names]


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _inspect(file: Path) -> Entry:
    try:
        if file.is_dir():
            raise Reject("is a folder")
        if file.suffix.lower() in _videos.SUFFIXES:
            video = inspect_video(file)
            return Entry(_sha256(file), video=video)
        data = read_bytes(file)
        height, width = load_rgb(data).shape[:2]
        return Entry(hashlib.sha256(data).hexdigest(), size_hw=(height, width))
    except OSError as error:
        return Entry(problem=f"cannot be read: {error.strerror or error}")
    except Reject as error:
        return Entry(problem=str(error))
    except Exception as error:  # one odd file must not stop the others
        return Entry(problem=f"is damaged: {type(error).__name__}: {error}")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _load(place: Path) -> dict[str, tuple[tuple[int, int], Entry]]:
    """Read a cached index; an empty one where there is none, or none of this version."""
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        if data["format"] != _FORMAT:
            return {}
        return {
            name: ((size, mtime), _entry(**entry)) for name, (size, mtime, entry) in data["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _entry(sha256: str, size_hw: list[int] | None, video: dict[str, Any] | None, problem: str) -> Entry:
    if video is not None:
        video["entries"] = tuple((number, pts) for number, pts in video["entries"])
    return Entry(
        sha256, (size_hw[0], size_hw[1]) if size_hw else None, VideoInfo(**video) if video else None, problem
    )


def _save(place: Path, files: dict[str, tuple[tuple[int, int], Entry]]) -> None:
    data = {
        "format": _FORMAT,
        "files": {name: (*stamp, asdict(entry)) for name, (stamp, entry) in files.items()},
    }
    partial = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(data, ensure_ascii=True), encoding="utf-8")
        os.replace(partial, place)
    except OSError:
        return  # a read-only or full home: the next run looks again
