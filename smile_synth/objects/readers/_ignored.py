"""Refuse to read a folder as plain images or cut-outs if that would ignore its annotations."""

from __future__ import annotations

import re
from pathlib import Path

from smile_synth.core.errors import UserError, counted
from smile_synth.io.files import printable, walk
from smile_synth.objects.readers._folders import is_image
from smile_synth.objects.readers._kinds import describe, kind_of
from smile_synth.objects.readers._pairs import MASK_END
from smile_synth.objects.readers._sidecars import image_stems

# Files that contain annotations whatever their name is, if their content fits `kind_of` or ``WORDS``.
ANNOTATION_SUFFIXES = (".json", ".jsonl", ".ndjson", ".xml")
# Files that belong to the image of the same name.
SIDECAR_SUFFIXES = (*ANNOTATION_SUFFIXES, ".txt", ".mat", ".npy", ".npz", ".csv", ".yaml", ".yml")
# Arrays and tables of a whole data set.
TABLE = re.compile(r"(.*[-_.])?(annotations?|labels?|masks?|gt|instances|segmentations?)([-_.].*)?", re.I)
MASK_FOLDER = re.compile(
    r"(.*[-_ ])?(masks?|labels?|annotations?|ann|gt|ground_?truth|gtfine|matting|alphas?|segmentations?"
    r"|segmentation(class|object)|mattes?|labelstr|labelsts)([-_ ].*)?",
    re.I,
)
WORDS = (
    b'"annotations"', b'"shapes"', b'"regions"', b'"polygon', b'"segmentation', b'"bbox"', b'"objects"',
    b'"masks',
)  # fmt: skip
PART_BYTES = 2**20


def refuse_ignored_labels(source: str, format_name: str) -> None:
    """Check that a folder contains no annotation files and no masks that the format would ignore.

    Raises:
        UserError: it contains some; the message names them and says how to read the folder.
    """
    folder = Path(source)
    files = walk(folder)[0]
    images = [path for path in files if is_image(path)]
    stems = {path.relative_to(folder).with_suffix("").as_posix().casefold() for path in images}
    if not images:
        return
    found = [path for path in files if not is_image(path) and _is_annotation(path, folder, stems)]
    masks = [] if format_name == "rgba" else _masks(images, folder)
    if not found and not masks:
        return
    what = f"{counted(len(found), 'annotation file')}" if found else f"{counted(len(masks), 'mask')}"
    first = (found or masks)[0]
    kind = next((text for path in found[:1] if (text := _advice(path))), "")
    advice = kind or "the formats that are read are in docs/objects.md"
    name = printable(first.relative_to(folder).as_posix())
    raise UserError(
        f"object source '{source}': {what} beside its images would be ignored, first '{name}': {advice}; "
        f"to use the images without them, pass format='{format_name}'"
    )


def _advice(path: Path) -> str:
    """Return what to do with an annotation file; files that have readers are in the wrong place."""
    kind = kind_of(path)
    if kind and kind.format:
        return f"it is {kind.name}: pass this file or the folder that it belongs to"
    return describe(path)


def _is_annotation(path: Path, folder: Path, stems: set[str]) -> bool:
    suffix = path.suffix.lower()
    if suffix in SIDECAR_SUFFIXES and stems.intersection(image_stems(path.relative_to(folder).as_posix())):
        return True
    if suffix in ANNOTATION_SUFFIXES:
        return kind_of(path) is not None or _has_words(path)
    in_mask_folder = any(MASK_FOLDER.fullmatch(part) for part in path.relative_to(folder).parts[:-1])
    return suffix in SIDECAR_SUFFIXES and (in_mask_folder or bool(TABLE.fullmatch(path.stem)))


def _has_words(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            text = file.read(PART_BYTES)
    except OSError:
        return False
    return any(word in text for word in WORDS)


def _masks(images: list[Path], folder: Path) -> list[Path]:
    """Return the images that have the name or the folder of a mask, if there are other images, too."""
    named = {path: path.relative_to(folder).with_suffix("") for path in images}
    stems = {name.as_posix().casefold() for name in named.values()}
    masks = [
        path
        for path, name in named.items()
        if any(MASK_FOLDER.fullmatch(part) for part in name.parts[:-1])
        or (MASK_END.search(name.name) and MASK_END.sub("", name.as_posix()).casefold() in stems)
    ]
    return masks if len(masks) < len(images) else []
