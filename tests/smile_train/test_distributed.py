"""Two processes do what one does, with ddp and fsdp; runs continue on another number of processes."""

from __future__ import annotations

import json
import multiprocessing
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import Stop, losses

from smile_synth import UserError
from smile_train.batch import Batch
from smile_train.config import PretrainConfig
from smile_train.distributed import World, choose_device, copy_full, full_tensor, join_world
from smile_train.models import load_student
from smile_train.training import pretrain as pretraining
from smile_train.training.checkpoint import checkpoint_files
from smile_train.training.logging import read_log
from smile_train.training.pretrain import pretrain

OVERRIDES = [
    "stages.0.steps=4",
    "stages.0.masks_per_clip=2",
    "run.accumulate=2",
    "run.ema_decay=0.5",
    "batch_size=8",
    "targets=[{kind: pixels}, {kind: pixels, decoder: own, encoder_blocks: [1]}]",
]
PROBES = "probes={every: 4, tasks: [rotation], num_train: 50, num_test: 50}"


def train_together(rank: int, port: int, config_file: Path, out: Path) -> dict[str, Any]:
    """Train as one of two processes that torchrun would start; returns what both must agree on."""
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.items():
            patch.setenv(name, value)
        batches = pretraining.training_batches

        def with_broken_videos(*args: Any, **more: Any) -> Any:
            for batch in batches(*args, **more):
                broken = ((f"{rank}.mp4", "ends early"), ("both.mp4", "no frames"))
                yield Batch(batch.indices, batch.frames, batch.labels, broken if rank else broken[:1])

        patch.setattr(pretraining, "training_batches", with_broken_videos)
        found: dict[str, Any] = {}
        with join_world("cpu") as joined:
            found["gathered"] = joined.gather(f"of {rank}")
            found["mean"] = joined.mean(torch.tensor([1.0, 3.0]) * (rank + 1)).tolist()
            for parallel in ("ddp", "fsdp"):
                own = [*OVERRIDES, f"run.parallel={parallel}"]
                found[parallel] = pretrain(PretrainConfig.load(config_file, own), out / parallel).last["loss"]
            own = [*OVERRIDES, PROBES, "run.parallel=fsdp", "run.checkpoint_every=1"]
            pretrain(PretrainConfig.load(config_file, own), out / "continued")
            with pytest.raises(UserError) as caught:
                pretrain(PretrainConfig.load(config_file, [*OVERRIDES, "run.accumulate=8"]), out / "never")
        found["message"] = str(caught.value)
        return found


def second_process(port: int, config_file: Path, out: Path) -> None:
    found = train_together(1, port, config_file, out)
    (out / "second.json").write_text(json.dumps(found))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_do_what_one_does(shared_config_file: Path, tmp_path: Path) -> None:
    """One test, because a start of two processes is slow."""
    import torch.distributed.fsdp  # before the fork, so that it is imported once  # noqa: F401

    config = PretrainConfig.load(shared_config_file, OVERRIDES)
    pretrain(config, tmp_path / "alone")

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 3:
            raise Stop

    with pytest.raises(Stop):
        probed = PretrainConfig.load(shared_config_file, [*OVERRIDES, PROBES, "run.checkpoint_every=1"])
        pretrain(probed, tmp_path / "continued", on_log=stop)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (port, shared_config_file, tmp_path)
    second = multiprocessing.get_context("fork").Process(target=second_process, args=arguments)
    second.start()
    try:
        found = train_together(0, *arguments)
    finally:
        second.join(30)
        second.kill()
    assert found == json.loads((tmp_path / "second.json").read_text())
    assert found["gathered"] == ["of 0", "of 1"] and found["mean"] == [1.5, 4.5]
    assert found["message"] == "batch_size 8: must be a multiple of 2 processes x accumulate 8"
    for parallel in ("ddp", "fsdp"):
        check_losses_and_weights(tmp_path / parallel, tmp_path / "alone")
        check_checkpoint(tmp_path / parallel, tmp_path / "alone")
    assert losses(tmp_path / "continued") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    assert [line["step"] for line in read_log(tmp_path / "continued") if "probe/rotation" in line] == [4]
    assert (tmp_path / "continued" / "student_best_probe.safetensors").is_file()
    starts = [json.loads(line) for line in (tmp_path / "continued/run.jsonl").read_text().splitlines()]
    assert [(start["start_step"], start["processes"]) for start in starts] == [(0, 1), (2, 2)]
    # Unreadable videos of both processes are counted in every step and listed once.
    assert [line["unreadable"] for line in read_log(tmp_path / "ddp")] == [3] * 4
    listed = [json.loads(line)[0] for line in (tmp_path / "ddp/unreadable.jsonl").read_text().splitlines()]
    assert sorted(listed) == ["0.mp4", "1.mp4", "both.mp4"]


def check_losses_and_weights(ours: Path, alone: Path) -> None:
    assert losses(ours) == pytest.approx(losses(alone), rel=1e-5)
    assert len(set(losses(alone))) == 4
    for name in ("student.safetensors", "student_ema.safetensors", "student_best.safetensors"):
        own, other = (load_student(folder / name).state_dict() for folder in (ours, alone))
        for key, tensor in other.items():
            torch.testing.assert_close(own[key], tensor, rtol=1e-3, atol=2e-5)


def check_checkpoint(ours: Path, alone: Path) -> None:
    """A checkpoint has the same form on any number of processes."""
    own, other = (torch.load(checkpoint_files(folder)[-1], weights_only=True) for folder in (ours, alone))
    assert own["settings"] == other["settings"]
    assert own["best_score"] == pytest.approx(other["best_score"], rel=1e-5)
    shapes = [
        {
            (part, name, key): value.shape
            for part, entries in (
                ("model", {"": state["model"]}),
                ("average", {"": state["average"]}),
                ("optimiser", state["optimiser"]["state"]),
            )
            for name, tensors in entries.items()
            for key, value in tensors.items()
        }
        for state in (own, other)
    ]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 100


def test_without_torchrun_there_is_one_process() -> None:
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
    values = torch.tensor([1.0, 3.0])
    world = World(0, 1, torch.device("cpu"))
    assert torch.equal(world.mean(values), values) and world.gather("x") == ["x"]
    copied = full_tensor(values)
    assert torch.equal(copied, values) and copied is not values
    copy_full(torch.tensor([2.0, 5.0], dtype=torch.float64), values)
    assert values.dtype == torch.float32 and values.tolist() == [2, 5]


def test_the_device_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device 'cuda': this machine has no GPU; use device=cpu or auto"):
        choose_device("cuda")
    with pytest.raises(UserError, match="device 'gpu': expected auto, cpu or cuda"):
        choose_device("gpu")
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, value in {"WORLD_SIZE": "3", "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UserError, match="torchrun started process 3 on this machine, which has 2 GPUs"),
        join_world("cuda"),
    ):
        pass
