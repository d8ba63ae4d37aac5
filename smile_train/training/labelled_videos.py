"""What fine-tuning and probes have in common: labelled videos, their batches, predictions and settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.io.strict_yaml import dump
from smile_synth.streaming import StepBatches
from smile_train.batch import Batch
from smile_train.config import (
    FinetuneConfig,
    OptimiserOptions,
    ProbeConfig,
    SamplingOptions,
    ViewCountOptions,
    fixed_values,
)
from smile_train.data.batches import worker_batches
from smile_train.data.labelled_sets import open_labelled_sets
from smile_train.data.video_lists import LabelledVideo
from smile_train.data.video_source import VideoSource
from smile_train.distributed import World, env_rank
from smile_train.models import EncoderConfig
from smile_train.training.build import find_absolute
from smile_train.training.multi_view import Predictions, predict
from smile_train.training.trainer import Phase, Task, choose_precision

CONFIG = "config.yaml"
TEST = "test.json"
PREVIEW_CLIPS = 4
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Epochs:
    """The number of steps of a number of epochs.

    Attributes:
        num_clips: of an epoch.
        batch_size: clips per step.
    """

    num_clips: int
    batch_size: int

    def steps(self, epochs: float) -> int:
        """Return the steps of ``epochs``, rounded. An epoch may end inside a step."""
        return round(epochs * self.num_clips / self.batch_size)


class LabelledVideoTask(Task):
    """A task on labelled videos; see `Task`. A subclass sets `model`, and calls `_set_data` with its shape.

    Attributes:
        config: of the run, with absolute paths.
        sets: the videos.
        epochs: number of steps per epoch.
        sampling, side: of a clip.
        source: of the training clips.
        progress: called with (videos done, videos in all) while videos are indexed and tested.
    """

    config: FinetuneConfig | ProbeConfig

    def __init__(
        self, config: FinetuneConfig | ProbeConfig, out: Path, progress: Progress | None = None
    ) -> None:
        """List and index the videos; the indices are kept in ``out``."""
        self.config, self.progress = with_absolute_paths(config), progress
        self.run, self.seed, self.batch_size = config.run, config.seed, config.batch_size
        self.sets = open_labelled_sets(
            self.config.videos, out, seed=config.seed, rank=env_rank(), progress=progress
        )
        self.epochs = Epochs(len(self.sets.train) * config.repeats, config.batch_size)

    def _set_data(self, encoder: EncoderConfig, optimiser: OptimiserOptions) -> None:
        """Set the source, the only phase and the settings."""
        config = self.config
        if encoder.size_hw[0] != encoder.size_hw[1]:
            raise UserError(f"start_from '{config.start_from}': has frames of {encoder.size_hw}, not square")
        self.side = encoder.size_hw[0]
        self.sampling = SamplingOptions(**config.frames.model_dump(), num_frames=encoder.num_frames)
        self.source = VideoSource(
            self.sets.train, sampling=self.sampling, augmentation=config.augmentation, side=self.side,
            seed=self.seed, repeats=config.repeats, classes=self.sets.classes,
            files_digest=self.sets.digests["train"],
        )  # fmt: skip
        self.source.clips([0])  # videos that cannot be read fail before anything is written
        steps = max(self.epochs.steps(config.epochs), 1)
        self.phases = [Phase(0, steps, optimiser, samples_per_step=config.batch_size)]
        settings = {key: v for key, v in fixed_values(config).items() if not key.startswith("videos.")}
        digests = {f"videos.{side}": digest for side, digest in self.sets.digests.items()}
        self.settings = {**settings, **digests, "clip": [self.sampling.num_frames, self.side]}

    def batches(self, phase: Phase, start_step: int, world: World) -> Generator[Batch, None, None]:
        """See `Task.batches`."""
        steps = StepBatches(
            self.batch_size // world.size, num_steps=phase.end_step, start_step=start_step, rank=world.rank,
            world_size=world.size,
        )  # fmt: skip
        yield from worker_batches(
            self.source.clips, steps, workers=self.run.workers, pin_memory=world.device.type == "cuda"
        )

    def predict(
        self,
        logits: Callable[[Tensor], Tensor],
        videos: Sequence[LabelledVideo],
        views: ViewCountOptions,
        world: World,
        *,
        progress: Progress | None = None,
    ) -> Predictions:
        """Return the predictions for videos; see `predict`."""
        return predict(
            logits, videos, self.sampling, self.side, views, world=world, workers=self.run.workers,
            precision=choose_precision(self.run.precision, world.device),
            pass_clips=max(self.batch_size // (world.size * self.config.run.accumulate), 1),
            progress=progress,
        )  # fmt: skip

    def test_header(self) -> dict[str, Any]:
        """Return what a test depends on; ``test.json`` begins with it."""
        test, steps = self.config.test.model_dump(), self.phases[-1].end_step
        return {"test": test, "steps": steps, "settings": self.settings}

    def earlier_test(self, out: Path) -> dict[str, Any] | None:
        """Return the content of the run's ``test.json``, None where this test has no result yet."""
        if not (out / TEST).is_file():
            return None
        found: dict[str, Any] = json.loads((out / TEST).read_bytes())
        same = all(found.get(name) == value for name, value in self.test_header().items())
        return found if same else None

    def describe(self, out: Path) -> dict[str, Any]:
        """See `Task.describe`."""
        write_bytes(out / CONFIG, dump(self.config).encode())
        return {"videos": repr(self.sets), "digests": self.sets.digests, "missing": self.sets.missing}

    def preview(self, batch: Batch, phase: Phase) -> tuple[str, NDArray[np.uint8], int] | None:
        """See `Task.preview`: the first clips, side by side."""
        clips = batch.frames[:PREVIEW_CLIPS].permute(0, 1, 3, 4, 2).cpu().numpy()
        return "training clips", np.concatenate([*clips], axis=2), min(self.sampling.num_frames, 8)


def encoder_fields(config: FinetuneConfig | ProbeConfig) -> dict[str, Any]:
    """Return the attributes of `EncoderConfig` that the options set."""
    options = config.encoder
    fields: dict[str, Any] = {"drop_path": options.drop_path, "checkpointing": options.checkpointing}
    if options.num_frames is not None:
        fields["num_frames"] = options.num_frames
    if options.side is not None:
        fields["size_hw"] = (options.side, options.side)
    return fields


def random_encoder_config(config: FinetuneConfig | ProbeConfig) -> EncoderConfig:
    """Return the configuration of an encoder with random weights.

    Raises:
        UserError: tubelet and patch do not divide the clips.
    """
    options = config.encoder
    assert options.size is not None  # the config checks this
    try:
        return EncoderConfig.of_size(
            options.size, patch_size=options.patch_size, tubelet_size=options.tubelet_size,
            positions=options.positions, **encoder_fields(config),
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"encoder: {error}") from None


def check_size(config: FinetuneConfig | ProbeConfig, encoder: EncoderConfig) -> None:
    """Check that the encoder of ``start_from`` has the size of the options.

    Raises:
        UserError: it has another one.
    """
    size = config.encoder.size
    if size is None:
        return
    expected = EncoderConfig.of_size(size)
    if (encoder.width, encoder.depth) != (expected.width, expected.depth):
        raise UserError(
            f"start_from '{config.start_from}': has width {encoder.width} and {encoder.depth} blocks; "
            f"encoder.size {size} has width {expected.width} and {expected.depth} blocks"
        )


def with_absolute_paths(config: FinetuneConfig | ProbeConfig) -> Any:
    """Return the config with absolute paths, so that the run can be continued from another folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).resolve())

    names = ("train", "validation", "test", "root", "hmdb_splits")
    paths = {name: absolute(getattr(config.videos, name)) for name in names}
    videos = config.videos.model_copy(update=paths)
    return config.model_copy(update={"start_from": find_absolute(config.start_from), "videos": videos})
