"""Frames of videos between RGB and the pixel formats of encoders and decoders."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
# The same colours with every instruction set.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.BITEXACT


class PixelFormat:
    """Converts the frames of one video.

    What FFmpeg sets up for the first frame serves all others: by itself it would for every frame, and start
    threads, which a process must not have that forks (the workers of a DataLoader do).
    """

    def __init__(self) -> None:
        """Set nothing up yet: that takes the size of the first frame."""
        self._reformatter = VideoReformatter()

    def to_rgb(self, frame: Any, *, exact: bool = False) -> UInt8:
        """Return a decoded frame as RGB ``[H, W, 3]`` uint8, turned upright where its video says so.

        Args:
            frame: what PyAV decodes.
            exact: the same values on every machine, for three times the time.
        """
        how = Interpolation.BILINEAR | _EXACT if exact else Interpolation.BILINEAR
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=how, threads=1).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90))

    def from_rgb(self, frame: UInt8, name: str) -> av.VideoFrame:
        """Return an RGB frame ``[H, W, 3]`` uint8 in FFmpeg's format of that name, exactly.

        Where pixels share a colour, as in ``yuv420p``, it is their mean.
        """
        rgb, how = av.VideoFrame.from_ndarray(frame, format="rgb24"), Interpolation.AREA | _EXACT
        return self._reformatter.reformat(rgb, format=name, interpolation=how, threads=1)
