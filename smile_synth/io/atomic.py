"""Write files that appear complete or not at all, and give a folder one writer at a time."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from smile_synth.core.errors import UserError
from smile_synth.io.notices import notice

LOCK = ".lock"
PARTIAL_SUFFIX = ".part"
# Errors of flock on file systems without locks (some mounts of Lustre, NFS and FUSE).
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


@contextmanager
def write_errors_for(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a `UserError` about a path; the block only writes that path."""
    try:
        yield
    except OSError as error:
        raise UserError(f"'{path}': cannot be written: {error.strerror}") from None


class _PartialFile(io.FileIO):
    """A file whose write errors name the path that it will have when it is complete."""

    def __init__(self, partial: Path, path: Path) -> None:
        self._path = path
        super().__init__(partial, "wb")

    def write(self, data: Any, /) -> int:
        with write_errors_for(self._path):
            return super().write(data)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that appears under its name when the block succeeds, with its bytes on disk.

    Raises:
        UserError: the file cannot be written, for example no space or no permission.
    """
    partial = _partial_path(path)
    try:
        with write_errors_for(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            raw = _PartialFile(partial, path)
        with io.BufferedWriter(raw) as file:
            yield file
            file.flush()
            with write_errors_for(path):
                os.fsync(raw.fileno())
        with write_errors_for(path):
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears complete or not at all.

    Raises:
        UserError: the file cannot be written, for example no space or no permission.
    """
    with atomic_write(path) as file:
        file.write(data)


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a hard link of ``source``, or a copy where the file system has no such links.

    Raises:
        UserError: the source cannot be read, or the target cannot be written.
    """
    partial = _partial_path(target)
    try:
        with write_errors_for(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            _copy(source, target)
        else:
            with write_errors_for(target):
                os.replace(partial, target)
    finally:  # also after a success: os.replace does nothing if both are links of one file
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    try:
        data = source.open("rb")
    except OSError as error:
        raise UserError(f"'{source}': cannot be read: {error.strerror}") from None
    with data, atomic_write(target) as file:
        shutil.copyfileobj(data, file)


def _partial_path(path: Path) -> Path:
    # Unique: the replacement of a worker that seems dead must not write into the file of that worker.
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")


def remove_partial_files(folder: Path) -> None:
    """Remove the partial files of killed writers in a folder and its subfolders, and no other files."""
    for partial in folder.rglob(f"*.{'[0-9a-f]' * 8}{PARTIAL_SUFFIX}"):
        if partial.is_file():
            partial.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Bring the names of a folder's files to disk.

    Raises:
        UserError: the disk fails.
    """
    with write_errors_for(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def lock_file(file: IO[Any], *, wait: bool) -> None:
    """Lock a file in a folder that one process writes; on a file system without locks only warn.

    Args:
        file: open for writing.
        wait: wait until no other process has the lock.

    Raises:
        BlockingIOError: without ``wait``, another process or thread has the lock.
        UserError: the file cannot be locked.
    """
    folder = Path(file.name).parent
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(f"out '{folder}': cannot be locked: {error.strerror}") from None
        notice(
            f"'{folder}': the file system has no file locks; do not start a second command that writes there"
        )


@contextmanager
def exclusive_folder(folder: Path, message: str) -> Iterator[None]:
    """Create a folder if necessary, and lock it against every other block like this one.

    On a file system without locks the block runs without one, see `lock_file`.

    Raises:
        UserError: the folder is locked (the text is ``message``), or it cannot be written.
    """
    path = folder / LOCK
    with write_errors_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        try:
            lock_file(lock, wait=False)
            # The previous owner may have removed the file after we opened it.
            if os.fstat(lock.fileno()).st_ino != path.stat().st_ino:
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            raise UserError(f"out '{folder}': {message}") from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
