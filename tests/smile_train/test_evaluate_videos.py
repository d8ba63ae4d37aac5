"""Features of real videos, protocols and their controls."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from smile_synth import UserError
from smile_synth.io.videos import write_mp4
from smile_train.batch import normalise
from smile_train.data.video import ReadOptions, ViewOptions, read_windows
from smile_train.data.video_lists import LabelledVideo, read_videos
from smile_train.data.video_splits import k_fold, leave_one_group_out
from smile_train.evaluate import (
    CONTROLS,
    TEMPORAL,
    EvaluateOptions,
    Extracted,
    Extractor,
    Feature,
    VideoEncoder,
    compare_evaluations,
    embed_videos,
    encoder_feature,
    evaluate_videos,
    flow_histograms,
    load_encoder,
    read_embeddings,
    variants_feature,
)
from smile_train.models import (
    ClassifierConfig,
    Encoder,
    EncoderConfig,
    Student,
    StudentConfig,
    VideoClassifier,
    save_model,
)

CONFIG = EncoderConfig(width=32, depth=2, heads=2, num_frames=4, size_hw=(32, 32), positions="separable")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def ours(seed: int = 0, config: EncoderConfig = CONFIG) -> VideoEncoder:
    return VideoEncoder("e", Encoder(config, generator=torch.Generator().manual_seed(seed)))


def student(**changes: Any) -> Student:
    config = StudentConfig(
        encoder=replace(CONFIG, **changes), decoder_width=8, decoder_depth=1, decoder_heads=2, target_dim=4
    )
    return Student(config, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of a bright square that moves right or down, over grey of its own per video."""
    root = tmp_path_factory.mktemp("moving")
    for k in range(8):
        frames = np.full((10 + k % 2, 32, 40, 3), 40 + 8 * k, np.uint8)
        for t in range(len(frames)):
            x, y = (3 * t + 2, 12) if k % 2 else (15, 2 * t + 2)
            frames[t, y : y + 8, x : x + 8] = (230, 220, 60)
        (root / ("right" if k % 2 else "down")).mkdir(exist_ok=True)
        write_mp4(root / ("right" if k % 2 else "down") / f"clip{k}_g{k // 2}.mp4", frames, 10)
    return root


def test_flow_histograms_contain_direction_and_speed() -> None:
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (24, 24, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    right = torch.from_numpy(np.stack([texture[:64, 20 - 2 * t : 84 - 2 * t] for t in range(4)]))
    still = right[:1].repeat(4, 1, 1, 1)
    found = flow_histograms(torch.stack([right, still]).permute(0, 1, 4, 2, 3)).reshape(2, 4, 13)
    assert (found[0, :, :8].argmax(1) == 0).all()  # direction 0 is right
    assert found[0, :, 0] == pytest.approx(2, rel=0.3)  # pixels a frame
    assert found[1, :, :8].max() < 0.05 and found[:, :, 8:].sum(2) == pytest.approx(1)


def test_features_are_cached_by_content(moving: Path, tmp_path: Path) -> None:
    encoder = ours()
    paths = [v.path for v in read_videos(moving)][:3]
    (tmp_path / "broken.mp4").write_bytes(b"")
    read = ReadOptions(num_frames=4, side=32)
    features = [
        encoder_feature(encoder, layer, pooling, f"{layer} {pooling}")  # type: ignore[arg-type]
        for layer, pooling in (
            (-1, "mean"),
            (0, "frames"),
            (1, "tokens"),
            (1, "mean-std"),
            (1, "mean-max-min"),
        )
    ]
    extractor = Extractor(tmp_path / "c")
    first = extractor([*paths, tmp_path / "broken.mp4"], features, read)
    assert first.broken == [(str(tmp_path / "broken.mp4"), "is empty")]
    assert first.readable.tolist() == [0, 1, 2] and first.num_clips.tolist() == [1, 1, 1]
    assert [v.shape for v in first.features.values()] == [(3, 32), (3, 64), (3, 8, 32), (3, 64), (3, 96)]
    tokens = first.features["1 tokens"]
    expected = np.concatenate([tokens.mean(1), tokens.std(1, ddof=1)], axis=1)
    np.testing.assert_allclose(first.features["1 mean-std"], expected, atol=1e-5)
    expected = np.concatenate([tokens.mean(1), tokens.max(1), tokens.min(1)], axis=1)
    np.testing.assert_allclose(first.features["1 mean-max-min"], expected, atol=1e-5)
    normed = encoder.encoder.norm(torch.from_numpy(first.features["1 tokens"])).mean(1).numpy()
    np.testing.assert_allclose(normed, first.features["-1 mean"], atol=1e-5)
    moved = tmp_path / "other.mp4"
    moved.write_bytes(paths[1].read_bytes())
    cached = [replace(features[0], function=lambda clips, facts: pytest.fail("was called"))]
    again = extractor([moved], cached, read)
    np.testing.assert_array_equal(again.features["-1 mean"][0], first.features["-1 mean"][1])
    with pytest.raises(pytest.fail.Exception, match="was called"):
        extractor([moved], cached, read.model_copy(update={"short": "loop"}))


def test_features_in_files_are_those_in_memory(moving: Path, tmp_path: Path) -> None:
    paths = [v.path for v in read_videos(moving)]
    paths.insert(2, tmp_path / "missing.mp4")
    tokens, read = encoder_feature(ours(), pooling="tokens"), ReadOptions(num_frames=4, side=32)
    memory, file = (Extractor()(paths, [tokens], read, memory_map=where) for where in (None, tmp_path))
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy")[:8], file.features["encoder"])
    np.testing.assert_array_equal(memory.features["encoder"], file.features["encoder"])
    assert memory.features["encoder"].shape == (8, 8, 32) and memory.readable.tolist() == [0, 1, *range(3, 9)]


def test_every_protocol_with_its_controls(moving: Path, tmp_path: Path) -> None:
    videos = read_videos(moving, group=r"_(g\d)")
    (tmp_path / "x.mp4").write_bytes(b"no video")
    videos.append(LabelledVideo(tmp_path / "x.mp4", "x.mp4", "down", "g9"))
    options = EvaluateOptions(
        protocols=["linear", "knn", "retrieval", "order"], pooling="frames", shots=[1], shot_seeds=2,
        read=ViewOptions(stride_frames=3, clips=1), random_encoders=2,
    )  # fmt: skip
    splits, extractor = k_fold(videos, 2), Extractor(tmp_path / "c")
    result = evaluate_videos(ours(), videos, splits, options, extractor=extractor)
    controls = [
        "encoder", "random encoders (2)", "frames of clip:tiny-clip", "size and length", "colour over time",
        "pixels per frame", "flow histograms",
    ]  # fmt: skip
    protocols = list(dict.fromkeys(row.protocol for row in result.rows))
    assert protocols[:3] == ["linear", "linear, 1 shots", "knn"] and protocols[-1] == "order"
    assert "retrieval R@1" in protocols
    for protocol in protocols:
        assert [r.features for r in result.rows if r.protocol == protocol] == controls
    assert result.broken == [("x.mp4", "cannot be decoded: Invalid data found when processing input")]
    for row in result.rows:
        assert row.low <= row.accuracy <= row.high and row.num_videos == 8 and row.num_groups == 4
        assert row.accuracy == pytest.approx(np.mean(row.by_video))
    # the classes differ in length by a frame, so the control of the metadata is perfect
    assert next(r for r in result.rows if r.features == "size and length").accuracy == 1.0
    assert result.settings["pooling"] == "frames" and result.settings["num_frames"] == 4
    chances = {r.protocol: r.chance for r in result.rows}
    assert chances["linear"] == chances["order"] == 0.5 and chances["retrieval R@1"] is None
    with pytest.raises(UserError, match="video 'x.mp4'"):
        evaluate_videos(ours(), videos, splits, options, extractor=extractor, strict=True)

    result.save(tmp_path / "a.json")
    fewer = options.model_copy(update={"controls": ["flow"]})
    other = evaluate_videos(ours(seed=5), videos, splits, fewer, extractor=extractor)
    assert {row.features for row in other.rows} == {"encoder", "flow histograms"}
    assert all(row.margin is None for row in other.rows)
    other.save(tmp_path / "b.json")
    rows = compare_evaluations(tmp_path / "a.json", tmp_path / "b.json")
    assert [row[0] for row in rows] == protocols
    assert all(row[3].mean == pytest.approx(row[1] - row[2]) for row in rows)
    changed = json.loads((tmp_path / "b.json").read_text())
    changed["settings"]["pooling"] = "mean"
    (tmp_path / "b.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match="different settings: pooling"):
        compare_evaluations(tmp_path / "a.json", tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match="b.json': not a file of smile-train evaluate"):
        compare_evaluations(tmp_path / "a.json", tmp_path / "b.json")
    with pytest.raises(UserError, match="none.json': cannot be read: No such file"):
        compare_evaluations(tmp_path / "none.json", tmp_path / "b.json")


@pytest.mark.slow
def test_decoding_processes_compute_the_controls(moving: Path, tmp_path: Path) -> None:
    paths = [v.path for v in read_videos(moving)]
    encoder, order = ours(), TEMPORAL["order"]
    controls = [variants_feature(control, order) for control in CONTROLS.values()]
    features: list[Feature] = [encoder_feature(encoder), *controls]
    features.append(variants_feature(encoder_feature(encoder, name="other"), order))
    read = ReadOptions(num_frames=4, side=32)
    first = Extractor(tmp_path / "c", workers=2)(paths, features, read)
    alone = Extractor()(paths, features, read)
    for feature in features:
        np.testing.assert_allclose(first.features[feature.name], alone.features[feature.name], rtol=1e-5)


def test_attentive_reads_the_tokens_of_one_encoder_at_a_time_from_files(moving: Path) -> None:
    calls: list[tuple[list[str], bool]] = []

    class Recording(Extractor):
        def __call__(self, paths: Any, features: Any, read: Any, **more: Any) -> Extracted:
            calls.append(([f.name for f in features if f.key.endswith("tokens")], "memory_map" in more))
            return super().__call__(paths, features, read, **more)

    options = EvaluateOptions(
        protocols=["attentive"], attentive="block", random_encoders=1, read=ViewOptions(clips=1),
        controls=["random", "pixels"],
    )  # fmt: skip
    videos = read_videos(moving)
    splits = k_fold(videos, 2)[:1]
    result = evaluate_videos(ours(), videos, splits, options, extractor=Recording())
    assert calls == [([], False), (["encoder"], True), (["random 0"], True)]
    assert np.isnan(result.rows[0].by_video).sum() == 4  # one of two folds
    assert [row.features for row in result.rows] == ["encoder", "random encoders (1)", "pixels per frame"]


def test_a_fine_tuned_head_is_tested_on_test_videos_alone(moving: Path, tmp_path: Path) -> None:
    """Probabilities are averaged over clips and crops, and classes are found by name."""
    names = ("right", "up", "down")
    config = ClassifierConfig(encoder=CONFIG, num_classes=3, head_init_scale=100.0, class_names=names)
    model = VideoClassifier(config, generator=torch.Generator().manual_seed(1))
    save_model(tmp_path / "classifier.safetensors", model)
    encoder, videos = load_encoder(tmp_path), read_videos(moving)
    options = EvaluateOptions(protocols=["classifier"], read=ViewOptions(clips=2, crops=3))
    splits = k_fold(videos, 2)[:1]
    calls: list[int] = []
    extractor = Extractor(progress=lambda what, done, total: calls.append(total))
    (row,) = evaluate_videos(encoder, videos, splits, options, extractor=extractor).rows
    assert calls == [4] and row.features == "encoder"
    read = ReadOptions.of(options.read, num_frames=4, side=32)
    for video, correct in zip((videos[i] for i in splits[0].test), row.by_video, strict=True):
        clips = torch.from_numpy(np.stack(list(read_windows(video.path, read)))).permute(0, 1, 4, 2, 3)
        assert len(clips) == 6
        with torch.no_grad():
            mean = model.eval()(normalise(clips)).softmax(1).mean(0)
        assert correct == (names[int(mean.argmax())] == video.label)
    both = evaluate_videos(
        encoder,
        videos,
        k_fold(videos, 2),
        options.model_copy(update={"protocols": ["knn", "classifier"], "controls": []}),
    )
    assert [(r.protocol, r.features, r.num_videos) for r in both.rows] == [
        ("knn", "encoder", 8),
        ("classifier", "encoder", 8),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [(None, "'e' is not a fine-tuned model"), (("up", "down"), "'e' has no class 'right'")],
)
def test_a_head_that_does_not_fit_is_refused(
    moving: Path, names: tuple[str, ...] | None, message: str
) -> None:
    encoder = ours()
    if names:
        config = ClassifierConfig(encoder=CONFIG, num_classes=2, class_names=names)
        encoder.classifier = VideoClassifier(config, generator=torch.Generator())
    videos, options = read_videos(moving), EvaluateOptions(protocols=["classifier"])
    with pytest.raises(UserError, match=message):
        evaluate_videos(encoder, videos, k_fold(videos, 2), options)


def test_a_video_may_be_too_short_for_one_protocol(moving: Path) -> None:
    videos = read_videos(moving)
    options = EvaluateOptions(protocols=["order"], controls=[], read=ViewOptions(clips=1, stride_frames=3))
    split = k_fold(videos, 2)
    result = evaluate_videos(ours(), videos, split, options)
    assert not result.left_out and not np.isnan(result.rows[0].by_video).any()
    # ten frames in class down, eleven in class right
    config = replace(CONFIG, num_frames=6)
    options = options.model_copy(update={"read": ViewOptions(clips=1, stride_frames=2)})
    result = evaluate_videos(ours(config=config), videos, split, options)
    assert result.left_out == [(v.name, "order", "too short") for v in videos if v.label == "down"]
    scored = np.array(result.rows[0].by_video)
    assert (np.isnan(scored) == [v.label == "down" for v in videos]).all()


def test_truncated_files_of_the_cache_are_computed_again(moving: Path, tmp_path: Path) -> None:
    paths = sorted(moving.glob("*/*.mp4"))[:2]
    features, read = [encoder_feature(ours())], ReadOptions(num_frames=4, side=32)
    extractor = Extractor(tmp_path / "c")
    first = extractor(paths, features, read)
    for file in (tmp_path / "c").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:-40])
    again = extractor(paths, features, read)
    np.testing.assert_array_equal(*(next(iter(f.features.values())) for f in (first, again)))
    file.rename(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    with pytest.raises(UserError, match="cut.npz': not a file of smile-train embed"):
        read_embeddings(tmp_path / "cut.npz")


def test_options_are_checked_before_any_video_is_read(moving: Path) -> None:
    videos = read_videos(moving)
    extractor = Extractor(progress=lambda *_: pytest.fail("read"))
    for options, message in (
        (EvaluateOptions(shots=[9]), "9 shots: class 'down' has 2 training videos"),
        (EvaluateOptions(layer=2, controls=[]), r"layer 2: this encoder has -1\.\.1"),
    ):
        with pytest.raises(UserError, match=message):
            evaluate_videos(ours(), videos, k_fold(videos, 2), options, extractor=extractor)
    one_group = [replace(v, group="one") for v in videos]
    with pytest.raises(UserError, match="training and test share groups 'one'"):
        evaluate_videos(ours(), one_group, k_fold(videos, 2), extractor=extractor)


def test_speed_needs_videos_of_enough_frames(moving: Path) -> None:
    videos = read_videos(moving)
    options = EvaluateOptions(protocols=["speed"], read=ViewOptions(stride_frames=1), controls=[])
    with pytest.raises(UserError, match="protocol 'speed': all 8 videos are too short"):
        evaluate_videos(ours(), videos, leave_one_group_out(videos), options)


def test_encoders_of_other_origins(tmp_path: Path) -> None:
    save_model(tmp_path / "student.safetensors", student(positions="joint"))
    frames = torch.randint(
        0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    own = load_encoder(tmp_path).encode(frames)
    assert own.shape == (2, 2, 4, 32)
    published = student(positions="joint", width=384, heads=6)
    torch.save({"model": published.state_dict(), "epoch": 7}, tmp_path / "v.pth")
    loaded = load_encoder(tmp_path / "v.pth", num_frames=4, side=32)
    torch.testing.assert_close(loaded.encode(frames), VideoEncoder("p", published.encoder).encode(frames))
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    torch.save(weights, tmp_path / "t.pth")
    images = load_encoder(f"timm:test_vit@{tmp_path / 't.pth'}", num_frames=4)
    found = images.encode(frames)
    assert found.shape[:3] == (2, 4, 1)
    torch.testing.assert_close(found[1, 2, 0], images.encode(frames[1:, 2:3])[0, 0, 0])
    inner = images.encode(frames, 1)
    assert inner.shape[:2] == (2, 4) and inner.shape[2] > 1
    model = timm.create_model("test_vit", num_classes=0, checkpoint_path=str(tmp_path / "t.pth")).eval()
    after = images.encode(frames, images.num_layers - 1).flatten(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_head(model.norm(after)), found.flatten(0, 2))
    random = images.reinitialised(0)
    assert random.digest not in (images.digest, images.reinitialised(1).digest)
    assert random.digest == images.reinitialised(0).digest and random.architecture == images.architecture
    (tmp_path / "junk.pth").write_bytes(b"abc")
    torch.save({"model": {"head.weight": torch.zeros(2, 2)}}, tmp_path / "h.pth")
    for source, message in {
        tmp_path / "h.pth": "holds no video encoder",
        "timm:vit_tinny_patch16_224": "timm has no such model; did you mean",
        "timm:test_vit@nowhere": "no file 'nowhere'",
        tmp_path / "nowhere": "no student.safetensors",
        tmp_path / "junk.pth": "junk.pth: not a checkpoint of plain tensors",
    }.items():
        with pytest.raises(UserError, match=message):
            load_encoder(source)
    with pytest.raises(UserError, match="reads clips of 4 frames, not of 8"):
        load_encoder(tmp_path, num_frames=8)


def test_a_clip_model_has_random_counterparts() -> None:
    encoder = load_encoder("clip:tiny-clip", num_frames=2)
    frames = torch.randint(
        0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    first, again, other = (encoder.reinitialised(seed).encode(frames) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    for tokens in (encoder.encode(frames), other):
        assert (first - tokens).abs().mean() > 0.1 * tokens.abs().mean()


@pytest.mark.filterwarnings("ignore")  # of transformers' own
def test_encoders_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    images = transformers.Dinov2Model(transformers.Dinov2Config(image_size=28, patch_size=14, **small)).eval()
    video = transformers.VJEPA2Model(
        transformers.VJEPA2Config(
            patch_size=16, crop_size=32, frames_per_clip=4, tubelet_size=2, mlp_ratio=2, pred_hidden_size=24,
            pred_num_attention_heads=2, pred_num_hidden_layers=1, **small,
        )
    ).eval()  # fmt: skip
    for name, model in {"images": images, "video": video}.items():
        model.save_pretrained(tmp_path / name)
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}
    (tmp_path / "images" / "preprocessor_config.json").write_text(json.dumps(statistics))
    frames = torch.randint(
        0, 256, (2, 4, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    encoder = load_encoder(tmp_path / "images", num_frames=4)
    mean, std = (torch.tensor(statistics[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    with torch.no_grad():
        out = images((frames[1] / 255 - mean) / std, output_hidden_states=True)
    torch.testing.assert_close(encoder.encode(frames)[1, :, 0], out.pooler_output)
    torch.testing.assert_close(encoder.encode(frames, 0)[1], out.hidden_states[1])
    encoder = load_encoder(tmp_path / "video")
    assert (encoder.num_frames, encoder.side, encoder.num_layers) == (4, 32, 2)
    assert encoder.encode(frames).shape == (2, 2, 4, 32)
    assert encoder.reinitialised(0).digest != encoder.digest
    transformers.BertModel(
        transformers.BertConfig(vocab_size=9, intermediate_size=8, **small)
    ).save_pretrained(tmp_path / "text")
    with pytest.raises(UserError, match="'bert' is not a transformer of images or video"):
        load_encoder(tmp_path / "text")


def test_embeddings_of_two_settings_do_not_mix(moving: Path, tmp_path: Path) -> None:
    for name, stride in (("a.npz", 2), ("b.parquet", 2), ("c.npz", 3)):
        embed_videos(moving / "down", ours(), tmp_path / name, view=ViewOptions(stride_frames=stride))
    names, features, settings = read_embeddings(tmp_path / "a.npz", tmp_path / "b.parquet")
    assert len(names) == 8 and settings["stride_frames"] == 2
    np.testing.assert_array_equal(features[:4], features[4:])
    with pytest.raises(UserError, match="were made with different stride_frames"):
        read_embeddings(tmp_path / "a.npz", tmp_path / "c.npz")
    latin1 = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / "latin1").mkdir()
    (tmp_path / "latin1" / latin1).symlink_to(next(moving.rglob("*.mp4")))
    with pytest.raises(UserError, match=r"video 'caf\\udce9.mp4': .parquet holds UTF-8 names only; use .npz"):
        embed_videos(tmp_path / "latin1", ours(), tmp_path / "d.parquet")
    embed_videos(tmp_path / "latin1", ours(), tmp_path / "d.npz")
    assert read_embeddings(tmp_path / "d.npz")[0] == [latin1]
    (tmp_path / "e.npz").touch()
    with pytest.raises(UserError, match="e.npz': not a file of smile-train embed: No data left in file"):
        read_embeddings(tmp_path / "e.npz")
