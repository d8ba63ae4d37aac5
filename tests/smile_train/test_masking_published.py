"""Token masks against the published rule."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from token_masks import FULL, draws_of, masks_of
from torch import Tensor

from smile_train.config import MaskOptions
from smile_train.masking import (
    Masker,
    object_tokens_from_boxes,
    trajectory_mask,
)


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


def published_objects(boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tokens 2x16x16 of 224 px under boxes ``[K, 16, 4]``: per object and tubelet the cells from floor(min / 16) to
    ceil(max / 16) inclusive, of the union of its two boxes."""
    inside = np.zeros(FULL, bool)
    for track in boxes:
        for t in range(8):
            x0, y0 = np.floor(track[2 * t : 2 * t + 2, :2].min(0) / 16).astype(int)
            x1, y1 = np.ceil(track[2 * t : 2 * t + 2, 2:].max(0) / 16).astype(int)
            inside[t, max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1] = True
    return inside.ravel()


def published_mask(rule: str, objects: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.bool_]:
    """One mask by the rule in words.

    A tube mask hides 156 of 196 places at all times. share: of the n object tokens int(.1 n) are picked to be
    shown, the others are hidden; elsewhere the tube. tubelet-visible: object tokens are hidden, but those of one
    tubelet, picked for the clip, are shown. tubelet-tube: those follow the tube. Then exactly 1248: too many ->
    random tokens hidden by the tube alone are shown, and when there are none left, hidden object tokens; too few ->
    random tokens that the tube shows outside objects are hidden, and when there are none left, picked ones.
    """
    places = np.zeros(196, bool)
    places[random.choice(196, 156, replace=False)] = True
    tube = np.tile(places, 8)
    if rule == "share":
        tokens = np.flatnonzero(objects)
        picked = np.zeros(1568, bool)
        picked[random.choice(tokens, int(0.1 * len(tokens)), replace=False)] = True
    else:
        picked = objects & (np.arange(1568) // 196 == random.integers(8))
    mask = tube | (objects & ~picked)
    if rule != "tubelet-tube":
        mask &= ~picked
    excess = int(mask.sum()) - 1248
    groups = (tube & ~objects, objects & ~picked) if excess > 0 else (~tube & ~objects, picked & ~mask)
    for group in groups:
        change = random.permutation(np.flatnonzero(group))[: abs(excess)]
        mask[change] = excess < 0
        excess -= int(np.sign(excess)) * len(change)
    return mask


def compared(faithful: NDArray[np.bool_], published: NDArray[np.bool_]) -> tuple[float, float]:
    """Mean and largest square of z over what masks ``[scene, clip, token]`` count, of two equally large samples."""
    worst = []
    for a, b in (
        (faithful, published),
        (faithful[..., :196] & faithful[..., 784:980], published[..., :196] & published[..., 784:980]),
    ):
        n = a.shape[1]
        p, q = a.mean(1), b.mean(1)
        pooled = (p + q) / 2
        free = (pooled > 0.01) & (pooled < 0.99)
        worst.append(((p - q) ** 2 / (2 * pooled * (1 - pooled) / n + 1e-12))[free])
    values = np.concatenate([w.ravel() for w in worst])
    return float(values.mean()), float(values.max())


@pytest.mark.parametrize("rule", ["share", "tubelet-visible", "tubelet-tube"])
@pytest.mark.slow
def test_faithful_masks_agree_in_distribution_with_the_published_rule(rule: str) -> None:
    scenes, per_scene = 8, 400 if rule == "share" else 250
    boxes = moving_boxes(scenes)
    masker = Masker(
        MaskOptions(object_tokens="boxes-oversize", object_rule=rule),
        FULL,
        patch_size=16,
        tubelet_size=2,
        seed=0,
    )
    ours, theirs, shifted, counts = [], [], [], []
    random = np.random.default_rng(1)
    for scene in range(scenes):
        indices = range(scene * per_scene, (scene + 1) * per_scene)
        same = boxes[scene : scene + 1].expand(per_scene, -1, -1, -1)
        mask = masks_of(masker, indices, torch.zeros(per_scene), boxes_xyxy=same).numpy()
        objects = published_objects(boxes[scene].double().numpy())
        reference = np.stack([published_mask(rule, objects, random) for _ in range(per_scene)])
        assert (mask.sum(1) == 1248).all() and (reference.sum(1) == 1248).all()
        ours.append(mask)
        theirs.append(reference)
        shifted.append(np.roll(mask.reshape(-1, *FULL), 1, 3).reshape(mask.shape))
        # How many object tokens are shown, and how many tokens of each tubelet are hidden, clip by clip.
        counts.append([((~m & objects).sum(1), m.reshape(-1, 8, 196).sum(2)) for m in (mask, reference)])
    mean, largest = compared(np.stack(ours), np.stack(theirs))
    assert 0.9 < mean < 1.1 and largest < 30
    # Objects found a token too far to the right are told apart.
    assert compared(np.stack(shifted), np.stack(theirs))[0] > 1.5
    for (shown, hidden), (shown_reference, hidden_reference) in counts:
        for a, b in ((shown, shown_reference), (np.sort(hidden, 1), np.sort(hidden_reference, 1))):
            spread = np.sqrt(a.std(0) ** 2 + b.std(0) ** 2) / per_scene**0.5
            assert (np.abs(a.mean(0) - b.mean(0)) <= 5 * spread + 1e-9).all()
            assert (np.abs(a.std(0) - b.std(0)) <= 5 / per_scene**0.5 * a.std(0) + 1e-9).all()
