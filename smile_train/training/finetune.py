"""Fine-tuning of the whole encoder on labelled videos, as VideoMAE does it (arXiv 2203.12602, appendix)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_synth.io.strict_yaml import StrictModel
from smile_train.config import Count, NonNegative, Positive, Whole
from smile_train.data.synthetic import normalise
from smile_train.data.video import ReadOptions, read_clip_at, read_windows
from smile_train.evaluate._encoders import VideoEncoder
from smile_train.models import VideoClassifier
from smile_train.training.optim import lr_at

Strings = NDArray[np.str_]
Progress = Callable[[int, int], None]


class FinetuneOptions(StrictModel):
    """Fine-tuning; the defaults are VideoMAE's for Kinetics-400 where not said otherwise.

    Attributes:
        epochs, warmup_epochs: the published ones are 100 (ViT-B, K400) and 5.
        batch_size: videos a step; its learning rate is ``lr_per_256 * batch_size / 256``.
        lr_per_256: at the last layer.
        layer_decay: each layer below learns slower by this factor.
        weight_decay: not on 1-D tensors.
        drop_path: stochastic depth, rising to this at the last block.
        label_smoothing: as in arXiv 1512.00567.
        mixup, cutmix: of their Beta distributions (arXiv 1710.09412, 1905.04899); 0 is without. With both,
            one is chosen for every batch.
        crop_share: smallest share of a frame's area that a training crop keeps.
        flip: mirror half of the clips; off where left and right mean something.
    """

    epochs: Count = 30
    warmup_epochs: Whole = 5
    batch_size: Count = 16
    lr_per_256: Positive = 1e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    weight_decay: NonNegative = 0.05
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    mixup: NonNegative = 0.8
    cutmix: NonNegative = 1.0
    crop_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    flip: bool = False


def finetune(
    encoder: VideoEncoder,
    train_paths: Sequence[Path],
    train_y: Strings,
    test_paths: Sequence[Path],
    read: ReadOptions,
    options: FinetuneOptions,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Strings:
    """Train all weights on the training videos and return the classes of the test videos.

    A training video is seen once an epoch, from a random place on; a test video by all clips and crops of
    ``read``, their probabilities averaged.

    Args:
        encoder: a student's; it is left as it is.
        train_paths, train_y: videos and their classes.
        test_paths: videos to classify.
        read: how test videos are read; its stride, fit and rule for short videos also hold in training.
        options: of the training.
        seed: of everything that is drawn.
        progress: called with (epochs done, epochs in all).

    Raises:
        UserError: a video cannot be read.
    """
    classes, numbers = np.unique(train_y, return_inverse=True)
    device = next(encoder.encoder.parameters()).device
    model = _classifier(encoder, len(classes), options, seed).to(device)
    steps = -(-len(train_paths) // options.batch_size)
    total, warmup = steps * options.epochs, steps * min(options.warmup_epochs, options.epochs - 1)
    scale = options.batch_size / 256
    optimiser = torch.optim.AdamW(_layered_groups(model, options), betas=(0.9, 0.999))
    step = 0
    for epoch in range(options.epochs):
        rng = np.random.default_rng([seed, epoch])
        model.train()
        for rows in np.array_split(rng.permutation(len(train_paths)), steps):
            lr = scale * lr_at(
                step, base_lr=options.lr_per_256, warmup_lr=0.0, final_lr=1e-6, warmup_steps=warmup,
                total_steps=total,
            )  # fmt: skip
            for group in optimiser.param_groups:
                group["lr"] = lr * group["scale"]
            torch.manual_seed((seed * 1_000_003 + step) % 2**63)  # drop path
            clips = _training_clips([train_paths[int(i)] for i in rows], read, options, rng)
            targets = F.one_hot(torch.from_numpy(numbers[rows]), len(classes)).float()
            targets = targets * (1 - options.label_smoothing) + options.label_smoothing / len(classes)
            clips, targets = _mixed(clips, targets, options, rng)
            scores = model(normalise(clips.to(device)))
            loss = F.cross_entropy(scores, targets.to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
        if progress:
            progress(epoch + 1, options.epochs)
    model.eval()
    return np.array([classes[_classify(model, path, read, device)] for path in test_paths])


def _classifier(
    encoder: VideoEncoder, num_classes: int, options: FinetuneOptions, seed: int
) -> VideoClassifier:
    form = replace(encoder.encoder.config, drop_path=options.drop_path)
    model = VideoClassifier(form, num_classes, generator=torch.Generator().manual_seed(seed))
    # The pretraining norm acts per token; fine-tuning replaces it by one of the mean token.
    weights = {n: t for n, t in encoder.encoder.state_dict().items() if not n.startswith("norm.")}
    model.load_state_dict(weights, strict=False)
    return model


def _layered_groups(model: VideoClassifier, options: FinetuneOptions) -> list[dict[str, object]]:
    """Group parameters by layer (lr scale, arXiv 2003.10555) and by whether they decay."""
    depth = model.config.depth
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if name.startswith("patch_embed"):
            layer = 0
        elif name.startswith("blocks."):
            layer = int(name.split(".")[1]) + 1
        else:
            layer = depth + 1
        groups.setdefault((layer, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "scale": options.layer_decay ** (depth + 1 - layer),
            "weight_decay": options.weight_decay if decays else 0.0,
        }
        for (layer, decays), parameters in groups.items()
    ]


def _training_clips(
    paths: Sequence[Path], read: ReadOptions, options: FinetuneOptions, rng: np.random.Generator
) -> Tensor:
    """Return clips ``[B, T, 3, side, side]`` uint8, each from a place and of a crop of its own."""
    larger = read.model_copy(update={"side": math.ceil(read.side * 1.25), "crops": 1})
    draws = rng.random((len(paths), 5))
    decoded = (_read_one(p, larger, float(d)) for p, d in zip(paths, draws[:, 0], strict=True))
    return torch.stack(
        [_crop(clip, own, read.side, options) for clip, own in zip(decoded, draws[:, 1:], strict=True)]
    )


def _read_one(path: Path, read: ReadOptions, place: float) -> NDArray[np.uint8]:
    try:
        return read_clip_at(path, read, place)
    except UserError as error:
        raise UserError(f"video '{path}': {error}") from None


def _crop(clip: NDArray[np.uint8], draws: NDArray[np.float64], side: int, options: FinetuneOptions) -> Tensor:
    """Cut a square of a random share of the area at a random place, and mirror it or not."""
    frames = torch.from_numpy(clip).permute(0, 3, 1, 2)
    full = frames.shape[-1]
    share = options.crop_share + (1 - options.crop_share) * draws[0]
    cut = min(max(round(full * math.sqrt(share)), 1), full)
    top, left = (int(d * (full - cut + 1)) for d in draws[1:3])
    part = frames[:, :, top : top + cut, left : left + cut].float()
    resized = F.interpolate(part, (side, side), mode="bilinear", antialias=True, align_corners=False)
    out = resized.round().clamp(0, 255).to(torch.uint8)
    return out.flip(-1) if options.flip and draws[3] < 0.5 else out


def _mixed(
    clips: Tensor, targets: Tensor, options: FinetuneOptions, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix a batch with its reverse: Mixup, or CutMix of one box over all frames."""
    kinds = [k for k, strength in (("mixup", options.mixup), ("cutmix", options.cutmix)) if strength]
    if not kinds or len(clips) < 2:
        return clips, targets
    kind = kinds[int(rng.integers(len(kinds)))]
    strength = options.mixup if kind == "mixup" else options.cutmix
    share = float(rng.beta(strength, strength))
    other = clips.flip(0)
    if kind == "mixup":
        clips = (share * clips.float() + (1 - share) * other.float()).round().to(torch.uint8)
    else:
        side = clips.shape[-1]
        cut = round(side * math.sqrt(1 - share))
        top, left = (int(v) for v in rng.integers(0, side - cut + 1, 2))
        clips = clips.clone()
        clips[..., top : top + cut, left : left + cut] = other[..., top : top + cut, left : left + cut]
        share = 1 - cut**2 / side**2
    return clips, share * targets + (1 - share) * targets.flip(0)


@torch.no_grad()
def _classify(model: VideoClassifier, path: Path, read: ReadOptions, device: torch.device) -> int:
    try:
        clips = [torch.from_numpy(window) for window in read_windows(path, read)]
    except UserError as error:
        raise UserError(f"video '{path}': {error}") from None
    batch = torch.stack(clips).permute(0, 1, 4, 2, 3)
    scores = [model(normalise(part.to(device))).softmax(1) for part in batch.split(16)]
    return int(torch.cat(scores).mean(0).argmax())
