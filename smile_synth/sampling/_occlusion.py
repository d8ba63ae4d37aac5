"""Occlusion as a target: change a clip until who covers whom is as the recipe wants it.

What is reached is measured with the labels' own definition (`smile_synth.core.coverage`) on every pixel; the
search before that looks at every few pixels only.
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
from smile_synth.core.coverage import THRESHOLD, alpha_tap, level_of_detail, level_start
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

    What was wanted, reached and done is added to the clip's ``factors``: ``occlusion.reached`` is 1 or 0
    (then the scene is the unchanged one), ``occlusion.tries`` the scenes looked at.

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
        The objects, reordered so that each clip's stand from back to front, and their new order.
    """
    counts = np.bincount(instances.clip, minlength=len(indices))
    parts = []
    ordered = take(instances, order)
    whole = _Stage.of(ordered, bank, recipe.size, None if camera is None else camera[ordered.clip])
    for clip, (index, stage) in enumerate(zip(indices.tolist(), whole.clips(counts), strict=True)):
        rng = RandomStream(seed, index, "occlusion")
        target = recipe.occlusion[rng.choice([target.weight for target in recipe.occlusion])]
        search = _run if target.overlap is None else _overlap
        reached, stage = search(target, stage, rng) if len(stage.instances) else (_Reached(0), stage)
        factors[clip].update(reached.factors())
        stage.instances.clip[:] = clip
        parts.append(stage.instances)
    joined = join(parts)
    return joined, np.arange(len(joined))


@dataclass
class _Reached:
    """What a search came to."""

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
class _Stage:
    """One clip's objects from back to front, and what measuring them needs, a row per object.

    Attributes:
        instances: the objects.
        bank: their textures.
        size_hw: of the frame.
        camera: ``[T, 3, 3]`` or None.
        poses, inverses: ``[L, T, 3, 3]`` with the camera.
        level: ``[L, T]``.
        windows: ``[L, T, 4]`` pixels of the frame that a row can touch.
    """

    instances: Instances
    bank: ObjectBank
    size_hw: tuple[int, int]
    camera: Float | None
    poses: Float
    inverses: Float
    level: Float
    windows: Int

    @classmethod
    def of(
        cls, instances: Instances, bank: ObjectBank, size_hw: tuple[int, int], camera: Float | None
    ) -> _Stage:
        """Work out where the objects are."""
        poses = instances.poses(size_hw)
        if camera is not None:
            poses = geometry.product(camera, poses)
        level = level_of_detail(poses, instances.height[:, None], instances.width[:, None])
        windows = np.empty((*level.shape, 4), np.int64)
        sides = float(size_hw[0]), float(size_hw[1])
        _windows(np.ascontiguousarray(poses), level, instances.height, instances.width, *sides, windows)
        return cls(instances, bank, size_hw, camera, poses, geometry.invert(poses), level, windows)

    def clips(self, counts: Int) -> Iterator[_Stage]:
        """Yield the clips that stand one after another with so many objects each, their camera per object."""
        for start, stop in zip(np.cumsum(counts) - counts, np.cumsum(counts), strict=True):
            own = slice(int(start), int(stop))
            camera = None if self.camera is None or start == stop else self.camera[start]
            yield replace(
                self, instances=take(self.instances, np.arange(start, stop)), camera=camera,
                poses=self.poses[own], inverses=self.inverses[own], level=self.level[own],
                windows=self.windows[own],
            )  # fmt: skip

    def _with(self, instances: Instances, *parts: _Stage, order: Int | None = None) -> _Stage:
        """Return the clip with other instances, whose measures stand in ``parts`` one after another."""
        chosen = slice(None) if order is None else order
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])[chosen]
            for name in ("poses", "inverses", "level", "windows")
        }
        return replace(self, instances=instances, **arrays)

    def counts(self, rows: Int, frames: Int, step: int, *, full: bool, hidden: bool = False) -> Float:
        """Return the pixels of each row's extent in the frame and those it owns, ``[K, F, 2]``.

        With a step above 1 every so many pixels are looked at. Unless ``full``, one pixel stands for a frame
        in which nothing can cover the row, and if only ``hidden`` matters, for one in which it is seen.
        """
        instances, bank = self.instances, self.bank
        # Depths of one frame: of equal ones the later row stands in front.
        order = len(instances) - 1 - np.argsort(self._depth()[::-1, frames], axis=0, kind="stable")
        sizes = np.stack([instances.height, instances.width], axis=-1)
        out = np.zeros((len(rows), len(frames), 2))
        _count(
            bank.texels, bank.texel_offsets, instances.object_id, sizes, self.inverses, self.level,
            instances.opacity, order, self.windows, rows, frames, step, full, hidden, out,
        )  # fmt: skip
        return out

    def _depth(self) -> Float:
        ranks = len(self.instances) - np.arange(len(self.instances), dtype=np.float64)
        return np.asarray(ranks[:, None] + self.instances.depth)

    def visibility(self, row: int, step: int, frames: Int | None = None, *, hidden: bool = False) -> Float:
        """Return one row's visibility in every frame (of ``frames``), NaN where its extent is empty.

        If only ``hidden`` matters, what is not 0 is just some other number.
        """
        frames = np.arange(self.instances.depth.shape[1]) if frames is None else frames
        extent, owned = self.counts(np.array([row]), frames, step, full=False, hidden=hidden)[0].T
        seen: Float = np.divide(owned, extent, out=np.full(len(extent), np.nan), where=extent > 0)
        return seen

    def covered(self, step: int) -> float:
        """Return the share of all labelled extents that others own."""
        rows, frames = np.flatnonzero(self.instances.labelled), np.arange(self.instances.depth.shape[1])
        extent, owned = self.counts(rows, frames, step, full=True).sum(axis=(0, 1))
        return float(1 - owned / extent) if extent else 0.0

    def shifted(self, offset_xy: Float) -> _Stage:
        """Return the clip with every path ``[L, T, 2]`` moved."""
        instances = replace(self.instances, center_xy=self.instances.center_xy + offset_xy)
        return _Stage.of(instances, self.bank, self.size_hw, self.camera)

    def with_one_shifted(self, row: int, offset_xy: Float) -> _Stage:
        """Return the clip with the path of one object moved by ``[2]`` pixels."""
        instances = replace(self.instances, center_xy=self.instances.center_xy.copy())
        instances.center_xy[row] += offset_xy
        moved = _Stage.of(take(instances, [row]), self.bank, self.size_hw, self.camera)
        order = np.arange(len(instances))
        order[row] = len(instances)
        return self._with(instances, self, moved, order=order)

    def in_order(self, rows: Int) -> _Stage:
        """Return the clip with its objects in another order, from back to front."""
        return self._with(take(self.instances, rows), self, order=rows)

    def with_occluder(self, object_id: int, center_xy: Float, box_wh: Float) -> _Stage:
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
        added = _Stage.of(new, self.bank, self.size_hw, self.camera)
        return self._with(join([self.instances, new]), self, added)


@kernel(error_model="numpy")
def _margin(level):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return how far beyond its texture, in texels, an object can extend.

    Half alpha stands where the texture ends; only a coarse texel that is partly padding can carry it farther,
    by at most 1.5 - sqrt(2) of its side.
    """
    return 0.125 * float(2 << int(level))


@kernel(error_model="numpy")
def _narrowed(at, step, margin, size, x0, x1):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Narrow the columns [x0, x1) to those with -margin <= at + (x + .5) step <= size + margin."""
    if step == 0.0:
        return (x0, x1) if -margin <= at <= size + margin else (x0, x0)
    enter, leave = (-margin - at) / step - 0.5, (size + margin - at) / step - 0.5
    if step < 0.0:
        enter, leave = leave, enter
    low, high = float(x0), float(x1)
    return int(min(max(np.floor(enter), low), high)), int(min(max(np.ceil(leave) + 1.0, low), high))


@kernel(error_model="numpy")
def _windows(poses, level, heights, widths, frame_height, frame_width, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill ``out [L, T, 4]``: pixels (x0, y0, x1, y1) of the frame that each row can touch."""
    for k in range(poses.shape[0]):
        for t in range(poses.shape[1]):
            m, reach = poses[k, t], float(2 << int(level[k, t]))
            x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
            for corner in range(4):
                u = widths[k] + 2 * reach if corner & 1 else -reach
                v = heights[k] + 2 * reach if corner & 2 else -reach
                depth = m[2, 0] * u + m[2, 1] * v + m[2, 2]
                if not depth > 0.0:  # a horizon inside: anywhere
                    x0, y0, x1, y1 = 0.0, 0.0, frame_width, frame_height
                    break
                x = (m[0, 0] * u + m[0, 1] * v + m[0, 2]) / depth
                y = (m[1, 0] * u + m[1, 1] * v + m[1, 2]) / depth
                x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
            out[k, t, 0] = int(np.floor(min(max(x0, 0.0), frame_width)))
            out[k, t, 1] = int(np.floor(min(max(y0, 0.0), frame_height)))
            out[k, t, 2] = int(np.ceil(min(max(x1, 0.0), frame_width)))
            out[k, t, 3] = int(np.ceil(min(max(y1, 0.0), frame_height)))


@kernel(error_model="numpy")
def _covers(texels, starts, levels, inverses, sizes, opacity, k, t, x, y):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return whether alpha (that of `smile_synth.core.coverage.alpha_at`) x opacity reaches the threshold."""
    depth = inverses[k, t, 2, 0] * x + inverses[k, t, 2, 1] * y + inverses[k, t, 2, 2]
    if not depth > 0.0:
        return False
    u = inverses[k, t, 0, 0] * x + inverses[k, t, 0, 1] * y + inverses[k, t, 0, 2]
    v = inverses[k, t, 1, 0] * x + inverses[k, t, 1, 1] * y + inverses[k, t, 1, 2]
    if depth != 1.0:
        u /= depth
        v /= depth
    low = int(levels[k, t])
    margin = _margin(levels[k, t])
    if u < -margin or v < -margin or u > sizes[k, 1] + margin or v > sizes[k, 0] + margin:
        return False
    mix = levels[k, t] - low
    scale = 0.5**low
    half = 0.5 * scale
    # The level with more weight often decides, the other adds 0 .. 255; a hair aside from the threshold.
    coarse = mix > 0.5
    heavy = mix if coarse else 1.0 - mix
    # Four texels that are all opaque, or all empty, need no weights.
    base = 3 if coarse else 0
    fine = half if coarse else scale
    start, h, w = starts[k, base], starts[k, base + 1], starts[k, base + 2]
    at_u, at_v = u * fine - 0.5, v * fine - 0.5
    if 0.0 <= at_u < w - 1 and 0.0 <= at_v < h - 1:
        upper = np.uint64(start + int(at_v) * w + int(at_u))
        lower = upper + np.uint64(w)
        one = np.uint64(1)
        four = (
            np.int32(texels[upper, 3]) + np.int32(texels[upper + one, 3])
            + np.int32(texels[lower, 3]) + np.int32(texels[lower + one, 3])
        )  # fmt: skip
        if four == 1020 and opacity == 1.0 and heavy > 0.501:
            return True
        if four == 0 and heavy > 0.501:
            return False
    if coarse:
        first = mix * alpha_tap(texels, starts[k, 3], starts[k, 4], starts[k, 5], u * half, v * half)
    else:
        first = heavy * alpha_tap(texels, starts[k, 0], starts[k, 1], starts[k, 2], u * scale, v * scale)
    if opacity == 1.0 and first > 127.51:
        return True
    if first + (1.0 - heavy) * 255.0 < 127.49:
        return False
    if coarse:
        alpha = (1.0 - mix) * alpha_tap(
            texels, starts[k, 0], starts[k, 1], starts[k, 2], u * scale, v * scale
        )
        alpha += first
    else:
        alpha = first
        if mix > 0.0:
            alpha += mix * alpha_tap(texels, starts[k, 3], starts[k, 4], starts[k, 5], u * half, v * half)
    return alpha / 255.0 * opacity >= THRESHOLD


@kernel(error_model="numpy")
def _count(  # type: ignore[no-untyped-def]  # pragma: no cover
    texels,
    offsets,
    ids,
    sizes,
    inverses,
    levels,
    opacity,
    order,
    windows,
    rows,
    frames,
    step,
    full,
    hidden,
    out,
):
    """Count the pixels of every row's extent in the frame and those it owns, into ``out`` [K, F, 2]."""
    num_layers = levels.shape[0]
    starts = np.empty((num_layers, 6), np.int64)
    front = np.empty(num_layers, np.int64)
    for f in range(len(frames)):
        t = frames[f]
        for k in range(num_layers):
            low = int(levels[k, t])
            first, h, w = level_start(sizes[k, 0], sizes[k, 1], low)
            starts[k, 0], starts[k, 1], starts[k, 2] = offsets[ids[k]] + first, h, w
            first, h, w = level_start(sizes[k, 0], sizes[k, 1], low + 1)
            starts[k, 3], starts[k, 4], starts[k, 5] = offsets[ids[k]] + first, h, w
        for r in range(len(rows)):
            k = rows[r]
            x0, y0 = windows[k, t, 0], windows[k, t, 1]
            x1, y1 = windows[k, t, 2], windows[k, t, 3]
            num_front = 0
            for place in range(num_layers):
                j = order[place, f]
                if j == k:
                    break
                if (
                    opacity[j, t] >= THRESHOLD
                    and windows[j, t, 0] < x1
                    and x0 < windows[j, t, 2]
                    and windows[j, t, 1] < y1
                    and y0 < windows[j, t, 3]
                ):
                    front[num_front] = j
                    num_front += 1
            one_is_enough = hidden or (num_front == 0 and opacity[k, t] == 1.0 and not full)
            extent = owned = 0
            m, margin = inverses[k, t], _margin(levels[k, t])
            affine = m[2, 0] == 0.0 and m[2, 1] == 0.0 and m[2, 2] == 1.0
            first = x0 + (step - 1) // 2
            for y in range(y0 + (step - 1) // 2, y1, step):
                begin, end = first, x1
                if affine:
                    u, v = m[0, 1] * (y + 0.5) + m[0, 2], m[1, 1] * (y + 0.5) + m[1, 2]
                    begin, end = _narrowed(u, m[0, 0], margin, sizes[k, 1], begin, end)
                    begin, end = _narrowed(v, m[1, 0], margin, sizes[k, 0], begin, end)
                    begin = first + (begin - first + step - 1) // step * step
                for x in range(begin, end, step):
                    if not _covers(texels, starts, levels, inverses, sizes, 1.0, k, t, x + 0.5, y + 0.5):
                        continue
                    extent += 1
                    own = opacity[k, t]
                    if own != 1.0 and not _covers(
                        texels, starts, levels, inverses, sizes, own, k, t, x + 0.5, y + 0.5
                    ):
                        continue
                    seen = True
                    for n in range(num_front):
                        j = front[n]
                        if (
                            windows[j, t, 0] <= x < windows[j, t, 2]
                            and windows[j, t, 1] <= y < windows[j, t, 3]
                            and _covers(
                                texels, starts, levels, inverses, sizes, opacity[j, t], j, t, x + 0.5, y + 0.5
                            )
                        ):
                            seen = False
                            break
                    if seen:
                        owned += 1
                        if one_is_enough:
                            break
                if one_is_enough and owned:
                    break
            out[r, f, 0], out[r, f, 1] = extent, owned


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
    with np.errstate(invalid="ignore"):
        return np.asarray((visibility < limit) | (visibility == 0))


def _found(target: OcclusionTarget, visibility: Float) -> tuple[int, int] | None:
    """Return (first frame, length) of a run that is as wanted, if there is one."""
    assert target.visibility is not None and target.frames is not None
    below = _hidden(visibility, target.visibility)
    start, length = _first_run(below, ~below & np.isfinite(visibility), *target.frames)
    return (start, length) if length else None


def _step(stage: _Stage, row: int) -> int:
    return int(np.clip(stage.instances.box_wh[row].min() / 6, 1, 16))


def _run(target: OcclusionTarget, stage: _Stage, rng: RandomStream) -> tuple[_Reached, _Stage]:
    """Look for a clip in which one object disappears for a time and comes back."""
    assert target.visibility is not None and target.frames is not None
    labelled = np.flatnonzero(stage.instances.labelled)
    if not len(labelled):
        return _Reached(0), stage
    inside = _inside(stage, labelled).mean(axis=1)
    # An object that is in the frame most of the time can be seen to go and to come back.
    candidates = labelled[inside >= min(0.75, inside.max())]
    chances = candidates[rng.permutation(len(candidates))].tolist()
    tries = 0
    for by, proposed, at, coarse in chain.from_iterable(_proposals(target, stage, k, rng) for k in chances):
        tries += 1
        glance = _found(target, coarse)
        if glance is not None:
            # The run with what stands before and after it decides.
            around = np.arange(max(glance[0] - 1, 0), min(sum(glance) + 1, len(coarse)))
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
                return _Reached(tries, by, deepest, length, start), proposed
        if tries >= target.tries:
            break
    return _Reached(tries), stage


def _inside(stage: _Stage, rows: Int) -> NDArray[np.bool_]:
    """Return in which frames ``[K, T]`` a row's middle is in the frame and the row is there."""
    instances = stage.instances
    middle = np.stack([instances.width[rows] / 2, instances.height[rows] / 2], axis=-1)
    center = geometry.apply(stage.poses[rows], middle[:, None, None])[..., 0, :]
    with np.errstate(invalid="ignore"):
        within = ((center >= 0) & (center < [stage.size_hw[1], stage.size_hw[0]])).all(axis=-1)
    return np.asarray(within & (instances.opacity[rows] >= THRESHOLD))


def _proposals(
    target: OcclusionTarget, stage: _Stage, row: int, rng: RandomStream
) -> Iterator[tuple[str, _Stage, int, Float]]:
    """Yield clips that may have the run: by what, clip, row of the chosen object, visibility at a glance."""
    count, step, hidden = len(stage.instances), _step(stage, row), target.visibility == 0
    plain = stage.visibility(row, step)
    yield "chance", stage, row, plain
    for by in target.by:
        if by == "path":
            for other, offset in _crossings(target, stage, row, rng):
                proposed = stage.with_one_shifted(other, offset)
                yield by, proposed, row, proposed.visibility(row, step, hidden=hidden)
        elif by == "depth":
            for other in rng.permutation(row)[:8].tolist():
                if _estimate(target, _box_cover(stage, row, other)):
                    order = np.insert(np.delete(np.arange(count), other), row, other)  # just in front of it
                    proposed = stage.in_order(order)
                    yield (
                        by,
                        proposed,
                        row - 1,
                        proposed.visibility(row - 1, step, hidden=hidden),
                    )
        else:
            for proposed, seen in _occluders(target, stage, row, plain, rng):
                yield by, proposed, row, seen


def _box_cover(stage: _Stage, row: int, other: int | Int, offset: Float | float = 0.0) -> Float:
    """Return the share ``[..., T]`` of a row's box that the boxes of others, moved, leave free."""
    center, box = stage.instances.center_xy, stage.instances.box_wh
    low = np.maximum(center[row] - box[row] / 2, center[other] + offset - box[other] / 2)
    high = np.minimum(center[row] + box[row] / 2, center[other] + offset + box[other] / 2)
    return np.asarray(1 - np.maximum(high - low, 0).prod(axis=-1) / box[row].prod(axis=-1))


def _estimate(target: OcclusionTarget, free: Float) -> bool:
    """Tell whether the run may be as wanted, by boxes, which are somewhat larger than objects."""
    assert target.visibility is not None and target.frames is not None
    below = free < target.visibility + 0.02
    return bool(_first_run(below, ~below, target.frames[0], target.frames[1] + 1)[1])


def _crossings(
    target: OcclusionTarget, stage: _Stage, row: int, rng: RandomStream
) -> Iterator[tuple[int, Float]]:
    """Yield (object in front, shift of its path) that cover the chosen object for about the wanted time."""
    instances, frames = stage.instances, stage.instances.center_xy.shape[1]
    if row + 1 == len(instances):
        return
    other = row + 1 + rng.integers(len(instances) - row - 1, _PROPOSALS)
    at = rng.integers(frames, _PROPOSALS)
    aside = rng.uniforms(-0.4, 0.4, _PROPOSALS, 2) * instances.box_wh[row, at]
    offset = instances.center_xy[row, at] + aside - instances.center_xy[other, at]
    free = _box_cover(stage, row, other, offset[:, None])
    assert target.visibility is not None and target.frames is not None
    hidden = (free < target.visibility + 0.02).sum(axis=1)
    likely = np.flatnonzero((hidden >= target.frames[0]) & (hidden <= target.frames[1] + 1)).tolist()
    fits = (n for n in likely if _estimate(target, free[n]))
    for n in islice(fits, max(target.tries // 8, 1)):
        yield int(other[n]), offset[n]


@kernel
def _fill(texels, offsets, heights, widths, ids):  # type: ignore[no-untyped-def]  # pragma: no cover
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


def _solid(stage: _Stage, rng: RandomStream) -> int:
    """Draw the most solid of a few objects: the one whose texture is covered best."""
    bank = stage.bank
    ids = rng.integers(len(bank), 6)
    return int(ids[int(np.argmax(_fill(bank.texels, bank.texel_offsets, bank.heights, bank.widths, ids)))])


def _occluders(
    target: OcclusionTarget, stage: _Stage, row: int, plain: Float, rng: RandomStream
) -> Iterator[tuple[_Stage, Float]]:
    """Yield clips with one more object that runs across the chosen one, faster or slower by what came of it.

    With every clip comes the chosen object's visibility at a glance; ``plain`` is that without an occluder.
    """
    assert target.visibility is not None and target.frames is not None
    instances = stage.instances
    frames = instances.center_xy.shape[1]
    clear = np.isfinite(plain) & ~_hidden(plain, min(target.visibility + 0.1, 1.0))
    t = np.arange(frames)
    while True:
        length = target.frames[0] + rng.integer(target.frames[1] + 1 - target.frames[0])
        starts = [s for s in range(1, frames - length) if clear[s - 1] and clear[s + length]]
        full = [s for s in starts if np.isfinite(plain[s : s + length]).all()]
        if not full:
            return
        start = full[rng.integer(len(full))]
        middle = start + (length - 1) / 2
        # A rotated box reaches as far as its diagonal.
        half = np.hypot(*instances.box_wh[row, start : start + length].max(axis=0)) / 2
        angle = rng.uniform(0.0, 2 * np.pi)
        along = np.array([np.cos(angle), np.sin(angle)])
        object_id, size = _solid(stage, rng), rng.uniform(1.2, 1.6)
        low, high = 0.0, np.inf
        # The way during which it is covered, until it is measured.
        speed = 2 * half * (max(size - 1, 0.2) + 1.2 * target.visibility) / max(length, 1)
        for _ in range(6):
            center = instances.center_xy[row] + (along * speed) * (t - middle)[:, None]
            clip = stage.with_occluder(object_id, center, np.array([2 * half * size] * 2))
            seen = clip.visibility(row, _step(stage, row), hidden=target.visibility == 0)
            yield clip, seen
            below = _hidden(seen, target.visibility)
            covered = int(below[max(start - 3, 0) : start + length + 3].sum())
            if covered == 0:
                size *= 1.25
                if size > 2.5:
                    break  # it has holes: another one
                low, high = 0.0, np.inf
                continue
            if covered > length:
                low = speed
            elif covered < length:
                high = speed
            else:
                break  # the coarse look was right, the fine one was not: elsewhere
            speed = speed * 1.5 if high == np.inf else (low + high) / 2 if low else speed / 1.5


def _overlap(target: OcclusionTarget, stage: _Stage, rng: RandomStream) -> tuple[_Reached, _Stage]:
    """Look for a clip in which a share of all labelled extents is covered."""
    assert target.overlap is not None
    low, high = target.overlap
    wanted = (low + high) / 2
    instances = stage.instances
    if not instances.labelled.any():
        return _Reached(0), stage
    step = int(np.clip(instances.box_wh[instances.labelled].min() / 8, 1, 16))
    tries = 0

    def close(share: float) -> bool:
        return low <= share <= high

    plain = stage.covered(step)
    tries += 1
    if close(plain) and close(exact := stage.covered(1)):
        return _Reached(tries, "chance", exact), stage
    share_of_tries = max((target.tries - 1) // len(target.by), 1)
    for by in target.by:
        largest = int(np.argmax(np.where(instances.labelled, instances.box_wh.prod(axis=2).mean(axis=1), -1)))
        aside, object_id = rng.uniforms(-0.2, 0.2, 2), _solid(stage, rng)
        least, most = (-2.0, 1.0) if by == "path" else (0.0, 1.5)
        for _ in range(share_of_tries):
            if tries >= target.tries:
                break
            tries += 1
            amount = (least + most) / 2
            if by == "path":
                # Towards the common way (1: all on it), or apart (below 0).
                common = instances.center_xy.mean(axis=0)
                proposed = stage.shifted(amount * (common - instances.center_xy))
            elif by == "depth":
                proposed = stage.in_order(rng.permutation(len(instances)))
            else:
                box = instances.box_wh[largest]
                center = instances.center_xy[largest] + aside * box
                proposed = stage.with_occluder(object_id, center, np.maximum(box * amount, 1.0))
            share = proposed.covered(step)
            if close(share) and close(exact := proposed.covered(1)):
                return _Reached(tries, by, exact), proposed
            if share < wanted:
                least = amount
            else:
                most = amount
            if most - least < 1e-3:
                break
    return _Reached(tries), stage
