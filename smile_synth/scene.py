"""Scene: everything a clip is made of, drawn once; and `sample_scene`, where every draw happens."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from smile_synth import geometry
from smile_synth.backgrounds import BackgroundFolder, drawn_texture
from smile_synth.coverage import Border, level_of_detail
from smile_synth.errors import UserError
from smile_synth.motion import PathRequest, draw_curve, draw_key_times, draw_path
from smile_synth.objects import ObjectBank
from smile_synth.recipe import (
    MOTION_KEYS,
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
from smile_synth.rng import generator
from smile_synth.texture import Texture

Float = NDArray[np.float64]
Factor = str | float
# Gives the random stream of a purpose, for one clip.
Stream = Callable[[str], np.random.Generator]
_MAGIC = b"SMILESCENE1\n"
_DECODED_TOGETHER = 16  # frames of a video, to bound the memory of long clips


@dataclass(frozen=True)
class Solid:
    """A colour without end. ``rgb`` is 0..255."""

    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Noise:
    """Uniform noise without end, drawn per recipe pixel by Philox 4x32-10.

    Attributes:
        key: two 32-bit words.
        redrawn: new noise in every frame.
    """

    key: tuple[int, int]
    redrawn: bool


@dataclass(frozen=True)
class Picture:
    """A texture of the bank or of the backgrounds."""

    source: Literal["objects", "backgrounds"]
    texture_id: int
    height: int
    width: int


@dataclass(frozen=True)
class Drawn:
    """A texture made from nothing but a key, see `smile_synth.backgrounds.drawn_texture`.

    Attributes:
        pattern: ``one-over-f``, ``dead-leaves`` or ``gradient``.
        key: two 32-bit words.
        exponent: of 1/f noise, else 0.
        height, width: its side, twice.
    """

    pattern: str
    key: tuple[int, int]
    exponent: float
    height: int
    width: int


@dataclass(frozen=True)
class Video:
    """Natural video of the backgrounds.

    Attributes:
        video_id: which one.
        numbers: its frame that each frame of the clip shows.
        height: of its frames.
        width: of its frames.
    """

    video_id: int
    numbers: tuple[int, ...]
    height: int
    width: int


Textured = Picture | Drawn | Video
Surface = Solid | Noise | Textured


@dataclass(frozen=True)
class Layer:
    """What does not change over time.

    Attributes:
        surface: what is seen.
        border: what stands outside a picture.
        labelled: whether labels are made of it; unlabelled layers still occlude.
        class_name: class of a labelled layer.
        factors: drawn values a probe could predict; names end in their unit.
    """

    surface: Surface
    border: Border = "transparent"
    labelled: bool = False
    class_name: str = ""
    factors: dict[str, Factor] = field(default_factory=dict)


# name -> trailing shape of the per-layer, per-frame arrays [L, T, ...]
_ARRAYS: dict[str, tuple[int, ...]] = {
    "object_to_frame": (3, 3),
    "opacity": (),
    "depth": (),
    "gain": (3,),
    "bias": (3,),
    "level": (),
}


@dataclass(frozen=True)
class Scene:
    """An immutable description of one clip; layer 0 is the background.

    Attributes:
        size_hw: frame size in pixels.
        recipe_size_hw: the recipe's own frame size; noise stays in its pixels.
        fps: frames per second.
        seed: of the corpus or stream.
        index: of the clip.
        recipe_digest, bank_digest, background_digest: what it was drawn from.
        layers: L layers, what does not change over time.
        object_to_frame: ``[L, T, 3, 3]`` texture pixels to frame pixels.
        opacity: ``[L, T]`` 0..1.
        depth: ``[L, T]``, smaller is nearer; equal depths: the later layer is in front.
        gain, bias: ``[L, T, 3]``, colour becomes gain x colour + bias (1 is full scale), premultiplied.
        level: ``[L, T]`` mip level, see `smile_synth.coverage.level_of_detail`.
        factors: drawn values of the clip as a whole.
    """

    size_hw: tuple[int, int]
    recipe_size_hw: tuple[int, int]
    fps: float
    seed: int
    index: int
    recipe_digest: str
    bank_digest: str
    background_digest: str
    layers: tuple[Layer, ...]
    object_to_frame: Float
    opacity: Float
    depth: Float
    gain: Float
    bias: Float
    level: Float
    factors: dict[str, Factor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type, and freeze them."""
        for name, trailing in _ARRAYS.items():
            array = getattr(self, name)
            expected = (len(self.layers), self.num_frames, *trailing)
            if array.shape != expected or array.dtype != np.float64:
                raise ValueError(f"{name}: expected float64 {expected}, got {array.dtype} {array.shape}")
            array.flags.writeable = False

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return int(self.object_to_frame.shape[1])

    def front_to_back(self, frame: int) -> list[int]:
        """Return the layers of a frame, the nearest first, the background last."""
        order = sorted(range(1, len(self.layers)), key=lambda layer: (self.depth[layer, frame], -layer))
        return [*order, 0]

    def scaled_to(self, size_hw: tuple[int, int]) -> Scene:
        """Return the same scene at another frame size of the same aspect.

        Raises:
            UserError: the aspect differs by more than one pixel on either side, or nothing is left.
        """
        (h, w), (new_h, new_w) = self.size_hw, size_hw
        if min(size_hw) < 1:
            raise UserError(f"size {new_h}x{new_w}: must have at least one pixel on either side")
        if abs(new_w - new_h * w / h) > 1 and abs(new_h - new_w * h / w) > 1:
            raise UserError(f"size {new_h}x{new_w}: must keep the recipe's aspect {h}x{w} (height x width)")
        scale = geometry.scaling([new_w / w, new_h / h])
        poses = scale @ self.object_to_frame
        return replace(self, size_hw=size_hw, object_to_frame=poses, level=_levels(self.layers, poses))

    def to_bytes(self) -> bytes:
        """Serialise: a magic line, a length, JSON, then the arrays as little-endian float64."""
        plain = [f.name for f in fields(self) if f.name not in _ARRAYS and f.name != "layers"]
        header: dict[str, Any] = {name: getattr(self, name) for name in plain}
        header["num_frames"] = self.num_frames
        header["layers"] = [
            {**asdict(layer), "surface": {"kind": type(layer.surface).__name__, **asdict(layer.surface)}}
            for layer in self.layers
        ]
        text = json.dumps(header, sort_keys=True, allow_nan=False).encode()
        arrays = b"".join(np.ascontiguousarray(getattr(self, name), "<f8").tobytes() for name in _ARRAYS)
        return _MAGIC + struct.pack("<I", len(text)) + text + arrays

    @classmethod
    def from_bytes(cls, data: bytes) -> Scene:
        """Read back what `to_bytes` wrote.

        Raises:
            UserError: not a scene, or cut short.
        """
        start = len(_MAGIC) + 4
        if not data.startswith(_MAGIC) or len(data) < start:
            raise UserError("not a scene file of this version")
        (length,) = struct.unpack("<I", data[len(_MAGIC) : start])
        try:
            values: dict[str, Any] = json.loads(data[start : start + length])
            layers = tuple(_layer(entry) for entry in values.pop("layers"))
            leading = (len(layers), values.pop("num_frames"))
            offset = start + length
            for name, trailing in _ARRAYS.items():
                count = int(np.prod((*leading, *trailing)))
                array = np.frombuffer(data, "<f8", count, offset).astype(np.float64)
                values[name] = array.reshape(*leading, *trailing)
                offset += 8 * count
            if offset != len(data):
                raise ValueError
            for name in ("size_hw", "recipe_size_hw"):
                values[name] = tuple(values[name])
            return cls(layers=layers, **values)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError("a scene file is cut short or damaged") from None

    @property
    def digest(self) -> str:
        """sha256 of the serialised scene."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _layer(entry: dict[str, Any]) -> Layer:
    """Build a layer from the plain data that `Scene.to_bytes` wrote."""
    kinds: dict[str, Any] = {kind.__name__: kind for kind in (Solid, Noise, Picture, Drawn, Video)}
    surface = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.pop("surface").items()}
    return Layer(surface=kinds[str(surface.pop("kind"))](**surface), **entry)


def texture_of(
    surface: Textured, bank: ObjectBank, backgrounds: BackgroundFolder | None, frame: int = 0
) -> Texture:
    """Return the texture that a layer shows in a frame of the clip; only a video's depends on the frame.

    Raises:
        UserError: the scene needs background pictures and none were given.
    """
    if isinstance(surface, Drawn):
        return drawn_texture(surface.pattern, surface.key, surface.height, surface.exponent)
    if isinstance(surface, Picture) and surface.source == "objects":
        return bank.texture(surface.texture_id)
    if backgrounds is None:
        raise UserError("the scene has a picture behind it: give the backgrounds folder it was drawn from")
    if isinstance(surface, Picture):
        return backgrounds.texture(surface.texture_id)
    place = frame % _DECODED_TOGETHER
    together = surface.numbers[frame - place : frame - place + _DECODED_TOGETHER]
    return Texture.opaque(backgrounds.frames(surface.video_id, together)[place])


def is_redrawn(surface: Surface) -> bool:
    """Return whether every frame shows something new, so that no point has a place in another frame."""
    return isinstance(surface, Video) or (isinstance(surface, Noise) and surface.redrawn)


def check_sources(scene: Scene, bank: ObjectBank, backgrounds: BackgroundFolder | None) -> None:
    """Refuse sources other than those the scene was drawn from.

    Raises:
        UserError: a digest differs.
    """
    if scene.bank_digest != bank.digest:
        raise UserError(f"bank '{bank.path}': is not the bank this scene was drawn from (its digest differs)")
    if scene.background_digest and (backgrounds is None or scene.background_digest != backgrounds.digest):
        raise UserError("backgrounds: not the pictures this scene was drawn from (their digest differs)")


def _levels(layers: Sequence[Layer], poses: Float) -> Float:
    levels = np.zeros(poses.shape[:2])
    for i, layer in enumerate(layers):
        if isinstance(layer.surface, Textured):
            levels[i] = level_of_detail(poses[i], layer.surface.height, layer.surface.width)
    return levels


def sample_scene(
    recipe: Recipe, bank: ObjectBank, backgrounds: BackgroundFolder | None = None, *, seed: int, index: int
) -> Scene:
    """Draw the scene of clip ``index``: a pure function of recipe, sources, seed and index.

    Every purpose has a random stream of its own: the count, the depth order, the key times, the choice of
    background and the background, each object's look, choice of motion, growth, rotation and path. Changing
    one part of a recipe leaves the draws of the others as they were.

    Raises:
        UserError: the recipe wants pictures behind and none were given, or classes the bank lacks.
    """
    frames = recipe.num_frames
    stream: Stream = partial(generator, seed, index)
    count = int(stream("count").integers(recipe.objects.count[0], recipe.objects.count[1] + 1))
    shared_motion = _pick(recipe.motion, stream("motion"))
    key_times = draw_key_times(frames, recipe.key_times, rng=stream("key times"))
    background, background_poses, brightness = _background(recipe, backgrounds, stream)
    candidates = bank.select(split=recipe.objects.split, classes=recipe.objects.classes)

    drawn = []
    for k in range(count):
        parameters = shared_motion
        if not recipe.objects.shared_motion:
            parameters = _pick(recipe.motion, stream(f"motion {k}"))
        drawn.append(_object(recipe, bank, candidates, parameters, key_times, stream, k))
    if recipe.objects.depth_order == "area":
        # As published: the larger the average area, the farther behind.
        drawn.sort(key=lambda item: -item[2])
    else:
        drawn = [drawn[i] for i in stream("depth order").permutation(count)]

    layers = (background, *(layer for layer, _, _ in drawn))
    poses = np.stack([background_poses, *(pose for _, pose, _ in drawn)])
    num_layers = len(layers)
    gain = np.ones((num_layers, frames, 3))
    gain[0] = brightness
    return Scene(
        size_hw=recipe.size,
        recipe_size_hw=recipe.size,
        fps=recipe.fps,
        seed=seed,
        index=index,
        recipe_digest=recipe.digest,
        bank_digest=bank.digest,
        background_digest=backgrounds.digest if backgrounds and _uses_pictures(recipe) else "",
        layers=layers,
        object_to_frame=poses,
        opacity=np.ones((num_layers, frames)),
        depth=np.repeat(np.arange(num_layers, 0, -1, dtype=np.float64)[:, None], frames, axis=1),
        gain=gain,
        bias=np.zeros((num_layers, frames, 3)),
        level=_levels(layers, poses),
        factors={"num_objects": float(count)},
    )


_Weighted = TypeVar("_Weighted", bound=Any)


def _pick(entries: Sequence[_Weighted], rng: np.random.Generator) -> _Weighted:
    if len(entries) == 1:
        return entries[0]
    weights = np.array([entry.weight for entry in entries])
    return entries[int(rng.choice(len(entries), p=weights / weights.sum()))]


def _uses_pictures(recipe: Recipe) -> bool:
    return any(isinstance(entry, ImageBackground | VideoBackground) for entry in recipe.backgrounds)


def _background(
    recipe: Recipe, backgrounds: BackgroundFolder | None, stream: Stream
) -> tuple[Layer, Float, float]:
    """Draw the background: its layer, its poses ``[T, 3, 3]`` and its brightness."""
    parameters: AnyBackground = _pick(recipe.backgrounds, stream("choice of background"))
    rng = stream("background")
    brightness = float(rng.uniform(*parameters.brightness))
    camera, factors = _background_motion(recipe, parameters, stream)
    if isinstance(parameters, SolidBackground):
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
        color = (red, green, blue) if parameters.color is None else parameters.color
        return Layer(Solid(color), border="repeat"), camera, brightness
    if isinstance(parameters, ImageBackground | VideoBackground):
        return *_from_folder(recipe, parameters, backgrounds, camera, factors, rng), brightness
    words = rng.integers(0, 2**32, 2)
    key = int(words[0]), int(words[1])
    if isinstance(parameters, NoiseBackground):
        return Layer(Noise(key, parameters.redrawn), border="repeat", factors=factors), camera, brightness
    side = max(recipe.size)
    if isinstance(parameters, GradientBackground):
        gradient = Drawn("gradient", key, 0.0, side, side)
        pose = _crop(recipe, (side, side), 1.0, camera, rng)
        return Layer(gradient, border="reflect", factors=factors), camera @ pose, brightness
    side = -(-side // 16) * 16  # so that the first mip levels repeat without a seam, too
    exponent = float(rng.uniform(*parameters.exponent)) if isinstance(parameters, OneOverFBackground) else 0.0
    endless = Drawn(parameters.kind, key, exponent, side, side)
    return Layer(endless, border="repeat", factors=factors), camera, brightness


def _from_folder(
    recipe: Recipe,
    parameters: ImageBackground | VideoBackground,
    backgrounds: BackgroundFolder | None,
    camera: Float,
    factors: dict[str, Factor],
    rng: np.random.Generator,
) -> tuple[Layer, Float]:
    """Draw a crop of a picture or of a video's frames: its layer and its poses ``[T, 3, 3]``."""
    what = "pictures" if isinstance(parameters, ImageBackground) else "videos"
    if backgrounds is None:
        raise UserError(
            f"the recipe has '{parameters.kind}' backgrounds: give a folder of {what} (--backgrounds DIR)"
        )
    count = len(backgrounds.files if isinstance(parameters, ImageBackground) else backgrounds.videos)
    if count == 0:
        raise UserError(
            f"the recipe has '{parameters.kind}' backgrounds: '{backgrounds.path}' holds no {what} to read"
        )
    number = int(rng.integers(count))
    zoom = rng.uniform(*parameters.zoom)
    if isinstance(parameters, ImageBackground):
        size_hw = backgrounds.sizes_hw[number]
        pose = _crop(recipe, size_hw, zoom, camera, rng)
        return Layer(Picture("backgrounds", number, *size_hw), "reflect", factors=factors), camera @ pose
    video = backgrounds.videos[number]
    pose = _crop(recipe, (video.height, video.width), zoom, camera, rng)
    stride = int(rng.integers(parameters.stride[0], parameters.stride[1] + 1))
    numbers = _frame_numbers(video.num_frames, recipe.num_frames, stride, rng)
    return Layer(Video(number, numbers, video.height, video.width), "reflect"), camera @ pose


def _frame_numbers(available: int, num_frames: int, stride: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Draw where a video starts and return the frames that the clip shows.

    A video too short for the clip starts anywhere and is played to and fro: ... 2 1 0 1 2 ...
    """
    span = (num_frames - 1) * stride + 1
    start = int(rng.integers(max(available - span + 1, 0) or available))
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
    ranges = [getattr(parameters, name) for name in MOTION_KEYS]
    if ranges == [None] * len(ranges):
        return poses, {}
    rng = stream("background motion")
    speed, zoom, roll = (float(rng.uniform(*(values or (0.0, 0.0)))) for values in ranges)
    direction = float(rng.uniform(0, 360))
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


def _crop(
    recipe: Recipe, picture_hw: tuple[int, int], zoom: float, camera: Float, rng: np.random.Generator
) -> Float:
    """Draw where frame 0 lies in a picture; returns its pose ``[3, 3]``.

    ``zoom`` 1 is the largest crop. Where ``camera`` leads out of the picture the crop is made smaller,
    at most by half, until the whole way fits; what does not fit even then is centred.
    """
    h, w = picture_hw
    frame_h, frame_w = recipe.size
    seen = geometry.apply(geometry.invert(camera), geometry.corners(frame_w, frame_h)).reshape(-1, 2)
    low, high = seen.min(axis=0), seen.max(axis=0)
    scale = max(frame_h / h, frame_w / w) * zoom
    fitting = float(((high - low) / [w, h]).max())
    scale = min(max(scale, fitting), 2 * scale)
    slack = np.array([w, h]) * scale - (high - low)
    share = np.where(slack > -1e-6, rng.random(2), 0.5)
    return geometry.translation(low - share * slack) @ geometry.scaling([scale, scale])


def _object(
    recipe: Recipe,
    bank: ObjectBank,
    candidates: NDArray[np.int64],
    parameters: Any,
    key_times: Float,
    stream: Stream,
    number: int,
) -> tuple[Layer, Float, float]:
    """Draw one object: its layer, its poses ``[T, 3, 3]`` and its average area."""
    objects, frames = recipe.objects, recipe.num_frames
    look = stream(f"object {number}")
    object_id = int(look.choice(candidates))
    height, width = int(bank.heights[object_id]), int(bank.widths[object_id])
    side, aspect = float(look.choice(objects.side)), float(look.choice(objects.aspect))
    if objects.fit == "keep":
        aspect *= width / height
    jitter = look.uniform(-objects.side_jitter, objects.side_jitter, 2)
    box_start = np.array([side * np.sqrt(aspect), side / np.sqrt(aspect)]) * np.exp(jitter)

    growth_dims = 1 if parameters.growth_isotropic else 2
    growth = draw_curve(
        np.zeros(growth_dims), parameters.growth.rate, key_times, frames, rng=stream(f"growth {number}")
    )
    box_wh = box_start * np.exp(growth)
    rotation = draw_curve(
        np.zeros(1), parameters.rotation.rate, key_times, frames, rng=stream(f"rotation {number}")
    )[:, 0]
    path = draw_path(
        parameters, PathRequest(frames, recipe.size, box_wh, key_times), rng=stream(f"path {number}")
    )
    pose = geometry.compose(
        geometry.translation(path.center_xy),
        geometry.rotation(rotation),
        geometry.scaling(box_wh / [width, height]),
        geometry.translation([-width / 2, -height / 2]),
    )
    factors: dict[str, Factor] = {"family": parameters.family}
    factors.update(_motion_factors(path.center_xy, rotation, box_wh))
    factors.update({f"path.{name}": float(value) for name, value in path.factors.items()})
    class_name = bank.class_names[int(bank.class_ids[object_id])]
    layer = Layer(Picture("objects", object_id, height, width), "transparent", True, class_name, factors)
    return layer, pose, float(box_wh.prod(axis=1).mean())


def _motion_factors(center_xy: Float, rotation: Float, box_wh: Float) -> dict[str, Factor]:
    """Measure what every family has in common."""
    steps = np.diff(center_xy, axis=0)
    net = center_xy[-1] - center_xy[0]
    last = max(len(center_xy) - 1, 1)
    factors: dict[str, Factor] = {
        "mean_speed_px_per_frame": float(np.hypot(*steps.T).mean()) if len(steps) else 0.0,
        "net_displacement_px": float(np.hypot(*net)),
        "rotation_degrees_per_frame": float((rotation[-1] - rotation[0]) / last),
        "growth_log_per_frame": float(np.log(box_wh[-1] / box_wh[0]).mean() / last),
    }
    if np.hypot(*net) >= 1.0:  # below a pixel a direction means nothing
        factors["net_direction_degrees"] = float(np.rad2deg(np.arctan2(net[1], net[0])) % 360)
    return factors
