"""Features of clips: those of encoders, and the controls, which use no learned video encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_train.data.decoding import FileFacts
from smile_train.evaluate._encoders import FrozenEncoder, VideoEncoder

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
Pooling = Literal["mean", "mean-std", "mean-max-min", "frames", "tokens"]
BATCH = 32
# Channels that are kept of every token where tokens keep their position.
NUM_COMPONENTS = 8
FLOW_DIRECTIONS, FLOW_CELLS = 8, 2
# Upper limits of the speed bins, in frame heights per sampled frame.
FLOW_SPEEDS = (0.002, 0.01, 0.03, 0.08)


@dataclass(frozen=True)
class Feature:
    """A function of clips; its values are averaged over the clips of a video.

    Attributes:
        name: in tables.
        key: identifies the function; cached values are found by it.
        function: returns values ``[V, ...]`` of clips ``[V, T, 3, S, S]`` uint8 and the facts of their files.
        in_workers: whether the processes that decode the videos compute it, as it needs no encoder.
    """

    name: str
    key: str
    function: Callable[[Tensor, Sequence[FileFacts]], NDArray[np.floating]]
    in_workers: bool = False

    def __call__(self, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        """Return the values as float32."""
        return self.function(clips, facts).astype(np.float32, copy=False)


def encoder_feature(
    encoder: FrozenEncoder, layer: int = -1, pooling: Pooling = "mean", name: str = "encoder"
) -> Feature:
    """Return the feature of `encode_clips`."""

    def function(clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        return encode_clips(encoder, clips, layer, pooling)

    return Feature(name, f"{encoder.digest} {layer} {pooling}", function)


def encode_clips(
    encoder: FrozenEncoder, clips: Tensor, layer: int = -1, pooling: Pooling = "tokens"
) -> Float32:
    """Return tokens of an encoder, in batches.

    Args:
        encoder: frozen.
        clips: ``[V, T, 3, H, W]`` uint8.
        layer: see `FrozenEncoder.encode`.
        pooling: ``mean`` over all tokens, ``[V, C]``; ``mean-std``, mean and standard deviation,
            ``[V, 2 * C]``; ``mean-max-min``, ``[V, 3 * C]``; ``frames``, the mean over the tokens of each
            time, ``[V, T' * C]``; ``tokens``, all tokens, ``[V, T' * N, C]``.
    """
    pool = POOLINGS[pooling]
    return np.concatenate([pool(encoder.encode(part, layer)).cpu().numpy() for part in clips.split(BATCH)])


def _mean_std(tokens: Tensor) -> Tensor:
    std, mean = torch.std_mean(tokens.flatten(1, 2), dim=1)
    return torch.cat([mean, std], dim=1)


def _mean_max_min(tokens: Tensor) -> Tensor:
    tokens = tokens.flatten(1, 2)
    return torch.cat([tokens.mean(1), tokens.amax(1), tokens.amin(1)], dim=1)


# By name: tokens ``[V, T', N, C]`` to the values of `encode_clips`.
POOLINGS: dict[Pooling, Callable[[Tensor], Tensor]] = {
    "mean": lambda tokens: tokens.flatten(1, 2).mean(1),
    "mean-std": _mean_std,
    "mean-max-min": _mean_max_min,
    "frames": lambda tokens: tokens.mean(2).flatten(1),
    "tokens": lambda tokens: tokens.flatten(1, 2),
}


def classifier_feature(encoder: VideoEncoder, name: str) -> Feature:
    """Return the class probabilities ``[V, num_classes]`` of a fine-tuned encoder as a feature."""

    def function(clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        return np.concatenate([encoder.classify(part).cpu().numpy() for part in clips.split(BATCH)])

    return Feature(name, f"{encoder.digest} classifier", function)


def metadata(clips: Tensor, facts: Sequence[FileFacts]) -> Float:
    """Return values of the file's header, ``[V, 10]``: size, frames, duration, their logs, aspect, rate."""
    rows = []
    for file in facts:
        plain = np.array([file.height, file.width, file.num_frames, file.duration_seconds], np.float64)
        rows.append(np.concatenate([plain, np.log(plain), [file.width / file.height, file.fps]]))
    return np.stack(rows)


def color_statistics(clips: Tensor) -> Float:
    """Return mean and standard deviation per channel of the time-averaged frame, ``[V, 6]``."""
    average = clips.float().mean(1)
    return np.asarray(torch.cat([average.mean((2, 3)), average.std((2, 3))], 1).double().numpy())


def frame_means(clips: Tensor, *, cells: int = 4) -> Float:
    """Return the mean colour of cells x cells fields of every frame, ``[V, T * 3 * cells^2]``.

    On synthetic motion this is a strong reference: it contains positions frame by frame, without pooling.
    """
    n, t = clips.shape[:2]
    pooled = torch.nn.functional.adaptive_avg_pool2d(clips.flatten(0, 1).float(), cells)
    return np.asarray(pooled.reshape(n, t * 3 * cells * cells).double().numpy())


def flow_histograms(clips: Tensor) -> Float:
    """Return histograms of optical flow ``[V, 4 * (8 + 5)]`` of clips ``[V, T, 3, H, W]`` uint8.

    Flow between successive frames by DIS (Kroeger et al., arXiv 1603.03590, OpenCV's fast preset). In each of
    2 x 2 cells: flow length summed by direction, and the share of pixels by speed, averaged over time. These
    are the histograms of HOF (Laptev et al., CVPR 2008).
    """
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    return np.stack([_clip_histogram(method, clip) for clip in clips.permute(0, 1, 3, 4, 2).numpy()])


def _clip_histogram(method: cv2.DISOpticalFlow, clip: NDArray[np.uint8]) -> Float:
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in clip]
    height, width = grey[0].shape
    rows = np.arange(height)[:, None] * FLOW_CELLS // height
    columns = np.arange(width)[None] * FLOW_CELLS // width
    bins = FLOW_DIRECTIONS + len(FLOW_SPEEDS) + 1
    first_bin = (rows * FLOW_CELLS + columns) * bins  # of each pixel's cell
    field = np.zeros((height, width, 2), np.float32)
    total = np.zeros(FLOW_CELLS**2 * bins)
    for first, second in zip(grey[:-1], grey[1:], strict=True):
        flow = np.asarray(method.calc(first, second, field), np.float64) / height
        speed, angle = np.hypot(flow[..., 0], flow[..., 1]), np.arctan2(flow[..., 1], flow[..., 0])
        direction = np.round(angle / (2 * np.pi / FLOW_DIRECTIONS)).astype(np.int64) % FLOW_DIRECTIONS
        speed_bin = FLOW_DIRECTIONS + np.digitize(speed, FLOW_SPEEDS)
        total += np.bincount((first_bin + direction).ravel(), speed.ravel() * height, len(total))
        total += np.bincount((first_bin + speed_bin).ravel(), minlength=len(total))
    return np.asarray(total * FLOW_CELLS**2 / first_bin.size / max(len(grey) - 1, 1))


def _of_pixels(function: Callable[[Tensor], Float], clips: Tensor, facts: Sequence[FileFacts]) -> Float:
    return function(clips)


# By the name of the option. The number in a key changes with the function.
CONTROLS = {
    "metadata": Feature("size and length", "size and length 1", metadata, True),
    "color": Feature("colour over time", "colour over time 1", partial(_of_pixels, color_statistics), True),
    "pixels": Feature("pixels per frame", "pixels per frame 1", partial(_of_pixels, frame_means), True),
    "flow": Feature("flow histograms", "flow histograms 1", partial(_of_pixels, flow_histograms), True),
}


def tokens_in_place(train: Float32, test: Float32) -> tuple[Float32, Float32]:
    """Reduce tokens ``[V, tokens, width]`` to ``[V, tokens * NUM_COMPONENTS]``, in the order of the tokens.

    Unlike the mean over tokens, this keeps positions and times. The channels are replaced by their first
    principal components over the training tokens.
    """
    from sklearn.decomposition import PCA  # its import takes seconds

    width = train.shape[-1]
    components = PCA(NUM_COMPONENTS, svd_solver="covariance_eigh").fit(
        train.reshape(-1, width).astype(np.float64)
    )
    first, second = (
        components.transform(part.reshape(-1, width)).reshape(len(part), -1).astype(np.float32)
        for part in (train, test)
    )
    return first, second
