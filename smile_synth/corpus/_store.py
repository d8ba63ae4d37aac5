"""Where a corpus keeps the files of a clip: one folder per kind, or tar shards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

from smile_synth.corpus import _tar
from smile_synth.corpus._files import appearing, sync_folder, write_bytes
from smile_synth.corpus._header import CorpusHeader
from smile_synth.corpus._manifest import Row
from smile_synth.corpus._media import MEDIA

SHARDS = "shards"
_TAR_HEADER = 512


def media_names(header: CorpusHeader) -> tuple[str, ...]:
    """Return the names of a clip's media files, without its number."""
    return MEDIA[header.media].names(header.num_frames)


def member_names(header: CorpusHeader) -> tuple[str, ...]:
    """Return the names of all files of a clip, without its number, in their order in a shard."""
    return ("scene", "json", *(f"{kind}.npz" for kind in header.labels), *media_names(header))


def file_of(index: int, name: str) -> str:
    """Return where a file of a clip stands in the folder layout."""
    number = f"{index:06d}"
    if name in ("scene", "json"):
        return f"{'scenes' if name == 'scene' else 'labels'}/{number}.{name}"
    first, dot, suffix = name.rpartition(".")
    if not dot:
        return f"clips/{number}.{name}"
    return f"clips/{number}/{name}" if first.isdigit() else f"{first}/{number}.{suffix}"


def shard_of(header: CorpusHeader, index: int) -> str:
    """Return the tar that a clip is in."""
    return f"{SHARDS}/{index // header.clips_per_shard:06d}.tar"


def piece_of(header: CorpusHeader, index: int) -> str:
    """Return where a clip waits until its shard is complete."""
    return f"{SHARDS}/{index // header.clips_per_shard:06d}.parts/{index:06d}"


def stored(out: Path, header: CorpusHeader, index: int) -> dict[str, bytes]:
    """Return the files of a clip that stand already."""
    names = member_names(header)
    if header.layout == "folder":
        return {name: path.read_bytes() for name in names if (path := out / file_of(index, name)).exists()}
    found: dict[str, bytes] = {}
    for path in (out / shard_of(header, index), out / piece_of(header, index)):
        if path.exists():
            for name, (offset, size) in _places(path).get(index, {}).items():
                found[name] = read_at(path, offset, size)
    return {name: found[name] for name in names if name in found}


def in_shard(out: Path, header: CorpusHeader, index: int) -> bool:
    """Return whether a clip stands in its shard with all its files."""
    path = out / shard_of(header, index)
    return path.exists() and tuple(_places(path).get(index, {})) == member_names(header)


def _places(path: Path) -> dict[int, dict[str, tuple[int, int]]]:
    stat = path.stat()
    return _scanned(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _scanned(path: Path, *version: int) -> dict[int, dict[str, tuple[int, int]]]:
    places: dict[int, dict[str, tuple[int, int]]] = {}
    for entry in _tar.entries(path):
        number, _, name = entry.name.partition(".")
        places.setdefault(int(number), {})[name] = entry.offset, entry.size
    return places


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Return a stretch of a file; shorter where the file ends before."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


def place_of(header: CorpusHeader, index: int, members: Mapping[str, bytes]) -> dict[str, tuple[str, int]]:
    """Return the file and the offset of every member; in a shard, from the clip's beginning."""
    if header.layout == "folder":
        return {name: (file_of(index, name), 0) for name in members}
    places, offset = {}, 0
    for name, data in members.items():
        places[name] = shard_of(header, index), offset + _TAR_HEADER
        offset += _TAR_HEADER + _tar.padded(len(data))
    return places


def write_clip_files(
    out: Path, header: CorpusHeader, index: int, members: Mapping[str, bytes], made: set[str]
) -> None:
    """Write what was made of a clip; for a shard, all its files as one piece."""
    if header.layout == "folder":
        # A disk takes its time for each file; it takes them together.
        with ThreadPoolExecutor(len(made)) as pool:
            for _ in pool.map(lambda name: write_bytes(out / file_of(index, name), members[name]), made):
                pass
        return
    content = b"".join(_tar.member(f"{index:06d}.{name}", data) for name, data in members.items())
    write_bytes(out / piece_of(header, index), content + _tar.trailer(len(content)))


def clip_size(row: Row) -> int:
    """Return how many bytes a clip takes in a shard."""
    return sum(_TAR_HEADER + _tar.padded(member["bytes"]) for member in row["members"])


def shard_size(rows: list[Row]) -> int:
    """Return how many bytes the shard of these clips has."""
    size = sum(map(clip_size, rows))
    return size + len(_tar.trailer(size))


def moved(row: Row, start: int) -> Row:
    """Return a row whose clip begins at byte ``start`` of its shard."""
    change = start + _TAR_HEADER - row["members"][0]["offset"]
    members = [{**member, "offset": member["offset"] + change} for member in row["members"]]
    return {**row, "offset": row["offset"] + change, "members": members}


def assemble(out: Path, header: CorpusHeader, rows: list[Row], old_starts: Mapping[int, int]) -> None:
    """Join the clips of a shard: each from its piece, or from where it starts in the shard that stands.

    Args:
        out: the corpus.
        header: its header.
        rows: of the shard's clips, in order.
        old_starts: index -> first byte in the shard that stands, for clips that are taken from there.
    """
    path = out / shard_of(header, rows[0]["index"])
    with appearing(path) as shard:
        for row in rows:
            index, size = row["index"], clip_size(row)
            if index in old_starts:
                shard.write(read_at(path, old_starts[index], size))
            else:
                shard.write(read_at(out / piece_of(header, index), 0, size))
        shard.write(_tar.trailer(shard.tell()))
    sync_folder(path.parent)
    shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)


def old_start(out: Path, header: CorpusHeader, index: int) -> int:
    """Return the first byte of a clip in the shard that stands."""
    places = _places(out / shard_of(header, index))[index]
    return min(offset for offset, _ in places.values()) - _TAR_HEADER
