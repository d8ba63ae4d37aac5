"""Features that need no learned video encoder: what a probe's score must be held against."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from smile_train.data.video import FileFacts

Float = NDArray[np.float64]
DIRECTIONS, CELLS = 8, 2
# Upper ends of the bins of speed, in shares of the frame's side per sampled frame.
SPEEDS = (0.002, 0.01, 0.03, 0.08)


def size_and_length(facts: FileFacts) -> Float:
    """Return what the file alone tells, ``[10]``: sizes, aspect, frames, rate, duration, and their logs."""
    plain = np.array([facts.height, facts.width, facts.num_frames, facts.duration_seconds], np.float64)
    return np.concatenate([plain, np.log(plain), [facts.width / facts.height, facts.fps]])


def flow_histograms(frames: Tensor) -> Float:
    """Return hand-made motion ``[N, 4 * (8 + 5)]`` of clips ``[N, T, 3, H, W]`` uint8.

    Dense optical flow (Kroeger et al., "DIS", arXiv 1603.03590, OpenCV's fast preset) between successive
    frames; in each of 2 x 2 cells its length summed by direction, and the shares of pixels by speed, averaged
    over time. The histograms are those of HOF (Laptev et al., CVPR 2008).
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return np.stack([_clip_histogram(flow, clip) for clip in frames.permute(0, 1, 3, 4, 2).numpy()])


def _clip_histogram(method: cv2.DISOpticalFlow, clip: NDArray[np.uint8]) -> Float:
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in clip]
    height, width = grey[0].shape
    rows = np.arange(height)[:, None] * CELLS // height
    columns = np.arange(width)[None] * CELLS // width
    bins = DIRECTIONS + len(SPEEDS) + 1
    first_bin = (rows * CELLS + columns) * bins  # of each pixel's cell
    field = np.zeros((height, width, 2), np.float32)
    total = np.zeros(CELLS**2 * bins)
    for first, second in zip(grey[:-1], grey[1:], strict=True):
        found = np.asarray(method.calc(first, second, field), np.float64) / height
        speed = np.hypot(found[..., 0], found[..., 1])
        angle = np.arctan2(found[..., 1], found[..., 0])
        direction = np.round(angle / (2 * np.pi / DIRECTIONS)).astype(np.int64) % DIRECTIONS
        fast = DIRECTIONS + np.digitize(speed, SPEEDS)
        total += np.bincount((first_bin + direction).ravel(), speed.ravel() * height, len(total))
        total += np.bincount((first_bin + fast).ravel(), minlength=len(total))
    return np.asarray(total * CELLS**2 / first_bin.size / max(len(grey) - 1, 1))
