"""What all export formats share: the input, one clip of it, and writing a folder that appears complete."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from smile_synth.annotations import Annotation, annotate
from smile_synth.corpus import Corpus, image_bytes
from smile_synth.io.atomic import write_errors_for
from smile_synth.parallel.workers import map_in_order
from smile_synth.sources import Sources

UInt8 = NDArray[np.uint8]
Values = dict[str, Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportOptions:
    """Options of single formats.

    Attributes:
        step: of flow, which is from frame t to frame t + step; negative: backward.
        points: number of query points per clip, of tracks.
        label: of lists: ``class`` (of the objects), or the name of a factor, for example ``family``.
    """

    step: int = 1
    points: int = 256
    label: str = "family"


@dataclass(frozen=True)
class ExportSource:
    """A corpus and the settings of its export.

    Attributes:
        corpus: the corpus to export.
        sources: what the corpus was made from; None: only stored labels can be exported.
        options: of the format.
    """

    corpus: Corpus
    sources: Sources | None
    options: ExportOptions

    @property
    def num_frames(self) -> int:
        """Number of frames of every clip."""
        return self.corpus.header.num_frames

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of every frame in pixels."""
        return self.corpus.header.size_hw

    @property
    def category_ids(self) -> dict[str, int]:
        """Class name -> category id, counted from 1; equal for all corpora of one bank."""
        return {name: i for i, name in enumerate(self.corpus.header.classes, 1)}

    @property
    def coco_categories(self) -> list[Values]:
        """The ``categories`` list of COCO files."""
        return [{"id": i, "name": name, "supercategory": "object"} for name, i in self.category_ids.items()]

    @property
    def flow_pairs(self) -> list[tuple[int, int]]:
        """Frame pairs (t, t + step) inside a clip."""
        frames, step = range(self.num_frames), self.options.step
        return [(t, t + step) for t in frames if t + step in frames]


class ExportedClip:
    """One clip of a corpus; each property is read or computed at its first use."""

    def __init__(self, source: ExportSource, index: int) -> None:
        self.source, self.index = source, index
        self.name = f"{index:06d}"

    @cached_property
    def _labels(self) -> Values:
        return self.source.corpus.labels(self.index)

    @property
    def objects(self) -> list[Values]:
        """The stored labels of every object, see docs/labels.md."""
        objects: list[Values] = self._labels["objects"]
        return objects

    @property
    def factors(self) -> Values:
        """The factors of the clip."""
        factors: Values = json.loads(self._labels["factors"])
        return factors

    @property
    def object_factors(self) -> list[Values]:
        """The factors of every object."""
        return [json.loads(item["factors"]) for item in self.objects]

    @cached_property
    def frames(self) -> UInt8:
        """Decoded media ``[T, H, W, 3]`` uint8."""
        return self.source.corpus.frames(self.index)

    @cached_property
    def annotation(self) -> Annotation:
        """All labels, computed from the scene; needs ``source.sources``."""
        if self.source.sources is None:
            raise ValueError("this export format needs the sources of the corpus")
        return annotate(self.source.corpus.scene(self.index), self.source.sources)


@dataclass(frozen=True)
class Exporter:
    """One export format.

    Attributes:
        name: of the format.
        write_clip: writes the files of one clip below a folder; returns the record for ``finish``.
        finish: writes the files that cover all clips, from the records in order of the clips.
        needs_sources: whether labels are computed from the scenes.
    """

    name: str
    write_clip: Callable[[ExportedClip, Path], Any]
    finish: Callable[[ExportSource, Iterator[Any], Path], None] | None = None
    needs_sources: bool = False

    def run(self, source: ExportSource, out: Path, *, workers: int, progress: Progress | None) -> None:
        """Export all clips to the folder ``out``, which appears when it is complete."""
        unfinished = out.with_name(f"{out.name}.{uuid.uuid4().hex[:8]}.part")
        work = partial(_write_clip, write=self.write_clip, source=source, out=unfinished)
        try:
            with write_errors_for(out):
                unfinished.mkdir(parents=True)
            results = map_in_order(work, source.corpus.indices, workers=workers)
            records = _with_progress(results, len(source.corpus), progress)
            if self.finish:
                self.finish(source, records, unfinished)
            for _ in records:
                pass
            with write_errors_for(out):
                os.replace(unfinished, out)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _write_clip(
    index: int, *, write: Callable[[ExportedClip, Path], Any], source: ExportSource, out: Path
) -> Any:
    return write(ExportedClip(source, index), out)


def _with_progress(results: Iterator[Any], total: int, progress: Progress | None) -> Iterator[Any]:
    for done, result in enumerate(results, 1):
        if progress:
            progress(done, total)
        yield result


def write(path: Path, data: bytes) -> None:
    """Write a file and the folders above it.

    Raises:
        UserError: it cannot be written.
    """
    with write_errors_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_json(path: Path, document: Values) -> None:
    """Write a COCO-style file with the keys ``info`` and ``licenses`` that its readers expect."""
    head = {"info": {"description": "synthetic clips"}, "licenses": []}
    write(path, json.dumps({**head, **document}).encode())


def write_frames(clip: ExportedClip, folder: Path, pattern: str, *, first: int = 0) -> list[str]:
    """Write the frames of a clip as images; return their names.

    Args:
        clip: the clip.
        folder: of the images.
        pattern: file name with suffix and a format field for the frame number, for example ``{:05d}.png``.
        first: number of the first frame.
    """
    names = [pattern.format(t) for t in range(first, first + len(clip.frames))]
    for name, frame in zip(names, clip.frames, strict=True):
        write(folder / name, image_bytes(frame, Path(name).suffix))
    return names


def box_xywh(box_xyxy: list[float]) -> list[float]:
    """Return a box (x0, y0, x1, y1) as (x, y, width, height)."""
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]


def coco_instance(item: Values, t: int) -> Values | None:
    """Return COCO's keys of the visible part of an object in frame ``t``; None: no visible pixel."""
    box = item["modal_boxes_xyxy"][t]
    if box[0] is None:
        return None
    mask = item["modal_rle"][t]
    return {"segmentation": mask, "area": int(coco_mask.area(mask)), "bbox": box_xywh(box)}
