"""Make the faulty files of a corpus again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from smile_synth.core.errors import UserError
from smile_synth.corpus import _store
from smile_synth.corpus._clip_files import CorpusJob, make_files, sample_job_scenes
from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._generate import write_missing
from smile_synth.corpus._header import CorpusHeader
from smile_synth.corpus._manifest import MANIFEST
from smile_synth.corpus._verify import (
    ClipProgress,
    Fault,
    check_sources,
    intact_files,
    shards,
    version_note,
    wrong_sizes,
)
from smile_synth.parallel.workers import map_in_order
from smile_synth.scene import Scene
from smile_synth.sources import Sources


@dataclass(frozen=True)
class RepairReport:
    """The result of `repair`.

    Attributes:
        repaired: faults that were repaired.
        remaining: faults that were not repaired, with the reason.
    """

    repaired: tuple[Fault, ...]
    remaining: tuple[Fault, ...]


def repair(
    path: str | Path,
    sources: Sources,
    *,
    workers: int = 1,
    progress: ClipProgress | None = None,
) -> RepairReport:
    """Make the missing, cut or altered files of a corpus again, and no others.

    A new file must have the recorded sha256. Where it has another one (other versions of packages), the old
    file is kept and reported. Without a readable manifest all clips are made again.

    Raises:
        UserError: not a corpus, other sources, or no manifest and other versions.

    Example:
        >>> summary = generate(recipe, sources, out="corpus", num_clips=2, seed=0)
        >>> repair("corpus", sources)
        RepairReport(repaired=(), remaining=())
    """
    path = Path(path)
    header = CorpusHeader.read(path)
    check_sources(header, sources)
    with _store.only_writer(path):
        job = CorpusJob(header, sources, path)
        try:
            corpus = Corpus(path, unfinished=True)
            if not len(corpus) and header.indices:
                raise UserError("it lists no clips")
        except UserError as error:
            return _repair_without_manifest(job, error, workers, progress)
        size_faults = [fault for fault in wrong_sizes(corpus) if fault.index is None]
        repaired: list[Fault] = []
        remaining: list[Fault] = []
        positions: dict[int, _store.TarPosition] = {}
        results = map_in_order(partial(_repair_clip, corpus, job), corpus.indices, workers=workers)
        for done, clip in enumerate(results, 1):
            repaired += clip.repaired
            remaining += clip.remaining
            positions |= clip.positions
            if progress:
                progress(done, len(corpus))
        if header.layout == "shards":
            repaired, remaining = _repair_shards(corpus, positions, size_faults, repaired, remaining)
        _store.sync_all_folders(path)
    return RepairReport(tuple(repaired), tuple(remaining))


def _repair_without_manifest(
    job: CorpusJob, error: UserError, workers: int, progress: ClipProgress | None
) -> RepairReport:
    note = version_note(job.header)
    if note:
        raise UserError(f"corpus '{job.out}': its manifest cannot be read{note}") from None
    (job.out / MANIFEST).unlink(missing_ok=True)

    def report(done: int, total: int, num_bytes: int) -> None:
        if progress:
            progress(done, total)

    write_missing(replace(job, overwrite=True), workers=workers, progress=report)
    return RepairReport((Fault(MANIFEST, f"made again with all clips: {error}"),), ())


class _RepairedClip(NamedTuple):
    """The result for one clip; ``positions`` has its piece if the shard must be assembled again."""

    repaired: Sequence[Fault] = ()
    remaining: Sequence[Fault] = ()
    positions: Mapping[int, _store.TarPosition] = {}


def _repair_clip(corpus: Corpus, job: CorpusJob, index: int) -> _RepairedClip:
    """Write the faulty files of a clip again, or in the layout ``shards`` the whole clip as a piece."""
    members, faults = intact_files(corpus, index)
    if not faults:
        return _RepairedClip()
    row = corpus.row(index)
    recorded = {member["name"]: member["sha256"] for member in row["members"]}
    scene = Scene.from_bytes(members["scene"]) if "scene" in members else sample_job_scenes(job, [index])[0]
    made = make_files(job, scene, [name for name in recorded if name not in members])
    if any(hashlib.sha256(data).hexdigest() != recorded[name] for name, data in made.items()):
        reason = f"; made again it has another sha256{version_note(corpus.header)}"
        return _RepairedClip(remaining=[replace(fault, what=fault.what + reason) for fault in faults])
    if corpus.header.layout == "folder":
        _store.write_files(corpus.path, index, made)
        return _RepairedClip(faults)
    whole = members | made
    clip = {name: whole[name] for name in recorded}
    return _RepairedClip(faults, positions=_store.write_piece(corpus.path, corpus.header, {index: clip}))


def _repair_shards(
    corpus: Corpus,
    positions: Mapping[int, _store.TarPosition],
    size_faults: Sequence[Fault],
    repaired: Sequence[Fault],
    remaining: Sequence[Fault],
) -> tuple[list[Fault], list[Fault]]:
    """Assemble the shards with repaired clips; return all faults, repaired and remaining.

    A shard with a fault that remains cannot be assembled, so its other faults remain, too.
    """
    changed = {fault.file for fault in (*repaired, *size_faults)}
    broken = {fault.file for fault in remaining}
    for file, indices in shards(corpus):
        if file in changed and file not in broken:
            rows = [corpus.row(index) for index in indices]
            present = {row["index"]: _store.position_of(corpus.path, row) for row in rows}
            _store.assemble_shard(corpus.path, corpus.header, rows, present | dict(positions))
    _store.remove_pieces(corpus.path)
    listed = {fault.file for fault in (*repaired, *remaining)}
    faults = [*repaired, *(fault for fault in size_faults if fault.file not in listed)]
    unassembled = [fault for fault in faults if fault.file in broken]
    return [fault for fault in faults if fault.file not in broken], [
        *remaining,
        *(replace(fault, what=f"{fault.what}; its shard cannot be assembled") for fault in unassembled),
    ]
