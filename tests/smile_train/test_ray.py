"""Corpora and studies on a Ray cluster; benchmarks/ray_corpus.py also kills one of its nodes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smile_synth import ObjectBank, Recipe, UserError, generate
from smile_synth.parallel.cluster import Cluster
from smile_synth.parallel.workers import map_in_order
from smile_synth.sources import Sources
from smile_train.ablate import Study, StudyRun

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Ray itself


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray, connected to a cluster of one processor. Its processes take long to start: one module uses it."""
    module = pytest.importorskip("ray", reason="Ray is an extra")
    module.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield module
    module.shutdown()


@pytest.fixture
def sources(train_bank: Path) -> Sources:
    return Sources(ObjectBank.open(train_bank))


@pytest.fixture
def recipe(config_file: Path) -> Recipe:
    return Recipe.load(config_file.with_name("recipe.yaml"))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_the_bytes_of_a_corpus_are_those_of_one_process(
    ray: Any, recipe: Recipe, sources: Sources, tmp_path: Path, layout: str
) -> None:
    settings: dict[str, Any] = {"num_clips": 7, "seed": 0, "layout": layout, "clips_per_shard": 3}
    generate(recipe, sources, out=tmp_path / "alone", **settings)
    assert generate(recipe, sources, out=tmp_path / "ray", ray="auto", **settings).written == 7
    assert contents(tmp_path / "ray") == contents(tmp_path / "alone")
    assert ray.is_initialized()  # generate does not close the caller's connection


def fail(item: int) -> int:
    if item == 2:
        raise UserError("two is too much")
    return item


def test_an_exception_of_the_cluster_is_raised_here(ray: Any) -> None:
    done = map_in_order(fail, range(4), workers=1, cluster=Cluster("auto"))
    assert next(done) == 0
    with pytest.raises(UserError, match="^two is too much$"):
        list(done)


def test_arms_of_a_study_have_the_scores_of_one_process(
    ray: Any, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {**study.arms, "no GPU here": {"run.device": "cuda"}}
    study = study.model_copy(update={"seeds": [0], "arms": arms})
    monkeypatch.chdir(tmp_path)
    alone, run = StudyRun(study, tmp_path / "here"), StudyRun(study, "there")  # a relative folder, as typed
    alone.run_cell(alone.cells[1])
    (run.cells[0].folder).mkdir(parents=True)
    (run.cells[0].folder / "scores.json").write_text("{}")  # done before
    shown: list[str] = []
    with pytest.raises(UserError, match="device 'cuda': this machine has no GPU"):
        run.run(
            ray="auto",
            progress=lambda what, done, total, remark: shown.append(f"{done}/{total} {remark}"),
        )
    assert shown == ["1/2 as it is, seed 0"]
    scores = [json.loads((cells[1].folder / "scores.json").read_text()) for cells in (run.cells, alone.cells)]
    assert scores[0]["rows"] == scores[1]["rows"] and scores[0]["loss"] == scores[1]["loss"]


def test_no_cluster_gives_one_line(
    ray: Any, recipe: Recipe, sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    # An address instead of "auto": this machine may run another cluster.
    with pytest.raises(
        UserError, match=r"ray '127.0.0.1:1': no cluster answers \(.*\); 'ray start --head' starts one"
    ):
        generate(recipe, sources, out=tmp_path / "c", num_clips=1, seed=0, ray="127.0.0.1:1")
    assert not (tmp_path / "c").exists()
