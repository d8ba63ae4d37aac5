"""Scene: everything that a clip is made of, and its form on disk. Nothing is drawn at random here."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from smile_synth.backgrounds import drawn_texture
from smile_synth.core import geometry
from smile_synth.core.appearance import DEFAULT_APPEARANCE, Appearance, Shadow, feathered
from smile_synth.core.coverage import Border, level_of_detail
from smile_synth.core.errors import UserError
from smile_synth.core.texture import Texture
from smile_synth.sources import Sources

Float = NDArray[np.float64]
Factor = str | float
_MAGIC = b"SMILE SCENE 2\n"
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
class StoredImage:
    """A texture of the bank or of the backgrounds."""

    source: Literal["objects", "backgrounds"]
    texture_id: int
    height: int
    width: int


@dataclass(frozen=True)
class GeneratedImage:
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


Textured = StoredImage | GeneratedImage | Video
Surface = Solid | Noise | Textured


@dataclass(frozen=True)
class Layer:
    """What does not change over time.

    Attributes:
        surface: what is seen.
        border: what stands outside an image.
        labelled: whether labels are made of it; unlabelled layers still occlude.
        class_name: class of a labelled layer.
        factors: drawn values a probe could predict; names end in their unit.
        feather: width of the soft edge in texels, see `smile_synth.core.appearance.feathered`.
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
        level: ``[L, T]`` mip level, see `smile_synth.core.coverage.level_of_detail`.
        factors: drawn values of the clip as a whole.
        appearance: camera effects of the clip as a whole.
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
    appearance: Appearance = DEFAULT_APPEARANCE
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
        return replace(
            self, size_hw=size_hw, object_to_frame=poses, level=levels_of_detail(self.layers, poses)
        )

    def to_bytes(self) -> bytes:
        """Serialise: a magic line, a length, JSON, then the arrays as little-endian float64."""
        arrays = self._arrays()
        plain = [f.name for f in fields(self) if f.name not in _ARRAYS and f.name not in ("layers", "gamma")]
        header: dict[str, Any] = {name: getattr(self, name) for name in plain}
        header |= {"appearance": vars(self.appearance), "num_frames": self.num_frames}
        header |= {"layers": [_layer_values(layer) for layer in self.layers], "has_gamma": "gamma" in arrays}
        text = json.dumps(header, sort_keys=True, allow_nan=False).encode()
        packed = b"".join(np.ascontiguousarray(getattr(self, name), "<f8").tobytes() for name in arrays)
        return _MAGIC + struct.pack("<I", len(text)) + text + packed

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
            appearance = values.pop("appearance")
            values["appearance"] = Appearance(**{**appearance, "grain_key": tuple(appearance["grain_key"])})
            offset = start + length
            for name, trailing in {**_ARRAYS, **({"gamma": ()} if values.pop("has_gamma") else {})}.items():
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


def _layer_values(layer: Layer) -> dict[str, Any]:
    """Return a layer as plain data."""
    surface = {"kind": type(layer.surface).__name__, **vars(layer.surface)}
    shadow = None if layer.shadow is None else vars(layer.shadow)
    return {**vars(layer), "surface": surface, "shadow": shadow}


def _layer(entry: dict[str, Any]) -> Layer:
    """Build a layer from the plain data that `Scene.to_bytes` wrote."""
    shadow = entry["shadow"]
    if shadow is not None:
        entry["shadow"] = Shadow(**{**shadow, "offset_xy": tuple(shadow["offset_xy"])})
    kinds: dict[str, Any] = {
        kind.__name__: kind for kind in (Solid, Noise, StoredImage, GeneratedImage, Video)
    }
    surface = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.pop("surface").items()}
    return Layer(surface=kinds[str(surface.pop("kind"))](**surface), **entry)


def texture_of(surface: Textured, sources: Sources, frame: int = 0) -> Texture:
    """Return the texture that a layer shows in a frame of the clip; only a video's depends on the frame.

    Raises:
        UserError: the surface needs backgrounds and the sources have none.
    """
    if isinstance(surface, GeneratedImage):
        return drawn_texture(surface.pattern, surface.key, surface.height, surface.exponent)
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
    """Return the texture of a layer in front of the background, with its soft edge."""
    if not isinstance(layer.surface, StoredImage):
        raise ValueError(f"a cut-out is a stored image, not {type(layer.surface).__name__}")
    texture = texture_of(layer.surface, sources)
    return feathered(texture, layer.feather) if layer.feather else texture


def is_redrawn(surface: Surface) -> bool:
    """Return whether every frame shows new content, so that no point has a position in another frame."""
    return isinstance(surface, Video) or (isinstance(surface, Noise) and surface.redrawn)


def check_sources(scene: Scene, sources: Sources) -> None:
    """Refuse sources other than those that the scene was made from.

    Raises:
        UserError: a digest differs.
    """
    sources.check(scene.bank_digest, scene.background_digest)


def levels_of_detail(layers: Sequence[Layer], poses: Float) -> Float:
    """Return the mip levels ``[L, T]`` of layers under poses ``[L, T, 3, 3]``."""
    levels = np.zeros(poses.shape[:2])
    images = [i for i, layer in enumerate(layers) if isinstance(layer.surface, Textured)]
    if images:
        sizes = [(layers[i].surface.height, layers[i].surface.width) for i in images]  # type: ignore[union-attr]
        height, width = np.array(sizes, np.float64).T[..., None]
        levels[images] = level_of_detail(poses[images], height, width)
    return levels
