"""Quickstart: a folder of images becomes a small encoder and a page of what it learned."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smile_synth import SyntheticClips
from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.parallel.workers import available_cores
from smile_synth.visualize import mp4_uri, object_sheet, page_environment, png_uri
from smile_train.config import PretrainConfig
from smile_train.demo import task_rows
from smile_train.distributed import choose_device, has_fast_bf16
from smile_train.evaluate import (
    MOTION_TASKS,
    MotionProbeOptions,
    MotionProbeResult,
    load_encoder,
    probe_motion,
)
from smile_train.own_images import OwnImages, prepare_images
from smile_train.report import best_by_probe, curves, find_probe_problems
from smile_train.training.logging import read_log
from smile_train.training.pretrain import pretrain

TASKS = ("direction", "rotation", "count")
MIN_MINUTES, MIN_STEPS, MAX_STEPS = 2.0, 100, 20_000
# Steps that measure the rate; the first ones are not counted, because they compile and fill caches.
RATE_STEPS, UNCOUNTED_STEPS = 30, 10
# A training step of a clip takes as long as the encoding of so many clips.
ENCODINGS_PER_STEP = 2.0
PAGE_SECONDS = 20.0
SHOWN_CLIPS, SHOWN_OBJECTS = 12, 24
_PLAN = "plan.json"
# (what, done, all, remark)
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """What fits into the time; written to ``plan.json``, so that a continued quickstart has the same plan.

    Attributes:
        images: the source.
        minutes: of the whole.
        steps: of the training.
        num_train, num_test: clips of each final probe.
        clips_per_second: measured rate of the training.
    """

    images: str
    minutes: float
    steps: int
    num_train: int
    num_test: int
    clips_per_second: float


@dataclass(frozen=True)
class QuickstartResult:
    """The result of a quickstart.

    Attributes:
        page: the HTML page.
        run: folder of the pretraining run, which all commands take as an encoder.
        probe: final motion probes.
        problems: in which ways there was too little material, or why the encoder may not be useful.
    """

    page: Path
    run: Path
    probe: MotionProbeResult
    problems: list[str]


def quickstart(
    images: Path, out: Path, *, minutes: float = 60.0, device: str = "auto", progress: Progress
) -> QuickstartResult:
    """Make objects, backgrounds and a recipe of the images, pretrain a small encoder on clips, and probe it.

    If stopped, the same call continues. Writes ``materials/``, ``recipe.yaml``, ``run/``, ``probe.json`` and
    ``index.html``.

    Args:
        images: see `prepare_images`.
        out: the folder.
        minutes: about how long the whole takes.
        device: auto, cpu or cuda.
        progress: called with (what, done, all, remark).

    Raises:
        UserError: no usable images, too few minutes, or a folder of another quickstart.
    """
    began = time.perf_counter()
    if minutes < MIN_MINUTES:
        raise UserError(f"minutes {minutes:g}: expected at least {MIN_MINUTES:g}")
    if out.resolve().is_relative_to(images.resolve()):
        raise UserError(f"out '{out}': is inside the folder of the images; choose another folder")
    plan = read_plan(out, images, minutes)
    own = prepare_images(
        images, out / "materials", progress=lambda done, total: progress("objects", done, total, "")
    )
    write_bytes(out / "recipe.yaml", own.recipe.to_yaml().encode())
    if plan is None:
        steps_per_second, batch_size = measure_rate(own, out, device, progress)
        spent = time.perf_counter() - began
        plan = make_plan(str(images.resolve()), minutes, spent, steps_per_second, batch_size)
        write_bytes(out / _PLAN, (json.dumps(asdict(plan), indent=1) + "\n").encode())
    config, run, steps = training_config(own, out, plan.steps, device), out / "run", plan.steps
    threads = torch.get_num_threads()
    pretrain(
        config,
        run,
        on_log=lambda line: progress("pretraining", line["step"], steps, f"loss {line['loss']:.3f}"),
    )
    torch.set_num_threads(threads)  # those of the training are fewer
    options = MotionProbeOptions(
        tasks={name: MOTION_TASKS[name] for name in TASKS}, num_train=plan.num_train,
        num_test=plan.num_test, test_split="train" if own.test_split == "train" else "test",
    )  # fmt: skip
    probe = probe_motion(
        load_encoder(run, device=choose_device(device)), own.materials.train, own.materials.heldout, options,
        progress=lambda done, total: progress("probes", done, total, ""),
    )  # fmt: skip
    write_bytes(out / "probe.json", (json.dumps(asdict(probe), indent=1) + "\n").encode())
    problems = own.problems + [finding.text for finding in find_probe_problems(read_log(run))]
    page = out / "index.html"
    write_bytes(page, render_page(own, out, plan, config, probe, problems).encode())
    return QuickstartResult(page, run, probe, problems)


def read_plan(out: Path, images: Path, minutes: float) -> Plan | None:
    """Return the plan of an earlier start in ``out``; None without one.

    Raises:
        UserError: it was of other images or minutes.
    """
    if not (out / _PLAN).is_file():
        return None
    found = Plan(**json.loads((out / _PLAN).read_text()))
    if (found.images, found.minutes) != (str(images.resolve()), minutes):
        raise UserError(
            f"out '{out}': contains a quickstart of '{found.images}' with {found.minutes:g} minutes; use "
            "another folder"
        )
    return found


def make_plan(images: str, minutes: float, spent: float, steps_per_second: float, batch_size: int) -> Plan:
    """Divide the time that is left between training and final probes.

    Args:
        images: the source.
        minutes: of the whole.
        spent: seconds until now.
        steps_per_second: of the training.
        batch_size: clips of a step.

    Raises:
        UserError: fewer than `MIN_STEPS` steps fit.
    """
    left = 60 * minutes - spent - PAGE_SECONDS
    rate = steps_per_second * batch_size
    # The student and three random encoders read the clips of every task.
    clips_per_probe_second = rate * ENCODINGS_PER_STEP / (4 * len(TASKS))
    num_clips = int(np.clip(0.25 * left * clips_per_probe_second, 250, 2000))
    steps = int((left - num_clips / clips_per_probe_second) * steps_per_second)
    if steps < MIN_STEPS:
        needed = spent + PAGE_SECONDS + num_clips / clips_per_probe_second + MIN_STEPS / steps_per_second
        raise UserError(
            f"minutes {minutes:g}: too few here; objects and the measurement took {spent:.0f} seconds, and a "
            f"step takes {1 / steps_per_second:.2f} seconds; give at least {needed / 60 + 0.5:.0f} minutes"
        )
    num_train = round(0.6 * num_clips)
    return Plan(images, minutes, min(steps, MAX_STEPS), num_train, num_clips - num_train, round(rate, 1))


def training_config(own: OwnImages, out: Path, steps: int, device: str) -> PretrainConfig:
    """Return the preset `smile-tiny-motion` with the given materials and number of steps."""
    processes, precision = max(1, available_cores() // 2), "bf16" if has_fast_bf16() else "auto"
    probes = f"{{every: {max(steps // 10, 400)}, tasks: [direction, rotation], test_split: {own.val_split}}}"
    return PretrainConfig.load(
        "smile-tiny-motion",
        [
            f"bank={own.materials.bank.path}",
            f"backgrounds={own.materials.train_backgrounds.path}",
            f"stages.0.sources=[{{recipe: {json.dumps(str(out.resolve() / 'recipe.yaml'))}}}]",
            f"stages.0.steps={steps}",
            f"stages.0.optimiser.warmup_steps={min(100, steps // 5)}",
            f"probes={probes}",
            f"run={{device: {device}, precision: {precision}, workers: {processes}, threads: {processes}, "
            "checkpoint_every: 200}",
        ],
    )


def measure_rate(own: OwnImages, out: Path, device: str, progress: Progress) -> tuple[float, int]:
    """Train a few steps in a folder that is removed; returns steps per second and the batch size."""
    config = training_config(own, out, RATE_STEPS, device).model_copy(update={"probes": None})
    times: list[float] = []

    def note(line: dict[str, Any]) -> None:
        times.append(time.perf_counter())
        progress("measuring the rate", len(times), RATE_STEPS, "")

    folder = out / "rate"
    shutil.rmtree(folder, ignore_errors=True)  # of a start that was killed
    pretrain(config, folder, on_log=note)
    shutil.rmtree(folder)
    counted = times[UNCOUNTED_STEPS:]
    return (len(counted) - 1) / (counted[-1] - counted[0]), config.batch_size


def render_page(
    own: OwnImages,
    out: Path,
    plan: Plan,
    config: PretrainConfig,
    probe: MotionProbeResult,
    problems: list[str],
) -> str:
    """Return the page: result, problems, objects, clips, curves, probes and use, without external links."""
    log, bank = read_log(out / "run"), own.materials.bank
    clips = SyntheticClips(own.recipe, own.materials.train, seed=config.seed, num_clips=SHOWN_CLIPS)
    frames = [clips[k].frames.repeat(3, 1).repeat(3, 2) for k in range(SHOWN_CLIPS)]
    shown = bank.select(split="train")
    shown = shown[:: max(1, len(shown) // SHOWN_OBJECTS)][:SHOWN_OBJECTS]
    tasks = [task_rows(probe, None, name) for name in probe.num_classes]
    learned = [row.task for row in probe.rows if row.margin is not None and row.margin[0] > 0]
    best = best_by_probe(log) or {"step": config.total_steps}
    return page_environment("smile_train").get_template("quickstart.html").render(
        title="A small encoder from your images",
        learned=learned, missed=[name for name in TASKS if name not in learned], problems=problems,
        objects=png_uri(object_sheet(bank, shown, side=96, captions=False)),
        clips=[mp4_uri(enlarged, own.recipe.fps) for enlarged in frames],
        charts=curves(log, ["loss", *(f"probe/{task}" for task in TASKS)]),
        tasks=tasks, probe=probe, best_step=best["step"], run=out / "run", counts=own.counts,
        heldout=own.test_split == "test", plan=plan, classes=len(bank.class_names),
        num_clips=f"{config.total_steps * config.batch_size:,}",
        clip_size="x".join(str(n) for n in (own.recipe.num_frames, *own.recipe.size)),
    )  # fmt: skip
