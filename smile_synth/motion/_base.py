"""What every motion family is given and returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.rng import RandomStreams
from smile_synth.io.strict_yaml import StrictModel

Float = NDArray[np.float64]


class FamilyParameters(StrictModel):
    """Keys of a family; every family's model adds ``family: Literal[name]`` and its own."""


@dataclass(frozen=True)
class Request:
    """What a path or a curve is made for: R rows at once, each with T frames and D dimensions.

    Attributes:
        num_frames: T, at least 1.
        low: ``[R, T, D]`` the least value allowed; of a path, where the middle of the box may be so that the
            box stays inside the frame. ``low > high`` where it is too large for that; -inf without a bound.
        high: ``[R, T, D]`` the largest.
        outer: ``[2, D]`` least and largest value of the whole range; of a path, the frame.
        key_times: ``[R, K]`` float64, 0 .. T-1, the key frames.
        start: ``[2, D]`` low and high of where a motion starts; None: anywhere within the bounds.
        unit: of the values; names of factors are made of it.
        pixel: one pixel in that unit, 0 where there are no pixels.
    """

    num_frames: int
    low: Float
    high: Float
    outer: Float
    key_times: Float
    start: Float | None = None
    unit: str = "px"
    pixel: float = 1.0

    @property
    def num_rows(self) -> int:
        """Rows R."""
        return int(self.low.shape[0])

    @property
    def dims(self) -> int:
        """Dimensions D of a value: 2 of a path, 1 or more of a curve."""
        return int(self.low.shape[2])

    @property
    def frames(self) -> Float:
        """Frame numbers ``[T]`` float64."""
        return np.arange(self.num_frames, dtype=np.float64)

    def place(self, travel: Float, *, rng: RandomStreams) -> Float:
        """Draw where a travel ``[R, T, D]``, relative to its start, starts; returns the values.

        Without a start of its own, a travel starts where all of it stays within the bounds. On a
        dimension where no start does that, it is centred as a whole.
        """
        u = rng.random(self.dims)
        if self.start is not None:
            low, high = self.start[:1], self.start[1:]
        else:
            low, high = (self.low - travel).max(axis=1), (self.high - travel).min(axis=1)
            middle = (low + high) / 2
            low, high = np.minimum(low, middle), np.where(high < low, middle, high)
        return np.asarray((low + u * (high - low))[:, None] + travel)

    def room(self) -> tuple[Float, Float]:
        """Return the bounds ``[R, T, D]``; both are the middle where the box is too large for the frame."""
        middle = (self.low + self.high) / 2
        return np.minimum(self.low, middle), np.maximum(self.high, middle)


@dataclass(frozen=True)
class Path:
    """Values over time and what was drawn for them.

    Attributes:
        values: ``[R, T, D]`` float64; of a path, the middle of the object's un-rotated box in pixels.
        factors: drawn values a probe could predict, ``[R]`` each, by a name that ends in its unit.
        log_scale: ``[R, T]`` size that comes with the path (an approach), as a logarithm; None: none.
    """

    values: Float
    factors: dict[str, Float] = field(default_factory=dict)
    log_scale: Float | None = None


def units(degrees: Float, dims: int, *, rng: RandomStreams) -> Float:
    """Return unit vectors ``[R, D]``: along ``degrees`` in the plane, to either side in one dimension.

    In three dimensions and more the direction is drawn uniformly instead.
    """
    angle = np.deg2rad(degrees)
    if dims == 1:
        return np.where(np.cos(angle) < 0, -1.0, 1.0)[:, None]
    if dims == 2:
        return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    vectors = rng.normal(dims)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def direction_factor(degrees: Float, dims: int, name: str = "direction_degrees") -> dict[str, Float]:
    """Return a direction as a factor; only in the plane it means anything."""
    return {name: degrees % 360} if dims == 2 else {}
