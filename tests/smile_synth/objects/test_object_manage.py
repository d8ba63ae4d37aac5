"""Near-duplicates, filters, probabilities of classes, merging, exporting, contact sheets."""

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cutting import save
from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.core.texture import Texture
from smile_synth.io.images import Reject
from smile_synth.objects import CutOutOptions, ObjectBank, build_bank, export_bank, merge_banks
from smile_synth.objects._cut_out import prepare
from smile_synth.objects._duplicates import DuplicateIndex, fingerprint_of
from smile_synth.objects._item import CutOut
from smile_synth.objects._manage import straight_rgba
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scenes
from smile_synth.sources import Sources
from smile_synth.visualize import object_sheet

CUT = CutOutOptions(min_side=8)


def blob(seed: int, height: int = 40, width: int = 33) -> np.ndarray:
    """A smooth random pattern on an ellipse, alpha 0..255 with a soft edge."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    rgba = np.zeros((height, width, 4), np.uint8)
    for channel in range(3):
        fx, fy, phase = rng.uniform(0.05, 0.4, 2).tolist() + [rng.uniform(0, 6)]
        rgba[..., channel] = 127 + 120 * np.sin(fx * x + fy * y + phase)
    radius = np.hypot((x - width / 2 + 0.5) / (width / 2), (y - height / 2 + 0.5) / (height / 2))
    rgba[..., 3] = np.clip((1.05 - radius) * 900, 0, 255)
    return rgba


def bank_of(folder: Path, sizes: dict[str, int], *, first: int = 0, **options: object) -> ObjectBank:
    """A bank with so many objects of each class, all different."""
    number = first
    for name, count in sizes.items():
        for k in range(count):
            save(folder / "src" / name / f"{k}.png", blob(number))
            number += 1
    build_bank([folder / "src"], folder / "bank", cut=CUT, **options)
    return ObjectBank.open(folder / "bank")


def test_only_near_duplicates_are_found() -> None:
    rng = np.random.default_rng(0)
    index = DuplicateIndex(4)
    fingerprints = [fingerprint_of(Texture.from_straight_rgba(blob(seed, 70, 60))) for seed in range(40)]
    for number, fingerprint in enumerate(fingerprints):
        assert index.find(fingerprint) is None
        index.add(fingerprint, str(number))
    for number in range(0, 40, 7):
        again = blob(number, 70, 60).astype(int)
        again[..., :3] += rng.integers(-6, 7, again[..., :3].shape)  # recompressed, say
        again = np.clip(again, 0, 255).astype(np.uint8)
        assert index.find(fingerprint_of(Texture.from_straight_rgba(again))) == str(number)
        smaller = np.array(Image.fromarray(again).resize((51, 60)))
        assert index.find(fingerprint_of(Texture.from_straight_rgba(smaller))) == str(number)
        other = again.copy()
        other[..., :3] = other[..., [1, 2, 0]]  # the same shape in other colours is another object
        assert index.find(fingerprint_of(Texture.from_straight_rgba(other))) is None
        stretched = np.array(Image.fromarray(again).resize((90, 60)))
        assert index.find(fingerprint_of(Texture.from_straight_rgba(stretched))) is None
    keeps_all = DuplicateIndex(-1)
    keeps_all.add(fingerprints[0], "0")
    assert keeps_all.find(fingerprints[0]) is None


@pytest.mark.parametrize("distance", [0, 3, 7])
def test_every_hash_within_the_distance_is_found(distance: int) -> None:
    fingerprint = fingerprint_of(Texture.from_straight_rgba(blob(1)))
    rng = np.random.default_rng(distance)
    index = DuplicateIndex(distance)
    index.add(fingerprint, "it")
    for _ in range(50):
        bits = rng.choice(64, distance + 1, replace=False).tolist()
        near = fingerprint.perceptual_hash ^ sum(1 << bit for bit in bits[:distance])
        assert index.find(replace(fingerprint, perceptual_hash=near)) == "it"
        assert index.find(replace(fingerprint, perceptual_hash=near ^ 1 << bits[distance])) is None


def test_filters_name_the_reason() -> None:
    found = CutOut("a", "1", "1", "k", blob(0), from_photo=True)
    two = np.zeros((40, 80, 4), np.uint8)
    two[:, :34], two[5:35, 50:75] = blob(0)[:, np.r_[:33, 32]], blob(1, 30, 25)
    thin = np.zeros((60, 60, 4), np.uint8)
    thin[np.arange(60), np.arange(60)] = thin[np.arange(59), np.arange(59) + 1] = 255

    def refused(message: str, cut_out: CutOut, options: CutOutOptions = CUT) -> None:
        with pytest.raises(Reject, match=message):
            prepare(cut_out, options)

    refused("^truncated by the image's border: 6% of its outline", replace(found, truncation=0.06))
    refused("^mostly covered: 51% by others", replace(found, covered=0.51))
    refused("^too thin: the largest inscribed circle is", replace(found, rgba=thin))
    refused("^too small: 40x33 pixels, the least side is 34", found, replace(CUT, min_side=34))
    pieces = replace(CUT, min_largest_part=0.8)
    refused(r"^in pieces: 6\d% of it is in its largest part", replace(found, rgba=two), pieces)
    # The filter is only for objects that were cut from images.
    assert prepare(replace(found, rgba=two, from_photo=False), pieces).largest_part < 0.7
    kept = prepare(replace(found, truncation=0.04, covered=0.4), CUT)
    assert kept.original_hw == (40, 33) and kept.largest_part == 1.0
    # Alpha falls to one half at (1.05 - 128 / 900) of the radius.
    assert kept.thickness == pytest.approx(0.908 * 33 / 40, abs=0.03)
    assert kept.fill == pytest.approx(blob(0)[..., 3].mean() / 255)


def test_erosion_and_feather_work_inwards() -> None:
    square = np.zeros((40, 50, 4), np.uint8)
    square[5:35, 10:40] = (200, 100, 50, 255)
    found = CutOut("a", "1", "1", "k", square)
    eroded = prepare(found, replace(CUT, erode=3.0)).rgba
    assert eroded.shape[:2] == (24, 24)
    feathered = prepare(found, replace(CUT, feather=6.0)).rgba
    profile = feathered[15, :15, 3].astype(int)
    assert (np.diff(profile) >= 0).all() and profile[0] < 40 and profile[7] == 255
    # The middle of the ramp is half opaque: there the object's extent ends.
    assert 2 <= np.searchsorted(profile, 128) <= 3
    assert (feathered[feathered[..., 3] > 0][:, :3] == (200, 100, 50)).all()


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "src" / "a" / "1.png", blob(0))
    for options, message in (
        ({"erode": -1.0}, "erode must be in 0..64 pixels, got -1.0"),
        ({"feather": float("nan")}, "feather must be in 0..64 pixels, got nan"),
        ({"max_covered": 1.5}, "max_covered is a share and must be in 0..1, got 1.5"),
        ({"duplicate_distance": 8}, "duplicate_distance must be in -1..7 bits, got 8"),
    ):
        with pytest.raises(UserError, match=message):
            build_bank([tmp_path / "src"], tmp_path / "bank", cut=replace(CUT, **options))
    with pytest.raises(UserError, match="workers must be at least 1"):
        build_bank([tmp_path / "src"], tmp_path / "bank", cut=CUT, workers=0)
    with pytest.raises(UserError, match=r"^format 'cocoo': allowed are .*\bcoco, .*did you mean 'coco'"):
        build_bank([tmp_path / "src"], tmp_path / "bank", cut=CUT, format="cocoo")


def test_balance_sets_the_probability_of_classes(tmp_path: Path) -> None:
    bank = bank_of(tmp_path, {"ant": 1, "bee": 4, "cat": 16}, val_fraction=0.0, test_fraction=0.0)
    expected = {
        "uniform": np.array([1, 4, 16]) / 21,
        "class-balanced": np.ones(3) / 3,
        "square-root": np.array([1, 2, 4]) / 7,
    }
    for balance, shares in expected.items():
        selection = bank.selection(balance=balance)
        steps = np.diff(selection.cumulative, prepend=0) if balance != "uniform" else np.full(21, 1 / 21)
        assert np.bincount(bank.class_ids[selection.ids], steps) == pytest.approx(shares)
        recipe = Recipe.load("smile-gaussian", [f"objects.balance={balance}", "num_frames=1"])
        scenes = sample_scenes(recipe, Sources(bank), seed=0, indices=range(1500))
        drawn = [layer.surface.texture_id for scene in scenes for layer in scene.layers[1:]]
        counts = np.bincount(bank.class_ids[drawn], minlength=3)
        assert np.abs(counts / 3000 - shares).max() < 0.04
        assert len(set(drawn)) == 21  # all of a class, not its first
    recipe = Recipe.load("smile-gaussian", ["objects.exclude_classes=[cat]", "num_frames=1"])
    names = {
        layer.class_name
        for s in sample_scenes(recipe, Sources(bank), seed=0, indices=range(60))
        for layer in s.layers[1:]
    }
    assert names == {"ant", "bee"}
    without = bank.selection(exclude_classes=["cat"], balance="class-balanced")
    assert Counter(bank.class_ids[without.ids].tolist()) == {0: 1, 1: 4}
    assert bank.selection(exclude_classes=["cat"], balance="class-balanced") is without
    assert bank.select(classes=["ant", "cat"], exclude_classes=["cat"]).tolist() == [0]
    with pytest.raises(UserError, match="has no class 'cats'; did you mean 'cat'"):
        bank.select(exclude_classes=["cats"])
    with pytest.raises(UserError, match="no object of the classes ant without ant in split 'any'"):
        bank.select(classes=["ant"], exclude_classes=["ant"])


def test_merging_keeps_objects_and_rejects_near_duplicates(tmp_path: Path) -> None:
    first = bank_of(tmp_path / "a", {"ant": 3, "bee": 2})
    second = bank_of(tmp_path / "b", {"bee": 2, "cow": 3}, first=4)  # its first is the last of the other
    digest, kept, dropped = merge_banks([first, second], tmp_path / "both")
    bank = ObjectBank.open(tmp_path / "both")
    bank.verify()
    assert (bank.digest, len(bank), dropped) == (digest, 9, 1) and kept == 9
    assert bank.class_names == ["ant", "bee", "cow"]
    for merged, (origin, object_id) in enumerate(
        [(first, i) for i in range(5)] + [(second, i) for i in range(1, 5)]
    ):
        before, after = origin.info(object_id), bank.info(merged)
        assert after == replace(before, object_id=merged, texel_offset=after.texel_offset)
        np.testing.assert_array_equal(bank.texture(merged).texels, origin.texture(object_id).texels)
    (rejected,) = json.loads((tmp_path / "both" / "report.json").read_text())["rejected"]
    assert rejected == {"given": second.path, "source": "bee/0.png", "reason": "near-duplicate: of bee/1.png"}
    sources = json.loads((tmp_path / "both" / "bank.json").read_text())["sources"]
    assert [source["bank_digest"] for source in sources] == [first.digest, second.digest]
    with pytest.raises(UserError, match="both' is one of the banks to be merged"):
        merge_banks([bank, first], tmp_path / "both", overwrite=True)
    with pytest.raises(UserError, match="all of its objects are in the banks before it"):
        merge_banks([first, first], tmp_path / "twice")
    assert not (tmp_path / "twice").exists() and not list(tmp_path.glob(".*"))


def test_all_objects_of_an_image_are_in_one_split(tmp_path: Path) -> None:
    """Objects of one image in two banks, split by different seeds."""
    for name, seed in (("a", 0), ("b", 1)):
        for k in range(20):
            save(tmp_path / name / "src" / "x" / f"{k}.png", blob(100 * seed + k))
        rows = "\n".join(f"x/{k}.png,photo{k}" for k in range(20))
        (tmp_path / name / "src" / "index.csv").write_text(f"file,source_image\n{rows}\n")
        build_bank([tmp_path / name / "src"], tmp_path / name / "bank", cut=CUT, seed=seed, test_fraction=0.4)
    banks = [ObjectBank.open(tmp_path / name / "bank") for name in ("a", "b")]
    with pytest.raises(
        UserError, match=r"objects are from images.*first photo\d+ \(\w+ in .*set resplit=True"
    ):
        merge_banks(banks, tmp_path / "both")
    merge_banks(banks, tmp_path / "both", resplit=True, seed=3, test_fraction=0.3)
    both = ObjectBank.open(tmp_path / "both")
    sides = {}
    for object_id in range(len(both)):
        info = both.info(object_id)
        assert sides.setdefault(info.image_key, info.split) == info.split
    assert len(sides) == 20 and len(both) == 40 and set(sides.values()) == {"train", "val", "test"}


def test_the_same_file_in_two_folders_is_the_same_image(tmp_path: Path) -> None:
    for k in range(12):
        save(tmp_path / "one" / "x" / f"{k}.png", blob(k))
        save(tmp_path / "two" / "y" / f"other{k}.png", blob(k))
    every = replace(CUT, duplicate_distance=-1)
    build_bank([tmp_path / "one", tmp_path / "two"], tmp_path / "bank", cut=every, test_fraction=0.5)
    bank = ObjectBank.open(tmp_path / "bank")
    by_key: dict[str, set[str]] = {}
    for i in range(24):
        by_key.setdefault(bank.info(i).image_key, set()).add(bank.info(i).split)
    assert len(by_key) == 12 and all(len(sides) == 1 for sides in by_key.values())
    assert set.union(*by_key.values()) >= {"train", "test"}


def test_export_and_back(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    for name in ("ant", "bee/small"):
        for k in range(3):
            save(folder / "src" / name / f"{k}.png", blob(k + 10 * len(name)))
    (folder / "src" / "index.csv").write_text("file,licence,annotation_id\nant/1.png,CC0,77\n")
    build_bank([folder / "src"], folder / "bank", cut=CUT)
    bank = ObjectBank.open(folder / "bank")
    assert export_bank(bank, tmp_path / "out") == 6
    with (tmp_path / "out" / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["file"] == "ant/000001.png" and rows[1]["licence"] == "CC0"
    assert rows[5]["file"] == "bee/small/000005.png"
    build_bank([tmp_path / "out"], tmp_path / "again", cut=CUT)
    again = ObjectBank.open(tmp_path / "again")
    for i in range(6):
        np.testing.assert_array_equal(again.texture(i).level(0), bank.texture(i).level(0))
        for name in ("class_name", "split", "licence", "annotation_id", "image_key"):
            assert getattr(again.info(i), name) == getattr(bank.info(i), name)
    assert export_bank(bank, tmp_path / "some", bank.select(classes=["ant"])) == 3
    with pytest.raises(UserError, match="out' exists and is not an empty folder"):
        export_bank(bank, tmp_path / "out")


def test_straight_alpha_gives_the_same_texels_for_every_colour_and_alpha(tmp_path: Path) -> None:
    alpha, color = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    straight = np.stack([color, color[:, ::-1], color // 2, np.maximum(alpha, 1)], axis=-1).astype(np.uint8)
    save(tmp_path / "src" / "a" / "1.png", straight)
    build_bank([tmp_path / "src"], tmp_path / "bank", cut=CUT)
    bank = ObjectBank.open(tmp_path / "bank")
    back = Texture.from_straight_rgba(straight_rgba(bank, 0))
    np.testing.assert_array_equal(back.level(0), bank.texture(0).level(0))


def test_sheet_shows_objects_on_a_background(tmp_path: Path) -> None:
    save(tmp_path / "src" / "red thing" / "1.png", np.full((20, 40, 4), (250, 0, 0, 255), np.uint8))
    save(tmp_path / "src" / "blue" / "1.png", blob(3))
    build_bank([tmp_path / "src"], tmp_path / "bank", cut=CUT)
    bank = ObjectBank.open(tmp_path / "bank")
    sheet = object_sheet(bank, [1, 0, 1], background=(0, 255, 0), side=44, columns=2, captions=False)
    assert sheet.shape == (88, 88, 3)
    assert sheet[22, 22].tolist() == [250, 0, 0] and sheet[22, 3].tolist()[0] > 200  # 40 wide in 44
    assert sheet[2, 2].tolist() == sheet[46, 2].tolist() == [0, 255, 0]
    assert sheet[60, 60].tolist() == [245, 245, 245]  # an empty cell is paper
    photo = np.zeros((30, 90, 3), np.uint8)
    photo[:, 30:60] = 99  # only the middle fills a cell
    assert (object_sheet(bank, [0], background=photo, side=44, captions=False)[0] == 99).all()
    named = object_sheet(bank, [0, 1], side=44)
    assert named.shape == (60, 88, 3) and named[45:].min() < 150
    with pytest.raises(ValueError, match="at least one object"):
        object_sheet(bank, [])
