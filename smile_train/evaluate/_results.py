"""Results of an evaluation: rows of scores, saved files and the comparison of two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_train.evaluate._statistics import Difference, bootstrap_interval, paired_difference

Float = NDArray[np.float64]
Strings = NDArray[np.str_]
SCHEMA = 1
ENCODER, RANDOM = "encoder", "random "
# Settings that may differ between two evaluations that are compared.
_MAY_DIFFER = {"protocols", "controls", "random_encoders", "teacher", "num_frames", "side", "layer"}


@dataclass(frozen=True)
class ScoreRow:
    """One score.

    Attributes:
        protocol: name, with the number of shots or k, for example ``linear, 5 shots``.
        features: ``encoder``, ``random encoders (3)`` or the name of a control.
        accuracy: mean over test videos; a video that is tested several times counts by its mean.
        low, high: 95 % bootstrap interval over groups.
        per_class: mean of the accuracies of the classes.
        chance: accuracy of always predicting the most frequent class; None for retrieval.
        num_videos, num_groups: tested.
        margin: encoder minus random encoders, paired by video; only in the encoder's row.
        by_video: fraction of correct predictions by video, in the order of `VideoEvaluation.videos`; NaN for
            videos that were never tested.
        by_seed: accuracy of each random encoder; only in their row.
    """

    protocol: str
    features: str
    accuracy: float
    low: float
    high: float
    per_class: float
    chance: float | None
    num_videos: int
    num_groups: int
    margin: Difference | None
    by_video: list[float] = field(repr=False)
    by_seed: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class VideoEvaluation:
    """All scores of one encoder and its controls.

    Attributes:
        encoder: its name and digest.
        rows: one per protocol and kind of features.
        videos, labels, groups: one per readable video.
        splits: names, and indices of training and test videos.
        broken: (video, reason) of files that could not be read.
        left_out: (video, protocol, reason) of readable videos that a temporal protocol left out.
        settings: everything the scores depend on, except videos and weights.
    """

    encoder: dict[str, str]
    rows: list[ScoreRow]
    videos: list[str]
    labels: list[str]
    groups: list[str]
    splits: list[dict[str, Any]]
    broken: list[tuple[str, str]]
    left_out: list[tuple[str, str, str]]
    settings: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write as JSON; NaN becomes null."""
        text = json.dumps(_without_nan({"schema": SCHEMA, **asdict(self)}), indent=1, allow_nan=False)
        write_bytes(Path(path), (text + "\n").encode())


@dataclass(frozen=True)
class Labels:
    """Labels and groups ``[N]`` of the videos, and the seed of the bootstrap."""

    labels: Strings
    groups: Strings
    seed: int


class Tally:
    """Correct predictions by video, averaged over the number of times that a video was tested."""

    def __init__(self, num_videos: int) -> None:
        """Start without predictions."""
        self._sums, self._counts = np.zeros(num_videos), np.zeros(num_videos)

    def add(self, test: NDArray[np.int64], correct: NDArray[np.generic]) -> None:
        """Add the fraction of correct predictions of each test video."""
        np.add.at(self._sums, test, np.asarray(correct, np.float64))
        np.add.at(self._counts, test, 1)

    def mean(self) -> Float:
        """Return the mean by video; NaN for videos that were never tested."""
        empty = np.full(len(self._sums), np.nan)
        return np.asarray(np.divide(self._sums, self._counts, out=empty, where=self._counts > 0))


def score_rows(
    protocol: str, correct: Mapping[str, Float], videos: Labels, chance: float | None = None
) -> list[ScoreRow]:
    """Return a row for the encoder, one for all random encoders together, and one per control.

    Args:
        protocol: of the rows.
        correct: fraction of correct predictions by video, for ``encoder``, ``random 0`` .. and the controls.
        videos: in the same order.
        chance: accuracy of the most frequent class; computed from the labels by default.
    """
    randoms = [values for name, values in correct.items() if name.startswith(RANDOM)]
    shown = {name: values for name, values in correct.items() if not name.startswith(RANDOM)}
    if not randoms:
        return [_row(protocol, name, values, videos, chance) for name, values in shown.items()]
    average = np.stack(randoms).mean(0)
    tested = ~np.isnan(average)
    margin = paired_difference(
        shown[ENCODER][tested], average[tested], videos.groups[tested], seed=videos.seed
    )
    by_seed = [float(np.nanmean(values)) for values in randoms]
    return [
        _row(protocol, ENCODER, shown.pop(ENCODER), videos, chance, margin=margin),
        _row(protocol, f"random encoders ({len(randoms)})", average, videos, chance, by_seed=by_seed),
        *(_row(protocol, name, values, videos, chance) for name, values in shown.items()),
    ]


def _row(
    protocol: str, features: str, correct: Float, videos: Labels, chance: float | None, **more: Any
) -> ScoreRow:
    tested = ~np.isnan(correct)
    values, labels, groups = correct[tested], videos.labels[tested], videos.groups[tested]
    low, high = bootstrap_interval(values, groups, seed=videos.seed)
    classes, counts = np.unique(labels, return_counts=True)
    if chance is None and not protocol.startswith("retrieval"):
        chance = float(counts.max() / len(labels))
    return ScoreRow(
        protocol=protocol, features=features, accuracy=float(values.mean()), low=low, high=high,
        per_class=float(np.mean([values[labels == label].mean() for label in classes])), chance=chance,
        num_videos=len(values), num_groups=len(np.unique(groups)), by_video=correct.tolist(),
        **{"margin": None, **more},
    )  # fmt: skip


def compare_evaluations(a: str | Path, b: str | Path) -> list[tuple[str, float, float, Difference]]:
    """Compare the encoders of two saved evaluations, paired by video.

    Returns:
        (protocol, accuracy of a, accuracy of b, difference a - b) for each protocol that both contain.

    Raises:
        UserError: not files of `VideoEvaluation.save`, or of different videos, splits or settings.
    """
    first, second = (_read_saved(Path(p)) for p in (a, b))
    for key in ("videos", "groups", "splits", "labels"):
        if first[key] != second[key]:
            raise UserError(f"'{a}' and '{b}': have different {key}; evaluate both on the same")
    settings = [{k: v for k, v in c["settings"].items() if k not in _MAY_DIFFER} for c in (first, second)]
    different = sorted(k for k in {**settings[0], **settings[1]} if settings[0].get(k) != settings[1].get(k))
    if different:
        raise UserError(f"'{a}' and '{b}': were made with different settings: {', '.join(different)}")
    rows = [
        {row["protocol"]: row for row in c["rows"] if row["features"] == ENCODER} for c in (first, second)
    ]
    common = [name for name in rows[0] if name in rows[1]]
    if not common:
        raise UserError(f"'{a}' and '{b}': have no protocol in common")
    groups = np.array(first["groups"])
    results = []
    for name in common:
        values = [np.array(r[name]["by_video"], np.float64) for r in rows]  # null becomes NaN
        tested = ~np.isnan(values[0]) & ~np.isnan(values[1])
        difference = paired_difference(
            values[0][tested], values[1][tested], groups[tested], seed=first["settings"]["seed"]
        )
        results.append((name, rows[0][name]["accuracy"], rows[1][name]["accuracy"], difference))
    return results


def _read_saved(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise KeyError
    except OSError as error:
        raise UserError(f"'{path}': cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{path}': not a file of smile-train evaluate") from None
    return content


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
