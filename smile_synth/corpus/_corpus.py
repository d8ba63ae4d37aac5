"""Read a corpus: random access to its clips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, counted
from smile_synth.corpus._header import CorpusHeader
from smile_synth.corpus._manifest import REPAIR, Row, read_manifest
from smile_synth.corpus._media import MEDIA, Members, npz_arrays
from smile_synth.corpus._store import media_names, member_names, path_of, read_at
from smile_synth.io.images import Reject
from smile_synth.scene import Scene

Decoded = TypeVar("Decoded")


class _Members(NamedTuple):
    """Where the files of all clips are, clip after clip: ``files[file_ids[k]]`` from ``offsets[k]`` on."""

    files: list[str]
    file_ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    hashes: list[str]


class Corpus:
    """A finished corpus, open for reading, in any layout. A pickled copy reads the manifest again.

    Attributes:
        path: the folder.
        header: content of corpus.json.
        indices: numbers of the clips in this folder; they start at 0 except in a part of a corpus.

    Example:
        >>> summary = generate(recipe, sources, out="corpus", num_clips=2, seed=0)
        >>> corpus = Corpus("corpus")
        >>> len(corpus), corpus.frames(0).shape
        (2, (3, 20, 28, 3))
    """

    def __init__(self, path: str | Path, *, unfinished: bool = False) -> None:
        """Open a corpus.

        Args:
            path: the folder.
            unfinished: also open a corpus whose last run did not finish, with the clips of its manifest.

        Raises:
            UserError: not a corpus, damaged, or not finished.
        """
        self.path = Path(path)
        self.header = CorpusHeader.read(self.path)
        self._table = read_manifest(self.path)
        num_rows, expected = len(self._table), self.header.indices
        self.indices = expected[:num_rows]
        if self._table["index"].to_pylist() != list(self.indices):
            raise UserError(f"corpus '{self.path}': its manifest has other clips than {self.indices}")
        self._names = member_names(self.header)
        if num_rows:
            self._names = tuple(member["name"] for member in self.row(expected[0])["members"])
        reason = "" if unfinished else self.unfinished_reason()
        if reason:
            raise UserError(f"corpus '{self.path}': is not finished: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Corpus, unfinished=True), (self.path,)

    def __repr__(self) -> str:
        """Return the path, the number and the shape of the clips, and how they are stored."""
        header, clips = self.header, counted(len(self), "clip")
        shape = "x".join(map(str, (header.num_frames, *header.size_hw)))
        return f"Corpus('{self.path}', {clips} of {shape}, {header.media}, {header.layout})"

    def __len__(self) -> int:
        """Return the number of clips in this folder."""
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the clips in this folder."""
        return iter(self.indices)

    def unfinished_reason(self) -> str:
        """Return why the corpus is not finished, and how to finish it; an empty text if it is finished."""
        advice, expected = "run the same command again to continue", counted(len(self.header.indices), "clip")
        if len(self) != len(self.header.indices):
            return f"its manifest has {len(self)} of {expected}; {advice}"
        missing = [name for name in member_names(self.header) if name not in self._names]
        return f"its clips have no {', '.join(missing)}; {advice}" if missing else ""

    def row(self, index: int) -> Row:
        """Return the row of a clip in the manifest.

        Raises:
            UserError: no such clip in this folder.
        """
        row: Row = self._table.slice(self._row_number(index), 1).to_pylist()[0]
        return row

    def column(self, name: str) -> list[Any]:
        """Return a column of the manifest: one value per clip, in order."""
        values: list[Any] = self._table[name].to_pylist()
        return values

    def scene(self, index: int) -> Scene:
        """Return the scene of a clip; with the sources it gives all labels, see `annotate`."""
        return Scene.from_bytes(self.read(index, "scene"))

    def labels(self, index: int) -> dict[str, Any]:
        """Return the stored object labels of a clip, see docs/labels.md."""
        values: dict[str, Any] = orjson.loads(self.read(index, "json"))
        return values

    def arrays(self, index: int, kind: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of a stored label kind, for example of ``tracks``.

        Raises:
            UserError: as `read`.
        """
        name = f"{kind}.npz"
        return self._decoded(index, {name: self.read(index, name)}, lambda members: npz_arrays(members[name]))

    def frames(self, index: int) -> NDArray[np.uint8]:
        """Return the decoded frames ``[T, H, W, 3]`` uint8 RGB.

        Raises:
            UserError: as `read`.
        """
        members = {name: self.read(index, name) for name in media_names(self.header)}
        return self._decoded(index, members, MEDIA[self.header.media].decode)

    def _decoded(self, index: int, members: Members, decode: Callable[[Members], Decoded]) -> Decoded:
        try:
            return decode(members)
        except Reject as error:
            file, what = path_of(self.header, index, next(iter(members))), f"{error} (clip {index})"
            raise UserError(f"'{self.path / file}': {what}; {REPAIR}") from None

    def read(self, index: int, name: str) -> bytes:
        """Return the content of a clip's file, by its name without the clip's number, for example ``mp4``.

        Raises:
            UserError: no such clip or file, or the file is cut short or altered.
        """
        if name not in self._names:
            raise UserError(f"'{name}': the clips of '{self.path}' have {', '.join(self._names)}")
        members = self._members
        k = self._row_number(index) * len(self._names) + self._names.index(name)
        path, size = self.path / members.files[members.file_ids[k]], int(members.sizes[k])
        try:
            data = read_at(path, int(members.offsets[k]), size)
        except OSError as error:
            raise UserError(f"'{path}': cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise UserError(f"'{path}': ends inside clip {index}; {REPAIR}")
        if hashlib.sha256(data).hexdigest() != members.hashes[k]:
            raise UserError(f"'{path}': {name} of clip {index} is altered; {REPAIR}")
        return data

    def damaged(self) -> list[tuple[int, Path, str]]:
        """Return (index, file, reason) of every clip with a file that is missing or cut short.

        This compares sizes only; `verify` compares contents.
        """
        members = self._members
        paths = [self.path / file for file in members.files]
        sizes = np.array([path.stat().st_size if path.is_file() else -1 for path in paths], np.int64)
        found: dict[int, tuple[int, Path, str]] = {}
        for k in np.flatnonzero(sizes[members.file_ids] < members.offsets + members.sizes):
            index, file = self.indices[int(k) // len(self._names)], int(members.file_ids[k])
            found.setdefault(index, (index, paths[file], "is missing" if sizes[file] < 0 else "is cut short"))
        return list(found.values())

    def _row_number(self, index: int) -> int:
        if index not in self.indices:
            first, last = self.indices.start, self.indices.stop - 1
            clips = f"the clips {first}..{last}" if self.indices else "no clips"
            raise UserError(f"index {index}: corpus '{self.path}' has {clips}")
        return index - self.indices.start

    @cached_property
    def _members(self) -> _Members:
        members = self._table["members"].combine_chunks().flatten()
        files = members.field("file").dictionary_encode()
        offsets, sizes = (members.field(name).to_numpy() for name in ("offset", "bytes"))
        hashes = members.field("sha256").to_pylist()
        return _Members(files.dictionary.to_pylist(), files.indices.to_numpy(), offsets, sizes, hashes)
