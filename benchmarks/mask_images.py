"""Draw the mask of every kind on one clip, for docs/pretraining.md.

uv run python benchmarks/mask_images.py --out docs/images/masks.png
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from smile_synth import ObjectBank, Recipe, build_bank
from smile_synth.io.strict_yaml import parse
from smile_synth.sources import Sources
from smile_train.batch import Batch
from smile_train.config import MaskOptions
from smile_train.data.sources import TrainingClip, collate
from smile_train.data.synthetic import LabelOptions, RenderedSource
from smile_train.masking import MASK_DRAWS, Masker, seen_frames

RECIPE = """
size: [112, 112]
num_frames: 16
backgrounds: [{kind: one-over-f, exponent: 1.4, brightness: 0.6}]
objects: {count: 3, side: [40, 52]}
motion:
  - {family: constant-velocity, speed: [3.0, 6.0]}
"""
TUBELET, PATCH, OFFSETS, GRID = 2, 8, (-1, 0, 1), (8, 14, 14)
KINDS = {
    "trajectory, ratio .8": MaskOptions(),
    "tube, ratio .8": MaskOptions(kind="tube"),
    "tube, ratio .8, motion_weight 5, motion_source exact": MaskOptions(
        kind="tube", motion_weight=5.0, motion_source="exact"
    ),
    "block, ratio .8": MaskOptions(kind="block"),
    "random, ratio .8": MaskOptions(kind="random"),
    "random, ratio .8, motion_weight 20, motion_source exact": MaskOptions(
        kind="random", motion_weight=20.0, motion_source="exact"
    ),
    "clear-past, clear_tubelets 4, ratio .95": MaskOptions(kind="clear-past", clear_tubelets=4, ratio=0.95),
    "occlusion, ratio .5; red: tokens at occlusions": MaskOptions(kind="occlusion", ratio=0.5),
}
GAP, CAPTION = 4, 24


def occlusion_tokens(clip: TrainingClip) -> NDArray[np.bool_]:
    """Return which tokens ``[N]`` have an owner that is not visible one tubelet earlier or later."""
    hidden = clip.labels["motion_valid"] & ~clip.labels["motion_visibility"]
    tokens: NDArray[np.bool_] = hidden[[OFFSETS.index(-1), OFFSETS.index(1)]].any(0)
    return tokens


def visible_tokens(clip: TrainingClip, options: MaskOptions, index: int) -> NDArray[np.uint8]:
    """Return frames in which masked tokens are gray, and red at occlusions for a mask of kind occlusion."""
    masker = Masker(options, GRID, patch_size=PATCH, tubelet_size=TUBELET, seed=0, motion_offsets=OFFSETS)
    batch = collate([index], [clip])
    batch = Batch(batch.indices, batch.frames, {**batch.labels, MASK_DRAWS: masker.draw([index])})
    mask = masker(batch)[0].numpy()
    frames = seen_frames(clip.frames, mask, GRID)
    if options.kind == "occlusion":
        red = seen_frames(np.zeros_like(clip.frames), mask & occlusion_tokens(clip), GRID)[..., 0] > 0
        frames[red] = (200, 70, 60)
    return frames


def draw(clip: TrainingClip, index: int) -> Image.Image:
    """Return one row per kind and one column per tubelet, below a row with the clip."""
    rows = {"clip, first frame of each tubelet": clip.frames}
    rows |= {title: visible_tokens(clip, options, index) for title, options in KINDS.items()}
    height, width = clip.frames.shape[1:3]
    down = CAPTION + height + GAP
    out = Image.new("RGB", (GRID[0] * (width + GAP) + GAP, len(rows) * down), (250, 250, 250))
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(size=15)
    for i, (title, frames) in enumerate(rows.items()):
        pen.text((GAP, i * down + 3), title, (30, 30, 30), font)
        for j, frame in enumerate(frames[::TUBELET]):
            out.paste(Image.fromarray(frame), (GAP + j * (width + GAP), i * down + CAPTION))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--index", type=int, help="clip; by default the one with most tokens at occlusions")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:photos"], Path(folder) / "bank")
        sources = Sources(ObjectBank.open(Path(folder) / "bank"))
        labels = LabelOptions((TUBELET, PATCH), OFFSETS)
        source = RenderedSource(parse(Recipe, RECIPE, name="recipe"), sources, labels, seed=0, name="clips")
        indices = range(20) if arguments.index is None else [arguments.index]
        clips = dict(zip(indices, source.clips(indices), strict=True))
        index = max(clips, key=lambda i: int(occlusion_tokens(clips[i]).sum()))
        sheet = draw(clips[index], index)
    sheet.quantize(200, dither=Image.Dither.NONE).save(arguments.out, optimize=True)
    print(f"clip {index}: {occlusion_tokens(clips[index]).sum()} tokens at occlusions")


if __name__ == "__main__":
    main()
