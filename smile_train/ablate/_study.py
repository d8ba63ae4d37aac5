"""The definition of a study: a YAML file with arms, seeds and probes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.resources import shipped
from smile_synth.io.strict_yaml import load
from smile_train.config import Options, Whole
from smile_train.data.video_lists import LabelledVideo, read_videos
from smile_train.data.video_splits import Split, leave_one_group_out
from smile_train.evaluate import MOTION_TASKS, EvaluateOptions

# Options of the training config that a study sets for all arms -> the key of the study.
SET_BY_STUDY = {"seed": "seeds", "bank": "bank", "backgrounds": "train_backgrounds"}
MIN_CLIPS = 50


class StudyVideos(Options):
    """Labelled real videos; one group of them is tested at a time."""

    path: str
    """Folder of the videos with one folder per class, or a list of videos."""
    group: str | None = None
    """Regular expression on file names; its match is the group of a video. By default each video is
    a group."""
    evaluate: EvaluateOptions = EvaluateOptions()
    """Protocols, controls and pooling: the options of the command evaluate."""

    def splits(self) -> tuple[list[LabelledVideo], list[Split]]:
        """Return the videos, and one split per group.

        Raises:
            UserError: as `read_videos`.
        """
        videos = read_videos(self.path, group=self.group)
        return videos, leave_one_group_out(videos)


class Study(Options):
    """Arms that differ only in the training options that are written here."""

    about: str
    """The question of the study, in one line."""
    base: str
    """Training config of all arms: a preset or a path."""
    overrides: list[str] = []
    """key.path=value for all arms."""
    arms: dict[str, dict[str, Any]] = {}
    """By name: keys of the training config and their values."""
    grid: dict[str, list[Any]] = {}
    """Keys and lists of values; every combination is a further arm."""
    reference: str | None = None
    """Arm that the others are compared with; by default the first."""
    seeds: Annotated[list[Whole], Field(min_length=1)] = [0, 1, 2]
    """Seeds of data, masks, weights and probes; every arm is trained with each."""
    tasks: Annotated[list[str], Field(min_length=1)] = ["motion family", "direction"]
    """Names of motion probes."""
    num_train: Annotated[int, Field(ge=MIN_CLIPS)] = 1200
    """Training clips of a probe."""
    num_test: Annotated[int, Field(ge=MIN_CLIPS)] = 800
    """Test clips of a probe."""
    bank: str | None = None
    """Folder of the object bank; by default drawn shapes and shipped photos."""
    train_backgrounds: str | None = None
    """Folder of the backgrounds of training and of the probes' training clips; needed with a bank."""
    test_backgrounds: str | None = None
    """Folder of the backgrounds of the probes' test clips; needed with a bank."""
    videos: list[StudyVideos] = []
    """Real videos on which every arm is evaluated too, for example with several poolings."""

    @model_validator(mode="after")
    def _check(self) -> Study:
        for name in self.tasks:
            if name not in MOTION_TASKS:
                hint = nearest(name, MOTION_TASKS)
                raise ValueError(f"unknown probe '{name}' (of {', '.join(MOTION_TASKS)}){hint}")
        for text in self.overrides:
            key = text.split("=")[0].strip()
            if key in SET_BY_STUDY:
                raise ValueError(f"overrides: {key} is set by the key {SET_BY_STUDY[key]} of the study")
        for name, changes in self.all_arms.items():
            if "seed" in changes:
                raise ValueError(
                    f"arm '{name}': all arms have the same seeds; use the key seeds of the study"
                )
        if len(self.all_arms) < 2:
            raise ValueError("needs at least two arms, in arms or grid")
        if self.reference is not None and self.reference not in self.all_arms:
            hint = nearest(self.reference, self.all_arms)
            raise ValueError(f"reference '{self.reference}' is not an arm{hint}")
        if self.bank is not None and None in (self.train_backgrounds, self.test_backgrounds):
            raise ValueError("a bank needs train_backgrounds and test_backgrounds")
        return self

    @property
    def all_arms(self) -> dict[str, dict[str, Any]]:
        """Named arms, then those of the grid."""
        combinations = itertools.product(*self.grid.values()) if self.grid else ()
        arms = [dict(zip(self.grid, values, strict=True)) for values in combinations]
        named = {
            ", ".join(f"{key.split('.')[-1]} {value}" for key, value in arm.items()): arm for arm in arms
        }
        return {**self.arms, **named}

    @property
    def reference_arm(self) -> str:
        """The arm that the others are compared with."""
        return self.reference or next(iter(self.all_arms))

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> Study:
        """Read a shipped study by name, or a YAML file, with ``key.path=value`` overrides.

        Raises:
            UserError: neither of them, or mistakes in it, all at once.
        """
        presets = {p.stem: p for p in sorted((shipped("configs") / "studies").glob("*.yaml"))}
        path = presets.get(str(name_or_path), Path(name_or_path))
        if not path.is_file():
            hint = nearest(str(name_or_path), presets)
            raise UserError(f"study '{name_or_path}': no such file; shipped are {', '.join(presets)}{hint}")
        return load(cls, path, overrides)
