"""Readers of object sources: one file per format. To add a format, write its file and list it here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from smile_synth.core.errors import UserError, check_name, nearest
from smile_synth.objects._item import Format, Item, Reader, ReadOptions
from smile_synth.objects.readers._coco import COCO
from smile_synth.objects.readers._davis import DAVIS
from smile_synth.objects.readers._drawn import read_drawn
from smile_synth.objects.readers._images import IMAGES
from smile_synth.objects.readers._pairs import PAIRS
from smile_synth.objects.readers._photos import read_photos
from smile_synth.objects.readers._rgba import RGBA
from smile_synth.objects.readers._shapes import read_shapes
from smile_synth.objects.readers._voc import VOC

__all__ = ["FORMATS", "GENERATORS", "list_items", "registry"]


def registry(formats: Iterable[Format]) -> dict[str, Format]:
    """Return formats by name, in the given order.

    Raises:
        ValueError: two formats have the same name.
    """
    found: dict[str, Format] = {}
    for format in formats:
        if format.name in found:
            raise ValueError(f"two formats have the name '{format.name}'")
        found[format.name] = format
    return found


# Detection tries them in this order; the last one accepts any folder.
FORMATS = registry([COCO, VOC, DAVIS, PAIRS, RGBA, IMAGES])
# Sources that are not paths, by the name before ``:COUNT``.
GENERATORS: dict[str, Reader] = {
    "builtin:shapes": read_shapes,
    "builtin:photos": read_photos,
    "drawn": read_drawn,
}


def list_items(source: str, format_name: str | None, options: ReadOptions) -> tuple[str, Sequence[Item]]:
    """Return the format of a source and its items.

    Args:
        source: a path, or a name of ``GENERATORS``.
        format_name: a key of ``FORMATS``; None: detect the format.
        options: passed to the reader.

    Raises:
        UserError: unknown format or name, no such path, unknown content, or the reader refuses the source.
    """
    name = source if source.startswith("builtin:") else source.split(":")[0]
    path = Path(source)
    # An existing folder of that name has priority.
    if name in GENERATORS and not path.exists():
        return name, GENERATORS[name](source, options)
    if source.startswith("builtin:"):
        check_name("object source", source, GENERATORS)
    if not path.exists():
        raise UserError(f"object source '{source}': no such file or folder{nearest(source, GENERATORS)}")
    if format_name is None:
        format_name = next((format.name for format in FORMATS.values() if format.detect(path)), None)
        if format_name is None:
            raise UserError(
                f"object source '{source}': unknown format; expected a folder or an annotation .json file"
            )
    else:
        check_name("format", format_name, FORMATS)
    return format_name, FORMATS[format_name].read(source, options)
