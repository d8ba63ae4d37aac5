"""Files that appear whole or not at all, one writer at a time."""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from smile_synth.core.errors import UserError

LOCK = ".lock"
PART = ".part"


@contextmanager
def appearing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name only when the block ends well and its bytes are on disk.

    Raises:
        UserError: no space, no permission, and the like.
    """
    # A name of its own: who takes over from a worker that seems dead must not write into its file.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PART}")
    try:
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write into one clear line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"'{path}': cannot be written: {error.strerror}") from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        UserError: no space, no permission, and the like.
    """
    with appearing(path) as file:
        file.write(data)


def sync_folder(path: Path) -> None:
    """Put a folder's names on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held(folder: Path, taken: str) -> Iterator[None]:
    """Hold a folder, which is made where there is none, for this process alone.

    Raises:
        UserError: another process holds it (``taken`` says so), or nothing can be written there.
    """
    path = folder / LOCK
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it since we opened it.
            if os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                raise FileNotFoundError
        except OSError:
            raise UserError(f"out '{folder}': {taken}") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep every other writer out of a corpus; what a killed one left half is removed.

    Raises:
        UserError: another process is writing there, or nothing can be written there.
    """
    with held(folder, "another process is writing this corpus"):
        sweep(folder, "**/*")
        yield
        sweep(folder, "**/*")  # a worker elsewhere may have been killed and replaced


def sweep(folder: Path, pattern: str = "*") -> None:
    """Remove what dead writers left half, of the files that fit the pattern."""
    for left in folder.glob(pattern + PART):
        left.unlink(missing_ok=True)
