"""Features of real videos: read once, encoded in batches, kept by the content of the file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.parallel.workers import map_in_order
from smile_train.data.video import FileFacts, ReadOptions, file_facts, read_windows
from smile_train.evaluate._controls import flow_histograms, size_and_length
from smile_train.evaluate._encoders import FrozenEncoder
from smile_train.evaluate._features import color_statistics, frame_means

Float = NDArray[np.float64]
Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]
Pooling = Literal["mean", "frames", "tokens"]
Progress = Callable[[int, int], None]
BATCH = 32


class Feature(Protocol):
    """Something that is computed of clips and averaged over those of a video."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    @property
    def key(self) -> str:
        """Whatever the values depend on, beside the clips; they are kept under it."""
        ...

    @property
    def plain(self) -> bool:
        """Whether it needs no encoder; the processes that read videos compute it."""
        ...

    def __call__(self, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        """Return ``[V, ...]`` of clips ``[V, T, 3, S, S]`` uint8; ``facts`` are those of each one's file."""
        ...


@dataclass(frozen=True)
class EncoderFeature:
    """Tokens of an encoder.

    Attributes:
        encoder: frozen.
        layer: see `FrozenEncoder.tokens`.
        pooling: mean over all tokens ``[C]``; frames, mean over the places of each time ``[T' * C]``; tokens,
            all of them ``[T' * N, C]``.
        name: for tables.
    """

    encoder: FrozenEncoder
    layer: int = -1
    pooling: Pooling = "mean"
    name: str = "encoder"
    plain = False

    @property
    def key(self) -> str:
        """See `Feature`."""
        return f"{self.encoder.digest} {self.layer} {self.pooling}"

    def __call__(self, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        """See `Feature`."""
        parts = []
        for part in clips.split(BATCH):
            tokens = self.encoder.tokens(part, self.layer)
            if self.pooling == "mean":
                pooled = tokens.flatten(1, 2).mean(1)
            elif self.pooling == "frames":
                pooled = tokens.mean(2).flatten(1)
            else:
                pooled = tokens.flatten(1, 2)
            parts.append(pooled.cpu().numpy())
        return np.concatenate(parts)


@dataclass(frozen=True)
class PlainFeature:
    """A feature that needs no weights."""

    name: str
    function: Callable[[Tensor], Float]
    plain = True

    @property
    def key(self) -> str:
        """See `Feature`."""
        return f"{self.name} 1"  # raise the number with the function

    def __call__(self, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        """See `Feature`."""
        return self.function(clips).astype(np.float32)


class SizeAndLength:
    """What the file tells without its images."""

    name = "size and length"
    key = "size and length 1"
    plain = True

    def __call__(self, clips: Tensor, facts: Sequence[FileFacts]) -> Float32:
        """See `Feature`."""
        return np.stack([size_and_length(f) for f in facts]).astype(np.float32)


PLAIN: tuple[Feature, ...] = (
    SizeAndLength(),
    PlainFeature("colour over time", color_statistics),
    PlainFeature("pixels per frame", frame_means),
    PlainFeature("flow histograms", flow_histograms),
)


@dataclass(frozen=True)
class Extracted:
    """Features of many videos.

    Attributes:
        features: by name, one row per readable video; averaged over its clips.
        num_clips: ``[N]`` of each.
        readable: indices of these videos.
        broken: (name, reason) of the others.
    """

    features: dict[str, Float32]
    num_clips: NDArray[np.int64]
    readable: NDArray[np.int64]
    broken: list[tuple[str, str]]


def extract(
    paths: Sequence[Path],
    features: Sequence[Feature],
    read: ReadOptions,
    *,
    cache: Path | None = None,
    workers: int = 1,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Extracted:
    """Compute features of videos; every file is read once for all of them, and not at all where all are kept.

    Args:
        paths: of the videos.
        features: with names that differ.
        read: how they become clips.
        cache: folder that keeps features by the content of the file, the reading and the feature's key.
        workers: processes that decode.
        names: for ``broken``; by default the paths.
        progress: called with (videos done, videos in all).
    """
    if len({f.name for f in features}) != len(features):
        raise ValueError(f"features need names that differ, got {[f.name for f in features]}")
    names = names or [str(p) for p in paths]
    rows: dict[str, list[Float32]] = {f.name: [] for f in features}
    counts, readable, broken = [], [], []
    plain = tuple(f for f in features if f.plain)
    jobs = [_Job(path, read, tuple(f.key for f in features), plain, cache) for path in paths]
    workers = min(workers, len(jobs)) or 1
    pending: list[tuple[int, _Read]] = []

    def flush() -> None:
        for feature in features:
            missing = [(i, r) for i, r in pending if feature.key not in r.kept]
            if not missing:
                continue
            clips = torch.from_numpy(np.concatenate([r.clips for _, r in missing]))
            facts = [r.facts for _, r in missing for _ in r.clips]
            values = feature(clips.permute(0, 1, 4, 2, 3), facts)
            ends = np.cumsum([len(r.clips) for _, r in missing])[:-1]
            for (_, r), own in zip(missing, np.split(values, ends), strict=True):
                r.kept[feature.key] = _keep(cache, r.digest, read, feature.key, own)
        for index, r in pending:
            for feature in features:
                rows[feature.name].append(r.kept[feature.key])
            counts.append(r.num_clips)
            readable.append(index)
        pending.clear()

    work = _read if workers == 1 else _read_in_worker
    for index, result in enumerate(map_in_order(work, jobs, workers=workers)):
        if isinstance(result, str):
            broken.append((names[index], result))
        else:
            pending.append((index, result))
        if sum(r.num_clips for _, r in pending) >= BATCH:
            flush()
        if progress:
            progress(index + 1, len(paths))
    flush()
    stacked = {
        name: np.stack(values) if values else np.empty((0, 0), np.float32) for name, values in rows.items()
    }
    return Extracted(stacked, np.array(counts, np.int64), np.array(readable, np.int64), broken)


@dataclass(frozen=True)
class _Job:
    path: Path
    read: ReadOptions
    keys: tuple[str, ...]
    plain: tuple[Feature, ...]
    cache: Path | None


@dataclass
class _Read:
    digest: str
    facts: FileFacts
    clips: UInt8
    num_clips: int
    kept: dict[str, Float32]


def _read_in_worker(job: _Job) -> _Read | str:
    torch.set_num_threads(1)
    return _read(job)


def _read(job: _Job) -> _Read | str:
    """Return what is kept of a video, and its clips where an encoder needs them; or why it cannot be read."""
    try:
        kept: dict[str, Float32] = {}
        digest, num_clips = "", 0
        if job.cache is not None:
            with job.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            for key in job.keys:
                found = _kept(job.cache, digest, job.read, key)
                if found is not None:
                    kept[key], num_clips = found
            if len(kept) == len(job.keys):
                return _Read(digest, FileFacts(0, 0, 0, 0.0, 0.0), np.empty(0, np.uint8), num_clips, kept)
        clips, facts = np.stack(list(read_windows(job.path, job.read))), file_facts(job.path)
        for feature in job.plain:
            if feature.key not in kept:
                values = feature(torch.from_numpy(clips).permute(0, 1, 4, 2, 3), [facts] * len(clips))
                kept[feature.key] = _keep(job.cache, digest, job.read, feature.key, values)
        num_clips = len(clips)
        if len(kept) == len(job.keys):
            clips = np.empty(0, np.uint8)
        return _Read(digest, facts, clips, num_clips, kept)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _place(cache: Path, digest: str, read: ReadOptions, key: str) -> Path:
    settings = hashlib.sha256(f"{read.model_dump_json()} {key}".encode()).hexdigest()[:24]
    return cache / settings / f"{digest}.npz"


def _kept(cache: Path, digest: str, read: ReadOptions, key: str) -> tuple[Float32, int] | None:
    try:
        with _place(cache, digest, read, key).open("rb") as opened, np.load(opened) as file:
            return file["feature"], int(file["num_clips"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # not there, or cut by a kill
        return None


def _keep(cache: Path | None, digest: str, read: ReadOptions, key: str, values: Float32) -> Float32:
    """Return the mean over a video's clips, and keep it in the cache where there is one."""
    mean: Float32 = values.mean(0, dtype=np.float64).astype(np.float32)
    if cache is None:
        return mean
    path = _place(cache, digest, read, key)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, feature=mean, num_clips=np.array(len(values)))
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"cache '{cache}': cannot be written: {error.strerror}") from None
    return mean
