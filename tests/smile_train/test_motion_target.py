"""Pretraining with exact motion as the target, end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from smile_synth import Recipe, Sources, annotate, generate, sample_scene
from smile_synth.core.errors import UserError
from smile_synth.io.videos import write_mp4
from smile_train.config import PretrainConfig
from smile_train.data.batches import open_data, training_batches
from smile_train.data.sources import BOXES, TrainingClip, collate
from smile_train.training.build import build_targets
from smile_train.training.logging import read_log
from smile_train.training.pretrain import plan, pretrain

PARTS = "visibility: 0.5, depth: 0.1, same_object: 0.1, decoder: own, encoder_blocks: [1]"
MOTION = f"targets=[{{kind: motion, offsets: [0, 1], {PARTS}}}, {{kind: pixels}}]"


def test_a_run_learns_from_the_motion_of_its_scenes(config_file: Path, tmp_path: Path) -> None:
    config = PretrainConfig.load(
        config_file, [MOTION, "stages.0.steps=4", "predicted_tokens=all", "visible_weight=0.5"]
    )
    result = pretrain(config, tmp_path / "run")
    names = set(read_log(tmp_path / "run")[-1])
    parts = {
        f"{kind}/{name}.{part}"
        for kind in ("loss", "baseline_loss")
        for name in ("motion", "motion.block1")
        for part in ("displacement", "visibility", "depth", "same_object")
    }
    assert parts | {"loss/motion", "loss/pixels", "baseline_loss/motion"} <= names
    assert result.loss > 0
    # The run goes on with the config that it wrote, and has nothing left to do.
    again = pretrain(PretrainConfig.load(tmp_path / "run" / "config.yaml"), tmp_path / "run")
    assert again.clips_per_second == 0


def test_an_encoder_block_that_the_student_does_not_have_is_refused(config_file: Path) -> None:
    config = PretrainConfig.load(config_file, ["targets=[{kind: pixels, encoder_blocks: [4]}]"])
    with pytest.raises(
        UserError, match=r"targets: encoder_blocks: the encoder has the blocks 0..3, got \[4\]"
    ):
        plan(config)


def test_labels_of_motion_are_those_of_the_scene(config_file: Path, train_bank: Path) -> None:
    config = PretrainConfig.load(config_file, [MOTION])
    stage = open_data(config).stages[0]
    batch = next(training_batches(config, stage, start_step=1))
    recipe = Recipe.load(stage.options.sources[0].recipe or "")
    scene = sample_scene(recipe, Sources.open(train_bank), seed=0, index=6)
    motion = annotate(scene, Sources.open(train_bank)).token_motion((2, 8), (0, 1))
    assert batch.indices[2] == 6
    assert torch.equal(batch.labels["motion_displacement"][2], torch.tensor(motion.displacement_xy))
    assert torch.equal(batch.labels["motion_visibility"][2], torch.tensor(motion.visible))
    assert torch.equal(batch.labels["motion_depth"][2], torch.tensor(motion.depth))
    assert batch.labels["motion_displacement"].shape == (4, 2, 32, 2)
    assert not batch.labels["motion_valid"][:, 1, 16:].any()  # the last tubelet has no later one


OCCLUSION = "stages.0.mask={kind: occlusion, ratio: 0.75}"
EXACT = "stages.0.mask={kind: tube, ratio: 0.75, motion_weight: 2.0, motion_source: exact}"


def test_labels_of_motion_are_those_that_targets_and_masks_need(config_file: Path, tmp_path: Path) -> None:
    target = "targets=[{kind: motion, offsets: [1, 0]}]"
    needed = {
        (): (), (target,): (0, 1), (OCCLUSION,): (-1, 1), (EXACT,): (0,), (target, OCCLUSION): (-1, 0, 1),
    }  # fmt: skip
    for overrides, offsets in needed.items():
        assert PretrainConfig.load(config_file, list(overrides)).motion_offsets == offsets
    batches, values = [], []
    for overrides in ([target], [target, OCCLUSION]):
        config = PretrainConfig.load(config_file, overrides)
        batches.append(next(training_batches(config, open_data(config).stages[0], start_step=1)))
        values.append(build_targets(config, None).build(batches[-1]))
    alone, together = (batch.labels["motion_displacement"] for batch in batches)
    assert torch.equal(alone, together[:, 1:]) and not torch.equal(alone[:, 0], alone[:, 1])
    # The target has its own offsets, in its own order, whatever labels the mask adds.
    assert torch.equal(values[0].values[0], values[1].values[0])
    own, union = values[0].weights[0], values[1].weights[0]
    assert own is not None and union is not None and torch.equal(own, union)
    first = values[1].values[0].unflatten(2, (2, 4))[:, :, 0, :2]
    assert torch.equal(first, alone[:, 1].sign() * alone[:, 1].abs().log1p())


@pytest.mark.parametrize("mask", [OCCLUSION, EXACT])
def test_a_run_without_a_target_of_motion_trains_with_masks_of_motion(
    config_file: Path, tmp_path: Path, mask: str
) -> None:
    result = pretrain(PretrainConfig.load(config_file, [mask, "stages.0.steps=2"]), tmp_path / "run")
    assert result.loss > 0


def test_streamed_batches_equal_those_of_a_loader(config_file: Path) -> None:
    config = PretrainConfig.load(config_file, [MOTION])
    stage = open_data(config).stages[0]
    streamed = next(training_batches(config, stage, start_step=1))
    loaded = collate(range(4, 8), stage.sources[0].clips(range(4, 8)))
    assert torch.equal(streamed.indices, loaded.indices) and torch.equal(streamed.frames, loaded.frames)
    assert streamed.labels.keys() == loaded.labels.keys() - {BOXES}
    assert all(torch.equal(label, loaded.labels[name]) for name, label in streamed.labels.items())


def test_clips_without_known_motion_are_not_valid(config_file: Path) -> None:
    source = open_data(PretrainConfig.load(config_file, [MOTION])).stages[0].sources[0]
    (clip,) = source.clips([0])
    batch = collate([0, 1], [TrainingClip(clip.frames), clip])
    assert not batch.labels["motion_valid"][0].any() and batch.labels["motion_valid"][1].any()
    assert not batch.labels["motion_displacement"][0].any()


def test_a_corpus_has_the_same_labels_of_motion_as_its_recipe(
    config_file: Path, train_bank: Path, tmp_path: Path
) -> None:
    rendered = PretrainConfig.load(config_file, [MOTION])
    recipe = Recipe.load(rendered.resolved_stages[0].sources[0].recipe or "")
    generate(recipe, Sources.open(train_bank), out=tmp_path / "corpus", num_clips=3, seed=0, workers=1)
    config = PretrainConfig.load(
        config_file, [MOTION, f"stages.0.sources=[{{corpus: {tmp_path / 'corpus'}}}]"]
    )
    clips = {}
    for one in (rendered, config):
        source = open_data(one).stages[0].sources[0]
        for clip in source.clips([0, 1, 2]):
            assert clip.scene is not None
            clips.setdefault(clip.scene.digest, []).append(clip.labels["motion_displacement"])
    assert len(clips) == 3
    for first, second in clips.values():
        assert (first == second).all() and first.any()


def test_natural_videos_alone_are_refused_and_in_a_mixture_left_out(
    config_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "videos").mkdir()
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), np.uint8)
    write_mp4(tmp_path / "videos" / "noise.mp4", frames, 8.0)
    video = (
        f"{{video: {{path: {tmp_path / 'videos'}, side: 32, sampling: {{num_frames: 4, stride_frames: 2}}}}}}"
    )
    with pytest.raises(UserError, match=r"stages.0: a target of kind motion needs a recipe or a corpus"):
        open_data(PretrainConfig.load(config_file, [MOTION, f"stages.0.sources=[{video}]"]))
    with pytest.raises(UserError, match=r"stages.0: a mask of kind occlusion needs a recipe or a corpus"):
        open_data(PretrainConfig.load(config_file, [OCCLUSION, f"stages.0.sources=[{video}]"]))
    recipe = PretrainConfig.load(config_file).resolved_stages[0].sources[0].recipe
    config = PretrainConfig.load(config_file, [MOTION, f"stages.0.sources=[{{recipe: {recipe}}}, {video}]"])
    stage = open_data(config).stages[0]
    natural = torch.tensor([stage.source_of(k, seed=0, batch_size=4) is stage.sources[1] for k in range(8)])
    assert natural.any() and not natural.all()
    batches = training_batches(config, stage, start_step=0)
    for step in range(2):
        batch, own = next(batches), natural[4 * step : 4 * step + 4]
        if "motion_valid" in batch.labels:
            assert torch.equal(batch.labels["motion_valid"].flatten(1).any(1), ~own)
        else:
            assert own.all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["targets=[{kind: motion, offsets: [2]}]"],
            r"kind motion: offsets: 2 is outside of the clip's 2 tubelets",
        ),
        (
            ["bank=null", "stages.0.sources=[{corpus: CORPUS}]", MOTION],
            r"stages.0.sources.0: bank is missing: a target",
        ),
        (
            ["bank=null", "stages.0.sources=[{corpus: CORPUS}]", OCCLUSION],
            r"stages.0.sources.0: bank is missing: a mask of kind occlusion needs the objects",
        ),
        (
            [EXACT, "student.tubelet_size=1"],
            r"stages.0: a mask with motion_source exact: offsets: 0 is the motion inside a tubelet",
        ),
    ],
)
def test_motion_that_is_unknown_is_refused(
    config_file: Path, train_bank: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    if "CORPUS" in overrides[1 % len(overrides)]:
        recipe = Recipe.load(PretrainConfig.load(config_file).resolved_stages[0].sources[0].recipe or "")
        generate(recipe, Sources.open(train_bank), out=tmp_path / "corpus", num_clips=1, seed=0, workers=1)
    given = [text.replace("CORPUS", str(tmp_path / "corpus")) for text in overrides]
    with pytest.raises(UserError, match=message):
        open_data(PretrainConfig.load(config_file, given))
