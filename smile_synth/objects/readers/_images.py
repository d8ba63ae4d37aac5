"""Plain images without masks: the regions that stand out are cut out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from smile_synth.core.errors import UserError
from smile_synth.io.files import content_key
from smile_synth.io.images import SUFFIXES, Reject, load_rgb, read_bytes
from smile_synth.objects._item import CutOut, Format, Item, ReadOptions
from smile_synth.objects._regions import METHOD, find_regions
from smile_synth.objects.readers._folders import check_folder, list_files
from smile_synth.objects.readers._masks import Photo


def read_images(source: str, options: ReadOptions) -> list[Item]:
    """List every file below a folder, in order of its path; links are followed, to every folder once.

    The class is the path of the file's folder relative to the source; for files directly in the source,
    the source's own name.

    Raises:
        UserError: no such folder, or an empty one.
    """
    files, unusable = list_files(check_folder(source))
    items: list[Item] = [PlainImage(*file) for file in files]
    items += unusable
    if not items:
        raise UserError(f"object source '{source}': the folder is empty; expected images")
    return items


@dataclass(frozen=True)
class PlainImage:
    """A plain image below a folder."""

    source: str
    path: Path
    class_name: str

    def cut_outs(self) -> Iterator[CutOut]:
        """Find regions and cut them out, best first.

        Raises:
            Reject: the image cannot be read or has no plausible region.
        """
        if self.path.suffix.lower() not in SUFFIXES:
            raise Reject("not an image")
        data = read_bytes(self.path)
        photo = Photo(self.source, content_key(data), load_rgb(data))
        found = find_regions(photo.rgb)
        if not found:
            raise Reject("no plausible region")
        for number, region in enumerate(found):
            cut_out = photo.cut(
                region.alpha, region.corner_yx, class_name=self.class_name, object_id=str(number)
            )
            attributes = {"method": METHOD, "score": f"{region.score:.3f}"}
            yield replace(cut_out, annotation_id="", attributes=attributes)


IMAGES = Format("images", Path.is_dir, read_images)
