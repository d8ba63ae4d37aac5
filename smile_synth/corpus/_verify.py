"""Check a corpus, mend it, add labels to it, put parts of it together."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from smile_synth.core.errors import UserError
from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._generate import CorpusSummary, Job, Progress, complete, draw_scenes, make_members
from smile_synth.corpus._header import HEADER, CorpusHeader, versions
from smile_synth.corpus._labels import check_kinds
from smile_synth.corpus._manifest import MANIFEST, ManifestWriter
from smile_synth.corpus._media import MEDIA
from smile_synth.corpus._store import (
    Source,
    Standing,
    assemble,
    file_of,
    media_names,
    member_names,
    read_at,
    shard_size,
    write_files,
    write_piece,
)
from smile_synth.io.atomic import LOCK, PART, only_writer, sync_folder, told, write_bytes
from smile_synth.parallel.workers import in_order
from smile_synth.scene import Scene
from smile_synth.sources import Sources

# Called with (clips done, clips in all).
Count = Callable[[int, int], None]
_TAR_HEADER = 512


@dataclass(frozen=True)
class Fault:
    """Something wrong with a corpus.

    Attributes:
        file: which, from the corpus's folder.
        what: is wrong with it.
        index: of the clip, None where it is no clip's.
    """

    file: str
    what: str
    index: int | None = None

    def __str__(self) -> str:
        """Return it in one line."""
        return f"{self.file}: {self.what}" + ("" if self.index is None else f" (clip {self.index})")


@dataclass(frozen=True)
class RepairReport:
    """What `repair` did.

    Attributes:
        mended: faults that are gone.
        left: faults that stay, with the reason.
    """

    mended: tuple[Fault, ...]
    left: tuple[Fault, ...]


# --- verify


def verify(
    path: str | Path,
    *,
    deep: bool = False,
    sources: Sources | None = None,
    workers: int = 1,
    progress: Count | None = None,
) -> list[Fault]:
    """Find every missing, cut, altered or stray file of a corpus.

    Args:
        path: the corpus.
        deep: compare the content of all files with the manifest, too.
        sources: what the corpus was made from; if given, every clip is rendered and labelled again from its
            scene and compared.
        workers: processes.
        progress: called with (clips done, clips in all).

    Raises:
        UserError: no corpus of ours, or other sources than those it was made from.
    """
    path = Path(path)
    header = CorpusHeader.read(path)
    try:
        corpus = Corpus(path, unfinished=True)
    except UserError as error:
        return [Fault(MANIFEST, str(error))]
    faults = _unfinished(corpus) + _sizes(corpus) + _strays(corpus)
    if deep or sources:
        job = None if sources is None else Job(header, sources, path)
        seen = {(fault.index, fault.file) for fault in faults}
        for done, found in enumerate(
            in_order(partial(_examine, corpus, job), corpus.indices, workers=workers), 1
        ):
            faults += [fault for fault in found if (fault.index, fault.file) not in seen]
            if progress:
                progress(done, len(corpus))
    return faults


def _unfinished(corpus: Corpus) -> list[Fault]:
    try:
        Corpus(corpus.path)
    except UserError as error:
        return [Fault(MANIFEST, str(error))]
    return []


def _blocks(corpus: Corpus) -> list[tuple[str, list[int]]]:
    """Return every shard with its clips."""
    per = corpus.header.clips_per_shard
    return [
        (f"shards/{number:06d}.tar", list(indices))
        for number, indices in groupby(corpus.indices, key=lambda index: index // per)
    ]


def _sizes(corpus: Corpus) -> list[Fault]:
    faults = []
    if corpus.header.layout == "folder":
        for index in corpus:
            for member in corpus.row(index)["members"]:
                what = _wrong_size(corpus.path / member["file"], member["bytes"])
                if what:
                    faults.append(Fault(member["file"], what, index))
        return faults
    for file, indices in _blocks(corpus):
        what = _wrong_size(corpus.path / file, shard_size([corpus.row(index) for index in indices]))
        if what:
            faults.append(Fault(file, what))
    return faults


def _wrong_size(path: Path, expected: int) -> str:
    try:
        size = path.stat().st_size
    except OSError:
        return "is missing"
    return "" if size == expected else f"has {size} bytes, expected {expected}"


def _strays(corpus: Corpus) -> list[Fault]:
    listed = {HEADER, MANIFEST, "recipe.yaml", LOCK}
    for index in corpus:
        listed.update(member["file"] for member in corpus.row(index)["members"])
    found = (file.relative_to(corpus.path).as_posix() for file in corpus.path.rglob("*") if file.is_file())
    return [Fault(file, "is not in the manifest") for file in sorted(found) if file not in listed]


def _examine(corpus: Corpus, job: Job | None, index: int) -> list[Fault]:
    members, faults = _intact(corpus, index)
    if job is None or "scene" not in members:
        return faults
    row, header = corpus.row(index), corpus.header
    files = {member["name"]: member["file"] for member in row["members"]}
    made = make_members(job, Scene.from_bytes(members["scene"]), list(files))
    other = [name for name, data in members.items() if data != made[name]]
    media = [name for name in media_names(header) if name in other]
    if media and all(name in members for name in media_names(header)):
        if _same_pixels(header, members, made):
            other = [name for name in other if name not in media]
        else:
            other = [name for name in other if name not in media[1:]]
    what = f"is not what its scene gives{_because(header)}"
    if header.layout == "folder":
        return faults + [Fault(files[name], what, index) for name in other]
    return faults + [Fault(files[name], f"{name} {what}", index) for name in other]


def _same_pixels(header: CorpusHeader, stored: dict[str, bytes], made: dict[str, bytes]) -> bool:
    """Return whether media show the same, though their bytes differ (another version of an encoder)."""
    medium, names = MEDIA[header.media], media_names(header)
    frames, again = (medium.decode({name: files[name] for name in names}) for files in (stored, made))
    if frames.shape != again.shape:
        return False
    difference = np.abs(frames.astype(np.int16) - again)
    return bool(difference.max() <= 3 if medium.lossless else difference.mean() <= 1)


def _because(header: CorpusHeader) -> str:
    now, then = versions(), header.versions
    other = [f"{name} {then.get(name)} then, {now[name]} now" for name in now if now[name] != then.get(name)]
    return f"; versions differ: {', '.join(other)}" if other else ""


def _intact(corpus: Corpus, index: int) -> tuple[dict[str, bytes], list[Fault]]:
    """Return the files of a clip that are as the manifest says, and what is wrong with the others."""
    members, faults = {}, []
    for member in corpus.row(index)["members"]:
        path = corpus.path / member["file"]
        data = read_at(path, member["offset"], member["bytes"]) if path.is_file() else b""
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


# --- repair


def repair(
    path: str | Path,
    sources: Sources,
    *,
    workers: int = 1,
    progress: Count | None = None,
) -> RepairReport:
    """Make the files of a corpus again that are missing, cut or altered, and nothing else.

    What is made must have the recorded sha256. Where it has not (other versions), the file is left and told.
    Without a manifest that can be read nothing vouches for any file: all clips are made again.

    Raises:
        UserError: no corpus of ours, other sources, or no manifest and other versions.
    """
    path = Path(path)
    header = CorpusHeader.read(path)
    _check_sources(header, sources)
    with only_writer(path):
        job = Job(header, sources, path)
        try:
            corpus = Corpus(path, unfinished=True)
            if not len(corpus):
                raise UserError("there is none")
        except UserError as error:
            if _because(header):
                raise UserError(f"corpus '{path}': no manifest can be read{_because(header)}") from None
            (path / MANIFEST).unlink(missing_ok=True)
            complete(replace(job, anew=True), workers=workers, progress=_clips(progress))
            return RepairReport((Fault(MANIFEST, f"made again with all clips: {error}"),), ())
        wrong_sizes = [fault for fault in _sizes(corpus) if fault.index is None]
        mended: list[Fault] = []
        left: list[Fault] = []
        pieces: dict[int, Source] = {}
        for done, (gone, stays, found) in enumerate(
            in_order(partial(_mend, corpus, job), corpus.indices, workers=workers), 1
        ):
            mended += gone
            left += stays
            pieces |= found
            if progress:
                progress(done, len(corpus))
        if header.layout == "shards":
            touched = {fault.file for fault in (*mended, *wrong_sizes)}
            hopeless = {fault.file for fault in left}
            for file, indices in _blocks(corpus):
                if file in touched and file not in hopeless:
                    _rejoin(corpus, indices, pieces)
            listed = {fault.file for fault in (*mended, *left)}
            mended += [fault for fault in wrong_sizes if fault.file not in listed]
            for fault in [fault for fault in mended if fault.file in hopeless]:
                mended.remove(fault)
                left.append(replace(fault, what=f"{fault.what}; its shard cannot be put together"))
            for left_over in (path / "shards").glob("*.parts"):
                shutil.rmtree(left_over)
    return RepairReport(tuple(mended), tuple(left))


def _check_sources(header: CorpusHeader, sources: Sources) -> None:
    sources.check(header.bank_digest, header.background_digest, of="corpus")


def _clips(progress: Count | None) -> Progress | None:
    return None if progress is None else lambda done, total, num_bytes: progress(done, total)


def _mend(corpus: Corpus, job: Job, index: int) -> tuple[list[Fault], list[Fault], dict[int, Source]]:
    """Write the bad files of a clip anew (for a shard: the clip).

    Returns what is mended, what is left, and where the clip waits for its shard.
    """
    members, faults = _intact(corpus, index)
    if not faults:
        return [], [], {}
    row = corpus.row(index)
    bad = [member for member in row["members"] if member["name"] not in members]
    scene = Scene.from_bytes(members["scene"]) if "scene" in members else draw_scenes(job, [index])[0]
    made = make_members(job, scene, [member["name"] for member in bad])
    differ = [m["name"] for m in bad if hashlib.sha256(made[m["name"]]).hexdigest() != m["sha256"]]
    if differ:
        reason = f"; made again it has another sha256{_because(corpus.header)}"
        return [], [replace(fault, what=fault.what + reason) for fault in faults], {}
    whole = {m["name"]: members.get(m["name"]) or made[m["name"]] for m in row["members"]}
    if corpus.header.layout == "shards":
        return faults, [], write_piece(corpus.path, corpus.header, {index: whole})
    write_files(corpus.path, index, made)
    return faults, [], {}


def _rejoin(corpus: Corpus, indices: list[int], mended: dict[int, Source]) -> None:
    """Put a shard together again, mended clips from their pieces, the others from where they lie."""
    rows = [corpus.row(index) for index in indices]
    lying = {
        row["index"]: (corpus.path / row["file"], row["members"][0]["offset"] - _TAR_HEADER) for row in rows
    }
    assemble(corpus.path, corpus.header, rows, lying | mended)


# --- one clip


def regenerate(
    path: str | Path,
    index: int,
    sources: Sources,
    *,
    out: str | Path,
) -> dict[str, bool]:
    """Make all files of one clip again from its scene, into another folder.

    Returns file name -> whether it is bit for bit what the corpus's manifest lists.

    Raises:
        UserError: no such clip, or other sources.
    """
    corpus = Corpus(path, unfinished=True)
    row = corpus.row(index)
    _check_sources(corpus.header, sources)
    job = Job(corpus.header, sources, corpus.path)
    members, _ = _intact(corpus, index)
    scene = Scene.from_bytes(members["scene"]) if "scene" in members else draw_scenes(job, [index])[0]
    recorded = {member["name"]: member["sha256"] for member in row["members"]}
    same = {}
    for name, data in make_members(job, scene, list(recorded)).items():
        file = file_of(index, name)
        write_bytes(Path(out) / file, data)
        same[file] = hashlib.sha256(data).hexdigest() == recorded[name]
    return same


# --- extend and merge


def extend(
    path: str | Path,
    labels: Sequence[str],
    sources: Sources,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> CorpusSummary:
    """Add label kinds to a corpus; no media are made, what stands keeps its bytes.

    Raises:
        UserError: no corpus of ours, unknown kinds, or other sources.
    """
    path = Path(path)
    header = CorpusHeader.read(path)
    kinds = check_kinds((*header.labels, *labels))
    _check_sources(header, sources)
    with only_writer(path):
        now = versions()
        new = [kind for kind in kinds if kind not in header.labels]
        extensions = {**header.extensions, **({kind: now for kind in new} if now != header.versions else {})}
        grown = replace(header, labels=kinds, extensions=extensions)
        if grown != header:
            grown.write(path)
        return complete(Job(grown, sources, path), workers=workers, progress=progress)


def merge(parts: Sequence[str | Path], out: str | Path, *, progress: Count | None = None) -> CorpusSummary:
    """Put the parts of a corpus together; the result is what one process would have written.

    Files are hard-linked where that is possible, else copied; the parts stay as they are.

    Raises:
        UserError: parts of different corpora, a part that is missing, twice there or not finished.
    """
    if not parts:
        raise UserError("merge: no parts given")
    corpora = sorted((Corpus(part) for part in parts), key=lambda corpus: corpus.header.part or (0, 0))
    first = corpora[0]
    for corpus in corpora:
        if corpus.header.part is None:
            raise UserError(f"corpus '{corpus.path}': is no part of a corpus but a whole one")
        different = replace(first.header, part=None).differences(replace(corpus.header, part=None))
        if different:
            where = f"'{first.path}' and '{corpus.path}' are parts of different corpora"
            raise UserError(f"{where}: {', '.join(different[:5])}".replace(" there", "").replace(" now", ""))
    assert first.header.part is not None
    count = first.header.part[1]
    there = [corpus.header.part[0] for corpus in corpora if corpus.header.part]
    wrong = sorted(set(range(count)) - set(there)), sorted({i for i in there if there.count(i) > 1})
    for numbers, what in zip(wrong, ("is missing", "is given more than once"), strict=True):
        if numbers:
            raise UserError(f"merge: part {', '.join(map(str, numbers))} of {count} {what}")
    for corpus in corpora:
        for fault in _sizes(corpus):
            raise UserError(f"corpus '{corpus.path}': {fault}; 'smile-synth corpus repair' mends it")
    return _put_together(corpora, replace(first.header, part=None), Path(out), progress)


def _put_together(
    corpora: list[Corpus], header: CorpusHeader, out: Path, progress: Count | None
) -> CorpusSummary:
    _check_empty(out, header)
    num_bytes = 0
    done: set[str] = set()
    with only_writer(out), ManifestWriter(out) as manifest:
        header.write(out)
        for corpus in corpora:
            for index in corpus:
                row = corpus.row(index)
                for file in {member["file"] for member in row["members"]} - done:
                    _link(corpus.path / file, out / file)
                # A shard is the file of many clips.
                done = {row["file"]} if header.layout == "shards" else set()
                num_bytes += row["bytes"]
                manifest.add(row)
                if progress:
                    progress(index + 1, header.num_clips)
        for folder in {out, *(path for path in out.iterdir() if path.is_dir())}:
            sync_folder(folder)
    return CorpusSummary(header.num_clips, header.num_clips, num_bytes)


def convert(
    path: str | Path,
    out: str | Path,
    *,
    layout: str,
    clips_per_shard: int = 1000,
    progress: Count | None = None,
) -> CorpusSummary:
    """Copy a corpus into the other layout; every clip's files keep their bytes.

    Raises:
        UserError: no finished corpus, or something else stands at ``out``.
    """
    corpus, out = Corpus(path), Path(out)
    header = replace(corpus.header, layout=layout, clips_per_shard=clips_per_shard)
    if corpus.header.part is not None:
        raise UserError(f"corpus '{corpus.path}': is a part of a corpus; merge it first")
    _check_empty(out, header)
    with only_writer(out):
        header.write(out)
        standing = Standing(out, header)
        for index in corpus:
            members = {name: corpus.read(index, name) for name in member_names(header)}
            if standing.members(index) == members:
                continue
            if layout == "shards":
                write_piece(out, header, {index: members})
            else:
                write_files(out, index, members)
        return complete(Job(header, None, out), workers=1, progress=_clips(progress))


def _check_empty(out: Path, header: CorpusHeader) -> None:
    """Refuse a folder that holds anything but this corpus begun."""
    begun = (out / HEADER).is_file() and CorpusHeader.read(out) == header
    if out.exists() and any(out.iterdir()) and not begun:
        raise UserError(f"out '{out}': is not empty; give a new folder")


def _link(source: Path, target: Path) -> None:
    if target.exists():
        return
    partial = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}{PART}")
    with told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, partial)
        except OSError:  # another file system
            with partial.open("wb") as file, source.open("rb") as data:
                shutil.copyfileobj(data, file)
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, target)
