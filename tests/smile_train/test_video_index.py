"""The index of the files of a video set."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from smile_synth import UserError
from smile_train.data.video_index import index_videos
from smile_train.data.video_lists import LabelledVideo, list_videos


def make_set(root: Path) -> list[LabelledVideo]:
    for name, content in {"run/a.mp4": b"1", "run/b.mp4": b"22", "sit/c.mp4": b"333"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
        os.utime(root / name, ns=(5, 5))
    return list_videos(root)


def test_the_index_is_written_once_and_finds_changed_files(tmp_path: Path) -> None:
    videos = make_set(tmp_path / "set")
    calls: list[tuple[int, int]] = []
    first = index_videos(videos, tmp_path / "run", progress=lambda *done: calls.append(done))
    assert first.videos == videos and first.missing == [] and first.changed() == []
    assert first.sizes.tolist() == [1, 2, 3] and first.times.tolist() == [5, 5, 5] and calls == [(3, 3)]

    (tmp_path / "set/run/b.mp4").write_bytes(b"4444")
    os.utime(tmp_path / "set/run/a.mp4", ns=(6, 6))
    (tmp_path / "set/sit/c.mp4").unlink()
    again = index_videos(videos, tmp_path / "run")
    assert again.digest == first.digest and again.videos == videos
    assert again.changed() == ["run/a.mp4", "run/b.mp4", "sit/c.mp4"]
    assert len(list((tmp_path / "run").iterdir())) == 1
    index_videos(videos[:2], tmp_path / "run")
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_the_digest_follows_names_labels_and_files(tmp_path: Path) -> None:
    digests = set()
    for number, change in enumerate(("none", "time", "size", "label", "fewer")):
        videos = make_set(tmp_path / "set")
        if change == "time":
            os.utime(videos[0].path, ns=(5, 6))
        if change == "size":
            videos[0].path.write_bytes(b"11")
            os.utime(videos[0].path, ns=(5, 5))
        if change == "label":
            (tmp_path / "list.txt").write_text("run/a.mp4 7\nrun/b.mp4 7\nsit/c.mp4 7\n")
            videos = list_videos(tmp_path / "list.txt", root=tmp_path / "set")
        videos = videos[:2] if change == "fewer" else videos
        digests.add(index_videos(videos, tmp_path / f"run{number}").digest)
    assert len(digests) == 5


def test_the_digest_of_contents_survives_a_copy(tmp_path: Path) -> None:
    videos = make_set(tmp_path / "set")
    digests = []
    for number, content in enumerate((b"1", b"1", b"9")):
        videos[0].path.write_bytes(content)
        os.utime(videos[0].path, ns=(number, number))
        digests.append(index_videos(videos, tmp_path / f"run{number}", contents=True).digest)
    assert digests[0] == digests[1] != digests[2]


def test_missing_files_are_named_together_or_left_out(tmp_path: Path) -> None:
    videos = make_set(tmp_path / "set")
    videos[0].path.unlink()
    videos[2].path.unlink()
    with pytest.raises(UserError, match="^2 of 3 videos are missing: 'run/a.mp4', 'sit/c.mp4'$"):
        index_videos(videos, tmp_path / "run")
    found = index_videos(videos, tmp_path / "run", allow_missing=True)
    assert found.videos == videos[1:2] and found.missing == ["run/a.mp4", "sit/c.mp4"]
    with pytest.raises(
        UserError, match="2 of 3 videos are missing: .* in '.*parquet'; remove it to check again"
    ):
        index_videos(videos, tmp_path / "run")
    videos[1].path.unlink()
    with pytest.raises(UserError, match="3 of 3 videos are missing"):
        index_videos(videos, tmp_path / "other", allow_missing=True)


def test_other_processes_wait_for_the_index(tmp_path: Path) -> None:
    videos = make_set(tmp_path / "set")
    lines: list[str] = []
    with pytest.raises(
        UserError, match=r"process 3 waited 0 s for '.*videos-.*parquet', the index of 3 videos"
    ):
        index_videos(videos, tmp_path / "run", rank=3, wait_seconds=0, notify=lines.append)
    assert len(lines) == 1 and "process 3 waits for" in lines[0] and "which process 0 writes" in lines[0]

    def write_later() -> None:
        time.sleep(0.1)
        index_videos(videos, tmp_path / "run")

    writer = threading.Thread(target=write_later)
    writer.start()
    waited = index_videos(videos, tmp_path / "run", rank=1, wait_seconds=20)
    writer.join()
    assert waited.digest == index_videos(videos, tmp_path / "run", rank=2, wait_seconds=0).digest


def test_a_damaged_index_is_reported(tmp_path: Path) -> None:
    videos = make_set(tmp_path / "set")
    file = index_videos(videos, tmp_path / "run").file
    file.write_bytes(b"no index")
    with pytest.raises(UserError, match="video index '.*': cannot be read: .*; remove the file"):
        index_videos(videos, tmp_path / "run")
