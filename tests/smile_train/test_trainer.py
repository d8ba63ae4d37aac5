"""The trainer with a small task: steps, schedules, checkpoints, exact resume, logs, and messages."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stopping import Stop, stop_after
from torch import Tensor, nn

from smile_synth import UserError
from smile_train.batch import Batch
from smile_train.config import OptimiserOptions, RunOptions
from smile_train.distributed import World
from smile_train.models import read_tensors
from smile_train.training import trainer
from smile_train.training.checkpoint import checkpoint_files, load_checkpoint
from smile_train.training.logging import RunLog, lock_run, read_log
from smile_train.training.trainer import UNREADABLE, Phase, Task, WeightFiles, train

RUN = RunOptions(device="cpu", threads=1, checkpoint_every=2, keep_checkpoints=20)
OPTIMISER = OptimiserOptions(base_lr=0.64, warmup_lr=0.0, final_lr=0.0, weight_decay=0.0)


@dataclass(frozen=True)
class LinearConfig:
    width: int = 3


class Linear(nn.Linear):
    config = LinearConfig()


class Regression(Task):
    """Learns a line from clips of one pixel, which follow from their index."""

    name = "regression"
    files = WeightFiles("last.safetensors", "average.safetensors", "best.safetensors")
    batch_size = 4

    def __init__(self, *steps: int, seed: int = 0, num_passes: int = 1, **run: Any) -> None:
        self.run, self.seed = RUN.model_copy(update=run), seed
        ends = np.cumsum(steps or (6,))
        self.phases = [
            Phase(int(end) - n, int(end), OPTIMISER, self.batch_size * num_passes, num_passes)
            for n, end in zip(steps or (6,), ends, strict=True)
        ]
        self.model = Linear(3, 1)
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[0.5, -0.25, 1.0]]))
            self.model.bias.zero_()
        self.settings = {"seed": seed, "steps": list(steps)}

    def batches(self, phase: Phase, start_step: int, world: World) -> Iterator[Batch]:
        for step in range(start_step, phase.end_step):
            yield self.batch(torch.arange(step * self.batch_size, (step + 1) * self.batch_size))

    def batch(self, indices: Tensor) -> Batch:
        frames = (indices[:, None] * torch.tensor([37, 101, 59]) % 251).byte()
        return Batch(indices, frames.view(-1, 1, 3, 1, 1))

    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        inputs = batch.frames.flatten(1) / 255
        for number in range(phase.num_passes):
            error = model(inputs)[:, 0] - inputs.sum(1) + number
            noise = torch.rand(()) if model.training else 0.0  # as drop path does
            yield {"loss": error.square().mean() + noise, "bias": self.model.bias.sum()}


class Scripted(Regression):
    """The loss of every step is given. Its gradient is 1, so that every step changes the weights."""

    def __init__(self, losses: Sequence[float], *steps: int, **run: Any) -> None:
        super().__init__(*(steps or (len(losses),)), **run)
        self.given = losses

    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        step = int(batch.indices[0]) // self.batch_size
        total = self.model.weight.sum() + self.model.bias.sum()
        yield {"loss": self.given[step] + total - total.detach()}


def values(folder: Path, name: str = "loss") -> list[float]:
    return [line[name] for line in read_log(folder)]


def weights_of(folder: Path) -> dict[int, dict[str, Tensor]]:
    """The weights of every checkpoint, by its number of steps."""
    return {int(p.stem): torch.load(p, weights_only=True)["model"] for p in checkpoint_files(folder)}


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


# --- steps and schedules ---


def test_a_step_is_adamw_on_the_mean_of_its_passes(tmp_path: Path) -> None:
    task = Regression(2, num_passes=2, checkpoint_every=1)
    # By hand: the mean of both passes, one step of AdamW at the learning rate of step 0.
    model = Linear(3, 1)
    model.load_state_dict(task.model.state_dict())
    inputs = task.batch(torch.arange(4)).frames.flatten(1) / 255
    error = model(inputs)[:, 0] - inputs.sum(1)
    ((error.square() + (error + 1).square()) / 2).mean().backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    lr = 0.64 * 4 * 2 / 256
    torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0).step()
    train(task, tmp_path / "run")
    first = read_log(tmp_path / "run")[0]
    assert first["lr"] == pytest.approx(lr) and first["grad_norm"] == pytest.approx(norm, rel=1e-5)
    for name, tensor in weights_of(tmp_path / "run")[1].items():
        assert torch.allclose(tensor, model.state_dict()[name], atol=1e-6), name


def test_parts_of_a_batch_add_up_to_it(tmp_path: Path) -> None:
    class Quiet(Regression):
        def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
            return super().losses(model.eval(), batch, phase)

    for accumulate in (1, 4):
        train(Quiet(3, num_passes=2, accumulate=accumulate), tmp_path / str(accumulate))
    assert values(tmp_path / "4") == pytest.approx(values(tmp_path / "1"), rel=1e-5)
    with pytest.raises(UserError, match="batch_size 4: must be a multiple of 1 processes x accumulate 3"):
        train(Regression(accumulate=3), tmp_path / "uneven")


def test_the_learning_rate_grows_with_the_samples_of_a_step() -> None:
    options = OptimiserOptions(base_lr=0.5, warmup_lr=0.1, final_lr=0.02, warmup_steps=4)
    for samples in (256, 64):
        phase = Phase(10, 30, options, samples)
        scale = samples / 256
        assert phase.lr(10) == pytest.approx(0.1 * scale)
        assert phase.lr(12) == pytest.approx(0.3 * scale)
        assert phase.lr(14) == pytest.approx(0.5 * scale)
        assert phase.lr(22) == pytest.approx(0.26 * scale)  # the middle of the cosine
        assert phase.lr(29) == pytest.approx((0.02 + 0.24 * (1 + math.cos(math.pi * 15 / 16))) * scale)


def test_the_cosine_may_end_after_the_phase() -> None:
    options = OptimiserOptions(base_lr=0.5, final_lr=0.1, cosine_steps=40)
    phase = Phase(5, 25, options, 256)
    assert phase.lr(5) == pytest.approx(0.5) and phase.lr(15) == pytest.approx(
        0.3 + 0.2 * math.cos(math.pi / 4)
    )
    assert phase.lr(24) == pytest.approx(0.3 + 0.2 * math.cos(math.pi * 19 / 40))


def test_the_published_schedule_jumps_back_at_every_epoch() -> None:
    """Its index is epoch * 937 + step, with 1875 steps in an epoch."""
    options = OptimiserOptions(
        base_lr=1.0, warmup_lr=0.0, final_lr=0.0, warmup_steps=37480, cosine_steps=750537,
        schedule_epoch=(1875, 937),
    )  # fmt: skip
    phase = Phase(0, 281250, options, 256)
    assert phase.lr(1874) == pytest.approx(1874 / 37480) and phase.lr(1875) == pytest.approx(937 / 37480)
    assert phase.lr(39 * 1875 + 937) == pytest.approx(1.0)  # index 40 * 937 in epoch 39
    assert phase.lr(40 * 1875) == pytest.approx(1.0)
    last = 149 * 937 + 1874
    cosine = math.cos(math.pi * (last - 37480) / (750537 - 37480))
    assert phase.lr(281249) == pytest.approx((1 + cosine) / 2)


# --- phases ---


def test_every_phase_has_a_new_optimiser_and_schedule(tmp_path: Path) -> None:
    train(Scripted([1.0] * 5, 3, 2, checkpoint_every=1), tmp_path / "run")
    lr = values(tmp_path / "run", "lr")
    assert lr[0] == lr[3] == pytest.approx(0.01) and lr[4] == pytest.approx(0.005)
    # AdamW's first step is lr * sign of the gradient, whatever the gradient: also in the second phase.
    found = weights_of(tmp_path / "run")
    assert torch.allclose(found[4]["weight"], found[3]["weight"] - 0.01, atol=1e-7)
    steps = [torch.load(p, weights_only=True)["optimiser"] for p in checkpoint_files(tmp_path / "run")]
    assert [float(state["state"]["weight"]["step"]) for state in steps] == [1, 2, 3, 1, 2]


def test_the_best_weights_are_those_of_the_last_phase(tmp_path: Path) -> None:
    """Losses of phases have different masks and targets and cannot be compared."""
    losses = [5.0, 1.0, 2.0, 3.0, 70.0, 50.0, 60.0, 90.0]
    train(Scripted(losses, 4, 4, checkpoint_every=1), tmp_path / "run")
    found = weights_of(tmp_path / "run")
    assert equal(read_tensors(tmp_path / "run" / "best.safetensors"), found[6])
    assert equal(read_tensors(tmp_path / "run" / "last.safetensors"), found[8])
    states = [torch.load(p, weights_only=True)["best_score"] for p in checkpoint_files(tmp_path / "run")]
    assert states == [-5, -1, -1, -1, -70, -50, -50, -50]


def test_the_score_of_a_checkpoint_is_its_mean_loss_since_the_one_before(tmp_path: Path) -> None:
    # Means of pairs: 1, 3, 0.9, 2. Neither single losses nor means since the start have the third as the best.
    losses = [1.5, 0.5, 3.0, 3.0, 0.1, 1.7, 2.0, 2.0]
    with pytest.raises(Stop):
        train(Scripted(losses), tmp_path / "run", on_log=stop_after(7))
    train(Scripted(losses), tmp_path / "run")  # the best score is in the checkpoint
    assert equal(read_tensors(tmp_path / "run" / "best.safetensors"), weights_of(tmp_path / "run")[6])


def test_the_average_of_the_weights_continues_over_phases_and_resumes(tmp_path: Path) -> None:
    task = Scripted([1.0] * 6, 3, 3, checkpoint_every=1, ema_decay=0.75)
    average = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    train(task, tmp_path / "whole")
    for step, weights in weights_of(tmp_path / "whole").items():
        average = {name: 0.75 * average[name] + 0.25 * weights[name] for name in average}
        state = torch.load(tmp_path / "whole/checkpoints" / f"{step:08d}.pt", weights_only=True)
        for name, tensor in average.items():
            assert torch.allclose(state["average"][name], tensor, atol=1e-6), step
    saved = read_tensors(tmp_path / "whole" / "average.safetensors")
    assert all(torch.allclose(saved[name], tensor, atol=1e-6) for name, tensor in average.items())
    for last in (2, 3, 4):
        out = tmp_path / f"cut{last}"
        with pytest.raises(Stop):
            train(Scripted([1.0] * 6, 3, 3, checkpoint_every=1, ema_decay=0.75), out, on_log=stop_after(last))
        train(Scripted([1.0] * 6, 3, 3, checkpoint_every=1, ema_decay=0.75), out)
        assert equal(read_tensors(out / "average.safetensors"), saved)


# --- resume ---


def test_a_run_resumes_at_the_exact_step(tmp_path: Path) -> None:
    whole = train(Regression(4, 3), tmp_path / "whole")
    assert len(set(values(tmp_path / "whole"))) == 7
    for last in range(1, 7):
        out = tmp_path / f"cut{last}"
        with pytest.raises(Stop):
            train(Regression(4, 3), out, on_log=stop_after(last))
        lines: list[dict[str, Any]] = []
        result = train(Regression(4, 3), out, on_log=lines.append)
        saved = {1: 0, 2: 0, 3: 2, 4: 2, 5: 4, 6: 4}[last]  # a step is logged before it is saved
        assert [line["step"] for line in lines] == list(range(saved + 1, 8))
        assert values(out) == values(tmp_path / "whole") and result.loss == whole.loss
        assert equal(
            read_tensors(out / "last.safetensors"), read_tensors(tmp_path / "whole/last.safetensors")
        )
        starts = [json.loads(line)["start_step"] for line in (out / "run.jsonl").read_text().splitlines()]
        assert starts == [0, saved]


def test_a_complete_run_gives_the_same_result_again(tmp_path: Path) -> None:
    losses = [float(n) for n in range(60)]
    first = train(Scripted(losses), tmp_path / "run")
    again = train(Scripted(losses), tmp_path / "run")
    assert first.last["loss"] == again.last["loss"] == 58  # the mean of the last 5 %: 57, 58, 59
    assert (again.steps, again.clips_per_second) == (60, 0) and first.clips_per_second > 0


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    train(Regression(2), tmp_path / "run")
    with pytest.raises(UserError, match="other settings or sources: seed is 0 there and 1 now; use another"):
        train(Regression(2, seed=1), tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "00000003.pt").write_bytes(b"half a checkp")
    with pytest.raises(
        UserError, match=r"00000003.pt': damaged: .*; delete it to continue from '00000002.pt'"
    ):
        train(Regression(2), tmp_path / "run")


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    message = "another run is writing there; use another folder"
    with lock_run(tmp_path / "run"), pytest.raises(UserError, match=message):
        train(Regression(2), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        train(Regression(2), tmp_path / "file" / "run")


def test_incomplete_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("last.safetensors.0a1b2c3d.part", "checkpoints/00000009.pt.98765432.part"):
        (tmp_path / "run" / name).write_bytes(b"half")
    train(Regression(2), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.part"))


def test_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    train(Regression(5, keep_checkpoints=2, checkpoint_every=1), tmp_path / "run")
    assert [path.name for path in checkpoint_files(tmp_path / "run")] == ["00000004.pt", "00000005.pt"]


def test_files_are_written_in_an_order_that_survives_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log, then weights, then the checkpoint: where it exists, everything that belongs to it exists."""
    order: list[str] = []
    sync, replace = RunLog.sync, os.replace

    def note_sync(self: RunLog) -> None:
        order.append("log")
        sync(self)

    def note_replace(source: Any, target: Any) -> None:
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(RunLog, "sync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    train(Regression(2, ema_decay=0.5), tmp_path / "run")
    assert order[order.index("log") :] == [
        "log", "last.safetensors", "average.safetensors", "best.safetensors", "00000002.pt",
    ]  # fmt: skip


# --- validation ---


class Validated(Scripted):
    validate_every = 2

    def __init__(self, *args: Any, scores: dict[int, float], **run: Any) -> None:
        super().__init__(*args, **run)
        self.scores, self.step = scores, 0

    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        assert self.model.training
        self.step = int(batch.indices[0]) // self.batch_size + 1
        yield from super().losses(model, batch, phase)

    def validate(self, world: World) -> dict[str, float]:
        self.model.eval()
        return {"score": self.scores[self.step], "accuracy": self.scores[self.step] / 2}


def test_the_best_weights_have_the_highest_score_of_the_validation(tmp_path: Path) -> None:
    scores = {2: 0.4, 4: 0.9, 6: 0.9, 7: 0.6}
    losses = [9.0, 9.0, 1.0, 9.0, 9.0, 9.0, 0.0]  # the loss does not count
    task = Validated(losses, scores=scores, checkpoint_every=3)
    with pytest.raises(Stop):
        train(task, tmp_path / "run", on_log=stop_after(7))
    train(Validated(losses, scores=scores, checkpoint_every=3), tmp_path / "run")
    logged = {line["step"]: line["accuracy"] for line in read_log(tmp_path / "run") if "accuracy" in line}
    assert logged == {step: score / 2 for step, score in scores.items()}
    found = weights_of(tmp_path / "run")
    assert list(found) == [2, 3, 4, 6, 7]
    assert equal(read_tensors(tmp_path / "run" / "best.safetensors"), found[6])  # the later of two equal ones


def test_a_task_finishes_after_the_files_are_written_also_in_a_complete_run(tmp_path: Path) -> None:
    class Finishing(Regression):
        files = None
        finished = 0

        def finish(self, out: Path, world: World) -> None:
            assert [path.name for path in checkpoint_files(out)] == ["00000002.pt", "00000003.pt"]
            self.finished += 1

    task = Finishing(3)
    for times in (1, 2):
        train(task, tmp_path / "run")
        assert task.finished == times
    assert not list((tmp_path / "run").glob("*.safetensors"))  # without names only checkpoints are written


# --- logs ---


def test_the_log_has_the_means_of_all_passes_and_goes_to_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Shown(Regression):
        def preview(self, batch: Batch, phase: Phase) -> tuple[str, NDArray[np.uint8], int]:
            return "clip", np.arange(4 * 6 * 5 * 3, dtype=np.uint8).reshape(4, 6, 5, 3), 2

    lines: list[dict[str, Any]] = []
    result = train(Shown(3, num_passes=2), tmp_path / "run", on_log=lines.append)
    assert lines == read_log(tmp_path / "run") and [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["bias"] == 0 and lines[1]["bias"] != 0
    assert result.last["bias"] == lines[-1]["bias"]
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3]
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(values(tmp_path / "run"))
    shown = board.Images("clip")[0]
    assert (shown.step, shown.height, shown.width) == (1, 6, 10)
    assert board.Images("clip, animated")[0].encoded_image_string.startswith(b"GIF89a")
    for line in lines:
        assert 0 <= line["data_wait"] <= 1 and line["clips_per_second"] > 0


def test_the_log_goes_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracker:
        def __init__(self, **how: Any) -> None:
            self.how, self.lines, self.code = how, {}, None

        def log(self, values: dict[str, float], *, step: int) -> None:
            self.lines[step] = values

        def finish(self, *, exit_code: int) -> None:
            self.code = exit_code

    begun: list[Tracker] = []
    stub = SimpleNamespace(init=lambda **how: begun.append(Tracker(**how)) or begun[-1])
    monkeypatch.setitem(sys.modules, "wandb", stub)
    train(Regression(3, wandb="moving"), tmp_path / "run")
    with pytest.raises(Stop):
        train(Regression(3, wandb="moving"), tmp_path / "failed", on_log=stop_after(1))
    assert [tracker.code for tracker in begun] == [0, 1]
    assert begun[0].how["project"] == "moving" and begun[0].how["config"]["steps"] == [3]
    assert (begun[0].how["name"], begun[0].how["dir"]) == ("run", str(tmp_path / "run"))
    assert [{"step": step, **line} for step, line in begun[0].lines.items()] == read_log(tmp_path / "run")

    def refuse(**how: Any) -> Any:
        raise RuntimeError("no API key\nmore")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=refuse))
    with pytest.raises(UserError, match=r"^wandb 'moving': no API key; 'wandb login', WANDB_MODE=offline"):
        train(Regression(3, wandb="moving"), tmp_path / "refused")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb 'moving': .* not installed; pip install 'smile-video\[wandb"):
        train(Regression(3, wandb="moving"), tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_the_mfu_is_that_of_the_phase(tmp_path: Path) -> None:
    class Costly(Regression):
        def step_gflops(self, phase: Phase) -> float:
            return 30.0 if phase is self.phases[0] else 10.0

    train(Costly(3, 3, peak_tflops=2.0), tmp_path / "run")
    for line in read_log(tmp_path / "run"):
        gflops = 30 if line["step"] <= 3 else 10
        assert line["mfu"] == pytest.approx(line["clips_per_second"] * gflops / 2000, rel=1e-3, abs=6e-5)
    train(Costly(2), tmp_path / "unknown")
    assert "mfu" not in read_log(tmp_path / "unknown")[0]


def test_slow_steps_have_a_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = trainer.time.perf_counter
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: 1e8 * clock()))
    train(Regression(2), tmp_path / "run")
    assert all(0 < rate < 0.05 for rate in values(tmp_path / "run", "clips_per_second"))


def test_unreadable_videos_are_counted_and_listed(tmp_path: Path) -> None:
    class Broken(Regression):
        def batch(self, indices: Tensor) -> Batch:
            batch = super().batch(indices)
            files = {4: (("a.mp4", "no frames"), ("b.mp4", "ends early")), 12: (("a.mp4", "no frames"),)}
            return Batch(batch.indices, batch.frames, {}, files.get(int(indices[0]), ()))

    train(Broken(4), tmp_path / "run")
    counts = [line.get("unreadable") for line in read_log(tmp_path / "run")]
    assert counts == [None, 2, None, 1]
    listed = [json.loads(line) for line in (tmp_path / "run" / UNREADABLE).read_text().splitlines()]
    assert listed == [["a.mp4", "no frames"], ["b.mp4", "ends early"]]  # each file once


# --- messages ---


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_value_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path, name: str) -> None:
    class Broken(Regression):
        def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
            for found in super().losses(model, batch, phase):
                if batch.indices[0] == 12 and name == "loss":
                    found["loss"] = found["loss"] * math.nan
                if batch.indices[0] == 12 and name == "grad_norm":
                    found["loss"].register_hook(lambda gradient: gradient * math.nan)
                yield found

    with pytest.raises(
        UserError, match=rf"^{name} is nan at step 3 \(seed 0, clips 12\.\.15\); the last checkpoint is kept"
    ):
        train(Broken(6), tmp_path / "run")
    state = load_checkpoint(tmp_path / "run")
    assert state is not None and state["step"] == 2
    assert all(torch.isfinite(tensor).all() for tensor in state["model"].values())


class Failing(Regression):
    def __init__(self, error: BaseException, **run: Any) -> None:
        super().__init__(**run)
        self.error = error

    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        raise self.error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_lack_of_memory_says_what_to_change(tmp_path: Path, error: type[Exception]) -> None:
    text = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 GiB\nand more"
    with pytest.raises(
        UserError, match=r"^out of memory on cpu with 2 clips per pass; raise run.accumulate \(it is 2\)"
    ) as caught:
        train(Failing(error(text), accumulate=2), tmp_path / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
        ConnectionResetError("reset"),
        EOFError(),
    ],
)
def test_a_killed_worker_is_one_line(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(UserError, match=r"^a worker process was killed \(.+\), possibly for lack of memory"):
        train(Failing(error), tmp_path / "run")


def test_other_errors_stay_tracebacks(tmp_path: Path) -> None:
    for error in (RuntimeError("a bug of ours"), OSError(5, "Input/output error")):
        with pytest.raises(type(error), match=str(error.args[-1])):
            train(Failing(error), tmp_path / "run")


@pytest.mark.parametrize("what", ["log", "tensorboard", "checkpoint"])
def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    owner: Any = torch if what == "checkpoint" else RunLog
    monkeypatch.setattr(owner, {"log": "write", "tensorboard": "sync", "checkpoint": "save"}[what], full)
    with pytest.raises(UserError, match=r"^out '.*run': cannot be written: No space left on device$"):
        train(Regression(2), tmp_path / "run")
