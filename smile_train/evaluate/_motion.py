"""What an encoder knows of motion: probes on synthetic clips with held-out objects and backgrounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth import ObjectBank, Recipe, composite, sample_scene
from smile_synth.core.errors import UserError
from smile_synth.scene import Scene
from smile_synth.sources import Sources
from smile_train.evaluate._controls import flow_histograms
from smile_train.evaluate._encoders import FrozenEncoder, load_encoder
from smile_train.evaluate._features import color_statistics, encode_tokens, frame_means, tokens_in_place
from smile_train.evaluate._probe import ProbeScore, difference_interval, linear_probe

Labels = NDArray[np.str_]
Float = NDArray[np.float64]
NUM_RANDOM = 3
PlainFeatures = Mapping[str, Callable[[Tensor], Float]]
# All clips have one size and length, which therefore tell nothing.
PLAIN_FEATURES: PlainFeatures = {"colour over time": color_statistics, "pixels per frame": frame_means}
DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")


def _family(scene: Scene) -> str:
    return str(scene.layers[1].factors["family"])


def _direction(scene: Scene) -> str:
    """Name the nearest of eight directions; y points down, so 90 degrees is down."""
    angle = float(scene.layers[1].factors["net_direction_degrees"])
    return DIRECTIONS[round(angle / 45) % 8]


def _object_class(scene: Scene) -> str:
    return scene.layers[1].class_name


def _speed(scene: Scene) -> str:
    """Name the third of the preset's range; per frame and in shares of its own pixels."""
    speed = float(scene.layers[1].factors["mean_speed_px_per_frame"])
    return "slow" if speed < 3 else "middle" if speed < 4 else "fast"


def _rotation(scene: Scene) -> str:
    """Name the sense of rotation; y points down, so a growing angle is clockwise."""
    turned = float(scene.layers[1].factors["rotation_degrees_per_frame"])
    return "clockwise" if turned > 0 else "anticlockwise"


def _count(scene: Scene) -> str:
    return str(round(float(scene.factors["num_objects"])))


def _occluded(scene: Scene) -> str:
    """Tell in which half of the clip the middle of the hidden run lies; never where none was reached."""
    if "occlusion.first_frame" not in scene.factors:
        return "never"
    first, length = (float(scene.factors[f"occlusion.{k}"]) for k in ("first_frame", "length_frames"))
    return "first half" if first + length / 2 < scene.num_frames / 2 else "second half"


class Task(NamedTuple):
    """A question about a clip.

    Attributes:
        recipe: the preset it is examined on.
        label: the answer, read off the scene.
        readout: tokens are read in place for motion, and averaged for what is there.
    """

    recipe: str
    label: Callable[[Scene], str]
    readout: Literal["in place", "mean"]


TASKS: dict[str, Task] = {
    "motion family": Task("demo-probe", _family, "in place"),
    "direction": Task("demo-direction", _direction, "in place"),
    "object class": Task("demo-probe", _object_class, "mean"),
}
# Every factor that is asked for; the demo asks the three above.
FACTORS: dict[str, Task] = {
    **TASKS,
    "speed": Task("demo-direction", _speed, "in place"),
    "rotation": Task("probe-rotation", _rotation, "in place"),
    "count": Task("probe-count", _count, "in place"),
    "occluded when": Task("probe-occlusion", _occluded, "in place"),
}


@dataclass(frozen=True)
class ProbeRow:
    """One score of one task.

    Attributes:
        task: what is told apart.
        features: what it is told apart by.
        accuracy, low, high: see `ProbeScore`.
        margin: (low, high) 95 % interval of accuracy minus that of random encoders; for the encoder only.
    """

    task: str
    features: str
    accuracy: float
    low: float
    high: float
    margin: tuple[float, float] | None = None


@dataclass(frozen=True)
class MotionExamination:
    """All scores of one encoder and its controls.

    Attributes:
        rows: one per task and kind of features.
        num_train, num_test: clips.
        num_classes: per task.
        most_frequent: per task, the share of the most frequent class among the test clips.
    """

    rows: list[ProbeRow]
    num_train: int
    num_test: int
    num_classes: dict[str, int]
    most_frequent: dict[str, float]


def _render(
    recipe: Recipe,
    sources: Sources,
    *,
    size_hw: tuple[int, int],
    seed: int,
    num_clips: int,
) -> tuple[Tensor, list[Scene]]:
    frames = torch.empty((num_clips, recipe.num_frames, 3, *size_hw), dtype=torch.uint8)
    scenes = []
    for index in range(num_clips):
        scene = sample_scene(recipe, sources, seed=seed, index=index)
        shown = scene if scene.size_hw == size_hw else scene.scaled_to(size_hw)
        frames[index] = torch.from_numpy(composite(shown, sources)).permute(0, 3, 1, 2)
        scenes.append(scene)
    return frames, scenes


def all_controls(teacher: str | None = "clip:tiny-clip", device: torch.device | None = None) -> PlainFeatures:
    """Return every feature without a video encoder: `PLAIN_FEATURES`, flow histograms and frame features.

    The last are those of an image model, averaged over time; without ``teacher`` they are left out.

    Raises:
        UserError: no such teacher.
    """
    found = {**PLAIN_FEATURES, "flow histograms": flow_histograms}
    if teacher:
        encoder = load_encoder(teacher, device=device)
        found[f"frames of {teacher}"] = lambda frames: encode_tokens(encoder, frames).mean(
            1, dtype=np.float64
        )
    return found


class MotionExam:
    """Questions about synthetic clips, the same for every encoder of one form.

    Training clips show objects of the bank's train split over the backgrounds of ``train``; test clips show
    objects of its test split over those of ``test``. An encoder that reads another size or length than
    the recipes are written for gets the same scenes at its size, as many frames as it reads.
    """

    def __init__(
        self,
        like: FrozenEncoder,
        train: Sources,
        test: Sources,
        *,
        seed: int = 0,
        num_train: int = 1200,
        num_test: int = 800,
        tasks: Mapping[str, Task] = TASKS,
        plain: PlainFeatures = PLAIN_FEATURES,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Render the clips and score the controls: random encoders of this form, and plain features.

        Args:
            like: an encoder of the form of those that will be asked.
            train, test: the sources of the training and of the test clips; they share their objects.
            seed: of clips, random encoders and the bootstrap.
            num_train, num_test: clips of each question.
            tasks: the questions.
            plain: features without a video encoder, for example `all_controls`.
            progress: called with (features scored, features in all), one encoder included.

        Raises:
            UserError: the recipes' frames have another aspect than square ones.
        """
        self.form, self.seed, self.tasks = like.form, seed, dict(tasks)
        self.num_train, self.num_test, self.plain = num_train, num_test, tuple(plain)
        self._progress, self._done = progress, 0
        self._clips: dict[str, tuple[Tensor, Tensor]] = {}
        self._answers: dict[str, tuple[Labels, Labels]] = {}
        scenes: dict[str, tuple[list[Scene], list[Scene]]] = {}
        size_hw = (like.side, like.side)
        for task, (name, label, _) in self.tasks.items():
            if name not in self._clips:
                recipe = Recipe.load(name, [f"num_frames={like.num_frames}"])
                (train_clips, train_scenes), (test_clips, test_scenes) = (
                    _render(_split(recipe, split, train.objects), sources, size_hw=size_hw,
                            seed=place + seed, num_clips=count)
                    for split, sources, place, count in (
                        ("train", train, 1_000, num_train),
                        ("test", test, 2_000, num_test),
                    )
                )  # fmt: skip
                self._clips[name], scenes[name] = (train_clips, test_clips), (train_scenes, test_scenes)
            train_y, test_y = (np.array([label(scene) for scene in side]) for side in scenes[name])
            self._answers[task] = train_y, test_y
        self._controls: dict[str, dict[str, ProbeScore]] = {task: {} for task in self.tasks}
        for k in range(NUM_RANDOM):
            for task, score in self._ask(like.reinitialised(seed + k)).items():
                self._controls[task][f"random {k}"] = score
        for recipe_name, clips in self._clips.items():
            for name, feature in plain.items():
                sides = [feature(side) for side in clips]
                for task in self._tasks_of(recipe_name):
                    self._controls[task][name] = self._probe(task, *sides)

    def examine(self, encoder: FrozenEncoder) -> MotionExamination:
        """Probe frozen features, beside the controls on the same split.

        Raises:
            ValueError: an encoder of another form.
        """
        if encoder.form != self.form:
            raise ValueError(f"exam of {self.form}, got an encoder of {encoder.form}")
        rows = []
        for task, score in self._ask(encoder).items():
            rows += _rows(task, {"encoder": score, **self._controls[task]}, self.plain)
        answers = self._answers.items()
        return MotionExamination(
            rows=rows,
            num_train=self.num_train,
            num_test=self.num_test,
            num_classes={task: len(set(train_y)) for task, (train_y, _) in answers},
            most_frequent={
                task: max(float((test_y == name).mean()) for name in set(test_y))
                for task, (_, test_y) in answers
            },
        )

    def _tasks_of(self, recipe: str) -> list[str]:
        return [name for name, task in self.tasks.items() if task.recipe == recipe]

    def _ask(self, encoder: FrozenEncoder) -> dict[str, ProbeScore]:
        scores = {}
        for recipe, clips in self._clips.items():  # tokens of one recipe are in memory at a time
            train, test = (encode_tokens(encoder, side) for side in clips)
            for task in self._tasks_of(recipe):
                if self.tasks[task].readout == "mean":
                    sides = (train.mean(1, dtype=np.float64), test.mean(1, dtype=np.float64))
                else:
                    sides = tokens_in_place(train, test)
                scores[task] = self._probe(task, *sides)
        return {task: scores[task] for task in self.tasks}

    def _probe(self, task: str, train_x: Float, test_x: Float) -> ProbeScore:
        train_y, test_y = self._answers[task]
        score = linear_probe(train_x, train_y, test_x, test_y, seed=self.seed)
        self._done += 1
        total = len(self.tasks) * (1 + NUM_RANDOM + len(self.plain))
        if self._progress and self._done <= total:
            self._progress(self._done, total)
        return score


def examine_motion(
    encoder: FrozenEncoder,
    train: Sources,
    test: Sources,
    *,
    seed: int = 0,
    num_train: int = 1200,
    num_test: int = 800,
    tasks: Mapping[str, Task] = TASKS,
    plain: PlainFeatures = PLAIN_FEATURES,
    progress: Callable[[int, int], None] | None = None,
) -> MotionExamination:
    """Probe one encoder; see `MotionExam`."""
    exam = MotionExam(
        encoder, train, test, seed=seed, num_train=num_train,
        num_test=num_test, tasks=tasks, plain=plain, progress=progress,
    )  # fmt: skip
    return exam.examine(encoder)


def _split(recipe: Recipe, split: str, bank: ObjectBank) -> Recipe:
    """Restrict a recipe to one side of the bank, and to classes that stand on both sides."""
    names = [{bank.info(int(i)).class_name for i in bank.select(split=side)} for side in ("train", "test")]
    common = names[0] & names[1]
    if len(common) < 2:
        raise UserError(f"bank '{bank.path}': needs at least two classes with objects in both train and test")
    # A class with a single training object would be a question about that object.
    counts = {
        name: sum(bank.info(int(i)).class_name == name for i in bank.select(split="train")) for name in common
    }
    classes = sorted(name for name in common if counts[name] >= 3) or sorted(common)
    objects = recipe.objects.model_copy(update={"split": split, "classes": classes})
    return recipe.model_copy(update={"objects": objects})


def _rows(task: str, scores: dict[str, ProbeScore], plain: Sequence[str]) -> list[ProbeRow]:
    """Average the random encoders into one row and compare the encoder with them, clip by clip."""
    randoms = [score for name, score in scores.items() if name.startswith("random ")]
    right = np.stack([score.correct for score in randoms]).mean(0)
    low, high = difference_interval(right, np.zeros_like(right))
    encoder = scores["encoder"]
    margin = difference_interval(encoder.correct, right)
    rows = [
        ProbeRow(task, "encoder", encoder.accuracy, encoder.low, encoder.high, margin),
        ProbeRow(task, f"random encoders ({len(randoms)})", float(right.mean()), low, high),
    ]
    for name in plain:
        rows.append(ProbeRow(task, name, scores[name].accuracy, scores[name].low, scores[name].high))
    return rows


def format_interval(low: float, high: float, *, signed: bool = False) -> str:
    """Return an interval of shares in percent."""
    sign = "+" if signed else ""
    return f"{100 * low:{sign}.1f} .. {100 * high:{sign}.1f}"
