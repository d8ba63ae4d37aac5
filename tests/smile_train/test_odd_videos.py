"""Videos as phones, recorders and older tools write them: counted and shown as a player does, or refused."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from smile_synth import UserError
from smile_synth.io.videos import SUFFIXES, inspect_video, read_frames
from smile_train.data.decoding import content_digest, decode, file_facts, frame_index
from smile_train.data.video import ReadOptions, read_windows
from smile_train.data.video_lists import find_videos, list_videos, passed_over, read_videos

SIZE_HW = (32, 48)
STEP = 20  # grey levels from one frame to the next


def encode(container: Any, stream: Any, number: int, pts: int) -> None:
    image = np.full((*SIZE_HW, 3), number * STEP, np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=stream.pix_fmt)
    frame.pts, frame.time_base = pts, Fraction(1, 25)
    container.mux(stream.encode(frame))


def add_video(container: Any, codec: str, pixels: str = "yuv420p", **options: str) -> Any:
    stream = container.add_stream(codec, rate=25)
    stream.height, stream.width, stream.pix_fmt = *SIZE_HW, pixels
    stream.codec_context.thread_count, stream.options = 1, options
    return stream


def write(path: Path, pts: Iterable[int], codec: str = "libx264", muxing: str = "", **options: str) -> Path:
    """Write a video whose frame k is grey of level k x STEP."""
    with av.open(str(path), "w", options={"movflags": muxing} if muxing else {}) as container:
        stream = add_video(container, codec, **options)
        for number, time in enumerate(pts):
            encode(container, stream, number, time)
        container.mux(stream.encode(None))
    return path


def shown(path: Path, numbers: Iterable[int] | None = None, *, past_damage: bool = False) -> list[int]:
    """Return which frames a video shows, by their grey."""
    index = frame_index(path, past_damage=past_damage)
    wanted = list(range(len(index)) if numbers is None else numbers)
    return [round(float(frame.mean()) / STEP) for _, frame in decode(path, index, wanted)]


def shown_as_background(path: Path) -> list[int]:
    info = inspect_video(path)
    assert not info.cut_short
    frames = read_frames(path, info, range(info.num_frames))
    return [round(float(frame.mean()) / STEP) for frame in frames]


def trimmed(path: Path, *, duration_ms: int, start_ticks: int) -> Path:
    """Write 12 frames, then change the edit list of the file, as a phone does to trim it."""
    write(path, range(12), g="4", bf="0", crf="10")
    data = bytearray(path.read_bytes())
    entry = data.index(b"elst") + 4 + 8
    before = int.from_bytes(data[entry + 4 : entry + 8], "big")
    data[entry : entry + 4] = duration_ms.to_bytes(4, "big")
    data[entry + 4 : entry + 8] = (before + start_ticks).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("duration_ms", "start_frame", "expected"),
    [(480, 0, range(12)), (200, 0, range(5)), (240, 6, range(6, 12)), (120, 5, range(5, 8))],
)
def test_an_edit_list_hides_frames(
    tmp_path: Path, duration_ms: int, start_frame: int, expected: range
) -> None:
    video = trimmed(tmp_path / "a.mp4", duration_ms=duration_ms, start_ticks=start_frame * 512)
    assert shown(video) == [*expected]
    assert shown_as_background(video) == [*expected]
    assert shown(video, [len(expected) - 1]) == [expected[-1]]
    assert file_facts(video).num_frames == len(expected)


def test_a_trimmed_video_that_is_cut_is_still_refused(tmp_path: Path) -> None:
    video = write(tmp_path / "a.mp4", range(12), muxing="+faststart", g="1", bf="2")
    data = bytearray(video.read_bytes())
    entry = data.index(b"elst") + 12
    data[entry : entry + 4] = (200).to_bytes(4, "big")
    video.write_bytes(data[: packets(video)[7][0]])
    with pytest.raises(UserError, match=r"is cut short: \d of 12 frames are there"):
        frame_index(video)
    assert inspect_video(video).cut_short


def test_frames_that_an_avi_repeats_are_no_missing_frames(tmp_path: Path) -> None:
    video = write(tmp_path / "a.avi", [0, 1, 5, 6, 9], "mpeg4")
    assert shown(video) == shown_as_background(video) == [0, 1, 2, 3, 4]
    assert frame_index(video).times * 25 == pytest.approx([0, 1, 5, 6, 9])
    data = video.read_bytes()
    video.write_bytes(data[: data.index(b"movi") + 250])
    with pytest.raises(UserError, match="cut short"):
        frame_index(video)
    assert inspect_video(video).cut_short


def packets(path: Path) -> list[tuple[int, int]]:
    """Return position and size in bytes of every packet."""
    with av.open(str(path)) as container:
        return [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]


def boxes(data: bytes) -> dict[bytes, bytes]:
    """Return the boxes of an mp4 by name; of equal names the last."""
    found, at = {}, 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found[data[at + 4 : at + 8]] = data[at : at + size]
        at += size
    return found


def with_cover(path: Path, *, first: bool) -> Path:
    """Write 6 frames with a cover; ``first`` puts it before the film in the file."""
    with av.open(str(path), "w") as container:
        film, cover = add_video(container, "libx264"), add_video(container, "png", "rgb24")
        cover.disposition = Disposition.attached_pic
        for number in range(6):
            encode(container, film, number, number)
        container.mux(film.encode(None))
        encode(container, cover, 9, 0)
        container.mux(cover.encode(None))
    if first:
        data = path.read_bytes()
        moov = boxes(data)[b"moov"]
        parts = boxes(moov[8:])
        parts = {name: parts[name] for name in (b"mvhd", b"udta", b"trak")}
        path.write_bytes(data.replace(moov, moov[:8] + b"".join(parts.values())))
        assert len(path.read_bytes()) == len(data)
    return path


@pytest.mark.parametrize("first", [True, False])
def test_a_cover_is_no_film(tmp_path: Path, first: bool) -> None:
    video = with_cover(tmp_path / "a.mp4", first=first)
    with av.open(str(video)) as container:
        assert bool(container.streams.video[0].disposition & Disposition.attached_pic) == first
    assert shown(video) == shown_as_background(video) == [*range(6)]


def test_a_preview_of_one_frame_before_the_film_is_passed_over(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    with av.open(str(video), "w") as container:
        preview, film = add_video(container, "libx264"), add_video(container, "libx264")
        encode(container, preview, 9, 0)
        container.mux(preview.encode(None))
        for number in range(6):
            encode(container, film, number, number)
        container.mux(film.encode(None))
    assert shown(video) == shown_as_background(video) == [*range(6)]


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        (".mpg", "mpeg1video"), (".mpeg", "mpeg2video"), (".ts", "mpeg2video"), (".mts", "libx264"),
        (".m2ts", "libx264"), (".vob", "mpeg2video"), (".wmv", "wmv2"), (".asf", "mpeg4"), (".flv", "flv1"),
        (".f4v", "libx264"), (".3gp", "libx264"), (".3g2", "mpeg4"), (".MOV", "mpeg4"), (".m4v", "mpeg4"),
    ],
)  # fmt: skip
def test_suffixes_of_videos(tmp_path: Path, suffix: str, codec: str) -> None:
    assert suffix.lower() in SUFFIXES
    (tmp_path / "run").mkdir()
    write(tmp_path / "run" / f"a{suffix}", range(6), codec, bf="0")
    (video,) = list_videos(tmp_path)
    assert (video.name, video.label) == (f"run/a{suffix}", "run")
    assert shown(video.path) == shown_as_background(video.path) == [*range(6)]


def test_files_of_other_suffixes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in ("run/a.mp4", "run/a.txt", "b.rmvb", "run/b.TXT", "run/.hidden", "notes"):
        (tmp_path / name).touch()
    assert passed_over(tmp_path) == "2 .txt, 1 .rmvb, 1 without suffix"
    assert passed_over(tmp_path / "run" / "a.mp4") == ""


# --- damage


def damaged(path: Path, kind: str) -> Path:
    write(path, range(12), muxing="+faststart", g="1", bf="0", crf="10")
    data = bytearray(path.read_bytes())
    position, size = packets(path)[7 if kind == "cut" else 4]
    if kind == "cut":
        del data[position:]
    else:
        data[position : position + size] = bytes(size)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["cut", "hole"])
def test_damage_is_refused_by_default_and_decoded_past_on_request(tmp_path: Path, kind: str) -> None:
    video = damaged(tmp_path / "a.mp4", kind)
    options: dict[str, Any] = {"num_frames": 3, "side": 16, "stride_frames": 2, "clips": 1}
    with pytest.raises(UserError, match="cut short|cannot be decoded"):
        list(read_windows(video, ReadOptions(**options)))
    found = shown(video, range(12) if kind == "hole" else None, past_damage=True)
    if kind == "cut":
        assert found == [*range(7)]
    else:
        assert found == [0, 1, 2, 3, 3, *range(5, 12)]
    (clip,) = read_windows(video, ReadOptions(**options, damaged="decode"))
    assert clip.shape == (3, 16, 16, 3)
    assert file_facts(video, past_damage=True).num_frames == len(found)


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    contents = {"empty": b"", "text": b"hello there, this is text\n" * 9, "page": b"<!DOCTYPE html>" * 20}
    for name, content in contents.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound, cover = container.add_stream("aac", rate=8000), add_video(container, "png", "rgb24")
        cover.disposition = Disposition.attached_pic
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        for packet in [*sound.encode(samples), *sound.encode(None)]:
            container.mux(packet)
        encode(container, cover, 3, 0)
        container.mux(cover.encode(None))
    for name, message in {
        "empty": "is empty", "text": "cannot be decoded: Invalid data", "page": "cannot be decoded",
        "song": "holds no video, only a cover", "gone": "No such file",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=message):
            file_facts(tmp_path / f"{name}.mp4")


# --- folders of frames


def write_frames(folder: Path, names: Iterable[str]) -> Path:
    """Write images; the k-th name is grey of level k x STEP."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (12, 8), (number * STEP,) * 3).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        [f"{k:05d}.png" for k in range(1, 13)],  # Jester, Something-Something v1
        [f"img_{k:05d}.png" for k in range(12)],  # TSN
        [f"frame{k}.png" for k in range(8, 20)],  # without leading zeros
        [f"v_x_g01.avi_{k:06d}.PNG" for k in range(0, 120, 10)],
    ],
)
def test_a_folder_of_numbered_images_is_a_video(tmp_path: Path, names: list[str]) -> None:
    folder = write_frames(tmp_path / "v", names)
    for other in ("flow_x_00001.png", "flow_y_00001.png", "x_00001.png", "._00001.png", "cover.png"):
        (folder / other).write_bytes(b"other")
    assert shown(folder) == [*range(12)] and shown(folder, [7, 11]) == [7, 11]
    facts = file_facts(folder)
    assert (facts.height, facts.width, facts.num_frames, facts.fps) == (8, 12, 12, 25)
    (clip,) = read_windows(folder, ReadOptions(num_frames=3, side=8, stride_frames=4, clips=1))
    assert [round(float(frame.mean()) / STEP) for frame in clip] == [0, 4, 8]


def test_faults_of_frame_folders_are_named(tmp_path: Path) -> None:
    two = write_frames(tmp_path / "two", ["a_1.png", "a_2.png", "b_1.png"])
    with pytest.raises(UserError, match="holds images of several series: 'a_\\*', 'b_\\*'"):
        frame_index(two)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="is a folder without numbered images"):
        frame_index(tmp_path / "none")
    broken = write_frames(tmp_path / "broken", [f"{k}.png" for k in range(5)])
    before = content_digest(broken)
    (broken / "2.png").write_bytes(b"no image")
    assert content_digest(broken) != before
    with pytest.raises(UserError, match=r"frame '2\.png': not an image"):
        shown(broken)
    assert shown(broken, past_damage=True) == [0, 1, 1, 3, 4]


def test_frame_folders_are_found_in_folders_and_lists(tmp_path: Path) -> None:
    names = [f"img_{k}.png" for k in range(3)]
    for name in ("run/v1", "run/v2", "sit/v3"):
        write_frames(tmp_path / "raw" / name, names)
    found = list_videos(tmp_path / "raw")
    assert [(v.name, v.label) for v in found] == [("run/v1", "run"), ("run/v2", "run"), ("sit/v3", "sit")]
    assert find_videos(tmp_path / "raw" / "run" / "v1") == [tmp_path / "raw" / "run" / "v1"]
    assert passed_over(tmp_path / "raw") == ""
    (tmp_path / "tsn.txt").write_text("run/v1 3 0\nrun/v2 3 0\nsit/v3 3 1\n")
    videos = read_videos(tmp_path / "tsn.txt", root=tmp_path / "raw")
    assert [(v.path, v.label) for v in videos] == [
        (tmp_path / "raw" / name, label)
        for name, label in (("run/v1", "0"), ("run/v2", "0"), ("sit/v3", "1"))
    ]
    (tmp_path / "jester.csv").write_text("v1;Drumming [some] Fingers\nv2;Stop Sign\n")
    videos = read_videos(tmp_path / "jester.csv", root=tmp_path / "raw" / "run")
    assert [(v.path.name, v.label) for v in videos] == [("v1", "Drumming some Fingers"), ("v2", "Stop Sign")]
    (tmp_path / "tsn.txt").write_text("run/v1 3 0\nrun/v4 3 1\n")
    with pytest.raises(UserError, match="1 of 2 files are missing: 'run/v4'"):
        read_videos(tmp_path / "tsn.txt", root=tmp_path / "raw")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a b.mp4 playing chess\nc.mp4 running\n", [("a b.mp4", "playing chess"), ("c.mp4", "running")]),
        ("video,category\nc,jump\nd.e,run\n", [("c.mp4", "jump"), ("d.e.mp4", "run")]),
        ("sub\\x.mp4,3\nc.mp4,1\n", [("sub/x.mp4", "3"), ("c.mp4", "1")]),
        ("sub/x.mp4 0 -1\n", [("sub/x.mp4", "sub")]),
    ],
)
def test_lists_name_files_in_many_ways(tmp_path: Path, content: str, expected: list[tuple[str, str]]) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a b.mp4", "c.mp4", "d.e.mp4", "sub/x.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text(content)
    videos = read_videos(tmp_path / "list.txt")
    assert [(v.path.relative_to(tmp_path).as_posix(), v.label) for v in videos] == expected
