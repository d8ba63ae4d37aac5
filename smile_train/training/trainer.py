"""One trainer for pretraining, fine-tuning, probes and the tiny CLIP.

A `Task` defines what is trained: its model, data and loss. `train` does the rest: processes, precision,
steps, the log, checkpoints, and the exact continuation of a stopped run.
"""

from __future__ import annotations

import errno
import json
import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smile_synth.core.errors import UserError
from smile_train.batch import Batch
from smile_train.config import OptimiserOptions, RunOptions
from smile_train.distributed import World, copy_full, full_tensor, join_world, no_sync, wrap_model
from smile_train.models import set_fused_attention
from smile_train.training.checkpoint import CheckpointWriter, check_same_run, load_checkpoint
from smile_train.training.cost import peak_tflops
from smile_train.training.logging import (
    RunLog,
    append_start,
    describe_run,
    load_wandb,
    lock_run,
    read_log,
    start_wandb,
)
from smile_train.training.optim import WeightAverage, lr_at, make_adamw, set_lr

RATE_STEPS = 50  # steps over which the rates in the log are averaged
UNREADABLE = "unreadable.jsonl"
LogLine = dict[str, Any]


@dataclass(frozen=True)
class Phase:
    """Steps with one optimiser and one schedule.

    Attributes:
        first_step, end_step: the steps, counted over the whole run.
        optimiser: options of the optimiser and its schedule.
        samples_per_step: samples in a step. Learning rates are multiplied by it and divided by 256.
        num_passes: backward passes per part of a batch.
    """

    first_step: int
    end_step: int
    optimiser: OptimiserOptions
    samples_per_step: int
    num_passes: int = 1

    def lr(self, step: int) -> float:
        """Return the learning rate of a step."""
        options, place = self.optimiser, step - self.first_step
        if options.schedule_epoch is not None:
            length, advance = options.schedule_epoch
            place = place // length * advance + place % length
        return lr_at(
            place, base_lr=options.base_lr, warmup_lr=options.warmup_lr, final_lr=options.final_lr,
            warmup_steps=options.warmup_steps,
            total_steps=options.cosine_steps or self.end_step - self.first_step,
        ) * self.samples_per_step / 256  # fmt: skip


@dataclass(frozen=True)
class WeightFiles:
    """Names of the files in a run's folder that contain only weights.

    Attributes:
        last: file with the weights of the last checkpoint.
        average: file with the moving average of the weights.
        best: file with the weights of the checkpoint with the best score.
    """

    last: str
    average: str
    best: str


class Task(ABC):
    """What is trained. The trainer calls its methods and assigns none of its attributes.

    Attributes:
        name: used in messages, for example "pretraining".
        run: device, precision, checkpoints and other options of the run.
        seed: of all random draws.
        batch_size: clips per step over all processes.
        phases: in their order; each starts with a new optimiser.
        model: the model that is trained. The trainer moves it to the device. `save_model` also writes the
            model's ``config``.
        files: names of the files with weights; None writes only checkpoints.
        settings: plain values by name. A run can be continued only if they are the same as before.
        validate_every: steps between calls of `validate`; None never calls it.
    """

    name: str
    run: RunOptions
    seed: int
    batch_size: int
    phases: Sequence[Phase]
    model: nn.Module
    files: WeightFiles | None = None
    settings: dict[str, Any]
    validate_every: int | None = None

    @abstractmethod
    def batches(self, phase: Phase, start_step: int, world: World) -> Generator[Batch, None, None]:
        """Yield this process's batches of a phase, from ``start_step`` on. The trainer closes it."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        """Yield a dict of scalar losses for each of the ``phase.num_passes`` passes of a part of a batch.

        ``loss`` is differentiated; all losses are logged. The trainer runs the backward pass of one dict
        before it takes the next dict.

        Args:
            model: the model to call. It is `Task.model`, or a wrapper of it (DDP).
            batch: a part of the step's batch, on the device.
            phase: the phase of the step.
        """

    def describe(self, out: Path) -> dict[str, Any]:
        """Write the configuration into the run's folder, and return entries for ``run.jsonl``."""
        return {}

    def move(self, device: torch.device) -> None:  # noqa: B027 - most tasks have one model
        """Move modules other than `model` to the device, and compile them with ``run.compile``."""

    def optimiser(self, phase: Phase) -> torch.optim.Optimizer:
        """Return a new optimiser for a phase. ``lr_scale`` of a group multiplies its learning rate."""
        options = phase.optimiser
        return make_adamw(
            self.model, lr=options.base_lr, weight_decay=options.weight_decay, betas=options.betas,
            layer_decay=options.layer_decay,
        )  # fmt: skip

    def settings_of(self, world: World) -> dict[str, Any]:
        """Return the settings that depend on the number of processes."""
        return {}

    def validate(self, world: World) -> dict[str, float]:
        """Return validation scores by name. The weights with the highest ``score`` are saved as the best.

        All processes call it. The result must be the same in all of them.
        """
        return {}

    def finish(self, out: Path, world: World) -> None:  # noqa: B027 - most tasks end with the last step
        """Do what follows the last step, for example a test. The checkpoints are already written.

        All processes call it, also if an earlier call of `train` did all steps.
        """

    def step_gflops(self, phase: Phase) -> float:
        """Return the GFLOP of one clip in a step, or 0 if unknown."""
        return 0.0

    def preview(self, batch: Batch, phase: Phase) -> tuple[str, NDArray[np.uint8], int] | None:
        """Return a title, a clip ``[T, H, W, 3]`` and how many frames TensorBoard shows in a row, or None."""
        return None


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        folder: of the run.
        steps: all steps of the run, including those of earlier calls.
        last: means of the logged values over the last 5 % of the steps.
        clips_per_second: of this call; 0 if the run was already complete.
    """

    folder: Path
    steps: int
    last: dict[str, float]
    clips_per_second: float

    @property
    def loss(self) -> float:
        """Mean loss over the last 5 % of the steps."""
        return self.last.get("loss", math.nan)


def train(task: Task, out: str | Path, *, on_log: Callable[[LogLine], None] | None = None) -> TrainResult:
    """Train a new run in ``out``, or continue the run there from its last checkpoint.

    Under torchrun every process calls it. In each step all processes together use the same clips as a single
    process.
    Writes ``run.jsonl`` (versions, git state), ``log.jsonl``, ``tensorboard/``, ``checkpoints/`` and the
    files of `Task.files`.

    Args:
        task: what is trained.
        out: folder of the run.
        on_log: called in process 0 with every line of the log.

    Raises:
        UserError: ``out`` contains a run with other settings or is in use, the loss or the gradient is not
            finite, a worker process ended, or memory or disk are full.
    """
    out = Path(out)
    with ExitStack() as stack:
        world = stack.enter_context(join_world(task.run.device))
        stack.enter_context(_user_errors(task, out, world))
        if task.batch_size % (world.size * task.run.accumulate):
            raise UserError(
                f"batch_size {task.batch_size}: must be a multiple of {world.size} processes x accumulate "
                f"{task.run.accumulate}"
            )
        return _Trainer(task, out, world, stack, on_log).train()


class _Trainer:
    def __init__(
        self,
        task: Task,
        out: Path,
        world: World,
        stack: ExitStack,
        on_log: Callable[[LogLine], None] | None,
    ) -> None:
        self.task, self.out, self.world, self.on_log = task, out, world, on_log
        run, self.device = task.run, world.device
        self.precision = choose_precision(run.precision, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        if run.threads:
            torch.set_num_threads(run.threads)
        wandb = load_wandb(run.wandb)
        if world.is_main:
            stack.enter_context(lock_run(out))
        self.settings = {**task.settings, **task.settings_of(world)}
        self.state = load_checkpoint(out)
        if self.state is not None:
            check_same_run(out, self.state["settings"], self.settings)
            task.model.load_state_dict(self.state["model"])
        self.start = int(self.state["step"]) if self.state else 0
        self.best: float = self.state["best_score"] if self.state else -math.inf
        self.lines = [line for line in read_log(out) if line["step"] <= self.start]
        self.log: RunLog | None = None
        self.writer: CheckpointWriter | None = None
        if world.is_main:
            described = task.describe(out)
            append_start(
                out,
                describe_run(
                    start_step=self.start, processes=world.size, device=str(self.device), **described
                ),
            )
            wandb_run = wandb and start_wandb(wandb, run.wandb, out, self.settings)
            self.log = stack.enter_context(RunLog(out, keep_steps=self.start, wandb_run=wandb_run))
            self.writer = stack.enter_context(CheckpointWriter(out, keep=run.keep_checkpoints))
        task.move(self.device)
        if self.device.type == "cpu" and self.precision == torch.bfloat16:
            # Measured on a Xeon with AMX, 1 thread, 16 clips x 2 heads x 256 tokens x 32 channels, bf16: the
            # backward pass takes 19 ms with the fused attention and 7 ms without (fp32: 12 and 11 ms).
            set_fused_attention(task.model, False)
        task.model.to(self.device).train()
        self.model = wrap_model(task.model, run.parallel, world)
        if run.compile:
            self.model.compile()
        self.average = WeightAverage(task.model, run.ema_decay) if run.ema_decay else None
        if self.state is not None:
            self.scaler.load_state_dict(self.state["scaler"])
            for name, tensor in self.average.tensors.items() if self.average else ():
                copy_full(self.state["average"][name], tensor)
        self.peak = run.peak_tflops or peak_tflops(self.device, self.precision)
        self.durations: deque[tuple[float, float]] = deque(maxlen=RATE_STEPS)  # seconds: step, wait for data

    def train(self) -> TrainResult:
        began, total = time.perf_counter(), self.task.phases[-1].end_step
        for phase in self.task.phases:
            if self.start < phase.end_step:
                self._train_phase(phase)
        seconds = time.perf_counter() - began
        if self.writer is not None:
            self.writer.wait()
        self.world.gather(None)  # the other processes wait for the files of process 0
        self.task.finish(self.out, self.world)
        tail = self.lines[-max(len(self.lines) // 20, 1) :]
        names = [name for name, value in (tail[-1] if tail else {}).items() if isinstance(value, float)]
        last = {name: sum(line[name] for line in tail if name in line) for name in names}
        last = {name: value / sum(name in line for line in tail) for name, value in last.items()}
        rate = (total - self.start) * self.task.batch_size / seconds
        return TrainResult(self.out, total, last, rate if self.start < total else 0.0)

    def _train_phase(self, phase: Phase) -> None:
        self.optimiser = self.task.optimiser(phase)
        if self.task.validate_every is None and self.start <= phase.first_step:
            # Losses of different phases cannot be compared: masks and data differ.
            self.best = -math.inf
        if self.state is not None and self.start > phase.first_step:
            _load_optimiser(self.task.model, self.optimiser, self.state["optimiser"])
        first = max(self.start, phase.first_step)
        self.since_checkpoint: list[float] = []
        self.gflops = self.task.step_gflops(phase)
        with closing(self.task.batches(phase, first, self.world)) as batches:
            for step, (batch, waited) in enumerate(_timed(batches), first):
                began = time.perf_counter()
                line = self._step(phase, step, batch)
                self.durations.append((waited + time.perf_counter() - began, waited))
                self._finish_step(phase, step, batch, line, is_first=step == first)

    def _step(self, phase: Phase, step: int, batch: Batch) -> LogLine:
        """Do one optimiser step and return its line for the log."""
        task, accumulate = self.task, self.task.run.accumulate
        lr = phase.lr(step)
        set_lr(self.optimiser, lr)
        # Drop path uses torch's global generator. Its seed depends on seed, step and process only.
        torch.manual_seed((task.seed * 1_000_003 + step + (self.world.rank << 40)) % 2**63)
        self.optimiser.zero_grad(set_to_none=True)
        num_passes = passes_left = accumulate * phase.num_passes
        sums: dict[str, Tensor] = {}
        for part in batch.parts(accumulate, self.device):
            losses = task.losses(self.model, part, phase)
            for _ in range(phase.num_passes):
                passes_left -= 1
                with no_sync(self.model, passes_left > 0):
                    with self._autocast():
                        values = next(losses)
                    self.scaler.scale(values["loss"] / num_passes).backward()
                sums = {name: value.detach() + sums.get(name, 0.0) for name, value in values.items()}
        self.scaler.unscale_(self.optimiser)
        limit = phase.optimiser.clip_norm or math.inf
        norm = float(full_tensor(torch.nn.utils.clip_grad_norm_(task.model.parameters(), limit)))
        sums["unreadable"] = sums["loss"].new_tensor(len(batch.unreadable) * num_passes)
        means = (self.world.mean(torch.stack([*sums.values()]).float()) / num_passes).tolist()
        line = {"step": step + 1, **dict(zip(sums, means, strict=True)), "lr": lr, "grad_norm": norm}
        if not line["unreadable"]:
            del line["unreadable"]
        self._check_finite(line)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.average is not None:
            self.average.update(task.model)
        return line

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def _check_finite(self, line: LogLine) -> None:
        """Raise a UserError if the loss or the gradient is not finite."""
        # With fp16 some gradients overflow; the scaler then skips the step.
        checked = ("loss",) if self.scaler.is_enabled() else ("loss", "grad_norm")
        for name in checked:
            if not math.isfinite(line[name]):
                step, first = line["step"] - 1, (line["step"] - 1) * self.task.batch_size
                raise UserError(
                    f"{name} is {line[name]} at step {step} (seed {self.task.seed}, clips {first}.."
                    f"{first + self.task.batch_size - 1}); the last checkpoint is kept; lower "
                    "optimiser.base_lr, or set optimiser.clip_norm"
                )

    def _finish_step(self, phase: Phase, step: int, batch: Batch, line: LogLine, *, is_first: bool) -> None:
        """Log a step. Validate and save a checkpoint if they are due after this step."""
        done, every = step + 1, self.task.validate_every
        is_end = done == phase.end_step
        validates = every is not None and (is_end or (done - phase.first_step) % every == 0)
        saves = is_end or validates or done % self.task.run.checkpoint_every == 0
        line.update(self._rates())
        if "unreadable" in line:
            line["unreadable"] = self._list_unreadable(batch)
        self.since_checkpoint.append(line["loss"])
        if validates:
            line.update(self.task.validate(self.world))
            self.task.model.train()
        self.lines.append(line)
        if self.log is not None:
            self.log.write(line)
            preview = self.task.preview(batch, phase) if is_first or saves else None
            if preview is not None:
                title, clip, num_images = preview
                self.log.show(done, title, clip, num_images)
            if self.on_log:
                self.on_log(line)
        if saves:
            score = line["score"] if validates else -sum(self.since_checkpoint) / len(self.since_checkpoint)
            self._save(done, score, comparable=validates or every is None)
            self.since_checkpoint = []

    def _rates(self) -> LogLine:
        """Return speed, waiting time and memory for the log."""
        seconds = sum(total for total, _ in self.durations)
        rate = len(self.durations) * self.task.batch_size / seconds
        rates = {
            "clips_per_second": float(f"{rate:.4g}"),
            "data_wait": round(sum(wait for _, wait in self.durations) / seconds, 4),
        }
        if self.gflops and self.peak:
            rates["mfu"] = round(rate / self.world.size * self.gflops / (1000 * self.peak), 4)
        if self.device.type == "cuda":
            rates["memory_gib"] = round(torch.cuda.max_memory_allocated(self.device) / 2**30, 3)
        return rates

    def _list_unreadable(self, batch: Batch) -> int:
        """Add the unreadable videos of all processes to the run's list; return how many this step had."""
        found = [entry for entries in self.world.gather(batch.unreadable) for entry in entries]
        if self.world.is_main:
            path = self.out / UNREADABLE
            listed = path.read_text().splitlines() if path.exists() else []
            lines = [line for line in map(json.dumps, dict(found).items()) if line not in listed]
            with path.open("a") as file:
                file.writelines(line + "\n" for line in lines)
        return len(found)

    def _save(self, done: int, score: float, *, comparable: bool) -> None:
        """Start to write a checkpoint, and the best weights if no earlier score is higher.

        With ``comparable=False`` the score is ignored, because it is no validation score.
        """
        is_best = comparable and score >= self.best
        self.best = max(score, self.best) if comparable else self.best
        model, optimiser = _full_state(self.task.model, self.optimiser)
        average = {name: full_tensor(t) for name, t in self.average.tensors.items()} if self.average else {}
        if self.writer is None or self.log is None:
            return
        self.log.sync()  # before the checkpoint exists, the log's lines up to it are on the disk
        files, weights = self.task.files, {}
        if files is not None:
            for name, tensors in {files.last: model, files.average: average, files.best: model}.items():
                if tensors and (name != files.best or is_best):
                    weights[name] = (self.task.model, tensors)
        state = {
            "model": model, "optimiser": optimiser, "average": average, "scaler": self.scaler.state_dict(),
            "settings": self.settings, "best_score": self.best,
        }  # fmt: skip
        self.writer.save(done, state, weights)


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the data type of the forward passes: auto is bfloat16 on CUDA and float32 on the CPU."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return dtypes.get(name, torch.bfloat16 if device.type == "cuda" else torch.float32)


def _full_state(model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return copies of all weights and of the optimiser's state; empty in processes other than rank 0."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    weights, state = get_state_dict(
        model, optimiser, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    copies: tuple[dict[str, Any], dict[str, Any]] = torch.utils._pytree.tree_map_only(
        Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), (dict(weights), dict(state))
    )
    return copies


def _load_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the optimiser's state of `_full_state`. The number of processes may differ."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    set_optimizer_state_dict(model, optimiser, state, options=StateDictOptions(full_state_dict=True))


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Yield every batch with the seconds spent waiting for it."""
    while True:
        began = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch, time.perf_counter() - began


@contextmanager
def _user_errors(task: Task, out: Path, world: World) -> Iterator[None]:
    """Turn errors from full memory, killed workers and a full disk into a UserError of one line."""
    try:
        yield
    except (ConnectionError, EOFError) as error:  # a worker ended while it sent a batch
        raise _worker_killed(error) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
    except (RuntimeError, MemoryError) as error:
        if str(error).startswith("DataLoader worker"):
            raise _worker_killed(error) from None
        no_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not no_memory and "can't allocate memory" not in str(error):
            raise
        clips = task.batch_size // (world.size * task.run.accumulate)
        raise UserError(
            f"out of memory on {world.device} with {clips} clips per pass; raise run.accumulate (it is "
            f"{task.run.accumulate}), which gives the same losses, or set student.checkpointing=true, or "
            f"lower batch_size (it is {task.batch_size})"
        ) from None


def _worker_killed(error: BaseException) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(" .")
    return UserError(
        f"a worker process was killed ({reason}), possibly for lack of memory; the same command continues "
        "from the last checkpoint; fewer workers need less memory"
    )
