"""Atomic checkpoints and the student's weights with their description."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_train.models import Student, StudentConfig, why_unreadable

CHECKPOINTS = "checkpoints"
BEST = "best.pt"
STUDENT = "student.safetensors"
STUDENT_AVERAGE = "student_ema.safetensors"


class CheckpointWriter:
    """Writes checkpoints beside the training: the last few, and the one with the lowest loss.

    A checkpoint is ``checkpoints/<steps>.pt``; it appears whole or not at all. Draws are keyed by step and
    clip index, so that a checkpoint needs no random state and no place in the data beyond its step.
    """

    def __init__(self, folder: Path, *, keep: int = 1, best: float = float("inf")) -> None:
        """Write below ``folder``; ``best`` is the lowest loss of a run that is continued."""
        self._folder, self._keep, self._best = folder / CHECKPOINTS, keep, best
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written."""
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def save(
        self,
        step: int,
        state: dict[str, Any],
        *,
        loss: float,
        students: Mapping[str, Mapping[str, Tensor]] | None = None,
        form: StudentConfig | None = None,
    ) -> None:
        """Begin to write the state after ``step`` steps; the one before is finished first.

        Args:
            step: steps done.
            state: tensors that nobody else changes, and plain values.
            loss: mean since the checkpoint before.
            students: weights to write beside it in the form of `save_student`, by file name.
            form: of these students.
        """
        self.wait()
        is_best = loss <= self._best
        self._best = min(loss, self._best)
        content = {**state, "step": step, "best_loss": self._best}
        self._pending = self._thread.submit(self._write, step, content, is_best, students or {}, form)

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            UserError: the disk is full or gone.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except OSError as error:
                reason = error.strerror
                raise UserError(f"checkpoints '{self._folder}': cannot be written: {reason}") from None

    def _write(
        self,
        step: int,
        state: dict[str, Any],
        is_best: bool,
        students: Mapping[str, Mapping[str, Tensor]],
        form: StudentConfig | None,
    ) -> None:
        # The checkpoint is last: whoever finds it finds what belongs to it, too.
        for name, tensors in students.items():
            assert form is not None
            _write_student(self._folder.parent / name, tensors, form)
        save_checkpoint(self._folder.parent, step, state, keep=self._keep, best=is_best)


def save_checkpoint(
    folder: Path, step: int, state: dict[str, Any], *, keep: int = 1, best: bool = False
) -> Path:
    """Write the state after ``step`` steps and return its file; the last ``keep`` stay, it among them.

    The ``best`` stands as `BEST`, too.
    """
    path = folder / CHECKPOINTS / f"{step:08d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if best:
        other = path.with_name(BEST + ".part")
        other.unlink(missing_ok=True)
        try:
            os.link(partial, other)
        except OSError:  # a file system without links
            shutil.copyfile(partial, other)
        os.replace(other, path.with_name(BEST))
    os.replace(partial, path)
    for old in checkpoint_files(folder)[:-keep]:
        old.unlink()
    return path


def checkpoint_files(folder: Path) -> list[Path]:
    """Return a run's checkpoints, the oldest first, without the best."""
    return sorted(path for path in (folder / CHECKPOINTS).glob("*.pt") if path.stem.isdecimal())


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the last state of a run, or None when it has none yet.

    Raises:
        UserError: the file is damaged.
    """
    paths = checkpoint_files(folder)
    if not paths:
        return None
    before = f"; delete it to go on from '{paths[-2].name}'" if len(paths) > 1 else ""
    return _read_state(paths[-1], before)


def _read_state(path: Path, advice: str = "") -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no pickle fails in any way
        raise UserError(f"checkpoint '{path}': damaged: {why_unreadable(error)}{advice}") from None
    return state


def check_same_run(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other settings or sources; both are plain values by name.

    Raises:
        UserError: names what differs.
    """
    different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if different:
        told = [
            f"{key} is {_short(before.get(key))} there and {_short(now.get(key))} now" for key in different
        ]
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        raise UserError(
            f"out '{folder}': holds a run with another config or other sources: {', '.join(told[:3])}{more}; "
            "give another folder"
        )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by dotted key."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        result.update(flat(value, name + ".") if isinstance(value, Mapping) else {name: value})
    return result


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def save_student(path: Path, student: Student) -> None:
    """Write weights as safetensors with the student's configuration in its metadata."""
    _write_student(path, student.state_dict(), student.config)


def _write_student(path: Path, tensors: Mapping[str, Tensor], form: StudentConfig) -> None:
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {"student": json.dumps(asdict(form))}
    write_bytes(path, safetensors.torch.save(contiguous, metadata=metadata))


def load_student(path: str | Path) -> Student:
    """Load a student from its safetensors file, from a run's folder or one of its checkpoints, to evaluate.

    A checkpoint ``RUN/checkpoints/<steps>.pt`` holds weights alone; their form is that of the run's student.

    Raises:
        UserError: no such file, or not one that `save_student` or a run wrote.
    """
    file = Path(path) / STUDENT if Path(path).is_dir() else Path(path)
    if file.suffix == ".pt" and file.is_file():
        student = load_student(file.parent.parent)
        student.load_state_dict(_read_state(file)["model"])
        return student
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


def steps_of(path: str | Path) -> int | None:
    """Return after how many steps what `load_student` loads was written; None where nobody knows."""
    given = Path(path)
    if given.suffix == ".pt":
        return int(given.stem) if given.stem.isdecimal() else None
    files = checkpoint_files(given if given.is_dir() else given.parent)
    return int(files[-1].stem) if files else None
