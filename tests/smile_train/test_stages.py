"""Sources of clips and their batches: recipes, mixtures, corpora, backgrounds of video."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopping import losses

from smile_synth import BackgroundFolder, ObjectBank, Recipe, SyntheticClips, UserError, generate
from smile_synth.io.videos import write_mp4
from smile_synth.sources import Sources
from smile_synth.streaming import token_coverage
from smile_train.batch import Batch, normalise
from smile_train.config import PretrainConfig
from smile_train.data.batches import StageData, open_data, training_batches
from smile_train.data.sources import TrainingClip, collate
from smile_train.data.synthetic import CorpusSource, LabelOptions
from smile_train.training.pretrain import pretrain

TOKEN = (2, 8)
SHORT = ["stages.0.steps=2", "stages.0.optimiser.warmup_steps=0"]


def recipe_and_sources(config: PretrainConfig) -> tuple[Recipe, Sources]:
    recipe = Recipe.load(config.stages[0].sources[0].recipe or "")  # type: ignore[index]
    return recipe, Sources(ObjectBank.open(config.bank or ""))


def from_corpus(folder: Path) -> list[str]:
    return [f"stages.0.sources=[{{corpus: '{folder}'}}]", "bank=null", *SHORT]


@pytest.fixture(scope="module")
def corpus(shared_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpora") / "corpus"
    recipe, sources = recipe_and_sources(PretrainConfig.load(shared_config_file))
    generate(recipe, sources, out=out, num_clips=5, seed=3)
    return out


def test_token_coverage_is_the_mean_over_the_token() -> None:
    segmentation = np.zeros((2, 4, 6), np.int16)
    segmentation[0, 0, 2:5] = 2
    segmentation[1, 3, 0] = 1
    coverage = token_coverage(segmentation, 2, 2)
    np.testing.assert_allclose(coverage, [0, 2 / 8, 1 / 8, 1 / 8, 0, 0])


def test_a_batch_shows_its_shapes_and_is_cut_into_parts() -> None:
    frames = torch.arange(4 * 2 * 3).view(4, 2, 3, 1, 1).byte()
    batch = Batch(torch.arange(4), frames, {"coverage": torch.rand(4, 5)})
    assert repr(batch) == "Batch(frames=[4, 2, 3, 1, 1], labels={'coverage': [4, 5]})"
    parts = list(batch.parts(2, torch.device("cpu")))
    assert [part.indices.tolist() for part in parts] == [[0, 1], [2, 3]]
    assert torch.equal(parts[1].frames, frames[2:])
    moved = next(batch.parts(2, torch.device("meta")))
    assert [moved.frames.is_meta, moved.labels["coverage"].is_meta, moved.indices.is_meta] == [1, 1, 0]
    assert torch.equal(parts[1].labels["coverage"], batch.labels["coverage"][2:])
    white = normalise(torch.full((1, 1, 3, 1, 1), 255, dtype=torch.uint8))
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(white.ravel(), expected, rtol=1e-5)


def test_clips_with_different_labels_are_stacked() -> None:
    frames = np.zeros((2, 3, 5, 3), np.uint8)
    boxes = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    clips = [
        TrainingClip(frames, {"coverage": np.ones(4, np.float32), "boxes_xyxy": boxes}),
        TrainingClip(frames, {}, unreadable=(("a.mp4", "ends early"),)),
        TrainingClip(frames, {"boxes_xyxy": boxes[:1] + 1}),
    ]
    batch = collate([7, 8, 9], clips)
    assert (batch.frames.shape, batch.unreadable) == ((3, 2, 3, 3, 5), (("a.mp4", "ends early"),))
    assert batch.labels["coverage"].sum(1).tolist() == [4, 0, 0]
    found = batch.labels["boxes_xyxy"]
    assert found.shape == (3, 2, 2, 4) and torch.equal(found[0], torch.from_numpy(boxes))
    assert found[1].isnan().all() and found[2, 1].isnan().all() and found[2, 0, 0, 0] == 1


def test_batches_are_addressed_by_step(config_file: Path) -> None:
    config = PretrainConfig.load(config_file, ["stages.0.steps=3"])
    clips = SyntheticClips(*recipe_and_sources(config), seed=0, num_clips=24)
    (batch,) = training_batches(config, open_data(config).stages[0], start_step=2)
    assert batch.indices.tolist() == [8, 9, 10, 11] and batch.labels.keys() == {"coverage"}
    assert np.array_equal(batch.frames[1].permute(0, 2, 3, 1).numpy(), clips[9].frames)


def test_clips_of_a_stage_without_objects_have_none(config_file: Path) -> None:
    recipe = config_file.parent / "recipe.yaml"
    second = f"{{steps: 2, sources: [{{recipe: '{recipe}', overrides: ['objects.count=0']}}]}}"
    config = PretrainConfig.load(
        config_file, [f"stages=[{{steps: 2, sources: [{{recipe: '{recipe}'}}]}}, {second}]"]
    )
    first, second_stage = open_data(config).stages
    assert (first.end_step, second_stage.first_step, second_stage.end_step) == (2, 2, 4)
    batches = [next(training_batches(config, s, start_step=s.first_step)) for s in (first, second_stage)]
    assert batches[0].labels["coverage"].max() > 0 and batches[1].labels["coverage"].max() == 0
    assert batches[1].indices.tolist() == [8, 9, 10, 11]


def mixed(stage: StageData) -> StageData:
    """The same source twice is a mixture, whose clips are made one by one."""
    options = stage.options.model_copy(update={"sources": stage.options.sources * 2})
    return replace(stage, sources=stage.sources * 2, options=options)


@pytest.mark.parametrize("count", ["[1, 3]", "0"])
def test_a_stream_gives_the_clips_that_are_made_one_by_one(config_file: Path, count: str) -> None:
    own = ["stages.0.mask={object_tokens: boxes}", "batch_size=6"]
    own.append(f"stages.0.sources.0.overrides=['objects.count={count}']")
    config = PretrainConfig.load(config_file, own)
    (stage,) = open_data(config).stages
    streamed, made = (
        training_batches(config, given, start_step=2, rank=1, world_size=2) for given in (stage, mixed(stage))
    )
    for one, other in zip(streamed, made, strict=True):
        assert one.indices.tolist() == other.indices.tolist() and torch.equal(one.frames, other.frames)
        assert torch.equal(one.labels["coverage"], other.labels["coverage"])
        boxes = [batch.labels["boxes_xyxy"] for batch in (one, other)]
        torch.testing.assert_close(*boxes, rtol=0, atol=0, equal_nan=True)
        assert boxes[0].isnan().all() == (count == "0")


def test_sources_of_a_mixture_are_drawn_by_weights_that_may_change(config_file: Path, corpus: Path) -> None:
    recipe = config_file.parent / "recipe.yaml"
    sources = f"[{{recipe: '{recipe}', weight: [3, 0]}}, {{corpus: '{corpus}', weight: [0, 1]}}]"
    config = PretrainConfig.load(
        config_file, ["stages.0.steps=400", "batch_size=8", f"stages.0.sources={sources}"]
    )
    (stage,) = open_data(config).stages
    names = [stage.source_of(i, seed=0, batch_size=8).name for i in range(3200)]
    assert set(names[:8]) == {"recipe"} and set(names[-8:]) == {str(corpus)}
    # Weights 3 - 3p and p: in the middle of the stage 3 of 4 clips are of the recipe.
    middle = Counter(names[1400:1800])["recipe"] / 400
    assert middle == pytest.approx(0.75, abs=0.07)
    assert names == [stage.source_of(i, seed=0, batch_size=8).name for i in range(3200)]
    assert names != [stage.source_of(i, seed=1, batch_size=8).name for i in range(3200)]


# --- corpora ---


def test_a_corpus_gives_every_clip_once_before_any_again(corpus: Path) -> None:
    source = CorpusSource(corpus, LabelOptions(TOKEN), seed=0)
    assert (len(source), source.size_hw, source.num_frames) == (5, (32, 32), 4)
    rounds = [[clip.scene.index for clip in source.clips(range(n, n + 5)) if clip.scene] for n in (0, 5, 10)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds) and len({tuple(one) for one in rounds}) > 1


@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_a_corpus_gives_what_was_rendered(
    corpus: Path, shared_config_file: Path, tmp_path: Path, layout: str
) -> None:
    config = PretrainConfig.load(shared_config_file, ["seed=3"])
    (stage,) = open_data(config).stages
    if layout == "shards":
        corpus, (recipe, sources) = tmp_path / "shards", recipe_and_sources(config)
        kind: dict[str, Any] = {"layout": layout, "media": "npz", "clips_per_shard": 2}
        generate(recipe, sources, out=corpus, num_clips=5, seed=3, **kind)
    for read in CorpusSource(corpus, LabelOptions(TOKEN), seed=0).clips(range(5)):
        assert read.scene is not None
        (drawn,) = stage.sources[0].clips([read.scene.index])
        assert drawn.scene is not None and read.scene.digest == drawn.scene.digest
        for name in ("coverage", "boxes_xyxy"):
            np.testing.assert_array_equal(read.labels[name], drawn.labels[name])
        difference = np.abs(read.frames.astype(int) - drawn.frames).mean()
        assert difference < 40 if layout == "folder" else difference == 0  # H.264 of noise


def test_a_run_on_a_corpus_starts_again_from_its_config(
    corpus: Path, config_file: Path, tmp_path: Path
) -> None:
    own = [*from_corpus(corpus), "stages.0.mask.object_tokens=boxes"]
    pretrain(PretrainConfig.load(config_file, own), tmp_path / "a")
    pretrain(PretrainConfig.load(tmp_path / "a" / "config.yaml"), tmp_path / "b")
    assert len(losses(tmp_path / "a")) == 2 and losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "manifest.parquet").unlink(), "its manifest has 0 of 5 clips"),
        (lambda folder: shutil.rmtree(folder / "clips"), "has no complete clip"),
    ],
)
def test_unfinished_corpora_are_refused(
    corpus: Path, tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(corpus, tmp_path / "copy")
    harm(tmp_path / "copy")
    with pytest.raises(UserError, match=message):
        CorpusSource(tmp_path / "copy", LabelOptions(TOKEN), seed=0)


def test_missing_files_of_a_corpus_are_listed_and_damaged_ones_named(
    corpus: Path, config_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    (copy / "clips" / "000001.mp4").unlink()
    (copy / "labels" / "000002.json").write_text("")
    config = PretrainConfig.load(config_file, from_corpus(copy))
    result = pretrain(config, tmp_path / "run")
    assert [(file.name, reason) for file, reason in result.unreadable] == [
        ("000001.mp4", "is missing (clip 1)"),
        ("000002.json", "is cut short (clip 2)"),
    ]
    with pytest.raises(UserError, match="2 files cannot be read, the first '.*000001.mp4': is missing"):
        open_data(config, strict=True)
    for path in (copy / "clips").glob("*.mp4"):
        path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(UserError, match=r"\.mp4': mp4 of clip \d is altered; repair") as caught:
        open_data(config)
    assert "\n" not in str(caught.value)


def test_an_error_in_a_clip_is_one_line(corpus: Path, config_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    config = PretrainConfig.load(config_file, [*from_corpus(copy), "stages.0.steps=4", "batch_size=1"])
    (stage,) = open_data(config).stages
    scene = stage.sources[0].clips([3])[0].scene
    assert scene is not None
    (copy / "clips" / f"{scene.index:06d}.mp4").write_bytes(b"x")
    batches = training_batches(config, stage, start_step=1)
    assert [next(batches).indices.tolist() for _ in range(2)] == [[1], [2]]
    with pytest.raises(UserError, match=f"ends inside clip {scene.index}") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_workers_make_the_same_clips_until_they_are_killed(corpus: Path, config_file: Path) -> None:
    own = [*from_corpus(corpus), "stages.0.steps=200", "batch_size=1", "run.workers=1"]
    config = PretrainConfig.load(config_file, own)
    (stage,) = open_data(config).stages
    there = training_batches(config, stage, start_step=1)
    alone = config.model_copy(update={"run": config.run.model_copy(update={"workers": 0})})
    for one, other in zip(
        training_batches(alone, replace(stage, end_step=3), start_step=1), there, strict=False
    ):
        assert torch.equal(one.frames, other.frames) and one.indices.tolist() == other.indices.tolist()
        assert torch.equal(one.labels["coverage"], other.labels["coverage"])
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, signal.SIGKILL)
    # The trainer makes one line of each of these errors. A worker that dies while it sends a batch breaks the
    # connection; any other death is torch's RuntimeError.
    with pytest.raises((RuntimeError, ConnectionError, EOFError)) as caught:
        list(there)
    assert not isinstance(caught.value, RuntimeError) or str(caught.value).startswith(
        "DataLoader worker (pid"
    )
    # A caller that keeps the error may have other children that end.
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert caught.value.__traceback__ is not None


# --- video as the background ---


def test_objects_are_pasted_into_natural_video(config_file: Path, tmp_path: Path) -> None:
    ramp = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 48, 64, 3), np.uint8)
    for k in range(2):
        write_mp4(tmp_path / f"{k}.mp4", ramp * 20 + k * 20, 8.0)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "list.txt").write_text("".join(f"{tmp_path / n}.mp4\n" for n in ("0", "1", "broken")))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("{kind: noise}", "{kind: video, stride: 2}"))
    config = PretrainConfig.load(config_file, [f"backgrounds={tmp_path / 'list.txt'}", *SHORT])
    data = open_data(config)
    assert [file.name for file, _ in data.unreadable] == ["broken.mp4"]
    (batch, _) = training_batches(config, data.stages[0], start_step=0)
    uncovered = batch.labels["coverage"].view(4, 2, 16)[:, 0] == 0  # of the first two frames
    frames = batch.frames.float().mean(2).view(4, 4, 4, 8, 4, 8).mean((3, 5)).flatten(2)
    change = (frames[:, 1] - frames[:, 0])[uncovered]
    assert (change - 40).abs().max() < 6  # two frames of the ramp later
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"empty.txt': is empty"):
        open_data(PretrainConfig.load(config_file, [f"backgrounds={tmp_path / 'empty.txt'}"]))
    with pytest.raises(UserError, match="1 files cannot be read, the first '.*broken.mp4': is no video"):
        open_data(config, strict=True)
    assert len(BackgroundFolder(tmp_path / "list.txt").videos) == 2
