"""``builtin:photos``: cut-outs of the photographs that ship with scikit-image.

Outlines were drawn by hand and refined on the pictures (graph cuts for people, the strongest circular
edge for coins), then checked by eye; they are data, so that a bank does not depend on the version of a
segmentation library. Nothing is ever downloaded: a photograph that is not installed is reported.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth.objects._cutout import Candidate, Reject, UInt8
from smile_synth.objects._outline import coverage
from smile_synth.objects._shapes import OUTLINES, outline

Float = NDArray[np.float64]
OUTLINE_FILE = Path(__file__).with_name("_photo_outlines.json")


@dataclass(frozen=True)
class Surface:
    """A photograph of one material, cut into 3x3 shapes; a tint colours the grey ones."""

    class_name: str
    size_hw: tuple[int, int]
    licence: str
    tint_rgb: tuple[float, float, float] = (1.0, 1.0, 1.0)


SURFACES = {
    "brick.png": Surface("brick", (512, 512), "CC0 (CC0Textures)", (1.45, 0.95, 0.8)),
    "grass.png": Surface("grass", (512, 512), "CC0 (linolafett)", (0.8, 0.95, 0.5)),
    "gravel.png": Surface("gravel", (512, 512), "CC0 (CC0Textures)", (1.1, 1.0, 0.88)),
    "hubble_deep_field.jpg": Surface("galaxies", (872, 1000), "public domain (NASA)"),
    "ihc.png": Surface("tissue", (512, 512), "no known copyright restrictions (CMMI)"),
    "moon.png": Surface("moon", (512, 512), "scikit-image data"),
}
GRID = 3


def read_photos(source: str, *, seed: int) -> list[Candidate]:
    """List the cut-outs: things first, then the shapes cut from surfaces.

    Things cut from one photograph share its name as ``source_image``, because their pixels overlap. Each
    coin of ``coins.png`` and each patch of a surface counts as a picture of its own: they share no
    pixel, show different things, and a class could otherwise not be held out in part.
    """
    return _things() + _patches()


def _things() -> list[Candidate]:
    candidates = []
    photos: dict[str, Any] = json.loads(OUTLINE_FILE.read_text("utf-8"))
    for file, photo in photos.items():
        for number, thing in enumerate(photo["objects"]):
            name = f"{file}#{number}"
            rings = [np.array(ring, np.float64).reshape(-1, 2) for ring in thing["rings"]]
            candidates.append(
                Candidate(
                    class_name=thing["class"],
                    source=name,
                    source_image=name if photo.get("separate") else file,
                    licence=photo["licence"],
                    attributes={"name": thing["name"]} if "name" in thing else {},
                    load=partial(_cut_thing, file, tuple(photo["size_hw"]), rings),
                )
            )
    return candidates


def _patches() -> list[Candidate]:
    candidates = []
    running = count()
    for file, surface in SURFACES.items():
        side = min(surface.size_hw) // GRID
        for number in range(GRID * GRID):
            name = f"{file}#{number}"
            shape = list(OUTLINES)[next(running) % len(OUTLINES)]
            corner_xy = (number % GRID * side, number // GRID * side)
            candidates.append(
                Candidate(
                    class_name=surface.class_name,
                    source=name,
                    source_image=name,
                    licence=surface.licence,
                    attributes={"shape": shape, "texture": surface.class_name},
                    load=partial(_cut_patch, file, surface, shape, corner_xy, side),
                )
            )
    return candidates


def _cut_thing(file: str, size_hw: tuple[int, int], rings: list[Float]) -> UInt8:
    rgb = _load(file, size_hw)
    x0, y0 = np.floor(rings[0].min(axis=0)).astype(int)
    x1, y1 = np.ceil(rings[0].max(axis=0)).astype(int)
    alpha = coverage([ring - (x0, y0) for ring in rings], y1 - y0, x1 - x0)
    return np.dstack([_clean_edge(rgb[y0:y1, x0:x1], alpha), alpha])


def _cut_patch(file: str, surface: Surface, shape: str, corner_xy: tuple[int, int], side: int) -> UInt8:
    x, y = corner_xy
    rgb = _load(file, surface.size_hw)[y : y + side, x : x + side]
    tinted = np.minimum(rgb * np.array(surface.tint_rgb) + 0.5, 255).astype(np.uint8)
    return np.dstack([tinted, coverage(outline(shape, side, side, corner=0.08), side, side)])


def _load(file: str, size_hw: tuple[int, int]) -> UInt8:
    package = importlib.util.find_spec("skimage")
    path = Path(*(package.submodule_search_locations or ["."])[:1], "data", file) if package else Path(file)
    if not path.is_file():
        raise Reject("the installed scikit-image does not ship this photograph")
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
    if rgb.shape[:2] != size_hw:
        raise Reject(f"another picture than expected: {rgb.shape[0]}x{rgb.shape[1]} pixels")
    return rgb


def _clean_edge(rgb: UInt8, alpha: UInt8) -> UInt8:
    """Give the outermost two pixels the mean colour of the inner ones near them.

    A photograph's edge pixels mix in what lay behind, which would show as a halo elsewhere.
    """
    inner = (_box_sum((alpha == 255)[..., None].astype(np.float64), 1) > 8.5).astype(np.float64)
    near = _box_sum(inner, 2)
    colour = _box_sum(rgb * inner, 2) / np.maximum(near, 1.0)
    return np.where((inner == 0) & (near > 0), np.floor(colour + 0.5), rgb).astype(np.uint8)


def _box_sum(values: Float, radius: int) -> Float:
    for axis in (0, 1):
        width = [(0, 0)] * 3
        width[axis] = (radius, radius)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, width), 2 * radius + 1, axis=axis)
        values = windows.sum(axis=-1)
    return values
