"""Charts as SVG elements of a page, drawn by Matplotlib; they follow the page's light and dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float = NDArray[np.float64]
# The light colours of templates/page.css; `figure_svg` puts the CSS variables in their place.
_SERIES = ("#0072b2", "#b34700", "#00714f", "#8a3f71", "#6b6200", "#454c54")
_SOFT, _LINE = "#4f5863", "#cfd6dd"
_VARIABLES = {color: f"var(--s{k})" for k, color in enumerate(_SERIES)} | {
    _SOFT: "var(--soft)", _LINE: "var(--line)", "'DejaVu Sans'": "system-ui",
}  # fmt: skip
_SVG_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.sans-serif": ["DejaVu Sans"], "path.simplify_threshold": 0.5,
}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "font.size": 8, "text.color": _SOFT, "axes.labelcolor": _SOFT,
    "axes.edgecolor": _SOFT, "xtick.color": _SOFT, "ytick.color": _SOFT, "grid.color": _LINE,
    "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "ytick.major.size": 0,
}  # fmt: skip
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_BINS = 24


def figure_svg(figure: Figure, title: str) -> Markup:
    """Return a figure as an SVG element. Equal figures give equal bytes.

    Args:
        figure: a Matplotlib figure.
        title: description for screen readers; different for every chart of a page.
    """
    import matplotlib

    text = io.StringIO()
    # The title makes the ids inside the SVG unique in the page.
    with matplotlib.rc_context({**_SVG_STYLE, "svg.hashsalt": title}):
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = re.sub(r'<g id="[^"]*"', "<g", text.getvalue())
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    attributes = f'<svg class="chart" role="img" aria-label="{escape(title)}"'
    return Markup(attributes + svg[svg.index("<svg") + len("<svg") :])


def line_chart(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    x_label: str,
    y_label: str,
    title: str,
    smooth: int = 1,
) -> Markup:
    """Draw lines as an SVG element.

    Args:
        series: x and y of each line by its name.
        x_label, y_label: names of the axes.
        title: description for screen readers.
        smooth: draw the running mean over this many points, and the points themselves pale behind it.
    """
    lines = {name: _finite(np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in series.items()}
    if not any(len(x) for x, _ in lines.values()):
        return _no_values(title)
    figure, axes = _chart(x_label, y_label)
    for color, (x, y) in zip(cycle(_SERIES), lines.values(), strict=False):
        if smooth > 1 and len(y) > smooth:
            axes.plot(x, y, color=color, alpha=0.3, linewidth=0.8)
            x, y = x[smooth - 1 :], np.convolve(y, np.ones(smooth) / smooth, mode="valid")
        axes.plot(x, y, color=color, linewidth=1.5, marker="o" if len(x) == 1 else "", markersize=4)
    return figure_svg(figure, title) + _legend(lines)


def histogram(series: Mapping[str, ArrayLike], *, unit: str, title: str, whole: bool = False) -> Markup:
    """Draw the distribution of values in percent as an SVG element, one outline per series.

    Args:
        series: values by name; non-finite ones are left out.
        unit: of the values.
        title: description for screen readers.
        whole: values are whole numbers and have one bin each while they are few.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in series.items()}
    arrays = {name: values[np.isfinite(values)] for name, values in arrays.items()}
    merged = np.concatenate([*arrays.values(), np.zeros(0)])
    if not len(merged):
        return _no_values(title)
    low, high = float(merged.min()), float(merged.max())
    if whole and high - low < 40:
        edges = np.arange(low - 0.5, high + 1)
    elif high - low < 1e-9:
        edges = np.array([low - 0.5, low + 0.5])
    else:
        edges = np.linspace(low, high, _BINS + 1)
    figure, axes = _chart(unit, "%")
    for color, values in zip(cycle(_SERIES), arrays.values(), strict=False):
        percent = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        axes.stairs(percent, edges, fill=True, color=color, alpha=0.22)
        axes.stairs(percent, edges, color=color, linewidth=1.4)
    return figure_svg(figure, title) + _legend(arrays)


def heat_map(shares: Float, *, title: str) -> Markup:
    """Draw shares ``[R, C]`` as cells of an SVG element; the largest share has the strongest colour."""
    import matplotlib
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(2.0, 2.0 * shares.shape[0] / shares.shape[1]))
        axes = figure.add_axes((0.01, 0.01, 0.98, 0.98), xticks=[], yticks=[])
        axes.grid(False)
        strength: Any = shares / (shares.max() or 1.0)
        axes.pcolormesh(shares, cmap=ListedColormap([_SERIES[0]]), alpha=strength)
        axes.invert_yaxis()
        for spine in axes.spines.values():
            spine.set(visible=True, color=_LINE)
    return figure_svg(figure, title)


def _chart(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 2.0), layout="constrained")
        axes = figure.subplots()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
    return figure, axes


def _finite(x: Float, y: Float) -> tuple[Float, Float]:
    chosen = np.isfinite(x) & np.isfinite(y)
    return x[chosen], y[chosen]


def _legend(names: Iterable[str]) -> Markup:
    items = [
        Markup('<span><i class="s{}"></i>{}</span>').format(k % len(_SERIES), name)
        for k, name in enumerate(names)
    ]
    return Markup('<p class="legend">{}</p>').format(Markup().join(items)) if len(items) > 1 else Markup()


def _no_values(title: str) -> Markup:
    return Markup('<p class="nothing" role="img" aria-label="{}: no values">no values</p>').format(title)
