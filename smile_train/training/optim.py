"""The optimiser, its schedule, and the average of the weights."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn


def layer_of(name: str, depth: int) -> int:
    """Return a parameter's layer: 0 the patch embedding, 1 .. depth the encoder's blocks, then the rest."""
    if found := re.match(r"(?:encoder\.)?blocks\.(\d+)\.", name):
        return int(found[1]) + 1
    return 0 if re.match(r"(?:encoder\.)?patch_embed\.", name) else depth + 1


def parameter_groups(
    model: nn.Module, weight_decay: float, *, layer_decay: float = 1.0, depth: int = 0
) -> list[dict[str, Any]]:
    """Group trainable parameters: tensors of two or more dimensions decay, biases and norms do not.

    Args:
        model: a student or classifier.
        weight_decay: of the tensors that decay.
        layer_decay: layer l learns at ``layer_decay^(depth + 1 - l)`` of the rate (BEiT, arXiv 2106.08254);
            every group names its share ``lr_scale``.
        depth: the encoder's blocks; needed where ``layer_decay`` is not 1.
    """
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = depth + 1 if layer_decay == 1 else layer_of(name, depth)
        decays = parameter.ndim > 1
        group = groups.setdefault(
            (layer, not decays),
            {
                "params": [],
                "weight_decay": weight_decay if decays else 0.0,
                "lr_scale": layer_decay ** (depth + 1 - layer),
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def make_adamw(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    layer_decay: float = 1.0,
    depth: int = 0,
) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101) with `parameter_groups`; the defaults are VideoMAE's pretraining."""
    groups = parameter_groups(model, weight_decay, layer_decay=layer_decay, depth=depth)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the rate of every group, by its own share of it."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


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


class WeightAverage:
    """An exponential moving average of a model's parameters, each where the parameter lies."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the parameters as they are."""
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move by ``1 - decay`` towards the parameters."""
        for name, parameter in model.named_parameters():
            average: Tensor = self.tensors[name]
            average.mul_(self.decay).add_(parameter.detach(), alpha=1 - self.decay)
