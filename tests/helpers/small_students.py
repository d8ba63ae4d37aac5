"""Students and classifiers of a few thousand parameters."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from smile_train.models import (
    ClassifierConfig,
    Encoder,
    EncoderConfig,
    StudentConfig,
    VideoClassifier,
)

ENCODER = EncoderConfig(
    width=24, depth=3, heads=3, num_frames=6, size_hw=(8, 12), patch_size=4, tubelet_size=2
)
CONFIG = StudentConfig(encoder=ENCODER, decoder_width=12, decoder_depth=2, decoder_heads=2, target_dim=5)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_clips(batch: int = 2) -> Tensor:
    return torch.randn(batch, 6, 3, 8, 12, generator=seeded(7))


def tiny_mask(batch: int = 2) -> Tensor:
    return torch.rand(batch, 18, generator=seeded(8)).argsort(1) < 11


def config_with(**fields: Any) -> StudentConfig:
    """CONFIG with other fields, of the encoder or of the student."""
    own = {name: value for name, value in fields.items() if name in StudentConfig.__dataclass_fields__}
    encoder = {name: value for name, value in fields.items() if name not in own}
    return replace(CONFIG, encoder=replace(ENCODER, **encoder), **own)


def classifier_of(num_classes: int = 4, seed: int = 0) -> VideoClassifier:
    config = ClassifierConfig(encoder=ENCODER, num_classes=num_classes)
    return VideoClassifier(config, generator=seeded(seed))


def block(model: Encoder | VideoClassifier, index: int) -> Any:
    return model.blocks[index]
