"""LabelMe: one JSON file with shapes for each image."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from smile_synth.core.errors import UserError
from smile_synth.io.files import walk
from smile_synth.io.images import Reject, open_image
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions, Rejected
from smile_synth.objects.readers._annotated import Annotated, AnnotatedImage, cut_annotated
from smile_synth.objects.readers._coco import parse_json
from smile_synth.objects.readers._kinds import is_kind
from smile_synth.objects.readers._segments import Bitmap, Region, RunLengths, pack_region
from smile_synth.objects.readers._sidecars import Pair, has_sidecar, read_sidecars

CIRCLE_POINTS = 64


def is_labelme(path: Path) -> bool:
    """Return whether this is a JSON file of LabelMe, or a folder with such files beside their images."""
    is_label = partial(is_kind, format="labelme")
    if path.is_file():
        return is_label(path)
    files = walk(path)[0]
    # The image can be inside of the JSON file.
    return has_sidecar(path, files, is_label) or any(
        map(is_label, [file for file in files if file.suffix.lower() == ".json"][:1])
    )


def read_labelme(source: str, options: ReadOptions) -> list[Item]:
    """List the images of a folder that have a JSON file of LabelMe or X-AnyLabeling, by path.

    Polygons, circles and masks are objects; shapes of one label and one ``group_id`` are one object. An
    object's class is its label. The image is the file beside the JSON file, or ``imagePath``, or
    ``imageData``.

    Raises:
        UserError: no such folder, or no JSON file in it.
    """
    return read_sidecars(source, ".json", _cut, options, image_name=_image_name)


def _parse(path: Path) -> dict[str, Any]:
    return parse_json(path, ("shapes",), lambda entry: entry)


def _image_name(path: Path) -> str:
    return str(_parse(path).get("imagePath") or path.with_suffix(".jpg").name)


def _cut(pair: Pair) -> Iterator[CutOut | Rejected]:
    try:
        data = _parse(pair.label.path)
        embedded = base64.b64decode(data.get("imageData") or "") if not pair.path.is_file() else b""
    except (UserError, TypeError, binascii.Error) as error:
        raise Reject(f"unusable labels: {error}") from None
    height, width = data.get("imageHeight"), data.get("imageWidth")
    size_hw = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    image = AnnotatedImage(pair.name, pair.path, size_hw)
    groups: dict[object, list[tuple[int, dict[str, Any]]]] = {}
    for number, shape in enumerate(shape for shape in data["shapes"] if isinstance(shape, dict)):
        group = shape.get("group_id")
        groups.setdefault((group, shape.get("label")) if group is not None else number, []).append(
            (number, shape)
        )
    if not groups:
        raise Reject("no objects: the list of shapes is empty")
    objects = [_object(str(group[0][0]), [shape for _, shape in group]) for group in groups.values()]
    return cut_annotated(image, objects, data=embedded)


def _object(object_id: str, shapes: list[dict[str, Any]]) -> Annotated:
    """Return the object of one shape, or of the polygons of one group."""
    regions = [_region(shape) for shape in shapes]
    polygons = [region for region in regions if not isinstance(region, str | RunLengths | Bitmap)]
    region = tuple(ring for rings in polygons for ring in rings) or regions[0]
    return Annotated(object_id, str(shapes[0].get("label") or "object"), region)


def _region(shape: dict[str, Any]) -> Region:
    kind, points = shape.get("shape_type") or "polygon", shape.get("points") or []
    if kind == "polygon":
        return pack_region([points])
    try:
        if kind == "circle":
            (x, y), edge = points
            radius = math.dist((x, y), edge)
            angles = np.arange(CIRCLE_POINTS) * 2 * math.pi / CIRCLE_POINTS
            circle = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)
            return pack_region([circle.tolist()])
        if kind == "mask":
            with open_image(base64.b64decode(shape["mask"])) as image:
                mask = np.asarray(image.convert("L")) > 0
            (left, top), _ = points
            return Bitmap((round(top), round(left)), mask)
    except (TypeError, ValueError, KeyError, Reject) as error:
        return f"bad shape: {kind}: {error}"
    return f"not an outline: shape of type {kind}"


LABELME = Format("labelme", is_labelme, read_labelme)
