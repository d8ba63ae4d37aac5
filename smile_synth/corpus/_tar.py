"""Tar files of the WebDataset layout: members of one clip side by side, fixed times, offsets known."""

from __future__ import annotations

import tarfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from smile_synth.core.errors import UserError

_BLOCK = tarfile.BLOCKSIZE


class Entry(NamedTuple):
    """Where a member's content lies in a tar."""

    name: str
    offset: int
    size: int


def padded(size: int) -> int:
    """Return the length that a content of ``size`` bytes takes in a tar."""
    return -(-size // _BLOCK) * _BLOCK


def member(name: str, data: bytes) -> bytes:
    """Return a member's header and content as they stand in a tar.

    Raises:
        ValueError: the name or the content is too long for a plain tar.
    """
    if len(name) > 100 or len(data) > 0o77777777777:
        raise ValueError(f"'{name}' of {len(data)} bytes does not fit in a tar")
    header = bytearray(_empty_header())
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % len(data)
    header[148:155] = b"%06o\0" % sum(header)
    return b"".join((header, data, bytes(padded(len(data)) - len(data))))


@cache
def _empty_header() -> bytes:
    """Return a header without a name and a size, and with the blanks that its own sum is taken with."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[148:156] = b" " * 8
    return bytes(header)


def trailer(size: int) -> bytes:
    """Return what ends a tar whose members take ``size`` bytes."""
    whole = -(-(size + 2 * _BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    return bytes(whole - size)


def entries(path: Path) -> list[Entry]:
    """Read what a tar of ours holds.

    Raises:
        UserError: cut short or damaged.
    """
    found = []
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while True:
            header = file.read(_BLOCK)
            if header == bytes(_BLOCK):
                break
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            except tarfile.HeaderError as error:
                raise _damaged(path, error) from None
            found.append(Entry(info.name, offset + _BLOCK, info.size))
            offset += _BLOCK + padded(info.size)
            file.seek(offset)
    if size != offset + len(trailer(offset)):
        raise _damaged(path, f"{size} bytes, expected {offset + len(trailer(offset))}")
    return found


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"'{path}': is cut short or damaged ({reason}); 'smile-synth corpus repair' mends it")
