"""Which reader takes a source: by its format's name, or by what the source looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from smile_synth.core.errors import UserError, nearest
from smile_synth.objects._coco import is_coco, read_coco
from smile_synth.objects._drawn import read_drawn
from smile_synth.objects._folder import is_cut_outs, read_folder
from smile_synth.objects._item import Item, Reader, ReadOptions
from smile_synth.objects._pairs import is_pairs, read_pairs
from smile_synth.objects._palette import is_davis, is_voc, read_davis, read_voc
from smile_synth.objects._photos import read_photos
from smile_synth.objects._regions import read_images
from smile_synth.objects._shapes import read_shapes


class Format(NamedTuple):
    """A kind of source: how it is recognised, how it is read, and what it is."""

    recognise: Callable[[Path], bool]
    read: Reader
    what: str


# In the order they are tried in; the last one takes any folder.
FORMATS: dict[str, Format] = {
    "coco": Format(is_coco, read_coco, "COCO or LVIS instances: a .json file, or a folder with one"),
    "voc": Format(is_voc, read_voc, "Pascal VOC: JPEGImages/ and SegmentationObject/"),
    "davis": Format(is_davis, read_davis, "DAVIS: JPEGImages/<size>/<sequence>/ and Annotations/ alike"),
    "pairs": Format(is_pairs, read_pairs, "pairs: images/ and masks/ with the same names"),
    "rgba": Format(is_cut_outs, read_folder, "cut-outs with alpha: <class>/<name>.png or .webp"),
    "images": Format(lambda path: path.is_dir(), read_images, "plain images, to be segmented"),
}
# Sources that are no path, by the word before ':COUNT'.
MADE: dict[str, Reader] = {
    "builtin:shapes": read_shapes,
    "builtin:photos": read_photos,
    "drawn": read_drawn,
}


def list_items(source: str, format_name: str | None, options: ReadOptions) -> tuple[str, Sequence[Item]]:
    """Return the format of a source and its items.

    Args:
        source: a path, or a name of ``MADE``.
        format_name: a key of ``FORMATS``; None: recognised.
        options: passed to the reader.

    Raises:
        UserError: unknown format or name, no such path, nothing recognised, or the reader refuses it.
    """
    word = source if source.startswith("builtin:") else source.split(":")[0]
    # A folder of that name is a folder.
    if word in MADE and not Path(source).exists():
        return word, MADE[word](source, options)
    if source.startswith("builtin:"):
        hint = nearest(source, MADE)
        raise UserError(f"unknown object source '{source}', expected {' | '.join(MADE)}{hint}")
    path = Path(source)
    if not path.exists():
        raise UserError(f"object source '{source}': no such file or folder{nearest(source, MADE)}")
    if format_name is not None:
        if format_name not in FORMATS:
            hint = nearest(format_name, FORMATS)
            raise UserError(f"unknown format '{format_name}', expected {' | '.join(FORMATS)}{hint}")
        return format_name, FORMATS[format_name].read(source, options)
    for name, kind in FORMATS.items():
        if kind.recognise(path):
            return name, kind.read(source, options)
    raise UserError(
        f"object source '{source}': not recognised; expected a folder or an annotation .json file"
    )
