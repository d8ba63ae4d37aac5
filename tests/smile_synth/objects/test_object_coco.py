import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cutting import cut_all
from PIL import Image
from pycocotools import mask as coco_mask

from smile_synth.core.errors import UserError
from smile_synth.objects._item import ReadOptions
from smile_synth.objects._polygons import union_coverage
from smile_synth.objects.readers._coco import is_coco, read_coco
from smile_synth.objects.readers._segments import decompress

DATA = Path(__file__).parents[3] / "../shared/data"
HEIGHT, WIDTH = 5, 7
SQUARE = [2.5, 1, 5, 1, 5, 4, 2.5, 4]


def save_image(path: Path, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(path)
    return rgb


def entry(image_id: int, **more: Any) -> dict[str, Any]:
    return {"id": image_id, "file_name": f"{image_id}.png", "height": HEIGHT, "width": WIDTH} | more


def annotation(number: Any, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": 1, "category_id": 3, "segmentation": segmentation} | more


def document(path: Path, annotations: list[Any], images: list[Any] | None = None, **more: Any) -> str:
    data = {"images": [entry(1)] if images is None else images, "annotations": annotations}
    data |= {"categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]} | more
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return str(path)


def test_polygons_and_run_lengths_are_cut_exactly(tmp_path: Path) -> None:
    rgb = save_image(tmp_path / "1.png")
    hard = np.zeros((HEIGHT, WIDTH), np.uint8)
    hard[1:4, 3:6] = 1
    hard[2, 4] = 0
    encoded = coco_mask.encode(np.asfortranarray(hard))
    edges = np.flatnonzero(np.diff(np.r_[0, hard.T.ravel(), 1 - hard[-1, -1]]))
    counts = np.diff(np.r_[0, edges]).tolist()
    rle = {"size": [HEIGHT, WIDTH]}
    source = document(
        tmp_path / "a.json",
        [
            annotation(11, [SQUARE, [0, 4, 1, 4, 1, 5]], category_id=7),
            annotation(12, rle | {"counts": counts}),
            annotation(13, rle | {"counts": encoded["counts"].decode()}),
        ],
        [entry(1, license=4)],
        licenses=[{"id": 4, "name": "CC BY"}],
    )
    items = read_coco(source, ReadOptions())
    assert [item.source for item in items] == ["1.png"] and items[0].files[0] == tmp_path / "1.png"
    cut_outs, rejected = cut_all(items)
    assert not rejected
    by_id = {found.annotation_id: found for found in cut_outs}
    polygon = by_id["11"]
    assert (polygon.source, polygon.source_image, polygon.class_name) == ("1.png#11", "1.png", "dog")
    assert polygon.licence == "CC BY" and polygon.from_photo
    alpha = union_coverage(
        [np.reshape(SQUARE, (-1, 2)), np.array([[0, 4], [1, 4], [1, 5]], float)], HEIGHT, WIDTH
    )
    np.testing.assert_array_equal(polygon.rgba, np.dstack([rgb, alpha])[1:5, 0:5])
    assert polygon.rgba[0, 2, 3] == 128
    for number in ("12", "13"):
        np.testing.assert_array_equal(by_id[number].rgba, np.dstack([rgb, hard * 255])[1:4, 3:6])
        assert by_id[number].image_key == polygon.image_key and len(polygon.image_key) == 32


def test_smaller_objects_cover_larger_ones(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png")
    large, small = [0, 0, 6, 0, 6, 4, 0, 4], [1, 1, 3, 1, 3, 4, 1, 4]
    source = document(tmp_path / "a.json", [annotation(1, [large]), annotation(2, [small])])
    cut_outs, _ = cut_all(read_coco(source, ReadOptions()))
    assert {found.annotation_id: found.covered for found in cut_outs} == {"1": 6 / 24, "2": 0.0}
    # The large one's outline is 20 edges long, 6 lie on the upper border and 4 on the left.
    assert {found.annotation_id: found.truncation for found in cut_outs} == {"1": 0.5, "2": 0.0}


def test_crowd_regions_are_an_option(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png")
    rle = {"size": [HEIGHT, WIDTH], "counts": [6, 3, 26]}
    source = document(tmp_path / "a.json", [annotation(1, [SQUARE]), annotation(2, rle, iscrowd=1)])
    cut_outs, rejected = cut_all(read_coco(source, ReadOptions()))
    assert len(cut_outs) == 1 and rejected == {"1.png#2": "crowd region"}
    cut_outs, rejected = cut_all(read_coco(source, ReadOptions(crowd=True)))
    assert [found.annotation_id for found in cut_outs] == ["2", "1"] and not rejected


def test_every_unusable_annotation_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    for number in (1, 2):
        save_image(tmp_path / f"{number}.png", seed=number)
    save_image(tmp_path / "4.png", 6, 7)
    (tmp_path / "5.png").write_bytes(b"")
    size = {"size": [HEIGHT, WIDTH]}
    annotations = [
        annotation(1, [[1, 1, 4, 4]]),
        annotation(2, [SQUARE[:-1]]),
        annotation(3, [[1, 1, 4, float("nan"), 4, 4]]),
        annotation(4, [[-3, -3, -1, -3, -1, -1]]),
        annotation(5, [[-3, -3, 4, -3, 4, 3, -3, 3]]),
        annotation(6, [SQUARE], category_id=99),
        annotation(7, []),
        annotation(8, {"x": 1}),
        annotation(9, {"size": [7, 5], "counts": [0, 35]}),
        annotation(10, size | {"counts": [0, 36]}),
        annotation(11, size | {"counts": [-1, 36]}),
        annotation(12, size | {"counts": [2**62, 2**62, 2**62, 2**62, 35]}),
        annotation(13, size | {"counts": "0S"}),
        annotation(14, size | {"counts": "0 é"}),
        annotation(15, {"counts": [0, 35]}),
        annotation(16, [[1, 1, "x", 4, 4, 4]]),
        annotation(17, [[1, 1, 1, 4, 1, 2]]),
        annotation(5, [SQUARE]),
        annotation(18, size | {"counts": [35]}),
        annotation(19, [SQUARE], image_id=77),
        annotation(20, [SQUARE], image_id=[1]),
        annotation(21, [SQUARE], image_id=3),
        annotation(22, [SQUARE], image_id=4),
        annotation(23, [SQUARE], image_id=5),
        {"id": 24, "image_id": 2, "category_id": 3},
        "text",
        annotation(25, [SQUARE], image_id=2),
    ]
    images = [entry(1), entry(2), entry(3), entry(4), entry(5), entry(2), {"id": 6}, None]
    source = document(tmp_path / "a.json", annotations, images)
    cut_outs, rejected = cut_all(read_coco(source, ReadOptions()))
    assert {found.source for found in cut_outs} == {"1.png#5", "2.png#25"}
    rgba = next(found.rgba for found in cut_outs if found.annotation_id == "5")
    assert rgba.shape == (3, 4, 4) and (rgba[..., 3] == 255).all()
    assert rejected == {
        "1.png#1": "bad polygon: 2 points, at least 3 are needed",
        "1.png#2": "bad polygon: an odd number of coordinates, 7",
        "1.png#3": "bad polygon: a coordinate is not a finite number",
        "1.png#4": "outside the image: the whole polygon",
        "1.png#5": "listed twice: another annotation of the image has id 5",
        "1.png#6": "unknown category: category_id 99",
        "1.png#7": "no segmentation: missing or empty",
        "1.png#8": "bad segmentation: neither lists of numbers nor run lengths",
        "1.png#9": "size differs: the image has 5x7 pixels, its run lengths 7x5",
        "1.png#10": "damaged run lengths: their sum is not 5x7 pixels",
        "1.png#11": "damaged run lengths: their sum is not 5x7 pixels",
        "1.png#12": "damaged run lengths: their sum is not 5x7 pixels",
        "1.png#13": "damaged run lengths: the compressed text is incomplete",
        "1.png#14": "damaged run lengths: not COCO's compressed text",
        "1.png#15": "bad segmentation: neither lists of numbers nor run lengths",
        "1.png#16": "bad polygon: a coordinate is not a finite number",
        "1.png#17": "empty mask: no pixel is inside",
        "1.png#18": "empty mask: no pixel is inside",
        "annotations[19]": "unknown image: annotation 19 has image_id 77",
        "annotations[20]": "unknown image: annotation 20 has image_id [1]",
        "3.png": "missing file",
        "4.png": "size differs: the image has 6x7 pixels, expected 5x7",
        "5.png": "empty file",
        "2.png#24": "no segmentation: missing or empty",
        "annotations[25]": "unusable entry: not an annotation but str",
        "images[5]": "listed twice: an earlier entry has id 2 or file 2.png",
        "images[6]": "unusable entry: no id or no file name",
        "images[7]": "unusable entry: no id or no file name",
    }


def test_compressed_run_lengths_are_decoded_as_in_pycocotools() -> None:
    rng = np.random.default_rng(3)
    for number in range(30):
        mask = np.asfortranarray(rng.random((9 + number * 7, 13)) < rng.random(), np.uint8)
        text = coco_mask.encode(mask)["counts"].decode()
        counts = decompress(text)
        decoded = np.repeat(np.arange(len(counts)) % 2, counts).reshape(mask.T.shape).T
        np.testing.assert_array_equal(decoded, mask)


def test_annotations_fit_an_image_with_or_without_its_exif_rotation(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (WIDTH, HEIGHT, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "1.png", exif=exif)
    Image.fromarray(rgb).save(tmp_path / "2.png", exif=exif)
    images = [entry(1), entry(2, height=WIDTH, width=HEIGHT)]
    box = [0, 0, 3, 0, 3, 2, 0, 2]
    source = document(tmp_path / "a.json", [annotation(1, [box]), annotation(2, [box], image_id=2)], images)
    (upright, stored), rejected = cut_all(read_coco(source, ReadOptions()))
    assert not rejected
    np.testing.assert_array_equal(upright.rgba[..., :3], np.rot90(rgb, -1)[:2, :3])
    np.testing.assert_array_equal(stored.rgba[..., :3], rgb[:2, :3])


@pytest.mark.parametrize(
    ("json_name", "image", "more"),
    [
        ("annotations.json", "1.png", {}),
        ("annotations.json", "images/1.png", {}),
        ("annotations.json", "images/a b/ü.png", {"file_name": "a b/ü.png"}),
        ("annotations/instances_train2017.json", "train2017/1.png", {}),
        ("annotations/instances_train2017.json", "images/train2017/1.png", {}),
        ("lvis_v1_val.json", "val2017/1.png", {"file_name": None, "coco_url": "http://x.org/val2017/1.png"}),
        (
            "annotations/lvis_v1_val.json",
            "images/1.png",
            {"file_name": "", "coco_url": "http://x.org/val2017/1.png"},
        ),
        ("other.json", "1.png", {"file_name": "old/1.png", "coco_url": "http://x.org/val2017/1.png"}),
    ],
)
def test_images_are_found_in_the_usual_folders(
    tmp_path: Path, json_name: str, image: str, more: dict[str, Any]
) -> None:
    save_image(tmp_path / image)
    source = document(tmp_path / json_name, [annotation(1, [SQUARE])], [entry(1, **more)])
    for given in (source, str(tmp_path)):
        assert is_coco(Path(given))
        items = read_coco(given, ReadOptions())
        assert [item.files[0] for item in items] == [tmp_path / image]
        assert len(cut_all(items)[0]) == 1


def test_the_folder_of_images_can_be_given(tmp_path: Path) -> None:
    save_image(tmp_path / "elsewhere" / "train2017" / "1.png")
    url = {"file_name": None, "coco_url": "http://x.org/train2017/1.png"}
    source = document(tmp_path / "in" / "a.json", [annotation(1, [SQUARE])], [entry(1, **url)])
    items = read_coco(source, ReadOptions(images=tmp_path / "elsewhere"))
    assert [found.source for found in cut_all(items)[0]] == ["train2017/1.png#1"]
    with pytest.raises(
        UserError, match=r"none of its 1 images was found, first train2017/1.png; searched in .*/in;"
    ):
        read_coco(source, ReadOptions())
    with pytest.raises(UserError, match="folder of images '.*gone': no such folder"):
        read_coco(source, ReadOptions(images=tmp_path / "gone"))


def test_several_annotation_files_are_refused(tmp_path: Path) -> None:
    for name in ("instances_train2017", "instances_val2017", "captions_val2017", "person_keypoints_val2017"):
        document(tmp_path / "annotations" / f"{name}.json", [])
    with pytest.raises(
        UserError, match=r"2 annotation files, pass one of annotations/instances_train2017.json, ann"
    ):
        read_coco(str(tmp_path), ReadOptions())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"images": [],\n "annotations": [}',
            r"a.json: cannot be read as JSON: Expecting value: line 2 column 18",
        ),
        ("", r"a.json: cannot be read as JSON: Expecting value: line 1 column 1"),
        ("[1]", r"a list at top, expected an object with images, annotations, categories"),
        (
            '{"images": [], "annotation": []}',
            r"no 'annotations' at top, its keys are images, annotation; did you mean",
        ),
        ('{"images": [], "annotations": {}}', r"'annotations' must be a list"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1}]}',
            r"categories\[0\] lacks an id or a name",
        ),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
            r"categories: id 1 is both 'a' and 'b'",
        ),
        ("[" * 100_000, "a.json: cannot be read as JSON"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_coco(str(tmp_path / "a.json"), ReadOptions())


def test_other_sources_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"images": "\xff"}')
    with pytest.raises(
        UserError, match="a.json: cannot be read as JSON: 'utf-8' codec can't decode byte 0xff in position 12"
    ):
        read_coco(str(tmp_path / "a.json"), ReadOptions())
    assert not is_coco(tmp_path)
    with pytest.raises(UserError, match="no .json with images, annotations, categories in it"):
        read_coco(str(tmp_path), ReadOptions())
    with pytest.raises(UserError, match="no such file or folder"):
        read_coco(str(tmp_path / "gone"), ReadOptions())


def test_text_that_files_cannot_contain_is_replaced(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png")
    images = [entry(1), entry(2, file_name="a\0\ud800.png"), entry(3, file_name="a" * 300)]
    anns = [annotation("x\ud800", [SQUARE]), *(annotation(n, [SQUARE], image_id=n) for n in (2, 3))]
    cut_outs, rejected = cut_all(read_coco(document(tmp_path / "a.json", anns, images), ReadOptions()))
    assert [found.source for found in cut_outs] == ["1.png#x?"] and rejected == {
        "a??.png": "missing file",
        "a" * 300: "unreadable file: File name too long",
    }


@pytest.mark.skipif(not DATA.is_dir(), reason="no folder of real data beside the checkout")
def test_real_images() -> None:
    items = read_coco(str(DATA / "coco_photo"), ReadOptions())
    cut_outs, rejected = cut_all(items)
    assert len(cut_outs) == 182 and set(rejected.values()) == {"crowd region"} and len(rejected) == 2
    known = {
        a["id"]: a for a in json.loads((DATA / "coco_photo" / "annotations.json").read_text())["annotations"]
    }
    for found in cut_outs:
        # COCO's own area and box are those of the polygons.
        given = known[int(found.annotation_id)]
        assert (found.rgba[..., 3] / 255).sum() == pytest.approx(given["area"], rel=0.03, abs=6)
        assert np.abs(np.array(found.rgba.shape[1::-1]) - given["bbox"][2:]).max() <= 2.01
    licences = Counter(found.licence for found in cut_outs)
    assert licences["Attribution License"] == 134 and "" not in licences
