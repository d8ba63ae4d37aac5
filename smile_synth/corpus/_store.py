"""Where the files of a clip are: in one folder per kind, or in tar shards.

A shard is first written as pieces: tars with some of its clips, in the folder ``shards/000000.parts``.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from smile_synth.corpus import _tar
from smile_synth.corpus._header import CorpusHeader
from smile_synth.corpus._manifest import Row
from smile_synth.corpus._media import MEDIA, Members
from smile_synth.io.atomic import (
    atomic_write,
    exclusive_folder,
    remove_partial_files,
    sync_folder,
    write_bytes,
    write_errors_for,
)

SHARDS = "shards"


class TarPosition(NamedTuple):
    """A tar and the first byte of a clip in it."""

    path: Path
    start: int


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Lock a corpus against other writers, and remove what killed writers left.

    Raises:
        UserError: another process or thread writes there, or the folder cannot be written.
    """
    with write_errors_for(folder):
        new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    with exclusive_folder(folder, "another process or thread is writing this corpus"):
        for path in new_folders:
            sync_folder(path.parent)
        remove_partial_files(folder)
        try:
            yield
        finally:
            remove_partial_files(folder)  # of workers that were killed during the block


def media_names(header: CorpusHeader) -> tuple[str, ...]:
    """Return the names of a clip's media files, without its number."""
    return MEDIA[header.media].names(header.num_frames)


def member_names(header: CorpusHeader) -> tuple[str, ...]:
    """Return the names of all files of a clip, without its number, in their order in a shard."""
    return ("scene", "json", *(f"{kind}.npz" for kind in header.labels), *media_names(header))


def file_of(index: int, name: str) -> str:
    """Return the path of a clip's file in the folder layout."""
    number = f"{index:06d}"
    if name in ("scene", "json"):
        return f"{'scenes' if name == 'scene' else 'labels'}/{number}.{name}"
    first, dot, suffix = name.rpartition(".")
    if not dot:
        return f"clips/{number}.{name}"
    return f"clips/{number}/{name}" if first.isdigit() else f"{first}/{number}.{suffix}"


def shard_of(header: CorpusHeader, index: int) -> str:
    """Return the path of the tar that contains a clip."""
    return f"{SHARDS}/{index // header.clips_per_shard:06d}.tar"


def path_of(header: CorpusHeader, index: int, name: str) -> str:
    """Return the path of the file or tar that contains a file of a clip."""
    return file_of(index, name) if header.layout == "folder" else shard_of(header, index)


def places_of(header: CorpusHeader, index: int, members: Mapping[str, bytes]) -> dict[str, tuple[str, int]]:
    """Return (file, offset of the first byte) of every member; in a shard, offsets count from the clip."""
    if header.layout == "folder":
        return {name: (file_of(index, name), 0) for name in members}
    places, start = {}, 0
    for name, data in members.items():
        places[name] = shard_of(header, index), start + _tar.BLOCK
        start += _tar.member_size(len(data))
    return places


# --- what is stored already


class StoredClips:
    """The files of a corpus that exist already, in its folders, shards and pieces."""

    def __init__(self, out: Path, header: CorpusHeader) -> None:
        """Find the pieces that a killed run left."""
        self._out, self._header = out, header
        self._names = member_names(header)
        self._pieces: dict[int, list[Path]] = {}
        for piece in sorted(out.glob(f"{SHARDS}/*.parts/*")):
            for index in _contents(piece):
                self._pieces.setdefault(index, []).append(piece)

    def members(self, index: int) -> Members:
        """Return the files of a clip that exist."""
        if self._header.layout == "folder":
            paths = {name: self._out / file_of(index, name) for name in self._names}
            return {name: path.read_bytes() for name, path in paths.items() if path.exists()}
        found: Members = {}
        for path in self._tars(index):
            for name, (offset, size) in _contents(path).get(index, {}).items():
                found[name] = read_at(path, offset, size)
        return {name: found[name] for name in self._names if name in found}

    def position(self, index: int) -> TarPosition | None:
        """Return the tar that contains all files of a clip, its shard first."""
        for path in self._tars(index):
            members = _contents(path).get(index, {})
            if tuple(members) == self._names:
                return TarPosition(path, min(offset for offset, _ in members.values()) - _tar.BLOCK)
        return None

    def _tars(self, index: int) -> list[Path]:
        shard = self._out / shard_of(self._header, index)
        return [path for path in (shard, *self._pieces.get(index, [])) if path.exists()]


def _contents(path: Path) -> dict[int, dict[str, tuple[int, int]]]:
    """Return index -> name -> (offset, size) of the clips of a tar."""
    stat = path.stat()
    return _read_contents(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _read_contents(path: Path, *version: int) -> dict[int, dict[str, tuple[int, int]]]:
    contents: dict[int, dict[str, tuple[int, int]]] = {}
    for entry in _tar.entries(path):
        number, _, name = entry.name.partition(".")
        contents.setdefault(int(number), {})[name] = entry.offset, entry.size
    return contents


def read_at(path: Path, offset: int, size: int) -> bytes:
    """Return a range of a file's bytes; fewer if the file ends before."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, size, offset)
    finally:
        os.close(descriptor)


# --- store


def write_files(out: Path, index: int, members: Mapping[str, bytes]) -> None:
    """Write files of a clip in the folder layout."""
    for name, data in members.items():
        write_bytes(out / file_of(index, name), data)


def write_piece(
    out: Path, header: CorpusHeader, clips: Mapping[int, Mapping[str, bytes]]
) -> dict[int, TarPosition]:
    """Write all files of some clips of one shard as a piece; return the positions of the clips."""
    first = next(iter(clips))
    parts = (out / shard_of(header, first)).with_suffix(".parts")
    # A unique name: an existing piece may contain other clips, too.
    path = parts / f"{first:06d}-{uuid.uuid4().hex[:8]}"
    positions: dict[int, TarPosition] = {}
    with atomic_write(path) as piece:
        for index, members in clips.items():
            positions[index] = TarPosition(path, piece.tell())
            for name, data in members.items():
                piece.write(_tar.member(f"{index:06d}.{name}", data))
        piece.write(_tar.trailer(piece.tell()))
    return positions


def assemble_shard(
    out: Path, header: CorpusHeader, rows: Sequence[Row], positions: Mapping[int, TarPosition]
) -> None:
    """Write a shard from the clips in other tars, which may include its present version.

    Args:
        out: the corpus.
        header: of the corpus.
        rows: of the clips of the shard, in order.
        positions: of the clips by index.
    """
    path = out / shard_of(header, rows[0]["index"])
    with atomic_write(path) as shard:
        for row in rows:
            source, start = positions[row["index"]]
            shard.write(read_at(source, start, clip_size(row)))
        shard.write(_tar.trailer(shard.tell()))
    sync_folder(path.parent)
    shutil.rmtree(path.with_suffix(".parts"), ignore_errors=True)


def remove_pieces(out: Path) -> None:
    """Remove the pieces of finished shards."""
    for parts in (out / SHARDS).glob("*.parts"):
        shutil.rmtree(parts)


def sync_all_folders(out: Path) -> None:
    """Bring the file names of a corpus to disk: a manifest must not exist without the files it lists."""
    for folder, _, _ in os.walk(out, followlinks=True):  # a folder may be a link to another disk
        sync_folder(Path(folder))


# --- sizes and positions in a shard


def clip_size(row: Row) -> int:
    """Return the bytes of a clip in a shard."""
    return sum(_tar.member_size(member["bytes"]) for member in row["members"])


def shard_size(rows: Sequence[Row]) -> int:
    """Return the bytes of a shard with these clips."""
    size = sum(map(clip_size, rows))
    return size + len(_tar.trailer(size))


def position_of(out: Path, row: Row) -> TarPosition:
    """Return the position of a clip in its shard."""
    return TarPosition(out / row["file"], row["members"][0]["offset"] - _tar.BLOCK)


def moved_row(row: Row, start: int) -> Row:
    """Return a row whose clip begins at byte ``start`` of its shard."""
    change = start + _tar.BLOCK - row["members"][0]["offset"]
    members = [{**member, "offset": member["offset"] + change} for member in row["members"]]
    return {**row, "offset": row["offset"] + change, "members": members}


def size_of(path: Path) -> int | None:
    """Return the size of a file in bytes; None if it does not exist."""
    try:
        return path.stat().st_size
    except OSError:
        return None
