"""Statistics over many clips, and their comparison with the recipe."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.recipe import Recipe, SideDistribution
from smile_synth.visualize._measure import ClipMeasure, ObjectMeasure
from smile_synth.visualize._source import Factors

Float = NDArray[np.float64]
GRID_CELLS = 16
# Quantities of an object whose distribution is drawn: title and unit.
QUANTITIES: dict[str, tuple[str, str]] = {
    "speed": ("Speed", "px/frame"),
    "displacement": ("Displacement, first to last frame", "px"),
    "size": ("Size in the first frame", "px"),
    "rotation": ("Rotation", "degrees/frame"),
    "longest_occluded": ("Longest occlusion (visibility below ½)", "frames"),
    "visibility": ("Visibility, over objects and frames", "share"),
}
# A share counts as expected within this many standard errors.
_STANDARD_ERRORS = 4
_RATES = {"rotation": "rotation_degrees_per_frame", "log_scale": "log_scale_per_frame"}


@dataclass(frozen=True)
class Statistics:
    """Statistics over clips.

    Attributes:
        num_clips, num_objects: how many were measured.
        values: quantity of `QUANTITIES` -> all finite values.
        families, classes: number of objects of each.
        backgrounds, counts: number of clips of each background, and of each number of objects.
        licences: of the objects, one count per appearance; empty without a bank.
        center_shares: ``[GRID_CELLS, GRID_CELLS]`` share of all centres in each cell of the frame.
        outside: share of all centres outside the frame.
        spectrum: mean log10 power by frequency; None: no frames.
        exponents: of every clip.
    """

    num_clips: int
    num_objects: int
    values: dict[str, Float]
    families: Counter[str]
    classes: Counter[str]
    backgrounds: Counter[str]
    counts: Counter[int]
    licences: Counter[str]
    center_shares: Float
    outside: float
    spectrum: Float | None
    exponents: Float


def summarise(clips: Sequence[ClipMeasure], licences: Sequence[str] | None = None) -> Statistics:
    """Compute statistics over clips.

    Args:
        clips: measured clips.
        licences: of the bank's objects, by their id; None: not known.
    """
    objects = [item for clip in clips for item in clip.objects]
    centers = np.concatenate([np.zeros((0, 2)), *(item.centers for item in objects)])
    centers = centers[np.isfinite(centers).all(axis=1)]
    cells, _, _ = np.histogram2d(centers[:, 1], centers[:, 0], bins=GRID_CELLS, range=[[0, 1], [0, 1]])
    spectra = [clip.spectrum for clip in clips if clip.spectrum is not None]
    return Statistics(
        num_clips=len(clips),
        num_objects=len(objects),
        values={
            name: _finite(np.concatenate([np.zeros(0), *(np.atleast_1d(getattr(o, name)) for o in objects)]))
            for name in QUANTITIES
        },
        families=Counter(item.family for item in objects if item.family),
        classes=Counter(item.class_name for item in objects),
        backgrounds=Counter(clip.background for clip in clips if clip.background),
        counts=Counter(len(clip.objects) for clip in clips if clip.labelled),
        licences=Counter(
            licences[item.object_id] or "not recorded" for item in objects if licences and item.object_id >= 0
        ),
        center_shares=cells / max(len(centers), 1),
        outside=float(1 - cells.sum() / len(centers)) if len(centers) else 0.0,
        spectrum=np.mean(spectra, axis=0) if spectra else None,
        exponents=_finite(np.array([clip.exponent for clip in clips])),
    )


def _finite(values: Float) -> Float:
    return np.asarray(values[np.isfinite(values)])


@dataclass(frozen=True)
class RecipeCheck:
    """One key of a recipe beside the drawn values.

    Attributes:
        key: in the recipe.
        low, high: range of the recipe; for a share, both are the expected share.
        measured: ``[N]`` drawn values; for a share, one value.
        inside: share of the values inside the range; for a share, 1 where it is as expected, else 0.
        is_share: the key is a weight or a target, and ``measured`` is how often it was drawn or reached.
        count: number of draws.
    """

    key: str
    low: float
    high: float
    measured: Float
    inside: float
    is_share: bool
    count: int


def check_recipe(recipe: Recipe, clips: Sequence[ClipMeasure]) -> list[RecipeCheck]:
    """Compare drawn values with the ranges and weights of their recipe.

    Drawn values are the factors of scenes and label files, in the recipe's pixels. Of a mixture only the
    weights are compared, because each entry has ranges of its own.
    """
    labelled = [clip for clip in clips if clip.labelled]
    if recipe.mixture:
        checks = _mixture_checks(recipe, labelled)
    else:
        kinds = [(background.kind, background.weight) for background in recipe.backgrounds]
        drawn_kinds = Counter(clip.background for clip in clips if clip.background)
        checks = [
            *_object_checks(recipe, labelled),
            *_share_checks("backgrounds: {}", kinds, drawn_kinds),
            *_motion_checks(recipe, [item for clip in labelled for item in clip.objects]),
        ]
        reached = [
            float(c.factors["occlusion.reached"]) for c in labelled if "occlusion.reached" in c.factors
        ]
        if reached:
            share = np.array([np.mean(reached)])
            inside = float(share[0] == 1)
            checks.append(
                RecipeCheck("occlusion: targets reached", 1.0, 1.0, share, inside, True, len(reached))
            )
    return [check for check in checks if check.count]


def _mixture_checks(recipe: Recipe, labelled: Sequence[ClipMeasure]) -> list[RecipeCheck]:
    weights = [
        (str(k), float(np.mean([entry.weight_at(clip.index) for clip in labelled] or [0])))
        for k, entry in enumerate(recipe.mixture)
    ]
    drawn = [clip.factors["mixture_entry"] for clip in labelled if "mixture_entry" in clip.factors]
    return _share_checks("mixture.{}.weight", weights, Counter(f"{entry:.0f}" for entry in drawn))


def _object_checks(recipe: Recipe, labelled: Sequence[ClipMeasure]) -> list[RecipeCheck]:
    checks = [_range_check("objects.count", recipe.objects.count, [len(c.objects) for c in labelled])]
    if not recipe.camera:  # a camera changes the measured size
        side, jitter = recipe.objects.side, math.exp(recipe.objects.side_jitter)
        low, high = side.range if isinstance(side, SideDistribution) else (min(side), max(side))
        sizes = [o.size / clip.size_hw[0] * recipe.size[0] for clip in labelled for o in clip.objects]
        key = "objects.side" if jitter == 1 else "objects.side and side_jitter"
        checks.append(_range_check(key, (low / jitter, high * jitter), sizes))
    return checks


def _motion_checks(recipe: Recipe, objects: Sequence[ObjectMeasure]) -> list[RecipeCheck]:
    """Compare the motion families' weights, and the ranges of those keys that leave a drawn value."""
    weights: list[tuple[str, float]] = []
    ranges: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for entry in recipe.motion:
        family = str(entry.family)  # type: ignore[attr-defined]
        weights.append((family, entry.weight))
        for key, value in entry:
            if (
                isinstance(value, tuple)
                and len(value) == 2
                and all(isinstance(v, int | float) for v in value)
            ):
                ranges[family, key].append(value)
        for key in _RATES:
            rate = getattr(getattr(entry, key), "rate", None)
            if rate is not None:
                ranges[family, key].append((-rate, rate))
    drawn_families = Counter(o.family for o in objects if o.family in dict(weights))
    checks = _share_checks("motion: {}", weights, drawn_families)
    for (family, key), lows_highs in ranges.items():
        values = [_drawn(item.factors, key) for item in objects if item.family == family]
        lows, highs = zip(*lows_highs, strict=True)
        name = f"{family}: {key}.rate" if key in _RATES else f"{family}: {key}"
        checks.append(_range_check(name, (min(lows), max(highs)), [v for v in values if v is not None]))
    return checks


def _drawn(factors: Factors, key: str) -> float | None:
    """Return the factor that a key of a motion entry leaves: ``path.<key>`` and perhaps a unit."""
    names = [_RATES.get(key, f"path.{key}")]
    names += [f for f in factors if f.startswith(tuple(f"path.{key}_{unit}" for unit in _UNITS))]
    found: list[Any] = [factors[name] for name in names if name in factors]
    return float(found[0]) if found else None


_UNITS = ("px", "frames", "degrees", "ratio")


def _range_check(key: str, low_high: tuple[float, float], values: Iterable[float]) -> RecipeCheck:
    measured = _finite(np.array([*values], np.float64))
    low, high = map(float, low_high)
    if low >= 0:
        measured = np.abs(measured)  # the range is of a magnitude; the sign is drawn separately
    slack = 1e-6 * max(abs(low), abs(high), 1.0)
    inside = (measured >= low - slack) & (measured <= high + slack)
    share = float(inside.mean()) if len(inside) else math.nan
    return RecipeCheck(key, low, high, measured, share, False, len(measured))


def _share_checks(
    key: str, weights: Iterable[tuple[str, float]], drawn: Mapping[str, int]
) -> list[RecipeCheck]:
    by_name: Counter[str] = Counter()
    for name, weight in weights:
        by_name[name] += weight  # type: ignore[assignment]
    total, count = by_name.total(), sum(drawn.values())
    checks = []
    for name, weight in by_name.items():
        expected, share = weight / total if total else 0.0, drawn.get(name, 0) / max(count, 1)
        error = math.sqrt(max(expected * (1 - expected), 1e-12) / max(count, 1))
        inside = float(abs(share - expected) <= _STANDARD_ERRORS * error + 1e-9)
        checks.append(
            RecipeCheck(key.format(name), expected, expected, np.array([share]), inside, True, count)
        )
    return checks
