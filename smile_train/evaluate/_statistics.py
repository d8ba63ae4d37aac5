"""Bootstrap intervals, differences of paired scores, and the effective rank of features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Float = NDArray[np.float64]
Groups = NDArray[np.generic]
NUM_RESAMPLES = 2000
# Group indices that are drawn at a time; bounds the memory of the bootstrap.
_DRAWN_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Difference:
    """The difference a - b of two scores of the same videos.

    Attributes:
        mean: of a - b, as a fraction of 1.
        low, high: 95 % bootstrap interval over groups.
        smallest: the smallest difference that this number of groups can resolve: half the interval's width,
            at least 1 / num_groups.
        num_groups: number of groups.
    """

    mean: float
    low: float
    high: float
    smallest: float
    num_groups: int


def bootstrap_interval(
    values: NDArray[np.generic], groups: Groups | None = None, *, seed: int
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval (low, high) of a mean, whole groups resampled.

    Videos of one group (one source, one person) are dependent, so resampling single videos gives intervals
    that are too narrow. Percentile bootstrap (Efron 1979) of sum of values / number of values.

    Args:
        values: ``[N]`` scores.
        groups: ``[N]`` group of each value; None makes every value its own group.
        seed: of the resampling.
    """
    values = np.asarray(values, np.float64)
    number = np.arange(len(values)) if groups is None else np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(number, values), np.bincount(number)
    rng = np.random.default_rng(seed)
    rows = max(_DRAWN_AT_ONCE // len(sums), 1)
    means = []
    for start in range(0, NUM_RESAMPLES, rows):
        drawn = rng.integers(0, len(sums), (min(rows, NUM_RESAMPLES - start), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def paired_difference(
    a: NDArray[np.generic], b: NDArray[np.generic], groups: Groups | None = None, *, seed: int
) -> Difference:
    """Compare two scores per video, both ``[N]`` in the same order of videos.

    Raises:
        ValueError: lengths differ.
    """
    if len(a) != len(b) or (groups is not None and len(groups) != len(a)):
        count = "no" if groups is None else len(groups)
        raise ValueError(f"scores must be of the same videos, got {len(a)}, {len(b)} and {count} groups")
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    low, high = bootstrap_interval(difference, groups, seed=seed)
    num_groups = len(difference) if groups is None else len(np.unique(groups))
    return Difference(float(difference.mean()), low, high, max((high - low) / 2, 1 / num_groups), num_groups)


def effective_rank(features: Tensor) -> float:
    """Return the effective rank of features ``[N, D]``, between 1 and min(N - 1, D); 0 if all rows are equal.

    The exponential of the entropy of the centred features' singular values, normalised to sum to 1 (Roy and
    Vetterli, "The effective rank", EUSIPCO 2007).
    """
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred)
    if float(values.sum()) <= 1e-9 * float(features.double().abs().sum()):
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())
