"""``builtin:photos``: cut-outs of the photographs that ship with scikit-image.

Outlines were drawn by hand, refined on the images (graph cuts for people, the strongest circular edge for
coins) and checked by eye. They are stored as data, so that a bank does not depend on the version of a
segmentation library. Nothing is downloaded: a photograph that is not installed is reported.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smile_synth.io.images import Reject, UInt8
from smile_synth.objects._item import CutOut, Item, ReadOptions
from smile_synth.objects._polygons import coverage
from smile_synth.objects.readers._shapes import OUTLINES, outline

OUTLINE_FILE = Path(__file__).with_name("_photo_outlines.json")


@dataclass(frozen=True)
class Surface:
    """A photograph of one material, cut into 3x3 shapes; ``tint_rgb`` colours grey photographs."""

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


def read_photos(source: str, options: ReadOptions) -> list[Item]:
    """List the cut-outs: objects first, then the shapes cut from surfaces.

    Objects of one photograph share its name as ``source_image``, because their pixels overlap. Each
    coin of ``coins.png`` and each patch of a surface counts as its own image: they share no pixel, and
    otherwise every split would get all objects of the class or none.
    """
    return [*_objects(), *_patches()]


def _objects() -> Iterator[Item]:
    photos: dict[str, Any] = json.loads(OUTLINE_FILE.read_text("utf-8"))
    for file, photo in photos.items():
        for number, entry in enumerate(photo["objects"]):
            facts = {key: value for key, value in photo.items() if key != "objects"}
            name = f"{file}#{number}"
            yield Item(name, (), partial(_cut_object, name, file, facts, entry))


def _cut_object(name: str, file: str, photo: dict[str, Any], entry: dict[str, Any]) -> Iterator[CutOut]:
    rings = [np.array(ring, np.float64).reshape(-1, 2) for ring in entry["rings"]]
    rgb = load_photo(file, tuple(photo["size_hw"]))
    x0, y0 = np.floor(rings[0].min(axis=0)).astype(int)
    x1, y1 = np.ceil(rings[0].max(axis=0)).astype(int)
    alpha = coverage([ring - (x0, y0) for ring in rings], y1 - y0, x1 - x0)
    image = name if photo.get("separate") else file
    yield CutOut(
        class_name=entry["class"],
        source=name,
        source_image=image,
        image_key=image,
        licence=photo["licence"],
        attributes={"name": entry["name"]} if "name" in entry else {},
        rgba=np.dstack([rgb[y0:y1, x0:x1], alpha]),
        from_photo=True,
    )


def _patches() -> Iterator[Item]:
    shapes = cycle(OUTLINES)
    for file, surface in SURFACES.items():
        side = min(surface.size_hw) // GRID
        for number in range(GRID * GRID):
            name = f"{file}#{number}"
            corner_xy = (number % GRID * side, number // GRID * side)
            yield Item(name, (), partial(_cut_patch, name, file, next(shapes), corner_xy, side))


def _cut_patch(name: str, file: str, shape: str, corner_xy: tuple[int, int], side: int) -> Iterator[CutOut]:
    """Cut a shape from a surface. Its edge pixels show the same surface, so their colours stay."""
    surface, (x, y) = SURFACES[file], corner_xy
    rgb = load_photo(file, surface.size_hw)[y : y + side, x : x + side]
    tinted = np.minimum(rgb * np.array(surface.tint_rgb) + 0.5, 255).astype(np.uint8)
    yield CutOut(
        class_name=surface.class_name,
        source=name,
        source_image=name,
        image_key=name,
        licence=surface.licence,
        attributes={"shape": shape, "texture": surface.class_name},
        rgba=np.dstack([tinted, coverage(outline(shape, side, side, corner=0.08), side, side)]),
    )


def load_photo(file: str, size_hw: tuple[int, int]) -> UInt8:
    """Return a photograph of scikit-image, ``[H, W, 3]`` uint8.

    Raises:
        Reject: it is not installed, or has another size.
    """
    package = importlib.util.find_spec("skimage")
    path = Path(*(package.submodule_search_locations or ["."])[:1], "data", file) if package else Path(file)
    if not path.is_file():
        raise Reject("the installed scikit-image does not ship this photograph")
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB"))
    if rgb.shape[:2] != size_hw:
        raise Reject(f"another image than expected: {rgb.shape[0]}x{rgb.shape[1]} pixels")
    return rgb
