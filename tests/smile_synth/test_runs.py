"""Run lengths are pycocotools' own, to the letter."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from smile_synth.annotations import Runs


def masks_of(kind: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    masks = np.zeros((4, 9, 13), bool)
    if kind == "inside":
        masks[:, 2:7, 3:11] = rng.random((4, 5, 8)) < 0.6
    elif kind == "to the lower edge":
        masks[:, 4:, 3:11] = rng.random((4, 5, 8)) < 0.9
    elif kind == "whole columns":
        masks[:, :, 5:8] = True
    elif kind == "everywhere":
        masks[:] = rng.random(masks.shape) < 0.5
    elif kind == "all":
        masks[:] = True
    elif kind == "large":
        masks = np.zeros((1, 400, 300), bool)
        masks[0, 30:390, 20:250] = rng.random((360, 230)) < 0.999
    return masks


def runs_of(masks: np.ndarray) -> Runs:
    """Return masks ``[N, T, H, W]`` as runs, pixel by pixel."""
    runs, rows = [], []
    for mask_rows in masks.reshape(-1, *masks.shape[2:]):
        for row in mask_rows:
            rows.append(len(runs))
            edges = np.flatnonzero(np.diff(np.pad(row.astype(int), 1)))
            runs += edges.reshape(-1, 2).tolist()
        rows.append(len(runs))
    places = np.array(rows, np.int64).reshape(*masks.shape[:2], masks.shape[2] + 1)
    return Runs(np.array(runs, np.int32).reshape(-1, 2), places, masks.shape[3])


@pytest.mark.parametrize(
    "kind", ["empty", "inside", "to the lower edge", "whole columns", "everywhere", "all", "large"]
)
def test_run_lengths_are_those_of_pycocotools(kind: str) -> None:
    masks = masks_of(kind)
    runs = runs_of(masks[None])
    assert np.array_equal(runs.masks(), masks[None])
    expected = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    counts = [rle["counts"].decode() for rle in expected]
    assert runs.coco() == counts
    wanted = np.arange(len(masks))[None] % 2 == 1
    assert runs.coco(wanted) == counts[1::2]
