"""Read datasets whose masks hold an object's number in every pixel: VOC and DAVIS."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from smile_synth.core.errors import UserError
from smile_synth.io.files import key_of, shown
from smile_synth.io.images import SUFFIXES, Reject, opened, read_bytes
from smile_synth.objects._item import CutOut, Item, ReadOptions, UInt8
from smile_synth.objects._mask_cut import VOID, Photo, aligned, corner_of, need_folders, read_mask, regions

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip


def is_voc(path: Path) -> bool:
    """Tell whether a folder has VOC's layout."""
    return (path / "JPEGImages").is_dir() and (path / "SegmentationObject").is_dir()


def is_davis(path: Path) -> bool:
    """Tell whether a folder has DAVIS's layout."""
    return not is_voc(path) and (path / "JPEGImages").is_dir() and bool(_resolutions(path))


def read_voc(source: str, options: ReadOptions) -> list[Item]:
    """List the images of a VOC folder that have an object mask, in order of their names.

    A mask ``SegmentationObject/<name>.png`` holds 0 for background, 255 for void and an object's number
    elsewhere. An object's class is what most of its pixels are in ``SegmentationClass/<name>.png`` (1..20
    are VOC's classes, a higher number n becomes ``class n``); without that file the name of the n-th
    object of ``Annotations/<name>.xml``; without either ``object``. A mask may differ from its image
    by two pixels a side.

    Raises:
        UserError: not such a folder, or without masks.
    """
    folder = need_folders(source, "JPEGImages", "SegmentationObject")
    masks = sorted(
        path for path in (folder / "SegmentationObject").iterdir() if path.suffix.lower() == ".png"
    )
    if not masks:
        raise UserError(f"object source '{source}': no .png in SegmentationObject/")
    return [_VocImage(shown(m.stem), _image(folder / "JPEGImages", m.stem), m) for m in masks]


def read_davis(source: str, options: ReadOptions) -> list[Item]:
    """List the frames of a DAVIS folder that have a mask, by sequence and frame.

    ``Annotations/<resolution>/<sequence>/<frame>.png`` belongs to the image of the same name below
    ``JPEGImages``. Of several resolutions the highest is taken that both folders have: a name without a
    number, such as ``Full-Resolution``, before ``1080p`` before ``480p``. In a mask 0 is background and
    255 void, unless 255 is its only number (DAVIS 2016). An object's class is its sequence, whose frames
    count as one image. A mask may differ from its frame by two pixels a side.

    Raises:
        UserError: not such a folder, or without masks.
    """
    folder = need_folders(source, "JPEGImages", "Annotations")
    resolutions = _resolutions(folder)
    if not resolutions:
        raise UserError(
            f"object source '{source}': no masks, expected Annotations/<resolution>/<sequence>/<frame>.png "
            "and the same names below JPEGImages/"
        )
    resolution = max(resolutions, key=_height)
    frames = folder / "JPEGImages" / resolution
    masks = sorted((folder / "Annotations" / resolution).glob("*/*.png"))
    return [
        _Frame(shown(f"{m.parent.name}/{m.stem}"), _image(frames / m.parent.name, m.stem), m) for m in masks
    ]


def _resolutions(folder: Path) -> list[str]:
    """Return the names below Annotations that hold masks and stand below JPEGImages, too."""
    return [
        path.name
        for path in sorted((folder / "Annotations").glob("*/"))
        if (folder / "JPEGImages" / path.name).is_dir() and next(path.glob("*/*.png"), None)
    ]


def _height(resolution: str) -> float:
    number = re.search(r"\d+", resolution)
    return int(number[0]) if number else float("inf")


def _image(folder: Path, stem: str) -> Path:
    names = [stem + suffix for lower in SUFFIXES for suffix in (lower, lower.upper())]
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


def _numbers(path: Path) -> UInt8:
    """Decode a mask to its numbers ``[H, W]``.

    Raises:
        Reject: as `opened` and `read_bytes`, saying that it is the mask, or not one of 8-bit numbers.
    """
    data = read_mask(path)
    try:
        with opened(data) as image:
            if image.mode not in ("P", "L", "1"):
                raise Reject(f"mode {image.mode}, expected a palette or 8-bit grey")
            return np.asarray(image).astype(np.uint8)
    except Reject as reason:
        raise Reject(f"unusable mask: {reason}") from None


@dataclass(frozen=True)
class _VocImage:
    source: str
    path: Path
    mask: Path

    def cut_outs(self) -> Iterator[CutOut]:
        numbers = _numbers(self.mask)
        classes = self._classes(numbers)
        data = read_bytes(self.path)
        rgb, numbers = aligned(data, np.where(numbers == VOID, 0, numbers))
        photo = Photo(self.source, key_of(data), rgb)
        if not numbers.any():
            raise Reject("empty mask: no pixel lies inside")
        for number, window, inside in regions(numbers):
            yield photo.cut(
                inside * np.uint8(255),
                corner_of(window),
                class_name=classes.get(number, "object"),
                object_id=str(number),
            )

    def _classes(self, numbers: UInt8) -> dict[int, str]:
        root, name = self.mask.parents[1], self.mask.stem
        by_pixel, by_order = root / "SegmentationClass" / f"{name}.png", root / "Annotations" / f"{name}.xml"
        if by_pixel.is_file():
            labels = _numbers(by_pixel)
            if labels.shape != numbers.shape:
                raise Reject(
                    f"size differs: the class mask has {labels.shape[0]}x{labels.shape[1]} pixels, "
                    f"the object mask {numbers.shape[0]}x{numbers.shape[1]}"
                )
            return dict(_majorities(numbers, labels))
        if by_order.is_file():
            try:
                objects = ElementTree.parse(by_order).getroot().findall("object")
            except (ElementTree.ParseError, OSError) as error:
                raise Reject(f"damaged XML: {by_order.name}: {error}") from None
            return {
                n: (thing.findtext("name") or "").strip() or "object" for n, thing in enumerate(objects, 1)
            }
        return {}


def _majorities(numbers: UInt8, labels: UInt8) -> Iterator[tuple[int, str]]:
    for number, window, inside in regions(numbers):
        votes = np.bincount(labels[window][inside], minlength=256)
        votes[[0, VOID]] = 0
        label = int(votes.argmax())
        if votes[label]:
            yield number, VOC_CLASSES[label - 1] if label <= len(VOC_CLASSES) else f"class {label}"


@dataclass(frozen=True)
class _Frame:
    source: str
    path: Path
    mask: Path

    def cut_outs(self) -> Iterator[CutOut]:
        numbers = _numbers(self.mask)
        if not np.isin(numbers, (0, VOID)).all():
            numbers = np.where(numbers == VOID, 0, numbers)
        rgb, numbers = aligned(read_bytes(self.path), numbers)
        if not numbers.any():
            raise Reject("empty mask: no pixel lies inside")
        sequence = self.source.rsplit("/", 1)[0]
        photo = Photo(self.source, f"sequence {sequence}", rgb)
        for number, window, inside in regions(numbers):
            alpha = inside * np.uint8(255)
            yield photo.cut(alpha, corner_of(window), class_name=sequence, object_id=str(number))
