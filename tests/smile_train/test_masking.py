"""Token masks: counts, rules, and the same mask for the same clip."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from token_masks import FULL, GRID, draws_of, masker_of, masks_of, still
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_train.config import MaskOptions
from smile_train.masking import (
    NUM_BLOCKS,
    Masker,
    block_mask,
    clear_past_mask,
    count_masked,
    motion_weighted,
    object_tokens_from_boxes,
    occlusion_mask,
    random_mask,
    token_motion,
    trajectory_mask,
    tube_mask,
    tubelet_mask,
    upright_boxes,
)

# Options of every kind and rule.
KINDS: dict[str, dict[str, Any]] = {
    "random": {"kind": "random"},
    "tube": {"kind": "tube"},
    "block": {"kind": "block"},
    "share": {},
    "tubelet-visible": {"object_rule": "tubelet-visible"},
    "tubelet-tube": {"object_rule": "tubelet-tube"},
}


def noise(batch: int = 4) -> Tensor:
    return torch.randint(256, still(batch).shape, generator=torch.Generator().manual_seed(2)).byte()


GOLDEN = {
    "random": "1529905cb73d76ad",
    "tube": "3408cd6259f70fb6",
    "block": "1b8142f9d5305902",
    "share": "23f665571480c237",
    "tubelet-visible": "dac1ff0124721f31",
    "tubelet-tube": "62e6796a7b3645d0",
    "motion": "938029fc42b4188e",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_masks_of_every_kind_are_the_golden_ones(name: str) -> None:
    """A mask is part of what a seed and a clip index give, also in later versions."""
    options = {**KINDS, "motion": {"kind": "random", "motion_weight": 3.0}}[name]
    numbers = torch.arange(still(3).numel()) * 2654435761 >> 7
    frames = (numbers % 256).byte().view(still(3).shape)
    objects = (torch.arange(3 * 105) * 7919 % 10 < 3).float().view(3, 105)
    masker = masker_of(seed=5, **options)
    masks = [masks_of(masker, [3, 9, 2**40], frames, number, coverage=objects) for number in (0, 1)]
    assert hashlib.sha256(torch.stack(masks).numpy().tobytes()).hexdigest()[:16] == GOLDEN[name]


def test_draws_have_one_row_per_mask_and_a_few_kilobytes() -> None:
    draws = masker_of(FULL).draw(np.array([7, 2**62]), 2)
    assert (draws.dtype, draws.shape) == (torch.float32, (2, 2, 2 * 1568 + 1))
    assert torch.equal(draws[1, :1], masker_of(FULL).draw(np.array([2**62]))[0])
    assert draws.min() >= 0 and draws.max() < 1 and len(draws.unique()) > 12000
    assert masker_of(kind="block").draw(np.array([7])).shape == (1, 1, 2 * 105 + 1 + 3 * NUM_BLOCKS)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("motion_weight", [0.0, 3.0])
def test_the_mask_of_a_clip_does_not_depend_on_its_batch(name: str, motion_weight: float) -> None:
    if name == "block" and motion_weight:
        return
    options = {**KINDS[name], "motion_weight": motion_weight}
    objects = (torch.rand(3, 105, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    indices, frames = [3, 9, 2**40], noise(3)
    masker = masker_of(**options)
    together = masks_of(masker, indices, frames, coverage=objects)
    assert together.dtype == torch.bool and together.sum(1).tolist() == [masker.num_masked] * 3
    alone = masks_of(masker, indices[1:2], frames[1:2], coverage=objects[1:2])
    assert torch.equal(together[1], alone[0])
    again = masks_of(masker, indices[1:2], frames[1:2], number=1, coverage=objects[1:2])
    assert not torch.equal(again, alone) and again.sum() == masker.num_masked
    other = masks_of(masker_of(seed=1, **options), indices, frames, coverage=objects)
    assert not torch.equal(other, together)


def test_cross_clip_uses_masks_of_other_clips_for_further_masks() -> None:
    objects = torch.eye(4, 105)
    for number in (0, 1, 2):
        own, mixed = (
            masks_of(masker_of(cross_clip=cross_clip), range(4), number=number, coverage=objects)
            for cross_clip in (False, True)
        )
        assert torch.equal(mixed, own[[(i - number) % 4 for i in range(4)]])


def test_published_counts() -> None:
    assert count_masked(FULL, 0.8) == 1248
    assert count_masked(FULL, 0.9) == 8 * 176
    for options in KINDS.values():
        masker = masker_of(FULL, **options)
        mask = masks_of(masker, range(4), coverage=torch.zeros(4, 1568))
        assert masker.num_masked == 1248 and mask.sum(1).tolist() == [1248] * 4


@settings(deadline=None, max_examples=60)
@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(2, 7)),
    ratio=st.floats(0.5, 0.99),
    cover=st.sampled_from([0.0, 0.02, 0.3, 0.8, 0.97, 1.0]),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)
def test_counts_are_exact_for_any_share_of_object_tokens(
    grid: tuple[int, int, int], ratio: float, cover: float, share: float, seed: int
) -> None:
    objects = torch.rand(4, math.prod(grid), generator=torch.Generator().manual_seed(seed)) < cover
    for options in KINDS.values():
        masker = masker_of(grid, seed, ratio=ratio, object_visible_share=share, **options)
        mask = masks_of(masker, range(4), coverage=objects.float())
        assert mask.shape == objects.shape
        assert mask.sum(1).tolist() == [count_masked(grid, ratio)] * 4


def test_tubes_are_constant_in_time_and_random_masks_are_not() -> None:
    mask = tube_mask(draws_of(FULL), FULL, 0.8).view(4, *FULL)
    assert (mask == mask[:, :1]).all() and mask[:, 0].sum((1, 2)).tolist() == [156] * 4
    assert not torch.equal(mask[0], mask[1])
    mask = random_mask(draws_of(FULL), FULL, 0.8).view(4, *FULL)
    assert not (mask == mask[:, :1]).all()


@pytest.mark.parametrize("kind", ["random", "tube"])
def test_every_token_is_masked_equally_often(kind: str) -> None:
    often = masks_of(masker_of(kind=kind), range(3000)).double().mean(0)
    assert (often - 0.8).abs().max() < 5 * (0.16 / 3000) ** 0.5


def test_blocks_are_added_until_the_count_is_reached() -> None:
    # 8 x 10 places: a block of aspect 1 has sides sqrt(.15 * 80) ~ 3; draws of 0 lie top left, of 1 - e bottom right.
    square = math.log(1 / 0.75) / math.log(1.5 / 0.75)
    blocks = torch.tensor([[[square, 0.0, 0.0], [square, 0.999, 0.999], [square, 0.0, 0.999]]])
    mask = block_mask(blocks, draws_of((2, 8, 10), batch=1), (2, 8, 10), 20 / 80).view(2, 8, 10)
    assert torch.equal(mask[0], mask[1])
    assert mask[0, :3, :3].all() and mask[0, 5:, 7:].all()  # nine each, and two places of the third block
    assert mask[0, :3, 7:].sum() == 2 and mask[0].sum() == 20


def test_blocks_hide_neighbours_together() -> None:
    mask = masks_of(masker_of(FULL, kind="block"), range(50)).view(50, *FULL)
    tubes = masks_of(masker_of(FULL, kind="tube"), range(50)).view(50, *FULL)

    def edges(m: Tensor) -> float:
        return float((m[:, 0, 1:] != m[:, 0, :-1]).double().mean())

    assert edges(mask) < 0.5 * edges(tubes)
    assert NUM_BLOCKS * 0.15 > 3  # the last blocks are hardly ever needed


def test_motion_weights_draw_without_replacement_by_weight() -> None:
    # One of four tokens is masked at a time; it moves three times as much as its clip's mean.
    motion = torch.tensor([[0.0, 0.0, 3.0, 1.0]]).expand(6000, 4)
    draws = draws_of((1, 1, 4), batch=6000)
    weighted = motion_weighted(draws, motion, (1, 1, 4), 2.0)
    weights = torch.tensor([1, 1, 1 + 2 * 3, 1 + 2 * 1], dtype=torch.float64)
    for stream in (0, 1):
        first = torch.bincount(weighted[:, stream].argmin(1), minlength=4) / 6000
        torch.testing.assert_close(first.double(), weights / weights.sum(), rtol=0, atol=0.025)
    even = motion_weighted(draws, torch.ones_like(motion), (1, 1, 4), 2.0)
    assert torch.equal(even.argsort(-1), draws.argsort(-1))
    assert torch.equal(motion_weighted(draws, motion * 0, (1, 1, 4), 2.0).argsort(-1), draws.argsort(-1))
    # A tube weighs as much as its tokens do on average.
    over_time = motion_weighted(draws, motion, (2, 1, 2), 2.0)
    swapped = motion_weighted(draws, motion[:, [2, 3, 0, 1]], (2, 1, 2), 2.0)
    assert torch.equal(over_time[:, 0], swapped[:, 0]) and not torch.equal(over_time[:, 1], swapped[:, 1])


def test_token_motion_is_the_mean_change_of_a_token() -> None:
    frames = still(2)
    frames[1, 3, :, 4:8, 8:12] = 60  # brighter in frame 3 only: it changes at frames 3 and 4
    frames[1, 0, 0, 19, 27] = 240  # the first frame counts as the second does
    motion = token_motion(frames, 4, 2).view(2, *GRID)
    assert not motion[0].any() and motion[1].count_nonzero() == 3
    assert motion[1, 1, 1, 2] == 30 and motion[1, 2, 1, 2] == 30
    assert motion[1, 0, 4, 6] == pytest.approx(80 / 16)
    assert not token_motion(frames[:, :1], 4, 1).any()
    masker = masker_of(ratio=0.3, motion_weight=20.0, kind="random")
    masks = masks_of(masker, range(400), frames[1:].expand(400, -1, -1, -1, -1))
    often = masks.view(400, *GRID).double().mean(0)
    assert often[1, 1, 2] > 0.95 and often[0, 0, 0] < 0.35


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


def test_clear_past_masks_as_many_tokens_of_every_later_tubelet() -> None:
    masker = masker_of(kind="clear-past", ratio=0.95, clear_tubelets=1)
    mask = masks_of(masker, range(9)).view(9, *GRID)
    assert mask.sum((2, 3)).tolist() == [[0, 33, 33]] * 9 and masker.num_masked == 66
    assert not torch.equal(mask[:, 1], mask[:, 2])
    assert masker_of((7, 5, 4), kind="clear-past", ratio=0.5).num_masked == 4 * 10  # three of seven are clear
    # The smallest draws of a tubelet are masked, whatever the draws of the others are.
    draws = torch.tensor([[[0.0] * 6, [0.2, 0.1, 0.9, 0.8, 0.7, 0.6]]])
    assert clear_past_mask(draws, (3, 1, 2), 0.5, 1).tolist() == [[False, False, False, True, False, True]]
    motion = torch.zeros(1, 6)
    motion[0, 2] = 60.0  # a token that moves fast is masked first in its own tubelet
    weighted = motion_weighted(draws, motion, (3, 1, 2), 99.0)
    assert clear_past_mask(weighted, (3, 1, 2), 0.5, 1)[0, 2:].tolist() == [True, False, False, True]


# Two clips of GRID: labels of motion for the offsets -1, 0, 1, 2.
OFFSETS = (-1, 0, 1, 2)


def motion_labels() -> dict[str, Tensor]:
    valid, visible = torch.ones(2, 4, 105, dtype=torch.bool), torch.ones(2, 4, 105, dtype=torch.bool)
    displacement, camera = torch.zeros(2, 4, 105, 2), torch.zeros(2, 4, 105, 2)
    return {
        "motion_valid": valid, "motion_visibility": visible, "motion_displacement": displacement,
        "motion_camera": camera,
    }  # fmt: skip


def motion_masker(**options: Any) -> Masker:
    return Masker(MaskOptions(**options), GRID, patch_size=4, tubelet_size=2, seed=0, motion_offsets=OFFSETS)


def test_occlusion_masks_what_is_hidden_one_tubelet_later_or_earlier() -> None:
    labels = motion_labels()
    visible, valid = labels["motion_visibility"], labels["motion_valid"]
    visible[0, 0, 40:45] = False  # uncovered since the tubelet before
    visible[0, 2, 50:60] = False  # hidden in the next one
    visible[0, [1, 3], 70:80] = False  # other offsets have no effect
    visible[0, 2, 80:] = valid[0, 2, 80:] = False  # unknown, not hidden
    many = {name: value.repeat(300, *[1] * (value.ndim - 1)) for name, value in labels.items()}
    mask = masks_of(motion_masker(kind="occlusion", ratio=0.3), range(600), **many)
    assert mask.sum(1).tolist() == [30] * 600
    often = mask.view(300, 2, 105).double().mean(0)
    expected = torch.zeros(105, dtype=torch.bool)
    expected[[*range(40, 45), *range(50, 60)]] = True
    assert (often[0, expected] == 1).all()
    # 15 of the other 90 tokens are masked; the clip without occlusions has a random mask.
    assert (often[0, ~expected] - 15 / 90).abs().max() < 0.11 and (often[1] - 30 / 105).abs().max() < 0.13
    # Random masks of natural videos, in a mixture or alone.
    for key, value in labels.items():
        labels[key] = torch.zeros_like(value)
    random = masks_of(masker_of(kind="random", ratio=0.3), [7, 8])
    assert torch.equal(masks_of(motion_masker(kind="occlusion", ratio=0.3), [7, 8], **labels), random)
    assert torch.equal(masks_of(motion_masker(kind="occlusion", ratio=0.3), [7, 8]), random)


def test_a_share_of_the_tokens_at_occlusions_stays_visible() -> None:
    draws = draws_of(GRID, batch=8, seed=5)
    tokens = torch.zeros(8, 105, dtype=torch.bool)
    tokens[:, 10:30] = True
    mask = occlusion_mask(draws, tokens, GRID, 0.3, 0.6)
    assert mask.sum(1).tolist() == [30] * 8 and mask[:, 10:30].sum(1).tolist() == [12] * 8
    for i in range(8):  # the smallest draws are masked, within and without
        inside, outside = draws[i, 1, 10:30], torch.cat([draws[i, 1, :10], draws[i, 1, 30:]])
        assert torch.equal(mask[i, 10:30], inside < inside.sort().values[12])
        assert (torch.cat([mask[i, :10], mask[i, 30:]]) == (outside < outside.sort().values[18])).all()
    # If tokens elsewhere do not suffice, more of these are masked; if the count is small, fewer.
    tokens[:, 30:] = True
    assert (occlusion_mask(draws, tokens, GRID, 0.3, 0.0)[:, :10].sum(1) == 10).all()
    assert (occlusion_mask(draws, tokens, GRID, 0.3, 1.0).sum(1) == 30).all()


def test_exact_motion_is_relative_to_the_camera() -> None:
    labels = motion_labels()
    labels["motion_camera"][:] = torch.tensor([3.0, -4.0])
    labels["motion_displacement"][:] = torch.tensor([3.0, -4.0])
    labels["motion_displacement"][0, 1, 33] = 0.0  # still on the screen, while the background moves
    labels["motion_displacement"][0, 2, 50] = 99.0  # another offset
    labels["motion_displacement"][0, 1, 70] = 99.0
    labels["motion_valid"][0, 1, 70] = False  # unknown
    masker = motion_masker(kind="random", ratio=0.3, motion_weight=20.0, motion_source="exact")
    many = {name: value.repeat(200, *[1] * (value.ndim - 1)) for name, value in labels.items()}
    masks = masks_of(masker, range(400), **many).view(200, 2, 105)
    often = masks.double().mean(0)
    assert often[0, 33] == 1 and often[0, [50, 70]].max() < 0.45
    assert torch.equal(masks[0], masks_of(masker, [0, 1], noise(2), **labels))  # frames have no effect
    # Without known motion all weights are equal.
    even = masks_of(masker_of(kind="random", ratio=0.3), [0, 1])
    assert torch.equal(masks[0, 1], even[1]) and torch.equal(masks_of(masker, [0, 1]), even)
    tubes = motion_masker(kind="tube", ratio=0.3, motion_weight=20.0, motion_source="exact")
    shares = masks_of(tubes, range(400), **many).view(200, 2, *GRID)[:, 0].double().mean(0)
    assert shares[:, 4, 5].min() > 0.9 > 0.5 > shares[:, 0, 0].max()  # token 33 is in row 4, column 5


def test_options_of_a_mask_change_linearly_to_those_of_the_last_step() -> None:
    options = MaskOptions.model_validate({"ratio": 0.5, "final": {"ratio": 0.9, "object_visible_share": 0.3}})
    middle = options.at(0.25)
    assert (middle.ratio, middle.object_visible_share) == pytest.approx((0.6, 0.15))
    assert (options.at(1.0).ratio, options.at(0.0).ratio) == (0.9, 0.5)  # without rounding
    assert (options.summary, options.at(1.0).summary) == (
        "trajectory, ratio 0.5 to 0.9",
        "trajectory, ratio 0.9",
    )
    masker = masker_of(kind="random", ratio=0.3, final={"ratio": 0.8})
    assert [masker.at(p).num_masked for p in (0.0, 0.5, 1.0)] == [30, 57, 84] and masker.num_masked == 30
    for progress, ratio in ((0.0, 0.3), (1.0, 0.8)):
        constant = masks_of(masker_of(kind="random", ratio=ratio), range(3))
        assert torch.equal(masks_of(masker.at(progress), range(3)), constant)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final": {}}, "final: give one of ratio, object_visible_share, occlusion_share, motion_weight"),
        ({"kind": "block", "final": {"motion_weight": 2.0}}, "motion_weight: has no effect on block masks"),
        ({"final": {"occlusion_share": 0.5}}, "occlusion_share: only with kind occlusion"),
        (
            {"kind": "tube", "final": {"object_visible_share": 0.5}},
            "only with kind trajectory and object_rule",
        ),
    ],
)
def test_values_of_the_last_step_that_have_no_effect_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        MaskOptions(**options)


def test_the_spared_tubelets_can_be_fixed() -> None:
    objects = torch.zeros(4, *GRID)
    objects[:, :, 1:3, 1:3] = 1
    masker = masker_of(object_rule="tubelet-visible", visible_tubelets=[0, 2], ratio=0.6)
    mask = masks_of(masker, range(4), coverage=objects.flatten(1)).view(4, *GRID)
    assert not mask[:, [0, 2], 1:3, 1:3].any() and mask[:, 1, 1:3, 1:3].all()


def test_upright_boxes_forget_the_rotation_and_keep_middle_and_sides() -> None:
    cos, sin = math.cos(0.6), math.sin(0.6)
    turned = np.array([[2 * cos, -3 * sin, 0], [2 * sin, 3 * cos, 0], [0, 0, 1.0]])
    middle = turned @ np.array([4, 2.5, 1])
    turned[:2, 2] = np.array([30, 20]) - middle[:2]
    boxes = upright_boxes(np.stack([turned, turned @ np.diag([1.0, 1, 2])])[None], np.array([[5, 8]]))
    np.testing.assert_allclose(boxes[0, 0], [30 - 8, 20 - 7.5, 30 + 8, 20 + 7.5])
    assert boxes.shape == (1, 2, 4)


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


@pytest.mark.parametrize("object_tokens", ["coverage", "boxes-oversize"])
def test_batches_of_natural_videos_alone_get_tube_masks(object_tokens: str) -> None:
    masks = masks_of(masker_of(object_tokens=object_tokens), range(4))
    assert torch.equal(masks, masks_of(masker_of(kind="tube"), range(4)))


def test_mistakes_are_refused() -> None:
    draws, objects = draws_of(GRID), torch.zeros(4, 105, dtype=torch.bool)
    with pytest.raises(UserError, match="mask: mask ratio 0.02 masks none of the 5x7 tokens"):
        masker_of(ratio=0.02)
    with pytest.raises(UserError, match="mask: mask ratio 0.02 masks none of the 5x7 tokens"):
        masker_of(final={"ratio": 0.02})
    with pytest.raises(UserError, match=r"mask.visible_tubelets: 3 given, but a clip has tubelets 0\.\.2"):
        masker_of(object_rule="tubelet-visible", visible_tubelets=[0, 3])
    with pytest.raises(ValidationError, match="motion_weight: has no effect on block masks"):
        MaskOptions(kind="block", motion_weight=1.0)
    with pytest.raises(ValidationError, match="visible_tubelets: only with object_rule"):
        MaskOptions(visible_tubelets=[0])
    with pytest.raises(ValidationError, match="clear_tubelets: only with kind clear-past, and kind is tube"):
        MaskOptions(kind="tube", clear_tubelets=2)
    with pytest.raises(ValidationError, match="occlusion_share: only with kind occlusion, and kind is tube"):
        MaskOptions(kind="tube", occlusion_share=0.5)
    with pytest.raises(ValidationError, match="motion_source: has no effect without motion_weight"):
        MaskOptions(motion_source="exact")
    with pytest.raises(UserError, match=r"mask.clear_tubelets: 3 of a clip's 3 tubelets; clear-past needs"):
        masker_of(kind="clear-past", clear_tubelets=3)
    with pytest.raises(UserError, match=r"mask.clear_tubelets: 0 of a clip's 1 tubelets; clear-past needs"):
        masker_of((1, 5, 7), kind="clear-past")
    with pytest.raises(ValueError, match=r"num_clear must lie in 1\.\.2, got 3"):
        clear_past_mask(draws, GRID, 0.5, 3)
    with pytest.raises(ValueError, match=r"masked_share must lie in 0\.\.1, got -0.5"):
        occlusion_mask(draws, objects, GRID, 0.5, -0.5)
    with pytest.raises(ValueError, match=r"spared must be \[4, 3\], got \[4, 2\]"):
        tubelet_mask(draws, objects, torch.ones(4, 2, dtype=torch.bool), GRID, 0.8)
    with pytest.raises(ValueError, match=r"motion must be \[4, 105\], got \[4, 104\]"):
        motion_weighted(draws, torch.ones(4, 104), GRID, 1.0)
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
