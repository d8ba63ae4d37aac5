"""Masked pretraining: render -> mask -> teacher -> student -> loss. Read it from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from smile_synth import BackgroundFolder, ObjectBank, Recipe, SyntheticClips
from smile_synth.corpus import write_bytes
from smile_synth.errors import UserError
from smile_synth.strict_yaml import dump
from smile_train.checkpoint import STUDENT, load_checkpoint, save_checkpoint, save_student
from smile_train.config import PretrainConfig
from smile_train.data import normalise, training_batches
from smile_train.masking import count_masked, make_mask, mask_draws
from smile_train.models import ClipTeacher, Student, StudentConfig, load_teacher
from smile_train.optim import lr_at, make_adamw
from smile_train.runlog import RunLog
from smile_train.targets import gather_masked, masked_mse, normalise_tokens, pixel_targets

CONFIG = "config.yaml"


@dataclass(frozen=True)
class PretrainResult:
    """What a run ended with.

    Attributes:
        folder: of the run.
        steps: done in all.
        loss: mean over the last 5 % of the steps of this call.
        loss_of_mean: likewise, of predicting every target's mean over the clip (0 after z-scoring).
        clips_per_second: of this call.
    """

    folder: Path
    steps: int
    loss: float
    loss_of_mean: float
    clips_per_second: float


def build_student(config: PretrainConfig, recipe: Recipe, teacher: ClipTeacher | None) -> Student:
    """Return the student with its initial weights, which depend on the seed alone.

    Raises:
        UserError: frames or size do not fit tubelet and patch.
    """
    options = config.student
    target_dim = teacher.width if teacher else options.tubelet_size * options.patch_size**2 * 3
    try:
        form = StudentConfig.of_size(
            options.size, target_dim=target_dim, num_frames=recipe.num_frames, size_hw=recipe.size,
            patch_size=options.patch_size, tubelet_size=options.tubelet_size, drop_path=options.drop_path,
            positions=options.positions,
        )  # fmt: skip
        count_masked(form.grid_thw, config.mask.ratio)
    except ValueError as error:
        raise UserError(f"student: {error}") from None
    return Student(form, generator=torch.Generator().manual_seed(config.seed))


def choose_device(wanted: str) -> torch.device:
    """Return the device of a run.

    Raises:
        UserError: CUDA is wanted and there is none.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': there is none on this machine; use device=cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def pretrain(
    config: PretrainConfig,
    out: str | Path,
    *,
    on_step: Callable[[int, int, float], None] | None = None,
) -> PretrainResult:
    """Pretrain a student, or continue the run in ``out`` at the exact step of its checkpoint.

    Writes ``config.yaml`` (resolved), ``recipe.yaml``, ``log.jsonl``, ``checkpoint.pt`` and
    ``student.safetensors``.

    Args:
        config: the run.
        out: its folder.
        on_step: called with (steps done, steps in all, loss).

    Raises:
        UserError: sources, teacher or sizes do not fit, or another run stands in ``out``.
    """
    out = Path(out)
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    recipe = Recipe.load(config.recipe, config.recipe_overrides)
    bank = ObjectBank.open(config.bank)
    backgrounds = BackgroundFolder(config.backgrounds) if config.backgrounds else None
    teacher = None
    if config.target.kind == "teacher":
        teacher = load_teacher(
            config.teacher.model, size_hw=recipe.size, patch_size=config.student.patch_size,
            tubelet_size=config.student.tubelet_size, pretrained=config.teacher.pretrained,
            force_quick_gelu=config.teacher.force_quick_gelu, normalisation=config.teacher.normalisation,
        ).to(device)  # fmt: skip
    student = build_student(config, recipe, teacher).to(device)
    scale = config.batch_size / 256
    options = config.optimiser
    optimiser = make_adamw(
        student, lr=options.lr_per_256 * scale, weight_decay=options.weight_decay, betas=options.betas
    )
    identity = dump(config) + recipe.digest + bank.digest + (backgrounds.digest if backgrounds else "")
    clips = SyntheticClips(
        recipe, bank, backgrounds, seed=config.seed, num_clips=config.steps * config.batch_size
    )
    clips[0]  # a recipe that cannot be rendered fails here, before anything is written
    start = _resume(out, identity, student, optimiser)
    write_bytes(out / CONFIG, (_header() + dump(config)).encode())
    write_bytes(out / "recipe.yaml", recipe.to_yaml().encode())

    batches = training_batches(
        clips, batch_size=config.batch_size, num_steps=config.steps, start_step=start,
        patch_size=config.student.patch_size, tubelet_size=config.student.tubelet_size,
        workers=config.workers,
    )  # fmt: skip
    grid = student.config.grid_thw
    num_masked = count_masked(grid, config.mask.ratio)
    log = RunLog(out, keep_steps=start)
    losses: list[float] = []
    losses_of_mean: list[float] = []
    began = time.perf_counter()
    student.train()
    for step, batch in enumerate(batches, start):
        lr = scale * lr_at(
            step, base_lr=options.lr_per_256, warmup_lr=options.warmup_lr_per_256,
            final_lr=options.final_lr_per_256, warmup_steps=options.warmup_steps, total_steps=config.steps,
        )  # fmt: skip
        for group in optimiser.param_groups:
            group["lr"] = lr
        torch.manual_seed((config.seed * 1_000_003 + step) % 2**63)  # drop path: keyed by the step, too

        # render
        frames = batch.frames.to(device, non_blocking=True)
        # mask
        draws = torch.from_numpy(mask_draws(config.seed, batch.indices.numpy(), student.config.num_tokens))
        mask = make_mask(
            config.mask.kind, draws.to(device), grid, config.mask.ratio,
            object_tokens=(batch.coverage > config.mask.coverage_threshold).to(device),
            object_visible_share=config.mask.object_visible_share,
        )  # fmt: skip
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            # teacher
            if teacher is not None:
                targets = normalise_tokens(config.target.norm, teacher(frames.float() / 255))
            else:
                targets = pixel_targets(
                    frames.float() / 255, config.student.patch_size, config.student.tubelet_size,
                    normalise=config.target.per_patch,
                )  # fmt: skip
            # student
            predicted = student(normalise(frames), mask, num_masked)
            # loss
            wanted = gather_masked(targets, mask, num_masked)
            loss = masked_mse(predicted, wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        limit = options.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), limit)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"the loss is {value} at step {step} (seed {config.seed}, clips {int(batch.indices[0])}.."
                f"{int(batch.indices[-1])}); the checkpoint before it is kept; lower optimiser.lr_per_256"
            )
        optimiser.step()

        losses.append(value)
        losses_of_mean.append(float(wanted.square().mean()))
        done = step + 1
        rate = len(losses) * config.batch_size / (time.perf_counter() - began)
        log.write(
            step=done, loss=value, loss_of_mean=losses_of_mean[-1], lr=lr, grad_norm=float(norm),
            clips_per_second=round(rate, 1),
        )  # fmt: skip
        if on_step:
            on_step(done, config.steps, value)
        if done % config.checkpoint_every == 0 or done == config.steps:
            save_checkpoint(out, step=done, model=student, optimiser=optimiser, config=identity)
            save_student(out / STUDENT, student)
    seconds = time.perf_counter() - began
    rate = len(losses) * config.batch_size / seconds
    return PretrainResult(out, config.steps, _tail(losses), _tail(losses_of_mean), rate)


def _tail(values: list[float]) -> float:
    last = values[-max(len(values) // 20, 1) :]
    return sum(last) / len(last) if last else math.nan


def _resume(out: Path, identity: str, student: Student, optimiser: torch.optim.Optimizer) -> int:
    """Load the run's checkpoint, if there is one; returns the steps done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
    state: dict[str, Any] | None = load_checkpoint(out)
    if state is None:
        return 0
    if state["config"] != identity:
        raise UserError(
            f"out '{out}': holds a run with another config or other sources; compare its {CONFIG}, "
            "or give another folder"
        )
    student.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def _header() -> str:
    packages = ("smile-video", "torch", "numpy", "open_clip_torch", "timm")
    return "# " + ", ".join(f"{name} {version(name)}" for name in packages) + "\n"
