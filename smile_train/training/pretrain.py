"""Masked pretraining: render -> mask -> teacher -> student -> loss. Read it from top to bottom."""

from __future__ import annotations

import errno
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.io.strict_yaml import dump
from smile_train.config import MixtureEntry, PretrainConfig, SourceOptions, Stage
from smile_train.data.synthetic import StageData, TrainingData, normalise, open_data, training_batches
from smile_train.masking import Masker
from smile_train.models import LOCAL, Student, StudentConfig, Teacher, load_student_weights, load_teacher
from smile_train.targets import Targets
from smile_train.training.checkpoint import (
    STUDENT,
    STUDENT_AVERAGE,
    CheckpointWriter,
    check_same_run,
    flat,
    load_checkpoint,
)
from smile_train.training.cost import Cost, cost_of, peak_tflops
from smile_train.training.distributed import (
    World,
    gradients_stay,
    join_world,
    load_optimiser_tensors,
    load_whole,
    optimiser_tensors,
    spread,
    whole,
)
from smile_train.training.distributed import choose_device as choose_device
from smile_train.training.logging import (
    RunLog,
    begin_tracking,
    describe_run,
    load_wandb,
    note_start,
    only_run,
    read_log,
)
from smile_train.training.optim import WeightAverage, lr_at, make_adamw, set_lr

CONFIG = "config.yaml"
# A run may go on with other values of these: what is learned does not depend on them.
FREE = {
    "accumulate", "parallel", "workers", "threads", "device", "render", "compile",
    "checkpoint_every", "keep_checkpoints", "peak_tflops", "wandb",
}  # fmt: skip
FREE_WITHIN = {"student.checkpointing", "student.decoder_chunk", "teacher.compile", "teacher.cache"}
# Told stage by stage.
STAGED = {
    "recipe", "recipe_overrides", "bank", "backgrounds", "corpus", "mixture", "then", "steps",
    "masks_per_clip", "mask", "optimiser",
}  # fmt: skip
RATE_STEPS = 50  # what the rates in the log are taken over


@dataclass(frozen=True)
class PretrainResult:
    """What a run ended with.

    Attributes:
        folder: of the run.
        steps: done in all.
        loss: mean over the last 5 % of the run's steps.
        loss_of_mean: likewise, of predicting every target's mean over the clip (0 after z-scoring).
        clips_per_second: of this call; 0 where a run was finished before.
        unreadable: files that were not used, with the reason.
    """

    folder: Path
    steps: int
    loss: float
    loss_of_mean: float
    clips_per_second: float
    unreadable: list[tuple[Path, str]]


def build_teacher(config: PretrainConfig, size_hw: tuple[int, int], num_frames: int) -> Teacher | None:
    """Return the frozen teacher, or None where no target needs one.

    Raises:
        UserError: its weights cannot be had, its patches are not the student's, or frames do not divide into
            those.
    """
    # Where the student cannot cut the frames, it is not for another teacher to match it.
    StudentConfig.from_options(config.student, num_frames=num_frames, size_hw=size_hw, target_dim=1)
    if all(head.kind != "teacher" for head in config.target.heads):
        return None
    return load_teacher(
        config.teacher, size_hw=size_hw, patch_size=config.student.patch_size,
        tubelet_size=config.student.tubelet_size,
    )  # fmt: skip


def make_targets(config: PretrainConfig, teacher: Teacher | None) -> Targets:
    """Return what the student predicts."""
    return Targets(
        config.target, patch_size=config.student.patch_size, tubelet_size=config.student.tubelet_size,
        teacher=teacher,
    )  # fmt: skip


def build_student(
    config: PretrainConfig, size_hw: tuple[int, int], num_frames: int, target_dim: int
) -> Student:
    """Return the student with its initial weights: those of ``start_from``, or drawn from the seed alone.

    Raises:
        UserError: frames or size do not fit tubelet and patch, or the weights do not fit the student.
    """
    form = StudentConfig.from_options(
        config.student, num_frames=num_frames, size_hw=size_hw, target_dim=target_dim
    )
    student = Student(form, generator=torch.Generator().manual_seed(config.seed))
    if config.start_from is not None:
        start = Path(config.start_from)
        load_student_weights(student, start / STUDENT if start.is_dir() else start)
    return student


def make_masker(config: PretrainConfig, stage: Stage, student: Student) -> Masker:
    """Return what makes a stage's masks; raises as `Masker`."""
    return Masker(
        stage.mask, student.config.grid_thw, patch_size=student.config.patch_size,
        tubelet_size=student.config.tubelet_size, seed=config.seed,
    )  # fmt: skip


def plan(config: PretrainConfig, *, strict: bool = False) -> tuple[TrainingData, Cost]:
    """Open and check everything a run needs but its device, and count what it costs; nothing is written.

    Raises:
        UserError: as `pretrain`.
    """
    # A run on GPUs is planned where there are none, too.
    device = torch.device("cuda") if config.device == "cuda" else choose_device(config.device)
    data = open_data(config, strict=strict)
    teacher = build_teacher(config, data.size_hw, data.num_frames)
    targets = make_targets(config, teacher)
    student = build_student(config, data.size_hw, data.num_frames, targets.width)
    masked = [make_masker(config, stage, student).num_masked for stage in config.stages]
    precision = _precision(config, device)
    return data, cost_of(config, student, teacher, num_masked=min(masked), bf16=precision != torch.float32)


def pretrain(
    config: PretrainConfig,
    out: str | Path,
    *,
    strict: bool = False,
    on_step: Callable[[int, int, float], None] | None = None,
    on_line: Callable[[dict[str, Any]], None] | None = None,
) -> PretrainResult:
    """Pretrain a student, or continue the run in ``out`` at the exact step of its last checkpoint.

    Under torchrun every process calls this; together they do the same steps on the same clips as one would.
    Writes ``config.yaml`` (resolved), the recipes, ``run.jsonl`` (versions, git state), ``log.jsonl``,
    ``tensorboard/``, ``checkpoints/`` and ``student.safetensors``.

    Args:
        config: the run.
        out: its folder.
        strict: refuse to train when a file of the data cannot be read.
        on_step: called with (steps done, steps in all, loss).
        on_line: called with every line of the log.

    Raises:
        UserError: sources, teacher or sizes do not fit, another run stands or writes in ``out``, the loss is
            no number, or memory or disk are full.
    """
    out, config = Path(out), _rooted(config)
    with ExitStack() as stack:
        # --- who is here, what is read, who teaches, who learns; mistakes end it before anything is written
        world = stack.enter_context(join_world(config.device))
        stack.enter_context(_told_when_space_is_out(config, out, world))
        device, precision = world.device, _precision(config, world.device)
        autocast = partial(torch.autocast, device.type, precision, enabled=precision != torch.float32)
        if config.threads:
            torch.set_num_threads(config.threads)
        if config.batch_size % (world.size * config.accumulate):
            raise UserError(
                f"batch_size {config.batch_size}: must be a multiple of {world.size} processes x accumulate "
                f"{config.accumulate}"
            )
        wandb = load_wandb(config.wandb)
        data = open_data(config, strict=strict)
        teacher = build_teacher(config, data.size_hw, data.num_frames)
        targets = make_targets(config, teacher)
        student = build_student(config, data.size_hw, data.num_frames, targets.width)
        maskers = [make_masker(config, stage, student) for stage in config.stages]
        peak = peak_tflops(config, device)
        cost = peak and cost_of(
            config, student, teacher, num_masked=maskers[0].num_masked, bf16=precision != torch.float32
        )

        # --- the run's folder: continued at its last checkpoint, described for whoever starts it again
        if world.writes:
            stack.enter_context(only_run(out))
        identity = _identity(config, data, world)
        state = load_checkpoint(out)
        if state is not None:
            check_same_run(out, state["identity"], identity)
            student.load_state_dict(state["model"])
        start = int(state["step"]) if state else 0
        lines = [line for line in read_log(out) if line["step"] <= start]
        log: RunLog | None = None
        writer: CheckpointWriter | None = None
        if world.writes:
            tracker = wandb and begin_tracking(wandb, config.wandb, out, config.model_dump(mode="json"))
            _describe(out, config, data, world, start)
            log = stack.enter_context(RunLog(out, keep_steps=start, tensorboard=True, tracker=tracker))
            best = state["best_loss"] if state else math.inf
            writer = stack.enter_context(CheckpointWriter(out, keep=config.keep_checkpoints, best=best))

        # --- onto the device, and over the processes
        student.to(device).train()
        if teacher is not None:
            teacher.to(device)
        model = spread(student, config.parallel, world)
        if config.compile:
            model.compile()
            if teacher is not None:
                teacher.compile()
        scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        if state is not None:
            scaler.load_state_dict(state["scaler"])
        average = WeightAverage(student, config.ema_decay) if config.ema_decay else None

        losses: list[float] = [line["loss"] for line in lines]
        losses_of_mean: list[float] = [line["loss_of_mean"] for line in lines]
        since_checkpoint: list[float] = []
        recent: deque[tuple[float, float]] = deque(maxlen=RATE_STEPS)  # seconds of a step, of which waiting
        began = time.perf_counter()
        for stage, masker in zip(data.stages, maskers, strict=True):
            if start >= stage.end_step:
                continue
            # --- a stage: a new optimiser, unless the checkpoint stands inside of it
            options, passes = stage.options.optimiser, stage.options.masks_per_clip
            num_masked = masker.num_masked
            scale = config.batch_size / 256
            optimiser = make_adamw(
                student, lr=options.lr_per_256 * scale, weight_decay=options.weight_decay,
                betas=options.betas, layer_decay=options.layer_decay, depth=student.config.depth,
            )  # fmt: skip
            if state is not None and start > stage.first_step:
                load_optimiser_tensors(student, optimiser, state["optimiser"])
                if average is not None:
                    load_whole(average.tensors.items(), state["average"])
            elif average is not None:
                average = WeightAverage(student, config.ema_decay)
            first = max(start, stage.first_step)
            batches = stack.enter_context(closing(training_batches(
                stage, seed=config.seed, batch_size=config.batch_size, start_step=first,
                patch_size=config.student.patch_size, tubelet_size=config.student.tubelet_size,
                workers=config.workers, rank=world.rank, world_size=world.size, device=device,
                render_on="cpu" if config.render == "cpu" else None,
            )))  # fmt: skip
            for step, (batch, waited) in enumerate(_timed(batches), first):
                step_began = time.perf_counter()
                lr = scale * lr_at(
                    step - stage.first_step, base_lr=options.lr_per_256, warmup_lr=options.warmup_lr_per_256,
                    final_lr=options.final_lr_per_256, warmup_steps=options.warmup_steps,
                    total_steps=options.cosine_steps or stage.options.steps,
                )  # fmt: skip
                set_lr(optimiser, lr)
                # Drop path draws from torch's generator: keyed by the step and the process, too.
                torch.manual_seed((config.seed * 1_000_003 + step + (world.rank << 40)) % 2**63)
                optimiser.zero_grad(set_to_none=True)
                sums = torch.zeros(2, device=device)  # loss, loss of predicting the mean
                backward_left = config.accumulate * passes
                for part in batch.parts(config.accumulate, device):
                    # --- teacher: once, whatever the number of masks
                    with autocast():
                        values, inputs = targets(part.frames), normalise(part.frames)
                    for sample in range(passes):
                        # --- mask
                        mask = masker(
                            part.indices, part.frames, coverage=part.coverage, boxes_xyxy=part.boxes_xyxy,
                            sample=sample,
                        )  # fmt: skip
                        # --- student, loss, gradients
                        backward_left -= 1
                        with gradients_stay(model, backward_left > 0):
                            with autocast():
                                predicted = model(inputs, mask, num_masked, tokens=config.target.tokens)
                                wanted = targets.pick(values, mask, num_masked)
                                loss = targets.loss(predicted, wanted)
                            scaler.scale(loss / (config.accumulate * passes)).backward()
                        sums += torch.stack([loss.detach(), targets.loss_of_mean(values, wanted)])
                scaler.unscale_(optimiser)
                limit = options.clip_norm or math.inf
                norm = float(whole(torch.nn.utils.clip_grad_norm_(student.parameters(), limit)))
                value, value_of_mean = (world.mean(sums) / (config.accumulate * passes)).tolist()
                # With fp16 gradients overflow now and then: the scaler skips such a step by itself.
                for what, number in {"loss": value, "gradient": 0.0 if scaler.is_enabled() else norm}.items():
                    if not math.isfinite(number):
                        clip = step * config.batch_size
                        raise UserError(
                            f"the {what} is {number} at step {step} (seed {config.seed}, clips {clip}.."
                            f"{clip + config.batch_size - 1}); the checkpoint before it is kept; lower "
                            "optimiser.lr_per_256, or set optimiser.clip_norm"
                        )
                # --- step
                scaler.step(optimiser)
                scaler.update()
                if average is not None:
                    average.update(student)

                # --- tell
                done = step + 1
                losses.append(value)
                losses_of_mean.append(value_of_mean)
                since_checkpoint.append(value)
                recent.append((waited + time.perf_counter() - step_began, waited))
                seconds = sum(total for total, _ in recent)
                line = {
                    "step": done, "loss": value, "loss_of_mean": value_of_mean, "lr": lr,
                    "grad_norm": norm,
                    "clips_per_second": float(f"{len(recent) * config.batch_size / seconds:.4g}"),
                    "data_wait": round(sum(wait for _, wait in recent) / seconds, 4),
                }  # fmt: skip
                if cost and peak:
                    rate = len(recent) * config.batch_size / seconds / world.size
                    line["mfu"] = round(rate * cost.step_gflops / (1000 * peak), 4)
                if device.type == "cuda":
                    line["memory_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
                if log is not None:
                    log.write(**line)
                    if step == first or done % config.checkpoint_every == 0 or done == config.total_steps:
                        log.show(done, part.frames, mask, student.config.grid_thw)
                if on_line and world.writes:
                    on_line(line)
                if on_step and world.writes:
                    on_step(done, config.total_steps, value)
                if done % config.checkpoint_every == 0 or done == config.total_steps:
                    saved = _state(student, optimiser, scaler, average, identity)
                    if writer is not None and log is not None:
                        log.sync()  # a checkpoint never stands without the lines that lead to it
                        students = {STUDENT: saved["model"]}
                        if average is not None:
                            students[STUDENT_AVERAGE] = saved["average"]
                        mean = sum(since_checkpoint) / len(since_checkpoint)
                        writer.save(done, saved, loss=mean, students=students, form=student.config)
                    since_checkpoint.clear()
    seconds = time.perf_counter() - began
    rate = (config.total_steps - start) * config.batch_size / seconds
    return PretrainResult(
        out, config.total_steps, _tail(losses), _tail(losses_of_mean), rate, data.unreadable
    )


def _precision(config: PretrainConfig, device: torch.device) -> torch.dtype:
    chosen = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return chosen.get(config.precision, torch.bfloat16 if device.type == "cuda" else torch.float32)


def _timed(batches: Iterator[Any]) -> Iterator[tuple[Any, float]]:
    """Yield every item with the seconds that it was waited for."""
    while True:
        began = time.perf_counter()
        try:
            item = next(batches)
        except StopIteration:
            return
        yield item, time.perf_counter() - began


def _tail(values: list[float]) -> float:
    last = values[-max(len(values) // 20, 1) :]
    return sum(last) / len(last) if last else math.nan


def _state(
    student: Student,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None,
    identity: dict[str, Any],
) -> dict[str, Any]:
    """Return what a checkpoint holds: copies, whole, the same for any number of processes."""
    return {
        "model": {name: whole(parameter) for name, parameter in student.named_parameters()},
        "optimiser": optimiser_tensors(student, optimiser),
        "scaler": scaler.state_dict(),
        "average": {name: whole(tensor) for name, tensor in average.tensors.items()} if average else {},
        "identity": identity,
    }


def _identity(config: PretrainConfig, data: TrainingData, world: World) -> dict[str, Any]:
    """What a folder must agree on to be continued: settings by name, sources by what is in them."""
    values = json.loads(config.model_dump_json(exclude=FREE | STAGED))
    for number, stage in enumerate(data.stages):
        own = json.loads(stage.options.model_dump_json(exclude={"sources"}))
        own["sources"] = [source.digest for source in stage.sources]
        if len(stage.sources) > 1:
            own["weights"] = [list(entry.weight) for entry in stage.options.sources]
        values.update(flat(own, f"then.{number - 1}." if number else ""))
    if any(stage.mask.cross_clip for stage in config.stages):
        # Masks go round among the clips of a pass, so that these must stay the same.
        values["clips of a pass (batch_size / processes / accumulate)"] = config.batch_size // (
            world.size * config.accumulate
        )
    return {key: value for key, value in flat(values).items() if key not in FREE_WITHIN}


def _describe(out: Path, config: PretrainConfig, data: TrainingData, world: World, start: int) -> None:
    """Write what the run is started again from, by this folder and the sources alone."""
    packages = ("smile-video", "torch", "numpy", "open_clip_torch", "timm")
    header = "# " + ", ".join(f"{name} {version(name)}" for name in packages) + "\n"
    write_bytes(out / CONFIG, (header + dump(_resolved(out, config, data))).encode())
    for name, recipe in data.recipes.items():
        write_bytes(out / f"{name}.yaml", recipe.to_yaml().encode())
    note_start(
        out,
        describe_run(
            start_step=start, processes=world.size, device=str(world.device),
            sources=[[source.digest for source in stage.sources] for stage in data.stages],
        ),
    )  # fmt: skip


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).resolve())


def _rooted(config: PretrainConfig) -> PretrainConfig:
    """Return the config with what is not a source of clips named by its path from the root."""
    options = config.teacher
    changed: dict[str, Any] = {"cache": _absolute(options.cache)}
    if options.model.startswith(LOCAL):
        changed["model"] = f"{LOCAL}{_absolute(options.model.removeprefix(LOCAL))}"
    if options.pretrained is not None and Path(options.pretrained).is_file():
        changed["pretrained"] = _absolute(options.pretrained)
    teacher = options.model_copy(update=changed)
    return config.model_copy(update={"start_from": _absolute(config.start_from), "teacher": teacher})


def _resolved(out: Path, config: PretrainConfig, data: TrainingData) -> PretrainConfig:
    """Return the config with recipes as they are written in ``out``, and every source by its path."""

    def entry_of(stage: StageData, number: int) -> MixtureEntry:
        entry = stage.options.sources[number]
        if entry.corpus is not None:
            return MixtureEntry(corpus=_absolute(entry.corpus), weight=entry.weight)
        recipe = str((out / f"{stage.sources[number].name}.yaml").resolve())
        return MixtureEntry(
            recipe=recipe,
            bank=_absolute(entry.bank),
            backgrounds=_absolute(entry.backgrounds),
            weight=entry.weight,
        )

    entries = [[entry_of(stage, n) for n in range(len(stage.sources))] for stage in data.stages]
    none = SourceOptions().model_dump()
    then = [
        later.model_copy(update={**none, "mixture": own})
        for later, own in zip(config.then, entries[1:], strict=True)
    ]
    update: dict[str, Any] = {**none, "mixture": entries[0], "then": then}
    if not config.mixture:
        update = {**entries[0][0].model_dump(exclude={"weight"}), "then": then}
    return config.model_copy(update=update)


@contextmanager
def _told_when_space_is_out(config: PretrainConfig, out: Path, world: World) -> Iterator[None]:
    """Turn a lack of memory, killed workers and a full disk into one line that says what to change."""
    try:
        yield
    except (ConnectionError, EOFError) as error:  # a DataLoader's worker died while it handed over a batch
        raise _killed(error) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
    except (RuntimeError, MemoryError) as error:
        if str(error).startswith("DataLoader worker"):
            raise _killed(error) from None
        lack = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not lack and "can't allocate memory" not in str(error):
            raise
        clips = config.batch_size // (world.size * config.accumulate)
        raise UserError(
            f"out of memory on {world.device} with {clips} clips a pass; raise accumulate (it is "
            f"{config.accumulate}), which gives the same losses, or set student.checkpointing=true, or lower "
            f"batch_size (it is {config.batch_size})"
        ) from None


def _killed(error: BaseException) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" .")
    return UserError(
        f"a worker process was killed ({reason}), perhaps for want of memory; what is done is kept, the same "
        "command goes on, fewer workers need less"
    )
