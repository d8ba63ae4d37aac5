"""The labelled videos of a fine-tuning or a probe: training, validation and test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from smile_synth.core.errors import UserError, nearest
from smile_synth.core.rng import RandomStream
from smile_train.config import LabelledVideosOptions
from smile_train.data.video_index import index_videos
from smile_train.data.video_lists import LabelledVideo, group_videos, list_videos, some
from smile_train.data.video_splits import Split, check_split, read_hmdb

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class LabelledSets:
    """Videos for training, validation and test; the last two may be empty.

    Attributes:
        classes: of the training videos. Numbers are in numerical order, names in alphabetical order.
        train, validation, test: the videos.
        digests: by side: identifies names, labels and files. Empty if the files were not indexed.
        missing: names of videos without a file.
    """

    classes: tuple[str, ...]
    train: list[LabelledVideo]
    validation: list[LabelledVideo]
    test: list[LabelledVideo]
    digests: dict[str, str]
    missing: list[str]

    def __repr__(self) -> str:
        """Show the numbers of videos."""
        return (
            f"LabelledSets({len(self.classes)} classes, {len(self.train)} training, "
            f"{len(self.validation)} validation and {len(self.test)} test videos)"
        )


def read_labelled_sets(options: LabelledVideosOptions, *, seed: int) -> LabelledSets:
    """Read the lists of videos. No video file is opened.

    The validation and test videos may be the same. Neither shares a video, or a group, with the training.

    Args:
        options: where the videos are.
        seed: draws the validation groups, where a share is given.

    Raises:
        UserError: a list is missing or cannot be read, or the sides do not fit together.
    """
    if options.hmdb_splits is not None:
        assert options.root is not None  # the options check this
        videos, split = read_hmdb(
            options.hmdb_splits, root=options.root, number=options.split_number, allow_missing=True
        )
        train, test = ([videos[i] for i in side.tolist()] for side in (split.train, split.test))
    elif options.train is None:
        raise UserError("videos.train: is missing; give a list or a folder of training videos")
    else:
        train, test = (_listed(source, options.root) for source in (options.train, options.test))
    validation = _listed(options.validation, options.root)
    train, validation, test = _with_equal_labels(train, validation, test)
    train, validation, test = (_grouped(side, options.group) for side in (train, validation, test))
    if options.test_groups:
        train, test = _taken_out(train, options.test_groups)
    if options.validation_share:
        groups = sorted({video.group for video in train})
        order = RandomStream(seed, 0, "validation groups").permutation(len(groups))
        count = max(round(options.validation_share * len(groups)), 1)
        train, validation = _taken_out(train, [groups[i] for i in order[:count].tolist()])
    for name, side in (("validation", validation), ("test", test)):
        if side:
            first = np.arange(len(train))
            check_split([*train, *side], Split(first, len(train) + np.arange(len(side)), name))
    classes = sorted({v.label for v in train}, key=lambda name: (int(name) if name.isdecimal() else -1, name))
    if len(classes) < 2:
        raise UserError(f"videos: the training videos are of {len(classes)} class, expected at least 2")
    return LabelledSets(tuple(classes), train, validation, test, {}, [])


def open_labelled_sets(
    options: LabelledVideosOptions, folder: Path, *, seed: int, rank: int, progress: Progress | None = None
) -> LabelledSets:
    """Read the lists of videos, and check with an index in ``folder`` that their files exist.

    Call it before the processes of a run join; see `index_videos`.

    Args:
        options, seed: see `read_labelled_sets`.
        folder: of the run.
        rank: of this process.
        progress: called with (videos indexed, videos of the side).

    Raises:
        UserError: as `read_labelled_sets`, or files are missing.
    """
    sets = read_labelled_sets(options, seed=seed)
    found: dict[str, list[LabelledVideo]] = {}
    digests: dict[str, str] = {}
    missing: list[str] = []
    for side in ("train", "validation", "test"):
        found[side] = getattr(sets, side)
        if found[side]:
            index = index_videos(
                found[side], folder, rank=rank, allow_missing=options.allow_missing, progress=progress
            )
            found[side], digests[side] = index.videos, index.digest
            missing += index.missing
    return LabelledSets(sets.classes, **found, digests=digests, missing=missing)


def _listed(source: str | None, root: str | None) -> list[LabelledVideo]:
    return [] if source is None else list_videos(source, root=root)


def _with_equal_labels(*sides: list[LabelledVideo]) -> list[list[LabelledVideo]]:
    """Replace numbers by folders where only some sides have numbers, as in the lists of UCF101."""
    numbered = [all(video.label.isdecimal() for video in side) for side in sides if side]
    if all(numbered) or not any(numbered):
        return [*sides]
    return [[replace(video, label=video.path.parent.name) for video in side] for side in sides]


def _grouped(videos: list[LabelledVideo], pattern: str | None) -> list[LabelledVideo]:
    if pattern is not None:
        return group_videos(videos, pattern)
    # Two lists may name a file differently.
    return [replace(video, group=str(video.path)) for video in videos]


def _taken_out(
    videos: Sequence[LabelledVideo], groups: Sequence[str]
) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    """Return the videos of all other groups, and the videos of some groups.

    Raises:
        UserError: no video is of a group.
    """
    known = {video.group for video in videos}
    unknown = [group for group in groups if group not in known]
    if unknown:
        raise UserError(f"{some(unknown, 'videos.test_groups: no group')}{nearest(unknown[0], known)}")
    chosen = set(groups)
    return [v for v in videos if v.group not in chosen], [v for v in videos if v.group in chosen]
