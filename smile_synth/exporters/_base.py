"""What every exporter is given, and how an export appears whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations import Annotation, annotate
from smile_synth.core.errors import UserError
from smile_synth.corpus import Corpus, image_bytes
from smile_synth.parallel.workers import in_order
from smile_synth.sources import Sources

UInt8 = NDArray[np.uint8]
Values = dict[str, Any]


class ExportedClip:
    """One clip of a corpus; everything is read or computed when first asked for."""

    def __init__(self, source: ExportSource, index: int) -> None:
        self.source, self.index = source, index
        self.name = f"{index:06d}"

    @cached_property
    def labels(self) -> Values:
        """The stored labels, see `labels_to_json`."""
        return self.source.corpus.labels(self.index)

    @property
    def objects(self) -> list[Values]:
        """The stored labels of every object."""
        objects: list[Values] = self.labels["objects"]
        return objects

    @cached_property
    def frames(self) -> UInt8:
        """Decoded media ``[T, H, W, 3]``."""
        return self.source.corpus.frames(self.index)

    @cached_property
    def annotation(self) -> Annotation:
        """Every label there is, from the scene; needs the sources."""
        assert self.source.sources is not None
        return annotate(self.source.corpus.scene(self.index), self.source.sources)


@dataclass(frozen=True)
class ExportSource:
    """A corpus and, for formats that need more than its stored labels, what it was made from.

    Attributes:
        corpus: what is exported.
        sources: what it was made from, or None.
        step: flow leads from frame t to t + step.
        points: number of query points of tracks.
    """

    corpus: Corpus
    sources: Sources | None
    step: int
    points: int

    @property
    def num_frames(self) -> int:
        """Frames of every clip."""
        return self.corpus.header.num_frames

    @property
    def categories(self) -> dict[str, int]:
        """Class name -> category id, from 1, the same in all exports of corpora of one bank."""
        return {name: i for i, name in enumerate(self.corpus.header.classes, 1)}

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of frames that flow leads between."""
        frames = range(self.num_frames)
        return [(t, t + self.step) for t in frames if t + self.step in frames]


@dataclass(frozen=True)
class Exporter:
    """How one format is written.

    Attributes:
        clip: writes a clip's own files below a folder; returns what `finish` needs of it.
        finish: writes what stands once in an export, from the records of all clips in order.
        needs_bank: whether labels are computed from the scenes.
    """

    clip: Callable[[ExportedClip, Path], Any]
    finish: Callable[[ExportSource, Iterator[Any], Path], None] | None = None
    needs_bank: bool = False


def run_exporter(
    exporter: Exporter,
    source: ExportSource,
    out: Path,
    *,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Export all clips; the folder gets its name when it is complete."""
    partial = out.with_name(f"{out.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        partial.mkdir(parents=True)
        records = _counted(
            in_order(
                _work,
                source.corpus.indices,
                workers=workers,
                start=_start,
                arguments=(exporter, source, partial),
            ),
            len(source.corpus),
            progress,
        )
        if exporter.finish:
            exporter.finish(source, records, partial)
        for _ in records:
            pass
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _counted(
    records: Iterator[Any], total: int, progress: Callable[[int, int], None] | None
) -> Iterator[Any]:
    for done, record in enumerate(records, 1):
        if progress:
            progress(done, total)
        yield record


_state: tuple[Exporter, ExportSource, Path] | None = None


def _start(exporter: Exporter, source: ExportSource, out: Path) -> None:
    global _state
    _state = exporter, source, out


def _work(index: int) -> Any:
    assert _state is not None
    exporter, source, out = _state
    return exporter.clip(ExportedClip(source, index), out)


def write(path: Path, data: bytes) -> None:
    """Write a file below an export's folder, making its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_frames(clip: ExportedClip, folder: Path, pattern: str, *, first: int = 0) -> list[str]:
    """Write a clip's frames as images; ``pattern`` has the suffix and a place for the number."""
    names = [pattern.format(t) for t in range(first, first + len(clip.frames))]
    for name, frame in zip(names, clip.frames, strict=True):
        write(folder / name, image_bytes(frame, Path(name).suffix))
    return names


def box_xywh(box_xyxy: list[float]) -> list[float]:
    """Return a box (x0, y0, x1, y1) as (x, y, width, height)."""
    x0, y0, x1, y1 = box_xyxy
    return [x0, y0, x1 - x0, y1 - y0]
