"""Probes of time on real videos: classify the order of a clip's frames, or its speed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_train.data.decoding import FileFacts
from smile_train.data.video import ReadOptions
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


def variants_feature(feature: Feature, task: TemporalTask) -> Feature:
    """Return a feature of every variant of a clip, ``[V, classes, ...]``."""
    key, function = f"{task.name} 1 {feature.key}", partial(_of_variants, feature, task)
    return Feature(feature.name, key, function, feature.in_workers)


def _of_variants(feature: Feature, task: TemporalTask, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
    return np.stack([feature(variant, facts) for variant in task.variants(clips)], axis=1)


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
