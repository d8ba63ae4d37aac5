"""Initial filters of the patch embedding that respond to motion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from smile_train.models._encoder import Encoder

# Red, green and blue in luma (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
FILTER_NORM = 1.2
# Share of the channels with these filters. The others keep random filters, which also respond to colour.
SHARE = 0.75


@torch.no_grad()
def set_motion_energy_filters(encoder: Encoder, generator: torch.Generator) -> None:
    """Replace most initial filters of the patch embedding by `motion_energy_filters`."""
    projection = encoder.patch_embed.proj
    count = int(SHARE * projection.out_channels) // 2 * 2
    shape = torch.Size([count, *projection.weight.shape[1:]])
    projection.weight[:count] = motion_energy_filters(shape, generator)
    assert projection.bias is not None
    projection.bias[:count] = 0


def motion_energy_filters(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Draw pairs of space-time Gabor filters (Adelson and Bergen, 1985, "motion energy").

    Both filters of a pair have the same orientation, spatial frequency and velocity; their phases differ by
    90 degrees. The sum of their squares is large where a pattern moves with about this velocity. Most of the
    directions, frequencies (1 / patch size to 1/3 cycles per pixel) and velocities (up to half a period per
    frame, and up to half a patch) occur.

    Args:
        shape: of the filters, ``[C, 3, tubelet_size, patch_size, patch_size]`` with an even C.
        generator: CPU generator.

    Returns:
        float32 of this shape. Each filter has mean 0 and the norm `FILTER_NORM`, and is equal for all colours
        but for the weights of luma.
    """
    count, _, num_frames, side, _ = shape
    pairs = count // 2

    def draw(low: float, high: float) -> Tensor:
        value = torch.rand(pairs, generator=generator, dtype=torch.float64)
        return (low + (high - low) * value)[:, None, None, None]

    frequency = draw(-math.log(side), -math.log(3)).exp()
    velocity = draw(-1, 1) * (0.5 / frequency).clamp(max=side / 2)
    angle, spread = draw(0, 2 * math.pi), side * draw(0.22, 0.5)
    center_x, center_y = side * draw(-0.25, 0.25), side * draw(-0.25, 0.25)
    pixel = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    x, y = pixel, pixel[:, None]
    t = (torch.arange(num_frames, dtype=torch.float64) - (num_frames - 1) / 2)[:, None, None]
    window = torch.exp(-((x - center_x).square() + (y - center_y).square()) / (2 * spread.square()))
    phase = 2 * math.pi * frequency * (angle.cos() * x + angle.sin() * y - velocity * t)
    filters = torch.stack([window * phase.cos(), window * phase.sin()], dim=1).flatten(0, 1)
    filters -= filters.mean(dim=(1, 2, 3), keepdim=True)
    luma = torch.tensor(LUMA, dtype=torch.float64)[:, None, None, None]
    filters = filters[:, None] * luma
    norm: Tensor = torch.linalg.vector_norm(filters, dim=(1, 2, 3, 4), keepdim=True)
    return (FILTER_NORM * filters / norm).float()
