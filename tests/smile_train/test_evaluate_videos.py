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
from smile_train.evaluate import (
    EncoderFeature,
    EvaluateOptions,
    FinetuneOptions,
    LabelledVideo,
    ReadOptions,
    VideoEncoder,
    ViewOptions,
    _evaluate,  # its reader is spied upon
    attentive,
    compare_evaluations,
    embed_videos,
    evaluate_videos,
    extract,
    finetune,
    flow_histograms,
    group_interval,
    k_fold,
    knn,
    leave_one_group_out,
    linear,
    load_encoder,
    paired_difference,
    read_embeddings,
    read_videos,
    retrieval,
)
from smile_train.evaluate._extract import PLAIN
from smile_train.evaluate._temporal import Ordered
from smile_train.models import Student, StudentConfig
from smile_train.training.checkpoint import save_student

FORM = StudentConfig(
    width=32, depth=2, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2, target_dim=4,
    num_frames=4, size_hw=(32, 32), positions="separable",
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def student(form: StudentConfig = FORM, seed: int = 0) -> Student:
    return Student(form, generator=torch.Generator().manual_seed(seed))


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


def blobs(n: int = 120, width: int = 12, classes: int = 3) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % classes
    x = rng.normal(size=(n, width)).astype(np.float32)
    x[np.arange(n), y] += 6
    return x, np.array(["a", "b", "c"])[y], np.array([str(k) for k in range(n)])


def test_probes_find_what_is_there_whatever_its_scale() -> None:
    x, y, groups = blobs()
    x = x * np.float32(1000) + 5
    for probe in (linear, knn, attentive):
        assert (probe(x[:80], y[:80], groups[:80], x[80:], 0) == y[80:]).mean() > 0.9
    for hit in retrieval(x[:80], y[:80], x[80:], y[80:]).values():
        assert hit.mean() > 0.9


def test_linear_probe_is_ridge_regression_in_both_forms() -> None:
    """The kernel form (more features than videos) gives what the plain one does."""
    from sklearn.linear_model import Ridge

    from smile_train.evaluate._protocols import _ridge  # the solver itself: no public way to fix the penalty

    rng = np.random.default_rng(1)
    for n, d in ((30, 7), (11, 40)):
        x, test, y = rng.normal(size=(n, d)), rng.normal(size=(5, d)), np.arange(n) % 3
        (scores,) = _ridge(x, y, 3, test, [0.1])
        np.testing.assert_allclose(scores, Ridge(alpha=0.1 * n).fit(x, np.eye(3)[y]).predict(test), atol=1e-9)


def test_constant_features_and_wide_ones_are_no_trouble() -> None:
    x, y, groups = blobs(40, 90)
    x[:, 50] = 3
    assert (linear(x[:30], y[:30], groups[:30], x[30:], 0) == y[30:]).mean() > 0.6
    assert set(
        linear(np.zeros((9, 4), np.float32), y[:9], groups[:9], np.zeros((3, 4), np.float32), 0)
    ) <= set(y)


def test_attentive_probe_finds_one_token_among_many() -> None:
    """The class stands in a marked token at a random place; the mean of tokens hides it."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 240)
    x = rng.normal(size=(240, 12, 8)).astype(np.float32)
    place = rng.integers(0, 12, 240)
    x[np.arange(240), place, 0] = 6
    x[np.arange(240), place, 1] = 2.0 * y - 1
    names, groups = np.array(["a", "b"])[y], np.arange(240).astype(str)
    found = attentive(x[:180], names[:180], groups[:180], x[180:], 0)
    plain = linear(x[:180].mean(1), names[:180], groups[:180], x[180:].mean(1), 0)
    assert (found == names[180:]).mean() > 0.9 > (plain == names[180:]).mean()


def test_intervals_resample_groups() -> None:
    values = np.repeat([0.0, 1.0], 50).repeat(4)
    alone = group_interval(values, np.arange(400).astype(str))
    grouped = group_interval(values, np.arange(400).astype(str).reshape(-1, 4)[:, 0].repeat(4))
    assert alone[1] - alone[0] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    assert (grouped[1] - grouped[0]) / (alone[1] - alone[0]) == pytest.approx(2, rel=0.1)
    same = paired_difference(values, values, np.arange(400).astype(str))
    assert (same.mean, same.low, same.high, same.smallest) == (0, 0, 0, 1 / 400)
    with pytest.raises(ValueError, match="the same videos, got 3, 2 and 3"):
        paired_difference(values[:3], values[:2], np.arange(3).astype(str))


def test_flow_histograms_tell_direction_and_nothing_of_stillness() -> None:
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (24, 24, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    right = torch.from_numpy(np.stack([texture[:64, 20 - 2 * t : 84 - 2 * t] for t in range(4)]))
    still = right[:1].repeat(4, 1, 1, 1)
    found = flow_histograms(torch.stack([right, still]).permute(0, 1, 4, 2, 3)).reshape(2, 4, 13)
    assert (found[0, :, :8].argmax(1) == 0).all()  # direction 0 is right
    assert found[0, :, 0] == pytest.approx(2, rel=0.3)  # pixels a frame
    assert found[1, :, :8].max() < 0.05 and found[:, :, 8:].sum(2) == pytest.approx(1)


def test_features_are_kept_by_content(moving: Path, tmp_path: Path) -> None:
    encoder = VideoEncoder("e", student().encoder)
    paths = [v.path for v in read_videos(moving)][:3]
    (tmp_path / "broken.mp4").write_bytes(b"")
    read = ReadOptions(num_frames=4, side=32)
    features = [
        EncoderFeature(encoder, layer, pooling, f"{layer} {pooling}")
        for layer, pooling in ((-1, "mean"), (0, "frames"), (1, "tokens"))
    ]  # type: ignore[arg-type]
    first = extract([*paths, tmp_path / "broken.mp4"], features, read, cache=tmp_path / "c")
    assert first.broken == [(str(tmp_path / "broken.mp4"), "is empty")] and first.readable.tolist() == [
        0,
        1,
        2,
    ]
    assert [v.shape for v in first.features.values()] == [(3, 32), (3, 64), (3, 8, 32)]
    normed = encoder.encoder.norm(torch.from_numpy(first.features["1 tokens"])).mean(1).numpy()
    assert first.num_clips.tolist() == [1, 1, 1]
    np.testing.assert_allclose(normed, first.features["-1 mean"], atol=1e-5)
    moved = tmp_path / "other.mp4"
    moved.write_bytes(paths[1].read_bytes())
    again = extract([moved], [replace(features[0], encoder=_Silent(encoder))], read, cache=tmp_path / "c")
    np.testing.assert_array_equal(again.features["-1 mean"][0], first.features["-1 mean"][1])
    with pytest.raises(AssertionError, match="asked"):
        extract(
            [moved],
            [replace(features[0], encoder=_Silent(encoder))],
            read.model_copy(update={"short": "loop"}),
            cache=tmp_path / "c",
        )


class _Silent:
    """An encoder that must not be asked."""

    def __init__(self, of: VideoEncoder) -> None:
        self.digest = of.digest

    def tokens(self, frames: torch.Tensor, layer: int = -1) -> torch.Tensor:
        raise AssertionError("asked")


def test_every_protocol_with_its_controls(moving: Path, tmp_path: Path) -> None:
    videos = read_videos(moving, group=r"_(g\d)")
    (tmp_path / "x.mp4").write_bytes(b"no video")
    videos.append(LabelledVideo(tmp_path / "x.mp4", "x.mp4", "down", "g9"))
    options = EvaluateOptions(
        protocols=["linear", "knn", "retrieval", "order"], pooling="frames", shots=[1], shot_seeds=2,
        read=ViewOptions(stride_frames=3, clips=1), random_encoders=2,
    )  # fmt: skip
    splits = k_fold(videos, 2)
    result = evaluate_videos(
        VideoEncoder("e", student().encoder), videos, splits, options, cache=tmp_path / "c"
    )
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
    # both classes' lengths differ by a frame: the file gives the class away, and its row says so
    assert next(r for r in result.rows if r.features == "size and length").accuracy == 1.0
    assert result.settings["pooling"] == "frames" and result.settings["num_frames"] == 4
    chances = {r.protocol: r.chance for r in result.rows}
    assert chances["linear"] == chances["order"] == 0.5 and np.isnan(chances["retrieval R@1"])
    with pytest.raises(UserError, match="video 'x.mp4'"):
        evaluate_videos(VideoEncoder("e", student().encoder), videos, splits, options, strict=True)

    result.save(tmp_path / "a.json")
    other = evaluate_videos(
        VideoEncoder("f", student(seed=5).encoder), videos, splits, options, cache=tmp_path / "c"
    )
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


def test_processes_that_decode_compute_what_needs_no_encoder(moving: Path, tmp_path: Path) -> None:
    paths = [v.path for v in read_videos(moving)]
    encoder = VideoEncoder("e", student().encoder)
    features = [
        EncoderFeature(encoder),
        *(Ordered(f) for f in PLAIN),
        Ordered(EncoderFeature(encoder, name="other")),
    ]
    read = ReadOptions(num_frames=4, side=32)
    first = extract(paths, features, read, cache=tmp_path / "c", workers=2)
    alone = extract(paths, features, read)
    for feature in features:
        np.testing.assert_allclose(first.features[feature.name], alone.features[feature.name], rtol=1e-5)
    # an encoder that was asked already is sent no clips
    from smile_train.evaluate._extract import _Job, _read

    job = _Job(paths[0], read, (features[0].key, PLAIN[1].key), (PLAIN[1],), tmp_path / "c")
    result = _read(job)
    assert not isinstance(result, str) and result.clips.size == 0 and len(result.kept) == 2


def test_attentive_probe_reads_all_tokens_of_one_encoder_at_a_time(
    moving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def spy(paths: object, features: list[EncoderFeature], *rest: object, **options: object) -> object:
        asked.append([f.name for f in features if getattr(f, "pooling", "") == "tokens"])
        return extract(paths, features, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(_evaluate, "extract", spy)
    options = EvaluateOptions(
        protocols=["attentive"], random_encoders=1, teacher=None, read=ViewOptions(clips=1)
    )
    videos = read_videos(moving)
    result = evaluate_videos(VideoEncoder("e", student().encoder), videos, k_fold(videos, 2)[:1], options)
    assert asked == [[], ["encoder"], ["random 0"]]
    assert np.isnan(result.rows[0].by_video).sum() == 4  # one of two folds
    assert [row.features for row in result.rows] == [
        "encoder", "random encoders (1)", "size and length", "colour over time", "pixels per frame", "flow histograms",
    ]  # fmt: skip


def test_a_video_may_break_where_one_question_looks(moving: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(paths: list[Path], *rest: object, **options: Any) -> object:
        found = extract(paths, *rest, **options)  # type: ignore[arg-type]
        if not any(isinstance(f, Ordered) for f in rest[0]):  # type: ignore[attr-defined]
            return found
        kept = {name: rows[1:] for name, rows in found.features.items()}
        broken = [(options["names"][0], "is cut short")]
        return replace(found, features=kept, readable=found.readable[1:], broken=broken)

    monkeypatch.setattr(_evaluate, "extract", breaking)
    videos, options = (
        read_videos(moving),
        EvaluateOptions(protocols=["order"], random_encoders=0, teacher=None, read=ViewOptions(clips=1)),
    )
    result = evaluate_videos(VideoEncoder("e", student().encoder), videos, k_fold(videos, 2), options)
    assert result.left_out == [(videos[0].name, "order", "is cut short")]
    scored = result.rows[0].by_video
    assert np.isnan(scored[0]) and not np.isnan(scored[1:]).any()


def test_a_cache_cut_by_a_kill_is_made_anew(moving: Path, tmp_path: Path) -> None:
    paths = sorted(moving.glob("*/*.mp4"))[:2]
    features = [EncoderFeature(VideoEncoder("e", student().encoder), -1, "mean")]
    read = ReadOptions(num_frames=4, side=32)
    first = extract(paths, features, read, cache=tmp_path / "c")
    for file in (tmp_path / "c").rglob("*.npz"):
        file.write_bytes(file.read_bytes()[:-40])
    again = extract(paths, features, read, cache=tmp_path / "c")
    np.testing.assert_array_equal(*(next(iter(f.features.values())) for f in (first, again)))
    file.rename(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-40])
    with pytest.raises(UserError, match="cut.npz': not a file of smile-train embed"):
        read_embeddings(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        ("clip:tiny-clip", {"protocols": ["finetune"]}, "'finetune': '.*' is no video encoder of ours"),
        ("ours", {"shots": [9]}, "9 shots: class 'down' has 2 training videos"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_any_video_is_read(
    moving: Path, monkeypatch: pytest.MonkeyPatch, name: str, asked: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(_evaluate, "extract", lambda *_, **__: pytest.fail("read"))
    ours = VideoEncoder("e", student().encoder)
    encoder = ours if name == "ours" else load_encoder(name, num_frames=4)
    videos = read_videos(moving)
    with pytest.raises(UserError, match=told):
        evaluate_videos(encoder, videos, k_fold(videos, 2), EvaluateOptions(teacher=None, **asked))


def test_finetuning_has_its_controls(moving: Path) -> None:
    videos = read_videos(moving, group=r"_(g\d)")
    options = EvaluateOptions(
        protocols=["finetune"], random_encoders=1, teacher=None, read=ViewOptions(clips=2, crops=3),
        finetune=FinetuneOptions(epochs=1, batch_size=4),
    )  # fmt: skip
    result = evaluate_videos(VideoEncoder("e", student().encoder), videos, k_fold(videos, 2), options)
    rows = {row.features: row for row in result.rows}
    assert list(rows) == [
        "encoder", "random encoders (1)", "size and length, linear", "colour over time, linear",
        "pixels per frame, linear", "flow histograms, linear",
    ]  # fmt: skip
    assert rows["size and length, linear"].accuracy == 1.0  # see above: a frame more


def test_finetuning_is_the_published_recipe() -> None:
    """Layers learn slower downwards, vectors do not decay, mixed clips have mixed targets."""
    from smile_train.models import VideoClassifier
    from smile_train.training.finetune import _layered_groups, _mixed

    model = VideoClassifier(FORM, 3, generator=torch.Generator().manual_seed(0))
    scales = {
        id(p): (group["scale"], group["weight_decay"])
        for group in _layered_groups(model, FinetuneOptions(layer_decay=0.5, weight_decay=0.1))
        for p in group["params"]  # type: ignore[attr-defined]
    }
    found = {name: scales[id(p)] for name, p in model.named_parameters()}
    assert len(found) == len(list(model.parameters()))
    assert found["patch_embed.proj.weight"] == (0.125, 0.1)
    assert found["blocks.0.mlp.fc1.weight"] == (0.25, 0.1) and found["blocks.1.norm1.bias"] == (0.5, 0.0)
    assert found["head.weight"] == (1.0, 0.1) and found["fc_norm.weight"] == (1.0, 0.0)

    clips = torch.zeros(2, 3, 3, 10, 10, dtype=torch.uint8)
    clips[1] = 200
    targets = torch.eye(2)
    for kind, strength in (
        ("mixup", {"mixup": 0.8, "cutmix": 0.0}),
        ("cutmix", {"mixup": 0.0, "cutmix": 1.0}),
    ):
        rng = np.random.default_rng(3)
        mixed, wanted = _mixed(clips, targets, FinetuneOptions(**strength), rng)  # type: ignore[arg-type]
        share = mixed.float().mean((1, 2, 3, 4)) / 200  # of the second clip
        assert 0.02 < share[0] < 0.98, kind
        torch.testing.assert_close(wanted[:, 1], share, atol=0.01, rtol=0)
        torch.testing.assert_close(wanted.sum(1), torch.ones(2))
        values = mixed.unique().tolist()
        assert values == [0, 200] if kind == "cutmix" else len(values) == 2 and values != [0, 200]
    untouched, _ = _mixed(clips, targets, FinetuneOptions(mixup=0, cutmix=0), np.random.default_rng(0))
    assert torch.equal(untouched, clips)


def test_speed_leaves_out_what_is_too_short(moving: Path) -> None:
    videos = read_videos(moving)
    encoder = VideoEncoder("e", student().encoder)
    options = EvaluateOptions(
        protocols=["speed"], read=ViewOptions(stride_frames=1), random_encoders=0, teacher=None
    )
    with pytest.raises(UserError, match="protocol 'speed': all 8 videos are too short"):
        evaluate_videos(encoder, videos, leave_one_group_out(videos), options)


def test_a_split_of_shared_groups_and_a_missing_layer_are_refused(moving: Path) -> None:
    videos = [replace(v, group="one") for v in read_videos(moving)]
    encoder = VideoEncoder("e", student().encoder)
    splits = k_fold(read_videos(moving), 2)
    with pytest.raises(UserError, match="training and test share groups 'one'"):
        evaluate_videos(encoder, videos, splits)
    options = EvaluateOptions(layer=2, random_encoders=0, teacher=None)
    with pytest.raises(UserError, match=r"layer 2: this encoder has -1\.\.1"):
        evaluate_videos(encoder, read_videos(moving), splits, options)


def test_finetuning_learns_and_leaves_the_encoder_alone(moving: Path) -> None:
    videos = read_videos(moving)
    encoder = VideoEncoder("e", student().encoder)
    before = encoder.encoder.state_dict()["blocks.0.mlp.fc1.weight"].clone()
    paths, y = [v.path for v in videos], np.array([v.label for v in videos])
    read = ReadOptions(num_frames=4, side=32, stride_frames=2, clips=2)
    options = FinetuneOptions(
        epochs=25, warmup_epochs=2, batch_size=4, lr_per_256=0.2, drop_path=0.0, mixup=0.0, cutmix=0.0, crop_share=0.8
    )  # fmt: skip
    answers = finetune(encoder, paths, y, paths, read, options)
    assert (answers == y).mean() >= 0.75
    assert torch.equal(before, encoder.encoder.state_dict()["blocks.0.mlp.fc1.weight"])
    short = options.model_copy(
        update={"epochs": 2, "mixup": 0.8, "cutmix": 1.0, "drop_path": 0.2, "flip": True}
    )
    first, second = (finetune(encoder, paths, y, paths[:2], read, short, seed=4) for _ in range(2))
    assert (first == second).all()


def test_encoders_of_other_origins(tmp_path: Path) -> None:
    joint = student(replace(FORM, positions="joint"))
    save_student(tmp_path / "student.safetensors", joint)
    frames = torch.randint(
        0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    own = load_encoder(tmp_path).tokens(frames)
    assert own.shape == (2, 2, 4, 32)
    published = student(replace(FORM, positions="joint", width=384, heads=6, decoder_width=192))
    torch.save({"model": published.state_dict(), "epoch": 7}, tmp_path / "v.pth")
    loaded = load_encoder(tmp_path / "v.pth", num_frames=4, side=32)
    torch.testing.assert_close(loaded.tokens(frames), VideoEncoder("p", published.encoder).tokens(frames))
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    torch.save(weights, tmp_path / "t.pth")
    images = load_encoder(f"timm:test_vit@{tmp_path / 't.pth'}", num_frames=4)
    found = images.tokens(frames)
    assert found.shape == (2, 4, 1, images.width)
    torch.testing.assert_close(found[1, 2, 0], images.tokens(frames[1:, 2:3])[0, 0, 0])
    inner = images.tokens(frames, 1)
    assert inner.shape[:2] == (2, 4) and inner.shape[2] > 1
    model = timm.create_model("test_vit", num_classes=0, checkpoint_path=str(tmp_path / "t.pth")).eval()
    after = images.tokens(frames, images.num_layers - 1).flatten(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_head(model.norm(after)), found.flatten(0, 2))
    random = images.reinitialised(0)
    assert random.digest not in (images.digest, images.reinitialised(1).digest)
    assert random.digest == images.reinitialised(0).digest and random.form == images.form
    (tmp_path / "junk.pth").write_bytes(b"abc")
    torch.save({"model": {"head.weight": torch.zeros(2, 2)}}, tmp_path / "h.pth")
    for source, message in {
        tmp_path / "h.pth": "holds no video encoder",
        "timm:vit_tinny_patch16_224": "timm knows no such model; did you mean",
        "timm:test_vit@nowhere": "no file 'nowhere'",
        tmp_path / "nowhere": "no student.safetensors",
        tmp_path / "junk.pth": "junk.pth: not a checkpoint of plain tensors",
    }.items():
        with pytest.raises(UserError, match=message):
            load_encoder(source)
    with pytest.raises(UserError, match="reads clips of 4 frames, not of 8"):
        load_encoder(tmp_path, num_frames=8)


def test_a_clip_has_random_counterparts() -> None:
    encoder = load_encoder("clip:tiny-clip", num_frames=2)
    frames = torch.randint(
        0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    first, again, other = (encoder.reinitialised(seed).tokens(frames) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    for tokens in (encoder.tokens(frames), other):
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
    torch.testing.assert_close(encoder.tokens(frames)[1, :, 0], out.pooler_output)
    torch.testing.assert_close(encoder.tokens(frames, 0)[1], out.hidden_states[1])
    encoder = load_encoder(tmp_path / "video")
    assert (encoder.num_frames, encoder.side, encoder.num_layers) == (4, 32, 2)
    assert encoder.tokens(frames).shape == (2, 2, 4, 32)
    assert encoder.reinitialised(0).digest != encoder.digest
    transformers.BertModel(
        transformers.BertConfig(vocab_size=9, intermediate_size=8, **small)
    ).save_pretrained(tmp_path / "text")
    with pytest.raises(UserError, match="'bert' is no transformer of images or video"):
        load_encoder(tmp_path / "text")


def test_embeddings_of_two_settings_do_not_mix(moving: Path, tmp_path: Path) -> None:
    save_student(tmp_path / "student.safetensors", student())
    for name, stride in (("a.npz", 2), ("b.parquet", 2), ("c.npz", 3)):
        embed_videos(moving / "down", tmp_path, tmp_path / name, view=ViewOptions(stride_frames=stride))
    names, features, settings = read_embeddings(tmp_path / "a.npz", tmp_path / "b.parquet")
    assert len(names) == 8 and settings["stride_frames"] == 2
    np.testing.assert_array_equal(features[:4], features[4:])
    with pytest.raises(UserError, match="were made with different stride_frames"):
        read_embeddings(tmp_path / "a.npz", tmp_path / "c.npz")
    strange = os.fsdecode(b"caf\xe9.mp4")
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / strange).symlink_to(next(moving.rglob("*.mp4")))
    with pytest.raises(
        UserError, match=r"video 'caf\\udce9.mp4': its name is no UTF-8; .npz holds such names"
    ):
        embed_videos(tmp_path / "strange", tmp_path, tmp_path / "d.parquet")
    embed_videos(tmp_path / "strange", tmp_path, tmp_path / "d.npz")
    assert read_embeddings(tmp_path / "d.npz")[0] == [strange]
    (tmp_path / "e.npz").touch()
    with pytest.raises(UserError, match="e.npz': not a file of smile-train embed: No data left in file"):
        read_embeddings(tmp_path / "e.npz")
