"""Speed of evaluation: a linear probe of full size, and features of videos against decoding them alone.

uv run python benchmarks/evaluate_cpu.py --out benchmarks/results/evaluate_cpu.json
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import record
import torch
from rich.console import Console

from smile_synth.io.videos import write_mp4
from smile_train.data.video import ReadOptions, read_windows
from smile_train.evaluate import Extractor, VideoEncoder, encoder_feature, knn, linear
from smile_train.models import Encoder, EncoderConfig

VIDEOS, REPEATS = 40, 3


def timed(work: Callable[[], object]) -> list[float]:
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        seconds.append(round(time.perf_counter() - began, 2))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    y = np.arange(10_000) % 400
    x = (rng.normal(size=(10_000, 768)) + 0.35 * rng.normal(size=(400, 768))[y]).astype(np.float32)
    labels, train, test = np.char.mod("class %03d", y), np.arange(10_000), np.arange(2_000)
    results = {
        "linear probe, 10,000 x 768, 400 classes": timed(lambda: linear(x, labels, train, test)),
        "kNN of 2,000 among 10,000 x 768": timed(lambda: knn(x, labels, train, test)),
    }
    config = EncoderConfig.of_size("tiny", num_frames=8, size_hw=(64, 64))
    encoder = VideoEncoder("tiny", Encoder(config, generator=torch.Generator().manual_seed(0)))
    read = ReadOptions(num_frames=8, side=64, clips=1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k}.mp4" for k in range(VIDEOS)]
        for path in paths:
            small = rng.integers(0, 255, (32, 15, 20, 3), np.uint8)
            write_mp4(path, small.repeat(16, axis=1).repeat(16, axis=2), 25)
        cache = Path(folder) / "cache"
        features = [encoder_feature(encoder)]
        what = f"{VIDEOS} videos of 32 x 240 x 320"
        results[f"{what}: decoded alone"] = timed(lambda: [list(read_windows(p, read)) for p in paths])
        results[f"{what}: features of a tiny encoder"] = timed(lambda: Extractor()(paths, features, read))
        Extractor(cache)(paths, features, read)
        results[f"{what}: the same, kept"] = timed(lambda: Extractor(cache)(paths, features, read))
    console = Console()
    for name, seconds in results.items():
        console.print(f"{name}: {np.median(seconds):.2f} s ({min(seconds)} .. {max(seconds)})")
    record.write(arguments.out, {"threads": 1, "seconds": results})


if __name__ == "__main__":
    main()
