"""Training batches: rendered clips with what masking needs to know of their objects."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smile_synth import SyntheticClips
from smile_synth.stream import StepBatches

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Batch:
    """Clips of one step.

    Attributes:
        indices: ``[B]`` int64 clip indices; every draw that concerns a clip is keyed by them.
        frames: ``[B, T, 3, H, W]`` uint8.
        coverage: ``[B, N]`` float32 0..1, mean visible coverage of each token by labelled objects.
    """

    indices: Tensor
    frames: Tensor
    coverage: Tensor


def token_coverage(
    segmentation: NDArray[np.uint16], patch_size: int, tubelet_size: int
) -> NDArray[np.float32]:
    """Return the mean coverage ``[N]`` of every token by the objects of a segmentation ``[T, H, W]``."""
    frames, height, width = segmentation.shape
    blocks = (segmentation > 0).reshape(
        frames // tubelet_size,
        tubelet_size,
        height // patch_size,
        patch_size,
        width // patch_size,
        patch_size,
    )
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32).ravel())


class _TrainingClips(Dataset[tuple[int, Tensor, Tensor]]):
    def __init__(self, clips: SyntheticClips, patch_size: int, tubelet_size: int) -> None:
        self.clips, self.patch_size, self.tubelet_size = clips, patch_size, tubelet_size

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor]:
        clip = self.clips[index]
        coverage = token_coverage(clip.segmentation, self.patch_size, self.tubelet_size)
        return index, torch.from_numpy(clip.frames).permute(0, 3, 1, 2), torch.from_numpy(coverage)


def _collate(items: list[tuple[int, Tensor, Tensor]]) -> Batch:
    indices, frames, coverage = zip(*items, strict=True)
    return Batch(torch.tensor(indices), torch.stack(frames), torch.stack(coverage))


def start_worker(_: int) -> None:
    """Set up a rendering process: one thread, as the cores belong to the training; Ctrl-C is the parent's."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_batches(
    clips: SyntheticClips,
    *,
    batch_size: int,
    num_steps: int,
    start_step: int,
    patch_size: int,
    tubelet_size: int,
    workers: int,
) -> Iterator[Batch]:
    """Yield the batches of steps ``start_step`` .. ``num_steps - 1``, rendered ahead by worker processes."""
    loader = DataLoader(
        _TrainingClips(clips, patch_size, tubelet_size),
        batch_sampler=StepBatches(batch_size, num_steps=num_steps, start_step=start_step),
        collate_fn=_collate,
        num_workers=workers,
        worker_init_fn=start_worker,
        # fork would copy the parent's threads (torch, decoders) in whatever state they are
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
    )
    yield from loader


def normalise(frames: Tensor) -> Tensor:
    """Return a student's input: uint8 ``[B, T, 3, H, W]`` in 0..255 to float32 by ImageNet's mean and std."""
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=frames.device).view(3, 1, 1)
    return (frames.float() / 255 - mean) / std
