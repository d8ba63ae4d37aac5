"""Near-duplicates: a perceptual hash finds candidates, thumbnails decide."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core.texture import Texture, level_sizes_hw

# Images whose thumbnails differ by no more, on average over all values 0..255, look alike.
THUMBNAIL_DIFFERENCE = 6.0
THUMBNAIL_SIDE = 8


@dataclass(frozen=True)
class Appearance:
    """What an object looks like, in 40 bytes and 256.

    Attributes:
        perceptual_hash: 64 bits.
        thumbnail: ``[8, 8, 4]`` uint8, premultiplied.
        aspect: width / height.
    """

    perceptual_hash: int
    thumbnail: NDArray[np.uint8]
    aspect: float


def appearance_of(texture: Texture) -> Appearance:
    """Measure a texture.

    The hash is that of Zauner (2010), "pHash": the signs, against their median, of the 64 lowest
    frequencies (but the mean) of a 32x32 discrete cosine transform of luminance, on mid-grey.
    """
    small = _resized(texture, 32).astype(np.float32)
    luminance = small[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) + (255 - small[..., 3]) / 2
    lowest = np.asarray(cv2.dct(luminance))[:9, :9].ravel()[1:65]
    bits = np.packbits(lowest > np.median(lowest))
    thumbnail = np.floor(_resized(texture, THUMBNAIL_SIDE) + 0.5).astype(np.uint8)
    return Appearance(int.from_bytes(bits.tobytes(), "big"), thumbnail, texture.width / texture.height)


def _resized(texture: Texture, side: int) -> NDArray[np.float64]:
    sizes = level_sizes_hw(texture.height, texture.width)
    # The smallest level that still has two texels for one.
    index = max((i for i, size in enumerate(sizes) if min(size) >= 2 * side), default=0)
    level = texture.level(index).astype(np.float32)
    return np.asarray(cv2.resize(level, (side, side), interpolation=cv2.INTER_AREA), np.float64)


class DuplicateIndex:
    """The objects of a bank so far, by what they look like."""

    def __init__(self, distance: int) -> None:
        """``distance``: hashes that differ in at most so many bits are compared; -1: none are."""
        self._distance = distance
        # Of distance + 1 parts of the hash, at least one is the same (pigeonhole): look only there.
        self._bounds = [64 * part // (distance + 1) for part in range(distance + 2)] if distance >= 0 else []
        self._buckets: list[dict[int, list[int]]] = [defaultdict(list) for _ in self._bounds[1:]]
        self._known: list[tuple[Appearance, str]] = []

    def find(self, appearance: Appearance) -> str | None:
        """Return the name of the first object added that this one is a near-duplicate of."""
        near = {i for bucket, part in self._parts(appearance) for i in bucket.get(part, ())}
        for i in sorted(near):
            known, name = self._known[i]
            if self._alike(known, appearance):
                return name
        return None

    def add(self, appearance: Appearance, name: str) -> None:
        """Remember an object."""
        for bucket, part in self._parts(appearance):
            bucket[part].append(len(self._known))
        self._known.append((appearance, name))

    def _parts(self, appearance: Appearance) -> list[tuple[dict[int, list[int]], int]]:
        cuts = zip(self._buckets, self._bounds, self._bounds[1:], strict=False)
        code = appearance.perceptual_hash
        return [(bucket, code >> low & (1 << high - low) - 1) for bucket, low, high in cuts]

    def _alike(self, a: Appearance, b: Appearance) -> bool:
        if (a.perceptual_hash ^ b.perceptual_hash).bit_count() > self._distance:
            return False
        if not 0.8 <= a.aspect / b.aspect <= 1.25:
            return False
        difference = np.abs(a.thumbnail.astype(np.int16) - b.thumbnail).mean()
        return bool(difference <= THUMBNAIL_DIFFERENCE)
