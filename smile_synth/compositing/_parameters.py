"""Render parameters: what all backends but the oracle draw from, as flat arrays.

A batch of scenes becomes a list of entries, one per layer that is visible in a subframe, back to front,
subframe after subframe, frame after frame, clip after clip. A frame f (clip x frames + t) is one subframe,
or the mean of the subframes ``subframes[f]`` to ``subframes[f + 1]`` while its shutter is open; the middle
one decides which layer owns a pixel. The entries of subframe m are ``first[m]`` to ``first[m + 1]``.
A shadow is an entry of its own right before its object's. All arithmetic on poses happens here, once, in
float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.appearance import (
    DEFAULT_APPEARANCE,
    Shadow,
    feathered,
    in_light,
    poses_between,
    shadow_margin,
    shadow_of,
    shutter_times,
)
from smile_synth.core.compile import kernel
from smile_synth.core.texture import Texture, level_sizes_hw
from smile_synth.objects import ObjectBank
from smile_synth.scene import Layer, Noise, Scene, Solid, StoredImage, Textured, Video, texture_of
from smile_synth.sources import Sources


class Shown(NamedTuple):
    """A texture as it is shown.

    Attributes:
        surface: where it comes from.
        frame: of the clip; only a video's texture depends on it.
        feather: texels over which it fades in from its edge.
        shadow_blur: texels; the texture's shadow instead of itself. None: itself.
        linear_light: see `smile_synth.core.appearance.in_light`.
    """

    surface: Textured
    frame: int = 0
    feather: float = 0.0
    shadow_blur: float | None = None
    linear_light: bool = False

    def size_hw(self) -> tuple[int, int]:
        """Return the texture's size, of which a shadow has more."""
        margin = 0 if self.shadow_blur is None else shadow_margin(self.shadow_blur)
        return self.surface.height + 2 * margin, self.surface.width + 2 * margin

    def texture(self, sources: Sources) -> Texture:
        """Make the texture.

        Raises:
            UserError: a background image is needed and none were given, or it cannot be read any more.
        """
        texture = texture_of(self.surface, sources, self.frame)
        if self.feather:
            texture = feathered(texture, self.feather)
        if self.shadow_blur is not None:
            return shadow_of(texture, self.shadow_blur)
        return in_light(texture) if self.linear_light else texture


SOLID, NOISE, IMAGE = 0, 1, 2
BORDERS = {"transparent": 0, "reflect": 1, "repeat": 2}
TRANSPARENT, REFLECT, REPEAT = BORDERS.values()

# Columns of the whole numbers of an entry. FROM_BANK: 1 for texels of the bank, 0 for `extra`.
# COLOR is RGB of a solid, or key, key and frame of a noise. AREA is x0, y0, x1, y1, half-open.
# NEAR and FAR are the two mip levels, at the places below.
# LABEL: of a labelled object from 1, else 0; SHADOW owns no pixels, whatever its alpha.
# AFFINE: 1 where the 32.32 map below holds. FOLDED: 1 where an image without end is seen beyond its edge.
KIND, BORDER, FROM_BANK, FIRST_TEXEL, HEIGHT, WIDTH, COLOR, LABEL, AREA, AFFINE, PLAIN, FOLDED, NEAR, FAR = (
    0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 17, 26,
)  # fmt: skip
NUM_INTS = 35
# Places within a level: its first texel and size; for an affine image the texel coordinates, less one half,
# of the first pixel's centre, and their steps along a row and down a column, in 32.32 fixed point.
START, ROWS, COLUMNS, U, U_X, U_Y, V, V_X, V_Y = range(9)
FIXED = 2.0**32
# Columns of the real numbers: frame-to-texture map, mip level, opacity, gain, bias, gamma.
INVERSE, LEVEL, OPACITY, GAIN, BIAS, GAMMA = 0, 9, 10, 11, 14, 17
NUM_REALS = 18
SHADOW = -1
# Columns of a frame's film: 1 for linear light, the grain's two key words, the frame of the clip, the grain's
# standard deviation 0..255, recipe pixels per pixel along x and y.
LINEAR, GRAIN_KEY, GRAIN_FRAME, GRAIN, CELLS = 0, 1, 3, 4, 5
NUM_EFFECTS = 7


@dataclass(frozen=True)
class Parameters:
    """A batch ready to be drawn.

    Attributes:
        num_clips, num_frames: clips, and frames of each: F frames in all.
        size_hw: of every frame.
        first: ``[M + 1]`` int64, where each subframe's entries begin; without ``film``, M is F.
        ints: ``[N, NUM_INTS]`` int64.
        reals: ``[N, NUM_REALS]`` float64.
        textures: the textures that are not in the bank, one after another.
        subframes: ``[F + 1]`` int64, where each frame's subframes begin; empty without ``film``.
        film: ``[F, NUM_FILM]`` float64; empty where no clip has a shutter, linear light or grain.
        extra: ``[X]`` uint32, their texels; empty until they are fetched.
    """

    num_clips: int
    num_frames: int
    size_hw: tuple[int, int]
    first: NDArray[np.int64]
    ints: NDArray[np.int64]
    reals: NDArray[np.float64]
    textures: tuple[Shown, ...] = ()
    subframes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    effects: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, NUM_EFFECTS)))
    extra: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))


def words_of(texels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return premultiplied RGBA texels ``[N, 4]`` as little-endian words ``[N]``, read-only, not copied."""
    words = np.ascontiguousarray(texels).view("<u4").reshape(-1)
    words.flags.writeable = False
    return words


def num_texels(shown: Shown) -> int:
    """Return the texels of a texture with all its mip levels."""
    return sum(h * w for h, w in level_sizes_hw(*shown.size_hw()))


def fetch(textures: Sequence[Shown], sources: Sources) -> NDArray[np.uint32]:
    """Return the texels of textures, one after another, read-only.

    Raises:
        UserError: background images are needed and none were given, or one cannot be read any more.
    """
    words = [words_of(shown.texture(sources).texels) for shown in textures]
    texels = words[0] if len(words) == 1 else np.concatenate([np.empty(0, np.uint32), *words])
    texels.flags.writeable = False
    return texels


def prepare(scenes: Sequence[Scene], sources: Sources, frames: range) -> Parameters:
    """Flatten ``frames`` of scenes of one size and fetch the textures that are not in the bank.

    Raises:
        UserError: as `fetch`.
        ValueError: as `lay_out`.
    """
    parameters = lay_out(scenes, sources.objects, frames)
    return replace(parameters, extra=fetch(parameters.textures, sources))


def lay_out(scenes: Sequence[Scene], bank: ObjectBank, frames: range) -> Parameters:
    """Flatten ``frames`` of scenes of one size; textures that are not in the bank are named, not fetched.

    Raises:
        ValueError: the scenes differ in size, lack a frame, or a pose squashes the plane to a line.
    """
    size_hw = scenes[0].size_hw
    samples = [scene.appearance.shutter_samples for scene in scenes]
    entries = sum(
        count * sum(1 + (layer.shadow is not None) for layer in scene.layers)
        for count, scene in zip(samples, scenes, strict=True)
    ) * len(frames)
    ints = np.empty((entries, NUM_INTS), np.int64)
    reals = np.empty((entries, NUM_REALS))
    first = np.zeros(sum(samples) * len(frames) + 1, np.int64)
    places: dict[Shown, int] = {}
    extra_size = subframe = 0
    for scene, count in zip(scenes, samples, strict=True):
        if scene.size_hw != size_hw or scene.num_frames < frames.stop:
            raise ValueError(
                f"scenes of one batch: expected {size_hw} and {frames.stop} frames, "
                f"got {scene.size_hw} and {scene.num_frames}"
            )
        sheets = _sheets(scene)
        linear_light = scene.appearance.linear_light
        table = np.zeros((len(sheets), AREA), np.int64)
        first_texel = np.zeros((len(sheets), frames.stop), np.int64)
        label = 0
        for k, (_, layer, shadow) in enumerate(sheets):
            row, surface = table[k], layer.surface
            row[BORDER] = BORDERS[layer.border]
            if shadow is not None:
                assert isinstance(surface, StoredImage), "only cut-outs cast shadows"
                shown = Shown(surface, 0, layer.feather, shadow.blur)
                row[KIND], row[LABEL], (row[HEIGHT], row[WIDTH]) = IMAGE, SHADOW, shown.size_hw()
                if shown not in places:
                    places[shown] = extra_size
                    extra_size += num_texels(shown)
                first_texel[k] = places[shown]
                continue
            if layer.labelled:
                label += 1
                row[LABEL] = label
            if isinstance(surface, Solid):
                row[KIND] = SOLID
                row[COLOR : COLOR + 3] = surface.rgb
            elif isinstance(surface, Noise):
                row[KIND] = NOISE
                row[COLOR : COLOR + 3] = *surface.key, surface.redrawn
            else:
                row[KIND], row[HEIGHT], row[WIDTH] = IMAGE, surface.height, surface.width
                plain = not (layer.feather or linear_light)
                if plain and isinstance(surface, StoredImage) and surface.source == "objects":
                    row[FROM_BANK], first_texel[k] = 1, bank.texel_offsets[surface.texture_id]
                    continue
                for t in frames:
                    frame = t if isinstance(surface, Video) else 0
                    shown = Shown(surface, frame, layer.feather, None, linear_light)
                    if shown not in places:
                        places[shown] = extra_size
                        extra_size += num_texels(shown)
                    first_texel[k, t] = places[shown]
        poses, opacity, rows = _subframes(scene, sheets)
        gamma = np.ones(scene.opacity.shape) if scene.gamma is None else scene.gamma
        _flatten(
            ints,
            reals,
            first,
            subframe,
            table,
            first_texel,
            _frozen(poses),
            _frozen(opacity),
            _frozen(scene.depth[rows]),
            _frozen(scene.gain[rows]),
            _frozen(scene.bias[rows]),
            _frozen(gamma[rows]),
            _frozen(scene.level[rows]),
            count,
            frames.start,
            frames.stop,
            size_hw[0],
            size_hw[1],
        )
        subframe += count * len(frames)
    n = int(first[-1])
    subframes, effects = _effects(scenes, frames)
    return Parameters(
        len(scenes), len(frames), size_hw, first, ints[:n], reals[:n], tuple(places), subframes, effects
    )


# A layer's place in the scene, the layer, and the shadow if it stands for that.
_Sheet = tuple[int, Layer, Shadow | None]


def _sheets(scene: Scene) -> list[_Sheet]:
    """Return what is drawn: every layer, and before it its shadow."""
    sheets: list[_Sheet] = []
    for k, layer in enumerate(scene.layers):
        if layer.shadow is not None:
            sheets.append((k, layer, layer.shadow))
        sheets.append((k, layer, None))
    return sheets


def _subframes(
    scene: Scene, sheets: Sequence[_Sheet]
) -> tuple[NDArray[np.float64], NDArray[np.float64], slice | list[int]]:
    """Return poses ``[K, T * S, 3, 3]`` and opacities ``[K, T]`` of sheets, and the layers they are."""
    poses, opacity = scene.object_to_frame, scene.opacity
    if scene.appearance.shutter_samples > 1:
        moved = poses_between(poses, shutter_times(scene.appearance))
        poses = moved.reshape(len(moved), -1, 3, 3)
    if len(sheets) == len(scene.layers):
        return poses, opacity, slice(None)
    rows = [k for k, _, _ in sheets]
    poses, opacity = poses[rows], opacity[rows]
    scale = np.divide(scene.size_hw[::-1], scene.recipe_size_hw[::-1])
    for place, (_, _, shadow) in enumerate(sheets):
        if shadow is not None:
            back = -float(shadow_margin(shadow.blur))
            offset = geometry.translation(np.array(shadow.offset_xy) * scale)
            poses[place] = geometry.product(
                geometry.product(offset, poses[place]), geometry.translation([back, back])
            )
            opacity[place] *= shadow.strength
    return poses, opacity, rows


def _effects(scenes: Sequence[Scene], frames: range) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return `Parameters.subframes` and `Parameters.film`."""
    appearance = [scene.appearance for scene in scenes]
    if all(look == DEFAULT_APPEARANCE for look in appearance):
        return np.empty(0, np.int64), np.empty((0, NUM_EFFECTS))
    samples = np.repeat([look.shutter_samples for look in appearance], len(frames))
    effects = np.zeros((len(scenes), len(frames), NUM_EFFECTS))
    for row, scene, look in zip(effects, scenes, appearance, strict=True):
        row[:, LINEAR], row[:, GRAIN] = look.linear_light, 255 * look.grain
        row[:, GRAIN_KEY : GRAIN_KEY + 2], row[:, GRAIN_FRAME] = look.grain_key, frames
        row[:, CELLS : CELLS + 2] = np.divide(scene.recipe_size_hw[::-1], scene.size_hw[::-1])
    return np.append(0, np.cumsum(samples)), effects.reshape(-1, NUM_EFFECTS)


def _frozen(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a contiguous read-only view: any other kind of array would compile the kernel anew."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@kernel
def _flatten(  # type: ignore[no-untyped-def]  # pragma: no cover
    ints,
    reals,
    first,
    subframe,
    table,
    first_texel,
    poses,
    opacity,
    depth,
    gain,
    bias,
    gamma,
    level,
    samples,
    start,
    stop,
    height,
    width,
):
    """Append the entries of one scene's subframes, and drop those that cannot be seen."""
    layers = len(table)
    order = np.empty(layers, np.int64)
    for step in range(start * samples, stop * samples):
        t = step // samples
        # Farthest first; equal depths: the earlier layer lies behind. Layer 0 is always the rearmost.
        for new in range(layers):
            place = new
            while place > 1 and depth[order[place - 1], t] < depth[new, t]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = new
        n = first[subframe]
        for k in order:
            if opacity[k, t] == 0.0:
                continue
            for at in range(AREA):  # slices are assigned as fast, but compiled for seconds
                ints[n, at] = table[k, at]
            ints[n, FIRST_TEXEL] = first_texel[k, t]
            ints[n, AREA], ints[n, AREA + 1], ints[n, AREA + 2], ints[n, AREA + 3] = 0, 0, width, height
            if table[k, KIND] == NOISE and table[k, COLOR + 2]:
                ints[n, COLOR + 2] = t
            pose = poses[k, step]
            affine = pose[2, 0] == 0.0 and pose[2, 1] == 0.0 and pose[2, 2] == 1.0
            ints[n, AFFINE] = affine
            for at in range(FOLDED, ints.shape[1]):
                ints[n, at] = 0
            reals[n, LEVEL], reals[n, OPACITY] = level[k, t], opacity[k, t]
            # A shadow is black whatever the colours of its object.
            plain = True
            reals[n, GAMMA] = 1.0
            for c in range(3):
                reals[n, GAIN + c], reals[n, BIAS + c] = 1.0, 0.0
                if table[k, LABEL] != SHADOW:
                    reals[n, GAIN + c], reals[n, BIAS + c] = gain[k, t, c], bias[k, t, c]
                    plain = plain and gain[k, t, c] == 1.0 and bias[k, t, c] == 0.0
            if table[k, LABEL] != SHADOW:
                reals[n, GAMMA] = gamma[k, t]
            ints[n, PLAIN] = plain and reals[n, GAMMA] == 1.0
            if table[k, KIND] == SOLID:
                for at in range(INVERSE, INVERSE + 9):
                    reals[n, at] = 0.0
            else:
                _invert(pose, affine, reals[n])
            if table[k, KIND] == IMAGE and table[k, BORDER] == TRANSPARENT:
                _crop(ints[n], pose, level[k, t], width, height)
                if ints[n, AREA] >= ints[n, AREA + 2] or ints[n, AREA + 1] >= ints[n, AREA + 3]:
                    continue
            if table[k, KIND] == IMAGE:
                _place(ints[n], reals[n], int(level[k, t]), NEAR)
                if level[k, t] % 1.0 > 0.0:
                    _place(ints[n], reals[n], int(level[k, t]) + 1, FAR)
                if table[k, BORDER] != TRANSPARENT:
                    ints[n, FOLDED] = _leaves(ints[n], reals[n])
            n += 1
        subframe += 1
        first[subframe] = n


@kernel
def _invert(pose, affine, out):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write the inverse of a 3x3 transform by its adjugate."""
    a, b, c = pose[0, 0], pose[0, 1], pose[0, 2]
    d, e, f = pose[1, 0], pose[1, 1], pose[1, 2]
    g, h, i = pose[2, 0], pose[2, 1], pose[2, 2]
    det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    if det == 0.0:
        raise ValueError("a singular transform has no inverse")
    out[0], out[1], out[2] = (e * i - f * h) / det, (c * h - b * i) / det, (b * f - c * e) / det
    out[3], out[4], out[5] = (f * g - d * i) / det, (a * i - c * g) / det, (c * d - a * f) / det
    if affine:
        out[6], out[7], out[8] = 0.0, 0.0, 1.0
    else:
        out[6], out[7], out[8] = (d * h - e * g) / det, (b * g - a * h) / det, (a * e - b * d) / det


@kernel
def _place(entry, real, level, at):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write where a mip level lies and, if 32.32 can hold it, the affine map to its texels."""
    start, h, w = entry[FIRST_TEXEL], entry[HEIGHT], entry[WIDTH]
    for _ in range(level):
        start += h * w
        h, w = (h + 1) >> 1, (w + 1) >> 1
    entry[at + START], entry[at + ROWS], entry[at + COLUMNS] = start, h, w
    if not entry[AFFINE]:
        return
    scale = 0.5**level
    for axis in range(2):
        x, y, one = real[3 * axis] * scale, real[3 * axis + 1] * scale, real[3 * axis + 2] * scale
        reach = abs(x) * max(entry[AREA + 2], 1) + abs(y) * max(entry[AREA + 3], 1) + abs(one)
        if not reach < 2.0**30:
            entry[AFFINE] = 0
            return
        entry[at + U + 3 * axis] = int(np.rint(((x + y) * 0.5 + one - 0.5) * FIXED))
        entry[at + U_X + 3 * axis] = int(np.rint(x * FIXED))
        entry[at + U_Y + 3 * axis] = int(np.rint(y * FIXED))


@kernel
def _leaves(entry, real):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return whether a corner of the frame shows what lies beyond the texture's edge."""
    for corner in range(4):
        x = entry[AREA + 2] if corner & 1 else 0.0
        y = entry[AREA + 3] if corner & 2 else 0.0
        depth = real[6] * x + real[7] * y + real[8]
        u = (real[0] * x + real[1] * y + real[2]) / depth
        v = (real[3] * x + real[4] * y + real[5]) / depth
        if not (depth > 0.0 and 0.0 <= u <= entry[WIDTH] and 0.0 <= v <= entry[HEIGHT]):
            return True
    return False


@kernel
def _crop(entry, pose, level, width, height):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Crop the area to the pixels that the texture reaches at the coarser of its two levels."""
    coarser = int(np.ceil(level))
    texel = 2.0**coarser
    right = (int(entry[WIDTH] - 1) >> coarser) * texel + 1.5 * texel
    bottom = (int(entry[HEIGHT] - 1) >> coarser) * texel + 1.5 * texel
    x0, y0, x1, y1 = np.inf, np.inf, -np.inf, -np.inf
    for corner in range(4):
        u = right if corner & 1 else -0.5 * texel
        v = bottom if corner & 2 else -0.5 * texel
        w = pose[2, 0] * u + pose[2, 1] * v + pose[2, 2]
        if w <= 0.0:  # a horizon crosses the texture: it may touch everything
            return
        x = (pose[0, 0] * u + pose[0, 1] * v + pose[0, 2]) / w
        y = (pose[1, 0] * u + pose[1, 1] * v + pose[1, 2]) / w
        x0, y0, x1, y1 = min(x0, x), min(y0, y), max(x1, x), max(y1, y)
    # Clamped before they become whole numbers: a corner near the horizon is far away.
    entry[AREA] = int(min(max(np.floor(x0 - 0.5), 0.0), width))
    entry[AREA + 1] = int(min(max(np.floor(y0 - 0.5), 0.0), height))
    entry[AREA + 2] = int(min(max(np.ceil(x1 + 0.5), 0.0), width))
    entry[AREA + 3] = int(min(max(np.ceil(y1 + 0.5), 0.0), height))
