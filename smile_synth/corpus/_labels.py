"""Label kinds as files: the objects' json that every clip has, and what can be added to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from smile_synth.annotations import Annotation, query_points
from smile_synth.core.errors import UserError, nearest
from smile_synth.core.rng import RandomStream
from smile_synth.corpus._decimals import decimals
from smile_synth.corpus._media import npz_bytes
from smile_synth.scene import Factor, Layer

# Query points of the stored tracks, of each kind.
POINTS = 64


def _segmentation(annotation: Annotation) -> bytes:
    return npz_bytes(segmentation=annotation.segmentation)


def _tracks(annotation: Annotation) -> bytes:
    return npz_bytes(**track_arrays(annotation))


def track_arrays(annotation: Annotation) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of the stored tracks, see docs/labels.md."""
    scene = annotation.scene
    rng = RandomStream(scene.seed, scene.index, "query points")
    queries = np.concatenate(
        [query_points(annotation, kind, count=POINTS, rng=rng) for kind in ("grid", "objects", "edges")]
    )
    tracks = annotation.tracks(queries)
    return {
        "queries_txy": queries,
        "points_xy": tracks.points_xy.astype(np.float32),
        "visible": tracks.visible,
        "layer": tracks.layer.astype(np.int32),
    }


def _flow(step: int) -> Callable[[Annotation], bytes]:
    def encode(annotation: Annotation) -> bytes:
        frames = annotation.scene.num_frames
        pairs = [(t, t + step) for t in range(frames) if 0 <= t + step < frames]
        height, width = annotation.scene.size_hw
        arrays: dict[str, Any] = {
            "frames": np.array(pairs, np.int32).reshape(-1, 2),
            "flow_xy": np.zeros((len(pairs), height, width, 2), np.float32),
            **{name: np.zeros((len(pairs), height, width), bool) for name in ("valid", "occluded", "leaves")},
        }
        for place, pair in enumerate(pairs):
            flow = annotation.flow(*pair)
            for name in ("flow_xy", "valid", "occluded", "leaves"):
                arrays[name][place] = getattr(flow, name)
        return npz_bytes(**arrays)

    return encode


# name of the kind = its folder -> content of its .npz
KINDS: dict[str, Callable[[Annotation], bytes]] = {
    "segmentation": _segmentation,
    "tracks": _tracks,
    "flow": _flow(1),
    "backward-flow": _flow(-1),
}


def check_kinds(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return label kinds in the order of `KINDS`, each once.

    Raises:
        UserError: an unknown kind.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"labels '{kind}': allowed are {', '.join(KINDS)}{nearest(kind, KINDS)}")
    return tuple(kind for kind in KINDS if kind in kinds)


def labels_to_json(annotation: Annotation) -> dict[str, Any]:
    """Return the labels of a clip as plain data; masks are COCO run lengths, NaN becomes null.

    Every clip has the same keys and types, which readers that infer a schema from the first ones want:
    factors, whose names differ from family to family, are JSON text.
    """
    labels: dict[str, Any] = json.loads(labels_bytes(annotation, annotation.scene.digest))
    return labels


def labels_bytes(annotation: Annotation, scene_digest: str) -> bytes:
    """Return the content of a clip's label file: `labels_to_json` with its keys in order."""
    scene, labels = annotation.scene, annotation.geometry
    labelled = [layer for layer in scene.layers if layer.labelled]
    modal, amodal = (_rle(counts, scene.size_hw, scene.num_frames) for counts in annotation.coco())
    columns = {
        "amodal_boxes_xyxy": decimals(labels.amodal_boxes_xyxy),
        "amodal_rle": amodal,
        "class_name": map(json.dumps, labels.class_names),
        "depth_order": map(str, labels.depth_order.tolist()),
        "factors": (json.dumps(_text(layer.factors)) for layer in labelled),
        "family": (json.dumps(_family(layer)) for layer in labelled),
        "id": map(str, range(1, len(labelled) + 1)),
        "in_frame": decimals(labels.in_frame),
        "modal_boxes_xyxy": decimals(labels.modal_boxes_xyxy),
        "modal_rle": modal,
        "occluded_by": map(str, labels.occluded_by.tolist()),
        "oriented_boxes_xy": decimals(labels.oriented_boxes_xy),
        "visibility": decimals(labels.visibility),
    }
    objects = [
        ", ".join(f'"{key}": {value}' for key, value in zip(columns, values, strict=True))
        for values in zip(*columns.values(), strict=True)
    ]
    text = (
        f'{{"factors": {json.dumps(_text(scene.factors))}, "index": {scene.index}, '
        f'"num_frames": {scene.num_frames}, "objects": [{", ".join(f"{{{item}}}" for item in objects)}], '
        f'"scene_digest": "{scene_digest}", "size_hw": {list(scene.size_hw)}}}\n'
    )
    return text.encode()


def listed_labels(annotation: Annotation, scene_digest: str) -> dict[str, Any]:
    """Return those of `labels_to_json` that the manifest lists."""
    scene, labels = annotation.scene, annotation.geometry
    return {
        "index": scene.index,
        "scene_digest": scene_digest,
        "factors": _text(scene.factors),
        "objects": [
            {
                "class_name": layer.class_name,
                "family": _family(layer),
                "factors": _text(layer.factors),
                "visibility": json.loads(visibility),
            }
            for layer, visibility in zip(
                (layer for layer in scene.layers if layer.labelled), decimals(labels.visibility), strict=True
            )
        ],
    }


def _text(factors: dict[str, Factor]) -> str:
    return json.dumps(factors, sort_keys=True)


def _family(layer: Layer) -> str:
    """Return the motion family that a layer's factors name, "" if they name none."""
    return str(layer.factors.get("family", ""))


def _rle(counts: list[str], size_hw: tuple[int, int], num_frames: int) -> list[str]:
    """Return COCO's run lengths of the masks ``[N, T]`` as JSON, one text for each object."""
    size = list(size_hw)
    masks = [f'{{"counts": "{text}", "size": {size}}}' for text in counts]
    masks = [text.replace("\\", "\\\\") for text in masks]
    return [f"[{', '.join(masks[i : i + num_frames])}]" for i in range(0, len(masks), num_frames)]
