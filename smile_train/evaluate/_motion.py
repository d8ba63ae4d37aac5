"""What an encoder knows of motion: probes on synthetic clips with held-out objects and backgrounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth import BackgroundFolder, ObjectBank, Recipe, composite, sample_scene
from smile_synth.errors import UserError
from smile_synth.scene import Scene
from smile_train.evaluate._features import color_statistics, encode_tokens, frame_means, tokens_in_place
from smile_train.evaluate._probe import ProbeScore, difference_interval, linear_probe
from smile_train.models import Student

Labels = NDArray[np.str_]
NUM_RANDOM = 3
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
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None,
    *,
    size_hw: tuple[int, int],
    seed: int,
    num_clips: int,
) -> tuple[Tensor, list[Scene]]:
    frames, scenes = [], []
    for index in range(num_clips):
        scene = sample_scene(recipe, bank, backgrounds, seed=seed, index=index)
        shown = scene if scene.size_hw == size_hw else scene.scaled_to(size_hw)
        frames.append(torch.from_numpy(composite(shown, bank, backgrounds)))
        scenes.append(scene)
    return torch.stack(frames).permute(0, 1, 4, 2, 3).contiguous(), scenes


def examine_motion(
    student: Student,
    bank: ObjectBank,
    train_backgrounds: BackgroundFolder | None,
    test_backgrounds: BackgroundFolder | None,
    *,
    seed: int = 0,
    num_train: int = 1200,
    num_test: int = 800,
    tasks: Mapping[str, Task] = TASKS,
    progress: Callable[[int, int], None] | None = None,
) -> MotionExamination:
    """Probe frozen features on questions about synthetic clips, beside their controls on the same split.

    Training clips show objects of the bank's train split over ``train_backgrounds``; test clips show
    objects of its test split over ``test_backgrounds``. A student that reads another size or length than
    the recipes are written for gets the same scenes at its size, as many frames as it reads.

    Raises:
        UserError: the student's frames have another aspect than the recipes'.
    """
    randoms = [
        Student(student.config, generator=torch.Generator().manual_seed(10_000 + seed + k))
        for k in range(NUM_RANDOM)
    ]
    rows: list[ProbeRow] = []
    num_classes: dict[str, int] = {}
    most_frequent: dict[str, float] = {}
    rendered: dict[str, tuple[Tensor, list[Scene], Tensor, list[Scene]]] = {}
    tokens: dict[tuple[str, str], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    students = {"encoder": student, **{f"random {k}": other for k, other in enumerate(randoms)}}
    plain = {"colour over time": color_statistics, "pixels per frame": frame_means}
    done, total = 0, len(tasks) * (len(students) + len(plain))
    for task, (recipe_name, label, readout) in tasks.items():
        if recipe_name not in rendered:
            form = student.config
            recipe = Recipe.load(recipe_name, [f"num_frames={form.num_frames}"])
            size_hw = form.size_hw
            train = _split(recipe, "train", bank)
            test = _split(recipe, "test", bank)
            rendered[recipe_name] = (
                *_render(
                    train, bank, train_backgrounds, size_hw=size_hw, seed=1_000 + seed, num_clips=num_train
                ),
                *_render(
                    test, bank, test_backgrounds, size_hw=size_hw, seed=2_000 + seed, num_clips=num_test
                ),
            )
        train_frames, train_scenes, test_frames, test_scenes = rendered[recipe_name]
        train_y, test_y = (np.array([label(scene) for scene in s]) for s in (train_scenes, test_scenes))
        num_classes[task] = len(set(train_y))
        most_frequent[task] = max(float((test_y == name).mean()) for name in set(test_y))
        scores: dict[str, ProbeScore] = {}
        for name in (*students, *plain):
            if name in plain:
                train_x, test_x = plain[name](train_frames), plain[name](test_frames)
            else:
                key = (recipe_name, name)
                if key not in tokens:
                    encode = partial(encode_tokens, students[name])
                    tokens[key] = encode(train_frames), encode(test_frames)
                if readout == "mean":
                    train_x, test_x = (part.mean(1, dtype=np.float64) for part in tokens[key])
                else:
                    train_x, test_x = tokens_in_place(*tokens[key])
            scores[name] = linear_probe(train_x, train_y, test_x, test_y, seed=seed)
            done += 1
            if progress:
                progress(done, total)
        rows += _rows(task, scores)
    return MotionExamination(rows, num_train, num_test, num_classes, most_frequent)


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


def _rows(task: str, scores: dict[str, ProbeScore]) -> list[ProbeRow]:
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
    for name in ("colour over time", "pixels per frame"):
        rows.append(ProbeRow(task, name, scores[name].accuracy, scores[name].low, scores[name].high))
    return rows


def format_interval(low: float, high: float, *, signed: bool = False) -> str:
    """Return an interval of shares in percent."""
    sign = "+" if signed else ""
    return f"{100 * low:{sign}.1f} .. {100 * high:{sign}.1f}"
