"""export: a corpus in a format that other tools read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from smile_synth.core.errors import UserError, nearest
from smile_synth.corpus import Corpus, convert
from smile_synth.exporters._base import Exporter, ExportSource, run_exporter
from smile_synth.exporters._coco import COCO, YOUTUBE_VIS
from smile_synth.exporters._flows import FLO, FLOW_NPZ, KITTI
from smile_synth.exporters._points import TAPVID, TAPVID_KUBRIC
from smile_synth.exporters._sequences import DAVIS, FRAMES, MOT, MOTS
from smile_synth.sources import Sources

_EXPORTERS: dict[str, Exporter] = {
    "frames": FRAMES,
    "coco": COCO,
    "youtube-vis": YOUTUBE_VIS,
    "davis": DAVIS,
    "mot": MOT,
    "mots": MOTS,
    "tapvid": TAPVID,
    "tapvid-kubric": TAPVID_KUBRIC,
    "flo": FLO,
    "kitti-flow": KITTI,
    "flow-npz": FLOW_NPZ,
}
EXPORT_FORMATS = (*_EXPORTERS, "native")


def export(
    corpus: str | Path,
    format: str,
    out: str | Path,
    *,
    sources: Sources | None = None,
    step: int = 1,
    points: int = 256,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a corpus in another format, into a new folder that appears when it is complete.

    Args:
        corpus: its folder.
        format: one of `EXPORT_FORMATS`; the table in docs/labels.md says what each means.
        out: a new folder.
        sources: what the corpus was made from, for flow and points, which are computed from the scenes.
        step: flow leads from frame t to t + step; below 0 backward.
        points: query points a clip.
        workers: processes.
        progress: called with (clips done, clips in all).

    Raises:
        UserError: an unknown format, a folder that exists, an unfinished corpus, sources that are missing
            or others.
    """
    out = Path(out)
    check_format(format)
    opened = Corpus(corpus)
    if out.exists():
        raise UserError(f"out '{out}': exists; choose another folder")
    if format == "native":
        convert(corpus, out, layout="folder", progress=progress)
        return
    exporter = _EXPORTERS[format]
    if exporter.needs_bank and sources is None:
        raise UserError(f"format '{format}': is computed from the scenes: give --bank")
    if not 1 <= abs(step) < max(opened.header.num_frames, 2):
        raise UserError(f"step {step}: expected 1 to {opened.header.num_frames - 1}, or the same below 0")
    if points < 1:
        raise UserError(f"points must be at least 1, got {points}")
    source = ExportSource(opened, sources, step, points)
    run_exporter(exporter, source, out, workers=workers, progress=progress)


def check_format(format: str) -> None:
    """Refuse a format that there is not.

    Raises:
        UserError: unknown.
    """
    if format not in EXPORT_FORMATS:
        allowed = ", ".join(EXPORT_FORMATS)
        raise UserError(f"format '{format}': allowed are {allowed}{nearest(format, EXPORT_FORMATS)}")
