"""A map-style dataset of clips, and which clips a process makes in a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from smile_synth.annotations import annotate
from smile_synth.compositing import composite
from smile_synth.core.clip import Clip, Labels
from smile_synth.core.errors import counted
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scenes
from smile_synth.sources import Sources


class SyntheticClips:
    """A map-style dataset of clips. The labels of a clip are computed when they are first read.

    Example:
        >>> clips = SyntheticClips(recipe, sources, seed=0, num_clips=1000)
        >>> clips[7].frames.shape  # [T, H, W, 3]
        (3, 20, 28, 3)
    """

    def __init__(self, recipe: Recipe, sources: Sources, *, seed: int, num_clips: int) -> None:
        """Store the arguments. A clip is made when it is read."""
        self.recipe, self.sources = recipe, sources
        self.seed, self.num_clips = seed, num_clips

    def __len__(self) -> int:
        """Return the number of clips."""
        return self.num_clips

    def __getitem__(self, index: int) -> Clip:
        """Sample and render clip ``index``; a negative index counts from the end.

        Raises:
            IndexError: the dataset has no such clip.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Clip]:
        """Sample and render several clips at once, which is faster. A DataLoader calls this per batch."""
        for index in indices:
            if not -self.num_clips <= index < self.num_clips:
                raise IndexError(f"clip {index} is not in a dataset of {counted(self.num_clips, 'clip')}")
        positive = [index % self.num_clips for index in indices]
        return [
            Clip.owning(
                frames=composite(scene, self.sources),
                fps=scene.fps,
                annotation=annotate(scene, self.sources),
            )
            for scene in sample_scenes(self.recipe, self.sources, seed=self.seed, indices=positive)
        ]


def collate_clips(
    clips: Sequence[Clip], labels: Sequence[str] = ("segmentation", "modal_boxes_xyxy", "visibility")
) -> dict[str, Any]:
    """Stack clips of `SyntheticClips` into a batch; the ``collate_fn`` of a DataLoader.

    Args:
        clips: B clips of one size.
        labels: names of attributes of `Labels`. ``functools.partial`` sets others.

    Returns:
        ``indices`` ``[B]`` int64, ``frames`` ``[B, T, 3, H, W]`` uint8, ``segmentation`` ``[B, T, H, W]``
        int16 (`StreamBatch`). Every other label is a list of B tensors, because clips differ in their number
        of objects; ``class_names`` is a list of B tuples.

    Raises:
        ValueError: a label is unknown.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> clips = SyntheticClips(recipe, sources, seed=0, num_clips=1000)
        >>> batch = next(iter(DataLoader(clips, batch_size=4, collate_fn=collate_clips)))
        >>> batch["frames"].shape
        torch.Size([4, 3, 3, 20, 28])
    """
    import torch  # takes seconds to load

    check_labels(labels, Labels.__dataclass_fields__)
    annotations: list[Any] = [clip.annotation for clip in clips]
    frames = torch.from_numpy(np.stack([clip.frames for clip in clips]))
    batch: dict[str, Any] = {
        "indices": torch.tensor([annotation.scene.index for annotation in annotations]),
        "frames": frames.permute(0, 1, 4, 2, 3).contiguous(),
    }
    for name in labels:
        if name == "segmentation":
            owners = np.stack([annotation.segmentation for annotation in annotations])
            batch[name] = torch.from_numpy(owners.astype(np.int16))
        else:
            values = [getattr(annotation.labels, name) for annotation in annotations]
            batch[name] = values if name == "class_names" else [torch.tensor(value) for value in values]
    return batch


def batch_indices(step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> range:
    """Return the clip indices of one process's batch: step x global batch + rank x local batch + j.

    Raises:
        ValueError: the rank is outside of 0 .. world_size - 1.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
    start = step * batch_size * world_size + rank * batch_size
    return range(start, start + batch_size)


class StepBatches:
    """A batch sampler for a DataLoader: the batches of steps ``start_step`` .. ``num_steps - 1``."""

    def __init__(
        self, batch_size: int, *, num_steps: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """Store the arguments; ``batch_size`` is the number of clips per step of this process."""
        self._steps = range(start_step, num_steps)
        self._batch = (batch_size, rank, world_size)

    def __len__(self) -> int:
        """Return the number of steps from ``start_step`` on."""
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the clip indices of each step."""
        batch_size, rank, world_size = self._batch
        for step in self._steps:
            yield list(batch_indices(step, batch_size, rank=rank, world_size=world_size))


def check_labels(labels: Sequence[str], allowed: Iterable[str]) -> None:
    """Raise ValueError if a label is unknown. One label may be given as text."""
    names = [labels] if isinstance(labels, str) else labels
    for name in names:
        if name not in allowed:
            raise ValueError(f"unknown label '{name}', allowed are {', '.join(allowed)}")
