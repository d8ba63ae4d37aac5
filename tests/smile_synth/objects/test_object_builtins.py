import json
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from smile_synth.objects import ObjectBank, build_bank
from smile_synth.objects._item import CutOut, ReadOptions
from smile_synth.objects._polygons import coverage
from smile_synth.objects.readers import _photos as photos
from smile_synth.objects.readers import _shapes as shapes


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ObjectBank:
    out = tmp_path_factory.mktemp("builtin") / "bank"
    report = build_bank(["builtin:shapes", "builtin:photos"], out)
    assert not report.rejected
    return ObjectBank.open(out)


def attributes(bank: ObjectBank, object_id: int) -> dict[str, str]:
    return dict(json.loads(bank.info(object_id).attributes))


def test_counts(bank: ObjectBank) -> None:
    counts = Counter(bank.class_names[i] for i in bank.class_ids)
    drawn = {shape: 40 for shape in shapes.OUTLINES}
    things = {
        "badge": 1, "camera": 1, "cat": 1, "cell": 1, "coin": 24, "cup": 1, "helmet": 1, "person": 2,
        "retina": 1, "rocket": 1, "spacecraft": 1,
    }  # fmt: skip
    surfaces = {name: 9 for name in ("brick", "galaxies", "grass", "gravel", "moon", "tissue")}
    assert counts == drawn | things | surfaces
    assert len(bank) == 480 + 35 + 54
    names = [bank.info(i).source for i in range(len(bank))]
    assert len(set(names)) == len(names)
    assert all(bank.info(i).licence for i in range(len(bank)))


def test_shapes_cover_every_combination(bank: ObjectBank) -> None:
    found = [attributes(bank, i) for i in range(480)]
    assert len(shapes.OUTLINES) >= 8 and len(shapes.COLOURS) >= 8 and len(shapes.TEXTURES) >= 5
    expected = set(product(shapes.OUTLINES, shapes.COLOURS, shapes.TEXTURES))
    assert {(a["shape"], a["color"], a["texture"]) for a in found} == expected
    assert all(bank.info(i).class_name == found[i]["shape"] for i in range(480))
    assert bank.info(0).attributes == '{"color": "red", "shape": "arrow", "texture": "plain"}'
    assert len({bank.info(i).source_image for i in range(480)}) == 480
    assert {bank.info(i).split for i in range(480)} == {"train", "val", "test"}
    longest = np.maximum(bank.heights, bank.widths)[:480]
    assert longest.min() >= 94 and longest.max() == 96


def test_shapes_have_the_colour_they_say(bank: ObjectBank) -> None:
    hues = {name: hue for name, (hue, _, _) in shapes.COLOURS.items()}
    for object_id in range(480):
        info = attributes(bank, object_id)
        if info["texture"] != "plain":
            continue
        rgb = bank.texture(object_id).level(0)[..., :3][bank.texture(object_id).level(0)[..., 3] == 255]
        r, g, b = rgb.mean(axis=0)
        hue = np.degrees(np.arctan2(np.sqrt(3) * (g - b), 2 * r - g - b))
        off = {name: abs((hue - value + 180) % 360 - 180) for name, value in hues.items()}
        assert min(off, key=off.__getitem__) == info["color"]


def test_shapes_are_anti_aliased_and_vary(bank: ObjectBank) -> None:
    for object_id in bank.select(classes=["circle"]):
        alpha = bank.texture(int(object_id)).level(0)[..., 3]
        assert len(np.unique(alpha)) > 20
        assert alpha.mean() / 255 == pytest.approx(np.pi / 4, abs=0.01)
    sizes = {(bank.heights[i], bank.widths[i]) for i in bank.select(classes=["square"])}
    assert len(sizes) > 15


def test_seed_changes_what_is_drawn() -> None:
    def drawn(seed: int) -> np.ndarray:
        (found,) = shapes.read_shapes("builtin:shapes", ReadOptions(seed))[7].cut()
        assert isinstance(found, CutOut)
        return found.rgba

    np.testing.assert_array_equal(drawn(0), drawn(0))
    assert drawn(0).shape != drawn(1).shape or (drawn(0) != drawn(1)).any()


def test_objects_of_one_photo_share_a_split_and_coins_do_not(bank: ObjectBank) -> None:
    astronaut = [bank.info(i) for i in range(480, len(bank)) if bank.info(i).source.startswith("astronaut")]
    assert [info.class_name for info in astronaut] == ["person", "helmet", "spacecraft", "badge"]
    assert {info.source_image for info in astronaut} == {"astronaut.png"}
    coins = [bank.info(int(i)) for i in bank.select(classes=["coin"])]
    assert [info.source_image for info in coins] == [f"coins.png#{k}" for k in range(24)]


def test_coins_and_patches_share_no_pixel() -> None:
    photo = json.loads(photos.OUTLINE_FILE.read_text("utf-8"))["coins.png"]
    height, width = photo["size_hw"]
    total = np.zeros((height, width))
    for coin in photo["objects"]:
        total += coverage([np.array(coin["rings"][0], float).reshape(-1, 2)], height, width) > 0
    assert total.max() == 1
    assert not set(photos.SURFACES) & set(json.loads(photos.OUTLINE_FILE.read_text("utf-8")))


def test_cutouts_look_like_their_photo(bank: ObjectBank) -> None:
    (cup,) = bank.select(classes=["cup"])
    level = bank.texture(int(cup)).level(0)
    assert (level.shape[0], level.shape[1]) == (235, 256)
    assert level[0, 0, 3] == 0 and level[110, 128, 3] == 255
    red, green, blue = level[180, 40, :3].astype(int)  # the saucer
    assert red > 2 * green and red > 2 * blue
    (person,) = (i for i in bank.select(classes=["person"]) if "cameraman" in bank.info(int(i)).attributes)
    camera = bank.texture(int(person)).level(0)
    np.testing.assert_array_equal(camera[..., 0], camera[..., 1])


def test_coins_are_cut_at_their_position(bank: ObjectBank) -> None:
    coins = json.loads(photos.OUTLINE_FILE.read_text("utf-8"))["coins.png"]
    photo = photos.load_photo("coins.png", tuple(coins["size_hw"]))
    for coin, object_id in zip(coins["objects"], bank.select(classes=["coin"]), strict=True):
        level = bank.texture(int(object_id)).level(0)
        ring = np.array(coin["rings"][0]).reshape(-1, 2)
        rows, columns = np.nonzero(coverage([ring], *photo.shape[:2]))
        here = photo[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert here.shape[:2] == level.shape[:2]
        window = np.s_[13:-13, 13:-13]
        np.testing.assert_array_equal(level[window][..., :3], here[window])


def test_photos_that_are_not_installed_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moon = photos.SURFACES["moon.png"]
    surfaces = {"moon.png": moon, "nebula.png": moon, "rocket.jpg": moon}
    monkeypatch.setattr(photos, "SURFACES", surfaces)
    monkeypatch.setattr(photos, "_objects", list)
    report = build_bank(["builtin:photos"], tmp_path / "bank")
    assert report.num_objects == 9
    reasons = [(item.source, item.reason) for item in report.rejected]
    missing = "the installed scikit-image does not ship this photograph"
    other = "another image than expected: 427x640 pixels"
    assert reasons == [(f"nebula.png#{k}", missing) for k in range(9)] + [
        (f"rocket.jpg#{k}", other) for k in range(9)
    ]


def test_coverage_is_the_area_inside() -> None:
    box = np.array([[1.25, 0.5], [4.5, 0.5], [4.5, 3.0], [1.25, 3.0]])
    expected = np.outer([0.5, 1, 1, 0], [0, 0.75, 1, 1, 0.5, 0])
    for ring in (box, box[::-1]):
        np.testing.assert_array_equal(coverage([ring], 4, 6), np.floor(expected * 255 + 0.5))
    hole = np.array([[2.0, 1.0], [3.0, 1.0], [3.0, 2.0], [2.0, 2.0]])
    expected[1, 2] = 0
    np.testing.assert_array_equal(coverage([box, hole], 4, 6), np.floor(expected * 255 + 0.5))
    outside = box - [3.0, 2.0]  # leaves the image at the left and the top
    np.testing.assert_array_equal(coverage([outside], 2, 3), [[255, 128, 0], [0, 0, 0]])
    triangle = np.array([[0.0, 0.0], [5.0, 7.0], [0.0, 7.0]])
    assert coverage([triangle], 7, 5).sum() / 255 == pytest.approx(17.5, abs=0.03)
