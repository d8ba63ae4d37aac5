"""Atomic checkpoints and the student's weights with their description."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from smile_synth.errors import UserError
from smile_train.models import Student, StudentConfig

CHECKPOINT = "checkpoint.pt"
STUDENT = "student.safetensors"


def save_checkpoint(
    folder: Path, *, step: int, model: nn.Module, optimiser: torch.optim.Optimizer, config: str
) -> None:
    """Write the state after ``step`` steps; the old checkpoint stays until the new one is on disk.

    Draws are keyed by step and clip index, so that no random state needs to be kept.
    """
    partial = folder / (CHECKPOINT + ".part")
    state = {"step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict(), "config": config}
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, folder / CHECKPOINT)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the state of a run, or None when it has none yet.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint '{path}': damaged: {reason}") from None
    return state


def save_student(path: Path, student: Student) -> None:
    """Write weights as safetensors with the student's configuration in its metadata."""
    partial = path.with_name(path.name + ".part")
    tensors = {name: tensor.contiguous() for name, tensor in student.state_dict().items()}
    safetensors.torch.save_file(tensors, partial, metadata={"student": json.dumps(asdict(student.config))})
    os.replace(partial, path)


def load_student(path: str | Path) -> Student:
    """Load a student from its safetensors file or from a run's folder, in evaluation mode.

    Raises:
        UserError: no such file, or not one that `save_student` wrote.
    """
    file = Path(path) / STUDENT if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"checkpoint '{path}': no {STUDENT} there")
    try:
        with safetensors.safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"checkpoint '{file}': not a safetensors file: {error}") from None
    if "student" not in metadata:
        raise UserError(
            f"checkpoint '{file}': does not describe its student; expected a file of smile-train pretrain"
        )
    fields = json.loads(metadata["student"])
    fields["size_hw"] = tuple(fields["size_hw"])
    student = Student(StudentConfig(**fields), generator=torch.Generator())
    student.load_state_dict(tensors)
    return student.eval()
