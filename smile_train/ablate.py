"""Studies: the same training under different recipes, the same questions to each, one table and one page."""

from __future__ import annotations

import base64
import fcntl
import io
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import jinja2
import matplotlib.figure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from scipy import stats

from smile_synth import BackgroundFolder, ObjectBank, Recipe
from smile_synth.core.errors import UserError, nearest
from smile_synth.io.atomic import write_bytes
from smile_synth.io.resources import shipped
from smile_synth.io.strict_yaml import StrictModel, dump, load
from smile_synth.io.videos import write_mp4
from smile_synth.parallel.cluster import Cluster
from smile_train.config import Count, PretrainConfig, Whole
from smile_train.data.synthetic import open_data
from smile_train.evaluate import FACTORS, FrozenEncoder, MotionExam, VideoEncoder
from smile_train.materials import Materials, build_materials
from smile_train.models import load_student
from smile_train.training.logging import read_log
from smile_train.training.pretrain import choose_device, pretrain

STUDY, SCORES, TABLE, SUMMARY, PAGE, PLOT = (
    "study.yaml", "scores.json", "table.parquet", "summary.json", "index.html", "plot.svg"
)  # fmt: skip
LOCK = ".lock"
# Keys of a training config on which the time of a step does not depend.
SAME_COST = {"recipe_overrides", "bank", "backgrounds", "seed", "steps", "then", "optimiser"}
# What every arm is given, whatever the base says, and by which key of the study.
OF_THE_STUDY = {"seed": "seeds", "bank": "bank", "backgrounds": "train_backgrounds"}
TRIAL_STEPS, TRIAL_CLIPS, SHOWN_CLIPS = 24, 50, 3
Stage = Callable[[str, int, int, str], None]


class Study(StrictModel):
    """A study: arms that differ in what is written here and in nothing else.

    Attributes:
        about: one line on what is asked.
        base: training config, a preset or a path.
        overrides: key.path=value for every arm.
        arms: by name, keys of the training config and their values.
        grid: instead or besides, keys and lists of values; every combination is an arm.
        reference: the arm that others are compared with; by default the first.
        seeds: of data, masks, weights and probes; every arm has all of them.
        tasks: names of probes.
        num_train, num_test: clips of a probe.
        bank, train_backgrounds, test_backgrounds: what it is done with; left out, drawn shapes and images
            that need no download.
    """

    about: str
    base: str
    overrides: list[str] = []
    arms: dict[str, dict[str, Any]] = {}
    grid: dict[str, list[Any]] = {}
    reference: str | None = None
    seeds: Annotated[list[Whole], Field(min_length=1)] = [0, 1, 2]
    tasks: Annotated[list[str], Field(min_length=1)] = ["motion family", "direction"]
    num_train: Count = 1200
    num_test: Count = 800
    bank: str | None = None
    train_backgrounds: str | None = None
    test_backgrounds: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Study:
        for name in self.tasks:
            if name not in FACTORS:
                raise ValueError(f"unknown probe '{name}' (of {', '.join(FACTORS)}){nearest(name, FACTORS)}")
        for text in self.overrides:
            key = text.split("=")[0].strip()
            if key in OF_THE_STUDY:
                raise ValueError(f"overrides: {key} is the study's own: see {OF_THE_STUDY[key]}")
        for name, changes in self.all_arms.items():
            for key in ("seed", "steps"):
                if key in changes:
                    raise ValueError(f"arm '{name}': all arms have the same {key}; see seeds and overrides")
        if len(self.all_arms) < 2:
            raise ValueError("needs at least two arms, in arms or by grid")
        if self.reference is not None and self.reference not in self.all_arms:
            raise ValueError(
                f"reference '{self.reference}' is no arm{nearest(self.reference, self.all_arms)}"
            )
        if min(self.num_train, self.num_test) < TRIAL_CLIPS:
            raise ValueError(f"a probe needs at least {TRIAL_CLIPS} clips on either side")
        return self

    @property
    def all_arms(self) -> dict[str, dict[str, Any]]:
        """Named arms, then those of the grid."""
        combinations = itertools.product(*self.grid.values()) if self.grid else ()
        made = [dict(zip(self.grid, values, strict=True)) for values in combinations]
        named = {
            ", ".join(f"{key.split('.')[-1]} {value}" for key, value in arm.items()): arm for arm in made
        }
        return {**self.arms, **named}

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> Study:
        """Read a shipped study by name, or a YAML file, with ``key.path=value`` overrides.

        Raises:
            UserError: neither of them, or mistakes in it, all at once.
        """
        presets = {p.stem: p for p in sorted((shipped("configs") / "studies").glob("*.yaml"))}
        path = presets.get(str(name_or_path), Path(name_or_path))
        if not path.is_file():
            hint = nearest(str(name_or_path), presets)
            raise UserError(f"study '{name_or_path}': no such file; shipped are {', '.join(presets)}{hint}")
        return load(cls, path, overrides)


@dataclass(frozen=True)
class Cell:
    """One arm with one seed.

    Attributes:
        arm: its name.
        seed: of everything.
        folder: of its run and scores.
    """

    arm: str
    seed: int
    folder: Path

    @property
    def done(self) -> bool:
        """Whether its scores are there."""
        return (self.folder / SCORES).is_file()


@dataclass(frozen=True)
class Estimate:
    """What is left to do, measured on a few steps and clips of every kind of training in the study.

    Attributes:
        cells: that are not done.
        seconds_each: of one of them, on average.
    """

    cells: int
    seconds_each: float


@dataclass(frozen=True)
class Summary:
    """An arm's score on one task over all seeds.

    Attributes:
        arm, task: which.
        by_seed: accuracy of each seed, in order.
        mean: of these.
        low, high: 95 % Student-t interval over seeds; NaN with one seed.
        random: mean accuracy of random encoders of the same shape on the same clips.
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


class StudyRun:
    """A study in its folder; what is done is kept, and done once."""

    def __init__(
        self, study: Study, out: str | Path, *, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Open or begin a study.

        Raises:
            UserError: another study stands in ``out``, an arm's config has mistakes, sources are missing.
        """
        self.study, self.out = study, Path(out)
        text = dump(study)
        path = self.out / STUDY
        if path.is_file() and path.read_text(encoding="utf-8") != text:
            raise UserError(f"out '{out}': holds another study; compare its {STUDY}, or give another folder")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            write_bytes(path, text.encode())
        except OSError as error:
            raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
        with _one_at_a_time(self.out):
            self.materials = self._materials(progress)
        self._last_exam: tuple[tuple[str, int, int, int], MotionExam] | None = None
        names = {arm: f"{k:02d}" for k, arm in enumerate(study.all_arms)}
        self.cells = [
            Cell(arm, seed, self.out / "arms" / names[arm] / f"seed-{seed}")
            for seed in study.seeds  # a study that is stopped has whole rounds
            for arm in study.all_arms
        ]
        for cell in self.cells:
            self.config(cell)

    def _materials(self, progress: Callable[[int, int], None] | None) -> Materials:
        study = self.study
        if study.bank is None:
            return build_materials(self.out / "materials", progress=progress)
        if study.train_backgrounds is None or study.test_backgrounds is None:
            raise UserError("study: with a bank of its own it needs train_backgrounds and test_backgrounds")
        folders = [BackgroundFolder(p) for p in (study.train_backgrounds, study.test_backgrounds)]
        return Materials(ObjectBank.open(study.bank), *folders)

    def config(self, cell: Cell) -> PretrainConfig:
        """Return the training config of a cell.

        Raises:
            UserError: the arm does not fit the config; names the arm.
        """
        sources = {
            "bank": str(self.materials.bank.path),
            "backgrounds": str(self.materials.train_backgrounds.path),
            "seed": cell.seed,
        }
        values = {**sources, **self.study.all_arms[cell.arm]}
        written = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        try:
            config = PretrainConfig.load(self.study.base, [*self.study.overrides, *written])
            for entry in (entry for stage in config.stages for entry in stage.sources):
                if entry.recipe is not None:
                    Recipe.load(entry.recipe, entry.recipe_overrides)
        except UserError as error:
            raise UserError(
                "\n".join(f"arm '{cell.arm}': {line}" for line in str(error).splitlines())
            ) from None
        return config

    def estimate(self, *, shard: tuple[int, int] = (0, 1)) -> Estimate:
        """Measure a few steps and a small probe of what is left; nothing of it is kept.

        Arms that differ in nothing but what their clips show are measured once, where `run` with the same
        ``shard`` would do them.
        """
        _take_gpu(shard)
        left = [cell for cell in self.cells if not cell.done]
        share = len({cell.seed for cell in left}) / max(len(left), 1)  # an exam serves all arms of a seed
        clips = self.study.num_train + self.study.num_test
        tried: dict[str, _Trial] = {}
        seconds = 0.0
        for cell in left:
            config = self.config(cell)
            kind = json.dumps([
                config.model_dump(mode="json", exclude=SAME_COST),
                [text for text in config.recipe_overrides if text.startswith(("size", "num_frames"))],
            ])  # fmt: skip
            if kind not in tried:
                tried[kind] = self._try(config, cell.seed)
            trial = tried[kind]
            probing = trial.exam * share + trial.examination
            seconds += trial.around + trial.step * config.total_steps + probing * clips
        return Estimate(len(left), seconds / max(len(left), 1))

    def _try(self, config: PretrainConfig, seed: int) -> _Trial:
        options = config.optimiser.model_copy(update={"warmup_steps": 0, "cosine_steps": None})
        changes = {"steps": TRIAL_STEPS, "then": [], "optimiser": options, "wandb": None}
        trial = config.model_copy(update=changes)
        self._last_exam = None  # it is timed, too
        with tempfile.TemporaryDirectory() as folder:
            ticks = [time.perf_counter()]
            pretrain(trial, folder, on_step=lambda *_: ticks.append(time.perf_counter()))
            ticks.append(time.perf_counter())
            encoder = _encoder(config, Path(folder))
            began = time.perf_counter()
            exam = self._exam(encoder, seed, TRIAL_CLIPS, TRIAL_CLIPS)
            asked = time.perf_counter()
            exam.examine(encoder)
            ended = time.perf_counter()
        return _Trial(
            # the first step waits for workers and compilers, what follows the last writes a checkpoint
            around=(ticks[1] - ticks[0]) + (ticks[-1] - ticks[-2]),
            step=float(np.median(np.diff(ticks[1:-1]))),
            exam=(asked - began) / (2 * TRIAL_CLIPS),
            examination=(ended - asked) / (2 * TRIAL_CLIPS),
        )

    def run(
        self, *, shard: tuple[int, int] = (0, 1), ray: str | None = None, stage: Stage | None = None
    ) -> None:
        """Do what is not done: train, probe, keep the scores.

        Args:
            shard: (k, n) does every n-th cell from the k-th on, for n processes that share a folder; on a
                machine with several GPUs the k-th process takes the k-th.
            ray: ``auto`` or the address of a Ray cluster, whose machines see the same files at the same
                paths; where it has GPUs every cell has one. Its processes are begun again when they die.
            stage: called with (what is being done, done, in all, remark).

        Raises:
            UserError: as `pretrain`; no such cluster.
        """
        stage = stage or (lambda what, done, total, remark: None)
        mine = self.cells[shard[0] :: shard[1]]
        if ray is not None:
            self._run_on_cluster(ray, [cell for cell in mine if not cell.done], stage)
            return
        _take_gpu(shard)
        for number, cell in enumerate(mine, 1):
            if not cell.done:
                self.run_cell(cell, partial(stage, f"{cell.arm}, seed {cell.seed} ({number}/{len(mine)})"))

    def run_cell(self, cell: Cell, stage: Callable[[int, int, str], None]) -> None:
        """Train and probe one cell; ``stage`` is called with (done, in all, remark)."""
        began = time.perf_counter()
        config = self.config(cell)
        # What was done before a kill has cost its time, too.
        rates = [line["clips_per_second"] for line in read_log(cell.folder / "run")]
        before = sum(config.batch_size / rate for rate in rates if rate)
        result = pretrain(
            config, cell.folder / "run",
            on_step=lambda done, total, loss: stage(done, total, f"loss {loss:.3f}"),
        )  # fmt: skip
        stage(0, 1, "probes")
        encoder = _encoder(config, cell.folder / "run")
        exam = self._exam(encoder, cell.seed, self.study.num_train, self.study.num_test)
        examination = exam.examine(encoder)
        stage(1, 1, "probes")
        content = {
            "arm": cell.arm, "seed": cell.seed, "loss": result.loss,
            "seconds": before + time.perf_counter() - began, **asdict(examination),
        }  # fmt: skip
        write_bytes(cell.folder / SCORES, (json.dumps(content, indent=1) + "\n").encode())

    def _run_on_cluster(self, address: str, cells: Sequence[Cell], stage: Stage) -> None:
        cluster = Cluster(address)
        try:
            context = _StudyThere(self.study, self.out, Path.cwd())
            pool = cluster.pool(context, gpus=1 if cluster.num_gpus else 0)
            futures = [pool.submit(_run_there, self.cells.index(cell)) for cell in cells]
            for number, (cell, future) in enumerate(zip(cells, futures, strict=True), 1):
                pool.result(future)
                stage("study", number, len(cells), f"{cell.arm}, seed {cell.seed}")
        finally:
            cluster.close()

    def _exam(self, like: FrozenEncoder, seed: int, num_train: int, num_test: int) -> MotionExam:
        """Return the questions of a seed; arms share them, and what controls answer."""
        asked = (like.form, seed, num_train, num_test)
        if self._last_exam is None or self._last_exam[0] != asked:
            materials = self.materials
            exam = MotionExam(
                like, materials.train, materials.heldout,
                seed=seed, num_train=num_train, num_test=num_test,
                tasks={name: FACTORS[name] for name in self.study.tasks},
            )  # fmt: skip
            self._last_exam = asked, exam
        return self._last_exam[1]

    def report(self) -> list[Summary]:
        """Write table, summary, plot and page of the seeds that every arm has; returns the summary.

        Raises:
            UserError: no seed is done for every arm.
        """
        done = {(cell.arm, cell.seed): cell for cell in self.cells if cell.done}
        seeds = [s for s in self.study.seeds if all((arm, s) in done for arm in self.study.all_arms)]
        if not seeds:
            raise UserError(f"study '{self.out}': no seed is done for every arm yet")
        scores = {key: json.loads((cell.folder / SCORES).read_text()) for key, cell in done.items()}
        rows = [
            {
                "arm": arm, "seed": seed, "task": row["task"], "features": row["features"],
                "accuracy": row["accuracy"], "low": row["low"], "high": row["high"], "loss": content["loss"],
                "seconds": content["seconds"], "num_train": content["num_train"],
                "num_test": content["num_test"],
            }
            for (arm, seed), content in scores.items()
            for row in content["rows"]
        ]  # fmt: skip
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        write_bytes(self.out / TABLE, buffer.getvalue())
        summary = summarise(rows, list(self.study.all_arms), seeds, self.study.reference)
        text = json.dumps({"seeds": seeds, "rows": [_plain(asdict(row)) for row in summary]}, indent=1)
        write_bytes(self.out / SUMMARY, (text + "\n").encode())
        plot = draw_plot(summary)
        write_bytes(self.out / PLOT, plot.encode())
        write_bytes(self.out / PAGE, self._page(summary, plot, seeds).encode())
        return summary

    def _page(self, summary: list[Summary], plot: str, seeds: list[int]) -> str:
        arms = []
        with tempfile.TemporaryDirectory() as folder:
            for arm, changes in self.study.all_arms.items():
                config = self.config(next(cell for cell in self.cells if cell.arm == arm))
                data = open_data(config)
                path = Path(folder) / "clip.mp4"
                videos = []
                for k in range(SHOWN_CLIPS):
                    source = data.stages[0].source_of(k, seed=config.seed, batch_size=config.batch_size)
                    frames = source.clips([k])[0].frames.repeat(2, axis=1).repeat(2, axis=2)
                    recipe = data.recipes.get(source.name)  # a corpus has none
                    write_mp4(path, frames, recipe.fps if recipe else 8)
                    videos.append(base64.b64encode(path.read_bytes()).decode())
                own = [row for row in summary if row.arm == arm]
                arms.append({"name": arm, "changes": json.dumps(changes), "videos": videos, "rows": own})
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("smile_train", "templates"), autoescape=True,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        environment.filters["percent"] = _percent
        return environment.get_template("ablation.html").render(
            about=self.study.about, arms=arms, plot=plot[plot.index("<svg") :], seeds=seeds, study=self.study,
            reference=self.study.reference or next(iter(self.study.all_arms)),
        )  # fmt: skip


@dataclass(frozen=True)
class _Trial:
    """Seconds: around the steps, of a step, and of a clip in the exam of all arms and in that of one."""

    around: float
    step: float
    exam: float
    examination: float


def _encoder(config: PretrainConfig, run: Path) -> FrozenEncoder:
    return VideoEncoder(str(run), load_student(run).encoder).to(choose_device(config.device))


def _take_gpu(shard: tuple[int, int]) -> None:
    """Give every process of several a GPU of its own, counted round."""
    if shard[1] > 1 and torch.cuda.device_count() > 1:
        torch.cuda.set_device(shard[0] % torch.cuda.device_count())


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Have processes that share a folder wait for each other."""
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class _StudyThere:
    """A study in a process of the cluster; relative paths start at ``folder``."""

    study: Study
    out: Path
    folder: Path

    @cached_property
    def run(self) -> StudyRun:
        os.chdir(self.folder)
        return StudyRun(self.study, self.out)


def _run_there(there: _StudyThere, index: int) -> None:
    there.run.run_cell(there.run.cells[index], lambda done, total, remark: None)


def summarise(
    rows: Sequence[dict[str, Any]], arms: Sequence[str], seeds: Sequence[int], reference: str | None
) -> list[Summary]:
    """Return means over seeds with Student-t intervals, and differences to the reference paired by seed.

    A seed changes weights, data, masks and the probe's clips together, so that the spread over seeds holds
    all of them; with few seeds the interval is wide, as it should be.
    """
    reference = reference or arms[0]
    found = {(r["arm"], r["task"], r["seed"], r["features"].startswith("random")): r["accuracy"]
             for r in rows if r["features"] == "encoder" or r["features"].startswith("random")}  # fmt: skip
    tasks = list(dict.fromkeys(r["task"] for r in rows))
    summary = []
    for task in tasks:
        base = np.array([found[reference, task, seed, False] for seed in seeds])
        for arm in arms:
            own = np.array([found[arm, task, seed, False] for seed in seeds])
            random = float(np.mean([found[arm, task, seed, True] for seed in seeds]))
            nothing = (math.nan, math.nan)
            difference = math.nan if arm == reference else float((own - base).mean())
            between = nothing if arm == reference else t_interval(own - base)
            summary.append(
                Summary(
                    arm, task, own.tolist(), float(own.mean()), *t_interval(own), random, difference, *between
                )
            )
    return summary


def t_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % Student-t interval of a mean (Student 1908); NaN for a single value."""
    if len(values) < 2:
        return math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    mean = float(values.mean())
    return mean - half, mean + half


def draw_plot(summary: Sequence[Summary]) -> str:
    """Draw every arm's seeds, mean and interval by task, random encoders as a line, as SVG."""
    tasks = list(dict.fromkeys(row.task for row in summary))
    arms = list(dict.fromkeys(row.arm for row in summary))
    height = 0.8 + 0.32 * len(arms)
    figure = matplotlib.figure.Figure(figsize=(3.4 * len(tasks) + 1.2, height), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(tasks), sharey=True))
    for panel, task in zip(panels, tasks, strict=True):
        for place, arm in enumerate(arms):
            row = next(r for r in summary if (r.arm, r.task) == (arm, task))
            if not math.isnan(row.low):
                panel.plot([100 * row.low, 100 * row.high], [place, place], color="#0072b2", linewidth=2)
            panel.plot(
                100 * np.array(row.by_seed), [place] * len(row.by_seed), "o", color="#56b4e9", markersize=4
            )
            panel.plot(100 * row.mean, place, "D", color="#0072b2", markersize=5)
        random = 100 * float(np.mean([r.random for r in summary if r.task == task]))
        panel.axvline(random, color="#d55e00", linestyle="--", linewidth=1)
        panel.set_title(task, fontsize=10)
        panel.set_xlabel("accuracy %", fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].set_ylim(len(arms) - 0.5, -0.5)  # the first on top, room for markers at both ends
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "smile-video"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def _percent(value: float, signed: bool = False) -> str:
    return "" if math.isnan(value) else f"{100 * value:{'+' if signed else ''}.1f}"


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
