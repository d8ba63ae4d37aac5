"""A batch of clips with its labels, and the pixel statistics of the student."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Batch:
    """The clips of one step, or a part of them.

    Attributes:
        indices: int64 ``[B]`` clip indices, always on the CPU. Every random draw for a clip is keyed by its
            index, and the step follows from it.
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
        """Yield ``count`` equal parts. Frames and labels are copied to ``device`` when a part is used."""
        size = len(self) // count
        for start in range(0, len(self), size):
            own = slice(start, start + size)
            labels = {name: label[own].to(device, non_blocking=True) for name, label in self.labels.items()}
            frames = self.frames[own].to(device, non_blocking=True)
            yield Batch(self.indices[own], frames, labels, self.unreadable)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory. A DataLoader calls this."""
        labels = {name: label.pin_memory() for name, label in self.labels.items()}
        return Batch(self.indices, self.frames.pin_memory(), labels, self.unreadable)


def normalise(frames: Tensor) -> Tensor:
    """Return the student's input: uint8 ``[B, T, 3, H, W]`` to float32 by ImageNet's mean and std."""
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=frames.device).view(3, 1, 1)
    return (frames.float() / 255 - mean) / std
