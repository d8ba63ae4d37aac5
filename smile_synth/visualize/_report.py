"""The report: playing clips with labels, statistics and findings, on one page that needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from smile_synth.parallel.workers import map_in_order
from smile_synth.visualize._charts import heat_map, histogram, line_chart
from smile_synth.visualize._clip_data import (
    NO_ROOM,
    ClipData,
    Encoding,
    clip_data,
    compact_json,
    sample_flows,
)
from smile_synth.visualize._health import Finding, find_problems
from smile_synth.visualize._measure import ClipMeasure, measure
from smile_synth.visualize._media import COLORS
from smile_synth.visualize._page import page_environment
from smile_synth.visualize._source import CorpusSource, Source
from smile_synth.visualize._statistics import QUANTITIES, RecipeCheck, Statistics, check_recipe, summarise
from smile_synth.visualize._stored import why_missing

Progress = Callable[[int, int], None]
# The best first; a page uses the first that fits.
_ENCODINGS = tuple(
    Encoding(*values)
    for values in (
        (512, 20), (384, 21), (256, 23), (224, 25), (192, 27), (160, 29), (128, 31), (112, 32), (96, 34),
        (80, 36), (64, 38),
    )
)  # fmt: skip
# Characters of videos and labels in a page; a page stays below 15 MB.
_ROOM = 13_900_000
_TRIED_CLIPS = 6


@dataclass(frozen=True)
class Report:
    """A page and its content.

    Attributes:
        html: the page.
        clips: measures of every clip of the source.
        findings: what looks wrong.
        num_videos: clips that play in the page.
    """

    html: str
    clips: list[ClipMeasure]
    findings: list[Finding]
    num_videos: int


def measure_source(
    source: Source, *, workers: int = 1, progress: Progress | None = None
) -> list[ClipMeasure]:
    """Measure every clip of a source.

    Args:
        source: a corpus or a recipe.
        workers: number of processes.
        progress: called with (clips done, clips in all).
    """
    results = _read_all(source, frozenset(), _ENCODINGS[-1], workers, progress)
    return [measured for measured, _ in results]


def _read_all(
    source: Source, shown: frozenset[int], encoding: Encoding, workers: int, progress: Progress | None
) -> list[tuple[ClipMeasure, ClipData | None]]:
    work = partial(_read_clip, source=source, shown=shown, encoding=encoding)
    out = []
    for result in map_in_order(work, source.indices, workers=workers):
        out.append(result)
        if progress:
            progress(len(out), len(source.indices))
    return out


def _read_clip(
    index: int, *, source: Source, shown: frozenset[int], encoding: Encoding
) -> tuple[ClipMeasure, ClipData | None]:
    """Measure a clip; encode it if it is shown."""
    sample = source.read(index)
    measured = measure(sample)
    if index not in shown:
        return measured, None
    return measured, clip_data(sample, measured, sample_flows(sample), encoding, source.command(index))


def make_report(
    source: Source, *, num_shown: int = 500, workers: int = 1, progress: Progress | None = None
) -> Report:
    """Read every clip of a source and make a page below 15 MB.

    Statistics and findings cover all clips. The videos are as large and as good as the room allows; where not
    even the smallest fit, evenly spaced clips keep theirs and the page says so.

    Args:
        source: a corpus or a recipe.
        num_shown: clips in the grid; of more clips, evenly spaced ones.
        workers: number of processes.
        progress: called with (clips done, clips in all).
    """
    shown = [source.indices[i] for i in _evenly_spaced(len(source.indices), num_shown)]
    results = _read_all(source, frozenset(shown), _best_encoding(source, shown), workers, progress)
    clips = [measured for measured, _ in results]
    entries, num_videos = _fit([entry for _, entry in results if entry is not None], _ROOM)
    findings = find_problems(clips, source.recipe, source.faults)
    licences = None
    if source.sources is not None:
        licences = [str(name) for name in source.sources.objects.index["licence"].to_pylist()]
    statistics = summarise(clips, licences)
    checks = check_recipe(source.recipe, clips) if source.recipe else []
    page_data = {
        "clips": [entry.row for entry in entries],
        "colors": ["#{:02x}{:02x}{:02x}".format(*color) for color in COLORS],
        "unavailable": _unavailable(source),
    }
    html = page_environment().get_template("report.html").render(
        title=f"Report: {source.name}",
        facts=_facts(source, clips),
        findings=findings,
        shown_note=_shown_note(entries, len(clips)),
        checks=[_check_row(check) for check in checks],
        charts=_charts(statistics),
        tables=_tables(statistics, source),
        data=Markup(compact_json(page_data).replace("<", "\\u003c")),  # safe inside a script element
        blobs=[
            {"id": f"{kind}-{entry.row['index']}", "text": text}
            for entry in entries
            for kind, text in (("labels", entry.labels), ("video", entry.video))
            if text
        ],
    )  # fmt: skip
    return Report(html, clips, findings, num_videos)


def _unavailable(source: Source) -> str:
    """Return why flow or tracks are not shown, "" if they are."""
    if not isinstance(source, CorpusSource) or source.sources is not None:
        return ""
    missing = [name for name in ("flow", "tracks") if name not in source.corpus.header.labels]
    return why_missing(missing) + "." if missing else ""


def _shown_note(entries: Sequence[ClipData], num_clips: int) -> str:
    note = ""
    if len(entries) < num_clips:
        note += f"{len(entries)} of {num_clips} clips are shown, evenly spaced. "
    left_out = sum(entry.row["why"] == NO_ROOM for entry in entries)
    if left_out:
        note += f"{left_out} of them have no video here: the page stays below 15 MB. "
    return note


def _evenly_spaced(count: int, most: int) -> list[int]:
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]


def _best_encoding(source: Source, shown: Sequence[int]) -> Encoding:
    """Choose the best encoding with which all clips fit, by the size of a few evenly spaced ones."""
    samples = [source.read(shown[i]) for i in _evenly_spaced(len(shown), _TRIED_CLIPS)]
    tried = [(each, measure(each), sample_flows(each)) for each in samples if each.frames is not None]
    for encoding in _ENCODINGS:
        entries = [clip_data(*each, encoding, "") for each in tried]
        sizes = [len(entry.video) + len(entry.labels) for entry in entries]
        if not sizes or np.mean(sizes) * len(shown) < 0.85 * _ROOM:
            return encoding
    return _ENCODINGS[-1]


def _fit(entries: list[ClipData], room: int) -> tuple[list[ClipData], int]:
    """Drop videos until the rest fits, keeping evenly spaced ones; return entries and number of videos."""
    with_video = [i for i, entry in enumerate(entries) if entry.video]
    room -= sum(len(entry.labels) for entry in entries)
    kept = set(with_video)
    while kept and sum(len(entries[i].video) for i in kept) > room:
        kept = {with_video[i] for i in _evenly_spaced(len(with_video), int(len(kept) * 0.9))}
    out = [
        replace(entry, video="", row={**entry.row, "video": False, "why": NO_ROOM})
        if entry.video and i not in kept
        else entry
        for i, entry in enumerate(entries)
    ]
    return out, len(kept)


def _facts(source: Source, clips: Sequence[ClipMeasure]) -> list[tuple[str, str]]:
    facts = [("clips", f"{len(clips):,}"), ("objects", f"{sum(len(c.objects) for c in clips):,}")]
    sizes = Counter((c.num_frames, *c.size_hw) for c in clips if c.num_frames)
    if sizes:
        (frames, height, width), _ = sizes.most_common(1)[0]
        facts.append(("frames", f"{frames} of {height}×{width}"))
    num_bytes = sum(c.num_bytes for c in clips)
    if num_bytes:
        facts.append(("media", f"{num_bytes / 1e6:.1f} MB"))
    if source.recipe is not None:
        facts.append(("recipe", source.recipe.digest[:12]))
    return facts


def _check_row(check: RecipeCheck) -> dict[str, Any]:
    row = {"key": check.key, "count": check.count, "off": check.inside < 1}
    if check.is_share:
        found = float(check.measured[0])
        expected, measured, inside = f"{check.low:.1%}", f"{found:.1%}", "no" if row["off"] else "yes"
        bars = {"expected": (0.0, 1.0), "middle": (0.0, found), "mark": (check.low, check.low)}
    else:
        quartiles = np.percentile(check.measured, [0, 25, 50, 75, 100])
        expected, inside = f"{check.low:.3g} .. {check.high:.3g}", f"{check.inside:.1%}"
        measured = "{0:.3g} .. {2:.3g} .. {4:.3g}".format(*quartiles)
        low, first, median, third, high = quartiles.tolist()
        bars = {
            "expected": (check.low, check.high), "all": (low, high), "middle": (first, third),
            "mark": (median, median),
        }  # fmt: skip
    start, stop = min(a for a, _ in bars.values()), max(b for _, b in bars.values())
    scale = 100 / ((stop - start) or 1.0)
    strip = [(name, scale * (a - start), scale * (b - a)) for name, (a, b) in bars.items()]
    return {**row, "expected": expected, "measured": measured, "inside": inside, "strip": strip}


def _charts(statistics: Statistics) -> list[dict[str, Any]]:
    charts = []
    for name, (title, unit) in QUANTITIES.items():
        values, note = statistics.values[name], ""
        if len(values):
            low, middle, high = np.percentile(values, [5, 50, 95])
            note = f"median {middle:.3g}, 5 to 95 %: {low:.3g} .. {high:.3g} {unit}, {len(values):,} values"
        svg = histogram({"": values}, unit=unit, title=title, whole=name == "longest_occluded")
        charts.append({"title": title, "svg": svg, "note": note})
    title, note = (
        "Centres of the objects in the frame",
        f"{statistics.outside:.1%} of the centres are outside",
    )
    charts.append({"title": title, "svg": heat_map(statistics.center_shares, title=title), "note": note})
    title, note = "Power spectrum of the frames", ""
    if statistics.spectrum is not None:
        low, middle, high = np.percentile(statistics.exponents, [5, 50, 95])
        note = (
            f"amplitude falls as 1 / frequency^{middle:.2f} (5 to 95 % of the clips: {low:.2f} .. {high:.2f})"
        )
    charts.append({"title": title, "svg": spectrum_chart({"": statistics}, title), "note": note})
    return charts


def spectrum_chart(statistics: dict[str, Statistics], title: str) -> Markup:
    """Draw the mean power spectra of one or more sources by their names."""
    lines = {
        name: (np.log10(np.arange(1, len(each.spectrum) + 1)), each.spectrum)
        for name, each in statistics.items()
        if each.spectrum is not None
    }
    return line_chart(lines, x_label="log10 cycles per frame", y_label="log10 power", title=title)


def _tables(statistics: Statistics, source: Source) -> list[tuple[str, dict[str, Any]]]:
    no_licence = "the report has no object bank" if source.sources is None else "no scenes"
    return [
        ("Objects per clip", _table(statistics.counts, "no labels")),
        ("Motion", _table(statistics.families, "no labels")),
        ("Background", _table(statistics.backgrounds, "no scenes")),
        ("Class", _table(statistics.classes, "no labels")),
        ("Licence", _table(statistics.licences, no_licence)),
    ]


def _table(counts: Counter[Any], why_empty: str) -> dict[str, Any]:
    top = counts.most_common(16)
    largest, rest = (top[0][1] if top else 1), counts.total() - sum(count for _, count in top)
    rows = [{"name": name, "count": count, "percent": 100 * count / largest} for name, count in top]
    return {"rows": rows, "more": len(counts) - len(top), "rest": rest, "why": why_empty}
