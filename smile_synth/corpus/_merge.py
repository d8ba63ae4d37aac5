"""Merge the parts of a corpus, and copy a corpus into the folder layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from smile_synth.core.errors import UserError
from smile_synth.corpus import _store
from smile_synth.corpus._corpus import Corpus
from smile_synth.corpus._generate import CorpusSummary
from smile_synth.corpus._header import HEADER, CorpusHeader, listed
from smile_synth.corpus._manifest import REPAIR, make_row, new_manifest
from smile_synth.corpus._verify import ClipProgress, wrong_sizes
from smile_synth.io.atomic import link_or_copy


def merge(
    parts: Sequence[str | Path], out: str | Path, *, progress: ClipProgress | None = None
) -> CorpusSummary:
    """Merge the parts of a corpus; the result has the bytes of a corpus that one run wrote.

    Files are hard links where that is possible, else copies. The parts stay unchanged.

    Raises:
        UserError: a part of another corpus, a missing, repeated or unfinished part.
    """
    corpora = sorted((Corpus(part) for part in parts), key=lambda corpus: corpus.header.part or (0, 0))
    header, out = _check_parts(corpora), Path(out)
    _check_empty(out, header)
    num_bytes = 0
    linked = ""  # the last file; a shard contains many clips
    with _store.only_writer(out), new_manifest(out) as append:
        header.write(out)
        for corpus in corpora:
            for index in corpus:
                row = corpus.row(index)
                for file in dict.fromkeys(member["file"] for member in row["members"]):
                    if file != linked and not (out / file).exists():
                        link_or_copy(corpus.path / file, out / file)
                    linked = file
                num_bytes += row["bytes"]
                append(row)
                if progress:
                    progress(index + 1, header.num_clips)
        _store.sync_all_folders(out)
    return CorpusSummary(header.num_clips, header.num_clips, num_bytes)


def _check_parts(corpora: Sequence[Corpus]) -> CorpusHeader:
    """Check that these are all parts of one corpus, in order, and return its header."""
    if not corpora:
        raise UserError("merge: no parts given")
    first = corpora[0]
    header = replace(first.header, part=None)
    for corpus in corpora:
        if corpus.header.part is None:
            raise UserError(f"corpus '{corpus.path}': is a whole corpus, not a part")
        different = header.differences(replace(corpus.header, part=None))
        if different:
            lines = [f"{key} is {one} and {other}" for key, one, other in different]
            where = f"'{first.path}' and '{corpus.path}' are parts of different corpora"
            raise UserError(f"{where}: {listed(lines)}")
        for fault in wrong_sizes(corpus):
            raise UserError(f"corpus '{corpus.path}': {fault}; {REPAIR}")
    numbers, counts = zip(*(corpus.header.part or (0, 0) for corpus in corpora), strict=True)
    for i in range(counts[0]):
        if numbers.count(i) != 1:
            what = "is given more than once" if i in numbers else "is missing"
            raise UserError(f"merge: part {i} of {counts[0]} {what}")
    return header


def to_folder_layout(path: str | Path, out: str | Path, *, progress: ClipProgress | None = None) -> None:
    """Copy a corpus into the layout ``folder``; the files of the clips keep their bytes.

    Raises:
        UserError: not a finished corpus, or ``out`` has other content.
    """
    corpus, out = Corpus(path), Path(out)
    header = replace(corpus.header, layout="folder")
    if corpus.header.part is not None:
        raise UserError(f"corpus '{corpus.path}': is a part of a corpus; merge the parts first")
    _check_empty(out, header)
    with _store.only_writer(out), new_manifest(out) as append:
        header.write(out)
        for index in corpus:
            members = {name: corpus.read(index, name) for name in _store.member_names(header)}
            _store.write_files(out, index, members)
            places = _store.places_of(header, index, members)
            append(make_row(index, members, places, _store.media_names(header)))
            if progress:
                progress(index + 1, len(corpus))
        _store.sync_all_folders(out)


def _check_empty(out: Path, header: CorpusHeader) -> None:
    """Refuse a folder that contains anything other than an unfinished copy of this corpus."""
    unfinished = (out / HEADER).is_file() and CorpusHeader.read(out) == header
    if out.exists() and any(out.iterdir()) and not unfinished:
        raise UserError(f"out '{out}': is not empty; use a new folder")
