"""DAVIS: JPEG frames and palette masks."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from smile_synth.core.errors import UserError
from smile_synth.exporters._base import ExportedClip, Exporter, ExportSource, UInt8, write, write_frames

_MOST_OBJECTS = 254  # 0 is the background, 255 is "ignore" in DAVIS's evaluation


def _palette() -> bytes:
    """Return the colours of VOC and DAVIS: the bits of an index go to red, green and blue in turn."""
    colors = np.zeros((256, 3), np.uint8)
    for index in range(256):
        for bit in range(8):
            colors[index, bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return colors.tobytes()


def _segmentation(clip: ExportedClip) -> UInt8:
    """Return ``[T, H, W]`` uint8: 0, or the number of the object that owns the pixel, from 1."""
    out = np.zeros((clip.source.num_frames, *clip.source.size_hw), np.uint8)
    for item in clip.objects:
        masks = coco_mask.decode(item["modal_rle"]).transpose(2, 0, 1).astype(bool)
        out[masks] = item["id"]
    return out


def _write_clip(clip: ExportedClip, out: Path) -> str:
    if len(clip.objects) > _MOST_OBJECTS:
        raise UserError(
            f"clip {clip.index}: has {len(clip.objects)} objects; a DAVIS mask holds {_MOST_OBJECTS}"
        )
    write_frames(clip, out / "JPEGImages" / "480p" / clip.name, "{:05d}.jpg")
    for t, mask in enumerate(_segmentation(clip)):
        image = Image.fromarray(mask)
        image.putpalette(_palette())
        data = io.BytesIO()
        image.save(data, "PNG")
        write(out / "Annotations" / "480p" / clip.name / f"{t:05d}.png", data.getvalue())
    return clip.name


def _finish(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    write(out / "ImageSets" / "2017" / "train.txt", "".join(f"{name}\n" for name in records).encode())


DAVIS = Exporter("davis", _write_clip, _finish)
