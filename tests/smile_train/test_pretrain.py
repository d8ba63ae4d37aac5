"""Pretraining: exact resume, what a run writes, what it refuses, and that it learns."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopping import Stop, losses, stop_after

import smile_train.training.pretrain as pretraining
from smile_synth import ObjectBank, Recipe, SyntheticClips, UserError
from smile_synth.io.resources import shipped
from smile_synth.sources import Sources
from smile_train.batch import Batch
from smile_train.config import PretrainConfig
from smile_train.masking import Masker
from smile_train.models import Teacher, load_student
from smile_train.training.logging import read_log
from smile_train.training.pretrain import PretrainTask, plan, pretrain
from smile_train.training.trainer import train

# Two stages: two masks per clip and objects, then one mask and none.
STAGES = [
    "stages=[{steps: 4, sources: [{recipe: RECIPE}], masks_per_clip: 2, mask: {ratio: 0.75},"
    " optimiser: {base_lr: 0.064, warmup_steps: 2}},"
    " {steps: 3, sources: [{recipe: RECIPE, overrides: ['objects.count=0']}], masks_per_clip: 1,"
    " mask: {kind: tube, ratio: 0.75}, optimiser: {base_lr: 0.03}}]",
    "student.drop_path=0.2",
    "run.ema_decay=0.7",
    "run.checkpoint_every=3",
]
SHORT = ["stages.0.steps=2", "stages.0.optimiser.warmup_steps=0"]
WITH_TEACHER = [*SHORT, "targets=[{kind: teacher}]", "student.patch_size=16", "teacher.grid=interpolate"]


def test_bf16_on_a_cpu_trains_without_fused_attention(config_file: Path, tmp_path: Path) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        task = PretrainTask(
            PretrainConfig.load(config_file, [*SHORT, f"run.precision={precision}"]), tmp_path / precision
        )
        found[precision] = train(task, tmp_path / precision).loss
        fused = {one.fused_attn for one in task.model.modules() if hasattr(one, "fused_attn")}
        assert fused == {precision == "fp32"}
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.02)


def two_stages(config_file: Path, *more: str) -> PretrainConfig:
    recipe = str(config_file.parent / "recipe.yaml")
    return PretrainConfig.load(config_file, [*(line.replace("RECIPE", recipe) for line in STAGES), *more])


@pytest.fixture(scope="module")
def whole(shared_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages that was never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    pretrain(two_stages(shared_config_file), out)
    return out


def check_same_run(out: Path, whole: Path) -> None:
    assert losses(out) == losses(whole)
    for name in ("student.safetensors", "student_ema.safetensors", "student_best.safetensors"):
        ours, theirs = (load_student(folder / name).state_dict() for folder in (out, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


# --- resume ---


def test_a_run_resumes_at_the_exact_step(shared_config_file: Path, whole: Path, tmp_path: Path) -> None:
    assert len(set(losses(whole))) == 7
    for last in (4, 5, 6):  # continued from steps 3, 4 (between the stages) and 4
        with pytest.raises(Stop):
            pretrain(two_stages(shared_config_file), tmp_path / str(last), on_log=stop_after(last))
        pretrain(two_stages(shared_config_file), tmp_path / str(last))
        check_same_run(tmp_path / str(last), whole)


def test_the_mask_ratio_changes_over_the_steps_of_a_stage(config_file: Path, tmp_path: Path) -> None:
    recipe = config_file.parent / "recipe.yaml"
    mask = "{kind: trajectory, ratio: 0.25, final: {ratio: 0.75}}"
    stages = f"[{{steps: 2, sources: [{{recipe: {recipe}}}]}}, {{steps: 5, masks_per_clip: 2, mask: {mask}}}]"
    config = PretrainConfig.load(config_file, [f"stages={stages}", "run.accumulate=2"])
    pretrain(config, tmp_path / "whole")
    ratios = [line.get("mask_ratio") for line in read_log(tmp_path / "whole")]
    assert ratios == [None, None, 0.25, 0.375, 0.5, 0.625, 0.75]
    with pytest.raises(Stop):
        pretrain(config, tmp_path / "stopped", on_log=stop_after(5))
    pretrain(config, tmp_path / "stopped")
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    # The plan has the operations of the middle step, and the memory of the first step.
    cost = pretraining.plan(config).costs[1]
    first, middle = (
        pretraining.plan(PretrainConfig.load(config_file, [f"stages={stages.replace(mask, other)}"])).costs[1]
        for other in ("{ratio: 0.25}", "{ratio: 0.5}")
    )
    assert (cost.step_gflops, cost.activation_bytes) == (middle.step_gflops, first.activation_bytes)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_killed_run_continues(shared_config_file: Path, tmp_path: Path) -> None:
    config = two_stages(shared_config_file, "stages.0.steps=3000", "run.checkpoint_every=3")
    process = multiprocessing.get_context("fork").Process(target=pretrain, args=(config, tmp_path / "killed"))
    process.start()
    while len(read_log(tmp_path / "killed")) < 8 and process.is_alive():
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    before = losses(tmp_path / "killed")
    assert len(before) >= 8 and process.exitcode == -signal.SIGKILL
    for name in ("killed", "undisturbed"):
        with pytest.raises(Stop):
            pretrain(config, tmp_path / name, on_log=stop_after(len(before) + 3))
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")
    assert losses(tmp_path / "killed")[: len(before)] == before


def test_options_that_do_not_change_losses_may_change_on_the_way(
    shared_config_file: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    # Drop path draws per pass, so losses with other parts of a batch are equal without it only.
    pretrain(two_stages(shared_config_file, "student.drop_path=0.0"), whole)
    with pytest.raises(Stop):
        pretrain(two_stages(shared_config_file, "student.drop_path=0.0"), out, on_log=stop_after(4))
    other = ["accumulate=2", "keep_checkpoints=1", "checkpoint_every=2", "threads=0", "workers=1"]
    own = ["student.checkpointing=true", "student.decoder_chunk=1", *(f"run.{option}" for option in other)]
    pretrain(two_stages(shared_config_file, "student.drop_path=0.0", *own), out)
    assert losses(out) == pytest.approx(losses(whole), rel=1e-4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=1", "seed is 0 there and 1 now"),
        ("stages.0.mask.ratio=0.5", "stages.0.mask.ratio is 0.75 there and 0.5 now"),
        ("stages.1.optimiser.base_lr=0.1", "stages.1.optimiser.base_lr is 0.03 there and 0.1 now"),
        ("run.precision=bf16", 'run.precision is "auto" there and "bf16" now'),
        ("stages.1.sources.0.overrides=['objects.count=2']", "stages.1.sources is .* there and .* now; use"),
    ],
)
def test_other_settings_are_refused_by_name(
    shared_config_file: Path, whole: Path, override: str, message: str
) -> None:
    with pytest.raises(UserError, match=f"contains a run with other settings or sources: {message}"):
        pretrain(two_stages(shared_config_file, override), whole)


def test_masks_of_other_clips_need_the_same_clips_in_a_pass(config_file: Path, tmp_path: Path) -> None:
    own = [*SHORT, "stages.0.masks_per_clip=2", "stages.0.mask.cross_clip=true"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "run")
    with pytest.raises(UserError, match=r"clips of a pass .* is 4 there and 2 now"):
        pretrain(PretrainConfig.load(config_file, [*own, "run.accumulate=2"]), tmp_path / "run")


# --- what a run writes ---


def test_a_run_starts_again_from_its_own_folder(shared_config_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    shutil.copy(shared_config_file.parent / "recipe.yaml", recipe)
    mixture = f"[{{recipe: '{recipe}', weight: 2}}, {{recipe: '{recipe}', overrides: ['objects.count=0'], weight: [1, 3]}}]"
    own = [f"stages.0.sources={mixture}", *SHORT]
    config = PretrainConfig.load(shared_config_file, own)
    first = pretrain(config, tmp_path / "a")
    (start,) = [json.loads(line) for line in (tmp_path / "a" / "run.jsonl").read_text().splitlines()]
    assert torch.__version__.startswith(start["versions"]["torch"]) and start["processes"] == 1
    assert {"git", "machine", "sources", "device"} <= start.keys()
    recipe.unlink()  # the folder is enough
    again = PretrainConfig.load(tmp_path / "a" / "config.yaml")
    second = pretrain(again, tmp_path / "b")
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and first.loss == second.loss
    assert pretrain(again, tmp_path / "a").baseline_loss == first.baseline_loss  # the same run


def test_losses_are_logged_per_target(config_file: Path, tmp_path: Path) -> None:
    targets = "targets=[{kind: pixels, weight: 2.0}, {kind: pixels, per_patch: false, loss: smooth_l1, weight: 0.5}]"
    result = pretrain(PretrainConfig.load(config_file, [*SHORT, targets]), tmp_path / "run")
    for line in read_log(tmp_path / "run"):
        for kind in ("loss", "baseline_loss"):
            parts = line[f"{kind}/pixels-0"], line[f"{kind}/pixels-1"]
            assert line[kind] == pytest.approx(2 * parts[0] + 0.5 * parts[1], rel=1e-6)
            assert len({*parts}) == 2
    assert result.last["loss/pixels-1"] == line["loss/pixels-1"]


def test_paths_are_relative_to_the_place_of_the_first_start(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(PretrainConfig.load(config_file, WITH_TEACHER), tmp_path / "start")
    shutil.copytree(shipped("assets") / "tiny-clip", tmp_path / "clip")
    monkeypatch.chdir(tmp_path)
    own = [*WITH_TEACHER, "teacher.model=local-dir:clip", "start_from=start"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "run")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = PretrainConfig.load(tmp_path / "run" / "config.yaml")
    pretrain(again, tmp_path / "run")  # the same run
    pretrain(again, tmp_path / "other")
    assert losses(tmp_path / "run") == losses(tmp_path / "other") and not list(elsewhere.iterdir())
    assert losses(tmp_path / "run")[0] < losses(tmp_path / "start")[0]  # it starts from trained weights


# --- the step ---


def test_every_mask_of_a_clip_is_its_own_and_the_teacher_runs_once(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[torch.Tensor] = []
    passes: list[int] = []
    call, encode = Masker.__call__, Teacher.encode

    def note_mask(self: Masker, *args: Any) -> torch.Tensor:
        masks.append(call(self, *args))
        return masks[-1]

    def note_pass(self: Teacher, frames: torch.Tensor) -> torch.Tensor:
        passes.append(len(frames))
        return encode(self, frames)

    monkeypatch.setattr(Masker, "__call__", note_mask)
    monkeypatch.setattr(Teacher, "encode", note_pass)
    monkeypatch.setattr(pretraining.PretrainTask, "preview", lambda *_: None)
    own = [*WITH_TEACHER, "stages.0.steps=1", "stages.0.masks_per_clip=3"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "run")
    assert passes == [4] and len(masks) == 3
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_single_precision(
    config_file: Path, tmp_path: Path, precision: str
) -> None:
    for name in ("fp32", precision):
        config = PretrainConfig.load(config_file, [*SHORT, f"run.precision={name}"])
        pretrain(config, tmp_path / name)
    half, single = losses(tmp_path / precision), losses(tmp_path / "fp32")
    assert half == pytest.approx(single, rel=2e-2) and half != single


def test_compile_compiles_student_and_teacher(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: compiled.append(type(self).__name__))
    pretrain(PretrainConfig.load(config_file, [*WITH_TEACHER, "run.compile=true"]), tmp_path / "run")
    assert sorted(compiled) == ["Student", "Teacher"]


def test_batches_are_closed_however_the_training_ends(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []
    batches = pretraining.training_batches

    def note(*args: Any, **more: Any) -> Iterator[Batch]:
        try:
            yield from batches(*args, **more)
        finally:
            closed.append(True)

    monkeypatch.setattr(pretraining, "training_batches", note)
    with pytest.raises(Stop):
        pretrain(PretrainConfig.load(config_file, SHORT), tmp_path / "run", on_log=stop_after(1))
    assert closed == [True]


@pytest.mark.slow
def test_the_loss_falls_below_that_of_the_mean(config_file: Path, tmp_path: Path) -> None:
    """Noise cannot be predicted. Flat objects on a flat colour can."""
    recipe = tmp_path / "flat.yaml"
    recipe.write_text((tmp_path / "recipe.yaml").read_text().replace("kind: noise", "kind: solid"))
    own = ["stages.0.steps=120", "batch_size=8", "targets=[{kind: pixels, per_patch: false}]"]
    own += [f"stages.0.sources=[{{recipe: '{recipe}'}}]", "stages.0.optimiser.base_lr=0.06"]
    config = PretrainConfig.load(config_file, [*own, "run.checkpoint_every=1000"])
    result = pretrain(config, tmp_path / "run")
    clips = SyntheticClips(
        Recipe.load(recipe), Sources(ObjectBank.open(config.bank or "")), seed=9, num_clips=40
    )
    variance = np.var(np.stack([clips[i].frames for i in range(40)]) / 255.0)
    assert result.loss < 0.5 * variance


# --- refusals ---


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.patch_size=5"], "student: height 32 must be a multiple of patch_size 5"),
        (["student.tubelet_size=3"], "must be a multiple of tubelet_size 3"),
        # The student is checked before a teacher with such patches is loaded.
        (["targets=[{kind: teacher}]", "student.patch_size=24"], "student: height 32 must be a multiple of"),
        (["targets=[{kind: teacher}]"], "patch size 8"),
        (["stages.0.mask.ratio=0.01"], "masks none"),
        (["bank=nowhere"], "nowhere"),
        (["stages.0.sources.0.recipe=smile-gausian"], "did you mean 'smile-gaussian'"),
        (["start_from=nowhere"], "nowhere"),
        (["stages=[{steps: 1, sources: [{recipe: RECIPE}, {recipe: RECIPE, overrides: ['num_frames=6']}]}]"],
         "'recipe-1' has clips of 6x32x32, 'recipe' of 4x32x32; all sources of a run need"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    config_file: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    own = [override.replace("RECIPE", str(config_file.parent / "recipe.yaml")) for override in overrides]
    with pytest.raises(UserError, match=message) as caught:
        pretrain(PretrainConfig.load(config_file, own), tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_plan_writes_nothing_and_needs_no_gpu(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = sorted(tmp_path.iterdir())
    single = plan(two_stages(config_file))
    half = plan(two_stages(config_file, "run.device=cuda"))  # planned in bf16
    assert (single.data.size_hw, single.data.num_frames, single.student.num_tokens) == ((32, 32), 4, 32)
    assert [cost.num_visible for cost in single.costs] == [8, 8]
    assert single.costs[0].step_gflops == pytest.approx(2 * single.costs[1].step_gflops)
    assert half.costs[0].activation_bytes < single.costs[0].activation_bytes
    assert sorted(tmp_path.iterdir()) == before
