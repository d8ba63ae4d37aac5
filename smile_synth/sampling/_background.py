"""Draw the backgrounds of clips: their layers, poses and brightness."""

from __future__ import annotations

from typing import Any

import numpy as np

from smile_synth.core import geometry
from smile_synth.core.coverage import Border
from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStreams
from smile_synth.recipe import (
    BACKGROUND_MOTION_KEYS,
    GradientBackground,
    ImageBackground,
    MovingBackground,
    NoiseBackground,
    OneOverFBackground,
    Recipe,
    SolidBackground,
    VideoBackground,
)
from smile_synth.sampling._instances import Batch, Float, Int, add_factors
from smile_synth.scene import (
    Factor,
    Factors,
    GeneratedImage,
    Layer,
    Noise,
    Solid,
    StoredImage,
    Surface,
    Video,
)

_IDENTITY = np.eye(3)


def uses_folder(recipe: Recipe) -> bool:
    """Return whether a recipe shows images or videos of a folder as backgrounds."""
    recipes = [recipe, *(entry.recipe for entry in recipe.mixture if entry.recipe is not None)]
    return any(
        isinstance(entry, ImageBackground | VideoBackground)
        for each in recipes
        if each.appearance.texture is None
        for entry in each.backgrounds
    )


def sample_backgrounds(batch: Batch) -> tuple[list[Layer], Float, Float]:
    """Draw the backgrounds: B layers, their poses ``[B, T, 3, 3]`` and their brightness ``[B]``."""
    recipe = batch.recipe
    entry = np.zeros(len(batch), np.int64)
    if len(recipe.backgrounds) > 1:
        weights = [each.weight for each in recipe.backgrounds]
        entry = batch.streams("choice of background").choice(weights)
    layers: dict[int, Layer] = {}
    poses = np.empty((len(batch), recipe.num_frames, 3, 3))
    poses[:] = _IDENTITY
    brightness = np.empty(len(batch))
    for number, parameters in enumerate(recipe.backgrounds):
        clips = (entry == number).nonzero()[0]
        if not len(clips):
            continue
        if recipe.appearance.texture is not None:
            parameters = _as_noise(parameters)
        rng = batch.streams("background", clips)
        brightness[clips] = rng.uniform(*parameters.brightness)
        factors = _draw_motion(batch, parameters, clips, poses)
        stored = isinstance(parameters, ImageBackground | VideoBackground)
        draw = _draw_stored if stored else _draw_generated
        surfaces, crop = draw(batch, parameters, poses[clips], rng)
        border: Border = "repeat" if crop is None else "reflect"
        if crop is not None:
            poses[clips] = poses[clips] @ crop[:, None]
        for clip, surface, values in zip(clips.tolist(), surfaces, factors, strict=True):
            layers[clip] = Layer(surface, border, factors=Factors(values))
    return [layers[clip] for clip in range(len(batch))], poses, brightness


def _as_noise(parameters: Any) -> NoiseBackground:
    """Return a background of noise with the motion of another background."""
    motion: dict[str, Any] = {name: getattr(parameters, name, None) for name in BACKGROUND_MOTION_KEYS}
    return NoiseBackground(kind="noise", **motion)


def _draw_generated(
    batch: Batch, parameters: Any, motion: Float, rng: RandomStreams
) -> tuple[list[Surface], Float | None]:
    """Draw colours, noise or generated images, and the crops of gradients ``[R, 3, 3]``."""
    if isinstance(parameters, SolidBackground):
        if parameters.color is not None:
            return [Solid(parameters.color)] * len(rng), None
        return [Solid((red, green, blue)) for red, green, blue in rng.integers(256, 3).tolist()], None
    keys = [(first, second) for first, second in rng.integers(2**32, 2).tolist()]
    if isinstance(parameters, NoiseBackground):
        return [Noise(key, parameters.redrawn) for key in keys], None
    side = max(batch.recipe.size)
    if isinstance(parameters, GradientBackground):
        crop = _draw_crop(batch.recipe, np.full((len(rng), 2), side), 1.0, motion, rng)
        return [GeneratedImage("gradient", key, 0.0, side, side) for key in keys], crop
    side = -(-side // 16) * 16  # so that the first mip levels repeat without a seam, too
    exponents = [0.0] * len(rng)
    if isinstance(parameters, OneOverFBackground):
        exponents = rng.uniform(*parameters.exponent).tolist()
    images = zip(keys, exponents, strict=True)
    return [GeneratedImage(parameters.kind, key, exponent, side, side) for key, exponent in images], None


def _draw_stored(
    batch: Batch, parameters: Any, motion: Float, rng: RandomStreams
) -> tuple[list[Surface], Float | None]:
    """Draw images or videos of the folder, and their crops ``[R, 3, 3]``.

    Raises:
        UserError: the folder is missing or has none.
    """
    recipe, folder = batch.recipe, batch.sources.backgrounds
    is_image = isinstance(parameters, ImageBackground)
    what = "images" if is_image else "videos"
    problem = f"the recipe has '{parameters.kind}' backgrounds"
    if folder is None:
        raise UserError(f"{problem}: give a folder of {what} as backgrounds")
    sizes = np.array(
        folder.sizes_hw if is_image else [(video.height, video.width) for video in folder.videos], np.int64
    )
    if not len(sizes):
        raise UserError(f"{problem}: '{folder.path}' holds no readable {what}")
    chosen = rng.integers(len(sizes))
    crop = _draw_crop(recipe, sizes[chosen], rng.uniform(*parameters.zoom), motion, rng)
    numbers, sizes_hw = chosen.tolist(), sizes[chosen].tolist()
    if is_image:
        return [StoredImage("backgrounds", n, *hw) for n, hw in zip(numbers, sizes_hw, strict=True)], crop
    low, high = parameters.stride
    stride = low + rng.integers(high + 1 - low)
    available = np.array([folder.videos[n].num_frames for n in numbers])
    frames = draw_frame_numbers(available, recipe.num_frames, stride, rng=rng)
    return [Video(n, f, *hw) for n, f, hw in zip(numbers, frames, sizes_hw, strict=True)], crop


def draw_frame_numbers(
    available: Int, num_frames: int, stride: Int, *, rng: RandomStreams
) -> list[tuple[int, ...]]:
    """Draw the first frames of videos and return the R x T numbers of the frames that clips show.

    A video that is too short starts anywhere and is played forwards and backwards: ... 2 1 0 1 2 ...

    Args:
        available: ``[R]`` frames of each video.
        num_frames: T.
        stride: ``[R]`` video frames from one frame of the clip to the next.
        rng: R streams.
    """
    spare = available - (num_frames - 1) * stride
    start = rng.integers(np.where(spare > 0, spare, available))
    period = np.maximum(2 * (available - 1), 1)[:, None]
    places = (start[:, None] + np.arange(num_frames) * stride[:, None]) % period
    numbers = np.where(available[:, None] > 1, np.minimum(places, period - places), 0)
    return [tuple(row) for row in numbers.tolist()]


def _draw_motion(batch: Batch, parameters: Any, clips: Int, poses: Float) -> list[dict[str, Factor]]:
    """Draw the motion of backgrounds relative to frame 0 into ``poses``; return the factors of each clip."""
    recipe, factors = batch.recipe, [{} for _ in clips]  # type: ignore[var-annotated]
    if not isinstance(parameters, MovingBackground):
        return factors
    ranges = [getattr(parameters, name) for name in BACKGROUND_MOTION_KEYS]
    if not any(ranges):
        return factors
    rng = batch.streams("background motion", clips)
    speed, zoom, roll = (rng.uniform(*(values or (0.0, 0.0))) for values in ranges)
    direction = rng.uniform(0.0, 360.0)
    angle = np.deg2rad(direction)
    middle = np.array(recipe.size[::-1]) / 2
    step = geometry.compose(
        geometry.translation(middle + speed[:, None] * np.array([np.cos(angle), np.sin(angle)]).T),
        geometry.rotation(roll),
        geometry.scaling(np.exp(zoom)[:, None] * np.ones(2)),
        geometry.translation(-middle),
    )
    for t in range(1, recipe.num_frames):
        poses[clips, t] = step @ poses[clips, t - 1]
    drawn = {
        "drift_px_per_frame": speed,
        "drift_direction_degrees": direction,
        "zoom_log_per_frame": zoom,
        "roll_degrees_per_frame": roll,
    }
    add_factors(factors, range(len(clips)), drawn)
    return factors


def _draw_crop(
    recipe: Recipe, image_hw: Int, zoom: Float | float, motion: Float, rng: RandomStreams
) -> Float:
    """Draw the place of frame 0 in images ``[R, 2]``; returns poses ``[R, 3, 3]`` of the images.

    With ``zoom`` 1 the crop is as large as possible. If ``motion`` leaves the image, the crop is made
    smaller, down to half, until all frames fit. A motion that is still too large is centred.
    """
    frame_h, frame_w = recipe.size
    h, w = image_hw.T
    seen = geometry.apply(geometry.invert(motion), geometry.corners(frame_w, frame_h))
    seen = seen.reshape(len(motion), -1, 2)
    low, high = seen.min(axis=1), seen.max(axis=1)
    image_wh = image_hw[:, ::-1]
    scale = np.maximum(frame_h / h, frame_w / w) * zoom
    fitting = ((high - low) / image_wh).max(axis=1)
    scale = np.minimum(np.maximum(scale, fitting), 2 * scale)[:, None]
    slack = image_wh * scale - (high - low)
    share = np.where(slack > -1e-6, rng.random(2), 0.5)
    return geometry.translation(low - share * slack) @ geometry.scaling(scale * np.ones(2))
