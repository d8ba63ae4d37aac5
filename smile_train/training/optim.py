"""The optimiser, its schedule, and the average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


def parameter_groups(
    model: nn.Module, weight_decay: float, *, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Group trainable parameters by weight decay and learning rate.

    1-D tensors (biases, norms) and the tensors in ``model.no_weight_decay()`` have no weight decay.

    Args:
        model: a student or classifier, before it is wrapped for several processes.
        weight_decay: of the other tensors.
        layer_decay: factor of the learning rate from each layer of ``model.group_matcher()`` to the one
            below (BEiT, arXiv 2106.08254). Each group holds its factor as ``lr_scale``.
    """
    # Imported here: timm takes seconds to import, and `lr_at` needs none of it.
    # timm lists these names without __all__, so mypy does not see them as public.
    from timm.optim import (  # type: ignore[attr-defined]
        param_groups_layer_decay,
        param_groups_weight_decay,
    )

    names: set[str] = getattr(model, "no_weight_decay", set)()
    groups: list[dict[str, Any]]
    if layer_decay == 1:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=names)
    else:
        groups = param_groups_layer_decay(
            model, weight_decay, no_weight_decay_list=names, layer_decay=layer_decay
        )
    return groups


def make_adamw(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.05,
    betas: tuple[float, float] = (0.9, 0.95),
    layer_decay: float = 1.0,
) -> torch.optim.AdamW:
    """Return AdamW (arXiv 1711.05101) with `parameter_groups`; the defaults are VideoMAE's pretraining."""
    groups = parameter_groups(model, weight_decay, layer_decay=layer_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to ``lr`` times its ``lr_scale``."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def lr_at(
    step: int, *, base_lr: float, warmup_lr: float, final_lr: float, warmup_steps: int, total_steps: int
) -> float:
    """Return the learning rate of a step, counted from 0.

    Rises linearly from `warmup_lr` at step 0 to `base_lr` at step `warmup_steps`, falls along half a cosine
    (arXiv 1608.03983, without restarts) to `final_lr` at `total_steps`, and is `final_lr` after that.

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
    """Exponential moving average of a model's parameters, on the device of each parameter.

    timm's ModelEmaV3 copies the module, which FSDP2 modules forbid; this keeps one tensor (or DTensor) per
    parameter, and resumes from the tensors alone.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the current parameters."""
        self.decay = decay
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average by ``1 - decay`` towards the parameters."""
        for name, parameter in model.named_parameters():
            average: Tensor = self.tensors[name]
            average.mul_(self.decay).add_(parameter.detach(), alpha=1 - self.decay)
