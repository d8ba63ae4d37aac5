"""Motion probes: linear readouts on synthetic clips, tested with held-out objects and backgrounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from smile_synth.sources import Sources
from smile_train.evaluate._encoders import FrozenEncoder
from smile_train.evaluate._features import encode_clips, flow_histograms
from smile_train.evaluate._load import load_encoder
from smile_train.evaluate._motion_clips import (
    PIXEL_CONTROLS,
    Controls,
    Correct,
    MotionProbeOptions,
    ProbeClips,
)
from smile_train.evaluate._statistics import bootstrap_interval, paired_difference

NUM_RANDOM = 3


def motion_controls(teacher: str | None = "clip:tiny-clip", device: torch.device | None = None) -> Controls:
    """Return all controls: `PIXEL_CONTROLS`, flow histograms and frame features of an image model.

    The frame features are averaged over time; None leaves them out.

    Raises:
        UserError: no such image model.
    """
    controls = {**PIXEL_CONTROLS, "flow histograms": flow_histograms}
    if teacher:
        encoder = load_encoder(teacher, device=device)
        controls[f"frames of {teacher}"] = lambda clips: encode_clips(encoder, clips, pooling="mean")
    return controls


@dataclass(frozen=True)
class ProbeRow:
    """One score of one task.

    Attributes:
        task: name of the task.
        features: ``encoder``, ``random encoders (3)`` or the name of a control.
        accuracy: on the test clips.
        low, high: 95 % bootstrap interval over the test clips.
        margin: 95 % interval (low, high) of encoder minus random encoders; only in the encoder's row.
    """

    task: str
    features: str
    accuracy: float
    low: float
    high: float
    margin: tuple[float, float] | None = None


@dataclass(frozen=True)
class MotionProbeResult:
    """All scores of one encoder and its controls.

    Attributes:
        rows: one per task and kind of features.
        num_train, num_test: clips of each task.
        num_classes: by task.
        most_frequent: by task, the share of the most frequent class among the test clips.
    """

    rows: list[ProbeRow]
    num_train: int
    num_test: int
    num_classes: dict[str, int]
    most_frequent: dict[str, float]


class MotionProbe:
    """Clips, labels and control scores that all encoders of one architecture share; see `ProbeClips`."""

    def __init__(
        self,
        like: FrozenEncoder,
        train: Sources,
        test: Sources,
        options: MotionProbeOptions | None = None,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Render the clips and score the controls, random encoders among them.

        Args:
            like: an encoder of the architecture.
            train, test: sources of the clips, with the same bank.
            options: tasks, controls and numbers.
            progress: called with (readouts done, all readouts), those of the first encoder included.

        Raises:
            UserError: as `ProbeClips`.
        """
        self.options = options = options or MotionProbeOptions()
        self.architecture = like.architecture
        self._progress, self._done = progress, 0
        self._clips = ProbeClips(like, train, test, options)
        self._controls: dict[str, dict[str, Correct]] = {task: {} for task in options.tasks}
        for k in range(NUM_RANDOM):
            random, _ = self._clips.measure(like.reinitialised(options.seed + k), self._count)
            for task, correct in random.items():
                self._controls[task][f"random {k}"] = correct
        for name, (train_side, test_side) in self._clips.sides.items():
            for control, feature in options.controls.items():
                values = feature(train_side.clips), feature(test_side.clips)
                for task in self._clips.tasks_of(name):
                    self._controls[task][control] = self._clips.read_out(task, *values)
                    self._count()

    def __call__(self, encoder: FrozenEncoder) -> MotionProbeResult:
        """Probe an encoder.

        Raises:
            ValueError: an encoder of another architecture.
        """
        if encoder.architecture != self.architecture:
            raise ValueError(f"probe of {self.architecture}, got an encoder of {encoder.architecture}")
        rows = []
        for task, correct in self._clips.measure(encoder, self._count)[0].items():
            rows += _rows(task, correct, self._controls[task], self.options.seed)
        labels = {task: self._clips.labels(task) for task in self.options.tasks}
        counts = {task: np.unique(test, return_counts=True)[1] for task, (_, test) in labels.items()}
        return MotionProbeResult(
            rows=rows,
            num_train=self.options.num_train,
            num_test=self.options.num_test,
            num_classes={task: len(np.unique(train)) for task, (train, _) in labels.items()},
            most_frequent={task: float(count.max() / count.sum()) for task, count in counts.items()},
        )

    def _count(self) -> None:
        self._done += 1
        total = len(self.options.tasks) * (1 + NUM_RANDOM + len(self.options.controls))
        if self._progress and self._done <= total:
            self._progress(self._done, total)


def probe_motion(
    encoder: FrozenEncoder,
    train: Sources,
    test: Sources,
    options: MotionProbeOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> MotionProbeResult:
    """Probe a single encoder; see `MotionProbe`."""
    return MotionProbe(encoder, train, test, options, progress=progress)(encoder)


def _rows(task: str, encoder: Correct, controls: Mapping[str, Correct], seed: int) -> list[ProbeRow]:
    """Return the rows of a task; random encoders share one, and the encoder is compared with them by clip."""
    randoms = np.stack([values for name, values in controls.items() if name.startswith("random ")]).mean(0)
    shown = {f"random encoders ({NUM_RANDOM})": randoms}
    shown |= {name: values for name, values in controls.items() if not name.startswith("random ")}
    margin = paired_difference(encoder, randoms, seed=seed)
    return [
        ProbeRow(
            task,
            "encoder",
            float(encoder.mean()),
            *bootstrap_interval(encoder, seed=seed),
            (margin.low, margin.high),
        ),
        *(
            ProbeRow(task, name, float(v.mean()), *bootstrap_interval(v, seed=seed))
            for name, v in shown.items()
        ),
    ]


def format_interval(low: float, high: float, *, signed: bool = False) -> str:
    """Return an interval of shares in percent."""
    sign = "+" if signed else ""
    return f"{100 * low:{sign}.1f} .. {100 * high:{sign}.1f}"
