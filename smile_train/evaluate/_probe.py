"""Linear probes: standardised features, regularisation chosen on training folds, intervals by bootstrap."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Float = NDArray[np.float64]
CHOICES = (1e-3, 1e-2, 1e-1)
NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class ProbeScore:
    """How well a linear classifier on frozen features does.

    Attributes:
        accuracy: on the test clips.
        low, high: 95 % bootstrap interval over the test clips.
        correct: ``[N]`` bool, which test clips were right.
        regularisation: the inverse strength C that was chosen on the training folds.
    """

    accuracy: float
    low: float
    high: float
    correct: NDArray[np.bool_]
    regularisation: float


def linear_probe(
    train_x: Float, train_y: NDArray[np.str_], test_x: Float, test_y: NDArray[np.str_], *, seed: int = 0
) -> ProbeScore:
    """Fit a logistic regression on standardised features and score it on clips it never saw.

    Raises:
        ValueError: a class with fewer than three training clips.
    """
    names, counts = np.unique(train_y, return_counts=True)
    if counts.min() < 3:
        raise ValueError(
            f"class '{names[counts.argmin()]}' has {counts.min()} training clips, needs at least 3"
        )
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)

    def model(c: float) -> object:
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=200))

    with warnings.catch_warnings():
        # 200 steps of an unregularised fit may not converge; such a C loses on the folds by itself.
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = [cross_val_score(model(c), train_x, train_y, cv=folds).mean() for c in CHOICES]
        best = CHOICES[int(np.argmax(scores))]
        fitted = model(best).fit(train_x, train_y)  # type: ignore[attr-defined]
    correct = np.asarray(fitted.predict(test_x) == test_y)
    low, high = difference_interval(correct, np.zeros_like(correct), seed=seed)
    return ProbeScore(float(correct.mean()), low, high, correct, best)


def difference_interval(
    a: NDArray[np.generic], b: NDArray[np.generic], *, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of mean(a - b), clips resampled in pairs."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(0, len(difference), (NUM_RESAMPLES, len(difference)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
