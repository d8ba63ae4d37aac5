"""Draw every label kind on one clip of photographed objects, for docs/labels.md.

uv run python benchmarks/label_images.py --out assets/labels.png --tokens docs/images/token-motion.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from smile_synth import ObjectBank, Recipe, annotate, build_bank, composite, sample_scene
from smile_synth.annotations import Annotation, query_points
from smile_synth.core.rng import RandomStream
from smile_synth.io.strict_yaml import parse
from smile_synth.sources import Sources
from smile_synth.visualize import COLORS

RECIPE = """
size: [192, 256]
num_frames: 9
backgrounds: [{kind: one-over-f, exponent: 1.4, drift: [2.0, 3.0], brightness: 0.6}]
objects: {count: 3, side: [72, 92]}
motion:
  - {family: constant-velocity, speed: [6.0, 9.0], rotation: {rate: 5.0}}
"""
FRAME, NEXT, ZOOM, CAPTION, PATCH = 4, 6, 2, 30, 16
TOKENS_TITLE = f"tokens: displacement to frame {NEXT}; hollow: not visible"


def blend(picture: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], share: float = 0.55) -> None:
    picture[mask] = ((1 - share) * picture[mask] + share * np.array(color)).astype(np.uint8)


def masks(annotation: Annotation, frame: np.ndarray, *, amodal: bool) -> np.ndarray:
    labels, out = annotation.labels, frame.copy()
    for k in np.argsort(-labels.depth_order[:, FRAME]):
        blend(out, labels.modal_masks[k, FRAME], COLORS[k])
    if amodal:
        for k in range(len(labels.class_names)):
            whole = labels.amodal_masks[k, FRAME].astype(np.uint8)
            outlines, _ = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(out, outlines, -1, COLORS[k], 1)
            hidden = labels.amodal_masks[k, FRAME] & ~labels.modal_masks[k, FRAME]
            stripes = (np.add.outer(np.arange(hidden.shape[0]), np.arange(hidden.shape[1])) // 3) % 2 == 0
            blend(out, hidden & stripes, COLORS[k], 0.9)
    return out


def flow_colors(flow_xy: np.ndarray, largest: float) -> np.ndarray:
    """Direction as hue, speed as strength."""
    angle = np.degrees(np.arctan2(flow_xy[..., 1], flow_xy[..., 0])) % 360
    speed = np.clip(np.hypot(*np.moveaxis(flow_xy, -1, 0)) / largest, 0, 1)
    hsv = np.stack([angle / 2, 255 * speed, np.full_like(speed, 255)], axis=-1).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def enlarge(picture: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(picture, ZOOM, axis=0), ZOOM, axis=1)


def boxes(annotation: Annotation, frame: np.ndarray) -> np.ndarray:
    labels, image = annotation.labels, Image.fromarray(enlarge(frame))
    draw = ImageDraw.Draw(image)
    for k, color in zip(range(len(labels.class_names)), COLORS, strict=False):
        corners = [tuple(ZOOM * point) for point in labels.oriented_boxes_xy[k, FRAME]]
        draw.line([*corners, corners[0]], color, 2)
        for box, width in ((labels.amodal_boxes_xyxy[k, FRAME], 1), (labels.modal_boxes_xyxy[k, FRAME], 3)):
            draw.rectangle([*(ZOOM * box[:2]), *(ZOOM * box[2:] - 1)], outline=color, width=width)
    return np.asarray(image)


def numbers(annotation: Annotation, frame: np.ndarray) -> np.ndarray:
    labels, image = annotation.labels, Image.fromarray(enlarge(frame) // 3)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=17)
    names, y = labels.class_names, 10
    labelled = [layer for layer in annotation.scene.layers if layer.labelled]
    for k, (name, layer) in enumerate(zip(names, labelled, strict=True)):
        hiders = np.flatnonzero(labels.occluded_by[k, :, FRAME])
        hidden = [f"{labels.occluded_by[k, j, FRAME]} pixels behind {names[j]}" for j in hiders]
        factors = [f"{key} {value:.1f}" for key, value in layer.factors.items() if "mean_speed" in key]
        lines = [
            f"{name}: depth {labels.depth_order[k, FRAME]}, visible {labels.visibility[k, FRAME]:.2f}, "
            f"in frame {labels.in_frame[k, FRAME]:.2f}",
            "   occluded by: " + (", ".join(hidden) or "nothing"),
            f"   motion: {layer.factors['family']}, {', '.join(factors)}",
        ]
        draw.rectangle([10, y + 3, 22, y + 15], COLORS[k])
        for line in lines:
            draw.text((30, y), line, (235, 235, 235), font)
            y += 23
        y += 12
    return np.asarray(image)


def tracks(annotation: Annotation, frame: np.ndarray, kind: str, count: int) -> np.ndarray:
    image = Image.fromarray(enlarge(frame) // 2 + 40)
    draw = ImageDraw.Draw(image)
    points = query_points(annotation, kind, count=count, rng=RandomStream(1, 0, "points"))
    followed = annotation.tracks(points)
    for path, seen, layer in zip(followed.points_xy, followed.visible, followed.layer, strict=True):
        color = COLORS[layer - 1] if layer else (235, 235, 235)
        for t in range(FRAME):
            if np.isfinite(path[t : t + 2]).all():
                draw.line([tuple(ZOOM * path[t]), tuple(ZOOM * path[t + 1])], color, 1)
        x, y = ZOOM * path[FRAME]
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=color if seen[FRAME] else None, outline=color)
    return np.asarray(image)


def token_grid(frame: np.ndarray, colors: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Draw one square per token ``[N]``: filled, or only its outline."""
    image = Image.fromarray(enlarge(frame) // 3)
    draw, columns = ImageDraw.Draw(image), frame.shape[1] // PATCH
    for n, (color, fill) in enumerate(zip(colors.tolist(), filled, strict=True)):
        x, y = ZOOM * PATCH * (n % columns), ZOOM * PATCH * (n // columns)
        corners = [x + 2, y + 2, x + ZOOM * PATCH - 3, y + ZOOM * PATCH - 3]
        draw.rectangle(corners, fill=tuple(color) if fill else None, outline=tuple(color), width=2)
    return np.asarray(image)


def tokens(annotation: Annotation, frame: np.ndarray, largest: float) -> list[tuple[str, np.ndarray]]:
    """Draw the motion of the tokens of one frame."""
    motion = annotation.token_motion((1, PATCH), (NEXT - FRAME,))
    count = frame.shape[0] // PATCH * (frame.shape[1] // PATCH)
    own = slice(FRAME * count, (FRAME + 1) * count)
    displacement, visible = motion.displacement_xy[0, own], motion.visible[0, own]
    linear = motion.linear[0, own]
    turn = np.degrees(np.arctan2(linear[:, 1, 0] - linear[:, 0, 1], 2 + linear[:, 0, 0] + linear[:, 1, 1]))
    shades = np.interp(turn, (-15, 0, 15), (0, 110, 255)).astype(np.uint8)
    turning = np.stack([shades, np.full_like(shades, 110), 255 - shades], axis=1)
    nearness = np.array([(70, 70, 70), *COLORS], np.uint8)[motion.depth[own]]
    whole = motion.share[own] > 0.75
    return [
        (
            TOKENS_TITLE,
            token_grid(frame, flow_colors(displacement[None], largest)[0], visible),
        ),
        (
            "tokens: rotation to frame 6, -15 (blue) .. 15 degrees (red)",
            token_grid(frame, turning, np.ones(count, bool)),
        ),
        ("tokens: layers behind the owner; hollow: share below .75", token_grid(frame, nearness, whole)),
    ]


def draw(annotation: Annotation, frames: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Return titles and panels, one per kind."""
    frame = frames[FRAME]
    forward, backward = annotation.flow(FRAME, NEXT), annotation.flow(NEXT, FRAME)
    largest = float(np.hypot(*np.moveaxis(forward.flow_xy, -1, 0)).max())
    forward_colors, backward_colors = (
        flow_colors(forward.flow_xy, largest),
        flow_colors(backward.flow_xy, largest),
    )
    for colors, flow in ((forward_colors, forward), (backward_colors, backward)):
        blend(colors, flow.occluded, (0, 0, 0), 0.8)
        blend(colors, flow.leaves, (110, 110, 110), 0.8)
    palette = np.array([(30, 30, 30), *COLORS], np.uint8)
    return [
        (f"frame {FRAME}", enlarge(frame)),
        ("segmentation", enlarge(palette[annotation.segmentation[FRAME]])),
        ("modal masks", enlarge(masks(annotation, frame, amodal=False))),
        ("amodal masks; striped: what is hidden", enlarge(masks(annotation, frame, amodal=True))),
        ("boxes: modal (thick), amodal, oriented", boxes(annotation, frame)),
        ("depth, visibility, in_frame, occluders, motion factors", numbers(annotation, frame)),
        ("flow 4 -> 6; black: occluded, grey: leaves", enlarge(forward_colors)),
        ("flow 6 -> 4, likewise", enlarge(backward_colors)),
        ("tracks of a grid; hollow: not visible", tracks(annotation, frame, "grid", 150)),
        ("tracks of points on objects", tracks(annotation, frame, "objects", 80)),
        ("tracks of points on edges", tracks(annotation, frame, "edges", 120)),
        (f"frame {NEXT}", enlarge(frames[NEXT])),
        *tokens(annotation, frame, largest),
    ]


def arranged(panels: list[tuple[str, np.ndarray]]) -> Image.Image:
    """Return a sheet of three columns."""
    height, width = panels[0][1].shape[:2]
    gap, columns = 8, 3
    rows = -(-len(panels) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + gap) + gap, rows * (height + CAPTION + gap) + gap), (245, 245, 245)
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for place, (name, picture) in enumerate(panels):
        x = gap + place % columns * (width + gap)
        y = gap + place // columns * (height + CAPTION + gap)
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.text((x + 2, y + height + 4), name, (50, 50, 50), font)
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=Path, help="also write a sheet with the displacement of tokens")
    parser.add_argument("--index", type=int, default=14)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:photos"], Path(folder) / "bank")
        bank = ObjectBank.open(Path(folder) / "bank")
        scene = sample_scene(
            parse(Recipe, RECIPE, name="recipe"), Sources(bank), seed=0, index=arguments.index
        )
        panels = draw(annotate(scene, Sources(bank)), composite(scene, Sources(bank)))
    sheets = {arguments.out: panels}
    if arguments.tokens:
        shown = (f"frame {FRAME}", TOKENS_TITLE, f"frame {NEXT}")
        sheets[arguments.tokens] = [(title, dict(panels)[title]) for title in shown]
    for path, chosen in sheets.items():
        arranged(chosen).quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
