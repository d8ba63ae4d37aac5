import pickle
import re
from collections import Counter

import cv2
import numpy as np
import pytest

from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream
from smile_synth.io.images import Reject
from smile_synth.objects._item import CutOut, ReadOptions
from smile_synth.objects.readers import _drawn as drawn
from smile_synth.objects.readers._photos import SURFACES

CLASS = re.compile(r"circle|ellipse|polygon-[3-9]|star-[3-9]|blob|letter-[A-Z]|digit-[0-9]")


def draw(seed: int, number: int) -> CutOut:
    (found,) = drawn._item(seed, number).cut()
    assert isinstance(found, CutOut)
    return found


@pytest.fixture(scope="module")
def drawings() -> list[CutOut]:
    return [draw(3, number) for number in range(120)]


def test_source_gives_the_count_and_the_seed() -> None:
    items = drawn.read_drawn("drawn:3", ReadOptions(seed=5))
    assert [item.source for item in items] == [f"drawn/seed5-000000{number}" for number in range(3)]
    assert len(drawn.read_drawn("drawn", ReadOptions())) == 1000
    for item, copy in zip(items, pickle.loads(pickle.dumps(items)), strict=True):
        (found,), (again,) = item.cut(), copy.cut()
        np.testing.assert_array_equal(found.rgba, again.rgba)


@pytest.mark.parametrize(
    "source", ["drawn:0", "drawn:x", "drawn:", "drawn:-3", "drawn:2.5", "drawn:²", "drawn:99999999"]
)
def test_bad_count(source: str) -> None:
    with pytest.raises(
        UserError, match=f"object source '{re.escape(source)}': expected drawn:COUNT.*1 to 9999999"
    ):
        drawn.read_drawn(source, ReadOptions())


def test_drawing_depends_on_seed_and_number_only(drawings: list[CutOut]) -> None:
    again = draw(3, 7)
    assert np.array_equal(again.rgba, drawings[7].rgba)
    assert (again.class_name, again.attributes) == (drawings[7].class_name, drawings[7].attributes)
    other = draw(4, 7)
    assert other.rgba.shape != again.rgba.shape or (other.rgba != again.rgba).any()
    assert other.source_image != again.source_image
    # Drawings with crops of one photograph count as one image, all others as their own.
    photos = [found for found in drawings if "photo" in found.attributes]
    assert len({found.image_key for found in photos}) == len({f.attributes["photo"] for f in photos}) == 6
    assert len({found.image_key for found in drawings}) == len(drawings) - len(photos) + 6


def test_classes_and_attributes(drawings: list[CutOut]) -> None:
    kinds = Counter(found.attributes["shape"] for found in drawings)
    assert set(kinds) == set(drawn.KINDS)
    assert set(found.attributes["texture"] for found in drawings) == set(drawn.TEXTURES)
    for found in drawings:
        assert CLASS.fullmatch(found.class_name)
        assert found.class_name.split("-")[0] == found.attributes["shape"]
        assert found.licence and not found.from_photo
        is_photo = found.attributes["texture"] == "photo"
        assert ("photo" in found.attributes) == is_photo
        assert found.attributes.get("color", "red") in drawn.COLOURS
        assert is_photo or "color" in found.attributes


def test_nothing_is_degenerate(drawings: list[CutOut]) -> None:
    for found in drawings:
        assert found.rgba.dtype == np.uint8 and max(found.rgba.shape[:2]) == drawn.LONG_SIDE
        alpha = found.rgba[..., 3]
        assert min(alpha.shape) >= 0.3 * drawn.LONG_SIDE
        assert alpha.mean() / 255 >= 0.15
        assert cv2.connectedComponents((alpha >= 128).astype(np.uint8))[0] == 2  # one piece
        edges = ((alpha > 0) & (alpha < 255)).sum()
        assert edges > 0.5 * (alpha.shape[0] + alpha.shape[1])  # anti-aliased
        assert alpha[:3].any() and alpha[-3:].any() and alpha[:, :3].any() and alpha[:, -3:].any()


@pytest.mark.parametrize("rings", [[[0, 0], [9, 0], [9, 1], [0, 1]], [[0, 0], [9, 9], [8, 9], [0, 1]]])
def test_slivers_are_refused(rings: list[list[int]]) -> None:
    assert not drawn._is_thick_enough(drawn._fitted([np.array(rings, np.float64)]))
    assert drawn._is_thick_enough(drawn._fitted([np.array([[0, 0], [9, 0], [0, 5]], np.float64)]))


@pytest.mark.parametrize(
    ("character", "holes"),
    [("A", 1), ("B", 2), ("C", 0), ("D", 1), ("O", 1), ("Q", 1), ("8", 2), ("1", 0), ("0", 1)],
)
@pytest.mark.parametrize("font", drawn.FONTS)
def test_characters_have_their_holes(font: str, character: str, holes: int) -> None:
    rings = drawn._glyph(font, character)
    assert len(rings) == 1 + holes
    outer, alpha = rings[0], drawn._fitted(rings)
    for hole in rings[1:]:
        x, y = (hole.mean(axis=0) - outer.min(axis=0)) * drawn.LONG_SIDE / np.ptp(outer, axis=0).max()
        assert alpha[int(y), int(x)] == 0


@pytest.mark.parametrize("characters", ["ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"])
def test_every_character_is_whole_and_inside_its_canvas(characters: str) -> None:
    for font in drawn.FONTS:
        for character in characters:
            outer, *holes = drawn._glyph(font, character)
            assert outer.min() > 1 and outer.max() < 798
            assert all((hole.min(axis=0) > outer.min(axis=0)).all() for hole in holes)


def test_solid_has_the_colour_it_says() -> None:
    for number in range(30):
        rng = RandomStream(0, number, "colour")
        rgb, facts, _ = drawn._solid(30, 20, rng)
        hue, saturation, value = drawn.COLOURS[facts["color"]]
        hsv = cv2.cvtColor(rgb.mean(axis=(0, 1), keepdims=True).astype(np.float32) / 255, cv2.COLOR_RGB2HSV)[
            0, 0
        ]
        apart = abs((hsv[0] - hue + 180) % 360 - 180)
        assert apart < 7 or saturation < 0.3
        assert hsv[1] == pytest.approx(saturation, abs=0.15 * saturation + 0.02)
        assert hsv[2] == pytest.approx(value, abs=0.15)


def test_photo_without_its_photograph_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "TEXTURES", {"photo": drawn._photo})
    missing = {f"no-{name}": surface for name, surface in SURFACES.items()}
    monkeypatch.setattr(drawn, "SURFACES", missing)
    with pytest.raises(Reject):
        draw(0, 0)
