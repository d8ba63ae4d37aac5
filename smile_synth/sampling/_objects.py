"""Draw the objects of clips: their number, identity and box sides, and then their motion."""

from __future__ import annotations

from typing import Any

import numpy as np

from smile_synth.core.rng import RandomStreams
from smile_synth.recipe import SideDistribution
from smile_synth.sampling._instances import Batch, Float, Instances, Int, add_factors
from smile_synth.sampling._layout import arrange_first_frame
from smile_synth.sampling._paths import apply_relations, draw_motion, draw_presence


def sample_instances(batch: Batch) -> Instances:
    """Draw the objects of the clips.

    Raises:
        UserError: the bank lacks a class or split of the recipe.
    """
    recipe, instances = batch.recipe, _draw_counts(batch)
    _choose_objects(batch, instances)
    draw_motion(batch, instances)
    if recipe.objects.presence[0] < 1:
        draw_presence(batch, instances)
    if recipe.relations:
        apply_relations(batch, instances)
    if recipe.objects.overlap is not None:
        arrange_first_frame(batch, instances)
    if recipe.objects.whole_pixels:
        _truncate(instances)
    _add_measured_factors(instances)
    return instances


def _draw_counts(batch: Batch) -> Instances:
    """Draw the numbers of labelled objects and of distractors; return instances with neutral values."""
    objects, frames = batch.recipe.objects, batch.recipe.num_frames

    def draw(purpose: str, low: int, high: int) -> Int:
        if low == high:
            return np.full(len(batch), low)
        return low + batch.streams(purpose).integers(high + 1 - low)

    labelled_counts = draw("count", *objects.count)
    per_clip = labelled_counts + draw("distractor count", *objects.distractors.count)
    clip = np.arange(len(batch)).repeat(per_clip)
    n, place = len(clip), np.arange(len(clip)) - (per_clip.cumsum() - per_clip)[clip]
    labelled = place < labelled_counts[clip]
    number = np.where(labelled, place, place - labelled_counts[clip])
    object_id, height, width = np.zeros((3, n), np.int64)
    return Instances(
        clip, number, labelled, object_id, height, width, np.zeros((n, frames, 2)), np.zeros((n, frames, 2)),
        np.zeros((n, frames)), np.ones((n, frames)), np.ones((n, frames, 3)), np.zeros((n, frames)),
        factors=[{} for _ in range(n)],
    )  # fmt: skip


def _choose_objects(batch: Batch, instances: Instances) -> None:
    """Draw the object of every row, and its box sides before any log_scale."""
    objects, bank = batch.recipe.objects, batch.sources.objects
    other = objects.distractors
    kinds = (
        (True, objects.split, objects.classes, objects.side),
        (False, other.split or objects.split, other.classes or objects.classes, other.side or objects.side),
    )
    for labelled, split, classes, side in kinds:
        rows = (instances.labelled == labelled).nonzero()[0]
        if not len(rows) and not labelled:
            continue
        rng = instances.streams(batch, "object", rows)
        ids = _draw_object_ids(batch, split, classes, rng)
        sides = _draw_sides(side, rng)
        height, width = bank.heights[ids], bank.widths[ids]
        aspect = np.array(objects.aspect, np.float64)[rng.integers(len(objects.aspect))]
        if objects.fit == "keep":
            aspect = aspect * (width / height)
        jitter = rng.uniform(-objects.side_jitter, objects.side_jitter, 2)
        root = np.sqrt(aspect)
        instances.object_id[rows], instances.height[rows], instances.width[rows] = ids, height, width
        box_wh = np.array([sides * root, sides / root]).T * np.exp(jitter)
        instances.box_wh[rows] = box_wh[:, None]


def _draw_object_ids(batch: Batch, split: str | None, classes: list[str] | None, rng: RandomStreams) -> Int:
    """Draw one object of a split and of some classes per stream."""
    objects, bank = batch.recipe.objects, batch.sources.objects
    if objects.class_weights is not None:
        members = [bank.select(split=split, classes=[name]) for name in objects.class_weights]
        drawn = rng.choice(list(objects.class_weights.values()))
        within = rng.integers(np.array([len(m) for m in members])[drawn])
        return np.array([members[c][w] for c, w in zip(drawn, within, strict=True)], np.int64)
    selection = bank.selection(
        split=split, classes=classes, exclude_classes=objects.exclude_classes, balance=objects.balance
    )
    if selection.cumulative is None:
        return np.asarray(selection.ids[rng.integers(len(selection.ids))])
    return np.asarray(selection.ids[selection.cumulative.searchsorted(rng.random(), side="right")])


def _draw_sides(side: Any, rng: RandomStreams) -> Float:
    """Draw one box side per stream, from a list or a distribution."""
    if not isinstance(side, SideDistribution):
        return np.array(side, np.float64)[rng.integers(len(side))]
    u, (low, high) = rng.random(), side.range
    if side.distribution == "uniform":
        return low + u * (high - low)
    power = side.exponent + 1
    if side.distribution == "log-uniform" or power == 0:
        return np.asarray(low * (high / low) ** u)
    # Inverse of the integral of the density side^exponent.
    return np.asarray((low**power + u * (high**power - low**power)) ** (1 / power))


def _truncate(instances: Instances) -> None:
    """Round box sides, upper left corners and angles towards zero to whole numbers."""
    size = np.maximum(np.trunc(instances.box_wh), 1)
    corner = np.trunc(instances.center_xy - instances.box_wh / 2)
    instances.box_wh = size
    instances.center_xy = corner + size / 2
    instances.rotation = np.trunc(instances.rotation)


def _add_measured_factors(instances: Instances) -> None:
    """Measure the motion in the scene, without the camera, and add it to the factors."""
    center, box, rotation = instances.center_xy, instances.box_wh, instances.rotation
    last = max(center.shape[1] - 1, 1)
    steps = center[:, 1:] - center[:, :-1]
    dx, dy = (center[:, -1] - center[:, 0]).T
    distance = np.hypot(dx, dy)
    log_scale = np.log(box[:, -1] / box[:, 0])
    measured = {
        "mean_speed_px_per_frame": np.hypot(steps[..., 0], steps[..., 1]).sum(axis=1) / last,
        "net_displacement_px": distance,
        "rotation_degrees_per_frame": (rotation[:, -1] - rotation[:, 0]) / last,
        "log_scale_per_frame": (log_scale[:, 0] + log_scale[:, 1]) / 2 / last,
    }
    add_factors(instances.factors, range(len(instances)), measured)
    moving = (distance >= 1.0).nonzero()[0]  # a shorter distance has no meaningful direction
    direction = np.rad2deg(np.arctan2(dy, dx)) % 360
    add_factors(instances.factors, moving, {"net_direction_degrees": direction[moving]})
