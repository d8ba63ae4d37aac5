"""Crops and other random changes of training clips."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from smile_train.config import AugmentationOptions, CropOptions
from smile_train.data.augmentation import augment, short_side

PUBLISHED = "rand-m7-n4-mstd0.5-inc1"


def coordinates(height: int, width: int, frames: int = 1) -> np.ndarray:
    """Return frames with x in the first channel and y in the second."""
    y, x = np.mgrid[:height, :width]
    return np.broadcast_to(np.stack([x, y, 0 * x], -1).astype(np.uint8), (frames, height, width, 3))


def boxes(options: AugmentationOptions, height: int, width: int, count: int) -> np.ndarray:
    """Return (top, left, height, width) of crops ``[count, 4]``, from the pixels of clips of full size."""
    found = []
    for index in range(count):
        clip = augment(coordinates(height, width), options, 300, seed=1, index=index)
        xy_min, xy_max = clip[0, ..., :2].min((0, 1)).astype(int), clip[0, ..., :2].max((0, 1)).astype(int)
        found.append((xy_min[1], xy_min[0], xy_max[1] - xy_min[1] + 1, xy_max[0] - xy_min[0] + 1))
    return np.array(found)


def cropping(kind: str, **options: object) -> AugmentationOptions:
    return AugmentationOptions(crop=CropOptions.model_validate({"kind": kind}), **options)  # type: ignore[arg-type]


def test_multi_scale_crops_are_the_published_ones() -> None:
    found = boxes(cropping("multi_scale"), 100, 200, 300)
    sides = (100, 87, 75, 66)
    assert {(int(h), int(w)) for h, w in found[:, 2:]} == {
        (a, b) for i, a in enumerate(sides) for j, b in enumerate(sides) if abs(i - j) <= 1
    }
    allowed = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]
    seen = set()
    for top, left, height, width in found[found[:, 2] < 100]:
        free_y, free_x = 100 - height, 200 - width
        seen |= {(y, x) for y, x in allowed if (y * free_y // 4, x * free_x // 4) == (top, left)}
        assert any((y * free_y // 4, x * free_x // 4) == (top, left) for y, x in allowed)
    assert seen == set(allowed) and len(seen) == 13


def test_resized_crops_keep_area_and_aspect() -> None:
    found = boxes(cropping("random_resized"), 120, 200, 200)
    area, aspect = found[:, 2] * found[:, 3] / (120 * 200), found[:, 3] / found[:, 2]
    assert 0.07 < area.min() < 0.12 and area.max() > 0.7
    assert 0.7 < aspect.min() < 0.8 and 1.28 < aspect.max() < 1.36


@pytest.mark.parametrize("kind", ["multi_scale", "random_resized"])
@pytest.mark.parametrize("size_hw", [(60, 200), (200, 60)])
def test_every_part_of_a_long_frame_is_reached(kind: str, size_hw: tuple[int, int]) -> None:
    """The test reads crops from end to end of the longer side, so training must see its ends, too."""
    axis = int(np.argmax(size_hw))
    seen = np.zeros(200, bool)
    for box in boxes(cropping(kind), *size_hw, 120):
        seen[box[axis] : box[axis] + box[2 + axis]] = True
    assert seen.all() if kind == "multi_scale" else seen[3:-3].all()


def test_the_middle_is_the_crop_without_chance() -> None:
    found = boxes(cropping("center"), 60, 201, 3)
    assert (found == (0, 70, 60, 60)).all()
    assert short_side(CropOptions(), 224) == 320 and short_side(CropOptions(short_side=240), 224) == 240


def test_half_of_the_clips_are_mirrored() -> None:
    clips = [
        augment(coordinates(40, 80, 2), cropping("center", flip=True), 40, seed=0, index=i)
        for i in range(100)
    ]
    left = np.array([clip[:, 0, 0, 0].tolist() for clip in clips])
    assert (
        (left[:, 0] == left[:, 1]).all()
        and set(left[:, 0]) == {20, 59}
        and 30 < (left[:, 0] == 59).sum() < 70
    )


def textured(frames: int) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.broadcast_to(image.repeat(8, 0).repeat(8, 1), (frames, 48, 64, 3))


def test_all_frames_have_the_same_operations() -> None:
    options = cropping("random_resized", flip=True, rand_augment=PUBLISHED)
    clips = [augment(textured(3), options, 32, seed=2, index=i) for i in range(20)]
    for clip in clips:
        assert (clip == clip[:1]).all()
    plain = [
        augment(textured(1), cropping("random_resized", flip=True), 32, seed=2, index=i) for i in range(20)
    ]
    changed = [np.abs(a[0].astype(int) - b[0]).mean() > 5 for a, b in zip(clips, plain, strict=True)]
    assert sum(changed) > 12  # an operation of four is left out with probability .5


def test_erasing_puts_noise_into_one_box_of_all_frames() -> None:
    dark = np.zeros((3, 48, 48, 3), np.uint8)
    clips = [augment(dark, cropping("center", erasing=0.25), 48, seed=0, index=i) for i in range(120)]
    erased = [clip for clip in clips if clip.any()]
    assert 15 <= len(erased) <= 45
    for clip in erased:
        rows, columns = np.nonzero(clip.any((0, 3)))
        box = clip[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        share = box[0, ..., 0].size / 48**2
        assert 0.015 < share < 0.36 and box.any(3).mean() > 0.9
        assert (box[0] != box[1]).mean() > 0.9  # other noise in every frame
    values = np.concatenate([clip[clip.any(3)] for clip in erased]).astype(float)
    np.testing.assert_allclose(values.mean(0), (124, 117, 105), atol=5)


def test_changes_depend_on_seed_and_index_alone() -> None:
    options = cropping("random_resized", flip=True, rand_augment=PUBLISHED, erasing=0.5)

    def clip(seed: int, index: int) -> np.ndarray:
        return augment(textured(2), options, 24, seed=seed, index=index)

    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = [clip(0, i) for i in range(6)]
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert before == after
    random.seed(6)
    torch.manual_seed(6)
    for i in reversed(range(6)):
        np.testing.assert_array_equal(clip(0, i), first[i])
    assert len({c.tobytes() for c in [*first, clip(1, 0)]}) == 7
