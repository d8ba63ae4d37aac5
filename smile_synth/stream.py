"""Clips for training, made when they are needed: a map-style dataset and an infinite stream of batches.

A clip depends on (recipe, sources, seed, index) only. Any order and any number of processes give the same
clips, and a run resumes at any step without stored state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, groupby, pairwise
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import DTypeLike, NDArray

from smile_synth.annotations import annotate
from smile_synth.compositing import (
    STORED,
    OutDtype,
    Parameters,
    TextureVersion,
    as_tensor,
    build_parameters,
    check_output,
    composite,
    decode_textures,
    device_textures,
    draw_frames,
    num_texels,
    render_parameters,
)
from smile_synth.core.clip import Clip, Labels
from smile_synth.core.errors import counted
from smile_synth.parallel.shared_memory import SharedArray, SharedArrays
from smile_synth.parallel.workers import Result, Workers
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scenes
from smile_synth.scene import Scene, Video
from smile_synth.sources import Sources

if TYPE_CHECKING:
    import torch

# Red, green, blue.
Triple = tuple[float, float, float]
# Labels of a stream.
LABELS = ("segmentation", "coverage")


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

    _check_labels(labels, Labels.__dataclass_fields__)
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


@dataclass(frozen=True, eq=False, repr=False)
class StreamBatch:
    """The clips of one step.

    Attributes:
        indices: B clip indices.
        frames: ``[B, T, 3, H, W]``, contiguous.
        labels: tensors by name, as requested. ``segmentation`` ``[B, T, H, W]`` int16: number of the labelled
            object, from 1, that owns the pixel, else 0. ``coverage`` ``[B, N]`` float32 0..1: share of each
            token's pixels that labelled objects own.
    """

    indices: range
    frames: torch.Tensor
    labels: dict[str, torch.Tensor]
    _sample: Callable[[range], list[Scene]]

    @property
    def scenes(self) -> list[Scene]:
        """The B scenes, sampled again at every access; `annotate` computes all labels from them."""
        return self._sample(self.indices)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> StreamBatch:
        """Return a copy of the batch on a device."""
        labels = {name: label.to(device, non_blocking=non_blocking) for name, label in self.labels.items()}
        return replace(self, frames=self.frames.to(device, non_blocking=non_blocking), labels=labels)

    def __repr__(self) -> str:
        """Return indices, shapes and dtypes."""
        tensors = {"frames": self.frames, **self.labels}
        shapes = [f"{name}={list(tensor.shape)} {tensor.dtype}" for name, tensor in tensors.items()]
        return f"StreamBatch({self.indices}, {', '.join(shapes)})"


@dataclass(frozen=True)
class StreamOptions:
    """How the batches of a stream are made. The options change speed and memory, never the clips.

    Attributes:
        batches_ahead: batches that the worker processes make while the caller uses one.
        backend: cpu, torch or triton; None: cpu on the CPU, triton on CUDA, torch on other devices.
        cache_bytes: device memory for background images. Other images are copied when they are needed.
    """

    batches_ahead: int = 2
    backend: str | None = None
    cache_bytes: int = 2 * 2**30


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
    out_dtype: OutDtype = "uint8",
    mean: Triple = (0.0, 0.0, 0.0),
    std: Triple = (1.0, 1.0, 1.0),
    labels: Sequence[str] = (),
    token_size: tuple[int, int] | None = None,
    workers: int = 2,
    options: StreamOptions = StreamOptions(),
) -> ClipStream:
    """Return an infinite dataset of batches, which depend neither on restarts nor on the number of workers.

    Args:
        recipe: describes the clips.
        sources: objects and backgrounds of the clips.
        batch_size: clips per step of this process.
        seed: of the clips.
        device: where the frames and labels are.
        rank, world_size: number of this process, and number of processes.
        start_step: first step of every iteration.
        out_dtype: uint8, float32, float16 or bfloat16.
        mean, std: per channel, for a float type: a value 0..255 becomes (value / 255 - mean) / std.
        labels: any of segmentation and coverage, see `StreamBatch`.
        token_size: (tubelet_size, patch_size), for coverage.
        workers: worker processes; 0: the caller's process makes each batch when it is needed.
        options: see `StreamOptions`.

    Raises:
        ValueError: an argument is outside of its range.

    Example:
        >>> with stream(recipe, sources, batch_size=2, seed=0, workers=0) as batches:
        ...     batch = next(iter(batches))
        >>> batch
        StreamBatch(range(0, 2), frames=[2, 3, 3, 20, 28] torch.uint8)
    """
    import torch

    for name, value, minimum in (
        ("batch_size", batch_size, 1),
        ("workers", workers, 0),
        ("batches_ahead", options.batches_ahead, 1),
        ("start_step", start_step, 0),
    ):
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")
    _check_labels(labels, LABELS)
    if "coverage" in labels and not token_size:
        raise ValueError("labels: coverage needs token_size=(tubelet_size, patch_size)")
    check_output(recipe.num_frames, recipe.size, out_dtype, token_size)
    torch_device = torch.device(device)
    backend = options.backend or {"cpu": "cpu", "cuda": "triton"}.get(torch_device.type, "torch")
    if backend not in ("cpu", "torch", "triton") or (backend == "cpu" and torch_device.type != "cpu"):
        raise ValueError(f"backend {backend} cannot render batches on {torch_device}")
    # Subclassing IterableDataset would import torch with smile_synth; registering avoids that.
    torch.utils.data.IterableDataset.register(ClipStream)
    job = _Job(recipe, sources, seed, out_dtype, mean, std, tuple(labels), token_size)
    step_indices = partial(batch_indices, batch_size=batch_size, rank=rank, world_size=world_size)
    step_indices(start_step)
    return ClipStream(job, step_indices, start_step, workers, torch_device, backend, options)


class ClipStream:
    """An infinite `IterableDataset` of `StreamBatch`, made by `stream`.

    Every iteration begins at the stream's first step and has its own worker processes, which end when the
    iterator is deleted or the stream is closed. Use it in a training loop, or in
    ``DataLoader(clip_stream, batch_size=None)``. The workers of a DataLoader share the steps if the stream
    itself has ``workers=0``.
    """

    def __init__(self, *arguments: Any) -> None:
        """Use `stream` instead, which checks the arguments."""
        self._arguments = arguments
        self._iterators: WeakSet[Generator[StreamBatch, None, None]] = WeakSet()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments; iterations stay in this process."""
        return ClipStream, self._arguments

    def __iter__(self) -> Generator[StreamBatch, None, None]:
        """Yield batches from the first step on.

        On the CPU, worker processes render frames into shared memory. For another device, worker processes
        sample scenes and decode images and videos, and the device renders; a CUDA device uses a separate
        CUDA stream. This process makes the batches until the first worker has started. A batch stays valid
        as long as the caller keeps it.

        Raises:
            UserError: the recipe does not fit its sources, or a worker was killed.
        """
        iterator = _iterate(*self._arguments)
        self._iterators.add(iterator)
        return iterator

    def close(self) -> None:
        """End all iterations and their worker processes."""
        for iterator in list(self._iterators):
            iterator.close()

    def __enter__(self) -> ClipStream:
        """Return the stream; leaving the context closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the stream."""
        self.close()


def _iterate(
    job: _Job,
    step_indices: Callable[[int], range],
    start_step: int,
    num_workers: int,
    device: torch.device,
    backend: str,
    options: StreamOptions,
) -> Generator[StreamBatch, None, None]:
    """Make a bounded number of batches at the same time, and yield them in order."""
    from torch.utils.data import get_worker_info

    loader_worker = get_worker_info()
    first, stride = (loader_worker.id, loader_worker.num_workers) if loader_worker else (0, 1)
    steps = map(step_indices, count(start_step + first, stride))
    make = _batch_on_cpu
    if backend != "cpu":
        make = partial(_batch_on_device, _Device(device, backend, options.cache_bytes))
    processes = _Processes(job, num_workers)
    pending: deque[_PendingBatch] = deque()
    try:
        while True:
            num_pending = options.batches_ahead + 1 if processes.use_workers_if_started() else 1
            while len(pending) < num_pending:
                pending.append(_PendingBatch(make(job, processes, next(steps))))
            for batch in pending:
                batch.advance()
            yield pending.popleft().result()
    finally:
        processes.close()


@dataclass(frozen=True)
class _Job:
    """The clips of a stream. Every worker process has a copy; the methods are the tasks of the processes."""

    recipe: Recipe
    sources: Sources
    seed: int
    out_dtype: OutDtype
    mean: Triple
    std: Triple
    labels: tuple[str, ...]
    token_size: tuple[int, int] | None

    def warm_up(self) -> None:
        """Do nothing. A process that has run this task has started."""

    def sample(self, indices: range) -> list[Scene]:
        return sample_scenes(self.recipe, self.sources, seed=self.seed, indices=indices)

    def parameters(self, indices: range) -> Parameters:
        """Return render parameters without the texels of images and videos; see `write_texels`."""
        return build_parameters(self.sample(indices), self.sources.objects, range(self.recipe.num_frames))

    def write_texels(self, texels: Target, first: int, textures: Sequence[TextureVersion]) -> None:
        """Decode textures into ``texels`` from texel ``first`` on."""
        words = decode_textures(textures, self.sources)
        texels.open()[first : first + len(words)] = words

    def arrays(self, num_clips: int) -> dict[str, tuple[tuple[int, ...], DTypeLike]]:
        """Return the shape and dtype of the frames and of each label of a batch."""
        (height, width), num_frames = self.recipe.size, self.recipe.num_frames
        tubelet, patch = self.token_size or (1, 1)
        num_tokens = num_frames // tubelet * (height // patch) * (width // patch)
        arrays: dict[str, tuple[tuple[int, ...], DTypeLike]] = {
            "frames": ((num_clips, num_frames, 3, height, width), STORED[self.out_dtype]),
            "segmentation": ((num_clips, num_frames, height, width), np.int16),
            "coverage": ((num_clips, num_tokens), np.float32),
        }
        return {name: arrays[name] for name in ("frames", *self.labels)}

    def render(self, targets: dict[str, Target], first: int, indices: range) -> None:
        """Render clips and their labels into rows ``first``, ... of the arrays of a batch."""
        out = {name: target.open()[first : first + len(indices)] for name, target in targets.items()}
        scenes = self.sample(indices)
        draw_frames(scenes, self.sources, out["frames"], mean=self.mean, std=self.std)
        for row, scene in enumerate(scenes if self.labels else ()):
            segmentation = annotate(scene, self.sources).segmentation
            if "segmentation" in out:
                out["segmentation"][row] = segmentation
            if "coverage" in out and self.token_size:
                out["coverage"][row] = token_coverage(segmentation, *self.token_size)


def token_coverage(
    segmentation: NDArray[np.integer[Any]], tubelet_size: int, patch_size: int
) -> NDArray[np.float32]:
    """Return the share ``[N]``, 0..1, of each token's pixels that objects of a segmentation own."""
    frames, height, width = segmentation.shape
    shape = frames // tubelet_size, tubelet_size, height // patch_size, patch_size, width // patch_size
    blocks = (segmentation > 0).reshape(*shape, patch_size)
    return np.asarray(blocks.mean(axis=(1, 3, 5), dtype=np.float32).ravel())


@dataclass(frozen=True)
class _LocalArray:
    """An array of this process, with the interface of `SharedArray`."""

    array: NDArray[Any]

    def open(self) -> NDArray[Any]:
        return self.array


Target = SharedArray | _LocalArray


class _Processes:
    """Runs the tasks of a job: in this process at first, in worker processes as soon as one has started."""

    def __init__(self, job: _Job, count: int) -> None:
        self._job, self._count = job, count
        self._arrays = SharedArrays()
        self._workers = Workers(count, job) if count else None
        self._warm_up = [self._workers.submit(_Job.warm_up) for _ in range(count)] if self._workers else []
        self._running: Workers | None = None
        self.num_parallel = 1

    def use_workers_if_started(self) -> bool:
        """Use the workers from now on if one has started; return whether they are used.

        Raises:
            UserError: a worker was killed.
        """
        if self._workers and self._warm_up[0].done():
            self.result(self._warm_up[0])
            self.num_parallel = self._count
            self._running = self._workers
        return self._running is not None

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[NDArray[Any], Target]:
        """Return an array, and what a task needs to open it."""
        if self._running:
            return self._arrays.allocate(shape, dtype)
        array = np.empty(shape, dtype)
        return array, _LocalArray(array)

    def run(self, task: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Run ``task(job, *arguments)``."""
        if self._running:
            return self._running.submit(task, *arguments)
        future: Future[Result] = Future()
        future.set_result(task(self._job, *arguments))
        return future

    def result(self, future: Future[Result]) -> Result:
        """Wait for a task. Raises UserError if a worker was killed."""
        return self._workers.result(future) if self._workers else future.result()

    def close(self) -> None:
        if self._workers:
            self._workers.close(at_once=True)


# The steps of making a batch. The generator yields lists of tasks that must be done before its next step. It
# returns the batch and the CUDA event after which the batch is complete.
BatchSteps = Generator[list[Future[Any]], None, tuple[StreamBatch, Any]]


class _PendingBatch:
    """A batch that is being made by a generator."""

    def __init__(self, steps: BatchSteps) -> None:
        self._steps, self._tasks = steps, next(steps)
        self._made: tuple[StreamBatch, Any] | None = None

    def advance(self, *, wait: bool = False) -> None:
        """Run the next steps whose tasks are done; with ``wait``, run all steps.

        The error of a task is raised only with ``wait``, so that the caller first gets all earlier batches.
        """
        while not self._made and (wait or all(task.done() and not task.exception() for task in self._tasks)):
            try:
                self._tasks = next(self._steps)
            except StopIteration as end:
                self._made = end.value

    def result(self) -> StreamBatch:
        """Return the batch; the caller's CUDA stream waits until it is complete."""
        self.advance(wait=True)
        assert self._made, "the generator has ended"
        batch, event = self._made
        if event:
            import torch

            caller = torch.cuda.current_stream(batch.frames.device)
            caller.wait_event(event)
            for tensor in (batch.frames, *batch.labels.values()):
                # The side stream may reuse the memory only after the caller's stream has finished with it.
                tensor.record_stream(caller)
        return batch


def _batch_on_cpu(job: _Job, processes: _Processes, indices: range) -> BatchSteps:
    """Render a batch in main memory; each process renders some of its clips."""
    num_parts = min(processes.num_parallel, len(indices))
    edges = np.linspace(0, len(indices), num_parts + 1).astype(int).tolist()
    allocated = {name: processes.allocate(*array) for name, array in job.arrays(len(indices)).items()}
    targets = {name: target for name, (_, target) in allocated.items()}
    tasks = [
        processes.run(_Job.render, targets, first, indices[first:last]) for first, last in pairwise(edges)
    ]
    yield tasks
    for task in tasks:
        processes.result(task)
    tensors = {name: as_tensor(array) for name, (array, _) in allocated.items()}
    return StreamBatch(indices, tensors.pop("frames"), tensors, job.sample), None


class _Device:
    """A device for rendering: its backend, its cached background images and its side stream."""

    def __init__(self, device: torch.device, backend: str, cache_bytes: int) -> None:
        import torch

        self.device, self.backend = device, backend
        self.textures = device_textures(device, cache_bytes)
        self.side_stream = torch.cuda.Stream(device) if device.type == "cuda" else None


def _batch_on_device(device: _Device, job: _Job, processes: _Processes, indices: range) -> BatchSteps:
    """Render a batch on a device; processes sample the scenes and decode textures that are not cached."""
    import torch

    laid_out = processes.run(_Job.parameters, indices)
    yield [laid_out]
    parameters = processes.result(laid_out)
    found = {shown: device.textures.get(shown) for shown in parameters.textures}
    resident = {shown: texels for shown, texels in found.items() if texels is not None}
    missing = [shown for shown in found if shown not in resident]
    texels, target = processes.allocate((sum(map(num_texels, missing)),), np.uint32)
    decoding, first = [], 0
    # The frames of a video are decoded together.
    for _, group in groupby(missing, lambda s: s.surface if isinstance(s.surface, Video) else s):
        textures = tuple(group)
        decoding.append(processes.run(_Job.write_texels, target, first, textures))
        first += sum(map(num_texels, textures))
    yield decoding
    for task in decoding:
        processes.result(task)
    with torch.cuda.stream(device.side_stream):  # has no effect with None
        sent = {**resident, **dict(zip(missing, device.textures.send(missing, texels), strict=True))}
        # Kernels need an array of at least one texel.
        dummy = torch.zeros(1, dtype=torch.int32, device=device.device)
        rendered = render_parameters(
            parameters,
            job.sources.objects,
            backend=device.backend,
            device=device.device,
            out_dtype=job.out_dtype,
            mean=job.mean,
            std=job.std,
            segmentation="segmentation" in job.labels,
            tokens=job.token_size if "coverage" in job.labels else None,
            extra=torch.cat([*(sent[shown] for shown in parameters.textures), dummy]),
        )
        event = device.side_stream and device.side_stream.record_event()
    labels = {name: getattr(rendered, name) for name in job.labels}
    return StreamBatch(indices, rendered.frames, labels, job.sample), event


def _check_labels(labels: Sequence[str], allowed: Iterable[str]) -> None:
    names = [labels] if isinstance(labels, str) else labels
    for name in names:
        if name not in allowed:
            raise ValueError(f"unknown label '{name}', allowed are {', '.join(allowed)}")
