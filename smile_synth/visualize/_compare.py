"""Two corpora or recipes side by side: what differs in the recipe, and what differs in the clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from smile_synth.recipe import Recipe, differences
from smile_synth.visualize._charts import heat_map, histogram, line_chart
from smile_synth.visualize._health import find_problems
from smile_synth.visualize._media import fitted, mp4_uri, resized
from smile_synth.visualize._page import page_environment
from smile_synth.visualize._report import measure_source
from smile_synth.visualize._source import Source
from smile_synth.visualize._statistics import QUANTITIES, ClipMeasure, summarise

Float = NDArray[np.float64]
NUM_FILMS = 6


def distribution_distance(a: Float, b: Float) -> float:
    """Return the largest difference of two empirical distribution functions, 0..1; NaN without values.

    The two-sample statistic of Kolmogorov and Smirnov.
    """
    if not len(a) or not len(b):
        return float("nan")
    places = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(v), places, side="right") / len(v) for v in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def make_comparison(
    first: Source, second: Source, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> str:
    """Measure both sources and lay them out on one page.

    Args:
        first, second: corpora or recipes.
        workers: processes.
        progress: called with (clips done, clips in all).
    """
    total = len(first.indices) + len(second.indices)

    def after(done_before: int) -> Callable[[int, int], None]:
        return lambda done, _: progress(done_before + done, total) if progress else None

    measured = [
        measure_source(first, workers=workers, progress=after(0)),
        measure_source(second, workers=workers, progress=after(len(first.indices))),
    ]
    statistics = [summarise(clips) for clips in measured]
    names = _names(first.name, second.name)
    charts: list[dict[str, Any]] = []
    for name, (title, unit) in QUANTITIES.items():
        values = [each.values[name] for each in statistics]
        distance = distribution_distance(*values)
        series = dict(zip(names, values, strict=True))
        svg = histogram(series, unit=unit, title=title, whole=name == "longest_covered")
        medians = [f"{np.median(v):.3g}" if len(v) else "none" for v in values]
        charts.append({"title": title, "svg": Markup(svg), "distance": distance, "medians": medians})
    charts.sort(key=lambda chart: float(-np.nan_to_num(chart["distance"], nan=-1.0)))
    spectra = {
        name: (np.log10(np.arange(1, len(each.spectrum) + 1)), each.spectrum)
        for name, each in zip(names, statistics, strict=True)
        if each.spectrum is not None
    }
    spectrum = line_chart(
        spectra, x_label="log10 cycles per frame", y_label="log10 power", title="Power spectrum of the frames"
    )
    recipes = first.recipe, second.recipe
    sides = [
        {
            "name": name,
            "clips": len(clips),
            "objects": each.num_objects,
            "heat": Markup(heat_map(each.heat, title=f"where the centres of {name} are")),
            "films": _films(source),
            "problems": _num_problems(source, clips),
        }
        for name, source, clips, each in zip(names, (first, second), measured, statistics, strict=True)
    ]  # fmt: skip
    known = recipes[0] is not None and recipes[1] is not None
    return page_environment().get_template("compare.html").render(
        title=f"{names[0]} and {names[1]}",
        names=names,
        sides=sides,
        keys=_keys(*recipes),
        known=known,
        charts=charts,
        spectrum=Markup(spectrum),
        tables=[
            ("Motion", _pairs([each.families for each in statistics])),
            ("Objects per clip", _pairs([_text(each.counts) for each in statistics])),
            ("Background", _pairs([each.backgrounds for each in statistics])),
            ("Class", _pairs([each.classes for each in statistics])),
        ],
    )  # fmt: skip


def _keys(a: Recipe | None, b: Recipe | None) -> list[tuple[str, str, str]]:
    """Return the differing keys; one that is left out on one side and null on the other means the same."""
    if a is None or b is None:
        return []
    return [row for row in differences(a, b) if set(row[1:]) != {"-", "null"}]


def _num_problems(source: Source, clips: list[ClipMeasure]) -> int:
    found = find_problems(clips, source.recipe, source.faults)
    return sum(finding.severity != "note" for finding in found)


def _names(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a != b else (f"{a} (first)", f"{b} (second)")


def _text(counts: Counter[int]) -> Counter[str]:
    return Counter({str(name): count for name, count in sorted(counts.items())})


def _films(source: Source) -> list[dict[str, Any]]:
    indices = list(source.indices)
    films = []
    for index in [indices[i * len(indices) // NUM_FILMS] for i in range(min(NUM_FILMS, len(indices)))]:
        sample = source.read(index)
        if sample.frames is not None:
            frames = resized(sample.frames, fitted(sample.frames.shape[1:3], 192))
            films.append({"index": index, "uri": mp4_uri(frames, sample.fps, crf=28)})
    return films


def _pairs(counts: Sequence[Counter[str]], most: int = 16) -> list[dict[str, Any]]:
    """Return shares in percent of each side, the most frequent names first; the longest bar is full."""
    totals = [max(each.total(), 1) for each in counts]
    names = [name for name, _ in (counts[0] + counts[1]).most_common(most)]
    shares = [
        [100 * each[name] / total for each, total in zip(counts, totals, strict=True)] for name in names
    ]
    largest = max((max(pair) for pair in shares), default=1.0)
    return [
        {"name": name, "shares": pair, "bars": [100 * share / largest for share in pair]}
        for name, pair in zip(names, shares, strict=True)
    ]
