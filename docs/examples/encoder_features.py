"""Features of the shipped encoder on two videos.

Encodes two videos with ``smile-tiny-motion``, prints how similar their features are, and colours the tokens
of both by their principal components. Without the paths of two videos, the script renders a clip and writes
it forward and backward: the objects are the same, and turn in opposite senses.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import smile_train
from smile_synth import Recipe, Sources, SyntheticClips, build_bank
from smile_synth.io.videos import write_mp4
from smile_synth.visualize import contact_sheet
from smile_train.data.video import ReadOptions, ViewOptions, read_windows
from smile_train.report import pca_colors


def render_videos(folder: Path) -> list[Path]:
    """Render a clip, and write it forward and backward."""
    if not (folder / "objects.bank").exists():
        build_bank("drawn:48", folder / "objects.bank")
    recipe = Recipe.load("one-factor-rotation", ["size=[64,64]", "num_frames=16", "objects.side=[24,32]"])
    clip = SyntheticClips(recipe, Sources.open(folder / "objects.bank"), seed=0, num_clips=1)[0]
    paths = [folder / "forward.mp4", folder / "backward.mp4"]
    for path, frames in zip(paths, (clip.frames, clip.frames[::-1]), strict=True):
        write_mp4(path, np.ascontiguousarray(frames), fps=8)
    return paths


def main(out: Path, *, videos: Sequence[Path] = ()) -> float:
    """Write ``features.png``; return the cosine similarity of the two mean features."""
    out.mkdir(parents=True, exist_ok=True)
    encoder = smile_train.load_encoder("smile-tiny-motion")
    read = ReadOptions.of(ViewOptions(clips=1), num_frames=encoder.num_frames, side=encoder.side)
    clips = np.stack([next(iter(read_windows(Path(path), read))) for path in videos or render_videos(out)])
    tokens = encoder.encode(torch.from_numpy(clips).permute(0, 1, 4, 2, 3))  # [2, time, place, channels]
    first, second = tokens.mean((1, 2))
    similarity = float(torch.cosine_similarity(first, second, dim=0))
    print(f"tokens {list(tokens.shape)}; similarity of the mean features {similarity:.3f}")

    num_times, side = tokens.shape[1], int(tokens.shape[2] ** 0.5)
    colors = pca_colors(tokens.flatten(1, 2).numpy()).reshape(2, num_times, side, side, 3)
    scale = encoder.side // side
    images = []
    for clip, color in zip(clips, colors, strict=True):
        images += list(clip[:: len(clip) // num_times])
        images += list(color.repeat(scale, axis=1).repeat(scale, axis=2))
    sheet = contact_sheet(images, columns=num_times).repeat(3, axis=0).repeat(3, axis=1)
    Image.fromarray(sheet).save(out / "features.png")
    return similarity


if __name__ == "__main__":
    main(Path("runs/encoder-features"), videos=[Path(path) for path in sys.argv[1:3]])
