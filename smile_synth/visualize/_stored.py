"""Labels of a clip as its corpus stores them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pycocotools import mask as coco_mask

from smile_synth.annotations import Annotation
from smile_synth.core.clip import Flow, Labels, Tracks
from smile_synth.core.errors import UserError

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]
# frames from the first to the second frame of a flow -> label kind that stores it
_FLOW_KINDS = {1: "flow", -1: "backward-flow"}


class StoredLabels:
    """Stored masks, boxes and visibility; flow and tracks from `annotate` if possible, else as stored.

    Nothing is computed by a rule of its own: where neither `annotate` nor a stored label kind gives flow or
    tracks, asking for them raises UserError.
    """

    def __init__(
        self,
        stored: dict[str, Any],
        *,
        exact: Annotation | None = None,
        kinds: Sequence[str] = (),
        read_kind: Callable[[str], dict[str, NDArray[Any]]] | None = None,
    ) -> None:
        """Take the content of a label file, see docs/labels.md.

        Args:
            stored: the label file.
            exact: labels from the clip's scene; None: the sources of the corpus are not known.
            kinds: label kinds that the corpus stores beside the label file.
            read_kind: returns the arrays of a label kind.
        """
        self._stored, self._exact, self._kinds, self._read_kind = stored, exact, tuple(kinds), read_kind

    @property
    def missing(self) -> tuple[str, ...]:
        """Which of "flow" and "tracks" cannot be shown."""
        return () if self._exact else tuple(name for name in ("flow", "tracks") if name not in self._kinds)

    @cached_property
    def labels(self) -> Labels:
        """Masks, boxes, visibility and depth of every labelled object, see `Labels`."""
        objects = self._stored["objects"]
        n, frames = len(objects), self._stored["num_frames"]
        height, width = self._stored["size_hw"]

        def masks(name: str) -> Bool:
            out = np.zeros((n, frames, height, width), bool)
            for i, item in enumerate(objects):
                out[i] = np.moveaxis(coco_mask.decode(item[name]).reshape(height, width, frames), -1, 0)
            return out

        def numbers(name: str, *trailing: int) -> Float:
            out = np.full((n, frames, *trailing), np.nan)
            for i, item in enumerate(objects):
                for t, value in enumerate(item[name]):
                    if value is not None:
                        out[i, t] = np.array(value, np.float64)  # null in a list becomes NaN
            return out

        amodal, modal = masks("amodal_rle"), masks("modal_rle")
        segmentation = np.zeros((frames, height, width), np.int16)
        occluded_by = np.zeros((n, n, frames), np.int64)
        for i in range(n):
            segmentation[modal[i]] = i + 1
            for j in range(n):
                if i != j:
                    occluded_by[i, j] = (amodal[i] & modal[j]).sum(axis=(1, 2))
        return Labels(
            class_names=tuple(item["class_name"] for item in objects),
            segmentation=segmentation,
            amodal_masks=amodal,
            modal_masks=modal,
            amodal_boxes_xyxy=numbers("amodal_boxes_xyxy", 4),
            modal_boxes_xyxy=numbers("modal_boxes_xyxy", 4),
            oriented_boxes_xy=numbers("oriented_boxes_xy", 4, 2),
            visibility=numbers("visibility"),
            in_frame=numbers("in_frame"),
            depth_order=np.array([item["depth_order"] for item in objects], np.int64).reshape(n, frames),
            occluded_by=occluded_by,
        )

    @property
    def segmentation(self) -> NDArray[np.int16]:
        """Owner of every pixel ``[T, H, W]``, see `Labels`."""
        return self.labels.segmentation

    def flow(self, t0: int, t1: int) -> Flow:
        """Return the flow from frame ``t0`` to frame ``t1``.

        Raises:
            UserError: neither the sources nor a stored flow of these frames.
            ValueError: a frame outside the clip.
        """
        if self._exact is not None:
            return self._exact.flow(t0, t1)
        arrays = self._arrays(_FLOW_KINDS.get(t1 - t0, "flow"))
        places = np.flatnonzero((arrays["frames"] == [t0, t1]).all(axis=1))
        if not len(places):
            raise ValueError(f"frames {t0} and {t1}: no flow is stored from the one to the other")
        return Flow(**{name: arrays[name][places[0]] for name in ("flow_xy", "valid", "occluded", "leaves")})

    def tracks(self, points_txy: ArrayLike) -> Tracks:
        """Return the tracks of points ``[P, 3]`` = (frame, x, y).

        Raises:
            UserError: neither the sources nor stored tracks.
            ValueError: without the sources, a point that is not a stored query point.
        """
        if self._exact is not None:
            return self._exact.tracks(points_txy)
        arrays = self._arrays("tracks")
        number = {tuple(query): k for k, query in enumerate(arrays["queries_txy"].tolist())}
        try:
            rows = [number[tuple(point)] for point in np.asarray(points_txy, np.float64).tolist()]
        except KeyError as error:
            raise ValueError(f"point {error.args[0]}: is not a stored query point") from None
        points_xy, layer = arrays["points_xy"].astype(np.float64), arrays["layer"].astype(np.int64)
        return Tracks(points_xy[rows], arrays["visible"][rows], layer[rows])

    def stored_queries(self) -> Float | None:
        """Return the stored query points ``[P, 3]`` = (frame, x, y); None: `annotate` tracks any point."""
        return None if self._exact else self._arrays("tracks")["queries_txy"]

    def _arrays(self, kind: str) -> dict[str, NDArray[Any]]:
        if kind not in self._kinds or self._read_kind is None:
            raise UserError(why_missing([kind]))
        return self._read_kind(kind)


def why_missing(names: Sequence[str]) -> str:
    """Return the reason why flow or tracks of a corpus cannot be shown, as one sentence."""
    return (
        f"{' and '.join(names)}: not stored in this corpus, and computed only with the sources (object bank "
        "and backgrounds) that it was made from"
    )
