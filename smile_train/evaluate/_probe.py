"""Linear probes: standardised features, regularisation chosen on training clips, intervals by bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
# Strengths of the ridge penalty, in clips: from next to nothing to more than all the training clips.
PENALTIES = tuple(10.0**k for k in range(6))
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class ProbeScore:
    """How well a linear classifier on frozen features does.

    Attributes:
        accuracy: on the test clips.
        low, high: 95 % bootstrap interval over the test clips.
        correct: ``[N]`` bool, which test clips were right.
        penalty: the ridge penalty that was chosen on the training clips.
    """

    accuracy: float
    low: float
    high: float
    correct: NDArray[np.bool_]
    penalty: float


def linear_probe(
    train_x: Float, train_y: NDArray[np.str_], test_x: Float, test_y: NDArray[np.str_], *, seed: int = 0
) -> ProbeScore:
    """Fit a ridge classifier on standardised features and score it on clips it never saw.

    The penalty is chosen by leave-one-out on the training clips, in closed form.

    Args:
        train_x, test_x: ``[N, D]`` features.
        train_y, test_y: ``[N]`` class names.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two classes among the training clips.
    """
    if len(np.unique(train_y)) < 2:
        raise ValueError(f"a probe needs at least two classes, got {sorted(set(train_y.tolist()))}")
    # They take seconds, and are needed here alone.
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fitted = make_pipeline(StandardScaler(), RidgeClassifierCV(alphas=PENALTIES)).fit(train_x, train_y)
    correct = np.asarray(fitted.predict(test_x) == test_y)
    low, high = difference_interval(correct, np.zeros_like(correct), seed=seed)
    return ProbeScore(float(correct.mean()), low, high, correct, float(fitted[-1].alpha_))


def difference_interval(
    a: NDArray[np.generic], b: NDArray[np.generic], *, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of mean(a - b), clips resampled in pairs."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(0, len(difference), (NUM_RESAMPLES, len(difference)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
