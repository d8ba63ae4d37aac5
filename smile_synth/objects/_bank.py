"""ObjectBank: many cut-outs in one memory-mapped file, with an index.

A bank is a folder::

    texels.bin      uint8, the textures one after another (their layout: smile_synth.core.texture)
    index.parquet   one row per object: the fields of ObjectInfo
    bank.json       format, number of objects, digest, the sources it was built from
    report.json     every item that was rejected, with the reason
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, nearest
from smile_synth.core.texture import Texture, UInt8, level_sizes_hw

if TYPE_CHECKING:
    import torch

Balance = Literal["uniform", "class-balanced", "square-root"]

FORMAT = "smile-object-bank"
FORMAT_VERSION = 2
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
        source: its name inside the source it was read from; files by posix path.
        source_image: the image it was cut from, by name.
        image_key: equal keys mean the same image; they are always in the same split.
        annotation_id: of a dataset's annotation, empty where there is none.
        licence: of that image, empty where unknown.
        split: ``train``, ``val`` or ``test``.
        original_height: rows of its box in the image, before shrinking.
        original_width: columns of its box in the image.
        fill: mean alpha 0..1 of the texture.
        thickness: diameter of the largest circle inside, as a share of the long side.
        truncation: share 0..1 of the outline on the border of the image.
        covered: share 0..1 of its pixels that smaller objects of the image claim, too.
        largest_part: share 0..1 of its pixels in the largest connected part.
        perceptual_hash: 16 hex digits.
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
ARROW_TYPES = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64()}
SCHEMA = pyarrow.schema([(field.name, ARROW_TYPES[str(field.type)]) for field in fields(ObjectInfo)])


# What a render or a label depends on, beside the texels' places; the rest is read when asked for.
DIGESTED = ("class_name", "height", "width", "split", "content_sha256")
OPENED = (*DIGESTED, "texel_offset")


def digest_of(columns: Sequence[list[Any]]) -> str:
    """Return the sha256 hex digest of everything that affects a render or a label.

    That is, in order of the objects, the columns of ``DIGESTED``: class, size, split (it decides what is
    drawn) and texels. Names of files and folders are not part of it.
    """
    text = json.dumps([FORMAT, FORMAT_VERSION, columns], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Selection(NamedTuple):
    """Objects to draw from, and how often each is drawn.

    Attributes:
        ids: ``[n]`` int64, ascending.
        cumulative: ``[n]`` float64 rising to 1, or None where all are drawn equally often.
    """

    ids: NDArray[np.int64]
    cumulative: NDArray[np.float64] | None


class DeviceBank(NamedTuple):
    """Textures in a device's memory.

    Attributes:
        texels: ``[total, 4]`` uint8, as in `ObjectBank.texels`.
        texel_offsets: ``[n]`` int64, the first texel of each.
        sizes_hw: ``[n, 2]`` int32.
        object_ids: ``[n]`` int64, ascending: their numbers in the bank.
    """

    texels: torch.Tensor
    texel_offsets: torch.Tensor
    sizes_hw: torch.Tensor
    object_ids: torch.Tensor


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

    def __init__(self, path: str, digest: str, opened: pyarrow.Table, texels: UInt8) -> None:
        """Take the columns of ``OPENED`` and the texels of a bank; see `open`."""
        self.path = path
        self.digest = digest
        self.texels = texels
        self.class_names, self.class_ids = _numbered(opened["class_name"])
        self.heights = _numbers(opened["height"]).astype(np.int32)
        self.widths = _numbers(opened["width"]).astype(np.int32)
        self.texel_offsets = np.append(_numbers(opened["texel_offset"]), len(texels)).astype(np.int64)
        names, ids = _numbered(opened["split"])
        self._split_ids = np.array([SPLITS.index(name) for name in names], np.int32)[ids]
        self._selected: dict[tuple[object, ...], Selection] = {}

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
            file = _index_file(folder)
            complete = tuple(file.schema_arrow.names) == COLUMNS
            opened = file.read(OPENED, use_threads=False) if complete else None
            size = (folder / TEXELS).stat().st_size
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(damaged + str(error)) from None
        if opened is None or digest_of([_values(opened[name]) for name in DIGESTED]) != header["digest"]:
            raise UserError(f"{damaged}{INDEX} does not match {HEADER}")
        height, width, offset = (opened[name][-1].as_py() for name in ("height", "width", "texel_offset"))
        expected = 4 * (offset + sum(h * w for h, w in level_sizes_hw(height, width)))
        if size != expected:
            raise UserError(f"{damaged}{TEXELS} has {size} bytes, expected {expected}")
        texels = np.memmap(folder / TEXELS, np.uint8, mode="r").view(np.ndarray).reshape(-1, 4)
        return cls(str(folder), header["digest"], opened, texels)

    @cached_property
    def index(self) -> pyarrow.Table:
        """One row per object, the columns of `ObjectInfo`; read when first asked for, renders need it not.

        Raises:
            UserError: it has gone or changed since the bank was opened.
        """
        try:
            index = _index_file(Path(self.path)).read(use_threads=False)
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"object bank '{self.path}' is damaged: {error}") from None
        if digest_of([_values(index[name]) for name in DIGESTED]) != self.digest:
            raise UserError(f"object bank '{self.path}' was rebuilt while in use")
        return index

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
            split: only of this side; None means all.
            classes: only of these; None means all.
            exclude_classes: none of these.

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
        """Return objects to draw from; arguments and errors as for `select`, and:

        Args:
            split: see there.
            classes: see there.
            exclude_classes: see there.
            balance: ``uniform``: every object is drawn equally often, so a class as often as it is
                frequent; ``class-balanced``: every class equally often; ``square-root``: between the two,
                a class as often as the square root of its number of objects.
        """
        # Asked for once per scene.
        key = (split, None if classes is None else tuple(classes), tuple(exclude_classes), balance)
        if key not in self._selected:
            ids = self._chosen(split, classes, exclude_classes)
            self._selected[key] = Selection(ids, self._cumulative(ids, balance))
        return self._selected[key]

    def _chosen(
        self, split: str | None, classes: Sequence[str] | None, exclude: Sequence[str]
    ) -> NDArray[np.int64]:
        chosen = np.ones(len(self), bool)
        if split is not None:
            if split not in SPLITS:
                raise UserError(f"unknown split '{split}', expected {' | '.join(SPLITS)}")
            chosen &= self._split_ids == SPLITS.index(split)
        if classes is not None:
            chosen &= np.isin(self.class_ids, [self._class_id(name) for name in classes])
        if exclude:
            chosen &= ~np.isin(self.class_ids, [self._class_id(name) for name in exclude])
        if not chosen.any():
            among = "" if classes is None else f" of the classes {', '.join(classes) or '(none given)'}"
            but = f" but {', '.join(exclude)}" if exclude else ""
            raise UserError(
                f"object bank '{self.path}' has no object{among}{but} in split '{split or 'any'}'"
            )
        ids = np.nonzero(chosen)[0].astype(np.int64)
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

    def to_device(
        self, device: str | torch.device, object_ids: NDArray[np.int64] | None = None
    ) -> DeviceBank:
        """Copy textures to a device with one transfer.

        Args:
            device: of torch, such as ``cuda``.
            object_ids: which, ascending, for example ``select(classes=["dog"])``; None: all.
        """
        import torch

        ids = np.arange(len(self)) if object_ids is None else np.asarray(object_ids, np.int64)
        starts, ends = self.texel_offsets[ids], self.texel_offsets[ids + 1]
        lengths = ends - starts
        pinned = torch.device(device).type == "cuda"
        texels = torch.empty((int(lengths.sum()), 4), dtype=torch.uint8, pin_memory=pinned)
        target, offsets = texels.numpy(), np.cumsum(lengths) - lengths
        # Runs of neighbours are one copy each.
        breaks = np.flatnonzero(np.diff(ids) != 1) + 1
        for run in np.split(np.arange(len(ids)), breaks):
            first, last = run[0], run[-1]
            target[offsets[first] : offsets[last] + lengths[last]] = self.texels[starts[first] : ends[last]]
        sizes = np.stack([self.heights[ids], self.widths[ids]], axis=1)
        return DeviceBank(
            texels.to(device, non_blocking=pinned),
            torch.from_numpy(offsets).to(device),
            torch.from_numpy(sizes).to(device),
            torch.from_numpy(ids).to(device),
        )

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read every texel and compare it with the index.

        ``progress`` is called with (objects read, objects in all).

        Raises:
            UserError: an object's texels were altered.
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
        raise UserError(f"'{folder}' is of format {kind} {version}, expected {FORMAT} {FORMAT_VERSION}")
    return header


def write_tables(
    folder: Path,
    rows: Sequence[ObjectInfo],
    rejected: Sequence[dict[str, Any]],
    sources: Sequence[dict[str, Any]],
) -> str:
    """Write a bank's index, header and report to the folder of its texels; returns the digest."""
    index = pyarrow.Table.from_pylist([asdict(row) for row in rows], SCHEMA)
    pyarrow.parquet.write_table(
        index, folder / INDEX, compression="zstd", compression_level=3, row_group_size=1 << 20
    )
    digest = digest_of([index[name].to_pylist() for name in DIGESTED])
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "num_objects": len(rows),
        "num_rejected": len(rejected),
        "digest": digest,
        "sources": sources,
    }
    for name, content in ((HEADER, header), (REPORT, {"rejected": rejected})):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name in (INDEX, HEADER, REPORT):
        with (folder / name).open("rb+") as file:
            file.flush()
            os.fsync(file.fileno())
    return digest


def _reopen(path: str, digest: str) -> ObjectBank:
    bank = ObjectBank.open(path)
    if bank.digest != digest:
        raise UserError(f"object bank '{path}' was rebuilt while in use")
    return bank


def _index_file(folder: Path) -> pyarrow.parquet.ParquetFile:
    # ParquetFile, not read_table: that one would read folder names as columns. As dictionaries: decoding
    # them here would take longer, and arrow's own functions for it a tenth of a second to import.
    return pyarrow.parquet.ParquetFile(folder / INDEX, read_dictionary=["class_name", "split"])


def _values(column: pyarrow.ChunkedArray) -> list[Any]:
    """Return a column's values; of a dictionary far quicker than arrow's own way."""
    if not pyarrow.types.is_dictionary(column.type):
        return list(column.to_pylist())
    names, ids = _numbered(column)
    return [names[i] for i in ids.tolist()]


def _numbers(column: pyarrow.ChunkedArray) -> NDArray[np.int64]:
    """Return a column of whole numbers; arrow's own way would import pandas, a second, where it is there."""
    return np.asarray(np.from_dlpack(column.combine_chunks()), np.int64)


def _numbered(column: pyarrow.ChunkedArray) -> tuple[list[str], NDArray[np.int32]]:
    """Return the values of a column of dictionaries, sorted, each once, and each row's place among them."""
    encoded = column.unify_dictionaries().combine_chunks()
    names = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=lambda i: names[i])
    place = np.empty(len(names), np.int32)
    place[order] = np.arange(len(names))
    return [names[i] for i in order], place[np.from_dlpack(encoded.indices)]
