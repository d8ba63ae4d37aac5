"""Compare two corpora or recipes: differing recipe keys and differing distributions, on one page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.recipe import Recipe, differences
from smile_synth.visualize._charts import heat_map, histogram
from smile_synth.visualize._health import find_problems
from smile_synth.visualize._media import fitted, mp4_uri, resized
from smile_synth.visualize._page import page_environment
from smile_synth.visualize._report import measure_source, spectrum_chart
from smile_synth.visualize._source import Source
from smile_synth.visualize._statistics import QUANTITIES, Statistics, summarise

Float = NDArray[np.float64]
NUM_VIDEOS = 6


def distribution_distance(a: Float, b: Float) -> float:
    """Return the largest difference of two empirical distribution functions, 0..1; NaN without values.

    This is the two-sample statistic of Kolmogorov and Smirnov.
    """
    if not len(a) or not len(b):
        return float("nan")
    places = np.concatenate([a, b])
    shares = [np.searchsorted(np.sort(v), places, side="right") / len(v) for v in (a, b)]
    return float(np.abs(shares[0] - shares[1]).max())


def make_comparison(
    first: Source, second: Source, *, workers: int = 1, progress: Callable[[int, int], None] | None = None
) -> str:
    """Measure two sources and return a page that compares them.

    Args:
        first, second: corpora or recipes.
        workers: number of processes.
        progress: called with (clips done, clips in all).
    """
    sources = (first, second)
    names = [first.name, second.name]
    if names[0] == names[1]:
        names = [f"{name} ({place})" for name, place in zip(names, ("first", "second"), strict=True)]
    statistics: dict[str, Statistics] = {}
    sides = []
    total, done = sum(len(source.indices) for source in sources), 0
    for name, source in zip(names, sources, strict=True):
        clips = measure_source(source, workers=workers, progress=_shifted(progress, done, total))
        done += len(clips)
        statistics[name] = summarise(clips)
        findings = find_problems(clips, source.recipe, source.faults)
        title = f"Centres of the objects: {name}"
        sides.append(
            {
                "name": name,
                "clips": len(clips),
                "objects": statistics[name].num_objects,
                "center_title": title,
                "centers": heat_map(statistics[name].center_shares, title=title),
                "videos": _videos(source),
                "problems": sum(finding.severity != "note" for finding in findings),
            }
        )
    both = list(statistics.values())
    return page_environment().get_template("compare.html").render(
        title=f"{names[0]} and {names[1]}",
        names=names,
        sides=sides,
        keys=_differing_keys(first.recipe, second.recipe),
        recipes_known=first.recipe is not None and second.recipe is not None,
        charts=_charts(statistics),
        spectrum=spectrum_chart(statistics, "Power spectrum of the frames"),
        tables=[
            ("Motion", _shares([each.families for each in both])),
            ("Objects per clip", _shares([each.counts for each in both])),
            ("Background", _shares([each.backgrounds for each in both])),
            ("Class", _shares([each.classes for each in both])),
        ],
    )  # fmt: skip


def _shifted(
    progress: Callable[[int, int], None] | None, done_before: int, total: int
) -> Callable[[int, int], None] | None:
    return progress and (lambda done, _: progress(done_before + done, total))


def _differing_keys(a: Recipe | None, b: Recipe | None) -> list[tuple[str, str, str]]:
    """Return the differing keys; a key that is absent on one side and null on the other is equal."""
    if a is None or b is None:
        return []
    return [row for row in differences(a, b) if set(row[1:]) != {"-", "null"}]


def _charts(statistics: dict[str, Statistics]) -> list[dict[str, Any]]:
    """Return overlaid histograms of all quantities, those that differ most first."""
    charts = []
    for quantity, (title, unit) in QUANTITIES.items():
        series = {name: each.values[quantity] for name, each in statistics.items()}
        a, b = series.values()
        svg = histogram(series, unit=unit, title=title, whole=quantity == "longest_occluded")
        medians = [f"{np.median(v):.3g}" if len(v) else "none" for v in (a, b)]
        distance = distribution_distance(a, b)
        charts.append({"title": title, "svg": svg, "distance": distance, "medians": medians})
    return sorted(charts, key=lambda chart: float(-np.nan_to_num(chart["distance"], nan=-1.0)))


def _videos(source: Source) -> list[dict[str, Any]]:
    count = min(NUM_VIDEOS, len(source.indices))
    videos = []
    for index in [source.indices[i * len(source.indices) // NUM_VIDEOS] for i in range(count)]:
        sample = source.read(index)
        if sample.frames is not None:
            frames = resized(sample.frames, fitted(sample.frames.shape[1:3], 192))
            videos.append({"index": index, "uri": mp4_uri(frames, sample.fps, crf=28)})
    return videos


def _shares(counts: Sequence[Counter[Any]]) -> list[dict[str, Any]]:
    """Return the shares of both sides in percent and their bar lengths, the most frequent names first."""
    totals = [max(each.total(), 1) for each in counts]
    names = [name for name, _ in (counts[0] + counts[1]).most_common(16)]
    rows = [
        {
            "name": name,
            "shares": [100 * each[name] / total for each, total in zip(counts, totals, strict=True)],
        }
        for name in names
    ]
    largest = max((max(row["shares"]) for row in rows), default=1.0)
    return [{**row, "bars": [100 * share / largest for share in row["shares"]]} for row in rows]
