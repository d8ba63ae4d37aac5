"""Masked pretraining: render -> mask -> targets -> student -> loss."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smile_synth.io.atomic import write_bytes
from smile_synth.io.strict_yaml import dump
from smile_train.batch import Batch, normalise
from smile_train.config import PretrainConfig, SourceOptions, StageOptions, fixed_values
from smile_train.data.batches import Progress, StageData, TrainingData, open_data, training_batches
from smile_train.distributed import World, choose_device
from smile_train.masking import MASK_DRAWS, Masker, seen_frames
from smile_train.models import (
    LOCAL,
    STUDENT,
    STUDENT_AVERAGE,
    STUDENT_BEST,
    STUDENT_BEST_PROBE,
    StudentConfig,
)
from smile_train.training.build import (
    CONFIG,
    build_masker,
    build_student,
    build_targets,
    build_teacher,
    find_absolute,
)
from smile_train.training.cost import Cost, cost_of
from smile_train.training.motion_probes import FOLDER, TrainingProbes
from smile_train.training.trainer import (
    LogLine,
    Phase,
    Task,
    TrainResult,
    WeightFiles,
    choose_precision,
    train,
)

PREVIEW_CLIPS = 4
# Compared stage by stage; sources are compared by their contents.
_BY_STAGE = ("bank", "backgrounds", "stages")


@dataclass(frozen=True)
class PretrainResult(TrainResult):
    """The end of a pretraining run.

    Attributes:
        unreadable: (file, reason) of files that were not used.
    """

    unreadable: list[tuple[Path, str]]

    @property
    def baseline_loss(self) -> float:
        """Mean over the last 5 % of the steps of the loss of predicting each target's mean over its clip."""
        return self.last.get("baseline_loss", float("nan"))


class Plan(NamedTuple):
    """What a run reads and costs.

    Attributes:
        data: the opened sources.
        student: its config.
        costs: of a clip, per stage.
    """

    data: TrainingData
    student: StudentConfig
    costs: list[Cost]


def pretrain(
    config: PretrainConfig,
    out: str | Path,
    *,
    strict: bool = False,
    on_log: Callable[[LogLine], None] | None = None,
    progress: Progress | None = None,
) -> PretrainResult:
    """Pretrain a student, or continue the run in ``out`` at the exact step of its last checkpoint.

    Besides the files of `train`, it writes ``config.yaml`` (with all values), the recipes, and
    ``student.safetensors``; with probes also ``student_best_probe.safetensors`` and ``probes/``.

    Args:
        config: the run.
        out: its folder.
        strict: refuse sources with files that cannot be read.
        on_log: called with every line of the log.
        progress: called with (videos done, videos in all) while natural videos are indexed.

    Raises:
        UserError: sources, teacher or sizes do not fit, and as `train`.
    """
    task = PretrainTask(config, Path(out), strict=strict, progress=progress)
    result = train(task, out, on_log=on_log)
    return PretrainResult(
        result.folder, result.steps, result.last, result.clips_per_second, task.data.unreadable
    )


def plan(config: PretrainConfig, *, strict: bool = False) -> Plan:
    """Open and check everything that a run needs, and compute its cost. Nothing is written.

    Raises:
        UserError: as `pretrain`.
    """
    task = PretrainTask(config, None, strict=strict)
    return Plan(task.data, task.student.config, [task.cost(phase) for phase in task.phases])


class PretrainTask(Task):
    """The pretraining of a student; see `Task`.

    Attributes:
        config: of the run.
        data: its sources.
        student: is trained.
        teacher: None where no target needs one.
        targets: what is predicted.
        maskers: one per stage.
        probes: None without the option probes.
    """

    name = "pretraining"
    files = WeightFiles(STUDENT, STUDENT_AVERAGE, STUDENT_BEST)

    def __init__(
        self,
        config: PretrainConfig,
        out: Path | None,
        *,
        strict: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Open the data and build the models; ``out`` keeps indices of videos."""
        self.config = config = _with_absolute_paths(config)
        self.run, self.seed, self.batch_size = config.run, config.seed, config.batch_size
        self.data = open_data(config, index_folder=out, strict=strict, progress=progress)
        self.teacher = build_teacher(config, self.data.size_hw)
        self.targets = build_targets(config, self.teacher)
        self.student = build_student(config, self.data.size_hw, self.data.num_frames, self.targets)
        self.model = self.student
        self.maskers = [
            build_masker(config, number, self.student.config) for number in range(len(self.data.stages))
        ]
        self.phases = [
            Phase(
                stage.first_step, stage.end_step, stage.options.optimiser,
                samples_per_step=config.batch_size * stage.options.masks_per_clip,
                num_passes=stage.options.masks_per_clip,
            )
            for stage in self.data.stages
        ]  # fmt: skip
        self.settings = run_settings(config, self.data)
        self.probes = None
        if config.probes is not None:
            self.validate_every = config.probes.every
            self.files = replace(self.files, best=STUDENT_BEST_PROBE)
            folder = None if out is None else out / FOLDER
            self.probes = TrainingProbes(
                config.probes, self.data, self.student.encoder, folder, precision=config.run.precision
            )

    def batches(self, phase: Phase, start_step: int, world: World) -> Generator[Batch, None, None]:
        """See `Task.batches`. The random numbers of the masks come with the batch."""
        number = self.phases.index(phase)
        masker, masks = self.maskers[number], phase.num_passes
        batches = training_batches(
            self.config, self.data.stages[number], start_step=start_step, rank=world.rank,
            world_size=world.size, device=world.device,
        )  # fmt: skip
        try:
            for batch in batches:
                draws = masker.draw(batch.indices.numpy(), masks)
                yield Batch(
                    batch.indices, batch.frames, {**batch.labels, MASK_DRAWS: draws}, batch.unreadable
                )
        finally:
            batches.close()

    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        """See `Task.losses`: the teacher runs once per clip, the student once per mask."""
        masker = self._masker(batch, phase)
        built, inputs = self.targets.build(batch), normalise(batch.frames)
        for number in range(phase.num_passes):
            mask = masker(batch, number)
            prediction = model(inputs, mask, masker.num_masked, tokens=self.config.predicted_tokens)
            losses = self.targets.losses(prediction, built, mask, masker.num_masked)
            if self.maskers[self.phases.index(phase)].options.final is not None:
                losses["mask_ratio"] = losses["loss"].new_tensor(masker.num_masked / mask.shape[1])
            yield losses

    def _masker(self, batch: Batch, phase: Phase) -> Masker:
        """Return the masker of a batch's step."""
        step = int(batch.indices[0]) // self.batch_size - phase.first_step
        last = phase.end_step - phase.first_step - 1
        return self.maskers[self.phases.index(phase)].at(step / max(last, 1))

    def validate(self, world: World) -> dict[str, float]:
        """See `Task.validate`: motion probes."""
        return {} if self.probes is None else self.probes(self.student.encoder, world)

    def describe(self, out: Path) -> dict[str, Any]:
        """See `Task.describe`: the folder and the sources are enough to start the run again."""
        packages = ("smile-video", "torch", "numpy", "open_clip_torch", "timm")
        header = "# " + ", ".join(f"{name} {version(name)}" for name in packages) + "\n"
        write_bytes(out / CONFIG, (header + dump(_resolved(out, self.config, self.data))).encode())
        for name, recipe in self.data.recipes.items():
            write_bytes(out / f"{name}.yaml", recipe.to_yaml().encode())
        return {"sources": [[source.digest for source in stage.sources] for stage in self.data.stages]}

    def move(self, device: torch.device) -> None:
        """See `Task.move`."""
        if self.teacher is not None:
            self.teacher.to(device)
            if self.run.compile:
                self.teacher.compile()

    def settings_of(self, world: World) -> dict[str, Any]:
        """See `Task.settings_of`."""
        if not any(stage.options.mask.cross_clip for stage in self.data.stages):
            return {}
        # Masks are exchanged among the clips of a pass, so these must be the same.
        clips = self.batch_size // (world.size * self.run.accumulate)
        return {"clips of a pass (batch_size / processes / accumulate)": clips}

    def step_gflops(self, phase: Phase) -> float:
        """See `Task.step_gflops`."""
        return self.cost(phase).step_gflops

    def cost(self, phase: Phase) -> Cost:
        """Return what a clip costs in a phase. A run on GPUs may be planned on a machine without one.

        Operations are those of the middle step, memory is that of the step that needs most of it.
        """
        on_gpu = self.run.device == "cuda" or choose_device(self.run.device).type == "cuda"
        precision = choose_precision(self.run.precision, torch.device("cuda" if on_gpu else "cpu"))
        masker = self.maskers[self.phases.index(phase)]
        counts = [masker.at(progress).num_masked for progress in (0.0, 0.5, 1.0)]
        costs = {
            count: cost_of(
                self.student.config, self.teacher, num_masked=count, masks_per_clip=phase.num_passes,
                tokens=self.config.predicted_tokens, precision=precision, average=self.run.ema_decay > 0,
            )
            for count in set(counts)
        }  # fmt: skip
        most = max(cost.activation_bytes for cost in costs.values())
        return replace(costs[counts[1]], activation_bytes=most)

    def preview(self, batch: Batch, phase: Phase) -> tuple[str, NDArray[np.uint8], int] | None:
        """See `Task.preview`: clips above, and below them their visible tokens."""
        few = next(batch.parts(max(len(batch) // PREVIEW_CLIPS, 1), batch.frames.device))
        grid = self.student.config.grid_thw
        masks = self._masker(few, phase)(few).cpu().numpy()
        clips = few.frames.permute(0, 1, 3, 4, 2).cpu().numpy()
        pairs = [
            np.concatenate([clip, seen_frames(clip, mask, grid)], axis=1)
            for clip, mask in zip(clips, masks, strict=True)
        ]
        return "clips, and their visible tokens", np.concatenate(pairs, axis=2), grid[0]


def run_settings(config: PretrainConfig, data: TrainingData) -> dict[str, Any]:
    """Return what two runs must have in common to be the same run: options, and contents of the sources."""
    settings = fixed_values(config)
    settings = {key: value for key, value in settings.items() if key.split(".")[0] not in _BY_STAGE}
    for number, stage in enumerate(data.stages):
        own = fixed_values(stage.options, f"stages.{number}")
        settings |= {key: value for key, value in own.items() if f"stages.{number}.sources" not in key}
        settings[f"stages.{number}.sources"] = [source.digest for source in stage.sources]
        if len(stage.sources) > 1:
            weights = [list(source.weight) for source in stage.options.sources]
            settings[f"stages.{number}.sources.weight"] = weights
    return settings


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _with_absolute_paths(config: PretrainConfig) -> PretrainConfig:
    """Return the config with absolute paths of weights; paths of sources follow in `_resolved`."""
    teacher, changed = config.teacher, {}
    if teacher.model.startswith(LOCAL):
        changed["model"] = f"{LOCAL}{_absolute(teacher.model.removeprefix(LOCAL))}"
    if teacher.pretrained is not None and Path(teacher.pretrained).is_file():
        changed["pretrained"] = str(_absolute(teacher.pretrained))
    update = {"start_from": find_absolute(config.start_from), "teacher": teacher.model_copy(update=changed)}
    return config.model_copy(update=update)


def _resolved(out: Path, config: PretrainConfig, data: TrainingData) -> PretrainConfig:
    """Return the config with all values, absolute paths, and recipes as written in ``out``."""

    def resolve(stage: StageData, number: int) -> SourceOptions:
        options = stage.options.sources[number]
        paths: dict[str, Any] = {
            "bank": _absolute(options.bank),
            "backgrounds": _absolute(options.backgrounds),
        }
        if options.corpus is not None:
            return options.model_copy(update={**paths, "corpus": _absolute(options.corpus)})
        if options.video is not None:
            paths = {"path": _absolute(options.video.path), "root": _absolute(options.video.root)}
            return options.model_copy(update={"video": options.video.model_copy(update=paths)})
        return SourceOptions(
            recipe=str((out / f"{stage.sources[number].name}.yaml").resolve()), bank=_absolute(options.bank),
            backgrounds=_absolute(options.backgrounds), weight=options.weight,
        )  # fmt: skip

    stages = [
        StageOptions(
            steps=stage.options.steps, sources=[resolve(stage, n) for n in range(len(stage.sources))],
            masks_per_clip=stage.options.masks_per_clip, mask=stage.options.mask,
            optimiser=stage.options.optimiser,
        )
        for stage in data.stages
    ]  # fmt: skip
    return config.model_copy(update={"bank": None, "backgrounds": None, "stages": stages})
