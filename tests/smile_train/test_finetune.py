"""Fine-tuning: it learns, its random changes act, and it continues and divides exactly."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopping import losses

from smile_synth import UserError
from smile_train.config import FinetuneConfig, MixingOptions, ProbeConfig
from smile_train.distributed import World, join_world
from smile_train.models import Student, StudentConfig, VideoClassifier, load_model, save_model
from smile_train.training.finetune import ClipDropPath, FinetuneTask, finetune, mix_pairs, plan
from smile_train.training.logging import read_log
from smile_train.training.optim import set_lr
from smile_train.training.probe import probe

ROOT = Path(__file__).parents[2]
CONFIG = """
encoder: {size: tiny, patch_size: 8, num_frames: 4, side: 24, positions: separable}
videos: {train: VIDEOS/train, validation: VIDEOS/test, test: VIDEOS/test}
frames: {stride_frames: 2}
augmentation: {crop: {kind: random_resized, area: [0.7, 1.0]}}
epochs: 1
batch_size: 8
optimiser: {base_lr: 0.064, final_lr: 0.0, warmup_epochs: 0}
run: {device: cpu, threads: 1, workers: 0, checkpoint_every: 1}
"""
# Everything that draws random numbers, in five steps.
ALL_DRAWS = [
    "encoder.drop_path=0.3", "augmentation.rand_augment=rand-m7-n4-mstd0.5-inc1", "augmentation.erasing=0.5",
    "augmentation.flip=true", "repeats=2", "epochs=0.5", "run.ema_decay=0.5", "test.clips=2", "test.crops=3",
]  # fmt: skip
PROBE = """
encoder: {size: tiny, patch_size: 8, num_frames: 4, side: 24, positions: separable}
videos: {train: VIDEOS/train, test: VIDEOS/test, validation_share: 0.2, group: "p\\\\d+"}
frames: {stride_frames: 2}
augmentation: {crop: {kind: random_resized, area: [0.7, 1.0]}, flip: true}
epochs: 1
batch_size: 8
heads:
  - {layers: [0, -1], learning_rates: [0.01, 0.1]}
  - {kind: linear_plain, learning_rates: [0.1]}
  - {kind: attentive, learning_rates: [0.01], weight_decays: [0.1]}
run: {device: cpu, threads: 1, workers: 0, checkpoint_every: 1}
"""


def write_configs(videos: Path, folder: Path) -> Path:
    for name, text in (("finetune", CONFIG), ("probe", PROBE)):
        (folder / f"{name}.yaml").write_text(text.replace("VIDEOS", str(videos)))
    return folder


@pytest.fixture(scope="module")
def configs(moving_squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_configs(moving_squares, tmp_path_factory.mktemp("configs"))


def load(configs: Path, *overrides: str) -> FinetuneConfig:
    return FinetuneConfig.load(configs / "finetune.yaml", overrides)


@pytest.mark.slow
def test_learns_moving_squares(configs: Path, tmp_path: Path) -> None:
    shape = StudentConfig.of_size(
        "tiny", target_dim=8, num_frames=4, size_hw=(24, 24), patch_size=8, positions="separable"
    )
    save_model(tmp_path / "student.safetensors", Student(shape, generator=torch.Generator().manual_seed(1)))
    config = load(
        configs, f"start_from={tmp_path / 'student.safetensors'}", "encoder={size: tiny}", "epochs=48",
        "mixing.mixup=0", "mixing.cutmix=0", "validate_every_epochs=24", "test.weights=best", "batch_size=16",
        "run.checkpoint_every=500", "optimiser.base_lr=0.032", "optimiser.warmup_epochs=2",
    )  # fmt: skip
    result = finetune(config, tmp_path / "run")
    assert result.test is not None and result.test["top1"] >= 0.95
    per_class = result.test["per_class"]
    assert sum(row["accuracy"] for row in per_class.values()) == pytest.approx(4 * result.test["top1"])
    assert per_class["left"]["num_videos"] == 5
    assert result.test["mean_class_accuracy"] == pytest.approx(result.test["top1"])
    first = result.test["videos"][0]
    assert first["label"] == "down" and sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    lines = [line for line in read_log(tmp_path / "run") if "score" in line]
    assert len(lines) == 2 and lines[-1]["validation/top1"] >= 0.95
    model = load_model(tmp_path / "run")
    assert isinstance(model, VideoClassifier) and model.config.class_names == ("down", "left", "right", "up")
    # A complete run is not tested again.
    (tmp_path / "run" / "classifier_best.safetensors").unlink()
    assert finetune(config, tmp_path / "run").test == result.test


def test_mixup_and_cutmix_change_pairs_of_clips() -> None:
    clips = torch.zeros(4, 2, 3, 10, 12)
    clips[1::2] = 1.0
    numbers, indices = torch.tensor([0, 1, 2, 3]), torch.arange(6, 10)
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    for changes in ({"cutmix": 0.0}, {"mixup": 0.0}):
        options = MixingOptions(label_smoothing=0.2, **changes)  # type: ignore[arg-type]
        mixed, targets = mix_pairs(clips.clone(), numbers, indices, options, num_classes=5, seed=3)
        # The share of the second clip of a pair, from its pixels and from its target.
        share = mixed.mean((1, 2, 3, 4))
        assert 0 < share[0] < 1 and not torch.isclose(share[0], share[2])
        np.testing.assert_allclose(share[:2].sum(), 1, atol=1e-5)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        assert float(targets[0, 1]) == pytest.approx(float(share[0]) * 0.8 + 0.04, abs=1e-5)
        assert float(targets[0, 0]) == pytest.approx(float(1 - share[0]) * 0.8 + 0.04, abs=1e-5)
        assert float(targets[0, 4]) == pytest.approx(0.04)
        assert set(mixed[0].unique().tolist()) == {0.0, 1.0} or changes == {"cutmix": 0.0}
        # Each pair is mixed alike in every batch.
        alone, target = mix_pairs(clips[2:].clone(), numbers[2:], indices[2:], options, num_classes=5, seed=3)
        assert torch.equal(alone, mixed[2:]) and torch.equal(target, targets[2:])
    assert np.array_equal(state, np.random.get_state()[1])
    off = MixingOptions(mixup=0.0, cutmix=0.0, label_smoothing=0.1)
    same, targets = mix_pairs(clips[:1], numbers[:1], indices[:1], off, num_classes=5, seed=3)
    assert torch.equal(same, clips[:1]) and targets[0].tolist() == pytest.approx([0.92] + [0.02] * 4)


def test_erasing_and_layer_decay_act(configs: Path, tmp_path: Path) -> None:
    world = World(0, 1, torch.device("cpu"))
    tasks = [
        FinetuneTask(load(configs, f"augmentation.erasing={p}", "optimiser.layer_decay=0.5"), tmp_path)
        for p in (0.0, 1.0)
    ]
    plain, erased = (next(iter(task.batches(task.phases[0], 0, world))) for task in tasks)
    changed = (plain.frames != erased.frames).flatten(3).any(-1)
    assert changed.all() and torch.equal(plain.labels["class"], erased.labels["class"])
    task = tasks[0]
    optimiser = task.optimiser(task.phases[0])
    set_lr(optimiser, 1.0)
    lr = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    model = task.model
    assert lr[id(model.head.weight)] == lr[id(model.fc_norm.weight)] == 1.0
    for number, block in enumerate(model.blocks):
        assert lr[id(block.mlp.fc1.weight)] == 0.5 ** (len(model.blocks) - number)
    assert lr[id(model.patch_embed.proj.weight)] == 0.5 ** (len(model.blocks) + 1)
    assert decay[id(model.head.weight)] == 0.05 and decay[id(model.head.bias)] == 0.0


def test_drop_path_drops_clips_by_their_own_draws() -> None:
    drop_path = ClipDropPath(0.2)
    drop_path.draws = torch.tensor([0.19, 0.2, 0.9])
    x = torch.ones(3, 2, 2)
    assert drop_path(x)[:, 0, 0].tolist() == [0.0, 1.25, 1.25]
    assert torch.equal(drop_path.eval()(x), x)


def test_plan_needs_no_videos() -> None:
    config = FinetuneConfig.load("finetune-k400-vitb", ["run.parallel=fsdp"])
    planned = plan(config, processes=8, num_videos=240_000, num_classes=400)
    assert planned.steps == 93_750 and planned.steps_per_epoch == 937.5 and planned.clips_per_pass == 32
    assert planned.cost.parameters["head"] == 2 * 768 + 769 * 400
    assert planned.memory_bytes < planned.cost.memory_bytes(32)
    with pytest.raises(UserError, match="batch_size 256: must be a multiple of 3 processes"):
        plan(config, processes=3, num_videos=240_000, num_classes=400)
    with pytest.raises(UserError, match=r"videos\.train: is missing"):
        plan(config, processes=8)


PRESETS = sorted(path.stem for path in (ROOT / "configs" / "train").glob("finetune-*.yaml"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_those_of_the_paper(name: str) -> None:
    config = FinetuneConfig.load(name)
    assert (config.encoder.size == "small") == name.endswith("vits")
    assert (config.optimiser.base_lr, config.optimiser.weight_decay, config.optimiser.betas) == (
        1e-3, 0.05, (0.9, 0.999),
    )  # fmt: skip
    is_ssv2 = "ssv2" in name
    assert config.augmentation.flip == (not is_ssv2)
    assert config.optimiser.layer_decay == (0.7 if is_ssv2 else 0.75)
    assert config.frames.sampling == ("segments" if is_ssv2 else "window")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=10", "run.accumulate=5"], "gives 2 clips"),
        (["batch_size=9"], "must be a multiple of 2 x run.accumulate 1"),
        (["encoder.side=20"], r"encoder: height 20 must be a multiple of patch_size 8"),
        (["test.weights=best", "videos.validation=null"], r"test\.weights: best needs videos\.validation"),
        (["videos.test_groups=[nobody]", "videos.test=null"], r"videos\.test_groups: no group 'nobody'"),
        (["videos.test=VIDEOS/train"], "split 'test': training and test share groups"),
        (["videos.train=VIDEOS/test/up", "videos.test=null"], "expected a folder per class"),
    ],
)
def test_mistakes_are_one_line(
    overrides: list[str], message: str, configs: Path, moving_squares: Path, tmp_path: Path
) -> None:
    if message == "gives 2 clips":
        FinetuneTask(load(configs, *overrides), tmp_path).settings_of(World(0, 1, torch.device("cpu")))
        with pytest.raises(UserError, match="gives 1 clips per pass on 2 processes"):
            FinetuneTask(load(configs, *overrides), tmp_path).settings_of(World(0, 2, torch.device("cpu")))
        return
    filled = [text.replace("VIDEOS", str(moving_squares)) for text in overrides]
    with pytest.raises(UserError, match=message):
        FinetuneTask(load(configs, *filled), tmp_path)


# --- exact resume and several processes, of fine-tuning and probe ---


def run_both(configs: Path, out: Path, *, kill_at: int | None = None) -> None:
    """Fine-tune and probe; or in the middle of both, kill this process."""

    def kill(line: dict[str, Any]) -> None:
        if line["step"] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def nested(line: dict[str, Any]) -> None:
        if line["step"] == kill_at:
            probe(ProbeConfig.load(configs / "probe.yaml"), out / "probe", on_log=kill)

    finetune(load(configs, *ALL_DRAWS), out / "finetune", on_log=nested)
    probe(ProbeConfig.load(configs / "probe.yaml"), out / "probe")


def run_together(rank: int, port: int, configs: Path, out: Path) -> None:
    """Do the same as one of two processes that torchrun would start."""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.items():
            patch.setenv(name, value)
        with join_world("cpu"):
            for parallel in ("ddp", "fsdp"):
                own = [*ALL_DRAWS, "run.accumulate=2", f"run.parallel={parallel}"]
                finetune(load(configs, *own), out / parallel)
            probe(ProbeConfig.load(configs / "probe.yaml", ["run.accumulate=2"]), out / "probe")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_killed_run_continues_exactly_and_two_processes_do_what_one_does(
    configs: Path, tmp_path: Path
) -> None:
    """One test, because the runs of one process are compared twice."""
    import torch.distributed.fsdp  # before the fork, so that it is imported once

    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=run_both, args=(configs, tmp_path / "killed"), kwargs={"kill_at": 4})
    killed.start()
    run_both(configs, tmp_path / "alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    second = fork.Process(target=run_together, args=(1, port, configs, tmp_path / "two"))
    second.start()
    try:
        run_together(0, port, configs, tmp_path / "two")
    finally:
        second.join(60), second.kill(), killed.join(60), killed.kill()
    assert (second.exitcode, killed.exitcode) == (0, -signal.SIGKILL)
    run_both(configs, tmp_path / "killed")

    for name, steps, two in (("finetune", 5, "ddp"), ("probe", 4, "probe")):
        alone = losses(tmp_path / "alone" / name)
        assert len(set(alone)) == steps
        assert losses(tmp_path / "killed" / name) == alone
        starts = (tmp_path / "killed" / name / "run.jsonl").read_text().splitlines()
        assert json.loads(starts[0])["start_step"] == 0 < json.loads(starts[1])["start_step"] < steps
        assert losses(tmp_path / "two" / two) == pytest.approx(alone, rel=1e-5)
        assert same_tests(tmp_path / "killed" / name, tmp_path / "alone" / name, 0)
        assert same_tests(tmp_path / "two" / two, tmp_path / "alone" / name, 2e-5)
    assert losses(tmp_path / "two" / "fsdp") == pytest.approx(losses(tmp_path / "two" / "ddp"), rel=1e-5)
    for name in ("classifier.safetensors", "classifier_ema.safetensors"):
        one = load_model(tmp_path / "alone" / "finetune" / name).state_dict()
        for parallel in ("ddp", "fsdp"):
            for key, tensor in load_model(tmp_path / "two" / parallel / name).state_dict().items():
                torch.testing.assert_close(tensor, one[key], rtol=1e-3, atol=2e-5)


def same_tests(a: Path, b: Path, tolerance: float) -> bool:
    """Compare the probabilities in two files test.json."""
    tests = [json.loads((folder / "test.json").read_text()) for folder in (a, b)]
    rows = [[v for part in test.get("selected", [test]) for v in part["videos"]] for test in tests]
    return all(
        one["video"] == other["video"]
        and one["probabilities"] == pytest.approx(other["probabilities"], abs=tolerance)
        for one, other in zip(*rows, strict=True)
    )
