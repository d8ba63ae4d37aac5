from pathlib import Path

import numpy as np
import pytest
from cutting import cut_all
from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.io.images import Reject
from smile_synth.objects._item import CutOut, Item, ReadOptions
from smile_synth.objects.readers._davis import is_davis, read_davis
from smile_synth.objects.readers._masks import Photo
from smile_synth.objects.readers._pairs import is_pairs, read_pairs
from smile_synth.objects.readers._voc import is_voc, read_voc

DATA = Path(__file__).parents[3] / "../shared/data"
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
XML = "<annotation><object><name>cat</name><part><name>head</name></part></object><object><name>dog</name></object></annotation>"


def save(path: Path, pixels: np.ndarray, *, palette: bool = False, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    image.save(path, **options)


def numbers(**at: int) -> np.ndarray:
    """A 5x7 mask with 2x2 blocks of numbers, such as ``y1x2=9``."""
    mask = np.zeros((5, 7), np.uint8)
    for place, value in at.items():
        y, x = int(place[1]), int(place[3])
        mask[y : y + 2, x : x + 2] = value
    return mask


def cut_by_name(items: list[Item]) -> tuple[dict[str, CutOut], dict[str, str]]:
    found, rejected = cut_all(items)
    cut_outs = {cut_out.source: cut_out for cut_out in found}
    assert len(cut_outs) == len(found)
    return cut_outs, rejected


def test_the_share_of_the_outline_on_the_border_is_counted() -> None:
    photo = Photo("p", "key", RGB)
    inside = np.zeros((3, 4), np.uint8)
    inside[1:3, 1:] = 7
    for corner, expected in (((1, 2), 0.0), ((2, 2), 0.3), ((2, 3), 0.5)):
        found = photo.cut(inside, corner, class_name="c", object_id="1")
        assert found.truncation == expected and found.rgba.shape == (2, 3, 4)
    np.testing.assert_array_equal(found.rgba[..., :3], RGB[3:5, 4:7])
    with pytest.raises(Reject, match="empty mask"):
        photo.cut(inside * 0, (0, 0), class_name="c", object_id="1")


def test_voc(tmp_path: Path) -> None:
    for name in ("a b", "xml", "none", "off", "far", "empty", "class", "cut"):
        save(tmp_path / "JPEGImages" / f"{name}.png", RGB)
        save(tmp_path / "SegmentationObject" / f"{name}.png", numbers(y0x0=1, y3x5=2, y0x3=255), palette=True)
    save(tmp_path / "SegmentationClass" / "a b.png", numbers(y0x0=8, y3x5=21), palette=True)
    (tmp_path / "Annotations").mkdir()
    for name in ("a b", "xml"):
        (tmp_path / "Annotations" / f"{name}.xml").write_text(XML)
    (tmp_path / "Annotations" / "cut.xml").write_text(XML[:-9])
    save(tmp_path / "SegmentationObject" / "off.png", numbers(y0x5=3)[:4, :7], palette=True)
    save(tmp_path / "SegmentationObject" / "far.png", numbers(y0x0=3)[:2], palette=True)
    save(tmp_path / "SegmentationObject" / "empty.png", numbers(y0x0=255), palette=True)
    save(tmp_path / "SegmentationObject" / "lost.png", numbers(y0x0=3), palette=True)
    (tmp_path / "SegmentationObject" / "void.png").write_bytes(b"")
    save(tmp_path / "SegmentationClass" / "class.png", numbers(y0x0=3)[:4], palette=True)
    assert is_voc(tmp_path) and not is_davis(tmp_path)
    cut_outs, rejected = cut_by_name(read_voc(str(tmp_path), ReadOptions()))
    assert {name: found.class_name for name, found in cut_outs.items()} == {
        "a b#1": "class 8",
        "a b#2": "class 21",
        "xml#1": "cat",
        "xml#2": "dog",
        "none#1": "object",
        "none#2": "object",
        "off#3": "object",
    }
    assert rejected.pop("cut").startswith("damaged XML: cut.xml: unclosed token")  # the rest is expat's
    assert rejected == {
        "far": "size differs: the image has 5x7 pixels, its mask 2x7",
        "empty": "empty mask: no pixel is inside",
        "lost": "missing file",
        "void": "unusable mask: empty file",
        "class": "size differs: the class mask has 4x7 pixels, the object mask 5x7",
    }
    np.testing.assert_array_equal(cut_outs["xml#2"].rgba[..., :3], RGB[3:5, 5:7])
    assert (cut_outs["xml#2"].rgba[..., 3] == 255).all()
    assert cut_outs["xml#1"].image_key == cut_outs["xml#2"].image_key
    assert cut_outs["xml#1"].truncation == 0.5 and cut_outs["off#3"].truncation == 0.5


def test_davis(tmp_path: Path) -> None:
    for resolution, shape in (("480p", (5, 7)), ("1080p", (9, 11))):
        for frame in ("00000", "00001", "00002"):
            save(
                tmp_path / "JPEGImages" / resolution / "my dog" / f"{frame}.jpg", np.resize(RGB, (*shape, 3))
            )
        mask = np.zeros(shape, np.uint8)
        mask[1:4, 1:3], mask[1:4, 4:6], mask[0] = 1, 2, 255
        save(tmp_path / "Annotations" / resolution / "my dog" / "00000.png", mask[:, :-1], palette=True)
        save(tmp_path / "Annotations" / resolution / "my dog" / "00002.png", (mask == 2) * np.uint8(255))
        save(tmp_path / "Annotations" / resolution / "gone" / "00002.png", mask, palette=True)
    (tmp_path / "JPEGImages" / "2000p").mkdir()
    save(tmp_path / "Annotations" / "Full-Resolution" / "my dog" / "00000.png", mask, palette=True)
    assert is_davis(tmp_path) and not is_voc(tmp_path)
    items = read_davis(str(tmp_path), ReadOptions())
    assert [item.files[0] for item in items[1:]] == [
        tmp_path / "JPEGImages" / "1080p" / "my dog" / f"{n}.jpg" for n in ("00000", "00002")
    ]
    cut_outs, rejected = cut_by_name(items)
    assert list(cut_outs) == ["my dog/00000#1", "my dog/00000#2", "my dog/00002#255"]
    assert rejected == {"gone/00002": "missing file"}
    assert {found.class_name for found in cut_outs.values()} == {"my dog"}
    assert len({found.image_key for found in cut_outs.values()}) == 1
    assert [found.source_image for found in cut_outs.values()][1:] == ["my dog/00000", "my dog/00002"]
    assert all(found.rgba.shape == (3, 2, 4) for found in cut_outs.values())


def test_the_pixels_of_a_mask_decide_what_it_means(tmp_path: Path) -> None:
    ramp = np.zeros((5, 7), np.uint8)
    ramp[1:4, 1:6] = [60, 128, 255, 90, 30]
    levels = (np.arange(35, dtype=np.uint8) * 7 + 17).reshape(5, 7)
    grey = numbers(y0x0=85, y0x5=170, y3x0=255)
    grey[1:4, 2:5] = 170
    colours = np.zeros((5, 7, 3), np.uint8)
    colours[:2, :2], colours[3:, 3:5] = (255, 0, 0), (0, 200, 10)
    noisy = numbers(y1x2=250)
    noisy[noisy == 0] = 3
    masks: dict[str, tuple[np.ndarray, dict[str, object]]] = {
        "binary/one": (numbers(y1x2=1), {}),
        "binary/full": (numbers(y1x2=255), {}),
        "binary/bit": (numbers(y1x2=1).astype(bool), {}),
        "binary/rgb": (np.repeat(numbers(y1x2=255)[..., None], 3, axis=2), {}),
        "binary/all": (np.full((5, 7), 9, np.uint8), {}),
        "ids/palette": (numbers(y0x0=4, y3x5=255), {"palette": True}),
        "ids/void only": (numbers(y3x5=255), {"palette": True}),
        "ids/grey": (grey, {}),
        "ids/deep": (numbers(y0x0=1, y3x5=2).astype(np.uint16) * 300, {}),
        "ids/rgb": (colours, {}),
        "soft/edge": (ramp, {}),
        "soft/levels": (levels, {}),
    }
    for name, (mask, options) in masks.items():
        save(tmp_path / "images" / f"{name}.jpg", RGB)
        save(tmp_path / "masks" / f"{name}.png", mask, **options)
    save(tmp_path / "images" / "jpeg.png", RGB)
    save(tmp_path / "masks" / "jpeg.jpg", noisy, quality=95)
    assert is_pairs(tmp_path) and not is_voc(tmp_path) and not is_davis(tmp_path)
    cut_outs, rejected = cut_by_name(read_pairs(str(tmp_path), ReadOptions()))
    assert not rejected
    ids: dict[str, list[str]] = {}
    for found in cut_outs.values():
        name = Path(found.source_image).relative_to("images").with_suffix("").as_posix()
        ids.setdefault(name, []).append(found.annotation_id)
        assert found.class_name == (name.split("/")[0] if "/" in name else tmp_path.name)
    assert ids == {
        "binary/one": ["1"],
        "binary/full": ["255"],
        "binary/bit": ["1"],
        "binary/rgb": ["255"],
        "binary/all": ["9"],
        "ids/palette": ["4"],
        "ids/void only": ["255"],
        "ids/grey": ["85", "170", "255"],
        "ids/deep": ["300", "600"],
        "ids/rgb": ["#00c80a", "#ff0000"],
        "soft/edge": ["matte"],
        "soft/levels": ["matte"],
        "jpeg": ["1"],
    }
    np.testing.assert_array_equal(cut_outs["images/soft/edge.jpg#matte"].rgba[..., 3], ramp[1:4, 1:6])
    np.testing.assert_array_equal(cut_outs["images/soft/levels.jpg#matte"].rgba[..., 3], levels)
    block = cut_outs["images/jpeg.png#1"].rgba
    np.testing.assert_array_equal(block, np.dstack([RGB[1:3, 2:4], np.full((2, 2), 255)]))


def test_pairs_reject_files_without_a_partner(tmp_path: Path) -> None:
    for name in ("good", "alone", "small", "empty", "float", "busy"):
        save(tmp_path / "images" / f"{name}.png", RGB)
    save(tmp_path / "masks" / "good.png", numbers(y0x0=1))
    save(tmp_path / "masks" / "lost.png", numbers(y0x0=1))
    save(tmp_path / "masks" / "small.png", numbers(y0x0=1)[:2])
    save(tmp_path / "masks" / "empty.png", numbers())
    save(tmp_path / "masks" / "float.tif", numbers(y0x0=1).astype(np.float32))
    save(tmp_path / "masks" / "busy.png", np.arange(1, 1602, dtype=np.uint16)[:, None])
    save(tmp_path / "images" / "good.jpg", RGB)
    (tmp_path / "images" / "notes.txt").write_text("x")
    cut_outs, rejected = cut_by_name(read_pairs(str(tmp_path), ReadOptions()))
    assert list(cut_outs) == ["images/good.jpg#1"]
    assert rejected == {
        "images/alone.png": "no mask: no file of this name in masks/",
        "images/good.png": "ambiguous name: good.jpg has the same one",
        "images/notes.txt": "not an image: expected .jpg, .jpeg, .png, .webp, .bmp, .tif, .tiff",
        "images/small.png": "size differs: the image has 5x7 pixels, its mask 2x7",
        "images/empty.png": "empty mask: no pixel is inside",
        "images/float.png": "unusable mask: mode F, expected whole numbers or colours",
        "images/busy.png": "unusable mask: 1601 different values, at most 1000 objects are allowed",
        "masks/lost.png": "no image: no file of this name in images/",
    }


def test_other_folders_are_refused(tmp_path: Path) -> None:
    for read, first, second in (
        (read_voc, "JPEGImages", "SegmentationObject"),
        (read_davis, "JPEGImages", "Annotations"),
        (read_pairs, "images", "masks"),
    ):
        with pytest.raises(UserError, match="gone': no such folder"):
            read(str(tmp_path / "gone"), ReadOptions())
        folder = tmp_path / read.__name__
        (folder / first).mkdir(parents=True)
        with pytest.raises(UserError, match=f"no folder {second}/ in it, expected {first}/ and {second}/"):
            read(str(folder), ReadOptions())
        (folder / second).mkdir()
        with pytest.raises(UserError, match=r"no \.png in|no masks, expected|no images in"):
            read(str(folder), ReadOptions())


@pytest.mark.skipif(not DATA.is_dir(), reason="no folder of real data beside the checkout")
def test_real_sequences() -> None:
    items = read_davis(str(DATA / "davis_mini"), ReadOptions())
    cut_outs, rejected = cut_by_name(items)
    assert len(items) == 5 and not rejected
    assert [name.split("#")[0] for name in cut_outs] == ["bike/00000"] * 2 + [
        f"judo/{frame}" for frame in ("00000", "00005", "00008", "00013")
    ]
    assert len({found.image_key for found in cut_outs.values()}) == 2
