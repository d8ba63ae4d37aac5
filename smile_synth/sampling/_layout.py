"""Move the paths of objects so that their boxes overlap in the first frame as the recipe says."""

from __future__ import annotations

import numpy as np

from smile_synth.sampling._instances import Batch, Float, Instances

_NUM_PLACES = 64  # places that are tried for each object


def arrange_first_frame(batch: Batch, instances: Instances) -> None:
    """Move whole paths so that every object has the wanted overlap with one earlier object in frame 0.

    The overlap with the most overlapped earlier object counts. An object without a fitting place takes the
    best one. The overlap that was reached is a factor.
    """
    assert batch.recipe.objects.overlap is not None
    least, most = batch.recipe.objects.overlap
    frame_wh = np.array(batch.recipe.size[::-1], np.float64)
    # The first object of a clip stays where it is.
    for k in np.flatnonzero(instances.clip[1:] == instances.clip[:-1]) + 1:
        before = slice(int(instances.clip.searchsorted(instances.clip[k])), k)
        center, wh = instances.center_xy[k], instances.box_wh[k]
        half, travel = wh / 2, center - center[0]
        low, high = (half - travel).max(axis=0), (frame_wh - half - travel).min(axis=0)
        u = instances.streams(batch, "layout", np.array([k])).random(_NUM_PLACES, 2)[0]
        places = np.where(high > low, low + u * (high - low), center[0])
        places = np.concatenate([center[:1], places])
        overlaps = _overlaps(
            places[:, None], wh[0], instances.center_xy[before, 0], instances.box_wh[before, 0]
        ).max(axis=1)
        error = np.maximum(least - overlaps, 0) + np.maximum(overlaps - most, 0)
        best = int(np.argmin(error))
        instances.center_xy[k] = center + (places[best] - center[0])
        instances.factors[k]["start_overlap_share"] = float(overlaps[best])


def _overlaps(center: Float, wh: Float, other_center: Float, other_wh: Float) -> Float:
    """Return the shared area / smaller area of boxes that broadcast."""
    low = np.maximum(center - wh / 2, other_center - other_wh / 2)
    high = np.minimum(center + wh / 2, other_center + other_wh / 2)
    shared = np.maximum(high - low, 0).prod(axis=-1)
    return np.asarray(shared / np.minimum(wh.prod(axis=-1), other_wh.prod(axis=-1)))
