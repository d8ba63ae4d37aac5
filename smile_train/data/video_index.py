"""An index of the files of a video set: which exist, with size and time of change, without decoding them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import atomic_write
from smile_synth.io.files import printable
from smile_train.data.decoding import content_digest
from smile_train.data.video_lists import LabelledVideo, some

Progress = Callable[[int, int], None]
Value = TypeVar("Value")
_THREADS = 32  # a network file system answers many requests at a time
_PART = 128  # files of a task
_POLL_SECONDS = 0.5


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """The files of a video set, as they were when the index was written.

    Attributes:
        videos: those that exist.
        missing: names of the others.
        digest: identifies names, labels and files of ``videos``. The files are identified by size and time of
            change, or by their contents if the index holds these.
        file: the index. Remove it to index the set again.
        sizes: int64 ``[N]`` bytes.
        times: int64 ``[N]`` time of change in nanoseconds.
    """

    videos: list[LabelledVideo]
    missing: list[str]
    digest: str
    file: Path
    sizes: NDArray[np.int64]
    times: NDArray[np.int64]

    def __repr__(self) -> str:
        """Show the numbers of videos."""
        return f"VideoIndex({len(self.videos)} videos, {len(self.missing)} missing, file='{self.file}')"

    def changed(self, progress: Progress | None = None) -> list[str]:
        """Return the names of videos whose size or time of change is another than in the index."""
        now = _each(_stat, [v.path for v in self.videos], progress)
        before = zip(self.sizes.tolist(), self.times.tolist(), strict=True)
        return [v.name for v, old, new in zip(self.videos, before, now, strict=True) if old != new]


def index_videos(
    videos: Sequence[LabelledVideo],
    folder: str | Path,
    *,
    rank: int = 0,
    allow_missing: bool = False,
    contents: bool = False,
    wait_seconds: float = 1800,
    progress: Progress | None = None,
    notify: Callable[[str], None] | None = None,
) -> VideoIndex:
    """Return the index of a video set. Process 0 writes it once; later runs and other processes read it.

    Under torchrun, call this before ``init_process_group``: a collective could time out while process 0
    indexes a large set. A changed list of videos has another index. Changed files under an unchanged list do
    not: `VideoIndex.changed` finds them.

    Args:
        videos: of the set; see `smile_train.data.video_lists.list_videos`.
        folder: where the index is kept, for example the folder of the run.
        rank: of this process. Ranks above 0 wait for the index.
        allow_missing: leave out missing files.
        contents: also read every file, so that the digest identifies contents.
        wait_seconds: longest time that a rank above 0 waits.
        progress: called with (files done, files in all).
        notify: called with a line of text before a rank above 0 waits.

    Raises:
        UserError: files are missing (all are found before); the index cannot be written or read; the wait
            took too long.
    """
    if not videos:
        raise ValueError("videos must not be empty")
    key = _digest([(str(v.path), v.name, v.label) for v in videos])
    file = Path(folder) / f"videos-{key[:16]}{'-contents' if contents else ''}.parquet"
    if rank > 0:
        _wait(file, len(videos), rank, wait_seconds, notify)
    elif not file.is_file():
        _write(file, videos, contents, progress, allow_missing)
    return _read(file, videos, allow_missing)


def _write(
    file: Path,
    videos: Sequence[LabelledVideo],
    contents: bool,
    progress: Progress | None,
    allow_missing: bool,
) -> None:
    paths = [v.path for v in videos]
    found = _each(_stat, paths, None if contents else progress)
    _check_missing(videos, [size < 0 for size, _ in found], allow_missing)
    digests = _each(_content_digest, paths, progress) if contents else [""] * len(videos)
    columns = {
        "video": [printable(v.name) for v in videos],
        "label": [printable(v.label) for v in videos],
        "bytes": [size for size, _ in found],
        "changed_ns": [changed for _, changed in found],
        "sha256": digests,
    }
    with atomic_write(file) as out:
        pq.write_table(pa.table(columns), out)


def _read(file: Path, videos: Sequence[LabelledVideo], allow_missing: bool) -> VideoIndex:
    try:
        table = pq.read_table(file, columns=["bytes", "changed_ns", "sha256"])
        if len(table) != len(videos):
            raise ValueError(f"has {len(table)} rows, expected {len(videos)}")
        sizes, times = (table[name].to_numpy() for name in ("bytes", "changed_ns"))
        contents = table["sha256"].to_pylist()
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"video index '{file}': cannot be read: {reason}; remove the file") from None
    _check_missing(videos, (sizes < 0).tolist(), allow_missing, f" in '{file}'; remove it to check again")
    there = np.flatnonzero(sizes >= 0)
    rows = [
        (videos[i].name, videos[i].label, int(sizes[i]), contents[i] or int(times[i])) for i in there.tolist()
    ]
    return VideoIndex(
        videos=[videos[i] for i in there.tolist()],
        missing=[videos[i].name for i in np.flatnonzero(sizes < 0).tolist()],
        digest=_digest(rows),
        file=file,
        sizes=sizes[there],
        times=times[there],
    )


def _wait(file: Path, count: int, rank: int, seconds: float, notify: Callable[[str], None] | None) -> None:
    deadline = time.monotonic() + seconds
    if not file.is_file() and notify:
        notify(f"process {rank} waits for '{file}', the index of {count} videos, which process 0 writes")
    while not file.is_file():
        if time.monotonic() > deadline:
            raise UserError(
                f"process {rank} waited {seconds:g} s for '{file}', the index of {count} videos. Process 0 "
                "writes it: all machines must share its folder and have the same list"
            )
        time.sleep(_POLL_SECONDS)


def _check_missing(
    videos: Sequence[LabelledVideo], missing: Sequence[bool], allow_missing: bool, where: str = ""
) -> None:
    names = [v.name for v, is_missing in zip(videos, missing, strict=True) if is_missing]
    if names and (not allow_missing or len(names) == len(videos)):
        raise UserError(f"{len(names)} of {len(videos)} videos are missing: {some(names)}{where}")


def _each(function: Callable[[Path], Value], paths: Sequence[Path], progress: Progress | None) -> list[Value]:
    """Return the results of a function of each path, computed by threads."""
    parts = [paths[start : start + _PART] for start in range(0, len(paths), _PART)]
    results: list[Value] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for part in pool.map(lambda part: [function(path) for path in part], parts):
            results += part
            if progress:
                progress(len(results), len(paths))
    return results


def _stat(path: Path) -> tuple[int, int]:
    """Return size and time of change of a file, or (-1, -1)."""
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _content_digest(path: Path) -> str:
    try:
        return content_digest(path)
    except (OSError, UserError):
        return ""


def _digest(rows: Sequence[tuple[object, ...]]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()
