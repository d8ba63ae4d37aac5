"""ObjectBank: many cut-outs in one memory-mapped file, with an index.

A bank is a folder::

    texels.bin      uint8, the textures one after another (their layout: smile_synth.texture)
    index.parquet   one row per object: the fields of ObjectInfo
    bank.json       format, number of objects, digest, the sources it was built from
    report.json     every item that was rejected, with the reason
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from smile_synth.errors import UserError, nearest
from smile_synth.texture import Texture, UInt8, level_sizes_hw

FORMAT = "smile-object-bank"
FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
TEXELS, INDEX, HEADER, REPORT = "texels.bin", "index.parquet", "bank.json", "report.json"


@dataclass(frozen=True)
class ObjectInfo:
    """One row of a bank's index.

    Attributes:
        object_id: 0 .. n-1, the place in the bank.
        class_name: the label.
        height: rows of the texture.
        width: columns of the texture.
        texel_offset: place of its first texel (4 bytes each) in ``texels.bin``.
        source: path relative to the source it was read from, posix.
        source_image: the picture it was cut from; equal ones are always in the same split.
        licence: of that picture, empty where unknown.
        split: ``train``, ``val`` or ``test``.
        content_sha256: hex digest of its texels.
        attributes: JSON object with sorted keys, ``{}`` where nothing more is known.
    """

    object_id: int
    class_name: str
    height: int
    width: int
    texel_offset: int
    source: str
    source_image: str
    licence: str
    split: str
    content_sha256: str
    attributes: str


COLUMNS = tuple(field.name for field in fields(ObjectInfo))
ARROW_TYPES = {"str": pyarrow.string(), "int": pyarrow.int64()}
SCHEMA = pyarrow.schema([(field.name, ARROW_TYPES[str(field.type)]) for field in fields(ObjectInfo)])


def digest_of(index: pyarrow.Table) -> str:
    """Return the sha256 hex digest of everything that affects a render or a label.

    That is, in order of the objects: class, size, split (it decides what is drawn) and texels. Names of
    files and folders are not part of it.
    """
    names = ("class_name", "height", "width", "split", "content_sha256")
    columns = [index[name].to_pylist() for name in names]
    text = json.dumps([FORMAT, FORMAT_VERSION, columns], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class ObjectBank:
    """A folder of cut-outs, opened for reading. A pickled copy maps the same files anew.

    Attributes:
        path: the folder, absolute.
        digest: sha256 hex of everything that affects a render or a label.
        class_names: sorted, each once.
        class_ids: ``[n]`` int32, index into ``class_names``.
        heights: ``[n]`` int32, rows of each texture.
        widths: ``[n]`` int32, columns of each texture.
        texels: ``[total, 4]`` uint8, all textures one after another, a read-only map of the file.
        texel_offsets: ``[n + 1]`` int64; object i has ``texels[offsets[i] : offsets[i + 1]]``.
    """

    def __init__(self, path: str, digest: str, index: pyarrow.Table, texels: UInt8) -> None:
        self.path = path
        self.digest = digest
        self.texels = texels
        self.class_names, self.class_ids = _numbered(index["class_name"].to_pylist())
        self.heights = index["height"].to_numpy().astype(np.int32)
        self.widths = index["width"].to_numpy().astype(np.int32)
        self.texel_offsets = np.append(index["texel_offset"].to_numpy(), len(texels)).astype(np.int64)
        self._split_ids = np.array([SPLITS.index(split) for split in index["split"].to_pylist()], np.int8)
        self._index = index
        self._selected: dict[tuple[str | None, tuple[str, ...] | None], NDArray[np.int64]] = {}

    @classmethod
    def open(cls, path: str | Path) -> ObjectBank:
        """Open a bank.

        Raises:
            UserError: no such folder, not a bank, of another format version, or damaged: the index does
                not match the digest, or the file of texels is not as long as the index says.
        """
        folder = Path(os.path.abspath(path))
        header = read_header(folder)
        damaged = f"object bank '{folder}' is damaged: "
        try:
            # ParquetFile, not read_table: that one would read folder names as columns.
            index = pyarrow.parquet.ParquetFile(folder / INDEX).read(use_threads=False)
            size = (folder / TEXELS).stat().st_size
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(damaged + str(error)) from None
        if tuple(index.column_names) != COLUMNS or digest_of(index) != header["digest"]:
            raise UserError(f"{damaged}{INDEX} does not match {HEADER}")
        height, width, offset = (index[name][-1].as_py() for name in ("height", "width", "texel_offset"))
        expected = 4 * (offset + sum(h * w for h, w in level_sizes_hw(height, width)))
        if size != expected:
            raise UserError(f"{damaged}{TEXELS} has {size} bytes, expected {expected}")
        texels = np.memmap(folder / TEXELS, np.uint8, mode="r").view(np.ndarray).reshape(-1, 4)
        return cls(str(folder), header["digest"], index, texels)

    def __len__(self) -> int:
        return len(self.heights)

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
        return ObjectInfo(*(self._index[name][int(object_id)].as_py() for name in COLUMNS))

    def select(self, *, split: str | None = None, classes: Sequence[str] | None = None) -> NDArray[np.int64]:
        """Return the ids of the objects of a split and of some classes, ascending; None means all.

        Raises:
            UserError: unknown split or class, or no object is left.
        """
        # Asked for once per scene.
        key = (split, None if classes is None else tuple(classes))
        if key in self._selected:
            return self._selected[key]
        chosen = np.ones(len(self), bool)
        if split is not None:
            if split not in SPLITS:
                raise UserError(f"unknown split '{split}', expected {' | '.join(SPLITS)}")
            chosen &= self._split_ids == SPLITS.index(split)
        if classes is not None:
            for name in classes:
                if name not in self.class_names:
                    hint = nearest(name, self.class_names)
                    raise UserError(f"object bank '{self.path}' has no class '{name}'{hint}")
            chosen &= np.isin(self.class_ids, [self.class_names.index(name) for name in classes])
        if not chosen.any():
            among = "" if classes is None else f" of the classes {', '.join(classes) or '(none given)'}"
            raise UserError(f"object bank '{self.path}' has no object{among} in split '{split or 'any'}'")
        ids = np.nonzero(chosen)[0].astype(np.int64)
        ids.flags.writeable = False
        self._selected[key] = ids
        return ids

    def verify(self) -> None:
        """Read every texel and compare it with the index.

        Raises:
            UserError: an object's texels were altered.
        """
        for object_id, expected in enumerate(self._index["content_sha256"].to_pylist()):
            if hashlib.sha256(self.texture(object_id).texels.tobytes()).hexdigest() != expected:
                raise UserError(f"object bank '{self.path}' is damaged: texels of object {object_id}")

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
        raise UserError(f"'{folder}' is of format {kind} {version}, expected {FORMAT} {FORMAT_VERSION}")
    return header


def _reopen(path: str, digest: str) -> ObjectBank:
    bank = ObjectBank.open(path)
    if bank.digest != digest:
        raise UserError(f"object bank '{path}' was rebuilt while in use")
    return bank


def _numbered(names: list[str]) -> tuple[list[str], NDArray[np.int32]]:
    unique = sorted(set(names))
    place = {name: number for number, name in enumerate(unique)}
    return unique, np.array([place[name] for name in names], np.int32)
