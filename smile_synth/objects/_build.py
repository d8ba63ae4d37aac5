"""Build a bank: read sources, prepare each cut-out, write the folder whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow
import pyarrow.parquet

from smile_synth.errors import UserError, nearest
from smile_synth.objects._bank import (
    FORMAT,
    FORMAT_VERSION,
    HEADER,
    INDEX,
    REPORT,
    SCHEMA,
    TEXELS,
    ObjectInfo,
    digest_of,
    read_header,
)
from smile_synth.objects._cutout import Candidate, Reject, prepare
from smile_synth.objects._folder import read_folder
from smile_synth.objects._photos import read_photos
from smile_synth.objects._shapes import read_shapes
from smile_synth.rng import MAX_SEED
from smile_synth.texture import Texture


class Reader(Protocol):
    """List a source's candidates in a fixed order, before any picture is decoded."""

    def __call__(self, source: str, *, seed: int) -> list[Candidate]: ...


# A source of no other name is a folder.
readers: dict[str, Reader] = {
    "folder": read_folder,
    "builtin:shapes": read_shapes,
    "builtin:photos": read_photos,
}


@dataclass(frozen=True)
class Rejected:
    """An item that did not become an object.

    Attributes:
        given: the source, as given.
        source: the item, relative to that source.
        reason: why.
    """

    given: str
    source: str
    reason: str


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        path: the bank's folder, absolute.
        digest: of the bank.
        num_objects: in the bank.
        rejected: every item left out.
    """

    path: str
    digest: str
    num_objects: int
    rejected: tuple[Rejected, ...]


def build_bank(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    max_side: int = 256,
    seed: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    min_side: int = 8,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Build an object bank; the same sources and options give the same bytes.

    Each object is cropped, a hard edge softened by a pixel (inwards), and shrunk to ``max_side`` by area
    averaging. Unusable items are left out and listed in the report and in ``report.json``.

    Args:
        sources: folders ``<class>/<name>.png`` (or ``.webp``), ``builtin:shapes``, ``builtin:photos``.
        out: the bank's folder; appears whole or not at all.
        max_side: longest side of a texture in pixels.
        seed: of the split, and of what ``builtin:shapes`` draws.
        val_fraction: share of source images for validation, 0..1; which ones is decided by hash.
        test_fraction: likewise for testing; the rest is for training.
        min_side: shortest side of a usable cut-out in pixels.
        overwrite: replace a bank that stands at ``out``.
        progress: called with (items done, items in all).

    Raises:
        UserError: no sources, an unknown, missing or empty one or one without a usable cut-out, an option
            out of its range, or ``out`` exists and is not a bank to be overwritten.
    """
    out = Path(out).resolve()
    _check_options(max_side, min_side, seed, val_fraction, test_fraction)
    _check_out(out, overwrite)
    found = [(str(given), _read(str(given), seed)) for given in _checked(sources)]
    total = sum(len(candidates) for _, candidates in found)

    rows: list[ObjectInfo] = []
    rejected: list[Rejected] = []
    summaries: list[dict[str, Any]] = []
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        try:
            part.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"cannot write '{out}': {error.strerror}") from None
        offset = done = 0
        with (part / TEXELS).open("wb") as texels:
            for given, candidates in found:
                rows_before, rejected_before = len(rows), len(rejected)
                for candidate in candidates:
                    try:
                        rgba = prepare(candidate.load(), max_side=max_side, min_side=min_side)
                    except Reject as reason:
                        rejected.append(Rejected(given, candidate.source, str(reason)))
                    else:
                        texture = Texture.from_straight_rgba(rgba)
                        data = texture.texels.tobytes()
                        texels.write(data)
                        split = _split(candidate.source_image, seed, val_fraction, test_fraction)
                        rows.append(_row(len(rows), candidate, texture, offset, split, data))
                        offset += len(texture.texels)
                    done += 1
                    if progress:
                        progress(done, total)
                kept, dropped = len(rows) - rows_before, len(rejected) - rejected_before
                if not kept:
                    first = rejected[rejected_before]
                    raise UserError(
                        f"object source '{given}': none of {dropped} items is usable, "
                        f"first {first.source}: {first.reason}"
                    )
                summaries.append({"given": given, "num_objects": kept, "num_rejected": dropped})
            _sync(texels)
        digest = _write_tables(part, rows, rejected, summaries)
        _publish(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return BuildReport(str(out), digest, len(rows), tuple(rejected))


def _checked(sources: Sequence[str | Path]) -> Sequence[str | Path]:
    if isinstance(sources, str | Path):
        return [sources]
    if not sources:
        raise UserError("no object source given, expected folders, builtin:shapes or builtin:photos")
    return sources


def _check_options(
    max_side: int, min_side: int, seed: int, val_fraction: float, test_fraction: float
) -> None:
    if not 1 <= min_side <= max_side:
        raise UserError(f"expected 1 <= min_side <= max_side, got {min_side} and {max_side}")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed must be in 0..2^63-1, got {seed}")
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction <= 1):
        raise UserError(
            f"val_fraction and test_fraction must be at least 0 and together at most 1, "
            f"got {val_fraction} and {test_fraction}"
        )


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UserError(f"'{out}' exists; choose another folder or overwrite it")
    # Never delete a folder that this module did not make.
    read_header(out)


def _read(given: str, seed: int) -> list[Candidate]:
    if given.startswith("builtin:"):
        if given not in readers:
            builtins = [name for name in readers if name != "folder"]
            hint = nearest(given, builtins)
            raise UserError(f"unknown object source '{given}', expected {' | '.join(builtins)}{hint}")
        return readers[given](given, seed=seed)
    return readers["folder"](given, seed=seed)


def _split(source_image: str, seed: int, val_fraction: float, test_fraction: float) -> str:
    bits = hashlib.sha256(f"{seed}/{source_image}".encode()).digest()[:6]
    place = int.from_bytes(bits, "big") / 2**48
    if place < val_fraction:
        return "val"
    return "test" if place < val_fraction + test_fraction else "train"


def _row(
    object_id: int, candidate: Candidate, texture: Texture, offset: int, split: str, data: bytes
) -> ObjectInfo:
    return ObjectInfo(
        object_id=object_id,
        class_name=candidate.class_name,
        height=texture.height,
        width=texture.width,
        texel_offset=offset,
        source=candidate.source,
        source_image=candidate.source_image,
        licence=candidate.licence,
        split=split,
        content_sha256=hashlib.sha256(data).hexdigest(),
        attributes=json.dumps(dict(candidate.attributes), sort_keys=True, ensure_ascii=False),
    )


def _write_tables(
    folder: Path, rows: list[ObjectInfo], rejected: list[Rejected], sources: list[dict[str, Any]]
) -> str:
    index = pyarrow.Table.from_pylist([asdict(row) for row in rows], SCHEMA)
    pyarrow.parquet.write_table(
        index, folder / INDEX, compression="zstd", compression_level=3, row_group_size=1 << 20
    )
    digest = digest_of(index)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "num_objects": len(rows),
        "num_rejected": len(rejected),
        "digest": digest,
        "sources": sources,
    }
    report = {"rejected": [asdict(item) for item in rejected]}
    for name, content in ((HEADER, header), (REPORT, report)):
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    for name in (INDEX, HEADER, REPORT):
        with (folder / name).open("rb+") as file:
            _sync(file)
    return digest


def _publish(part: Path, out: Path) -> None:
    """Rename the finished folder to its place, setting an older bank aside until it stands."""
    _sync_folder(part)
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    _sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
