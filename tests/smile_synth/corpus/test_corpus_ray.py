"""A corpus written on a Ray cluster; benchmarks/ray_corpus.py also kills one of its nodes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smile_synth import ObjectBank, Recipe, UserError, generate
from smile_synth.parallel.cluster import Cluster
from smile_synth.parallel.workers import map_in_order
from smile_synth.sources import Sources

ray = pytest.importorskip("ray", reason="Ray is an extra")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of Ray itself


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node with one processor."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield Cluster("auto")
    ray.shutdown()


def fail(item: int) -> int:
    if item == 2:
        raise UserError("two is too much")
    return item


@pytest.mark.parametrize("layout", ["folder", "shards"])
@pytest.mark.slow
def test_bytes_are_those_of_one_process(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any, cluster: Cluster, layout: str
) -> None:
    settings: dict[str, Any] = {"num_clips": 9, "seed": 0, "layout": layout, "clips_per_shard": 4}
    generate(recipe, Sources(bank), out=tmp_path / "alone", **settings)
    assert generate(recipe, Sources(bank), out=tmp_path / "ray", ray="auto", **settings).written == 9
    assert digests(tmp_path / "ray") == digests(tmp_path / "alone")
    assert ray.is_initialized()  # generate does not close the caller's connection


def test_an_exception_of_the_cluster_is_raised_here(cluster: Cluster) -> None:
    done = map_in_order(fail, range(4), workers=1, cluster=cluster)
    assert next(done) == 0
    with pytest.raises(UserError, match="^two is too much$"):
        list(done)


def test_no_cluster_gives_one_line(bank: ObjectBank, recipe: Recipe, tmp_path: Path) -> None:
    ray.shutdown()
    # An address instead of "auto": this machine may run another cluster.
    with pytest.raises(
        UserError, match=r"ray '127.0.0.1:1': no cluster answers \(.*\); 'ray start --head' starts one"
    ):
        generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=1, seed=0, ray="127.0.0.1:1")
    assert not (tmp_path / "c").exists()
