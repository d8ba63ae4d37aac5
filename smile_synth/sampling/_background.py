"""Draw the background of a clip: its surface, its poses and its brightness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from smile_synth.backgrounds import BackgroundFolder
from smile_synth.core import geometry
from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream
from smile_synth.recipe import (
    BACKGROUND_MOTION_KEYS,
    AnyBackground,
    GradientBackground,
    ImageBackground,
    MovingBackground,
    NoiseBackground,
    OneOverFBackground,
    Recipe,
    SolidBackground,
    VideoBackground,
)
from smile_synth.scene import Factor, GeneratedImage, Layer, Noise, Solid, StoredImage, Video

Float = NDArray[np.float64]
# Gives the random stream of a purpose, for one clip.
Stream = Callable[[str], RandomStream]


_Weighted = TypeVar("_Weighted", bound=Any)


def _pick(entries: Sequence[_Weighted], rng: RandomStream) -> _Weighted:
    return entries[0] if len(entries) == 1 else entries[rng.choice([entry.weight for entry in entries])]


def uses_folder(recipe: Recipe) -> bool:
    recipes = [recipe, *(entry.recipe for entry in recipe.mixture if entry.recipe is not None)]
    return any(
        isinstance(entry, ImageBackground | VideoBackground) for each in recipes for entry in each.backgrounds
    )


def sample_background(
    recipe: Recipe, backgrounds: BackgroundFolder | None, stream: Stream
) -> tuple[Layer, Float, float]:
    """Draw the background: its layer, its poses ``[T, 3, 3]`` and its brightness."""
    parameters: AnyBackground = _pick(recipe.backgrounds, stream("choice of background"))
    rng = stream("background")
    brightness = rng.uniform(*parameters.brightness)
    camera, factors = _background_motion(recipe, parameters, stream)
    if isinstance(parameters, SolidBackground):
        red, green, blue = rng.integers(256, 3).tolist()
        color = (red, green, blue) if parameters.color is None else parameters.color
        return Layer(Solid(color), border="repeat"), camera, brightness
    if isinstance(parameters, ImageBackground | VideoBackground):
        return *_from_folder(recipe, parameters, backgrounds, camera, factors, rng), brightness
    key = rng.integer(2**32), rng.integer(2**32)
    if isinstance(parameters, NoiseBackground):
        return Layer(Noise(key, parameters.redrawn), border="repeat", factors=factors), camera, brightness
    side = max(recipe.size)
    if isinstance(parameters, GradientBackground):
        gradient = GeneratedImage("gradient", key, 0.0, side, side)
        pose = _crop(recipe, (side, side), 1.0, camera, rng)
        return Layer(gradient, border="reflect", factors=factors), camera @ pose, brightness
    side = -(-side // 16) * 16  # so that the first mip levels repeat without a seam, too
    exponent = rng.uniform(*parameters.exponent) if isinstance(parameters, OneOverFBackground) else 0.0
    endless = GeneratedImage(parameters.kind, key, exponent, side, side)
    return Layer(endless, border="repeat", factors=factors), camera, brightness


def _from_folder(
    recipe: Recipe,
    parameters: ImageBackground | VideoBackground,
    backgrounds: BackgroundFolder | None,
    camera: Float,
    factors: dict[str, Factor],
    rng: RandomStream,
) -> tuple[Layer, Float]:
    """Draw a crop of an image or of a video's frames: its layer and its poses ``[T, 3, 3]``."""
    what = "images" if isinstance(parameters, ImageBackground) else "videos"
    if backgrounds is None:
        raise UserError(
            f"the recipe has '{parameters.kind}' backgrounds: give a folder of {what} (--backgrounds DIR)"
        )
    count = len(backgrounds.files if isinstance(parameters, ImageBackground) else backgrounds.videos)
    if count == 0:
        raise UserError(
            f"the recipe has '{parameters.kind}' backgrounds: '{backgrounds.path}' holds no {what} to read"
        )
    number = rng.integer(count)
    zoom = rng.uniform(*parameters.zoom)
    if isinstance(parameters, ImageBackground):
        size_hw = backgrounds.sizes_hw[number]
        pose = _crop(recipe, size_hw, zoom, camera, rng)
        return Layer(StoredImage("backgrounds", number, *size_hw), "reflect", factors=factors), camera @ pose
    video = backgrounds.videos[number]
    pose = _crop(recipe, (video.height, video.width), zoom, camera, rng)
    low, high = parameters.stride
    stride = low + rng.integer(high + 1 - low)
    numbers = _frame_numbers(video.num_frames, recipe.num_frames, stride, rng)
    return Layer(Video(number, numbers, video.height, video.width), "reflect"), camera @ pose


def _frame_numbers(available: int, num_frames: int, stride: int, rng: RandomStream) -> tuple[int, ...]:
    """Draw where a video starts and return the frames that the clip shows.

    A video too short for the clip starts anywhere and is played to and fro: ... 2 1 0 1 2 ...
    """
    span = (num_frames - 1) * stride + 1
    start = rng.integer(max(available - span + 1, 0) or available)
    period = max(2 * (available - 1), 1)
    places = [(start + t * stride) % period for t in range(num_frames)]
    return tuple(min(place, period - place) if available > 1 else 0 for place in places)


def _background_motion(
    recipe: Recipe, parameters: AnyBackground, stream: Stream
) -> tuple[Float, dict[str, Factor]]:
    """Draw the motion over a background: poses ``[T, 3, 3]`` relative to frame 0, and what was drawn."""
    poses = np.repeat(np.eye(3)[None], recipe.num_frames, axis=0)
    if not isinstance(parameters, MovingBackground):
        return poses, {}
    ranges = [getattr(parameters, name) for name in BACKGROUND_MOTION_KEYS]
    if ranges == [None] * len(ranges):
        return poses, {}
    rng = stream("background motion")
    speed, zoom, roll = (rng.uniform(*(values or (0.0, 0.0))) for values in ranges)
    direction = rng.uniform(0.0, 360.0)
    toward = np.deg2rad(direction)
    middle = np.array([recipe.size[1], recipe.size[0]]) / 2
    step = geometry.compose(
        geometry.translation(middle + speed * np.array([np.cos(toward), np.sin(toward)])),
        geometry.rotation(roll),
        geometry.scaling(np.exp([zoom, zoom])),
        geometry.translation(-middle),
    )
    for t in range(1, recipe.num_frames):
        poses[t] = step @ poses[t - 1]
    return poses, {
        "drift_px_per_frame": speed,
        "drift_direction_degrees": direction,
        "zoom_log_per_frame": zoom,
        "roll_degrees_per_frame": roll,
    }


def _crop(recipe: Recipe, image_hw: tuple[int, int], zoom: float, camera: Float, rng: RandomStream) -> Float:
    """Draw where frame 0 lies in an image; returns its pose ``[3, 3]``.

    ``zoom`` 1 is the largest crop. Where ``camera`` leads out of the image the crop is made smaller,
    at most by half, until the whole way fits; what does not fit even then is centred.
    """
    h, w = image_hw
    frame_h, frame_w = recipe.size
    seen = geometry.apply(geometry.invert(camera), geometry.corners(frame_w, frame_h)).reshape(-1, 2)
    low, high = seen.min(axis=0), seen.max(axis=0)
    scale = max(frame_h / h, frame_w / w) * zoom
    fitting = float(((high - low) / [w, h]).max())
    scale = min(max(scale, fitting), 2 * scale)
    slack = np.array([w, h]) * scale - (high - low)
    share = np.where(slack > -1e-6, rng.randoms(2), 0.5)
    return geometry.translation(low - share * slack) @ geometry.scaling([scale, scale])
