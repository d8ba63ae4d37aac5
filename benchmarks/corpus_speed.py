"""How fast a corpus is written, beside what its encoder alone can do.

    uv run python benchmarks/corpus_speed.py --out benchmarks/results/corpus_speed.json

Clips of 16x224x224 with two objects, in one process and on all cores, where time counts from the first
clip to the last: processes load before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console
from rich.table import Table

from smile_synth import ObjectBank, Recipe, annotate, build_bank, composite, generate, sample_scene
from smile_synth.corpus import DEFAULT_QUALITY, KINDS, MEDIA, labels_to_json
from smile_synth.workers import in_order


def rate(function: Callable[[int], object], clips: int, repeats: int) -> dict[str, float]:
    function(0)
    rates = []
    for repeat in range(repeats):
        began = time.perf_counter()
        for index in range(clips):
            function(repeat * clips + index)
        rates.append(clips / (time.perf_counter() - began))
    return spread(rates)


_clips: list[np.ndarray] = []


def load(bank_path: Path, recipe_name: str, clips: int) -> None:
    recipe, bank = Recipe.load(recipe_name), ObjectBank.open(bank_path)
    scenes = [sample_scene(recipe, bank, seed=0, index=i) for i in range(clips)]
    _clips[:] = [composite(scene, bank) for scene in scenes]


def encode(index: int) -> int:
    return len(MEDIA["h264"].encode(_clips[index % len(_clips)], 8.0, DEFAULT_QUALITY)["mp4"])


class Stopwatch:
    """Clips per second from the first report to the last."""

    def __call__(self, done: int, *_: int) -> None:
        now = time.perf_counter()
        if not hasattr(self, "first"):
            self.first = done, now
        self.last = done, now

    @property
    def rate(self) -> float:
        return (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])


def one_process(recipe: Recipe, bank: ObjectBank, folder: Path, clips: int, repeats: int) -> dict[str, Any]:
    scenes = [sample_scene(recipe, bank, seed=0, index=i) for i in range(clips * repeats)]
    steps: dict[str, Callable[[int], object]] = {
        "encoder alone (H.264)": encode,
        "render alone": lambda i: composite(scenes[i], bank),
        "boxes, RLE masks, visibility alone": lambda i: labels_to_json(annotate(scenes[i], bank)),
        "tracks alone": lambda i: KINDS["tracks"](annotate(scenes[i], bank)),
        "dense flow alone": lambda i: KINDS["flow"](annotate(scenes[i], bank)),
    }
    result: dict[str, Any] = {
        name: rate(step, clips if "flow" not in name else max(1, clips // 16), repeats)
        for name, step in steps.items()
    }
    for name, layout, kinds in (
        ("corpus, folder: boxes, masks, tracks", "folder", ["tracks"]),
        ("corpus, shards: boxes, masks, tracks", "shards", ["tracks"]),
        ("corpus, shards: with flow, too", "shards", ["tracks", "flow"]),
    ):
        rates = []
        for repeat in range(repeats):
            count = clips if "flow" not in kinds else max(1, clips // 8)
            began = time.perf_counter()
            out = folder / f"{recipe.digest[:8]} {layout} {len(kinds)} {repeat}"
            generate(recipe, bank, out=out, num_clips=count, seed=repeat, layout=layout, labels=kinds)
            rates.append(count / (time.perf_counter() - began))
        result[name] = spread(rates)
    return result


def all_cores(recipe_name: str, bank: ObjectBank, folder: Path, clips: int, repeats: int) -> dict[str, Any]:
    workers = len(os.sched_getaffinity(0))
    recipe = Recipe.load(recipe_name)
    encoder, corpus = [], []
    for repeat in range(repeats):
        watch = Stopwatch()
        arguments = [Path(bank.path), recipe_name, 16]
        for done, _ in enumerate(
            in_order(encode, range(3 * clips), workers=workers, start=load, arguments=arguments), 1
        ):
            watch(done)
        encoder.append(watch.rate)
        watch = Stopwatch()
        generate(
            recipe, bank, out=folder / f"{recipe.digest[:8]} all {repeat}", num_clips=3 * clips, seed=repeat,
            layout="shards", labels=["tracks"], workers=workers, progress=watch,
        )  # fmt: skip
        corpus.append(watch.rate)
    return {
        "encoder alone (H.264), all cores": spread(encoder),
        "corpus, shards: boxes, masks, tracks, all cores": spread(corpus),
    }


def spread(rates: list[float]) -> dict[str, float]:
    return {
        "clips_per_second": round(statistics.median(rates), 1),
        "lowest": round(min(rates), 1),
        "highest": round(max(rates), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=100, help="per repeat")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    clips, repeats = arguments.clips, arguments.repeats
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank")
        bank = ObjectBank.open(Path(folder) / "bank")
        for name in ("smile-gaussian", "smile-gaussian-noise"):
            load(Path(bank.path), name, clips)
            # Compiles and loads what is needed.
            generate(
                Recipe.load(name),
                bank,
                out=Path(folder) / name,
                num_clips=1,
                seed=9,
                labels=["tracks", "flow"],
            )
            result[name] = one_process(Recipe.load(name), bank, Path(folder), clips, repeats)
            result[name] |= all_cores(name, bank, Path(folder), clips, repeats)
    for recipe, rows in result.items():
        table = Table(recipe, "clips/s (median)", "lowest", "highest")
        for name, row in rows.items():
            table.add_row(name, *(f"{value:.1f}" for value in row.values()))
        Console().print(table)
    record.write(arguments.out, {"clips": clips, "repeats": repeats, "results": result})


if __name__ == "__main__":
    main()
