"""Probes of time on real videos: classify the order of a clip's frames, or its speed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_train.data.video import FileFacts, ReadOptions
from smile_train.evaluate._features import Feature

Float32 = NDArray[np.float32]
SPEEDS = (1, 2, 4)


@dataclass(frozen=True)
class TemporalTask:
    """A classification of variants of one clip.

    Attributes:
        name: of the protocol.
        classes: one per variant.
        variants: returns the variants ``[V, T, 3, S, S]`` of clips ``[V, T * length_factor, 3, S, S]``.
        length_factor: frames that are read per frame of a variant.
    """

    name: str
    classes: tuple[str, ...]
    variants: Callable[[Tensor], list[Tensor]]
    length_factor: int = 1

    def read(self, options: ReadOptions) -> ReadOptions:
        """Return how clips are read: longer by ``length_factor``, and a fixed number per video."""
        length = options.num_frames * self.length_factor
        return options.model_copy(update={"num_frames": length, "clips": options.clips or 1})


@dataclass(frozen=True)
class VariantsFeature:
    """A feature of every variant of a clip, ``[V, classes, ...]``."""

    of: Feature
    task: TemporalTask

    @property
    def name(self) -> str:
        """See `Feature`."""
        return self.of.name

    @property
    def key(self) -> str:
        """See `Feature`."""
        return f"{self.task.name} 1 {self.of.key}"

    @property
    def in_workers(self) -> bool:
        """See `Feature`."""
        return self.of.in_workers

    def __call__(self, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        """See `Feature`."""
        return np.stack([self.of(variant, facts) for variant in self.task.variants(clips)], axis=1)


def _in_order_and_shuffled(clips: Tensor) -> list[Tensor]:
    return [clips, torch.stack([clip[_permutation(clip)] for clip in clips])]


def _permutation(clip: Tensor) -> Tensor:
    """Return an order of the frames other than the original one, drawn from a checksum of the clip."""
    rng = np.random.default_rng(zlib.crc32(clip.numpy().tobytes()))
    order = rng.permutation(len(clip))
    while len(clip) > 1 and (np.diff(order) == 1).all():
        order = rng.permutation(len(clip))
    return torch.from_numpy(order)


def _at_speeds(clips: Tensor) -> list[Tensor]:
    return [clips[:, ::speed][:, : clips.shape[1] // SPEEDS[-1]] for speed in SPEEDS]


TEMPORAL = {
    "order": TemporalTask("order", ("in order", "shuffled"), _in_order_and_shuffled),
    "speed": TemporalTask("speed", tuple(f"{speed}x" for speed in SPEEDS), _at_speeds, SPEEDS[-1]),
}
