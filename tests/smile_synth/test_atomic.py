"""Files appear complete or not at all; only errors of writing become errors of the user."""

import errno
import fcntl
import os
import resource
import threading
from pathlib import Path

import pytest

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import (
    atomic_write,
    exclusive_folder,
    link_or_copy,
    lock_file,
    remove_partial_files,
    write_bytes,
)
from smile_synth.io.notices import Notice


def test_a_file_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.bin"
    with atomic_write(path) as file:
        file.write(b"12345")
        assert not path.exists() and len(list(path.parent.iterdir())) == 1
        assert file.tell() == 5
    assert path.read_bytes() == b"12345"
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write(b"other")
        raise KeyError
    assert path.read_bytes() == b"12345" and len(list(path.parent.iterdir())) == 1


def test_an_error_of_the_block_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_write(tmp_path / "a"):
        (tmp_path / "elsewhere").read_bytes()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [5000, 200_000])  # below and above the size of the buffer
def test_an_error_of_a_write_is_one_line(tmp_path: Path, size: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match=r"^'.*a.bin': cannot be written: File too large$"):
            write_bytes(tmp_path / "a.bin", bytes(size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_link_has_the_content_and_replaces_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "source", b"content")
    link_or_copy(tmp_path / "source", tmp_path / "sub" / "link")
    assert (tmp_path / "sub" / "link").samefile(tmp_path / "source")

    def no_link(*paths: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    link_or_copy(tmp_path / "source", tmp_path / "sub" / "copy")
    assert (tmp_path / "sub" / "copy").read_bytes() == b"content"
    with pytest.raises(UserError, match=r"^'.*missing': cannot be read: No such file or directory$"):
        link_or_copy(tmp_path / "missing", tmp_path / "sub" / "third")
    assert {path.name for path in (tmp_path / "sub").iterdir()} == {"link", "copy"}


def test_a_link_that_fails_leaves_no_partial_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "source", b"content")
    (tmp_path / "out" / "folder").mkdir(parents=True)
    with pytest.raises(UserError, match=r"^'.*folder': cannot be written: Is a directory$"):
        link_or_copy(tmp_path / "source", tmp_path / "out" / "folder")
    for _ in range(2):  # the second time, the target is a link of the source already
        link_or_copy(tmp_path / "source", tmp_path / "out" / "link")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"folder", "link"}


def test_only_our_partial_files_are_removed(tmp_path: Path) -> None:
    for name in ("a.json.0a1b2c3d.part", "sub/b.mp4.89abcdef.part"):
        write_bytes(tmp_path / name, b"cut")
    others = {"notes.part", "sub/movie.part", "sub/0a1b2c3d.part", "c.json.0A1B2C3D.part", "d.0a1b2c3d.part"}
    for name in others - {"d.0a1b2c3d.part"}:
        write_bytes(tmp_path / name, b"of the user")
    (tmp_path / "d.0a1b2c3d.part").mkdir()
    remove_partial_files(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == others | {"sub"}


def test_a_folder_has_one_writer_among_threads(tmp_path: Path) -> None:
    caught: list[str] = []

    def second() -> None:
        try:
            with exclusive_folder(tmp_path, "it is in use"):
                pass
        except UserError as error:
            caught.append(str(error))

    with exclusive_folder(tmp_path, "it is in use"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    second()
    assert caught == [f"out '{tmp_path}': it is in use"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_once_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    no_locks_here = f"^'{tmp_path}': the file system has no file locks"
    with pytest.warns(Notice, match=no_locks_here) as caught, exclusive_folder(tmp_path, "it is in use"):
        (tmp_path / "data").touch()
    assert len(caught) == 1 and [path.name for path in tmp_path.iterdir()] == ["data"]
    with (tmp_path / "shared").open("w") as file, pytest.warns(Notice, match="no file locks"):
        lock_file(file, wait=True)


def test_other_errors_of_locks_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    message = f"out '{tmp_path}': cannot be locked: Input/output error"
    with pytest.raises(UserError, match=message), exclusive_folder(tmp_path, "it is in use"):
        pass
