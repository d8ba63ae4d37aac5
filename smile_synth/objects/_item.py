"""What every reader gives: items, each one image (or drawing) and the objects to be cut from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Rejected:
    """Something an item held that does not become an object.

    Attributes:
        source: its name inside its source.
        reason: why: a kind, that reports count by, then ``: `` and details.
    """

    source: str
    reason: str


@dataclass(frozen=True)
class CutOut:
    """An object as it was found, before its pixels are made ready for a bank.

    Attributes:
        class_name: the label.
        source: its name inside its source, unique there; of an annotated image ``<image>#<id>``.
        source_image: the image it was cut from, by name.
        image_key: equal keys mean the same image, which stays on one side of the split. The hash of
            the image's file where nothing better is known; the sequence for frames of a video.
        rgba: straight RGBA ``[H, W, 4]`` uint8.
        from_photo: cut by a mask whose edge pixels show what lay behind, so that their colour is to be
            taken from inside.
        annotation_id: of a dataset's annotation, empty where there is none.
        licence: of the image, empty where unknown.
        truncation: share 0..1 of the outline that lies on the border of the image.
        covered: share 0..1 of its pixels that smaller objects of the same image claim as well.
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
    """One image of a source: a picklable, small dataclass; pixels are read only by `cut_outs`.

    Every file it depends on stands in a field of type `Path`: a stopped build is continued only where
    these are as they were.

    Attributes:
        source: its name inside its source, unique there.
    """

    @property
    def source(self) -> str: ...

    def cut_outs(self) -> Iterator[CutOut | Rejected]:
        """Read the image and yield its objects one by one, in a fixed order.

        Raises:
            smile_synth.io.images.Reject: nothing of the item can be used.
        """


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be told.

    Attributes:
        seed: of what is drawn.
        images: folder that the file names of an annotation file are relative to; None: looked for.
        crowd: take crowd regions, too.
    """

    seed: int = 0
    images: Path | None = None
    crowd: bool = False


# Lists a source's items in a fixed order, before any image is decoded.
# Raises UserError where the source as a whole cannot be read.
Reader = Callable[[str, ReadOptions], Sequence[Item]]
