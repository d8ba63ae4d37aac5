"""COCO instances, with the keys of COCO-VID."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smile_synth.exporters._base import (
    ExportedClip,
    Exporter,
    ExportSource,
    Values,
    box_xywh,
    coco_instance,
    write_frames,
    write_json,
)


def _write_clip(clip: ExportedClip, out: Path) -> Values:
    names = write_frames(clip, out / "images" / clip.name, "{:05d}.png")
    frames = []
    for t in range(clip.source.num_frames):
        instances = [_instance(clip, number, item, t) for number, item in enumerate(clip.objects, 1)]
        frames.append([instance for instance in instances if instance])
    return {"name": clip.name, "files": [f"{clip.name}/{name}" for name in names], "frames": frames}


def _instance(clip: ExportedClip, number: int, item: Values, t: int) -> Values | None:
    visible = coco_instance(item, t)
    return visible and {
        "instance_id": number,
        "category_id": clip.source.category_ids[item["class_name"]],
        "iscrowd": 0,
        "visibility": item["visibility"][t],
        "amodal_bbox": box_xywh(item["amodal_boxes_xyxy"][t]),
        **visible,
    }


def _finish(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    height, width = source.size_hw
    size = {"width": width, "height": height}
    images: list[Values] = []
    annotations: list[Values] = []
    videos: list[Values] = []
    for video_id, record in enumerate(records, 1):
        videos.append({"id": video_id, "name": record["name"], **size})
        for t, (file, instances) in enumerate(zip(record["files"], record["frames"], strict=True)):
            image_id = len(images) + 1
            images.append({"id": image_id, "file_name": file, "video_id": video_id, "frame_id": t, **size})
            place = {"image_id": image_id, "video_id": video_id}
            first = len(annotations) + 1
            annotations += [{"id": i, **place, **item} for i, item in enumerate(instances, first)]
    document = {"videos": videos, "images": images, "annotations": annotations}
    write_json(out / "annotations" / "instances.json", {**document, "categories": source.coco_categories})


COCO = Exporter("coco", _write_clip, _finish)
