"""Label kinds as files: the objects' json that every clip has, and what can be added to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from smile_synth.annotations import Annotation, query_points
from smile_synth.corpus._media import npz_bytes
from smile_synth.errors import UserError, nearest
from smile_synth.rng import generator

# Query points of the stored tracks, of each kind.
POINTS = 64


def _segmentation(annotation: Annotation) -> bytes:
    return npz_bytes(segmentation=annotation.segmentation)


def _tracks(annotation: Annotation) -> bytes:
    scene = annotation.scene
    rng = generator(scene.seed, scene.index, "query points")
    queries = np.concatenate(
        [query_points(annotation, kind, count=POINTS, rng=rng) for kind in ("grid", "objects", "edges")]
    )
    tracks = annotation.tracks(queries)
    return npz_bytes(
        queries_txy=queries,
        points_xy=tracks.points_xy.astype(np.float32),
        visible=tracks.visible,
        layer=tracks.layer.astype(np.int32),
    )


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
    scene, labels = annotation.scene, annotation.geometry
    labelled = [layer for layer in scene.layers if layer.labelled]
    columns = zip(
        labels.class_names, labelled, _plain(labels.visibility), _plain(labels.in_frame),
        labels.depth_order.tolist(), labels.occluded_by.tolist(), _plain(labels.modal_boxes_xyxy),
        _plain(labels.amodal_boxes_xyxy), _plain(labels.oriented_boxes_xy), annotation.modal_runs.coco(),
        annotation.amodal_runs.coco(), strict=True,
    )  # fmt: skip
    return {
        "index": scene.index,
        "scene_digest": scene.digest,
        "num_frames": scene.num_frames,
        "size_hw": list(scene.size_hw),
        "factors": json.dumps(scene.factors, sort_keys=True),
        "objects": [
            {
                "id": number,
                "class_name": class_name,
                "family": str(layer.factors.get("family", "")),
                "factors": json.dumps(layer.factors, sort_keys=True),
                "visibility": visibility,
                "in_frame": in_frame,
                "depth_order": depth_order,
                "occluded_by": occluded_by,
                "modal_boxes_xyxy": modal_boxes,
                "amodal_boxes_xyxy": amodal_boxes,
                "oriented_boxes_xy": oriented_boxes,
                "modal_rle": modal_rle,
                "amodal_rle": amodal_rle,
            }
            for number, (
                class_name, layer, visibility, in_frame, depth_order, occluded_by, modal_boxes, amodal_boxes,
                oriented_boxes, modal_rle, amodal_rle,
            ) in enumerate(columns, 1)
        ],
    }  # fmt: skip


def labels_bytes(labels: dict[str, Any]) -> bytes:
    """Return plain labels as the content of a clip's label file."""
    return (json.dumps(labels, sort_keys=True) + "\n").encode()


def _plain(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[Any]:
    """Return nested lists with None for NaN and four decimals, beyond which areas carry nothing."""
    rounded = np.round(values, 4)
    missing = np.isnan(values)
    if missing.any():
        rounded = rounded.astype(object)
        rounded[missing] = None
    return list(rounded.tolist())
