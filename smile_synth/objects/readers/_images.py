"""Plain images without masks: the regions that stand out are cut out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from smile_synth.core.errors import UserError
from smile_synth.io.images import Reject
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions
from smile_synth.objects._regions import METHOD, find_regions
from smile_synth.objects.readers._folders import ListedFile, check_folder, list_files, read_image
from smile_synth.objects.readers._masks import Photo


def read_images(source: str, options: ReadOptions) -> list[Item]:
    """List every file below a folder, in order of its path; links are followed, to every folder once.

    The class is the path of the file's folder relative to the source; for files directly in the source,
    the source's own name.

    Raises:
        UserError: no such folder, or an empty one.
    """
    files, rejected = list_files(check_folder(source))
    items = [Item(file.name, (file.path,), partial(_cut, file)) for file in files]
    items += rejected
    if not items:
        raise UserError(f"object source '{source}': the folder is empty; expected images")
    return items


def _cut(file: ListedFile) -> Iterator[CutOut]:
    photo = Photo.decode(file.name, read_image(file.path))
    found = find_regions(photo.rgb)
    if not found:
        raise Reject("no plausible region")
    for number, region in enumerate(found):
        cut_out = photo.cut(region.alpha, region.corner_yx, class_name=file.class_name, object_id=str(number))
        attributes = {**cut_out.attributes, "method": METHOD, "score": f"{region.score:.3f}"}
        yield replace(cut_out, annotation_id="", attributes=attributes)


IMAGES = Format("images", Path.is_dir, read_images)
