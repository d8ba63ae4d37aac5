"""Draw the motion of objects: paths, curves, presence and relations."""

from __future__ import annotations

from typing import Any

import numpy as np

from smile_synth.motion import (
    OBJECT_CURVES,
    RelationRequest,
    Request,
    draw_curve,
    draw_key_times,
    draw_path,
    draw_relation,
)
from smile_synth.sampling._instances import Batch, Float, Instances, Int, add_factors

# Curves with one value for all dimensions if the key NAME_isotropic is true.
_ISOTROPIC = ("log_scale", "gain", "bias")


def draw_motion(batch: Batch, instances: Instances) -> None:
    """Draw motion entry, key times, path and curves of every object."""
    recipe, clip = batch.recipe, instances.clip
    entry = np.zeros(len(instances), np.int64)
    if len(recipe.motion) > 1:
        weights = [each.weight for each in recipe.motion]
        if recipe.objects.shared_motion:
            entry = batch.streams("motion").choice(weights)[clip]
        else:
            entry = instances.streams(batch, "motion").choice(weights)
    shared = recipe.key_times.shared
    rng = batch.streams("key times") if shared else instances.streams(batch, "key times")
    times, num_keys = draw_key_times(recipe.num_frames, recipe.key_times, rng=rng)
    if shared:
        times, num_keys = times[clip], num_keys[clip]
    groups: dict[tuple[int, int], list[int]] = {}
    for row, group in enumerate(zip(entry.tolist(), num_keys.tolist(), strict=True)):
        groups.setdefault(group, []).append(row)
    for (number, keys), members in groups.items():
        rows = np.array(members)
        _draw_group(batch, recipe.motion[number], instances, rows, times[rows, :keys])


def _draw_group(batch: Batch, parameters: Any, instances: Instances, rows: Int, key_times: Float) -> None:
    """Draw paths and curves of the rows that share a motion entry and a number of key frames."""
    recipe, factors = batch.recipe, instances.factors
    for row in rows:
        factors[row]["family"] = parameters.family
    box_wh = instances.box_wh[rows]
    for name, curve in OBJECT_CURVES.items():
        keys = getattr(parameters, name)
        if keys is None:
            continue
        dims = 1 if name in _ISOTROPIC and getattr(parameters, f"{name}_isotropic") else None
        rng = instances.streams(batch, name, rows)
        drawn = draw_curve(curve, keys, key_times, recipe.num_frames, rng=rng, dims=dims)
        add_factors(factors, rows, drawn.factors, f"{name}.")
        if name == "log_scale":
            box_wh = box_wh * np.exp(drawn.values)
        else:
            instances.set_curve(name, rows, drawn.values)
    frame_wh = np.array(recipe.size[::-1], np.float64)
    half, outer = box_wh / 2, np.array([0 * frame_wh, frame_wh])
    start = None if parameters.start is None else np.array(parameters.start)[:, None] * frame_wh
    request = Request(recipe.num_frames, half, frame_wh - half, outer, key_times, start)
    path = draw_path(parameters, request, rng=instances.streams(batch, "path", rows))
    if path.log_scale is not None:
        box_wh = box_wh * np.exp(path.log_scale)[..., None]
    instances.center_xy[rows], instances.box_wh[rows] = path.values, box_wh
    add_factors(factors, rows, path.factors, "path.")


def draw_presence(batch: Batch, instances: Instances) -> None:
    """Draw for every object the frames in which it is present, and set its opacity to 0 in the others."""
    frames, rng = batch.recipe.num_frames, instances.streams(batch, "presence")
    count = np.round(rng.uniform(*batch.recipe.objects.presence) * frames)
    first = np.floor(rng.random() * (frames - count + 1))
    t = np.arange(frames)
    instances.opacity *= (t >= first[:, None]) & (t < (first + count)[:, None])
    add_factors(instances.factors, range(len(instances)), {"presence_frames": count})


def apply_relations(batch: Batch, instances: Instances) -> None:
    """Draw one relation per clip, and replace the paths of the followers."""
    recipe, clip = batch.recipe, instances.clip
    entry = batch.streams("relation").choice([relation.weight for relation in recipe.relations])
    first = clip.searchsorted(np.arange(len(batch)))
    frame_wh = np.array(recipe.size[::-1], np.float64)
    center, box = instances.center_xy, instances.box_wh.mean(axis=1)
    for number, parameters in enumerate(recipe.relations):
        name: str = parameters.relation  # type: ignore[attr-defined]
        member = instances.labelled & (entry[clip] == number) & (instances.number < parameters.members)
        rows = np.flatnonzero(member & (instances.number > 0))
        if not len(rows) or name == "independent":
            continue
        leader = first[clip[rows]]
        request = RelationRequest(center[leader], center[rows], box[leader], box[rows], frame_wh)
        path = draw_relation(parameters, request, rng=instances.streams(batch, "relation", rows))
        center[rows] = path.values
        for row in rows:
            kept = {k: v for k, v in instances.factors[row].items() if not k.startswith("path.")}
            instances.factors[row] = {**kept, "relation": name}
        add_factors(instances.factors, rows, path.factors, "relation.")
