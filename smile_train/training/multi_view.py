"""Predictions for test videos, averaged over several views, on any number of processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.streaming import StepBatches
from smile_train.batch import normalise
from smile_train.config import SamplingOptions, ViewCountOptions
from smile_train.data.batches import worker_batches
from smile_train.data.sources import TrainingClip
from smile_train.data.video import test_views
from smile_train.data.video_lists import LabelledVideo
from smile_train.distributed import World

TOP = 5  # classes that are kept of each video
Progress = Callable[[int, int], None]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Predictions:
    """The most probable classes of N videos, for one classifier or several ones (``...``).

    Attributes:
        classes: int64 ``[N, ..., min(5, num_classes)]``, the most probable first.
        probabilities: float32, of these classes, averaged over the views.
        unreadable: reason by position of the video. Its predictions have no meaning.
    """

    classes: Int
    probabilities: NDArray[np.float32]
    unreadable: dict[int, str]

    @property
    def readable(self) -> Int:
        """Positions of the videos that were read."""
        return np.array([n for n in range(len(self.classes)) if n not in self.unreadable], np.int64)


class _Views:
    """Returns all views of a video as one clip ``[views * T, side, side, 3]``."""

    def __init__(
        self, videos: Sequence[LabelledVideo], sampling: SamplingOptions, side: int, views: ViewCountOptions
    ) -> None:
        # One array, because many Path objects take long to send to worker processes.
        self._paths = np.array([os.fsencode(video.path) for video in videos])
        self._sampling, self._side, self._views = sampling, side, views

    def __call__(self, positions: Sequence[int]) -> list[TrainingClip]:
        return [self._read(Path(os.fsdecode(self._paths[p % len(self._paths)]))) for p in positions]

    def _read(self, path: Path) -> TrainingClip:
        clips, crops, side = self._views.clips, self._views.crops, self._side
        frames = np.zeros((clips * crops, self._sampling.num_frames, side, side, 3), np.uint8)
        unreadable: tuple[tuple[str, str], ...] = ()
        try:
            views = test_views(path, self._sampling, side, clips, crops)
            frames = views[np.arange(len(frames)) % len(views)]  # a truncated video has fewer
        except UserError as error:
            unreadable = ((str(path), str(error)),)
        is_readable = np.asarray(not unreadable)
        return TrainingClip(frames.reshape(-1, side, side, 3), {"readable": is_readable}, None, unreadable)


def predict(
    logits: Callable[[Tensor], Tensor],
    videos: Sequence[LabelledVideo],
    sampling: SamplingOptions,
    side: int,
    views: ViewCountOptions,
    *,
    world: World,
    workers: int,
    precision: torch.dtype,
    pass_clips: int,
    progress: Progress | None = None,
) -> Predictions:
    """Return the predictions for all videos, in every process.

    Args:
        logits: returns scores ``[B, ..., num_classes]`` of normalised clips ``[B, T, 3, H, W]``.
        videos: to classify. The processes share them.
        sampling, side: of a clip.
        views: of a video.
        world: the processes.
        workers: processes that decode videos, for each process of the world.
        precision: of the forward passes.
        pass_clips: clips of a forward pass.
        progress: called with (videos done, videos in all).

    Raises:
        UserError: no video can be read.
    """
    num_views = views.clips * views.crops
    local = max(pass_clips // num_views, 1)  # videos of a batch
    num_steps = -(-len(videos) // (local * world.size))
    # The last positions are beyond the end and repeat videos: all processes make equally many passes, which
    # sharded models need.
    steps = StepBatches(local, num_steps=num_steps, rank=world.rank, world_size=world.size)
    autocast = torch.autocast(world.device.type, precision, enabled=precision != torch.float32)
    own: list[tuple[int, Any, Any, str | None]] = []
    for step, batch in enumerate(
        worker_batches(
            _Views(videos, sampling, side, views), steps, workers=workers,
            pin_memory=world.device.type == "cuda",
        )
    ):  # fmt: skip
        clips = batch.frames.unflatten(1, (num_views, sampling.num_frames)).flatten(0, 1)
        with torch.no_grad(), autocast:
            parts = [
                logits(normalise(part.to(world.device))).float().softmax(-1)
                for part in clips.split(pass_clips)
            ]
        mean = torch.cat(parts).unflatten(0, (len(batch), num_views)).mean(1)
        top = mean.topk(min(TOP, mean.shape[-1]), dim=-1)
        reasons = iter(reason for _, reason in batch.unreadable)
        own += [
            (position, classes, probabilities, None if is_readable else next(reasons))
            for position, classes, probabilities, is_readable in zip(
                batch.indices.tolist(), top.indices.cpu().numpy(), top.values.cpu().numpy(),
                batch.labels["readable"].tolist(), strict=True,
            )
        ]  # fmt: skip
        if progress:
            progress(min((step + 1) * local * world.size, len(videos)), len(videos))
    rows = {row[0]: row for part in world.gather(own) for row in part}
    ordered = [rows[position] for position in range(len(videos))]
    unreadable = {position: reason for position, _, _, reason in ordered if reason is not None}
    if len(unreadable) == len(videos):
        raise UserError(
            f"none of {len(videos)} videos can be read; the first, '{videos[0].name}': {unreadable[0]}"
        )
    return Predictions(
        np.stack([row[1] for row in ordered]), np.stack([row[2] for row in ordered]), unreadable
    )


def class_numbers(videos: Sequence[LabelledVideo], classes: Sequence[str]) -> Int:
    """Return the class number ``[N]`` of each video."""
    number_of = {name: number for number, name in enumerate(classes)}
    return np.array([number_of[video.label] for video in videos], np.int64)


def accuracies(predictions: Predictions, truth: Int) -> dict[str, Any]:
    """Return top-1 and top-5 accuracy over the readable videos; floats, or lists for several classifiers."""
    rows = predictions.readable
    hits = predictions.classes[rows] == truth[rows].reshape(-1, *[1] * (predictions.classes.ndim - 1))
    return {"top1": hits[..., 0].mean(0).tolist(), "top5": hits.any(-1).mean(0).tolist()}


def describe_test(
    predictions: Predictions, videos: Sequence[LabelledVideo], classes: Sequence[str]
) -> dict[str, Any]:
    """Return the scores of one classifier: overall, per class and per video, as plain values of JSON."""
    truth, rows = class_numbers(videos, classes), predictions.readable
    hits = predictions.classes[rows, 0] == truth[rows]
    counts = np.bincount(truth[rows], minlength=len(classes))
    correct = np.bincount(truth[rows], hits, minlength=len(classes))
    per_class = {
        name: {"accuracy": float(correct[k] / counts[k]), "num_videos": int(counts[k])}
        for k, name in enumerate(classes)
        if counts[k]
    }
    shown = [
        {
            "video": videos[n].name,
            "label": videos[n].label,
            "predicted": classes[predictions.classes[n, 0]],
            "probabilities": {
                classes[k]: round(float(p), 5)
                for k, p in zip(predictions.classes[n], predictions.probabilities[n], strict=True)
            },
        }
        for n in rows.tolist()
    ]
    return {
        **accuracies(predictions, truth),
        "mean_class_accuracy": float(np.mean([entry["accuracy"] for entry in per_class.values()])),
        "num_videos": len(rows),
        "unreadable": {videos[n].name: reason for n, reason in predictions.unreadable.items()},
        "per_class": per_class,
        "videos": shown,
    }
