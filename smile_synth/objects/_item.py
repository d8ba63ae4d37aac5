"""What readers return: one item per image (or drawing), which yields the objects cut from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from smile_synth.io.images import Reject, UInt8

# Attribute of objects from images whose values were scaled to 8 bits; see `smile_synth.io.images`.
SCALED = "scaled"


@dataclass(frozen=True)
class Rejected:
    """Something in a source that does not become an object.

    Attributes:
        source: its name inside its source.
        reason: the kind of problem; a colon and details may follow.
        given: the source, as the caller named it.
    """

    source: str
    reason: str
    given: str = ""

    @property
    def kind(self) -> str:
        """The reason without details."""
        return self.reason.split(":")[0]


@dataclass(frozen=True, eq=False)
class CutOut:
    """An object as cut from its image; fields as in `ObjectInfo`, and these:

    Attributes:
        source: of an annotated image ``<image>#<id>``.
        image_key: the hash of the image's file by default; the sequence for frames of a video.
        rgba: straight RGBA ``[H, W, 4]`` uint8.
        from_photo: cut by a mask from a photograph, so the edge pixels mix in the old background.
    """

    class_name: str
    source: str
    source_image: str
    image_key: str
    rgba: UInt8
    from_photo: bool = False
    annotation_id: str = ""
    licence: str = ""
    truncation: float = 0.0
    covered: float = 0.0
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """One image of a source: small and picklable, because only ``cut`` reads pixels.

    Attributes:
        source: its name inside its source, unique there.
        files: the files that it depends on; a stopped build continues only if they are unchanged.
        cut: reads the image and yields its objects one by one, in a fixed order. It raises
            `smile_synth.io.images.Reject` if nothing can be used.
    """

    source: str
    files: tuple[Path, ...]
    cut: Callable[[], Iterable[CutOut | Rejected]]


def unusable(source: str, reason: str) -> Item:
    """Return the item of a file or entry that cannot be used."""
    return Item(source, (), partial(_reject, reason))


def _reject(reason: str) -> Iterable[CutOut]:
    raise Reject(reason)


@dataclass(frozen=True)
class ReadOptions:
    """Options of readers.

    Attributes:
        seed: seed of drawn shapes.
        images: folder that the file names of an annotation file are relative to; None: search for it.
        crowd: also use crowd regions.
        notes: readers append a line for every assumption that they make about a source.
    """

    seed: int = 0
    images: Path | None = None
    crowd: bool = False
    notes: list[str] = field(default_factory=list, compare=False, repr=False)


# Lists a source's items in a fixed order, before any image is decoded.
# Raises UserError if the whole source cannot be read.
Reader = Callable[[str, ReadOptions], Sequence[Item]]


class Format(NamedTuple):
    """A format of sources on disk.

    Attributes:
        name: the value of ``format=``.
        detect: returns whether a path looks like this format.
        read: lists the items of a source.
    """

    name: str
    detect: Callable[[Path], bool]
    read: Reader
