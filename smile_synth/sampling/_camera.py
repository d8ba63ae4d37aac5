"""Draw the cameras of clips: a pose and a gain for every frame, which apply to all layers."""

from __future__ import annotations

from functools import partial

import numpy as np

from smile_synth.core import geometry
from smile_synth.motion import CameraEntry, draw_camera_curves, draw_key_times, draw_recursion
from smile_synth.sampling._instances import VIEWING_DISTANCE, Batch, Float, Int, add_factors
from smile_synth.scene import Factor


def sample_cameras(batch: Batch, factors: list[dict[str, Factor]]) -> tuple[Float, Float] | None:
    """Draw every clip's camera and add what was drawn to ``factors``.

    Returns:
        Poses ``[B, T, 3, 3]`` and gains ``[B, T, 3]``; None: the recipe has no camera.
    """
    recipe = batch.recipe
    if not recipe.camera:
        return None
    shape = len(batch), recipe.num_frames
    poses, gains = np.empty((*shape, 3, 3)), np.ones((*shape, 3))
    times, num_keys = draw_key_times(
        recipe.num_frames, recipe.key_times, rng=batch.streams("camera key times")
    )
    entry = batch.streams("camera").choice([each.weight for each in recipe.camera])
    for number, parameters in enumerate(recipe.camera):
        for keys in np.unique(num_keys):
            clips = np.flatnonzero((entry == number) & (num_keys == keys))
            if len(clips):
                poses[clips], gain, found = _draw_cameras(batch, parameters, clips, times[clips, :keys])
                if gain is not None:
                    gains[clips] = gain
                add_factors(factors, clips, found, "camera.")
    return poses, gains


def _draw_cameras(
    batch: Batch, parameters: CameraEntry, clips: Int, key_times: Float
) -> tuple[Float, Float | None, dict[str, Float]]:
    """Draw poses, gains and factors of the clips that share an entry and a number of key frames."""
    frames, frame_wh = batch.recipe.num_frames, np.array(batch.recipe.size[::-1], np.float64)
    middle = frame_wh / 2
    streams = partial(batch.streams, clips=clips)
    curves = draw_camera_curves(parameters, key_times, frames, streams=streams)
    drawn = {name: curve.values for name, curve in curves.items()}
    zero = np.zeros((len(clips), frames, 2))
    pan = drawn.get("pan", zero) + drawn.get("shake", zero)
    scale = np.exp(drawn.get("zoom", zero[..., :1])) * np.ones(2)
    roll = drawn.get("roll", zero[..., :1])[..., 0]
    pose = geometry.affine(zero, roll, scale, drawn.get("shear"), zero)
    if "tilt" in drawn:
        tilted = geometry.tilt(drawn["tilt"], VIEWING_DISTANCE * frame_wh.max())
        pose = geometry.product(tilted, pose)
    about = geometry.product(geometry.translation(zero + middle), pose)
    pose = geometry.product(about, geometry.translation(pan - middle))
    found = {f"{name}.{key}": v for name, curve in curves.items() for key, v in curve.factors.items()}
    if parameters.recursion is not None:
        rng = streams("camera recursion")
        powers, more = draw_recursion(parameters.recursion, frames, frame_wh, rng=rng)
        pose = geometry.product(powers, pose)
        found.update({f"recursion.{key}": v for key, v in more.items()})
    last = max(frames - 1, 1)
    found["pan_px_per_frame"] = np.hypot(*(pan[:, -1] - pan[:, 0]).T) / last
    found["zoom_log_per_frame"] = np.log(scale[:, -1, 0] / scale[:, 0, 0]) / last
    found["roll_degrees_per_frame"] = (roll[:, -1] - roll[:, 0]) / last
    return pose, drawn.get("gain"), found
