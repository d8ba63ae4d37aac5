"""The CPU backend for clips with a shutter, linear light or grain: row by row, in float32.

Entries are blended as `smile_synth.compositing._cpu` blends them; this module adds the mean over the
subframes of an open shutter, linear light and grain.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from smile_synth.compositing._cpu import _PLANE, _SEGMENT, _WORDS, NO_LIGHT, _layer
from smile_synth.compositing._parameters import AREA, CELLS, GRAIN, GRAIN_FRAME, GRAIN_KEY, LINEAR, Parameters
from smile_synth.compositing._philox import GRAIN_DEVIATION, GRAIN_MEAN, MULTIPLIERS, ROUNDS, WEYL
from smile_synth.core.appearance import LIGHT
from smile_synth.core.compile import kernel

_LIGHT = LIGHT.astype(np.float32)
_LIGHT.flags.writeable = False


def composite_effects(
    parameters: Parameters, bank: NDArray[np.uint32], frames: NDArray[np.uint8], *, threads: int = 1
) -> None:
    """Draw all frames ``[F, H, W, 3]`` of parameters with film; several threads draw a run of frames each."""
    common = (
        frames, parameters.subframes, parameters.effects, parameters.first, parameters.ints, parameters.reals,
        bank, parameters.extra,
    )  # fmt: skip
    edges = np.linspace(0, len(frames), threads + 1).astype(int).tolist()
    if threads == 1:
        _draw(0, len(frames), *common)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda begin, end: _draw(begin, end, *common), edges[:-1], edges[1:]))


@kernel
def _draw(begin, end, frames, subframes, effects, first, ints, reals, bank, extra):  # type: ignore[no-untyped-def]  # pragma: no cover
    height, width = frames.shape[1:3]
    words = np.zeros(_WORDS, np.uint32)
    pairs = words.view(np.uint64)
    sample = np.zeros(4 * _PLANE, np.float32)
    acc, mean = np.zeros(3 * _PLANE, np.float32), np.zeros(3 * _PLANE, np.float32)
    for f in range(begin, end):
        light = _LIGHT if effects[f, LINEAR] else NO_LIGHT
        count = np.float32(subframes[f + 1] - subframes[f])
        for y in range(height):
            for left in range(0, width, _SEGMENT):
                right = min(left + _SEGMENT, width)
                mean[:] = 0
                for m in range(subframes[f], subframes[f + 1]):
                    acc[:] = 0
                    for e in range(first[m], first[m + 1]):
                        if ints[e, AREA + 1] <= y < ints[e, AREA + 3]:
                            _layer(
                                acc, sample, words, pairs, ints, reals, e, bank, extra, left, right, y, light
                            )
                    mean += acc
                for c in range(3):
                    for k in range(right - left):
                        value = mean[c * _PLANE + k] / count
                        if effects[f, LINEAR]:
                            value = _to_srgb(value)
                        if effects[f, GRAIN] > 0:
                            value += np.float32(
                                effects[f, GRAIN] * _grain(effects[f], left + k + 0.5, y + 0.5, c)
                            )
                        value = min(max(value, np.float32(0)), np.float32(255))
                        frames[f, y, left + k, c] = np.uint8(np.int32(value + np.float32(0.5)))


@kernel
def _to_srgb(light):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return the sRGB value 0..255 of light 0..255."""
    share = min(light / np.float32(255), np.float32(1))
    if share <= np.float32(0.0031308):
        return light * np.float32(12.92)
    return np.float32(255 * 1.055) * share ** np.float32(1 / 2.4) - np.float32(255 * 0.055)


@kernel
def _grain(effects, x, y, channel):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Return noise of mean 0 and deviation 1: the sum of a word's four bytes."""
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1 = np.uint64(int(x * effects[CELLS])), np.uint64(int(y * effects[CELLS + 1]))
    c2, c3 = np.uint64(effects[GRAIN_FRAME]), np.uint64(channel)
    key0, key1 = np.uint64(effects[GRAIN_KEY]), np.uint64(effects[GRAIN_KEY + 1])
    for _ in range(ROUNDS):
        a, b = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        c0, c1 = (b >> half) ^ c1 ^ key0, b & mask
        c2, c3 = (a >> half) ^ c3 ^ key1, a & mask
        key0, key1 = (key0 + np.uint64(WEYL[0])) & mask, (key1 + np.uint64(WEYL[1])) & mask
    total = 0
    for place in range(4):
        total += int((c0 >> np.uint64(8 * place)) & np.uint64(255))
    return (total - GRAIN_MEAN) / GRAIN_DEVIATION
