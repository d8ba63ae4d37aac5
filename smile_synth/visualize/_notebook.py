"""What a notebook shows of a clip, a scene, a bank or a recipe that stands alone in a cell."""

from __future__ import annotations

from html import escape

import numpy as np

from smile_synth.core import geometry
from smile_synth.core.clip import Clip
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.scene import Scene, Textured
from smile_synth.visualize._images import COLORS
from smile_synth.visualize._media import mp4_uri, png_uri
from smile_synth.visualize._objects import object_sheet
from smile_synth.visualize._overlay import overlay


def clip_html(clip: Clip) -> str:
    """Return the clip as a film with its boxes and names."""
    frames = overlay(clip, ["boxes", "names"])
    height, width = (side - side % 2 for side in frames.shape[1:3])
    uri = mp4_uri(frames[:, :height, :width], clip.fps)
    names = escape(", ".join(clip.labels.class_names) or "no objects")
    t, h, w = clip.frames.shape[:3]
    return f'<video src="{uri}" controls loop muted playsinline></video><p>{t} frames of {h}x{w}: {names}</p>'


def scene_html(scene: Scene) -> str:
    """Return the outlines of all cut-outs in the first and the last frame, and the ways of their middles."""
    height, width = scene.size_hw
    body = [f'<rect width="{width}" height="{height}" fill="#f5f5f5"/>']
    names = []
    for k, layer in enumerate(scene.layers):
        if k == 0 or not isinstance(layer.surface, Textured):
            continue
        red, green, blue = COLORS[(k - 1) % len(COLORS)] if layer.labelled else (120, 120, 120)
        color = f"rgb({red},{green},{blue})"
        corners = geometry.corners(layer.surface.width, layer.surface.height)
        outlines = geometry.apply(scene.object_to_frame[k], corners)
        middles = geometry.apply(scene.object_to_frame[k], corners.mean(axis=0)[None])[:, 0]
        for t, fill in ((0, 0.15), (scene.num_frames - 1, 0.5)):
            body.append(
                f'<polygon points="{_points(outlines[t])}" fill="{color}" fill-opacity="{fill}" '
                f'stroke="{color}"/>'
            )
        body.append(f'<polyline points="{_points(middles)}" fill="none" stroke="{color}" stroke-width="2"/>')
        names.append(escape(f"{layer.class_name or 'unlabelled'} ({layer.factors.get('family', '')})"))
    told = ", ".join(names) or "no objects"
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{min(2 * width, 448)}" role="img" aria-label="{told}">'
        + "".join(body)
        + f"</svg><p>clip {scene.index} of seed {scene.seed}, {scene.num_frames} frames: {told}</p>"
    )


def _points(points: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points if np.isfinite(x) and np.isfinite(y))


def bank_html(bank: ObjectBank) -> str:
    """Return a sheet of evenly spaced objects."""
    count = min(len(bank), 32)
    told = f"<p>{len(bank)} objects in {len(bank.class_names)} classes</p>"
    if not count:
        return told
    sheet = object_sheet(bank, [i * len(bank) // count for i in range(count)], side=96)
    return f'<img src="{png_uri(sheet)}" alt="{count} objects of the bank">{told}'


def recipe_html(recipe: Recipe) -> str:
    """Return the recipe with every value written out."""
    return f"<pre>{escape(recipe.to_yaml())}</pre>"
