"""Scene: everything that a clip is made of, and its form on disk. Nothing is drawn at random here."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from smile_synth.backgrounds import generated_texture
from smile_synth.core import geometry
from smile_synth.core.appearance import DEFAULT_APPEARANCE, Appearance, Shadow, feathered
from smile_synth.core.coverage import Border, level_of_detail
from smile_synth.core.errors import UserError
from smile_synth.core.texture import Texture
from smile_synth.sources import Sources

Float = NDArray[np.float64]
Factor = str | float
_FIRST_LINE = b"SMILE SCENE 2\n"
_DECODED_TOGETHER = 16  # frames of a video, to bound the memory of long clips
# A pixel and four of its neighbours; the other four are opposite.
_NEIGHBORS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]])


class Factors(dict[str, Factor]):
    """An immutable dict of drawn values by name, with which a probe can be trained; names end in the unit."""

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the factors of a scene are read-only")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = _refuse
    pop = popitem = clear = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        """Hash the items, whatever their order."""
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy through the constructor, because items cannot be set later."""
        return Factors, (dict(self),)


@dataclass(frozen=True)
class Solid:
    """One colour on an infinite plane. ``rgb`` is 0..255."""

    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Noise:
    """Uniform noise on an infinite plane, one value per recipe pixel and channel, from Philox 4x32-10.

    Attributes:
        key: two 32-bit words.
        redrawn: new noise in every frame.
    """

    key: tuple[int, int]
    redrawn: bool


@dataclass(frozen=True)
class StoredImage:
    """A texture of the bank or of the backgrounds, ``height`` x ``width`` texels."""

    source: Literal["objects", "backgrounds"]
    texture_id: int
    height: int
    width: int


@dataclass(frozen=True)
class GeneratedImage:
    """A square texture computed from a key, see `smile_synth.backgrounds.generated_texture`.

    Attributes:
        pattern: ``one-over-f``, ``dead-leaves`` or ``gradient``.
        key: two 32-bit words.
        exponent: of 1/f noise, else 0.
        height, width: texels; both are the side of the square.
    """

    pattern: str
    key: tuple[int, int]
    exponent: float
    height: int
    width: int


@dataclass(frozen=True)
class Video:
    """Frames of a natural video of the backgrounds, ``height`` x ``width`` pixels.

    Attributes:
        video_id: number of the video in the backgrounds.
        numbers: number of the video frame that each frame of the clip shows.
    """

    video_id: int
    numbers: tuple[int, ...] = field(repr=False)
    height: int
    width: int


Textured = StoredImage | GeneratedImage | Video
Surface = Solid | Noise | Textured
_SURFACES: tuple[Any, ...] = (Solid, Noise, StoredImage, GeneratedImage, Video)


@dataclass(frozen=True)
class Layer:
    """The properties of a layer that are constant over time.

    Attributes:
        surface: content of the layer.
        border: content outside an image.
        labelled: whether the layer has labels; unlabelled layers occlude as well.
        class_name: class of a labelled layer.
        factors: drawn values.
        feather: width of the soft edge in texels, see `smile_synth.core.appearance.feathered`.
        shadow: shadow that an object casts; None: no shadow.
    """

    surface: Surface
    border: Border = "transparent"
    labelled: bool = False
    class_name: str = ""
    factors: Factors = field(default_factory=Factors)
    feather: float = 0.0
    shadow: Shadow | None = None

    def __post_init__(self) -> None:
        """Copy mutable factors."""
        if not isinstance(self.factors, Factors):
            object.__setattr__(self, "factors", Factors(self.factors))


# name -> trailing shape of the arrays [L, T, ...]
_ARRAYS: dict[str, tuple[int, ...]] = {
    "object_to_frame": (3, 3),
    "opacity": (),
    "depth": (),
    "gain": (3,),
    "bias": (3,),
    "level": (),
}


@dataclass(frozen=True, eq=False, repr=False)
class Scene:
    """An immutable description of one clip; layer 0 is the background.

    Scenes are equal if their bytes (`to_bytes`) are equal. Writable arrays are copied. Read-only arrays are
    not; the scenes of one batch share them.

    Attributes:
        size_hw: frame size in pixels.
        recipe_size_hw: frame size of the recipe; noise has one value per pixel of this size.
        fps: frames per second.
        seed: of the corpus or stream.
        index: of the clip.
        recipe_digest, bank_digest, background_digest: identify the recipe and the sources.
        layers: L layers.
        object_to_frame: ``[L, T, 3, 3]`` texture pixels to frame pixels.
        opacity: ``[L, T]`` 0..1.
        depth: ``[L, T]``, smaller is nearer; of equal depths the later layer is in front.
        gain, bias: ``[L, T, 3]``, a colour becomes gain x colour + bias (1 is full scale), premultiplied.
        level: ``[L, T]`` mip level, see `smile_synth.core.coverage.level_of_detail`.
        factors: drawn values of the whole clip.
        appearance: camera effects of the whole clip.
        gamma: ``[L, T]`` exponent of straight colours after gain and bias; None: 1 everywhere.

    Raises:
        ValueError: an array of another shape or type.
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
    factors: Factors = field(default_factory=Factors)
    appearance: Appearance = DEFAULT_APPEARANCE
    gamma: Float | None = None

    def __post_init__(self) -> None:
        """Check the arrays, and copy what the caller could change."""
        leading = len(self.layers), self.num_frames
        for name, trailing in self._arrays().items():
            array = getattr(self, name)
            if array.shape != leading + trailing or array.dtype != np.float64:
                expected = f"float64 {leading + trailing}"
                raise ValueError(f"{name}: expected {expected}, got {array.dtype} {array.shape}")
            owner = array if array.base is None else array.base
            if array.flags.writeable or not isinstance(owner, np.ndarray) or owner.flags.writeable:
                array = array.copy()
                array.flags.writeable = False
                object.__setattr__(self, name, array)
        object.__setattr__(self, "layers", tuple(self.layers))
        if not isinstance(self.factors, Factors):
            object.__setattr__(self, "factors", Factors(self.factors))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled scene, whose arrays pickle returns writable."""
        self.__dict__.update(state)
        self.__post_init__()

    def _arrays(self) -> dict[str, tuple[int, ...]]:
        """Return the trailing shapes of the scene's arrays by name."""
        return _ARRAYS if self.gamma is None else {**_ARRAYS, "gamma": ()}

    def __eq__(self, other: object) -> bool:
        """Compare the bytes of both scenes."""
        return isinstance(other, Scene) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        """Hash the address of the scene."""
        return hash((self.recipe_digest, self.bank_digest, self.background_digest, self.seed, self.index))

    def __repr__(self) -> str:
        """Show the shape of the scene."""
        return (
            f"Scene(seed={self.seed}, index={self.index}, size_hw={self.size_hw}, fps={self.fps:g}, "
            f"layers=[{', '.join(type(layer.surface).__name__ for layer in self.layers)}], "
            f"object_to_frame={list(self.object_to_frame.shape)})"
        )

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
            UserError: a side is below 1, or differs by more than one pixel from the side of the same aspect.
        """
        if size_hw == self.size_hw:
            # Adding zero turns -0 into 0, as the product with a scaling does.
            return replace(self, object_to_frame=self.object_to_frame + 0.0)
        (h, w), (new_h, new_w) = self.size_hw, size_hw
        if min(size_hw) < 1:
            raise UserError(f"size {new_h}x{new_w}: must have at least one pixel on either side")
        if abs(new_w - new_h * w / h) > 1 and abs(new_h - new_w * h / w) > 1:
            raise UserError(f"size {new_h}x{new_w}: must keep the recipe's aspect {h}x{w} (height x width)")
        poses = geometry.scaling([new_w / w, new_h / h]) @ self.object_to_frame
        level = levels_of_detail(self.layers, poses)
        return replace(self, size_hw=size_hw, object_to_frame=poses, level=level)

    def to_bytes(self) -> bytes:
        """Serialise: a first line, a length, JSON, then the arrays as little-endian float64."""
        arrays = self._arrays()
        names = (f.name for f in fields(self) if f.name not in _ARRAYS and f.name not in ("layers", "gamma"))
        header: dict[str, Any] = {name: getattr(self, name) for name in names}
        header |= {"appearance": vars(self.appearance), "num_frames": self.num_frames}
        header |= {"layers": [_layer_values(layer) for layer in self.layers], "has_gamma": "gamma" in arrays}
        text = json.dumps(header, sort_keys=True, allow_nan=False).encode()
        packed = b"".join(np.ascontiguousarray(getattr(self, name), "<f8").tobytes() for name in arrays)
        return _FIRST_LINE + struct.pack("<I", len(text)) + text + packed

    @classmethod
    def from_bytes(cls, data: bytes) -> Scene:
        """Read the bytes that `to_bytes` wrote.

        Raises:
            UserError: the bytes are no scene, or are cut short or damaged.
        """
        start = len(_FIRST_LINE) + 4
        if not data.startswith(_FIRST_LINE) or len(data) < start:
            raise UserError("not a scene file of this version")
        (length,) = struct.unpack("<I", data[len(_FIRST_LINE) : start])
        try:
            values = _with_tuples(json.loads(data[start : start + length]))
            values["layers"] = layers = tuple(_layer(entry) for entry in values["layers"])
            values["appearance"] = Appearance(**values["appearance"])
            leading = len(layers), values.pop("num_frames")
            shapes = {**_ARRAYS, "gamma": ()} if values.pop("has_gamma") else _ARRAYS
            offset = start + length
            for name, trailing in shapes.items():
                shape = leading + trailing
                array = np.frombuffer(data, "<f8", int(np.prod(shape)), offset)
                values[name] = array.astype(np.float64).reshape(shape)
                offset += array.nbytes
            if offset != len(data):
                raise ValueError
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError("a scene file is cut short or damaged") from None

    @property
    def digest(self) -> str:
        """sha256 of the serialised scene."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def _layer_values(layer: Layer) -> dict[str, Any]:
    """Return a layer as plain data."""
    surface = {"kind": type(layer.surface).__name__, **vars(layer.surface)}
    shadow = None if layer.shadow is None else vars(layer.shadow)
    return {**vars(layer), "surface": surface, "shadow": shadow}


def _layer(values: dict[str, Any]) -> Layer:
    """Build a layer from the plain data of `_layer_values`."""
    surface, shadow = values.pop("surface"), values.pop("shadow")
    kind = {kind.__name__: kind for kind in _SURFACES}[surface.pop("kind")]
    return Layer(surface=kind(**surface), shadow=None if shadow is None else Shadow(**shadow), **values)


def _with_tuples(value: Any) -> Any:
    """Return JSON data with its lists as tuples, which are hashable."""
    if isinstance(value, dict):
        return {name: _with_tuples(item) for name, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


def texture_of(surface: Textured, sources: Sources, frame: int = 0) -> Texture:
    """Return the texture of a layer in a frame of the clip; only the texture of a video changes over time.

    Raises:
        UserError: the surface needs backgrounds and the sources have none.
    """
    if isinstance(surface, GeneratedImage):
        return generated_texture(surface.pattern, surface.key, surface.height, surface.exponent)
    if isinstance(surface, StoredImage) and surface.source == "objects":
        return sources.objects.texture(surface.texture_id)
    if sources.backgrounds is None:
        raise UserError("the scene has an image or video background: give the backgrounds it was made from")
    if isinstance(surface, StoredImage):
        return sources.backgrounds.texture(surface.texture_id)
    place = frame % _DECODED_TOGETHER
    together = surface.numbers[frame - place : frame - place + _DECODED_TOGETHER]
    return Texture.opaque(sources.backgrounds.frames(surface.video_id, together)[place])


def cut_out_of(layer: Layer, sources: Sources) -> Texture:
    """Return the texture of an object, with its soft edge."""
    if not isinstance(layer.surface, StoredImage):
        raise ValueError(f"an object's surface must be a StoredImage, got {type(layer.surface).__name__}")
    texture = texture_of(layer.surface, sources)
    return feathered(texture, layer.feather) if layer.feather else texture


def is_redrawn(surface: Surface) -> bool:
    """Return whether every frame shows new content, so that points cannot be followed between frames."""
    return isinstance(surface, Video) or (isinstance(surface, Noise) and surface.redrawn)


def check_sources(scene: Scene, sources: Sources) -> None:
    """Check that the scene was made from these sources.

    Raises:
        UserError: a digest differs.
    """
    sources.check(scene.bank_digest, scene.background_digest)


def levels_of_detail(layers: Sequence[Layer], poses: Float) -> Float:
    """Return the mip levels ``[L, T]`` of layers with poses ``[L, T, 3, 3]``; 0 without a texture."""
    levels = np.zeros(poses.shape[:2])
    images = [i for i, layer in enumerate(layers) if isinstance(layer.surface, Textured)]
    if images:
        sizes = [(layers[i].surface.height, layers[i].surface.width) for i in images]  # type: ignore[union-attr]
        height, width = np.array(sizes, np.float64).T[..., None]
        levels[images] = level_of_detail(poses[images], height, width)
    return levels


def noise_cells(scene: Scene) -> Float:
    """Return the maps ``[L, 2, 2]`` of texture positions to noise cells, of an appearance-free scene.

    A cell has one colour, and its side is 1 after the map. Cells have the orientation of the pixels in the
    middle frame. They are the largest for which two neighbouring pixels of a frame never show the same cell:
    in every frame, their positions differ by more than a cell along an axis. So the colours of all pixels of
    a frame are independent. With a projective pose, this is checked at the corners of the object, or of the
    frame for the background.
    """
    inverse = geometry.invert(scene.object_to_frame)
    points = np.empty((*inverse.shape[:2], 4, 1, 2))
    points[:] = geometry.corners(*scene.size_hw[::-1])[:, None]
    for k, layer in enumerate(scene.layers):
        if isinstance(layer.surface, Textured) and layer.border == "transparent":
            corners = geometry.corners(layer.surface.width, layer.surface.height)
            points[k, :, :, 0] = geometry.apply(scene.object_to_frame[k], corners)
    # Every corner and four of its neighbours.
    mapped = geometry.apply(inverse, (points + _NEIGHBORS).reshape(*inverse.shape[:2], -1, 2))
    mapped = mapped.reshape(*points.shape[:3], len(_NEIGHBORS), 2)
    steps = mapped[..., 1:, :] - mapped[..., :1, :]
    # Points behind the camera are NaN.
    pixel = steps[:, scene.num_frames // 2, 0, :2].swapaxes(1, 2)
    known = np.isfinite(pixel).all(axis=(1, 2), keepdims=True)
    to_pixels = geometry.invert(np.where(known, pixel, np.eye(2)))
    distances = np.abs(steps @ to_pixels[:, None, None].swapaxes(-1, -2)).max(axis=-1)
    smallest = np.fmin.reduce(distances, axis=(1, 2, 3), initial=1e9)
    return np.asarray(to_pixels / (0.999 * smallest[:, None, None]))  # the margin covers rounding
