"""Two processes under torchrun: the losses of one, whatever the way of parallel; resumed on another number."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smile_synth import UserError
from smile_train.config import PretrainConfig
from smile_train.training.checkpoint import checkpoint_files, load_student
from smile_train.training.distributed import World, choose_device, join_world, spread_like, whole
from smile_train.training.logging import read_log
from smile_train.training.pretrain import pretrain

ROOT = Path(__file__).parents[2]
OVERRIDES = ["steps=4", "masks_per_clip=2", "accumulate=2", "ema_decay=0.5", "batch_size=8"]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder)]


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def runs(shared_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The same run by one process, by two in both ways, and begun by one and ended by two."""
    out = tmp_path_factory.mktemp("runs")
    config = PretrainConfig.load(shared_config_file, OVERRIDES)
    pretrain(config, out / "alone")

    def stop(done: int, total: int, loss: float) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        pretrain(config.model_copy(update={"checkpoint_every": 1}), out / "one", on_step=stop)
    # This process is the first of two, as torchrun would start them; the second is this file as a script.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = {**os.environ, **world, "RANK": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, __file__, str(shared_config_file), str(out)]
    with (
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as second,
        pytest.MonkeyPatch.context() as patch,
    ):
        try:
            for name, value in {**world, "RANK": "0"}.items():
                patch.setenv(name, value)
            told = two_processes(shared_config_file, out)
        finally:
            if sys.exc_info()[0] is not None:
                second.kill()
            complaint = second.communicate()[1]
    assert second.returncode == 0, complaint
    return out, told + complaint


def two_processes(config: Path, out: Path) -> str:
    """Do what both of two processes do; returns the mistake that both are told."""
    with join_world("cpu"):
        for parallel in ("ddp", "fsdp"):
            loaded = PretrainConfig.load(config, [*OVERRIDES, f"parallel={parallel}"])
            pretrain(loaded, out / parallel)
        loaded = PretrainConfig.load(config, [*OVERRIDES, "parallel=fsdp", "checkpoint_every=1"])
        pretrain(loaded, out / "one")  # begun by one process: continued by two
        try:
            pretrain(PretrainConfig.load(config, [*OVERRIDES, "accumulate=8"]), out / "never")
        except UserError as error:
            return str(error)
    return ""


def test_two_processes_do_what_one_does(runs: tuple[Path, str]) -> None:
    """In one test, as processes that share the tests would each run all of it."""
    out, told = runs
    check_losses(out, "ddp")
    check_losses(out, "fsdp")
    check_what_one_began(out)
    check_checkpoints(out)
    assert told.count("batch_size 8: must be a multiple of 2 processes x accumulate 8") == 2


def check_losses(out: Path, parallel: str) -> None:
    assert losses(out / parallel) == pytest.approx(losses(out / "alone"), rel=1e-5)
    assert len(set(losses(out / "alone"))) == 4
    for name in ("student.safetensors", "student_ema.safetensors"):
        ours, theirs = (load_student(out / run / name).state_dict() for run in (parallel, "alone"))
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-3, atol=2e-5)


def check_what_one_began(out: Path) -> None:
    assert losses(out / "one") == pytest.approx(losses(out / "alone"), rel=1e-5)
    starts = [json.loads(line) for line in (out / "one" / "run.jsonl").read_text().splitlines()]
    assert [(start["start_step"], start["processes"]) for start in starts] == [(0, 1), (2, 2)]


def check_checkpoints(out: Path) -> None:
    states = [
        torch.load(checkpoint_files(out / run)[-1], weights_only=True) for run in ("alone", "ddp", "fsdp")
    ]
    for state in states[1:]:
        assert state["identity"] == states[0]["identity"]
        for part in ("model", "average"):
            assert {n: t.shape for n, t in state[part].items()} == {
                n: t.shape for n, t in states[0][part].items()
            }
        assert state["optimiser"].keys() == states[0]["optimiser"].keys()
        for name, subframes in state["optimiser"].items():
            assert all(
                value.shape == states[0]["optimiser"][name][key].shape for key, value in subframes.items()
            )


def test_alone_there_is_nothing_to_join() -> None:
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.writes) == (0, 1, True)
    values = torch.tensor([1.0, 3.0])
    assert World(0, 1, torch.device("cpu")).mean(values) is values
    copied = whole(values)
    assert torch.equal(copied, values) and copied is not values
    assert torch.equal(spread_like(torch.tensor([2.0], dtype=torch.float64), values), torch.tensor([2.0]))


def test_cuda_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device 'cuda': there is none on this machine"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


if __name__ == "__main__":
    print(two_processes(Path(sys.argv[1]), Path(sys.argv[2])), file=sys.stderr)
