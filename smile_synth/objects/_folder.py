"""Read cut-outs from a folder: ``<class>/<anything>.png`` or ``.webp``."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from smile_synth.errors import UserError
from smile_synth.objects._cutout import Candidate, Reject, UInt8

SUFFIXES = (".png", ".webp")
INDEX = "index.csv"


def read_folder(source: str, *, seed: int) -> list[Candidate]:
    """List every file below a folder, in order of its path.

    The class is the path of the file's folder relative to the source; files directly in the source
    take the source's own name. Links are followed. A file ``index.csv`` beside the class folders may
    say more: columns ``file`` (path relative to the source), ``licence``, and ``source_image`` (or
    ``src_item``), the picture the file was cut from; without it each file counts as its own picture.

    Raises:
        UserError: no such folder, no files in it, or an unusable ``index.csv``.
    """
    folder = Path(source)
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise UserError(f"object source '{source}': {what}")
    rows = _read_index(folder / INDEX)
    candidates = []
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if name == INDEX:
            continue
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")
        if shown != name:
            candidates.append(Candidate("", shown, shown, _rejecting("its name is not UTF-8")))
            continue
        row = rows.pop(name, {})
        parent = path.relative_to(folder).parent.as_posix()
        candidates.append(
            Candidate(
                class_name=folder.resolve().name if parent == "." else parent,
                source=name,
                source_image=row.get("source_image") or row.get("src_item") or name,
                licence=row.get("licence") or "",
                load=_loader(path),
            )
        )
    if not candidates:
        raise UserError(f"object source '{source}': the folder is empty; expected <class>/<name>.png")
    missing = _rejecting(f"listed in {INDEX} but not there")
    candidates += [Candidate("", name, name, missing) for name in sorted(rows)]
    return candidates


def _walk(folder: Path) -> list[Path]:
    found = []
    for root, folders, files in os.walk(folder, followlinks=True):
        here = Path(root).resolve()
        # A link to a folder above it would be walked for ever.
        folders[:] = [name for name in folders if not here.is_relative_to((Path(root) / name).resolve())]
        found += [Path(root) / name for name in files]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _read_index(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable CSV file in UTF-8 ({error})") from None
    if rows and "file" not in rows[0]:
        raise UserError(f"{path}: no column 'file'; its columns are {', '.join(map(str, rows[0]))}")
    return {row["file"] or "": row for row in rows}


def _rejecting(reason: str) -> Callable[[], UInt8]:
    def load() -> UInt8:
        raise Reject(reason)

    return load


def _loader(path: Path) -> Callable[[], UInt8]:
    def load() -> UInt8:
        if path.suffix.lower() not in SUFFIXES:
            raise Reject(f"not a {' or '.join(SUFFIXES)} file")
        try:
            return load_rgba(path.read_bytes())
        except OSError as error:
            raise Reject(f"cannot be read: {error.strerror}") from None

    return load


def load_rgba(data: bytes) -> UInt8:
    """Decode an image file to straight RGBA ``[H, W, 4]`` uint8, upright.

    EXIF orientation is applied. 16-bit colour keeps its high byte, exact where it was widened from 8.

    Raises:
        Reject: not an image, damaged, animated, too large, or without alpha.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if getattr(image, "n_frames", 1) > 1:
                    raise Reject("animated")
                if not image.has_transparency_data:
                    raise Reject(f"no alpha channel (mode {image.mode})")
                if image.mode.startswith(("I", "F")):
                    raise Reject(f"mode {image.mode} with a transparent colour is not supported")
                upright = ImageOps.exif_transpose(image)
                return np.asarray(upright.convert("RGBA"))
    except Reject:
        raise
    except UnidentifiedImageError:
        raise Reject("not an image") from None
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise Reject(f"damaged image: {error}") from None
