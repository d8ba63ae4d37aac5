"""Contact sheets and overlays of labels."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core.clip import Clip

UInt8 = NDArray[np.uint8]

# Okabe and Ito's colours, told apart by colour-blind eyes.
COLORS: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
_PAPER = 245


def draw_labels(clip: Clip, *, masks: bool = True, boxes: bool = True, trails: bool = True) -> UInt8:
    """Draw visible masks (outlined), tight boxes and centre trails over a clip; ``[T, H, W, 3]`` uint8."""
    frames = clip.frames.copy()
    labels = clip.labels
    for i in range(len(labels.class_names)):
        color = COLORS[i % len(COLORS)]
        centers = (labels.amodal_boxes_xyxy[i, :, :2] + labels.amodal_boxes_xyxy[i, :, 2:]) / 2
        for t, frame in enumerate(frames):
            if masks:
                outlines, _ = cv2.findContours(
                    labels.modal_masks[i, t].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
                )
                cv2.drawContours(frame, outlines, -1, color, 1)
            box = labels.modal_boxes_xyxy[i, t]
            if boxes and np.isfinite(box).all():
                x0, y0, x1, y1 = box.astype(int)
                cv2.rectangle(frame, (x0, y0), (x1 - 1, y1 - 1), color, 1)
            seen = centers[: t + 1][np.isfinite(centers[: t + 1]).all(axis=1)]
            if trails and len(seen) > 1:
                # OpenCV counts from pixel centres, we from corners: half a pixel; 4 fractional bits.
                points = np.round((seen - 0.5) * 16).astype(np.int32)
                cv2.polylines(frame, [points[:, None]], False, color, 1, cv2.LINE_AA, 4)
    return frames


def film_strip(frames: UInt8, *, columns: int = 8) -> UInt8:
    """Lay evenly spaced frames of ``[T, H, W, 3]`` side by side; ``[H, columns * (W + gap), 3]`` uint8."""
    chosen = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int)
    return contact_sheet([frames[t] for t in chosen], columns=len(chosen))


def contact_sheet(images: Sequence[UInt8], *, columns: int, gap: int = 4) -> UInt8:
    """Lay images of one size ``[H, W, 3]`` out in rows on light paper; returns ``[., ., 3]`` uint8."""
    if not images:
        raise ValueError("a contact sheet needs at least one image")
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), _PAPER, np.uint8)
    for k, image in enumerate(images):
        y, x = gap + (k // columns) * (height + gap), gap + (k % columns) * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet
