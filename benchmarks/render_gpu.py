"""Parity, rendering, streaming and training steps on a GPU, each part under its own time limit.

    benchmarks/gpu.sh                                                          # on a GPU
    uv run python benchmarks/render_gpu.py --device cpu --out /tmp/smoke.json  # everything, tiny, without one

The arithmetic first, for an H200 (4.8 TB/s, 790 TFLOP/s of dense bf16; an H100: 3.3 TB/s).

Rendering: a clip of 16x224x224 normalised bf16 is 4.8 MB, written once: 1.0 us, a floor of 1.0 million
clips/s, or 256 clips in 0.26 ms. Instructions are counted in benchmarks/results/roofline.json: at most some
200,000 clips/s over a solid background, 100,000 where all pixels come from images. 100,000 is the aim.

Streaming: a clip's parameters are 3 entries x 16 frames x 456 bytes = 22 kB, 0.4 us at 50 GB/s. Workers draw
some 8,000 to 11,000 of them a second each, so that processors are the limit of a stream alone.

Training: 578 GFLOP a clip with one mask, so 1368 clips/s at the peak; 128 clips take 94 ms or more. Drawing
them takes 1.3 ms of the GPU at 100,000 clips/s, 1.4 % of the step, and a sixth of one worker's time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

if "cpu" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported

import numpy as np
import record
import torch
from PIL import Image

from smile_synth import (
    BackgroundFolder,
    ObjectBank,
    Recipe,
    UserError,
    build_bank,
    sample_scenes,
    stream,
)
from smile_synth.backgrounds import write_images
from smile_synth.compositing import render
from smile_synth.io.strict_yaml import parse
from smile_synth.objects import CutOutOptions
from smile_synth.recipe import presets
from smile_synth.sources import Sources
from smile_synth.streaming import StreamOptions

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What presets hold little of: near horizons, translucent stacks, objects from tiny to huge, every background.
HARD = """
size: [96, 112]
num_frames: 3
fps: 5
backgrounds:
  - {kind: image, drift: [0, 9], zoom_rate: [-0.05, 0.05], roll_rate: [-9, 9]}
  - {kind: video}
  - {kind: one-over-f, drift: 4}
  - {kind: dead-leaves, roll_rate: 5}
  - {kind: gradient}
  - {kind: noise, redrawn: true}
  - {kind: solid}
objects: {count: [1, 4], side: [3, 260]}
motion:
  - {family: constant-velocity, speed: [0, 30], rotation: {rate: 40}, tilt: {rate: 40}}
  - {family: constant-velocity, speed: [0, 5], opacity: {family: key-values, start: 0.5, amount: 0.4}}
camera: [{pan: {rate: 3}, roll: {rate: 5}, tilt: {rate: 10}}]
"""
COVERAGE: dict[str, Any] = {"labels": ("coverage",), "token_size": (2, 16)}
SECONDS = {"parity": 110, "render": 80, "stream": 80, "step": 90, "compiled step": 95, "motion step": 60}


def seconds(function: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Return the seconds of each repeat, after two to warm up, waiting for the device."""
    out = []
    for repeat in range(repeats + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if repeat >= 2:
            out.append(time.perf_counter() - began)
    return out


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


class Bench:
    """Sources, sizes and what runs where."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.gpu = self.device.type == "cuda"
        self.bank = ObjectBank.open(arguments.sources / "bank")
        self.sources = Sources(self.bank, BackgroundFolder(arguments.sources / "backgrounds"))
        self.backend = "triton" if self.gpu else "torch"
        self.batch, self.train_batch = (256, 128) if self.gpu else (4, 2)
        self.repeats, self.warm_seconds = (20, 12.0) if self.gpu else (2, 1.0)
        self.workers = min(12, max((os.cpu_count() or 1) - 2, 1))
        self.form = [] if self.gpu else ["num_frames=4", "size=[64,64]"]

    def recipe(self, name: str) -> Recipe:
        return Recipe.load(name, self.form)

    def parity(self) -> dict[str, Any]:
        """Compare uint8 pixels of torch and Triton with the oracle's, on every preset and on hard scenes.

        Presets of more than four translucent layers may pass the tolerance, which is for up to four.
        """
        names = ["hard", *presets()] if self.gpu else ["hard", "smile-gaussian-image", "pmg-perspective"]
        found: dict[str, list[Any]] = {"torch": [], "triton": []}
        beyond: dict[str, str] = {}
        for name in names:
            own = ["objects.classes=[circle]"] if "circles" in name else []
            clips = 1 if name != "hard" else 40 if self.gpu else 3
            try:
                recipe = parse(Recipe, HARD, name="HARD") if name == "hard" else Recipe.load(name, own)
                scenes = sample_scenes(recipe, self.sources, seed=1, indices=range(clips))
            except UserError as error:
                beyond[name] = f"not drawn: {error}"
                continue
            seen, (h, w) = range(min(3, scenes[0].num_frames)), scenes[0].size_hw
            scale = min(1.0, 112 / max(h, w))
            scenes = [scene.scaled_to((round(h * scale), round(w * scale))) for scene in scenes]
            truth = render(scenes, self.sources, backend="oracle", frames=seen).frames.numpy().astype(int)
            for backend, differences in found.items():
                rendered = render(scenes, self.sources, backend=backend, device=self.device, frames=seen)
                difference = np.abs(rendered.frames.cpu().numpy() - truth).max(axis=2).ravel()
                differences.append(difference)
                if difference.max() > 3 or (difference > 1).mean() > 0.001:
                    share = (difference > 1).mean()
                    beyond[f"{name}, {backend}"] = f"largest {difference.max()}, share above one {share:.5f}"
        out: dict[str, Any] = {"scenes of": names, "beyond the tolerance": beyond}
        for backend, differences in found.items():
            pixels = np.concatenate(differences)
            out[backend] = {
                "pixels": len(pixels),
                "largest": int(pixels.max()),
                "share_above_one": float((pixels > 1).mean()),
            }
        return out

    def render(self) -> dict[str, Any]:
        """Time the drawing of batches beside the write-bandwidth floor."""
        out: dict[str, Any] = {"batch": self.batch, "aim": "100,000 clips/s on an H200"}
        for name in ("smile-gaussian", "smile-gaussian-noise", "smile-gaussian-image"):
            recipe = self.recipe(name)
            scenes = sample_scenes(recipe, self.sources, seed=0, indices=range(self.batch))
            for kind in ("uint8", "bfloat16"):
                draw = partial(
                    render, scenes, self.sources, backend=self.backend, device=self.device,
                    out_dtype=kind, mean=MEAN, std=STD,
                )  # fmt: skip
                spent = seconds(draw, self.device, self.repeats)
                out[f"{name}, {kind}, parameters and pixels, clips/s"] = spread(
                    [self.batch / s for s in spent]
                )
            spent = seconds(self._pixels_only(recipe, scenes), self.device, self.repeats)
            out[f"{name}, bfloat16, pixels only, clips/s"] = spread([self.batch / s for s in spent])
            (height, width), frames = recipe.size, recipe.num_frames
            shape = (self.batch, frames, 3, height, width)
            written = torch.empty(shape, dtype=torch.bfloat16, device=self.device)
            floor = seconds(partial(written.fill_, 1.0), self.device, self.repeats)
            out[f"{name}, write floor, bfloat16, clips/s"] = spread([self.batch / s for s in floor])
            out[f"{name}, share of the floor"] = statistics.median(floor) / statistics.median(spent)
        return out

    def _pixels_only(self, recipe: Recipe, scenes: list[Any]) -> Callable[[], object]:
        """Return the drawing of prepared scenes into one output, parameters already on the device."""
        from smile_synth.compositing._device import on_device
        from smile_synth.compositing._parameters import build_parameters_with_texels
        from smile_synth.compositing._torch import composite_torch
        from smile_synth.compositing._triton import composite_triton

        frames, (height, width) = recipe.num_frames, recipe.size
        parameters = build_parameters_with_texels(scenes, self.sources, range(frames))
        sent = on_device(parameters, self.bank, self.device)
        shape = (len(scenes) * frames, 3, height, width)
        out = torch.empty(shape, dtype=torch.bfloat16, device=self.device)
        scale = tuple(1 / (255 * d) for d in STD)
        shift = tuple(-m / d for m, d in zip(MEAN, STD, strict=True))
        if self.backend == "torch":
            factors = (torch.tensor(values, device=self.device) for values in (scale, shift))
            return partial(composite_torch, sent, out, *factors, None)
        return partial(composite_triton, sent, out, scale, shift)

    def batches(self, name: str, batch: int, **options: Any) -> Any:
        """Return a stream whose workers have started."""
        began = time.perf_counter()
        batches = iter(
            stream(
                self.recipe(name), self.sources, batch_size=batch, seed=0, device=self.device,
                workers=self.workers, options=StreamOptions(backend=self.backend), **options,
            )
        )  # fmt: skip
        first = {"seconds": 0.0}
        for _ in batches:
            first["seconds"] = first["seconds"] or time.perf_counter() - began
            if time.perf_counter() - began > self.warm_seconds:
                return batches, first["seconds"]
        raise AssertionError("a stream has no end")

    def stream(self) -> dict[str, Any]:
        """Time streams alone."""
        out: dict[str, Any] = {"batch": self.batch, "workers": self.workers}
        own: dict[str, Any] = {"out_dtype": "bfloat16", "mean": MEAN, "std": STD, **COVERAGE}
        for name in ("smile-gaussian", "smile-gaussian-image", "smile-gaussian-video"):
            batches, first = self.batches(name, self.batch, **own)
            spent = seconds(lambda batches=batches: next(batches), self.device, self.repeats)  # type: ignore[misc]
            batches.close()
            out[f"{name}, clips/s"] = spread([self.batch / s for s in spent])
            out[f"{name}, first batch, s"] = first
        return out

    def step(self, *, compiled: bool = False) -> dict[str, Any]:
        """Time a training step on one batch over and over, and fed by the stream, by turns."""
        from step import Steps

        size, frames, side = ("base", 16, 224) if self.gpu else ("small", 4, 64)
        steps = Steps(size, frames=frames, side=side, masks=1, device=self.device)
        if compiled:
            steps.compile()
        batches, _ = self.batches("smile-gaussian", self.train_batch, **COVERAGE)
        fixed = next(batches).frames.clone()
        waits: list[float] = []

        def fed() -> None:
            began = time.perf_counter()
            clips = next(batches).frames
            waits.append(time.perf_counter() - began)
            steps.ours(clips, torch.bfloat16)

        alone = partial(steps.ours, fixed, torch.bfloat16)
        turns: dict[str, list[float]] = {"alone": [], "fed": []}
        for _ in range(3):
            turns["alone"] += seconds(alone, self.device, max(self.repeats // 3, 1))
            turns["fed"] += seconds(fed, self.device, max(self.repeats // 3, 1))
        batches.close()
        without, with_stream = (statistics.median(turns[name]) for name in ("alone", "fed"))
        out: dict[str, Any] = {
            "student": size,
            "batch": self.train_batch,
            "compiled": compiled,
            "GFLOP a clip": round(steps.cost.step_gflops, 1),
            "alone, s": spread(turns["alone"]),
            "fed by the stream, s": spread(turns["fed"]),
            "clips/s, fed": self.train_batch / with_stream,
            "cost of the stream, share": with_stream / without - 1,
            "wait for data, share": sum(waits) / len(waits) / with_stream,
        }
        if self.gpu:
            rate = steps.cost.step_gflops * self.train_batch / 1000
            out["TFLOP/s, alone"], out["TFLOP/s, fed"] = rate / without, rate / with_stream
            if steps.peak_tflops:
                out["mfu, fed"] = rate / with_stream / steps.peak_tflops
            out["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
        return out

    def motion_step(self) -> dict[str, Any]:
        """Time a training step of ViT-S with CLIP's tokens, exact motion, or both as targets, by turns.

        The clips are not rendered, and the labels of motion are given.
        """
        from step import MOTION, Steps

        from smile_train.config import TeacherTarget

        frames, side = (16, 224) if self.gpu else (4, 64)
        cases = {"CLIP": [TeacherTarget()], "motion": [MOTION], "CLIP and motion": [TeacherTarget(), MOTION]}
        steps = {
            name: Steps("small", frames=frames, side=side, masks=1, device=self.device, options=options)
            for name, options in cases.items()
        }
        shape = (self.train_batch, frames, 3, side, side)
        clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)
        turns: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(3):
            for name, one in steps.items():
                step = partial(one.ours, clips, torch.bfloat16)
                turns[name] += seconds(step, self.device, max(self.repeats // 3, 1))
        medians = {name: statistics.median(spent) for name, spent in turns.items()}
        return {
            "student": "small",
            "batch": self.train_batch,
            **{f"{name}, s": spread(spent) for name, spent in turns.items()},
            "cost of motion beside CLIP, share": medians["CLIP and motion"] / medians["CLIP"] - 1,
        }


def make_sources(folder: Path) -> None:
    """Build a bank of 256 px cut-outs, images and a video."""
    build_bank(["builtin:shapes"], folder / "bank", cut=CutOutOptions(max_side=256))
    write_images(folder / "backgrounds", count=30, seed=0, size=320)
    images = [Image.open(file).convert("RGB") for file in sorted((folder / "backgrounds").glob("*.png"))]
    frames = [image.resize((340, 256)) for image in islice(images * 3, 64)]
    frames[0].save(folder / "backgrounds" / "video.gif", save_all=True, append_images=frames[1:])


def run_part(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a part in a process of its own, so that it can fail or hang alone."""
    out = arguments.sources / f"{name}.json"
    command = [
        sys.executable, __file__, "--part", name, "--device", arguments.device,
        "--sources", str(arguments.sources), "--out", str(out),
    ]  # fmt: skip
    began = time.perf_counter()
    limit = SECONDS[name] * arguments.patience
    said = arguments.sources / f"{name}.log"
    with said.open("w") as log:
        part = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            failure = said.read_text()[-2000:] or "ended badly" if part.wait(limit) else None
        except subprocess.TimeoutExpired:
            failure = f"took more than {limit:g} s"
            os.killpg(part.pid, signal.SIGKILL)  # its workers, too
            part.wait()
    result = json.loads(out.read_text()) if failure is None else {"failure": failure}
    return {**result, "seconds of this part": round(time.perf_counter() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--part", choices=SECONDS, help="run this one alone, here")
    parser.add_argument("--parts", nargs="+", choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--sources", type=Path, help="made by another run")
    parser.add_argument("--patience", type=float, default=1.0, help="times the usual time limits")
    arguments = parser.parse_args()
    if arguments.part:
        bench = Bench(arguments)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "parity": bench.parity,
            "render": bench.render,
            "stream": bench.stream,
            "step": bench.step,
            "compiled step": partial(bench.step, compiled=True),
            "motion step": bench.motion_step,
        }
        arguments.out.write_text(json.dumps(parts[arguments.part]()))
        return
    result: dict[str, Any] = {"device": arguments.device}
    if arguments.device == "cuda":
        result["gpu"] = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as folder:
        arguments.sources = arguments.sources or Path(folder)
        if not (arguments.sources / "bank").exists():
            make_sources(arguments.sources)
        for name in arguments.parts:
            result[name] = run_part(name, arguments)
            record.write(arguments.out, result)  # what is known is kept, whatever comes
    failed = [name for name in arguments.parts if "failure" in result[name]]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see {arguments.out}")


if __name__ == "__main__":
    main()
