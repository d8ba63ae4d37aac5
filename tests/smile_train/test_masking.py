import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smile_synth.errors import UserError
from smile_train.masking import (
    MASKS,
    count_masked,
    make_mask,
    mask_draws,
    object_tokens_from_boxes,
    random_mask,
    trajectory_mask,
    tube_mask,
)

GRID = (3, 5, 7)
FULL = (8, 14, 14)


def draws_of(grid: tuple[int, int, int], batch: int = 4, seed: int = 0) -> Tensor:
    return torch.from_numpy(mask_draws(seed, range(batch), math.prod(grid)))


def test_draws_belong_to_the_clip_and_not_to_its_batch() -> None:
    together = mask_draws(0, [3, 9, 2**40], 105)
    assert together.shape == (3, 2, 105) and together.dtype == np.float32
    assert together.min() >= 0 and together.max() < 1
    assert np.array_equal(mask_draws(0, np.array([9]), 105)[0], together[1])
    for other in (
        mask_draws(1, [9], 105),
        mask_draws(0, [10], 105),
        mask_draws(0, [9], 105, sample=1),
    ):
        assert not np.array_equal(other[0], together[1])
    assert not np.array_equal(together[1, 0], together[1, 1])
    objects = torch.rand(3, 105, generator=torch.Generator().manual_seed(0)) < 0.3
    for kind in MASKS:
        batch = make_mask(kind, torch.from_numpy(together), GRID, 0.8, object_tokens=objects)
        alone = make_mask(kind, torch.from_numpy(together[1:2]), GRID, 0.8, object_tokens=objects[1:2])
        assert torch.equal(batch[1], alone[0])


def test_published_counts() -> None:
    assert count_masked(FULL, 0.8) == 1248
    assert count_masked(FULL, 0.9) == 8 * 176
    for kind in MASKS:
        mask = make_mask(kind, draws_of(FULL), FULL, 0.8, object_tokens=torch.zeros(4, 1568).bool())
        assert mask.dtype == torch.bool and mask.sum(1).tolist() == [1248] * 4


@settings(deadline=None, max_examples=60)
@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 7)),
    ratio=st.floats(0.5, 0.99),
    cover=st.sampled_from([0.0, 0.02, 0.3, 0.8, 0.97, 1.0]),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)
def test_counts_are_exact_whatever_the_objects_cover(
    grid: tuple[int, int, int], ratio: float, cover: float, share: float, seed: int
) -> None:
    draws = draws_of(grid, seed=seed)
    objects = torch.rand(draws[:, 0].shape, generator=torch.Generator().manual_seed(seed)) < cover
    for kind in MASKS:
        mask = make_mask(kind, draws, grid, ratio, object_tokens=objects, object_visible_share=share)
        assert mask.shape == objects.shape
        assert mask.sum(1).tolist() == [count_masked(grid, ratio)] * 4


def test_tubes_are_constant_in_time_and_random_masks_are_not() -> None:
    mask = tube_mask(draws_of(FULL), FULL, 0.8).view(4, *FULL)
    assert (mask == mask[:, :1]).all() and mask[:, 0].sum((1, 2)).tolist() == [156] * 4
    assert not torch.equal(mask[0], mask[1])
    mask = random_mask(draws_of(FULL), FULL, 0.8).view(4, *FULL)
    assert not (mask == mask[:, :1]).all()


@pytest.mark.parametrize("make", [random_mask, tube_mask])
def test_every_token_is_masked_equally_often(make: object) -> None:
    assert callable(make)
    often = make(draws_of(GRID, batch=3000), GRID, 0.8).double().mean(0)
    assert (often - 0.8).abs().max() < 5 * (0.16 / 3000) ** 0.5


def balance_by_hand(tube: Tensor, objects: Tensor, order: Tensor, count: int, share: float) -> Tensor:
    """Follow the published rule step by step for one clip; what is random goes by `order`."""
    by_order = sorted(range(len(tube)), key=lambda i: float(order[i]))
    inside = [i for i in by_order if objects[i]]
    shown = inside[len(inside) - math.floor(share * len(inside)) :]
    mask = torch.where(objects, True, tube)
    mask[shown] = False

    def change(candidates: list[int], value: bool) -> None:
        for i in candidates:
            if int(mask.sum()) != count and bool(mask[i]) != value:
                mask[i] = value

    outside = [i for i in by_order if not objects[i]]
    if mask.sum() > count:
        change(outside[::-1], False)
        change(inside[::-1], False)
    else:
        change(outside, True)
        change(shown, True)
    return mask


@pytest.mark.parametrize("cover", [0.0, 0.03, 0.2, 0.6, 0.85, 0.95, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_trajectory_mask_follows_the_rule_step_by_step(cover: float, share: float) -> None:
    draws = draws_of(GRID, batch=8, seed=5)
    objects = torch.rand(8, 105, generator=torch.Generator().manual_seed(1)) < cover
    mask = trajectory_mask(draws, objects, GRID, 0.8, share)
    tube = tube_mask(draws, GRID, 0.8)
    for i in range(8):
        assert torch.equal(mask[i], balance_by_hand(tube[i], objects[i], draws[i, 1], 84, share)), i


def test_trajectory_mask_of_a_hand_made_clip() -> None:
    draws = torch.tensor([[[0.5, 0.1, 0.9, 0.3, 0, 0, 0, 0], [0.1, 0.9, 0.3, 0.7, 0.5, 0.2, 0.8, 0.4]]])
    objects = torch.tensor([[True, True, False, False, False, True, False, False]])
    # The tubes hide columns 1 and 3. Objects: token 1 (the largest draw) is shown, 0 and 5 are hidden.
    # 3 and 7 would be hidden by their tube: exactly four.
    mask = trajectory_mask(draws, objects, (2, 1, 4), 0.5, 0.34)
    assert mask.tolist() == [[True, False, False, True, False, True, False, True]]


def moving_boxes(num_clips: int) -> Tensor:
    """Two boxes per clip of SMILE's sizes, moving along straight lines inside a frame of 224 px."""
    generator = torch.Generator().manual_seed(0)
    side = torch.tensor([32, 48, 56, 64, 96, 128])[torch.randint(6, (num_clips, 2), generator=generator)]
    aspect = torch.tensor([0.5, 0.67, 0.75, 1, 1.33, 1.5, 2])[
        torch.randint(7, (num_clips, 2), generator=generator)
    ]
    size = torch.stack([side * aspect.sqrt(), side / aspect.sqrt()], dim=-1)
    ends = torch.rand(2, num_clips, 2, 2, generator=generator) * (224 - size)
    time = torch.linspace(0, 1, 16)[:, None]
    corner = ends[0][:, :, None] * (1 - time) + ends[1][:, :, None] * time
    return torch.cat([corner, corner + size[:, :, None]], dim=-1)


def test_published_share_of_visible_object_tokens() -> None:
    boxes = moving_boxes(600)
    objects = object_tokens_from_boxes(boxes, FULL, 16, 2, oversize=True)
    mask = trajectory_mask(draws_of(FULL, batch=600), objects, FULL, 0.8)
    assert (mask.sum(1) == 1248).all()
    share = (objects & ~mask).sum(1) / objects.sum(1)
    assert share.mean().item() == pytest.approx(0.0992, abs=5e-4)
    assert share.quantile(0.05).item() == pytest.approx(0.098, abs=1e-3)
    assert share.quantile(0.95).item() == pytest.approx(0.1, abs=1e-4)
    # Which object tokens stay visible is as random as it can be: early ones as often as late ones.
    half = torch.arange(1568) < 784
    early = (objects & ~mask & half).sum() / (objects & half).sum()
    assert early.item() == pytest.approx(0.0992, abs=2e-3)


def test_the_published_boxes_are_about_a_third_too_large() -> None:
    boxes = moving_boxes(600)[:, :1]
    tight = object_tokens_from_boxes(boxes, FULL, 16, 2).sum()
    wide = object_tokens_from_boxes(boxes, FULL, 16, 2, oversize=True).sum()
    assert 1.25 < wide / tight < 1.4


def one_box(*frames: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(frames, dtype=torch.float64)[None, None]


@pytest.mark.parametrize(
    ("frames", "oversize", "rows", "columns"),
    [
        # Half-open: a box ending at 8 does not touch the token that starts there.
        ([(4, 0, 8, 4), (4, 0, 8, 4)], False, [0], [1]),
        ([(4, 0, 8, 4), (4, 0, 8, 4)], True, [0, 1], [1, 2]),
        ([(4.5, 3.5, 8.1, 4), (4.5, 0, 8, 4)], False, [0], [1, 2]),
        # The union over a tubelet also holds what lies between.
        ([(0, 0, 2, 2), (20, 9, 22, 10)], False, [0, 1, 2], [0, 1, 2, 3, 4, 5]),
        # Cut at the frame, and not found where wholly outside, oversize or not.
        ([(-9, -9, 100, 3), (-9, -9, 100, 3)], False, [0], [0, 1, 2, 3, 4, 5, 6]),
        ([(-9, 0, -1, 4), (-9, 0, -1, 4)], True, [], []),
        ([(28, 0, 40, 4), (28, 0, 40, 4)], True, [], []),
        ([(40, 0, 50, 4), (5, 5, 6, 6)], False, [1], [1]),
        # Empty boxes and NaN are left out of the union.
        ([(20, 8, 20, 12), (5, 5, 6, 6)], False, [1], [1]),
        ([(20, 12, 22, 8), (5, 5, 6, 6)], False, [1], [1]),
        ([(math.nan, 8, 22, 12), (5, 5, 6, 6)], False, [1], [1]),
        ([(math.nan,) * 4, (math.nan,) * 4], True, [], []),
    ],
)
def test_tokens_under_a_box(
    frames: list[tuple[float, float, float, float]], oversize: bool, rows: list[int], columns: list[int]
) -> None:
    boxes = one_box(*frames, *[(math.nan,) * 4] * 4)
    tokens = object_tokens_from_boxes(boxes, GRID, 4, 2, oversize=oversize).view(GRID)
    expected = torch.zeros(GRID, dtype=torch.bool)
    for row in rows:
        expected[0, row, columns] = True
    assert torch.equal(tokens, expected)


def test_the_boxes_of_a_clip_are_joined_and_those_of_others_are_not() -> None:
    boxes = torch.full((2, 2, 6, 4), torch.nan)
    boxes[0, 0, 0:2] = torch.tensor([0.0, 0, 4, 4])
    boxes[0, 1, 4:6] = torch.tensor([24.0, 16, 28, 20])
    tokens = object_tokens_from_boxes(boxes, GRID, 4, 2)
    assert tokens[0].nonzero()[:, 0].tolist() == [0, 104]
    assert not tokens[1].any()
    assert not object_tokens_from_boxes(boxes[:, :0], GRID, 4, 2).any()


def test_mistakes_are_refused() -> None:
    draws, objects = draws_of(GRID), torch.zeros(4, 105, dtype=torch.bool)
    with pytest.raises(UserError, match="unknown mask 'tubes' .*did you mean 'tube'"):
        make_mask("tubes", draws, GRID, 0.8)
    with pytest.raises(ValueError, match="a trajectory mask needs object_tokens"):
        make_mask("trajectory", draws, GRID, 0.8)
    for ratio in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="mask ratio must lie between 0 and 1"):
            tube_mask(draws, GRID, ratio)
    with pytest.raises(ValueError, match="masks none of the 5x7 tokens"):
        random_mask(draws, GRID, 0.02)
    with pytest.raises(ValueError, match=r"draws must be \[B, 2, 105\], got \[4, 2, 104\]"):
        tube_mask(draws[..., 1:], GRID, 0.8)
    with pytest.raises(ValueError, match=r"object_tokens must be \[4, 105\], got \[4, 104\]"):
        trajectory_mask(draws, objects[:, 1:], GRID, 0.8)
    with pytest.raises(ValueError, match="object_visible_share must lie in 0..1"):
        trajectory_mask(draws, objects, GRID, 0.8, 1.1)
    with pytest.raises(ValueError, match=r"boxes must be \[B, K, 6, 4\], got \[1, 1, 5, 4\]"):
        object_tokens_from_boxes(torch.zeros(1, 1, 5, 4), GRID, 4, 2)
    with pytest.raises(ValueError, match="index must be in"):
        mask_draws(0, [-1], 105)
