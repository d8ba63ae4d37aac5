"""Images of clips, and images and videos as files or as text inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.io.videos import encode_small_h264, write_mp4

UInt8 = NDArray[np.uint8]
# Okabe and Ito's palette: colour-blind people can distinguish these colours.
COLORS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
_SHEET_GRAY = 245


def frame_strip(frames: UInt8) -> UInt8:
    """Put up to eight evenly spaced frames of ``[T, H, W, 3]`` side by side; return ``[., ., 3]`` uint8."""
    chosen = np.linspace(0, len(frames) - 1, min(8, len(frames))).round().astype(int)
    return contact_sheet([frames[t] for t in chosen], columns=len(chosen))


def contact_sheet(images: Sequence[UInt8], *, columns: int, gap: int = 4) -> UInt8:
    """Put images of one size ``[H, W, 3]`` in rows on a light sheet; return ``[., ., 3]`` uint8."""
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), _SHEET_GRAY, np.uint8)
    for k, image in enumerate(images):
        y, x = gap + (k // columns) * (height + gap), gap + (k % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet


def fitted(size_hw: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the largest even size with the same aspect and a longer side of at most ``longest`` pixels.

    The size of a clip that cannot be read is (0, 0); the result is then (2, 2).
    """
    scale = min(1.0, longest / max(*size_hw, 1))
    return max(2, round(size_hw[0] * scale / 2) * 2), max(2, round(size_hw[1] * scale / 2) * 2)


def resized(frames: UInt8, size_hw: tuple[int, int]) -> UInt8:
    """Resize frames ``[T, H, W, 3]``: smaller by averaging, larger by repeating pixels."""
    if frames.shape[1:3] == tuple(size_hw):
        return frames
    smaller = size_hw[0] < frames.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
    return np.stack([cv2.resize(frame, size_hw[::-1], interpolation=method) for frame in frames])


def save_clip(path: Path, frames: UInt8, fps: float) -> None:
    """Write frames ``[T, H, W, 3]`` uint8 as .mp4 (as in a corpus), .gif, or .png (a strip of frames).

    Raises:
        UserError: the file cannot be written, or an odd side of an mp4.
        ValueError: another suffix.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".mp4":
            height, width = frames.shape[1:3]
            if height % 2 or width % 2:
                raise UserError(f"an mp4 needs even sides, got {height}x{width}; scale the frames by 2")
            write_mp4(path, frames, fps)
        elif path.suffix.lower() == ".gif":
            _save_gif(path, frames, fps)
        elif path.suffix.lower() == ".png":
            Image.fromarray(frame_strip(frames)).save(path)
        else:
            raise ValueError(f"a clip is written as .mp4, .gif or .png, got {path.name}")
    except OSError as error:
        raise UserError(f"out '{path}': cannot be written: {error.strerror or error}") from None


def _save_gif(path: Path, frames: UInt8, fps: float) -> None:
    # One palette for the whole clip: colours that change from frame to frame flicker.
    some = Image.fromarray(frames[:: max(1, len(frames) // 8)].reshape(-1, frames.shape[2], 3))
    palette = some.quantize(256)
    first, *rest = [Image.fromarray(frame).quantize(palette=palette) for frame in frames]
    first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)


def base64_text(data: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode()


def png_uri(image: UInt8) -> str:
    """Return an image ``[H, W, 3]`` uint8 as a data URI."""
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG", optimize=True)
    return "data:image/png;base64," + base64_text(data.getvalue())


def mp4_uri(frames: UInt8, fps: float, *, crf: int = 23) -> str:
    """Return frames ``[T, H, W, 3]`` uint8 with even sides as a data URI of a video."""
    return "data:video/mp4;base64," + base64_text(encode_small_h264(frames, fps, crf))
