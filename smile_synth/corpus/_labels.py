"""Label kinds as files: the objects' json that every clip has, and what can be added to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from smile_synth.annotations import Annotation, query_points
from smile_synth.clip import Labels
from smile_synth.corpus._media import npz_bytes
from smile_synth.corpus._rle import run_lengths
from smile_synth.errors import UserError, nearest
from smile_synth.rng import generator
from smile_synth.scene import Scene

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


def labels_to_json(scene: Scene, labels: Labels) -> dict[str, Any]:
    """Return the labels of a clip as plain data; masks are COCO run lengths, NaN becomes null.

    Every clip has the same keys and types, which readers that infer a schema from the first ones want:
    factors, whose names differ from family to family, are JSON text.
    """
    labelled = [layer for layer in scene.layers if layer.labelled]
    return {
        "index": scene.index,
        "scene_digest": scene.digest,
        "num_frames": scene.num_frames,
        "size_hw": list(scene.size_hw),
        "factors": json.dumps(scene.factors, sort_keys=True),
        "objects": [
            {
                "id": i + 1,
                "class_name": labels.class_names[i],
                "family": str(layer.factors.get("family", "")),
                "factors": json.dumps(layer.factors, sort_keys=True),
                "visibility": _plain(labels.visibility[i]),
                "in_frame": _plain(labels.in_frame[i]),
                "depth_order": labels.depth_order[i].tolist(),
                "occluded_by": labels.occluded_by[i].tolist(),
                "modal_boxes_xyxy": _plain(labels.modal_boxes_xyxy[i]),
                "amodal_boxes_xyxy": _plain(labels.amodal_boxes_xyxy[i]),
                "oriented_boxes_xy": _plain(labels.oriented_boxes_xy[i]),
                "modal_rle": run_lengths(labels.modal_masks[i], labels.modal_boxes_xyxy[i]),
                "amodal_rle": run_lengths(labels.amodal_masks[i], labels.amodal_boxes_xyxy[i]),
            }
            for i, layer in enumerate(labelled)
        ],
    }


def labels_bytes(scene: Scene, labels: Labels) -> bytes:
    """Return the content of a clip's label file."""
    return (json.dumps(labels_to_json(scene, labels), sort_keys=True) + "\n").encode()


def _plain(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[Any]:
    """Return nested lists with None for NaN and four decimals, beyond which areas carry nothing."""
    rounded = np.round(values, 4).astype(object)
    rounded[np.isnan(values)] = None
    return list(rounded.tolist())
