"""Cut the annotated objects of one image out: shared by all formats of polygons and run lengths."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smile_synth.io.images import Reject, read_bytes
from smile_synth.objects._item import CutOut, Rejected
from smile_synth.objects.readers._masks import HALF, Photo
from smile_synth.objects.readers._segments import Bitmap, Region, RunLengths, Shape, region_shape


class Annotated(NamedTuple):
    """An annotated object: its id in the image, its class, its region, and why it is not used (or "")."""

    object_id: str
    class_name: str
    region: Region
    problem: str = ""


class AnnotatedImage(NamedTuple):
    """An image and its annotations.

    Attributes:
        name: inside its source.
        path: the file.
        size_hw: the size that the annotations state.
        licence: of the image.
        key: image key; empty: the hash of the file.
    """

    name: str
    path: Path
    size_hw: tuple[int, int] | None = None
    licence: str = ""
    key: str = ""


def cut_annotated(
    image: AnnotatedImage, annotations: Sequence[Annotated], *, data: bytes = b"", shares: bool = False
) -> Iterator[CutOut | Rejected]:
    """Cut annotated objects out, the smallest first.

    ``covered`` assumes that the object with the smaller area is in front.

    Args:
        image: the image.
        annotations: its objects.
        data: the image file's content; empty: read the file.
        shares: polygons are in shares 0..1 of the image's width and height, not in pixels.

    Raises:
        Reject: the image cannot be used.
    """
    photo = Photo.decode(image.name, data or read_bytes(image.path), image.size_hw, image.licence, image.key)
    height, width = photo.rgb.shape[:2]
    shapes: dict[str, tuple[Shape, str]] = {}
    for number, annotation in enumerate(annotations):
        object_id = annotation.object_id or f"nr{number}"
        try:
            if object_id in shapes:
                raise Reject(f"listed twice: another annotation of the image has id {object_id}")
            if annotation.problem:
                raise Reject(annotation.problem)
            region = _scaled(annotation.region, height, width) if shares else annotation.region
            shapes[object_id] = region_shape(region, height, width), annotation.class_name
        except Reject as reason:
            yield Rejected(f"{image.name}#{object_id}", str(reason))
    claimed = np.zeros((height, width), np.bool_)
    for object_id, (shape, name) in sorted(shapes.items(), key=lambda entry: entry[1][0].area):
        (top, left), alpha = shape.draw()
        inside = alpha >= HALF
        window = claimed[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        covered = int((window & inside).sum()) / max(1, int(inside.sum()))
        window |= inside
        try:
            yield photo.cut(alpha, (top, left), class_name=name, object_id=object_id, covered=covered)
        except Reject as reason:
            yield Rejected(f"{image.name}#{object_id}", str(reason))


def _scaled(region: Region, height: int, width: int) -> Region:
    if isinstance(region, str | RunLengths | Bitmap):
        return region
    size = (width, height)
    return tuple(array("f", [value * size[n % 2] for n, value in enumerate(ring)]) for ring in region)
