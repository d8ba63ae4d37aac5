"""Draw the camera: a pose and a gain of every frame, which apply to all layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.rng import RandomStreams
from smile_synth.motion import draw_camera_curves, draw_key_times, draw_recursion
from smile_synth.recipe import Recipe
from smile_synth.sampling._instances import VIEWING_DISTANCE
from smile_synth.scene import Factor

Float = NDArray[np.float64]


@dataclass(frozen=True)
class _Camera:
    """The camera of B clips: ``pose`` ``[B, T, 3, 3]`` and ``gain`` ``[B, T, 3]``."""

    pose: Float
    gain: Float


def sample_cameras(
    recipe: Recipe, seed: int, indices: NDArray[np.int64]
) -> tuple[_Camera | None, list[dict[str, Factor]]]:
    """Draw every clip's camera, None where all stand still, and what was drawn."""
    factors: list[dict[str, Factor]] = [{} for _ in indices]
    if not recipe.camera:
        return None, factors
    frames, (height, width) = recipe.num_frames, recipe.size
    middle = np.array([width / 2, height / 2])
    pose = np.broadcast_to(np.eye(3), (len(indices), frames, 3, 3)).copy()
    gain = np.ones((len(indices), frames, 3))
    times, num_keys = draw_key_times(
        frames, recipe.key_times, rng=RandomStreams(seed, indices, "camera key times")
    )
    entry = RandomStreams(seed, indices, "camera").choice([option.weight for option in recipe.camera])
    for number, parameters in enumerate(recipe.camera):
        for keys in np.unique(num_keys):
            rows = np.flatnonzero((entry == number) & (num_keys == keys))
            if not len(rows):
                continue

            streams = partial(RandomStreams, seed, indices[rows])
            curves = draw_camera_curves(parameters, times[rows, :keys], frames, streams=streams)
            drawn = {name: curve.values for name, curve in curves.items()}
            zero = np.zeros((len(rows), frames, 2))
            pan = drawn.get("pan", zero) + drawn.get("shake", zero)
            scale = np.exp(drawn.get("zoom", zero[..., :1])) * np.ones(2)
            roll = drawn.get("roll", zero[..., :1])[..., 0]
            moved = geometry.affine(zero, roll, scale, drawn.get("shear"), zero)
            if "tilt" in drawn:
                tilted = geometry.tilt(drawn["tilt"], VIEWING_DISTANCE * max(recipe.size))
                moved = geometry.product(tilted, moved)
            about = geometry.product(geometry.translation(zero + middle), moved)
            moved = geometry.product(about, geometry.translation(pan - middle))
            found = {f"{name}.{key}": v for name, curve in curves.items() for key, v in curve.factors.items()}
            if parameters.recursion is not None:
                powers, more = draw_recursion(
                    parameters.recursion, frames, 2 * middle, rng=streams("camera recursion")
                )
                moved = geometry.product(powers, moved)
                found.update({f"recursion.{key}": v for key, v in more.items()})
            pose[rows] = moved
            if "gain" in drawn:
                gain[rows] = drawn["gain"]
            last = max(frames - 1, 1)
            found["pan_px_per_frame"] = np.hypot(*np.moveaxis(pan[:, -1] - pan[:, 0], -1, 0)) / last
            found["zoom_log_per_frame"] = np.log(scale[:, -1, 0] / scale[:, 0, 0]) / last
            found["roll_degrees_per_frame"] = (roll[:, -1] - roll[:, 0]) / last
            for name, values in found.items():
                for row, value in zip(rows.tolist(), values.tolist(), strict=True):
                    factors[row][f"camera.{name}"] = value
    return _Camera(pose, gain), factors
