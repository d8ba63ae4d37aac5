"""Motion probes of a student while it trains."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.sources import Sources
from smile_train.config import TrainingProbeOptions
from smile_train.data.batches import TrainingData
from smile_train.data.synthetic import RenderedSource
from smile_train.distributed import World, full_tensor
from smile_train.evaluate import MOTION_TASKS, MotionProbeOptions, ProbeClips, VideoEncoder
from smile_train.models import Encoder
from smile_train.training.trainer import choose_precision

FOLDER = "probes"  # in a run's folder


class TrainingProbes:
    """Probes the encoder of a run like `smile-train probe`, on few clips that are rendered once.

    The weights are copied into another encoder, so that the training is not changed. Only process 0 probes.
    """

    def __init__(
        self,
        options: TrainingProbeOptions,
        data: TrainingData,
        encoder: Encoder,
        folder: Path | None,
        *,
        precision: str,
    ) -> None:
        """Use the sources of the run's first recipe.

        Args:
            options: options of the probes.
            data: data of the run.
            encoder: the encoder before training; its scores are the baseline.
            folder: folder for the rendered clips, or None.
            precision: precision of the run.

        Raises:
            UserError: the run has no recipe, or the encoder reads frames that are not square.
        """
        sources = [s.sources for stage in data.stages for s in stage.sources if isinstance(s, RenderedSource)]
        if not sources:
            raise UserError("probes: need a source with a recipe, whose bank and backgrounds they use")
        images = sources[0].backgrounds
        self._sources = sources[0] if images and images.files else Sources(sources[0].objects)
        try:
            self._sources.objects.select(split=options.test_split)
        except UserError as error:
            raise UserError(f"probes.test_split: {error}") from None
        self._options = MotionProbeOptions(
            tasks={name: MOTION_TASKS[name] for name in options.tasks}, controls={},
            num_train=options.num_train, num_test=options.num_test, test_split=options.test_split,
        )  # fmt: skip
        self._copy = VideoEncoder("student", Encoder(encoder.config, generator=torch.Generator()))
        self._first = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        self._folder, self._precision = folder, precision
        self._clips: ProbeClips | None = None
        self._baseline: dict[str, float] = {}

    def __call__(self, encoder: Encoder, world: World) -> dict[str, float]:
        """Return the scores of an encoder for the log. All processes must call it and get the same scores."""
        weights = {name: full_tensor(tensor) for name, tensor in encoder.state_dict().items()}
        scores: dict[str, float] = self._scores(weights, world.device) if world.is_main else {}
        scores = world.gather(scores)[0]
        return scores

    def _scores(self, weights: Mapping[str, Tensor], device: torch.device) -> dict[str, float]:
        began = time.perf_counter()
        if self._clips is None:
            self._copy.to(device)
            self._clips = ProbeClips(
                self._copy, self._sources, self._sources, self._options, folder=self._folder
            )
            self._baseline = self._measure(self._clips, self._first)
        found = self._measure(self._clips, weights)
        score = sum(found[f"probe/{task}"] for task in self._options.tasks) / len(self._options.tasks)
        baseline = {f"baseline_{name}": value for name, value in self._baseline.items()}
        seconds = round(time.perf_counter() - began, 2)
        return {**found, **baseline, "score": score, "probe_seconds": seconds}

    def _measure(self, clips: ProbeClips, weights: Mapping[str, Tensor]) -> dict[str, float]:
        self._copy.encoder.load_state_dict(weights)
        device = self._copy.device
        precision = choose_precision(self._precision, device)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            correct, rank = clips.measure(self._copy)
        scores = {f"probe/{task}": float(right.mean()) for task, right in correct.items()}
        return {**scores, "probe/rank": round(rank, 3)}
