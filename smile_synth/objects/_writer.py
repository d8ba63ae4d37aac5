"""Write a bank's folder: it appears whole or not at all, and one process writes it at a time.

An unfinished bank is in ``.<name>.part`` beside its final folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from smile_synth.core.errors import UserError
from smile_synth.io import atomic
from smile_synth.objects._bank import (
    FORMAT,
    FORMAT_VERSION,
    HEADER,
    INDEX,
    REPORT,
    TEXELS,
    ObjectInfo,
    digest_of,
    read_header,
)
from smile_synth.objects._duplicates import DuplicateIndex, Fingerprint
from smile_synth.objects._item import Rejected

ARROW_TYPES = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64()}
SCHEMA = pyarrow.schema([(field.name, ARROW_TYPES[str(field.type)]) for field in fields(ObjectInfo)])


class BankWriter:
    """Appends objects to an unfinished bank.

    Attributes:
        rows: the objects so far.
        rejected: the rejected items so far.
        duplicates: the fingerprints that `is_new` compares with.
    """

    def __init__(self, part: Path, duplicate_distance: int) -> None:
        """Open the file of texels in the folder ``part``, to append to it."""
        self.rows: list[ObjectInfo] = []
        self.rejected: list[Rejected] = []
        self.duplicates = DuplicateIndex(duplicate_distance)
        self._part = part
        self.texels = (part / TEXELS).open("ab")

    def is_new(self, given: str, source: str, fingerprint: Fingerprint) -> bool:
        """Return whether this is no near-duplicate; reject it otherwise."""
        original = self.duplicates.find(fingerprint)
        if original is not None:
            self.rejected.append(Rejected(source, f"near-duplicate: of {original}", given))
        return original is None

    def append(self, row: ObjectInfo, texels: bytes | memoryview) -> None:
        """Append an object; its number and its position in the file replace those of ``row``."""
        offset = self.texels.tell() // 4
        self.rows.append(replace(row, object_id=len(self.rows), texel_offset=offset))
        self.texels.write(texels)

    def truncate(self, num_bytes: int) -> None:
        """Drop the texels from a position on."""
        self.texels.truncate(num_bytes)
        self.texels.seek(num_bytes)

    def finish(self, sources: Sequence[dict[str, Any]]) -> str:
        """Write the tables and return the bank's digest."""
        self.texels.flush()
        os.fsync(self.texels.fileno())
        index = pyarrow.Table.from_pylist([asdict(row) for row in self.rows], SCHEMA)
        with atomic.atomic_write(self._part / INDEX) as file:
            pyarrow.parquet.write_table(
                index, file, compression="zstd", compression_level=3, row_group_size=1 << 20
            )
        digest = digest_of(index)
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "num_objects": len(self.rows),
            "num_rejected": len(self.rejected),
            "digest": digest,
            "sources": sources,
        }
        report = {"rejected": [asdict(item) for item in self.rejected]}
        for name, content in ((HEADER, header), (REPORT, report)):
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            atomic.write_bytes(self._part / name, text.encode("utf-8"))
        return digest

    def close(self) -> None:
        """Close the file of texels; appended objects stay."""
        self.texels.close()


def check_out(out: Path, overwrite: bool) -> None:
    """Check that a bank can be written to a path.

    Raises:
        UserError: the path exists and must not be overwritten, or is not a bank.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UserError(f"'{out}' exists; choose another folder or overwrite it")
    # Only a bank is ever deleted.
    read_header(out)


@contextmanager
def unfinished_folder(out: Path) -> Iterator[Path]:
    """Yield the folder in which a bank is written, for this process alone, with the files of a stopped build.

    Raises:
        UserError: another process is building this bank, or the folder cannot be written.
    """
    part = out.with_name(f".{out.name}.part")
    with atomic.exclusive_folder(part, "another process is building this bank"):
        yield part


def remove_files(part: Path, *, keep: Sequence[str] = (atomic.LOCK,)) -> None:
    """Remove the files of an unfinished bank, except those to keep."""
    for path in part.iterdir():
        if path.name not in keep:
            path.unlink()


def publish(part: Path, out: Path) -> None:
    """Rename the finished folder to its final name; then remove an older bank of that name."""
    with atomic.write_errors_for(out):
        remove_files(part, keep=(TEXELS, INDEX, HEADER, REPORT))
        atomic.sync_folder(part)
        old = out.with_name(f".{out.name}.{os.getpid()}.old")
        if out.exists():
            out.rename(old)
        try:
            part.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
        atomic.sync_folder(out.parent)
        shutil.rmtree(old, ignore_errors=True)
