"""What every source of training clips provides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TrainingClip:
    """One clip.

    Attributes:
        frames: uint8 ``[T, H, W, 3]``.
        labels: arrays by name, without the batch axis; see `smile_train.batch.Batch`. A name that only some
            sources provide is filled with zeros for the others.
        unreadable: (file, reason) of videos that this clip replaces.
    """

    frames: NDArray[np.uint8]
    labels: dict[str, NDArray[np.generic]] = field(default_factory=dict)
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
