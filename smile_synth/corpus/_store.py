"""Where a corpus keeps the files of a clip: one folder per kind, or tar shards."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from smile_synth.corpus import _tar
from smile_synth.corpus._header import CorpusHeader
from smile_synth.corpus._manifest import Row
from smile_synth.corpus._media import MEDIA
from smile_synth.io.atomic import appearing, sync_folder, write_bytes

SHARDS = "shards"
_TAR_HEADER = 512
# A tar, and the first byte of a clip in it.
Source = tuple[Path, int]


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


def _parts_of(header: CorpusHeader, index: int) -> str:
    """Return where the clips of a shard wait until it is complete, some in each file."""
    return f"{SHARDS}/{index // header.clips_per_shard:06d}.parts"


class Standing:
    """What stands of a corpus's clips."""

    def __init__(self, out: Path, header: CorpusHeader) -> None:
        """Look for pieces that a killed run left."""
        self._out, self._header = out, header
        self._names = member_names(header)
        self._pieces: dict[int, list[Path]] = {}
        if header.layout == "shards":
            for piece in sorted(out.glob(f"{SHARDS}/*.parts/*")):
                for index in _places(piece):
                    self._pieces.setdefault(index, []).append(piece)

    def members(self, index: int) -> dict[str, bytes]:
        """Return the files of a clip that stand."""
        if self._header.layout == "folder":
            paths = {name: self._out / file_of(index, name) for name in self._names}
            return {name: path.read_bytes() for name, path in paths.items() if path.exists()}
        found: dict[str, bytes] = {}
        for path in self._tars(index):
            for name, (offset, size) in _places(path).get(index, {}).items():
                found[name] = read_at(path, offset, size)
        return {name: found[name] for name in self._names if name in found}

    def source(self, index: int) -> Source | None:
        """Return the tar that holds a clip with all its files, the shard itself if that does."""
        for path in self._tars(index):
            if tuple(_places(path).get(index, {})) == self._names:
                return path, _start_in(path, index)
        return None

    def _tars(self, index: int) -> list[Path]:
        shard = self._out / shard_of(self._header, index)
        return [path for path in (shard, *self._pieces.get(index, [])) if path.exists()]


def _places(path: Path) -> dict[int, dict[str, tuple[int, int]]]:
    stat = path.stat()
    return _scanned(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
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


def write_files(out: Path, index: int, members: Mapping[str, bytes]) -> None:
    """Write files of a clip in the folder layout."""
    for name, data in members.items():
        write_bytes(out / file_of(index, name), data)


def write_piece(
    out: Path, header: CorpusHeader, clips: Mapping[int, Mapping[str, bytes]]
) -> dict[int, Source]:
    """Write clips of one shard, all their files, to a tar beside it; returns where they begin."""
    first = next(iter(clips))
    # A name of its own: a piece that stands may hold other clips, too.
    path = out / _parts_of(header, first) / f"{first:06d}-{uuid.uuid4().hex[:8]}"
    places: dict[int, Source] = {}
    with appearing(path) as piece:
        for index, members in clips.items():
            places[index] = path, piece.tell()
            for name, data in members.items():
                piece.write(_tar.member(f"{index:06d}.{name}", data))
        piece.write(_tar.trailer(piece.tell()))
    return places


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


def assemble(out: Path, header: CorpusHeader, rows: list[Row], sources: Mapping[int, Source]) -> None:
    """Join the clips of a shard.

    Args:
        out: the corpus.
        header: its header.
        rows: of the shard's clips, in order.
        sources: index -> where the clip stands: in a piece, or in the shard that is replaced.
    """
    path = out / shard_of(header, rows[0]["index"])
    with appearing(path) as shard:
        for row in rows:
            source, start = sources[row["index"]]
            shard.write(read_at(source, start, clip_size(row)))
        shard.write(_tar.trailer(shard.tell()))
    sync_folder(path.parent)
    shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)


def _start_in(path: Path, index: int) -> int:
    """Return the first byte of a clip in a tar."""
    return min(offset for offset, _ in _places(path)[index].values()) - _TAR_HEADER
