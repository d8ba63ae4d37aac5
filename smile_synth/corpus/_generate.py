"""Write a labelled corpus. A killed run can be resumed; the bytes do not depend on the number of workers.

Terms:
    member: one file of a clip: its scene, its labels, or a media file.
    shard: a tar with the members of ``clips_per_shard`` clips.
    piece: a temporary tar with some clips of one shard.
    part: the share of a corpus that one job of a job array writes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

from smile_synth.core.errors import UserError, check_name
from smile_synth.core.rng import MAX_SEED
from smile_synth.corpus import _store
from smile_synth.corpus._clip_files import CorpusJob, encode, label_files, render, sample_job_scenes
from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._header import (
    HEADER,
    LAYOUTS,
    RECIPE,
    CorpusHeader,
    count_licences,
    current_versions,
)
from smile_synth.corpus._labels import check_kinds
from smile_synth.corpus._manifest import REPAIR, Row, make_row, new_manifest, read_rows
from smile_synth.corpus._media import Members, check_medium
from smile_synth.io.atomic import LOCK, write_errors_for
from smile_synth.io.videos import DEFAULT_CRF
from smile_synth.parallel.cluster import Cluster
from smile_synth.parallel.workers import map_in_order
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene
from smile_synth.scene import Scene
from smile_synth.sources import Sources

_MAX_CLIP_BYTES = 16 * 2**30  # of the frames of one clip, which are in memory at once
_BATCH_PIXELS = 2**25  # of the clips of one task: 40 clips of 16x224x224
_MAX_BATCH_CLIPS = 64
_DISK_THREADS = 4  # that wait for the disk, in every process
# Called with (clips done, clips in total, bytes of their media).
Progress = Callable[[int, int, int], None]


class CorpusOptions(TypedDict, total=False):
    """How the clips of a corpus are stored. Runs that continue a corpus use the same options.

    Attributes:
        size_hw: frame size; default: the recipe's size. Its aspect is that of the recipe.
        fps: frames per second of the videos; default: that of the recipe.
        media: ``h264`` (default), or lossless ``ffv1``, ``png``, ``webp``, ``npz``.
        quality: of H.264, 0 (best) to 51; default: 18.
        layout: ``folder`` (one per kind, default) or ``shards`` (WebDataset tars).
        clips_per_shard: clips in one tar; default: 1000.
        labels: kinds in addition to the object labels: ``segmentation``, ``tracks``, ``flow``,
            ``backward-flow``.
    """

    size_hw: tuple[int, int] | None
    fps: float | None
    media: str
    quality: int
    layout: str
    clips_per_shard: int
    labels: Sequence[str]


@dataclass(frozen=True)
class CorpusSummary:
    """The result of a run.

    Attributes:
        num_clips: clips of the corpus, or of this part of it.
        written: clips of which this run wrote at least one file; the others were complete before.
        num_bytes: of the media.
    """

    num_clips: int
    written: int
    num_bytes: int


def generate(
    recipe: Recipe,
    sources: Sources,
    *,
    out: str | Path,
    num_clips: int,
    seed: int,
    part: tuple[int, int] | None = None,
    workers: int = 1,
    ray: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[CorpusOptions],
) -> CorpusSummary:
    """Write the clips 0 .. num_clips - 1 with their scenes and labels, then the manifest.

    If the folder already has this corpus, only missing files are written. A later run may have more
    ``num_clips`` and more ``labels``.

    Args:
        recipe: of the clips.
        sources: objects and backgrounds of the clips.
        out: folder of the corpus.
        num_clips: number of clips, at least 1.
        seed: of the corpus, 0 .. 2^63 - 1.
        part: (i, n) writes part i of n, 0 <= i < n, for `merge`.
        workers: number of processes; the bytes do not depend on it.
        ray: ``auto`` or the address of a Ray cluster, which runs the tasks instead of local processes. All
            its machines need the same files at the same paths.
        progress: called with (clips done, clips in total, bytes of their media).
        options: see `CorpusOptions`.

    Raises:
        UserError: a bad value, the folder has other content, or another writer uses it.
        TypeError: an unknown option.

    Example:
        >>> generate(recipe, sources, out="corpus", num_clips=2, seed=0).written
        2
        >>> generate(recipe, sources, out="corpus", num_clips=3, seed=0).written  # the others are complete
        1
    """
    if workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    requested = _new_header(recipe, sources, num_clips, seed, part, options)
    out = Path(out)
    _check_folder(out)
    cluster = Cluster(ray) if ray else None  # raises an error before anything is written
    with closing(cluster) if cluster else nullcontext(), _store.only_writer(out):
        header = requested
        previous = CorpusHeader.read(out) if (out / HEADER).exists() else None
        if previous:
            header = previous.grown_to(requested, out)
            header = replace(header, labels=check_kinds(header.labels))
        if header != previous:
            header.write(out)
        job = CorpusJob(header, sources, out)
        return write_missing(job, workers=workers, progress=progress, cluster=cluster)


def _new_header(
    recipe: Recipe,
    sources: Sources,
    num_clips: int,
    seed: int,
    part: tuple[int, int] | None,
    options: CorpusOptions,
) -> CorpusHeader:
    """Check all arguments of `generate` and return the header of its corpus."""
    unknown = options.keys() - CorpusOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"generate() got an unexpected keyword argument '{min(unknown)}'")
    size_hw = options.get("size_hw") or recipe.size
    media, quality = options.get("media", "h264"), options.get("quality", DEFAULT_CRF)
    layout, clips_per_shard = options.get("layout", "folder"), options.get("clips_per_shard", 1000)
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed must be in 0..2^63-1, got {seed}")
    minima = {"num_clips": (num_clips, 1), "clips_per_shard": (clips_per_shard, 1)}
    for name, (value, minimum) in minima.items():
        if value < minimum:
            raise UserError(f"{name} must be at least {minimum}, got {value}")
    check_name("layout", layout, LAYOUTS)
    if part is not None and not 0 <= part[0] < part[1]:
        raise UserError(f"part={part}: expected (i, n) with 0 <= i < n")
    check_medium(media, quality, size_hw)
    clip_bytes = 3 * recipe.num_frames * size_hw[0] * size_hw[1]
    if clip_bytes > _MAX_CLIP_BYTES:
        raise UserError(
            f"{recipe.num_frames} frames of {size_hw[0]}x{size_hw[1]}: a clip of {clip_bytes / 2**30:.0f} "
            f"GiB exceeds the maximum of {_MAX_CLIP_BYTES // 2**30} GiB in memory"
        )
    labels = check_kinds(options.get("labels", ()))
    # A recipe that does not fit its sources fails here, before anything is written.
    scene = sample_scene(recipe, sources, seed=seed, index=0).scaled_to(size_hw)
    used_sources = sources if scene.background_digest else Sources(sources.objects)
    return CorpusHeader(
        recipe=recipe.values(),
        recipe_digest=recipe.digest,
        bank_digest=sources.objects.digest,
        background_digest=scene.background_digest,
        seed=seed,
        num_clips=num_clips,
        size_hw=size_hw,
        fps=float(options.get("fps") or recipe.fps),
        media=media,
        quality=quality,
        layout=layout,
        clips_per_shard=clips_per_shard,
        labels=labels,
        part=part,
        classes=tuple(sources.objects.class_names),
        licences=count_licences(used_sources),
        versions=current_versions(),
    )


def _check_folder(out: Path) -> None:
    """Refuse a folder that contains anything other than a corpus."""
    if (out / HEADER).is_file() or not out.exists():
        return
    with write_errors_for(out):
        names = [path.name for path in out.iterdir()]
    if not all(name.startswith((f"{HEADER}.", RECIPE, LOCK)) for name in names):
        raise UserError(f"out '{out}': is not empty and has no {HEADER}; use a new folder")


# --- all clips


class _FinishedClip(NamedTuple):
    """A clip with all its files.

    Attributes:
        row: of the manifest.
        is_new: whether this run made some of its files.
        position: its tar, in the layout ``shards``.
    """

    row: Row
    is_new: bool
    position: _store.TarPosition | None


def write_missing(
    job: CorpusJob, *, workers: int, progress: Progress | None, cluster: Cluster | None = None
) -> CorpusSummary:
    """Make the missing files of a corpus, then write its manifest. The caller has locked the corpus."""
    out, header = job.out, job.header
    written = done = num_bytes = 0

    def counted(clips: Iterator[_FinishedClip]) -> Iterator[_FinishedClip]:
        nonlocal written, done, num_bytes
        for clip in clips:
            written += clip.is_new
            done += 1
            num_bytes += clip.row["bytes"]
            if progress:
                progress(done, len(header.indices), num_bytes)
            yield clip

    clips = counted(_all_clips(job, workers, cluster))
    with new_manifest(out) as append:
        if header.layout == "folder":
            for clip in clips:
                append(clip.row)
        else:
            for _, block in groupby(clips, key=lambda clip: clip.row["index"] // header.clips_per_shard):
                finished = list(block)
                positions = {clip.row["index"]: clip.position for clip in finished if clip.position}
                for row in finish_shard(out, header, [clip.row for clip in finished], positions):
                    append(row)
        _store.sync_all_folders(out)
    _store.remove_pieces(out)
    return CorpusSummary(len(header.indices), written, num_bytes)


def _all_clips(job: CorpusJob, workers: int, cluster: Cluster | None) -> Iterator[_FinishedClip]:
    """Yield all clips in order, and make the missing ones."""
    complete = {row["index"] for row in _valid_rows(job)}
    todo = [index for index in job.header.indices if index not in complete]
    batches = _batches(job.header, todo, cluster.num_cpus if cluster else workers)
    work = partial(_make_clips, _BatchContext(job, _store.StoredClips(job.out, job.header)))
    made = chain.from_iterable(map_in_order(work, batches, workers=workers, cluster=cluster))
    # Reads the rows a second time: keeping them would need memory that grows with the number of clips.
    valid = (_FinishedClip(row, False, _position(job, row)) for row in _valid_rows(job))
    return heapq.merge(valid, made, key=lambda clip: clip.row["index"])


def _position(job: CorpusJob, row: Row) -> _store.TarPosition | None:
    return _store.position_of(job.out, row) if job.header.layout == "shards" else None


def _valid_rows(job: CorpusJob) -> Iterator[Row]:
    """Yield the rows of the present manifest whose files are complete.

    Raises:
        UserError: a file has another size than in the manifest.
    """
    if job.overwrite:
        return
    out, names = job.out, _store.member_names(job.header)
    rows = (row for row in read_rows(out) if tuple(member["name"] for member in row["members"]) == names)
    if job.header.layout == "shards":
        for file, block in groupby(rows, key=lambda row: str(row["file"])):
            shard = list(block)
            # If the size differs, a killed run has added clips to the shard, or the shard was cut short. Its
            # clips are then looked up in the tar itself, which raises an error if it was cut short.
            if _store.size_of(out / file) == _store.shard_size(shard):
                yield from shard
        return
    for row in rows:
        sizes = [_store.size_of(out / member["file"]) for member in row["members"]]
        for member, size in zip(row["members"], sizes, strict=True):
            if size not in (None, member["bytes"]):
                raise UserError(
                    f"'{out / member['file']}': has {size} bytes, in the manifest {member['bytes']}; {REPAIR}"
                )
        if None not in sizes:
            yield row


def _batches(header: CorpusHeader, todo: Sequence[int], workers: int) -> list[list[int]]:
    """Group clips into tasks; the clips of a task belong to one shard.

    The scenes of a task are sampled together, and its files are written together. A task should take about a
    second, and every process should have several.
    """
    pixels = header.num_frames * header.size_hw[0] * header.size_hw[1]
    size = max(1, min(_MAX_BATCH_CLIPS, _BATCH_PIXELS // pixels, len(todo) // (4 * workers)))
    batches: list[list[int]] = []
    for _, block in groupby(todo, key=lambda index: index // header.clips_per_shard):
        clips = list(block)
        batches += [clips[i : i + size] for i in range(0, len(clips), size)]
    return batches


def finish_shard(
    out: Path, header: CorpusHeader, rows: Sequence[Row], positions: Mapping[int, _store.TarPosition]
) -> Iterator[Row]:
    """Assemble the shard of these clips if it has changed; yield the rows with their offsets in it."""
    shard = out / _store.shard_of(header, rows[0]["index"])
    changed = any(path != shard for path, _ in positions.values())
    if changed or _store.size_of(shard) != _store.shard_size(rows):
        _store.assemble_shard(out, header, rows, positions)
    start = 0
    for row in rows:
        yield _store.moved_row(row, start)
        start += _store.clip_size(row)


# --- the clips of one task, in a worker


@dataclass(frozen=True)
class _BatchContext:
    """The common argument of all tasks."""

    job: CorpusJob
    stored: _store.StoredClips

    @cached_property
    def recorded(self) -> Corpus | None:
        """The present manifest, opened once per process."""
        return None if self.job.overwrite else Corpus(self.job.out, unfinished=True)


def _make_clips(context: _BatchContext, indices: Sequence[int]) -> list[_FinishedClip]:
    """Make and store the missing files of clips."""
    job, header = context.job, context.job.header
    names = _store.member_names(header)
    existing = {i: {} if job.overwrite else context.stored.members(i) for i in indices}
    missing = {i: [name for name in names if name not in existing[i]] for i in indices}
    scenes = _scenes(job, existing)
    todo = [i for i in indices if missing[i]]
    # Label all clips before encoding the first one: an encoder evicts other data from the CPU caches.
    new = {i: label_files(job, scenes[i], missing[i]) for i in todo}
    with_media = [i for i in todo if not set(_store.media_names(header)).isdisjoint(missing[i])]
    frames = render(job, [scenes[i] for i in with_media])
    writing: list[Future[None]] = []
    # Threads write the files of a clip while this thread encodes the next clip.
    with ThreadPoolExecutor(_DISK_THREADS) as disk:
        for i in todo:
            if i in with_media:
                media = encode(header, next(frames))
                new[i] |= {name: media[name] for name in missing[i] if name in media}
            if header.layout == "folder":
                writing += [
                    disk.submit(_store.write_files, job.out, i, {name: new[i][name]}) for name in new[i]
                ]
    for future in writing:
        future.result()  # raises the error of its write
    members = {i: existing[i] | new.get(i, {}) for i in indices}
    members = {i: {name: files[name] for name in names} for i, files in members.items()}
    rows = {i: _row(context, i, members[i]) for i in indices}
    positions: dict[int, _store.TarPosition | None] = {}
    if header.layout == "shards":
        positions = {i: context.stored.position(i) for i in indices if not missing[i]}
        if todo:
            positions |= _store.write_piece(job.out, header, {i: members[i] for i in todo})
    return [_FinishedClip(rows[i], bool(missing[i]), positions.get(i)) for i in indices]


def _scenes(job: CorpusJob, existing: Mapping[int, Members]) -> dict[int, Scene]:
    """Read the stored scenes, and sample the missing ones."""
    scenes = {i: Scene.from_bytes(files["scene"]) for i, files in existing.items() if "scene" in files}
    missing = [i for i in existing if i not in scenes]
    return scenes | dict(zip(missing, sample_job_scenes(job, missing), strict=True))


def _row(context: _BatchContext, index: int, members: Members) -> Row:
    """Return the row of a clip; raise UserError if a file differs from the present manifest.

    Without this check the new manifest would record a damaged file as valid.
    """
    header, recorded = context.job.header, context.recorded
    row = make_row(index, members, _store.places_of(header, index, members), _store.media_names(header))
    if recorded is not None and index in recorded.indices:
        before = {member["name"]: member["sha256"] for member in recorded.row(index)["members"]}
        for member in row["members"]:
            if before.get(member["name"], member["sha256"]) != member["sha256"]:
                raise UserError(
                    f"'{member['file']}': clip {index} differs from the manifest (sha256 of its "
                    f"{member['name']}); {REPAIR}"
                )
    return row
