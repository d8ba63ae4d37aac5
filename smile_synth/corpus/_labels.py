"""Label kinds as files: the object labels of every clip as JSON, and optional kinds as .npz."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from smile_synth.annotations import Annotation, query_points
from smile_synth.core.errors import check_name
from smile_synth.core.rng import RandomStream
from smile_synth.corpus._media import npz_bytes
from smile_synth.scene import Factor

# Query points of each kind in the stored tracks.
NUM_POINTS = 64
_POINT_KINDS = ("grid", "objects", "edges")
_DECIMALS = 4  # of boxes and shares; digits after these carry no information about areas


def labels_bytes(annotation: Annotation) -> bytes:
    """Return the content of a clip's label file as JSON; NaN becomes null, masks are COCO run lengths.

    All clips have the same keys and types, because readers of datasets infer a schema from the first clips.
    Factors have different names in different families and are therefore JSON text.
    """
    scene, labels = annotation.scene, annotation.geometry
    modal, amodal = annotation.coco()
    frames = scene.num_frames
    layers = [layer for layer in scene.layers if layer.labelled]
    objects = [
        {
            "id": i + 1,
            "class_name": labels.class_names[i],
            "family": str(layer.factors.get("family", "")),
            "factors": _json_text(layer.factors),
            "modal_boxes_xyxy": _rounded(labels.modal_boxes_xyxy[i]),
            "amodal_boxes_xyxy": _rounded(labels.amodal_boxes_xyxy[i]),
            "oriented_boxes_xy": _rounded(labels.oriented_boxes_xy[i]),
            "visibility": _rounded(labels.visibility[i]),
            "in_frame": _rounded(labels.in_frame[i]),
            "depth_order": labels.depth_order[i].tolist(),
            "occluded_by": labels.occluded_by[i].tolist(),
            "modal_rle": _run_lengths(modal[i * frames : (i + 1) * frames], scene.size_hw),
            "amodal_rle": _run_lengths(amodal[i * frames : (i + 1) * frames], scene.size_hw),
        }
        for i, layer in enumerate(layers)
    ]
    content = {
        "index": scene.index,
        "scene_digest": scene.digest,
        "num_frames": frames,
        "size_hw": scene.size_hw,
        "factors": _json_text(scene.factors),
        "objects": objects,
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ascontiguousarray(np.round(values, _DECIMALS))


def _run_lengths(counts: Sequence[str], size_hw: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"counts": text, "size": size_hw} for text in counts]


def _json_text(factors: dict[str, Factor]) -> str:
    return orjson.dumps(factors, option=orjson.OPT_SORT_KEYS).decode()


# --- kinds that are stored as .npz


def track_arrays(annotation: Annotation) -> dict[str, NDArray[Any]]:
    """Return the arrays of the stored tracks, see docs/labels.md."""
    scene = annotation.scene
    rng = RandomStream(scene.seed, scene.index, "query points")
    queries = np.concatenate(
        [query_points(annotation, kind, count=NUM_POINTS, rng=rng) for kind in _POINT_KINDS]
    )
    tracks = annotation.tracks(queries)
    return {
        "queries_txy": queries,
        "points_xy": tracks.points_xy.astype(np.float32),
        "visible": tracks.visible,
        "layer": tracks.layer.astype(np.int32),
    }


def _flow_arrays(annotation: Annotation, step: int) -> dict[str, NDArray[Any]]:
    """Return the flow from every frame t to frame t + ``step``, where there is one."""
    num_frames, (height, width) = annotation.scene.num_frames, annotation.scene.size_hw
    pairs = [(t, t + step) for t in range(num_frames) if 0 <= t + step < num_frames]
    arrays: dict[str, NDArray[Any]] = {
        "frames": np.array(pairs, np.int32).reshape(-1, 2),
        "flow_xy": np.zeros((len(pairs), height, width, 2), np.float32),
        **{name: np.zeros((len(pairs), height, width), bool) for name in ("valid", "occluded", "leaves")},
    }
    for row, pair in enumerate(pairs):
        flow = annotation.flow(*pair)
        for name in ("flow_xy", "valid", "occluded", "leaves"):
            arrays[name][row] = getattr(flow, name)
    return arrays


# Name of the kind, which is also its folder -> content of its .npz file.
KINDS: dict[str, Callable[[Annotation], bytes]] = {
    "segmentation": lambda annotation: npz_bytes(segmentation=annotation.segmentation),
    "tracks": lambda annotation: npz_bytes(**track_arrays(annotation)),
    "flow": lambda annotation: npz_bytes(**_flow_arrays(annotation, 1)),
    "backward-flow": lambda annotation: npz_bytes(**_flow_arrays(annotation, -1)),
}


def check_kinds(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return label kinds in the order of `KINDS`, each once.

    Raises:
        UserError: an unknown kind.
    """
    for kind in kinds:
        check_name("labels", kind, KINDS)
    return tuple(kind for kind in KINDS if kind in kinds)
