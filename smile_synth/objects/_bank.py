"""ObjectBank: many cut-outs in one memory-mapped file, with an index.

A bank is a folder::

    texels.bin      uint8, all textures in order (their layout: smile_synth.core.texture)
    index.parquet   one row per object: the fields of ObjectInfo
    bank.json       format, number of objects, digest, and the sources
    report.json     every rejected item, with the reason
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, check_name, nearest
from smile_synth.core.texture import Texture, UInt8, level_sizes_hw

Balance = Literal["uniform", "class-balanced", "square-root"]

FORMAT = "smile-object-bank"
FORMAT_VERSION = 2
SPLITS = ("train", "val", "test")
TEXELS, INDEX, HEADER, REPORT = "texels.bin", "index.parquet", "bank.json", "report.json"


@dataclass(frozen=True)
class ObjectInfo:
    """One row of a bank's index.

    Attributes:
        object_id: 0 .. n-1, the position in the bank.
        class_name: the label.
        height: rows of the texture.
        width: columns of the texture.
        texel_offset: index of its first texel (4 bytes each) in ``texels.bin``.
        source: its name in the given source: relative POSIX path, or ``<image>#<id>`` with annotations.
        source_image: name of the image it was cut from.
        image_key: equal keys mean the same image; they are always in the same split.
        annotation_id: id of a dataset's annotation, empty if there is none.
        licence: licence of the image, empty if unknown.
        split: ``train``, ``val`` or ``test``.
        original_height: rows of its box in the image, before shrinking.
        original_width: columns of its box in the image.
        fill: mean alpha 0..1 of the texture.
        thickness: diameter of the largest inscribed circle, as a share of the long side.
        truncation: share 0..1 of the outline on the border of the image.
        covered: share 0..1 of its pixels that also belong to smaller objects of the same image.
        largest_part: share 0..1 of its pixels in the largest connected part.
        perceptual_hash: 16 hex digits.
        content_sha256: hex digest of its texels.
        attributes: JSON object with sorted keys, ``{}`` if there are none.
    """

    object_id: int
    class_name: str
    height: int
    width: int
    texel_offset: int
    source: str
    source_image: str
    image_key: str
    annotation_id: str
    licence: str
    split: str
    original_height: int
    original_width: int
    fill: float
    thickness: float
    truncation: float
    covered: float
    largest_part: float
    perceptual_hash: str
    content_sha256: str
    attributes: str


COLUMNS = tuple(field.name for field in fields(ObjectInfo))
# The columns that affect a render or a label; with texel_offset, opening a bank reads only these.
DIGEST_COLUMNS = ("class_name", "height", "width", "split", "content_sha256")


def digest_of(index: pyarrow.Table) -> str:
    """Return the sha256 hex digest of everything that affects a render or a label.

    That is, in order of the objects, the columns of ``DIGEST_COLUMNS``: class, size, split (it decides which
    objects are sampled) and texels. Names of files and folders are not part of it.
    """
    columns = [_values(index[name]) for name in DIGEST_COLUMNS]
    text = json.dumps([FORMAT, FORMAT_VERSION, columns], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """Objects of a bank with their probabilities.

    Attributes:
        ids: ``[n]`` int64, ascending.
        cumulative: ``[n]`` float64, the cumulative probability, up to 1; None: all have the same.
    """

    ids: NDArray[np.int64]
    cumulative: NDArray[np.float64] | None

    def __repr__(self) -> str:
        return f"Selection(ids=[{len(self.ids)}], uniform={self.cumulative is None})"


class ObjectBank:
    """A folder of cut-outs, opened for reading. Unpickling opens the same folder again.

    Banks are equal if they have the same digest.

    Attributes:
        path: the folder, absolute.
        digest: sha256 hex of everything that affects a render or a label.
        class_names: sorted, each once.
        class_ids: ``[n]`` int32, index into ``class_names``.
        heights: ``[n]`` int32, rows of each texture.
        widths: ``[n]`` int32, columns of each texture.
        texels: ``[total, 4]`` uint8, all textures in order, a read-only map of the file.
        texel_offsets: ``[n + 1]`` int64; object i has ``texels[offsets[i] : offsets[i + 1]]``.

    Example:
        >>> bank = ObjectBank.open("objects.bank")
        >>> len(bank), bank.class_names[:3]
        (10, ['bar', 'block', 'board'])
    """

    def __init__(self, path: str, digest: str, index: pyarrow.Table, texels: UInt8) -> None:
        """Do not call; use `open`."""
        self.path = path
        self.digest = digest
        self.texels = texels
        self.class_names, self.class_ids = _encoded(index["class_name"])
        self.heights = _integers(index["height"]).astype(np.int32)
        self.widths = _integers(index["width"]).astype(np.int32)
        self.texel_offsets = np.append(_integers(index["texel_offset"]), len(texels)).astype(np.int64)
        names, ids = _encoded(index["split"])
        self._split_ids = np.array([SPLITS.index(name) for name in names], np.int32)[ids]
        self._selections: dict[tuple[object, ...], Selection] = {}

    @classmethod
    def open(cls, path: str | Path) -> ObjectBank:
        """Open a bank.

        Raises:
            UserError: no such folder, not a bank, of another format version, or damaged: the index does
                not match the digest, or the file of texels has another size than the index says.
        """
        folder = Path(os.path.abspath(path))
        digest = read_header(folder)["digest"]
        index = _read_index(folder, (*DIGEST_COLUMNS, "texel_offset"))
        damaged = f"object bank '{folder}' is damaged: "
        if index is None or digest_of(index) != digest:
            raise UserError(f"{damaged}{INDEX} does not match {HEADER}")
        height, width, offset = (index[name][-1].as_py() for name in ("height", "width", "texel_offset"))
        expected = 4 * (offset + sum(h * w for h, w in level_sizes_hw(height, width)))
        try:
            if (size := (folder / TEXELS).stat().st_size) != expected:
                raise UserError(f"{damaged}{TEXELS} has {size} bytes, expected {expected}")
            texels = np.memmap(folder / TEXELS, np.uint8, mode="r").view(np.ndarray).reshape(-1, 4)
        except OSError as error:
            raise UserError(f"{damaged}{TEXELS} cannot be read: {error.strerror}") from None
        return cls(str(folder), digest, index, texels)

    @cached_property
    def index(self) -> pyarrow.Table:
        """One row per object, the columns of `ObjectInfo`; read on first use, because renders do not need it.

        Raises:
            UserError: it was removed or changed after the bank was opened.
        """
        index = _read_index(Path(self.path), COLUMNS)
        if index is None or digest_of(index) != self.digest:
            raise UserError(f"object bank '{self.path}' was rebuilt while in use")
        return index

    def __len__(self) -> int:
        return len(self.heights)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectBank) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"ObjectBank('{self.path}', {len(self)} objects, {len(self.class_names)} classes)"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.digest)

    def texture(self, object_id: int) -> Texture:
        """Return an object's texture, a read-only view of the mapped file.

        Raises:
            ValueError: no such object.
        """
        self._check(object_id)
        start, end = self.texel_offsets[object_id], self.texel_offsets[object_id + 1]
        return Texture(self.texels[start:end], int(self.heights[object_id]), int(self.widths[object_id]))

    def info(self, object_id: int) -> ObjectInfo:
        """Return an object's row of the index.

        Raises:
            ValueError: no such object.
        """
        self._check(object_id)
        return ObjectInfo(*(self.index[name][int(object_id)].as_py() for name in COLUMNS))

    def select(
        self,
        *,
        split: str | None = None,
        classes: Sequence[str] | None = None,
        exclude_classes: Sequence[str] = (),
    ) -> NDArray[np.int64]:
        """Return the ids of some objects, ascending.

        Args:
            split: only objects of this split; None: of all.
            classes: only objects of these classes; None: of all.
            exclude_classes: no objects of these classes.

        Raises:
            UserError: unknown split or class, or no object is left.
        """
        return self.selection(split=split, classes=classes, exclude_classes=exclude_classes).ids

    def selection(
        self,
        *,
        split: str | None = None,
        classes: Sequence[str] | None = None,
        exclude_classes: Sequence[str] = (),
        balance: Balance = "uniform",
    ) -> Selection:
        """Return some objects with their probabilities; arguments and errors as for `select`, and:

        Args:
            split: see `select`.
            classes: see `select`.
            exclude_classes: see `select`.
            balance: ``uniform``: all objects have the same probability. ``class-balanced``: all classes have
                the same probability. ``square-root``: the probability of a class is proportional to the
                square root of its number of objects.
        """
        # Cached, because sampling calls this method for every batch.
        key = (split, None if classes is None else tuple(classes), tuple(exclude_classes), balance)
        if key not in self._selections:
            ids = self._selected_ids(split, classes, exclude_classes)
            self._selections[key] = Selection(ids, self._cumulative(ids, balance))
        return self._selections[key]

    def _selected_ids(
        self, split: str | None, classes: Sequence[str] | None, exclude_classes: Sequence[str]
    ) -> NDArray[np.int64]:
        selected = np.ones(len(self), bool)
        if split is not None:
            check_name("split", split, SPLITS)
            selected &= self._split_ids == SPLITS.index(split)
        if classes is not None:
            selected &= np.isin(self.class_ids, [self._class_id(name) for name in classes])
        if exclude_classes:
            selected &= ~np.isin(self.class_ids, [self._class_id(name) for name in exclude_classes])
        if not selected.any():
            only = "" if classes is None else f" of the classes {', '.join(classes) or '(none given)'}"
            excluded = f" without {', '.join(exclude_classes)}" if exclude_classes else ""
            raise UserError(
                f"object bank '{self.path}' has no object{only}{excluded} in split '{split or 'any'}'"
            )
        ids = np.nonzero(selected)[0].astype(np.int64)
        ids.flags.writeable = False
        return ids

    def _class_id(self, name: str) -> int:
        if name not in self.class_names:
            raise UserError(
                f"object bank '{self.path}' has no class '{name}'{nearest(name, self.class_names)}"
            )
        return self.class_names.index(name)

    def _cumulative(self, ids: NDArray[np.int64], balance: Balance) -> NDArray[np.float64] | None:
        if balance == "uniform":
            return None
        per_class = np.bincount(self.class_ids[ids], minlength=len(self.class_names)).astype(np.float64)
        power = {"class-balanced": -1.0, "square-root": -0.5}[balance]
        weights = per_class[self.class_ids[ids]] ** power
        cumulative: NDArray[np.float64] = np.cumsum(weights) / weights.sum()
        cumulative[-1] = 1.0
        return cumulative

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every texel and compare it with the index.

        ``progress`` is called with (objects read, objects in all).

        Raises:
            UserError: the texels of an object were changed.
        """
        for object_id, expected in enumerate(self.index["content_sha256"].to_pylist()):
            if hashlib.sha256(self.texture(object_id).texels.data).hexdigest() != expected:
                raise UserError(f"object bank '{self.path}' is damaged: texels of object {object_id}")
            if progress:
                progress(object_id + 1, len(self))

    def _check(self, object_id: int) -> None:
        if not 0 <= object_id < len(self):
            raise ValueError(f"object_id must be in 0..{len(self) - 1}, got {object_id}")


def read_header(folder: Path) -> dict[str, Any]:
    """Return ``bank.json``.

    Raises:
        UserError: no such folder, not a bank, or of another format version.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise UserError(f"object bank '{folder}': {what}")
    try:
        header = dict(json.loads((folder / HEADER).read_text("utf-8")))
        kind, version, _ = header["format"], header["format_version"], header["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"'{folder}' is not an object bank: it has no readable {HEADER}") from None
    if (kind, version) != (FORMAT, FORMAT_VERSION):
        raise UserError(f"'{folder}' has the format {kind} {version}, expected {FORMAT} {FORMAT_VERSION}")
    return header


def _reopen(path: str, digest: str) -> ObjectBank:
    bank = ObjectBank.open(path)
    if bank.digest != digest:
        raise UserError(f"object bank '{path}' was rebuilt while in use")
    return bank


def _read_index(folder: Path, columns: Sequence[str]) -> pyarrow.Table | None:
    """Return columns of a bank's index; None if it has other columns than `ObjectInfo`."""
    try:
        # ParquetFile instead of read_table, which would read folder names as columns. Both text columns stay
        # dictionaries: decoding them here is slow, and importing arrow's functions for it takes 0.1 s.
        file = pyarrow.parquet.ParquetFile(folder / INDEX, read_dictionary=["class_name", "split"])
        if tuple(file.schema_arrow.names) != COLUMNS:
            return None
        return file.read(columns, use_threads=False)
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"object bank '{folder}' is damaged: {INDEX} cannot be read: {reason}") from None


def _values(column: pyarrow.ChunkedArray) -> list[Any]:
    """Return a column's values; for a dictionary much faster than ``to_pylist``."""
    if not pyarrow.types.is_dictionary(column.type):
        return list(column.to_pylist())
    names, ids = _encoded(column)
    return [names[i] for i in ids.tolist()]


def _integers(column: pyarrow.ChunkedArray) -> NDArray[np.int64]:
    """Return a column of integers. (``to_numpy`` imports pandas if it is installed, which takes a second.)"""
    return np.asarray(np.from_dlpack(column.combine_chunks()), np.int64)


def _encoded(column: pyarrow.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """Return the distinct values of a dictionary column, sorted, and each row's index into them."""
    encoded = column.unify_dictionaries().combine_chunks()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda i: names[i])
    position = np.empty(len(names), np.int32)
    position[order] = np.arange(len(names))
    return [names[i] for i in order], position[np.from_dlpack(encoded.indices)]
