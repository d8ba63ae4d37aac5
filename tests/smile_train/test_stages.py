"""Stages, mixtures, corpora and video: what a run reads, when, and what it starts from."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from smile_synth import BackgroundFolder, ObjectBank, Recipe, UserError, generate
from smile_synth.io.videos import write_mp4
from smile_synth.sources import Sources
from smile_train.config import PretrainConfig
from smile_train.data.synthetic import Batch, CorpusSource, open_data, training_batches
from smile_train.training.checkpoint import load_student
from smile_train.training.logging import read_log
from smile_train.training.pretrain import pretrain


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder)]


@pytest.fixture(scope="module")
def corpus(shared_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = PretrainConfig.load(shared_config_file)
    out = tmp_path_factory.mktemp("corpora") / "corpus"
    recipe, bank = Recipe.load(config.recipe or ""), ObjectBank.open(config.bank or "")
    generate(recipe, Sources(bank), out=out, num_clips=5, seed=3)
    return out


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    ramp = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 48, 64, 3), np.uint8)
    for k in range(3):
        write_mp4(folder / f"{k}.mp4", ramp * 20 + k * 20, 8.0)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def test_a_second_stage_starts_from_the_weights_of_the_first(config_file: Path, tmp_path: Path) -> None:
    then = "then=[{steps: 3, recipe_overrides: ['objects.count=0'], mask: {kind: tube, ratio: 0.75}, optimiser: {lr_per_256: 0.01}}]"
    config = PretrainConfig.load(config_file, ["steps=3", then])
    result = pretrain(config, tmp_path / "both")
    lines = read_log(tmp_path / "both")
    assert result.steps == len(lines) == 6
    assert lines[3]["lr"] == pytest.approx(0.01 * 4 / 256)  # a schedule of its own, without warm-up
    assert lines[5]["lr"] < lines[4]["lr"] < lines[3]["lr"]

    # By hand: a run that starts from the first stage's weights alone.
    pretrain(PretrainConfig.load(config_file, ["steps=3"]), tmp_path / "first")
    assert losses(tmp_path / "first") == losses(tmp_path / "both")[:3]
    own = [
        "steps=3",
        "recipe_overrides=['objects.count=0']",
        "mask.kind=tube",
        "optimiser={lr_per_256: 0.01}",
    ]
    second = PretrainConfig.load(config_file, [*own, f"start_from={tmp_path / 'first'}"])
    pretrain(second, tmp_path / "second")
    # Other clips (their indices begin at 0 again), the same start.
    assert losses(tmp_path / "second")[0] == pytest.approx(losses(tmp_path / "both")[3], rel=0.3)
    assert losses(tmp_path / "second")[0] != losses(tmp_path / "both")[3]


@pytest.mark.slow
def test_stages_resume_inside_and_at_their_border(config_file: Path, tmp_path: Path) -> None:
    overrides = ["steps=3", "then=[{steps: 3, mask: {kind: tube}, optimiser: {lr_per_256: 0.03}}]"]
    config = PretrainConfig.load(config_file, [*overrides, "checkpoint_every=1", "ema_decay=0.7"])
    pretrain(config, tmp_path / "whole")

    class Stop(Exception):
        pass

    for last in (3, 4, 5):
        out = tmp_path / f"cut{last}"

        def stop(done: int, total: int, loss: float, last: int = last) -> None:
            if done == last:
                raise Stop

        with pytest.raises(Stop):
            pretrain(config, out, on_step=stop)
        pretrain(config, out)
        assert losses(out) == losses(tmp_path / "whole")
        for name in ("student.safetensors", "student_ema.safetensors"):
            ours, theirs = (load_student(f / name).state_dict() for f in (out, tmp_path / "whole"))
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_clips_of_a_stage_without_objects_hold_none(config_file: Path) -> None:
    config = PretrainConfig.load(config_file, ["then=[{steps: 2, recipe_overrides: ['objects.count=0']}]"])
    data = open_data(config)
    coverage = []
    for stage in data.stages:
        batches = training_batches(
            stage, seed=0, batch_size=4, start_step=stage.first_step, patch_size=8, tubelet_size=2, workers=0
        )
        coverage.append(float(next(batches).coverage.max()))
    assert coverage[0] > 0 and coverage[1] == 0


@pytest.mark.parametrize("count", ["[1, 3]", "0"])
def test_a_stream_gives_what_is_made_clip_by_clip(config_file: Path, count: str) -> None:
    published = "mask={kind: trajectory, object_tokens: boxes}"
    config = PretrainConfig.load(config_file, [published, f"recipe_overrides=['objects.count={count}']"])
    (stage,) = open_data(config).stages
    options: dict[str, Any] = {"seed": 0, "batch_size": 6, "patch_size": 8, "tubelet_size": 2}
    streamed = training_batches(stage, start_step=2, workers=0, rank=1, world_size=2, **options)
    # Twice the same source makes a mixture, whose clips are made one by one.
    entry = stage.options.sources[0]
    mixed = replace(
        stage,
        sources=stage.sources * 2,
        options=stage.options.model_copy(update={"sources": [entry, entry]}),
    )
    loaded = training_batches(mixed, start_step=2, workers=0, rank=1, world_size=2, **options)
    for one, other in zip(streamed, loaded, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        assert torch.equal(one.frames, other.frames) and torch.equal(one.coverage, other.coverage)
        assert one.boxes_xyxy is not None and other.boxes_xyxy is not None
        torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy, rtol=0, atol=0, equal_nan=True)


def test_mixtures_are_drawn_by_weights_that_may_move(config_file: Path, corpus: Path) -> None:
    mixture = f"mixture=[{{weight: [3, 0]}}, {{corpus: '{corpus}', weight: [0, 1]}}]"
    config = PretrainConfig.load(
        config_file, ["steps=400", "optimiser.warmup_steps=0", "batch_size=8", mixture]
    )
    (stage,) = open_data(config).stages
    names = [stage.source_of(i, seed=0, batch_size=8).name for i in range(3200)]
    assert set(names[:8]) == {"recipe"} and set(names[-8:]) == {str(corpus)}
    # Weights 3 - 3p and p: the middle of the run draws 3 of 4 from the recipe.
    middle = Counter(names[1400:1800])["recipe"] / 400
    assert middle == pytest.approx(0.75, abs=0.07)
    assert names == [stage.source_of(i, seed=0, batch_size=8).name for i in range(3200)]
    assert names != [stage.source_of(i, seed=1, batch_size=8).name for i in range(3200)]


def test_a_corpus_gives_every_clip_once_before_any_again(corpus: Path) -> None:
    source = CorpusSource(corpus, seed=0)
    assert (len(source), source.size_hw, source.num_frames) == (5, (32, 32), 4)
    rounds = [[clip.scene.index for clip in source.clips(range(start, start + 5))] for start in (0, 5, 10)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds) and len({tuple(one) for one in rounds}) > 1


@pytest.mark.parametrize(("layout", "media"), [("folder", "h264"), ("shards", "npz")])
def test_a_corpus_reads_what_was_rendered(
    corpus: Path, shared_config_file: Path, tmp_path: Path, layout: str, media: str
) -> None:
    config = PretrainConfig.load(shared_config_file, ["seed=3"])
    (stage,) = open_data(config).stages
    if layout == "shards":
        recipe, bank = Recipe.load(config.recipe or ""), ObjectBank.open(config.bank or "")
        corpus = tmp_path / "shards"
        generate(
            recipe,
            Sources(bank),
            out=corpus,
            num_clips=5,
            seed=3,
            layout=layout,
            media=media,
            clips_per_shard=2,
        )
    source = CorpusSource(corpus, seed=0)
    for index in range(5):
        (read,) = source.clips([index])
        (drawn,) = stage.sources[0].clips([read.scene.index])
        assert read.scene.digest == drawn.scene.digest
        np.testing.assert_array_equal(read.segmentation > 0, drawn.segmentation > 0)
        difference = np.abs(read.frames.astype(int) - drawn.frames).mean()
        assert difference < 40 if media == "h264" else difference == 0  # H.264 of noise


def test_trains_on_a_corpus_alone_and_starts_again_from_its_config(
    corpus: Path, config_file: Path, tmp_path: Path
) -> None:
    own = [f"corpus={corpus}", "recipe=null", "bank=null", "steps=3", "mask.object_tokens=boxes"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "a")
    pretrain(PretrainConfig.load(tmp_path / "a" / "config.yaml"), tmp_path / "b")
    assert len(losses(tmp_path / "a")) == 3 and losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (
            lambda folder: (folder / "manifest.parquet").unlink(),
            "its manifest has 0 of 5 clips",
        ),
        (lambda folder: shutil.rmtree(folder / "clips"), "holds no whole clip"),
    ],
)
def test_unfinished_corpora_are_refused(corpus: Path, tmp_path: Path, harm: object, message: str) -> None:
    shutil.copytree(corpus, tmp_path / "copy")
    harm(tmp_path / "copy")  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        CorpusSource(tmp_path / "copy", seed=0)


def test_missing_files_of_a_corpus_are_listed_and_damaged_ones_named(
    corpus: Path, config_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    (copy / "clips" / "000001.mp4").unlink()
    (copy / "labels" / "000002.json").write_text("")
    own = [f"corpus={copy}", "recipe=null", "bank=null", "steps=2"]
    result = pretrain(PretrainConfig.load(config_file, own), tmp_path / "run")
    assert [(file.name, reason) for file, reason in result.unreadable] == [
        ("000001.mp4", "is missing (clip 1)"),
        ("000002.json", "is cut short (clip 2)"),
    ]
    with pytest.raises(UserError, match="2 files cannot be read, the first '.*000001.mp4': is missing"):
        pretrain(PretrainConfig.load(config_file, own), tmp_path / "strict", strict=True)
    for path in (copy / "clips").glob("*.mp4"):
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(UserError, match=r"\.mp4': mp4 of clip \d is altered; repair") as told:
        pretrain(PretrainConfig.load(config_file, [*own, "seed=5"]), tmp_path / "damaged")
    assert "\n" not in str(told.value)


def test_natural_video_with_objects_pasted_in(videos: Path, config_file: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("{kind: noise}", "{kind: video, stride: 2}"))
    (tmp_path / "list.txt").write_text(f"{videos / '0.mp4'}\n{videos / '2.mp4'}\n{videos / 'broken.mp4'}\n")
    config = PretrainConfig.load(config_file, [f"backgrounds={tmp_path / 'list.txt'}", "steps=2"])
    result = pretrain(config, tmp_path / "run")
    assert [file.name for file, _ in result.unreadable] == ["broken.mp4"]
    (clip,) = open_data(config).stages[0].sources[0].clips([0])
    background = clip.frames[clip.segmentation == 0]
    assert len(np.unique(background.mean(1).round(-1))) >= 3  # the video moves on
    again = PretrainConfig.load(tmp_path / "run" / "config.yaml")
    assert again.backgrounds == str(tmp_path / "list.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"empty.txt': expected images or videos .* found none"):
        open_data(PretrainConfig.load(config_file, [f"backgrounds={tmp_path / 'empty.txt'}"]))
    with pytest.raises(UserError, match="1 files cannot be read, the first '.*broken.mp4': is no video"):
        open_data(config, strict=True)
    assert len(BackgroundFolder(tmp_path / "list.txt").videos) == 2


@pytest.mark.slow
def test_workers_give_the_same_clips_and_tell_mistakes_in_one_line(
    corpus: Path, config_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    config = PretrainConfig.load(config_file, [f"corpus={copy}", "recipe=null", "bank=null", "steps=4"])
    (stage,) = open_data(config).stages

    def batches(workers: int) -> Iterator[Batch]:
        return training_batches(
            stage, seed=0, batch_size=1, start_step=1, patch_size=8, tubelet_size=2, workers=workers
        )

    here = list(batches(0))
    last = stage.sources[0].clips([3])[0].scene.index
    (copy / "clips" / f"{last:06d}.mp4").write_bytes(b"x")
    there = batches(1)
    for own, made in zip(here[:2], there, strict=False):
        assert torch.equal(own.frames, made.frames) and torch.equal(own.coverage, made.coverage)
        assert own.indices.tolist() == made.indices.tolist()
    with pytest.raises(UserError, match=f"ends inside clip {last}") as told:
        next(there)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bank=null"], "bank is missing: give recipe and bank, or corpus"),
        (["then=[{steps: 1, optimiser: {warmup_steps: 2}}]"], r"then\.0\.optimiser\.warmup_steps 2 is above then\.0\.steps 1"),
        (["optimiser.cosine_steps=3"], "optimiser.cosine_steps 3 is below steps 6"),
        (["mixture=[{weight: [1, 0]}]"], "every weight is 0 at one end"),
        (["accumulate=3"], "batch_size 4 must be a multiple of accumulate 3"),
        (["mixture=[{weight: -1}]"], "mixture.0.weight"),
        (["mixture=[{recipe: demo}]", "then=[{steps: 1, recipe: flow-mix}]"], r"then\.0\.recipe: no effect, as the entries"),
        (["mixture=[{recipe: demo}]", "then=[{steps: 1, corpus: there}]"], r"then\.0\.corpus: no effect.* then\.0\.mixture, \[\] for none"),
        (["optimiser.layer_decay=1.5"], "layer_decay: should be less than or equal to 1"),
        (["start_from=nowhere"], "nowhere"),
        # Told before a teacher with such patches is asked for.
        (["target={kind: teacher}", "student.patch_size=24"], "student: height 32 must be a multiple of patch_size 24"),
        (["mixture=[{}, {recipe_overrides: ['num_frames=6']}]"], "gives clips of 6x32x32, 'recipe' of 4x32x32"),
    ],
)  # fmt: skip
def test_bad_stages_and_mixtures_are_one_line(
    config_file: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        pretrain(PretrainConfig.load(config_file, overrides), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_a_run_was_started_with_is_written(config_file: Path, tmp_path: Path) -> None:
    mixture = "mixture=[{weight: 2}, {recipe_overrides: ['objects.count=0'], weight: [1, 3]}]"
    config = PretrainConfig.load(
        config_file, ["steps=2", mixture, "then=[{steps: 2, recipe_overrides: ['objects.count=2']}]"]
    )
    pretrain(config, tmp_path / "a")
    (start,) = [json.loads(line) for line in (tmp_path / "a" / "run.jsonl").read_text().splitlines()]
    assert torch.__version__.startswith(start["versions"]["torch"]) and start["processes"] == 1
    assert {"git", "machine", "sources", "device"} <= start.keys()
    (tmp_path / "recipe.yaml").unlink()  # what stands in the run's folder is enough
    again = PretrainConfig.load(tmp_path / "a" / "config.yaml")
    pretrain(again, tmp_path / "b")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    pretrain(again, tmp_path / "a")  # it is the same run, too
