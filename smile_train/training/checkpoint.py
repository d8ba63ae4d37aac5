"""Checkpoints: written whole or not at all, in the background, and read at the start of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from torch import Tensor, nn

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import atomic_write
from smile_train.models import Student, VideoClassifier, save_model, why_unreadable

CHECKPOINTS = "checkpoints"


class CheckpointWriter:
    """Writes checkpoints in a background thread and keeps the last few.

    A checkpoint is ``checkpoints/<steps>.pt``. All random draws are keyed by step and clip index, so it
    holds neither random states nor a position in the data, except its number of steps.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        """Write below ``folder``."""
        self._folder, self._keep = folder, keep
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last file."""
        self._thread.shutdown()
        if kind is None:
            self.wait()

    def save(
        self, step: int, state: dict[str, Any], weights: Mapping[str, tuple[nn.Module, dict[str, Tensor]]]
    ) -> None:
        """Start to write the state after ``step`` steps, when the state before is written.

        Args:
            step: steps done.
            state: tensors that nobody changes, and plain values.
            weights: further files, by name: a model and the tensors to save in its place (`save_model`).

        Raises:
            UserError: the disk is full or not writable.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, step, state, weights)

    def wait(self) -> None:
        """Wait until the last checkpoint is written; raises as `save`."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(
        self, step: int, state: dict[str, Any], weights: Mapping[str, tuple[nn.Module, dict[str, Tensor]]]
    ) -> None:
        # The checkpoint is written last: where it exists, the files of its weights exist, too.
        for name, (model, tensors) in weights.items():
            save_model(self._folder / name, cast(Student | VideoClassifier, model), tensors, steps=step)
        save_checkpoint(self._folder, step, state, keep=self._keep)


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int = 1) -> Path:
    """Write the state after ``step`` steps, delete all but the last ``keep`` ones, and return its file."""
    path = folder / CHECKPOINTS / f"{step:08d}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        torch.save({**state, "step": step}, file)
    for old in checkpoint_files(folder)[:-keep]:
        old.unlink()
    return path


def checkpoint_files(folder: Path) -> list[Path]:
    """Return a run's checkpoints, the oldest first."""
    return sorted(path for path in (folder / CHECKPOINTS).glob("*.pt") if path.stem.isdecimal())


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Return the last state of a run, or None where it has no checkpoint yet.

    Raises:
        UserError: the file is damaged.
    """
    paths = checkpoint_files(folder)
    if not paths:
        return None
    try:
        state: dict[str, Any] = torch.load(paths[-1], map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises errors of any type
        advice = f"; delete it to continue from '{paths[-2].name}'" if len(paths) > 1 else ""
        raise UserError(f"checkpoint '{paths[-1]}': damaged: {why_unreadable(error)}{advice}") from None
    return state


def check_same_run(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to continue a run with other settings or sources. Both are plain values by name.

    Raises:
        UserError: names the first settings that differ.
    """
    different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if different:
        texts = [
            f"{key} is {_short(before.get(key))} there and {_short(now.get(key))} now" for key in different
        ]
        more = f" and {len(texts) - 3} more" if len(texts) > 3 else ""
        raise UserError(
            f"out '{folder}': contains a run with other settings or sources: {', '.join(texts[:3])}{more}; "
            "use another folder"
        )


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
