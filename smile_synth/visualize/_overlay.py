"""Labels drawn over a clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from smile_synth.core.clip import Clip, Flow, Labels
from smile_synth.core.errors import UserError, nearest
from smile_synth.visualize._images import COLORS
from smile_synth.visualize._media import resized

UInt8 = NDArray[np.uint8]
Float = NDArray[np.float64]
# Clips are enlarged by a whole factor until their shorter side is this long, so that text can be read.
READABLE_SIDE = 224
_POINTS_PER_OBJECT = 6
_TRAIL = 8


def overlay(clip: Clip, overlays: Sequence[str] = ("boxes", "modal"), *, scale: int | None = None) -> UInt8:
    """Draw labels over a clip.

    Every object keeps one colour of Okabe and Ito's palette, told apart by colour-blind eyes; from the
    eighth object on colours return, the numbers do not.

    Args:
        clip: frames and labels.
        overlays: names in `OVERLAYS`, drawn in this order.
        scale: enlarge by this whole factor; None: until the shorter side has 224 pixels.

    Returns:
        ``[T, scale * H, scale * W, 3]`` uint8.

    Raises:
        UserError: an overlay has no such name, or needs a scene that is not there.
    """
    check_overlays(overlays)
    height, width = clip.frames.shape[1:3]
    factor = scale or max(1, -(-READABLE_SIDE // min(height, width)))
    frames = resized(clip.frames, (height * factor, width * factor)).copy()
    for name in overlays:
        OVERLAYS[name](frames, clip, factor)
    return frames


def check_overlays(overlays: Sequence[str]) -> None:
    """Refuse names that `OVERLAYS` lacks.

    Raises:
        UserError: one of them.
    """
    for name in overlays:
        if name not in OVERLAYS:
            allowed = ", ".join(OVERLAYS)
            raise UserError(f"overlay '{name}': expected some of {allowed}{nearest(name, OVERLAYS)}")


def track_queries(labels: Labels, per_object: int = _POINTS_PER_OBJECT) -> Float:
    """Choose points (frame, x, y) on every object, ``[P, 3]``, in the first frame in which it is seen."""
    queries = []
    for masks in labels.modal_masks:
        seen = np.flatnonzero(masks.any(axis=(1, 2)))
        if len(seen):
            y, x = np.nonzero(masks[seen[0]])
            places = np.unique(np.linspace(0, len(x) - 1, per_object + 2).round().astype(int)[1:-1])
            queries += [(seen[0], x[p] + 0.5, y[p] + 0.5) for p in places]
    return np.array(queries, np.float64).reshape(-1, 3)


def flow_colors(flow: Flow, largest: float | None = None) -> UInt8:
    """Colour a flow field by direction (hue) and length (saturation): white stands still, grey is invalid.

    Args:
        flow: of one pair of frames.
        largest: length of full saturation in pixels; None: the field's own longest.

    Returns:
        ``[H, W, 3]`` uint8.
    """
    x, y = np.moveaxis(flow.flow_xy.astype(np.float64), -1, 0)
    length = np.hypot(x, y)
    largest = largest or max(float(length[flow.valid].max(initial=0)), 1e-6)
    hue = np.rad2deg(np.arctan2(y, x)) % 360 / 2
    saturation = np.clip(length / largest, 0, 1) * 255
    hsv = np.stack([hue, saturation, np.full_like(hue, 255)], axis=-1).astype(np.uint8)
    colors = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    colors[~flow.valid] = 128
    return np.asarray(colors, np.uint8)


def _color(i: int) -> tuple[int, int, int]:
    return COLORS[i % len(COLORS)]


def _boxes(frames: UInt8, clip: Clip, scale: int) -> None:
    for i, boxes in enumerate(clip.labels.modal_boxes_xyxy):
        for frame, box in zip(frames, boxes * scale, strict=True):
            if np.isfinite(box).all():
                x0, y0, x1, y1 = box.astype(int)
                cv2.rectangle(frame, (x0, y0), (x1 - 1, y1 - 1), _color(i), 1)


def _amodal_boxes(frames: UInt8, clip: Clip, scale: int) -> None:
    for i, boxes in enumerate(clip.labels.amodal_boxes_xyxy):
        for frame, box in zip(frames, boxes * scale, strict=True):
            if np.isfinite(box).all():
                x0, y0, x1, y1 = box.astype(int)
                corners = [(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)]
                for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
                    _dashes(frame, (ax, ay), (bx, by), _color(i))


def _dashes(frame: UInt8, a: tuple[int, int], b: tuple[int, int], color: tuple[int, int, int]) -> None:
    length = int(np.hypot(b[0] - a[0], b[1] - a[1]))
    for start in range(0, length, 8):
        ends = [
            tuple(int(p + (q - p) * min(at, length) / length) for p, q in zip(a, b, strict=True))
            for at in (start, start + 4)
        ]
        cv2.line(frame, ends[0], ends[1], color, 1)


def _masks(kind: str, fill: float) -> Callable[[UInt8, Clip, int], None]:
    def draw(frames: UInt8, clip: Clip, scale: int) -> None:
        for i, masks in enumerate(getattr(clip.labels, kind)):
            for frame, mask in zip(frames, masks, strict=True):
                large = mask.repeat(scale, 0).repeat(scale, 1)
                if fill:
                    frame[large] = (1 - fill) * frame[large] + fill * np.array(_color(i))
                outlines, _ = cv2.findContours(
                    large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
                )
                cv2.drawContours(frame, outlines, -1, _color(i), 1)

    return draw


def _tracks(frames: UInt8, clip: Clip, scale: int) -> None:
    """Points with the trail of their last frames; a ring where the point is covered."""
    queries = track_queries(clip.labels)
    if not len(queries):
        return
    tracks = clip.tracks(queries)
    owners = [clip.segmentation[int(t), int(y), int(x)] - 1 for t, x, y in queries]
    for points, visible, owner in zip(tracks.points_xy * scale - 0.5, tracks.visible, owners, strict=True):
        for t, frame in enumerate(frames):
            past = points[max(0, t - _TRAIL) : t + 1]
            past = past[np.isfinite(past).all(axis=1)]
            if len(past) > 1:
                shifted = np.round(past * 16).astype(np.int32)[:, None]
                cv2.polylines(frame, [shifted], False, _color(owner), 1, cv2.LINE_AA, 4)
            if np.isfinite(points[t]).all():
                x, y = (int(value) for value in np.round(points[t] * 16))
                thickness = -1 if visible[t] else 1
                cv2.circle(frame, (x, y), 40, _color(owner), thickness, cv2.LINE_AA, 4)


def _flows(clip: Clip) -> tuple[list[Flow], float]:
    """Return the flow of every frame but the last to the next one, and its largest length."""
    last = len(clip.frames) - 1
    flows = [clip.flow(t, t + 1) for t in range(last)]
    lengths = [np.hypot(*np.moveaxis(f.flow_xy, -1, 0))[f.valid].max(initial=0) for f in flows]
    return flows, max([*map(float, lengths), 1e-6])


def _flow(frames: UInt8, clip: Clip, scale: int) -> None:
    flows, largest = _flows(clip)
    for frame, flow in zip(frames, flows, strict=False):
        colors = flow_colors(flow, largest).repeat(scale, 0).repeat(scale, 1)
        frame[:] = 0.3 * frame + 0.7 * colors


def _arrows(frames: UInt8, clip: Clip, scale: int) -> None:
    flows, _ = _flows(clip)
    height, width = clip.frames.shape[1:3]
    step = max(4, max(height, width) // 16)
    for frame, flow in zip(frames, flows, strict=False):
        for y in range(step // 2, height, step):
            for x in range(step // 2, width, step):
                dx, dy = flow.flow_xy[y, x]
                if flow.valid[y, x] and np.hypot(dx, dy) >= 0.25:
                    start = (int((x + 0.5) * scale), int((y + 0.5) * scale))
                    end = (int((x + 0.5 + dx) * scale), int((y + 0.5 + dy) * scale))
                    cv2.arrowedLine(frame, start, end, (0, 0, 0), 3, cv2.LINE_AA, tipLength=0.3)
                    cv2.arrowedLine(frame, start, end, (255, 255, 255), 1, cv2.LINE_AA, tipLength=0.3)


def _names(frames: UInt8, clip: Clip, scale: int) -> None:
    """Number and class at the upper left corner of every visible object, on its own colour."""
    font = ImageFont.load_default(size=12)
    for t, frame in enumerate(frames):
        image = Image.fromarray(frame)
        draw = ImageDraw.Draw(image)
        for i, name in enumerate(clip.labels.class_names):
            box = clip.labels.modal_boxes_xyxy[i, t] * scale
            if np.isfinite(box).all():
                text = f"{i + 1} {name}"
                x0, y0, x1, y1 = draw.textbbox((0, 0), text, font)
                wide, high = x1 - x0 + 6, y1 - y0 + 4
                x = min(max(int(box[0]), 0), max(frame.shape[1] - int(wide), 0))
                y = max(int(box[1]) - int(high), 0)
                red, green, blue = _color(i)
                light = 0.299 * red + 0.587 * green + 0.114 * blue > 110
                draw.rectangle((x, y, x + wide - 1, y + high - 1), _color(i))
                draw.text((x + 3 - x0, y + 2 - y0), text, (0, 0, 0) if light else (255, 255, 255), font)
        frame[:] = np.asarray(image)


OVERLAYS: dict[str, Callable[[UInt8, Clip, int], None]] = {
    "boxes": _boxes,
    "amodal-boxes": _amodal_boxes,
    "modal": _masks("modal_masks", 0.35),
    "amodal": _masks("amodal_masks", 0.0),
    "tracks": _tracks,
    "flow": _flow,
    "arrows": _arrows,
    "names": _names,
}
