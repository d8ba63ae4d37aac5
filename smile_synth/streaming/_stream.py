"""An infinite stream of batches for training."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from smile_synth.annotations import check_offsets
from smile_synth.compositing import OutDtype, check_output
from smile_synth.recipe import Recipe
from smile_synth.sources import Sources
from smile_synth.streaming._batches import (
    Device,
    Job,
    PendingBatch,
    Processes,
    StreamBatch,
    Triple,
    batch_on_cpu,
    batch_on_device,
)
from smile_synth.streaming._clips import batch_indices, check_labels

if TYPE_CHECKING:
    import torch

# Labels of a stream.
LABELS = ("segmentation", "coverage", "motion")


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
    motion_offsets: Sequence[int] = (),
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
        labels: any of segmentation, coverage and motion, see `StreamBatch`.
        token_size: (tubelet_size, patch_size), for coverage and motion.
        motion_offsets: of `Annotation.token_motion`, for motion.
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
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    check_labels(labels, LABELS)
    for label in ("coverage", "motion"):
        if label in labels and not token_size:
            raise ValueError(f"labels: {label} needs token_size=(tubelet_size, patch_size)")
    check_output(recipe.num_frames, recipe.size, out_dtype, token_size)
    if "motion" in labels and token_size:
        check_offsets(motion_offsets, recipe.num_frames // token_size[0], token_size[0])
    torch_device = torch.device(device)
    backend = options.backend or {"cpu": "cpu", "cuda": "triton"}.get(torch_device.type, "torch")
    if backend not in ("cpu", "torch", "triton") or (backend == "cpu" and torch_device.type != "cpu"):
        raise ValueError(f"backend {backend} cannot render batches on {torch_device}")
    # Subclassing IterableDataset would import torch with smile_synth; registering avoids that.
    torch.utils.data.IterableDataset.register(ClipStream)
    job = Job(
        recipe, sources, seed, out_dtype, mean, std, labels, token_size, tuple(motion_offsets)
    )  # fmt: skip
    step_indices = partial(batch_indices, batch_size=batch_size, rank=rank, world_size=world_size)
    step_indices(start_step)
    return ClipStream(job, step_indices, start_step, workers, torch_device, backend, options)


@dataclass(eq=False, repr=False)
class ClipStream:
    """An infinite `IterableDataset` of `StreamBatch`, made by `stream`, which checks the arguments.

    Every iteration begins at the stream's first step and has its own worker processes, which end when the
    iterator is deleted or the stream is closed. Use it in a training loop, or in
    ``DataLoader(clip_stream, batch_size=None)``. The workers of a DataLoader share the steps if the stream
    itself has ``workers=0``.
    """

    _job: Job
    _step_indices: Callable[[int], range]
    _start_step: int
    _num_workers: int
    _device: torch.device
    _backend: str
    _options: StreamOptions
    _iterators: WeakSet[Generator[StreamBatch, None, None]] = field(default_factory=WeakSet, init=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments; iterations stay in this process."""
        return ClipStream, tuple(getattr(self, item.name) for item in fields(self) if item.init)

    def __iter__(self) -> Generator[StreamBatch, None, None]:
        """Yield batches from the first step on.

        On the CPU, worker processes render frames into shared memory. For another device, worker processes
        sample scenes, decode images and videos and compute labels of motion, and the device renders; a CUDA
        device uses a separate CUDA stream. This process makes the batches until the first worker has started.
        A batch stays valid as long as the caller keeps it.

        Raises:
            UserError: the recipe does not fit its sources, or a worker was killed.
        """
        iterator = self._iterate()
        self._iterators.add(iterator)
        return iterator

    def _iterate(self) -> Generator[StreamBatch, None, None]:
        """Make a bounded number of batches at the same time, and yield them in order."""
        from torch.utils.data import get_worker_info

        loader_worker = get_worker_info()
        first, stride = (loader_worker.id, loader_worker.num_workers) if loader_worker else (0, 1)
        steps = map(self._step_indices, count(self._start_step + first, stride))
        make = batch_on_cpu
        if self._backend != "cpu":
            device = Device(self._device, self._backend, self._options.cache_bytes)
            make = partial(batch_on_device, device)
        processes = Processes(self._job, self._num_workers)
        pending: deque[PendingBatch] = deque()
        try:
            while True:
                num_pending = self._options.batches_ahead + 1 if processes.use_workers_if_started() else 1
                while len(pending) < num_pending:
                    pending.append(PendingBatch(make(self._job, processes, next(steps))))
                for batch in pending:
                    batch.advance()
                yield pending.popleft().result()
        finally:
            processes.close()

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
