"""Studies: arms, seeds, what is kept, and what is said of them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from smile_synth import ObjectBank, Recipe, SyntheticClips, UserError, generate
from smile_synth.corpus import Corpus
from smile_synth.io.resources import shipped
from smile_synth.io.videos import write_mp4
from smile_synth.sources import Sources
from smile_train.ablate import Study, StudyRun, StudyVideos, _report, _run, summarise, t_interval
from smile_train.config import PretrainConfig
from smile_train.evaluate import EvaluateOptions
from smile_train.materials import Materials, build_materials
from smile_train.training.logging import read_log
from smile_train.training.pretrain import pretrain

STUDIES = sorted(path.stem for path in (shipped("configs") / "studies").glob("*.yaml"))


def test_a_study_is_done_once_and_reported(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = StudyRun(study, out)
    assert [(c.arm, c.seed) for c in run.cells] == [
        ("still", 0),
        ("as it is", 0),
        ("still", 3),
        ("as it is", 3),
    ]
    assert run.config(run.cells[2]).seed == 3
    estimate = run.estimate()
    assert estimate.cells == 4 and estimate.seconds_each > 0
    with pytest.raises(UserError, match="no seed is done for every arm yet"):
        run.report()
    run.run(shard=(0, 2))
    assert [c.done for c in run.cells] == [True, False, True, False]
    run.run(shard=(1, 2))
    before = [(c.folder / "scores.json").stat().st_mtime_ns for c in run.cells]
    again = StudyRun(study, out)
    assert again.estimate().cells == 0
    again.run(progress=lambda *_: pytest.fail("did something again"))
    assert [(c.folder / "scores.json").stat().st_mtime_ns for c in run.cells] == before

    summary = again.report()
    assert [(row.arm, row.task, len(row.by_seed)) for row in summary] == [
        ("still", "direction", 2),
        ("as it is", "direction", 2),
    ]
    table = pq.read_table(out / "table.parquet").to_pylist()
    assert len(table) == 4 * 4
    own = [r["accuracy"] for r in table if (r["arm"], r["features"]) == ("as it is", "encoder")]
    assert summary[1].mean == pytest.approx(np.mean(own))
    page = (out / "index.html").read_text()
    assert page.count("data:video/mp4;base64,") == 2 * 3 and "<svg" in page
    assert f"{100 * summary[1].mean:.1f}" in page
    assert json.loads((out / "summary.json").read_text())["rows"][0]["difference"] is None
    with pytest.raises(UserError, match="holds another study"):
        StudyRun(study.model_copy(update={"num_train": 70}), out)


def test_arms_are_evaluated_on_real_videos(study: Study, tmp_path: Path) -> None:
    for number, label in enumerate("abab"):
        (tmp_path / "videos" / label).mkdir(parents=True, exist_ok=True)
        frames = np.full((8, 32, 32, 3), 60 * number, np.uint8)
        write_mp4(tmp_path / "videos" / label / f"g{number // 2}.mp4", frames, 8)
    settings = EvaluateOptions(protocols=["linear"], controls=["random", "metadata"], random_encoders=1)
    videos = StudyVideos(path=str(tmp_path / "videos"), group="(g.)", evaluate=settings)
    study = study.model_copy(update={"videos": [videos], "seeds": [0]})
    run = StudyRun(study, tmp_path / "out")
    run.run()
    rows = json.loads((run.cells[1].folder / "scores.json").read_text())["rows"]
    assert [(r["task"], r["features"]) for r in rows if r["task"] != "direction"] == [
        ("videos, mean, linear", "encoder"),
        ("videos, mean, linear", "random encoders (1)"),
        ("videos, mean, linear", "size and length"),
    ]
    assert [(row.arm, row.task) for row in run.report()[2:]] == [
        ("still", "videos, mean, linear"),
        ("as it is", "videos, mean, linear"),
    ]
    missing = videos.model_copy(update={"path": str(tmp_path / "missing")})
    with pytest.raises(UserError, match="videos '.*missing': no such file or folder"):
        StudyRun(study.model_copy(update={"videos": [missing]}), tmp_path / "other")


def test_summary_pairs_arms_by_seed() -> None:
    def row(arm: str, seed: int, accuracy: float, features: str = "encoder") -> dict[str, object]:
        return {"arm": arm, "task": "t", "seed": seed, "features": features, "accuracy": accuracy}

    rows = [row("a", 0, 0.2), row("a", 1, 0.6), row("b", 0, 0.3), row("b", 1, 0.8)]
    rows += [row(arm, seed, 0.1 + 0.1 * seed, "random encoders (3)") for arm in "ab" for seed in (0, 1)]
    a, b = summarise(rows, ["a", "b"], [0, 1], "a")
    assert math.isnan(a.difference) and a.random == pytest.approx(0.15)
    assert b.difference == pytest.approx(0.15)
    # t(.975, 1) = 12.706, standard deviation of (.1, .2) = .0707, over sqrt 2
    assert b.difference_high - b.difference == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert all(math.isnan(v) for v in t_interval(np.array([0.5])))


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    return build_materials(tmp_path_factory.mktemp("materials"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_arm_of_a_shipped_study_can_be_drawn(name: str, materials: Materials, tmp_path: Path) -> None:
    sources = {
        "bank": materials.bank.path, "train_backgrounds": materials.train_backgrounds.path,
        "test_backgrounds": materials.heldout_backgrounds.path,
    }  # fmt: skip
    run = StudyRun(Study.load(name, [f"{key}={path}" for key, path in sources.items()]), tmp_path)
    arms = {cell.arm: run.config(cell) for cell in run.cells}
    assert len(arms) >= 2
    seen = set()
    for config in arms.values():
        stage = config.resolved_stages[0]
        shown = hashlib.sha256()
        for source in stage.sources:
            recipe = Recipe.load(str(source.recipe), source.overrides)
            clips = SyntheticClips(recipe, materials.train, seed=0, num_clips=1)
            shown.update(clips[0].frames.tobytes())
        options = str(config.targets), stage.mask.model_dump_json(), stage.optimiser.model_dump_json()
        seen.add((shown.hexdigest(), *options))
    assert len(seen) == len(arms)


def test_shipped_studies_have_their_arms() -> None:
    arms = {name: set(Study.load(name).all_arms) for name in STUDIES}
    assert set(STUDIES) == {
        "motion-pattern", "objects", "occlusion", "background", "mask", "target", "ladder", "diversity",
        "motion-target",
    }  # fmt: skip
    assert arms["motion-pattern"] >= {"still", "translation", "rotation", "scale", "all", "smooth"}
    assert arms["background"] == {"black", "noise", "image", "moving image"}
    assert arms["target"] == {"pixels", "CLIP", "both"}
    targets = Study.load("target").all_arms["both"]["targets"]
    assert [target["kind"] for target in targets] == ["pixels", "teacher"]


def test_every_kind_of_training_is_measured_once(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {
        "slow": {"stages.0.masks_per_clip": 2},
        "two objects": {"stages.0.sources.0.overrides": ["objects.count=2"]},
    }
    run = StudyRun(study.model_copy(update={"arms": {**study.arms, **more}}), tmp_path / "out")
    measured: list[int] = []

    def measure(config: PretrainConfig, seed: int) -> _run._Cost:
        masks = config.resolved_stages[0].masks_per_clip
        measured.append(masks)
        return _run._Cost(fixed=1.0, step=10.0 * masks, shared_probe=0.1, probe=0.01)

    monkeypatch.setattr(run, "_measure", measure)
    estimate = run.estimate()
    assert measured == [1, 2] and estimate.cells == 8
    # of four arms one costs twice; two steps each; 110 clips, each arm has a quarter of the shared probe
    assert estimate.seconds_each == pytest.approx(1 + 2 * (3 * 10 + 20) / 4 + 110 * (0.1 / 4 + 0.01))


def test_every_process_uses_another_gpu(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StudyRun(study, tmp_path / "out")
    monkeypatch.setattr(run, "run_cell", lambda cell, stage: None)
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for k in range(4):
        run.run(shard=(k, 4))
    assert chosen == [0, 1, 0, 1]
    run.run()
    assert len(chosen) == 4
    monkeypatch.setattr(run, "_measure", lambda config, seed: chosen.append(-1) or _run._Cost(1, 1, 1, 1))
    run.estimate(shard=(3, 4))
    assert chosen[4:6] == [1, -1]  # before anything is measured


def test_a_resumed_cell_has_the_scores_of_a_whole_one(study: Study, tmp_path: Path) -> None:
    whole, cut = (
        StudyRun(study.model_copy(update={"seeds": [0]}), tmp_path / name) for name in ("whole", "cut")
    )
    whole.run_cell(whole.cells[0])
    config = cut.config(cut.cells[0])
    pretrain(config, cut.cells[0].folder / "run")  # all of its steps; the kill came before its probes
    spent = sum(
        config.batch_size / line["clips_per_second"] for line in read_log(cut.cells[0].folder / "run")
    )
    began = time.perf_counter()
    cut.run_cell(cut.cells[0])
    took = time.perf_counter() - began
    scores = [json.loads((run.cells[0].folder / "scores.json").read_text()) for run in (whole, cut)]
    assert scores[0]["loss"] == scores[1]["loss"] and math.isfinite(scores[1]["loss"])
    assert spent < scores[1]["seconds"] <= spent + took


def test_an_arm_shows_the_clips_that_it_trains_on(
    study: Study, train_bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, bank = Recipe.load(tmp_path / "recipe.yaml"), ObjectBank.open(train_bank)
    generate(recipe, Sources(bank), out=tmp_path / "corpus", num_clips=4, seed=5, media="npz")
    own = {"stages.0.sources": [{"corpus": str(tmp_path / "corpus")}]}
    arms = {"corpus": own, "other": {**own, "stages.0.mask.ratio": 0.5}}
    run = StudyRun(study.model_copy(update={"arms": arms, "seeds": [0]}), tmp_path / "out")
    run.run()
    shown: list[np.ndarray] = []
    monkeypatch.setattr(_report, "mp4_uri", lambda frames, fps: shown.append(frames) or "")
    run.report()
    corpus = Corpus(tmp_path / "corpus")
    stored = {corpus.frames(k).tobytes() for k in range(4)}
    assert len(shown) == 2 * 3 and all(frames[:, ::2, ::2].tobytes() in stored for frames in shown)


def test_grids_are_arms_and_mistakes_are_one_line(study: Study, tmp_path: Path) -> None:
    assert list(Study.load("mask").all_arms) == ["kind random", "kind tube", "kind trajectory"]
    for override, message in {
        "tasks=[directoin]": "unknown probe 'directoin'.*did you mean 'direction'",
        "reference=stil": "reference 'stil' is not an arm; did you mean 'still'",
        "arms={one: {}}": "needs at least two arms",
        "num_test=10": "num_test: .*50",
        "arms={one: {}, two: {seed: 9}}": "arm 'two': all arms have the same seeds; use the key seeds",
        "sedes=[1]": "did you mean 'seeds'",
        "overrides=[backgrounds=there]": "overrides: backgrounds is set by the key train_backgrounds",
    }.items():
        with pytest.raises(UserError, match=message):
            Study.load(tmp_path / "study.yaml", [override])
    with pytest.raises(UserError, match="study 'maks': no such file.*did you mean 'mask'"):
        Study.load("maks")
    wrong = study.model_copy(update={"arms": {**study.arms, "odd": {"stages.0.mask.knd": "tube"}}})
    with pytest.raises(UserError, match="arm 'odd': .*did you mean 'kind'"):
        StudyRun(wrong, tmp_path / "out")
    longer = study.model_copy(update={"arms": {**study.arms, "longer": {"stages.0.steps": 3}}})
    with pytest.raises(
        UserError, match="same number of steps, they have: 'still' 2, 'as it is' 2, 'longer' 3"
    ):
        StudyRun(longer, tmp_path / "longer")
