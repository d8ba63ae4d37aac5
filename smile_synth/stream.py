"""Clips on the fly, by index: any order, any number of processes, exact resume without state."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count, groupby, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations import annotate
from smile_synth.compositing import (
    NOT_NORMALISED,
    STORED,
    Normalise,
    OutDtype,
    Parameters,
    Shown,
    as_tensor,
    check_output,
    composite,
    device_textures,
    draw_frames,
    fetch,
    frames_shape,
    lay_out,
    num_texels,
    render_parameters,
)
from smile_synth.core.clip import Clip
from smile_synth.parallel.shared_memory import BufferAddress, SharedBuffers, attach
from smile_synth.parallel.workers import Result, Workers
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scenes
from smile_synth.scene import Scene, Video
from smile_synth.sources import Sources

if TYPE_CHECKING:
    import torch


class SyntheticClips:
    """A map-style dataset of clips for any loader; labels are computed when a clip is asked for them."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Sources,
        *,
        seed: int,
        num_clips: int,
    ) -> None:
        """Describe clips 0 .. num_clips - 1 of (recipe, sources, seed); nothing is drawn yet."""
        self.recipe, self.sources = recipe, sources
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
        scenes = sample_scenes(self.recipe, self.sources, seed=self.seed, indices=indices)
        return [
            Clip(
                composite(scene, self.sources),
                scene.fps,
                annotate(scene, self.sources),
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


@dataclass(frozen=True)
class StreamBatch:
    """The clips of one step.

    Attributes:
        indices: of the clips.
        frames: ``[B, T, 3, H, W]`` on the device; uint8 is a view of ``[B, T, H, W, 3]``.
        segmentation: ``[B, T, H, W]`` int16, numbers of labelled objects from 1, 0 elsewhere; None if not
            asked for.
        coverage: ``[B, N]`` float32 0..1, the share of each token's pixels that labelled objects own; None
            if not asked for.
        scenes: of the clips, from which `annotate` tells every label; None if not asked for.
    """

    indices: range
    frames: torch.Tensor
    segmentation: torch.Tensor | None = None
    coverage: torch.Tensor | None = None
    scenes: tuple[Scene, ...] | None = None


def stream(
    recipe: Recipe,
    sources: Sources,
    *,
    batch_size: int,
    seed: int,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    workers: int = 2,
    ahead: int = 2,
    out_dtype: OutDtype = "uint8",
    normalise: Normalise = NOT_NORMALISED,
    segmentation: bool = False,
    tokens: tuple[int, int] | None = None,
    scenes: bool = False,
    backend: str | None = None,
    cache_bytes: int = 2 * 2**30,
) -> Generator[StreamBatch, None, None]:
    """Yield batches for ever; step s is the same on any restart and for any number of workers.

    On the CPU the workers draw frames, into memory that they share with this process. On another device
    they draw scenes and decode images and videos; frames are drawn there, on a CUDA device on a stream
    of its own while the caller's work runs. Until the workers have started, batches are made here. A batch
    is the caller's for as long as it is kept. Closing the generator ends the workers.

    Args:
        recipe, sources: what the clips are drawn from.
        batch_size: clips of a step for this process, not over all of them.
        seed: of the clips.
        device: where the frames are wanted.
        rank, world_size: this process among all.
        start_step: the first step to yield.
        workers: processes that work ahead; with 0 everything happens here, when it is asked for.
        ahead: batches that are being made while one is used.
        out_dtype: uint8, float32, float16 or bfloat16.
        normalise: (mean, standard deviation) of each channel for a float type, see `render`.
        segmentation: also give who owns each pixel.
        tokens: (tubelet_size, patch_size); also give each token's coverage.
        scenes: also give the scenes.
        backend: cpu on the CPU, triton on CUDA and torch elsewhere, if None; see `render`.
        cache_bytes: bound on background images that are kept on a device; those beyond are sent again.

    Raises:
        UserError: when a batch is asked for: the recipe does not fit its sources, or a worker was killed.
        ValueError: an option is outside of what is allowed.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
        ("ahead", ahead, 1),
        ("start_step", start_step, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    batch_indices(0, batch_size, rank=rank, world_size=world_size)
    check_output(recipe.num_frames, recipe.size, out_dtype, tokens)
    import torch  # takes seconds to load, and nothing else here needs it

    place = torch.device(device)
    backend = backend or {"cpu": "cpu", "cuda": "triton"}.get(place.type, "torch")
    if backend not in ("cpu", "torch", "triton") or (backend == "cpu" and place.type != "cpu"):
        raise ValueError(f"backend {backend} does not draw batches on {place}")
    maker = _Maker(recipe, sources, seed, out_dtype, normalise, segmentation, tokens, scenes)
    batches: _FramesHere | _FramesOnDevice = (
        _FramesHere(maker, batch_size, workers)
        if backend == "cpu"
        else _FramesOnDevice(maker, backend, place, cache_bytes)
    )
    steps = (batch_indices(step, batch_size, rank=rank, world_size=world_size) for step in count(start_step))
    return _run(maker, batches, steps, workers, ahead)


def _run(
    maker: _Maker, batches: _FramesHere | _FramesOnDevice, steps: Iterator[range], workers: int, ahead: int
) -> Generator[StreamBatch, None, None]:
    """Keep the workers busy up to a bound, and hand out what is done, in order."""
    pool = _Pool(maker, workers)
    begun: deque[Any] = deque()
    drawn: deque[Any] = deque()
    try:
        while True:
            while len(begun) + len(drawn) < (ahead + 1 if pool.ready() else 1):
                begun.append(batches.begin(pool, next(steps)))
            # What is ready is drawn at once; it is waited for only where nothing else could be handed out.
            ready = [batches.is_ready(pool, batch) for batch in begun]
            while begun and (not drawn or ready[0]):
                drawn.append(batches.draw(pool, begun.popleft()))
                del ready[0]
            yield batches.hand_over(drawn.popleft())
    finally:
        pool.close()


# Parameters of a batch, and its scenes if they are asked for.
_LaidOut = tuple[Parameters, list[Scene]]


@dataclass(frozen=True)
class _Maker:
    """What is asked for; a copy of it works in every worker."""

    recipe: Recipe
    sources: Sources
    seed: int
    out_dtype: OutDtype
    normalise: Normalise
    segmentation: bool
    tokens: tuple[int, int] | None
    scenes: bool

    def sample(self, indices: range) -> list[Scene]:
        return sample_scenes(self.recipe, self.sources, seed=self.seed, indices=indices)

    def given(self, scenes: list[Scene]) -> list[Scene]:
        """Return those that the caller is given."""
        return scenes if self.scenes else []

    def parameters(self, indices: range) -> _LaidOut:
        """Lay scenes out; images and videos are named, not decoded."""
        scenes = self.sample(indices)
        parameters = lay_out(scenes, self.sources.objects, range(self.recipe.num_frames))
        return parameters, self.given(scenes)

    def forms(self, clips: int) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return shape and type of everything that is drawn for a number of clips."""
        (height, width), frames = self.recipe.size, self.recipe.num_frames
        forms: dict[str, tuple[tuple[int, ...], Any]] = {
            "frames": (
                (clips, *frames_shape(frames, (height, width), self.out_dtype)),
                STORED[self.out_dtype],
            )
        }
        if self.segmentation:
            forms["segmentation"] = ((clips, frames, height, width), np.int16)
        if self.tokens:
            tubelet, patch = self.tokens
            number = frames // tubelet * (height // patch) * (width // patch)
            forms["coverage"] = ((clips, number), np.float32)
        return forms

    def split(self, memory: NDArray[np.uint8], clips: int) -> dict[str, NDArray[Any]]:
        """Return the arrays of a batch, one after another in its memory."""
        arrays, start = {}, 0
        for name, (shape, kind) in self.forms(clips).items():
            end = start + math.prod(shape) * np.dtype(kind).itemsize
            arrays[name] = memory[start:end].view(kind).reshape(shape)
            start = -(-end // 8) * 8
        return arrays

    def draw(self, indices: range, arrays: dict[str, NDArray[Any]]) -> list[Scene]:
        """Draw clips and their labels into arrays."""
        scenes = self.sample(indices)
        draw_frames(scenes, self.sources, arrays["frames"], normalise=self.normalise)
        for row, scene in enumerate(scenes if self.segmentation or self.tokens else ()):
            owners = annotate(scene, self.sources).segmentation
            if self.segmentation:
                arrays["segmentation"][row] = owners
            if self.tokens:
                tubelet, patch = self.tokens
                arrays["coverage"][row] = token_coverage(owners, patch, tubelet)
        return self.given(scenes)

    def fetch(self, textures: Sequence[Shown]) -> NDArray[np.uint32]:
        return fetch(textures, self.sources)


def token_coverage(
    segmentation: NDArray[np.integer[Any]], patch_size: int, tubelet_size: int
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


def _say_ready(maker: _Maker) -> None:
    """Do nothing: a worker that has done so has loaded everything."""


def _parameters(maker: _Maker, indices: range) -> _LaidOut:
    return maker.parameters(indices)


def _draw_part(maker: _Maker, place: BufferAddress, clips: int, first: int, indices: range) -> list[Scene]:
    """Draw some clips of a batch where they stand in its memory."""
    arrays = maker.split(attach(place), clips)
    part = slice(first, first + len(indices))
    return maker.draw(indices, {name: array[part] for name, array in arrays.items()})


def _fetch_into(maker: _Maker, place: BufferAddress, first: int, textures: Sequence[Shown]) -> None:
    words = maker.fetch(textures)
    attach(place).view(np.uint32)[first : first + len(words)] = words


class _Pool:
    """The workers of a stream, and whether they have started."""

    def __init__(self, maker: _Maker, count: int) -> None:
        self.buffers = SharedBuffers()
        self._workers = Workers(count, maker) if count else None
        self._started = [self._workers.submit(_say_ready) for _ in range(count)] if self._workers else []

    def ready(self) -> bool:
        """Return whether a worker has started. Raises UserError if one was killed instead."""
        return self._workers is not None and self._started[0].done() and self.result(self._started[0]) is None

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        assert self._workers is not None, "asked for only after `ready`"
        return self._workers.submit(work, *arguments)

    def result(self, future: Future[Result]) -> Result:
        assert self._workers is not None, "a future is from the workers"
        return self._workers.result(future)

    def close(self) -> None:
        if self._workers is not None:
            self._workers.close(at_once=True)


class _FramesHere:
    """Frames in main memory: a batch is drawn in parts, each worker in the place of its clips."""

    def __init__(self, maker: _Maker, clips: int, workers: int) -> None:
        self._maker, self._clips = maker, clips
        forms = maker.forms(clips).values()
        self._num_bytes = sum(-(-math.prod(s) * np.dtype(k).itemsize // 8) * 8 for s, k in forms)
        self._edges = np.linspace(0, clips, min(max(workers, 1), clips) + 1).astype(int).tolist()

    def begin(self, pool: _Pool, indices: range) -> _Begun:
        if not pool.ready():
            memory = np.empty(self._num_bytes, np.uint8)
            return _Begun(indices, memory, self._maker.draw(indices, self._maker.split(memory, self._clips)))
        buffer = pool.buffers.acquire(self._num_bytes)
        parts = [
            pool.submit(_draw_part, buffer.address, self._clips, first, indices[first:last])
            for first, last in pairwise(self._edges)
        ]
        return _Begun(indices, pool.buffers.array(buffer), [], parts)

    def is_ready(self, pool: _Pool, begun: _Begun) -> bool:
        return all(part.done() for part in begun.parts)

    def draw(self, pool: _Pool, begun: _Begun) -> StreamBatch:
        import torch

        scenes = begun.scenes
        for part in begun.parts:
            own: list[Scene] = pool.result(part)
            scenes += own
        arrays = self._maker.split(begun.memory, self._clips)
        frames = as_tensor(arrays.pop("frames"))
        if self._maker.out_dtype == "uint8":
            frames = frames.permute(0, 1, 4, 2, 3)
        labels = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return StreamBatch(
            begun.indices, frames, **labels, scenes=tuple(scenes) if self._maker.scenes else None
        )

    def hand_over(self, drawn: StreamBatch) -> StreamBatch:
        return drawn


@dataclass(frozen=True)
class _Begun:
    """A batch in main memory that ``parts`` are still drawn into."""

    indices: range
    memory: NDArray[np.uint8]
    scenes: list[Scene]
    parts: list[Future[list[Scene]]] = field(default_factory=list)


@dataclass
class _Sampled:
    """A batch for a device on its way.

    Attributes:
        indices: of its clips.
        parameters: of its scenes and, if asked for, these, or who lays them out.
        resident: the texels on the device of those of its textures that are there.
        missing: the other textures.
        words: their texels, one after another, once they are asked for.
        parts: who decodes them.
    """

    indices: range
    parameters: Future[_LaidOut] | _LaidOut
    resident: dict[Shown, torch.Tensor] = field(default_factory=dict)
    missing: list[Shown] = field(default_factory=list)
    words: NDArray[np.uint32] | None = None
    parts: list[Future[None]] = field(default_factory=list)


def _decoded_together(shown: Shown) -> Shown | Video:
    return shown.surface if isinstance(shown.surface, Video) else shown


class _FramesOnDevice:
    """Frames on a device: workers sample scenes and decode, the device draws on a stream of its own."""

    def __init__(self, maker: _Maker, backend: str, device: torch.device, cache_bytes: int) -> None:
        import torch

        self._maker, self._backend, self._device = maker, backend, device
        self._textures = device_textures(device, cache_bytes)
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, pool: _Pool, indices: range) -> _Sampled:
        if pool.ready():
            return _Sampled(indices, pool.submit(_parameters, indices))
        return _Sampled(indices, self._maker.parameters(indices))

    def is_ready(self, pool: _Pool, sampled: _Sampled) -> bool:
        """Return whether a batch can be drawn; what its scenes show is asked for once they are known."""
        if isinstance(sampled.parameters, Future) and not sampled.parameters.done():
            return False
        self._ask_for_textures(pool, sampled)
        return all(part.done() for part in sampled.parts)

    def _ask_for_textures(self, pool: _Pool, sampled: _Sampled) -> _LaidOut:
        """Have the workers decode what is not on the device yet, each in its place of one buffer."""
        if isinstance(sampled.parameters, Future):
            sampled.parameters = pool.result(sampled.parameters)
        laid_out = sampled.parameters
        parameters, _ = laid_out
        if sampled.words is not None:
            return laid_out
        for shown in parameters.textures:
            texels = self._textures.get(shown)
            if texels is None:
                sampled.missing.append(shown)
            else:
                sampled.resident[shown] = texels
        if not (pool.ready() and sampled.missing):
            sampled.words = self._maker.fetch(sampled.missing)
            return laid_out
        number = sum(map(num_texels, sampled.missing))
        buffer = pool.buffers.acquire(4 * number)
        sampled.words = pool.buffers.array(buffer).view(np.uint32)[:number]
        first = 0
        for _, group in groupby(sampled.missing, _decoded_together):
            together = tuple(group)
            sampled.parts.append(pool.submit(_fetch_into, buffer.address, first, together))
            first += sum(map(num_texels, together))
        return laid_out

    def draw(self, pool: _Pool, sampled: _Sampled) -> tuple[StreamBatch, Any]:
        """Start to draw; returns the batch and what must happen before it may be used."""
        import torch

        parameters, scenes = self._ask_for_textures(pool, sampled)
        for part in sampled.parts:
            pool.result(part)
        assert sampled.words is not None, "asked for above"
        with torch.cuda.stream(self._side):  # nothing without one
            sent = dict(
                zip(sampled.missing, self._textures.send(sampled.missing, sampled.words), strict=True)
            )
            sent.update(sampled.resident)
            texels = [torch.zeros(1, dtype=torch.int32, device=self._device)]  # kernels want one at least
            texels[:0] = [sent[shown] for shown in parameters.textures]
            rendered = render_parameters(
                parameters,
                self._maker.sources.objects,
                backend=self._backend,
                device=self._device,
                out_dtype=self._maker.out_dtype,
                normalise=self._maker.normalise,
                segmentation=self._maker.segmentation,
                tokens=self._maker.tokens,
                extra=torch.cat(texels),
            )
            event = None if self._side is None else self._side.record_event()
        frames = rendered.frames
        if self._maker.out_dtype == "uint8":
            frames = frames.permute(0, 1, 4, 2, 3)
        given = tuple(scenes) if self._maker.scenes else None
        return StreamBatch(sampled.indices, frames, rendered.segmentation, rendered.coverage, given), event

    def hand_over(self, drawn: tuple[StreamBatch, Any]) -> StreamBatch:
        import torch

        batch, event = drawn
        if event is not None:
            users = torch.cuda.current_stream(self._device)
            users.wait_event(event)
            for tensor in (batch.frames, batch.segmentation, batch.coverage):
                if tensor is not None:
                    # Memory of the side stream: not to be used again before the caller's work is done.
                    tensor.record_stream(users)
        return batch
