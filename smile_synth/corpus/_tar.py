"""Tar files in the WebDataset layout: the members of a clip side by side, fixed times, known offsets."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import NamedTuple

from smile_synth.core.errors import UserError
from smile_synth.corpus._manifest import REPAIR

BLOCK = tarfile.BLOCKSIZE


class Entry(NamedTuple):
    """Where the content of a member is in a tar."""

    name: str
    offset: int
    size: int


def member_size(size: int) -> int:
    """Return the bytes that a member of ``size`` bytes needs in a tar: its header and its padded content."""
    return BLOCK + -(-size // BLOCK) * BLOCK


def member(name: str, data: bytes) -> bytes:
    """Return the header and the padded content of a member.

    Raises:
        ValueError: the name or the content is too long for a plain tar.
    """
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.USTAR_FORMAT)
    return b"".join((header, data, bytes(-len(data) % BLOCK)))


def trailer(size: int) -> bytes:
    """Return the end of a tar whose members have ``size`` bytes together."""
    total = -(-(size + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    return bytes(total - size)


def entries(path: Path) -> list[Entry]:
    """Read the table of contents of a tar.

    Raises:
        UserError: it is cut short or damaged.
    """
    found = []
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while True:
            header = file.read(BLOCK)
            if header == bytes(BLOCK):
                break
            try:
                info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
            except tarfile.HeaderError as error:
                raise _damaged(path, error) from None
            found.append(Entry(info.name, offset + BLOCK, info.size))
            offset += member_size(info.size)
            file.seek(offset)
    if size != offset + len(trailer(offset)):
        raise _damaged(path, f"{size} bytes, expected {offset + len(trailer(offset))}")
    return found


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"'{path}': is cut short or damaged ({reason}); {REPAIR}")
