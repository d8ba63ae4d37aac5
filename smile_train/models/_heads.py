"""Heads that classify the tokens of a frozen encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentiveHead(nn.Module):
    """A block in which one learned query attends to all tokens, with MLP and norms, and a linear layer.

    The attentive probe of V-JEPA 2 (arXiv 2506.09985), with heads of 64 channels.

    Args:
        width: channels of a token.
        num_classes: number of scores.
        generator: its seed is that of the initial weights.
    """

    def __init__(self, width: int, num_classes: int, *, generator: torch.Generator) -> None:
        super().__init__()
        heads = max(count for count in range(1, max(width // 64, 1) + 1) if width % count == 0)
        with torch.random.fork_rng(devices=[]):  # torch's own initialisation takes no generator
            torch.manual_seed(generator.initial_seed())
            self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.norm = nn.LayerNorm(width)
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
            inner = [nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)]
            self.mlp = nn.Sequential(nn.LayerNorm(width), *inner)
            self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores ``[B, num_classes]`` of tokens ``[B, N, width]``."""
        keys, query = self.norm(tokens), self.query.expand(len(tokens), -1, -1)
        query = query + self.attention(query, keys, keys, need_weights=False)[0]
        logits: Tensor = self.head((query + self.mlp(query))[:, 0])
        return logits
