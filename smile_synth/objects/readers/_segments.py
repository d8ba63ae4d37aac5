"""Regions of annotations, as polygons or run lengths: pack them during parsing, draw them later."""

from __future__ import annotations

import ast
import json
import math
import re
from array import array
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smile_synth.io.images import Reject, UInt8
from smile_synth.objects._polygons import union_coverage

Rings = tuple["array[float]", ...]


class RunLengths(NamedTuple):
    """Run lengths down the columns, the first one outside; a list or COCO's compressed text."""

    size_hw: tuple[int, int]
    counts: array[int] | str


class Bitmap(NamedTuple):
    """A mask ``[h, w]`` bool, and the row and column of its first pixel in the image."""

    corner_yx: tuple[int, int]
    inside: NDArray[np.bool_]


# Text is the reason why a region cannot be used.
Region = Rings | RunLengths | Bitmap | str


def pack_region(segmentation: object) -> Region:
    """Pack the value of COCO's ``segmentation``, in any of the forms that tools write.

    A polygon is a list of rings ``[x, y, x, y ...]``; also one ring alone, rings of pairs ``[x, y]``, and
    the text of such a list. Run lengths are ``{"size": [H, W], "counts": ...}`` with a list of numbers or
    COCO's compressed text; also the text of Python's bytes, ``"b'...'"``.
    """
    if not segmentation:
        return "no segmentation: missing or empty"
    try:
        if isinstance(segmentation, str):
            segmentation = json.loads(segmentation)
        if isinstance(segmentation, dict):
            (height, width), counts = segmentation["size"], segmentation["counts"]
            return RunLengths((int(height), int(width)), _pack_counts(counts))
        if isinstance(segmentation, list):
            return tuple(map(_pack_ring, _rings_of(segmentation)))
    except (KeyError, OverflowError, SyntaxError, TypeError, ValueError):
        pass
    return "bad segmentation: neither lists of numbers nor run lengths"


def _pack_counts(counts: Any) -> array[int] | str:
    if not isinstance(counts, str):
        return array("q", map(int, counts))
    # A quotation mark is no character of COCO's text.
    return ast.literal_eval(counts).decode("latin-1") if re.match("b['\"]", counts) else counts


def _rings_of(polygon: list[Any]) -> list[list[Any]]:
    if not any(isinstance(ring, list) for ring in polygon):
        return [polygon]
    if len(polygon) > 2 and all(_is_point(point) for point in polygon):
        return [[value for point in polygon for value in point]]
    return [
        [value for point in ring for value in point] if ring and all(map(_is_point, ring)) else ring
        for ring in polygon
        if isinstance(ring, list)
    ]


def _pack_ring(ring: list[Any]) -> array[float]:
    try:
        return array("f", map(float, ring))
    except (OverflowError, TypeError, ValueError):
        return array("f", [math.nan] * 6)


def _is_point(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and not any(isinstance(v, list) for v in value)


class Shape(NamedTuple):
    """A valid region: its area, and a function that returns its first (row, column) and its alpha."""

    area: float
    draw: Callable[[], tuple[tuple[int, int], UInt8]]


def region_shape(region: Region, height: int, width: int) -> Shape:
    """Return the shape of a region in an image.

    Unusable rings beside good ones are dropped: tools leave empty and degenerate rings behind.

    Raises:
        Reject: the region is unusable, or outside the image.
    """
    if isinstance(region, str):
        raise Reject(region)
    if isinstance(region, RunLengths):
        return _run_length_shape(region, height, width)
    if isinstance(region, Bitmap):
        return _bitmap_shape(region, height, width)
    return _polygon_shape(region, height, width)


def _polygon_shape(region: Rings, height: int, width: int) -> Shape:
    problems = [_ring_problem(coordinates) for coordinates in region]
    if all(problems):
        raise Reject(f"bad polygon: {next((text for text in problems if text), 'without points')}")
    rings = [
        np.array(coordinates, np.float64).reshape(-1, 2)
        for coordinates, problem in zip(region, problems, strict=True)
        if not problem
    ]
    points = np.concatenate(rings)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    if left >= width or top >= height or right <= 0 or bottom <= 0:
        raise Reject("outside the image: the whole polygon")
    y0, x0 = math.floor(max(0.0, top)), math.floor(max(0.0, left))
    y1, x1 = math.ceil(min(height, bottom)), math.ceil(min(width, right))

    def draw() -> tuple[tuple[int, int], UInt8]:
        return (y0, x0), union_coverage([ring - (x0, y0) for ring in rings], y1 - y0, x1 - x0)

    return Shape(sum(abs(_shoelace(ring)) for ring in rings), draw)


def _ring_problem(coordinates: array[float]) -> str:
    if len(coordinates) % 2:
        return f"an odd number of coordinates, {len(coordinates)}"
    if len(coordinates) < 6:
        return f"{len(coordinates) // 2} points, at least 3 are needed"
    return "" if np.isfinite(np.array(coordinates)).all() else "a coordinate is not a finite number"


def _shoelace(ring: NDArray[np.float64]) -> float:
    x, y = (ring - ring[0]).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _bitmap_shape(region: Bitmap, height: int, width: int) -> Shape:
    y, x = region.corner_yx
    top, left = max(0, y), max(0, x)
    inside = region.inside[top - y : height - y, left - x : width - x]
    if not inside.any():
        raise Reject("empty mask: no pixel is inside")
    return Shape(float(inside.sum()), lambda: ((top, left), inside * np.uint8(255)))


def _run_length_shape(region: RunLengths, height: int, width: int) -> Shape:
    if region.size_hw != (height, width):
        given = "x".join(map(str, region.size_hw))
        raise Reject(f"size differs: the image has {height}x{width} pixels, its run lengths {given}")
    text = isinstance(region.counts, str)
    counts = decompress(str(region.counts)) if text else np.array(region.counts, np.int64)
    # The sum alone could overflow.
    if (counts < 0).any() or (counts > height * width).any() or counts.sum() != height * width:
        raise Reject(f"damaged run lengths: their sum is not {height}x{width} pixels")
    return Shape(float(counts[1::2].sum()), partial(_draw_runs, counts, height, width))


def _draw_runs(counts: NDArray[np.int64], height: int, width: int) -> tuple[tuple[int, int], UInt8]:
    values = np.zeros(len(counts), np.uint8)
    values[1::2] = 255
    return (0, 0), np.repeat(values, counts).reshape(width, height).T


def decompress(text: str) -> NDArray[np.int64]:
    """Decode COCO's compressed run lengths.

    Five bits per character, lowest first; bit 32 means that more follow; bit 16 of the last one is the
    sign. From the fourth number on, each is the difference to the one before the last. (The decoder of
    pycocotools reads memory outside of the text if the text is damaged.)
    """
    numbers: list[int] = []
    value = shift = 0
    for code in text.encode("latin-1", "replace"):
        bits = code - 48
        if not 0 <= bits < 64 or shift > 35:
            raise Reject("damaged run lengths: not COCO's compressed text")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    if shift:
        raise Reject("damaged run lengths: the compressed text is incomplete")
    return np.array(numbers, np.int64)
