"""The report: clips that play, their labels, statistics and health, in one page that needs no network."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from smile_synth.parallel.workers import in_order
from smile_synth.scene import Scene, Textured, is_redrawn
from smile_synth.visualize._charts import heat_map, histogram, line_chart, range_strip, share_strip
from smile_synth.visualize._health import Finding, find_problems
from smile_synth.visualize._images import COLORS
from smile_synth.visualize._media import base64_text, fitted, mp4_bytes, resized
from smile_synth.visualize._page import page_environment
from smile_synth.visualize._source import Sample, Source
from smile_synth.visualize._statistics import (
    QUANTITIES,
    ClipMeasure,
    Intent,
    Statistics,
    intentions,
    measure,
    summarise,
)

Progress = Callable[[int, int], None]
# Longest side of a film and its x264 quality, the best first; a page takes the first that fits.
_QUALITIES = (
    (512, 20), (384, 21), (256, 23), (224, 25), (192, 27), (160, 29), (128, 31), (112, 32), (96, 34),
    (80, 36), (64, 38),
)  # fmt: skip
# A page stays below 15 MB; this much of it is for films and labels.
_ROOM = 13_900_000
_TRIED = 6


@dataclass(frozen=True)
class Report:
    """A page and what stands in it.

    Attributes:
        html: the page.
        clips: every clip of the source, measured.
        findings: the health section.
        num_films: clips that play in the page.
    """

    html: str
    clips: list[ClipMeasure]
    findings: list[Finding]
    num_films: int


@dataclass(frozen=True)
class _Job:
    source: Source
    shown: frozenset[int]
    longest: int
    crf: int


@dataclass(frozen=True)
class _Entry:
    """A clip's part of the page; the texts are base64."""

    row: dict[str, Any]
    labels: str
    film: str


def _measure_clip(job: _Job, index: int) -> tuple[ClipMeasure, _Entry | None]:
    sample = job.source.read(index)
    measured = measure(sample)
    if index not in job.shown:
        return measured, None
    return measured, _entry(job.source, sample, measured, job.longest, job.crf)


def measure_source(
    source: Source, *, workers: int = 1, progress: Progress | None = None
) -> list[ClipMeasure]:
    """Measure every clip of a source, without making films.

    Args:
        source: a corpus or a recipe.
        workers: processes.
        progress: called with (clips done, clips in all).
    """
    return [measured for measured, _ in _all(_Job(source, frozenset(), 0, 0), workers, progress)]


def _all(job: _Job, workers: int, progress: Progress | None) -> list[tuple[ClipMeasure, _Entry | None]]:
    out = []
    indices = list(job.source.indices)
    for result in in_order(partial(_measure_clip, job), indices, workers=workers):
        out.append(result)
        if progress:
            progress(len(out), len(indices))
    return out


def make_report(
    source: Source, *, num_shown: int = 500, workers: int = 1, progress: Progress | None = None
) -> Report:
    """Look at every clip of a source and lay out the page, below 15 MB.

    Statistics and health cover all clips. The films are as large and as good as the room allows; where not
    even the smallest fit, evenly spaced clips keep theirs and the page says so.

    Args:
        source: a corpus or a recipe.
        num_shown: clips in the grid; of more clips, evenly spaced ones.
        workers: processes.
        progress: called with (clips done, clips in all).
    """
    indices = list(source.indices)
    shown = [indices[i] for i in _spaced(len(indices), num_shown)]
    longest, crf = _quality(source, shown)
    results = _all(_Job(source, frozenset(shown), longest, crf), workers, progress)
    clips = [measured for measured, _ in results]
    entries = [entry for _, entry in results if entry is not None]
    entries, num_films = _within(entries, _ROOM)
    findings = find_problems(clips, source.recipe, source.faults)
    note = ""
    if len(entries) < len(clips):
        note += f"{len(entries)} of {len(clips)} clips are shown, evenly spaced. "
    left_out = sum(entry.row.get("why") == _NO_ROOM for entry in entries)
    if left_out:
        note += f"{left_out} of them have no film here: the page stays below 15 MB. "
    licences = (
        None if source.bank is None else [str(name) for name in source.bank.index["licence"].to_pylist()]
    )
    statistics = summarise(clips, licences)
    html = page_environment().get_template("report.html").render(
        title=f"Report: {source.name}",
        facts=_facts(source, clips),
        findings=findings,
        shown_note=note,
        intents=[_intent_row(i) for i in (intentions(source.recipe, clips) if source.recipe else [])],
        charts=_charts(statistics),
        tables=_tables(statistics, source),
        data=_json({"clips": [entry.row for entry in entries], "colors": [_hex(color) for color in COLORS]}),
        blobs=[
            {"id": f"{kind}-{entry.row['index']}", "text": text}
            for entry in entries
            for kind, text in (("labels", entry.labels), ("film", entry.film))
            if text
        ],
    )  # fmt: skip
    return Report(html, clips, findings, num_films)


_NO_ROOM = "no room for its film"


def _spaced(count: int, most: int) -> list[int]:
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]


def _quality(source: Source, shown: Sequence[int]) -> tuple[int, int]:
    """Choose the best of `_QUALITIES` whose films and labels fit, by a few evenly spaced clips."""
    samples = [source.read(shown[i]) for i in _spaced(len(shown), _TRIED)]
    tried = [(sample, measure(sample)) for sample in samples if sample.frames is not None]
    for longest, crf in _QUALITIES:
        sizes = []
        for sample, measured in tried:
            entry = _entry(source, sample, measured, longest, crf)
            sizes.append(len(entry.film) + len(entry.labels))
        if not sizes or np.mean(sizes) * len(shown) < 0.85 * _ROOM:
            return longest, crf
    return _QUALITIES[-1]


def _within(entries: list[_Entry], room: int) -> tuple[list[_Entry], int]:
    """Drop films until the rest fits, keeping evenly spaced ones; returns entries and films kept."""
    films = [i for i, entry in enumerate(entries) if entry.film]
    room -= sum(len(entry.labels) for entry in entries)
    kept = set(films)
    while kept and sum(len(entries[i].film) for i in kept) > room:
        kept = {films[i] for i in _spaced(len(films), int(len(kept) * 0.9))}
    out = []
    for i, entry in enumerate(entries):
        if entry.film and i not in kept:
            entry = _Entry({**entry.row, "film": False, "why": _NO_ROOM}, entry.labels, "")
        out.append(entry)
    return out, len(kept)


def _entry(source: Source, sample: Sample, measured: ClipMeasure, longest: int, crf: int) -> _Entry:
    film = ""
    if sample.frames is not None:
        size_hw = fitted(measured.size_hw, longest)
        film = base64_text(mp4_bytes(resized(sample.frames, size_hw), sample.fps, crf=crf))
    visible = [v for item in measured.objects for v in item.visibility[np.isfinite(item.visibility)]]
    height, width = measured.size_hw
    row = {
        "index": measured.index,
        "classes": [item.class_name for item in measured.objects],
        "families": [item.family for item in measured.objects],
        "speed": _short(max((item.speed for item in measured.objects), default=None)),
        "size": _short(min((item.size for item in measured.objects), default=None)),
        "visibility": _short(float(np.mean(visible)) if visible else None),
        "labelled": measured.labelled,
        "film": bool(film),
        "why": "" if film else "no film: see the faults",
        "fps": sample.fps,
        "aspect": _short(width / height if height else 1.0),
        "faults": [[fault.kind, fault.text] for fault in measured.faults],
    }
    packed = zlib.compress(_compact(_detail(source, sample, measured, longest)).encode(), 9)
    return _Entry(row, base64_text(packed), film)


def _detail(source: Source, sample: Sample, measured: ClipMeasure, longest: int) -> dict[str, Any]:
    """Return all that the viewer needs of a clip. Poses and boxes are in pixels of the clip's own frames."""
    scene, labels, stored = sample.scene, sample.labels, sample.stored
    mask_hw = fitted(measured.size_hw, longest)
    detail: dict[str, Any] = {
        "num_frames": measured.num_frames, "size_hw": measured.size_hw, "mask_hw": mask_hw,
        "command": source.command(measured.index), "factors": measured.factors, "objects": [],
        "unlabelled": [], "background": None,
    }  # fmt: skip
    if labels is None or stored is None:
        return detail
    rows: list[int] = [] if scene is None else [k for k, layer in enumerate(scene.layers) if layer.labelled]
    for i, item in enumerate(stored["objects"]):
        modal, amodal = (_run_lengths(m[i], mask_hw) for m in (labels.modal_masks, labels.amodal_masks))
        detail["objects"].append(
            {
                "class_name": item["class_name"],
                "factors": item["factors"],
                "visibility": item["visibility"],
                "depth_order": item["depth_order"],
                "boxes": item["modal_boxes_xyxy"],
                "amodal_boxes": [b and [_short(v) for v in b] for b in item["amodal_boxes_xyxy"]],
                "modal": modal,
                "amodal": ["" if a == m else a for a, m in zip(amodal, modal, strict=True)],
                "poses": _poses(scene, rows[i]) if scene is not None else [],
            }
        )
    if scene is not None:
        surface = scene.layers[0].surface
        detail["background"] = {
            "redrawn": is_redrawn(surface), "poses": _poses(scene, 0), "factors": scene.layers[0].factors
        }  # fmt: skip
        detail["unlabelled"] = [
            {"width": layer.surface.width, "height": layer.surface.height, "poses": _poses(scene, k)}
            for k, layer in enumerate(scene.layers)
            if k and not layer.labelled and isinstance(layer.surface, Textured)
        ]
    return detail


def _poses(scene: Scene, layer: int) -> list[list[float]]:
    """Return 6 numbers a frame of affine poses, 9 where there is perspective; 7 digits will do."""
    poses = scene.object_to_frame[layer]
    count = 6 if (poses[:, 2] == [0, 0, 1]).all() else 9
    return [[float(f"{v:.7g}") for v in pose.ravel()[:count]] for pose in poses]


def _run_lengths(masks: NDArray[np.bool_], size_hw: tuple[int, int]) -> list[str]:
    """Return COCO run lengths of masks ``[T, H, W]``, sampled at the centres of a smaller grid."""
    (height, width), (h, w) = masks.shape[1:], size_hw
    y = ((np.arange(h) + 0.5) * height / h).astype(int)
    x = ((np.arange(w) + 0.5) * width / w).astype(int)
    small = masks[:, y][:, :, x].transpose(1, 2, 0)
    return [rle["counts"].decode() for rle in coco_mask.encode(np.asfortranarray(small.astype(np.uint8)))]


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 3)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _json(value: Any) -> Markup:
    """Return JSON that may stand inside a script element."""
    return Markup(_compact(value).replace("<", "\\u003c"))


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _facts(source: Source, clips: Sequence[ClipMeasure]) -> list[tuple[str, str]]:
    sizes = Counter((c.num_frames, *c.size_hw) for c in clips if c.num_frames)
    facts = [("clips", f"{len(clips):,}"), ("objects", f"{sum(len(c.objects) for c in clips):,}")]
    if sizes:
        (frames, height, width), _ = sizes.most_common(1)[0]
        facts.append(("frames", f"{frames} of {height}×{width}"))
    num_bytes = sum(c.num_bytes for c in clips)
    if num_bytes:
        facts.append(("media", f"{num_bytes / 1e6:.1f} MB"))
    if source.recipe is not None:
        facts.append(("recipe", source.recipe.digest[:12]))
    return facts


def _intent_row(intent: Intent) -> dict[str, Any]:
    if intent.is_share:
        found = float(intent.measured[0])
        strip = share_strip(intent.low, found, title=f"wanted {intent.low:.1%}, found {found:.1%}")
        wanted, measured = f"{intent.low:.1%}", f"{found:.1%}"
        inside = "as expected" if intent.inside == 1 else "differs"
    else:
        low, middle, high = np.percentile(intent.measured, [0, 50, 100])
        measured = f"{low:.3g} .. {middle:.3g} .. {high:.3g}"
        strip = range_strip(intent.low, intent.high, intent.measured, title=f"measured {measured}")
        wanted, inside = f"{intent.low:.3g} .. {intent.high:.3g}", f"{intent.inside:.1%}"
    return {
        "key": intent.key, "wanted": wanted, "measured": measured, "inside": inside, "off": intent.inside < 1,
        "count": intent.count, "strip": Markup(strip),
    }  # fmt: skip


def _charts(statistics: Statistics) -> list[dict[str, Any]]:
    charts = []
    for name, (title, unit) in QUANTITIES.items():
        values = statistics.values[name]
        svg = histogram({"": values}, unit=unit, title=title, whole=name == "longest_covered")
        note = ""
        if len(values):
            low, middle, high = np.percentile(values, [5, 50, 95])
            note = f"median {middle:.3g}, 5 to 95 %: {low:.3g} .. {high:.3g} {unit}, {len(values):,} values"
        charts.append({"title": title, "svg": Markup(svg), "note": note})
    charts.append(
        {
            "title": "Where the centres are",
            "svg": Markup(
                heat_map(statistics.heat, title="share of object centres in each field of the frame")
            ),
            "note": f"{statistics.outside:.1%} of the centres lie outside the frame",
        }
    )
    title, note = "Power spectrum of the frames", ""
    series: dict[str, Any] = {}
    if statistics.spectrum is not None:
        frequency = np.arange(1, len(statistics.spectrum) + 1)
        series[""] = (np.log10(frequency), statistics.spectrum)
        low, middle, high = np.percentile(statistics.exponents, [5, 50, 95])
        note = (
            f"amplitude falls as 1 / frequency^{middle:.2f} (5 to 95 % of the clips: {low:.2f} .. {high:.2f})"
        )
    svg = line_chart(series, x_label="log10 cycles per frame", y_label="log10 power", title=title)
    charts.append({"title": title, "svg": Markup(svg), "note": note})
    return charts


def _tables(statistics: Statistics, source: Source) -> list[tuple[str, dict[str, Any]]]:
    without_bank = (
        "the licences stand in the object bank; give --bank" if source.bank is None else "no scenes"
    )
    named = Counter({str(k): v for k, v in sorted(statistics.counts.items())})
    return [
        ("Objects per clip", _counts(named, "no labels")),
        ("Motion", _counts(statistics.families, "no labels")),
        ("Background", _counts(statistics.backgrounds, "no scenes")),
        ("Class", _counts(statistics.classes, "no labels")),
        ("Licence", _counts(statistics.licences, without_bank)),
    ]


def _counts(counts: Counter[str], why: str, most: int = 16) -> dict[str, Any]:
    top = counts.most_common(most)
    largest, rest = (top[0][1] if top else 1), counts.total() - sum(count for _, count in top)
    rows = [{"name": name, "count": count, "percent": 100 * count / largest} for name, count in top]
    return {"rows": rows, "more": len(counts) - len(top), "rest": rest, "why": why}
