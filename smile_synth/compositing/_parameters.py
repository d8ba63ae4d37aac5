"""Render parameters: a batch of scenes as flat arrays. All backends except the oracle read them.

An entry is one visible layer in one subframe. Entries are sorted by clip, frame, subframe, and from back to
front. A shadow has its own entry, directly before the entry of its layer. Frame f (clip x num_frames + t) is
the mean of the subframes ``subframes[f]`` to ``subframes[f + 1] - 1``, at times while the shutter is open.
The middle subframe decides which layer owns a pixel. All arithmetic on poses is done here, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.appearance import (
    Appearance,
    Shadow,
    feathered,
    interpolate_poses,
    premultiply_in_linear_light,
    shadow_margin,
    shadow_texture,
    shutter_times,
)
from smile_synth.core.compile import kernel
from smile_synth.core.texture import Texture, level_sizes_hw
from smile_synth.objects import ObjectBank
from smile_synth.scene import (
    Layer,
    Noise,
    Scene,
    Solid,
    StoredImage,
    Textured,
    Video,
    noise_cells,
    texture_of,
)
from smile_synth.sources import Sources

SOLID, NOISE, IMAGE = 0, 1, 2
BORDERS = {"transparent": 0, "reflect": 1, "repeat": 2}
TRANSPARENT, REFLECT, REPEAT = BORDERS.values()
# The label of a shadow. It owns no pixels.
SHADOW = -1
FIXED_ONE = 1 << 32
# Slightly below 0.5, so that alpha 1 x opacity 0.5 passes despite rounding.
OWNS_FLOAT32 = 0.5 - 1e-6

# One mip level: its first texel and size; then the fixed-point map, see `Entry`.
LEVEL = np.dtype(
    [(name, np.int64) for name in ("first_texel", "height", "width", "u", "u_x", "u_y", "v", "v_x", "v_y")]
)
# All fields have 8 bytes: a device reads one array, as int64 and as float64.
#   kind, border            SOLID, NOISE or IMAGE; TRANSPARENT, REFLECT or REPEAT
#   from_bank               1: the texels are in the bank, 0: in `Parameters.extra`
#   first_texel, height, width   of mip level 0
#   color                   RGB of a solid
#   key, redrawn, frame     of noise: two 32-bit words; 1 for new noise in every frame; counter of the frame,
#                           or in appearance-free scenes the number of the layer
#   shows_noise             1: noise, or an image that shows noise: it is opaque where its alpha is at least
#                           one half, and transparent elsewhere
#   label                   number of a labelled object from 1, 0 for other layers, or SHADOW
#   x0, y0, x1, y1          the pixels that the entry can reach, half-open
#   plain_color             1: gain 1, bias 0, gamma 1
#   fixed_point             1: the maps of the levels are valid
#   wraps                   1: the frame shows points outside the texture, where the border rule applies
#   near, far               the two mip levels that are blended: the finer, the coarser. u and v are the texel
#                           coordinates of the centre of pixel (0, 0), minus 0.5; u_x, v_x are their steps
#                           per column, u_y, v_y per row; all in 32.32 fixed point
#   inverse                 frame-to-texture map
#   level                   mip level; its fractional part is the weight of the coarser level
#   noise_cells             of noise: map of texture positions to cells
ENTRY = np.dtype(
    [
        *((name, np.int64) for name in ("kind", "border", "from_bank", "first_texel", "height", "width")),
        ("color", np.int64, 3),
        ("key", np.int64, 2),
        *((name, np.int64) for name in ("redrawn", "frame", "shows_noise", "label", "x0", "y0", "x1", "y1")),
        *((name, np.int64) for name in ("plain_color", "fixed_point", "wraps")),
        ("near", LEVEL),
        ("far", LEVEL),
        ("inverse", np.float64, (3, 3)),
        ("level", np.float64),
        ("noise_cells", np.float64, (2, 2)),
        ("opacity", np.float64),
        ("gain", np.float64, 3),
        ("bias", np.float64, 3),
        ("gamma", np.float64),
    ]
)
# Camera effects of a frame. ``grain`` is the standard deviation 0..255, ``key`` and ``frame`` the counter of
# its noise, ``cells_xy`` the recipe pixels per frame pixel.
EFFECTS = np.dtype(
    [
        ("linear_light", np.int64),
        ("key", np.int64, 2),
        ("frame", np.int64),
        ("grain", np.float64),
        ("cells_xy", np.float64, 2),
    ]
)


class TextureVersion(NamedTuple):
    """A texture with the changes that a layer applies to it.

    Attributes:
        surface: the source of the texture.
        frame: frame of the clip; only a video's texture depends on it.
        feather: width of the soft edge in texels.
        shadow_blur: blur in texels of the shadow that replaces the texture; None: the texture itself.
        linear_light: see `smile_synth.core.appearance.premultiply_in_linear_light`.
    """

    surface: Textured
    frame: int = 0
    feather: float = 0.0
    shadow_blur: float | None = None
    linear_light: bool = False

    def size_hw(self) -> tuple[int, int]:
        """Return the size of the texture; a shadow is larger than its object."""
        margin = 0 if self.shadow_blur is None else shadow_margin(self.shadow_blur)
        return self.surface.height + 2 * margin, self.surface.width + 2 * margin

    def texture(self, sources: Sources) -> Texture:
        """Make the texture.

        Raises:
            UserError: the sources lack the backgrounds, or an image can no longer be read.
        """
        texture = texture_of(self.surface, sources, self.frame)
        if self.feather:
            texture = feathered(texture, self.feather)
        if self.shadow_blur is not None:
            return shadow_texture(texture, self.shadow_blur)
        return premultiply_in_linear_light(texture) if self.linear_light else texture


@dataclass(frozen=True, eq=False)
class Parameters:
    """The render parameters of a batch.

    Attributes:
        num_clips, num_frames: number of clips and frames per clip, F frames in all.
        size_hw: of every frame.
        first: ``[M + 1]`` int64, where the entries of each subframe begin.
        entries: ``[N]`` `ENTRY`.
        subframes: ``[F + 1]`` int64, where the subframes of each frame begin.
        textures: the textures that are not in the bank, one after another.
        effects: ``[F]`` `EFFECTS`; empty if no clip has camera effects.
        extra: ``[X]`` uint32, the texels of ``textures``; empty if they are not decoded yet.
    """

    num_clips: int
    num_frames: int
    size_hw: tuple[int, int]
    first: NDArray[np.int64]
    entries: NDArray[np.void]
    subframes: NDArray[np.int64]
    textures: tuple[TextureVersion, ...] = ()
    effects: NDArray[np.void] = field(default_factory=lambda: np.empty(0, EFFECTS))
    extra: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))

    def __repr__(self) -> str:
        """Return the numbers of clips, frames, entries and textures."""
        return (
            f"Parameters(num_clips={self.num_clips}, num_frames={self.num_frames}, size_hw={self.size_hw}, "
            f"entries={len(self.entries)}, textures={len(self.textures)})"
        )


def as_numbers(records: NDArray[np.void]) -> NDArray[np.int64]:
    """Return a view of a structured array as int64 ``[N, words]``.

    The bits of float fields are reinterpreted as int64.
    """
    return records.view(np.int64).reshape(len(records), records.dtype.itemsize // 8)


def word_offsets(dtype: np.dtype[np.void], start: int = 0) -> SimpleNamespace:
    """Return the offset of every field in words of 8 bytes; a nested record is a namespace of its own."""
    offsets = {}
    for name, (kind, offset, *_) in (dtype.fields or {}).items():
        word = start + offset // 8
        offsets[name] = word_offsets(kind, word) if kind.fields else word
    return SimpleNamespace(**offsets)


def words_of(texels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return a read-only view of RGBA texels ``[N, 4]`` as little-endian words ``[N]``."""
    words = np.ascontiguousarray(texels).view("<u4").reshape(-1)
    words.flags.writeable = False
    return words


def num_texels(version: TextureVersion) -> int:
    """Return the number of texels of a texture with all its mip levels."""
    return sum(h * w for h, w in level_sizes_hw(*version.size_hw()))


def decode_textures(textures: Sequence[TextureVersion], sources: Sources) -> NDArray[np.uint32]:
    """Decode textures and return their texels, one after another, read-only.

    Raises:
        UserError: the sources lack the backgrounds, or an image can no longer be read.
    """
    words = [words_of(version.texture(sources).texels) for version in textures]
    texels = words[0] if len(words) == 1 else np.concatenate([np.empty(0, np.uint32), *words])
    texels.flags.writeable = False
    return texels


def build_parameters_with_texels(scenes: Sequence[Scene], sources: Sources, frames: range) -> Parameters:
    """Return the parameters of ``frames`` of scenes of one size, with all texels.

    Raises:
        UserError: as `decode_textures`.
        ValueError: as `build_parameters`.
    """
    parameters = build_parameters(scenes, sources.objects, frames)
    return replace(parameters, extra=decode_textures(parameters.textures, sources))


def build_parameters(scenes: Sequence[Scene], bank: ObjectBank, frames: range) -> Parameters:
    """Return the parameters of ``frames`` of scenes of one size, without the texels of ``textures``.

    Raises:
        ValueError: the scenes differ in size, lack a frame, or a pose has no inverse.
    """
    size_hw = scenes[0].size_hw
    samples = [scene.appearance.shutter_samples for scene in scenes]
    drawn = [_drawn_layers(scene) for scene in scenes]
    max_entries = sum(count * len(layers) for count, layers in zip(samples, drawn, strict=True)) * len(frames)
    entries, first = np.empty(max_entries, ENTRY), np.zeros(sum(samples) * len(frames) + 1, np.int64)
    offsets = _TexelOffsets(bank)
    subframe = 0
    for scene, count, layers in zip(scenes, samples, drawn, strict=True):
        if scene.size_hw != size_hw or scene.num_frames < frames.stop:
            raise ValueError(
                f"scenes of one batch: expected {size_hw} and {frames.stop} frames, "
                f"got {scene.size_hw} and {scene.num_frames}"
            )
        constants = np.zeros(len(layers), ENTRY)
        first_texel = np.zeros((len(layers), frames.stop), np.int64)
        label, key = 0, scene.appearance.noise_key
        cells = np.empty(0) if key is None else noise_cells(scene)
        for row, texels, layer in zip(constants, first_texel, layers, strict=True):
            label += layer.shadow is None and layer.layer.labelled
            _set_constants(row, layer, label)
            if key is not None and layer.shadow is None:
                _replace_colors(row, layer.k, key, cells[layer.k])
            if row["kind"] == IMAGE:
                offsets.find(row, texels, layer, frames, scene.appearance.linear_light)
        _append_entries(
            entries, first, subframe, constants, _curves(scene, layers, first_texel), count,
            (frames.start, frames.stop), size_hw,
        )  # fmt: skip
        subframe += count * len(frames)
    return Parameters(
        len(scenes),
        len(frames),
        size_hw,
        first,
        entries[: first[-1]],
        np.cumsum([0, *(count for count in samples for _ in frames)]),
        tuple(offsets.extra),
        _effects(scenes, frames),
    )


class _Drawn(NamedTuple):
    """Layer ``k`` of a scene, or its shadow if ``shadow`` is given."""

    k: int
    layer: Layer
    shadow: Shadow | None


def _drawn_layers(scene: Scene) -> list[_Drawn]:
    """Return every layer, with its shadow before it."""
    return [
        _Drawn(k, layer, shadow)
        for k, layer in enumerate(scene.layers)
        for shadow in ((layer.shadow, None) if layer.shadow else (None,))
    ]


def _set_constants(row: np.void, drawn: _Drawn, label: int) -> None:
    """Fill the fields of an entry that are the same in all frames, except `first_texel`."""
    layer, surface = drawn.layer, drawn.layer.surface
    row["border"], row["label"] = BORDERS[layer.border], label if layer.labelled else 0
    if drawn.shadow is not None:
        row["label"] = SHADOW
        row["gain"] = row["gamma"] = row["plain_color"] = 1
    if isinstance(surface, Solid):
        row["kind"], row["color"] = SOLID, surface.rgb
    elif isinstance(surface, Noise):
        row["kind"], row["key"], row["redrawn"] = NOISE, surface.key, surface.redrawn
        row["shows_noise"], row["noise_cells"] = 1, np.eye(2)
    else:
        row["kind"] = IMAGE


def _replace_colors(row: np.void, k: int, key: tuple[int, int], cells: NDArray[np.float64]) -> None:
    """Show noise instead of the colours of layer ``k``: inside the outline of a cut-out, else everywhere."""
    row["key"], row["redrawn"], row["frame"] = key, 0, k
    row["shows_noise"], row["noise_cells"] = 1, cells
    if row["border"] != TRANSPARENT or row["kind"] != IMAGE:
        row["kind"] = NOISE


class _TexelOffsets:
    """First texel of every texture: in the bank, or among the extra textures of the batch."""

    def __init__(self, bank: ObjectBank) -> None:
        self._bank = bank
        self.extra: dict[TextureVersion, int] = {}  # in order; texture -> its first texel
        self._size = 0

    def find(
        self, row: np.void, first_texel: NDArray[np.int64], drawn: _Drawn, frames: range, linear_light: bool
    ) -> None:
        """Fill the texture's size and, frame by frame, its first texel."""
        layer, surface = drawn.layer, drawn.layer.surface
        assert isinstance(surface, Textured)
        row["height"], row["width"] = surface.height, surface.width
        if drawn.shadow is not None:
            shadow = TextureVersion(surface, 0, layer.feather, drawn.shadow.blur)
            (row["height"], row["width"]), first_texel[:] = shadow.size_hw(), self._extra_offset(shadow)
        elif (
            isinstance(surface, StoredImage)
            and surface.source == "objects"
            and not (layer.feather or linear_light)
        ):
            row["from_bank"], first_texel[:] = 1, self._bank.texel_offsets[surface.texture_id]
        else:
            for t in frames:
                frame = t if isinstance(surface, Video) else 0
                version = TextureVersion(surface, frame, layer.feather, None, linear_light)
                first_texel[t] = self._extra_offset(version)

    def _extra_offset(self, version: TextureVersion) -> int:
        if version not in self.extra:
            self.extra[version] = self._size
            self._size += num_texels(version)
        return self.extra[version]


class _Curves(NamedTuple):
    """The values of K layers over T frames; ``poses`` is ``[K, T * S, 3, 3]`` over their subframes."""

    first_texel: NDArray[np.int64]
    poses: NDArray[np.float64]
    opacity: NDArray[np.float64]
    depth: NDArray[np.float64]
    gain: NDArray[np.float64]
    bias: NDArray[np.float64]
    gamma: NDArray[np.float64]
    level: NDArray[np.float64]


def _curves(scene: Scene, layers: Sequence[_Drawn], first_texel: NDArray[np.int64]) -> _Curves:
    poses, opacity = scene.object_to_frame, scene.opacity
    gamma = np.ones(opacity.shape) if scene.gamma is None else scene.gamma
    if scene.appearance.shutter_samples > 1:
        poses = interpolate_poses(poses, shutter_times(scene.appearance)).reshape(len(poses), -1, 3, 3)
    rows: slice | list[int] = slice(None)
    if len(layers) > len(scene.layers):
        rows = [drawn.k for drawn in layers]
        poses, opacity = poses[rows], opacity[rows]
        scale = np.divide(scene.size_hw[::-1], scene.recipe_size_hw[::-1])
        for k, (_, _, shadow) in enumerate(layers):
            if shadow is not None:
                back = -float(shadow_margin(shadow.blur))
                offset = geometry.translation(np.array(shadow.offset_xy) * scale)
                poses[k] = geometry.product(
                    geometry.product(offset, poses[k]), geometry.translation([back, back])
                )
                opacity[k] *= shadow.strength
    per_frame = (
        opacity,
        scene.depth[rows],
        scene.gain[rows],
        scene.bias[rows],
        gamma[rows],
        scene.level[rows],
    )
    return _Curves(first_texel, _read_only(poses), *(_read_only(values) for values in per_frame))


def _read_only(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a contiguous read-only view.

    All arrays get the same memory layout and read-only flag, so numba compiles one version only.
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def has_effects(appearance: Appearance) -> bool:
    """Return whether the camera averages subframes, blends in linear light or adds grain."""
    return appearance.shutter_samples > 1 or appearance.linear_light or appearance.grain > 0


def _effects(scenes: Sequence[Scene], frames: range) -> NDArray[np.void]:
    """Return `Parameters.effects`."""
    if not any(has_effects(scene.appearance) for scene in scenes):
        return np.empty(0, EFFECTS)
    effects = np.zeros((len(scenes), len(frames)), EFFECTS)
    for row, scene in zip(effects, scenes, strict=True):
        row["linear_light"], row["grain"] = scene.appearance.linear_light, 255 * scene.appearance.grain
        row["key"], row["frame"] = scene.appearance.grain_key, frames
        row["cells_xy"] = np.divide(scene.recipe_size_hw[::-1], scene.size_hw[::-1])
    return effects.reshape(-1)


@kernel
def _append_entries(entries, first, subframe, constants, curves, samples, frames, size_hw):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Append the visible entries of the subframes of one scene."""
    order = np.empty(len(constants), np.int64)
    for step in range(frames[0] * samples, frames[1] * samples):
        t = step // samples
        _sort_back_to_front(order, curves.depth, t)
        n = first[subframe]
        for k in order:
            if curves.opacity[k, t] == 0.0:
                continue
            entries[n] = constants[k]
            entry = entries[n]
            entry.first_texel = curves.first_texel[k, t]
            if entry.redrawn:
                entry.frame = t
            entry.opacity, entry.level = curves.opacity[k, t], curves.level[k, t]
            if entry.label != SHADOW:  # a shadow is black, whatever the colours of its object
                _set_colors(entry, curves.gain[k, t], curves.bias[k, t], curves.gamma[k, t])
            _set_geometry(entry, curves.poses[k, step], size_hw)
            n += entry.x0 < entry.x1 and entry.y0 < entry.y1
        subframe += 1
        first[subframe] = n


@kernel
def _sort_back_to_front(order, depth, t):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Sort layers, farthest first; at equal depths the earlier layer first. Layer 0 is always the first."""
    for new in range(len(order)):
        position = new
        while position > 1 and depth[order[position - 1], t] < depth[new, t]:
            order[position] = order[position - 1]
            position -= 1
        order[position] = new


@kernel
def _set_colors(entry, gain, bias, gamma):  # type: ignore[no-untyped-def]  # pragma: no cover
    plain = gamma == 1.0
    for c in range(3):
        entry.gain[c], entry.bias[c] = gain[c], bias[c]
        plain = plain and gain[c] == 1.0 and bias[c] == 0.0
    entry.gamma, entry.plain_color = gamma, plain


@kernel
def _set_geometry(entry, pose, size_hw):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Fill the maps, the levels and the reached pixels of an entry."""
    entry.x0, entry.y0, entry.y1, entry.x1 = 0, 0, size_hw[0], size_hw[1]
    if entry.kind == SOLID:
        return
    affine = pose[2, 0] == 0.0 and pose[2, 1] == 0.0 and pose[2, 2] == 1.0
    _invert(pose, affine, entry.inverse)
    if entry.kind == NOISE:
        return
    if entry.border == TRANSPARENT:
        _crop(entry, pose)
    entry.fixed_point = affine
    _set_level(entry, entry.near, int(entry.level))
    if entry.level % 1.0 > 0.0:
        _set_level(entry, entry.far, int(entry.level) + 1)
    if entry.border != TRANSPARENT:
        entry.wraps = _shows_beyond_edge(entry)


@kernel
def _invert(pose, affine, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the inverse of a 3x3 transform by its adjugate."""
    a, b, c = pose[0, 0], pose[0, 1], pose[0, 2]
    d, e, f = pose[1, 0], pose[1, 1], pose[1, 2]
    g, h, i = pose[2, 0], pose[2, 1], pose[2, 2]
    det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if det == 0.0:
        raise ValueError("a singular transform has no inverse")
    out[0, 0], out[0, 1], out[0, 2] = (e * i - f * h) / det, (c * h - b * i) / det, (b * f - c * e) / det
    out[1, 0], out[1, 1], out[1, 2] = (f * g - d * i) / det, (a * i - c * g) / det, (c * d - a * f) / det
    if affine:
        out[2, 0], out[2, 1], out[2, 2] = 0.0, 0.0, 1.0
    else:
        out[2, 0], out[2, 1], out[2, 2] = (d * h - e * g) / det, (b * g - a * h) / det, (a * e - b * d) / det


@kernel
def _set_level(entry, level, index):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Set first texel and size of a mip level and, if the values fit into 32.32 fixed point, its map."""
    level.first_texel, level.height, level.width = entry.first_texel, entry.height, entry.width
    for _ in range(index):
        level.first_texel += level.height * level.width
        level.height, level.width = (level.height + 1) >> 1, (level.width + 1) >> 1
    scale, m = 0.5**index, entry.inverse
    for axis in range(2):
        x, y, one = m[axis, 0] * scale, m[axis, 1] * scale, m[axis, 2] * scale
        if not abs(x) * max(entry.x1, 1) + abs(y) * max(entry.y1, 1) + abs(one) < 2.0**30:
            entry.fixed_point = 0
    if not entry.fixed_point:
        return
    level.u, level.u_x, level.u_y = _fixed_row(m[0], scale)
    level.v, level.v_x, level.v_y = _fixed_row(m[1], scale)


@kernel
def _fixed_row(row, scale):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return one row of an affine map, at the centre of pixel (0, 0) and its steps, in 32.32 fixed point."""
    x, y, one = row[0] * scale, row[1] * scale, row[2] * scale
    at_center = (x + y) * 0.5 + one - 0.5
    return int(np.rint(at_center * FIXED_ONE)), int(np.rint(x * FIXED_ONE)), int(np.rint(y * FIXED_ONE))


@kernel
def _shows_beyond_edge(entry):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return whether a corner of the frame shows the plane beyond the texture's edge."""
    m = entry.inverse
    for corner in range(4):
        x = entry.x1 if corner & 1 else 0.0
        y = entry.y1 if corner & 2 else 0.0
        depth = m[2, 0] * x + m[2, 1] * y + m[2, 2]
        u = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / depth
        v = (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / depth
        if not (depth > 0.0 and 0.0 <= u <= entry.width and 0.0 <= v <= entry.height):
            return True
    return False


@kernel
def _crop(entry, pose):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Crop the area to the pixels that the texture reaches at the coarser of its two levels."""
    coarser = int(np.ceil(entry.level))
    texel = 2.0**coarser
    right = (int(entry.width - 1) >> coarser) * texel + 1.5 * texel
    bottom = (int(entry.height - 1) >> coarser) * texel + 1.5 * texel
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    for corner in range(4):
        u = right if corner & 1 else -0.5 * texel
        v = bottom if corner & 2 else -0.5 * texel
        w = pose[2, 0] * u + pose[2, 1] * v + pose[2, 2]
        if w <= 0.0:  # the horizon crosses the texture, which may reach any pixel
            return
        x = (pose[0, 0] * u + pose[0, 1] * v + pose[0, 2]) / w
        y = (pose[1, 0] * u + pose[1, 1] * v + pose[1, 2]) / w
        x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
    # Clamped as floats: a corner near the horizon is too far away for an integer.
    width, height = entry.x1, entry.y1
    entry.x0 = int(min(max(np.floor(x0 - 0.5), 0.0), width))
    entry.y0 = int(min(max(np.floor(y0 - 0.5), 0.0), height))
    entry.x1 = int(min(max(np.ceil(x1 + 0.5), 0.0), width))
    entry.y1 = int(min(max(np.ceil(y1 + 0.5), 0.0), height))
