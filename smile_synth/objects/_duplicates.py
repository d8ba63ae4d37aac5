"""Find near-duplicates: perceptual hashes select candidates, thumbnails decide."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core.texture import Texture, level_sizes_hw

# Largest mean difference of the thumbnails (values 0..255) of near-duplicates.
THUMBNAIL_DIFFERENCE = 6.0
THUMBNAIL_SIDE = 8


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """A short description of an object's pixels."""

    perceptual_hash: int  # 64 bits
    thumbnail: NDArray[np.uint8]  # [8, 8, 4], premultiplied
    aspect: float  # width / height


def fingerprint_of(texture: Texture) -> Fingerprint:
    """Compute the fingerprint of a texture.

    The hash is "pHash" (Zauner, 2010): which of the 64 lowest frequencies (except the mean) of a 32x32
    discrete cosine transform are above their median; of the luminance, on mid-grey.
    """
    small = _resized(texture, 32).astype(np.float32)
    luminance = small[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) + (255 - small[..., 3]) / 2
    lowest = np.asarray(cv2.dct(luminance))[:9, :9].ravel()[1:65]
    bits = np.packbits(lowest > np.median(lowest))
    thumbnail = np.floor(_resized(texture, THUMBNAIL_SIDE) + 0.5).astype(np.uint8)
    return Fingerprint(int.from_bytes(bits.tobytes(), "big"), thumbnail, texture.width / texture.height)


def _resized(texture: Texture, side: int) -> NDArray[np.float64]:
    sizes = level_sizes_hw(texture.height, texture.width)
    # The smallest level with at least two texels per result.
    index = max((i for i, size in enumerate(sizes) if min(size) >= 2 * side), default=0)
    level = texture.level(index).astype(np.float32)
    return np.asarray(cv2.resize(level, (side, side), interpolation=cv2.INTER_AREA), np.float64)


class DuplicateIndex:
    """The fingerprints of a bank's objects."""

    def __init__(self, distance: int) -> None:
        """Create an empty index; see `CutOutOptions.duplicate_distance` for ``distance``."""
        self._distance = distance
        # If hashes differ in ``distance`` bits, at least one of distance + 1 parts is equal (pigeonhole).
        self._bounds = [64 * part // (distance + 1) for part in range(distance + 2)] if distance >= 0 else []
        self._buckets: list[dict[int, list[int]]] = [defaultdict(list) for _ in self._bounds[1:]]
        self._added: list[tuple[Fingerprint, str]] = []

    def find(self, fingerprint: Fingerprint) -> str | None:
        """Return the name of the first object added that is a near-duplicate of this one."""
        candidates = {i for bucket, part in self._parts(fingerprint) for i in bucket.get(part, ())}
        for i in sorted(candidates):
            added, name = self._added[i]
            if self._are_similar(added, fingerprint):
                return name
        return None

    def add(self, fingerprint: Fingerprint, name: str) -> None:
        """Add an object."""
        for bucket, part in self._parts(fingerprint):
            bucket[part].append(len(self._added))
        self._added.append((fingerprint, name))

    def _parts(self, fingerprint: Fingerprint) -> list[tuple[dict[int, list[int]], int]]:
        cuts = zip(self._buckets, self._bounds, self._bounds[1:], strict=False)
        code = fingerprint.perceptual_hash
        return [(bucket, code >> low & (1 << high - low) - 1) for bucket, low, high in cuts]

    def _are_similar(self, a: Fingerprint, b: Fingerprint) -> bool:
        if (a.perceptual_hash ^ b.perceptual_hash).bit_count() > self._distance:
            return False
        if not 0.8 <= a.aspect / b.aspect <= 1.25:
            return False
        difference = np.abs(a.thumbnail.astype(np.int16) - b.thumbnail).mean()
        return bool(difference <= THUMBNAIL_DIFFERENCE)
