"""Training batches: clips rendered or read, with what masking needs to know of their objects.

A stage that renders one recipe reads a `stream`: on a GPU its frames are drawn there. Written corpora and
mixtures go through a DataLoader.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smile_synth import BackgroundFolder, ObjectBank, Recipe, annotate, composite, sample_scenes, stream
from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream
from smile_synth.corpus import Corpus
from smile_synth.parallel.workers import exit_with_parent
from smile_synth.scene import Scene, StoredImage
from smile_synth.sources import Sources
from smile_synth.stream import StepBatches, StreamOptions
from smile_synth.stream import token_coverage as token_coverage
from smile_train.config import MixtureEntry, PretrainConfig, Stage
from smile_train.masking import upright_boxes

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Batch:
    """Clips of one step.

    Attributes:
        indices: ``[B]`` int64 clip indices; every draw that concerns a clip is keyed by them.
        frames: ``[B, T, 3, H, W]`` uint8.
        coverage: ``[B, N]`` float32 0..1, mean visible coverage of each token by labelled objects.
        boxes_xyxy: ``[B, K, T, 4]`` float32 pixels, objects' boxes as if they were not rotated, NaN where a
            clip has fewer objects; None where no mask is made from them.
    """

    indices: Tensor
    frames: Tensor
    coverage: Tensor
    boxes_xyxy: Tensor | None = None

    def parts(self, count: int, device: torch.device) -> Iterator[Batch]:
        """Yield ``count`` equal parts, one after the other, each on ``device`` when it is asked for."""
        size = len(self.indices) // count
        for start in range(0, len(self.indices), size):
            yield self._each(lambda t, i=start: t[i : i + size].to(device, non_blocking=True))  # type: ignore[misc]

    def pin_memory(self) -> Batch:
        """Return itself in memory that a GPU reads directly; a DataLoader asks for it."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        boxes = None if self.boxes_xyxy is None else change(self.boxes_xyxy)
        return Batch(change(self.indices), change(self.frames), change(self.coverage), boxes)


@dataclass(frozen=True)
class TrainingClip:
    """One clip.

    Attributes:
        frames: ``[T, H, W, 3]`` uint8.
        segmentation: ``[T, H, W]``, above 0 where a labelled object is seen.
        scene: what it was rendered from.
    """

    frames: NDArray[np.uint8]
    segmentation: NDArray[np.int16]
    scene: Scene


class Source(Protocol):
    """Gives a clip for any index, the same one every time."""

    size_hw: tuple[int, int]
    num_frames: int
    name: str
    digest: str

    def clips(self, indices: Sequence[int]) -> list[TrainingClip]:
        """Return clips by index."""


class RenderedSource:
    """Clips that are rendered when they are asked for: clip i is that of (recipe, sources, seed, i)."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Sources,
        *,
        seed: int,
        name: str,
    ) -> None:
        """Describe the clips; nothing is drawn yet."""
        self.recipe, self.sources, self.seed = recipe, sources, seed
        self.size_hw, self.num_frames, self.name = recipe.size, recipe.num_frames, name
        self.digest = recipe.digest + sources.objects.digest
        self.digest += sources.backgrounds.digest if sources.backgrounds else ""

    def clips(self, indices: Sequence[int]) -> list[TrainingClip]:
        """Draw scenes, together, and render them one by one."""
        sources = self.sources
        scenes = sample_scenes(self.recipe, sources, seed=self.seed, indices=indices)
        return [
            TrainingClip(composite(scene, sources), annotate(scene, sources).segmentation, scene)
            for scene in scenes
        ]


class CorpusSource:
    """Clips of a written corpus, each once before any comes again, in an order drawn anew each time.

    Attributes:
        unreadable: clips that are not used, with the reason.
    """

    def __init__(self, folder: str | Path, *, seed: int) -> None:
        """Open the corpus.

        Raises:
            UserError: no finished corpus of ours, or none of its clips is whole.
        """
        self.corpus, self.seed, self.name = Corpus(folder), seed, str(folder)
        damaged = self.corpus.damaged()
        self.unreadable = [(file, f"{reason} (clip {index})") for index, file, reason in damaged]
        lacking = {index for index, _, _ in damaged}
        self._clips = [index for index in self.corpus if index not in lacking]
        if not self._clips:
            raise UserError(f"corpus '{folder}': holds no whole clip; 'smile-synth corpus repair' repairs it")
        self.size_hw, self.num_frames = self.corpus.header.size_hw, self.corpus.header.num_frames
        pixels = zip(
            self.corpus, self.corpus.column("scene_digest"), self.corpus.column("sha256"), strict=True
        )
        used = [(scene, media) for index, scene, media in pixels if index not in lacking]
        self.digest = hashlib.sha256(json.dumps(used).encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of clips that are used."""
        return len(self._clips)

    def clips(self, indices: Sequence[int]) -> list[TrainingClip]:
        """Read the clips that stand at these places of the endless order.

        Raises:
            UserError: a file has gone or is damaged.
        """
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> TrainingClip:
        epoch, place = divmod(index, len(self._clips))
        number = self._clips[_order(self.seed, epoch, len(self._clips))[place]]
        frames, scene = self.corpus.frames(number), self.corpus.scene(number)
        segmentation = np.zeros(frames.shape[:3], np.int16)
        for label, item in enumerate(self.corpus.labels(number)["objects"], 1):
            segmentation[coco_mask.decode(item["modal_rle"]).transpose(2, 0, 1) > 0] = label
        return TrainingClip(frames, segmentation, scene)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return RandomStream(seed, epoch, "corpus order").permutation(count)


@dataclass(frozen=True)
class StageData:
    """The sources of one stage.

    Attributes:
        options: of the stage.
        first_step, end_step: its steps, counted over the whole run.
        sources: what its clips come from.
    """

    options: Stage
    first_step: int
    end_step: int
    sources: tuple[Source, ...]

    def source_of(self, index: int, *, seed: int, batch_size: int) -> Source:
        """Return the source of a clip: drawn by the weights at its step, keyed by its index alone."""
        if len(self.sources) == 1:
            return self.sources[0]
        last = max(self.end_step - self.first_step - 1, 1)
        progress = (index // batch_size - self.first_step) / last
        ends = np.array([entry.weight for entry in self.options.sources])
        weights = ends[:, 0] + (ends[:, 1] - ends[:, 0]) * progress
        edges = np.cumsum(weights) / weights.sum()
        draw = RandomStream(seed, index, "source").random()
        return self.sources[min(int(np.searchsorted(edges, draw, side="right")), len(edges) - 1)]


def _form(source: Source) -> str:
    return f"{source.num_frames}x{source.size_hw[0]}x{source.size_hw[1]}"


@dataclass(frozen=True)
class TrainingData:
    """All that a run reads.

    Attributes:
        stages: in their order.
        size_hw, num_frames: of every clip.
        recipes: every recipe that is rendered, by the name of its source.
        unreadable: files that are not used, with the reason.
    """

    stages: tuple[StageData, ...]
    size_hw: tuple[int, int]
    num_frames: int
    recipes: dict[str, Recipe]
    unreadable: list[tuple[Path, str]]


def open_data(config: PretrainConfig, *, strict: bool = False) -> TrainingData:
    """Open everything a run reads, each bank, folder and corpus once.

    Raises:
        UserError: something is missing, a recipe does not fit its sources, clips differ in size, or
            ``strict`` and a file cannot be read.
    """
    banks: dict[str, ObjectBank] = {}
    folders: dict[str, BackgroundFolder] = {}
    opened: dict[str, Source] = {}
    recipes: dict[str, Recipe] = {}
    unreadable: list[tuple[Path, str]] = []

    def open_source(entry: MixtureEntry) -> Source:
        key = entry.model_dump_json(exclude={"weight"})
        if key in opened:
            return opened[key]
        source: Source
        if entry.corpus is not None:
            source = CorpusSource(entry.corpus, seed=config.seed)
            unreadable.extend(source.unreadable)
        else:
            assert entry.recipe is not None and entry.bank is not None
            recipe = Recipe.load(entry.recipe, entry.recipe_overrides)
            if entry.bank not in banks:
                banks[entry.bank] = ObjectBank.open(entry.bank)
            backgrounds = None
            if entry.backgrounds is not None:
                if entry.backgrounds not in folders:
                    folder = folders[entry.backgrounds] = BackgroundFolder(entry.backgrounds)
                    unreadable.extend([*folder.unreadable, *folder.cut_short])
                backgrounds = folders[entry.backgrounds]
            name = f"recipe-{len(recipes)}" if recipes else "recipe"
            recipes[name] = recipe
            source = RenderedSource(
                recipe, Sources(banks[entry.bank], backgrounds), seed=config.seed, name=name
            )
        opened[key] = source
        return source

    stages, step = [], 0
    for options in config.stages:
        sources = tuple(open_source(entry) for entry in options.sources)
        stages.append(StageData(options, step, step + options.steps, sources))
        step += options.steps
    first = next(iter(opened.values()))
    for source in opened.values():
        if (source.size_hw, source.num_frames) != (first.size_hw, first.num_frames):
            raise UserError(
                f"'{source.name}' gives clips of {_form(source)}, '{first.name}' of {_form(first)}; "
                "all must be alike"
            )
        source.clips([0])  # what cannot be rendered or read fails here, before anything is written
    if strict and unreadable:
        file, reason = unreadable[0]
        raise UserError(f"{len(unreadable)} files cannot be read, the first '{file}': {reason}")
    return TrainingData(tuple(stages), first.size_hw, first.num_frames, recipes, unreadable)


class _TrainingBatches(Dataset[Batch | UserError]):
    """Batches of a stage by the indices of their clips."""

    def __init__(
        self, stage: StageData, seed: int, batch_size: int, patch_size: int, tubelet_size: int, boxes: bool
    ) -> None:
        self.stage, self.seed, self.batch_size = stage, seed, batch_size
        self.patch_size, self.tubelet_size, self.boxes = patch_size, tubelet_size, boxes

    def __getitem__(self, indices: Sequence[int]) -> Batch | UserError:
        by_source: dict[Source, list[int]] = {}
        for index in indices:
            source = self.stage.source_of(index, seed=self.seed, batch_size=self.batch_size)
            by_source.setdefault(source, []).append(index)
        clips: dict[int, TrainingClip] = {}
        try:
            for source, own in by_source.items():
                clips.update(zip(own, source.clips(own), strict=True))
        except UserError as error:
            return error  # raised in a worker it would come out wrapped in the worker's traceback
        ordered = [clips[index] for index in indices]
        frames = np.stack([clip.frames for clip in ordered])
        coverage = np.stack(
            [token_coverage(clip.segmentation, self.tubelet_size, self.patch_size) for clip in ordered]
        )
        return Batch(
            torch.tensor(indices),
            torch.from_numpy(frames).permute(0, 1, 4, 2, 3),
            torch.from_numpy(coverage),
            _stack_boxes([clip.scene for clip in ordered]) if self.boxes else None,
        )


def _object_boxes(scene: Scene) -> Tensor:
    """Return ``[K, T, 4]`` of the labelled objects."""
    chosen = [
        k for k, layer in enumerate(scene.layers) if layer.labelled and isinstance(layer.surface, StoredImage)
    ]
    surfaces = [scene.layers[k].surface for k in chosen]
    sizes = np.array(
        [(s.height, s.width) for s in surfaces if isinstance(s, StoredImage)], np.float64
    ).reshape(-1, 2)
    return torch.from_numpy(upright_boxes(scene.object_to_frame[chosen], sizes)).float()


def _stack_boxes(scenes: Sequence[Scene]) -> Tensor:
    """Return ``[B, K, T, 4]`` of the labelled objects, NaN where a clip has fewer than another."""
    found = [_object_boxes(scene) for scene in scenes]
    boxes = torch.full((len(found), max(map(len, found)), *found[0].shape[1:]), torch.nan)
    for row, own in zip(boxes, found, strict=True):
        row[: len(own)] = own
    return boxes


def start_worker(_: int) -> None:
    """Set up a rendering process: one thread, as the cores belong to the training; Ctrl-C is the parent's."""
    exit_with_parent()  # torch sees to that, but not while a worker starts
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_batches(
    stage: StageData,
    *,
    seed: int,
    batch_size: int,
    start_step: int,
    patch_size: int,
    tubelet_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    device: str | torch.device = "cpu",
    render_on: str | torch.device | None = None,
) -> Generator[Batch, None, None]:
    """Yield one process's batches of a stage from ``start_step`` on, made ahead by worker processes.

    Workers that cannot share a stream's memory (outside of Linux) serve a DataLoader, whatever the stage.

    Args:
        stage: whose clips.
        seed: of the run.
        batch_size: clips per step over all processes, which ``world_size`` divides.
        start_step: counted over the whole run.
        patch_size, tubelet_size: of a token.
        workers: processes that render or read; 0 does it here.
        rank, world_size: this process among all.
        device: of the training; copies to a GPU do not wait.
        render_on: where a stream draws its frames, ``device`` unless given.

    Raises:
        UserError: a clip cannot be rendered or read.
    """
    boxes = stage.options.mask.kind == "trajectory" and stage.options.mask.object_tokens != "coverage"
    local, source = batch_size // world_size, stage.sources[0]
    shares = workers == 0 or hasattr(os, "memfd_create")
    if len(stage.sources) == 1 and isinstance(source, RenderedSource) and shares:
        batches = stream(
            source.recipe, source.sources, batch_size=local, seed=source.seed,
            device=render_on or device, rank=rank, world_size=world_size, start_step=start_step,
            workers=workers, labels=("coverage",), token_size=(tubelet_size, patch_size),
            options=StreamOptions(batches_ahead=4),
        )  # fmt: skip
        with batches:
            for _, made in zip(range(start_step, stage.end_step), batches, strict=False):
                found = _stack_boxes(made.scenes) if boxes else None
                yield Batch(torch.tensor(made.indices), made.frames, made.labels["coverage"], found)
        return
    loader: DataLoader[Batch | UserError] = DataLoader(
        _TrainingBatches(stage, seed, batch_size, patch_size, tubelet_size, boxes),
        # A batch is an item: a worker draws its scenes together.
        sampler=StepBatches(
            local, num_steps=stage.end_step, start_step=start_step, rank=rank, world_size=world_size
        ),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=start_worker,
        # fork would copy the parent's threads (torch, decoders) in whatever state they are
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        pin_memory=torch.device(device).type == "cuda",
    )
    made_ahead: Any = iter(loader)
    try:
        for batch in made_ahead:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        if workers:
            # An error's traceback would keep it alive, and torch would raise for a dead worker of it whenever
            # any child of this process ends.
            made_ahead._shutdown_workers()


def normalise(frames: Tensor) -> Tensor:
    """Return a student's input: uint8 ``[B, T, 3, H, W]`` in 0..255 to float32 by ImageNet's mean and std."""
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device).view(3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=frames.device).view(3, 1, 1)
    return (frames.float() / 255 - mean) / std
