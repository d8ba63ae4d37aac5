"""Texture: premultiplied RGBA pixels with their mip levels, in one flat array.

Level l of a ``height x width`` texture has ``ceil(height / 2^l) x ceil(width / 2^l)`` texels, each the
mean of 2x2 texels of the level before. An odd side is padded on the far end, with transparent texels
for an object and with a copy of the last texel for an image, so that a point (x, y) of level 0 is
the point (x, y) / 2^l of level l, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.compile import kernel

UInt8 = NDArray[np.uint8]


def level_sizes_hw(height: int, width: int) -> list[tuple[int, int]]:
    """Return (height, width) of every mip level, down to one texel."""
    sizes = [(height, width)]
    while sizes[-1] != (1, 1):
        h, w = sizes[-1]
        sizes.append(((h + 1) // 2, (w + 1) // 2))
    return sizes


@dataclass(frozen=True)
class Texture:
    """A mip-mapped image.

    Attributes:
        texels: ``[sum of level areas, 4]`` uint8, premultiplied RGBA, level after level, row-major.
        height: rows of level 0.
        width: columns of level 0.
    """

    texels: UInt8
    height: int
    width: int

    def __post_init__(self) -> None:
        """Check the shape and type of the texels."""
        expected = sum(h * w for h, w in level_sizes_hw(self.height, self.width))
        if self.texels.shape != (expected, 4) or self.texels.dtype != np.uint8:
            raise ValueError(
                f"a {self.height}x{self.width} texture has {expected} uint8 RGBA texels, "
                f"got {self.texels.shape} {self.texels.dtype}"
            )

    @classmethod
    def from_straight_rgba(
        cls, rgba: UInt8, *, pad: Literal["transparent", "edge"] = "transparent"
    ) -> Texture:
        """Build a texture from straight-alpha RGBA ``[H, W, 4]`` uint8.

        Raises:
            ValueError: not an ``[H, W, 4]`` uint8 array with at least one pixel.
        """
        if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8 or rgba.size == 0:
            raise ValueError(f"expected uint8 [H, W, 4], got {rgba.dtype} {rgba.shape}")
        height, width = rgba.shape[:2]
        texels = np.empty((sum(h * w for h, w in level_sizes_hw(height, width)), 4), np.uint8)
        level = rgba.astype(np.float64)
        level[..., :3] *= level[..., 3:] / 255
        fill_levels(level, pad == "edge", texels, 0.5)
        return cls(texels, height, width)

    @classmethod
    def opaque(cls, rgb: UInt8) -> Texture:
        """Build the texture of an opaque image ``[H, W, 3]`` uint8, padded by its edge."""
        alpha = np.full((*rgb.shape[:2], 1), 255, np.uint8)
        return cls.from_straight_rgba(np.concatenate([rgb, alpha], axis=2), pad="edge")

    def level(self, index: int) -> UInt8:
        """Return mip level ``index`` as a view ``[h, w, 4]`` uint8, premultiplied."""
        sizes = level_sizes_hw(self.height, self.width)
        start = sum(h * w for h, w in sizes[:index])
        h, w = sizes[index]
        return self.texels[start : start + h * w].reshape(h, w, 4)


@kernel
def fill_levels(level, repeat_edge, texels, rounding):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Write premultiplied values ``[H, W, 4]`` float64 and all their mip levels, plus ``rounding``."""
    start = 0
    while True:
        h, w = level.shape[:2]
        for y in range(h):
            for x in range(w):
                for c in range(4):
                    # Only the stored value is rounded; the next level is made from exact values.
                    texels[start + y * w + x, c] = level[y, x, c] + rounding
        start += h * w
        if h == 1 and w == 1:
            return
        half = np.zeros(((h + 1) // 2, (w + 1) // 2, 4), np.float64)
        for y in range(half.shape[0]):
            for x in range(half.shape[1]):
                for dx in range(2):
                    for dy in range(2):
                        row, column = 2 * y + dy, 2 * x + dx
                        if row >= h or column >= w:
                            if not repeat_edge:
                                continue
                            row, column = min(row, h - 1), min(column, w - 1)
                        for c in range(4):
                            half[y, x, c] += level[row, column, c]
                for c in range(4):
                    half[y, x, c] /= 4.0
        level = half
