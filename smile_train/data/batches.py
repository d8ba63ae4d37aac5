"""Open and check the sources of a run, and make the batches of its stages.

A stage with a single recipe uses `stream`, which renders on the GPU if there is one. Corpora, videos and
mixtures use a DataLoader.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from smile_synth import BackgroundFolder, ObjectBank, Recipe, stream
from smile_synth.annotations import check_offsets
from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream
from smile_synth.parallel.workers import exit_with_parent
from smile_synth.sources import Sources
from smile_synth.streaming import StepBatches, StreamOptions
from smile_train.batch import Batch
from smile_train.config import MotionTarget, PretrainConfig, SourceOptions, Stage, VideoOptions
from smile_train.data.sources import BOXES, Source, TrainingClip, collate, stack_boxes
from smile_train.data.synthetic import CorpusSource, LabelOptions, RenderedSource, object_boxes
from smile_train.models import StudentConfig

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class StageData:
    """The sources of one stage.

    Attributes:
        options: of the stage.
        first_step, end_step: the stage's steps, counted over the whole run.
        sources: of the stage's clips.
    """

    options: Stage
    first_step: int
    end_step: int
    sources: tuple[Source, ...]

    def source_of(self, index: int, *, seed: int, batch_size: int) -> Source:
        """Return the source of the clip ``index``, drawn with the source weights of the clip's step."""
        if len(self.sources) == 1:
            return self.sources[0]
        last = max(self.end_step - self.first_step - 1, 1)
        progress = (index // batch_size - self.first_step) / last
        ends = np.array([source.weight for source in self.options.sources])
        weights = ends[:, 0] + (ends[:, 1] - ends[:, 0]) * progress
        edges = np.cumsum(weights) / weights.sum()
        draw = RandomStream(seed, index, "source").random()
        return self.sources[min(int(np.searchsorted(edges, draw, side="right")), len(edges) - 1)]


@dataclass(frozen=True)
class TrainingData:
    """All sources of a run.

    Attributes:
        stages: in their order.
        size_hw, num_frames: of every clip.
        recipes: all recipes, by the name of the source that uses them.
        unreadable: (file, reason) of files that are not used.
    """

    stages: tuple[StageData, ...]
    size_hw: tuple[int, int]
    num_frames: int
    recipes: dict[str, Recipe]
    unreadable: list[tuple[Path, str]]


class _Opener:
    """Opens each bank, folder, list and corpus of a run once."""

    def __init__(self, config: PretrainConfig, index_folder: Path, progress: Progress | None) -> None:
        self._seed, self._index_folder, self._progress = config.seed, index_folder, progress
        self._labels = LabelOptions(
            (config.student.tubelet_size, config.student.patch_size), config.motion_offsets
        )
        self._banks: dict[str, ObjectBank] = {}
        self._backgrounds: dict[str, BackgroundFolder] = {}
        self.sources: dict[str, Source] = {}
        self.recipes: dict[str, Recipe] = {}
        self.unreadable: list[tuple[Path, str]] = []

    def open(self, options: SourceOptions) -> Source:
        key = options.model_dump_json(exclude={"weight"})
        if key not in self.sources:
            if options.corpus is not None:
                needs_sources = self._labels.motion_offsets and options.bank is not None
                sources = self._open_sources(options) if needs_sources else None
                corpus = CorpusSource(options.corpus, self._labels, seed=self._seed, sources=sources)
                self.unreadable += corpus.unreadable
                self.sources[key] = corpus
            elif options.video is not None:
                self.sources[key] = self._open_videos(options.video)
            else:
                self.sources[key] = self._open_recipe(options)
        return self.sources[key]

    def _open_recipe(self, options: SourceOptions) -> RenderedSource:
        assert options.recipe is not None
        recipe, sources = Recipe.load(options.recipe, options.overrides), self._open_sources(options)
        name = f"recipe-{len(self.recipes)}" if self.recipes else "recipe"
        self.recipes[name] = recipe
        return RenderedSource(recipe, sources, self._labels, seed=self._seed, name=name)

    def _open_sources(self, options: SourceOptions) -> Sources:
        assert options.bank is not None
        if options.bank not in self._banks:
            self._banks[options.bank] = ObjectBank.open(options.bank)
        if options.backgrounds is not None and options.backgrounds not in self._backgrounds:
            folder = self._backgrounds[options.backgrounds] = BackgroundFolder(options.backgrounds)
            self.unreadable += [*folder.unreadable, *folder.cut_short]
        backgrounds = self._backgrounds[options.backgrounds] if options.backgrounds is not None else None
        return Sources(self._banks[options.bank], backgrounds)

    def _open_videos(self, options: VideoOptions) -> Source:
        from smile_train.data.video_index import index_videos
        from smile_train.data.video_lists import list_videos
        from smile_train.data.video_source import VideoSource

        assert options.path is not None
        videos = list_videos(options.path, root=options.root, labelled=False)
        index = index_videos(
            videos, self._index_folder, rank=int(os.environ.get("RANK", "0")), progress=self._progress
        )
        return VideoSource(
            index.videos, sampling=options.sampling, augmentation=options.augmentation, side=options.side,
            seed=self._seed, files_digest=index.digest,
        )  # fmt: skip


def open_data(
    config: PretrainConfig,
    *,
    index_folder: Path | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> TrainingData:
    """Open all sources of a run.

    Call it before `join_world`: to index many videos for the first time takes longer than the timeout of
    torch.distributed.

    Args:
        config: of the run.
        index_folder: folder in which the indices of lists of videos are stored; by default a temporary one.
        strict: raise an error if a source has a file that cannot be read.
        progress: called with (videos indexed, videos in all).

    Raises:
        UserError: a source is missing, a recipe does not fit its sources, clips differ in size or do not
            divide into tokens, labels of motion do not fit, or with ``strict`` a file cannot be read.
    """
    with ExitStack() as stack:
        folder = index_folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        opener = _Opener(config, folder, progress)
        stages, step = [], 0
        for options in config.resolved_stages:
            sources = tuple(opener.open(source) for source in options.sources)
            stages.append(StageData(options, step, step + options.steps, sources))
            step += options.steps
    first = stages[0].sources[0]
    for source in opener.sources.values():
        if (source.size_hw, source.num_frames) != (first.size_hw, first.num_frames):
            raise UserError(
                f"'{source.name}' has clips of {_shape(source)}, '{first.name}' of {_shape(first)}; all "
                "sources of a run need clips of the same size"
            )
    StudentConfig.from_options(
        config.student, num_frames=first.num_frames, size_hw=first.size_hw, target_dim=1
    )
    _check_motion(config, first.num_frames)
    for source in opener.sources.values():
        source.clips([0])  # fails here, before anything is written, if a source cannot be rendered or read
    if strict and opener.unreadable:
        file, reason = opener.unreadable[0]
        raise UserError(f"{len(opener.unreadable)} files cannot be read, the first '{file}': {reason}")
    return TrainingData(tuple(stages), first.size_hw, first.num_frames, opener.recipes, opener.unreadable)


def _check_motion(config: PretrainConfig, num_frames: int) -> None:
    """Check that what needs labels of motion fits the clips, and that its stages have clips with such labels.

    Raises:
        UserError: an offset is outside of the clips, or a stage has no source with known motion.
    """
    student = config.student
    by_target = [o for target in config.targets if isinstance(target, MotionTarget) for o in target.offsets]
    for number, stage in enumerate(config.resolved_stages):
        mask = (
            "a mask of kind occlusion"
            if stage.mask.kind == "occlusion"
            else "a mask with motion_source exact"
        )
        for user, offsets in (("a target of kind motion", by_target), (mask, stage.mask.motion_offsets)):
            if not offsets:
                continue
            try:
                check_offsets(offsets, num_frames // student.tubelet_size, student.tubelet_size)
            except ValueError as error:
                raise UserError(f"stages.{number}: {user}: {error}") from None
            if all(source.video is not None for source in stage.sources):
                raise UserError(
                    f"stages.{number}: {user} needs a recipe or a corpus in sources; the motion of natural "
                    "videos is unknown"
                )
            for place, source in enumerate(stage.sources):
                if source.corpus is not None and source.bank is None:
                    raise UserError(
                        f"stages.{number}.sources.{place}: bank is missing: {user} needs the objects of the "
                        "corpus"
                    )


def _shape(source: Source) -> str:
    return f"{source.num_frames}x{source.size_hw[0]}x{source.size_hw[1]}"


def training_batches(
    config: PretrainConfig,
    stage: StageData,
    *,
    start_step: int,
    rank: int = 0,
    world_size: int = 1,
    device: str | torch.device = "cpu",
) -> Generator[Batch, None, None]:
    """Yield one process's batches of a stage from ``start_step`` on. Workers make them in advance.

    Args:
        config: of the run.
        stage: the stage.
        start_step: first step, counted over the whole run.
        rank, world_size: number of this process, and number of processes.
        device: of the training.

    Raises:
        UserError: a clip cannot be rendered or read.
    """
    local, source = config.batch_size // world_size, stage.sources[0]
    workers = config.run.workers
    if len(stage.sources) > 1 or not isinstance(source, RenderedSource):
        steps = StepBatches(
            local, num_steps=stage.end_step, start_step=start_step, rank=rank, world_size=world_size
        )
        clips = _StageClips(stage, config.seed, config.batch_size)
        yield from worker_batches(
            clips, steps, workers=workers, pin_memory=torch.device(device).type == "cuda"
        )
        return
    needs_boxes = stage.options.mask.kind == "trajectory" and stage.options.mask.object_tokens != "coverage"
    batches = stream(
        source.recipe, source.sources, batch_size=local, seed=source.seed,
        device="cpu" if config.render == "cpu" else device, rank=rank, world_size=world_size,
        start_step=start_step, workers=workers,
        labels=("coverage", "motion") if config.motion_offsets else ("coverage",),
        token_size=(config.student.tubelet_size, config.student.patch_size),
        motion_offsets=config.motion_offsets,
        options=StreamOptions(batches_ahead=4),
    )  # fmt: skip
    with batches:
        for _, made in zip(range(start_step, stage.end_step), batches, strict=False):
            labels = dict(made.labels)
            if needs_boxes:
                boxes = [object_boxes(scene) for scene in made.scenes]
                labels[BOXES] = torch.from_numpy(stack_boxes(boxes, source.num_frames))
            yield Batch(torch.tensor(made.indices), made.frames, labels)


class _StageClips:
    """Returns the clips of a stage by index."""

    def __init__(self, stage: StageData, seed: int, batch_size: int) -> None:
        self._stage, self._seed, self._batch_size = stage, seed, batch_size

    def __call__(self, indices: Sequence[int]) -> list[TrainingClip]:
        by_source: dict[Source, list[int]] = {}
        for index in indices:
            source = self._stage.source_of(index, seed=self._seed, batch_size=self._batch_size)
            by_source.setdefault(source, []).append(index)
        clips: dict[int, TrainingClip] = {}
        for source, own in by_source.items():
            clips.update(zip(own, source.clips(own), strict=True))
        return [clips[index] for index in indices]


class _Batches(Dataset[Batch | UserError]):
    """A dataset whose keys are lists of clip indices and whose items are batches."""

    def __init__(self, clips: Callable[[Sequence[int]], list[TrainingClip]]) -> None:
        self._clips = clips

    def __getitem__(self, indices: Sequence[int]) -> Batch | UserError:
        try:
            return collate(indices, self._clips(indices))
        except UserError as error:
            return error  # raising it in a worker would add the worker's traceback to its message


def worker_batches(
    clips: Callable[[Sequence[int]], list[TrainingClip]],
    steps: StepBatches,
    *,
    workers: int,
    pin_memory: bool = False,
) -> Generator[Batch, None, None]:
    """Yield batches that worker processes make in advance.

    Args:
        clips: returns the clips with the given indices, for example `Source.clips`; must be picklable.
        steps: the clip indices of each batch.
        workers: number of worker processes; 0 makes the batches in this process.
        pin_memory: copy batches to page-locked memory.

    Raises:
        UserError: a clip cannot be rendered or read.
    """
    loader: DataLoader[Batch | UserError] = DataLoader(
        _Batches(clips),
        sampler=steps,
        batch_size=None,  # an item is already a batch: its scenes are sampled together
        num_workers=workers,
        worker_init_fn=start_worker,
        # fork would copy the parent's threads (torch, decoders) in an undefined state
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
    )
    batches: Any = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    finally:
        if workers:
            # Without this, the traceback of an error keeps a reference to the loader. When any child process
            # ends later, torch then finds the loader's dead workers and raises another error.
            batches._shutdown_workers()


def start_worker(_: int) -> None:
    """Set up a worker: it uses one thread, ignores Ctrl-C, and ends when its parent ends."""
    exit_with_parent()  # torch does this too, but not while a worker starts
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
