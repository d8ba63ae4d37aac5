"""Splits of labelled videos into training and test, whose sides share no group."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream
from smile_train.data.video_lists import (
    LabelledVideo,
    check_files_exist,
    check_groups,
    group_videos,
    read_videos,
    real_path,
    some,
)

Int = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The training videos and the test videos of a set.

    Attributes:
        train, test: indices of videos.
        name: for tables.
    """

    train: Int
    test: Int
    name: str


def read_official(
    train: str | Path,
    test: str | Path,
    *,
    root: str | Path | None = None,
    group: str | None = None,
    allow_missing: bool = False,
) -> tuple[list[LabelledVideo], Split]:
    """Read the publisher's training and test lists (or folders) as one set with its split.

    Without ``group``, a file on both sides is found even if the two lists name it differently. The other
    arguments are those of `read_videos`.

    Raises:
        UserError: see `read_videos` and `check_split`.
    """
    sides = [
        read_videos(source, root=root, group=group, allow_missing=allow_missing) for source in (train, test)
    ]
    numbered = [all(v.label.isdecimal() for v in side) for side in sides]
    if numbered[0] != numbered[1]:  # UCF101: only the training list has labels
        sides = [[replace(v, label=v.path.parent.name) for v in side] for side in sides]
    videos = [*sides[0], *sides[1]]
    # The names in two folders or lists may agree for different files and differ for the same file.
    names = _below_common_folder([os.path.abspath(v.path) for v in videos])
    groups = [v.group for v in videos]
    if group is None:
        groups = _below_common_folder([real_path(v.path) for v in videos])
    videos = [replace(v, name=n, group=g) for v, n, g in zip(videos, names, groups, strict=True)]
    check_groups(videos)
    first = len(sides[0])
    split = Split(np.arange(first), np.arange(first, len(videos)), "official")
    check_split(videos, split)
    return videos, split


def read_hmdb(
    annotations: str | Path,
    *,
    root: str | Path,
    number: int = 1,
    group: str | None = None,
    allow_missing: bool = False,
) -> tuple[list[LabelledVideo], Split]:
    """Read a split of HMDB51: ``<class>_test_split<n>.txt``, lines ``file 1`` (train) or ``file 2`` (test).

    Args:
        annotations: folder of these files.
        root: folder of the videos, ``class/file``.
        number: 1, 2 or 3.
        group, allow_missing: see `read_videos`.

    Raises:
        UserError: no such files, missing videos, or a group on both sides.
    """
    if not Path(root).is_dir():
        raise UserError(f"root '{root}': no such folder")
    files = sorted(Path(annotations).glob(f"*_test_split{number}.txt"))
    if not files:
        raise UserError(f"splits '{annotations}': holds no *_test_split{number}.txt")
    videos: list[LabelledVideo] = []
    sides: list[str] = []
    for file in files:
        label = file.name.removesuffix(f"_test_split{number}.txt")
        for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            name, _, side = line.strip().rpartition(" ")
            if side in ("1", "2"):
                video = f"{label}/{name.strip()}"
                videos.append(LabelledVideo(Path(root) / video, video, label, video))
                sides.append(side)
    check_files_exist(videos, annotations, allow_missing=allow_missing)
    videos = group_videos(videos, group)
    is_test = np.array(sides) == "2"
    split = Split(np.flatnonzero(~is_test), np.flatnonzero(is_test), f"split {number}")
    check_split(videos, split)
    return videos, split


def k_fold(videos: Sequence[LabelledVideo], folds: int, *, seed: int = 0) -> list[Split]:
    """Return ``folds`` splits with about equal shares of the classes. A group is on one side.

    Raises:
        UserError: a class has fewer groups than there are folds.
    """
    groups_of: defaultdict[str, set[str]] = defaultdict(set)
    for video in videos:
        groups_of[video.label].add(video.group)
    small = sorted(label for label, groups in groups_of.items() if len(groups) < folds)
    if small:
        raise UserError(
            f"{folds} folds need {folds} videos or groups of every class, too few in: "
            f"{some(small, counts=[len(groups_of[label]) for label in small])}; "
            "leave these out, or choose fewer folds"
        )
    from sklearn.model_selection import StratifiedGroupKFold  # its import takes seconds

    labels, groups = [v.label for v in videos], [v.group for v in videos]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(videos)), labels, groups)
    return [Split(train, test, f"fold {k}") for k, (train, test) in enumerate(parts)]


def leave_one_group_out(videos: Sequence[LabelledVideo]) -> list[Split]:
    """Return one split per group, which is the test side; all others are the training side.

    Raises:
        UserError: there is only one group.
    """
    groups = np.array([v.group for v in videos])
    names = sorted(set(groups.tolist()))
    if len(names) < 2:
        raise UserError(f"leave-one-group-out needs two groups, all videos are of '{names[0]}'")
    return [Split(np.flatnonzero(groups != g), np.flatnonzero(groups == g), g) for g in names]


def low_shot(videos: Sequence[LabelledVideo], split: Split, shots: int, *, seed: int = 0) -> Split:
    """Return the split with ``shots`` training videos of every class, drawn by the seed.

    Raises:
        UserError: a class has fewer.
    """
    rng = RandomStream(seed, shots, "low shot")
    labels = np.array([videos[int(i)].label for i in split.train])
    chosen = []
    for label in sorted(set(labels.tolist())):
        own = split.train[labels == label]
        if len(own) < shots:
            raise UserError(f"{shots} shots: class '{label}' has {len(own)} training videos in {split.name}")
        chosen.append(own[rng.permutation(len(own))[:shots]])
    return Split(np.sort(np.concatenate(chosen)), split.test, f"{split.name}, {shots} shots, seed {seed}")


def check_split(videos: Sequence[LabelledVideo], split: Split, *, classes: bool = True) -> None:
    """Check that the sides share no group and, with ``classes``, that all test classes are in training.

    Raises:
        UserError: names the groups or classes.
    """
    train, test = ([videos[int(i)] for i in side] for side in (split.train, split.test))
    if not train or not test:
        raise UserError(f"split '{split.name}': has {len(train)} training and {len(test)} test videos")
    shared = sorted({v.group for v in train} & {v.group for v in test})
    if shared:
        raise UserError(f"split '{split.name}': training and test share {some(shared, 'groups')}")
    if not classes:
        return
    unseen = sorted({v.label for v in test} - {v.label for v in train})
    if unseen:
        raise UserError(f"split '{split.name}': no training video of {some(unseen, 'test classes')}")
    if len({v.label for v in train}) < 2:
        raise UserError(f"split '{split.name}': all training videos are of class '{train[0].label}'")


def _below_common_folder(paths: list[str]) -> list[str]:
    """Return paths relative to the folder of all of them: equal on every machine."""
    top = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [Path(path).relative_to(top).as_posix() for path in paths]
