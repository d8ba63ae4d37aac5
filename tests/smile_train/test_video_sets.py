"""Lists of labelled videos as they are published, splits, and how frames are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from smile_synth import UserError
from smile_synth.io.videos import write_mp4
from smile_train.evaluate import (
    LabelledVideo,
    ReadOptions,
    Split,
    _reading,  # which decoder reads is nobody's choice: no public way to change it
    check_split,
    extract,
    file_facts,
    k_fold,
    leave_one_group_out,
    low_shot,
    read_hmdb,
    read_official,
    read_videos,
    read_windows,
    select_classes,
)

DATA = Path(__file__).parents[2] / "../shared/data/videos"


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
    with pytest.raises(UserError, match="answers.csv:2: has no label; expected 'id;label'"):
        read_videos(tmp_path / "answers.csv")


def test_missing_files_can_be_left_to_the_reader(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "list.txt").write_text("a.mp4 0\nb.mp4 1\ngone.mp4 1\n")
    videos = read_videos(tmp_path / "list.txt", allow_missing=True)
    assert [v.name for v in videos] == ["a.mp4", "b.mp4", "gone.mp4"]
    found = extract(
        [v.path for v in videos], [], ReadOptions(num_frames=2, side=16), names=[v.name for v in videos]
    )
    assert found.broken[-1] == ("gone.mp4", "cannot be decoded: No such file or directory")
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


def numbered(path: Path, frames: int, size_hw: tuple[int, int] = (32, 48), fps: float = 10) -> Path:
    """Write a video whose grey value is 10 x the frame's number."""
    levels = (10 * np.arange(frames, dtype=np.uint8))[:, None, None, None]
    write_mp4(path, np.broadcast_to(levels, (frames, *size_hw, 3)).copy(), fps)
    return path


def read(path: Path, **options: object) -> list[list[int]]:
    found = read_windows(path, ReadOptions(side=16, **options))  # type: ignore[arg-type]
    return [[round(float(frame.mean()) / 10) for frame in window] for window in found]


def test_frames_are_taken_by_number_and_by_time(tmp_path: Path) -> None:
    video = numbered(tmp_path / "a.mp4", 20)
    assert read(video, num_frames=3, stride_frames=3) == [[0, 3, 6], [9, 12, 15]]
    assert read(video, num_frames=3, stride_frames=1, clips=1) == [[8, 9, 10]]
    assert read(video, num_frames=3, stride_frames=2, clips=3) == [[0, 2, 4], [8, 10, 12], [14, 16, 18]]
    assert read(video, num_frames=4, stride_seconds=0.25) == [[0, 2, 5, 7], [10, 12, 15, 17]]
    assert read(video, num_frames=4, stride_seconds=0.05, clips=1) == [[9, 9, 10, 10]]
    facts = file_facts(video)
    assert (facts.height, facts.width, facts.num_frames) == (32, 48, 20)
    assert facts.fps == pytest.approx(10) and facts.duration_seconds == pytest.approx(2.0)


def test_short_videos_follow_the_stated_rule(tmp_path: Path) -> None:
    video = numbered(tmp_path / "a.mp4", 5)
    assert read(video, num_frames=6, stride_frames=2) == [[0, 2, 4, 4, 4, 4]]
    assert read(video, num_frames=6, stride_frames=2, short="loop") == [[0, 2, 4, 0, 2, 4]]
    assert read(video, num_frames=6, stride_frames=2, short="stretch") == [[0, 1, 2, 2, 3, 4]]


def test_fits_to_a_square(tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 96, 3), np.uint8)
    frames[:, :, :32] = (250, 0, 0)
    frames[:, :, 64:] = (0, 0, 250)
    write_mp4(tmp_path / "a.mp4", frames, 10)

    def colours(**options: object) -> list[list[int]]:
        found = read_windows(
            tmp_path / "a.mp4", ReadOptions(num_frames=2, side=16, stride_frames=1, **options)
        )  # type: ignore[arg-type]
        return [(window[0].mean((0, 1)) / 250).round(1).tolist() for window in found]

    assert colours() == [[0, 0, 0]]
    assert colours(crops=3) == [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert colours(fit="height") == [[0, 0, 0]]
    (padded,) = read_windows(
        tmp_path / "a.mp4", ReadOptions(num_frames=2, side=18, stride_frames=1, fit="pad")
    )
    assert padded.shape == (2, 18, 18, 3)
    assert padded[0, 8, 2, 0] > 200 and padded[0, 8, 15, 2] > 200  # the whole width is there
    assert np.ptp(padded[0, :5].reshape(-1, 3), axis=0).max() == 0  # one colour, the border's
    assert 60 < padded[0, 0, 0, 0] < 100 and padded[0, 0, 0, 1] < 15
    tall = np.zeros((2, 96, 32, 3), np.uint8)
    tall[..., 1] = 200
    write_mp4(tmp_path / "b.mp4", tall, 10)
    (narrow,) = read_windows(
        tmp_path / "b.mp4", ReadOptions(num_frames=2, side=18, stride_frames=1, fit="height")
    )
    assert abs(int(narrow[..., 1].min()) - 200) < 8 and narrow[..., 0].max() < 8


def test_size_and_length_and_aspect_stay_outside(tmp_path: Path) -> None:
    """The same image from a larger, a longer and a wider file gives the same clip."""
    rng = np.random.default_rng(0)
    small = np.kron(rng.integers(0, 256, (4, 4, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = small
    files = {
        "plain": (small, 8),
        "large": (small.repeat(3, 0).repeat(3, 1), 8),
        "long": (small, 40),
        "wide": (wide, 8),
    }
    for name, (image, length) in files.items():
        write_mp4(tmp_path / f"{name}.mp4", np.broadcast_to(image, (length, *image.shape)).copy(), 10)
    for options in ({}, {"stride_seconds": 0.2}, {"clips": 2}):
        clips = {
            name: np.stack(
                list(read_windows(tmp_path / f"{name}.mp4", ReadOptions(num_frames=3, side=32, **options)))
            ).mean(0)
            for name in files
        }  # type: ignore[arg-type]
        for name in files:
            assert np.abs(clips[name] - clips["plain"]).mean() < 4, (name, options)


def test_three_crops_need_a_crop() -> None:
    with pytest.raises(ValueError, match="crops: 3 are those of fit=crop, got fit=pad"):
        ReadOptions(num_frames=2, side=16, crops=3, fit="pad")


class _Other:
    """A decoder that counts other frames than PyAV, or fails, or cannot be had."""

    metadata = None

    def __init__(self, *arguments: object, **options: object) -> None:
        pass

    def __len__(self) -> int:
        return 4


def _failing(*_: object, **__: object) -> object:
    raise RuntimeError("no such codec")


@pytest.mark.parametrize("decoder", [_Other, _failing, None])
def test_pyav_reads_what_another_decoder_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: object
) -> None:
    monkeypatch.setattr(_reading, "_torchcodec", lambda: decoder)
    video = numbered(tmp_path / "a.mp4", 12)
    assert read(video, num_frames=2, stride_frames=3, clips=1) == [[3, 6]]


@pytest.mark.skipif(_reading._torchcodec() is None, reason="torchcodec, or the FFmpeg it needs, is not there")
def test_torchcodec_gives_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    write_mp4(tmp_path / "a.mp4", rng.integers(0, 255, (30, 48, 64, 3), np.uint8), 10)
    files = [tmp_path / "a.mp4", *(DATA.iterdir() if DATA.is_dir() else ())]
    for path in files:
        options = ReadOptions(num_frames=4, side=32, clips=2)
        own = [list(read_windows(path, options))]
        with monkeypatch.context() as patch:
            patch.setattr(_reading, "_torchcodec", lambda: None)
            own.append(list(read_windows(path, options)))
        np.testing.assert_array_equal(*own)


def test_a_file_that_was_cut_is_told(tmp_path: Path) -> None:
    video = numbered(tmp_path / "a.mp4", 20, (64, 64))
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be decoded|cut short"):
        list(read_windows(video, ReadOptions(num_frames=3, side=16)))
