"""Clips per second on one core: 16x224x224, two objects, the `smile-gaussian` presets.

    uv run python benchmarks/render_cpu.py --out benchmarks/results/render_cpu.json

Beside our own numbers stand, from the same scenes and in the same run:

- the plain pipeline of this kind, re-created: every frame opens the object with PIL, resizes and rotates it
  and blends it in floats at a whole-pixel position, without a boundary rule, on one colour;
- OpenCV's `warpAffine` on the object's part of the frame, from one mip level, blended in integers;
- torch's `grid_sample` over whole frames, from one mip level, blended in floats;
- writing the output and nothing else.

``clips[i].frames`` is a clip of `SyntheticClips`: one scene is sampled alone and rendered. The cases take
turns, and processor time is counted, so that a busy machine slows all of them alike, and little.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import record
import torch
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from smile_synth import (
    ObjectBank,
    Recipe,
    Scene,
    SyntheticClips,
    annotate,
    build_bank,
    composite,
    sample_scene,
    sample_scenes,
)
from smile_synth.compositing import render
from smile_synth.core.coverage import layer_views
from smile_synth.objects import CutOutOptions
from smile_synth.scene import Solid, StoredImage
from smile_synth.sources import Sources

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def straight_files(bank: ObjectBank, folder: Path) -> list[Path]:
    """Write every object as a PNG file of straight RGBA, as the plain pipeline opens it."""
    files = []
    for i in range(len(bank)):
        rgba = bank.texture(i).level(0).astype(np.float64)
        rgba[..., :3] *= 255 / np.maximum(rgba[..., 3:], 1)
        files.append(folder / f"{i}.png")
        Image.fromarray(rgba.clip(0, 255).astype(np.uint8)).save(files[-1])
    return files


def plain_pipeline(scene: Scene, files: list[Path]) -> np.ndarray:
    """Paste as the plain way does: PIL open, resize, rotate, float blend, whole pixels."""
    height, width = scene.size_hw
    ground = scene.layers[0].surface
    assert isinstance(ground, Solid)
    frames = np.full((scene.num_frames, height, width, 3), ground.rgb, np.uint8)
    for t in range(scene.num_frames):
        for k, layer in enumerate(scene.layers[1:], 1):
            assert isinstance(layer.surface, StoredImage)
            pose = scene.object_to_frame[k, t]
            object_wh = np.array([layer.surface.width, layer.surface.height])
            sides = np.hypot(pose[0, :2], pose[1, :2]) * object_wh
            angle = -np.degrees(np.arctan2(pose[1, 0], pose[0, 0]))
            center = (pose @ [*(object_wh / 2), 1])[:2]
            image = Image.open(files[layer.surface.texture_id]).convert("RGBA")
            image = image.resize((max(int(sides[0]), 1), max(int(sides[1]), 1)))
            image = image.rotate(int(angle), expand=True)
            rgba = np.asarray(image, np.float32)
            x, y = (int(v) for v in center - np.array(image.size) / 2)
            x0, y0, x1, y1 = (
                max(x, 0),
                max(y, 0),
                min(x + image.width, width),
                min(y + image.height, height),
            )
            if x1 <= x0 or y1 <= y0:
                continue
            part = rgba[y0 - y : y1 - y, x0 - x : x1 - x]
            alpha = part[..., 3:] / 255
            below = frames[t, y0:y1, x0:x1]
            frames[t, y0:y1, x0:x1] = (part[..., :3] * alpha + below * (1 - alpha)).astype(np.uint8)
    return frames


def opencv(scene: Scene, bank: ObjectBank) -> np.ndarray:
    """Warp each object's part of the frame from its nearest finer mip level, blend in integers."""
    height, width = scene.size_hw
    frames = np.zeros((scene.num_frames, height, width, 3), np.uint8)
    images = [layer.surface for layer in scene.layers[1:]]
    sizes = [(0, 0), *((image.height, image.width) for image in images)]  # type: ignore[union-attr]
    poses = scene.object_to_frame
    views = layer_views([0] * len(sizes), sizes, poses, scene.level, scene.opacity, scene.size_hw)
    windows = views["window"]
    for t in range(scene.num_frames):
        for k in reversed(scene.front_to_back(t)[:-1]):
            surface, pose, level = scene.layers[k].surface, scene.object_to_frame[k, t], scene.level[k, t]
            assert isinstance(surface, StoredImage)
            texture = bank.texture(surface.texture_id)
            x0, y0, x1, y1 = np.clip(windows[k, t], 0, [width, height] * 2).tolist()
            if x1 <= x0 or y1 <= y0:
                continue
            # From texels of the level, centres on whole numbers, to pixels of the part likewise.
            scale = 2.0 ** int(level)
            matrix = pose[:2].copy()
            matrix[:, 2] += pose[:2, :2] @ [scale / 2, scale / 2] - 0.5 - np.array([x0, y0])
            matrix[:, :2] *= scale
            rgba = cv2.warpAffine(
                np.asarray(texture.level(int(level))), matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR
            )
            below = frames[t, y0:y1, x0:x1]
            rest = 255 - rgba[..., 3:].astype(np.uint16)
            below[:] = rgba[..., :3] + ((below * rest + 127) // 255).astype(np.uint8)
    return frames


def grid_sample(scene: Scene, bank: ObjectBank) -> torch.Tensor:
    """Sample each object over whole frames from one mip level, blend in floats."""
    height, width = scene.size_hw
    frames = torch.zeros(scene.num_frames, 3, height, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    centers = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    for k in range(1, len(scene.layers)):
        surface = scene.layers[k].surface
        assert isinstance(surface, StoredImage)
        level = int(scene.level[k].min())
        texels = torch.from_numpy(bank.texture(surface.texture_id).level(level).copy())
        inverse = torch.from_numpy(np.linalg.inv(scene.object_to_frame[k])).float()
        at = torch.einsum("tij,hwj->thwi", inverse[:, :2], centers)
        grid = at * 2 / torch.tensor([surface.width, surface.height]) - 1
        image = texels.permute(2, 0, 1).float()[None].expand(scene.num_frames, -1, -1, -1)
        rgba = torch.nn.functional.grid_sample(image, grid, align_corners=False)
        frames = rgba[:, :3] + frames * (1 - rgba[:, 3:] / 255)
    return frames.add_(0.5).to(torch.uint8).permute(0, 2, 3, 1)


def normalised(frames: np.ndarray) -> np.ndarray:
    """Normalise as plain pipelines do: float32, channels first."""
    values = (frames.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


def rates(
    cases: dict[str, Callable[[int], object]], clips: int, repeats: int, progress: Progress
) -> dict[str, list[float]]:
    """Return clips/s of each case and repeat; the cases take turns, each warmed by a clip."""
    out: dict[str, list[float]] = {name: [] for name in cases}
    task = progress.add_task("cases", total=repeats * len(cases))
    for repeat in range(repeats):
        for name, function in cases.items():
            function(repeat * clips)
            began = time.process_time()
            for index in range(repeat * clips, (repeat + 1) * clips):
                function(index)
            out[name].append(clips / (time.process_time() - began))
            progress.advance(task)
    return out


def scaling(bank: ObjectBank, clips: int, progress: Progress) -> list[dict[str, Any]]:
    """Return the cost of clips of other sizes, lengths and numbers of objects: the median of ``clips``."""
    rows = []
    kinds = [(count, 16, 224) for count in (1, 4, 16, 64)]
    kinds += [(2, frames, 224) for frames in (8, 64, 256)] + [(2, 16, side) for side in (64, 512, 1024)]
    for objects, frames, side in progress.track(kinds, description="sizes"):
        recipe = Recipe.load("smile-gaussian", [f"objects.count={objects}", f"num_frames={frames}"])
        spent, covered = [], 0
        for index in range(clips):
            scene = sample_scene(recipe, Sources(bank), seed=0, index=index).scaled_to((side, side))
            area = np.abs(np.linalg.det(scene.object_to_frame[1:, :, :2, :2]))
            sizes = [layer.surface.height * layer.surface.width for layer in scene.layers[1:]]  # type: ignore[union-attr]
            covered += int((area * np.array(sizes)[:, None]).sum())
            composite(scene, Sources(bank))
            began = time.process_time()
            composite(scene, Sources(bank))
            spent.append(time.process_time() - began)
        rows.append(
            {
                "objects": objects,
                "frames": frames,
                "side": side,
                "milliseconds": round(1000 * statistics.median(spent), 3),
                "object_megapixels": round(covered / clips / 1e6, 3),
                "output_megapixels": round(frames * side**2 / 1e6, 3),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=15, help="per repeat")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        progress.console.print("building the bank of drawn shapes ...")
        build_bank(["builtin:shapes"], Path(folder) / "bank", cut=CutOutOptions(max_side=256))
        bank = ObjectBank.open(Path(folder) / "bank")
        files = straight_files(bank, Path(folder))

        total = arguments.clips * arguments.repeats

        def scenes(name: str) -> list[Scene]:
            return sample_scenes(Recipe.load(name), Sources(bank), seed=0, indices=range(total))

        recipe = Recipe.load("smile-gaussian")
        clips = SyntheticClips(recipe, Sources(bank), seed=0, num_clips=total)
        ahead: dict[int, Scene] = {}

        def batched(i: int) -> object:
            """Render a clip; the first of a batch draws the scenes of all, as streams do."""
            if i % arguments.clips == 0:
                indices = range(i, i + arguments.clips)
                ahead.update(
                    zip(indices, sample_scenes(recipe, Sources(bank), seed=0, indices=indices), strict=True)
                )
            return composite(ahead[i], Sources(bank))

        black, noise = scenes("smile-gaussian"), scenes("smile-gaussian-noise")
        # More than the last cache holds: what is written must reach the memory.
        outputs = [np.full((16, 224, 224, 3), 1, np.uint8) for _ in range(64)]
        cases: dict[str, Callable[[int], object]] = {
            "render, black": lambda i: composite(black[i], Sources(bank)),
            "render, noise": lambda i: composite(noise[i], Sources(bank)),
            "render, black, normalised float32": lambda i: render(
                [black[i]], Sources(bank), out_dtype="float32", mean=MEAN, std=STD
            ),
            "render, black, normalised bfloat16": lambda i: render(
                [black[i]], Sources(bank), out_dtype="bfloat16", mean=MEAN, std=STD
            ),
            "sample a scene": lambda i: sample_scene(recipe, Sources(bank), seed=0, index=i),
            "clips[i].frames, black": lambda i: clips[i].frames,
            "sample in batches and render, black": batched,
            "labels (masks, boxes, visibility)": lambda i: annotate(black[i], Sources(bank)).labels,
            "plain pipeline, black": lambda i: plain_pipeline(black[i], files),
            "plain pipeline, black, normalised float32": lambda i: normalised(
                plain_pipeline(black[i], files)
            ),
            "OpenCV warpAffine, black": lambda i: opencv(black[i], bank),
            "torch grid_sample, black": lambda i: grid_sample(black[i], bank),
            "write the output, nothing else": lambda i: outputs[i % 64].fill(i % 256),
        }
        result = {}
        table = Table("16x224x224, two objects", "clips/s (median)", "lowest", "highest")
        for name, measured in rates(cases, arguments.clips, arguments.repeats, progress).items():
            result[name] = {
                "clips_per_second": round(statistics.median(measured), 1),
                "lowest": round(min(measured), 1),
                "highest": round(max(measured), 1),
            }
            table.add_row(escape(name), *(f"{value:.1f}" for value in result[name].values()))
        sizes = scaling(bank, 5, progress)
    console.print(table)
    record.write(
        arguments.out,
        {"clips": arguments.clips, "repeats": arguments.repeats, "results": result, "scaling": sizes},
    )


if __name__ == "__main__":
    main()
