"""Instances: the objects of many clips in common arrays, with one row per object.

The random numbers of an object depend only on its clip's index and its number in the clip. Other rows do not
change them, so a batch of one clip and a batch of a thousand draw the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.rng import RandomStreams
from smile_synth.motion import OBJECT_CURVES
from smile_synth.recipe import Recipe
from smile_synth.scene import Factor
from smile_synth.sources import Sources

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]
# Distance of the camera from a tilted object, in longer sides of the frame.
VIEWING_DISTANCE = 2.0


@dataclass(frozen=True)
class Batch:
    """Clips of one recipe that are sampled together.

    Attributes:
        recipe: of all clips.
        sources: objects and backgrounds.
        seed: of all clips.
        indices: ``[B]`` index of each clip.
    """

    recipe: Recipe
    sources: Sources
    seed: int
    indices: Int

    def __len__(self) -> int:
        """Return the number of clips B."""
        return len(self.indices)

    def streams(self, purpose: str, clips: Int | slice = slice(None)) -> RandomStreams:
        """Return the random streams of a purpose, one per clip."""
        return RandomStreams(self.seed, self.indices[clips], purpose)


@dataclass
class Instances:
    """The objects of B clips: N rows, clip after clip.

    Attributes:
        clip: ``[N]`` 0 .. B-1, ascending.
        number: ``[N]`` 0, 1, ... within the clip; labelled objects and distractors are numbered separately.
        labelled: ``[N]`` bool; distractors are not labelled.
        object_id: ``[N]`` in the bank.
        height, width: ``[N]`` of the texture.
        center_xy: ``[N, T, 2]`` pixels, the middle of the un-rotated box.
        box_wh: ``[N, T, 2]`` pixels.
        rotation: ``[N, T]`` degrees.
        opacity: ``[N, T]``.
        gain: ``[N, T, 3]``.
        depth: ``[N, T]`` ranks relative to the depth order.
        shear, tilt: ``[N, T, 2]`` slopes and degrees; None: 0 everywhere.
        bias: ``[N, T, 3]``; None: 0 everywhere.
        gamma: ``[N, T, 1]``; None: 1 everywhere.
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

    def streams(self, batch: Batch, purpose: str, rows: Int | slice = slice(None)) -> RandomStreams:
        """Return the random streams of a purpose, one per object."""
        labelled, number = self.labelled[rows].tolist(), self.number[rows].tolist()
        kinds = f"distractor {purpose}", purpose
        names = [f"{kinds[own]} {n}" for own, n in zip(labelled, number, strict=True)]
        return RandomStreams(batch.seed, batch.indices[self.clip[rows]], names)

    def mean_area(self) -> Float:
        """Return the mean area of each box over time, ``[N]`` square pixels."""
        area = self.box_wh[..., 0] * self.box_wh[..., 1]
        mean: Float = area.sum(axis=1) / area.shape[1]
        return mean

    def set_curve(self, name: str, rows: Int, values: Float) -> None:
        """Set a curve ``[R, T, D]`` of some rows."""
        array = getattr(self, name)
        if array is None:
            array = neutral(name, self.opacity.shape)
            setattr(self, name, array)
        array[rows] = values if array.ndim == 3 else values[..., 0]

    def poses(self, size_hw: tuple[int, int]) -> Float:
        """Return ``[N, T, 3, 3]`` texture pixels to frame pixels, without the camera."""
        texture_wh = np.array([self.width, self.height], np.float64).T[:, None]
        middle, scale = texture_wh / 2, self.box_wh / texture_wh
        if self.tilt is None:
            return geometry.affine(self.center_xy, self.rotation, scale, self.shear, middle)
        flat = geometry.affine(np.zeros_like(self.center_xy), self.rotation, scale, self.shear, middle)
        tilted = geometry.product(geometry.tilt(self.tilt, VIEWING_DISTANCE * max(size_hw)), flat)
        return geometry.product(geometry.translation(self.center_xy), tilted)


def neutral(name: str, leading: tuple[int, ...]) -> Float:
    """Return an array ``[N, T, D]`` of a curve that changes nothing."""
    curve = OBJECT_CURVES[name]
    return np.full((*leading, curve.dims), curve.neutral)


def add_factors(
    factors: list[dict[str, Factor]], rows: Int | range, values: dict[str, Float], prefix: str = ""
) -> None:
    """Add drawn values, each ``[R]``, to the factors of rows."""
    if not values:
        return
    names = [prefix + name for name in values]
    columns = [column.tolist() for column in values.values()]
    for row, numbers in zip(rows, zip(*columns, strict=True), strict=True):
        factors[row].update(zip(names, numbers, strict=True))


def take(instances: Instances, rows: Sequence[int] | Int) -> Instances:
    """Return some rows as Instances of their own; the arrays are copies."""
    chosen = np.asarray(rows, np.int64)
    arrays = {name: value[chosen] for name, value in vars(instances).items() if isinstance(value, np.ndarray)}
    return replace(instances, **arrays, factors=[dict(instances.factors[i]) for i in chosen])


def join(parts: Sequence[Instances]) -> Instances:
    """Concatenate Instances."""
    arrays = {}
    for name in (each.name for each in fields(Instances) if each.name != "factors"):
        columns = [getattr(part, name) for part in parts]
        if any(column is not None for column in columns):
            columns = [
                neutral(name, part.opacity.shape) if column is None else column
                for part, column in zip(parts, columns, strict=True)
            ]
            arrays[name] = np.concatenate(columns)
    return replace(parts[0], **arrays, factors=[item for part in parts for item in part.factors])
