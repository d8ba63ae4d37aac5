"""YOLO segmentation: one text file per frame, one polygon per visible object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from smile_synth.exporters._base import ExportedClip, Exporter, ExportSource, write, write_frames

Points = NDArray[np.int64]


def _write_clip(clip: ExportedClip, out: Path) -> None:
    names = write_frames(clip, out / "images" / clip.name, "{:05d}.png")
    for t, name in enumerate(names):
        lines = [_line(clip, item, t) for item in clip.objects if item["modal_boxes_xyxy"][t][0] is not None]
        text = "".join(f"{line}\n" for line in lines)
        write(out / "labels" / clip.name / f"{Path(name).stem}.txt", text.encode())


def _line(clip: ExportedClip, item: dict[str, Any], t: int) -> str:
    """Return ``class x y x y ...`` of an object: classes count from 0, coordinates are shares."""
    height, width = clip.source.size_hw
    mask = coco_mask.decode(item["modal_rle"][t])
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = _joined([contour.reshape(-1, 2).astype(np.int64) for contour in contours])
    shares = (outline + 0.5) / (width, height)  # through the centres of the outermost pixels
    coordinates = " ".join(f"{value:.6f}" for value in shares.ravel())
    return f"{clip.source.category_ids[item['class_name']] - 1} {coordinates}"


def _joined(rings: Sequence[Points]) -> Points:
    """Join outlines to one by lines between their nearest points, there and back; at least 3 points."""
    joined, *others = sorted(rings, key=len, reverse=True)
    for ring in others:
        distance = np.square(joined[:, None] - ring).sum(axis=2)
        here, there = np.unravel_index(distance.argmin(), distance.shape)
        loop = np.roll(ring, -int(there), axis=0)
        joined = np.concatenate([joined[: here + 1], loop, loop[:1], joined[here:]])
    return np.concatenate([joined, joined[:1].repeat(max(0, 3 - len(joined)), axis=0)])


def _finish(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    names = "".join(f"  {i - 1}: {json.dumps(name)}\n" for name, i in source.category_ids.items())
    text = (
        f"# Ultralytics needs val; give it a corpus of its own.\ntrain: images\nval: images\nnames:\n{names}"
    )
    write(out / "data.yaml", text.encode())


YOLO = Exporter("yolo", _write_clip, _finish)
