"""What every source of training clips provides, and how clips become a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from smile_synth.scene import Scene
from smile_train.batch import Batch

BOXES = "boxes_xyxy"


@dataclass(frozen=True, eq=False)
class TrainingClip:
    """One clip.

    Attributes:
        frames: uint8 ``[T, H, W, 3]``.
        labels: arrays by name, without the batch axis; see `smile_train.batch.Batch`.
        scene: from which a synthetic clip was rendered.
        unreadable: (file, reason) of videos that this clip replaces.
    """

    frames: NDArray[np.uint8]
    labels: dict[str, NDArray[Any]] = field(default_factory=dict)
    scene: Scene | None = None
    unreadable: tuple[tuple[str, str], ...] = ()


class Source(Protocol):
    """Returns a clip for any index, the same one every time.

    Attributes:
        size_hw, num_frames: of every clip.
        name: for messages, and for the recipe's file in a run's folder.
        digest: of everything that the clips depend on.
    """

    size_hw: tuple[int, int]
    num_frames: int
    name: str
    digest: str

    def clips(self, indices: Sequence[int]) -> list[TrainingClip]:
        """Return the clips of these indices."""
        ...


def collate(indices: Sequence[int], clips: Sequence[TrainingClip]) -> Batch:
    """Stack clips to a batch on the CPU.

    A label that only some clips have is 0 for the others. Boxes are padded with NaN to the largest number of
    objects.
    """
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    labels = {}
    for name in dict.fromkeys(name for clip in clips for name in clip.labels):
        values = [clip.labels.get(name) for clip in clips]
        if name == BOXES:
            labels[name] = torch.from_numpy(stack_boxes(values, frames.shape[1]))
        else:
            present = next(value for value in values if value is not None)
            absent = np.zeros_like(present)
            labels[name] = torch.from_numpy(np.stack([absent if v is None else v for v in values]))
    unreadable = tuple(entry for clip in clips for entry in clip.unreadable)
    return Batch(torch.tensor(indices), frames.permute(0, 1, 4, 2, 3), labels, unreadable)


def stack_boxes(values: Sequence[NDArray[Any] | None], num_frames: int) -> NDArray[np.float32]:
    """Return float32 ``[B, K, T, 4]`` of boxes ``[K_b, T, 4]``, or None where a clip has no objects."""
    most = max(0 if boxes is None else len(boxes) for boxes in values)
    stacked = np.full((len(values), most, num_frames, 4), np.nan, np.float32)
    for row, boxes in zip(stacked, values, strict=True):
        if boxes is not None:
            row[: len(boxes)] = boxes
    return stacked
