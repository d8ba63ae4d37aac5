"""Configurations of runs: presets, stages, sources, and which options a continued run may change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from smile_synth import Recipe, UserError
from smile_synth.io.resources import shipped
from smile_train.config import (
    CHANGEABLE,
    FinetuneConfig,
    LabelledVideosOptions,
    PretrainConfig,
    TeacherTrainingConfig,
    fixed_values,
)

OTHER_RUNS = ("finetune", "probe", "tiny-clip")
PRESETS = [
    path.stem
    for path in sorted((shipped("configs") / "train").glob("*.yaml"))
    if not path.stem.startswith(OTHER_RUNS)
]
SMILE = (281250, "smile-gaussian-video", "trajectory 0.8", 2)
NATURAL = (281250, "video", "tube 0.8", 2)
FAITHFUL = (281250, "smile-gaussian-faithful", "trajectory 0.8", 2)
# Size, clips per step, target, and of each stage: steps, source, mask, masks per clip.
MEANINGS: dict[str, tuple[Any, ...]] = {
    "demo": ("tiny", 16, "motion, teacher", (500, "motion", "random 0.5", 1)),
    "clip-cpu": ("tiny", 16, "teacher", (1300, "demo", "trajectory 0.8", 1)),
    "motion-cpu": ("tiny", 16, "motion", (2000, "motion", "random 0.5", 1)),
    "smile-tiny-motion": ("tiny", 16, "motion", (500, "motion", "clear-past 0.95", 1)),
    "pixels-cpu": ("tiny", 16, "pixels", (2000, "demo", "trajectory 0.8", 1)),
    "tiny-cpu": ("tiny", 16, "teacher", (1500, "demo", "trajectory 0.75", 2)),
    "smile-vitb": ("base", 128, "teacher", SMILE, NATURAL),
    "smile-vitb-1200": ("base", 128, "teacher", (750000, *SMILE[1:]), (375000, *NATURAL[1:])),
    "smile-vitb-faithful": ("base", 128, "teacher", FAITHFUL, NATURAL),
    "smile-vitb-stage1": ("base", 128, "teacher", SMILE),
    "smile-vitb-stage2": ("base", 128, "teacher", NATURAL),
    "smile-vits": ("small", 128, "teacher", SMILE, NATURAL),
    "smile-vits-image-motion": ("small", 256, "motion", (100000, "smile-gaussian-image", "random 0.5", 1)),
    "smile-vits-image-clip-motion": (
        "small",
        256,
        "teacher, motion",
        (100000, "smile-gaussian-image", "trajectory 0.8", 1),
    ),
    "videomae": ("base", 256, "pixels", (750000, "video", "tube 0.9", 1)),
} | {
    f"smile-vits-{name}-{'clip' if target == 'teacher' else 'pixels'}": (
        "small",
        256,
        target,
        (100000, recipe, f"{mask} 0.8", 1),
    )
    for name, recipe, mask in (
        ("black", "smile-gaussian", "trajectory"),
        ("noise", "smile-gaussian-noise", "trajectory"),
        ("image", "smile-gaussian-image", "trajectory"),
        ("image-still", "smile-still-image", "tube"),
    )
    for target in ("teacher", "pixels")
}


def values(name: str) -> dict[str, Any]:
    """All options of a preset by dotted key, with those of every stage filled in."""
    config = PretrainConfig.load(name)
    flat = {key: value for key, value in fixed_values(config).items() if not key.startswith("stages")}
    for number, stage in enumerate(config.resolved_stages):
        flat |= fixed_values(stage, f"stages.{number}")
    return flat


def changes(name: str, base: str) -> dict[str, Any]:
    """The options of a preset that differ from those of another one."""
    own, other = values(name), values(base)
    return {key: own.get(key) for key in {**own, **other} if own.get(key) != other.get(key)}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_its_meaning_and_recipes_that_exist(name: str) -> None:
    config = PretrainConfig.load(name)
    stages = config.resolved_stages
    targets = ", ".join(target.kind for target in config.targets)
    found = [
        (
            stage.steps,
            stage.sources[0].recipe or "video",
            f"{stage.mask.kind} {stage.mask.ratio}",
            stage.masks_per_clip,
        )
        for stage in stages
    ]
    assert (config.student.size, config.batch_size, targets, *found) == MEANINGS[name]
    for stage in stages:
        (source,) = stage.sources
        if source.recipe is not None:
            Recipe.load(source.recipe, source.overrides)
        else:
            assert source.video is not None and source.video.path == config.backgrounds
    # Only the faithful preset has what is in the published code and looks like a bug.
    published = {
        "statistics": config.teacher.normalisation == "imagenet",
        "boxes": stages[0].mask.object_tokens == "boxes-oversize",
        "masks of other clips": all(stage.mask.cross_clip for stage in stages),
        "early stop": stages[0].optimiser.cosine_steps is not None,
        "schedule": stages[0].optimiser.schedule_epoch is not None,
        "recipe": str(stages[0].sources[0].recipe).endswith("-faithful"),
    }
    assert set(published.values()) == {name.endswith("-faithful")}


def test_the_preset_of_the_tiny_clip_loads() -> None:
    config = TeacherTrainingConfig.load("tiny-clip")
    assert (config.steps, config.batch_size, config.optimiser.base_lr) == (2600, 128, 2e-3)
    Recipe.load(config.recipe)


def test_presets_differ_from_their_base_as_their_comments_say() -> None:
    assert changes("smile-vits", "smile-vitb") == {"student.size": "small"}
    assert changes("smile-vitb-1200", "smile-vitb") == {"stages.0.steps": 750000, "stages.1.steps": 375000}
    second = changes("smile-vitb-stage2", "smile-vitb-stage1")
    assert second.pop("start_from") == "runs/smile-vitb-stage1" and second.pop("stages.0.mask.kind") == "tube"
    assert all(key.startswith("stages.0.sources.0") for key in second)
    for row in ("black", "image", "image-still", "noise"):
        own = changes(f"smile-vits-{row}-clip", f"smile-vits-{row}-pixels")
        teacher = {"teacher.model": "ViT-B-16-quickgelu", "teacher.pretrained": "openai"}
        assert {key: value for key, value in own.items() if "targets" not in key} == teacher
    own = changes("smile-vits-image-clip-motion", "smile-vits-image-clip")
    assert own.pop("targets.0.weight") == 0.1
    assert own and all(key.startswith("targets.1.") for key in own)
    faithful = changes("smile-vitb-faithful", "smile-vitb")
    assert {key: value for key, value in faithful.items() if ".sources" not in key} == {
        "teacher.normalisation": "imagenet",
        "teacher.precision": "fp32",
        "run.precision": "fp16",
        "stages.0.mask.object_tokens": "boxes-oversize",
        "stages.0.mask.cross_clip": True,
        "stages.1.mask.cross_clip": True,
        **{
            f"stages.{number}.optimiser.{key}": value
            for number in (0, 1)
            for key, value in {
                "warmup_steps": 40 * 937,
                "cosine_steps": 801 * 937,
                "schedule_epoch": [1875, 937],
            }.items()
        },
    }


def test_a_file_may_extend_a_preset_or_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: tiny-cpu\nbatch_size: 8\nrun: {threads: 2}\n")
    (tmp_path / "own.yaml").write_text(
        "extends: base.yaml\nstages.0.mask.ratio: 0.9\nstudent: {size: small}\n"
    )
    config = PretrainConfig.load(tmp_path / "own.yaml", ["stages.0.steps=700", "stages.0.sources.0.bank=b"])
    (stage,) = config.resolved_stages
    assert (config.batch_size, config.run.threads, config.run.device) == (8, 2, "cpu")
    assert (stage.steps, stage.mask.ratio, stage.mask.object_visible_share) == (700, 0.9, 0.3)
    assert (config.student.size, config.student.patch_size, stage.sources[0].bank) == ("small", 8, "b")
    (tmp_path / "own.yaml").write_text("\nextends: tiny-cpo\n")
    with pytest.raises(UserError, match=r"own.yaml:2: extends: .*did you mean 'tiny-cpu'"):
        PretrainConfig.load(tmp_path / "own.yaml")


def test_a_later_stage_is_as_the_stage_before_where_it_says_nothing(config_file: Path) -> None:
    later = (
        "stages=[{steps: 3, sources: [{recipe: demo}], masks_per_clip: 2, mask: {kind: block, ratio: 0.6}},"
        "{steps: 4, optimiser: {base_lr: 0.5}}, {steps: 5, mask: {kind: tube}, masks_per_clip: 1},"
        "{steps: 6, sources: [{recipe: demo, bank: other, backgrounds: own}]}]"
    )
    config = PretrainConfig.load(config_file, [later, "backgrounds=images"])
    stages = config.resolved_stages
    assert config.total_steps == 18 and [stage.steps for stage in stages] == [3, 4, 5, 6]
    assert [stage.masks_per_clip for stage in stages] == [2, 2, 1, 1]
    # A group that is given replaces all of it: the ratio of stage 3 is the default one.
    assert [(stage.mask.kind, stage.mask.ratio) for stage in stages] == [
        ("block", 0.6),
        ("block", 0.6),
        ("tube", 0.8),
        ("tube", 0.8),
    ]
    assert [stage.optimiser.base_lr for stage in stages] == [1.5e-4, 0.5, 0.5, 0.5]
    sources = [stage.sources[0] for stage in stages]
    assert [source.bank for source in sources] == [config.bank] * 3 + ["other"]
    assert [source.backgrounds for source in sources] == ["images"] * 3 + ["own"]


def test_natural_videos_are_the_backgrounds_of_the_run_by_default(config_file: Path) -> None:
    own = "stages=[{steps: 3, sources: [{video: {side: 32}}, {video: {path: own, side: 32}}]}]"
    config = PretrainConfig.load(config_file, [own, "backgrounds=videos"])
    paths = [source.video and source.video.path for source in config.resolved_stages[0].sources]
    assert paths == ["videos", "own"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bank=null"], "stages.0.sources.0: bank is missing: give it here or as bank of the run"),
        (["stages.0.sources=[{video: {side: 32}}]"], "stages.0.sources.0: video.path is missing: give it here or as backgrounds of the run"),
        (["stages.0.sources=[{}]"], "stages.0.sources.0: needs one of recipe, corpus and video, got none"),
        (["stages.0.sources=[{recipe: demo, corpus: there}]"], "needs one of recipe, corpus and video, got recipe and corpus"),
        (["stages.0.sources=[{recipe: demo, corpus: there, video: {}}]"], "got recipe and corpus and video"),
        (["stages.0.sources=[{corpus: there, overrides: ['a=1']}]"], "overrides have no effect with corpus"),
        (["stages.0.sources=[{video: {}, bank: b}]"], "bank and backgrounds have no effect with video"),
        (["targets=[{kind: motion, offsets: [1, 1]}]"], r"offsets: should differ, got \[1, 1\]"),
        (["targets=[{kind: motion, displacement: 0.0, spread: 0.0}]"], "every part has the weight 0"),
        (["targets=[{kind: motion}, {kind: motion}]"], "give at most one target of kind motion"),
        (["targets=[]"], "targets: list should have at least 1 item"),
        (["targets=[{kind: pixels, decoder: own}]"], "every target has decoder own; give one of them decoder shared"),
        (["targets=[{kind: pixels, encoder_blocks: [-1]}]"], "encoder_blocks.0: should be greater than or equal to 0"),
        (["visible_weight=0.5"], "visible_weight: has an effect only with predicted_tokens all"),
        (["stages.0.sources=[{video: {}, overrides: ['a=1']}]"], "have no effect with video"),
        (["stages.0.sources=[]"], "stages.0.sources"),
        (["stages=[]"], "stages: list should have at least 1 item"),
        (["stages=[{steps: 2}]"], r"stages\.0: sources is missing"),
        (["stages.0.sources=[{recipe: demo, weight: [1, 0]}]"], "every weight of sources is 0 at one end of the stage"),
        (["stages.0.sources=[{recipe: demo, weight: -1}]"], "stages.0.sources.0.weight"),
        (["stages.0.optimiser.warmup_steps=99"], r"stages\.0.*optimiser.warmup_steps 99 is above steps 6"),
        (["stages.0.optimiser.cosine_steps=3"], r"stages\.0.*optimiser.cosine_steps 3 is below steps 6"),
        (["stages.0.optimiser.layer_decay=1.5"], "optimiser.layer_decay: should be less than or equal to 1"),
        (["run.accumulate=3"], "batch_size: 4 must be a multiple of run.accumulate 3"),
        (["student.size=giant"], "'tiny', 'small', 'base', 'large' or 'huge'"),
        (["targets=[{kind: pixel}]"], "targets.0.kind: unknown kind 'pixel', .* did you mean 'pixels'"),
        (["stages.0.stesp=3"], "stages.0.stesp: unknown key, .* did you mean 'steps'"),
        (["stages.0.mask={kind: block, motion_weight: 1.0}"], "mask.motion_weight: has no effect on block masks"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(config_file: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        PretrainConfig.load(config_file, overrides)
    assert "\n" not in str(caught.value)


def groups(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A group of options and all groups inside it."""
    yield model
    for field in model.model_fields.values():
        stack = [field.annotation]
        while stack:
            annotation = stack.pop()
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from groups(annotation)
            stack += getattr(annotation, "__args__", ())


@pytest.mark.parametrize("model", [PretrainConfig, TeacherTrainingConfig])
def test_every_option_has_a_description(model: type[BaseModel]) -> None:
    without = [
        f"{group.__name__}.{name}"
        for group in groups(model)
        for name, field in group.model_fields.items()
        if not (field.description or "").endswith(".")
    ]
    assert not without and len({*groups(model)}) >= 3


def test_paths_may_have_variables_and_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("DATA", "/big disk")
    monkeypatch.delenv("NOWHERE", raising=False)
    given = {"train": "~/a.txt", "test": "$DATA/b.txt", "root": "${DATA}/x", "group": r"v_(\w+)$"}
    videos = LabelledVideosOptions.model_validate(given)
    assert (videos.train, videos.test, videos.root) == ("/home/ann/a.txt", "/big disk/b.txt", "/big disk/x")
    assert videos.group == given["group"]
    overrides = ["videos.train=a.txt", "videos.root=$NOWHERE/x"]
    with pytest.raises(UserError, match=r"videos\.root: the environment variable \$NOWHERE is not set, in"):
        FinetuneConfig.load("finetune-ucf101-vitb", overrides)
    (tmp_path / "a$NOWHERE").touch()
    literal = str(tmp_path / "a$NOWHERE")
    assert LabelledVideosOptions.model_validate({"train": literal}).train == literal


def test_options_that_a_continued_run_may_change_do_not_change_results(config_file: Path) -> None:
    config = PretrainConfig.load(config_file)
    changeable = {
        f"{group.__name__}.{name}"
        for group in groups(PretrainConfig)
        for name, field in group.model_fields.items()
        if CHANGEABLE in field.metadata
    }
    run = "accumulate parallel compile device threads workers checkpoint_every keep_checkpoints peak_tflops wandb"
    assert changeable == {
        "PretrainConfig.render",
        "StudentOptions.checkpointing",
        "StudentOptions.decoder_chunk",
        "TeacherOptions.compile",
        *(f"RunOptions.{name}" for name in run.split()),
    }
    fixed = fixed_values(config)
    assert {key for key in fixed if key.startswith("run.")} == {"run.precision", "run.ema_decay"}
    assert fixed["stages.0.mask.ratio"] == 0.75 and fixed["stages.0.optimiser.betas"] == [0.9, 0.95]
    changed = PretrainConfig.load(
        config_file, ["run.workers=3", "run.accumulate=2", "student.checkpointing=true"]
    )
    assert fixed_values(changed) == fixed
    assert fixed_values(PretrainConfig.load(config_file, ["stages.0.mask.ratio=0.5"])) != fixed
