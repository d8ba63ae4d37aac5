"""Motion curves: trajectory, speed, size, rotation and visibility of the objects of clips over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.clip import Clip
from smile_synth.scene import Scene
from smile_synth.visualize._measure import layer_motion
from smile_synth.visualize._media import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
MAX_OBJECTS = 12
_TITLES = ("trajectory", "speed (px per frame)", "size (px)", "rotation (degrees)", "visibility")


def motion_curves(scenes: Sequence[Scene], clips: Sequence[Clip]) -> UInt8:
    """Draw one row per clip: trajectories over the middle frame, then four curves over time.

    Trajectory and speed are those of the object's centre in the frame, camera included; the size is the
    square root of the area. Each row has the first `MAX_OBJECTS` labelled objects of its clip.

    Args:
        scenes: of the clips.
        clips: frames and labels.

    Returns:
        An image ``[H, W, 3]`` uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 2.6 * len(scenes) + 0.25), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    rows = figure.subplots(len(scenes), 5, squeeze=False, width_ratios=(1.15, 1, 1, 1, 1))
    for axes, scene, clip in zip(rows, scenes, clips, strict=True):
        _draw_row(axes, scene, clip)
    for axes, title in zip(rows[0], _TITLES, strict=True):
        axes.set_title(title, fontsize=10)
    for axes in rows[-1][1:]:
        axes.set_xlabel("frame", fontsize=9)
    canvas.draw()  # type: ignore[no-untyped-call]
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]


def _draw_row(axes: Sequence[Axes], scene: Scene, clip: Clip) -> None:
    height, width = scene.size_hw
    t = np.arange(scene.num_frames)
    axes[0].imshow(clip.frames[scene.num_frames // 2], extent=(0, width, height, 0), alpha=0.5)
    axes[0].set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[], ylabel=f"clip {scene.index}")
    labelled = [k for k, layer in enumerate(scene.layers) if layer.labelled][:MAX_OBJECTS]
    for number, k in enumerate(labelled):
        color = np.array(COLORS[number % len(COLORS)]) / 255
        center, size, degrees = layer_motion(scene, k)
        _draw_trajectory(axes[0], center, color)
        speed = np.hypot(*np.diff(center, axis=0).T)
        curves = (t[1:], speed), (t, size), (t, degrees), (t, clip.visibility[number])
        for place, (x, values) in zip(axes[1:], curves, strict=True):
            place.plot(x, values, color=color, lw=1.6, marker="o", ms=2.2)
    for place in axes[1:]:
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
        place.set_xlim(-0.3, max(scene.num_frames - 0.7, 0.3))
        place.tick_params(labelsize=8)
    axes[1].set_ylim(bottom=0)
    axes[2].set_ylim(bottom=0)
    axes[4].set_ylim(-0.04, 1.04)


def _draw_trajectory(axes: Axes, center: Float, color: Float) -> None:
    """Draw a line that starts faint and ends strong, with a ring at its start."""
    from matplotlib.collections import LineCollection

    opacity = np.linspace(0.35, 1, len(center))[:, None]
    shades = np.concatenate([np.repeat(color[None], len(center), 0), opacity], axis=1)
    lines = LineCollection(list(np.stack([center[:-1], center[1:]], axis=1)), colors=shades, linewidths=2.2)
    axes.add_collection(lines)
    axes.scatter(center[:, 0], center[:, 1], s=9, c=shades, zorder=3)
    axes.scatter(center[:1, 0], center[:1, 1], s=34, facecolors="none", edgecolors=[tuple(color)], zorder=4)
