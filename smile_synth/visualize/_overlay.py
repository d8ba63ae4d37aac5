"""Draw labels over a clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from smile_synth.core.clip import Annotator, Clip, Flow
from smile_synth.core.errors import check_name
from smile_synth.visualize._media import COLORS, resized
from smile_synth.visualize._stored import StoredLabels

UInt8 = NDArray[np.uint8]
Float = NDArray[np.float64]
# Clips are enlarged by a whole factor until their shorter side has this length, so that text is readable.
READABLE_SIDE = 224
POINTS_PER_OBJECT = 6
_TRAIL_FRAMES = 8
_FRACTION_BITS = 4  # OpenCV draws at 1/16 of a pixel


def overlay(
    clip: Clip, overlays: Sequence[str] = ("modal", "boxes", "tracks"), *, scale: int | None = None
) -> UInt8:
    """Draw labels over a clip.

    Every object keeps one colour of Okabe and Ito's palette, which colour-blind people can distinguish. From
    the eighth object on, colours are used again; the numbers stay unique.

    Args:
        clip: frames and labels.
        overlays: names in `OVERLAYS`, drawn in this order.
        scale: enlarge by this whole factor; None: until the shorter side has 224 pixels.

    Returns:
        ``[T, scale * H, scale * W, 3]`` uint8.

    Raises:
        UserError: an unknown overlay, or flow or tracks that are neither stored nor can be computed.
    """
    check_overlays(overlays)
    height, width = clip.frames.shape[1:3]
    factor = scale or max(1, -(-READABLE_SIDE // min(height, width)))
    frames = resized(clip.frames, (height * factor, width * factor)).copy()
    for name in overlays:
        OVERLAYS[name](frames, clip, factor)
    return frames


def check_overlays(overlays: Sequence[str]) -> None:
    """Refuse names that are not in `OVERLAYS`.

    Raises:
        UserError: one of them.
    """
    for name in overlays:
        check_name("overlay", name, OVERLAYS)


def track_queries(annotation: Annotator) -> Float:
    """Choose points (frame, x, y) on every object, ``[P, 3]``, for `Annotator.tracks`.

    They are evenly spread over the pixels of the first frame in which the object is visible. Where a corpus
    stores tracks and its sources are not known, they are evenly chosen from the stored query points.
    """
    stored = annotation.stored_queries() if isinstance(annotation, StoredLabels) else None
    if stored is not None:
        owners = owners_of(annotation, stored)
        places = [_evenly(np.flatnonzero(owners == owner)) for owner in np.unique(owners[owners >= 0])]
        return np.asarray(stored[np.concatenate([np.zeros(0, np.int64), *places])])
    queries = []
    for masks in annotation.labels.modal_masks:
        visible = np.flatnonzero(masks.any(axis=(1, 2)))
        if len(visible):
            y, x = np.nonzero(masks[visible[0]])
            queries += [(visible[0], x[p] + 0.5, y[p] + 0.5) for p in _evenly(np.arange(len(x)))]
    return np.array(queries, np.float64).reshape(-1, 3)


def _evenly(places: NDArray[np.int64]) -> NDArray[np.int64]:
    inner = np.linspace(0, len(places) - 1, POINTS_PER_OBJECT + 2).round().astype(int)[1:-1]
    return np.asarray(places[np.unique(inner)])


def owners_of(annotation: Annotator, queries_txy: Float) -> NDArray[np.int64]:
    """Return the number of the object at each point (frame, x, y); -1: no labelled object."""
    t, x, y = np.floor(queries_txy).astype(np.int64).T
    return np.asarray(annotation.segmentation[t, y, x].astype(np.int64) - 1)


def flow_colors(flow: Flow, largest: float | None = None) -> UInt8:
    """Colour a flow field by direction (hue) and length (saturation); no motion is white, invalid is grey.

    Args:
        flow: of one pair of frames.
        largest: length with full saturation in pixels; None: the longest vector of the field.

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


def clip_flows(annotation: Annotator, num_frames: int) -> tuple[list[Flow], float]:
    """Return the flow of every frame but the last to the next one, and the length of the longest vector."""
    flows = [annotation.flow(t, t + 1) for t in range(num_frames - 1)]
    lengths = [np.linalg.norm(flow.flow_xy[flow.valid], axis=-1).max(initial=0) for flow in flows]
    return flows, max([*map(float, lengths), 1e-6])


def _color(i: int) -> tuple[int, int, int]:
    return COLORS[i % len(COLORS)]


def _draw_boxes(frames: UInt8, clip: Clip, scale: int) -> None:
    for i, boxes in enumerate(clip.labels.modal_boxes_xyxy):
        for frame, box in zip(frames, boxes * scale, strict=True):
            if np.isfinite(box).all():
                x0, y0, x1, y1 = box.astype(int)
                cv2.rectangle(frame, (x0, y0), (x1 - 1, y1 - 1), _color(i), 1)


def _draw_amodal_boxes(frames: UInt8, clip: Clip, scale: int) -> None:
    for i, boxes in enumerate(clip.labels.amodal_boxes_xyxy):
        for frame, box in zip(frames, boxes * scale, strict=True):
            if np.isfinite(box).all():
                x0, y0, x1, y1 = box.astype(int)
                corners = [(x0, y0), (x1 - 1, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)]
                for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
                    _draw_dashes(frame, np.array(a), np.array(b), _color(i))


def _draw_dashes(
    frame: UInt8, a: NDArray[np.int64], b: NDArray[np.int64], color: tuple[int, int, int]
) -> None:
    length = int(np.hypot(*(b - a)))
    for start in range(0, length, 8):
        ends = [(a + (b - a) * min(at, length) / length).astype(int).tolist() for at in (start, start + 4)]
        cv2.line(frame, ends[0], ends[1], color, 1)


def _draw_modal_masks(frames: UInt8, clip: Clip, scale: int) -> None:
    _draw_masks(frames, clip.labels.modal_masks, scale, fill=0.35)


def _draw_amodal_masks(frames: UInt8, clip: Clip, scale: int) -> None:
    _draw_masks(frames, clip.labels.amodal_masks, scale, fill=0.0)


def _draw_masks(frames: UInt8, masks: NDArray[np.bool_], scale: int, *, fill: float) -> None:
    for i, of_object in enumerate(masks):
        for frame, mask in zip(frames, of_object, strict=True):
            large = mask.repeat(scale, 0).repeat(scale, 1)
            if fill:
                frame[large] = (1 - fill) * frame[large] + fill * np.array(_color(i))
            outlines, _ = cv2.findContours(large.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(frame, outlines, -1, _color(i), 1)


def _draw_tracks(frames: UInt8, clip: Clip, scale: int) -> None:
    """Draw points with the trail of their last frames; a ring where the point is occluded."""
    queries = track_queries(clip.annotation)
    if not len(queries):
        return
    tracks, owners = clip.tracks(queries), owners_of(clip.annotation, queries)
    # OpenCV's origin is the centre of the first pixel, ours its corner.
    fixed = (tracks.points_xy * scale - 0.5) * 2**_FRACTION_BITS
    for points, visible, owner in zip(fixed, tracks.visible, owners, strict=True):
        color = _color(int(owner))
        for t, frame in enumerate(frames):
            past = points[max(0, t - _TRAIL_FRAMES) : t + 1]
            past = past[np.isfinite(past).all(axis=1)].round().astype(np.int32)
            if len(past) > 1:
                cv2.polylines(frame, [past[:, None]], False, color, 1, cv2.LINE_AA, _FRACTION_BITS)
            if np.isfinite(points[t]).all():
                center = past[-1].tolist()
                thickness = -1 if visible[t] else 1
                cv2.circle(frame, center, 40, color, thickness, cv2.LINE_AA, _FRACTION_BITS)


def _draw_flow(frames: UInt8, clip: Clip, scale: int) -> None:
    flows, largest = clip_flows(clip.annotation, len(frames))
    for frame, flow in zip(frames, flows, strict=False):
        colors = flow_colors(flow, largest).repeat(scale, 0).repeat(scale, 1)
        frame[:] = 0.3 * frame + 0.7 * colors


def _draw_arrows(frames: UInt8, clip: Clip, scale: int) -> None:
    flows, _ = clip_flows(clip.annotation, len(frames))
    height, width = clip.frames.shape[1:3]
    step = max(4, max(height, width) // 16)
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    for frame, flow in zip(frames, flows, strict=False):
        vectors = np.where(flow.valid[y, x, None], flow.flow_xy[y, x], np.nan)
        draw_arrows(frame, np.stack([x, y], 1) + 0.5, vectors, scale)


def draw_arrows(image: UInt8, starts_xy: Float, vectors_xy: Float, scale: int) -> None:
    """Draw arrows ``[P, 2]``, in pixels, into an image ``[scale * H, scale * W, 3]`` uint8.

    Arrows that are shorter than a quarter of a pixel, or NaN, are left out.
    """
    for start, vector in zip(starts_xy, vectors_xy, strict=True):
        if np.hypot(*vector) >= 0.25:
            a, b = [(int(x * scale), int(y * scale)) for x, y in (start, start + vector)]
            cv2.arrowedLine(image, a, b, (0, 0, 0), 3, cv2.LINE_AA, tipLength=0.3)
            cv2.arrowedLine(image, a, b, (255, 255, 255), 1, cv2.LINE_AA, tipLength=0.3)


def _draw_names(frames: UInt8, clip: Clip, scale: int) -> None:
    """Draw number and class at the upper left corner of every visible object, on the object's colour."""
    font = ImageFont.load_default(size=12)
    for t, frame in enumerate(frames):
        image = Image.fromarray(frame)
        draw = ImageDraw.Draw(image)
        for i, name in enumerate(clip.labels.class_names):
            box = clip.labels.modal_boxes_xyxy[i, t] * scale
            if np.isfinite(box).all():
                text = f"{i + 1} {name}"
                x0, y0, x1, y1 = draw.textbbox((0, 0), text, font)
                width, height = x1 - x0 + 6, y1 - y0 + 4
                x = min(max(int(box[0]), 0), max(frame.shape[1] - int(width), 0))
                y = max(int(box[1]) - int(height), 0)
                luminance = np.dot([0.299, 0.587, 0.114], _color(i))
                draw.rectangle((x, y, x + width - 1, y + height - 1), _color(i))
                ink = (0, 0, 0) if luminance > 110 else (255, 255, 255)
                draw.text((x + 3 - x0, y + 2 - y0), text, ink, font)
        frame[:] = np.asarray(image)


OVERLAYS: dict[str, Callable[[UInt8, Clip, int], None]] = {
    "boxes": _draw_boxes,
    "amodal-boxes": _draw_amodal_boxes,
    "modal": _draw_modal_masks,
    "amodal": _draw_amodal_masks,
    "tracks": _draw_tracks,
    "flow": _draw_flow,
    "arrows": _draw_arrows,
    "names": _draw_names,
}
