"""export: write a corpus in a format that other tools read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smile_synth.core.errors import UserError, check_name
from smile_synth.corpus import Corpus, to_folder_layout
from smile_synth.exporters._base import Exporter, ExportOptions, ExportSource, Progress
from smile_synth.exporters._coco import COCO
from smile_synth.exporters._davis import DAVIS
from smile_synth.exporters._flow import FLO, FLOW_NPZ, KITTI_FLOW
from smile_synth.exporters._frames import FRAMES
from smile_synth.exporters._list import LIST
from smile_synth.exporters._mot import MOT
from smile_synth.exporters._mots import MOTS
from smile_synth.exporters._tapvid import TAPVID, TAPVID_KUBRIC
from smile_synth.exporters._yolo import YOLO
from smile_synth.exporters._youtube_vis import YOUTUBE_VIS
from smile_synth.sources import Sources


def registry(exporters: Sequence[Exporter]) -> dict[str, Exporter]:
    """Return exporters by name.

    Raises:
        ValueError: two have the same name.
    """
    out: dict[str, Exporter] = {}
    for exporter in exporters:
        if exporter.name in out:
            raise ValueError(f"export format '{exporter.name}' is registered twice")
        out[exporter.name] = exporter
    return out


EXPORTERS = registry(
    [
        FRAMES,
        COCO,
        YOUTUBE_VIS,
        YOLO,
        DAVIS,
        MOT,
        MOTS,
        TAPVID,
        TAPVID_KUBRIC,
        FLO,
        KITTI_FLOW,
        FLOW_NPZ,
        LIST,
    ]
)
# "native" copies every file of every clip to the folder layout.
EXPORT_FORMATS = (*EXPORTERS, "native")


def export(
    corpus: str | Path,
    format: str,
    out: str | Path,
    *,
    sources: Sources | None = None,
    options: ExportOptions | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Write a corpus in another format, into a new folder that appears when it is complete.

    Args:
        corpus: folder of the corpus.
        format: one of `EXPORT_FORMATS`; the table in docs/labels.md describes each.
        out: a new folder.
        sources: what the corpus was made from; flow and tracks are computed with it from the scenes.
        options: of the format; by default those of `ExportOptions`.
        workers: number of processes.
        progress: called with (clips done, clips in all).

    Raises:
        UserError: an unknown format, a folder that exists, an unfinished corpus, no sources or other sources
            than the corpus was made from, options that the format refuses.

    Example:
        >>> summary = generate(recipe, sources, out="corpus", num_clips=2, seed=0)
        >>> export("corpus", "coco", "coco")
        >>> sorted(path.name for path in Path("coco").iterdir())
        ['annotations', 'images']
    """
    out, options = Path(out), options or ExportOptions()
    check_format(format)
    opened = Corpus(corpus)
    if out.exists():
        raise UserError(f"out '{out}': exists; choose another folder")
    if format == "native":
        to_folder_layout(corpus, out, progress=progress)
        return
    exporter = EXPORTERS[format]
    if exporter.needs_sources and sources is None:
        raise UserError(
            f"format '{format}': is computed from the scenes; give the sources (object bank and backgrounds) "
            "that the corpus was made from"
        )
    if not 1 <= abs(options.step) < max(opened.header.num_frames, 2):
        raise UserError(f"step {options.step}: expected 1 to {opened.header.num_frames - 1}, or -1 and below")
    if options.points < 1:
        raise UserError(f"points must be at least 1, got {options.points}")
    source = ExportSource(opened, sources, options)
    exporter.run(source, out, workers=workers, progress=progress)


def check_format(format: str) -> None:
    """Refuse a format that is not in `EXPORT_FORMATS`.

    Raises:
        UserError: unknown.
    """
    check_name("format", format, EXPORT_FORMATS)
