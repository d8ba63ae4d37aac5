"""Motion: families of paths and curves, relations between objects, and the camera.

A family is one file with its parameter model and one pure function ``(*, rng, parameters, request) -> Path``,
and one line in `FAMILIES` (or an entry point of an installed package). Whatever makes a path of an object's
centre makes a curve of its size, rotation, opacity or depth as well.
"""

from smile_synth.motion._base import FamilyParameters, Path, Request
from smile_synth.motion._camera import CameraEntry, Recursion, draw_camera_curves, draw_recursion
from smile_synth.motion._entries import (
    CAMERA_CURVES,
    OBJECT_CURVES,
    AnyCurve,
    AnyMotion,
    Curve,
    MotionKeys,
    draw_curve,
    draw_path,
)
from smile_synth.motion._families import FAMILIES, Family, load_installed, register
from smile_synth.motion._keyframes import EASINGS, KeyTimesParameters, draw_key_times, interpolate
from smile_synth.motion._relations import RELATIONS, AnyRelation, Bond, Relation, draw_relation

__all__ = [
    "CAMERA_CURVES",
    "EASINGS",
    "FAMILIES",
    "OBJECT_CURVES",
    "RELATIONS",
    "AnyCurve",
    "AnyMotion",
    "AnyRelation",
    "Bond",
    "CameraEntry",
    "Curve",
    "Family",
    "FamilyParameters",
    "KeyTimesParameters",
    "MotionKeys",
    "Path",
    "Recursion",
    "Relation",
    "Request",
    "draw_camera_curves",
    "draw_curve",
    "draw_key_times",
    "draw_path",
    "draw_recursion",
    "draw_relation",
    "interpolate",
    "load_installed",
    "register",
]
