"""Query points for tracks: where to begin, in which frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations._annotation import Annotation
from smile_synth.annotations._kernels import count_candidates, find_candidates
from smile_synth.core.rng import RandomStream

Float = NDArray[np.float64]
QUERY_KINDS = ("grid", "objects", "edges")


def query_points(
    annotation: Annotation, kind: str, *, count: int, rng: RandomStream | None = None, seed: int | None = None
) -> Float:
    """Choose query points ``[P, 3]`` = (frame, x, y) for `Annotation.tracks`.

    Drawn points are anywhere in their pixel, so another layer than the pixel's may own the point itself.

    Args:
        annotation: labels of the clip.
        kind: ``grid``: points of frame 0 in even rows and columns, each in the middle of its cell; nothing is
            drawn. ``objects``: drawn evenly from all pixels of all frames that labelled objects own.
            ``edges``: the same from those pixels that have a neighbour above, below, left or right of another
            owner. Without such pixels there are no points.
        count: number of points from 1; of a grid only about, since its rows and columns are whole.
        rng: random numbers. Give either this or ``seed``.
        seed: starts random numbers of its own, for this clip's index.

    Raises:
        ValueError: unknown kind, count below 1, or both or none of rng and seed.

    Example:
        >>> annotation = annotate(sample_scene(recipe, sources, seed=0, index=7), sources)
        >>> points = query_points(annotation, "objects", count=5, seed=0)
        >>> annotation.tracks(points).points_xy.shape  # [P, T, 2]
        (5, 3, 2)
    """
    if kind not in QUERY_KINDS or count < 1:
        raise ValueError(
            f"expected a kind of {', '.join(QUERY_KINDS)} and a count from 1, got {kind}, {count}"
        )
    if (rng is None) == (seed is None):
        raise ValueError("query_points takes either rng or seed")
    if kind == "grid":
        return _grid(annotation.scene.size_hw, count)
    if rng is None:
        rng = RandomStream(seed or 0, annotation.scene.index, "query points")
    segmentation, edges = annotation.segmentation, kind == "edges"
    counts = np.empty(segmentation.shape[:2], np.int64)
    count_candidates(segmentation, edges, counts)
    total = int(counts.sum())
    found = np.empty((count if total else 0, 3))
    if total:
        find_candidates(segmentation, edges, counts, rng.integers(total, count), found)
        found[:, 1] += rng.randoms(count)
        found[:, 2] += rng.randoms(count)
    return found


def _grid(size_hw: tuple[int, int], count: int) -> Float:
    height, width = size_hw
    columns = max(1, round(np.sqrt(count * width / height)))
    rows = max(1, round(count / columns))
    x, y = np.meshgrid((np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows)
    return np.stack([np.zeros(x.size), x.ravel(), y.ravel()], axis=1)
