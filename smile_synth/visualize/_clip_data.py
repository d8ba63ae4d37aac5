"""What a report page holds of one clip: a row for the grid, labels for the viewer, a video."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from smile_synth.core.clip import Annotator, Flow, Labels
from smile_synth.io.videos import encode_small_h264
from smile_synth.visualize._measure import ClipMeasure
from smile_synth.visualize._media import base64_text, fitted, resized
from smile_synth.visualize._overlay import clip_flows, owners_of, track_queries
from smile_synth.visualize._source import Sample
from smile_synth.visualize._stored import StoredLabels

NO_ROOM = "no room for its video"


class Encoding(NamedTuple):
    """How a clip is encoded: longest side in pixels, and x264's quality (larger is worse)."""

    longest_side: int
    crf: int

    def mask_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size of masks and video of a clip."""
        return fitted(size_hw, self.longest_side)

    def flow_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the flow fields of a clip: fewer points than pixels."""
        return fitted(size_hw, min(64, self.longest_side // 2))


@dataclass(frozen=True)
class ClipData:
    """One clip of a page.

    Attributes:
        row: plain data for the grid.
        labels: base64 text of the zlib-compressed JSON of the labels.
        video: base64 text of an mp4; "": none.
    """

    row: dict[str, Any]
    labels: str
    video: str


def clip_data(
    sample: Sample, measured: ClipMeasure, flows: Flows | None, encoding: Encoding, command: str
) -> ClipData:
    """Encode a clip for the page.

    Args:
        sample: the clip.
        measured: its measures.
        flows: of `sample_flows`.
        encoding: size and quality.
        command: command line that renders the clip again.
    """
    video = ""
    if sample.frames is not None:
        frames = resized(sample.frames, encoding.mask_hw(measured.size_hw))
        video = base64_text(encode_small_h264(frames, sample.fps, encoding.crf))
    visible = [v for item in measured.objects for v in item.visibility[np.isfinite(item.visibility)]]
    height, width = measured.size_hw
    row = {
        "index": measured.index,
        "classes": [item.class_name for item in measured.objects],
        "families": [item.family for item in measured.objects],
        "speed": _rounded(max((item.speed for item in measured.objects), default=None)),
        "size": _rounded(min((item.size for item in measured.objects), default=None)),
        "visibility": _rounded(float(np.mean(visible)) if visible else None),
        "labelled": measured.labelled,
        "video": bool(video),
        "why": "" if video else "no video: see the faults",
        "fps": sample.fps,
        "aspect": _rounded(width / height if height else 1.0),
        "faults": [[fault.kind, fault.text] for fault in measured.faults],
    }
    labels = {
        "num_frames": measured.num_frames,
        "size_hw": measured.size_hw,
        "mask_hw": encoding.mask_hw(measured.size_hw),
        "command": command,
        "factors": measured.factors,
        "background_factors": {} if sample.scene is None else sample.scene.layers[0].factors,
        **_label_data(sample, flows, encoding, measured.size_hw),
    }
    return ClipData(row, base64_text(zlib.compress(compact_json(labels).encode(), 9)), video)


def compact_json(value: Any) -> str:
    """Return JSON without spaces; arrays become lists, NaN becomes null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()


Flows = tuple[list[Flow], float]


def sample_flows(sample: Sample) -> Flows | None:
    """Return the flow to the next frame and the length of the longest vector; None: not known."""
    annotation = sample.annotation
    if annotation is None or (isinstance(annotation, StoredLabels) and "flow" in annotation.missing):
        return None
    return clip_flows(annotation, len(annotation.segmentation))


def _label_data(
    sample: Sample, flows: Flows | None, encoding: Encoding, size_hw: tuple[int, int]
) -> dict[str, Any]:
    annotation, labels = sample.annotation, sample.labels
    if annotation is None or labels is None:
        return {"objects": [], "flow": None, "tracks": None}
    has_tracks = not (isinstance(annotation, StoredLabels) and "tracks" in annotation.missing)
    return {
        "objects": [
            _object_data(labels, i, {**factors}, encoding.mask_hw(size_hw))
            for i, factors in enumerate(sample.object_factors)
        ],
        "flow": flows and _flow_data(*flows, encoding.flow_hw(size_hw)),
        "tracks": _track_data(annotation) if has_tracks else None,
    }


def _object_data(labels: Labels, i: int, factors: dict[str, Any], mask_hw: tuple[int, int]) -> dict[str, Any]:
    modal, amodal = (_run_lengths(masks[i], mask_hw) for masks in (labels.modal_masks, labels.amodal_masks))
    return {
        "class_name": labels.class_names[i],
        "factors": factors,
        "visibility": [_rounded(v, 4) for v in labels.visibility[i]],
        "depth_order": labels.depth_order[i].tolist(),
        "boxes": _boxes(labels.modal_boxes_xyxy[i]),
        "amodal_boxes": _boxes(labels.amodal_boxes_xyxy[i]),
        "modal": modal,
        "amodal": ["" if a == m else a for a, m in zip(amodal, modal, strict=True)],
    }


def _boxes(boxes_xyxy: NDArray[np.float64]) -> list[list[float] | None]:
    return [[round(v, 3) for v in box] if np.isfinite(box).all() else None for box in boxes_xyxy.tolist()]


def _run_lengths(masks: NDArray[np.bool_], size_hw: tuple[int, int]) -> list[str]:
    """Return COCO run lengths of masks ``[T, H, W]``, sampled at the centres of a smaller grid."""
    y, x = _centers(masks.shape[1:], size_hw)
    small = masks[:, y][:, :, x].transpose(1, 2, 0)
    return [rle["counts"].decode() for rle in coco_mask.encode(np.asfortranarray(small.astype(np.uint8)))]


def _centers(size_hw: Sequence[int], grid_hw: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return the rows and the columns of the pixels under the centres of a smaller grid."""
    return [
        ((np.arange(n) + 0.5) * size / n).astype(np.int64) for size, n in zip(size_hw, grid_hw, strict=True)
    ]


def _flow_data(flows: Sequence[Flow], largest: float, grid_hw: tuple[int, int]) -> dict[str, Any]:
    """Return the flow, sampled on a grid, in 1/127 of the longest vector; -128: invalid."""
    fields = []
    for flow in flows:
        rows, columns = _centers(flow.valid.shape, grid_hw)
        vectors = np.rint(127 / largest * flow.flow_xy[rows][:, columns])
        vectors[~flow.valid[rows][:, columns]] = -128
        fields.append(vectors.astype(np.int8).ravel())
    return {"size_hw": grid_hw, "largest": largest, "fields": fields}


def _track_data(annotation: Annotator) -> list[list[Any]]:
    """Return (object, [(x, y, visible) of every frame]) of some points on every object."""
    queries = track_queries(annotation)
    if not len(queries):
        return []
    tracks, owners = annotation.tracks(queries), owners_of(annotation, queries)
    return [
        [
            int(owner),
            [
                [_rounded(x, 1), _rounded(y, 1), bool(seen)]
                for (x, y), seen in zip(points, visible, strict=True)
            ],
        ]
        for owner, points, visible in zip(owners, tracks.points_xy, tracks.visible, strict=True)
    ]


def _rounded(value: float | None, digits: int = 3) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), digits)
