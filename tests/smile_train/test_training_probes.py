"""Motion probes while a run trains: training is unchanged, a resume is exact, the best student is the run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from smile_synth import UserError, build_bank
from smile_train.config import PretrainConfig, TrainingProbeOptions
from smile_train.evaluate import MOTION_TASKS
from smile_train.models import STUDENT, STUDENT_BEST_PROBE, load_student, save_model, steps_of
from smile_train.training.logging import read_log
from smile_train.training.pretrain import plan, pretrain

PROBES = "probes={every: 2, tasks: [rotation], num_train: 50, num_test: 50}"
SCORES = ("probe/rotation", "probe/rank", "baseline_probe/rotation", "baseline_probe/rank", "score")


class Stop(Exception):
    pass


def scores(run: Path) -> list[dict[str, float]]:
    return [{name: line[name] for name in ("step", *SCORES)} for line in read_log(run) if "score" in line]


def tensors(file: Path) -> dict[str, torch.Tensor]:
    return load_student(file).state_dict()


def same(first: Path, second: Path) -> bool:
    ours, theirs = tensors(first), tensors(second)
    return all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def probed(shared_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("probed") / "run"
    pretrain(PretrainConfig.load(shared_config_file, [PROBES, "run.keep_checkpoints=9"]), out)
    return out


def test_probes_leave_the_training_as_it_was(shared_config_file: Path, probed: Path, tmp_path: Path) -> None:
    pretrain(PretrainConfig.load(shared_config_file), tmp_path / "plain")
    plain, with_probes = read_log(tmp_path / "plain"), read_log(probed)
    assert [line["loss"] for line in plain] == [line["loss"] for line in with_probes]
    assert same(tmp_path / "plain" / STUDENT, probed / STUDENT)
    found = scores(probed)
    assert [line["step"] for line in found] == [2, 4, 6]
    assert {line["baseline_probe/rotation"] for line in found} == {found[0]["baseline_probe/rotation"]}
    assert len({line["probe/rank"] for line in found} | {found[0]["baseline_probe/rank"]}) == 4
    assert all(line["score"] == line["probe/rotation"] for line in found)


def test_a_run_is_resumed_with_the_same_scores(
    shared_config_file: Path, probed: Path, tmp_path: Path
) -> None:
    config = PretrainConfig.load(shared_config_file, [PROBES])

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 5:
            raise Stop

    with pytest.raises(Stop):
        pretrain(config, tmp_path, on_log=stop)
    (tmp_path / "probes" / "labels.json").unlink()  # also if the clips are rendered again
    pretrain(config, tmp_path)
    assert scores(tmp_path) == scores(probed)
    assert same(tmp_path / STUDENT_BEST_PROBE, probed / STUDENT_BEST_PROBE)


def test_the_best_student_by_probe_is_the_runs_encoder(probed: Path, tmp_path: Path) -> None:
    best = max(scores(probed), key=lambda line: (line["score"], line["step"]))
    step = int(best["step"])
    assert steps_of(probed) == steps_of(probed / STUDENT_BEST_PROBE) == step
    assert same(probed, probed / "checkpoints" / f"{step:08d}.pt")
    save_model(tmp_path / STUDENT, load_student(probed / "checkpoints" / "00000006.pt"), steps=6)
    assert steps_of(tmp_path) == 6
    save_model(tmp_path / STUDENT_BEST_PROBE, load_student(probed / "checkpoints" / "00000002.pt"), steps=2)
    assert steps_of(tmp_path) == 2 and not same(tmp_path, tmp_path / STUDENT)


def test_every_motion_task_is_an_option() -> None:
    (tasks,) = get_args(TrainingProbeOptions.model_fields["tasks"].annotation)
    assert set(get_args(tasks)) == set(MOTION_TASKS)


def test_probes_need_objects_of_their_split(shared_config_file: Path, tmp_path: Path) -> None:
    build_bank("drawn:3", tmp_path / "bank", val_fraction=0.0, test_fraction=0.0)
    with pytest.raises(UserError, match=r"^probes.test_split: object bank .* in split 'val'"):
        plan(PretrainConfig.load(shared_config_file, [PROBES, f"bank={tmp_path / 'bank'}"]))
