"""Has a student collapsed: do its features still span more than a few directions."""

from __future__ import annotations

import torch
from torch import Tensor


def effective_rank(features: Tensor) -> float:
    """Return how many directions features span, 1 .. min(N - 1, D).

    The exponential of the entropy of the singular values, which sum to 1, of the centred features (Roy and
    Vetterli, "The effective rank", EUSIPCO 2007). Features that are all alike span none: 0.

    Args:
        features: ``[N, D]``, one row per clip or token.
    """
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred)
    if float(values.sum()) <= 1e-9 * float(features.double().abs().sum()):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
