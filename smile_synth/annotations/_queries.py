"""Query points for tracks: where to begin, in which frame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations._annotation import Annotation

Float = NDArray[np.float64]
QUERY_KINDS = ("grid", "objects", "edges")


def query_points(annotation: Annotation, kind: str, *, count: int, rng: np.random.Generator) -> Float:
    """Choose query points ``[P, 3]`` = (frame, x, y) for `Annotation.tracks`.

    ``grid``: about ``count`` points of frame 0 in even rows and columns, each in the middle of its cell;
    nothing is drawn. ``objects``: ``count`` points drawn evenly from all pixels of all frames that a
    labelled object owns. ``edges``: the same from those of them that have a neighbour above, below, left or
    right of another owner. Drawn points lie anywhere in their pixel, so that what owns the point itself may
    be another layer than the pixel's. Where there is no such pixel there are no points.

    Raises:
        ValueError: unknown kind, or count below 1.
    """
    if kind not in QUERY_KINDS or count < 1:
        raise ValueError(
            f"expected a kind of {', '.join(QUERY_KINDS)} and a count from 1, got {kind}, {count}"
        )
    height, width = annotation.scene.size_hw
    if kind == "grid":
        columns = max(1, round(np.sqrt(count * width / height)))
        rows = max(1, round(count / columns))
        x, y = np.meshgrid(
            (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
        )
        return np.stack([np.zeros(x.size), x.ravel(), y.ravel()], axis=1)
    owners = annotation.segmentation
    candidates = owners > 0
    if kind == "edges":
        edge = np.zeros_like(candidates)
        down, right = owners[:, 1:] != owners[:, :-1], owners[:, :, 1:] != owners[:, :, :-1]
        edge[:, 1:] |= down
        edge[:, :-1] |= down
        edge[:, :, 1:] |= right
        edge[:, :, :-1] |= right
        candidates &= edge
    places = np.flatnonzero(candidates)
    if not len(places):
        return np.zeros((0, 3))
    chosen = rng.choice(places, count)
    frame, y, x = np.unravel_index(chosen, owners.shape)
    return np.stack([frame, x + rng.random(count), y + rng.random(count)], axis=1).astype(np.float64)
