"""How fast a corpus is written, beside what its encoder alone can do.

    uv run python benchmarks/corpus_speed.py --out benchmarks/results/corpus_speed.json

Clips of 16x224x224 with two objects, in one process and on all cores. There 480 a core are made, in four
shards, and time counts while all processes work: from when they are done with their first clips until
they begin with their last. Then what each part of a clip takes of a core's time, and what an encoder alone
takes in between: by these an encoder's share is told more surely than by speeds that change by the minute.

Two encoders are measured, with the same options: PyAV as it comes, which is given RGB frames, and the one
that corpora use, which converts colours in less time.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import record
from rich.console import Console
from rich.table import Table

from smile_synth import ObjectBank, Recipe, annotate, build_bank, composite, generate, sample_scene
from smile_synth.compositing import draw_frames
from smile_synth.corpus import KINDS, CorpusHeader, npz_bytes
from smile_synth.corpus._clip_files import CorpusJob, sample_job_scenes
from smile_synth.corpus._labels import labels_bytes, track_arrays
from smile_synth.corpus._manifest import make_row
from smile_synth.corpus._store import assemble_shard, places_of, write_piece
from smile_synth.io.videos import DEFAULT_CRF, decode_video, encode_h264
from smile_synth.parallel.workers import available_cores, map_in_order
from smile_synth.sources import Sources


def rate(function: Callable[[int], object], clips: int, repeats: int) -> dict[str, float]:
    function(0)
    rates = []
    for repeat in range(repeats):
        began = time.perf_counter()
        for index in range(clips):
            function(repeat * clips + index)
        rates.append(clips / (time.perf_counter() - began))
    return spread(rates)


# Clips that a process makes in one go, and those of them that it draws in one go.
TOGETHER, DRAWN = 40, 5
# Of these, for every process.
RUNS = 12


@lru_cache(maxsize=1)
def rendered(bank_path: Path, recipe_name: str, clips: int) -> list[np.ndarray]:
    """Return clips to encode; every process renders them once."""
    recipe, bank = Recipe.load(recipe_name), ObjectBank.open(bank_path)
    scenes = [sample_scene(recipe, Sources(bank), seed=0, index=i) for i in range(clips)]
    return [composite(scene, Sources(bank)) for scene in scenes]


def encode_plainly(clip: np.ndarray) -> int:
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        quality = {"crf": str(DEFAULT_CRF), "preset": "veryfast", "tune": "fastdecode"}
        stream.options = {**quality, "x264-params": "mbtree=0", "threads": "1"}
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return len(out.getvalue())


def own_encoder(clip: np.ndarray) -> int:
    return len(encode_h264(clip, 8.0))


def encode_next(encoder: Callable[[np.ndarray], int], source: tuple[Path, str, int], index: int) -> int:
    clips = rendered(*source)
    return encoder(clips[index % len(clips)])


ENCODERS = {"PyAV as it comes": encode_plainly, "as corpora use it": own_encoder}
# Measured beside the parts of a clip, and none of them.
PLAINLY = "H.264, PyAV as it comes"


class Stopwatch:
    """Clips per second while all processes work: neither the first nor the last clips count.

    A process reports its clips when it is done with a run of them, so that no two reports will do: the speed
    is the slope of a line through all.
    """

    def __init__(self, clips: int, left_out: int) -> None:
        """Leave out so many clips at either end."""
        self.counted = range(left_out, clips - left_out + 1)
        self.reports: list[tuple[float, int]] = []

    def __call__(self, done: int, *_: int) -> None:
        if done in self.counted:
            self.reports.append((time.perf_counter(), done))

    @property
    def rate(self) -> float:
        times, done = np.array(self.reports).T
        return float(np.polyfit(times - times[0], done, 1)[0])


def one_process(name: str, bank: ObjectBank, folder: Path, clips: int, repeats: int) -> dict[str, Any]:
    recipe, source = Recipe.load(name), (Path(bank.path), name, clips)
    scenes = [sample_scene(recipe, Sources(bank), seed=0, index=i) for i in range(clips * repeats)]
    encoded = [encode_h264(clip, 8.0) for clip in rendered(*source)]
    steps: dict[str, Callable[[int], object]] = {
        **{f"H.264, {name}": partial(encode_next, encoder, source) for name, encoder in ENCODERS.items()},
        "H.264, decoded to RGB": lambda i: decode_video(encoded[i % len(encoded)]),
        "render alone": lambda i: composite(scenes[i], Sources(bank)),
        "dense flow alone": lambda i: KINDS["flow"](annotate(scenes[i], Sources(bank))),
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
            generate(
                recipe, Sources(bank), out=out, num_clips=count, seed=repeat, layout=layout, labels=kinds
            )
            rates.append(count / (time.perf_counter() - began))
        result[name] = spread(rates)
    return result


def all_cores(recipe_name: str, bank: ObjectBank, folder: Path, repeats: int) -> dict[str, Any]:
    """Return the speeds, which take turns: what else a machine does changes from minute to minute."""
    workers = available_cores()
    clips = RUNS * TOGETHER * workers
    recipe = Recipe.load(recipe_name)
    corpus: list[float] = []
    alone: dict[str, list[float]] = {name: [] for name in ENCODERS}
    for repeat in range(repeats):
        for name, encoder in ENCODERS.items():
            watch = Stopwatch(clips, TOGETHER * workers)
            work = partial(encode_next, encoder, (Path(bank.path), recipe_name, 16))
            encoded = map_in_order(work, range(clips), workers=workers)
            for done, _ in enumerate(encoded, 1):
                watch(done)
            alone[name].append(watch.rate)
        watch = Stopwatch(clips, TOGETHER * workers)
        generate(
            recipe, Sources(bank), out=folder / f"{recipe.digest[:8]} all {repeat}", num_clips=clips,
            seed=repeat,
            layout="shards", clips_per_shard=clips // 4, labels=["tracks"], workers=workers, progress=watch,
        )  # fmt: skip
        corpus.append(watch.rate)
    shares = {
        name: sorted(round(written / rate, 3) for written, rate in zip(corpus, rates, strict=True))
        for name, rates in alone.items()
    }
    return {
        **{f"H.264, {name}, all cores": spread(rates) for name, rates in alone.items()},
        "corpus, shards: boxes, masks, tracks, all cores": spread(corpus) | {"of_encoder": shares},
    }


def budget(job: CorpusJob, run: int) -> dict[str, float]:
    """Return what each part of a clip takes, in ms of a core, while all cores do the same.

    The very functions that write shards are called in their order there, so that each finds the caches as it
    does there.
    """
    header, sources = job.header, job.sources
    spent: dict[str, float] = {}

    @contextmanager
    def timed(part: str) -> Iterator[None]:
        began = time.process_time()
        yield
        spent[part] = spent.get(part, 0.0) + 1000 * (time.process_time() - began) / TOGETHER

    indices = range(run * TOGETHER, (run + 1) * TOGETHER)
    members: dict[int, dict[str, bytes]] = {}
    rows = []
    with timed("scene: drawing it"):
        scenes = sample_job_scenes(job, indices)
    for i, scene in zip(indices, scenes, strict=True):
        with timed("scene: its file"):
            content = scene.to_bytes()
        annotation = annotate(scene, sources)
        with timed("labels: masks, boxes, visibility"):
            _ = annotation.geometry
        with timed("labels: run lengths"):
            runs = annotation.coco()
        with timed("labels: JSON"), mock.patch.object(annotation, "coco", lambda runs=runs: runs):
            text = labels_bytes(annotation)
        with timed("tracks: points and where they go"):
            arrays = track_arrays(annotation)
        with timed("tracks: packing"):
            members[i] = {"scene": content, "json": text, "tracks.npz": npz_bytes(**arrays)}
    for first in range(0, TOGETHER, DRAWN):
        some = scenes[first : first + DRAWN]
        frames = np.empty((len(some), header.num_frames, *header.size_hw, 3), np.uint8)
        with timed("frames"):
            draw_frames(some, sources, frames)
        for i, clip in zip(indices[first : first + DRAWN], frames, strict=True):
            with timed("H.264"):
                members[i]["mp4"] = encode_h264(clip, header.fps)
            with timed(PLAINLY):
                encode_plainly(clip)
    with timed("digests, row of the manifest"):
        for i in indices:
            rows.append(make_row(i, members[i], places_of(header, i, members[i]), ["mp4"]))
    with timed("disk: a piece of a shard"):
        positions = write_piece(job.out, header, members)
    with timed("disk: the shard"):
        assemble_shard(job.out, header, rows, positions)
    return spent


def budgets(bank: ObjectBank, path: Path, repeats: int) -> dict[str, float]:
    """Return the median of each part over runs in all processes, without their first."""
    workers = available_cores()
    header = CorpusHeader.read(path)
    replace(header, num_clips=TOGETHER, clips_per_shard=TOGETHER).write(path)
    job = CorpusJob(replace(header, layout="shards", labels=("tracks",)), Sources(bank), path)
    items = range(workers * (repeats + 1))
    runs = map_in_order(partial(budget, job), items, workers=workers)
    counted = list(runs)[workers:]
    return {part: round(statistics.median(run[part] for run in counted), 3) for part in counted[0]}


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
    parts: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank")
        bank = ObjectBank.open(Path(folder) / "bank")
        for name in ("smile-gaussian", "smile-gaussian-noise"):
            # Compiles and loads what is needed.
            generate(
                Recipe.load(name),
                Sources(bank),
                out=Path(folder) / name,
                num_clips=1,
                seed=9,
                labels=["tracks", "flow"],
            )
            result[name] = one_process(name, bank, Path(folder), clips, repeats)
            result[name] |= all_cores(name, bank, Path(folder), repeats + 1)
            parts[name] = budgets(bank, Path(folder) / name, 3 * repeats)
    for recipe, rows in result.items():
        table = Table(recipe, "clips/s (median)", "lowest", "highest")
        for name, row in rows.items():
            table.add_row(name, *(f"{row[key]:.1f}" for key in ("clips_per_second", "lowest", "highest")))
        Console().print(table, parts[recipe])
    record.write(arguments.out, {"clips": clips, "repeats": repeats, "results": result, "parts": parts})


if __name__ == "__main__":
    main()
