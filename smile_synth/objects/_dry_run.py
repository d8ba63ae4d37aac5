"""Try the sources of a bank: list them, cut a sample, write nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smile_synth.core.errors import UserError
from smile_synth.objects._build import make_objects
from smile_synth.objects._cut_out import CutOutOptions
from smile_synth.objects._item import ReadOptions, Rejected
from smile_synth.objects.readers import list_items

SAMPLE_SIZE = 64


@dataclass(frozen=True)
class SourcePreview:
    """What a source gives, judged by a sample of its images.

    Attributes:
        given: the source, as the caller named it.
        format: how it is read.
        num_images: images, and entries that cannot be used, in the whole source.
        num_tried: images in the sample.
        classes: number of objects of the sample by class.
        rejected: what the sample rejects; near-duplicates are not searched.
        notes: as in `BuildReport`.
    """

    given: str
    format: str
    num_images: int
    num_tried: int
    classes: Counter[str]
    rejected: tuple[Rejected, ...] = field(repr=False)
    notes: tuple[str, ...]


def preview_sources(
    sources: Sequence[str | Path],
    *,
    seed: int = 0,
    cut: CutOutOptions | None = None,
    format: str | None = None,
    images: Path | None = None,
    crowd: bool = False,
) -> list[SourcePreview]:
    """Read up to 64 evenly spaced images of each source, as `build_bank` would with the same arguments.

    Raises:
        UserError: no sources, an unknown, missing or empty one, or an option out of its range.
    """
    cut = cut or CutOutOptions()
    cut.check()
    if not sources:
        raise UserError("no object source given, expected folders, annotation files or builtin:shapes")
    previews = []
    for given in map(str, sources):
        options = ReadOptions(seed, images, crowd)
        name, items = list_items(given, format, options)
        count = min(len(items), SAMPLE_SIZE)
        found = make_objects([items[i * len(items) // count] for i in range(count)], cut)
        rejected = tuple(entry for entry in found if isinstance(entry, Rejected))
        classes = Counter(entry.row.class_name for entry in found if not isinstance(entry, Rejected))
        previews.append(
            SourcePreview(given, name, len(items), count, classes, rejected, tuple(options.notes))
        )
    return previews
