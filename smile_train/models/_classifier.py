"""The video classifier of fine-tuning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smile_train.models._config import ClassifierConfig
from smile_train.models._encoder import INIT_STD, Trunk, initialise, layer_norm, truncated_normal


class VideoClassifier(Trunk):
    """Classify clips by the mean of all tokens, as in VideoMAE's fine-tuning.

    Args:
        config: shape of the classifier.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, config: ClassifierConfig, *, generator: torch.Generator) -> None:
        super().__init__(config.encoder, generator)
        self.config = config
        self.fc_norm = layer_norm(config.encoder.width)
        with torch.random.fork_rng(devices=[]):
            self.head = nn.Linear(config.encoder.width, config.num_classes)
        initialise(self.head, generator)
        std = INIT_STD * config.head_init_scale
        truncated_normal(self.head.weight, std, 2 * std, generator)

    def forward(self, clips: Tensor) -> Tensor:
        """Return scores (logits) ``[B, num_classes]`` of float clips ``[B, T, 3, H, W]``."""
        return self.forward_head(self.encode_tokens(clips))

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Return scores ``[B, num_classes]`` from tokens after the last block."""
        out: Tensor = self.head(self.fc_norm(tokens.mean(1)))
        return out
