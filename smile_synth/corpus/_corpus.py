"""Corpus: random access to what a corpus on disk holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.corpus._header import CorpusHeader
from smile_synth.corpus._manifest import Row, read_manifest
from smile_synth.corpus._media import MEDIA, npz_arrays
from smile_synth.corpus._store import media_names, member_names, read_at
from smile_synth.scene import Scene


class Corpus:
    """A finished corpus, opened for reading; any clip in any order, from a folder or from shards alike.

    Attributes:
        path: the folder.
        header: what corpus.json says.
        indices: the numbers of the clips here: from 0, but in a part of a corpus.
    """

    def __init__(self, path: str | Path, *, unfinished: bool = False) -> None:
        """Open a corpus.

        Args:
            path: the folder.
            unfinished: open what the manifest lists even if more was begun.

        Raises:
            UserError: no corpus of ours, damaged, or not finished.
        """
        self.path = Path(path)
        self.header = CorpusHeader.read(self.path)
        self._table = read_manifest(self.path)
        rows, wanted = len(self._table), self.header.indices
        self.indices = wanted[:rows]
        if self._table["index"].to_pylist() != list(self.indices):
            raise UserError(f"corpus '{self.path}': its manifest has other clips than {self.indices}")
        self._names = [member["name"] for member in self.row(wanted[0])["members"]] if rows else []
        lacking = [name for name in member_names(self.header) if name not in self._names]
        if unfinished:
            return
        told, again = f"corpus '{self.path}': is not finished", "the command that made it continues it"
        if rows != len(wanted):
            raise UserError(f"{told}: {rows} of {len(wanted)} clips are in its manifest; {again}")
        if lacking:
            raise UserError(f"{told}: its clips lack {', '.join(lacking)}; {again}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path only: another process reads the manifest again."""
        return partial(Corpus, unfinished=True), (self.path,)

    def __len__(self) -> int:
        """Return the number of clips here."""
        return len(self.indices)

    def row(self, index: int) -> Row:
        """Return the manifest's row of a clip.

        Raises:
            UserError: no such clip here.
        """
        row: Row = self._table.slice(self._place(index), 1).to_pylist()[0]
        return row

    def _place(self, index: int) -> int:
        if index not in self.indices:
            there = f"{self.indices.start}..{self.indices.stop - 1}"
            raise UserError(f"index {index}: corpus '{self.path}' has the clips {there}")
        return index - self.indices.start

    @cached_property
    def _members(self) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
        """Return files, offsets and sizes of all members of all clips, flat."""
        members = self._table["members"].combine_chunks().flatten()
        offsets, sizes = (members.field(name).to_numpy() for name in ("offset", "bytes"))
        files = members.field("file").dictionary_encode()
        self._files = files.indices.to_numpy()
        return files.dictionary.to_pylist(), offsets, sizes

    def read(self, index: int, name: str) -> bytes:
        """Return one file of a clip, by its name without the clip's number, for example ``mp4``.

        Raises:
            UserError: no such clip or file, or it is cut short.
        """
        if name not in self._names:
            raise UserError(f"'{name}': the clips of '{self.path}' have {', '.join(self._names)}")
        files, offsets, sizes = self._members
        place = self._place(index) * len(self._names) + self._names.index(name)
        path, size = self.path / files[self._files[place]], int(sizes[place])
        try:
            data = read_at(path, int(offsets[place]), size)
        except OSError as error:
            raise UserError(f"'{path}': cannot be read: {error.strerror}") from None
        if len(data) != size:
            raise UserError(f"'{path}': ends inside clip {index}; 'smile-synth corpus repair' mends it")
        return data

    def damaged(self) -> list[tuple[int, Path, str]]:
        """Return every clip with a file that is missing or cut short: number, file, reason.

        Sizes are compared, contents are not: that is `verify`.
        """
        files, offsets, sizes = self._members
        paths = [self.path / file for file in files]
        there = np.array([path.stat().st_size if path.is_file() else -1 for path in paths], np.int64)
        lacking = there[self._files] < offsets + sizes
        found: dict[int, tuple[int, Path, str]] = {}
        for member in np.flatnonzero(lacking):
            index, file = self.indices[int(member) // len(self._names)], int(self._files[member])
            found.setdefault(index, (index, paths[file], "is missing" if there[file] < 0 else "is cut short"))
        return list(found.values())

    def column(self, name: str) -> list[Any]:
        """Return one value of the manifest for every clip here, in their order."""
        values: list[Any] = self._table[name].to_pylist()
        return values

    def scene(self, index: int) -> Scene:
        """Return the scene of a clip; with the sources it gives every label (`annotate`)."""
        return Scene.from_bytes(self.read(index, "scene"))

    def labels(self, index: int) -> dict[str, Any]:
        """Return the stored labels of a clip's objects, see docs/labels.md."""
        values: dict[str, Any] = json.loads(self.read(index, "json"))
        return values

    def arrays(self, index: int, kind: str) -> dict[str, NDArray[Any]]:
        """Return a stored label kind's arrays, for example of ``tracks``."""
        return npz_arrays(self.read(index, f"{kind}.npz"))

    def frames(self, index: int) -> NDArray[np.uint8]:
        """Return the decoded media ``[T, H, W, 3]`` uint8 RGB."""
        names = media_names(self.header)
        return MEDIA[self.header.media].decode({name: self.read(index, name) for name in names})

    def __iter__(self) -> Iterator[int]:
        """Yield the numbers of the clips here."""
        return iter(self.indices)
