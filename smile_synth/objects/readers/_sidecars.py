"""Annotation files that belong to one image each: pair the files with their images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from smile_synth.core.errors import UserError
from smile_synth.io.images import SUFFIXES
from smile_synth.io.matching import match_files
from smile_synth.objects._item import Item, ReadOptions, unusable
from smile_synth.objects.readers._folders import ListedFile, check_folder, is_image, list_files
from smile_synth.objects.readers._kinds import describe, kind_of

# Folders of annotation files, and the folders beside them with the images. Compared without case.
LABEL_FOLDERS = ("labels", "label", "annotations", "ann", "json", "jsons", "xml", "xmls", "txt")
IMAGE_FOLDERS = ("images", "image", "img", "imgs", "jpegimages")
# Files that are opened to detect a format.
NUM_CHECKED = 16


class Pair(NamedTuple):
    """An annotation file, and its image; ``path`` may be missing."""

    label: ListedFile
    name: str
    path: Path


def image_stems(label: str) -> list[str]:
    """Return the possible names, without suffix and case, of the image of an annotation file.

    Args:
        label: path relative to the source. The image is beside it, or in the folder ``images`` (or similar)
            beside its folder ``labels`` (or similar). The file may be named ``<image>.jpg.json``.
    """
    stem = PurePosixPath(label).with_suffix("")
    if stem.suffix.lower() in SUFFIXES:
        stem = stem.with_suffix("")
    stems = [stem.as_posix()]
    for place, part in enumerate(stem.parts[:-1]):
        if part.lower() in LABEL_FOLDERS:
            stems += [
                PurePosixPath(*stem.parts[:place], folder, *stem.parts[place + 1 :]).as_posix()
                for folder in IMAGE_FOLDERS
            ]
    return [name.casefold() for name in stems]


def has_sidecar(folder: Path, files: Sequence[Path], check: Callable[[Path], bool]) -> bool:
    """Return whether one of the first annotation files that have an image passes a check."""
    images = {p.relative_to(folder).with_suffix("").as_posix().casefold() for p in files if is_image(p)}
    checked = 0
    for path in files:
        if not is_image(path) and images.intersection(image_stems(path.relative_to(folder).as_posix())):
            if check(path):
                return True
            checked += 1
            if checked == NUM_CHECKED:
                break
    return False


def read_sidecars(
    source: str,
    suffix: str,
    cut: Callable[[Pair], Any],
    options: ReadOptions,
    *,
    image_name: Callable[[Path], str],
) -> list[Item]:
    """List the annotation files of a source with their images, in order of their paths.

    Files are paired by `image_stems`; for the others, the name in the annotation file is matched with all
    images (see `match_files`). Images without an annotation file are rejected.

    Args:
        source: a folder, or one annotation file.
        suffix: of annotation files.
        cut: yields the objects of a pair.
        options: ``images`` and ``notes`` are used.
        image_name: returns the image's name in an annotation file; raises `UserError` for another file.

    Raises:
        UserError: no such folder, or no annotation file.
    """
    given = Path(source)
    folder = given.parent if given.is_file() else check_folder(source)
    files, rejected = list_files(folder)
    if given.is_file():
        files = [file for file in files if is_image(file.path) or file.path == given]
    labels = [file for file in files if file.path.suffix.lower() == suffix]
    images: dict[str, ListedFile] = {}
    for file in files:
        if is_image(file.path):
            images.setdefault(PurePosixPath(file.name).with_suffix("").as_posix().casefold(), file)
    if not labels:
        raise UserError(f"object source '{source}': no {suffix} files in it")
    _note_other_kinds([file.path for file in files if file.path.suffix.lower() != suffix], options)
    stems = {label.name: image_stems(label.name) for label in labels}
    partners = {name: next((images[s] for s in stems[name] if s in images), None) for name in stems}
    pairs = {n: Pair(label, p.name, p.path) for label in labels if (p := partners[n := label.name])}
    alone = [label for label in labels if partners[label.name] is None]
    pairs |= _pairs_by_name(alone, folder, image_name, rejected, options)
    items = [
        Item(pair.label.name, (pair.path, pair.label.path), partial(cut, pair)) for pair in pairs.values()
    ]
    used = {pair.path for pair in pairs.values()}
    if not given.is_file():
        lost = [image for image in images.values() if image.path not in used]
        rejected += [unusable(image.name, f"no labels: no {suffix} file for this image") for image in lost]
    return sorted(items + rejected, key=lambda item: item.source)


def _note_other_kinds(files: Sequence[Path], options: ReadOptions) -> None:
    """Note annotation files of other formats, because only one format of a source is read."""
    candidates = [path for path in files if path.suffix.lower() in (".json", ".xml")]
    other = next((path for path in candidates[:NUM_CHECKED] if kind_of(path)), None)
    if other is not None:
        options.notes.append(f"{other}: not used ({describe(other)})")


def _pairs_by_name(
    labels: Sequence[ListedFile],
    folder: Path,
    image_name: Callable[[Path], str],
    rejected: list[Item],
    options: ReadOptions,
) -> dict[str, Pair]:
    named: list[tuple[ListedFile, str]] = []
    for label in labels:
        try:
            inside = image_name(label.path).replace("\\", "/")
            beside = os.path.normpath(os.path.join(os.path.dirname(label.name), inside))
            named.append((label, beside))
        except UserError as error:
            rejected.append(unusable(label.name, str(error)))
    folders = [folder, *([options.images] if options.images else [])]
    matches = match_files(
        [[name] for _, name in named], folders, below=options.images or folder, suitable=is_image
    )
    if matches.note:
        options.notes.append(f"{folder}: {matches.note}")
    pairs = {}
    for number, (label, name) in enumerate(named):
        if number in matches.problems:
            rejected.append(unusable(label.name, matches.problems[number]))
        else:
            pairs[label.name] = Pair(label, name, matches.paths.get(number, folder / name))
    return pairs
