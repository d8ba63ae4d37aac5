"""Results of a study: table, summary, plot and page."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from markupsafe import Markup
from numpy.typing import NDArray
from scipy import stats

from smile_synth.io.atomic import write_bytes
from smile_synth.visualize import mp4_uri, page_environment
from smile_train.ablate._study import Study
from smile_train.config import PretrainConfig
from smile_train.data.batches import open_data

TABLE, SUMMARY, PAGE, PLOT = "table.parquet", "summary.json", "index.html", "plot.svg"
SHOWN_CLIPS, DEFAULT_FPS = 3, 8.0
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """An arm's accuracy on one task over all seeds.

    Attributes:
        arm, task: which.
        by_seed: accuracy of each seed, in order.
        mean: of these.
        low, high: 95 % Student-t interval over seeds; NaN with one seed.
        random: mean accuracy of random encoders of the same architecture on the same clips.
        difference, difference_low, difference_high: to the reference arm, paired by seed; NaN for itself.
    """

    arm: str
    task: str
    by_seed: list[float]
    mean: float
    low: float
    high: float
    random: float
    difference: float
    difference_low: float
    difference_high: float


def write_report(
    out: Path,
    study: Study,
    scores: Mapping[tuple[str, int], dict[str, Any]],
    configs: Mapping[str, PretrainConfig],
    seeds: Sequence[int],
) -> list[Summary]:
    """Write the files of `TABLE`, `SUMMARY`, `PLOT` and `PAGE`.

    Args:
        out: folder of the study.
        study: its definition.
        scores: by arm and seed.
        configs: training config of each arm.
        seeds: those with scores of all arms.

    Returns:
        The summary.
    """
    rows = [
        {
            "arm": arm, "seed": seed, **{k: row[k] for k in ("task", "features", "accuracy", "low", "high")},
            **{k: content[k] for k in ("loss", "seconds", "num_train", "num_test")},
        }
        for (arm, seed), content in scores.items()
        for row in content["rows"]
    ]  # fmt: skip
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    write_bytes(out / TABLE, buffer.getvalue())
    summary = summarise(rows, list(study.all_arms), seeds, study.reference_arm)
    plain = [{k: None if v != v else v for k, v in asdict(row).items()} for row in summary]  # NaN: null
    text = json.dumps({"seeds": list(seeds), "rows": plain}, indent=1)
    write_bytes(out / SUMMARY, (text + "\n").encode())
    plot = draw_plot(summary)
    write_bytes(out / PLOT, plot.encode())
    arms = [
        {
            "name": arm, "changes": json.dumps(study.all_arms[arm]), "videos": _example_clips(config),
            "rows": [row for row in summary if row.arm == arm],
        }
        for arm, config in configs.items()
    ]  # fmt: skip
    environment = page_environment("smile_train")
    environment.filters["percent"] = _percent
    page = environment.get_template("ablation.html").render(
        title=study.about, arms=arms, plot=Markup(plot[plot.index("<svg") :]), seeds=seeds, study=study
    )
    write_bytes(out / PAGE, page.encode())
    return summary


def summarise(
    rows: Sequence[Mapping[str, Any]], arms: Sequence[str], seeds: Sequence[int], reference: str
) -> list[Summary]:
    """Return means over seeds with Student-t intervals, and differences to the reference, paired by seed.

    A seed changes weights, data, masks and the clips of the probes together, so the spread over seeds
    contains all of these.
    """
    accuracy = {
        (row["arm"], row["task"], row["seed"], row["features"].split()[0]): row["accuracy"] for row in rows
    }
    summary = []
    for task in dict.fromkeys(row["task"] for row in rows):
        base = np.array([accuracy[reference, task, seed, "encoder"] for seed in seeds])
        for arm in arms:
            own = np.array([accuracy[arm, task, seed, "encoder"] for seed in seeds])
            random = float(np.mean([accuracy[arm, task, seed, "random"] for seed in seeds]))
            paired = (math.nan, math.nan, math.nan)
            if arm != reference:
                paired = (float((own - base).mean()), *t_interval(own - base))
            summary.append(
                Summary(arm, task, own.tolist(), float(own.mean()), *t_interval(own), random, *paired)
            )
    return summary


def t_interval(values: Float) -> tuple[float, float]:
    """Return the 95 % Student-t interval of a mean (Student 1908); NaN for a single value."""
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    mean = float(values.mean())
    return mean - half, mean + half


def draw_plot(summary: Sequence[Summary]) -> str:
    """Return an SVG: accuracy of all seeds, mean and interval of every arm, random encoders as a line."""
    tasks = list(dict.fromkeys(row.task for row in summary))
    arms = list(dict.fromkeys(row.arm for row in summary))
    size = (3.4 * len(tasks) + 1.2, 0.8 + 0.32 * len(arms))
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(tasks), sharey=True))
    for panel, task in zip(panels, tasks, strict=True):
        rows = [row for row in summary if row.task == task]
        for y, row in enumerate(rows):
            if not math.isnan(row.low):
                panel.plot([100 * row.low, 100 * row.high], [y, y], color="#0072b2", linewidth=2)
            seeds = 100 * np.array(row.by_seed)
            panel.plot(seeds, [y] * len(seeds), "o", color="#56b4e9", markersize=4)
            panel.plot(100 * row.mean, y, "D", color="#0072b2", markersize=5)
        random = 100 * float(np.mean([row.random for row in rows]))
        panel.axvline(random, color="#d55e00", linestyle="--", linewidth=1)
        panel.set_title(task, fontsize=10)
        panel.set_xlabel("accuracy %", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)  # the first arm at the top
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "smile-video"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _example_clips(config: PretrainConfig) -> list[str]:
    """Return the first training clips of an arm as data URIs of videos."""
    data = open_data(config)
    videos = []
    for index in range(SHOWN_CLIPS):
        source = data.stages[0].source_of(index, seed=config.seed, batch_size=config.batch_size)
        frames = source.clips([index])[0].frames.repeat(2, axis=1).repeat(2, axis=2)
        recipe = data.recipes.get(source.name)  # corpora and videos have none
        videos.append(mp4_uri(frames, recipe.fps if recipe else DEFAULT_FPS))
    return videos


def _percent(value: float, signed: bool = False) -> str:
    return "" if math.isnan(value) else f"{100 * value:{'+' if signed else ''}.1f}"
