"""Banks into one, and a bank back into folders."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.objects._bank import TEXELS, ObjectBank, ObjectInfo, read_header, write_tables
from smile_synth.objects._build import SplitRule, check_out, publish, sync, told
from smile_synth.objects._duplicates import DuplicateIndex, appearance_of
from smile_synth.objects._folder import INDEX


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
    """Put the objects of several banks into one, in their order.

    Near-duplicates of an earlier bank's objects are left out and listed in the new bank's report.

    Args:
        banks: at least one.
        out: the new bank's folder; appears whole or not at all.
        resplit: draw the split anew for all; otherwise every object keeps its side.
        seed, val_fraction, test_fraction: of the new split, as in `build_bank`.
        duplicate_distance: as in `CutOutOptions`.
        overwrite: replace a bank that stands at ``out``.
        progress: called with (objects done, objects in all).

    Returns:
        The digest, the number of objects, and the number left out.

    Raises:
        UserError: an image is on different sides of the split in two banks and ``resplit`` is not set,
            ``out`` is taken, or the disk is full.
    """
    out = Path(out).resolve()
    check_out(out, overwrite)
    if any(Path(bank.path) == out for bank in banks):
        raise UserError(f"'{out}' is one of the banks to be merged; choose another folder")
    rule = SplitRule(seed, val_fraction, test_fraction)
    if not resplit:
        _check_sides(banks)
    part = out.with_name(f".{out.name}.part")
    rows: list[ObjectInfo] = []
    rejected: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    duplicates = DuplicateIndex(duplicate_distance)
    total, done, end = sum(len(bank) for bank in banks), 0, 0
    try:
        with told("cannot write", out):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            with (part / TEXELS).open("wb") as texels:
                for bank in banks:
                    before = len(rows)
                    # A bank is known to hold no duplicates of its own that were not wanted.
                    own = []
                    for object_id in range(len(bank)):
                        info, texture = bank.info(object_id), bank.texture(object_id)
                        appearance = appearance_of(texture)
                        twin = duplicates.find(appearance)
                        done += 1
                        if progress:
                            progress(done, total)
                        if twin is not None:
                            reason = f"near-duplicate: of {twin}"
                            rejected.append({"given": bank.path, "source": info.source, "reason": reason})
                            continue
                        own.append((appearance, info.source))
                        side = rule.side_of(info.image_key) if resplit else info.split
                        rows.append(replace(info, object_id=len(rows), texel_offset=end // 4, split=side))
                        texels.write(texture.texels.data)
                        end += texture.texels.nbytes
                    for appearance, name in own:
                        duplicates.add(appearance, name)
                    summaries += [
                        {**source, "bank_digest": bank.digest}
                        for source in read_header(Path(bank.path))["sources"]
                    ]
                    if len(rows) == before:
                        raise UserError(
                            f"object bank '{bank.path}': nothing in it that the banks before it lack"
                        )
                sync(texels)
            digest = write_tables(part, rows, rejected, summaries)
            publish(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return digest, len(rows), len(rejected)


def _check_sides(banks: Sequence[ObjectBank]) -> None:
    sides: dict[str, tuple[str, str]] = {}
    wrong: list[str] = []
    for bank in banks:
        columns = (bank.index[name].to_pylist() for name in ("image_key", "split", "source_image"))
        for key, split, name in zip(*columns, strict=True):
            side, where = sides.setdefault(key, (split, bank.path))
            if side != split:
                wrong.append(f"{name} ({side} in {where}, {split} in {bank.path})")
    if wrong:
        raise UserError(
            f"{len(wrong)} objects come from images that are on another side of the split in an earlier "
            f"bank, first {wrong[0]}; draw the split anew for all (--resplit)"
        )


def export_bank(
    bank: ObjectBank,
    out: str | Path,
    object_ids: NDArray[np.int64] | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write objects as ``<class>/<number>.png`` with straight alpha, and ``index.csv`` beside them.

    Built into a bank again they give the same pixels at full size, the same split for the same seed and
    fractions, and the same licences.

    Args:
        bank: where from.
        out: a new or empty folder.
        object_ids: which; None: all.
        progress: called with (objects done, objects in all).

    Returns:
        The number of files.

    Raises:
        UserError: the folder is not empty, a class is no name for a folder, or the disk is full.
    """
    folder = Path(out)
    ids = np.arange(len(bank)) if object_ids is None else object_ids
    with told("cannot write", folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"'{folder}' exists and is not an empty folder; choose another one")
        table = io.StringIO(newline="")
        names = ("file", "source", "source_image", "annotation_id", "licence", "split", "attributes")
        writer = csv.DictWriter(table, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for count, object_id in enumerate(ids, 1):
            info = bank.info(int(object_id))
            parts = info.class_name.split("/")
            if info.class_name.startswith("/") or any(part in ("", ".", "..") for part in parts):
                raise UserError(f"class '{info.class_name}' of object {object_id} is no name for a folder")
            name = f"{info.class_name}/{object_id:06d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(straight_rgba(bank, int(object_id))).save(folder / name)
            # The key, not the name: it is what keeps an image's objects together.
            writer.writerow({**asdict(info), "file": name, "source_image": info.image_key})
            if progress:
                progress(count, len(ids))
        (folder / INDEX).write_text(table.getvalue(), "utf-8")
    return len(ids)


def straight_rgba(bank: ObjectBank, object_id: int) -> NDArray[np.uint8]:
    """Return an object as straight RGBA ``[H, W, 4]`` uint8.

    Premultiplied again it gives the bank's texels exactly: the rounding is below half a step.
    """
    premultiplied = bank.texture(object_id).level(0)
    alpha = premultiplied[..., 3:].astype(np.int64)
    rgba = premultiplied.copy()
    rgba[..., :3] = (premultiplied[..., :3].astype(np.int64) * 510 + alpha) // np.maximum(2 * alpha, 1)
    return rgba
