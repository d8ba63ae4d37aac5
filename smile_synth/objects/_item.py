"""Items: what every reader lists. One item is one image (or drawing) and yields the objects cut from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from smile_synth.io.images import Reject, UInt8


@dataclass(frozen=True)
class Rejected:
    """Something in an item that does not become an object.

    Attributes:
        source: its name inside its source.
        reason: the kind of problem, optionally ``: `` and details; reports count by kind.
    """

    source: str
    reason: str


@dataclass(frozen=True, eq=False)
class CutOut:
    """An object as cut from its image, before `smile_synth.objects._cut_out.prepare`.

    Attributes:
        class_name: the label.
        source: its name inside its source, unique there; of an annotated image ``<image>#<id>``.
        source_image: name of the image it was cut from.
        image_key: equal keys mean the same image, which stays on one side of the split. The hash of
            the image's file by default; the sequence for frames of a video.
        rgba: straight RGBA ``[H, W, 4]`` uint8.
        from_photo: cut by a mask from a photograph, so the edge pixels mix in the old background.
        annotation_id: id of a dataset's annotation, empty if there is none.
        licence: licence of the image, empty if unknown.
        truncation: share 0..1 of the outline that is on the border of the image.
        covered: share 0..1 of its pixels that smaller objects of the same image also contain.
        attributes: further known facts, such as a shape's colour.
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


class Item(Protocol):
    """One image of a source: a picklable, small dataclass; only `cut_outs` reads pixels.

    Every file that an item depends on is in a field of type `Path`: a stopped build continues only if
    these files are unchanged.

    Attributes:
        source: its name inside its source, unique there.
    """

    @property
    def source(self) -> str: ...

    def cut_outs(self) -> Iterator[CutOut | Rejected]:
        """Read the image and yield its objects one by one, in a fixed order.

        Raises:
            smile_synth.io.images.Reject: nothing in the item can be used.
        """


@dataclass(frozen=True)
class UnusableItem:
    """A file or entry that cannot be used, with the reason."""

    source: str
    reason: str

    def cut_outs(self) -> Iterator[CutOut | Rejected]:
        """Raise `Reject` with the reason."""
        raise Reject(self.reason)


@dataclass(frozen=True)
class ReadOptions:
    """Options of readers.

    Attributes:
        seed: seed of drawn shapes.
        images: folder that the file names of an annotation file are relative to; None: search for it.
        crowd: also use crowd regions.
    """

    seed: int = 0
    images: Path | None = None
    crowd: bool = False


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
