"""YouTube-VIS: instances as lists over the frames of a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smile_synth.exporters._base import (
    ExportedClip,
    Exporter,
    ExportSource,
    Values,
    coco_instance,
    write_frames,
    write_json,
)


def _write_clip(clip: ExportedClip, out: Path) -> Values:
    names = write_frames(clip, out / "JPEGImages" / clip.name, "{:05d}.jpg")
    instances = [_instance(clip, item) for item in clip.objects]
    return {
        "files": [f"{clip.name}/{name}" for name in names],
        "instances": [instance for instance in instances if any(instance["areas"])],
    }


def _instance(clip: ExportedClip, item: Values) -> Values:
    frames = [coco_instance(item, t) for t in range(clip.source.num_frames)]
    return {
        "iscrowd": 0,
        "category_id": clip.source.category_ids[item["class_name"]],
        "segmentations": [frame and frame["segmentation"] for frame in frames],
        "bboxes": [frame and frame["bbox"] for frame in frames],
        "areas": [frame and frame["area"] for frame in frames],
    }


def _finish(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    height, width = source.size_hw
    shape = {"width": width, "height": height, "length": source.num_frames}
    videos: list[Values] = []
    annotations: list[Values] = []
    for video_id, record in enumerate(records, 1):
        videos.append({"id": video_id, "file_names": record["files"], **shape})
        for instance in record["instances"]:
            annotations.append({"id": len(annotations) + 1, "video_id": video_id, **instance, **shape})
    document = {"videos": videos, "annotations": annotations, "categories": source.coco_categories}
    write_json(out / "instances.json", document)


YOUTUBE_VIS = Exporter("youtube-vis", _write_clip, _finish)
