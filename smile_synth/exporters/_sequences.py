"""Folders per sequence: plain frames, DAVIS, MOTChallenge and MOTS."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from smile_synth.core.errors import UserError
from smile_synth.exporters._base import (
    ExportedClip,
    Exporter,
    ExportSource,
    UInt8,
    box_xywh,
    write,
    write_frames,
)


def _frames(clip: ExportedClip, out: Path) -> None:
    write_frames(clip, out / clip.name, "{:05d}.png")


# --- DAVIS


def _palette() -> bytes:
    """Return the colours of VOC and DAVIS: the bits of a number dealt to red, green and blue in turn."""
    colors = np.zeros((256, 3), np.uint8)
    for number in range(256):
        for bit in range(8):
            colors[number, bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return colors.tobytes()


def _davis(clip: ExportedClip, out: Path) -> str:
    if len(clip.objects) > 254:
        raise UserError(f"clip {clip.index}: a DAVIS mask holds 254 objects, not {len(clip.objects)}")
    write_frames(clip, out / "JPEGImages" / "480p" / clip.name, "{:05d}.jpg")
    for t, numbers in enumerate(_segmentation(clip)):
        image = Image.fromarray(numbers)
        image.putpalette(_palette())
        data = io.BytesIO()
        image.save(data, "PNG")
        write(out / "Annotations" / "480p" / clip.name / f"{t:05d}.png", data.getvalue())
    return clip.name


def _segmentation(clip: ExportedClip) -> UInt8:
    """Return ``[T, H, W]``: 0, or the number of the object that owns the pixel."""
    out = np.zeros((clip.source.num_frames, *clip.source.corpus.header.size_hw), np.uint8)
    for item in clip.objects:
        masks = coco_mask.decode(item["modal_rle"]).transpose(2, 0, 1).astype(bool)
        out[masks] = item["id"]
    return out


def _davis_list(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    write(out / "ImageSets" / "2017" / "train.txt", "".join(f"{name}\n" for name in records).encode())


# --- MOTChallenge


def _sequence(clip: ExportedClip, out: Path, lines: list[str]) -> None:
    folder = out / "train" / clip.name
    write_frames(clip, folder / "img1", "{:06d}.jpg", first=1)
    header = clip.source.corpus.header
    height, width = header.size_hw
    about = (
        f"[Sequence]\nname={clip.name}\nimDir=img1\nframeRate={header.fps:g}\nseqLength={header.num_frames}\n"
        f"imWidth={width}\nimHeight={height}\nimExt=.jpg\n"
    )
    write(folder / "seqinfo.ini", about.encode())
    write(folder / "gt" / "gt.txt", "".join(f"{line}\n" for line in lines).encode())


def _mot(clip: ExportedClip, out: Path) -> None:
    lines = []
    for t in range(clip.source.num_frames):
        for item in clip.objects:
            inside = item["in_frame"][t]
            if not inside:
                continue
            x, y, width, height = box_xywh(item["amodal_boxes_xyxy"][t])
            category = clip.source.categories[item["class_name"]]
            # The first pixel of a MOT sequence is 1. Seen of the whole object, the frame's border counted.
            seen = item["visibility"][t] * inside
            lines.append(
                f"{t + 1},{item['id']},{x + 1:g},{y + 1:g},{width:g},{height:g},1,{category},{seen:.4f}"
            )
    _sequence(clip, out, lines)


def _mots(clip: ExportedClip, out: Path) -> None:
    if len(clip.objects) > 999:
        raise UserError(f"clip {clip.index}: a MOTS class holds 999 objects, not {len(clip.objects)}")
    height, width = clip.source.corpus.header.size_hw
    lines = []
    for t in range(clip.source.num_frames):
        for item in clip.objects:
            if item["modal_boxes_xyxy"][t][0] is None:
                continue
            category = clip.source.categories[item["class_name"]]
            number = 1000 * category + item["id"]
            lines.append(f"{t + 1} {number} {category} {height} {width} {item['modal_rle'][t]['counts']}")
    _sequence(clip, out, lines)


FRAMES = Exporter(_frames)
DAVIS = Exporter(_davis, _davis_list)
MOT = Exporter(_mot)
MOTS = Exporter(_mots)
