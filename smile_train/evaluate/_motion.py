"""Motion probes: linear readouts on synthetic clips, tested with held-out objects and backgrounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth import ObjectBank, Recipe, composite, sample_scene
from smile_synth.core.errors import UserError
from smile_synth.scene import Scene
from smile_synth.sources import Sources
from smile_train.evaluate._encoders import FrozenEncoder
from smile_train.evaluate._features import (
    color_statistics,
    encode_clips,
    flow_histograms,
    frame_means,
    tokens_in_place,
)
from smile_train.evaluate._load import load_encoder
from smile_train.evaluate._motion_tasks import DEMO_TASKS, MotionTask
from smile_train.evaluate._readouts import linear
from smile_train.evaluate._statistics import bootstrap_interval, paired_difference

Strings = NDArray[np.str_]
Correct = NDArray[np.bool_]
Controls = Mapping[str, Callable[[Tensor], NDArray[np.floating]]]
NUM_RANDOM = 3
# First seeds of the training and of the test clips.
SEEDS = {"train": 1_000, "test": 2_000}
# The size and length of all clips are equal, so the metadata are no control here.
PIXEL_CONTROLS: Controls = {"colour over time": color_statistics, "pixels per frame": frame_means}


def motion_controls(teacher: str | None = "clip:tiny-clip", device: torch.device | None = None) -> Controls:
    """Return all controls: `PIXEL_CONTROLS`, flow histograms and frame features of an image model.

    The frame features are averaged over time; None leaves them out.

    Raises:
        UserError: no such image model.
    """
    controls = {**PIXEL_CONTROLS, "flow histograms": flow_histograms}
    if teacher:
        encoder = load_encoder(teacher, device=device)
        controls[f"frames of {teacher}"] = lambda clips: encode_clips(encoder, clips, pooling="mean")
    return controls


@dataclass(frozen=True)
class MotionProbeOptions:
    """What a motion probe measures.

    Attributes:
        tasks: by name.
        controls: features without a video encoder, by name.
        num_train, num_test: clips of each task.
        seed: of clips, random encoders and the bootstrap.
        appearance_free: show noise instead of all colours, so that only motion reveals the objects.
    """

    tasks: Mapping[str, MotionTask] = field(default_factory=lambda: DEMO_TASKS)
    controls: Controls = field(default_factory=lambda: PIXEL_CONTROLS)
    num_train: int = 1200
    num_test: int = 800
    seed: int = 0
    appearance_free: bool = False


@dataclass(frozen=True)
class ProbeRow:
    """One score of one task.

    Attributes:
        task: name of the task.
        features: ``encoder``, ``random encoders (3)`` or the name of a control.
        accuracy: on the test clips.
        low, high: 95 % bootstrap interval over the test clips.
        margin: 95 % interval (low, high) of encoder minus random encoders; only in the encoder's row.
    """

    task: str
    features: str
    accuracy: float
    low: float
    high: float
    margin: tuple[float, float] | None = None


@dataclass(frozen=True)
class MotionProbeResult:
    """All scores of one encoder and its controls.

    Attributes:
        rows: one per task and kind of features.
        num_train, num_test: clips of each task.
        num_classes: by task.
        most_frequent: by task, the share of the most frequent class among the test clips.
    """

    rows: list[ProbeRow]
    num_train: int
    num_test: int
    num_classes: dict[str, int]
    most_frequent: dict[str, float]


class MotionProbe:
    """Clips, labels and control scores that all encoders of one architecture share.

    Training clips have objects of the bank's train split over the training backgrounds; test clips have
    objects of its test split over the test backgrounds. Scenes are rendered at the encoder's size and length.
    """

    def __init__(
        self,
        like: FrozenEncoder,
        train: Sources,
        test: Sources,
        options: MotionProbeOptions | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Render the clips and score the controls, random encoders among them.

        Args:
            like: an encoder of the architecture.
            train, test: sources of the clips, with the same bank.
            options: tasks, controls and numbers.
            progress: called with (readouts done, all readouts), those of the first encoder included.

        Raises:
            UserError: a bank with fewer than two classes in both splits, or recipes of non-square frames.
        """
        self.options = options = options or MotionProbeOptions()
        self.architecture = like.architecture
        self._progress, self._done = progress, 0
        self._clips: dict[str, tuple[Tensor, Tensor]] = {}
        self._labels: dict[str, tuple[Strings, Strings]] = {}
        for name in {task.recipe: None for task in options.tasks.values()}:
            changes = [f"num_frames={like.num_frames}"]
            changes += ["appearance={texture: noise}"] * options.appearance_free
            recipe = Recipe.load(name, changes)
            sides = [
                render_clips(
                    _restrict(recipe, split, train.objects),
                    sources,
                    like.side,
                    SEEDS[split] + options.seed,
                    count,
                )
                for split, sources, count in (
                    ("train", train, options.num_train),
                    ("test", test, options.num_test),
                )
            ]
            self._clips[name] = (sides[0][0], sides[1][0])
            for task in self._tasks_of(name):
                labels = [
                    np.array([options.tasks[task].label(scene) for scene in scenes]) for _, scenes in sides
                ]
                self._labels[task] = (labels[0], labels[1])
        self._controls: dict[str, dict[str, Correct]] = {task: {} for task in options.tasks}
        for k in range(NUM_RANDOM):
            for task, correct in self._correct(like.reinitialised(options.seed + k)).items():
                self._controls[task][f"random {k}"] = correct
        for name, (train_clips, test_clips) in self._clips.items():
            for control, feature in options.controls.items():
                values = feature(train_clips), feature(test_clips)
                for task in self._tasks_of(name):
                    self._controls[task][control] = self._read_out(task, *values)

    def __call__(self, encoder: FrozenEncoder) -> MotionProbeResult:
        """Probe an encoder.

        Raises:
            ValueError: an encoder of another architecture.
        """
        if encoder.architecture != self.architecture:
            raise ValueError(f"probe of {self.architecture}, got an encoder of {encoder.architecture}")
        rows = []
        for task, correct in self._correct(encoder).items():
            rows += _rows(task, correct, self._controls[task], self.options.seed)
        counts = {task: np.unique(test, return_counts=True)[1] for task, (_, test) in self._labels.items()}
        return MotionProbeResult(
            rows=rows,
            num_train=self.options.num_train,
            num_test=self.options.num_test,
            num_classes={task: len(np.unique(self._labels[task][0])) for task in self.options.tasks},
            most_frequent={
                task: float(counts[task].max() / counts[task].sum()) for task in self.options.tasks
            },
        )

    def _tasks_of(self, recipe: str) -> list[str]:
        return [name for name, task in self.options.tasks.items() if task.recipe == recipe]

    def _correct(self, encoder: FrozenEncoder) -> dict[str, Correct]:
        """Return which test clips a linear readout of the encoder's tokens classifies correctly, by task."""
        correct = {}
        for recipe, clips in self._clips.items():  # tokens of one recipe are in memory at a time
            train, test = (encode_clips(encoder, side) for side in clips)
            values = {"mean": (train.mean(1), test.mean(1)), "in place": tokens_in_place(train, test)}
            for task in self._tasks_of(recipe):
                correct[task] = self._read_out(task, *values[self.options.tasks[task].readout])
        return {task: correct[task] for task in self.options.tasks}

    def _read_out(self, task: str, train: NDArray[np.floating], test: NDArray[np.floating]) -> Correct:
        x, y = np.concatenate([train, test]), np.concatenate(self._labels[task])
        rows = np.arange(len(x))
        predicted = linear(x, y, rows[: len(train)], rows[len(train) :], seed=self.options.seed)
        self._done += 1
        total = len(self.options.tasks) * (1 + NUM_RANDOM + len(self.options.controls))
        if self._progress and self._done <= total:
            self._progress(self._done, total)
        return np.asarray(predicted == y[len(train) :])


def probe_motion(
    encoder: FrozenEncoder,
    train: Sources,
    test: Sources,
    options: MotionProbeOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> MotionProbeResult:
    """Probe a single encoder; see `MotionProbe`."""
    return MotionProbe(encoder, train, test, options, progress=progress)(encoder)


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


def _restrict(recipe: Recipe, split: str, bank: ObjectBank) -> Recipe:
    """Restrict a recipe to one split of the bank, and to classes with objects in both splits.

    Classes with fewer than three training objects are left out if two others remain: their test would be one
    of the object, not of its class.
    """
    counts = [
        dict(
            zip(
                *np.unique(
                    [bank.info(int(i)).class_name for i in bank.select(split=side)], return_counts=True
                ),
                strict=True,
            )
        )
        for side in ("train", "test")
    ]
    common = sorted(counts[0].keys() & counts[1].keys())
    if len(common) < 2:
        raise UserError(f"bank '{bank.path}': needs at least two classes with objects in both train and test")
    large = [name for name in common if counts[0][name] >= 3]
    classes = [str(name) for name in (large if len(large) >= 2 else common)]
    objects = recipe.objects.model_copy(update={"split": split, "classes": classes})
    return recipe.model_copy(update={"objects": objects})


def _rows(task: str, encoder: Correct, controls: Mapping[str, Correct], seed: int) -> list[ProbeRow]:
    """Return the rows of a task; random encoders share one, and the encoder is compared with them by clip."""
    randoms = np.stack([values for name, values in controls.items() if name.startswith("random ")]).mean(0)
    shown = {f"random encoders ({NUM_RANDOM})": randoms}
    shown |= {name: values for name, values in controls.items() if not name.startswith("random ")}
    margin = paired_difference(encoder, randoms, seed=seed)
    return [
        ProbeRow(
            task,
            "encoder",
            float(encoder.mean()),
            *bootstrap_interval(encoder, seed=seed),
            (margin.low, margin.high),
        ),
        *(
            ProbeRow(task, name, float(v.mean()), *bootstrap_interval(v, seed=seed))
            for name, v in shown.items()
        ),
    ]


def format_interval(low: float, high: float, *, signed: bool = False) -> str:
    """Return an interval of shares in percent."""
    sign = "+" if signed else ""
    return f"{100 * low:{sign}.1f} .. {100 * high:{sign}.1f}"
