"""Images and films as text inside a page."""

from __future__ import annotations

import base64
import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.corpus import write_mp4
from smile_synth.io.pixel_format import PixelFormat
from smile_synth.visualize._images import film_strip

UInt8 = NDArray[np.uint8]


def mp4_bytes(frames: UInt8, fps: float, *, crf: int = 23) -> bytes:
    """Encode frames ``[T, H, W, 3]`` uint8 of even sides as H.264 that plays in browsers."""
    data = io.BytesIO()
    with av.open(data, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        stream.codec_context.thread_count = 1
        # With macroblock trees x264's bytes depend on what its fresh memory happens to hold.
        quality = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
        stream.options = {**quality, "flags": "+bitexact", "threads": "1"}
        convert = PixelFormat()
        for frame in frames:
            container.mux(stream.encode(convert.from_rgb(frame, "yuv420p")))
        container.mux(stream.encode(None))
    return data.getvalue()


def fitted(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the largest even size of the same aspect whose longer side is at most ``longest``."""
    scale = min(1.0, longest / max(size_hw))
    return max(2, round(size_hw[0] * scale / 2) * 2), max(2, round(size_hw[1] * scale / 2) * 2)


def resized(frames: UInt8, size_hw: tuple[int, int]) -> UInt8:
    """Resize frames ``[T, H, W, 3]``: by area when smaller, by repeating pixels when larger."""
    if frames.shape[1:3] == tuple(size_hw):
        return frames
    smaller = size_hw[0] < frames.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
    return np.stack([cv2.resize(frame, size_hw[::-1], interpolation=how) for frame in frames])


def save_clip(path: Path, frames: UInt8, fps: float) -> None:
    """Write frames ``[T, H, W, 3]`` uint8 as .mp4 (as corpora do), .gif, or .png (a strip of frames).

    Raises:
        UserError: the place cannot be written, or an odd side of an mp4.
        ValueError: another kind of file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".mp4":
            if frames.shape[1] % 2 or frames.shape[2] % 2:
                raise UserError(
                    f"an mp4 needs even sides, got {frames.shape[1]}x{frames.shape[2]}; use --scale 2"
                )
            write_mp4(path, frames, fps)
        elif path.suffix.lower() == ".gif":
            # One palette for the whole clip: colours that change from frame to frame flicker.
            sheet = Image.fromarray(frames[:: max(1, len(frames) // 8)].reshape(-1, frames.shape[2], 3))
            palette = sheet.quantize(256)
            images = [Image.fromarray(frame).quantize(palette=palette) for frame in frames]
            duration = round(1000 / fps)
            images[0].save(path, save_all=True, append_images=images[1:], duration=duration, loop=0)
        elif path.suffix.lower() == ".png":
            Image.fromarray(film_strip(frames)).save(path)
        else:
            raise ValueError(f"a clip is written as .mp4, .gif or .png, got {path.name}")
    except OSError as error:
        raise UserError(f"out '{path}': cannot be written: {error.strerror or error}") from None


def base64_text(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode()


def png_uri(image: UInt8) -> str:
    """Return an image ``[H, W, 3]`` uint8 as a data URI."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG", optimize=True)
    return "data:image/png;base64," + base64_text(data.getvalue())


def mp4_uri(frames: UInt8, fps: float, *, crf: int = 23) -> str:
    """Return frames as a data URI, see `mp4_bytes`."""
    return "data:video/mp4;base64," + base64_text(mp4_bytes(frames, fps, crf=crf))
