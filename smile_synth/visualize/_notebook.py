"""HTML of clips, scenes, banks and recipes for notebooks."""

from __future__ import annotations

import numpy as np
from markupsafe import escape
from numpy.typing import NDArray

from smile_synth.core import geometry
from smile_synth.core.clip import Clip
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.scene import Scene, Textured
from smile_synth.visualize._media import COLORS, mp4_uri, png_uri
from smile_synth.visualize._objects import object_sheet
from smile_synth.visualize._overlay import overlay

_MOST_OBJECTS = 32


def clip_html(clip: Clip) -> str:
    """Return the clip as a video with boxes and names."""
    frames = overlay(clip, ["boxes", "names"])
    height, width = (side - side % 2 for side in frames.shape[1:3])
    uri = mp4_uri(frames[:, :height, :width], clip.fps)
    names = escape(", ".join(clip.labels.class_names) or "no objects")
    t, h, w = clip.frames.shape[:3]
    return f'<video src="{uri}" controls loop muted playsinline></video><p>{t} frames of {h}x{w}: {names}</p>'


def scene_html(scene: Scene) -> str:
    """Return the outlines of all cut-outs in the first and the last frame, and the paths of their centres."""
    height, width = scene.size_hw
    body = [f'<rect width="{width}" height="{height}" fill="#f5f5f5"/>']
    names = []
    for k, layer in enumerate(scene.layers):
        if k == 0 or not isinstance(layer.surface, Textured):
            continue
        color = f"rgb{COLORS[(k - 1) % len(COLORS)] if layer.labelled else (120, 120, 120)}"
        corners = geometry.corners(layer.surface.width, layer.surface.height)
        outlines = geometry.apply(scene.object_to_frame[k], corners)
        centers = geometry.apply(scene.object_to_frame[k], corners.mean(axis=0)[None])[:, 0]
        for t, fill in ((0, 0.15), (scene.num_frames - 1, 0.5)):
            points = _svg_points(outlines[t])
            body.append(f'<polygon points="{points}" fill="{color}" fill-opacity="{fill}" stroke="{color}"/>')
        points = _svg_points(centers)
        body.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        names.append(f"{layer.class_name or 'unlabelled'} ({layer.factors.get('family', '')})")
    text = escape(", ".join(names) or "no objects")
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{min(2 * width, 448)}" role="img" aria-label="{text}">'
        f"{''.join(body)}</svg>"
        f"<p>clip {scene.index} of seed {scene.seed}, {scene.num_frames} frames: {text}</p>"
    )


def _svg_points(points: NDArray[np.float64]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points[np.isfinite(points).all(axis=1)])


def bank_html(bank: ObjectBank) -> str:
    """Return a sheet of evenly spaced objects."""
    count = min(len(bank), _MOST_OBJECTS)
    text = f"<p>{len(bank)} objects in {len(bank.class_names)} classes</p>"
    if not count:
        return text
    sheet = object_sheet(bank, [i * len(bank) // count for i in range(count)], side=96)
    return f'<img src="{png_uri(sheet)}" alt="{count} objects of the bank">{text}'


def recipe_html(recipe: Recipe) -> str:
    """Return the recipe as YAML, with all defaults."""
    return f"<pre>{escape(recipe.to_yaml())}</pre>"
