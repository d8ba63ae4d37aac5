"""Clips per second of streams on the CPU, beside a DataLoader of the same clips, and the first batch.

    uv run python benchmarks/stream_cpu.py --out benchmarks/results/stream_cpu.json

`smile-gaussian`, 16x224x224, two objects, cut-outs of 256 px. The DataLoader's workers are started by spawn;
each makes whole batches of `SyntheticClips`, stacks their frames and normalises them with NumPy, as loaders
usually do. The time to the first batch is measured in new processes, from opening the bank.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from smile_synth import Clip, Recipe, Sources, SyntheticClips, build_bank, stream
from smile_synth.objects import CutOutOptions

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 16
WARM_UP = 12.0  # seconds
FIRST = """
import sys, time
{before}
from smile_synth import Recipe, Sources, stream
began = time.perf_counter()
with stream(Recipe.load("smile-gaussian"), Sources.open(sys.argv[1]), batch_size=16, seed=0) as batches:
    next(iter(batches))
    print(time.perf_counter() - began)
"""


def collate(clips: list[Clip], *, normalised: bool) -> torch.Tensor:
    """Stack frames, as uint8 or normalised float32."""
    frames = np.stack([clip.frames for clip in clips]).transpose(0, 1, 4, 2, 3)
    if normalised:
        mean, std = (np.float32(values)[:, None, None] for values in (MEAN, STD))
        frames = (frames.astype(np.float32) / 255 - mean) / std
    return torch.from_numpy(np.ascontiguousarray(frames))


def loaded(sources: Sources, kind: str, workers: int) -> Iterator[torch.Tensor]:
    """Yield batches of a DataLoader."""
    clips = SyntheticClips(Recipe.load("smile-gaussian"), sources, seed=0, num_clips=10**6)
    yield from DataLoader(
        clips, batch_size=BATCH, num_workers=workers, multiprocessing_context="spawn",
        collate_fn=partial(collate, normalised=kind == "float32"),
    )  # fmt: skip


def streamed(sources: Sources, kind: Any, workers: int) -> Iterator[torch.Tensor]:
    """Yield batches of a stream."""
    with stream(
        Recipe.load("smile-gaussian"), sources, batch_size=BATCH, seed=0, workers=workers, out_dtype=kind,
        mean=MEAN, std=STD,
    ) as batches:  # fmt: skip
        for batch in batches:
            yield batch.frames


def rates(batches: Any, seconds: float, repeats: int) -> list[float]:
    """Return clips/s of each repeat.

    The warm-up covers the start of the workers, which import this file and torch, and the batches made ahead.
    """
    began, out = time.perf_counter(), []
    while time.perf_counter() - began < WARM_UP:
        next(batches)
    for _ in range(repeats):
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            next(batches)
            count += BATCH
        out.append(count / (time.perf_counter() - began))
    batches.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank"
        build_bank(["builtin:shapes"], path, cut=CutOutOptions(max_side=256))
        sources = Sources.open(path)
        next(streamed(sources, "uint8", 0))  # compiles the kernels
        first: dict[str, list[float]] = {}
        for name, before in (("torch imported before", "import torch"), ("torch imported by the stream", "")):
            command = [sys.executable, "-c", FIRST.format(before=before), str(path)]
            first[name] = [
                round(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout), 2)
                for _ in range(arguments.repeats)
            ]
        rows: dict[str, dict[str, float]] = {}
        table = Table("16x224x224, two objects", "clips/s (median)", "lowest", "highest")
        for kind in ("uint8", "float32"):
            cases = [(f"stream, {kind}, {n} workers", streamed, n) for n in (0, 1, 2)]
            cases += [(f"DataLoader, {kind}, {n} workers", loaded, n) for n in (1, 2)]
            for name, make, workers in cases:
                measured = rates(make(sources, kind, workers), arguments.seconds, arguments.repeats)
                rows[name] = {
                    "clips_per_second": round(statistics.median(measured), 1),
                    "lowest": round(min(measured), 1),
                    "highest": round(max(measured), 1),
                }
                table.add_row(name, *(str(value) for value in rows[name].values()))
    Console().print(table, first)
    record.write(
        arguments.out,
        {
            "batch": BATCH,
            "seconds": arguments.seconds,
            "repeats": arguments.repeats,
            "first_batch_seconds": first,
            "results": rows,
        },
    )


if __name__ == "__main__":
    main()
