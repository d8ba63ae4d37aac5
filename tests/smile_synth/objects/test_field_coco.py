"""COCO files as tools write them."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from smile_synth.core.errors import UserError
from smile_synth.io.images import Reject
from smile_synth.io.matching import match_files
from smile_synth.objects._item import CutOut, ReadOptions
from smile_synth.objects.readers import list_items
from smile_synth.objects.readers._folders import is_image

HEIGHT, WIDTH = 9, 12
RING = [2, 1, 9, 1, 9, 6, 2, 6]  # columns 2..8, rows 1..5
INSIDE = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
INSIDE[1:6, 2:9] = 1
RLE = {"size": [HEIGHT, WIDTH], "counts": coco_mask.encode(INSIDE)["counts"].decode()}
NUMBERS = [19, *([5, 4] * 6), 5, 30]  # run lengths down the columns


def image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def coco(*names: str, **more: Any) -> dict[str, Any]:
    images = [{"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH} for n, name in enumerate(names)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 1, "segmentation": [RING]} for n in range(len(names))
    ]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    } | more


def read(path: Path, document: Any, **options: Any) -> tuple[list[CutOut], dict[str, str], list[str]]:
    """Return the objects, the reason of everything that was rejected, and the notes."""
    (path / "a.json").write_text(json.dumps(document))
    how = ReadOptions(**options)
    objects, rejected = [], {}
    for item in list_items(str(path / "a.json"), None, how)[1]:
        try:
            for found in item.cut():
                if isinstance(found, CutOut):
                    objects.append(found)
                else:
                    rejected[found.source] = found.reason
        except Reject as reason:
            rejected[item.source] = str(reason)
    return objects, rejected, how.notes


@pytest.mark.parametrize(
    "name",
    [
        "images\\shot 1.png",
        "..\\..\\media\\upload\\4\\shot 1.png",
        "C:\\Users\\someone\\images\\shot 1.png",
        "/home/someone/data/images/shot 1.png",
        "\\\\server\\share\\shot 1.png",
        "./sub/./shot 1.png",
        "shot%201.png",
        "images/SHOT 1.PNG",
        "shot_1.png",
        "/data/upload/4/0f3a91bc-shot_1.png",
        "/data/local-files/?d=data/images/shot%201.png",
        "https://x.org/b/shot%201.png?X-Amz-Date=1",
        "s3://bucket/shot 1.png",
        "file:///home/me/shot%201.png",
    ],
)
def test_file_names_of_other_machines(tmp_path: Path, name: str) -> None:
    image(tmp_path / "deep" / "images" / "shot 1.png")
    image(tmp_path / "deep" / "images" / "shot 2.png")
    objects, rejected, notes = read(tmp_path, coco(name))
    assert len(objects) == 1 and not rejected
    assert notes == [f"{tmp_path / 'a.json'}: 1 image found by the end of the name, first '{name}'"]


def test_names_in_another_unicode_form(tmp_path: Path) -> None:
    image(tmp_path / unicodedata.normalize("NFD", "Zoë.png"))
    objects, _, notes = read(tmp_path, coco(unicodedata.normalize("NFC", "Zoë.png")))
    assert len(objects) == 1 and len(notes) == 1


def test_only_unique_ends_of_names_match(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        image(tmp_path / folder / "0.png", seed=ord(folder))
    image(tmp_path / "c" / "1.png")
    wanted = ["x/a/0.png", "x/0.png", "y/1.png", "z/1.png", "2.png"]
    matches = match_files([[name] for name in wanted], [tmp_path], below=tmp_path, suitable=is_image)
    assert matches.paths == {0: tmp_path / "a" / "0.png"}
    assert matches.problems == {
        1: "ambiguous name: 2 files end with it: a/0.png, b/0.png",
        2: "ambiguous name: several images end with 1.png",
        3: "ambiguous name: several images end with 1.png",
    }


def test_a_file_belongs_to_the_entry_with_its_exact_name(tmp_path: Path) -> None:
    image(tmp_path / "0.png")
    objects, rejected, notes = read(tmp_path, coco("0.png", "other/0.png"))
    assert [item.source for item in objects] == ["0.png#0"] and not notes
    assert rejected == {"other/0.png": "ambiguous name: several images end with 0.png"}


@pytest.mark.parametrize(
    "segmentation",
    [
        [RING],
        RING,
        [[[2, 1], [9, 1], [9, 6], [2, 6]]],
        [[2, 1], [9, 1], [9, 6], [2, 6]],
        [[str(v) for v in RING]],
        json.dumps([RING]),
        [[], RING],
        [RING, [3, 3]],
        [None, RING],
        [[1, 1, 2, None, 3, 3], RING],
        [[1, 1, 2, 2, 3], RING],
        [[4, 4, 4, 4, 4, 4], RING],
        [[-9, -9, -8, -9, -8, -8], RING],
        RLE,
        RLE | {"counts": NUMBERS},
        RLE | {"counts": [float(v) for v in NUMBERS]},
        RLE | {"counts": str(RLE["counts"].encode())},
        RLE | {"size": [str(HEIGHT), str(WIDTH)]},
    ],
)
def test_forms_of_a_segmentation(tmp_path: Path, segmentation: Any) -> None:
    image(tmp_path / "0.png")
    document = coco("0.png")
    document["annotations"][0]["segmentation"] = segmentation
    objects, rejected, _ = read(tmp_path, document)
    assert not rejected and len(objects) == 1
    np.testing.assert_array_equal(objects[0].rgba[..., 3], np.full((5, 7), 255, np.uint8))


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "no segmentation: missing or empty"),
        ([], "no segmentation: missing or empty"),
        ([[]], "bad polygon: 0 points, at least 3 are needed"),
        ([None], "bad polygon: a coordinate is not a finite number"),
        ([[1, 1], [2, 2]], "bad polygon: 1 points, at least 3 are needed"),
        ("polygon", "bad segmentation: neither lists of numbers nor run lengths"),
        (7, "bad segmentation: neither lists of numbers nor run lengths"),
        (RLE | {"counts": "b'x"}, "bad segmentation: neither lists of numbers nor run lengths"),
        (RLE | {"counts": None}, "bad segmentation: neither lists of numbers nor run lengths"),
        ({"counts": [1]}, "bad segmentation: neither lists of numbers nor run lengths"),
        ([[1, 1, 1e400, 2, 3, 3]], "bad polygon: a coordinate is not a finite number"),
    ],
)
def test_unusable_segmentations_are_rejected(tmp_path: Path, segmentation: Any, reason: str) -> None:
    image(tmp_path / "0.png")
    document = coco("0.png")
    document["annotations"][0]["segmentation"] = segmentation
    assert read(tmp_path, document)[1] == {"0.png#0": reason}


@pytest.mark.parametrize(
    ("value", "is_crowd"),
    [("0", False), (" 0 ", False), ("false", False), ("", False), (None, False), (0.0, False), (False, False)]
    + [("1", True), ("true", True), (1, True), (1.0, True), (True, True)],
)
def test_crowd_as_text(tmp_path: Path, value: Any, is_crowd: bool) -> None:
    image(tmp_path / "0.png")
    document = coco("0.png")
    document["annotations"][0]["iscrowd"] = value
    objects, rejected, _ = read(tmp_path, document)
    assert (len(objects), rejected) == ((0, {"0.png#0": "crowd region"}) if is_crowd else (1, {}))
    assert len(read(tmp_path, document, crowd=True)[0]) == 1


@pytest.mark.parametrize(
    ("image_id", "used"), [("7", 7), (7, "7"), (7.0, 7), ("007", 7), ("a", "a"), ([1], "[1]"), (True, 1)]
)
def test_ids_as_text(tmp_path: Path, image_id: Any, used: Any) -> None:
    image(tmp_path / "0.png")
    document = coco("0.png", categories=[{"id": "1", "name": "cat"}])
    document["images"][0] |= {"id": used, "height": str(HEIGHT), "width": f"{WIDTH}.0"}
    document["annotations"][0]["image_id"] = image_id
    objects, rejected, _ = read(tmp_path, document)
    assert [item.class_name for item in objects] == ["cat"] and not rejected


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        ([{"id": 1, "url": "http://x.org/cc"}], "http://x.org/cc"),
        ([{"id": 1}], ""),
        ([{}], ""),
        ([None], ""),
        ({}, ""),
        (None, ""),
        ([{"id": "1", "name": "CC BY"}], "CC BY"),
        ([{"id": 1, "name": ""}, {"id": 0, "name": "none"}], ""),
    ],
)
def test_incomplete_licences(tmp_path: Path, licences: Any, expected: str) -> None:
    image(tmp_path / "0.png")
    document = coco("0.png", licenses=licences)
    document["images"][0]["license"] = 1
    assert [item.licence for item in read(tmp_path, document)[0]] == [expected]


@pytest.mark.parametrize("size", [{"height": 0, "width": 0}, {"height": None}, {"height": "?", "width": []}])
def test_images_without_a_size(tmp_path: Path, size: dict[str, Any]) -> None:
    image(tmp_path / "0.png")
    document = coco("0.png")
    document["images"][0] |= size
    assert len(read(tmp_path, document)[0]) == 1


def test_a_match_of_another_size_is_rejected(tmp_path: Path) -> None:
    Image.new("RGB", (5, 4)).save(tmp_path / "0.png")
    assert read(tmp_path, coco("C:\\0.png"))[1] == {
        "C:\\0.png": "size differs: the image has 4x5 pixels, expected 9x12"
    }


def test_no_image_is_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of its 1 images was found, first x\\0.png.*images=$"):
        read(tmp_path, coco("x\\0.png"))
