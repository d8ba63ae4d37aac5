"""Run lengths are pycocotools' own, to the letter."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from smile_synth.corpus._rle import run_lengths


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


def box_of(mask: np.ndarray) -> list[float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else [np.nan] * 4


@pytest.mark.parametrize(
    "kind", ["empty", "inside", "to the lower edge", "whole columns", "everywhere", "all", "large"]
)
@pytest.mark.parametrize("loose", [0, 1, 50])
def test_run_lengths_are_those_of_pycocotools(kind: str, loose: int) -> None:
    masks = masks_of(kind)
    boxes = np.array([box_of(mask) for mask in masks]) + np.array([-loose, -loose, loose, loose])
    expected = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    assert run_lengths(masks, boxes) == [
        {"size": list(rle["size"]), "counts": rle["counts"].decode()} for rle in expected
    ]
