"""Motion probes and embeddings."""

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
from smile_train.batch import normalise
from smile_train.data.video import ReadOptions, ViewOptions, read_windows
from smile_train.evaluate import (
    MOTION_TASKS,
    MotionProbe,
    MotionProbeOptions,
    VideoEncoder,
    color_statistics,
    embed_videos,
    frame_means,
    load_encoder,
    motion_controls,
    probe_motion,
    tokens_in_place,
)
from smile_train.models import EncoderConfig, Student, StudentConfig

DATA = Path(__file__).parents[2] / "../shared/data/videos"


def encoder(**changes: object) -> VideoEncoder:
    return VideoEncoder("e", student(**changes).encoder)


def student(
    decoder_width: int = 8, decoder_depth: int = 1, target_dim: int = 4, **changes: object
) -> Student:
    settings = {"width": 16, "depth": 1, "heads": 2, "num_frames": 4, "size_hw": (32, 32), **changes}
    config = StudentConfig(
        encoder=EncoderConfig(**settings), decoder_width=decoder_width, decoder_depth=decoder_depth,  # type: ignore[arg-type]
        decoder_heads=2, target_dim=target_dim,
    )  # fmt: skip
    return Student(config, generator=torch.Generator().manual_seed(0))


def ramp(path: Path, frames: int, size_hw: tuple[int, int] = (48, 64)) -> None:
    """Write a video whose grey value is 10 x the frame's number."""
    levels = (10 * np.arange(frames, dtype=np.uint8))[:, None, None, None]
    write_mp4(path, np.broadcast_to(levels, (frames, *size_hw, 3)).copy(), 10)


def test_controls_are_means_of_pixels() -> None:
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


def test_a_probe_has_a_row_per_control_and_a_margin(train_bank: Path) -> None:
    steps: list[tuple[int, int]] = []
    result = probe_motion(
        encoder(num_frames=8, size_hw=(64, 64)), *_sources(train_bank), MotionProbeOptions(num_train=60, num_test=50),
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert [(r.task, r.features) for r in result.rows][:4] == [
        ("direction", "encoder"), ("direction", "random encoders (3)"),
        ("direction", "colour over time"), ("direction", "pixels per frame"),
    ]  # fmt: skip
    assert len(result.rows) == 20 and steps == [(k, 30) for k in range(1, 31)]
    counts = {"direction": 8, "speed": 3, "rotation": 2, "count": 4, "object class": 2}
    assert result.num_classes == counts
    for row in result.rows:
        assert 0 <= row.low <= row.accuracy <= row.high <= 1
        assert (row.margin is not None) == (row.features == "encoder")


def test_every_task_can_be_probed_at_another_size(train_bank: Path) -> None:
    options = MotionProbeOptions(MOTION_TASKS, num_train=60, num_test=50)
    result = probe_motion(encoder(), *_sources(train_bank), options)
    assert list(result.num_classes) == list(MOTION_TASKS)
    assert result.num_classes["rotation"] == 2 and result.num_classes["count"] == 4
    assert result.num_classes["speed"] == 3 and result.num_classes["occluded when"] >= 2
    with pytest.raises(UserError, match=r"reads \(32, 48\) frames, expected square ones"):
        encoder(size_hw=(32, 48))


def test_an_appearance_free_probe_shows_noise_and_needs_no_backgrounds(train_bank: Path) -> None:
    seen: list[torch.Tensor] = []

    def means(clips: torch.Tensor) -> np.ndarray:
        seen.append(clips)
        return frame_means(clips)

    options = MotionProbeOptions(
        {"count": MOTION_TASKS["count"]}, {"means": means}, num_train=30, num_test=20, appearance_free=True
    )
    sources = Sources.open(train_bank)
    assert probe_motion(encoder(), sources, sources, options).num_classes == {"count": 4}
    spread = torch.cat(seen).float().flatten(2).std(dim=2)  # of every frame; 73.9 for uniform noise
    assert len(spread) == 50 and spread.sub(73.9).abs().max() < 4


def test_an_image_encoder_is_probed_with_all_controls(train_bank: Path) -> None:
    image = load_encoder("clip:tiny-clip", num_frames=4)
    options = MotionProbeOptions(
        {"rotation": MOTION_TASKS["rotation"]}, motion_controls(), num_train=60, num_test=50
    )
    probe = MotionProbe(image, *_sources(train_bank), options)
    assert [row.features for row in probe(image).rows] == [
        "encoder", "random encoders (3)", "colour over time", "pixels per frame", "flow histograms",
        "frames of clip:tiny-clip",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="got an encoder of"):
        probe(load_encoder("clip:tiny-clip", num_frames=8))


def _sources(bank: Path) -> list[Sources]:
    folders = [bank.parent / name for name in ("train images", "test images")]
    for seed, folder in enumerate(folders):
        write_images(folder, count=3, seed=seed, size=64)
    return [Sources.open(bank, folder) for folder in folders]


def test_architecture_does_not_include_decoders_and_targets() -> None:
    """Encoders of one architecture share a motion probe and its random encoders."""
    one = encoder()
    other = encoder(target_dim=9, decoder_width=12, decoder_depth=2, checkpointing=True, drop_path=0.1)
    assert one.architecture == other.architecture
    assert (
        one.architecture
        != encoder(positions="separable").architecture
        != encoder(tubelet_size=1).architecture
    )
    frames = torch.randint(256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(one.reinitialised(3).encode(frames), other.reinitialised(3).encode(frames))


def test_embeds_in_either_format_and_lists_what_is_broken(tmp_path: Path) -> None:
    ours = encoder()
    videos = tmp_path / "videos"
    (videos / "deep").mkdir(parents=True)
    ramp(videos / "a.mp4", 9)
    ramp(videos / "deep" / "b b.mp4", 3)
    (videos / "empty.mp4").write_bytes(b"")
    _sound_only(videos / "sound.mp4")
    for name in ("f.npz", "f.parquet"):
        report = embed_videos(videos, ours, tmp_path / name)
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
        embed_videos(videos, ours, tmp_path / "g.npz", strict=True)


def _sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_bad_requests_are_one_line(tmp_path: Path) -> None:
    ours = encoder()
    (tmp_path / "v").mkdir()
    with pytest.raises(UserError, match="holds no video"):
        embed_videos(tmp_path / "v", ours, tmp_path / "f.npz")
    with pytest.raises(UserError, match="no such file or folder"):
        embed_videos(tmp_path / "nowhere", ours, tmp_path / "f.npz")
    with pytest.raises(UserError, match="expected a .parquet or .npz"):
        embed_videos(tmp_path / "v", ours, tmp_path / "f.csv")
    (tmp_path / "v" / "x.mp4").write_bytes(b"junk")
    with pytest.raises(UserError, match="none of 1 could be read"):
        embed_videos(tmp_path / "v", ours, tmp_path / "f.npz")


@pytest.mark.skipif(not DATA.is_dir(), reason="the real videos are not on this machine")
def test_real_videos_of_many_kinds(tmp_path: Path) -> None:
    chosen = tmp_path / "videos"
    chosen.mkdir()
    for name in ("imageio-binaries__newtonscradle.gif", "imageio-binaries__realshort.mp4"):
        (chosen / name).symlink_to((DATA / name).resolve())
    report = embed_videos(chosen, encoder(), tmp_path / "f.npz", view=ViewOptions(stride_frames=4))
    assert report.num_videos == 2 and not report.broken
    features = np.load(tmp_path / "f.npz")["feature"]
    assert np.isfinite(features).all() and np.abs(features[0] - features[1]).max() > 1e-3


def test_tokens_in_place_are_components_of_training_clips() -> None:
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
