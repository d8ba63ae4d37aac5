"""Input and output of motion families, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.rng import RandomStreams
from smile_synth.io.strict_yaml import StrictModel

Float = NDArray[np.float64]


class FamilyParameters(StrictModel):
    """Recipe keys of a family. Each family's model adds ``family: Literal[name]`` and its own keys."""


@dataclass(frozen=True)
class Request:
    """The request for R paths or curves with T frames and D dimensions.

    Attributes:
        num_frames: T, at least 1.
        low: least allowed value, broadcasts to ``[R, T, D]``; -inf: no bound. For a path, the box centre at
            which the box touches the frame's border from inside; above ``high`` if the box is too large.
        high: largest allowed value, like ``low``.
        outer: ``[2, D]`` least and largest value of the whole range; for a path, the frame.
        key_times: ``[R, K]`` float64, 0 .. T-1, the key frames.
        start: ``[2, D]`` low and high of the first value; None: anywhere within the bounds.
        unit: unit of the values, for the names of factors.
        pixel: size of one pixel in that unit; 0 if the values are no pixels.
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
        return len(self.key_times)

    @property
    def dims(self) -> int:
        """Dimensions D of a value: 2 for a path, 1 or more for a curve."""
        return int(self.outer.shape[1])

    @property
    def frames(self) -> Float:
        """Frame numbers ``[T]`` float64."""
        return np.arange(self.num_frames, dtype=np.float64)

    def bounds(self) -> tuple[Float, Float]:
        """Return ``low`` and ``high``, each ``[R, T, D]``."""
        shape = self.num_rows, self.num_frames, self.dims
        return np.broadcast_to(self.low, shape), np.broadcast_to(self.high, shape)

    def ordered_bounds(self) -> tuple[Float, Float]:
        """Return the bounds ``[R, T, D]``; both are their mean where a box is larger than the frame."""
        low, high = self.bounds()
        middle = (low + high) / 2
        return np.minimum(low, middle), np.maximum(high, middle)

    def place(self, travel: Float, *, rng: RandomStreams) -> Float:
        """Draw first values and add them to a travel ``[R, T, D]``, which starts at 0.

        Without ``start``, all values stay within the bounds. In a dimension where this is impossible, the
        values are centred between the bounds.
        """
        u = rng.random(self.dims)
        if self.start is not None:
            low, high = self.start[:1], self.start[1:]
        else:
            low, high = (self.low - travel).max(axis=1), (self.high - travel).min(axis=1)
            middle = (low + high) / 2
            low, high = np.minimum(low, middle), np.where(high < low, middle, high)
        return np.asarray((low + u * (high - low))[:, None] + travel)

    def unit_vectors(self, degrees: Float, *, rng: RandomStreams) -> Float:
        """Return unit vectors ``[R, D]``: at an angle for D = 2, and 1 or -1 for D = 1.

        For D > 2 directions are drawn uniformly and ``degrees`` is ignored.
        """
        angle = np.deg2rad(degrees)
        if self.dims == 1:
            return np.where(np.cos(angle) < 0, -1.0, 1.0)[:, None]
        if self.dims == 2:
            return np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        vectors = rng.normal(self.dims)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))

    def direction_factor(self, degrees: Float, name: str = "direction_degrees") -> dict[str, Float]:
        """Return an angle as a factor for D = 2, where it has a meaning, and else an empty dict."""
        return {name: degrees % 360} if self.dims == 2 else {}


@dataclass(frozen=True)
class Path:
    """Values over time and their drawn parameters.

    Attributes:
        values: ``[R, T, D]`` float64; for a path, the centre of the object's un-rotated box in pixels.
        factors: drawn parameters ``[R]`` by name, which a probe could predict; names end in the unit.
        log_scale: ``[R, T]`` logarithm of a size that belongs to the path (an approach); None: constant size.
    """

    values: Float
    factors: dict[str, Float] = field(default_factory=dict)
    log_scale: Float | None = None


class Family(NamedTuple):
    """A motion family.

    Attributes:
        parameters: model of its recipe keys; its key ``family`` is ``Literal[name]``.
        draw: pure function ``(*, rng: RandomStreams, parameters, request: Request) -> Path``.
        bounded: the family needs finite bounds, so its curves must have ``low`` and ``high``.
    """

    parameters: type[FamilyParameters]
    draw: Callable[..., Path]
    bounded: bool = False


FAMILIES: dict[str, Family] = {}
_Draw = TypeVar("_Draw", bound=Callable[..., Path])


def name_of(family: Family) -> str:
    """Return the name in a family's parameters.

    Raises:
        ValueError: the parameters have no key ``family: Literal[name]``.
    """
    key = family.parameters.model_fields.get("family")
    names = get_args(key.annotation) if key else ()
    if len(names) != 1:
        raise ValueError(f"{family.parameters.__name__} needs the key family: Literal[name]")
    return str(names[0])


def register(family: Family) -> None:
    """Add a family to `FAMILIES`.

    Raises:
        ValueError: the name is taken, or the parameters have no name.
    """
    name = name_of(family)
    if name in FAMILIES:
        raise ValueError(f"motion family '{name}' is registered already")
    FAMILIES[name] = family


def family(parameters: type[FamilyParameters], *, bounded: bool = False) -> Callable[[_Draw], _Draw]:
    """Register the decorated function as the family of these parameters, see `Family`."""

    def add(draw: _Draw) -> _Draw:
        register(Family(parameters, draw, bounded))
        return draw

    return add
