"""YouTube-VIS, OVIS and similar: instance masks of videos in one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smile_synth.core.errors import UserError
from smile_synth.objects._item import Format, Item, ReadOptions
from smile_synth.objects.readers._coco import (
    CocoAnnotation,
    document_items,
    find_json,
    identifier,
    is_true,
    json_files,
    parse_json,
)
from smile_synth.objects.readers._kinds import is_kind
from smile_synth.objects.readers._segments import pack_region

SECTIONS = ("videos", "annotations", "categories")


def is_youtube_vis(path: Path) -> bool:
    """Return whether this is a YouTube-VIS JSON file, or a folder that contains one."""
    return is_kind(path, "youtube-vis") if path.is_file() else bool(_files(path))


def read_youtube_vis(source: str, options: ReadOptions) -> list[Item]:
    """List the annotated frames of a YouTube-VIS JSON file, by video and frame.

    Frames are searched as images of COCO are, also in ``JPEGImages/`` and ``<split>/JPEGImages/``. An
    object's class is its category. The frames of a video count as one image.

    Raises:
        UserError: no such file, several files, not YouTube-VIS's structure, or no frame was found.
    """
    file = find_json(source, _files, ", ".join(SECTIONS))
    data = parse_json(file, SECTIONS, _pack_entry)
    images: list[dict[str, Any]] = []
    for number, video in enumerate(data["videos"]):
        if not isinstance(video, dict) or not isinstance(video.get("file_names"), list):
            raise UserError(f"{file}: videos[{number}] lacks 'file_names'")
        size = {key: video.get(key) for key in ("height", "width")}
        name = str(video.get("name") or Path(str([*video["file_names"], ""][0])).parent)
        for t, frame in enumerate(video["file_names"]):
            key = (identifier(video.get("id")), t)
            images.append({"id": key, "file_name": frame, "image_key": f"sequence {name}", **size})
    tracks = [track for track in data["annotations"] if isinstance(track, list)]
    annotations = [annotation for track in tracks for annotation in track]
    document = {"images": images, "annotations": annotations, "categories": data["categories"]}
    return document_items(source, file, document, options)


def _files(folder: Path) -> list[Path]:
    return [path for path in json_files(folder) if is_kind(path, "youtube-vis")]


def _pack_entry(entry: dict[str, Any]) -> dict[str, Any] | list[CocoAnnotation]:
    """Pack a track into one annotation per frame in which the object is visible."""
    if "video_id" not in entry or not isinstance(entry.get("segmentations"), list):
        return entry
    return [
        CocoAnnotation(
            annotation_id=entry.get("id"),
            image_id=(identifier(entry["video_id"]), t),
            category_id=identifier(entry.get("category_id")),
            crowd=is_true(entry.get("iscrowd")),
            region=pack_region(segmentation),
        )
        for t, segmentation in enumerate(entry["segmentations"])
        if segmentation
    ]


YOUTUBE_VIS = Format("youtube-vis", is_youtube_vis, read_youtube_vis)
