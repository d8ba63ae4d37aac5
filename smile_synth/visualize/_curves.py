"""What moves how over time: trajectories, speed, size, rotation and visibility of a clip's objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.clip import Clip
from smile_synth.scene import Scene, StoredImage
from smile_synth.visualize._images import COLORS

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
MAX_OBJECTS = 12


def motion_curves(scenes: Sequence[Scene], clips: Sequence[Clip]) -> UInt8:
    """Draw one row per clip ``[., ., 3]`` uint8: the way over the middle frame, then four curves over time.

    The way and the speed are those of the middle of the object in the frame, camera included; the size is the
    square root of the area; the first `MAX_OBJECTS` labelled objects are drawn.
    """
    titles = ("way", "speed (px per frame)", "size (px)", "rotation (degrees)", "visibility")
    figure = Figure(figsize=(15, 2.6 * len(scenes) + 0.25), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    rows = figure.subplots(len(scenes), 5, squeeze=False, width_ratios=(1.15, 1, 1, 1, 1))
    for row, (scene, clip) in enumerate(zip(scenes, clips, strict=True)):
        axes = rows[row]
        height, width = scene.size_hw
        axes[0].imshow(clip.frames[scene.num_frames // 2], extent=(0, width, height, 0), alpha=0.5)
        axes[0].set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axes[0].set_ylabel(f"clip {scene.index}")
        labelled = [k for k, layer in enumerate(scene.layers) if layer.labelled][:MAX_OBJECTS]
        visibility = clip.visibility
        for number, k in enumerate(labelled):
            color = np.array(COLORS[number % len(COLORS)]) / 255
            center, size, degrees = _motion(scene, k)
            _draw_way(axes[0], center, color)
            t = np.arange(scene.num_frames)
            speed = np.hypot(*np.diff(center, axis=0).T)
            drawn = (t[1:], speed), (t, size), (t, degrees), (t, visibility[number])
            for place, (x, values) in zip(axes[1:], drawn, strict=True):
                place.plot(x, values, color=color, lw=1.6, marker="o", ms=2.2)
        for place in axes[1:]:
            place.grid(alpha=0.25)
            place.spines[["top", "right"]].set_visible(False)
            place.set_xlim(-0.3, max(scene.num_frames - 0.7, 0.3))
            place.tick_params(labelsize=8)
        axes[1].set_ylim(bottom=0)
        axes[2].set_ylim(bottom=0)
        axes[4].set_ylim(-0.04, 1.04)
        if row == 0:
            for place, title in zip(axes, titles, strict=True):
                place.set_title(title, fontsize=10)
        if row == len(scenes) - 1:
            for place in axes[1:]:
                place.set_xlabel("frame", fontsize=9)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _motion(scene: Scene, layer: int) -> tuple[Float, Float, Float]:
    """Return middle ``[T, 2]``, size ``[T]`` and rotation ``[T]`` of a layer in the frame."""
    surface = scene.layers[layer].surface
    if not isinstance(surface, StoredImage):
        raise ValueError(f"layer {layer}: only images of objects have a motion to draw")
    pose = scene.object_to_frame[layer]
    middle = np.array([surface.width / 2, surface.height / 2])
    points = geometry.apply(pose, middle + np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]]))
    x_axis, y_axis = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    area = (
        np.abs(x_axis[:, 0] * y_axis[:, 1] - x_axis[:, 1] * y_axis[:, 0]) * 4 * surface.width * surface.height
    )
    degrees = np.rad2deg(np.unwrap(np.arctan2(x_axis[:, 1], x_axis[:, 0])))
    return points[:, 0], np.sqrt(area), degrees


def _draw_way(axes: object, center: Float, color: Float) -> None:
    """Draw a way that starts faint and ends strong, with a ring at its start."""
    shades = np.concatenate(
        [np.repeat(color[None], len(center), 0), np.linspace(0.35, 1, len(center))[:, None]], 1
    )
    lines = LineCollection(list(np.stack([center[:-1], center[1:]], axis=1)), colors=shades, linewidths=2.2)
    axes.add_collection(lines)  # type: ignore[attr-defined]
    axes.scatter(*center.T, s=9, c=shades, zorder=3)  # type: ignore[attr-defined]
    axes.scatter(*center[0], s=34, facecolors="none", edgecolors=[color], zorder=4)  # type: ignore[attr-defined]
