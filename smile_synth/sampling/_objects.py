"""Draw the objects of clips: their number, identity and box sides, and then their motion."""

from __future__ import annotations

from typing import Any

import numpy as np

from smile_synth.core.rng import RandomStreams
from smile_synth.recipe import SideDistribution
from smile_synth.sampling._instances import Batch, Float, Instances, Int, Rows, add_factors
from smile_synth.sampling._layout import arrange_first_frame
from smile_synth.sampling._paths import apply_relations, draw_motion, draw_presence


def sample_instances(batch: Batch) -> Instances:
    """Draw the objects of the clips.

    Raises:
        UserError: the bank lacks a class or split of the recipe.
    """
    recipe = batch.recipe
    rows = _draw_counts(batch)
    object_id, box_wh = _choose_objects(batch, rows)
    bank, frames, n = batch.sources.objects, recipe.num_frames, len(rows)
    instances = Instances(
        rows.clip, rows.number, rows.labelled, object_id,
        bank.heights[object_id].astype(np.int64), bank.widths[object_id].astype(np.int64),
        np.zeros((n, frames, 2)), box_wh[:, None].repeat(frames, axis=1), np.zeros((n, frames)),
        np.ones((n, frames)), np.ones((n, frames, 3)), np.zeros((n, frames)),
        factors=[{} for _ in range(n)],
    )  # fmt: skip
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


def _draw_counts(batch: Batch) -> Rows:
    """Draw the numbers of labelled objects and of distractors."""
    objects = batch.recipe.objects

    def draw(purpose: str, low: int, high: int) -> Int:
        if low == high:
            return np.full(len(batch), low)
        return low + batch.streams(purpose).integers(high + 1 - low)

    labelled_counts = draw("count", *objects.count)
    per_clip = labelled_counts + draw("distractor count", *objects.distractors.count)
    clip = np.arange(len(batch)).repeat(per_clip)
    place = np.arange(len(clip)) - (per_clip.cumsum() - per_clip)[clip]
    labelled = place < labelled_counts[clip]
    return Rows(clip, np.where(labelled, place, place - labelled_counts[clip]), labelled)


def _choose_objects(batch: Batch, rows: Rows) -> tuple[Int, Float]:
    """Draw the object of every row, ``[N]``, and its box sides before any log_scale, ``[N, 2]``."""
    objects = batch.recipe.objects
    object_id, box_wh = np.zeros(len(rows), np.int64), np.zeros((len(rows), 2))
    other = objects.distractors
    kinds = (
        (True, objects.split, objects.classes, objects.side),
        (False, other.split or objects.split, other.classes or objects.classes, other.side or objects.side),
    )
    bank = batch.sources.objects
    for labelled, split, classes, side in kinds:
        chosen = np.flatnonzero(rows.labelled == labelled)
        if not len(chosen) and not labelled:
            continue
        rng = rows.streams(batch, "object", chosen)
        ids = _draw_object_ids(batch, split, classes, rng)
        sides = _draw_sides(side, rng)
        aspect = np.array(objects.aspect, np.float64)[rng.integers(len(objects.aspect))]
        if objects.fit == "keep":
            aspect = aspect * (bank.widths[ids] / bank.heights[ids])
        jitter = rng.uniform(-objects.side_jitter, objects.side_jitter, 2)
        root = np.sqrt(aspect)
        box_wh[chosen] = np.array([sides * root, sides / root]).T * np.exp(jitter)
        object_id[chosen] = ids
    return object_id, box_wh


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
    measured = {
        "mean_speed_px_per_frame": np.hypot(steps[..., 0], steps[..., 1]).sum(axis=1) / last,
        "net_displacement_px": distance,
        "rotation_degrees_per_frame": (rotation[:, -1] - rotation[:, 0]) / last,
        "log_scale_per_frame": np.log(box[:, -1] / box[:, 0]).mean(axis=1) / last,
    }
    add_factors(instances.factors, range(len(instances)), measured)
    moving = np.flatnonzero(distance >= 1.0)  # a shorter distance has no meaningful direction
    direction = np.rad2deg(np.arctan2(dy, dx)) % 360
    add_factors(instances.factors, moving, {"net_direction_degrees": direction[moving]})
