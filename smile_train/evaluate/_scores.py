"""Accuracies with intervals, and the difference of two encoders on the same videos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """How much better one encoder is than another on the same videos.

    Attributes:
        mean: of a - b, in shares.
        low, high: 95 % bootstrap interval over groups.
        smallest: the smallest difference that this many groups could tell from none (half the interval's
            width, and no less than one group's worth): a smaller one means nothing, whatever its sign.
        num_groups: that were resampled.
    """

    mean: float
    low: float
    high: float
    smallest: float
    num_groups: int


def group_interval(
    values: NDArray[np.generic], groups: NDArray[np.str_], *, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over videos, whole groups resampled.

    Videos of one group (one source, one person) are no independent evidence; resampling them one by one
    gives intervals that are too short. Percentile bootstrap (Efron 1979) of a ratio: sum of values over
    sum of counts.
    """
    means = _resampled(np.asarray(values, np.float64), groups, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def paired_difference(
    a: NDArray[np.generic], b: NDArray[np.generic], groups: NDArray[np.str_], *, seed: int = 0
) -> Difference:
    """Compare two scores per video on the same videos, in the same order.

    Raises:
        ValueError: lengths differ.
    """
    if not len(a) == len(b) == len(groups):
        raise ValueError(f"need the same videos, got {len(a)}, {len(b)} and {len(groups)} groups")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = group_interval(difference, groups, seed=seed)
    num_groups = len(np.unique(groups))
    return Difference(float(difference.mean()), low, high, max((high - low) / 2, 1 / num_groups), num_groups)


def _resampled(values: Float, groups: NDArray[np.str_], seed: int) -> Float:
    _, number = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(number, values), np.bincount(number)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(sums), (NUM_RESAMPLES, len(sums)))
    return np.asarray(sums[picks].sum(1) / counts[picks].sum(1))
