"""The optimiser and its schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group trainable parameters: tensors of two or more dimensions decay, biases and norms do not."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_adamw(
    model: nn.Module, *, lr: float, weight_decay: float = 0.05, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101) with `parameter_groups`; the defaults are VideoMAE's pretraining."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=betas)


def lr_at(
    step: int, *, base_lr: float, warmup_lr: float, final_lr: float, warmup_steps: int, total_steps: int
) -> float:
    """Return the learning rate of a step, counted from 0.

    Rises linearly from `warmup_lr` at step 0 to `base_lr` at step `warmup_steps`, then falls along half
    a cosine (arXiv 1608.03983, without restarts) to `final_lr` at `total_steps`, and stays there.

    Raises:
        ValueError: a negative step, or not 0 <= warmup_steps <= total_steps.
    """
    if step < 0:
        raise ValueError(f"step must not be negative, got {step}")
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must lie in 0..total_steps ({total_steps}), got {warmup_steps}")
    if step < warmup_steps:
        return warmup_lr + (base_lr - warmup_lr) * step / warmup_steps
    if step >= total_steps:
        return final_lr
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return final_lr + (base_lr - final_lr) * (1 + math.cos(math.pi * progress)) / 2
