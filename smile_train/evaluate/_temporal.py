"""Probes of time on real videos: the order of frames, and the speed they are shown at."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_train.data.video import FileFacts, ReadOptions
from smile_train.evaluate._extract import Feature

Float32 = NDArray[np.float32]
SPEEDS = (1, 2, 4)


@dataclass(frozen=True)
class Ordered:
    """A feature of a clip and of the same clip with its frames shuffled, ``[V, 2, ...]``.

    The order is drawn from the clip's content and is never the one it had.
    """

    of: Feature

    answers = ("in order", "shuffled")

    @property
    def name(self) -> str:
        """See `Feature`."""
        return self.of.name

    @property
    def key(self) -> str:
        """See `Feature`."""
        return f"order 1 {self.of.key}"

    @property
    def plain(self) -> bool:
        """See `Feature`."""
        return self.of.plain

    @staticmethod
    def read(read: ReadOptions) -> ReadOptions:
        """Return how clips are read for it."""
        return read

    def __call__(self, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        """See `Feature`."""
        shuffled = torch.stack([clip[_another_order(clip)] for clip in clips])
        return np.stack([self.of(clips, facts), self.of(shuffled, facts)], axis=1)


@dataclass(frozen=True)
class Paced:
    """A feature of clips that take every frame, every second and every fourth, ``[V, 3, ...]``."""

    of: Feature

    answers = tuple(f"{speed}x" for speed in SPEEDS)

    @property
    def name(self) -> str:
        """See `Feature`."""
        return self.of.name

    @property
    def key(self) -> str:
        """See `Feature`."""
        return f"speed 1 {self.of.key}"

    @property
    def plain(self) -> bool:
        """See `Feature`."""
        return self.of.plain

    @staticmethod
    def read(read: ReadOptions) -> ReadOptions:
        """Return how clips are read for it: as long as the slowest and the fastest need."""
        return read.model_copy(update={"num_frames": read.num_frames * SPEEDS[-1]})

    def __call__(self, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        """See `Feature`."""
        length = clips.shape[1] // SPEEDS[-1]
        paced = [clips[:, ::speed][:, :length] for speed in SPEEDS]
        return np.stack([self.of(part, facts) for part in paced], axis=1)


TEMPORAL: dict[str, type[Ordered] | type[Paced]] = {"order": Ordered, "speed": Paced}


def _another_order(clip: Tensor) -> Tensor:
    length = len(clip)
    rng = np.random.default_rng(zlib.crc32(clip.numpy().tobytes()))
    order = rng.permutation(length)
    while length > 1 and (np.diff(order) == 1).all():
        order = rng.permutation(length)
    return torch.from_numpy(order)
