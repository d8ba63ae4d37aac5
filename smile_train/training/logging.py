"""What a run writes about itself: its log, what it was started with, and that it is running."""

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
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import exclusive_folder, remove_partial_files, write_bytes
from smile_train.masking import Grid, seen_frames
from smile_train.training.checkpoint import CHECKPOINTS

LOG = "log.jsonl"
RUN = "run.jsonl"
SHOWN = 4  # clips of a batch that TensorBoard gets
_PACKAGES = (
    "smile-video", "torch", "numpy", "numba", "opencv-python-headless", "av", "open_clip_torch", "timm",
)  # fmt: skip


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last line that was cut by a kill is left out."""
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


def begin_tracking(wandb: Any, project: str | None, folder: Path, config: dict[str, Any]) -> Any:
    """Return a run of Weights & Biases, the same again for the same folder.

    Raises:
        UserError: it cannot be begun.
    """
    try:
        return wandb.init(project=project, dir=str(folder), name=folder.name, resume="auto", config=config)
    except Exception as error:  # no login, no network, and the like: what it raises is not one family
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"wandb '{project}': {reason}; 'wandb login', WANDB_MODE=offline, or leave wandb out"
        ) from None


class RunLog:
    """Appends lines, which outlive this process when `write` returns. The same goes to TensorBoard."""

    def __init__(
        self, folder: Path, *, keep_steps: int, tensorboard: bool = False, tracker: Any = None
    ) -> None:
        """Drop what stands after step ``keep_steps``: it will be done again.

        Args:
            folder: of the run.
            keep_steps: steps that are not done again.
            tensorboard: write for TensorBoard, too.
            tracker: a run of Weights & Biases that is told the same.
        """
        self._path, self._tracker = folder / LOG, tracker
        kept = [json.dumps(line) + "\n" for line in read_log(folder) if line["step"] <= keep_steps]
        write_bytes(self._path, "".join(kept).encode())
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # takes seconds to load

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=keep_steps + 1)

    def __enter__(self) -> RunLog:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Bring the tracker's run and TensorBoard's file to their end."""
        if self._tracker is not None:  # first: a full disk lets TensorBoard fail
            self._tracker.finish(exit_code=0 if kind is None else 1)
        if self._board is not None:
            self._board.close()

    def write(self, *, step: int, **values: Any) -> None:
        """Append one line."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._tracker is not None:
            self._tracker.log(values, step=step)

    def sync(self) -> None:
        """Return when the lines so far are on the disk, whatever happens to the machine."""
        with self._path.open("a") as file:
            os.fsync(file.fileno())

    def show(self, step: int, frames: Tensor, mask: Tensor, grid_thw: Grid) -> None:
        """Give TensorBoard the first clips of a batch: as films, and an image of every tubelet of one.

        Above the clip, below what is left of it when the hidden tokens are grey.

        Args:
            step: steps done.
            frames: ``[B, T, 3, H, W]`` uint8.
            mask: bool ``[B, N]``, True = hidden.
            grid_thw: tokens along time, height and width.
        """
        if self._board is None:
            return
        clips = frames[:SHOWN].permute(0, 1, 3, 4, 2).cpu().numpy()
        masks = mask[:SHOWN].cpu().numpy()
        pairs = [
            np.concatenate([clip, seen_frames(clip, hidden, grid_thw)], axis=1)
            for clip, hidden in zip(clips, masks, strict=True)
        ]
        film = np.concatenate(pairs, axis=2)
        self._board.add_image(
            "clip and what is seen", np.concatenate(pairs[0][:: len(film) // grid_thw[0]], axis=1), step,
            dataformats="HWC",
        )  # fmt: skip
        self._board.file_writer.add_summary(_moving("clips and what is seen", film), step)


def _moving(tag: str, film: NDArray[np.uint8]) -> Any:
    """Return a film ``[T, H, W, 3]`` as the animated GIF that TensorBoard shows among its images."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    data = io.BytesIO()
    images = [Image.fromarray(frame) for frame in film]
    images[0].save(data, "GIF", save_all=True, append_images=images[1:], duration=125, loop=0)
    _, height, width, _ = film.shape
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=data.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def describe_run(**more: Any) -> dict[str, Any]:
    """Return versions, git state and machine, beside what the run adds."""

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


def note_start(folder: Path, description: dict[str, Any]) -> None:
    """Append a description to the run's list of starts: one line for the first, one for each continuation."""
    with (folder / RUN).open("a") as file:
        file.write(json.dumps(description) + "\n")


def _git_state() -> dict[str, Any] | None:
    """Return commit and whether files differ from it, of the checkout that this code stands in."""
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
def only_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made where there is none; what a killed run left half is removed.

    Raises:
        UserError: another process holds it, or it cannot be written.
    """
    with exclusive_folder(folder, "another run is writing there; give another folder"):
        remove_partial_files(folder)
        remove_partial_files(folder / CHECKPOINTS)
        yield
