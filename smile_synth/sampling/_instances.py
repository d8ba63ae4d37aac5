"""Instances: the objects of many clips, drawn together; every array has one row per object.

What is drawn for an object depends on its clip's address and its number alone, never on the other rows:
the same numbers come out of a batch of one and of a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.rng import RandomStreams
from smile_synth.motion import (
    OBJECT_CURVES,
    Bond,
    Path,
    Request,
    draw_curve,
    draw_key_times,
    draw_path,
    draw_relation,
)
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Objects, Recipe, SideDistribution
from smile_synth.scene import Factor

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
# A tilted object is seen from this many times the frame's longer side away.
VIEWING_DISTANCE = 2.0
LAYOUT_TRIES = 64
# Curves whose arrays stand only where an object has them.
SELDOM = ("shear", "tilt", "bias", "gamma")


@dataclass
class Instances:
    """The objects of B clips: N rows, clip after clip.

    Attributes:
        clip: ``[N]`` 0 .. B-1.
        number: ``[N]`` 0, 1, ... within the clip, distractors counted anew.
        labelled: ``[N]`` bool; distractors are not.
        object_id: ``[N]`` in the bank.
        height, width: ``[N]`` of the texture.
        center_xy: ``[N, T, 2]`` pixels, the middle of the un-rotated box.
        box_wh: ``[N, T, 2]`` pixels.
        rotation: ``[N, T]`` degrees.
        shear, tilt: ``[N, T, 2]`` slopes and degrees.
        bias: ``[N, T, 3]``.
        gamma: ``[N, T, 1]``.
        opacity: ``[N, T]``.
        gain: ``[N, T, 3]``.
        depth: ``[N, T]`` ranks relative to the depth order.
        factors: N dicts of drawn values.
    """

    clip: Int
    number: Int
    labelled: Bool
    object_id: Int
    height: Int
    width: Int
    center_xy: Float
    box_wh: Float
    rotation: Float
    opacity: Float
    gain: Float
    depth: Float
    shear: Float | None = None
    tilt: Float | None = None
    bias: Float | None = None
    gamma: Float | None = None
    factors: list[dict[str, Factor]] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of objects N."""
        return len(self.clip)

    def poses(self, size_hw: tuple[int, int]) -> Float:
        """Return ``[N, T, 3, 3]`` texture pixels to frame pixels, before the camera."""
        texture_wh = np.stack([self.width, self.height], axis=-1).astype(np.float64)[:, None]
        middle = texture_wh / 2
        scale = self.box_wh / texture_wh
        if self.tilt is None:
            return geometry.affine(self.center_xy, self.rotation, scale, self.shear, middle)
        flat = geometry.affine(np.zeros_like(self.center_xy), self.rotation, scale, self.shear, middle)
        tilted = geometry.product(geometry.tilt(self.tilt, VIEWING_DISTANCE * max(size_hw)), flat)
        return geometry.product(geometry.translation(self.center_xy), tilted)


def sample_instances(recipe: Recipe, bank: ObjectBank, seed: int, indices: Int) -> Instances:
    """Draw the objects of clips ``indices`` ``[B]``.

    Raises:
        UserError: classes or a split that the bank lacks.
    """
    objects = recipe.objects
    low, high = objects.count
    labelled_counts = low + RandomStreams(seed, indices, "count").integers(high + 1 - low)
    low, high = objects.distractors.count
    counts = low + RandomStreams(seed, indices, "distractor count").integers(high + 1 - low) if high else 0
    per_clip = labelled_counts + counts
    clip = np.repeat(np.arange(len(indices)), per_clip)
    place = np.arange(len(clip)) - np.repeat(np.cumsum(per_clip) - per_clip, per_clip)
    labelled = place < labelled_counts[clip]
    number = np.where(labelled, place, place - labelled_counts[clip])
    rows = _Rows(seed, indices, clip, number, labelled)

    object_id, box_start = _looks(objects, bank, rows)
    instances = _moved(recipe, rows, bank, object_id, box_start)
    if recipe.relations:
        _relate(recipe, rows, instances, labelled_counts)
    if objects.overlap is not None:
        _lay_out(objects.overlap, recipe.size, rows, instances)
    if objects.whole_pixels:
        _truncate(instances)
    _measure(instances)
    return instances


@dataclass(frozen=True)
class _Rows:
    """Addresses of the rows of `Instances`."""

    seed: int
    indices: Int
    clip: Int
    number: Int
    labelled: Bool

    def draws(self, purpose: str, rows: Int | None = None) -> RandomStreams:
        """Return the streams of a purpose, one per object (of ``rows``)."""
        chosen = slice(None) if rows is None else rows
        kinds = ("distractor " + purpose, purpose)
        names = [
            f"{kinds[own]} {number}"
            for own, number in zip(self.labelled[chosen].tolist(), self.number[chosen].tolist(), strict=True)
        ]
        return RandomStreams(self.seed, self.indices[self.clip[chosen]], names)


def _sides(side: Any, rng: RandomStreams) -> Float:
    if not isinstance(side, SideDistribution):
        return np.array(side, np.float64)[rng.integers(len(side))]
    u, (low, high) = rng.random(), side.range
    if side.distribution == "uniform":
        return low + u * (high - low)
    power = side.exponent + 1
    if side.distribution == "log-uniform" or power == 0:
        return np.asarray(low * (high / low) ** u)
    # Inverse of the cumulated density side^exponent between the two sides.
    return np.asarray((low**power + u * (high**power - low**power)) ** (1 / power))


def _looks(objects: Objects, bank: ObjectBank, rows: _Rows) -> tuple[Int, Float]:
    """Draw which object every row is, ``[N]``, and its box at the start, ``[N, 2]``."""
    object_id = np.zeros(len(rows.clip), np.int64)
    box = np.zeros((len(rows.clip), 2))
    other = objects.distractors
    kinds = (
        (True, objects.split, objects.classes, objects.side),
        (False, other.split or objects.split, other.classes or objects.classes, other.side or objects.side),
    )
    for own, split, classes, side in kinds:
        chosen = np.flatnonzero(rows.labelled == own)
        if not len(chosen) and not own:
            continue
        look = rows.draws("object", chosen)
        if objects.class_weights is None:
            selection = bank.selection(
                split=split, classes=classes, exclude_classes=objects.exclude_classes, balance=objects.balance
            )
            if selection.cumulative is None:
                places = look.integers(len(selection.ids))
            else:
                places = np.searchsorted(selection.cumulative, look.random(), side="right")
            ids = selection.ids[places]
        else:
            members = [bank.select(split=split, classes=[name]) for name in objects.class_weights]
            drawn = look.choice(list(objects.class_weights.values()))
            within = look.integers(np.array([len(m) for m in members])[drawn])
            ids = np.array([members[c][w] for c, w in zip(drawn, within, strict=True)], np.int64)
        sides = _sides(side, look)
        aspect = np.array(objects.aspect, np.float64)[look.integers(len(objects.aspect))]
        if objects.fit == "keep":
            aspect = aspect * (bank.widths[ids] / bank.heights[ids])
        jitter = look.uniform(-objects.side_jitter, objects.side_jitter, 2)
        root = np.sqrt(aspect)
        box[chosen] = np.stack([sides * root, sides / root], axis=-1) * np.exp(jitter)
        object_id[chosen] = ids
    return object_id, box


def _entries(recipe: Recipe, rows: _Rows) -> Int:
    """Draw which motion entry every row has."""
    weights = [entry.weight for entry in recipe.motion]
    if len(weights) == 1:
        return np.zeros(len(rows.clip), np.int64)
    if recipe.objects.shared_motion:
        return RandomStreams(rows.seed, rows.indices, "motion").choice(weights)[rows.clip]
    return rows.draws("motion").choice(weights)


def _moved(recipe: Recipe, rows: _Rows, bank: ObjectBank, object_id: Int, box_start: Float) -> Instances:
    n, frames = len(object_id), recipe.num_frames
    instances = Instances(
        rows.clip, rows.number, rows.labelled, object_id,
        bank.heights[object_id].astype(np.int64), bank.widths[object_id].astype(np.int64),
        np.zeros((n, frames, 2)), np.repeat(box_start[:, None], frames, axis=1), np.zeros((n, frames)),
        np.ones((n, frames)), np.ones((n, frames, 3)), np.zeros((n, frames)),
        factors=[{} for _ in range(n)],
    )  # fmt: skip
    entry = _entries(recipe, rows)
    if recipe.key_times.shared:
        draws = RandomStreams(rows.seed, rows.indices, "key times")
        times, num_keys = draw_key_times(frames, recipe.key_times, rng=draws)
        times, num_keys = times[rows.clip], num_keys[rows.clip]
    else:
        times, num_keys = draw_key_times(frames, recipe.key_times, rng=rows.draws("key times"))
    for number, parameters in enumerate(recipe.motion):
        for keys in np.unique(num_keys):
            chosen = np.flatnonzero((entry == number) & (num_keys == keys))
            if len(chosen):
                _move(recipe, parameters, rows, instances, chosen, times[chosen, :keys])
    presence = recipe.objects.presence
    if presence[0] < 1:
        draws = rows.draws("presence")
        present = np.round(draws.uniform(*presence) * frames)
        first = np.floor(draws.random() * (frames - present + 1))
        t = np.arange(frames)
        instances.opacity *= (t >= first[:, None]) & (t < (first + present)[:, None])
        _note(instances, np.arange(n), {"presence_frames": present})
    return instances


def _move(
    recipe: Recipe, parameters: Any, rows: _Rows, instances: Instances, chosen: Int, keys: Float
) -> None:
    """Draw curves and path of the rows that share a motion entry and a number of key frames."""
    frames, (height, width) = recipe.num_frames, recipe.size

    def curve(name: str, dims: int | None = None) -> Path | None:
        wanted, kind = getattr(parameters, name), OBJECT_CURVES[name]
        if wanted is None:
            return None
        drawn = draw_curve(kind, wanted, keys, frames, rng=rows.draws(name, chosen), dims=dims)
        _note(instances, chosen, drawn.factors, name)
        return drawn

    for i in chosen:
        instances.factors[i]["family"] = parameters.family
    growth = curve("log_scale", 1 if parameters.log_scale_isotropic else 2)
    box = instances.box_wh[chosen]
    if growth is not None:
        box = box * np.exp(growth.values)
    half, frame_wh = box / 2, np.array([width, height], np.float64)
    start = None if parameters.start is None else np.array(parameters.start)[:, None] * frame_wh
    request = Request(frames, half, frame_wh - half, np.stack([0 * frame_wh, frame_wh]), keys, start)
    path = draw_path(parameters, request, rng=rows.draws("path", chosen))
    if path.log_scale is not None:
        box = box * np.exp(path.log_scale)[..., None]
    instances.center_xy[chosen], instances.box_wh[chosen] = path.values, box
    _note(instances, chosen, path.factors, "path")
    rotation, opacity, depth = curve("rotation"), curve("opacity"), curve("depth")
    if rotation is not None:
        instances.rotation[chosen] = rotation.values[..., 0]
    if opacity is not None:
        instances.opacity[chosen] = opacity.values[..., 0]
    if depth is not None:
        instances.depth[chosen] = depth.values[..., 0]
    gain = curve("gain", 1 if parameters.gain_isotropic else None)
    if gain is not None:
        instances.gain[chosen] = gain.values
    for name in SELDOM:
        drawn = curve(name, 1 if name == "bias" and parameters.bias_isotropic else None)
        if drawn is not None:
            whole = getattr(instances, name)
            if whole is None:
                whole = _neutral(name, (len(instances), frames))
                setattr(instances, name, whole)
            whole[chosen] = drawn.values


def _neutral(name: str, leading: tuple[int, ...]) -> Float:
    """Return an array ``[N, T, D]`` of a curve that changes nothing."""
    kind = OBJECT_CURVES[name]
    return np.full((*leading, kind.dims), kind.neutral)


def _note(instances: Instances, rows: Int, factors: dict[str, Float], prefix: str = "") -> None:
    """Keep drawn values, ``[R]`` each, as factors of their rows."""
    if not factors:
        return
    names = [f"{prefix}.{name}" if prefix else name for name in factors]
    columns = [np.asarray(values, np.float64).tolist() for values in factors.values()]
    for i, values in zip(rows.tolist(), zip(*columns, strict=True), strict=True):
        instances.factors[i].update(zip(names, values, strict=True))


def _relate(recipe: Recipe, rows: _Rows, instances: Instances, counts: Int) -> None:
    """Give the followers of every clip's group their relation's path."""
    draws = RandomStreams(rows.seed, rows.indices, "relation")
    entry = draws.choice([relation.weight for relation in recipe.relations])
    first = np.searchsorted(rows.clip, np.arange(len(counts)))
    frame_wh = np.array(recipe.size[::-1], np.float64)
    box = instances.box_wh.mean(axis=1)
    for number, parameters in enumerate(recipe.relations):
        name: str = parameters.relation  # type: ignore[attr-defined]
        related = rows.labelled & (entry[rows.clip] == number) & (rows.number < parameters.members)
        chosen = np.flatnonzero(related & (rows.number > 0))
        if not len(chosen) or name == "independent":
            continue
        leader = first[rows.clip[chosen]]
        bond = Bond(
            instances.center_xy[leader], instances.center_xy[chosen], box[leader], box[chosen], frame_wh
        )
        path = draw_relation(parameters, bond, rng=rows.draws("relation", chosen))
        instances.center_xy[chosen] = path.values
        for i in chosen:
            own = [key for key in instances.factors[i] if key.startswith("path.")]
            for key in own:  # of the path that it does not take
                del instances.factors[i][key]
            instances.factors[i]["relation"] = name
        _note(instances, chosen, path.factors, "relation")


def _overlaps(center: Float, wh: Float, other_center: Float, other_wh: Float) -> Float:
    """Return the shared area over the smaller one, of boxes that broadcast."""
    low = np.maximum(center - wh / 2, other_center - other_wh / 2)
    high = np.minimum(center + wh / 2, other_center + other_wh / 2)
    shared = np.maximum(high - low, 0).prod(axis=-1)
    return np.asarray(shared / np.minimum(wh.prod(axis=-1), other_wh.prod(axis=-1)))


def _lay_out(
    bounds: tuple[float, float], size_hw: tuple[int, int], rows: _Rows, instances: Instances
) -> None:
    """Move whole paths so that in frame 0 every object overlaps the most overlapped earlier one as wanted.

    A clip whose object finds no such place in `LAYOUT_TRIES` tries keeps the best; what came out is a factor.
    """
    frame_wh = np.array(size_hw[::-1], np.float64)
    starts = np.flatnonzero(np.diff(rows.clip, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(rows.clip)], strict=True):
        for k in range(start + 1, stop):
            center, wh = instances.center_xy[k], instances.box_wh[k]
            half = wh / 2
            travel = center - center[0]
            low, high = (half - travel).max(axis=0), (frame_wh - half - travel).min(axis=0)
            u = rows.draws("layout", np.array([k])).random(LAYOUT_TRIES, 2)[0]
            places = np.where(high > low, low + u * (high - low), center[0])
            places = np.concatenate([center[:1], places])
            before = slice(start, k)
            shares = _overlaps(
                places[:, None], wh[0], instances.center_xy[before, 0], instances.box_wh[before, 0]
            ).max(axis=1)
            missed = np.maximum(bounds[0] - shares, 0) + np.maximum(shares - bounds[1], 0)
            best = int(np.argmin(missed))  # the first of those that fit
            instances.center_xy[k] = center + (places[best] - center[0])
            instances.factors[k]["start_overlap_share"] = float(shares[best])


def _truncate(instances: Instances) -> None:
    """Cut box sides, upper left corners and angles to whole numbers towards zero."""
    size = np.maximum(np.trunc(instances.box_wh), 1)
    corner = np.trunc(instances.center_xy - instances.box_wh / 2)
    instances.box_wh = size
    instances.center_xy = corner + size / 2
    instances.rotation = np.trunc(instances.rotation)


def _measure(instances: Instances) -> None:
    """Measure what every motion has in common, in the scene, before the camera."""
    center, box = instances.center_xy, instances.box_wh
    last = max(center.shape[1] - 1, 1)
    steps = np.diff(center, axis=1)
    net = center[:, -1] - center[:, 0]
    distance = np.hypot(net[:, 0], net[:, 1])
    speed = np.hypot(steps[..., 0], steps[..., 1]).mean(axis=1) if steps.shape[1] else np.zeros(len(center))
    _note(
        instances,
        np.arange(len(instances)),
        {
            "mean_speed_px_per_frame": speed,
            "net_displacement_px": distance,
            "rotation_degrees_per_frame": (instances.rotation[:, -1] - instances.rotation[:, 0]) / last,
            "log_scale_per_frame": np.log(box[:, -1] / box[:, 0]).mean(axis=1) / last,
        },
    )
    moving = np.flatnonzero(distance >= 1.0)  # below a pixel a direction means nothing
    direction = np.rad2deg(np.arctan2(net[moving, 1], net[moving, 0])) % 360
    _note(instances, moving, {"net_direction_degrees": direction})


def take(instances: Instances, rows: Sequence[int] | Int) -> Instances:
    """Return some rows as Instances of their own; the arrays are copies."""
    chosen = np.asarray(rows, np.int64)
    arrays = {name: value[chosen] for name, value in vars(instances).items() if isinstance(value, np.ndarray)}
    return replace(instances, **arrays, factors=[dict(instances.factors[i]) for i in chosen])


def join(parts: Sequence[Instances]) -> Instances:
    """Lay Instances one after another."""
    arrays = {}
    for name in (each.name for each in fields(Instances) if each.name != "factors"):
        columns = [getattr(part, name) for part in parts]
        if any(column is not None for column in columns):
            columns = [
                _neutral(name, part.center_xy.shape[:2]) if column is None else column
                for part, column in zip(parts, columns, strict=True)
            ]
            arrays[name] = np.concatenate(columns)
    return replace(parts[0], **arrays, factors=[item for part in parts for item in part.factors])
