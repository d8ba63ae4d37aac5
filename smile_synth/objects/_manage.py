"""Merge banks into one, and export a bank to folders of images."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_errors_for
from smile_synth.objects._bank import ObjectBank, read_header
from smile_synth.objects._build import SplitRule
from smile_synth.objects._duplicates import fingerprint_of
from smile_synth.objects._writer import BankWriter, check_out, publish, remove_files, unfinished_folder
from smile_synth.objects.readers._rgba import INDEX

EXPORTED = ("file", "source", "source_image", "annotation_id", "licence", "split", "attributes")


def merge_banks(
    banks: Sequence[ObjectBank],
    out: str | Path,
    *,
    resplit: bool = False,
    seed: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    duplicate_distance: int = 4,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[str, int, int]:
    """Merge the objects of several banks into one, in their order.

    Near-duplicates of an earlier bank's objects are rejected and listed in the new bank's report.

    Args:
        banks: at least one.
        out: the new bank's folder; appears whole or not at all.
        resplit: assign all images to new splits; otherwise every object keeps its split.
        seed, val_fraction, test_fraction: of the new split, as in `build_bank`.
        duplicate_distance: as in `CutOutOptions`.
        overwrite: replace an existing bank at ``out``.
        progress: called with (objects done, objects in total).

    Returns:
        The digest, the number of objects, and the number of rejected objects.

    Raises:
        UserError: an image is in different splits of two banks and ``resplit`` is not set, an argument is
            out of its range, ``out`` exists, or the disk is full.
    """
    out = Path(out).resolve()
    check_out(out, overwrite)
    if any(Path(bank.path) == out for bank in banks):
        raise UserError(f"'{out}' is one of the banks to be merged; choose another folder")
    rule = SplitRule(seed, val_fraction, test_fraction)
    rule.check()
    if not resplit:
        _check_splits(banks)
    total, done = sum(len(bank) for bank in banks), 0

    def count() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    with unfinished_folder(out) as part:
        try:
            with write_errors_for(out):
                remove_files(part)
                with closing(BankWriter(part, duplicate_distance)) as writer:
                    for bank in banks:
                        _append_bank(writer, bank, rule if resplit else None, count)
                    digest = writer.finish([source for bank in banks for source in _sources_of(bank)])
            publish(part, out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return digest, len(writer.rows), len(writer.rejected)


def _append_bank(
    writer: BankWriter, bank: ObjectBank, rule: SplitRule | None, count: Callable[[], None]
) -> None:
    """Append the objects of a bank that are new; ``rule`` replaces their splits."""
    # Objects of the same bank are not compared: its build has done that.
    added = []
    for object_id in range(len(bank)):
        info, texture = bank.info(object_id), bank.texture(object_id)
        fingerprint = fingerprint_of(texture)
        if writer.is_new(bank.path, info.source, fingerprint):
            split = rule.split_of(info.image_key) if rule else info.split
            writer.append(replace(info, split=split), texture.texels.data)
            added.append((fingerprint, info.source))
        count()
    if not added:
        raise UserError(f"object bank '{bank.path}': all of its objects are in the banks before it")
    for fingerprint, source in added:
        writer.duplicates.add(fingerprint, source)


def _sources_of(bank: ObjectBank) -> list[dict[str, Any]]:
    return [{**source, "bank_digest": bank.digest} for source in read_header(Path(bank.path))["sources"]]


def _check_splits(banks: Sequence[ObjectBank]) -> None:
    first: dict[str, tuple[str, str]] = {}
    conflicts: list[str] = []
    for bank in banks:
        columns = (bank.index[name].to_pylist() for name in ("image_key", "split", "source_image"))
        for key, split, name in zip(*columns, strict=True):
            other_split, other_path = first.setdefault(key, (split, bank.path))
            if split != other_split:
                conflicts.append(f"{name} ({other_split} in {other_path}, {split} in {bank.path})")
    if conflicts:
        raise UserError(
            f"{len(conflicts)} objects are from images that have another split in an earlier bank, "
            f"first {conflicts[0]}; set resplit=True to assign new splits"
        )


def export_bank(
    bank: ObjectBank,
    out: str | Path,
    object_ids: NDArray[np.int64] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write objects as ``<class>/<number>.png`` with straight alpha, and ``index.csv`` beside them.

    A bank built from this folder has the same pixels at full size, the same split for the same seed and
    fractions, and the same licences.

    Args:
        bank: the source.
        out: a new or empty folder.
        object_ids: the objects; None: all.
        progress: called with (objects done, objects in total).

    Returns:
        The number of files.

    Raises:
        UserError: the folder is not empty, a class is no valid folder name, or the disk is full.
    """
    folder = Path(out)
    ids = np.arange(len(bank)) if object_ids is None else object_ids
    with write_errors_for(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"'{folder}' exists and is not an empty folder; choose another one")
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, EXPORTED, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for count, object_id in enumerate(ids, 1):
            info = bank.info(int(object_id))
            parts = info.class_name.split("/")
            if info.class_name.startswith("/") or any(part in ("", ".", "..") for part in parts):
                raise UserError(f"class '{info.class_name}' of object {object_id} is no valid folder name")
            name = f"{info.class_name}/{object_id:06d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(straight_rgba(bank, int(object_id))).save(folder / name)
            # The key, not the name, keeps the objects of an image in one split.
            writer.writerow({**asdict(info), "file": name, "source_image": info.image_key})
            if progress:
                progress(count, len(ids))
        (folder / INDEX).write_text(table.getvalue(), "utf-8")
    return len(ids)


def straight_rgba(bank: ObjectBank, object_id: int) -> NDArray[np.uint8]:
    """Return an object as straight RGBA ``[H, W, 4]`` uint8.

    Premultiplying it gives exactly the bank's texels, because the rounding error is below half a step.
    """
    premultiplied = bank.texture(object_id).level(0)
    alpha = premultiplied[..., 3:].astype(np.int64)
    rgba = premultiplied.copy()
    rgba[..., :3] = (premultiplied[..., :3].astype(np.int64) * 510 + alpha) // np.maximum(2 * alpha, 1)
    return rgba
