"""Ways to read an answer off frozen features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Strings = NDArray[np.str_]
# Strengths of the ridge penalty, in shares of the number of training videos.
RIDGE_SHARES = tuple(10.0**k for k in range(-4, 3))
INNER_FOLDS = 5
NEIGHBOURS, TEMPERATURE = 20, 0.07
RETRIEVAL_AT = (1, 5, 10)
# Few videos are seen more often, so that the probe is trained to the end.
ATTENTIVE_EPOCHS, ATTENTIVE_STEPS, ATTENTIVE_LR, ATTENTIVE_DECAY = 60, 300, 3e-3, 0.05


def linear(train_x: Float32, train_y: Strings, train_groups: Strings, test_x: Float32, seed: int) -> Strings:
    """Classify by ridge regression on one-hot labels; features standardised by the training videos.

    The penalty is the one that is right most often in inner folds of the training videos, groups kept
    together; ties go to the stronger. With one group per class it is chosen without regard to groups.
    """
    classes, y = np.unique(train_y, return_inverse=True)
    x, tested = _standardised(train_x, test_x)
    penalty = _choose_penalty(x, y, train_groups, len(classes), seed)
    return np.asarray(classes[_ridge(x, y, len(classes), tested, [penalty])[0].argmax(1)])


def knn(train_x: Float32, train_y: Strings, train_groups: Strings, test_x: Float32, seed: int) -> Strings:
    """Classify by the 20 nearest, votes weighted by exp(cosine / .07) (Wu et al., arXiv 1805.01978)."""
    classes, y = np.unique(train_y, return_inverse=True)
    similar = _cosines(train_x, test_x)
    k = min(NEIGHBOURS, len(train_x))
    nearest = np.argpartition(-similar, k - 1, axis=1)[:, :k]
    # relative to the nearest: exp does not overflow and the vote is the same
    weights = np.take_along_axis(similar, nearest, 1)
    weights = np.exp((weights - weights.max(1, keepdims=True)) / TEMPERATURE)
    votes = np.zeros((len(test_x), len(classes)))
    np.add.at(votes, (np.arange(len(test_x))[:, None], y[nearest]), weights)
    return np.asarray(classes[votes.argmax(1)])


def attentive(
    train_x: Float32, train_y: Strings, train_groups: Strings, test_x: Float32, seed: int
) -> Strings:
    """Classify tokens ``[N, L, C]`` by one learned query that attends to them, then a linear layer.

    The attentive probe of V-JEPA (arXiv 2404.08471) without its MLP: AdamW 3e-3, weight decay .05, 60 epochs
    and at least 300 steps, cosine, batches of 64; nothing is chosen by the test videos.
    """
    classes, y = np.unique(train_y, return_inverse=True)
    if train_x.ndim == 2:
        train_x, test_x = train_x[:, None], test_x[:, None]
    mean, std = train_x.mean((0, 1), dtype=np.float64), train_x.std((0, 1), dtype=np.float64) + 1e-6
    parts = [torch.from_numpy(((part - mean) / std).astype(np.float32)) for part in (train_x, test_x)]
    generator = torch.Generator().manual_seed(seed)
    probe = _AttentiveProbe(train_x.shape[-1], len(classes), generator)
    labels = torch.from_numpy(y)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=ATTENTIVE_LR, weight_decay=ATTENTIVE_DECAY)
    batches = -(-len(y) // 64)
    epochs = max(ATTENTIVE_EPOCHS, -(-ATTENTIVE_STEPS // batches))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(y), generator=generator).split(64):
            loss = F.cross_entropy(probe(parts[0][rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        scores = torch.cat([probe(part) for part in parts[1].split(256)])
    return np.asarray(classes[scores.argmax(1).numpy()])


Protocol = Callable[[Float32, Strings, Strings, Float32, int], Strings]
PROTOCOLS: dict[str, Protocol] = {"linear": linear, "knn": knn, "attentive": attentive}


def retrieval(
    gallery_x: Float32, gallery_y: Strings, query_x: Float32, query_y: Strings
) -> dict[int, NDArray[np.bool_]]:
    """Return by k whether one of the k nearest training videos by cosine has the query's class."""
    order = np.argsort(-_cosines(gallery_x, query_x), axis=1, kind="stable")
    hit = gallery_y[order] == query_y[:, None]
    return {k: hit[:, :k].any(1) for k in RETRIEVAL_AT if k <= len(gallery_x)}


class _AttentiveProbe(nn.Module):
    def __init__(self, width: int, num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        std = width**-0.5
        self.query = nn.Parameter(torch.randn(width, generator=generator) * std)
        self.key = nn.Parameter(torch.randn(width, width, generator=generator) * std)
        self.value = nn.Parameter(torch.randn(width, width, generator=generator) * std)
        self.head = nn.Parameter(torch.zeros(num_classes, width))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def forward(self, tokens: Tensor) -> Tensor:
        scores = tokens @ (self.key @ self.query) * self.query.numel() ** -0.5
        pooled = (scores.softmax(1)[..., None] * tokens).sum(1) @ self.value
        return F.linear(F.layer_norm(pooled, pooled.shape[-1:]), self.head, self.bias)


def _standardised(train: Float32, test: Float32) -> tuple[Float, Float]:
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
    std[std < 1e-8 * (1 + np.abs(mean))] = np.inf  # what never changes says nothing
    return (train - mean) / std, (test - mean) / std


def _choose_penalty(x: Float, y: NDArray[np.int64], groups: Strings, num_classes: int, seed: int) -> float:
    num_groups = len(np.unique(groups))
    if num_groups < 2:
        return RIDGE_SHARES[len(RIDGE_SHARES) // 2]
    from sklearn.model_selection import GroupKFold  # takes seconds, and needed here alone

    splitter = GroupKFold(min(INNER_FOLDS, num_groups), shuffle=True, random_state=seed)
    right = np.zeros(len(RIDGE_SHARES))
    for inner, held in splitter.split(x, y, groups):
        found = _ridge(x[inner], y[inner], num_classes, x[held], RIDGE_SHARES)
        right += [(scores.argmax(1) == y[held]).sum() for scores in found]
    return RIDGE_SHARES[int(np.flatnonzero(right == right.max())[-1])]


def _ridge(
    x: Float, y: NDArray[np.int64], num_classes: int, tested: Float, shares: tuple[float, ...] | list[float]
) -> list[Float]:
    """Return scores ``[M, classes]`` of ridge regression for every penalty, from one decomposition."""
    mean = x.mean(0)
    x, tested = x - mean, tested - mean
    share = np.bincount(y, minlength=num_classes) / len(y)
    target = np.eye(num_classes)[y] - share
    if x.shape[0] >= x.shape[1]:
        values, vectors = np.linalg.eigh(x.T @ x)
        left, right = tested @ vectors, vectors.T @ (x.T @ target)
    else:
        values, vectors = np.linalg.eigh(x @ x.T)
        left, right = (tested @ x.T) @ vectors, vectors.T @ target
    values = np.maximum(values, 0)
    # features are standardised, so that their number scales what a penalty means
    scale = len(x)
    return [left @ (right / (values + max(s, 1e-9) * scale)[:, None]) + share for s in shares]


def _cosines(train: Float32, test: Float32) -> Float:
    """Return ``[test, train]`` cosines after centring by the training videos."""
    train, test = train.reshape(len(train), -1), test.reshape(len(test), -1)
    mean = train.mean(0, dtype=np.float64)
    parts = [part - mean for part in (test, train)]
    a, b = (p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-12) for p in parts)
    return np.asarray(a @ b.T)
