"""The runs of a study in its folder: train, probe, keep the scores."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smile_synth import BackgroundFolder, ObjectBank, Recipe
from smile_synth.core.errors import UserError
from smile_synth.io.atomic import LOCK, lock_file, write_bytes
from smile_synth.io.strict_yaml import dump
from smile_synth.parallel.cluster import Cluster
from smile_train.ablate._report import Summary, write_report
from smile_train.ablate._study import MIN_CLIPS, Study
from smile_train.config import PretrainConfig
from smile_train.distributed import choose_device
from smile_train.evaluate import (
    MOTION_TASKS,
    Extractor,
    FrozenEncoder,
    MotionProbe,
    MotionProbeOptions,
    evaluate_videos,
    load_encoder,
)
from smile_train.materials import Materials, build_materials
from smile_train.training.logging import read_log
from smile_train.training.pretrain import pretrain

STUDY, SCORES = "study.yaml", "scores.json"
TRIAL_STEPS = 24
# (what, done, all, remark)
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        arm: its name.
        seed: of data, masks, weights and probes.
        folder: of its run and scores.
    """

    arm: str
    seed: int
    folder: Path

    @property
    def done(self) -> bool:
        """Whether its scores are written."""
        return (self.folder / SCORES).is_file()


@dataclass(frozen=True)
class Estimate:
    """The time of the cells that are left.

    Attributes:
        cells: that are not done.
        seconds_each: mean time of one of them.
    """

    cells: int
    seconds_each: float


class StudyRun:
    """A study in its folder; finished cells are kept."""

    def __init__(
        self, study: Study, out: str | Path, *, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Open or begin a study.

        Args:
            study: its definition.
            out: its folder.
            progress: called with (objects done, all objects) while the default bank is built.

        Raises:
            UserError: ``out`` holds another study, an arm's config has mistakes, sources are missing.
        """
        self.study, self.out = study, Path(out)
        text, path = dump(study), self.out / STUDY
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise UserError(f"out '{out}': holds another study; compare its {STUDY}, or give another folder")
        write_bytes(path, text.encode())
        with _locked(self.out):
            self.materials = self._materials(progress)
        self._probe: MotionProbe | None = None
        names = {arm: f"{k:02d}" for k, arm in enumerate(study.all_arms)}
        # All arms of the first seed, then all arms of the next one: a stopped study has whole seeds.
        self.cells = [
            Cell(arm, seed, self.out / "arms" / names[arm] / f"seed-{seed}")
            for seed in study.seeds
            for arm in study.all_arms
        ]
        for videos in study.videos:
            videos.splits()
        steps = {cell.arm: self.config(cell).total_steps for cell in self.cells}
        if len(set(steps.values())) > 1:
            counts = ", ".join(f"'{arm}' {count}" for arm, count in steps.items())
            raise UserError(f"all arms need the same number of steps, they have: {counts}")

    def _materials(self, progress: Callable[[int, int], None] | None) -> Materials:
        study = self.study
        if study.bank is None or study.train_backgrounds is None or study.test_backgrounds is None:
            return build_materials(self.out / "materials", progress=progress)
        folders = [BackgroundFolder(p) for p in (study.train_backgrounds, study.test_backgrounds)]
        return Materials(ObjectBank.open(study.bank), *folders)

    def config(self, cell: Cell) -> PretrainConfig:
        """Return the training config of a cell.

        Raises:
            UserError: the arm has mistakes; each line names the arm.
        """
        materials = self.materials
        values = {
            "bank": str(materials.bank.path), "backgrounds": str(materials.train_backgrounds.path),
            "seed": cell.seed, **self.study.all_arms[cell.arm],
        }  # fmt: skip
        changes = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        try:
            config = PretrainConfig.load(self.study.base, [*self.study.overrides, *changes])
            for stage in config.resolved_stages:
                for source in stage.sources:
                    if source.recipe is not None:
                        Recipe.load(source.recipe, source.overrides)
        except UserError as error:
            lines = str(error).splitlines()
            raise UserError("\n".join(f"arm '{cell.arm}': {line}" for line in lines)) from None
        return config

    def run(
        self, *, shard: tuple[int, int] = (0, 1), ray: str | None = None, progress: Progress | None = None
    ) -> None:
        """Train and probe the cells that are not done.

        Args:
            shard: (k, n): do every n-th cell from the k-th on, for n processes that share the folder. On a
                machine with several GPUs the k-th process uses the k-th GPU.
            ray: ``auto`` or the address of a Ray cluster whose machines share the folder. Each cell has one
                GPU if the cluster has GPUs.
            progress: called with (what, done, all, remark).

        Raises:
            UserError: as `pretrain`, or no such cluster.
        """
        report = progress or (lambda what, done, total, remark: None)
        own = self.cells[shard[0] :: shard[1]]
        if ray is not None:
            self._run_on_cluster(ray, [cell for cell in own if not cell.done], report)
            return
        _choose_gpu(shard)
        for number, cell in enumerate(own, 1):
            if not cell.done:
                self.run_cell(cell, partial(report, f"{cell.arm}, seed {cell.seed} ({number}/{len(own)})"))

    def run_cell(self, cell: Cell, progress: Callable[[int, int, str], None] | None = None) -> None:
        """Train and probe one cell; ``progress`` is called with (done, all, remark)."""
        config, folder = self.config(cell), cell.folder / "run"
        report, total = progress or (lambda done, total, remark: None), config.total_steps
        result = pretrain(
            config, folder, on_log=lambda line: report(line["step"], total, f"loss {line['loss']:.3f}")
        )
        # From the log, because a run that was killed has spent time before this call.
        training = sum(config.batch_size / line["clips_per_second"] for line in read_log(folder))
        report(0, 1, "probes")
        began = time.perf_counter()
        encoder = self._encoder(config, folder)
        scores = asdict(self._motion_probe(encoder, cell.seed)(encoder))
        scores["rows"] += self._video_rows(encoder, cell.seed)
        report(1, 1, "probes")
        content = {
            "arm": cell.arm, "seed": cell.seed, "loss": result.loss,
            "seconds": training + time.perf_counter() - began, **scores,
        }  # fmt: skip
        write_bytes(cell.folder / SCORES, (json.dumps(content, indent=1) + "\n").encode())

    def _video_rows(self, encoder: FrozenEncoder, seed: int) -> list[dict[str, Any]]:
        """Return the scores of an encoder on the real videos, like those of the probes."""
        # Controls are the same for all arms, and their features are computed once.
        extractor = Extractor(self.out / "features")
        rows = []
        for videos in self.study.videos:
            options = videos.evaluate.model_copy(update={"seed": seed})
            result = evaluate_videos(encoder, *videos.splits(), options, extractor=extractor)
            name = f"{Path(videos.path).name}, {options.pooling}"
            rows += [{"task": f"{name}, {row.protocol}", **asdict(row)} for row in result.rows]
        return rows

    def _run_on_cluster(self, address: str, cells: Sequence[Cell], progress: Progress) -> None:
        cluster = Cluster(address)
        try:
            pool = cluster.pool(
                _RemoteStudy(self.study, self.out, Path.cwd()), gpus=1 if cluster.num_gpus else 0
            )
            futures = [pool.submit(_run_remote_cell, self.cells.index(cell)) for cell in cells]
            for number, (cell, future) in enumerate(zip(cells, futures, strict=True), 1):
                pool.result(future)
                progress("study", number, len(cells), f"{cell.arm}, seed {cell.seed}")
        finally:
            cluster.close()

    def _encoder(self, config: PretrainConfig, run: Path) -> FrozenEncoder:
        return load_encoder(run, device=choose_device(config.run.device))

    def _motion_probe(self, like: FrozenEncoder, seed: int, clips: int | None = None) -> MotionProbe:
        """Return the probe of a seed, which successive arms of one architecture share."""
        options = MotionProbeOptions(
            {name: MOTION_TASKS[name] for name in self.study.tasks}, num_train=clips or self.study.num_train,
            num_test=clips or self.study.num_test, seed=seed,
        )  # fmt: skip
        probe = self._probe
        if probe is None or (probe.architecture, probe.options) != (like.architecture, options):
            probe = self._probe = MotionProbe(like, self.materials.train, self.materials.heldout, options)
        return probe

    def estimate(self, *, shard: tuple[int, int] = (0, 1)) -> Estimate:
        """Estimate the time of the cells that are left, from a few steps and a small probe.

        Arms that differ only in the contents of their clips are measured once, on the GPU that `run` uses
        with the same ``shard``. No result of the measurement is kept.
        """
        _choose_gpu(shard)
        left = [cell for cell in self.cells if not cell.done]
        share = len({cell.seed for cell in left}) / max(len(left), 1)  # all arms of a seed share a probe
        clips = self.study.num_train + self.study.num_test
        costs: dict[str, _Cost] = {}
        seconds = 0.0
        for cell in left:
            config = self.config(cell)
            kind = _kind_of_training(config)
            if kind not in costs:
                costs[kind] = self._measure(config, cell.seed)
            cost = costs[kind]
            seconds += cost.fixed + cost.step * config.total_steps
            seconds += (cost.shared_probe * share + cost.probe) * clips
        return Estimate(len(left), seconds / max(len(left), 1))

    def _measure(self, config: PretrainConfig, seed: int) -> _Cost:
        stage = config.stages[0]
        schedule = config.resolved_stages[0].optimiser.model_copy(
            update={"warmup_steps": 0, "cosine_steps": None}
        )
        stage = stage.model_copy(update={"steps": TRIAL_STEPS, "optimiser": schedule})
        run = config.run.model_copy(update={"wandb": None})
        trial = config.model_copy(update={"stages": [stage], "run": run})
        self._probe = None  # its construction is measured, too
        with tempfile.TemporaryDirectory() as folder:
            ticks = [time.perf_counter()]
            pretrain(trial, folder, on_log=lambda _: ticks.append(time.perf_counter()))
            ticks.append(time.perf_counter())
            encoder = self._encoder(config, Path(folder))
            began = time.perf_counter()
            probe = self._motion_probe(encoder, seed, MIN_CLIPS)
            built = time.perf_counter()
            probe(encoder)
            ended = time.perf_counter()
        return _Cost(
            # the first step includes the start of workers; the end writes a checkpoint
            fixed=(ticks[1] - ticks[0]) + (ticks[-1] - ticks[-2]),
            step=float(np.median(np.diff(ticks[1:-1]))),
            shared_probe=(built - began) / (2 * MIN_CLIPS),
            probe=(ended - built) / (2 * MIN_CLIPS),
        )

    def report(self) -> list[Summary]:
        """Write table, summary, plot and page of the seeds that are done for every arm.

        Returns:
            The summary.

        Raises:
            UserError: no seed is done for every arm.
        """
        done = {(cell.arm, cell.seed): cell for cell in self.cells if cell.done}
        seeds = [s for s in self.study.seeds if all((arm, s) in done for arm in self.study.all_arms)]
        if not seeds:
            raise UserError(f"study '{self.out}': no seed is done for every arm yet")
        scores = {key: json.loads((cell.folder / SCORES).read_text()) for key, cell in done.items()}
        configs = {cell.arm: self.config(cell) for cell in reversed(self.cells)}  # of the first seed
        arms = {arm: configs[arm] for arm in self.study.all_arms}
        return write_report(self.out, self.study, scores, arms, seeds)


@dataclass(frozen=True)
class _Cost:
    """Seconds of a cell: besides the steps, per step, and of the probe per clip (shared by arms, and own)."""

    fixed: float
    step: float
    shared_probe: float
    probe: float


def _kind_of_training(config: PretrainConfig) -> str:
    """Return a key of everything that the time of a step depends on."""
    stages = [
        [
            stage.masks_per_clip,
            stage.mask.model_dump(),
            *(
                [text for text in s.overrides if text.startswith(("size", "num_frames"))]
                for s in stage.sources
            ),
            *((s.corpus is None, s.video is None) for s in stage.sources),
        ]
        for stage in config.resolved_stages
    ]
    rest = config.model_dump(mode="json", exclude={"seed", "bank", "backgrounds", "stages"})
    return json.dumps([stages, rest])


def _choose_gpu(shard: tuple[int, int]) -> None:
    """Use the k-th GPU in the k-th of several processes, modulo the number of GPUs."""
    if shard[1] > 1 and torch.cuda.device_count() > 1:
        torch.cuda.set_device(shard[0] % torch.cuda.device_count())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make processes that share a folder wait for each other."""
    with (folder / LOCK).open("w") as file:
        lock_file(file, wait=True)
        yield


@dataclass(frozen=True)
class _RemoteStudy:
    """A study in a process of the cluster; relative paths start at ``folder``."""

    study: Study
    out: Path
    folder: Path

    @cached_property
    def run(self) -> StudyRun:
        os.chdir(self.folder)
        return StudyRun(self.study, self.out)


def _run_remote_cell(remote: _RemoteStudy, index: int) -> None:
    remote.run.run_cell(remote.run.cells[index])
