"""Extraction of features: every video is read once for all features, and never if all are in the cache."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.parallel.workers import map_in_order
from smile_train.data.decoding import FileFacts, content_digest, file_facts
from smile_train.data.video import ReadOptions, is_short, read_windows
from smile_train.distributed import World
from smile_train.evaluate._exchange import Exchange
from smile_train.evaluate._features import Feature

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
TOO_SHORT = "too short"
# Clips that are encoded together, and videos per process between two exchanges of results.
BATCH_CLIPS, ROUND_VIDEOS = 32, 32


@dataclass(frozen=True)
class Extracted:
    """Features of the readable ones of a list of videos.

    Attributes:
        features: by name, ``[readable, ...]`` float32, means over a video's clips; empty except on rank 0.
        num_clips: ``[readable]`` clips of each video.
        readable: ``[readable]`` indices into the list.
        broken: (name, reason) of the other videos.
    """

    features: dict[str, Float32]
    num_clips: NDArray[np.int64]
    readable: NDArray[np.int64]
    broken: list[tuple[str, str]]


@dataclass(frozen=True)
class Extractor:
    """Computes features of videos, spread over the processes of torchrun.

    Attributes:
        cache: folder that keeps features, found by file content, reading options and the feature's key.
        workers: decoding processes per process of the world.
        world: the processes; each calls the extractor with the same arguments.
        progress: called on rank 0 with (what, videos done, all videos).
    """

    cache: Path | None = None
    workers: int = 1
    world: World = field(default_factory=lambda: World(0, 1, torch.device("cpu")))
    progress: Callable[[str, int, int], None] | None = None

    @cached_property
    def exchange(self) -> Exchange:
        """The exchange between the processes."""
        return Exchange(self.world)

    def __call__(
        self,
        paths: Sequence[Path],
        features: Sequence[Feature],
        read: ReadOptions,
        *,
        names: Sequence[str] | None = None,
        what: str = "features",
        memory_map: Path | None = None,
        skip_short: bool = False,
    ) -> Extracted:
        """Compute features of videos.

        Args:
            paths: of the videos.
            features: with different names.
            read: how videos are read.
            names: of the videos, for ``broken``; the paths by default.
            what: first argument of ``progress``.
            memory_map: folder of files that hold the features instead of memory.
            skip_short: treat a video shorter than one clip as broken.

        Raises:
            UserError: the cache cannot be written.
        """
        if len({feature.name for feature in features}) != len(features):
            raise ValueError(f"features must have different names, got {[f.name for f in features]}")
        rank, size = self.world.rank, self.world.size
        table = _Table(len(paths), [feature.name for feature in features], memory_map)
        readable, counts, broken = [], [], []
        own = iter(range(rank, len(paths), size))
        results = self._results(paths[rank::size], features, read, skip_short)
        for start in range(0, len(paths), ROUND_VIDEOS * size):
            part = list(zip(islice(own, ROUND_VIDEOS), islice(results, ROUND_VIDEOS), strict=True))
            gathered = [pair for pairs in self.exchange.gather(part) for pair in pairs]
            for index, result in sorted(gathered, key=lambda pair: pair[0]):
                if isinstance(result, str):
                    broken.append((names[index] if names else str(paths[index]), result))
                else:
                    readable.append(index)
                    counts.append(result.num_clips)
                    table.add([result.values[feature.key] for feature in features])
            if self.progress and rank == 0:
                self.progress(what, min(start + ROUND_VIDEOS * size, len(paths)), len(paths))
        indices, counts, broken = self.exchange.broadcast((readable, counts, broken))
        arrays = table.arrays() if rank == 0 else {}
        return Extracted(arrays, np.array(counts, np.int64), np.array(indices, np.int64), broken)

    def _results(
        self, paths: Sequence[Path], features: Sequence[Feature], read: ReadOptions, skip_short: bool
    ) -> Iterator[_Values | str]:
        """Yield each video's values of all features, or why it is broken, in order."""
        keys, controls = tuple(f.key for f in features), tuple(f for f in features if f.in_workers)
        job = _Job(read, keys, controls, self.cache, skip_short)
        waiting: list[_Values | str] = []
        for video in map_in_order(partial(_read, job), paths, workers=self.workers):
            waiting.append(video)
            num_clips = sum(len(v.clips) for v in waiting if not isinstance(v, str))
            if num_clips >= BATCH_CLIPS or len(waiting) == ROUND_VIDEOS:
                yield from self._encoded(waiting, features, read)
                waiting = []
        yield from self._encoded(waiting, features, read)

    def _encoded(
        self, videos: Sequence[_Values | str], features: Sequence[Feature], read: ReadOptions
    ) -> Iterator[_Values | str]:
        """Yield videos with the values that are still missing; drops their clips."""
        for feature in features:
            missing = [v for v in videos if not isinstance(v, str) and feature.key not in v.values]
            if not missing:
                continue
            clips = torch.from_numpy(np.concatenate([v.clips for v in missing]))
            facts = [v.facts for v in missing for _ in v.clips]
            values = feature(clips.permute(0, 1, 4, 2, 3), facts)
            ends = np.cumsum([len(v.clips) for v in missing])[:-1]
            for video, own in zip(missing, np.split(values, ends), strict=True):
                video.values[feature.key] = _keep(self.cache, video.digest, read, feature.key, own)
        for result in videos:
            if not isinstance(result, str):
                result.clips = result.clips[:0]
            yield result


class _Table:
    """Features of videos, filled row by row, in memory or in memory-mapped files."""

    def __init__(self, num_videos: int, names: Sequence[str], folder: Path | None) -> None:
        self._num_videos, self._names, self._folder = num_videos, names, folder
        self._arrays: list[Float32] = []
        self._count = 0

    def add(self, values: Sequence[Float32]) -> None:
        """Append one row to every feature."""
        if not self._arrays:
            self._arrays = [self._new(k, value.shape) for k, value in enumerate(values)]
        for array, value in zip(self._arrays, values, strict=True):
            array[self._count] = value
        self._count += 1

    def _new(self, number: int, shape: tuple[int, ...]) -> Float32:
        shape = (self._num_videos, *shape)
        if self._folder is None:
            return np.empty(shape, np.float32)
        return np.asarray(open_memmap(self._folder / f"{number}.npy", "w+", np.float32, shape))

    def arrays(self) -> dict[str, Float32]:
        """Return the rows by name."""
        arrays = self._arrays or [np.empty((0, 0), np.float32)] * len(self._names)
        return {name: array[: self._count] for name, array in zip(self._names, arrays, strict=True)}


@dataclass(frozen=True)
class _Job:
    """What is done with every video where it is decoded; ``controls`` are computed there, too."""

    read: ReadOptions
    keys: tuple[str, ...]
    controls: tuple[Feature, ...]
    cache: Path | None
    skip_short: bool


@dataclass
class _Values:
    """A video: its values by feature key, and its clips if an encoder needs them."""

    digest: str
    facts: FileFacts
    clips: UInt8
    num_clips: int
    values: dict[str, Float32]


def _read(job: _Job, path: Path) -> _Values | str:
    """Return the cached values of a video, its controls and its clips; or why it is broken."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    try:
        values: dict[str, Float32] = {}
        digest, num_clips, no_clips = "", 0, np.empty(0, np.uint8)
        if job.cache is not None:
            digest = content_digest(path)
            for key in job.keys:
                cached = _cached(job.cache, digest, job.read, key)
                if cached is not None:
                    values[key], num_clips = cached
            if len(values) == len(job.keys):
                return _Values(digest, FileFacts(0, 0, 0, 0.0, 0.0), no_clips, num_clips, values)
        facts = file_facts(path, past_damage=job.read.damaged == "decode")
        if job.skip_short and is_short(facts, job.read):
            return TOO_SHORT
        clips = np.stack(list(read_windows(path, job.read)))
        for feature in job.controls:
            if feature.key not in values:
                found = feature(torch.from_numpy(clips).permute(0, 1, 4, 2, 3), [facts] * len(clips))
                values[feature.key] = _keep(job.cache, digest, job.read, feature.key, found)
        complete = len(values) == len(job.keys)
        return _Values(digest, facts, no_clips if complete else clips, len(clips), values)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _cache_file(cache: Path, digest: str, read: ReadOptions, key: str) -> Path:
    settings = hashlib.sha256(f"{read.model_dump_json()} {key}".encode()).hexdigest()[:24]
    return cache / settings / f"{digest}.npz"


def _cached(cache: Path, digest: str, read: ReadOptions, key: str) -> tuple[Float32, int] | None:
    try:
        with _cache_file(cache, digest, read, key).open("rb") as opened, np.load(opened) as file:
            return file["feature"], int(file["num_clips"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing, or truncated by a kill
        return None


def _keep(cache: Path | None, digest: str, read: ReadOptions, key: str, values: Float32) -> Float32:
    """Return the mean over a video's clips, and write it into the cache if there is one."""
    mean: Float32 = values.mean(0, dtype=np.float64).astype(np.float32)
    if cache is None:
        return mean
    path = _cache_file(cache, digest, read, key)
    partial_path = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_path.open("wb") as file:  # not synced to disk: a truncated file is computed again
            np.savez(file, feature=mean, num_clips=np.array(len(values)))
        os.replace(partial_path, path)
    except OSError as error:
        raise UserError(f"cache '{cache}': cannot be written: {error.strerror}") from None
    return mean
