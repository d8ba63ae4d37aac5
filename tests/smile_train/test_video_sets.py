"""Lists of labelled videos in the formats of their publishers, and splits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from smile_synth import UserError
from smile_synth.io.notices import Notice
from smile_train.data.decoding import file_facts
from smile_train.data.video_lists import LabelledVideo, list_videos, read_videos, select_classes
from smile_train.data.video_splits import (
    Split,
    check_split,
    k_fold,
    leave_one_group_out,
    low_shot,
    read_hmdb,
    read_official,
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def made(labels: str, groups: str | None = None) -> list[LabelledVideo]:
    return [
        LabelledVideo(Path(), str(k), a, b)
        for k, (a, b) in enumerate(zip(labels, groups or range(99), strict=False))
    ]  # type: ignore[arg-type]


def test_folder_per_class_and_groups_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "run/v_g01_c1.mp4", "run/v_g01_c2.avi", "sit/deep/v_g02_c1.webm", "sit/notes.txt")
    videos = read_videos(tmp_path, group=r"_(g\d+)_")
    assert [(v.name, v.label, v.group) for v in videos] == [
        ("run/v_g01_c1.mp4", "run", "g01"), ("run/v_g01_c2.avi", "run", "g01"), ("sit/deep/v_g02_c1.webm", "sit", "g02"),
    ]  # fmt: skip
    assert [v.label for v in select_classes(videos, ["sit"])] == ["sit"]
    with pytest.raises(UserError, match="class 'sitt': no video has it; did you mean 'sit'?"):
        select_classes(videos, ["sitt"])
    with pytest.raises(UserError, match=r"group 'x\(': not a regular expression"):
        read_videos(tmp_path, group="x(")
    with pytest.raises(UserError, match="finds nothing in 'run/v_g01_c1.mp4', 'run/v_g01_c2.avi'"):
        read_videos(tmp_path, group="g02")
    touch(tmp_path, "loose.mp4")
    assert [v.label for v in list_videos(tmp_path, labelled=False)] == ["", "run", "run", "sit"]
    with pytest.raises(UserError, match="outside of one: 'loose.mp4'"):
        read_videos(tmp_path)


def test_a_file_under_two_names_stays_on_one_side(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{label}/{k}.mp4" for label in "ab" for k in range(4)))
    (tmp_path / "b" / "link.mp4").symlink_to(tmp_path / "a" / "0.mp4")
    (tmp_path / "list.txt").write_text("a/0.mp4 0\na/../a/0.mp4 0\nb/link.mp4 1\na/1.mp4 0\n")
    assert [v.group for v in read_videos(tmp_path / "list.txt")] == ["a/0.mp4"] * 3 + ["a/1.mp4"]
    for split in k_fold(read_videos(tmp_path), 4):
        names = [read_videos(tmp_path)[int(i)].group for i in split.test]
        assert names.count("a/0.mp4") in (0, 2)
    with pytest.raises(
        UserError, match="'a/0.mp4' and 'b/link.mp4': are one file, in the groups '0' and 'link'"
    ):
        read_videos(tmp_path, group=r"(\w+)\.")
    (tmp_path / "test.txt").write_text("b/link.mp4 1\na/2.mp4 0\n")
    (tmp_path / "train.txt").write_text("a/0.mp4 0\nb/1.mp4 1\n")
    with pytest.raises(UserError, match="are one file, in the groups '0' and 'link'"):
        read_official(tmp_path / "train.txt", tmp_path / "test.txt", group=r"(\w+)\.")


@pytest.mark.parametrize("line", ["a b/x 1.mp4 7", "a b/x 1.mp4\t7", "a b/x 1.mp4, 7"])
def test_plain_lists(tmp_path: Path, line: str) -> None:
    touch(tmp_path, "a b/x 1.mp4", "y.avi")
    (tmp_path / "list.csv").write_text(
        f"{line}\n\ny.avi 3\n" if " 7" in line and "," not in line else f"{line}\n"
    )
    first = read_videos(tmp_path / "list.csv")[0]
    assert (first.path, first.label) == (tmp_path / "a b/x 1.mp4", "7")


def test_faults_of_lists_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    file = tmp_path / "list.txt"
    for text, message in {
        "a.mp4 0\nb.mp4 jump\n": "list.txt:2: label 'jump' is no whole number",
        "a.mp4 0\nb.mp4\n": "list.txt:2: has no label",
        "a.mp4 0\nc.mp4 1\nd.mp4 1\n": "2 of 3 files are missing: 'c.mp4', 'd.mp4'",
        "a.mp4 0\na.mp4 0\n": "names more than once: 'a.mp4'",
        "\n": "is empty",
    }.items():
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_videos(file)
    with pytest.raises(UserError, match="no such file or folder"):
        read_videos(tmp_path / "nowhere")


def test_hidden_files_are_skipped_and_linked_folders_are_read(tmp_path: Path) -> None:
    touch(tmp_path, "set/run/a.mp4", "set/run/._a.mp4", "set/.trash/b.mp4", "elsewhere/c.mp4")
    (tmp_path / "set" / "sit").symlink_to(tmp_path / "elsewhere")
    assert [(v.name, v.label) for v in list_videos(tmp_path / "set")] == [
        ("run/a.mp4", "run"),
        ("sit/c.mp4", "sit"),
    ]


def test_a_list_is_read_without_its_files(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("x/gone.mp4 3\n")
    (video,) = list_videos(tmp_path / "list.txt", root=tmp_path)
    assert (video.path, video.label, video.group) == (tmp_path / "x/gone.mp4", "3", "x/gone.mp4")


def test_lists_of_another_machine(tmp_path: Path) -> None:
    touch(tmp_path, "videos/run/1.mp4", "videos/sit/1.mp4", "videos/sit/2.mp4")
    (tmp_path / "train.csv").write_text("/gpfs/k/run/1.mp4 0\n/gpfs/k/sit/1.mp4 1\n/gpfs/k/sit/2.mp4 1\n")
    with pytest.warns(Notice, match="3 files found by the end of the name, first '/gpfs/k/run/1.mp4'"):
        videos = read_videos(tmp_path / "train.csv")
    assert [(v.path.relative_to(tmp_path / "videos").as_posix(), v.label) for v in videos] == [
        ("run/1.mp4", "0"), ("sit/1.mp4", "1"), ("sit/2.mp4", "1"),
    ]  # fmt: skip


def test_something_and_kinetics(tmp_path: Path) -> None:
    touch(tmp_path, "12.webm", "k/jogging/abc_000003_000013.mp4", "k/xyz.mkv")
    (tmp_path / "train.json").write_text(json.dumps([{"id": "12", "template": "Holding [something] up"}]))
    (video,) = read_videos(tmp_path / "train.json")
    assert (video.path.name, video.label) == ("12.webm", "Holding something up")
    (tmp_path / "test.json").write_text(json.dumps([{"id": "12"}]))
    with pytest.raises(
        UserError, match="a list without labels, as for the test of Something-Something v2, cannot"
    ):
        read_videos(tmp_path / "test.json")
    (tmp_path / "k.csv").write_text(
        'label,youtube_id,time_start,time_end,split\njogging,abc,3,13,val\n"a, b",xyz,0,10,val\n'
    )
    videos = read_videos(tmp_path / "k.csv", root=tmp_path / "k")
    assert [(v.path.name, v.label) for v in videos] == [
        ("abc_000003_000013.mp4", "jogging"),
        ("xyz.mkv", "a, b"),
    ]


def test_lists_as_json_and_with_semicolons(tmp_path: Path) -> None:
    touch(tmp_path, "k/abc_000003_000013.mp4", "k/xyz.mkv", "12.webm", "7.webm")
    note = {"duration": 10.0, "subset": "train", "url": "u"}
    content = {
        "abc": {"annotations": {"label": "jogging", "segment": [3.0, 13.0]}, **note},
        "xyz": {"annotations": {"label": "a, b", "segment": [0.0, 10.0]}, **note},
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    videos = read_videos(tmp_path / "train.json", root=tmp_path / "k")
    assert [(v.path.name, v.label) for v in videos] == [
        ("abc_000003_000013.mp4", "jogging"),
        ("xyz.mkv", "a, b"),
    ]
    for text in ("{", '{"abc": {"duration": 1}}', "[3]", "3"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match=r"bad.json': expected \[\{"):
            read_videos(tmp_path / "bad.json")
    (tmp_path / "answers.csv").write_text("12;Moving a thing; slowly\n7;Holding it\n")
    videos = read_videos(tmp_path / "answers.csv")
    assert [(v.path.name, v.label) for v in videos] == [
        ("12.webm", "Moving a thing; slowly"),
        ("7.webm", "Holding it"),
    ]
    (tmp_path / "answers.csv").write_text("12;Moving a thing\n7\n")
    with pytest.raises(UserError, match="answers.csv:2: has no label, other lines have one"):
        read_videos(tmp_path / "answers.csv")


def test_missing_files_can_be_left_to_the_reader(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\ngone.mp4 1\n")
    videos = read_videos(tmp_path / "list.txt", allow_missing=True)
    assert [v.name for v in videos] == ["a.mp4", "b.mp4", "gone.mp4"]
    with pytest.raises(UserError, match="cannot be decoded: No such file or directory"):
        file_facts(videos[2].path)
    (tmp_path / "list.txt").write_text("gone.mp4 1\n")
    with pytest.raises(UserError, match="1 of 1 files are missing"):
        read_videos(tmp_path / "list.txt", allow_missing=True)
    with pytest.raises(UserError, match="root '.*nowhere': no such folder"):
        read_videos(tmp_path / "list.txt", root=tmp_path / "nowhere")


def test_files_of_both_sides_are_told_apart_by_what_they_are(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{side}/{c}/1.mp4" for side in ("train", "test") for c in ("run", "sit")))
    videos, split = read_official(tmp_path / "train", tmp_path / "test")
    assert [videos[i].name for i in split.test] == ["test/run/1.mp4", "test/sit/1.mp4"]
    (tmp_path / "list.txt").write_text("train/run/1.mp4 0\ntest/sit/1.mp4 1\n")
    (tmp_path / "train" / "sit" / "link.mp4").symlink_to(tmp_path / "test" / "run" / "1.mp4")
    for test in (tmp_path / "list.txt", tmp_path / "test"):
        with pytest.raises(UserError, match=r"training and test share groups '(train|test)/run/1.mp4'"):
            read_official(tmp_path / "train", test)


def test_ucf_and_hmdb_splits(tmp_path: Path) -> None:
    names = [f"{c}/v_{c}_g0{g}_c1.avi" for c in ("Archery", "Rowing") for g in (1, 2)]
    touch(tmp_path, *names)
    (tmp_path / "trainlist01.txt").write_text(f"{names[0]} 1\n{names[2]} 2\n")
    (tmp_path / "testlist01.txt").write_text(f"{names[1]}\n{names[3]}\n")
    videos, split = read_official(tmp_path / "trainlist01.txt", tmp_path / "testlist01.txt")
    assert [v.label for v in videos] == ["Archery", "Rowing", "Archery", "Rowing"]
    assert split.train.tolist() == [0, 1] and split.test.tolist() == [2, 3]
    touch(tmp_path, "h/wave/a.avi", "h/wave/b.avi", "h/wave/c.avi", "h/run/d.avi", "h/run/e.avi")
    (tmp_path / "wave_test_split2.txt").write_text("a.avi 1\nb.avi 2 \nc.avi 0\n")
    (tmp_path / "run_test_split2.txt").write_text("d.avi 2\ne.avi 1\n")
    videos, split = read_hmdb(tmp_path, root=tmp_path / "h", number=2)
    assert [v.name for v in videos] == ["run/d.avi", "run/e.avi", "wave/a.avi", "wave/b.avi"]
    assert split.train.tolist() == [1, 2] and split.test.tolist() == [0, 3]
    with pytest.raises(UserError, match="holds no .*_test_split3.txt"):
        read_hmdb(tmp_path, root=tmp_path, number=3)


def test_splits_keep_groups_together_and_say_why_they_cannot() -> None:
    videos = made("aaaabbbbb", "112234556")
    for split in k_fold(videos, 2, seed=1):
        check_split(videos, split)
        assert sorted([*split.train, *split.test]) == list(range(9))
    with pytest.raises(UserError, match=r"5 folds need .* too few in: 'a' \(2\), 'b' \(4\)"):
        k_fold(videos, 5)
    splits = leave_one_group_out(videos)
    assert [s.name for s in splits] == list("123456") and splits[4].test.tolist() == [6, 7]
    with pytest.raises(UserError, match="training and test share groups '1'"):
        check_split(videos, Split(np.array([0, 5]), np.array([1, 6]), "mine"))
    with pytest.raises(UserError, match="no training video of test classes 'b'"):
        check_split(videos, Split(np.array([0]), np.array([8]), "mine"))


def test_low_shot_is_the_seeds_alone() -> None:
    videos = made("aaaaabbbbbc")
    split = Split(np.arange(10), np.array([10]), "x")
    once, again = (low_shot(videos, split, 2, seed=3).train.tolist() for _ in range(2))
    assert once == again and [videos[i].label for i in once] == ["a", "a", "b", "b"]
    assert any(low_shot(videos, split, 2, seed=s).train.tolist() != once for s in range(4, 9))
    with pytest.raises(UserError, match="6 shots: class 'a' has 5"):
        low_shot(videos, split, 6)
