"""Frames, clips and crops of video files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from smile_synth import UserError
from smile_synth.core.rng import RandomStream
from smile_synth.io.pixel_format import PixelFormat
from smile_synth.io.videos import write_mp4
from smile_train.config import SamplingOptions
from smile_train.data import decoding  # the choice of the decoder has no public switch
from smile_train.data import video as reading
from smile_train.data.decoding import decode, file_facts, frame_index
from smile_train.data.video import ReadOptions, read_random_clip, read_windows

DATA = Path(__file__).parents[2] / "../shared/data/videos"


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


def levels(clip: np.ndarray) -> list[int]:
    """Return the frame numbers of a clip of a `numbered` video."""
    return [round(float(frame.mean()) / 10) for frame in clip]


def test_segments_are_at_their_centres_in_a_test(tmp_path: Path) -> None:
    video = numbered(tmp_path / "a.mp4", 20)
    segments = SamplingOptions(sampling="segments", num_frames=4)
    found = {n: [levels(v) for v in reading.test_views(video, segments, 16, clips=n)] for n in (1, 2, 3)}
    assert found[1] == [[2, 7, 12, 17]]
    assert found[2] == [[0, 5, 10, 15], [2, 7, 12, 17]]  # as published for Something-Something v2
    assert found[3] == [[0, 5, 10, 15], [2, 7, 12, 17], [4, 9, 14, 19]]
    assert read(video, sampling="segments", num_frames=4) == found[1]
    short = SamplingOptions(sampling="segments", num_frames=6)
    assert levels(reading.test_views(numbered(tmp_path / "b.mp4", 3), short, 16)[0]) == [0, 0, 1, 1, 2, 2]


def test_training_clips_begin_anywhere(tmp_path: Path) -> None:
    video = numbered(tmp_path / "a.mp4", 12)

    def drawn(**options: object) -> list[list[int]]:
        sampling = SamplingOptions.model_validate(options)
        return [levels(read_random_clip(video, sampling, 16, RandomStream(3, i, "x"))) for i in range(60)]

    windows = drawn(num_frames=3, stride_frames=4)
    assert {tuple(w) for w in windows} == {(k, k + 4, k + 8) for k in range(4)}
    assert windows == drawn(num_frames=3, stride_frames=4)
    timed = drawn(num_frames=3, stride_seconds=0.4)
    assert {tuple(w) for w in timed} == {(k, k + 4, k + 8) for k in range(4)}
    assert set(map(tuple, drawn(num_frames=4, stride_frames=5, short="loop"))) == {(0, 5, 10, 0)}
    segments = np.array(drawn(num_frames=4, sampling="segments"))
    for part in range(4):
        assert set(segments[:, part]) == set(range(3 * part, 3 * part + 3))


def test_large_frames_are_reduced_whole(tmp_path: Path) -> None:
    video = numbered(tmp_path / "a.mp4", 4, (32, 64))
    for short_side, shape in ((16, (2, 16, 32, 3)), (99, (2, 32, 64, 3))):
        sampling = SamplingOptions(num_frames=2, stride_frames=1)
        assert read_random_clip(video, sampling, short_side, RandomStream(0, 0, "x")).shape == shape


def key_framed(path: Path, frames: int, distance: int) -> Path:
    """Write a video with a key frame every ``distance`` frames, and B frames between."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 48, 32, "yuv420p", distance
        stream.codec_context.thread_count = 1
        stream.options = {"bf": "2", "sc_threshold": "0", "x264-params": "open-gop=1"}
        for number in range(frames):
            image = np.full((32, 48, 3), 5 * number, np.uint8)
            container.mux(stream.encode(PixelFormat().from_rgb(image, "yuv420p")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_decoding_starts_at_a_key_frame(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    video = key_framed(tmp_path / f"a.{suffix}", 48, 12)
    monkeypatch.setattr(decoding, "_torchcodec", lambda: None)
    index = frame_index(video)
    entries: list[int] = []
    numbered = decoding._numbered
    monkeypatch.setattr(
        decoding, "_numbered", lambda c, i, entry: entries.append(entry) or numbered(c, i, entry)
    )
    for numbers in ([47], [3, 4, 40], [11, 12, 23, 24, 25]):
        found = {n: round(float(frame.mean()) / 5) for n, frame in decode(video, index, numbers)}
        assert found == {n: n for n in numbers}
    assert entries == ([0, 36, 0, 36, 0] if suffix in ("mp4", "mkv") else [0, 0, 0])


def test_frames_before_the_beginning_of_a_cut_video_are_not_counted(tmp_path: Path) -> None:
    whole = key_framed(tmp_path / "whole.mp4", 48, 12)
    cut = tmp_path / "cut.mp4"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(whole)) as source, av.open(str(cut), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                shift = round(0.5 / float(packet.time_base))  # five frames
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                target.mux(packet)
    index = frame_index(cut)
    assert len(index) == 43 and index.times[:2] == pytest.approx([0, 0.1])
    assert [round(float(frame.mean()) / 5) for _, frame in decode(cut, index, [0, 3, 40])] == [5, 8, 45]


def test_a_file_that_seeks_wrongly_is_decoded_from_its_beginning(tmp_path: Path) -> None:
    video = key_framed(tmp_path / "a.mp4", 48, 12)
    index = frame_index(video)
    wrong = replace(index, stamps=index.stamps + 1)
    assert [(n, round(float(frame.mean()) / 5)) for n, frame in decode(video, wrong, [2, 40])] == [
        (2, 2),
        (40, 40),
    ]


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
    assert colours(crops=3) == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
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
    with pytest.raises(ValueError, match="crops: 3 crops need fit=crop, got fit=pad"):
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
    monkeypatch.setattr(decoding, "_torchcodec", lambda: decoder)
    video = numbered(tmp_path / "a.mp4", 12)
    assert read(video, num_frames=2, stride_frames=3, clips=1) == [[3, 6]]


@pytest.mark.skipif(decoding._torchcodec() is None, reason="torchcodec, or the FFmpeg it needs, is not there")
def test_torchcodec_gives_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    write_mp4(tmp_path / "a.mp4", rng.integers(0, 255, (30, 48, 64, 3), np.uint8), 10)
    files = [tmp_path / "a.mp4", *(DATA.iterdir() if DATA.is_dir() else ())]
    for path in files:
        options = ReadOptions(num_frames=4, side=32, clips=2)
        own = [list(read_windows(path, options))]
        with monkeypatch.context() as patch:
            patch.setattr(decoding, "_torchcodec", lambda: None)
            own.append(list(read_windows(path, options)))
        np.testing.assert_array_equal(*own)


def test_a_file_that_was_cut_is_told(tmp_path: Path) -> None:
    video = numbered(tmp_path / "a.mp4", 20, (64, 64))
    data = video.read_bytes()
    video.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="cannot be decoded|cut short"):
        list(read_windows(video, ReadOptions(num_frames=3, side=16)))
