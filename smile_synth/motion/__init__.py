"""Motion: families of paths and curves, relations between objects, and the camera.

A family is a model of its parameters and one pure function ``(*, rng, parameters, request) -> Path``, which
the decorator `family` adds to the registry `FAMILIES`; installed packages add theirs by an entry point. Every
family draws paths of an object's centre, and curves of its size, rotation, opacity, depth and so on.
"""

from smile_synth.motion._base import FAMILIES, Family, FamilyParameters, Path, Request, family, register
from smile_synth.motion._camera import CameraEntry, Recursion, draw_camera_curves, draw_recursion
from smile_synth.motion._entries import (
    CAMERA_CURVES,
    OBJECT_CURVES,
    AnyMotion,
    MotionKeys,
    draw_curve,
    draw_path,
)
from smile_synth.motion._families import load_installed
from smile_synth.motion._keyframes import KeyTimesParameters, draw_key_times, interpolate
from smile_synth.motion._relations import RELATIONS, AnyRelation, RelationRequest, draw_relation

__all__ = [
    "CAMERA_CURVES",
    "FAMILIES",
    "OBJECT_CURVES",
    "RELATIONS",
    "AnyMotion",
    "AnyRelation",
    "CameraEntry",
    "Family",
    "FamilyParameters",
    "KeyTimesParameters",
    "MotionKeys",
    "Path",
    "Recursion",
    "RelationRequest",
    "Request",
    "draw_camera_curves",
    "draw_curve",
    "draw_key_times",
    "draw_path",
    "draw_recursion",
    "draw_relation",
    "family",
    "interpolate",
    "load_installed",
    "register",
]
