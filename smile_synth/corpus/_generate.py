"""Write a labelled corpus: one clip after the other, by index, resumable, the same bytes for any workers."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from smile_synth.annotations import annotate
from smile_synth.compositing import draw_frames, empty_frames
from smile_synth.core.errors import UserError, nearest
from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._header import (
    HEADER,
    LAYOUTS,
    CorpusHeader,
    licences,
    versions,
)
from smile_synth.corpus._labels import KINDS, check_kinds, labels_bytes, listed_labels
from smile_synth.corpus._manifest import ManifestWriter, Row, make_row, read_rows
from smile_synth.corpus._media import DEFAULT_QUALITY, MEDIA, check_medium
from smile_synth.corpus._store import (
    SHARDS,
    Source,
    Standing,
    assemble,
    clip_size,
    media_names,
    member_names,
    moved,
    place_of,
    shard_of,
    shard_size,
    write_files,
    write_piece,
)
from smile_synth.io.atomic import only_writer, sync_folder, told
from smile_synth.parallel.cluster import Cluster
from smile_synth.parallel.workers import in_order
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene, sample_scenes
from smile_synth.scene import Scene
from smile_synth.sources import Sources

_LARGEST_CLIP = 16 * 2**30  # bytes of frames, held in memory as a whole
_TOGETHER = 2**25  # pixels of the clips that a process makes in one go, of 16x224x224 forty
_DRAWN_TOGETHER = 2**22  # pixels of those that it draws in one go, twelve megabytes: five
_WRITERS = 4  # threads that wait for the disk, in every process
# Called with (clips done, clips in all, bytes of their media).
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class Job:
    """What a worker needs to write any clip of a corpus.

    Attributes:
        header: of the corpus.
        bank: objects; None where nothing is made.
        backgrounds: images and videos, where the scenes want them.
        out: the corpus folder.
        anew: make every file again, whatever stands.
    """

    header: CorpusHeader
    sources: Sources | None
    out: Path
    anew: bool = False


@dataclass(frozen=True)
class CorpusSummary:
    """What a run did.

    Attributes:
        num_clips: clips of the corpus (of this part of it).
        written: clips of which this run wrote something; the others stood already.
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
    size_hw: tuple[int, int] | None = None,
    fps: float | None = None,
    media: str = "h264",
    quality: int = DEFAULT_QUALITY,
    layout: str = "folder",
    clips_per_shard: int = 1000,
    labels: Sequence[str] = (),
    part: tuple[int, int] | None = None,
    workers: int = 1,
    ray: str | None = None,
    progress: Progress | None = None,
) -> CorpusSummary:
    """Write clips 0 .. num_clips - 1 with their scenes and labels, then the manifest.

    Run again on the same folder it writes only what is missing; ``num_clips`` and ``labels`` may grow.

    Args:
        recipe: what the clips look like.
        bank: objects.
        backgrounds: images, where the recipe wants them.
        out: the corpus folder.
        num_clips: at least 1.
        seed: of the corpus.
        size_hw: frame size; the recipe's own when left out, else of the same aspect.
        fps: of the video; the recipe's own when left out.
        media: ``h264``, or without loss ``ffv1``, ``png``, ``webp``, ``npz``.
        quality: of H.264, 0 (best) to 51.
        layout: ``folder`` (one per kind) or ``shards`` (WebDataset tars).
        clips_per_shard: clips in one tar.
        labels: kinds beside the objects': ``segmentation``, ``tracks``, ``flow``, ``backward-flow``.
        part: (i, n) writes the i-th of n parts, for `merge`.
        workers: processes; the bytes do not depend on it.
        ray: ``auto`` or the address of a Ray cluster, whose machines see the same files at the same paths;
            they work instead of ``workers`` processes here, and replace one another where one dies.
        progress: called with (clips done, clips in all, bytes of their media).

    Raises:
        UserError: another corpus stands there, another writer is at work, or sizes do not fit.
    """
    size_hw = size_hw or recipe.size
    for name, value, least in (
        ("num-clips", num_clips, 1), ("workers", workers, 1), ("seed", seed, 0),
        ("clips-per-shard", clips_per_shard, 1),
    ):  # fmt: skip
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    if layout not in LAYOUTS:
        raise UserError(f"layout '{layout}': allowed are {', '.join(LAYOUTS)}{nearest(layout, LAYOUTS)}")
    if part is not None and not 0 <= part[0] < part[1]:
        raise UserError(f"shard-index must be in 0..{part[1] - 1}, got {part[0]}")
    check_medium(media, quality, size_hw)
    _check_size(size_hw, recipe.num_frames)
    kinds = check_kinds(tuple(labels))
    # Draw one scene before anything is written: a recipe that asks for what is not there fails here.
    scene = sample_scene(recipe, sources, seed=seed, index=0).scaled_to(size_hw)
    wanted = CorpusHeader(
        recipe=recipe.values(),
        recipe_digest=recipe.digest,
        bank_digest=sources.objects.digest,
        background_digest=scene.background_digest,
        seed=seed,
        num_clips=num_clips,
        size_hw=size_hw,
        fps=float(fps or recipe.fps),
        media=media,
        quality=quality,
        layout=layout,
        clips_per_shard=clips_per_shard,
        labels=kinds,
        part=part,
        classes=tuple(sources.objects.class_names),
        licences=licences(sources.objects, sources.backgrounds if scene.background_digest else None),
        versions=versions(),
    )
    out = Path(out)
    _check_folder(out)
    with only_writer(out):
        header = wanted
        if (out / HEADER).exists():
            before = CorpusHeader.read(out)
            header = before.joined_by(wanted, out)
            header = replace(header, labels=check_kinds(header.labels))
            if header != before:
                header.write(out)
        else:
            header.write(out)
        cluster = Cluster(ray) if ray else None
        with closing(cluster) if cluster else nullcontext():
            job = Job(header, sources, out)
            return complete(job, workers=workers, progress=progress, cluster=cluster)


def _check_size(size_hw: tuple[int, int], num_frames: int) -> None:
    size = 3 * num_frames * size_hw[0] * size_hw[1]
    if size > _LARGEST_CLIP:
        raise UserError(
            f"{num_frames} frames of {size_hw[0]}x{size_hw[1]}: a clip of {size / 2**30:.0f} GiB is more "
            f"than the {_LARGEST_CLIP // 2**30} GiB that are held in memory"
        )


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds anything but a corpus of ours."""
    if (out / HEADER).is_file():
        return
    with told(out):
        ours = not out.exists() or all(
            path.name.startswith(("corpus.json.", "recipe.yaml", ".lock")) for path in out.iterdir()
        )
    if not ours:
        raise UserError(f"out '{out}': is not empty and holds no corpus of ours; give a new folder")


@dataclass(frozen=True)
class _Done:
    """A clip that stands.

    Attributes:
        row: of the manifest; in a shard, offsets are counted from the clip's own beginning.
        made: whether anything of it was made now.
        source: where it stands, if it is one of a shard's.
    """

    row: Row
    made: bool
    source: Source | None


def complete(
    job: Job, *, workers: int, progress: Progress | None, cluster: Cluster | None = None
) -> CorpusSummary:
    """Make whatever a corpus lacks, then write its manifest. The caller holds the corpus's lock."""
    out, header = job.out, job.header
    indices = header.indices
    clips = _clips(job, _unknown(job), workers, cluster)
    written = done = num_bytes = 0

    def count(clip: _Done) -> _Done:
        nonlocal written, done, num_bytes
        written += clip.made
        done += 1
        num_bytes += clip.row["bytes"]
        if progress:
            progress(done, len(indices), num_bytes)
        return clip

    with ManifestWriter(out) as manifest:
        if header.layout == "folder":
            for clip in clips:
                manifest.add(count(clip).row)
        else:
            for _, block in groupby(clips, key=lambda clip: clip.row["index"] // header.clips_per_shard):
                for row in _joined(job, [count(clip) for clip in block]):
                    manifest.add(row)
        # The manifest must not come to disk before the names of what it lists.
        for folder in {out, *(path for path in out.iterdir() if path.is_dir())}:
            sync_folder(folder)
    for left in (out / SHARDS).glob("*.parts"):
        shutil.rmtree(left)
    return CorpusSummary(len(indices), written, num_bytes)


def _joined(job: Job, clips: list[_Done]) -> Iterator[Row]:
    """Yield the rows of a shard where they come to stand, after it was put together if it has changed."""
    rows = [clip.row for clip in clips]
    sources = {clip.row["index"]: clip.source for clip in clips if clip.source}
    shard = job.out / shard_of(job.header, rows[0]["index"])
    if any(path != shard for path, _ in sources.values()) or _size(shard) != shard_size(rows):
        lacking = [row["index"] for row in rows if row["index"] not in sources]
        standing = Standing(job.out, job.header) if lacking else None
        for index in lacking:
            found = standing.source(index) if standing else None
            assert found is not None
            sources[index] = found
        assemble(job.out, job.header, rows, sources)
    start = 0
    for row in rows:
        yield moved(row, start)
        start += clip_size(row)


def _unknown(job: Job) -> list[int]:
    """Return the clips whose row in the present manifest does not do, or that have none."""
    known = set() if job.anew else {row["index"] for row in _trusted(job)}
    return [index for index in job.header.indices if index not in known]


def _trusted(job: Job) -> Iterator[Row]:
    """Yield the rows of the present manifest whose files stand as it says.

    Raises:
        UserError: a file stands with another size.
    """
    out, header = job.out, job.header
    names = member_names(header)

    def complete_rows() -> Iterator[Row]:
        for row in read_rows(out):
            if tuple(member["name"] for member in row["members"]) == names:
                yield row

    if header.layout == "folder":
        for row in complete_rows():
            sizes = [_size(out / member["file"]) for member in row["members"]]
            for member, size in zip(row["members"], sizes, strict=True):
                if size not in (None, member["bytes"]):
                    raise UserError(
                        f"'{out / member['file']}': has {size} bytes, the manifest says {member['bytes']}; "
                        "'smile-synth corpus repair' mends it"
                    )
            if None not in sizes:
                yield row
        return
    for file, block in groupby(complete_rows(), key=lambda row: str(row["file"])):
        rows = list(block)
        # A shard of another size was cut, which its scan will tell, or grown by a run that was killed.
        if _size(out / file) == shard_size(rows):
            yield from rows


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _clips(job: Job, todo: list[int], workers: int, cluster: Cluster | None) -> Iterator[_Done]:
    """Yield every clip, in order."""
    standing = None if job.anew else Standing(job.out, job.header)
    batches = _batches(job.header, todo, cluster.num_cpus if cluster else workers)
    work = in_order(partial(_work, _Work(job, standing)), batches, workers=workers, cluster=cluster)
    made = chain.from_iterable(work)
    missing = iter(todo)
    next_missing = next(missing, None)
    known = iter(()) if job.anew or len(todo) == len(job.header.indices) else _trusted(job)
    for index in job.header.indices:
        if index == next_missing:
            yield next(made)
            next_missing = next(missing, None)
        else:
            yield _Done(next(row for row in known if row["index"] == index), False, None)


def _batches(header: CorpusHeader, todo: list[int], workers: int) -> list[list[int]]:
    """Deal clips out in runs, of which none reaches from one shard into the next.

    Scenes are drawn, and files brought to disk, together; but a run should not take much longer than a
    second, and every process should have several.
    """
    pixels = header.num_frames * header.size_hw[0] * header.size_hw[1]
    most = max(1, min(64, _TOGETHER // pixels, len(todo) // (4 * workers)))
    batches: list[list[int]] = []
    for _, block in groupby(todo, key=lambda index: index // header.clips_per_shard):
        clips = list(block)
        batches += [clips[i : i + most] for i in range(0, len(clips), most)]
    return batches


@dataclass(frozen=True)
class _Work:
    """What all clips share; a process opens the present manifest once."""

    job: Job
    standing: Standing | None

    @cached_property
    def recorded(self) -> Corpus | None:
        return None if self.job.anew else Corpus(self.job.out, unfinished=True)


def _work(shared: _Work, indices: list[int]) -> list[_Done]:
    """Make what clips lack."""
    job, standing, recorded = shared.job, shared.standing, shared.recorded
    header, names = job.header, member_names(job.header)
    have = {index: standing.members(index) if standing else {} for index in indices}
    scenes = {i: Scene.from_bytes(members["scene"]) for i, members in have.items() if "scene" in members}
    undrawn = [index for index in indices if index not in scenes]
    scenes.update(zip(undrawn, draw_scenes(job, undrawn), strict=True))
    missing = {i: [name for name in names if name not in have[i]] for i in indices}
    # Labels of all clips first: after an encoder nothing but its own is left in a processor's caches.
    labels = {i: make_labels(job, scenes[i], missing[i]) for i in indices if missing[i]}
    seen = set(media_names(header))
    media = make_media(job, [scenes[i] for i in indices if not seen.isdisjoint(missing[i])])
    made: dict[int, dict[str, bytes]] = {}
    # A disk takes its time for each file; it takes them while the next clip is made.
    with ThreadPoolExecutor(_WRITERS) as disk:
        writing: list[Future[None]] = []
        for index in indices:
            if not missing[index]:
                continue
            new = labels[index][0]
            if not seen.isdisjoint(missing[index]):
                new |= {name: data for name, data in next(media).items() if name in missing[index]}
            if header.layout == "folder":
                writing += [disk.submit(write_files, job.out, index, {name: new[name]}) for name in new]
            made[index] = {name: new[name] if name in new else have[index][name] for name in names}
        for written in writing:
            written.result()
    rows: list[Row] = []
    for index in indices:
        members = made.get(index, have[index])
        listed = labels[index][1] if index in labels else None
        row = make_row(index, members, place_of(header, index, members), media_names(header), listed)
        if recorded is not None and index in recorded.indices:
            _check_unchanged(recorded.row(index), row)
        rows.append(row)
    sources: dict[int, Source] = {}
    if header.layout == "shards":
        if made:
            sources = write_piece(job.out, header, made)
        if standing:
            sources |= {i: found for i in indices if i not in made and (found := standing.source(i))}
    return [_Done(row, row["index"] in made, sources.get(row["index"])) for row in rows]


def _check_unchanged(recorded: Row, row: Row) -> None:
    """Refuse files other than those that the present manifest lists: a new one must not bless damage."""
    before = {member["name"]: member["sha256"] for member in recorded["members"]}
    for member in row["members"]:
        if before.get(member["name"], member["sha256"]) != member["sha256"]:
            raise UserError(
                f"'{member['file']}': clip {row['index']} is not as the manifest says (sha256 of its "
                f"{member['name']} differs); 'smile-synth corpus repair' mends it"
            )


def draw_scenes(job: Job, indices: Sequence[int]) -> list[Scene]:
    """Draw the scenes of clips anew."""
    header = job.header
    if not indices:
        return []
    assert job.sources is not None
    scenes = sample_scenes(header.resolved_recipe, job.sources, seed=header.seed, indices=indices)
    return [scene.scaled_to(header.size_hw) for scene in scenes]


def make_members(job: Job, scene: Scene, names: Sequence[str]) -> dict[str, bytes]:
    """Make files of a clip from its scene.

    Raises:
        UserError: the sources are not those of the scene.
    """
    made, _ = make_labels(job, scene, names)
    if not made.keys() >= set(names):
        media = next(make_media(job, [scene]))
        made |= {name: media[name] for name in names if name in media}
    return made


def make_labels(
    job: Job, scene: Scene, names: Sequence[str]
) -> tuple[dict[str, bytes], dict[str, Any] | None]:
    """Make those files of a clip that are not media; returns them and, with the labels, the `listed_labels`.

    Raises:
        UserError: the sources are not those of the scene.
    """
    made: dict[str, bytes] = {}
    listed: dict[str, Any] | None = None
    assert job.sources is not None
    annotation = annotate(scene, job.sources)
    content = scene.to_bytes()
    for name in names:
        kind = name.removesuffix(".npz")
        if name == "scene":
            made[name] = content
        elif name == "json":
            digest = hashlib.sha256(content).hexdigest()
            made[name], listed = labels_bytes(annotation, digest), listed_labels(annotation, digest)
        elif kind in KINDS:
            made[name] = KINDS[kind](annotation)
    return made, listed


def make_media(job: Job, scenes: Sequence[Scene]) -> Iterator[dict[str, bytes]]:
    """Yield the media of clips, some of which are drawn at a time.

    Raises:
        UserError: the sources are not those of a scene.
    """
    header = job.header
    assert job.sources is not None
    together = max(1, _DRAWN_TOGETHER // (header.num_frames * header.size_hw[0] * header.size_hw[1]))
    for first in range(0, len(scenes), together):
        some = scenes[first : first + together]
        frames = empty_frames(len(some), header.num_frames, header.size_hw, "uint8")
        draw_frames(some, job.sources, frames)
        for clip in frames:
            yield MEDIA[header.media].encode(clip, header.fps, header.quality)
