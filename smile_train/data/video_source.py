"""Natural videos as a source of training clips."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, nearest
from smile_synth.core.rng import RandomStream
from smile_train.config import AugmentationOptions, SamplingOptions
from smile_train.data.augmentation import augment, short_side
from smile_train.data.sources import TrainingClip
from smile_train.data.video import read_random_clip
from smile_train.data.video_lists import LabelledVideo

_MAX_UNREADABLE = 5  # in a row


class VideoSource:
    """Clips of natural videos. Every video is used once per epoch, in an order drawn for each epoch.

    A video that cannot be read is replaced by the next one of the order. Frames, crop and all other changes
    are drawn by (seed, clip index).

    With ``repeats``, an epoch has that number of clips of every video. Clips i and i + 2 are of one video,
    then those two places later, so that the clips 2k and 2k + 1 are of two videos, and also the clips that
    Mixup combines, i and B - 1 - i of a batch of an even number B.

    Attributes:
        size_hw, num_frames, name, digest: see `smile_train.data.sources.Source`.
    """

    def __init__(
        self,
        videos: Sequence[LabelledVideo],
        *,
        sampling: SamplingOptions,
        augmentation: AugmentationOptions,
        side: int,
        seed: int,
        repeats: int = 1,
        classes: Sequence[str] | None = None,
        files_digest: str = "",
    ) -> None:
        """Describe the clips; no file is opened.

        Args:
            videos: of the set.
            sampling: the frames of a clip.
            augmentation: the crop and other random changes of a clip.
            side: height and width of a clip.
            seed: of all random draws.
            repeats: clips of a video in an epoch.
            classes: labels by class number. Clips then have the label "class", int64. None: no labels.
            files_digest: identifies the contents of the files; see `VideoIndex.digest`.

        Raises:
            UserError: there are no videos, or the label of a video is not one of the classes.
        """
        if not videos:
            raise UserError("videos: the set is empty")
        self.size_hw, self.num_frames, self.name = (side, side), sampling.num_frames, "videos"
        self.sampling, self.augmentation = sampling, augmentation
        self.seed, self.repeats = seed, repeats
        # One array, because a set of 240,000 Path objects takes long to send to worker processes.
        self._paths = np.array([os.fsencode(v.path) for v in videos])
        self._classes = None if classes is None else _class_numbers(videos, classes)
        settings = (
            files_digest, [(v.name, v.label) for v in videos], classes and list(classes), side, repeats,
            sampling.model_dump_json(), augmentation.model_dump_json(),
        )  # fmt: skip
        self.digest = hashlib.sha256(repr(settings).encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self._paths)

    def clips(self, indices: Sequence[int]) -> list[TrainingClip]:
        """Return clips by index.

        Raises:
            UserError: several videos in a row cannot be read.
        """
        return [self._clip(index) for index in indices]

    def _clip(self, index: int) -> TrainingClip:
        # Two videos take turns: 0 1 0 1, then 2 3 2 3, for two repeats.
        pair, turn = divmod(index, 2 * self.repeats)
        first = 2 * pair + turn % 2
        unreadable: list[tuple[str, str]] = []
        for place in range(first, first + _MAX_UNREADABLE):
            epoch, place_in_epoch = divmod(place, len(self))
            video = int(_order(self.seed, epoch, len(self))[place_in_epoch])
            path = Path(os.fsdecode(self._paths[video]))
            try:
                whole = read_random_clip(
                    path, self.sampling, short_side(self.augmentation.crop, self.size_hw[0]),
                    RandomStream(self.seed, index, "video frames"),
                )  # fmt: skip
            except UserError as error:
                unreadable.append((str(path), str(error)))
                continue
            frames = augment(whole, self.augmentation, self.size_hw[0], seed=self.seed, index=index)
            labels = {} if self._classes is None else {"class": np.asarray(self._classes[video])}
            return TrainingClip(frames, labels, unreadable=tuple(unreadable))
        name, reason = unreadable[0]
        raise UserError(f"{len(unreadable)} videos in a row cannot be read; the first, '{name}': {reason}")


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return RandomStream(seed, epoch, "video order").permutation(count)


def _class_numbers(videos: Sequence[LabelledVideo], classes: Sequence[str]) -> NDArray[np.int64]:
    number_of = {name: number for number, name in enumerate(classes)}
    for video in videos:
        if video.label not in number_of:
            hint = nearest(video.label, classes)
            raise UserError(
                f"video '{video.name}': class '{video.label}' is not one of the {len(classes)} classes{hint}"
            )
    return np.array([number_of[v.label] for v in videos], np.int64)
