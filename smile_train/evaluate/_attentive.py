"""Attentive probes: classifiers that attend to all tokens of a video, trained by gradient descent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_train.evaluate._readouts import CPU, Float32, Int, Strings, batches
from smile_train.models import AttentiveHead

AttentiveKind = Literal["query", "block"]
EPOCHS, MIN_STEPS, BATCH, WEIGHT_DECAY = 60, 300, 64, 0.05
LEARNING_RATES = {"query": 3e-3, "block": 1e-3}
# Values per read, for the statistics and the prediction.
_VALUES = 2**24


def attentive(
    x: Float32,
    y: Strings,
    train: Int,
    test: Int,
    *,
    kind: AttentiveKind = "query",
    seed: int = 0,
    device: torch.device = CPU,
) -> Strings:
    """Classify tokens ``[N, L, C]`` (or features ``[N, C]``) by attention pooling and a linear layer.

    Trained with AdamW (weight decay .05), a cosine schedule, batches of 64, for 60 epochs and at least 300
    steps. Tokens are read batch by batch, so ``x`` may be a memory-mapped file larger than memory.

    Args:
        x: tokens of all videos.
        y: labels ``[N]``.
        train, test: indices into both.
        kind: ``query``: one learned query, the pooling of V-JEPA's probe (arXiv 2404.08471) without its MLP;
            ``block``: the cross-attention block of V-JEPA 2's probe (arXiv 2506.09985) with MLP and norms.
        seed: of the weights and the order of the videos.
        device: of the probe.

    Returns:
        Predicted labels ``[len(test)]``.
    """
    classes, target = np.unique(y[train], return_inverse=True)
    read = _Reader(x, train, device)
    generator = torch.Generator().manual_seed(seed)
    probe = PROBES[kind](x.shape[-1], len(classes), generator=generator).to(device)
    labels = torch.from_numpy(target).to(device)
    optimiser = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATES[kind], weight_decay=WEIGHT_DECAY)
    steps = -(-len(train) // BATCH)
    epochs = max(EPOCHS, -(-MIN_STEPS // steps))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(train), generator=generator).split(BATCH):
            loss = F.cross_entropy(probe(read(train[rows.numpy()])), labels[rows.to(device)])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    with torch.no_grad():
        scores = [probe(read(part)).argmax(1).cpu() for part in read.parts(test)]
    return np.asarray(classes[torch.cat(scores).numpy()])


class _Reader:
    """Reads tokens, standardised per channel with mean and standard deviation over the training tokens."""

    def __init__(self, x: Float32, train: Int, device: torch.device) -> None:
        self._x, self._device = x, device
        count = len(train) * (x.shape[1] if x.ndim == 3 else 1)
        sums = [self._read(part).double().sum((0, 1)) for part in self.parts(train)]
        mean = torch.stack(sums).sum(0) / count
        squares = [(self._read(part).double() - mean).square().sum((0, 1)) for part in self.parts(train)]
        std = (torch.stack(squares).sum(0) / count).sqrt() + 1e-6
        self._mean, self._std = mean.float(), std.float()

    def parts(self, rows: Int) -> Iterator[Int]:
        """Yield parts of ``rows`` that together hold a bounded number of values."""
        return batches(rows, max(_VALUES // int(np.prod(self._x.shape[1:])), 1))

    def __call__(self, rows: Int) -> Tensor:
        """Return standardised tokens ``[len(rows), L, C]`` float32."""
        return self._read(rows).sub_(self._mean).div_(self._std)

    def _read(self, rows: Int) -> Tensor:
        tokens = torch.from_numpy(self._x[rows]).to(self._device)
        return tokens if tokens.ndim == 3 else tokens[:, None]


class _QueryProbe(nn.Module):
    """Single-head attention of one learned query, layer norm, linear layer."""

    def __init__(self, width: int, num_classes: int, generator: torch.Generator) -> None:
        super().__init__()
        std = width**-0.5
        self.query = nn.Parameter(torch.randn(width, generator=generator) * std)
        self.key = nn.Parameter(torch.randn(width, width, generator=generator) * std)
        self.value = nn.Parameter(torch.randn(width, width, generator=generator) * std)
        self.head = nn.Linear(width, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        scores = tokens @ (self.key @ self.query) * self.query.numel() ** -0.5
        pooled = (scores.softmax(1)[..., None] * tokens).sum(1) @ self.value
        logits: Tensor = self.head(F.layer_norm(pooled, pooled.shape[-1:]))
        return logits


PROBES = {"query": _QueryProbe, "block": AttentiveHead}
