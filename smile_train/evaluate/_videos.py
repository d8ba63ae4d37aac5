"""Embeddings of real videos: exact frames, windows at a fixed stride, one row per video."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from smile_synth.errors import UserError
from smile_train.checkpoint import load_student
from smile_train.evaluate._features import encode_clips
from smile_train.pretrain import choose_device

SUFFIXES = (".mp4", ".avi", ".webm", ".mov", ".mkv", ".m4v", ".gif")
UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_videos` did.

    Attributes:
        num_videos: rows written.
        num_windows: of all videos.
        width: of a feature.
        broken: files that could not be read, with the reason.
    """

    num_videos: int
    num_windows: int
    width: int
    broken: list[tuple[str, str]]


def find_videos(source: str | Path) -> list[Path]:
    """Return the videos of a folder (subfolders included), or the one file.

    Raises:
        UserError: nothing there.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"videos '{source}': no such file or folder")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"videos '{source}': holds no video ({', '.join(SUFFIXES)})")
    return found


def _square(frame: UInt8, side: int) -> UInt8:
    """Resize the shorter side to ``side`` by area averaging, then crop the middle."""
    height, width = frame.shape[:2]
    scale = side / min(height, width)
    new_h, new_w = max(round(height * scale), side), max(round(width * scale), side)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(frame, (new_w, new_h), interpolation=interpolation))
    y, x = (new_h - side) // 2, (new_w - side) // 2
    return resized[y : y + side, x : x + side].astype(np.uint8)


def read_windows(path: Path, *, num_frames: int, frame_stride: int, side: int) -> Iterator[UInt8]:
    """Yield windows ``[T, side, side, 3]`` uint8, one after the other without overlap.

    A window takes every ``frame_stride``-th frame. A video shorter than one window repeats its last frame;
    of a longer one, an unfinished last window is left out. One window is in memory at a time.

    Raises:
        UserError: the file cannot be decoded or holds no picture.
    """
    window: list[UInt8] = []
    complete = 0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError("holds no picture, only sound or data")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # frame threads hang forked readers
            for position, frame in enumerate(container.decode(stream)):
                if position % frame_stride == 0:
                    window.append(_square(frame.to_ndarray(format="rgb24", threads=1).astype(np.uint8), side))
                if len(window) == num_frames:
                    yield np.stack(window)
                    complete += 1
                    window = []
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise UserError(f"cannot be decoded: {str(error).splitlines()[0]}") from None
    if complete == 0:
        if not window:
            raise UserError("holds no frames")
        yield np.stack(window + [window[-1]] * (num_frames - len(window)))


def embed_videos(
    videos: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    frame_stride: int = 2,
    device: str = "auto",
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EmbedReport:
    """Write one feature per video: encoder tokens, averaged over tokens, then over windows.

    Args:
        videos: a file or folder.
        checkpoint: a run's folder or its ``student.safetensors``.
        out: ``.parquet`` or ``.npz``; columns video, num_windows, feature.
        frame_stride: every how many frames one is taken.
        device: auto, cpu or cuda.
        strict: fail when a video cannot be read.
        progress: called with (videos done, videos in all).

    Raises:
        UserError: no videos, none readable, no checkpoint, unknown suffix of ``out``.
    """
    out = Path(out)
    if out.suffix not in (".parquet", ".npz"):
        raise UserError(f"out '{out}': expected a .parquet or .npz file")
    if frame_stride < 1:
        raise UserError(f"frame-stride must be at least 1, got {frame_stride}")
    student = load_student(checkpoint).to(choose_device(device))
    form = student.config
    if form.size_hw[0] != form.size_hw[1]:
        raise UserError(
            f"checkpoint '{checkpoint}': reads {form.size_hw} frames, only square ones can be embedded"
        )
    root = Path(videos)
    files, counts, features, broken = [], [], [], []
    paths = find_videos(videos)
    for done, path in enumerate(paths, 1):
        name = path.relative_to(root).as_posix() if root.is_dir() else path.name
        try:
            total, windows = np.zeros(form.width), 0
            for window in read_windows(
                path, num_frames=form.num_frames, frame_stride=frame_stride, side=form.size_hw[0]
            ):
                clip = torch.from_numpy(window).permute(0, 3, 1, 2)[None]
                total += encode_clips(student, clip)[0]
                windows += 1
        except UserError as error:
            if strict:
                raise UserError(f"video '{path}': {error}") from None
            broken.append((name, str(error)))
        else:
            files.append(name)
            counts.append(windows)
            features.append(total / windows)
        if progress:
            progress(done, len(paths))
    if not files:
        raise UserError(f"videos '{videos}': none of {len(paths)} could be read; the first: {broken[0][1]}")
    settings = {
        "checkpoint": str(checkpoint),
        "frame_stride": frame_stride,
        "pooling": "mean of tokens, then windows",
    }
    _write(out, files, counts, np.stack(features).astype(np.float32), settings)
    return EmbedReport(len(files), sum(counts), form.width, broken)


def _write(
    out: Path, files: list[str], counts: list[int], features: NDArray[np.float32], settings: dict[str, object]
) -> None:
    partial = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            if out.suffix == ".npz":
                np.savez(
                    file, video=np.array(files), num_windows=np.array(counts), feature=features,
                    settings=np.array(json.dumps(settings)),
                )  # fmt: skip
            else:
                columns = {"video": files, "num_windows": counts, "feature": list(features)}
                table = pa.table(columns).replace_schema_metadata({"settings": json.dumps(settings)})
                pq.write_table(table, file)
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
