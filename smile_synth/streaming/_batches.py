"""How the batches of a stream are made, in worker processes and on devices."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

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
    decode_textures,
    device_textures,
    draw_frames,
    num_texels,
    render_parameters,
)
from smile_synth.parallel.shared_memory import SharedArray, SharedArrays
from smile_synth.parallel.workers import Result, Workers
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scenes
from smile_synth.scene import Scene, Video
from smile_synth.sources import Sources
from smile_synth.streaming._labels import ArrayTypes, motion_arrays, motion_labels, token_coverage

if TYPE_CHECKING:
    import torch

# Red, green, blue.
Triple = tuple[float, float, float]


@dataclass(frozen=True, eq=False, repr=False)
class StreamBatch:
    """The clips of one step.

    Attributes:
        indices: B clip indices.
        frames: ``[B, T, 3, H, W]``, contiguous.
        labels: tensors by name, as requested. ``segmentation`` ``[B, T, H, W]`` int16: number of the labelled
            object, from 1, that owns the pixel, else 0. ``coverage`` ``[B, N]`` float32 0..1: share of each
            token's pixels that labelled objects own. The values of `TokenMotion`, with the axis of clips in
            front: ``motion_displacement``, ``motion_spread``, ``motion_linear``, ``motion_camera``,
            ``motion_visibility``, ``motion_valid``, ``motion_object``, ``motion_share``, ``motion_depth``.
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
class Job:
    """The clips of a stream. Every worker process has a copy; the methods are the tasks of the processes."""

    recipe: Recipe
    sources: Sources
    seed: int
    out_dtype: OutDtype
    mean: Triple
    std: Triple
    labels: tuple[str, ...]
    token_size: tuple[int, int] | None
    motion_offsets: tuple[int, ...]

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

    def arrays(self, num_clips: int) -> ArrayTypes:
        """Return the shape and dtype of the frames and of each label of a batch."""
        (height, width), num_frames = self.recipe.size, self.recipe.num_frames
        tubelet, patch = self.token_size or (1, 1)
        num_tokens = num_frames // tubelet * (height // patch) * (width // patch)
        motion = motion_arrays(len(self.motion_offsets), num_tokens)
        arrays: ArrayTypes = {
            "frames": ((num_frames, 3, height, width), STORED[self.out_dtype]),
            "segmentation": ((num_frames, height, width), np.int16),
            "coverage": ((num_tokens,), np.float32),
            **motion,
        }
        names = ["frames"]
        for label in self.labels:
            names += motion if label == "motion" else [label]
        return {name: ((num_clips, *arrays[name][0]), arrays[name][1]) for name in names}

    def fill(self, targets: dict[str, Target], first: int, indices: range) -> None:
        """Fill rows ``first``, ... of the given arrays of a batch with the frames and labels of clips."""
        out = {name: target.open()[first : first + len(indices)] for name, target in targets.items()}
        scenes = self.sample(indices)
        if "frames" in out:
            draw_frames(scenes, self.sources, out["frames"], mean=self.mean, std=self.std)
        for row, scene in enumerate(scenes if self.labels else ()):
            annotation = annotate(scene, self.sources)
            if "segmentation" in out:
                out["segmentation"][row] = annotation.segmentation
            if "coverage" in out and self.token_size:
                out["coverage"][row] = token_coverage(annotation.segmentation, *self.token_size)
            if "motion" in self.labels and self.token_size:
                motion = annotation.token_motion(self.token_size, self.motion_offsets)
                for name, values in motion_labels(motion).items():
                    out[name][row] = values


@dataclass(frozen=True)
class _LocalArray:
    """An array of this process, with the interface of `SharedArray`."""

    array: NDArray[Any]

    def open(self) -> NDArray[Any]:
        return self.array


Target = SharedArray | _LocalArray


class Processes:
    """Runs the tasks of a job: in this process at first, in worker processes as soon as one has started."""

    def __init__(self, job: Job, count: int) -> None:
        self._job, self._count = job, count
        self._arrays = SharedArrays()
        self._workers = Workers(count, job) if count else None
        self._warm_up = [self._workers.submit(Job.warm_up) for _ in range(count)] if self._workers else []
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


class PendingBatch:
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


def _fill_in_parts(
    job: Job, processes: Processes, indices: range, arrays: ArrayTypes
) -> tuple[dict[str, torch.Tensor], list[Future[None]]]:
    """Return arrays of a batch in main memory, and the tasks that fill them, each for some of the clips."""
    num_parts = min(processes.num_parallel, len(indices))
    edges = np.linspace(0, len(indices), num_parts + 1).astype(int).tolist()
    allocated = {name: processes.allocate(*array) for name, array in arrays.items()}
    targets = {name: target for name, (_, target) in allocated.items()}
    tasks = [processes.run(Job.fill, targets, first, indices[first:last]) for first, last in pairwise(edges)]
    return {name: as_tensor(array) for name, (array, _) in allocated.items()}, tasks


def batch_on_cpu(job: Job, processes: Processes, indices: range) -> BatchSteps:
    """Render a batch in main memory."""
    tensors, tasks = _fill_in_parts(job, processes, indices, job.arrays(len(indices)))
    yield tasks
    for task in tasks:
        processes.result(task)
    return StreamBatch(indices, tensors.pop("frames"), tensors, job.sample), None


class Device:
    """A device for rendering: its backend, its cached background images and its side stream."""

    def __init__(self, device: torch.device, backend: str, cache_bytes: int) -> None:
        import torch

        self.device, self.backend = device, backend
        self.textures = device_textures(device, cache_bytes)
        self.side_stream = torch.cuda.Stream(device) if device.type == "cuda" else None


def batch_on_device(device: Device, job: Job, processes: Processes, indices: range) -> BatchSteps:
    """Render a batch on a device.

    Processes sample the scenes, decode textures that are not cached, and compute labels of motion.
    """
    import torch

    laid_out = processes.run(Job.parameters, indices)
    arrays = {name: array for name, array in job.arrays(len(indices)).items() if name.startswith("motion_")}
    labels, tasks = _fill_in_parts(job, processes, indices, arrays) if arrays else ({}, [])
    yield [laid_out, *tasks]
    for task in tasks:
        processes.result(task)
    parameters = processes.result(laid_out)
    found = {shown: device.textures.get(shown) for shown in parameters.textures}
    resident = {shown: texels for shown, texels in found.items() if texels is not None}
    missing = [shown for shown in found if shown not in resident]
    texels, target = processes.allocate((sum(map(num_texels, missing)),), np.uint32)
    decoding, first = [], 0
    # The frames of a video are decoded together.
    for _, group in groupby(missing, lambda s: s.surface if isinstance(s.surface, Video) else s):
        textures = tuple(group)
        decoding.append(processes.run(Job.write_texels, target, first, textures))
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
        for name, label in labels.items():
            pinned = label.pin_memory() if device.side_stream else label
            labels[name] = pinned.to(device.device, non_blocking=True)
        event = device.side_stream and device.side_stream.record_event()
    labels |= {name: getattr(rendered, name) for name in job.labels if name != "motion"}
    return StreamBatch(indices, rendered.frames, labels, job.sample), event
