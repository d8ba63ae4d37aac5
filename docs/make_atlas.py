"""Draw the atlas: one image of every motion family, curve, relation and camera move.

uv run python docs/make_atlas.py --out assets/atlas.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from numpy.typing import NDArray
from PIL import Image

from smile_synth.core import geometry
from smile_synth.core.rng import RandomStreams
from smile_synth.motion import (
    CAMERA_CURVES,
    FAMILIES,
    OBJECT_CURVES,
    RELATIONS,
    MotionKeys,
    Recursion,
    RelationRequest,
    Request,
    draw_curve,
    draw_path,
    draw_recursion,
    draw_relation,
)
from smile_synth.recipe import Recipe

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]

FRAMES, SIDE, BOX = 49, 100.0, 15.0
COLUMNS = 8
INK, CELL, TEXT, FAINT = "#10141f", "#1a2030", "#e8ebf2", "#8b95ab"
TIME = LinearSegmentedColormap.from_list("time", ["#3b4cc0", "#21a4a4", "#f2c14e", "#f26d5b"])
SECOND = LinearSegmentedColormap.from_list("second", ["#4a3b8f", "#a05fb4", "#f0a6ca"])

# Family -> the keys of its entry, and the seed of the random numbers.
PATHS: dict[str, tuple[dict[str, Any], int]] = {
    "smile-gaussian": ({"extent": [70, 80]}, 3),
    "smile-linear": ({"speed": 4.0}, 5),
    "still": ({}, 1),
    "constant-velocity": ({"speed": [1.2, 1.5]}, 3),
    "oscillation": ({"amplitude": [25, 32], "period": [24, 26]}, 5),
    "orbit": ({"radius": [24, 30], "turn": [6.5, 7]}, 1),
    "axis-velocity": ({"speeds": [-1, 0, 1]}, 4),
    "constant-acceleration": ({"speed": [1.2, 1.5], "acceleration": 0.06}, 26),
    "jerk-limited": ({"speed": [0.8, 1.2], "acceleration": 0.12, "jerk": 0.06}, 8),
    "key-framed": ({"rate": 2.2}, 7),
    "key-values": ({"amount": 30.0, "easing": {"smooth": 1.0}}, 3),
    "spline": ({"waypoints": 6}, 6),
    "spiral": ({"radius": [6, 8], "turn": [14, 15], "widening": [0.5, 0.55]}, 2),
    "random-walk": ({"step": 4.6}, 7),
    "ornstein-uhlenbeck": ({"deviation": [12, 14], "memory": [4, 6]}, 2),
    "flicker": ({"amount": [14, 16]}, 3),
    "bounce": ({"speed": [3.4, 3.8]}, 5),
    "ballistic": ({"speed": [3.2, 3.4], "elevation": [62, 70], "gravity": [0.12, 0.13]}, 1),
    "stop-and-go": ({"speed": [3.0, 3.4], "go": [5, 9], "stop": [4, 7], "turn": 110.0}, 3),
    "approach-recede": ({"ratio": [3.2, 3.6], "period": [92, 96]}, 15),
    "pass-through": ({}, 2),
    "re-enter": ({"away": [0.25, 0.3]}, 9),
}
CURVES: dict[str, dict[str, Any]] = {
    "log_scale": {"family": "oscillation", "amplitude": 0.6, "period": 40},
    "rotation": {"family": "constant-velocity", "speed": 3.5},
    "shear": {"family": "constant-velocity", "speed": 0.016, "direction": [10, 20], "start": -0.4},
    "tilt": {"family": "constant-velocity", "speed": 2.6, "direction": [50, 60], "start": -60},
    "opacity": {"family": "constant-velocity", "speed": 0.019, "direction": 180, "start": 1.0},
    "gain": {"family": "key-values", "amount": 0.8, "start": 1.0},
    "depth": {"family": "oscillation", "amplitude": 1.5, "period": 32},
}
# The relation's keys, then its leader's family, keys and seed.
RELATED: dict[str, tuple[dict[str, Any], str, dict[str, Any], int]] = {
    "common-fate": ({}, "smile-gaussian", {"extent": [40, 44]}, 6),
    "following": ({"lag": [7, 8]}, "spline", {"waypoints": 5}, 4),
    "collision": ({"at": [0.5, 0.5], "after": "bounce"}, "constant-velocity", {"speed": [0.7, 0.8]}, 14),
    "orbiting": ({"turn": [14, 15], "distance": [1.3, 1.4]}, "constant-velocity", {"speed": [0.8, 0.9]}, 7),
}
CAMERAS: dict[str, dict[str, Any]] = {
    "pan and shake": {
        "pan": {"family": "constant-velocity", "speed": 0.8, "direction": 25},
        "shake": {"family": "ornstein-uhlenbeck", "deviation": 1.6, "memory": 3},
    },
    "zoom and roll": {
        "zoom": {"family": "constant-velocity", "speed": 0.006, "direction": 180},
        "roll": {"family": "constant-velocity", "speed": 0.9, "direction": 0},
    },
    "tilt": {"tilt": {"family": "constant-velocity", "speed": 1.1, "direction": 60}},
    "recursion (PMG)": {
        "recursion": {"rotation": [1.1, 1.2], "zoom": [-0.03, -0.028], "perspective": [0.002, 0.003]}
    },
}


# Row, column, section (it counts the gaps above), title, and the function that draws the cell.
Cell = tuple[int, int, int, str, Callable[[Axes], None]]
LEFT, TOP, CELL_HEIGHT, SECTION_GAP = 0.36, 1.18, 1.98, 0.34  # inches


def atlas() -> UInt8:
    """Return the image ``[H, W, 3]`` uint8."""
    cells = _cells()
    curve_row = cells[-1][0] - 1
    figure = Figure(figsize=(15.4, CELL_HEIGHT * (curve_row + 2) + 2.15), dpi=100, facecolor=INK)
    canvas = FigureCanvasAgg(figure)
    width, height = figure.get_size_inches()
    pitch = (width - 0.6) / COLUMNS

    def text(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, y / height, text, va="center", **style)

    text(LEFT, height - 0.47, "Motion atlas", color=TEXT, size=21, weight="bold")
    text(
        LEFT,
        height - 0.82,
        "every family draws paths and curves alike; dots are frames",
        color=FAINT,
        size=11,
    )
    _legend(figure, width, height)
    for row, column, section, title, draw in cells:
        y = height - TOP - SECTION_GAP * section - (row + 1) * CELL_HEIGHT
        axes = figure.add_axes(
            ((LEFT + column * pitch) / width, (y + 0.12) / height, (pitch - 0.12) / width, 1.62 / height)
        )
        _empty(axes)
        draw(axes)
        _title(axes, title)
    headings = ((0, 0, 0, "PATHS"), (curve_row, 1, 0, "CURVES"), (curve_row + 1, 2, 0, "RELATIONS"))
    for row, section, column, name in (*headings, (curve_row + 1, 2, len(RELATED), "CAMERA")):
        y = height - TOP - SECTION_GAP * section - row * CELL_HEIGHT - 0.08
        text(LEFT + column * pitch, y, name, color=TIME(0.66), size=11.5, weight="bold")
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()


def _cells() -> list[Cell]:
    """Return all cells; the last one is in the lowest row."""
    paths = [*PATHS, *(name for name in FAMILIES if name not in PATHS)]
    first: list[tuple[str, Callable[[Axes], None]]] = [
        *((name, partial(_path, name=name)) for name in paths), ("composed with curves", _composed),
        ("yours", _yours),
    ]  # fmt: skip
    cells: list[Cell] = [(n // COLUMNS, n % COLUMNS, 0, *cell) for n, cell in enumerate(first)]
    row = cells[-1][0] + 1
    curves: list[Any] = [*((name, partial(_curve, name=name)) for name in CURVES), ("any family", _graphs)]
    cells += [(row, column, 1, *cell) for column, cell in enumerate(curves)]
    moves = [(name, partial(_relation, name=name)) for name in RELATED]
    moves += [(name, partial(_camera, keys=keys)) for name, keys in CAMERAS.items()]
    return [*cells, *((row + 1, column, 2, *cell) for column, cell in enumerate(moves))]


def _legend(figure: Figure, width: float, height: float) -> None:
    axes = figure.add_axes(((width - 3.3) / width, (height - 0.58) / height, 2.1 / width, 0.09 / height))
    axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=TIME)
    axes.axis("off")
    for x, text, align in ((width - 3.4, "first frame", "right"), (width - 1.1, "last", "left")):
        figure.text(x / width, (height - 0.54) / height, text, color=FAINT, size=10, ha=align, va="center")


def _empty(axes: Axes) -> None:
    """Make a cell: a rounded sheet of 100 x 100 pixels' frame, y down."""
    ratio = 1.09
    axes.set_xlim(-2, SIDE * ratio + 2)
    axes.set_ylim(SIDE + 2, -2)
    axes.axis("off")
    sheet = FancyBboxPatch(
        (2, 2),
        SIDE * ratio - 4,
        SIDE - 4,
        boxstyle="round,pad=3,rounding_size=5",
        fc=CELL,
        ec="none",
        zorder=0,
    )
    axes.add_patch(sheet)
    axes.set_autoscale_on(False)


def _title(axes: Axes, text: str) -> None:
    axes.text(0.5, -0.015, text, transform=axes.transAxes, color=TEXT, size=9.5, ha="center", va="top")


def _request(rows: int, box: float = BOX) -> Request:
    width = SIDE * 1.09
    half = np.full((rows, FRAMES, 2), box / 2)
    frame = np.array([width, SIDE])
    keys = np.repeat([[0.0, 16.0, 32.0, FRAMES - 1.0]], rows, axis=0)
    return Request(FRAMES, half, frame - half, np.stack([0 * frame, frame]), keys)


def _family(name: str, keys: dict[str, Any]) -> Any:
    return FAMILIES[name].parameters.model_validate_json(json.dumps({"family": name, **keys}))


def _trail(axes: Axes, path: Float, colors: Any, alpha: float = 1.0, dots: bool = True) -> None:
    shade = colors(np.linspace(0, 1, len(path)))
    shade[:, 3] = alpha
    clip = axes.patches[0]
    lines = LineCollection(
        list(np.stack([path[:-1], path[1:]], axis=1)),
        colors=shade,
        linewidths=1.5,
        capstyle="round",
        zorder=2,
    )
    axes.add_collection(lines)
    lines.set_clip_path(clip)
    if dots:
        axes.scatter(path[:, 0], path[:, 1], s=5.5, c=shade, zorder=3, linewidths=0).set_clip_path(clip)


def _ghost(
    axes: Axes,
    center: Float,
    size: float | Float,
    color: Any,
    alpha: float,
    matrix: Float | None = None,
    z: float = 4,
) -> None:
    """Draw a box with a mark that shows which way it is turned."""
    half = np.broadcast_to(np.asarray(size, float) / 2, (2,))
    outline = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    mark = np.array([[0.1, -0.62], [0.62, -0.62], [0.62, -0.1]]) * half
    for points, face in ((outline, color), (mark, INK)):
        if matrix is not None:
            points = geometry.apply(matrix, points)
        patch = Polygon(
            points + center, closed=True, fc=face, ec=INK, lw=0.7, alpha=alpha, zorder=z, joinstyle="round"
        )
        axes.add_patch(patch)
        patch.set_clip_path(axes.patches[0])


def _path(axes: Axes, name: str) -> None:
    if name not in PATHS:
        return  # of an installed package
    keys, seed = PATHS[name]
    drawn = draw_path(
        _family(name, keys), _request(3), rng=RandomStreams(seed, np.arange(3), f"atlas {name}")
    )
    for row in (1, 2):
        _trail(axes, drawn.values[row], SECOND, alpha=0.22, dots=False)
    path = drawn.values[0]
    _trail(axes, path, TIME)
    scale = np.zeros(FRAMES) if drawn.log_scale is None else drawn.log_scale[0]
    for t in np.linspace(0, FRAMES - 1, 5).round().astype(int):
        u = t / (FRAMES - 1)
        _ghost(axes, path[t], BOX * np.exp(scale[t]) * 0.8, TIME(u), 0.35 + 0.6 * u, z=4 + u)


def _composed(axes: Axes) -> None:
    """Draw a path whose object turns, grows and changes its opacity on the way."""
    drawn = draw_path(
        _family("spline", {"waypoints": 5}), _request(1), rng=RandomStreams(11, [0], "atlas composed")
    )
    path = drawn.values[0]
    _trail(axes, path, TIME, dots=False)
    turn = _curve_of("rotation", {"family": "constant-velocity", "speed": 4.5})[:, 0]
    size = np.exp(_curve_of("log_scale", {"family": "oscillation", "amplitude": 0.5, "period": 36}))
    for t in np.linspace(0, FRAMES - 1, 8).round().astype(int):
        u = t / (FRAMES - 1)
        _ghost(
            axes, path[t], BOX * size[t].mean(), TIME(u), 0.3 + 0.65 * u, geometry.rotation(turn[t]), 4 + u
        )


def _curve_of(name: str, keys: dict[str, Any], seed: int = 3) -> Float:
    """Return the values ``[T, D]`` of a curve as a recipe would draw it."""
    recipe = {
        "backgrounds": [{"kind": "noise"}], "objects": {"side": [9]},
        "motion": [{"family": "still", name: keys}],
    }  # fmt: skip
    entry: MotionKeys = Recipe.model_validate_json(json.dumps(recipe)).motion[0]
    times = np.array([[0.0, 16.0, 32.0, FRAMES - 1.0]])
    rng = RandomStreams(seed, [0], f"atlas {name}")
    return np.asarray(draw_curve(OBJECT_CURVES[name], getattr(entry, name), times, FRAMES, rng=rng).values[0])


def _curve(axes: Axes, name: str) -> None:
    values = _curve_of(name, CURVES[name])
    shown = np.linspace(0, FRAMES - 1, 5).round().astype(int)
    for place, t in enumerate(shown):
        u = place / (len(shown) - 1)
        center = np.array([14 + 81 * u, 50.0])
        size, matrix, alpha = np.array([14.0, 14.0]), np.eye(3), 1.0
        color = np.array(to_rgb("#f2c14e"))
        v = values[t]
        if name == "log_scale":
            size = size * np.exp(v)
        elif name == "rotation":
            matrix = geometry.rotation(v[0])
        elif name == "shear":
            matrix[0, 1], matrix[1, 0] = v[0], v[1] * 0.4
        elif name == "tilt":
            matrix = geometry.tilt(v, 22.0)
        elif name == "opacity":
            alpha = float(v[0])
        elif name == "gain":
            color = np.clip(np.array([0.62, 0.55, 0.5]) * v, 0, 1)
        if name == "depth":
            continue
        _ghost(axes, center, size * 1.15, color, alpha, matrix)
    if name == "depth":
        for place, t in enumerate(shown[::2]):
            x = 20 + 34 * place
            near = values[t, 0] < 0
            _ghost(axes, np.array([x - 4.0, 45.0]), 19, "#f2c14e", 1.0, z=6 if near else 4)
            _ghost(axes, np.array([x + 5.0, 55.0]), 19, "#21a4a4", 1.0, z=5)


def _graphs(axes: Axes) -> None:
    """Draw one curve of several families over time."""
    shown = (
        ({"family": "key-framed", "rate": 5.0}, "#f2c14e"),
        ({"family": "oscillation", "amplitude": 40, "period": 20}, "#21a4a4"),
        ({"family": "ornstein-uhlenbeck", "deviation": 26, "memory": 4}, "#f26d5b"),
        ({"family": "bounce", "speed": 9, "low": -70, "high": 70}, "#a05fb4"),
    )
    x = np.linspace(9, 100, FRAMES)
    axes.plot([9, 100], [50, 50], color=FAINT, lw=0.6, alpha=0.6)
    for n, (keys, color) in enumerate(shown):
        values = _curve_of("rotation", keys, seed=n + 2)[:, 0]
        axes.plot(
            x, 50 - values * 0.42, color=color, lw=1.5, solid_capstyle="round", clip_path=axes.patches[0]
        )


def _relation(axes: Axes, name: str) -> None:
    keys, family, options, seed = RELATED[name]
    leader = draw_path(
        _family(family, options), _request(1), rng=RandomStreams(seed, [0], "atlas leader")
    ).values
    followers = 2 if name in ("common-fate", "following") else 1
    rng = RandomStreams(seed, np.arange(followers) + 1, "atlas own")
    own = draw_path(_family("still", {}), _request(followers), rng=rng).values
    box = np.full((followers, 2), BOX * 0.8)
    parameters = RELATIONS[name].parameters.model_validate_json(json.dumps({"relation": name, **keys}))
    frame_wh = np.array([SIDE * 1.09, SIDE])
    if name == "following":  # each follows the one before
        values: list[Float] = []
        for row in range(followers):
            ahead = values[-1][None] if values else leader
            request = RelationRequest(ahead, own[row : row + 1], box[:1], box[:1], frame_wh)
            values.append(draw_relation(parameters, request, rng=RandomStreams(1, [row], "a")).values[0])
    else:
        leaders = np.repeat(leader, followers, axis=0)
        request = RelationRequest(leaders, own, box, box, frame_wh)
        rng = RandomStreams(seed, np.arange(followers), "atlas relation")
        values = list(draw_relation(parameters, request, rng=rng).values)
    for path, colors in ((leader[0], TIME), *((each, SECOND) for each in values)):
        _trail(axes, path, colors, dots=False)
        for t in np.linspace(0, FRAMES - 1, 4).round().astype(int):
            u = t / (FRAMES - 1)
            _ghost(axes, path[t], BOX * 0.75, colors(u), 0.3 + 0.65 * u, z=4 + u)


def _camera(axes: Axes, keys: dict[str, Any]) -> None:
    """Draw a lattice as the camera sees it, early faint and late bright."""
    frame = np.array([SIDE * 1.09, SIDE])
    times = np.array([[0.0, FRAMES - 1.0]])
    recipe = {
        "backgrounds": [{"kind": "noise"}], "objects": {"side": [9]}, "motion": [{"family": "still"}],
        "camera": [keys],
    }  # fmt: skip
    entry = Recipe.model_validate_json(json.dumps(recipe)).camera[0]

    def drawn(name: str) -> Float:
        curve = getattr(entry, name)
        if curve is None:
            return np.zeros((FRAMES, CAMERA_CURVES[name].dims))
        rng = RandomStreams(4, [0], f"atlas {name}")
        return np.asarray(draw_curve(CAMERA_CURVES[name], curve, times, FRAMES, rng=rng).values[0])

    powers = np.broadcast_to(np.eye(3), (FRAMES, 3, 3))
    if isinstance(entry.recursion, Recursion):
        powers = draw_recursion(entry.recursion, FRAMES, frame, rng=RandomStreams(1, [0], "atlas recursion"))[
            0
        ][0]
    pan, zoom, roll, tilt = drawn("pan") + drawn("shake"), drawn("zoom"), drawn("roll"), drawn("tilt")
    spread = np.linspace(-1.6, 1.6, 9)
    fine = np.linspace(-1.6, 1.6, 33)
    lines = [np.stack([np.full_like(fine, x), fine], -1) for x in spread]
    lines += [line[:, ::-1] for line in lines]
    clip = axes.patches[0]
    shown = np.linspace(0, FRAMES - 1, 3).round().astype(int)
    for place, t in enumerate(shown):
        u = place / (len(shown) - 1)
        matrix = geometry.compose(
            geometry.translation(frame / 2), geometry.tilt(tilt[t], 2 * SIDE), geometry.rotation(roll[t, 0]),
            geometry.scaling(np.exp(zoom[t, 0]) * np.ones(2)), geometry.translation(pan[t] - frame / 2),
        )  # fmt: skip
        matrix = powers[t] @ matrix
        seen = [geometry.apply(matrix, line * frame / 4 + frame / 2) for line in lines]
        collection = LineCollection(
            seen, colors=[TIME(u)], linewidths=0.5 + 0.7 * u, alpha=0.25 + 0.6 * u, zorder=2 + u
        )
        axes.add_collection(collection)
        collection.set_clip_path(clip)
    if pan.any():
        _trail(axes, frame / 2 + pan, TIME, dots=False)


def _yours(axes: Axes) -> None:
    axes.patches[0].set_facecolor(INK)
    sheet = FancyBboxPatch(
        (4, 4),
        SIDE * 1.09 - 8,
        SIDE - 8,
        boxstyle="round,pad=2,rounding_size=5",
        fc="none",
        ec=FAINT,
        lw=1,
        ls=(0, (4, 3)),
    )
    axes.add_patch(sheet)
    axes.add_patch(Rectangle((53, 30), 3, 26, fc=FAINT, ec="none"))
    axes.add_patch(Rectangle((41.5, 41.5), 26, 3, fc=FAINT, ec="none"))
    axes.text(
        54.5, 76, "one function,\none line", color=FAINT, size=8.5, ha="center", va="center", linespacing=1.3
    )


def main() -> None:
    """Write the image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("assets/atlas.png"), help="A .png file.")
    Image.fromarray(atlas()).save(parser.parse_args().out)


if __name__ == "__main__":
    main()
