"""Media and layouts: our reader and third-party readers read the exact content."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from smile_synth import ObjectBank, Recipe, UserError, annotate, composite, generate
from smile_synth.corpus import KINDS, MEDIA, Corpus, merge, repair, to_folder_layout, verify
from smile_synth.io.strict_yaml import parse
from smile_synth.sources import Sources


@pytest.mark.parametrize("layout", ["folder", "shards"])
@pytest.mark.parametrize("media", list(MEDIA))
def test_any_clip_is_read_back(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, media: str, layout: str
) -> None:
    generate(
        recipe,
        Sources(bank),
        out=tmp_path,
        num_clips=5,
        seed=4,
        media=media,
        layout=layout,
        clips_per_shard=2,
        quality=0,
    )
    corpus = Corpus(tmp_path)
    for index in (3, 0, 4):
        scene = corpus.scene(index)
        assert scene.index == index
        difference = np.abs(corpus.frames(index).astype(int) - composite(scene, Sources(bank)))
        assert (
            difference.max() == 0 if MEDIA[media].lossless else difference.mean() < 50
        )  # noise of every colour, at half the resolution
        assert corpus.labels(index)["scene_digest"] == scene.digest
    assert list(corpus) == list(range(5))
    with pytest.raises(UserError, match=r"index 5: corpus '.*' has the clips 0\.\.4"):
        corpus.frames(5)
    with pytest.raises(UserError, match=r"index -1: corpus"):
        corpus.labels(-1)
    with pytest.raises(UserError, match="'avi': the clips of .* have scene, json"):
        corpus.read(0, "avi")


def test_lossless_sides_may_be_odd(bank: ObjectBank, recipe: Recipe, tmp_path: Path) -> None:
    generate(recipe, Sources(bank), out=tmp_path, num_clips=1, seed=0, media="ffv1", size_hw=(27, 36))
    assert np.array_equal(Corpus(tmp_path).frames(0), composite(Corpus(tmp_path).scene(0), Sources(bank)))


def test_the_manifest_says_where_each_file_lies(bank: ObjectBank, recipe: Recipe, tmp_path: Path) -> None:
    generate(
        recipe,
        Sources(bank),
        out=tmp_path,
        num_clips=5,
        seed=0,
        media="png",
        layout="shards",
        clips_per_shard=3,
    )
    rows = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert [row["file"] for row in rows] == ["shards/000000.tar"] * 3 + ["shards/000001.tar"] * 2
    corpus = Corpus(tmp_path)
    for row in rows:
        data = (tmp_path / row["file"]).read_bytes()
        names = [member["name"] for member in row["members"]]
        assert names == ["scene", "json", "000.png", "001.png", "002.png"]
        for member in row["members"]:
            assert data[member["offset"] :][: member["bytes"]] == corpus.read(row["index"], member["name"])
        image = row["members"][2]
        assert row["offset"] == image["offset"]
        with Image.open(io.BytesIO(data[image["offset"] :][: image["bytes"]])) as opened:
            assert np.array_equal(np.asarray(opened), corpus.frames(row["index"])[0])
        factors = json.loads(row["factors"])
        assert [item["family"] for item in factors["objects"]] == row["families"]
    assert not list(tmp_path.rglob("*.parts"))


@pytest.fixture(scope="module")
def shards(bank: ObjectBank, recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two families with factors of other names, every label kind, frames as PNG."""
    folder = tmp_path_factory.mktemp("shards")
    recipe = parse(Recipe, recipe_text + "  - {family: still}\n", name="recipe")
    settings: dict[str, Any] = {
        "media": "png",
        "layout": "shards",
        "clips_per_shard": 4,
        "labels": list(KINDS),
    }
    generate(recipe, Sources(bank), out=folder, num_clips=10, seed=1, **settings)
    return folder


# It closes its files when they are collected.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_shards(shards: Path) -> None:
    import webdataset  # takes long to load

    corpus = Corpus(shards)
    urls = sorted(str(path) for path in shards.glob("shards/*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [int(sample["__key__"]) for sample in samples] == list(range(10))
    for index in (0, 9):
        sample = samples[index]
        assert sample["json"] == corpus.labels(index)
        frames = np.stack([sample[f"{t:03d}.png"] for t in range(3)])
        assert np.array_equal(frames, corpus.frames(index))
        assert sample["scene"] == corpus.read(index, "scene")
        assert np.array_equal(sample["flow.npz"]["flow_xy"], corpus.arrays(index, "flow")["flow_xy"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_hugging_face_datasets_reads_shards(shards: Path, tmp_path: Path) -> None:
    import datasets  # takes long to load

    files = sorted(str(path) for path in shards.glob("shards/*.tar"))
    loaded = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    corpus = Corpus(shards)
    assert [int(key) for key in loaded["__key__"]] == list(range(10))
    sample = loaded[7]
    assert sample["json"]["scene_digest"] == corpus.row(7)["scene_digest"]
    assert sample["json"]["objects"][1]["modal_rle"] == corpus.labels(7)["objects"][1]["modal_rle"]
    assert np.array_equal(np.asarray(sample["001.png"]), corpus.frames(7)[1])
    assert sample["scene"] == corpus.read(7, "scene")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_hugging_face_datasets_reads_the_manifest(shards: Path, tmp_path: Path) -> None:
    import datasets

    manifest = str(shards / "manifest.parquet")
    loaded = datasets.load_dataset("parquet", data_files=manifest, split="train", cache_dir=str(tmp_path))
    assert loaded["index"][:] == list(range(10))
    assert loaded[3]["classes"] == Corpus(shards).row(3)["classes"]


def test_stored_kinds_are_those_of_the_scene(shards: Path, bank: ObjectBank) -> None:
    corpus = Corpus(shards)
    annotation = annotate(corpus.scene(6), Sources(bank))
    assert np.array_equal(corpus.arrays(6, "segmentation")["segmentation"], annotation.segmentation)
    stored = corpus.arrays(6, "tracks")
    tracks = annotation.tracks(stored["queries_txy"])
    np.testing.assert_allclose(stored["points_xy"], tracks.points_xy, atol=1e-4)
    assert np.array_equal(stored["visible"], tracks.visible)
    for kind, pairs in (("flow", [[0, 1], [1, 2]]), ("backward-flow", [[1, 0], [2, 1]])):
        arrays = corpus.arrays(6, kind)
        assert arrays["frames"].tolist() == pairs
        for place, (t0, t1) in enumerate(pairs):
            flow = annotation.flow(t0, t1)
            for name in ("flow_xy", "valid", "occluded", "leaves"):
                assert np.array_equal(arrays[name][place], getattr(flow, name))


def test_shards_do_not_depend_on_workers_and_grow(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any
) -> None:
    settings: dict[str, Any] = {"seed": 0, "layout": "shards", "clips_per_shard": 3}
    generate(recipe, Sources(bank), out=tmp_path / "whole", num_clips=8, workers=2, **settings)
    generate(recipe, Sources(bank), out=tmp_path / "grown", num_clips=4, **settings)
    assert generate(recipe, Sources(bank), out=tmp_path / "grown", num_clips=8, **settings).written == 4
    assert digests(tmp_path / "whole") == digests(tmp_path / "grown")


@pytest.mark.parametrize("layout", ["folder", "shards"])
def test_merged_parts_are_the_whole(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any, layout: str
) -> None:
    settings: dict[str, Any] = {
        "num_clips": 8, "seed": 2, "layout": layout, "clips_per_shard": 3, "labels": ["tracks"],
    }  # fmt: skip
    generate(recipe, Sources(bank), out=tmp_path / "whole", **settings)
    parts = [tmp_path / f"part{i}" for i in range(3)]
    for i, part in enumerate(parts):
        generate(recipe, Sources(bank), out=part, part=(i, 3), **settings)
    assert sum(len(Corpus(part)) for part in parts) == 8
    with pytest.raises(UserError, match="part 1 of 3 is missing"):
        merge([parts[0], parts[2]], tmp_path / "lacking")
    with pytest.raises(UserError, match="part 2 of 3 is given more than once"):
        merge([*parts, parts[2]], tmp_path / "lacking")
    generate(recipe, Sources(bank), out=tmp_path / "other", part=(1, 3), **{**settings, "seed": 3})
    with pytest.raises(UserError, match="are parts of different corpora: seed is 2 and 3"):
        merge([parts[0], tmp_path / "other", parts[2]], tmp_path / "lacking")
    with pytest.raises(UserError, match="is a whole corpus, not a part"):
        merge([tmp_path / "whole"], tmp_path / "lacking")
    assert not (tmp_path / "lacking").exists()
    merge(parts[::-1], tmp_path / "merged")
    assert digests(tmp_path / "merged") == digests(tmp_path / "whole")
    assert merge(parts, tmp_path / "merged").num_clips == 8


def test_file_names_are_on_disk_before_the_manifest(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power loss the manifest must not list files whose names are lost."""
    synced: list[tuple[str, bool]] = []  # folder, whether the manifest existed then
    out = tmp_path

    def record(folder: Path) -> None:
        synced.append((folder.relative_to(tmp_path).as_posix(), (out / "manifest.parquet").exists()))

    for module in ("_store", "_manifest"):
        monkeypatch.setattr(f"smile_synth.corpus.{module}.sync_folder", record)
    settings: dict[str, Any] = {"num_clips": 2, "seed": 0, "media": "png", "part": (0, 1)}
    writers: dict[str, Callable[[], object]] = {
        "new/part": lambda: generate(recipe, Sources(bank), out=out, **settings),
        "merged": lambda: merge([tmp_path / "new" / "part"], out),
        "converted": lambda: to_folder_layout(tmp_path / "merged", out),
    }
    for name, write in writers.items():
        synced.clear()
        out = tmp_path / name
        write()
        folders = ["", "/clips", "/clips/000000", "/clips/000001", "/labels", "/scenes"]
        parents = {".", "new"} if name == "new/part" else {"."}
        assert {folder for folder, exists in synced if not exists} == parents | {name + f for f in folders}
        assert [folder for folder, exists in synced if exists] == [name]


@pytest.mark.parametrize(("layout", "num_parts"), [("folder", 5), ("shards", 4)])
def test_empty_parts_are_merged(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Any, layout: str, num_parts: int
) -> None:
    settings: dict[str, Any] = {"num_clips": 3, "seed": 2, "layout": layout, "clips_per_shard": 2}
    generate(recipe, Sources(bank), out=tmp_path / "whole", **settings)
    parts = [tmp_path / f"part{i}" for i in range(num_parts)]
    for i, part in enumerate(parts):
        generate(recipe, Sources(bank), out=part, part=(i, num_parts), **settings)
        assert verify(part, deep=True, sources=Sources(bank)) == []
        assert repair(part, Sources(bank)).repaired == ()
    empty = next(corpus for corpus in map(Corpus, parts) if not len(corpus))
    assert list(empty) == empty.damaged() == []
    with pytest.raises(UserError, match=r"index 0: corpus '.*' has no clips"):
        empty.scene(0)
    assert merge(parts, tmp_path / "merged").num_clips == 3
    assert digests(tmp_path / "merged") == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"media": "avi"}, "media 'avi': allowed are h264"),
        ({"media": "h265"}, r"did you mean 'h264'\?"),
        ({"layout": "shard"}, r"allowed are folder, shards; did you mean 'shards'\?"),
        ({"labels": ["track"]}, r"labels 'track': allowed are .* did you mean 'tracks'\?"),
        ({"quality": 52}, "quality 52: H.264 has 0"),
        ({"num_clips": 0}, "num_clips must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be in 0\.\.2\^63-1, got -1"),
        ({"seed": 2**63}, rf"seed must be in 0\.\.2\^63-1, got {2**63}"),
        ({"clips_per_shard": 0}, "clips_per_shard must be at least 1, got 0"),
        ({"part": (3, 3)}, r"part=\(3, 3\): expected \(i, n\) with 0 <= i < n"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"size_hw": (240000, 320000)}, "a clip of 644 GiB exceeds the maximum of 16 GiB"),
        ({"size_hw": (-24, -32)}, "at least one pixel"),
    ],
)  # fmt: skip
def test_bad_settings_give_one_clear_line(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        generate(recipe, Sources(bank), out=tmp_path / "c", **{"num_clips": 1, "seed": 0, **settings})
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "c").exists()


def test_an_unknown_option_is_a_type_error(bank: ObjectBank, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'medium'"):
        generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=1, seed=0, medium="png")  # type: ignore[call-arg]
