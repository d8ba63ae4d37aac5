"""Probes and embeddings."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from smile_synth import UserError
from smile_synth.backgrounds import write_images
from smile_synth.io.videos import write_mp4
from smile_synth.sources import Sources
from smile_train.data.synthetic import normalise
from smile_train.evaluate import (
    FACTORS,
    MotionExam,
    ReadOptions,
    VideoEncoder,
    ViewOptions,
    all_controls,
    color_statistics,
    difference_interval,
    embed_videos,
    examine_motion,
    find_videos,
    frame_means,
    linear_probe,
    load_encoder,
    read_windows,
    tokens_in_place,
)
from smile_train.models import Student, StudentConfig
from smile_train.training.checkpoint import save_student

DATA = Path(__file__).parents[2] / "../shared/data/videos"


def encoder(**changes: object) -> VideoEncoder:
    return VideoEncoder("e", student(**changes).encoder)


def student(**changes: object) -> Student:
    settings: dict[str, object] = {
        "width": 16, "depth": 1, "heads": 2, "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2,
        "target_dim": 4, "num_frames": 4, "size_hw": (32, 32),
    }  # fmt: skip
    return Student(StudentConfig(**{**settings, **changes}), generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]


def ramp(path: Path, frames: int, size_hw: tuple[int, int] = (48, 64)) -> None:
    """Write a video whose grey value is 10 x the frame's number."""
    levels = (10 * np.arange(frames, dtype=np.uint8))[:, None, None, None]
    write_mp4(path, np.broadcast_to(levels, (frames, *size_hw, 3)).copy(), 10)


def test_linear_probe_finds_what_is_there_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    y = np.array(["a", "b", "c"])[rng.integers(0, 3, 400)]
    x = rng.normal(size=(400, 6))
    x[:, 2] += 4.0 * (y == "b")
    x[:, 5] -= 4.0 * (y == "c")
    score = linear_probe(x[:200], y[:200], x[200:], y[200:])
    assert 0.9 < score.low <= score.accuracy <= score.high <= 1
    blind = linear_probe(x[:200, :2], y[:200], x[200:, :2], y[200:])
    assert blind.low < 0.4 and blind.accuracy < 0.45
    with pytest.raises(ValueError, match=r"at least two classes, got \['a'\]"):
        linear_probe(x[:5], np.array(["a"] * 5), x[5:], y[5:])


def test_difference_interval_pairs_the_clips() -> None:
    a = np.arange(500) % 2 == 0
    assert difference_interval(a, a) == (0.0, 0.0)
    low, high = difference_interval(a, np.zeros(500))
    assert low < 0.5 < high and 0.07 < high - low < 0.10  # +- 1.96 sqrt(.25 / 500)


def test_controls_hold_what_they_say() -> None:
    frames = torch.randint(
        0, 256, (3, 4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    shuffled = frames[:, [2, 0, 3, 1]]
    np.testing.assert_allclose(color_statistics(frames), color_statistics(shuffled), rtol=1e-5)
    means = frame_means(frames, cells=2)
    assert means.shape == (3, 4 * 3 * 4)
    assert means[1, 3 * 4 + 2 * 4 + 1] == pytest.approx(
        float(frames[1, 1, 2, :4, 4:].float().mean()), rel=1e-5
    )


def test_examination_has_every_row_and_its_margin(train_bank: Path) -> None:
    examined = examine_motion(
        encoder(num_frames=8, size_hw=(64, 64)), *_sources(train_bank),
        num_train=60, num_test=50,
    )  # fmt: skip
    assert [(r.task, r.features) for r in examined.rows][:4] == [
        ("motion family", "encoder"), ("motion family", "random encoders (3)"),
        ("motion family", "colour over time"), ("motion family", "pixels per frame"),
    ]  # fmt: skip
    assert len(examined.rows) == 12
    assert examined.num_classes == {"motion family": 5, "direction": 8, "object class": 2}
    for row in examined.rows:
        assert 0 <= row.low <= row.accuracy <= row.high <= 1
        assert (row.margin is not None) == (row.features == "encoder")


def test_every_factor_is_asked_of_a_student_of_another_size(train_bank: Path) -> None:
    examined = examine_motion(
        encoder(),
        *_sources(train_bank),
        num_train=60,
        num_test=50,
        tasks=FACTORS,
    )
    assert list(examined.num_classes) == list(FACTORS)
    assert examined.num_classes["rotation"] == 2 and examined.num_classes["count"] == 4
    assert examined.num_classes["speed"] == 3 and examined.num_classes["occluded when"] >= 2
    with pytest.raises(UserError, match=r"reads \(32, 48\) frames, only square ones are read"):
        encoder(size_hw=(32, 48))


def test_motion_is_asked_of_any_encoder_beside_all_controls(train_bank: Path) -> None:
    encoder = load_encoder("clip:tiny-clip", num_frames=4)
    examined = examine_motion(
        encoder, *_sources(train_bank), num_train=60, num_test=50,
        tasks={"rotation": FACTORS["rotation"]}, plain=all_controls(),
    )  # fmt: skip
    rows = {row.features: row for row in examined.rows}
    assert list(rows) == [
        "encoder", "random encoders (3)", "colour over time", "pixels per frame", "flow histograms",
        "frames of clip:tiny-clip",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="got an encoder of"):
        exam = MotionExam(
            encoder, *_sources(train_bank), num_train=50, num_test=50,
            tasks={"rotation": FACTORS["rotation"]}, plain={},
        )  # fmt: skip
        exam.examine(load_encoder("clip:tiny-clip", num_frames=8))


def _sources(bank: Path) -> list[Sources]:
    folders = [bank.parent / name for name in ("train images", "test images")]
    for seed, folder in enumerate(folders):
        write_images(folder, count=3, seed=seed, size=64)
    return [Sources.open(bank, folder) for folder in folders]


def test_what_is_predicted_is_no_part_of_an_encoders_form() -> None:
    """Encoders of one form share an exam and its random encoders, whatever their decoders and targets."""
    one = encoder()
    other = encoder(target_dim=9, decoder_width=12, decoder_depth=2, checkpointing=True, drop_path=0.1)
    assert one.form == other.form
    assert one.form != encoder(positions="separable").form != encoder(tubelet_size=1).form
    frames = torch.randint(256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(one.reinitialised(3).tokens(frames), other.reinitialised(3).tokens(frames))


def test_windows_take_exact_frames(tmp_path: Path) -> None:
    ramp(tmp_path / "a.mp4", 11)
    windows = list(read_windows(tmp_path / "a.mp4", ReadOptions(num_frames=2, stride_frames=2, side=32)))
    levels = [[int(frame.mean().round()) for frame in window] for window in windows]
    assert np.abs(np.array(levels) - [[0, 20], [40, 60], [80, 100]]).max() <= 2
    assert windows[0].shape == (2, 32, 32, 3)
    (short,) = read_windows(tmp_path / "a.mp4", ReadOptions(num_frames=8, stride_frames=2, side=32))
    assert np.abs(short.mean((1, 2, 3)) - [0, 20, 40, 60, 80, 100, 100, 100]).max() <= 2


def test_middle_is_cropped_after_resizing(tmp_path: Path) -> None:
    frames = np.zeros((2, 32, 96, 3), np.uint8)
    frames[:, :, 32:64] = 255
    write_mp4(tmp_path / "a.mp4", frames, 10)
    (window,) = read_windows(tmp_path / "a.mp4", ReadOptions(num_frames=2, stride_frames=1, side=16))
    assert window.mean() > 240


def test_embeds_in_either_format_and_lists_what_is_broken(tmp_path: Path) -> None:
    save_student(tmp_path / "student.safetensors", student())
    videos = tmp_path / "videos"
    (videos / "deep").mkdir(parents=True)
    ramp(videos / "a.mp4", 9)
    ramp(videos / "deep" / "b b.mp4", 3)
    (videos / "empty.mp4").write_bytes(b"")
    _sound_only(videos / "sound.mp4")
    for name in ("f.npz", "f.parquet"):
        report = embed_videos(videos, tmp_path, tmp_path / name)
        assert (report.num_videos, report.num_windows, report.width) == (2, 2, 16)
        assert [broken for broken, _ in report.broken] == ["empty.mp4", "sound.mp4"]
        assert "only sound" in report.broken[1][1]
    table = pq.read_table(tmp_path / "f.parquet").to_pydict()
    arrays = np.load(tmp_path / "f.npz")
    assert table["video"] == arrays["video"].tolist() == ["a.mp4", "deep/b b.mp4"]
    np.testing.assert_array_equal(np.array(table["feature"], np.float32), arrays["feature"])
    (window,) = read_windows(videos / "deep" / "b b.mp4", ReadOptions(num_frames=4, side=32))
    with torch.no_grad():
        tokens = student().eval().encode(normalise(torch.from_numpy(window).permute(0, 3, 1, 2)[None]))
    np.testing.assert_allclose(arrays["feature"][1], tokens[0].mean(0), rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="empty.mp4"):
        embed_videos(videos, tmp_path, tmp_path / "g.npz", strict=True)


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    save_student(tmp_path / "student.safetensors", student())
    (tmp_path / "v").mkdir()
    with pytest.raises(UserError, match="holds no video"):
        embed_videos(tmp_path / "v", tmp_path, tmp_path / "f.npz")
    with pytest.raises(UserError, match="no such file or folder"):
        find_videos(tmp_path / "nowhere")
    with pytest.raises(UserError, match="expected a .parquet or .npz"):
        embed_videos(tmp_path / "v", tmp_path, tmp_path / "f.csv")
    (tmp_path / "v" / "x.mp4").write_bytes(b"junk")
    with pytest.raises(UserError, match="none of 1 could be read"):
        embed_videos(tmp_path / "v", tmp_path, tmp_path / "f.npz")


@pytest.mark.skipif(not DATA.is_dir(), reason="the real videos are not on this machine")
def test_real_videos_of_many_kinds(tmp_path: Path) -> None:
    save_student(tmp_path / "student.safetensors", student())
    chosen = tmp_path / "videos"
    chosen.mkdir()
    for name in ("imageio-binaries__newtonscradle.gif", "imageio-binaries__realshort.mp4"):
        (chosen / name).symlink_to((DATA / name).resolve())
    report = embed_videos(chosen, tmp_path, tmp_path / "f.npz", view=ViewOptions(stride_frames=4))
    assert report.num_videos == 2 and not report.broken
    features = np.load(tmp_path / "f.npz")["feature"]
    assert np.isfinite(features).all() and np.abs(features[0] - features[1]).max() > 1e-3


def test_tokens_in_place_keep_the_place_and_learn_from_training_clips_alone() -> None:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(40, 3, 16)).astype(np.float32)
    train[..., 5] *= 30  # by far the first component
    test = rng.normal(size=(7, 3, 16)).astype(np.float32)
    reduced_train, reduced_test = tokens_in_place(train, test)
    assert reduced_train.shape == (40, 3 * 8) and reduced_test.shape == (7, 3 * 8)
    first = reduced_test.reshape(7, 3, 8)[..., 0]
    assert abs(np.corrcoef(first.ravel(), test[..., 5].ravel())[0, 1]) > 0.999
    again, _ = tokens_in_place(train, test[:2] * 100)
    np.testing.assert_array_equal(again, reduced_train)
