"""Render parameters: what all backends but the oracle draw from, as flat arrays.

A batch of scenes becomes a list of entries, one per layer that can be seen in a frame, back to front,
frame after frame, clip after clip. The entries of frame f (clip x frames + t) are ``first[f]`` to
``first[f + 1]``. All arithmetic on poses happens here, once, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numba
import numpy as np
from numpy.typing import NDArray

from smile_synth.backgrounds import BackgroundFolder
from smile_synth.objects import ObjectBank
from smile_synth.scene import Noise, Picture, Scene, Solid, Textured, Video, texture_of
from smile_synth.texture import level_sizes_hw

# A texture as it is shown in a frame of the clip; only a video's depends on the frame.
Shown = tuple[Textured, int]

SOLID, NOISE, PICTURE = 0, 1, 2
BORDERS = {"transparent": 0, "reflect": 1, "repeat": 2}
TRANSPARENT, REFLECT, REPEAT = BORDERS.values()

# Columns of the whole numbers of an entry. FROM_BANK: 1 for texels of the bank, 0 for `extra`.
# COLOR is RGB of a solid, or key, key and frame of a noise. AREA is x0, y0, x1, y1, half-open.
# NEAR and FAR are the two mip levels, at the places below.
# AFFINE: 1 where the 32.32 map below holds. FOLDED: 1 where a picture without end is seen beyond its edge.
KIND, BORDER, FROM_BANK, FIRST_TEXEL, HEIGHT, WIDTH, COLOR, LABEL, AREA, AFFINE, PLAIN, FOLDED, NEAR, FAR = (
    0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 17, 26,
)  # fmt: skip
NUM_INTS = 35
# Places within a level: its first texel and size; for an affine picture the texel coordinates, less one half,
# of the first pixel's centre, and their steps along a row and down a column, in 32.32 fixed point.
START, ROWS, COLUMNS, U, U_X, U_Y, V, V_X, V_Y = range(9)
FIXED = 2.0**32
# Columns of the real numbers: frame-to-texture map, mip level, opacity, gain, bias.
INVERSE, LEVEL, OPACITY, GAIN, BIAS = 0, 9, 10, 11, 14
NUM_REALS = 17


@dataclass(frozen=True)
class Parameters:
    """A batch ready to be drawn.

    Attributes:
        num_clips, num_frames: clips, and frames of each.
        size_hw: of every frame.
        first: ``[num_clips * num_frames + 1]`` int64, where each frame's entries begin.
        ints: ``[N, NUM_INTS]`` int64.
        reals: ``[N, NUM_REALS]`` float64.
        textures: (surface, frame of the clip) of the textures that are not in the bank, one after another.
        extra: ``[X]`` uint32, their texels; empty until they are fetched.
    """

    num_clips: int
    num_frames: int
    size_hw: tuple[int, int]
    first: NDArray[np.int64]
    ints: NDArray[np.int64]
    reals: NDArray[np.float64]
    textures: tuple[Shown, ...] = ()
    extra: NDArray[np.uint32] = field(default_factory=lambda: np.empty(0, np.uint32))


def words_of(texels: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Return premultiplied RGBA texels ``[N, 4]`` as little-endian words ``[N]``, read-only, not copied."""
    words = np.ascontiguousarray(texels).view("<u4").reshape(-1)
    words.flags.writeable = False
    return words


def num_texels(surface: Textured) -> int:
    """Return the texels of a texture with all its mip levels."""
    return sum(h * w for h, w in level_sizes_hw(surface.height, surface.width))


def fetch(
    textures: Sequence[Shown], bank: ObjectBank, backgrounds: BackgroundFolder | None
) -> NDArray[np.uint32]:
    """Return the texels of textures, one after another, read-only.

    Raises:
        UserError: background pictures are needed and none were given, or one cannot be read any more.
    """
    words = [words_of(texture_of(surface, bank, backgrounds, frame).texels) for surface, frame in textures]
    texels = words[0] if len(words) == 1 else np.concatenate([np.empty(0, np.uint32), *words])
    texels.flags.writeable = False
    return texels


def prepare(
    scenes: Sequence[Scene], bank: ObjectBank, backgrounds: BackgroundFolder | None, frames: range
) -> Parameters:
    """Flatten ``frames`` of scenes of one size and fetch the textures that are not in the bank.

    Raises:
        UserError: as `fetch`.
        ValueError: as `lay_out`.
    """
    parameters = lay_out(scenes, bank, frames)
    return replace(parameters, extra=fetch(parameters.textures, bank, backgrounds))


def lay_out(scenes: Sequence[Scene], bank: ObjectBank, frames: range) -> Parameters:
    """Flatten ``frames`` of scenes of one size; textures that are not in the bank are named, not fetched.

    Raises:
        ValueError: the scenes differ in size, lack a frame, or a pose squashes the plane to a line.
    """
    size_hw = scenes[0].size_hw
    entries = sum(len(scene.layers) for scene in scenes) * len(frames)
    ints = np.empty((entries, NUM_INTS), np.int64)
    reals = np.empty((entries, NUM_REALS))
    first = np.zeros(len(scenes) * len(frames) + 1, np.int64)
    places: dict[Shown, int] = {}
    extra_size = 0
    for b, scene in enumerate(scenes):
        if scene.size_hw != size_hw or scene.num_frames < frames.stop:
            raise ValueError(
                f"scenes of one batch: expected {size_hw} and {frames.stop} frames, "
                f"got {scene.size_hw} and {scene.num_frames}"
            )
        table = np.zeros((len(scene.layers), AREA), np.int64)
        first_texel = np.zeros((len(scene.layers), frames.stop), np.int64)
        label = 0
        for k, layer in enumerate(scene.layers):
            row, surface = table[k], layer.surface
            row[BORDER] = BORDERS[layer.border]
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
                row[KIND], row[HEIGHT], row[WIDTH] = PICTURE, surface.height, surface.width
                if isinstance(surface, Picture) and surface.source == "objects":
                    row[FROM_BANK], first_texel[k] = 1, bank.texel_offsets[surface.texture_id]
                    continue
                for t in frames:
                    shown = (surface, t if isinstance(surface, Video) else 0)
                    if shown not in places:
                        places[shown] = extra_size
                        extra_size += num_texels(surface)
                    first_texel[k, t] = places[shown]
        _flatten(
            ints,
            reals,
            first,
            b * len(frames),
            table,
            first_texel,
            _frozen(scene.object_to_frame),
            _frozen(scene.opacity),
            _frozen(scene.depth),
            _frozen(scene.gain),
            _frozen(scene.bias),
            _frozen(scene.level),
            frames.start,
            frames.stop,
            size_hw[0],
            size_hw[1],
        )
    n = int(first[-1])
    return Parameters(len(scenes), len(frames), size_hw, first, ints[:n], reals[:n], tuple(places))


def _frozen(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a contiguous read-only view: any other kind of array would compile the kernel anew."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


@numba.njit(cache=True, nogil=True)
def _flatten(  # type: ignore[no-untyped-def]  # pragma: no cover
    ints,
    reals,
    first,
    frame,
    table,
    first_texel,
    poses,
    opacity,
    depth,
    gain,
    bias,
    level,
    start,
    stop,
    height,
    width,
):
    """Append the entries of one scene's frames, and drop those that cannot be seen."""
    layers = len(table)
    order = np.empty(layers, np.int64)
    for t in range(start, stop):
        # Farthest first; equal depths: the earlier layer lies behind. Layer 0 is always the rearmost.
        for new in range(layers):
            place = new
            while place > 1 and depth[order[place - 1], t] < depth[new, t]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = new
        n = first[frame]
        for k in order:
            if opacity[k, t] == 0.0:
                continue
            ints[n, :AREA] = table[k]
            ints[n, FIRST_TEXEL] = first_texel[k, t]
            ints[n, AREA], ints[n, AREA + 1], ints[n, AREA + 2], ints[n, AREA + 3] = 0, 0, width, height
            if table[k, KIND] == NOISE and table[k, COLOR + 2]:
                ints[n, COLOR + 2] = t
            pose = poses[k, t]
            affine = pose[2, 0] == 0.0 and pose[2, 1] == 0.0 and pose[2, 2] == 1.0
            ints[n, AFFINE] = affine
            ints[n, FOLDED:] = 0
            reals[n, LEVEL], reals[n, OPACITY] = level[k, t], opacity[k, t]
            plain = True
            for c in range(3):
                reals[n, GAIN + c], reals[n, BIAS + c] = gain[k, t, c], bias[k, t, c]
                plain = plain and gain[k, t, c] == 1.0 and bias[k, t, c] == 0.0
            ints[n, PLAIN] = plain
            if table[k, KIND] == SOLID:
                reals[n, INVERSE : INVERSE + 9] = 0.0
            else:
                _invert(pose, affine, reals[n])
            if table[k, KIND] == PICTURE and table[k, BORDER] == TRANSPARENT:
                _crop(ints[n], pose, level[k, t], width, height)
                if ints[n, AREA] >= ints[n, AREA + 2] or ints[n, AREA + 1] >= ints[n, AREA + 3]:
                    continue
            if table[k, KIND] == PICTURE:
                _place(ints[n], reals[n], int(level[k, t]), NEAR)
                if level[k, t] % 1.0 > 0.0:
                    _place(ints[n], reals[n], int(level[k, t]) + 1, FAR)
                if table[k, BORDER] != TRANSPARENT:
                    ints[n, FOLDED] = _leaves(ints[n], reals[n])
            n += 1
        frame += 1
        first[frame] = n


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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


@numba.njit(cache=True, nogil=True)
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
