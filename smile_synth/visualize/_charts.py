"""Small charts as inline SVG whose colours are the page's own, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 10, 10, 38


def line_chart(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    log_y: bool = False,
    smooth: int = 1,
) -> str:
    """Draw lines; returns SVG text.

    Args:
        series: x and y of each line by its name, at most six.
        x_label, y_label: below and beside.
        title: read out to those who do not see the chart.
        log_y: logarithmic, for values above 0.
        smooth: draw the running mean over this many points, and the points themselves pale behind it.
    """
    cleaned: dict[str, tuple[Float, Float]] = {}
    for name, (x, y) in series.items():
        xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            ys = np.log10(ys) if log_y else ys
        known = np.isfinite(xs) & np.isfinite(ys)
        cleaned[name] = xs[known], ys[known]
    if not any(len(x) for x, _ in cleaned.values()):
        return _nothing(title)
    every_x = np.concatenate([x for x, _ in cleaned.values()])
    every_y = np.concatenate([y for _, y in cleaned.values()])
    axes = _Axes((every_x.min(), every_x.max()), (every_y.min(), every_y.max()), log_y)
    body = axes.frame(x_label, y_label)
    for k, (x, y) in enumerate(cleaned.values()):
        if smooth > 1 and len(y) > smooth:
            body.append(f'<polyline class="line pale s{k % 6}" points="{axes.points(*_thinned(x, y))}"/>')
            y = np.convolve(y, np.ones(smooth) / smooth, mode="valid")
            x = x[smooth - 1 :]
        if len(x) == 1:
            body.append(
                f'<circle class="dot s{k % 6}" cx="{axes.x(x[0]):.1f}" cy="{axes.y(y[0]):.1f}" r="3"/>'
            )
        else:
            body.append(f'<polyline class="line s{k % 6}" points="{axes.points(*_thinned(x, y))}"/>')
    return _svg(title, body) + _legend(list(cleaned))


def histogram(
    series: Mapping[str, ArrayLike],
    *,
    unit: str,
    title: str,
    bins: int = 24,
    wanted: tuple[float, float] | None = None,
    whole: bool = False,
) -> str:
    """Draw how values are distributed, in percent, one outline a series; returns SVG text.

    Args:
        series: values by name.
        unit: of the values.
        title: read out to those who do not see the chart.
        bins: over the range of all series together.
        wanted: a range to be shaded.
        whole: values are whole numbers; one bin each while they are few.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in series.items()}
    arrays = {name: values[np.isfinite(values)] for name, values in arrays.items()}
    every = np.concatenate([*arrays.values(), np.zeros(0)])
    if not len(every):
        return _nothing(title)
    low, high = float(every.min()), float(every.max())
    if whole and high - low < 40:
        edges = np.arange(low - 0.5, high + 1)
    elif high - low < 1e-9:
        edges = np.array([low - 0.5, low + 0.5])
    else:
        edges = np.linspace(low, high, bins + 1)
    shares = {name: 100 * np.histogram(v, edges)[0] / max(len(v), 1) for name, v in arrays.items()}
    axes = _Axes((edges[0], edges[-1]), (0.0, max(float(s.max()) for s in shares.values())), False)
    body = axes.frame(unit, "%")
    if wanted is not None and wanted[1] >= edges[0] and wanted[0] <= edges[-1]:
        a, b = axes.x(max(wanted[0], edges[0])), axes.x(min(wanted[1], edges[-1]))
        body.insert(
            0,
            f'<rect class="wanted" x="{a:.1f}" y="{_TOP}" width="{max(b - a, 2):.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}"/>',
        )
    base = axes.y(0.0)
    for k, values in enumerate(shares.values()):
        corners = [f"{axes.x(edges[0]):.1f},{base:.1f}"]
        for a, b, value in zip(edges, edges[1:], values, strict=False):
            corners += [f"{axes.x(a):.1f},{axes.y(value):.1f}", f"{axes.x(b):.1f},{axes.y(value):.1f}"]
        corners.append(f"{axes.x(edges[-1]):.1f},{base:.1f}")
        body.append(f'<polyline class="area s{k % 6}" points="{" ".join(corners)}"/>')
        for a, b, value in zip(edges, edges[1:], values, strict=False):
            if len(shares) == 1 and value:
                tip = f"{a:.3g} .. {b:.3g} {unit}: {value:.1f} %"
                body.append(
                    f'<rect class="hit" x="{axes.x(a):.1f}" y="{_TOP}" width="{axes.x(b) - axes.x(a):.1f}" '
                    f'height="{base - _TOP:.1f}"><title>{escape(tip)}</title></rect>'
                )
    return _svg(title, body) + _legend(list(arrays))


def heat_map(shares: Float, *, title: str) -> str:
    """Draw a field of shares ``[R, C]``, the largest the strongest; returns SVG text."""
    rows, columns = shares.shape
    cell, top = 200 / max(rows, columns), float(shares.max()) or 1.0
    body = [f'<rect class="edge" x="0" y="0" width="{columns * cell:.1f}" height="{rows * cell:.1f}"/>']
    for r in range(rows):
        for c in range(columns):
            if shares[r, c]:
                body.append(
                    f'<rect class="cell" x="{c * cell:.2f}" y="{r * cell:.2f}" '
                    f'width="{cell:.2f}" height="{cell:.2f}" '
                    f'opacity="{shares[r, c] / top:.3f}"><title>{100 * shares[r, c]:.2f} %</title></rect>'
                )
    return _svg(title, body, (columns * cell, rows * cell))


def range_strip(low: float, high: float, measured: Float, *, title: str) -> str:
    """Draw a wanted range as a band and measured values over it: all, the middle half, the median."""
    quarter = np.percentile(measured, [0, 25, 50, 75, 100])
    start, stop = min(low, float(quarter[0])), max(high, float(quarter[-1]))
    room = (stop - start) or 1.0

    def at(value: float) -> float:
        return 4 + 192 * (value - start) / room if stop > start else 100.0

    body = [
        f'<rect class="wanted" x="{at(low) - 1:.1f}" y="2" height="16" rx="2" '
        f'width="{max(at(high) - at(low), 0) + 2:.1f}"/>',
        f'<line class="line thin s0" x1="{at(quarter[0]):.1f}" x2="{at(quarter[4]):.1f}" y1="10" y2="10"/>',
        f'<rect class="solid s0" x="{at(quarter[1]):.1f}" y="6" height="8" '
        f'width="{max(at(quarter[3]) - at(quarter[1]), 1):.1f}"/>',
        f'<rect class="mark" x="{at(quarter[2]) - 1:.1f}" y="3" width="2" height="14"/>',
    ]
    return _svg(title, body, (200, 20))


def share_strip(wanted: float, found: float, *, title: str) -> str:
    """Draw a share of 0..1 as a bar, with a mark where it is wanted."""
    body = [
        '<rect class="wanted" x="4" y="6" width="192" height="8" rx="2"/>',
        f'<rect class="solid s0" x="4" y="6" width="{192 * found:.1f}" height="8" rx="2"/>',
        f'<rect class="mark" x="{3 + 192 * wanted:.1f}" y="3" width="2" height="14"/>',
    ]
    return _svg(title, body, (200, 20))


class _Axes:
    """Places values on the paper."""

    def __init__(self, x_range: tuple[float, float], y_range: tuple[float, float], log_y: bool) -> None:
        self.x_range, self.y_range, self.log_y = _open(*x_range), _open(*y_range), log_y

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)

    def points(self, x: Float, y: Float) -> str:
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(x, y, strict=True))

    def frame(self, x_label: str, y_label: str) -> list[str]:
        body = []
        for value in ticks(*self.y_range):
            y = self.y(value)
            text = _number(10**value if self.log_y else value)
            body.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            body.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        for value in ticks(*self.x_range):
            x = self.x(value)
            body.append(
                f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 15}" text-anchor="middle">{_number(value)}</text>'
            )
        base = _HEIGHT - _BOTTOM
        body.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        body.append(f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
        body.append(
            f'<text transform="translate(11 {(_TOP + base) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )
        return body


def _open(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round values between low and high, about ``count`` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _number(value: float) -> str:
    text = f"{value:.3g}"
    return "0" if text in ("-0", "0") else f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else text


def _thinned(x: Float, y: Float, most: int = 400) -> tuple[Float, Float]:
    """Keep the least and the largest value of every stretch: a spike stays a spike."""
    if len(x) <= 2 * most:
        return x, y
    keep = []
    for part in np.array_split(np.arange(len(x)), most):
        keep += sorted({int(part[y[part].argmin()]), int(part[y[part].argmax()])})
    return x[keep], y[keep]


def _svg(title: str, body: Sequence[str], size: tuple[float, float] = (_WIDTH, _HEIGHT)) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {size[0]:g} {size[1]:g}" role="img" '
        f'aria-label="{escape(title, True)}">' + "".join(body) + "</svg>"
    )


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(f'<span><i class="s{k % 6}"></i>{escape(name)}</span>' for k, name in enumerate(names))
    return f'<p class="legend">{items}</p>'


def _nothing(title: str) -> str:
    return f'<p class="nothing" role="img" aria-label="{escape(title, True)}: no values">no values</p>'
