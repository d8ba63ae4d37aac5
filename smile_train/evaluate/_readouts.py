"""Classifiers on frozen features that are solved in closed form: ridge regression and nearest neighbours.

Every function reads rows of the features ``[N, ...]`` (float32, possibly memory-mapped) in batches, so its
memory does not depend on N. Labels are ``[N]``; ``train`` and ``test`` are indices into both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Float32 = NDArray[np.float32]
Int = NDArray[np.int64]
Strings = NDArray[np.str_]
# Ridge penalties, divided by the number of training videos: the features are standardised.
PENALTIES = tuple(10.0**k for k in range(-4, 3))
INNER_FOLDS = 5
NEIGHBOURS, TEMPERATURE = 20, 0.07
RETRIEVAL_AT = (1, 5, 10)
CPU = torch.device("cpu")
# Rows of the features per read, and pairs of test and training rows per comparison.
_ROWS, _TRAIN_ROWS = 4096, 16384


def linear(
    x: Float32,
    y: Strings,
    train: Int,
    test: Int,
    *,
    groups: Strings | None = None,
    seed: int = 0,
    device: torch.device = CPU,
) -> Strings:
    """Classify by ridge regression on one-hot labels; features are standardised with the training rows.

    The penalty is the one of `PENALTIES` with the highest accuracy in five folds of the training rows; groups
    are kept in one fold. The larger penalty wins a tie. The middle penalty is used for a single group.

    Returns:
        Predicted labels ``[len(test)]``.

    Raises:
        ValueError: fewer than two classes among the training rows.
    """
    classes, target = np.unique(y[train], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a linear readout needs at least two training classes, got {classes.tolist()}")
    scaler = _Scaler.fit(x, train, device)
    folds = _inner_folds(target, np.arange(len(train)) if groups is None else groups[train], seed)
    kind = _Ridge if len(train) >= len(scaler.mean) else _DualRidge
    ridge = kind(x, train, target, folds, scaler)
    penalty = PENALTIES[len(PENALTIES) // 2]
    if folds.max() > 0:
        correct = np.zeros(len(PENALTIES))
        for fold in range(folds.max() + 1):
            held_out = np.flatnonzero(folds == fold)
            predicted = _predict(x, train[held_out], scaler, ridge.solve(PENALTIES, without=fold))
            correct += (predicted == target[held_out]).sum(1)
        penalty = PENALTIES[int(np.flatnonzero(correct == correct.max())[-1])]
    return np.asarray(classes[_predict(x, test, scaler, ridge.solve([penalty]))[0]])


def knn(x: Float32, y: Strings, train: Int, test: Int, *, device: torch.device = CPU) -> Strings:
    """Classify by the 20 nearest training rows, weighted by exp(cosine / .07) (Wu et al., arXiv 1805.01978).

    Returns:
        Predicted labels ``[len(test)]``.
    """
    classes, target = np.unique(y[train], return_inverse=True)
    labels = torch.from_numpy(target).to(device)
    predicted = []
    for cosines, nearest in _nearest(x, train, test, NEIGHBOURS, device):
        # Divided by the largest weight, which avoids an overflow and does not change the vote.
        weights = ((cosines - cosines[:, :1]).double() / TEMPERATURE).exp()
        votes = torch.zeros(len(cosines), len(classes), dtype=torch.float64, device=device)
        predicted.append(votes.scatter_add_(1, labels[nearest], weights).argmax(1).cpu().numpy())
    return np.asarray(classes[np.concatenate(predicted)])


def retrieval(
    x: Float32, y: Strings, train: Int, test: Int, *, device: torch.device = CPU
) -> dict[int, NDArray[np.bool_]]:
    """Return for each k of `RETRIEVAL_AT` whether one of the k nearest training rows has the right label.

    Nearest is by cosine; k larger than the number of training rows are left out. Each value is
    ``[len(test)]``.
    """
    ks = [k for k in RETRIEVAL_AT if k <= len(train)]
    nearest = torch.cat([index.cpu() for _, index in _nearest(x, train, test, max(ks), device)]).numpy()
    hits = y[train[nearest]] == y[test][:, None]
    return {k: hits[:, :k].any(1) for k in ks}


def batches(index: Int, size: int) -> Iterator[Int]:
    """Yield consecutive parts of an index of at most ``size`` values."""
    for start in range(0, len(index), size):
        yield index[start : start + size]


class _Scaler(NamedTuple):
    """Mean and standard deviation of every feature, ``[D]`` float64."""

    mean: Tensor
    std: Tensor

    @classmethod
    def fit(cls, x: Float32, rows: Int, device: torch.device) -> _Scaler:
        mean = _mean(x, rows, device)
        squares = torch.zeros_like(mean)
        for part in batches(rows, _ROWS):
            squares += (_read(x, part, device) - mean).square().sum(0)
        std = (squares / len(rows)).sqrt()
        std[std < 1e-8 * (1 + mean.abs())] = torch.inf  # removes constant features
        return cls(mean, std)

    def read(self, x: Float32, rows: Int) -> Tensor:
        """Return standardised rows ``[len(rows), D]`` float64."""
        return (_read(x, rows, self.mean.device) - self.mean) / self.std


class LinearMap(NamedTuple):
    """A linear readout: ``weight [D, K]`` and ``bias [K]``; K is the number of classes or values."""

    weight: Tensor
    bias: Tensor


class _Ridge:
    """Ridge regression from sums of products, for at least as many rows as features."""

    def __init__(self, x: Float32, train: Int, target: Int, folds: Int, scaler: _Scaler) -> None:
        self._width, num_classes = len(scaler.mean), int(target.max()) + 1
        # By fold: [x, 1] transposed times [x, 1, one-hot labels]. It adds up over folds.
        shape = (folds.max() + 1, self._width + 1, self._width + 1 + num_classes)
        self._products = scaler.mean.new_zeros(shape)
        for fold in range(len(self._products)):
            for part in batches(np.flatnonzero(folds == fold), _ROWS):
                values = F.pad(scaler.read(x, train[part]), (0, 1), value=1.0)
                one_hot = F.one_hot(torch.from_numpy(target[part]).to(values.device), num_classes).double()
                self._products[fold].addmm_(values.T, torch.cat([values, one_hot], 1))

    def solve(self, penalties: Sequence[float], *, without: int | None = None) -> list[LinearMap]:
        """Return the classifier of each penalty, trained on all folds except ``without``."""
        products, width = self._products.sum(0), self._width
        if without is not None:
            products -= self._products[without]
        return solve_ridge(products, width, penalties)


def solve_ridge(products: Tensor, width: int, penalties: Sequence[float]) -> list[LinearMap]:
    """Return the ridge regression of each penalty, from sums of products over the rows.

    Args:
        products: ``[width + 1, width + 1 + K]`` float64, [x, 1] transposed times [x, 1, targets].
        width: values of x.
        penalties: divided by the number of rows.
    """
    count, sums, target = products[-1, width], products[:-1, width], products[-1, width + 1 :]
    mean, target = sums / count, target / count
    values, vectors = torch.linalg.eigh(products[:-1, :width] - torch.outer(sums, mean))
    projected = vectors.T @ (products[:-1, width + 1 :] - torch.outer(sums, target))
    found = []
    for penalty in penalties:
        weight = vectors @ (projected / (values.clamp(min=0) + penalty * count)[:, None])
        found.append(LinearMap(weight, target - mean @ weight))
    return found


class _DualRidge:
    """Ridge regression from products of rows, for fewer rows than features; the same solution."""

    def __init__(self, x: Float32, train: Int, target: Int, folds: Int, scaler: _Scaler) -> None:
        self._x, self._folds = scaler.read(x, train), torch.from_numpy(folds)
        labels = torch.from_numpy(target).to(self._x.device)
        self._one_hot = F.one_hot(labels, int(target.max()) + 1).double()

    def solve(self, penalties: Sequence[float], *, without: int | None = None) -> list[LinearMap]:
        """Return the classifier of each penalty, trained on all folds except ``without``."""
        kept = torch.ones(len(self._folds), dtype=torch.bool) if without is None else self._folds != without
        x, one_hot = self._x[kept.to(self._x.device)], self._one_hot[kept.to(self._x.device)]
        mean, share = x.mean(0), one_hot.mean(0)
        values, vectors = torch.linalg.eigh((x - mean) @ (x - mean).T)
        projected = vectors.T @ (one_hot - share)
        found = []
        for penalty in penalties:
            solution = vectors @ (projected / (values.clamp(min=0) + penalty * len(x))[:, None])
            weight = (x - mean).T @ solution
            found.append(LinearMap(weight, share - mean @ weight))
        return found


def _inner_folds(target: Int, groups: NDArray[np.generic], seed: int) -> Int:
    """Return the fold ``[N]`` of each training row; 0 for all if there is a single group."""
    folds = np.zeros(len(target), np.int64)
    num_groups = len(np.unique(groups))
    if num_groups > 1:
        from sklearn.model_selection import GroupKFold  # its import takes seconds

        splitter = GroupKFold(min(INNER_FOLDS, num_groups), shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(folds, target, groups)):
            folds[held_out] = fold
    return folds


def _predict(x: Float32, rows: Int, scaler: _Scaler, classifiers: Sequence[LinearMap]) -> Int:
    """Return the class number ``[classifiers, len(rows)]`` that each classifier predicts for each row."""
    parts = []
    for part in batches(rows, _ROWS):
        values = scaler.read(x, part)
        scores = [(values @ each.weight + each.bias).argmax(1) for each in classifiers]
        parts.append(torch.stack(scores).cpu().numpy())
    return np.concatenate(parts, 1)


def _nearest(
    x: Float32, train: Int, test: Int, k: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield cosines ``[B, k]``, largest first, and positions in ``train`` for batches of test rows.

    Cosines are of features minus the mean of the training rows. ``k`` is at most the number of training rows.
    """
    mean = _mean(x, train, device)

    def unit(rows: Int) -> Tensor:
        return F.normalize((_read(x, rows, device) - mean).float(), dim=1, eps=1e-12)

    for part in batches(test, _ROWS):
        queries = unit(part)
        best = queries.new_empty(len(part), 0)
        position = torch.empty(len(part), 0, dtype=torch.int64, device=device)
        for start in range(0, len(train), _TRAIN_ROWS):
            cosines = queries @ unit(train[start : start + _TRAIN_ROWS]).T
            found, index = cosines.topk(min(k, cosines.shape[1]), dim=1)
            best, position = torch.cat([best, found], 1), torch.cat([position, index + start], 1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            position = position.gather(1, order)
        yield best, position


def _mean(x: Float32, rows: Int, device: torch.device) -> Tensor:
    """Return the mean ``[D]`` float64 over rows."""
    parts = [_read(x, part, device).sum(0) for part in batches(rows, _ROWS)]
    return torch.stack(parts).sum(0) / len(rows)


def _read(x: Float32, rows: Int, device: torch.device) -> Tensor:
    """Return rows ``[len(rows), D]`` float64, flattened."""
    return torch.from_numpy(np.ascontiguousarray(x[rows])).to(device).flatten(1).double()
