"""Find the faults of a corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from smile_synth.core.errors import UserError
from smile_synth.corpus import _store
from smile_synth.corpus._clip_files import CorpusJob, make_files
from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._header import HEADER, RECIPE, CorpusHeader, current_versions
from smile_synth.corpus._manifest import MANIFEST
from smile_synth.corpus._media import MEDIA, Members
from smile_synth.io.atomic import LOCK
from smile_synth.io.images import Reject
from smile_synth.parallel.workers import map_in_order
from smile_synth.scene import Scene
from smile_synth.sources import Sources

# Called with (clips done, clips in total).
ClipProgress = Callable[[int, int], None]
# Largest difference of lossless frames, and largest mean difference of others, that count as equal frames.
_MAX_LOSSLESS_DIFFERENCE, _MAX_MEAN_DIFFERENCE = 3, 1.0


@dataclass(frozen=True)
class Fault:
    """A fault of a corpus.

    Attributes:
        file: path of the file, relative to the corpus.
        what: the fault, as the end of a sentence about the file.
        index: of the clip; None if the file does not belong to one clip.
    """

    file: str
    what: str
    index: int | None = None

    def __str__(self) -> str:
        """Return the fault in one line."""
        return f"{self.file}: {self.what}" + ("" if self.index is None else f" (clip {self.index})")


def verify(
    path: str | Path,
    *,
    deep: bool = False,
    sources: Sources | None = None,
    workers: int = 1,
    progress: ClipProgress | None = None,
) -> list[Fault]:
    """Find all missing, cut, altered or unknown files of a corpus.

    Args:
        path: the corpus.
        deep: also compare the content of all files with the manifest.
        sources: those of the corpus; if given, every clip is rendered and labelled again from its scene, and
            compared.
        workers: number of processes.
        progress: called with (clips done, clips in total).

    Raises:
        UserError: not a corpus, or other sources.

    Example:
        >>> summary = generate(recipe, sources, out="corpus", num_clips=2, seed=0)
        >>> verify("corpus")
        []
    """
    path = Path(path)
    header = CorpusHeader.read(path)
    if sources:
        check_sources(header, sources)
    try:
        corpus = Corpus(path, unfinished=True)
    except UserError as error:
        return [Fault(MANIFEST, str(error))]
    faults = [*_unfinished(corpus), *wrong_sizes(corpus), *_unknown_files(corpus)]
    if deep or sources:
        job = None if sources is None else CorpusJob(header, sources, path)
        known = {(fault.index, fault.file) for fault in faults}
        results = map_in_order(partial(_clip_faults, corpus, job), corpus.indices, workers=workers)
        for done, found in enumerate(results, 1):
            faults += [fault for fault in found if (fault.index, fault.file) not in known]
            if progress:
                progress(done, len(corpus))
    return faults


def check_sources(header: CorpusHeader, sources: Sources) -> None:
    """Raise UserError if the sources are not those of a corpus."""
    sources.check(header.bank_digest, header.background_digest, of="corpus")


# --- faults of the whole corpus


def _unfinished(corpus: Corpus) -> list[Fault]:
    reason = corpus.unfinished_reason()
    return [Fault(MANIFEST, f"the corpus is not finished: {reason}")] if reason else []


def wrong_sizes(corpus: Corpus) -> Iterator[Fault]:
    """Yield the files that are missing or have another size than in the manifest."""
    if corpus.header.layout == "folder":
        for index in corpus:
            for member in corpus.row(index)["members"]:
                yield from _wrong_size(corpus, member["file"], member["bytes"], index)
        return
    for file, indices in shards(corpus):
        expected = _store.shard_size([corpus.row(index) for index in indices])
        yield from _wrong_size(corpus, file, expected, None)


def _wrong_size(corpus: Corpus, file: str, expected: int, index: int | None) -> Iterator[Fault]:
    size = _store.size_of(corpus.path / file)
    if size != expected:
        what = "is missing" if size is None else f"has {size} bytes, expected {expected}"
        yield Fault(file, what, index)


def shards(corpus: Corpus) -> Iterator[tuple[str, list[int]]]:
    """Yield every shard with its clips."""
    for file, indices in groupby(corpus.indices, key=lambda index: _store.shard_of(corpus.header, index)):
        yield file, list(indices)


def _unknown_files(corpus: Corpus) -> list[Fault]:
    known = {HEADER, MANIFEST, RECIPE, LOCK}
    for index in corpus:
        known.update(member["file"] for member in corpus.row(index)["members"])
    found = (file.relative_to(corpus.path).as_posix() for file in corpus.path.rglob("*") if file.is_file())
    return [Fault(file, "is not in the manifest") for file in sorted(found) if file not in known]


# --- faults of one clip


def _clip_faults(corpus: Corpus, job: CorpusJob | None, index: int) -> list[Fault]:
    """Compare the files of a clip with the manifest and, if there is a job, with new ones."""
    members, faults = intact_files(corpus, index)
    if job is None or "scene" not in members:
        return faults
    row, header = corpus.row(index), corpus.header
    files = {member["name"]: member["file"] for member in row["members"]}
    made = make_files(job, Scene.from_bytes(members["scene"]), list(files))
    different = [name for name, data in members.items() if data != made[name]]
    media = [name for name in _store.media_names(header) if name in different]
    if media and all(name in members for name in _store.media_names(header)):
        # One fault for all media files, and none if another version of the encoder gives equal frames.
        reported = [] if _equal_frames(header, members, made) else media[:1]
        different = [name for name in different if name not in media or name in reported]
    what = f"differs from what its scene gives{version_note(header)}"
    if header.layout == "shards":
        return faults + [Fault(files[name], f"{name} {what}", index) for name in different]
    return faults + [Fault(files[name], what, index) for name in different]


def intact_files(corpus: Corpus, index: int) -> tuple[Members, list[Fault]]:
    """Return the files of a clip whose content is that of the manifest, and the faults of the others."""
    members: Members = {}
    faults = []
    for member in corpus.row(index)["members"]:
        path = corpus.path / member["file"]
        data = _store.read_at(path, member["offset"], member["bytes"]) if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() == member["sha256"]:
            members[member["name"]] = data
            continue
        if not path.is_file():
            what = "is missing"
        elif len(data) < member["bytes"]:
            what = f"is cut short: {member['name']} ends after {len(data)} of {member['bytes']} bytes"
        else:
            what = f"is altered: sha256 of {member['name']} differs"
        faults.append(Fault(member["file"], what, index))
    return members, faults


def _equal_frames(header: CorpusHeader, stored: Members, made: Members) -> bool:
    medium, names = MEDIA[header.media], _store.media_names(header)
    try:
        frames, expected = (medium.decode({name: files[name] for name in names}) for files in (stored, made))
    except Reject:
        return False
    if frames.shape != expected.shape:
        return False
    difference = np.abs(frames.astype(np.int16) - expected)
    if medium.lossless:
        return bool(difference.max() <= _MAX_LOSSLESS_DIFFERENCE)
    return bool(difference.mean() <= _MAX_MEAN_DIFFERENCE)


def version_note(header: CorpusHeader) -> str:
    """Return which package versions differ from those of the corpus, for the end of a message."""
    now, then = current_versions(), header.versions
    other = [f"{name} {then.get(name)} then, {now[name]} now" for name in now if now[name] != then.get(name)]
    return f"; versions differ: {', '.join(other)}" if other else ""
