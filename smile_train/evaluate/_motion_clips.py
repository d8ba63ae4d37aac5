"""The clips of motion probes, and the linear readouts on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth import ObjectBank, Recipe, composite, sample_scene
from smile_synth.core.errors import UserError
from smile_synth.io.atomic import atomic_write, write_bytes
from smile_synth.scene import Scene
from smile_synth.sources import Sources
from smile_train.evaluate._encoders import FrozenEncoder
from smile_train.evaluate._features import color_statistics, encode_clips, frame_means, tokens_in_place
from smile_train.evaluate._motion_tasks import BY_CLASS, DEMO_TASKS, MotionTask
from smile_train.evaluate._readouts import linear
from smile_train.evaluate._statistics import effective_rank

Strings = NDArray[np.str_]
Correct = NDArray[np.bool_]
Controls = Mapping[str, Callable[[Tensor], NDArray[np.floating]]]
# First seeds of the training and of the test clips.
SEEDS = {"train": 1_000, "test": 2_000}
# The size and length of all clips are equal, so the metadata are no control here.
PIXEL_CONTROLS: Controls = {"colour over time": color_statistics, "pixels per frame": frame_means}
_LABELS = "labels.json"


@dataclass(frozen=True)
class MotionProbeOptions:
    """What a motion probe measures.

    Attributes:
        tasks: by name.
        controls: features without a video encoder, by name.
        num_train, num_test: clips of each task.
        seed: of clips, random encoders and the bootstrap.
        test_split: split of the bank with the objects of the test clips.
        appearance_free: show noise instead of all colours, so that only motion reveals the objects.
    """

    tasks: Mapping[str, MotionTask] = field(default_factory=lambda: DEMO_TASKS)
    controls: Controls = field(default_factory=lambda: PIXEL_CONTROLS)
    num_train: int = 1200
    num_test: int = 800
    seed: int = 0
    test_split: Literal["train", "val", "test"] = "test"
    appearance_free: bool = False


class Side(NamedTuple):
    """The training or the test clips of a recipe: ``[N, T, 3, side, side]`` uint8, and labels by task."""

    clips: Tensor
    labels: dict[str, Strings]


class ProbeClips:
    """The clips and labels of all tasks, rendered at an encoder's size and length.

    Training clips have objects of the bank's train split over the training backgrounds; test clips have
    objects of another split over the test backgrounds. Without backgrounds, clips have plain ones.

    Attributes:
        sides: training and test clips, by recipe.
    """

    def __init__(
        self,
        like: FrozenEncoder,
        train: Sources,
        test: Sources,
        options: MotionProbeOptions,
        *,
        folder: Path | None = None,
    ) -> None:
        """Render the clips, or open those in ``folder``, where they are kept for the next time.

        Raises:
            UserError: a bank without objects in a split, or with fewer than two classes in both for a task
                about classes; or recipes of non-square frames.
        """
        self._options = options
        self.sides: dict[str, tuple[Side, Side]] = {}
        if folder is None or not (folder / _LABELS).is_file():
            for name in dict.fromkeys(task.recipe for task in options.tasks.values()):
                self.sides[name] = (
                    self._render(name, "train", like, train),
                    self._render(name, "test", like, test),
                )
        if folder is not None:
            if self.sides:
                self._write(folder)
            self._open(folder)

    def tasks_of(self, recipe: str) -> list[str]:
        """Return the tasks with clips of a recipe."""
        return [name for name, task in self._options.tasks.items() if task.recipe == recipe]

    def labels(self, task: str) -> tuple[Strings, Strings]:
        """Return the labels of a task's training and test clips."""
        train, test = self.sides[self._options.tasks[task].recipe]
        return train.labels[task], test.labels[task]

    def measure(
        self, encoder: FrozenEncoder, on_readout: Callable[[], None] | None = None
    ) -> tuple[dict[str, Correct], float]:
        """Read all tasks out of an encoder's tokens.

        Args:
            encoder: of the size and length of the clips.
            on_readout: called after every task.

        Returns:
            By task, which test clips are classified correctly; and the effective rank of the mean tokens of
            the first recipe's test clips.
        """
        correct, ranks = {}, []
        for recipe, sides in self.sides.items():  # tokens of one recipe are in memory at a time
            train, test = (encode_clips(encoder, side.clips) for side in sides)
            ranks.append(effective_rank(torch.from_numpy(test.mean(1))))
            values = {"mean": (train.mean(1), test.mean(1)), "in place": tokens_in_place(train, test)}
            for task in self.tasks_of(recipe):
                correct[task] = self.read_out(task, *values[self._options.tasks[task].readout])
                if on_readout:
                    on_readout()
        return {task: correct[task] for task in self._options.tasks}, ranks[0]

    def read_out(self, task: str, train: NDArray[np.floating], test: NDArray[np.floating]) -> Correct:
        """Return which test clips a linear readout of features classifies correctly."""
        x, y = np.concatenate([train, test]), np.concatenate(self.labels(task))
        rows = np.arange(len(x))
        predicted = linear(x, y, rows[: len(train)], rows[len(train) :], seed=self._options.seed)
        return np.asarray(predicted == y[len(train) :])

    def _render(self, name: str, side: str, like: FrozenEncoder, sources: Sources) -> Side:
        """Render the training or the test clips of a recipe."""
        options = self._options
        changes = [f"num_frames={like.num_frames}"]
        if options.appearance_free:
            changes.append("appearance={texture: noise}")
        elif sources.backgrounds is None:
            changes.append("backgrounds=[{kind: solid}]")
        tasks = self.tasks_of(name)
        by_class = any(task in BY_CLASS for task in tasks)
        recipe = _restrict(
            Recipe.load(name, changes), side, options.test_split, sources.objects, by_class=by_class
        )
        count = options.num_train if side == "train" else options.num_test
        clips, scenes = render_clips(recipe, sources, like.side, SEEDS[side] + options.seed, count)
        return Side(
            clips, {task: np.array([options.tasks[task].label(scene) for scene in scenes]) for task in tasks}
        )

    def _write(self, folder: Path) -> None:
        """Write all clips, then the labels: where these exist, the clips are complete."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, sides in self.sides.items():
            for side, values in zip(SEEDS, sides, strict=True):
                with atomic_write(folder / f"{name}-{side}.npy") as file:
                    np.save(file, values.clips.numpy())
        labels = {task: [side.tolist() for side in self.labels(task)] for task in self._options.tasks}
        write_bytes(folder / _LABELS, json.dumps(labels).encode())

    def _open(self, folder: Path) -> None:
        """Map the clips of a folder: they are in memory only while they are read."""
        labels = json.loads((folder / _LABELS).read_text())
        for name in dict.fromkeys(task.recipe for task in self._options.tasks.values()):
            train, test = (
                Side(
                    torch.from_numpy(np.load(folder / f"{name}-{side}.npy", mmap_mode="c")),
                    {task: np.array(labels[task][number]) for task in self.tasks_of(name)},
                )
                for number, side in enumerate(SEEDS)
            )
            self.sides[name] = (train, test)


def render_clips(
    recipe: Recipe, sources: Sources, side: int, seed: int, num_clips: int
) -> tuple[Tensor, list[Scene]]:
    """Return clips ``[num_clips, T, 3, side, side]`` uint8 and their scenes."""
    clips = torch.empty((num_clips, recipe.num_frames, 3, side, side), dtype=torch.uint8)
    scenes = []
    for index in range(num_clips):
        scene = sample_scene(recipe, sources, seed=seed, index=index)
        scaled = scene if scene.size_hw == (side, side) else scene.scaled_to((side, side))
        clips[index] = torch.from_numpy(composite(scaled, sources)).permute(0, 3, 1, 2)
        scenes.append(scene)
    return clips, scenes


def _restrict(recipe: Recipe, side: str, test_split: str, bank: ObjectBank, *, by_class: bool) -> Recipe:
    """Restrict a recipe to one split of the bank, and to classes with objects in both splits.

    Classes with fewer than three training objects are left out if two others remain: their test would be one
    of the object, not of its class. If fewer than two classes remain, all objects are used, except
    ``by_class``.
    """
    counts = []
    for split in ("train", test_split):
        names = [bank.class_names[bank.class_ids[i]] for i in bank.select(split=split)]
        counts.append(dict(zip(*np.unique(names, return_counts=True), strict=True)))
    objects = recipe.objects.model_copy(update={"split": "train" if side == "train" else test_split})
    common = sorted(counts[0].keys() & counts[1].keys())
    if len(common) >= 2:
        large = [name for name in common if counts[0][name] >= 3]
        classes = [str(name) for name in (large if len(large) >= 2 else common)]
        objects = objects.model_copy(update={"classes": classes})
    elif by_class:
        raise UserError(
            f"bank '{bank.path}': needs at least two classes with objects in both train and {test_split}"
        )
    return recipe.model_copy(update={"objects": objects})
