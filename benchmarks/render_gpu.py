"""Parity, rendering, streaming and one training step on a GPU, through the Triton backend.

    benchmarks/gpu.sh

The arithmetic first. A clip of 16x224x224 normalised bf16 is 4.8 MB, written once. At 4.8 TB/s (H200) that is
1.0 us: a floor of 1.0 million clips/s, or 256 clips in 0.26 ms. Two objects cover about 0.19 of the clip's
0.80 million pixels and ask for eight 4-byte texels each, mostly from cache. The arithmetic is some 150
operations for such a pixel and 20 for any other: 40 million a clip, 0.7 us at 60 T/s. Half of the floor is
the aim.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from torch import Tensor

from smile_synth import ObjectBank, Recipe, Scene, build_bank, composite, sample_scene
from smile_synth.compositing import render
from smile_synth.objects import CutOutOptions
from smile_train.masking import count_masked, make_mask
from smile_train.models import STUDENT_SIZES, Student, StudentConfig

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PRESETS = ("smile-gaussian", "smile-gaussian-noise", "smile-linear")


def parity(bank: ObjectBank, device: torch.device, clips: int) -> dict[str, Any]:
    """Compare uint8 pixels of torch and Triton with the oracle's; fails beyond the tolerances."""
    out: dict[str, Any] = {}
    for backend in ("torch", "triton"):  # the latter in its interpreter where there is no GPU
        found = []
        for preset in PRESETS:
            recipe = Recipe.load(preset, ["num_frames=2"])
            scenes = [sample_scene(recipe, bank, seed=1, index=i).scaled_to((112, 112)) for i in range(clips)]
            frames = render(scenes, bank, backend=backend, device=device).frames.cpu().numpy().astype(int)
            for scene, drawn in zip(scenes, frames, strict=True):
                found.append(np.abs(drawn - composite(scene, bank, backend="oracle")).max(axis=-1).ravel())
        pixels = np.concatenate(found)
        out[backend] = {"largest": int(pixels.max()), "share_above_one": float((pixels > 1).mean())}
        assert pixels.max() <= 3 and out[backend]["share_above_one"] <= 0.001, (backend, out[backend])
    return out


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


def pixels_only(
    scenes: list[Scene], bank: ObjectBank, device: torch.device, backend: str
) -> Callable[[], object]:
    """Return the drawing of prepared scenes into one output, parameters already on the device."""
    from smile_synth.compositing._device import on_device
    from smile_synth.compositing._parameters import prepare
    from smile_synth.compositing._torch import composite_torch
    from smile_synth.compositing._triton import composite_triton

    sent = on_device(prepare(scenes, bank, None, range(16)), bank, device)
    frames = torch.empty(len(scenes) * 16, 3, 224, 224, dtype=torch.bfloat16, device=device)
    scale, shift = [1 / (255 * d) for d in DEVIATION], [-m / d for m, d in zip(MEAN, DEVIATION, strict=True)]
    if backend == "torch":
        factors = torch.tensor(scale, device=device), torch.tensor(shift, device=device)
        return lambda: composite_torch(sent, frames, *factors, None)
    return lambda: composite_triton(sent, frames, scale, shift, None, None, (1, 1), 16)


_bank: dict[str, ObjectBank] = {}


def draw_scenes(path: str, indices: range) -> list[Scene]:
    """Draw the scenes of a batch in a worker process."""
    if path not in _bank:
        _bank[path] = ObjectBank.open(path)
    recipe = Recipe.load(PRESETS[0])
    return [sample_scene(recipe, _bank[path], seed=0, index=i) for i in indices]


def batches(
    path: str, bank: ObjectBank, device: torch.device, backend: str, size: int, workers: int, count: int
) -> Iterator[Tensor]:
    """Yield normalised bf16 batches: scenes drawn in processes, frames on a side stream, two ahead."""
    ready: queue.Queue[tuple[Tensor, Any]] = queue.Queue(2)
    side = torch.cuda.Stream() if device.type == "cuda" else None

    def produce() -> None:
        share = max(size // workers, 1)
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            pieces = [range(i, min(i + share, size * count)) for i in range(0, size * count, share)]
            scenes: list[Scene] = []
            for drawn in pool.map(partial(draw_scenes, path), pieces):
                scenes += drawn
                while len(scenes) >= size:
                    with torch.cuda.stream(side):
                        frames = render(scenes[:size], bank, backend=backend, device=device,
                                        out_dtype="bfloat16", normalise=(MEAN, DEVIATION)).frames  # fmt: skip
                        event = side.record_event() if side else None
                    ready.put((frames, event))
                    scenes = scenes[size:]

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    for _ in range(count):
        frames, event = ready.get()
        if event is not None:
            torch.cuda.current_stream().wait_event(event)
            frames.record_stream(torch.cuda.current_stream())
        yield frames
    thread.join()


def training_step(device: torch.device, size: str, batch: int) -> Callable[[Tensor], None]:
    """Return one step of a student that predicts the pixels of masked tokens."""
    form = StudentConfig.of_size(size, target_dim=1536)
    student = Student(form, generator=torch.Generator().manual_seed(0)).to(device)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=device.type == "cuda")
    num_masked = count_masked(form.grid_thw, 0.9)
    draws = torch.rand(batch, 2, form.num_tokens, generator=torch.Generator().manual_seed(0)).double()
    mask = make_mask("random", draws.to(device), form.grid_thw, 0.9)
    targets = torch.zeros(batch, num_masked, 1536, device=device)

    def step(frames: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = (student(frames, mask, num_masked) - targets).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="triton", choices=("torch", "triton"))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--train-batch", type=int, default=64)
    parser.add_argument("--student", default="base", choices=tuple(STUDENT_SIZES))
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--workers", type=int, default=12)
    arguments = parser.parse_args()
    device, backend, batch = torch.device(arguments.device), arguments.backend, arguments.batch
    result: dict[str, Any] = {"backend": backend, "batch": batch, "repeats": arguments.repeats}
    if device.type == "cuda":
        result["gpu"] = torch.cuda.get_device_name(device)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "bank")
        build_bank(["builtin:shapes"], path, cut=CutOutOptions(max_side=256))
        bank = ObjectBank.open(path)
        result["parity"] = parity(bank, device, 4 if device.type == "cuda" else 1)
        for preset in PRESETS[:2]:
            recipe = Recipe.load(preset)
            scenes = [sample_scene(recipe, bank, seed=0, index=i) for i in range(batch)]
            for dtype in ("uint8", "bfloat16"):
                draw = partial(render, scenes, bank, backend=backend, device=device, out_dtype=dtype,
                               normalise=(MEAN, DEVIATION))  # fmt: skip
                spent = seconds(draw, device, arguments.repeats)
                result[f"{preset}, {dtype}, parameters and pixels, clips/s"] = spread(
                    [batch / s for s in spent]
                )
        scenes = draw_scenes(path, range(batch))
        spent = seconds(pixels_only(scenes, bank, device, backend), device, arguments.repeats)
        result["smile-gaussian, bfloat16, pixels only, clips/s"] = spread([batch / s for s in spent])
        output = torch.empty(batch, 16, 3, 224, 224, dtype=torch.bfloat16, device=device)
        floor = seconds(partial(output.fill_, 1.0), device, arguments.repeats)
        result["write floor, bfloat16, clips/s"] = spread([batch / s for s in floor])
        result["share of the floor"] = statistics.median(floor) / statistics.median(spent)
        del output
        size, count = arguments.train_batch, arguments.repeats + 4
        step = training_step(device, arguments.student, size)
        fixed = torch.zeros(size, 16, 3, 224, 224, dtype=torch.bfloat16, device=device)
        alone = seconds(lambda: step(fixed), device, arguments.repeats)
        stream = batches(path, bank, device, backend, size, arguments.workers, count)
        next(stream), next(stream)  # processes have started
        fed = seconds(lambda: step(next(stream)), device, arguments.repeats)
        for _ in stream:
            pass
        result["training step alone, s"], result["training step fed by the stream, s"] = (
            spread(alone),
            spread(fed),
        )
        result["cost of the stream, share"] = statistics.median(fed) / statistics.median(alone) - 1
        stream = batches(path, bank, device, backend, size, arguments.workers, count)
        next(stream), next(stream)
        spent = seconds(lambda: next(stream), device, arguments.repeats)
        for _ in stream:
            pass
        result["stream alone, clips/s"] = spread([size / s for s in spent])
    record.write(arguments.out, result)


if __name__ == "__main__":
    main()
