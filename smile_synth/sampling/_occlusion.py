"""Occlusion as a target: change a clip until other layers cover its objects as the recipe says.

A target is checked on every pixel, by the definition that the labels use (`smile_synth.core.coverage`). The
search before that tests only one pixel of a few. In this file, an object's visibility is the share of its
extent that no layer in front of it owns: its own opacity is no occlusion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.compile import kernel
from smile_synth.core.coverage import (
    THRESHOLD,
    columns_near,
    cover_row,
    layer_views,
    level_of_detail,
    level_start,
    side_maps,
)
from smile_synth.core.rng import RandomStream
from smile_synth.objects import ObjectBank
from smile_synth.recipe import OcclusionTarget, Recipe
from smile_synth.sampling._instances import Instances, join, take
from smile_synth.scene import Factor

Float = NDArray[np.float64]
Int = NDArray[np.int64]
_FRONT = -1e6  # depth of an added occluder, before everything
_PROPOSALS = 96


def reach_targets(
    recipe: Recipe,
    bank: ObjectBank,
    instances: Instances,
    order: Int,
    camera: Float | None,
    factors: list[dict[str, Factor]],
    *,
    seed: int,
    indices: Int,
) -> tuple[Instances, Int]:
    """Change the objects of every clip until its target is reached, or the tries are spent.

    The result is added to the clip's ``factors``: ``occlusion.reached`` is 1, or 0 and the clip is unchanged;
    ``occlusion.tries`` counts the measured candidates.

    Args:
        recipe: with targets.
        bank: the objects' textures.
        instances: the objects of all clips.
        order: rows of all instances, clip after clip, each from back to front.
        camera: ``[B, T, 3, 3]`` or None.
        factors: one dict per clip.
        seed: of the clips.
        indices: ``[B]``.

    Returns:
        The objects, those of each clip from back to front, and their new order.
    """
    counts = np.bincount(instances.clip, minlength=len(indices))
    parts = []
    ordered = take(instances, order)
    whole = _Candidate.of(ordered, bank, recipe.size, None if camera is None else camera[ordered.clip])
    for clip, (index, candidate) in enumerate(zip(indices.tolist(), whole.clips(counts), strict=True)):
        rng = RandomStream(seed, index, "occlusion")
        target = recipe.occlusion[rng.choice([target.weight for target in recipe.occlusion])]
        search = _search_run if target.overlap is None else _search_overlap
        result = _Result(0)
        if len(candidate.instances):
            result, candidate = search(target, candidate, rng)
        factors[clip].update(result.factors())
        candidate.instances.clip[:] = clip
        parts.append(candidate.instances)
    joined = join(parts)
    return joined, np.arange(len(joined))


@dataclass
class _Result:
    """The result of a search; ``by`` is empty where the target was not reached."""

    tries: int
    by: str = ""
    share: float = 1.0
    num_frames: int = 0
    first_frame: int = 0

    def factors(self) -> dict[str, Factor]:
        found: dict[str, Factor] = {
            "occlusion.reached": float(bool(self.by)),
            "occlusion.tries": float(self.tries),
        }
        if self.by:
            found.update({"occlusion.by": self.by, "occlusion.reached_share": self.share})
        if self.num_frames:
            found["occlusion.first_frame"] = float(self.first_frame)
            found["occlusion.length_frames"] = float(self.num_frames)
        return found


@dataclass(frozen=True)
class _Candidate:
    """One clip's objects from back to front, a row per object, and their views.

    Attributes:
        instances: the objects.
        bank: their textures.
        size_hw: of the frame.
        camera: ``[T, 3, 3]`` or None.
        poses: ``[L, T, 3, 3]`` with the camera.
        views: ``[L, T]`` of `LAYER_VIEW`.
        sides: the side maps of the views.
    """

    instances: Instances
    bank: ObjectBank
    size_hw: tuple[int, int]
    camera: Float | None
    poses: Float
    views: NDArray[Any]
    sides: NDArray[np.uint8]

    @classmethod
    def of(
        cls, instances: Instances, bank: ObjectBank, size_hw: tuple[int, int], camera: Float | None
    ) -> _Candidate:
        """Compute poses and views; side maps are left out."""
        poses = instances.poses(size_hw)
        if camera is not None:
            poses = geometry.product(camera, poses)
        texture_hw = np.stack([instances.height, instances.width], axis=1)
        level = level_of_detail(poses, instances.height[:, None], instances.width[:, None])
        first = bank.texel_offsets[instances.object_id]
        views = layer_views(first, texture_hw, poses, level, instances.opacity, size_hw)
        return cls(instances, bank, size_hw, camera, poses, views, np.empty(0, np.uint8))

    def clips(self, counts: Int) -> Iterator[_Candidate]:
        """Yield the clips one after another, with ``counts [B]`` objects each; the camera is per object."""
        for start, stop in zip(np.cumsum(counts) - counts, np.cumsum(counts), strict=True):
            own = slice(int(start), int(stop))
            camera = None if self.camera is None or start == stop else self.camera[start]
            clip = replace(
                self, instances=take(self.instances, np.arange(start, stop)), camera=camera,
                poses=self.poses[own], views=self.views[own],
            )  # fmt: skip
            yield clip._with_side_maps()

    def _with_side_maps(self) -> _Candidate:
        return replace(self, sides=side_maps(self.bank.texels, self.views))

    def _with_more(self, other: _Candidate, instances: Instances, order: Int) -> _Candidate:
        """Return the clip of ``instances``: the objects of both candidates, reordered."""
        other = other._with_side_maps()
        added = other.views.copy()
        added["sides_first"] += len(self.sides)
        return replace(
            self, instances=instances,
            poses=np.concatenate([self.poses, other.poses])[order],
            views=np.concatenate([self.views, added])[order],
            sides=np.concatenate([self.sides, other.sides]),
        )  # fmt: skip

    def counts(self, rows: Int, frames: Int, step: int, *, full: bool, hidden: bool = False) -> Float:
        """Return the pixels of each row's extent in the frame and those not covered by others, ``[K, F, 2]``.

        With a step above 1 one pixel of ``step x step`` is tested. Unless ``full``, counting ends at the
        first row of pixels that is not fully covered, in frames where nothing is in front of the object; with
        ``hidden`` in all frames. An object that is not present has no extent.
        """
        # Depths of one frame: of equal ones the later row is in front.
        order = len(self.instances) - 1 - np.argsort(self._depth()[::-1, frames], axis=0, kind="stable")
        out = np.zeros((len(rows), len(frames), 2))
        options = (*self.size_hw, step, full, hidden)
        _count(self.bank.texels, self.sides, self.views, order, rows, frames, options, out)
        return out

    def _depth(self) -> Float:
        ranks = len(self.instances) - np.arange(len(self.instances), dtype=np.float64)
        return np.asarray(ranks[:, None] + self.instances.depth)

    def visibility(self, row: int, step: int, frames: Int | None = None, *, hidden: bool = False) -> Float:
        """Return one row's visibility in every frame (of ``frames``), NaN where its extent is empty.

        With ``hidden``, a visibility above 0 may be any number above 0.
        """
        frames = np.arange(self.instances.depth.shape[1]) if frames is None else frames
        extent, seen = self.counts(np.array([row]), frames, step, full=False, hidden=hidden)[0].T
        share: Float = np.divide(seen, extent, out=np.full(len(extent), np.nan), where=extent > 0)
        return share

    def covered(self, step: int) -> float:
        """Return the share of all labelled extents that other layers cover."""
        rows, frames = np.flatnonzero(self.instances.labelled), np.arange(self.instances.depth.shape[1])
        extent, seen = self.counts(rows, frames, step, full=True).sum(axis=(0, 1))
        return float(1 - seen / extent) if extent else 0.0

    def shifted(self, offset_xy: Float) -> _Candidate:
        """Return the clip with every path ``[L, T, 2]`` moved."""
        instances = replace(self.instances, center_xy=self.instances.center_xy + offset_xy)
        return _Candidate.of(instances, self.bank, self.size_hw, self.camera)._with_side_maps()

    def with_one_shifted(self, row: int, offset_xy: Float) -> _Candidate:
        """Return the clip with the path of one object moved by ``[2]`` pixels."""
        instances = replace(self.instances, center_xy=self.instances.center_xy.copy())
        instances.center_xy[row] += offset_xy
        moved = _Candidate.of(take(instances, [row]), self.bank, self.size_hw, self.camera)
        order = np.arange(len(instances))
        order[row] = len(instances)
        return self._with_more(moved, instances, order)

    def in_order(self, rows: Int) -> _Candidate:
        """Return the clip with its objects in another order, from back to front."""
        return replace(
            self, instances=take(self.instances, rows), poses=self.poses[rows], views=self.views[rows]
        )

    def with_occluder(self, object_id: int, center_xy: Float, box_wh: Float) -> _Candidate:
        """Return the clip with one more, unlabelled object in front."""
        frames = len(center_xy)
        size = np.array([self.bank.heights[object_id], self.bank.widths[object_id]], np.int64)
        new = Instances(
            np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, bool),
            np.array([object_id], np.int64), size[:1], size[1:], center_xy[None],
            np.broadcast_to(box_wh, (1, frames, 2)).copy(), np.zeros((1, frames)),
            np.ones((1, frames)), np.ones((1, frames, 3)), np.full((1, frames), _FRONT),
            factors=[{"family": "occluder"}],
        )  # fmt: skip
        added = _Candidate.of(new, self.bank, self.size_hw, self.camera)
        instances = join([self.instances, new])
        return self._with_more(added, instances, np.arange(len(instances)))


@kernel(error_model="numpy")
def _count(texels, sides, views, order, rows, frames, options, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill ``out [K, F, 2]``: pixels of every row's extent in the frame, and those not covered by others.

    ``order [L, F]`` is front to back; ``options`` are height, width, step, full and hidden, see
    `_Candidate.counts`.
    """
    height, width, step, full, hidden = options
    front = np.empty(len(views), np.int64)
    buffer, theirs = np.empty(width, np.uint8), np.empty(width, np.uint8)
    places = np.empty((2, width), np.int32)
    for f in range(len(frames)):
        t = frames[f]
        for r in range(len(rows)):
            k = rows[r]
            view = views[k, t]
            if view.opacity <= 0.0:
                continue
            x0, y0 = max(view.window[0], 0), max(view.window[1], 0)
            x1, y1 = min(view.window[2], width), min(view.window[3], height)
            num_front = 0
            for j in order[:, f]:
                if j == k:
                    break
                other = views[j, t].window
                overlap = other[0] < x1 and x0 < other[2] and other[1] < y1 and y0 < other[3]
                if overlap and views[j, t].opacity >= THRESHOLD:
                    front[num_front] = j
                    num_front += 1
            one_is_enough = hidden or (num_front == 0 and not full)
            extent = seen = 0
            first = x0 + (step - 1) // 2
            for y in range(y0 + (step - 1) // 2, y1, step):
                begin, end = columns_near(view, y, first, x1)
                begin = first + (begin - first + step - 1) // step * step
                if begin >= end:
                    continue
                row = buffer[: (end - begin + step - 1) // step]
                cover_row(texels, sides, view, 1.0, y, (begin, step), places, row)
                area = 0
                for i in range(len(row)):
                    area += row[i]
                for place in range(num_front if area else 0):
                    _uncover(texels, sides, views[front[place], t], y, (begin, step), (places, theirs), row)
                extent += area
                for i in range(len(row)):
                    seen += row[i]
                if one_is_enough and seen:
                    break
            out[r, f, 0], out[r, f, 1] = extent, seen


@kernel(error_model="numpy")
def _uncover(texels, sides, view, y, columns, scratch, row):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Set ``row`` to 0 where a layer covers its pixels, see `cover_row`."""
    begin, step = columns
    x0, y0, x1, y1 = view.window
    if not y0 <= y < y1:
        return
    low, high = columns_near(view, y, max(begin, x0), min(begin + len(row) * step, x1))
    low, high = (low - begin + step - 1) // step, (high - begin + step - 1) // step
    if low < high:
        places, theirs = scratch[0], scratch[1][: high - low]
        cover_row(texels, sides, view, view.opacity, y, (begin + low * step, step), places, theirs)
        for i in range(len(theirs)):
            row[low + i] &= 1 - theirs[i]


@kernel
def _first_run(below, above, least, most):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return (first frame, length) of the first run of ``below`` that has ``above`` on both sides.

    Only runs of ``least`` to ``most`` frames count; without one the length is 0.
    """
    start = -1
    for t in range(len(below)):
        if below[t]:
            if start < 0:
                start = t
        elif start >= 0:
            if start > 0 and above[start - 1] and above[t] and least <= t - start <= most:
                return start, t - start
            start = -1
    return 0, 0


def _hidden(visibility: Float, limit: float) -> NDArray[np.bool_]:
    """Return where a visibility is at or below a limit; NaN is not."""
    with np.errstate(invalid="ignore"):
        return np.asarray(visibility <= limit)


def _found(target: OcclusionTarget, visibility: Float) -> tuple[int, int] | None:
    """Return (first frame, length) of the first run that meets the target, None without one."""
    assert target.visibility is not None and target.frames is not None
    below = _hidden(visibility, target.visibility)
    start, length = _first_run(below, ~below & np.isfinite(visibility), *target.frames)
    return (start, length) if length else None


def _sampling_step(candidate: _Candidate, row: int) -> int:
    return int(np.clip(candidate.instances.box_wh[row].min() / 6, 1, 16))


def _search_run(
    target: OcclusionTarget, candidate: _Candidate, rng: RandomStream
) -> tuple[_Result, _Candidate]:
    """Search for a clip in which one object is covered for some frames and visible before and after."""
    assert target.visibility is not None and target.frames is not None
    labelled = np.flatnonzero(candidate.instances.labelled)
    if not len(labelled):
        return _Result(0), candidate
    inside = _inside(candidate, labelled).mean(axis=1)
    # Only an object that is in the frame most of the time can disappear and return there.
    candidates = labelled[inside >= min(0.75, inside.max())]
    shuffled = candidates[rng.permutation(len(candidates))].tolist()
    tries = 0
    for by, proposed, at, coarse in chain.from_iterable(
        _proposals(target, candidate, k, rng) for k in shuffled
    ):
        tries += 1
        found_coarsely = _found(target, coarse)
        if found_coarsely is not None:
            # The exact visibility of the run and of one frame on either side decides.
            around = np.arange(max(found_coarsely[0] - 1, 0), min(sum(found_coarsely) + 1, len(coarse)))
            seen = np.full(len(coarse), np.nan)
            seen[around] = proposed.visibility(at, 1, around, hidden=target.visibility == 0)
            found = _found(target, seen)
            if found is not None:
                start, length = found
                deepest = float(seen[start : start + length].min())
                proposed.instances.factors[at].update(
                    {
                        "occluded_first_frame": float(start),
                        "occluded_length_frames": float(length),
                        "least_visible_share": deepest,
                    }
                )
                return _Result(tries, by, deepest, length, start), proposed
        if tries >= target.tries:
            break
    return _Result(tries), candidate


def _inside(candidate: _Candidate, rows: Int) -> NDArray[np.bool_]:
    """Return in which frames ``[K, T]`` a row's middle is in the frame, with an opacity of .5 or more."""
    instances = candidate.instances
    middle = np.stack([instances.width[rows] / 2, instances.height[rows] / 2], axis=-1)
    center = geometry.apply(candidate.poses[rows], middle[:, None, None])[..., 0, :]
    with np.errstate(invalid="ignore"):
        within = ((center >= 0) & (center < [candidate.size_hw[1], candidate.size_hw[0]])).all(axis=-1)
    return np.asarray(within & (instances.opacity[rows] >= THRESHOLD))


def _proposals(
    target: OcclusionTarget, candidate: _Candidate, row: int, rng: RandomStream
) -> Iterator[tuple[str, _Candidate, int, Float]]:
    """Yield clips that may have the run: (way, clip, row of the chosen object, its coarse visibility)."""
    count, step, hidden = len(candidate.instances), _sampling_step(candidate, row), target.visibility == 0
    plain = candidate.visibility(row, step)
    yield "chance", candidate, row, plain
    for by in target.by:
        if by == "path":
            for other, offset in _crossings(target, candidate, row, rng):
                proposed = candidate.with_one_shifted(other, offset)
                yield by, proposed, row, proposed.visibility(row, step, hidden=hidden)
        elif by == "depth":
            for other in rng.permutation(row)[:8].tolist():
                if _estimate(target, _box_cover(candidate, row, other)):
                    order = np.insert(np.delete(np.arange(count), other), row, other)  # just in front of it
                    proposed = candidate.in_order(order)
                    yield (
                        by,
                        proposed,
                        row - 1,
                        proposed.visibility(row - 1, step, hidden=hidden),
                    )
        else:
            for proposed, seen in _occluders(target, candidate, row, plain, rng):
                yield by, proposed, row, seen


def _box_cover(candidate: _Candidate, row: int, other: int | Int, offset: Float | float = 0.0) -> Float:
    """Return the share ``[..., T]`` of a row's box that the boxes of others, moved, leave uncovered."""
    center, box = candidate.instances.center_xy, candidate.instances.box_wh
    low = np.maximum(center[row] - box[row] / 2, center[other] + offset - box[other] / 2)
    high = np.minimum(center[row] + box[row] / 2, center[other] + offset + box[other] / 2)
    return np.asarray(1 - np.maximum(high - low, 0).prod(axis=-1) / box[row].prod(axis=-1))


def _estimate(target: OcclusionTarget, free: Float) -> bool:
    """Return whether the boxes, which are a little larger than the objects, may have the run."""
    assert target.visibility is not None and target.frames is not None
    below = free < target.visibility + 0.02
    return bool(_first_run(below, ~below, target.frames[0], target.frames[1] + 1)[1])


def _crossings(
    target: OcclusionTarget, candidate: _Candidate, row: int, rng: RandomStream
) -> Iterator[tuple[int, Float]]:
    """Yield (object in front, shift of its path) that cover the chosen object for about the target's time."""
    instances, frames = candidate.instances, candidate.instances.center_xy.shape[1]
    if row + 1 == len(instances):
        return
    other = row + 1 + rng.integers(len(instances) - row - 1, _PROPOSALS)
    at = rng.integers(frames, _PROPOSALS)
    aside = rng.uniforms(-0.4, 0.4, _PROPOSALS, 2) * instances.box_wh[row, at]
    offset = instances.center_xy[row, at] + aside - instances.center_xy[other, at]
    free = _box_cover(candidate, row, other, offset[:, None])
    assert target.visibility is not None and target.frames is not None
    hidden = (free < target.visibility + 0.02).sum(axis=1)
    likely = np.flatnonzero((hidden >= target.frames[0]) & (hidden <= target.frames[1] + 1)).tolist()
    fits = (n for n in likely if _estimate(target, free[n]))
    for n in islice(fits, max(target.tries // 8, 1)):
        yield int(other[n]), offset[n]


@kernel
def _mean_alpha(texels, offsets, heights, widths, ids):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the mean alpha of objects ``[K]``, from a level of some eight texels."""
    fill = np.zeros(len(ids))
    for k in range(len(ids)):
        height, width = heights[ids[k]], widths[ids[k]]
        level = 0
        while max(height, width) >> (level + 4):
            level += 1
        start, h, w = level_start(height, width, level)
        start += offsets[ids[k]]
        total = 0
        for texel in range(start, start + h * w):
            total += texels[texel, 3]
        fill[k] = total / (h * w)
    return fill


def _most_solid(candidate: _Candidate, rng: RandomStream) -> int:
    """Draw a few objects and return the one with the largest mean alpha."""
    bank = candidate.bank
    ids = rng.integers(len(bank), 6)
    return int(
        ids[int(np.argmax(_mean_alpha(bank.texels, bank.texel_offsets, bank.heights, bank.widths, ids)))]
    )


def _occluders(
    target: OcclusionTarget, candidate: _Candidate, row: int, plain: Float, rng: RandomStream
) -> Iterator[tuple[_Candidate, Float]]:
    """Yield clips with one more object that crosses the chosen one; its speed follows the last measurement.

    Each clip comes with the coarse visibility of the chosen object; ``plain`` is that without an occluder.
    """
    assert target.visibility is not None and target.frames is not None
    instances = candidate.instances
    frames = instances.center_xy.shape[1]
    clear = np.isfinite(plain) & (np.nan_to_num(plain) >= min(target.visibility + 0.1, 1.0))
    t = np.arange(frames)
    while True:
        length = target.frames[0] + rng.integer(target.frames[1] + 1 - target.frames[0])
        starts = [s for s in range(1, frames - length) if clear[s - 1] and clear[s + length]]
        full = [s for s in starts if np.isfinite(plain[s : s + length]).all()]
        if not full:
            return
        start = full[rng.integer(len(full))]
        middle = start + (length - 1) / 2
        # Half the diagonal: the box may be rotated.
        half = np.hypot(*instances.box_wh[row, start : start + length].max(axis=0)) / 2
        angle = rng.uniform(0.0, 2 * np.pi)
        along = np.array([np.cos(angle), np.sin(angle)])
        object_id, size = _most_solid(candidate, rng), rng.uniform(1.2, 1.6)
        low, high = 0.0, np.inf
        # First guess: the length of path on which the occluder covers the object, over the number of frames.
        speed = 2 * half * (max(size - 1, 0.2) + 1.2 * target.visibility) / max(length, 1)
        for _ in range(6):
            center = instances.center_xy[row] + (along * speed) * (t - middle)[:, None]
            clip = candidate.with_occluder(object_id, center, np.array([2 * half * size] * 2))
            seen = clip.visibility(row, _sampling_step(candidate, row), hidden=target.visibility == 0)
            yield clip, seen
            below = _hidden(seen, target.visibility)
            covered = int(below[max(start - 3, 0) : start + length + 3].sum())
            if covered == 0:
                size *= 1.25
                if size > 2.5:
                    break  # the object has holes: draw another one
                low, high = 0.0, np.inf
                continue
            if covered > length:
                low = speed
            elif covered < length:
                high = speed
            else:
                break  # right on the coarse pixels and wrong on all: draw another place
            speed = speed * 1.5 if high == np.inf else (low + high) / 2 if low else speed / 1.5


def _search_overlap(
    target: OcclusionTarget, candidate: _Candidate, rng: RandomStream
) -> tuple[_Result, _Candidate]:
    """Search for a clip in which a share of all labelled extents is covered."""
    assert target.overlap is not None
    low, high = target.overlap
    middle_share = (low + high) / 2
    instances = candidate.instances
    if not instances.labelled.any():
        return _Result(0), candidate
    step = int(np.clip(instances.box_wh[instances.labelled].min() / 8, 1, 16))
    tries = 0

    def in_range(share: float) -> bool:
        return low <= share <= high

    plain = candidate.covered(step)
    tries += 1
    if in_range(plain) and in_range(exact := candidate.covered(1)):
        return _Result(tries, "chance", exact), candidate
    share_of_tries = max((target.tries - 1) // len(target.by), 1)
    for by in target.by:
        largest = int(np.argmax(np.where(instances.labelled, instances.box_wh.prod(axis=2).mean(axis=1), -1)))
        aside, object_id = rng.uniforms(-0.2, 0.2, 2), _most_solid(candidate, rng)
        least, most = (-2.0, 1.0) if by == "path" else (0.0, 1.5)
        for _ in range(share_of_tries):
            if tries >= target.tries:
                break
            tries += 1
            amount = (least + most) / 2
            if by == "path":
                # Towards the mean path (1: all on it), or apart (below 0).
                common = instances.center_xy.mean(axis=0)
                proposed = candidate.shifted(amount * (common - instances.center_xy))
            elif by == "depth":
                proposed = candidate.in_order(rng.permutation(len(instances)))
            else:
                box = instances.box_wh[largest]
                center = instances.center_xy[largest] + aside * box
                proposed = candidate.with_occluder(object_id, center, np.maximum(box * amount, 1.0))
            share = proposed.covered(step)
            if in_range(share) and in_range(exact := proposed.covered(1)):
                return _Result(tries, by, exact), proposed
            if share < middle_share:
                least = amount
            else:
                most = amount
            if most - least < 1e-3:
                break
    return _Result(tries), candidate
