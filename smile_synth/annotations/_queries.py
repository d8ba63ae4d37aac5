"""Query points for tracks: where to begin, in which frame."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations._annotation import Annotation
from smile_synth.annotations._kernels import count_candidates, find_candidates
from smile_synth.core.rng import RandomStream

Float = NDArray[np.float64]
QUERY_KINDS = ("grid", "objects", "edges")


def query_points(annotation: Annotation, kind: str, *, count: int, rng: RandomStream) -> Float:
    """Choose query points ``[P, 3]`` = (frame, x, y) for `Annotation.tracks`.

    ``grid``: about ``count`` points of frame 0 in even rows and columns, each in the middle of its cell;
    nothing is drawn. ``objects``: ``count`` points drawn evenly from all pixels of all frames that a
    labelled object owns. ``edges``: the same from those of them that have a neighbour above, below, left or
    right of another owner. Drawn points lie anywhere in their pixel, so that what owns the point itself may
    be another layer than the pixel's. Where there is no such pixel there are no points.

    Raises:
        ValueError: unknown kind, or count below 1.

    Example:
        >>> from smile_synth.core.rng import RandomStream
        >>> annotation = annotate(sample_scene(recipe, sources, seed=0, index=7), sources)
        >>> points = query_points(annotation, "objects", count=5, rng=RandomStream(0, 7, "points"))
        >>> annotation.tracks(points).points_xy.shape  # [P, T, 2]
        (5, 3, 2)
    """
    if kind not in QUERY_KINDS or count < 1:
        raise ValueError(
            f"expected a kind of {', '.join(QUERY_KINDS)} and a count from 1, got {kind}, {count}"
        )
    if kind == "grid":
        return _grid(*annotation.scene.size_hw, count).copy()
    owners, edges = annotation.segmentation, kind == "edges"
    in_row = np.zeros(owners.shape[:2], np.int64)
    modal = annotation.modal_runs
    count_candidates(modal.runs, modal.rows, modal.width, edges, in_row)
    total = int(in_row.sum())
    found = np.empty((count if total else 0, 3))
    if total:
        find_candidates(owners, edges, in_row, rng.integers(total, count), found)
        found[:, 1] += rng.randoms(count)
        found[:, 2] += rng.randoms(count)
    return found


@lru_cache(maxsize=16)
def _grid(height: int, width: int, count: int) -> Float:
    columns = max(1, round(np.sqrt(count * width / height)))
    rows = max(1, round(count / columns))
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows)
    return np.stack([np.zeros(x.size), x.ravel(), y.ravel()], axis=1)
