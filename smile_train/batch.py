"""A batch of clips with its labels, and the pixel statistics of the student."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Batch:
    """The clips of one step, or a part of them.

    Attributes:
        indices: int64 ``[B]`` clip indices. Every random draw for a clip is keyed by its index.
        frames: uint8 ``[B, T, 3, H, W]``.
        labels: by name, each with first axis B: ``coverage`` (float32 ``[B, N]`` 0..1, mean visible
            coverage of each token by labelled objects), ``boxes_xyxy`` (float32 ``[B, K, T, 4]`` pixels,
            NaN where a clip has fewer objects), ``class`` (int64 ``[B]``), and others.
        unreadable: (file, reason) of videos that were replaced in this batch.
    """

    indices: Tensor
    frames: Tensor
    labels: dict[str, Tensor] = field(default_factory=dict)
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.indices)

    def __repr__(self) -> str:
        """Show the shapes."""
        labels = {name: list(value.shape) for name, value in self.labels.items()}
        return f"Batch(frames={list(self.frames.shape)}, labels={labels})"

    def parts(self, count: int, device: torch.device) -> Iterator[Batch]:
        """Yield ``count`` equal parts. Each is copied to ``device`` when it is used."""
        size = len(self) // count
        for start in range(0, len(self), size):
            # mypy has no type for a lambda with a default argument.
            yield self._map(lambda t, i=start: t[i : i + size].to(device, non_blocking=True))  # type: ignore[misc]

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory. A DataLoader calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        labels = {name: change(value) for name, value in self.labels.items()}
        return Batch(change(self.indices), change(self.frames), labels, self.unreadable)


def normalise(frames: Tensor) -> Tensor:
    """Return the student's input: uint8 ``[B, T, 3, H, W]`` to float32 by ImageNet's mean and std."""
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=frames.device).view(3, 1, 1)
    return (frames.float() / 255 - mean) / std
