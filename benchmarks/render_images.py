"""Draw what rendering and appearance do to pixels, four times enlarged, for the docs.

uv run python benchmarks/render_images.py --out docs/images
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont
from render_cpu import plain_pipeline, straight_files

from smile_synth import ObjectBank, Recipe, Scene, annotate, build_bank, composite, sample_scene
from smile_synth.core import geometry
from smile_synth.core.clip import Flow
from smile_synth.core.coverage import level_of_detail
from smile_synth.io.strict_yaml import parse
from smile_synth.objects import CutOutOptions
from smile_synth.scene import Layer, Solid, StoredImage
from smile_synth.sources import Sources
from smile_synth.visualize import flow_colors

UInt8 = NDArray[np.uint8]
ZOOM, GAP, CAPTION = 4, 10, 28
INK, GREY, PAPER = (30, 30, 30), (110, 110, 110), (250, 250, 250)


class Row(NamedTuple):
    """What stands over a row, and its images ``[H, W, 3]`` as they are, each with a caption."""

    title: str
    panels: dict[str, UInt8]


def sheet(rows: list[Row]) -> Image.Image:
    """Lay out images of one size, enlarged without any smoothing."""
    height, width = next(iter(rows[0].panels.values())).shape[:2]
    lines = 1 + any(row.title for row in rows)
    right, down = ZOOM * width + GAP, ZOOM * height + lines * CAPTION + GAP
    out = Image.new("RGB", (len(rows[0].panels) * right + GAP, len(rows) * down), PAPER)
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(size=17)
    for i, (title, panels) in enumerate(rows):
        pen.text((GAP, i * down + 8), title, INK, font)
        for j, (caption, pixels) in enumerate(panels.items()):
            x, y = GAP + j * right, i * down + (lines - 1) * CAPTION
            pen.text((x, y + 4), caption, INK if lines == 1 else GREY, font)
            enlarged = pixels.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
            out.paste(Image.fromarray(enlarged), (x, y + CAPTION))
    return out


# --- rendering

SIZE_HW = (52, 84)
GROUND = Solid((92, 116, 140))


class Thing(NamedTuple):
    """An object in its poses: the class, and of every frame its middle, its scale and its turn in degrees."""

    class_name: str
    center_xy: ArrayLike
    scale: ArrayLike
    degrees: ArrayLike


def laid(bank: ObjectBank, frames: int, *things: Thing) -> Scene:
    """Return a scene of things over a plain ground; single values stand for all frames."""
    layers, poses = [Layer(GROUND, border="repeat")], [np.broadcast_to(np.eye(3), (frames, 3, 3))]
    levels = [np.zeros(frames)]
    for thing in things:
        number = int(np.flatnonzero(bank.class_ids == bank.class_names.index(thing.class_name))[0])
        height, width = int(bank.heights[number]), int(bank.widths[number])
        pose = geometry.compose(
            geometry.translation(np.broadcast_to(thing.center_xy, (frames, 2))),
            geometry.rotation(np.broadcast_to(thing.degrees, frames)),
            geometry.scaling(np.broadcast_to(np.reshape(thing.scale, (-1, 1)), (frames, 2))),
            geometry.translation([-width / 2, -height / 2]),
        )
        layers.append(Layer(StoredImage("objects", number, height, width), labelled=True))
        poses.append(pose)
        levels.append(level_of_detail(pose, height, width))
    leading = len(layers), frames
    return Scene(
        size_hw=SIZE_HW,
        recipe_size_hw=SIZE_HW,
        fps=8.0,
        seed=0,
        index=0,
        recipe_digest="",
        bank_digest=bank.digest,
        background_digest="",
        layers=tuple(layers),
        object_to_frame=np.stack(poses),
        opacity=np.ones(leading),
        depth=np.ones(leading),
        gain=np.ones((*leading, 3)),
        bias=np.zeros((*leading, 3)),
        level=np.stack(levels),
    )


def rendering(bank: ObjectBank, files: list[Path]) -> Image.Image:
    """Draw the plain pipeline, ours and the oracle side by side."""
    height, width = SIZE_HW
    # Not on whole pixels, where the last bit of a float would decide what the plain pipeline cuts off.
    x, y = width / 2 + 0.3, height / 2 + 0.4
    over = np.arange(width)
    to_the_right = np.stack([x - 4 + 0.1 * np.arange(height), np.full(height, y)], axis=1)
    shrunk = (
        Thing("person", (20, y), 1 / 5, 12.0),
        Thing("helmet", (52, y), 1 / 10, 12.0),
        Thing("rocket", (72, y), 1 / 7, 12.0),
    )
    # Title, scene, and which pixels [t, row, column] of its frames are shown.
    cases: list[tuple[str, Scene, Callable[[UInt8], UInt8]]] = [
        ("Edges: turned by 23.7 degrees", laid(bank, 1, Thing("cup", (x, y), 0.25, 23.7)), lambda f: f[0]),
        (
            "Shrunk to a fifth, a tenth and a seventh, and turned by 12 degrees",
            laid(bank, 1, *shrunk),
            lambda f: f[0],
        ),
        (
            f"Slow rotation, 0.1 degrees a frame: one column of pixels, {width} frames from left to right",
            laid(bank, width, Thing("cup", (x, y), 0.22, 3 + 0.1 * over)),
            lambda f: f[:, :, 3 * width // 4].swapaxes(0, 1),
        ),
        (
            f"Slow motion, 0.1 pixels a frame: one row of pixels, {height} frames from top to bottom",
            laid(bank, height, Thing("brick", to_the_right, 0.35, 7.0)),
            lambda f: f[:, height // 2],
        ),
    ]
    rows = []
    for title, scene, view in cases:
        ways = {
            "plain pipeline": plain_pipeline(scene, files),
            "ours, on the CPU": composite(scene, Sources(bank)),
            "oracle": composite(scene, Sources(bank), backend="oracle"),
        }
        rows.append(Row(title, {way: view(frames) for way, frames in ways.items()}))
    return sheet(rows)


# --- looks

RECIPE = """
size: [60, 60]
num_frames: 5
fps: 8
backgrounds: [{kind: one-over-f, exponent: 1.3, brightness: 0.9}]
objects: {count: 1, side: [40], classes: [cup]}
motion: [{family: constant-velocity, speed: 8, rotation: {rate: 4}}]
"""
SHADOWS = "appearance.shadows={strength: 0.5, distance: 6, direction: 60, blur: 5}"
# Caption, overrides of both images, further overrides of the right one.
LOOKS: tuple[tuple[str, list[str], list[str]], ...] = (
    ("shutter: 180", [], ["appearance.shutter=180"]),
    ("soft_edges: 3", [], ["appearance.soft_edges=3"]),
    ("shadows", [], [SHADOWS]),
    ("linear_light; both with shutter: 360", ["appearance.shutter=360"], ["appearance.linear_light=true"]),
    ("grain: 0.04", [], ["appearance.grain=0.04"]),
    ("gain: 0.6", [], ["motion.0.gain={family: still, start: 0.6}", "motion.0.gain_isotropic=true"]),
    ("bias: 0.2", [], ["motion.0.bias={family: still, start: 0.2}", "motion.0.bias_isotropic=true"]),
    ("gamma: 1.8", [], ["motion.0.gamma={family: still, start: 1.8}"]),
    (
        "shutter, soft_edges, shadows, linear_light, grain",
        [],
        [
            "appearance.shutter=180",
            "appearance.soft_edges=1",
            SHADOWS,
            "appearance.linear_light=true",
            "appearance.grain=0.02",
        ],
    ),
)


def frame_of(bank: ObjectBank, overrides: list[str], index: int) -> UInt8:
    """Return the middle frame of a clip."""
    scene = sample_scene(
        parse(Recipe, RECIPE, name="recipe", overrides=overrides), Sources(bank), seed=0, index=index
    )
    frames = composite(scene, Sources(bank))
    return np.asarray(frames[len(frames) // 2])


def appearance(bank: ObjectBank, index: int) -> Image.Image:
    """Draw every look beside the same scene without it."""
    pairs = {}
    for caption, both, more in LOOKS:
        plain, looked = (frame_of(bank, overrides, index) for overrides in (both, both + more))
        between = np.full((len(plain), 1, 3), PAPER, np.uint8)
        pairs[caption] = np.concatenate([plain, between, looked], axis=1)
    captions = list(pairs)
    return sheet(
        [Row("", {name: pairs[name] for name in captions[i : i + 2]}) for i in range(0, len(pairs), 2)]
    )


# --- clips without appearance


def appearance_free(bank: ObjectBank, indices: tuple[int, ...]) -> Image.Image:
    """Draw two frames of clips of the preset, and how their pixels move."""
    rows, t = [], 3
    for index in indices:
        scene, colored = (
            sample_scene(Recipe.load("appearance-free", changes), Sources(bank), seed=0, index=index)
            for changes in ([], ["appearance.texture=null"])
        )
        frames, flow = composite(scene, Sources(bank)), annotate(scene, Sources(bank)).flow(t, t + 1)
        largest = float(np.hypot(*np.moveaxis(flow.flow_xy, -1, 0))[flow.valid].max())
        panels = {
            "with colours": composite(colored, Sources(bank))[t],
            "one frame": frames[t],
            "the next frame": frames[t + 1],
            "exact flow": flow_colors(flow, largest),
            "matched blocks": flow_colors(_matched_blocks(frames[t], frames[t + 1]), largest),
        }
        rows.append(Row("", panels))
    return sheet(rows)


def _matched_blocks(first: UInt8, second: UInt8, reach: int = 9, side: int = 5) -> Flow:
    """Return the displacement of the block around every pixel that changes its colours least."""
    height, width = first.shape[:2]
    steps = [(dx, dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    padded = np.pad(second.astype(np.float32), ((reach, reach), (reach, reach), (0, 0)), constant_values=-255)
    costs = [
        cv2.blur(
            np.abs(padded[reach + dy :, reach + dx :][:height, :width] - first).mean(axis=-1), (side, side)
        )
        for dx, dy in steps
    ]
    flow = np.array(steps, np.float32)[np.argmin(costs, axis=0)]
    nowhere = np.zeros((height, width), bool)
    return Flow(flow, ~nowhere, nowhere, nowhere)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Folder for the images.")
    parser.add_argument("--index", type=int, default=3, help="of the clip that appearance.png shows")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:photos"], Path(folder) / "bank", cut=CutOutOptions(max_side=256))
        bank = ObjectBank.open(Path(folder) / "bank")
        rendering(bank, straight_files(bank, Path(folder))).save(
            arguments.out / "rendering.png", optimize=True
        )
        appearance(bank, arguments.index).save(arguments.out / "appearance.png", optimize=True)
        appearance_free(bank, (0, 1)).save(arguments.out / "appearance-free.png", optimize=True)


if __name__ == "__main__":
    main()
