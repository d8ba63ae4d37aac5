"""H.264 with bytes that depend on the frames alone."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from smile_synth.errors import UserError


def check_encodable(size_hw: tuple[int, int]) -> None:
    """Refuse sizes that yuv420p cannot hold.

    Raises:
        UserError: an odd side.
    """
    if size_hw[0] % 2 or size_hw[1] % 2:
        raise UserError(f"size {size_hw[0]}x{size_hw[1]}: an mp4 (yuv420p) needs even sides")


def write_mp4(path: Path, frames: NDArray[np.uint8], fps: float, *, crf: int = 18) -> None:
    """Write frames ``[T, H, W, 3]`` uint8 as H.264; the file appears whole or not at all.

    One encoder thread and bit-exact muxing: the same frames give the same bytes on a busy machine, too.
    """
    partial = path.with_name(path.name + ".part")
    height, width = frames.shape[1:3]
    options = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(str(partial), "w", format="mp4", options=options) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(crf), "preset": "veryfast", "tune": "fastdecode", "flags": "+bitexact", "threads": "1",
        }  # fmt: skip
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    publish(partial, path)


def publish(partial: Path, path: Path) -> None:
    """Make a finished file appear under its name, after its bytes are on disk."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    publish(partial, path)
