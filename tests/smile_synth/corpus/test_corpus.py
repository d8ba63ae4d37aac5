"""Corpora: equal bytes for any number of workers, continuation after a kill, files that others read."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco_mask

from smile_synth import ObjectBank, Recipe, Scene, UserError, annotate, composite, generate
from smile_synth.corpus import Corpus, CorpusHeader, verify
from smile_synth.exporters import export
from smile_synth.io.strict_yaml import parse
from smile_synth.sources import Sources


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any
) -> None:
    generate(recipe, Sources(bank), out=tmp_path / "one", num_clips=4, seed=0, workers=1)
    generate(recipe, Sources(bank), out=tmp_path / "two", num_clips=4, seed=0, workers=2)
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert one == two
    assert {name.split("/")[0] for name in one} == {
        "scenes", "clips", "labels", "corpus.json", "recipe.yaml", "manifest.parquet",
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_two_threads_write_two_corpora(
    bank: ObjectBank, recipe: Recipe, recipe_text: str, tmp_path: Path, digests: Any, layout: str
) -> None:
    """Two calls in one program must not share any state."""
    other = parse(Recipe, recipe_text.replace("num_frames: 3", "num_frames: 2"), name="other")
    numbers = {"a": (recipe, 9), "b": (other, 14)}

    def write(name: str) -> int:
        recipe, num_clips = numbers[name]
        settings: dict[str, Any] = {"num_clips": num_clips, "seed": 0, "layout": layout, "clips_per_shard": 4}
        return generate(recipe, Sources(bank), out=tmp_path / name, workers=1, **settings).written

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(write, numbers)) == [9, 14]
        faults = threads.map(lambda name: verify(tmp_path / name, deep=True, sources=Sources(bank)), numbers)
        assert list(faults) == [[], []]
        list(
            threads.map(lambda name: export(tmp_path / name, "davis", tmp_path / f"{name} together"), numbers)
        )
    for name in numbers:
        export(tmp_path / name, "davis", tmp_path / f"{name} alone")
        assert digests(tmp_path / f"{name} together") == digests(tmp_path / f"{name} alone")


def test_a_bug_in_a_worker_stays_a_traceback(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OSError of other code must not be reported as an error of the manifest."""

    def broken(*arguments: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "weights.bin")

    monkeypatch.setattr("smile_synth.corpus._generate.label_files", broken)
    with pytest.raises(FileNotFoundError, match="weights.bin"):
        generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=2, seed=0)
    assert not list((tmp_path / "c").rglob("*.part"))


def test_another_seed_gives_other_clips(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any
) -> None:
    for seed in (0, 1):
        generate(recipe, Sources(bank), out=tmp_path / str(seed), num_clips=1, seed=seed)
    name = "clips/000000.mp4"
    assert digests(tmp_path / "0")[name] != digests(tmp_path / "1")[name]


def test_continues_and_raises_num_clips(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any
) -> None:
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    generate(recipe, Sources(bank), out=whole, num_clips=4, seed=3)
    assert generate(recipe, Sources(bank), out=grown, num_clips=2, seed=3).written == 2
    (grown / "clips" / "000001.mp4").unlink()
    (grown / "labels" / "000000.json.0a1b2c3d.part").write_text("cut")  # a partial file of a killed run
    (grown / "labels" / "000000.json").unlink()
    assert generate(recipe, Sources(bank), out=grown, num_clips=4, seed=3).written == 4
    assert digests(whole) == digests(grown)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_killed_run_ends_byte_identical(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any, layout: str
) -> None:
    out, num_clips = tmp_path / "killed", 120
    settings: dict[str, Any] = {"num_clips": num_clips, "seed": 0, "layout": layout, "clips_per_shard": 7}
    process = multiprocessing.get_context("forkserver").Process(
        target=generate, args=(recipe, Sources(bank)), kwargs={"out": out, **settings}
    )
    process.start()
    deadline = time.monotonic() + 90
    pattern = "clips/*.mp4" if layout == "folder" else "shards/*.tar"
    while len(list(out.glob(pattern))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not (out / "manifest.parquet").exists()
    with pytest.raises(UserError, match=f"is not finished: its manifest has 0 of {num_clips} clips"):
        Corpus(out)
    standing = 2 if layout == "folder" else 14
    assert generate(recipe, Sources(bank), out=out, **settings).written <= num_clips - standing + 1
    generate(recipe, Sources(bank), out=tmp_path / "undisturbed", **settings)
    assert digests(out) == digests(tmp_path / "undisturbed")


def test_manifest_labels_and_scene_agree(bank: ObjectBank, recipe: Recipe, tmp_path: Path) -> None:
    generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=2, seed=0, fps=12)
    row = pq.read_table(tmp_path / "c" / "manifest.parquet").to_pylist()[1]
    media = (tmp_path / "c" / row["file"]).read_bytes()
    assert row["index"] == 1 and row["bytes"] == len(media)
    assert row["sha256"] == hashlib.sha256(media).hexdigest()
    labels = json.loads((tmp_path / "c" / "labels" / "000001.json").read_text())
    scene = Scene.from_bytes((tmp_path / "c" / "scenes" / "000001.scene").read_bytes())
    assert scene.digest == labels["scene_digest"] == row["scene_digest"]
    exact = annotate(scene, Sources(bank)).labels
    for i, item in enumerate(labels["objects"]):
        decoded = coco_mask.decode(item["modal_rle"]).transpose(2, 0, 1).astype(bool)
        assert np.array_equal(decoded, exact.modal_masks[i])
        read = np.array([[np.nan] * 4 if b is None else b for b in item["modal_boxes_xyxy"]], float)
        np.testing.assert_allclose(read, exact.modal_boxes_xyxy[i], atol=1e-4)
    assert row["classes"] == list(exact.class_names)
    with av.open(str(tmp_path / "c" / row["file"])) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate == 12
    assert np.stack(frames).shape == (3, 24, 32, 3)


def test_video_shows_the_scene(bank: ObjectBank, tmp_path: Path, recipe_text: str) -> None:
    text = recipe_text.replace("{kind: noise}", "{kind: solid, color: [40, 90, 160]}")
    recipe = parse(Recipe, text, name="recipe")
    generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=1, seed=0, size_hw=(96, 128))
    scene = Scene.from_bytes((tmp_path / "c" / "scenes" / "000000.scene").read_bytes())
    with av.open(str(tmp_path / "c" / "clips" / "000000.mp4")) as container:
        decoded = np.stack(
            [f.to_ndarray(format="rgb24") for f in container.decode(container.streams.video[0])]
        )
    exact = composite(scene, Sources(bank))
    assert exact.shape == decoded.shape == (3, 96, 128, 3)
    flat = annotate(scene, Sources(bank)).labels.segmentation == 0
    assert np.abs(decoded.astype(int) - exact)[flat].mean() < 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds another corpus: seed is 0 there and 1 now"),
        ({"size_hw": (48, 64)}, "size_hw is"),
        ({"fps": 3.0}, "fps is 8.0 there and 3.0 now"),
    ],
)
def test_refuses_another_corpus(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any, change: dict[str, object], message: str
) -> None:
    settings: dict[str, object] = {"out": tmp_path / "c", "num_clips": 1, "seed": 0}
    generate(recipe, Sources(bank), **settings)  # type: ignore[arg-type]
    before = digests(tmp_path / "c")
    with pytest.raises(UserError, match=message):
        generate(recipe, Sources(bank), **{**settings, **change})  # type: ignore[arg-type]
    assert digests(tmp_path / "c") == before


def test_a_long_list_that_differs_is_shortened(bank: ObjectBank, recipe: Recipe, tmp_path: Path) -> None:
    generate(recipe, Sources(bank), out=tmp_path, num_clips=1, seed=0)
    header = CorpusHeader.read(tmp_path)
    other = replace(header, classes=tuple(f"c{i}" for i in range(70)))
    assert header.differences(other) == [
        ("classes", "['class0', 'class1']", "['c0', 'c1', 'c2', ... 70 in all]")
    ]
    assert hash(header) == hash(CorpusHeader.read(tmp_path)) and header != other
    assert repr(Corpus(tmp_path)) == f"Corpus('{tmp_path}', 1 clip of 3x24x32, h264, folder)"


def test_refuses_foreign_folder_odd_size_and_second_writer(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not empty and has no corpus.json"):
        generate(recipe, Sources(bank), out=tmp_path / "mine", num_clips=1, seed=0)
    assert digests(tmp_path / "mine").keys() == {"thesis.txt"}
    with pytest.raises(UserError, match="needs even sides"):
        generate(recipe, Sources(bank), out=tmp_path / "odd", num_clips=1, seed=0, size_hw=(27, 36))
    with pytest.raises(UserError, match="must keep the recipe's aspect 24x32"):
        generate(recipe, Sources(bank), out=tmp_path / "aspect", num_clips=1, seed=0, size_hw=(32, 32))
    assert not (tmp_path / "odd").exists() and not (tmp_path / "aspect").exists()
    generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=1, seed=0)
    with (tmp_path / "c" / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as another process does
        with pytest.raises(UserError, match="another process or thread is writing"):
            generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=2, seed=0)
