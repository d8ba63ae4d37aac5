"""Inspect every file of a source once, and cache the results in the user's cache directory."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from smile_synth.core.cache import cache_folder
from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.io.images import Reject, decode_rgb, read_bytes
from smile_synth.io.videos import VideoInfo, inspect_video, is_video
from smile_synth.parallel.workers import available_cores

_VERSION = 2  # of the entries; others are not read
_MIN_AGE_NS = 2 * 10**9  # a younger file may change again without a change of its time

_Stamp = tuple[int, int]  # size in bytes, time of the last change in nanoseconds


@dataclass(frozen=True)
class Entry:
    """One file of a source.

    Attributes:
        sha256: hash of its content; empty for an unusable file.
        size_hw: size of an image.
        video: properties of a video.
        problem: why it cannot be used.
        scaled: how the values of an image were scaled to 8 bits.
    """

    sha256: str = ""
    size_hw: tuple[int, int] | None = None
    video: VideoInfo | None = None
    problem: str = ""
    scaled: str = ""


# Any, because pydantic refuses the text of file names that are not UTF-8.
_INDEX: TypeAdapter[dict[Any, tuple[_Stamp, Entry]]] = TypeAdapter(dict[Any, tuple[_Stamp, Entry]])


def index_files(
    source: Path, root: Path, names: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> list[Entry]:
    """Inspect every file that is new or has another size or time than in the cached index.

    A file is read and decoded completely, on all cores. The index belongs to ``source``, the folder or the
    list, because several lists can be in one folder. A cache that cannot be read or written only costs time.

    Args:
        source: the folder or the list.
        root: folder that the names are relative to.
        names: the files.
        progress: called with (files inspected, files to inspect).
    """
    key = hashlib.sha256(os.fsencode(source.resolve()) + b"\0%d" % _VERSION).hexdigest()[:32]
    cache = cache_folder() / "backgrounds" / f"{key}.json"
    cached, now_ns = _load(cache), time.time_ns()
    stamps = {name: _stamp(root / name) for name in names}
    entries = {
        name: cached[name][1]
        for name, stamp in stamps.items()
        if stamp is not None and name in cached and cached[name][0] == stamp
    }
    missing = [name for name in stamps if name not in entries]
    if missing:
        pool = ThreadPoolExecutor(available_cores())
        try:
            with warnings.catch_warnings():
                # The filters belong to the whole process, so they are set once for all threads.
                warnings.simplefilter("ignore")
                inspected = pool.map(lambda name: _inspect(root / name), missing)
                for done, (name, entry) in enumerate(zip(missing, inspected, strict=True), 1):
                    entries[name] = entry
                    if progress:
                        progress(done, len(missing))
                pool.shutdown()
        finally:
            # An interrupted run saves its results, too.
            pool.shutdown(cancel_futures=True)
            _save(
                cache,
                {
                    name: (stamp, entries[name])
                    for name, stamp in stamps.items()
                    if name in entries and stamp is not None and stamp[1] < now_ns - _MIN_AGE_NS
                },
            )
    return [entries[name] for name in names]


def _stamp(file: Path) -> _Stamp | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _inspect(file: Path) -> Entry:
    try:
        if file.is_dir():
            raise Reject("is a folder")
        if is_video(file):
            video = inspect_video(file)
            with file.open("rb") as opened:
                return Entry(hashlib.file_digest(opened, "sha256").hexdigest(), video=video)
        data = read_bytes(file)
        decoded = decode_rgb(data)
        height, width = decoded.rgb.shape[:2]
        return Entry(hashlib.sha256(data).hexdigest(), size_hw=(height, width), scaled=decoded.scaled)
    except OSError as error:
        return Entry(problem=f"cannot be read: {error.strerror or error}")
    except Reject as error:
        return Entry(problem=str(error))
    except Exception as error:  # one damaged file must not stop the others
        return Entry(problem=f"is damaged: {type(error).__name__}: {error}")


def _load(cache: Path) -> dict[str, tuple[_Stamp, Entry]]:
    """Read a cached index; an empty one if it does not exist or has another format."""
    try:
        return _INDEX.validate_python(json.loads(cache.read_bytes()))
    except (OSError, ValueError):
        return {}


def _save(cache: Path, files: dict[str, tuple[_Stamp, Entry]]) -> None:
    try:
        write_bytes(cache, json.dumps(_INDEX.dump_python(files)).encode())
    except UserError:
        return  # a read-only or full disk: the next run inspects the files again
