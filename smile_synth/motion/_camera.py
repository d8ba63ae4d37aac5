"""Keys of the camera, and its curves and recursion. A camera transforms all layers in the same way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import model_validator

from smile_synth.core.geometry import translation
from smile_synth.core.rng import RandomStreams
from smile_synth.io.config_types import Positive, Range
from smile_synth.io.strict_yaml import StrictModel
from smile_synth.motion._base import Float, Path
from smile_synth.motion._entries import CAMERA_CURVES, AnyCurve, check_curves, draw_curve


class Recursion(StrictModel):
    """A transform that is drawn once and applied again in every frame, I[t+1] = f(I[t]) (PMG, 2409.06665).

    Attributes:
        translation: [low, high] pixels, per axis.
        rotation: [low, high] degrees.
        zoom: [low, high] logarithm of the scale.
        shear: [low, high] slope, per axis.
        perspective: [low, high] relative approach of one border of the frame, per axis.
    """

    translation: Range = (0.0, 0.0)
    rotation: Range = (0.0, 0.0)
    zoom: Range = (0.0, 0.0)
    shear: Range = (0.0, 0.0)
    perspective: Range = (0.0, 0.0)


class CameraEntry(StrictModel):
    """One camera motion, given as the motion of the image.

    Attributes:
        weight: relative frequency of this entry.
        pan: translation in pixels.
        shake: translation in pixels, added to the pan.
        zoom: logarithm of the scale about the middle of the frame.
        roll: degrees, clockwise, about the middle.
        shear: slopes, x by y and y by x.
        tilt: degrees about the horizontal and the vertical axis, in perspective.
        gain: factor on the colours of every layer.
        gain_isotropic: draw one gain for all channels.
        recursion: a transform that is applied again in every frame.
    """

    weight: Positive = 1.0
    pan: AnyCurve | None = None
    shake: AnyCurve | None = None
    zoom: AnyCurve | None = None
    roll: AnyCurve | None = None
    shear: AnyCurve | None = None
    tilt: AnyCurve | None = None
    gain: AnyCurve | None = None
    gain_isotropic: bool = True
    recursion: Recursion | None = None

    @model_validator(mode="after")
    def _check_curves(self) -> CameraEntry:
        check_curves(self, CAMERA_CURVES)
        return self


def draw_camera_curves(
    parameters: CameraEntry, key_times: Float, num_frames: int, *, streams: Callable[[str], RandomStreams]
) -> dict[str, Path]:
    """Draw the curves of an entry; ``streams(purpose)`` returns the random streams of a purpose."""
    drawn = {}
    for name, curve in CAMERA_CURVES.items():
        keys = getattr(parameters, name)
        if keys is not None:
            rng = streams(f"camera {name}")
            dims = 1 if name == "gain" and parameters.gain_isotropic else None
            drawn[name] = draw_curve(curve, keys, key_times, num_frames, rng=rng, dims=dims)
    return drawn


def draw_recursion(
    parameters: Recursion, num_frames: int, frame_wh: Float, *, rng: RandomStreams
) -> tuple[Float, dict[str, Float]]:
    """Draw a transform about the middle of the frame; return its powers ``[R, T, 3, 3]`` and factors."""
    rows = len(rng)
    offset, angle = rng.uniform(*parameters.translation, 2), rng.uniform(*parameters.rotation)
    zoom, shear = rng.uniform(*parameters.zoom), rng.uniform(*parameters.shear, 2)
    perspective = rng.uniform(*parameters.perspective, 2)
    cos, sin, scale = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle)), np.exp(zoom)
    one = np.zeros((rows, 3, 3))
    one[:, 0, 0] = scale * (cos - sin * shear[:, 1])
    one[:, 0, 1] = scale * (cos * shear[:, 0] - sin)
    one[:, 1, 0] = scale * (sin + cos * shear[:, 1])
    one[:, 1, 1] = scale * (sin * shear[:, 0] + cos)
    one[:, :2, 2] = offset
    one[:, 2, :2] = perspective / (frame_wh / 2)
    one[:, 2, 2] = 1.0
    powers = np.empty((rows, num_frames, 3, 3))
    powers[:, 0] = np.eye(3)
    for t in range(1, num_frames):
        product = np.einsum("rij,rjk->rik", one, powers[:, t - 1])
        # Only the ratio of the entries matters. Without this division a perspective could overflow.
        w = product[:, 2:, 2:]
        powers[:, t] = product / np.where(w > 1e-6, w, 1.0)
    center, back = translation(frame_wh / 2), translation(-frame_wh / 2)
    factors = {
        "translation_x_px_per_frame": offset[:, 0],
        "translation_y_px_per_frame": offset[:, 1],
        "rotation_degrees_per_frame": angle,
        "zoom_log_per_frame": zoom,
    }
    return center @ powers @ back, factors
