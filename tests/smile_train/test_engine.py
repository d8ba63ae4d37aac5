"""The loop's machinery: parts of a batch, precision, averages, memory, folders, checkpoints, logs, dry runs."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import smile_train.training.pretrain as pretraining
from smile_synth import UserError
from smile_train.config import PretrainConfig, TeacherOptions
from smile_train.data.synthetic import Batch
from smile_train.masking import Masker
from smile_train.models import Student, StudentConfig, Teacher
from smile_train.training.checkpoint import (
    STUDENT,
    STUDENT_AVERAGE,
    CheckpointWriter,
    checkpoint_files,
    load_student,
)
from smile_train.training.cost import cost_of, peak_tflops
from smile_train.training.logging import RunLog, only_run, read_log
from smile_train.training.optim import WeightAverage, layer_of, make_adamw, parameter_groups, set_lr
from smile_train.training.pretrain import plan, pretrain


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder)]


def test_parts_of_a_batch_add_up_to_it(config_file: Path, tmp_path: Path) -> None:
    for count in (1, 4):
        pretrain(PretrainConfig.load(config_file, [f"accumulate={count}", "steps=3"]), tmp_path / str(count))
    assert losses(tmp_path / "4") == pytest.approx(losses(tmp_path / "1"), rel=1e-5)


def test_every_mask_of_a_clip_is_its_own_and_the_teacher_looks_once(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[torch.Tensor] = []
    honest = Masker.__call__

    def noted(self: Masker, *args: object, **more: object) -> torch.Tensor:
        masks.append(honest(self, *args, **more))  # type: ignore[arg-type]
        return masks[-1]

    appearance: list[int] = []
    look = Teacher.look
    monkeypatch.setattr(Masker, "__call__", noted)
    monkeypatch.setattr(Teacher, "look", lambda self, frames: (appearance.append(1), look(self, frames))[1])
    own = ["masks_per_clip=3", "steps=1", "optimiser.warmup_steps=0", "student.patch_size=16"]
    pretrain(PretrainConfig.load(config_file, [*own, "target={kind: teacher}"]), tmp_path / "run")
    assert len(appearance) == 1 and len(masks) == 3
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_single(config_file: Path, tmp_path: Path, precision: str) -> None:
    for name in ("fp32", precision):
        pretrain(PretrainConfig.load(config_file, [f"precision={name}", "steps=3"]), tmp_path / name)
    half, single = losses(tmp_path / precision), losses(tmp_path / "fp32")
    assert half == pytest.approx(single, rel=2e-2) and half != single


def test_compiled_runs_have_the_same_losses(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(type(self).__name__))
    own = ["steps=1", "optimiser.warmup_steps=0", "student.patch_size=16", "target={kind: teacher}"]
    pretrain(PretrainConfig.load(config_file, [*own, "compile=true"]), tmp_path / "run")
    assert compiled == ["Student", "Teacher"]


def test_frames_are_drawn_where_they_are_asked_for(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the workers are told when the training ends, however it ends."""
    asked: list[Any] = []
    closed: list[bool] = []
    honest = pretraining.training_batches

    def noted(*args: Any, **more: Any) -> Iterator[Batch]:
        asked.append(more["render_on"])
        try:
            yield from honest(*args, **more)
        finally:
            closed.append(True)

    def stop(done: int, total: int, loss: float) -> None:
        raise RuntimeError("stop")

    monkeypatch.setattr(pretraining, "training_batches", noted)
    for where in ("device", "cpu"):
        with pytest.raises(RuntimeError, match="stop"):
            pretrain(PretrainConfig.load(config_file, [f"render={where}"]), tmp_path / where, on_step=stop)
    assert asked == [None, "cpu"] and closed == [True, True]


def test_weights_are_averaged(config_file: Path, tmp_path: Path) -> None:
    config = PretrainConfig.load(config_file, ["steps=1", "optimiser.warmup_steps=0", "ema_decay=0.75"])
    pretrain(config, tmp_path / "run")
    form = load_student(tmp_path / "run").config
    start = Student(form, generator=torch.Generator().manual_seed(0)).state_dict()
    end = load_student(tmp_path / "run").state_dict()
    average = load_student(tmp_path / "run" / "student_ema.safetensors").state_dict()
    name = "encoder.blocks.0.mlp.fc1.weight"
    assert not torch.equal(start[name], end[name])
    torch.testing.assert_close(average[name], 0.75 * start[name] + 0.25 * end[name])


def test_an_average_lags_behind() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.5)
    torch.nn.init.ones_(model.weight)
    for expected in (0.5, 0.75):
        average.update(model)
        assert float(average.tensors["weight"]) == expected


def test_layers_learn_at_their_own_rates() -> None:
    form = StudentConfig.of_size("tiny", target_dim=5)
    student = Student(form, generator=torch.Generator().manual_seed(0))
    assert [layer_of(name, 4) for name in ("encoder.patch_embed.proj.bias", "blocks.2.norm1.weight")] == [
        0,
        3,
    ]
    assert layer_of("decoder.blocks.0.norm1.weight", 4) == layer_of("encoder.norm.weight", 4) == 5
    optimiser = make_adamw(student, lr=1.0, layer_decay=0.5, depth=form.depth)
    set_lr(optimiser, 0.8)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert len(rates) == len(list(student.parameters()))
    named = {name: rates[id(p)] for name, p in student.named_parameters()}
    assert named["decoder.head.weight"] == named["mask_token"] == 0.8
    assert named["encoder.blocks.3.attn.q_bias"] == 0.4
    assert named["encoder.patch_embed.proj.weight"] == pytest.approx(0.8 / 32)
    assert len(parameter_groups(student, 0.05)) == 2


def test_the_cosine_may_end_after_the_training(config_file: Path, tmp_path: Path) -> None:
    for name, own in (("annealed", []), ("published", ["optimiser.cosine_steps=12"])):
        pretrain(PretrainConfig.load(config_file, ["optimiser.warmup_steps=0", *own]), tmp_path / name)
    annealed, published = (
        [line["lr"] for line in read_log(tmp_path / name)] for name in ("annealed", "published")
    )
    assert annealed[0] == published[0] == pytest.approx(0.064 / 64)
    assert annealed[-1] < 0.1 * annealed[0] and published[-1] > 0.5 * published[0]


@pytest.mark.parametrize("lack", [torch.OutOfMemoryError, MemoryError])
def test_lack_of_memory_says_what_to_change(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: type[Exception]
) -> None:
    def starve(*args: object, **more: object) -> None:
        raise lack("out of memory. Tried to allocate 3 GiB\nand a wall of text")

    monkeypatch.setattr(Student, "forward", starve)
    with pytest.raises(
        UserError, match=r"out of memory on cpu with 2 clips a pass; raise accumulate \(it is 2\)"
    ) as told:
        pretrain(PretrainConfig.load(config_file, ["accumulate=2"]), tmp_path / "run")
    assert "\n" not in str(told.value)

    def otherwise(*args: object, **more: object) -> None:
        raise RuntimeError("of another kind")

    monkeypatch.setattr(Student, "forward", otherwise)
    with pytest.raises(RuntimeError, match="of another kind"):
        pretrain(PretrainConfig.load(config_file), tmp_path / "run")


def test_what_does_not_change_losses_may_change_on_the_way(config_file: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise Stop

    pretrain(PretrainConfig.load(config_file), tmp_path / "whole")
    with pytest.raises(Stop):
        pretrain(PretrainConfig.load(config_file), tmp_path / "run", on_step=stop)
    own = ["accumulate=2", "student.checkpointing=true", "keep_checkpoints=1", "checkpoint_every=3"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "run")
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


def test_masks_of_other_clips_want_the_same_clips_a_pass(config_file: Path, tmp_path: Path) -> None:
    own = ["steps=1", "optimiser.warmup_steps=0", "masks_per_clip=2", "mask.cross_clip=true"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "run")
    with pytest.raises(UserError, match=r"clips of a pass .* is 4 there and 2 now"):
        pretrain(PretrainConfig.load(config_file, [*own, "accumulate=2"]), tmp_path / "run")


def test_two_runs_do_not_share_a_folder(config_file: Path, tmp_path: Path) -> None:
    with (
        only_run(tmp_path / "run"),
        pytest.raises(UserError, match="another run is writing there; give another"),
    ):
        pretrain(PretrainConfig.load(config_file), tmp_path / "run")
    assert not (tmp_path / "run" / ".lock").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        pretrain(PretrainConfig.load(config_file), tmp_path / "file" / "run")


def test_the_last_checkpoints_and_the_best_stay(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=2) as writer:
        for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0)):
            writer.save(step, {"model": {"w": torch.tensor([float(step)])}}, loss=loss)
    assert [path.name for path in checkpoint_files(tmp_path)] == ["00000003.pt", "00000004.pt"]
    best = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert (best["step"], best["best_loss"]) == (2, 1.0)
    with CheckpointWriter(tmp_path, keep=2, best=1.0) as writer:
        writer.save(5, {"model": {}}, loss=1.5)
    assert torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)["step"] == 2
    assert not list((tmp_path / "checkpoints").glob("*.part"))


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with (
        pytest.raises(UserError, match="cannot be written: No space left on device"),
        CheckpointWriter(tmp_path) as writer,
    ):
        writer.save(1, {}, loss=1.0)


def test_a_disk_that_is_full_for_the_log_is_one_line(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write", "sync", "show"):
        monkeypatch.setattr(RunLog, name, full)
        with pytest.raises(UserError, match=f"^out '.*{name}': cannot be written: No space left on device$"):
            pretrain(PretrainConfig.load(config_file), tmp_path / name)
        monkeypatch.undo()


@pytest.mark.slow
def test_a_killed_worker_of_a_mixture_is_one_line(config_file: Path, tmp_path: Path) -> None:
    def kill(done: int, total: int, loss: float) -> None:
        for worker in multiprocessing.active_children() if done == 1 else ():
            os.kill(worker.pid or 0, signal.SIGKILL)

    own = ["workers=1", "steps=200", "mixture=[{recipe_overrides: [objects.count=2]}, {}]"]
    with pytest.raises(
        UserError, match=r"^a worker process was killed \(.*\), perhaps for want of memory"
    ) as told:
        pretrain(PretrainConfig.load(config_file, own), tmp_path / "run", on_step=kill)
    # Whoever keeps the error may have other children that end.
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert told.value.__traceback__ is not None


@pytest.mark.slow
def test_a_worker_that_is_starting_leaves_with_its_parent(tmp_path: Path) -> None:
    """Its parent is killed before torch watches over it."""
    script = """
import multiprocessing, os, sys
child = "from smile_train.data.synthetic import start_worker; start_worker(0); import time; time.sleep(600)"
process = multiprocessing.get_context("spawn").Process(target=exec, args=(child, {}))
process.start()
open(sys.argv[1], "w").write(str(process.pid))
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "worker")])
    told = (tmp_path / "worker").read_text()
    worker, deadline = Path("/proc") / told, time.monotonic() + 30
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    left = worker.exists()
    if left:
        os.kill(int(told), signal.SIGKILL)
    assert not left


def test_slow_runs_have_a_rate(config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What divides by the log's rates must not meet a zero."""
    clock = pretraining.time.perf_counter
    monkeypatch.setattr(pretraining, "time", SimpleNamespace(perf_counter=lambda: 1e5 * clock()))
    pretrain(PretrainConfig.load(config_file, ["steps=2"]), tmp_path / "run")
    assert all(0 < line["clips_per_second"] < 0.05 for line in read_log(tmp_path / "run"))


def test_the_log_goes_to_tensorboard_too(config_file: Path, tmp_path: Path) -> None:
    lines: list[dict[str, float]] = []
    config = PretrainConfig.load(config_file, ["steps=3", "peak_tflops=0.1"])
    pretrain(config, tmp_path / "run", on_line=lines.append)
    assert lines == read_log(tmp_path / "run")
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])
    for line in lines:
        assert (
            0 <= line["data_wait"] <= 1 and line["clips_per_second"] > 0 and math.isfinite(line["grad_norm"])
        )
    # One clip's operations times the rate, over the peak.
    _, cost = plan(config)
    assert lines[-1]["mfu"] == pytest.approx(lines[-1]["clips_per_second"] * cost.step_gflops / 100, rel=0.02)


def test_the_log_goes_to_wandb_too(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tracker:
        def __init__(self, **how: Any) -> None:
            self.how, self.lines, self.ended = how, {}, None

        def log(self, values: dict[str, float], *, step: int) -> None:
            self.lines[step] = values

        def finish(self, *, exit_code: int) -> None:
            self.ended = exit_code

    begun: list[Tracker] = []
    stub = SimpleNamespace(init=lambda **how: begun.append(Tracker(**how)) or begun[-1])
    monkeypatch.setitem(sys.modules, "wandb", stub)
    pretrain(PretrainConfig.load(config_file, ["steps=3", "wandb=moving"]), tmp_path / "run")
    (tracker,) = begun
    assert (tracker.how["project"], tracker.how["dir"]) == ("moving", str(tmp_path / "run"))
    assert tracker.how["config"]["steps"] == 3 and tracker.ended == 0
    assert [{"step": step, **values} for step, values in tracker.lines.items()] == read_log(tmp_path / "run")

    def refuse(**how: Any) -> Any:
        raise RuntimeError("no API key\nmore")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(UserError, match=r"^wandb 'moving': no API key; 'wandb login', WANDB_MODE=offline"):
        pretrain(PretrainConfig.load(config_file, ["wandb=moving"]), tmp_path / "refused")
    assert not (tmp_path / "refused" / "config.yaml").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb 'moving': .* not installed; pip install 'smile-video\[wandb"):
        pretrain(PretrainConfig.load(config_file, ["wandb=moving"]), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_kill_leaves_no_checkpoint_without_what_belongs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = Student(StudentConfig.of_size("tiny", target_dim=4), generator=torch.Generator())
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    with CheckpointWriter(tmp_path) as writer:
        students = {STUDENT: student.state_dict(), STUDENT_AVERAGE: student.state_dict()}
        writer.save(3, {"model": {}}, loss=1.0, students=students, form=student.config)
    assert order == [STUDENT, STUDENT_AVERAGE, "best.pt", "00000003.pt"]


def test_the_log_is_on_the_disk_before_its_checkpoint(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    sync, save = RunLog.sync, CheckpointWriter.save
    monkeypatch.setattr(RunLog, "sync", lambda self: (order.append("log"), sync(self)))
    monkeypatch.setattr(
        CheckpointWriter, "save", lambda self, *a, **k: (order.append("checkpoint"), save(self, *a, **k))
    )
    pretrain(PretrainConfig.load(config_file, ["steps=4"]), tmp_path / "run")
    assert order == ["log", "checkpoint"] * 2


def test_costs_are_those_of_the_published_step() -> None:
    """ViT-B, 16x224x224, 320 of 1568 tokens visible, CLIP ViT-B/16 on 8 frames: 2 per multiply-add."""
    import open_clip

    form = StudentConfig.of_size("base", target_dim=768)
    student = Student(form, generator=torch.Generator().manual_seed(0))
    visual = open_clip.model._build_vision_tower(
        512, open_clip.CLIPVisionCfg(layers=12, width=768, patch_size=16, image_size=224)
    )
    config = PretrainConfig.load("demo", ["masks_per_clip=2"])
    cost = cost_of(
        config, student, Teacher(visual, TeacherOptions(normalisation="clip")), num_masked=1248, bf16=True
    )
    forward = cost.forward_gflops
    assert forward["encoder.patch_embed"] == pytest.approx(0.75, abs=0.01)
    assert forward["encoder.blocks"] == pytest.approx(58.1, abs=0.05)
    assert forward["decoder"] == pytest.approx(37.3 + 0.7, abs=0.05)
    assert forward["teacher"] == pytest.approx(281, abs=0.5)
    # Published: 874 with all tokens embedded; only the visible ones are here, forward and for the weights.
    assert cost.step_gflops == pytest.approx(874 - 4 * 2.95, abs=1)
    assert sum(n for part, n in cost.parameters.items() if part != "teacher") == sum(
        p.numel() for p in student.parameters()
    )
    assert (cost.num_tokens, cost.num_visible) == (1568, 320)
    assert next(student.parameters()).device.type == "cpu"
    # Per token and block in bf16: 18 times its width (two residuals in fp32, norms, q, k, v, heads, MLP).
    assert cost.saved_bytes == pytest.approx(36 * (12 * 320 * 768 + 4 * 1568 * 384), rel=0.1)


@pytest.mark.parametrize(
    "lean", [{}, {"checkpointing": True, "decoder_chunk": 1}], ids=["plain", "checkpointing and chunks"]
)
def test_vit_l_trains_with_batches_of_eight_on_24_gigabytes(lean: dict[str, Any]) -> None:
    with torch.device("meta"):
        form = StudentConfig.of_size("large", target_dim=768, **lean)
        student = Student(form, generator=torch.Generator())
    cost = cost_of(PretrainConfig.load("demo"), student, None, num_masked=1248, bf16=True)
    teacher, inputs = 4 * 86.2e6, 8 * 16 * 3 * 224**2 * (1 + 4 + 4)  # CLIP B/16; frames as bytes and floats
    assert cost.state_bytes > 18 * 300e6  # weights, gradients, two subframes, weights in bf16
    # Half of it is left for what the backward pass makes on its way and what the allocator cannot use.
    assert cost.state_bytes + 8 * cost.saved_bytes + teacher + inputs < 12e9
    assert 8 * cost.saved_bytes < (0.3e9 if lean else 4e9)


def test_the_peak_is_known_or_given(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PretrainConfig.load("demo")
    assert peak_tflops(config, torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200 NVL")
    assert peak_tflops(config, torch.device("cuda")) == 790
    assert peak_tflops(config.model_copy(update={"peak_tflops": 5.0}), torch.device("cuda")) == 5


def test_a_dry_run_writes_nothing_and_needs_no_gpu(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = sorted(tmp_path.iterdir())
    data, cost = plan(PretrainConfig.load(config_file, ["device=cuda"]))
    _, exact = plan(PretrainConfig.load(config_file))
    assert cost.saved_bytes == exact.saved_bytes // 2  # planned in bf16
    assert (data.size_hw, data.num_frames, cost.num_tokens) == ((32, 32), 4, 32)
    assert sorted(tmp_path.iterdir()) == before
    assert json.dumps(cost.parameters)
