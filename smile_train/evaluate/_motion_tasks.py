"""Tasks of motion probes: what is classified on synthetic clips, read from their scenes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from smile_synth.scene import Scene

DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")


class MotionTask(NamedTuple):
    """A classification of synthetic clips.

    Attributes:
        recipe: preset that the clips are rendered from.
        label: returns the class of a scene.
        readout: ``in place`` keeps the position of every token, ``mean`` averages over tokens.
    """

    recipe: str
    label: Callable[[Scene], str]
    readout: Literal["in place", "mean"]


def _family(scene: Scene) -> str:
    return str(scene.layers[1].factors["family"])


def _direction(scene: Scene) -> str:
    """Return the nearest of eight directions; y points down, so 90 degrees is down."""
    angle = float(scene.layers[1].factors["net_direction_degrees"])
    return DIRECTIONS[round(angle / 45) % 8]


def _object_class(scene: Scene) -> str:
    return scene.layers[1].class_name


def _speed(scene: Scene) -> str:
    """Return the third of the preset's speed range, in pixels of the recipe per frame."""
    speed = float(scene.layers[1].factors["mean_speed_px_per_frame"])
    return "slow" if speed < 3 else "middle" if speed < 4 else "fast"


def _rotation(scene: Scene) -> str:
    """Return the sense of rotation; y points down, so a growing angle is clockwise."""
    degrees = float(scene.layers[1].factors["rotation_degrees_per_frame"])
    return "clockwise" if degrees > 0 else "anticlockwise"


def _count(scene: Scene) -> str:
    return str(round(float(scene.factors["num_objects"])))


def _occluded(scene: Scene) -> str:
    """Return the half of the clip with the middle of the occlusion; never if there is none."""
    if "occlusion.first_frame" not in scene.factors:
        return "never"
    first, length = (float(scene.factors[f"occlusion.{k}"]) for k in ("first_frame", "length_frames"))
    return "first half" if first + length / 2 < scene.num_frames / 2 else "second half"


# The tasks of the demo.
DEMO_TASKS: dict[str, MotionTask] = {
    "direction": MotionTask("demo-direction", _direction, "in place"),
    "speed": MotionTask("demo-direction", _speed, "in place"),
    "rotation": MotionTask("probe-rotation", _rotation, "in place"),
    "count": MotionTask("probe-count", _count, "in place"),
    "object class": MotionTask("demo-direction", _object_class, "mean"),
}
MOTION_TASKS: dict[str, MotionTask] = {
    **DEMO_TASKS,
    "motion family": MotionTask("demo-probe", _family, "in place"),
    "occluded when": MotionTask("probe-occlusion", _occluded, "in place"),
}
# Tasks whose labels are the classes of objects.
BY_CLASS = ("object class",)
