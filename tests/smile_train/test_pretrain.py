"""The training loop: exact resume, refusal of other runs, learning, checkpoints."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from smile_synth import ObjectBank, Recipe, SyntheticClips, UserError
from smile_synth.io.resources import shipped
from smile_synth.sources import Sources
from smile_train.config import PretrainConfig, TeacherTrainingConfig
from smile_train.data.synthetic import normalise, open_data, token_coverage, training_batches
from smile_train.targets import Targets
from smile_train.training.checkpoint import checkpoint_files, load_student, save_student
from smile_train.training.logging import read_log
from smile_train.training.pretrain import pretrain


class Stop(Exception):
    pass


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder)]


def test_resumes_at_the_exact_step(config_file: Path, tmp_path: Path) -> None:
    config = PretrainConfig.load(config_file, ["student.drop_path=0.2"])
    pretrain(config, tmp_path / "whole")

    def stop(done: int, total: int, loss: float) -> None:
        if done == 5:  # after the checkpoint of step 4: step 5 is lost and done again
            raise Stop

    with pytest.raises(Stop):
        pretrain(config, tmp_path / "cut", on_step=stop)
    steps: list[int] = []
    pretrain(config, tmp_path / "cut", on_step=lambda done, total, loss: steps.append(done))
    assert steps == [5, 6]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert len(set(losses(tmp_path / "whole"))) == 6
    weights = [load_student(tmp_path / name).state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_killed_run_continues(config_file: Path, tmp_path: Path) -> None:
    out, own = tmp_path / "killed", ["steps=4000", "checkpoint_every=3"]
    command = [sys.executable, "-m", "smile_train.cli", "pretrain", str(config_file), *own, "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    # Without a deadline: on a machine however slow it writes its lines, or ends and says why.
    while len(read_log(out)) < 8 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, told = process.communicate()
    before = losses(out)
    assert len(before) >= 8, told
    # As if the kill had come while these were written.
    for name in ("student.safetensors.0a1b2c3d.part", "checkpoints/00000009.pt.part"):
        (out / name).write_bytes(b"half")

    def stop(done: int, total: int, loss: float) -> None:
        if done == len(before) + 3:
            raise Stop

    for folder in (out, tmp_path / "whole"):
        with pytest.raises(Stop):
            pretrain(PretrainConfig.load(config_file, own), folder, on_step=stop)
    # Another process, another subframe, undisturbed: the losses agree exactly.
    assert losses(out) == losses(tmp_path / "whole")
    assert losses(out)[: len(before)] == before
    assert not list(out.rglob("*.part"))


def test_refuses_a_folder_of_another_run(config_file: Path, tmp_path: Path) -> None:
    pretrain(PretrainConfig.load(config_file, ["steps=2"]), tmp_path / "run")
    with pytest.raises(UserError, match="another config or other sources: seed is 0 there and 1 now; give"):
        pretrain(PretrainConfig.load(config_file, ["steps=2", "seed=1"]), tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "00000003.pt").write_bytes(b"half a checkp")
    with pytest.raises(UserError, match="00000003.pt': damaged: .*; delete it to go on from '00000002.pt'"):
        pretrain(PretrainConfig.load(config_file, ["steps=2"]), tmp_path / "run")


def test_loss_falls_below_predicting_the_mean(config_file: Path, tmp_path: Path) -> None:
    """Drawn noise cannot be predicted, flat objects on flat colour can: the loss must fall."""
    recipe = tmp_path / "flat.yaml"
    recipe.write_text((tmp_path / "recipe.yaml").read_text().replace("kind: noise", "kind: solid"))
    config = PretrainConfig.load(
        config_file,
        [
            f"recipe={recipe}",
            "steps=140",
            "batch_size=16",
            "target.per_patch=false",
            "optimiser.lr_per_256=0.03",
        ],
    )
    result = pretrain(config, tmp_path / "run")
    clips = SyntheticClips(Recipe.load(recipe), Sources(ObjectBank.open(config.bank)), seed=9, num_clips=40)
    variance = np.var(np.stack([clips[i].frames for i in range(40)]) / 255.0)
    assert result.loss < 0.5 * variance


def test_run_starts_again_from_its_own_config(config_file: Path, tmp_path: Path) -> None:
    first = pretrain(PretrainConfig.load(config_file), tmp_path / "a")
    second = pretrain(PretrainConfig.load(tmp_path / "a" / "config.yaml"), tmp_path / "b")
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and first.loss == second.loss


def test_a_finished_run_tells_the_same_again(config_file: Path, tmp_path: Path) -> None:
    first = pretrain(PretrainConfig.load(config_file), tmp_path / "run")
    again = pretrain(PretrainConfig.load(config_file), tmp_path / "run")
    assert (first.loss, first.loss_of_mean) == (again.loss, again.loss_of_mean)
    assert first.loss == losses(tmp_path / "run")[-1] and again.clips_per_second == 0


def test_paths_may_be_told_from_anywhere(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["steps=2", "target={kind: teacher}", "student.patch_size=16", "teacher.grid=interpolate"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "start")
    shutil.copytree(shipped("assets") / "tiny-clip", tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    own += ["teacher.model=local-dir:clip", "teacher.cache=tokens", "start_from=start"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = PretrainConfig.load(tmp_path / "run" / "config.yaml")
    pretrain(again, tmp_path / "run")  # the same run
    pretrain(again, tmp_path / "other")
    assert losses(tmp_path / "run") == losses(tmp_path / "other")
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_no_number_stops_and_keeps_the_checkpoint(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    honest = Targets.loss
    calls: list[int] = []

    def broken(self: Targets, predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        calls.append(predicted.requires_grad)
        if sum(calls) == 4 and predicted.requires_grad:
            if what == "loss":
                return honest(self, predicted, wanted) * float("nan")
            predicted.register_hook(lambda gradient: gradient * float("nan"))
        return honest(self, predicted, wanted)

    monkeypatch.setattr(Targets, "loss", broken)
    with pytest.raises(UserError, match=rf"the {what} is nan at step 3 \(seed 0, clips 12\.\.15\)"):
        # Step 3 would be followed by a checkpoint.
        pretrain(PretrainConfig.load(config_file), tmp_path / "run")
    (last,) = checkpoint_files(tmp_path / "run")
    assert torch.load(last, weights_only=True)["step"] == 2
    assert all(torch.isfinite(v).all() for v in load_student(tmp_path / "run").state_dict().values())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.patch_size=5", "must be a multiple of patch_size 5"),
        ("student.tubelet_size=3", "must be a multiple of tubelet_size 3"),
        ("mask.ratio=0.01", "masks none"),
        ("bank=nowhere", "nowhere"),
        ("recipe=smile-gausian", "did you mean 'smile-gaussian'"),
        ("optimiser.warmup_steps=99", "warmup_steps 99 is above steps 6"),
        ("student.size=giant", "'tiny', 'small', 'base', 'large' or 'huge'"),
        ("target={kind: teacher}", "patch size 8"),
    ],
)
def test_bad_configuration_is_one_line(
    config_file: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        pretrain(PretrainConfig.load(config_file, [override]), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_token_coverage_is_the_mean_over_the_token() -> None:
    segmentation = np.zeros((2, 4, 6), np.int16)
    segmentation[0, 0, 2:5] = 2
    segmentation[1, 3, 0] = 1
    coverage = token_coverage(segmentation, 2, 2)
    np.testing.assert_allclose(coverage, [0, 2 / 8, 1 / 8, 1 / 8, 0, 0])


def test_batches_are_addressed_by_step(config_file: Path) -> None:
    config = PretrainConfig.load(config_file, ["steps=3"])
    data = open_data(config)
    clips = SyntheticClips(
        Recipe.load(config.recipe or ""), Sources(ObjectBank.open(config.bank or "")), seed=0, num_clips=24
    )
    (batch,) = training_batches(
        data.stages[0], seed=0, batch_size=4, start_step=2, patch_size=8, tubelet_size=2, workers=0
    )
    assert batch.indices.tolist() == [8, 9, 10, 11]
    assert np.array_equal(batch.frames[1].permute(0, 2, 3, 1).numpy(), clips[9].frames)
    white = normalise(torch.full((1, 1, 3, 1, 1), 255, dtype=torch.uint8))
    np.testing.assert_allclose(
        white.ravel(), [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-5
    )


def test_student_file_is_checked(config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no student.safetensors there"):
        load_student(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_student(tmp_path / "x.safetensors")
    pretrain(PretrainConfig.load(config_file, ["steps=1", "optimiser.warmup_steps=0"]), tmp_path / "run")
    student = load_student(tmp_path / "run")
    save_student(tmp_path / "again.safetensors", student)
    assert load_student(tmp_path / "again.safetensors").config == student.config
    assert os.listdir(tmp_path / "run").count("student.safetensors") == 1


@pytest.mark.parametrize("path", sorted((shipped("configs") / "train").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_config_loads_and_names_a_recipe(path: Path) -> None:
    model = TeacherTrainingConfig if path.stem == "tiny-clip" else PretrainConfig
    config = model.load(path.stem)
    Recipe.load(config.recipe, getattr(config, "recipe_overrides", []))
    if not isinstance(config, PretrainConfig):
        return
    # What the published code does and nobody would choose is in the faithful preset alone.
    published = {
        "statistics": config.teacher.normalisation == "imagenet",
        "boxes": config.mask.object_tokens == "boxes-oversize",
        "mix": all(stage.mask.cross_clip for stage in config.stages),
        "stop": config.optimiser.cosine_steps is not None,
        "recipe": str(config.recipe).endswith("-faithful"),
    }
    assert set(published.values()) == {path.stem.endswith("-faithful")}
