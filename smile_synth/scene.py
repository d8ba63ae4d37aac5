"""Scene: everything a clip is made of, drawn once; and `sample_scene`, where every draw happens."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from smile_synth import geometry
from smile_synth.actors import VIEWING_DISTANCE, Actors, Factor, cast
from smile_synth.backgrounds import BackgroundFolder, drawn_texture
from smile_synth.coverage import Border, level_of_detail
from smile_synth.errors import UserError
from smile_synth.looks import NO_LOOKS, Looks, Shadow, feathered
from smile_synth.motion import draw_camera_curves, draw_key_times, draw_recursion
from smile_synth.objects import ObjectBank
from smile_synth.occlusion import reach_targets
from smile_synth.recipe import (
    MOTION_KEYS,
    AnyBackground,
    GradientBackground,
    ImageBackground,
    LookParameters,
    MovingBackground,
    NoiseBackground,
    OneOverFBackground,
    Recipe,
    SolidBackground,
    VideoBackground,
)
from smile_synth.rng import RandomStream, RandomStreams
from smile_synth.texture import Texture

Float = NDArray[np.float64]
# Gives the random stream of a purpose, for one clip.
Stream = Callable[[str], RandomStream]
# Scenes without looks have the first magic line, so that they are the same bytes as ever.
_MAGIC, _MAGIC_WITH_LOOKS = b"SMILESCENE1\n", b"SMILESCENE2\n"
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
        feather: texels over which a cut-out fades in from its edge, see `smile_synth.looks.feathered`.
        shadow: that a cut-out casts; None: none.
    """

    surface: Surface
    border: Border = "transparent"
    labelled: bool = False
    class_name: str = ""
    factors: dict[str, Factor] = field(default_factory=dict)
    feather: float = 0.0
    shadow: Shadow | None = None


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
        looks: how it is exposed.
        gamma: ``[L, T]`` exponent of the colour after gain and bias, on straight values; None: 1 everywhere.
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
    looks: Looks = NO_LOOKS
    gamma: Float | None = None

    def __post_init__(self) -> None:
        """Refuse arrays of another shape or type, and freeze them."""
        for name, trailing in self._arrays().items():
            array = getattr(self, name)
            expected = (len(self.layers), self.num_frames, *trailing)
            if array.shape != expected or array.dtype != np.float64:
                raise ValueError(f"{name}: expected float64 {expected}, got {array.dtype} {array.shape}")
            array.flags.writeable = False

    def _arrays(self) -> dict[str, tuple[int, ...]]:
        return _ARRAYS if self.gamma is None else {**_ARRAYS, "gamma": ()}

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
        if size_hw == self.size_hw:
            # A product with one would make -0, which is stored, 0.
            return replace(self, object_to_frame=self.object_to_frame + 0.0)
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
        arrays = self._arrays()
        other = ("layers", "looks", "gamma")
        plain = [f.name for f in fields(self) if f.name not in _ARRAYS and f.name not in other]
        header: dict[str, Any] = {name: getattr(self, name) for name in plain}
        header["num_frames"] = self.num_frames
        header["layers"] = [_layer_values(layer) for layer in self.layers]
        looked = self.gamma is not None or self.looks != NO_LOOKS or any(map(_has_looks, self.layers))
        if looked:
            header["looks"], header["has_gamma"] = vars(self.looks), self.gamma is not None
        text = json.dumps(header, sort_keys=True, allow_nan=False).encode()
        packed = b"".join(np.ascontiguousarray(getattr(self, name), "<f8").tobytes() for name in arrays)
        return (_MAGIC_WITH_LOOKS if looked else _MAGIC) + struct.pack("<I", len(text)) + text + packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Scene:
        """Read back what `to_bytes` wrote.

        Raises:
            UserError: not a scene, or cut short.
        """
        start = len(_MAGIC) + 4
        if not data.startswith((_MAGIC, _MAGIC_WITH_LOOKS)) or len(data) < start:
            raise UserError("not a scene file of this version")
        (length,) = struct.unpack("<I", data[len(_MAGIC) : start])
        try:
            values: dict[str, Any] = json.loads(data[start : start + length])
            layers = tuple(_layer(entry) for entry in values.pop("layers"))
            leading = (len(layers), values.pop("num_frames"))
            offset = start + length
            if data.startswith(_MAGIC_WITH_LOOKS):
                looks = values.pop("looks")
                values["looks"] = Looks(**{**looks, "grain_key": tuple(looks["grain_key"])})
            has_gamma = bool(values.pop("has_gamma", False))
            for name, trailing in {**_ARRAYS, **({"gamma": ()} if has_gamma else {})}.items():
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


def _has_looks(layer: Layer) -> bool:
    return layer.feather != 0.0 or layer.shadow is not None


def _layer_values(layer: Layer) -> dict[str, Any]:
    """Return a layer as plain data; looks stand only where there are any."""
    surface = {"kind": type(layer.surface).__name__, **vars(layer.surface)}
    values = {**vars(layer), "surface": surface}
    del values["feather"], values["shadow"]
    if layer.feather:
        values["feather"] = layer.feather
    if layer.shadow is not None:
        values["shadow"] = vars(layer.shadow)
    return values


def _layer(entry: dict[str, Any]) -> Layer:
    """Build a layer from the plain data that `Scene.to_bytes` wrote."""
    shadow = entry.pop("shadow", None)
    if shadow is not None:
        entry["shadow"] = Shadow(**{**shadow, "offset_xy": tuple(shadow["offset_xy"])})
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


def cut_out_of(layer: Layer, bank: ObjectBank, backgrounds: BackgroundFolder | None = None) -> Texture:
    """Return the texture of a layer in front, with the edges that it is shown with."""
    if not isinstance(layer.surface, Picture):
        raise ValueError(f"a cut-out is a picture, not {type(layer.surface).__name__}")
    texture = texture_of(layer.surface, bank, backgrounds)
    return feathered(texture, layer.feather) if layer.feather else texture


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
    """Return the mip levels ``[L, T]`` of layers under poses ``[L, T, 3, 3]``."""
    levels = np.zeros(poses.shape[:2])
    pictures = [i for i, layer in enumerate(layers) if isinstance(layer.surface, Textured)]
    if pictures:
        sizes = [(layers[i].surface.height, layers[i].surface.width) for i in pictures]  # type: ignore[union-attr]
        height, width = np.array(sizes, np.float64).T[..., None]
        levels[pictures] = level_of_detail(poses[pictures], height, width)
    return levels


def sample_scene(
    recipe: Recipe, bank: ObjectBank, backgrounds: BackgroundFolder | None = None, *, seed: int, index: int
) -> Scene:
    """Draw the scene of clip ``index``: a pure function of recipe, sources, seed and index.

    Every purpose has a random stream of its own: the count, the depth order, the key times, the choice of
    background and the background, each object's look, choice of motion, path and every curve, the relation,
    the camera. Changing one part of a recipe leaves the draws of the others as they were.

    Raises:
        UserError: the recipe wants pictures behind and none were given, or classes the bank lacks.
    """
    return sample_scenes(recipe, bank, backgrounds, seed=seed, indices=[index])[0]


def sample_scenes(
    recipe: Recipe,
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None = None,
    *,
    seed: int,
    indices: Sequence[int],
) -> list[Scene]:
    """Draw the scenes of many clips at once: to the bit those of `sample_scene`, several times faster.

    The arrays of the scenes of a batch are views of common ones. A few hundred clips make a good batch.

    Raises:
        UserError: as for `sample_scene`.
    """
    if not recipe.mixture:
        return _scenes(recipe, recipe, bank, backgrounds, seed, np.asarray(indices, np.int64))
    u = RandomStreams(seed, indices, "mixture").random()
    weights = np.array([[entry.weight_at(index) for entry in recipe.mixture] for index in indices])
    total = weights.sum(axis=1)
    if not (total > 0).all():
        clip = indices[int(np.argmin(total))]
        raise UserError(f"mixture: every weight is 0 at clip {clip}")
    chosen = (np.cumsum(weights, axis=1) <= (u * total)[:, None]).sum(axis=1)
    scenes: dict[int, Scene] = {}
    for number, entry in enumerate(recipe.mixture):
        rows = np.flatnonzero(chosen == number)
        if len(rows):
            drawn = _scenes(
                entry.recipe or recipe, recipe, bank, backgrounds, seed, np.asarray(indices, np.int64)[rows]
            )
            for scene in drawn:
                scene.factors["mixture_entry"] = float(number)
            scenes.update(zip(rows.tolist(), drawn, strict=True))
    return [scenes[row] for row in range(len(indices))]


def _scenes(
    recipe: Recipe,
    whole: Recipe,
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None,
    seed: int,
    indices: NDArray[np.int64],
) -> list[Scene]:
    """Draw clips of one recipe, which may stand in the mixture of the whole one."""
    frames = recipe.num_frames
    actors = cast(recipe, bank, seed, indices)
    order = _depth_orders(recipe, actors, seed, indices)
    camera, factors = _cameras(recipe, seed, indices)
    if recipe.occlusion:
        camera_pose = None if camera is None else camera.pose
        actors, order = reach_targets(
            recipe, bank, actors, order, camera_pose, factors, seed=seed, indices=indices
        )

    # Slots of the common arrays: every clip's background, then its objects from back to front.
    counts = np.bincount(actors.clip, minlength=len(indices))
    first = np.cumsum(counts + 1) - (counts + 1)
    slots = np.arange(len(order)) + actors.clip[order] + 1
    total = len(order) + len(indices)
    poses = np.empty((total, frames, 3, 3))
    poses[slots] = actors.poses(recipe.size)[order]
    opacity, gain, depth = np.ones((total, frames)), np.ones((total, frames, 3)), np.empty((total, frames))
    opacity[slots], gain[slots] = actors.opacity[order], actors.gain[order]
    bias, gamma = np.zeros((total, frames, 3)), None
    if actors.bias is not None:
        bias[slots] = actors.bias[order]
    if actors.gamma is not None:
        gamma = np.ones((total, frames))
        gamma[slots] = actors.gamma[order, :, 0]
    # As deep as there are layers in front, and one.
    rank = np.repeat(counts + 1, counts + 1) - (np.arange(total) - np.repeat(first, counts + 1))
    depth[:] = rank[:, None]
    depth[slots] += actors.depth[order]
    class_ids = bank.class_ids[actors.object_id].tolist()
    sizes = list(zip(actors.object_id.tolist(), actors.height.tolist(), actors.width.tolist(), strict=True))
    looks, shadows, edges = _drawn_looks(recipe.looks, seed, indices, factors)
    texels_per_pixel = np.sqrt(
        actors.height * actors.width / actors.box_wh.prod(axis=2).mean(axis=1)
    ).tolist()
    layers: list[Layer] = []
    places = order.tolist()
    for clip, index in enumerate(indices.tolist()):
        background, pose, brightness = _background(recipe, backgrounds, partial(RandomStream, seed, index))
        slot = len(layers)
        poses[slot], gain[slot] = pose, brightness
        layers.append(background)
        for i in places[slot - clip : slot - clip + int(counts[clip])]:
            surface = Picture("objects", *sizes[i])
            labelled = bool(actors.labelled[i])
            class_name = bank.class_names[class_ids[i]] if labelled else ""
            layer = Layer(surface, "transparent", labelled, class_name, actors.factors[i])
            layers.append(_with_looks(layer, edges[clip], shadows[clip], texels_per_pixel[i]))
    if camera is not None:
        clip_of_slot = np.repeat(np.arange(len(indices)), counts + 1)
        poses = geometry.product(camera.pose[clip_of_slot], poses)
        gain *= camera.gain[clip_of_slot]
    level = _levels(layers, poses)
    background_digest = backgrounds.digest if backgrounds and _uses_pictures(whole) else ""
    labelled_counts = np.bincount(actors.clip[actors.labelled], minlength=len(indices)).tolist()
    scenes = []
    for clip, index in enumerate(indices.tolist()):
        part = slice(int(first[clip]), int(first[clip] + counts[clip] + 1))
        scenes.append(
            Scene(
                size_hw=recipe.size,
                recipe_size_hw=recipe.size,
                fps=recipe.fps,
                seed=seed,
                index=index,
                recipe_digest=whole.digest,
                bank_digest=bank.digest,
                background_digest=background_digest,
                layers=tuple(layers[part]),
                object_to_frame=poses[part],
                opacity=opacity[part],
                depth=depth[part],
                gain=gain[part],
                bias=bias[part],
                level=level[part],
                factors={"num_objects": float(labelled_counts[clip]), **factors[clip]},
                looks=looks[clip],
                # By the clip's own values: other clips of the batch change nothing.
                gamma=None if gamma is None or (gamma[part] == 1).all() else gamma[part],
            )
        )
    return scenes


def _drawn_looks(
    parameters: LookParameters, seed: int, indices: NDArray[np.int64], factors: list[dict[str, Factor]]
) -> tuple[list[Looks], list[Shadow | None], list[float]]:
    """Draw the looks of clips, their shadows with a blur in pixels, and widths of soft edges in pixels."""
    count = len(indices)
    if parameters == LookParameters():
        return [NO_LOOKS] * count, [None] * count, [0.0] * count

    def drawn(name: str, bounds: tuple[float, float] | None, purpose: str) -> list[float]:
        """Draw one value of every clip and note it; 0 where the recipe wants none."""
        if bounds is None:
            return [0.0] * count
        values: list[float] = RandomStreams(seed, indices, purpose).uniform(*bounds).tolist()
        for found, value in zip(factors, values, strict=True):
            found[f"looks.{name}"] = value
        return values

    shutter = drawn("shutter_degrees", parameters.shutter, "shutter")
    grain = drawn("grain_share", parameters.grain, "grain")
    edges = drawn("soft_edges_px", parameters.soft_edges, "soft edges")
    keys = [(0, 0)] * count
    if parameters.grain is not None:
        words = RandomStreams(seed, indices, "grain key").random(2) * 2.0**32
        keys = [(int(a), int(b)) for a, b in words.tolist()]
    crf: list[int | None] = [None] * count
    if parameters.compression is not None:
        low, high = parameters.compression
        crf = [low + int(k) for k in RandomStreams(seed, indices, "compression").integers(high + 1 - low)]
        for found, value in zip(factors, crf, strict=True):
            found["looks.compression_crf"] = float(value or 0)
    looks = [
        Looks(
            shutter=shutter[i] / 360,
            shutter_samples=parameters.shutter_samples if shutter[i] else 1,
            linear_light=parameters.linear_light,
            grain=grain[i],
            grain_key=keys[i],
            compression=crf[i],
        )
        for i in range(count)
    ]
    shadows: list[Shadow | None] = [None] * count
    if parameters.shadows is not None:
        light = parameters.shadows
        strength = drawn("shadow_strength_share", light.strength, "shadow strength")
        distance = drawn("shadow_distance_px", light.distance, "shadow distance")
        direction = drawn("shadow_direction_degrees", light.direction, "shadow direction")
        blur = drawn("shadow_blur_px", light.blur, "shadow blur")
        for i in range(count):
            toward = np.deg2rad(direction[i])
            offset = float(distance[i] * np.cos(toward)), float(distance[i] * np.sin(toward))
            shadows[i] = Shadow(strength[i], offset, blur[i])
    return looks, shadows, edges


def _with_looks(layer: Layer, edge: float, shadow: Shadow | None, texels_per_pixel: float) -> Layer:
    """Give an object its clip's soft edge and shadow, whose widths in pixels become its own texels."""
    if edge:
        layer = replace(layer, feather=edge * texels_per_pixel)
    if shadow is not None:
        layer = replace(layer, shadow=replace(shadow, blur=shadow.blur * texels_per_pixel))
    return layer


def _depth_orders(recipe: Recipe, actors: Actors, seed: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of all actors, clip after clip, in each from back to front."""
    if recipe.objects.depth_order == "area":
        # As published: the larger the average area, the farther behind.
        area = actors.box_wh.prod(axis=2).mean(axis=1)
        return np.lexsort((-area, actors.clip)).astype(np.int64)
    counts = np.bincount(actors.clip, minlength=len(indices))
    drawn = RandomStreams(seed, indices, "depth order").permutations(counts)
    starts = np.cumsum(counts) - counts
    orders = [start + order for start, order in zip(starts, drawn, strict=True)]
    return np.concatenate(orders) if orders else np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Camera:
    """The camera of B clips: ``pose`` ``[B, T, 3, 3]`` and ``gain`` ``[B, T, 3]``."""

    pose: Float
    gain: Float


def _cameras(
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


_Weighted = TypeVar("_Weighted", bound=Any)


def _pick(entries: Sequence[_Weighted], rng: RandomStream) -> _Weighted:
    return entries[0] if len(entries) == 1 else entries[rng.choice([entry.weight for entry in entries])]


def _uses_pictures(recipe: Recipe) -> bool:
    recipes = [recipe, *(entry.recipe for entry in recipe.mixture if entry.recipe is not None)]
    return any(
        isinstance(entry, ImageBackground | VideoBackground) for each in recipes for entry in each.backgrounds
    )


def _background(
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
        gradient = Drawn("gradient", key, 0.0, side, side)
        pose = _crop(recipe, (side, side), 1.0, camera, rng)
        return Layer(gradient, border="reflect", factors=factors), camera @ pose, brightness
    side = -(-side // 16) * 16  # so that the first mip levels repeat without a seam, too
    exponent = rng.uniform(*parameters.exponent) if isinstance(parameters, OneOverFBackground) else 0.0
    endless = Drawn(parameters.kind, key, exponent, side, side)
    return Layer(endless, border="repeat", factors=factors), camera, brightness


def _from_folder(
    recipe: Recipe,
    parameters: ImageBackground | VideoBackground,
    backgrounds: BackgroundFolder | None,
    camera: Float,
    factors: dict[str, Factor],
    rng: RandomStream,
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
    number = rng.integer(count)
    zoom = rng.uniform(*parameters.zoom)
    if isinstance(parameters, ImageBackground):
        size_hw = backgrounds.sizes_hw[number]
        pose = _crop(recipe, size_hw, zoom, camera, rng)
        return Layer(Picture("backgrounds", number, *size_hw), "reflect", factors=factors), camera @ pose
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
    ranges = [getattr(parameters, name) for name in MOTION_KEYS]
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


def _crop(
    recipe: Recipe, picture_hw: tuple[int, int], zoom: float, camera: Float, rng: RandomStream
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
    share = np.where(slack > -1e-6, rng.randoms(2), 0.5)
    return geometry.translation(low - share * slack) @ geometry.scaling([scale, scale])
