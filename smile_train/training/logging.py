"""The files in which a run describes itself: its log, its starts, and the lock of its folder."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import exclusive_folder, remove_partial_files, write_bytes

LOG = "log.jsonl"
RUN = "run.jsonl"
_PACKAGES = (
    "smile-video", "torch", "numpy", "numba", "opencv-python-headless", "av", "open_clip_torch", "timm",
)  # fmt: skip


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, without a last line that was not written completely."""
    path = folder / LOG
    lines: list[dict[str, Any]] = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def load_wandb(project: str | None) -> Any:
    """Return the module of Weights & Biases, or None where no project is given.

    Raises:
        UserError: it is not installed.
    """
    if project is None:
        return None
    try:
        import wandb
    except ImportError:
        raise UserError(
            f"wandb '{project}': the package wandb is not installed; pip install 'smile-video[wandb]', or "
            "leave wandb out"
        ) from None
    return wandb


def start_wandb(wandb: Any, project: str | None, folder: Path, config: dict[str, Any]) -> Any:
    """Return a run of Weights & Biases, always the same one for the same folder.

    Raises:
        UserError: it cannot be started.
    """
    try:
        return wandb.init(project=project, dir=str(folder), name=folder.name, resume="auto", config=config)
    except Exception as error:  # no login, no network and others: errors of many types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"wandb '{project}': {reason}; 'wandb login', WANDB_MODE=offline, or leave wandb out"
        ) from None


class RunLog:
    """Appends lines to ``log.jsonl``, and the same values to TensorBoard and Weights & Biases."""

    def __init__(self, folder: Path, *, keep_steps: int, wandb_run: Any = None) -> None:
        """Open the log.

        Args:
            folder: of the run.
            keep_steps: lines of later steps are removed, because these steps are repeated.
            wandb_run: a run of Weights & Biases.
        """
        from torch.utils.tensorboard import SummaryWriter  # the import takes seconds

        self._path, self._wandb_run = folder / LOG, wandb_run
        kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= keep_steps]
        write_bytes(self._path, "".join(kept).encode())
        self._board: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=keep_steps + 1)

    def __enter__(self) -> RunLog:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the run of Weights & Biases and TensorBoard's file."""
        if self._wandb_run is not None:  # first, because TensorBoard fails on a full disk
            self._wandb_run.finish(exit_code=0 if kind is None else 1)
        self._board.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, which has a ``step``. It survives a kill of this process."""
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        values = {name: value for name, value in line.items() if name != "step"}
        for name, value in values.items():
            self._board.add_scalar(name, value, line["step"])
        if self._wandb_run is not None:
            self._wandb_run.log(values, step=line["step"])

    def sync(self) -> None:
        """Wait until all lines are on the disk, so that they survive a power failure."""
        with self._path.open("a") as file:
            os.fsync(file.fileno())

    def show(self, step: int, name: str, clip: NDArray[np.uint8], num_images: int) -> None:
        """Show a clip in TensorBoard: as an animation, and evenly spaced frames side by side.

        Args:
            step: steps done.
            name: title.
            clip: uint8 ``[T, H, W, 3]``.
            num_images: frames side by side.
        """
        frames = clip[:: max(len(clip) // num_images, 1)]
        self._board.add_image(name, np.concatenate(frames, axis=1), step, dataformats="HWC")
        self._board.file_writer.add_summary(_animation(f"{name}, animated", clip), step)


def _animation(title: str, clip: NDArray[np.uint8]) -> Any:
    """Return a clip ``[T, H, W, 3]`` as the animated GIF that TensorBoard shows among its images."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    data = io.BytesIO()
    images = [Image.fromarray(frame) for frame in clip]
    images[0].save(data, "GIF", save_all=True, append_images=images[1:], duration=125, loop=0)
    _, height, width, _ = clip.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data.getvalue())
    return Summary(value=[Summary.Value(tag=title, image=image)])


def describe_run(**more: Any) -> dict[str, Any]:
    """Return versions, git state and machine, with further entries."""

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return {
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in _PACKAGES}},
        "git": _git_state(),
        "machine": {"system": platform.platform(), "processor": platform.machine()},
        **more,
    }


def append_start(folder: Path, description: dict[str, Any]) -> None:
    """Append a description to ``run.jsonl``, which has one line per start of the run."""
    with (folder / RUN).open("a") as file:
        file.write(json.dumps(description) + "\n")


def _git_state() -> dict[str, Any] | None:
    """Return the commit and the changed files of the checkout of this code, None outside of a checkout."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (root / ".git").exists():  # an installed package
        return None
    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "changed_files": (changed or "").splitlines()}


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock a run's folder, which is created if missing, and remove incomplete files of a killed run.

    Raises:
        UserError: another process has the lock, or the folder is not writable.
    """
    with exclusive_folder(folder, "another run is writing there; use another folder"):
        remove_partial_files(folder)
        yield
