import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.io.files import content_key
from smile_synth.io.images import Reject
from smile_synth.objects import _regions as regions
from smile_synth.objects._item import CutOut, ReadOptions
from smile_synth.objects._regions import METHOD
from smile_synth.objects.readers._images import read_images

DATA = Path(__file__).parents[3] / "../shared/data"


def scene(
    height: int = 90, width: int = 130, *, zoom: int = 1, shapes: bool = True
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A noisy slope with a red disk and a yellow box; masks of both."""
    rng = np.random.default_rng(1)
    size = (height * zoom, width * zoom)
    y, x = (np.mgrid[: size[0], : size[1]] + 0.5) / zoom
    rgb = np.stack([60 + 0.3 * x, 90 + 0.2 * y, 110 + 0 * x], axis=2)
    disk = (x - 40) ** 2 + (y - 45) ** 2 < 17**2
    box = (abs(x - 95) < 12) & (abs(y - 40) < 18)
    if shapes:
        rgb[disk] = (200, 40, 30)
        rgb[box] = (230, 200, 60)
    rgb = rgb + rng.normal(0, 4, rgb.shape)
    return rgb.clip(0, 255).astype(np.uint8), [disk, box]


def whole(region: regions.Region, rgb: np.ndarray) -> np.ndarray:
    alpha = np.zeros(rgb.shape[:2], np.uint8)
    (y, x), (h, w) = region.corner_yx, region.alpha.shape
    alpha[y : y + h, x : x + w] = region.alpha
    return alpha


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("zoom", [1, 5])
def test_shapes_are_found_with_smooth_exact_outlines(zoom: int) -> None:
    rgb, masks = scene(zoom=zoom)
    found = regions.find_regions(rgb)
    assert len(found) == 2
    assert [region.score for region in found] == sorted((region.score for region in found), reverse=True)
    for mask in masks:
        alpha = max((whole(region, rgb) for region in found), key=lambda alpha: iou(alpha >= 128, mask))
        assert iou(alpha >= 128, mask) > 0.95
        perimeter = np.diff(mask, axis=0).sum() + np.diff(mask, axis=1).sum()
        soft = ((alpha > 0) & (alpha < 255)).sum()
        assert 0.3 * perimeter < soft < 3 * perimeter  # an edge one or two pixels wide, at any size


def test_regions_are_the_same_every_time() -> None:
    rgb, _ = scene()
    first = regions.find_regions(rgb)
    cv2.setRNGSeed(99)
    for a, b in zip(first, regions.find_regions(rgb), strict=True):
        assert np.array_equal(a.alpha, b.alpha) and (a.corner_yx, a.score) == (b.corner_yx, b.score)


def test_objects_at_the_border_are_skipped() -> None:
    rgb, _ = scene()
    moved = rgb[:, 28:]  # the disk's left side is cut off
    (box,) = regions.find_regions(moved)
    assert box.corner_yx[1] > 30


@pytest.mark.parametrize("size", [(90, 130), (1, 1), (3, 200), (20, 16)])
def test_nothing_plausible(size: tuple[int, int]) -> None:
    rgb, _ = scene(*size, shapes=False)
    assert regions.find_regions(rgb) == []
    assert regions.find_regions(np.zeros((*size, 3), np.uint8)) == []


def test_the_whole_object_wins_against_its_parts() -> None:
    rgb, (disk, _) = scene()
    y, x = np.nonzero(disk)
    rgb[y[y < 45], x[y < 45]] = (150, 20, 60)  # the upper half in another red
    found = [whole(region, rgb) >= 128 for region in regions.find_regions(rgb)]
    assert max(iou(mask, disk) for mask in found) > 0.9
    assert sum((mask & disk).any() for mask in found) == 1


@pytest.mark.parametrize(
    ("box", "plausible"),
    [
        ((20, 60, 20, 60), True),
        ((20, 24, 20, 80), False),
        ((20, 24, 20, 24), False),
        ((2, 98, 2, 118), False),
    ],
)
def test_plausible_sizes(box: tuple[int, int, int, int], plausible: bool) -> None:
    mask = np.zeros((100, 120), bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    assert regions._is_plausible(mask) == plausible
    mask[25:98, 25:110] = False  # an angle is far from its hull
    assert not regions._is_plausible(mask)


def test_reader(tmp_path: Path) -> None:
    (tmp_path / "köln a/b").mkdir(parents=True)
    rgb, _ = scene()
    Image.fromarray(rgb).save(tmp_path / "köln a/b/1 é.png")
    Image.fromarray(rgb[:, :, ::-1]).save(tmp_path / "top.webp", lossless=True)
    Image.fromarray(scene(shapes=False)[0]).save(tmp_path / "void.png")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "broken.jpg").write_bytes(b"")
    items = {item.source: item for item in read_images(str(tmp_path), ReadOptions())}
    assert list(items) == ["broken.jpg", "köln a/b/1 é.png", "notes.txt", "top.webp", "void.png"]
    items = pickle.loads(pickle.dumps(items))

    nested = items["köln a/b/1 é.png"]
    first, second = nested.cut()
    assert isinstance(first, CutOut) and isinstance(second, CutOut)
    assert (first.class_name, first.source, second.source) == (
        "köln a/b",
        f"{nested.source}#0",
        f"{nested.source}#1",
    )
    assert first.source_image == nested.source and first.from_photo and first.annotation_id == ""
    assert first.image_key == content_key(nested.files[0].read_bytes())
    assert first.attributes["method"] == METHOD and 0.35 <= float(first.attributes["score"]) <= 1
    alpha = first.rgba[..., 3]
    assert alpha[[0, -1]].any(axis=1).all() and alpha[:, [0, -1]].any(axis=0).all()
    assert first.truncation == 0
    center = first.rgba[len(alpha) // 2, alpha.shape[1] // 2, :3].astype(int)
    assert min(abs(center - (200, 40, 30)).max(), abs(center - (230, 200, 60)).max()) < 25

    (top, _) = items["top.webp"].cut()
    assert isinstance(top, CutOut) and top.class_name == tmp_path.name
    for name, reason in {
        "void.png": "^no plausible region$", "notes.txt": "^not an image$", "broken.jpg": "^empty file$"
    }.items():  # fmt: skip
        with pytest.raises(Reject, match=reason):
            list(items[name].cut())


def test_unusable_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere': no such folder"):
        read_images(str(tmp_path / "nowhere"), ReadOptions())
    with pytest.raises(UserError, match="the folder is empty; expected images"):
        read_images(str(tmp_path), ReadOptions())


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared data")
def test_photographs() -> None:
    lantern = np.asarray(Image.open(DATA / "backgrounds/Mr_Lee.jpg").convert("RGB"))
    (found,) = regions.find_regions(lantern)
    assert found.score > 0.7
    sea = np.asarray(Image.open(DATA / "backgrounds/Sunset_by_the_Pier.jpg").convert("RGB"))
    assert regions.find_regions(sea) == []
