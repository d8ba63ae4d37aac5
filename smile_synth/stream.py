"""Clips on the fly, by index: any order, any number of processes, exact resume without state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.clip import Clip
from smile_synth.compositing import composite
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.scene import sample_scenes

if TYPE_CHECKING:
    import torch


class SyntheticClips:
    """A map-style dataset of clips for any loader; labels are computed when a clip is asked for them."""

    def __init__(
        self,
        recipe: Recipe,
        bank: ObjectBank,
        backgrounds: BackgroundFolder | None = None,
        *,
        seed: int,
        num_clips: int,
    ) -> None:
        """Describe clips 0 .. num_clips - 1 of (recipe, sources, seed); nothing is drawn yet."""
        self.recipe, self.bank, self.backgrounds = recipe, bank, backgrounds
        self.seed, self.num_clips = seed, num_clips

    def __len__(self) -> int:
        """Return the number of clips."""
        return self.num_clips

    def __getitem__(self, index: int) -> Clip:
        """Draw and render clip ``index``."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Clip]:
        """Draw and render clips, together at a fraction of the cost; a DataLoader asks so for its batches."""
        for index in indices:
            if not 0 <= index < self.num_clips:
                raise IndexError(f"clip {index} is outside 0..{self.num_clips - 1}")
        scenes = sample_scenes(self.recipe, self.bank, self.backgrounds, seed=self.seed, indices=indices)
        return [
            Clip(
                composite(scene, self.bank, self.backgrounds),
                scene.fps,
                annotate(scene, self.bank, self.backgrounds),
            )
            for scene in scenes
        ]


def batch_indices(step: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> range:
    """Return the clip indices of one process's batch: step x global batch + rank x local batch + j."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
    start = step * batch_size * world_size + rank * batch_size
    return range(start, start + batch_size)


class StepBatches:
    """A batch sampler for a DataLoader: the batches of steps ``start_step`` .. ``num_steps - 1``."""

    def __init__(
        self, batch_size: int, *, num_steps: int, start_step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """Describe the batches of one process; ``batch_size`` is its own, not the global one."""
        self._steps = range(start_step, num_steps)
        self._batch = (batch_size, rank, world_size)

    def __len__(self) -> int:
        """Return the number of steps that are left."""
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the clip indices of each step."""
        batch_size, rank, world_size = self._batch
        for step in self._steps:
            yield list(batch_indices(step, batch_size, rank=rank, world_size=world_size))


def stream(
    recipe: Recipe,
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None = None,
    *,
    batch_size: int,
    seed: int,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
) -> Iterator[torch.Tensor]:
    """Yield batches ``[B, T, 3, H, W]`` uint8 on ``device`` for ever; step s is the same on any restart."""
    import torch  # takes seconds to load, and nothing else here needs it

    step = start_step
    while True:
        indices = batch_indices(step, batch_size, rank=rank, world_size=world_size)
        scenes = sample_scenes(recipe, bank, backgrounds, seed=seed, indices=indices)
        frames = [torch.from_numpy(composite(scene, bank, backgrounds)) for scene in scenes]
        yield torch.stack(frames).permute(0, 1, 4, 2, 3).contiguous().to(device)
        step += 1
