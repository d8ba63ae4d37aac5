"""Random changes of a clip, equal for all its frames and drawn by (seed, clip index) alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from smile_synth.core.rng import RandomStream
from smile_train.batch import IMAGENET_MEAN, IMAGENET_STD
from smile_train.config import AugmentationOptions, CropOptions
from smile_train.data.video import resize

UInt8 = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # top, left, height, width

_SCALES = (1.0, 0.875, 0.75, 0.66)
# Scales of height and width: their indices differ by at most one.
_SCALE_PAIRS = [(a, b) for i, a in enumerate(_SCALES) for j, b in enumerate(_SCALES) if abs(i - j) <= 1]
# The 13 places of a crop, in quarters of the free height and width: corners, middle, edges, quarters.
_OFFSETS = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]


def short_side(options: CropOptions, side: int) -> int:
    """Return the short side that larger frames are reduced to before a crop of ``side`` pixels."""
    return options.short_side or round(side * 10 / 7)


def augment(frames: UInt8, options: AugmentationOptions, side: int, *, seed: int, index: int) -> UInt8:
    """Return a clip ``[T, side, side, 3]`` uint8 cut from whole frames ``[T, H, W, 3]`` uint8.

    In the published order: RandAugment, crop, flip, random erasing. Global random states are left unchanged.

    Args:
        frames: of the clip.
        options: of the changes.
        side: of the clip.
        seed: of the run.
        index: of the clip.
    """

    def stream(purpose: str) -> RandomStream:
        return RandomStream(seed, index, f"augmentation {purpose}")

    if options.rand_augment:
        frames = _rand_augment(frames, options.rand_augment, side, stream("rand_augment").integer(2**32))
    top, left, height, width = _crop_box(frames, options.crop, stream("crop"))
    cut = frames[:, top : top + height, left : left + width]
    clip = np.stack([resize(frame, side, side) for frame in cut])
    if options.flip and stream("flip").random() < 0.5:
        clip = np.ascontiguousarray(clip[:, :, ::-1])
    erasing = stream("erasing")
    if erasing.random() < options.erasing:
        _erase(clip, erasing.integer(2**32))
    return clip


def _crop_box(frames: UInt8, options: CropOptions, rng: RandomStream) -> Box:
    height, width = frames.shape[1:3]
    shortest = min(height, width)
    if options.kind == "center":
        return (height - shortest) // 2, (width - shortest) // 2, shortest, shortest
    if options.kind == "multi_scale":
        scales = _SCALE_PAIRS[rng.integer(len(_SCALE_PAIRS))]
        quarters = _OFFSETS[rng.integer(len(_OFFSETS))]
        crop_h, crop_w = (int(shortest * scale) for scale in scales)
        top, left = (height - crop_h) * quarters[0] // 4, (width - crop_w) * quarters[1] // 4
        return top, left, crop_h, crop_w
    from torchvision.transforms import RandomResizedCrop  # its import takes seconds

    with seeded(rng.integer(2**32)):
        size = torch.empty(3, height, width, device="meta")
        box: Box = RandomResizedCrop.get_params(size, [*options.area], [*options.aspect])
    return box


def _rand_augment(frames: UInt8, name: str, side: int, seed: int) -> UInt8:
    from timm.data.auto_augment import rand_augment_transform  # its import takes seconds

    # As published: a shift by pixels is up to .45 of the clip's side.
    transform = rand_augment_transform(
        name, {"translate_const": int(side * 0.45), "interpolation": Image.Resampling.BICUBIC}
    )
    changed = []
    for frame in frames:
        with seeded(seed):  # the same operations for every frame
            changed.append(np.asarray(transform(Image.fromarray(frame))))
    return np.stack(changed)


def _erase(clip: UInt8, seed: int) -> None:
    """Replace one box of all frames by noise with ImageNet's mean and deviation, clipped to 0..255."""
    from timm.data.random_erasing import RandomErasing  # its import takes seconds

    t, side = clip.shape[:2]
    noise = torch.full((t * 3, side, side), torch.nan)
    with seeded(seed):
        RandomErasing(1.0, mode="pixel", device="cpu")(noise)  # type: ignore[no-untyped-call]  # timm
    rows, columns = np.nonzero(~noise[0].isnan().numpy())
    if not len(rows):
        return
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    pixels = noise.unflatten(0, (t, 3))[:, :, *box].permute(0, 2, 3, 1)
    pixels = 255 * (pixels * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN))
    clip[:, *box] = pixels.round().clamp(0, 255).byte().numpy()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global CPU generators that timm and torchvision use, and restore their states at the end."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
