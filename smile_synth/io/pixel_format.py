"""Convert video frames between RGB and the pixel formats of encoders and decoders."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from smile_synth.core.compile import kernel

UInt8 = NDArray[np.uint8]
# Equal results with every CPU instruction set.
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# Weights of R, G and B in 1/65536: ITU-R BT.601, limited range (Y 16..235, U and V 16..240 around 128).
_Y = 16829, 33039, 6416
_U = -9714, -19071, 28785
_V = 28785, -24103, -4682


class PixelFormat:
    """Converts the frames of one video.

    FFmpeg prepares its conversion at the first frame and reuses it for the others, on the calling thread.
    PyAV's own methods prepare it for every frame and start threads, and a process with threads cannot fork
    safely (DataLoader forks its workers).
    """

    def __init__(self) -> None:
        """Create a converter; the first frame sets its size."""
        self._reformatter = VideoReformatter()

    def to_rgb(self, frame: Any, *, exact: bool = False) -> UInt8:
        """Return a decoded frame as RGB ``[H, W, 3]`` uint8, rotated as its video's metadata says.

        Args:
            frame: a frame decoded by PyAV.
            exact: give equal values on every machine; takes three times as long.
        """
        flags = _EXACT if exact else Interpolation.BILINEAR
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation=flags, threads=1).to_ndarray()
        return np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90))

    def from_rgb(self, frame: UInt8, name: str) -> av.VideoFrame:
        """Return an RGB frame ``[H, W, 3]`` uint8 in FFmpeg's pixel format ``name``, equal on every machine.

        ``yuv420p`` needs even sides. It is ITU-R BT.601 in limited range; U and V are means of 2x2 pixels.
        """
        if name == "yuv420p":  # FFmpeg takes six times as long
            height, width = frame.shape[:2]
            planes = np.empty((height * 3 // 2, width), np.uint8)
            _to_yuv420p(np.ascontiguousarray(frame).reshape(-1), planes.reshape(-1), height, width)
            # Without a copy PyAV computes a wrong height where it is not a multiple of four.
            wrap = av.VideoFrame.from_ndarray if height % 4 else av.VideoFrame.from_numpy_buffer
            return wrap(planes, format=name)
        rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
        return self._reformatter.reformat(rgb, format=name, interpolation=_EXACT, threads=1)


@kernel
def _to_yuv420p(rgb, planes, height, width):  # type: ignore[no-untyped-def] # pragma: no cover
    """Fill ``planes`` with all of Y, then U, then V from ``rgb``, both flat."""
    # Unsigned indices: numba omits its check for negative ones, which would prevent SIMD.
    one, two, three, six = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(6)
    below = np.uint64(3 * width)
    for y in range(0, height, 2):
        first, y_at = np.uint64(3 * y * width), np.uint64(y * width)
        for x in range(np.uint64(2 * width)):  # two rows
            p = first + three * x
            r, g, b = np.int32(rgb[p]), np.int32(rgb[p + one]), np.int32(rgb[p + two])
            planes[y_at + x] = np.uint8((_Y[0] * r + _Y[1] * g + _Y[2] * b + (33 << 15)) >> 16)
        u_at = np.uint64(height * width + y // 2 * (width // 2))
        v_at = u_at + np.uint64(height * width // 4)
        for x in range(np.uint64(width // 2)):
            p = first + six * x
            q = p + below
            # Sums of 2x2 pixels.
            r = np.int32(np.int32(rgb[p]) + rgb[p + three] + rgb[q] + rgb[q + three])
            g = np.int32(np.int32(rgb[p + one]) + rgb[p + three + one] + rgb[q + one] + rgb[q + three + one])
            b = np.int32(np.int32(rgb[p + two]) + rgb[p + three + two] + rgb[q + two] + rgb[q + three + two])
            planes[u_at + x] = np.uint8((_U[0] * r + _U[1] * g + _U[2] * b + (257 << 17)) >> 18)
            planes[v_at + x] = np.uint8((_V[0] * r + _V[1] * g + _V[2] * b + (257 << 17)) >> 18)
