"""Probes as a training loop: heads that do not influence each other, selected on held-out groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from smile_synth import UserError
from smile_train.config import LabelledVideosOptions, ProbeConfig, ViewCountOptions
from smile_train.data.labelled_sets import open_labelled_sets, read_labelled_sets
from smile_train.data.video_lists import LabelledVideo
from smile_train.distributed import World
from smile_train.models import Encoder, EncoderConfig, Student, StudentConfig, save_model
from smile_train.training.multi_view import Predictions, accuracies, describe_test
from smile_train.training.probe import BatchNorm, HeadSpec, ProbeHeads, ProbeTask, build_probe_encoder, probe

CONFIG = """
encoder: {size: tiny, patch_size: 8, num_frames: 4, side: 24, positions: separable}
videos: {train: VIDEOS/train, test: VIDEOS/test, validation_share: 0.2, group: "p\\\\d+"}
frames: {stride_frames: 2}
augmentation: {crop: {kind: center}}
epochs: 8
batch_size: 16
heads:
  - {layers: [1, -1], learning_rates: [0.1, 1.0e-9]}
  - {kind: attentive, learning_rates: [0.05], weight_decays: [0.0, 0.5]}
run: {device: cpu, threads: 1, workers: 0}
"""
ALONE = World(0, 1, torch.device("cpu"))


def load(folder: Path, videos: Path, *overrides: str) -> ProbeConfig:
    (folder / "probe.yaml").write_text(CONFIG.replace("VIDEOS", str(videos)))
    return ProbeConfig.load(folder / "probe.yaml", overrides)


@pytest.mark.slow
def test_selects_on_held_out_groups_and_tests(moving_squares: Path, tmp_path: Path) -> None:
    config = load(tmp_path, moving_squares)
    result = probe(config, tmp_path / "run").test
    assert json.loads((tmp_path / "run" / "test.json").read_text()) == result
    assert len(result["grid"]) == 6 and [row["entry"] for row in result["selected"]] == [0, 1]
    for entry, row in enumerate(result["selected"]):
        own = [head["validation_top1"] for head in result["grid"] if head["entry"] == entry]
        assert row["validation_top1"] == max(own)
        assert row["num_videos"] == 20 and len(row["videos"]) == 20
        assert row["top1"] == np.mean([v["predicted"] == v["label"] for v in row["videos"]])
    # A head that hardly learns has nearly the loss of its initial weights, and is not selected.
    assert result["selected"][0]["learning_rate"] == 0.1


def test_heads_have_their_own_gradients_learning_rates_and_weight_decays(
    moving_squares: Path, tmp_path: Path
) -> None:
    task = ProbeTask(load(tmp_path, moving_squares), tmp_path)
    phase = task.phases[0]
    batch = next(iter(task.batches(phase, 0, ALONE)))
    next(task.losses(task.model, batch, phase))["loss"].backward()
    together = [head.weight.grad for head in task.model.heads[:4]]
    single = ProbeTask(
        load(tmp_path, moving_squares, "heads=[{layers: [-1], learning_rates: [0.1]}]"), tmp_path
    )
    next(single.batches(phase, 0, ALONE))
    values = next(single.losses(single.model, batch, phase))
    values["loss"].backward()
    torch.testing.assert_close(single.model.heads[0].weight.grad, together[2])
    assert torch.equal(together[2], together[3]) and not torch.equal(together[0], together[2])
    assert float(values["loss"].detach()) == pytest.approx(np.log(4), abs=0.2)
    groups = {id(p): g for g in task.optimiser(phase).param_groups for p in g["params"]}
    linear, attentive = task.model.heads[1], task.model.heads[5]
    assert groups[id(linear.weight)]["lr_scale"] == pytest.approx(1e-8)
    assert groups[id(attentive.head.weight)]["lr_scale"] == pytest.approx(0.5)
    assert groups[id(attentive.head.weight)]["weight_decay"] == 0.5
    assert groups[id(attentive.norm.weight)]["weight_decay"] == 0.0
    assert all(not p.requires_grad for p in task.encoder.parameters())


def test_batch_norm_is_that_of_torch() -> None:
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)) * 4 + 2
    ours, theirs = BatchNorm(3), torch.nn.BatchNorm1d(3, affine=False, eps=1e-6)
    ours.observe(features, ALONE)
    torch.testing.assert_close(ours(features), theirs(features))
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    # torch's running variance is unbiased.
    torch.testing.assert_close((ours.variance - 0.9) * 6 / 5, theirs.running_var - 0.9)
    torch.testing.assert_close(
        ours.eval()(features)[:, 0], (features[:, 0] - ours.mean[0]) / ours.variance[0].sqrt()
    )


def test_tokens_of_a_layer_are_those_of_its_block(moving_squares: Path, tmp_path: Path) -> None:
    task = ProbeTask(load(tmp_path, moving_squares), tmp_path)
    clips = torch.rand(2, 4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    found = task.encode(clips)
    outputs: list[torch.Tensor] = []
    task.encoder.blocks[1].register_forward_hook(lambda *call: outputs.append(call[2]))
    torch.testing.assert_close(found[-1], task.encoder(clips))  # all tokens, for the attentive heads
    torch.testing.assert_close(found[1], outputs[0].mean(1, keepdim=True))
    heads = ProbeHeads([HeadSpec(0, "linear_plain", 1, 0.1, 0.0)], 128, 4, seed=0)
    torch.testing.assert_close(heads({1: found[1]})[:, 0], heads.heads[0](outputs[0].mean(1)))


def test_an_encoder_reads_clips_of_another_size(moving_squares: Path, tmp_path: Path) -> None:
    shape = StudentConfig.of_size("tiny", target_dim=8, num_frames=8, size_hw=(32, 32), patch_size=8)
    student = Student(shape, generator=torch.Generator().manual_seed(1))
    save_model(tmp_path / "student.safetensors", student)
    source = f"start_from={tmp_path / 'student.safetensors'}"
    same = build_probe_encoder(load(tmp_path, moving_squares, source, "encoder={}"))
    assert same.config == shape.encoder
    other = build_probe_encoder(load(tmp_path, moving_squares, source))
    assert (other.config.num_frames, other.config.size_hw) == (4, (24, 24))
    assert torch.equal(other.blocks[3].mlp.fc1.weight, student.encoder.blocks[3].mlp.fc1.weight)
    assert isinstance(other, Encoder) and not other.training
    with pytest.raises(
        UserError, match=r"has width 128 and 4 blocks; encoder\.size small has width 384 and 12"
    ):
        build_probe_encoder(load(tmp_path, moving_squares, source, "encoder={size: small}"))
    assert EncoderConfig.of_size("small").width == 384


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["videos.validation_share=0.0"], r"videos\.validation_share: is missing"),
        (["encoder.size=null"], r"encoder\.size: is missing"),
        (["heads.0.layers=[4]"], r"heads\.0\.layers: 4: the encoder has the blocks 0\.\.3"),
        (
            ["videos={train: VIDEOS/train, validation: VIDEOS/test, test: VIDEOS/test}"],
            "validation and test share",
        ),
        (["run.ema_decay=0.5"], "have no effect in a probe"),
    ],
)
def test_mistakes_are_one_line(
    overrides: list[str], message: str, moving_squares: Path, tmp_path: Path
) -> None:
    filled = [text.replace("VIDEOS", str(moving_squares)) for text in overrides]
    with pytest.raises(UserError, match=message):
        ProbeTask(load(tmp_path, moving_squares, *filled), tmp_path)


def test_groups_are_held_out_as_a_whole(moving_squares: Path, tmp_path: Path) -> None:
    options = LabelledVideosOptions(
        train=str(moving_squares / "train"), group=r"p\d+", validation_share=0.4, test_groups=["p03"]
    )
    sets = read_labelled_sets(options, seed=3)
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (16, 16, 8)
    sides = [{v.group for v in side} for side in (sets.train, sets.validation, sets.test)]
    assert sides[2] == {"p03"} and len(sides[0] | sides[1]) == 4 and not sides[0] & sides[1]
    assert {v.group for v in read_labelled_sets(options, seed=4).validation} != sides[1]
    assert sets.classes == ("down", "left", "right", "up")
    opened = open_labelled_sets(options, tmp_path, seed=3, rank=0)
    assert opened.train == sets.train and set(opened.digests) == {"train", "validation", "test"}


def test_lists_of_ucf101_have_numbers_on_one_side_only(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("run/a.mp4 2\njump/b.mp4 10\n")
    (tmp_path / "test.txt").write_text("jump/c.mp4\n")
    options = LabelledVideosOptions(train=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"))
    assert read_labelled_sets(options, seed=0).classes == ("jump", "run")
    numbered = options.model_copy(update={"test": None})
    assert read_labelled_sets(numbered, seed=0).classes == ("2", "10")
    with pytest.raises(UserError, match="1 of 1 videos are missing|2 of 2 videos are missing"):
        open_labelled_sets(options, tmp_path, seed=0, rank=0)


def test_scores_leave_out_unreadable_videos() -> None:
    videos = [
        LabelledVideo(Path(n), n, label, n) for n, label in (("a", "x"), ("b", "y"), ("c", "y"), ("d", "z"))
    ]
    classes = np.array([[0, 1], [0, 1], [2, 0], [2, 0]])
    predictions = Predictions(classes, np.full((4, 2), 0.5, np.float32), {3: "is broken"})
    result = describe_test(predictions, videos, ("x", "y", "z"))
    assert (result["top1"], result["top5"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert result["per_class"] == {
        "x": {"accuracy": 1.0, "num_videos": 1}, "y": {"accuracy": 0.0, "num_videos": 2},
    }  # fmt: skip
    assert result["mean_class_accuracy"] == 0.5 and result["unreadable"] == {"d": "is broken"}
    several = Predictions(np.stack([classes, classes[:, ::-1]], 1), np.zeros((4, 2, 2), np.float32), {})
    assert accuracies(several, np.array([0, 1, 1, 0])) == {"top1": [0.25, 0.5], "top5": [0.75, 0.75]}


def test_a_broken_video_is_listed(moving_squares: Path, tmp_path: Path) -> None:
    task = ProbeTask(load(tmp_path, moving_squares), tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    good, broken = task.sets.test[0], LabelledVideo(tmp_path / "broken.mp4", "broken.mp4", "up", "")
    views = ViewCountOptions(clips=2, crops=3)
    task.model.eval()

    def logits(clips: torch.Tensor) -> torch.Tensor:
        return task.model(task.encode(clips))

    alone = task.predict(logits, [good], views, ALONE)
    both = task.predict(logits, [broken, good], views, ALONE)
    assert both.classes.shape == (2, 6, 4) and set(both.unreadable) == {0} and both.readable.tolist() == [1]
    np.testing.assert_allclose(both.probabilities[1], alone.probabilities[0], atol=1e-6)
    with pytest.raises(UserError, match="none of 1 videos can be read; the first, 'broken.mp4'"):
        task.predict(logits, [broken], views, ALONE)
