"""Name the kind of an annotation file by the keys in it, without parsing it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

PART_BYTES = 4 * 2**20


class Kind(NamedTuple):
    """A kind of annotation file.

    Attributes:
        name: for messages.
        keys: texts that all files of the kind contain.
        without: texts that no file of the kind contains.
        advice: how to use such a file.
        format: the format that reads it; empty if none does.
    """

    name: str
    keys: tuple[str, ...]
    without: tuple[str, ...] = ()
    advice: str = "export it as COCO json with polygons or masks"
    format: str = ""


# The first one that fits is the kind.
KINDS = (
    Kind(
        "YouTube-VIS json", ('"videos"', '"annotations"', '"categories"', '"segmentations"'),
        format="youtube-vis",
    ),
    Kind(
        "COCO panoptic json", ('"annotations"', '"segments_info"'), (),
        "convert it with panopticapi's panoptic2detection_coco_format",
    ),
    Kind(
        "COCO captions json", ('"images"', '"annotations"', '"caption"'), ('"segmentation"',),
        "it has no outlines; pass the file instances_*.json of the same images",
    ),
    Kind(
        "COCO keypoints json", ('"images"', '"annotations"', '"keypoints"'), ('"segmentation"',),
        "it has no outlines; pass the file instances_*.json of the same images",
    ),
    Kind("COCO json", ('"images"', '"annotations"', '"categories"'), format="coco"),
    Kind(
        "Segment Anything json", ('"image"', '"annotations"', '"segmentation"'), ('"images"',), format="sa1b"
    ),
    Kind("LabelMe json", ('"shapes"', '"imagePath"'), format="labelme"),
    Kind(
        "COCO results json", ('"image_id"', '"category_id"', '"score"'), ('"images"',),
        "it is a model's output; add its entries to the key 'annotations' of the annotation file",
    ),
    Kind("VGG Image Annotator json", ('"regions"', '"shape_attributes"')),
    Kind("Label Studio json", ('"from_name"', '"to_name"')),
    Kind("Supervisely json", ('"objects"', '"classTitle"')),
    Kind("Cityscapes json", ('"objects"', '"polygon"', '"imgHeight"')),
    Kind("BDD100K json", ('"labels"', '"poly2d"')),
    Kind("Labelbox json", ('"data_row"',)),
    Kind("CreateML json", ('"coordinates"', '"annotations"', '"image"')),
    Kind("Datumaro json", ('"items"', '"categories"', '"annotations"')),
    Kind("CVAT xml", ("<annotations", "<image ", "points=")),
    Kind("Pascal VOC xml", ("<annotation", "<object", "<bndbox"), (), "it has boxes only; masks are needed"),
)  # fmt: skip


def kind_of(path: Path) -> Kind | None:
    """Return the kind of an annotation file; only the start and the end of a large file are searched."""
    try:
        with path.open("rb") as file:
            text = file.read(PART_BYTES)
            size = path.stat().st_size
            file.seek(max(len(text), size - PART_BYTES))
            text += file.read()
    except OSError:
        return None
    return next(
        (
            kind
            for kind in KINDS
            if all(key.encode() in text for key in kind.keys)
            and not any(key.encode() in text for key in kind.without)
        ),
        None,
    )


def is_kind(path: Path, format: str) -> bool:
    """Return whether this is an annotation file that a format reads."""
    kind = kind_of(path)
    return kind is not None and kind.format == format


def describe(path: Path) -> str:
    """Return what kind of annotation file this is and how to use it; "" for an unknown kind."""
    kind = kind_of(path)
    if kind is None:
        return ""
    return f"it is {kind.name}: " + (f"pass format='{kind.format}'" if kind.format else kind.advice)
