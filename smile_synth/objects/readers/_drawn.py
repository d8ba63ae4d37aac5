"""``drawn:COUNT``: any number of drawn shapes, each a pure function of (seed, number).

Classes: ``circle``, ``ellipse``, ``polygon-3`` .. ``polygon-9`` (convex, regular or irregular, by the
number of corners), ``star-3`` .. ``star-9`` (regular or irregular, by the number of points), ``blob``,
``letter-A`` .. ``letter-Z``, ``digit-0`` .. ``digit-9``. The weights of KINDS decide the kind; its members
are drawn uniformly.

Attributes: ``shape``, the kind; ``texture``, a key of TEXTURES; ``color``, a key of COLOURS, except for
untinted photographs; ``photo``, the material of photographs.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream
from smile_synth.io.images import UInt8
from smile_synth.objects._item import CutOut, Item, ReadOptions
from smile_synth.objects._polygons import coverage
from smile_synth.objects.readers import _drawing
from smile_synth.objects.readers._drawing import Float
from smile_synth.objects.readers._photos import SURFACES, load_photo

Rings = list[Float]
DEFAULT_COUNT = 1000
LONG_SIDE = 192
MIN_FILL = 0.15  # of the box
MIN_ASPECT = 0.3  # short side of the box by its long side
MIN_THICKNESS = 0.12  # widest circle inside, by the long side
CORNERS = range(3, 10)
# Bold, so that letters are not too thin. Matplotlib ships these fonts.
FONTS = ("DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic")
COLOURS = _drawing.COLOURS | {
    "brown": (24, 0.62, 0.50),
    "black": (230, 0.20, 0.17),
    "gray": (220, 0.08, 0.55),
    "white": (45, 0.07, 0.97),
}


def read_drawn(source: str, options: ReadOptions) -> list[Item]:
    """List drawings: ``drawn:5000`` for 5000 of them, ``drawn`` alone for 1000.

    Each counts as its own image, except that all crops of one photograph count as the same image. The
    first n drawings of a seed are the same for every count.

    Raises:
        UserError: the count is not a whole number from 1 to 9999999.
    """
    spec = re.fullmatch("drawn(?::([1-9][0-9]{0,6}))?", source)
    if spec is None:
        raise UserError(
            f"object source '{source}': expected drawn:COUNT with a whole number from 1 to 9999999, "
            "for example drawn:5000"
        )
    return [_item(options.seed, number) for number in range(int(spec[1] or DEFAULT_COUNT))]


def _item(seed: int, number: int) -> Item:
    name = f"drawn/seed{seed}-{number:07d}"
    return Item(name, (), partial(_cut, name, seed, number))


def _cut(name: str, seed: int, number: int) -> Iterator[CutOut]:
    rng = RandomStream(seed, number, "drawn")
    class_name, alpha = _shape(rng)
    texture = list(TEXTURES)[rng.integer(len(TEXTURES))]
    rgb, attributes, licence = TEXTURES[texture](alpha.shape[0], alpha.shape[1], rng)
    yield CutOut(
        class_name=class_name,
        source=name,
        source_image=name,
        # Crops of one photograph overlap, so they must be on the same side of the split.
        image_key=f"scikit-image {attributes['photo']}" if "photo" in attributes else name,
        rgba=_drawing.rgba_of(rgb, alpha),
        licence=licence,
        attributes={"shape": class_name.split("-")[0], "texture": texture, **attributes},
    )


def _shape(rng: RandomStream) -> tuple[str, UInt8]:
    weights = [weight for weight, _ in KINDS.values()]
    kind = list(KINDS)[rng.choice(weights)]
    for _ in range(1000):
        suffix, rings = KINDS[kind][1](rng)
        alpha = _fitted(rings)
        if _is_thick_enough(alpha):
            return kind + suffix, alpha
    raise AssertionError(f"no usable {kind}")


def _fitted(rings: Rings) -> UInt8:
    low, high = rings[0].min(axis=0), rings[0].max(axis=0)
    scale = LONG_SIDE / (high - low).max()
    width, height = np.maximum(np.ceil((high - low) * scale - 1e-6).astype(int), 1)
    return coverage([(ring - low) * scale for ring in rings], int(height), int(width))


def _is_thick_enough(alpha: UInt8) -> bool:
    if min(alpha.shape) < MIN_ASPECT * max(alpha.shape) or alpha.mean() < MIN_FILL * 255:
        return False
    inside = np.pad((alpha >= 128).astype(np.uint8), 1)
    radius = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max()
    return bool(2 * radius >= MIN_THICKNESS * LONG_SIDE)


# A kind returns the rest of the class name, and rings for `coverage` in any unit.
def _circle(rng: RandomStream) -> tuple[str, Rings]:
    return "", [_polar(np.ones(180))]


def _ellipse(rng: RandomStream) -> tuple[str, Rings]:
    return "", [_drawing.turned(_polar(np.ones(180)) * [1, rng.uniform(0.4, 0.8)], rng.uniform(0, 360))]


def _polygon(rng: RandomStream) -> tuple[str, Rings]:
    corners = CORNERS[rng.integer(len(CORNERS))]
    angles = 2 * np.pi * np.arange(corners) / corners
    stretch = 1.0
    if rng.random() < 0.6:  # corners on an ellipse, so the polygon is convex
        angles = angles + rng.uniforms(-0.38, 0.38, corners) * 2 * np.pi / corners
        stretch = rng.uniform(0.6, 1.0)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ring = _drawing.turned(_drawing.turned(ring, rng.uniform(0, 360)) * [1, stretch], rng.uniform(0, 360))
    return f"-{corners}", [_drawing.rounded(ring, rng.uniform(0.0, 0.2))]


def _star(rng: RandomStream) -> tuple[str, Rings]:
    points = CORNERS[rng.integer(len(CORNERS))]
    radius = np.where(np.arange(2 * points) % 2, rng.uniform(0.36, 0.68), 1.0)
    angles = np.pi * np.arange(2 * points) / points
    if rng.random() < 0.5:
        radius = radius * rng.uniforms(0.78, 1.0, 2 * points)
        angles = angles + rng.uniforms(-0.2, 0.2, 2 * points) * np.pi / points
    ring = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
    return f"-{points}", [
        _drawing.rounded(_drawing.turned(ring, rng.uniform(0, 360)), rng.uniform(0.0, 0.22))
    ]


def _blob(rng: RandomStream) -> tuple[str, Rings]:
    """Draw a smooth closed curve: the log of its radius is a sum of the harmonics 2..6."""
    harmonic = np.arange(2, 7)[:, None]
    size = 0.42 * rng.normals(*harmonic.shape) / harmonic
    phase = rng.uniforms(0, 2 * np.pi, *harmonic.shape)
    angles = 2 * np.pi * np.arange(240) / 240
    return "", [_polar(np.exp((size * np.cos(harmonic * angles + phase)).sum(axis=0)))]


def _letter(rng: RandomStream) -> tuple[str, Rings]:
    return _written(string.ascii_uppercase, rng)


def _digit(rng: RandomStream) -> tuple[str, Rings]:
    return _written(string.digits, rng)


def _written(characters: str, rng: RandomStream) -> tuple[str, Rings]:
    character = characters[rng.integer(len(characters))]
    rings = _glyph(FONTS[rng.integer(len(FONTS))], character)
    # A small rotation, because a rotated 6 is a 9 and a rotated N is a Z.
    stretch, degrees = [1, math.exp(rng.uniform(-0.2, 0.2))], rng.uniform(-18, 18)
    return f"-{character}", [_drawing.turned(ring * stretch, degrees) for ring in rings]


# Name: weight, outline.
KINDS: dict[str, tuple[float, Callable[[RandomStream], tuple[str, Rings]]]] = {
    "circle": (1, _circle),
    "ellipse": (1.5, _ellipse),
    "polygon": (4, _polygon),
    "star": (3, _star),
    "blob": (4, _blob),
    "letter": (4, _letter),
    "digit": (1.5, _digit),
}


@lru_cache(maxsize=256)
def _glyph(font: str, character: str) -> Rings:
    """Trace a character: its outline first, then the holes."""
    # Imported here because these imports are slow.
    import matplotlib
    from skimage import measure

    file = Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")
    face = ImageFont.truetype(file, 480, layout_engine=ImageFont.Layout.BASIC)
    canvas = Image.new("L", (800, 800))
    ImageDraw.Draw(canvas).text((160, 100), character, fill=255, font=face)
    found = measure.find_contours(np.asarray(canvas, np.float64), 127.5)  # type: ignore[no-untyped-call]
    # Removes most points of straight strokes; an error of a fifth of a pixel in 480 is invisible.
    rings = [
        cv2.approxPolyDP(ring[:-1, ::-1].astype(np.float32), 0.2, True)[:, 0].astype(np.float64)
        for ring in found
    ]
    return sorted(rings, key=lambda ring: -float(np.ptp(ring, axis=0).prod()))


def _polar(radius: Float) -> Float:
    angles = 2 * np.pi * np.arange(len(radius)) / len(radius)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)


# A texture returns RGB [H, W, 3] in about 0..255, its attributes, and its licence.
Paint = tuple[Float, dict[str, str], str]


def _solid(height: int, width: int, rng: RandomStream) -> Paint:
    name, colour = _colour(rng)
    return colour * _drawing.light(height, width, rng, least=0.15), {"color": name}, "CC0"


def _striped(height: int, width: int, rng: RandomStream) -> Paint:
    """Draw straight or wavy stripes of two tones, anti-aliased over a pixel."""
    (name, first), second = (chosen := _colour(rng)), _second(chosen, rng)
    x, y = np.arange(width) + 0.5, (np.arange(height) + 0.5)[:, None]
    angle, frequency = rng.uniform(0, math.pi), rng.uniform(2.5, 8) / LONG_SIDE
    along, across = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    wave = rng.uniform(0.1, 0.35) if rng.random() < 0.4 else 0.0
    cycles = along * frequency + rng.random()
    cycles = cycles + wave * np.sin(2 * np.pi * (across * rng.uniform(1, 3) / LONG_SIDE + rng.random()))
    from_middle = np.abs(cycles - np.floor(cycles) - 0.5)
    share = np.clip((from_middle - rng.uniform(0.15, 0.35)) / frequency + 0.5, 0, 1)[..., None]
    return (first + (second - first) * share) * _drawing.light(height, width, rng), {"color": name}, "CC0"


def _noise(height: int, width: int, rng: RandomStream) -> Paint:
    """Draw value noise between two tones, from soft to hard-edged."""
    (name, first), second = (chosen := _colour(rng)), _second(chosen, rng)
    share = _drawing.value_noise(height, width, rng, LONG_SIDE)
    share = np.clip((share - np.median(share)) * rng.uniform(1.2, 5) + rng.uniform(0.2, 0.5), 0, 1)[..., None]
    return (first + (second - first) * share) * _drawing.light(height, width, rng), {"color": name}, "CC0"


def _photo(height: int, width: int, rng: RandomStream) -> Paint:
    """Draw a crop of a photograph of scikit-image, mirrored or not, rotated by quarters, tinted or not."""
    file = list(SURFACES)[rng.integer(len(SURFACES))]
    surface = SURFACES[file]
    photo = load_photo(file, surface.size_hw)
    side = round(min(surface.size_hw) * math.exp(rng.uniform(math.log(0.25), 0)))
    top, left = (rng.integer(length - side + 1) for length in surface.size_hw)
    crop = np.rot90(photo[top : top + side, left : left + side], rng.integer(4))
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    method = cv2.INTER_AREA if side > LONG_SIDE else cv2.INTER_CUBIC
    scaled = cv2.resize(np.ascontiguousarray(crop), (LONG_SIDE, LONG_SIDE), interpolation=method)
    rgb = scaled[:height, :width].astype(np.float64)
    attributes = {"photo": surface.class_name}
    if rng.random() < 0.5:
        name, colour = _colour(rng)
        gray = rgb @ [0.299, 0.587, 0.114]
        rgb = np.maximum(gray / max(gray.mean(), 1.0), 0.15)[..., None] * colour
        attributes["color"] = name
    else:
        rgb = rgb * surface.tint_rgb
    return rgb * _drawing.light(height, width, rng), attributes, surface.licence


TEXTURES: dict[str, Callable[[int, int, RandomStream], Paint]] = {
    "solid": _solid,
    "striped": _striped,
    "noise": _noise,
    "photo": _photo,
}


def _colour(rng: RandomStream, other_than: str = "") -> tuple[str, Float]:
    names = [name for name in COLOURS if name != other_than]
    name = names[rng.integer(len(names))]
    hue, saturation, value = COLOURS[name]
    hue += rng.uniform(-_drawing.HUE_JITTER_DEGREES, _drawing.HUE_JITTER_DEGREES)
    return name, _drawing.rgb_of(hue, saturation * rng.uniform(0.85, 1.0), value * rng.uniform(0.9, 1.0))


def _second(first: tuple[str, Float], rng: RandomStream) -> Float:
    """Return a darker or lighter tone of the first colour, or another colour."""
    name, colour = first
    if rng.random() < 0.4:
        return _colour(rng, other_than=name)[1]
    # A darker tone of a dark colour would be indistinguishable, and a lighter tone of a light colour too.
    darker = rng.random() < (colour.mean() - 80) / 70
    return colour * 0.4 if darker else 0.35 * colour + 0.65 * 255
