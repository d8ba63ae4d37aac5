"""Motion that depends on the borders of the frame, and stop-and-go."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import NonNegative, NonNegativeRange, Positive, PositiveRange, ShareRange
from smile_synth.motion._base import FamilyParameters, Float, Path, Request, family

Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


class Bounce(FamilyParameters):
    """Keys of ``bounce``.

    Attributes:
        speed: [low, high] per frame; the direction is uniform.
    """

    family: Literal["bounce"]
    speed: NonNegativeRange


@family(Bounce, bounded=True)
def bounce(*, rng: RandomStreams, parameters: Bounce, request: Request) -> Path:
    """Draw a straight line that is reflected where the box touches the border."""
    low, high = request.ordered_bounds()
    speed, direction = rng.uniform(*parameters.speed), rng.uniform(0, 360)
    start = rng.random(request.dims)
    step = speed[:, None] * request.unit_vectors(direction, rng=rng)
    width = high - low
    travelled = step[:, None] * request.frames[:, None]
    share = start[:, None] + np.divide(travelled, width, out=np.zeros_like(travelled), where=width > 0)
    folded = 1 - np.abs(share % 2 - 1)
    factors = {
        **request.direction_factor(direction, "start_direction_degrees"),
        f"speed_{request.unit}_per_frame": speed,
    }
    return Path(low + folded * width, factors)


class StopAndGo(FamilyParameters):
    """Keys of ``stop-and-go``.

    Attributes:
        speed: [low, high] per frame while the object moves.
        go: [low, high] frames of a move.
        stop: [low, high] frames of a rest.
        turn: the direction changes by U(-turn, turn) degrees after a rest.
    """

    family: Literal["stop-and-go"]
    speed: NonNegativeRange
    go: PositiveRange
    stop: PositiveRange
    turn: NonNegative = 0.0


@family(StopAndGo)
def stop_and_go(*, rng: RandomStreams, parameters: StopAndGo, request: Request) -> Path:
    """Draw alternating moves and rests; which of the two comes first is random."""
    rows, frames = request.num_rows, request.num_frames
    speed, direction, rests_first = rng.uniform(*parameters.speed), rng.uniform(0, 360), rng.integers(2)
    pairs = min(int(np.ceil(frames / (parameters.go[0] + parameters.stop[0]))) + 1, frames)
    lengths = np.stack([rng.uniform(*parameters.go, pairs), rng.uniform(*parameters.stop, pairs)], axis=-1)
    turns = np.cumsum(rng.uniform(-parameters.turn, parameters.turn, pairs), axis=1)
    lengths = np.where(rests_first[:, None, None] == 1, lengths[..., ::-1], lengths).reshape(rows, -1)
    ends = np.cumsum(np.maximum(lengths, 1e-9), axis=1)
    # Each row's times are shifted beyond those of the row before, so that one search serves all rows.
    offset = (ends.max() + frames + 1) * np.arange(rows)[:, None]
    phase = np.searchsorted((ends + offset).ravel(), (request.frames + offset).ravel(), side="right")
    phase = np.minimum(phase.reshape(rows, frames) - ends.shape[1] * np.arange(rows)[:, None], 2 * pairs - 1)
    goes = phase % 2 == rests_first[:, None]
    heading = direction[:, None] + np.take_along_axis(turns, phase // 2, axis=1)
    if request.dims == 2:
        angle = np.deg2rad(heading)
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    else:
        unit = np.repeat(request.unit_vectors(direction, rng=rng)[:, None], frames, axis=1)
    steps = unit * (goes * speed[:, None])[..., None]
    travel = np.concatenate([np.zeros_like(steps[:, :1]), np.cumsum(steps[:, :-1], axis=1)], axis=1)
    factors = {f"speed_{request.unit}_per_frame": speed, "moving_share": goes.mean(axis=1)}
    return Path(request.place(travel, rng=rng), factors)


class ApproachRecede(FamilyParameters):
    """Keys of ``approach-recede``.

    Attributes:
        ratio: [low, high] largest distance / smallest distance, at least 1.
        period: [low, high] frames from one smallest distance to the next.
    """

    family: Literal["approach-recede"]
    ratio: PositiveRange
    period: PositiveRange


@family(ApproachRecede, bounded=True)
def approach_recede(*, rng: RandomStreams, parameters: ApproachRecede, request: Request) -> Path:
    """Draw an oscillating distance from a pinhole camera.

    The offset from the middle of the frame and the size are proportional to 1 / distance.
    """
    ratio = np.maximum(rng.uniform(*parameters.ratio), 1.0)
    period, phase = rng.uniform(*parameters.period), rng.uniform(0, 2 * np.pi)
    low, high = (bound[:, 0] for bound in request.ordered_bounds())
    near = low + rng.random(request.dims) * (high - low)
    swing = (1 + np.cos(phase[:, None] + 2 * np.pi * request.frames / period[:, None])) / 2
    distance = 1 + (ratio[:, None] - 1) * swing
    middle = request.outer.mean(axis=0)
    values = middle + (near - middle)[:, None] / distance[..., None]
    factors = {"distance_ratio": ratio, "period_frames": period}
    return Path(values, factors, np.log(distance[:, :1] / distance))


def _outside(request: Request, axis: Int, upper: Bool) -> Float:
    """Return the values ``[R]`` along ``axis`` at which the largest box is just outside the range."""
    rows, (low, high) = np.arange(request.num_rows), request.bounds()
    low, high = low.max(axis=1)[rows, axis], high.min(axis=1)[rows, axis]
    first, last = request.outer[:, axis]
    return np.asarray(np.where(upper, 2 * last - high, 2 * first - low))


class PassThrough(FamilyParameters):
    """Keys of ``pass-through``.

    Attributes:
        share: [low, high] share of the clip that the crossing takes, centred in the clip.
    """

    family: Literal["pass-through"]
    share: ShareRange = (1.0, 1.0)


@family(PassThrough, bounded=True)
def pass_through(*, rng: RandomStreams, parameters: PassThrough, request: Request) -> Path:
    """Draw an axis and a sense; the object enters at one side of the frame and leaves at the other."""
    share = np.maximum(rng.uniform(*parameters.share), 1e-6)
    axis, upper = rng.integers(request.dims), rng.integers(2) == 1
    low, high = request.ordered_bounds()
    u = rng.random(2, request.dims)
    ends = np.stack([low[:, 0], low[:, -1]], 1) + u * np.stack([high[:, 0] - low[:, 0]] * 2, 1)
    rows = np.arange(request.num_rows)
    ends[rows, 0, axis] = _outside(request, axis, upper)
    ends[rows, 1, axis] = _outside(request, axis, ~upper)
    last = max(request.num_frames - 1, 1)
    done = np.clip((request.frames / last - 0.5) / share[:, None] + 0.5, 0, 1)[..., None]
    values = ends[:, :1] * (1 - done) + ends[:, 1:] * done
    return Path(values, {"crossing_frames": share * last})


class ReEnter(FamilyParameters):
    """Keys of ``re-enter``.

    Attributes:
        away: [low, high] share of the clip during which the object is outside the frame.
        wander: largest movement along the border while it is outside, as a share of the range.
    """

    family: Literal["re-enter"]
    away: ShareRange = (0.1, 0.3)
    wander: Positive = 0.5


@family(ReEnter, bounded=True)
def re_enter(*, rng: RandomStreams, parameters: ReEnter, request: Request) -> Path:
    """Draw a path that leaves through one side of the frame and returns through the same side."""
    away, split = rng.uniform(*parameters.away), rng.uniform(0.35, 0.65)
    axis, upper = rng.integers(request.dims), rng.integers(2) == 1
    low, high = request.ordered_bounds()
    first, last = low[:, 0], low[:, -1]
    start = first + rng.random(request.dims) * (high[:, 0] - first)
    end = last + rng.random(request.dims) * (high[:, -1] - last)
    drift = rng.uniform(-parameters.wander, parameters.wander, request.dims) * (high[:, -1] - last)
    leave = start + rng.random(request.dims) * (end - start)
    back = np.clip(leave + drift, last, np.maximum(high[:, -1], last))
    rows = np.arange(request.num_rows)
    leave[rows, axis] = _outside(request, axis, upper)
    back[rows, axis] = _outside(request, axis, upper)
    out, into = (1 - away) * split, (1 - away) * split + away
    u = (request.frames / max(request.num_frames - 1, 1))[None, :, None]
    t1, t2 = np.maximum(out, 1e-9)[:, None, None], np.minimum(into, 1 - 1e-9)[:, None, None]
    before, during, after = u / t1, (u - t1) / np.maximum(t2 - t1, 1e-9), (u - t2) / (1 - t2)
    values = np.select(
        [u <= t1, u < t2],
        [start[:, None] * (1 - before) + leave[:, None] * before,
         leave[:, None] * (1 - during) + back[:, None] * during],
        back[:, None] * (1 - after) + end[:, None] * after,
    )  # fmt: skip
    frames = max(request.num_frames - 1, 1)
    return Path(values, {"leaves_frame": out * frames, "returns_frame": into * frames})
