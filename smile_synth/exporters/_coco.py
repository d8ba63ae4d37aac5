"""COCO instances with COCO-VID's keys, and YouTube-VIS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from smile_synth.exporters._base import (
    ExportedClip,
    Exporter,
    ExportSource,
    Values,
    box_xywh,
    write,
    write_frames,
)


def _categories(source: ExportSource) -> list[Values]:
    return [{"id": i, "name": name, "supercategory": "object"} for name, i in source.categories.items()]


def _visible(item: Values, t: int) -> Values | None:
    """Return mask, area and box of what is seen of an object in a frame; None where nothing is."""
    box = item["modal_boxes_xyxy"][t]
    if box[0] is None:
        return None
    mask = item["modal_rle"][t]
    return {"segmentation": mask, "area": int(coco_mask.area(mask)), "bbox": box_xywh(box)}


def _record(clip: ExportedClip, out: Path) -> Values:
    names = write_frames(clip, out / "images" / clip.name, "{:05d}.png")
    kept = ("class_name", "modal_boxes_xyxy", "modal_rle", "amodal_boxes_xyxy", "visibility")
    return {
        "name": clip.name,
        "files": [f"{clip.name}/{name}" for name in names],
        "objects": [{key: item[key] for key in kept} for item in clip.objects],
    }


def _coco(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    height, width = source.corpus.header.size_hw
    size = {"width": width, "height": height}
    images: list[Values] = []
    annotations: list[Values] = []
    videos: list[Values] = []
    for video_id, record in enumerate(records, 1):
        videos.append({"id": video_id, "name": record["name"], **size})
        for t, file in enumerate(record["files"]):
            image_id = len(images) + 1
            images.append({"id": image_id, "file_name": file, "video_id": video_id, "frame_id": t, **size})
            for number, item in enumerate(record["objects"], 1):
                seen = _visible(item, t)
                if seen:
                    annotations.append(
                        {
                            "id": len(annotations) + 1, "image_id": image_id, "video_id": video_id,
                            "instance_id": number, "category_id": source.categories[item["class_name"]],
                            "iscrowd": 0, "visibility": item["visibility"][t],
                            "amodal_bbox": box_xywh(item["amodal_boxes_xyxy"][t]), **seen,
                        }
                    )  # fmt: skip
    document = {
        "info": {"description": "synthetic clips"}, "licenses": [], "videos": videos, "images": images,
        "annotations": annotations, "categories": _categories(source),
    }  # fmt: skip
    write(out / "annotations" / "instances.json", json.dumps(document).encode())


def _youtube_vis(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    height, width = source.corpus.header.size_hw
    shape = {"width": width, "height": height, "length": source.num_frames}
    videos: list[Values] = []
    annotations: list[Values] = []
    for video_id, record in enumerate(records, 1):
        videos.append({"id": video_id, "file_names": record["files"], **shape})
        for item in record["objects"]:
            seen = [_visible(item, t) for t in range(source.num_frames)]
            if not any(seen):
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1, "video_id": video_id, "iscrowd": 0,
                    "category_id": source.categories[item["class_name"]],
                    "segmentations": [s and s["segmentation"] for s in seen],
                    "bboxes": [s and s["bbox"] for s in seen],
                    "areas": [s and s["area"] for s in seen], **shape,
                }
            )  # fmt: skip
    document = {
        "info": {"description": "synthetic clips"}, "licenses": [], "videos": videos,
        "annotations": annotations, "categories": _categories(source),
    }  # fmt: skip
    write(out / "instances.json", json.dumps(document).encode())


def _youtube_record(clip: ExportedClip, out: Path) -> Values:
    names = write_frames(clip, out / "JPEGImages" / clip.name, "{:05d}.jpg")
    return {
        "files": [f"{clip.name}/{name}" for name in names],
        "objects": [
            {key: item[key] for key in ("class_name", "modal_boxes_xyxy", "modal_rle")}
            for item in clip.objects
        ],
    }


COCO = Exporter(_record, _coco)
YOUTUBE_VIS = Exporter(_youtube_record, _youtube_vis)
