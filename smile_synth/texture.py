"""Texture: premultiplied RGBA pixels with their mip levels, in one flat array.

Level l of a ``height x width`` texture has ``ceil(height / 2^l) x ceil(width / 2^l)`` texels, each the
mean of 2x2 texels of the level before. An odd side is padded on the far end, with transparent texels
for an object and with a copy of the last texel for a picture, so that a point (x, y) of level 0 is
the point (x, y) / 2^l of level l, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
    """A mip-mapped picture.

    Attributes:
        texels: ``[sum of level areas, 4]`` uint8, premultiplied RGBA, level after level, row-major.
        height: rows of level 0.
        width: columns of level 0.
    """

    texels: UInt8
    height: int
    width: int

    def __post_init__(self) -> None:
        """Refuse an array of another size or type."""
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
        level = rgba.astype(np.float64)
        level[..., :3] *= level[..., 3:] / 255.0
        height, width = rgba.shape[:2]
        levels: list[UInt8] = []
        for size_hw in level_sizes_hw(height, width):
            if levels:
                level = _halve(level, pad)
            assert level.shape[:2] == size_hw
            levels.append(np.floor(level + 0.5).astype(np.uint8).reshape(-1, 4))
        return cls(np.concatenate(levels), height, width)

    def level(self, index: int) -> UInt8:
        """Return mip level ``index`` as a view ``[h, w, 4]`` uint8, premultiplied."""
        sizes = level_sizes_hw(self.height, self.width)
        start = sum(h * w for h, w in sizes[:index])
        h, w = sizes[index]
        return self.texels[start : start + h * w].reshape(h, w, 4)


def _halve(level: NDArray[np.float64], pad: str) -> NDArray[np.float64]:
    h, w = level.shape[:2]
    padding = ((0, h % 2), (0, w % 2), (0, 0))
    level = np.pad(level, padding, mode="edge" if pad == "edge" else "constant")
    return (level[0::2, 0::2] + level[1::2, 0::2] + level[0::2, 1::2] + level[1::2, 1::2]) / 4.0
