"""Batches on a device: parameters are sent, texels stay there, torch or Triton draws."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth.compositing._parameters import (
    NUM_EFFECTS,
    NUM_INTS,
    NUM_REALS,
    Parameters,
    Shown,
    num_texels,
    words_of,
)
from smile_synth.compositing._torch import DeviceParameters, composite_torch
from smile_synth.objects import ObjectBank
from smile_synth.scene import Video

_resident: WeakKeyDictionary[ObjectBank, dict[torch.device, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Rendered:
    """What one pass over a batch gives.

    Attributes:
        frames: ``[B, T, H, W, 3]`` uint8, or ``[B, T, 3, H, W]`` of a float type, normalised.
        segmentation: ``[B, T, H, W]`` int16, numbers of labelled objects from 1, 0 elsewhere; None if not
            asked for.
        coverage: ``[B, N]`` float32 0..1, the share of each token's pixels that labelled objects own; None
            if not asked for.
    """

    frames: Tensor
    segmentation: Tensor | None = None
    coverage: Tensor | None = None


def resident_texels(bank: ObjectBank, device: torch.device) -> Tensor:
    """Return the bank's texels as int32 words on a device; they are sent there once."""
    places = _resident.setdefault(bank, {})
    if device not in places:
        places[device] = _sent(words_of(bank.texels), device)
    return places[device]


def _sent(words: NDArray[np.uint32], device: torch.device) -> Tensor:
    # A copy, at least one word long: torch refuses read-only memory, kernels refuse none.
    texels = torch.from_numpy(np.append(words, np.uint32(0)).view(np.int32))
    return texels.to(device)


def _sent_together(arrays: Sequence[NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Send arrays of 8-byte numbers in one copy, which on a GPU is not waited for; returns flat tensors."""
    numbers = [np.ascontiguousarray(array).reshape(-1).view(np.int64) for array in arrays]
    packed = torch.empty(sum(map(len, numbers)), dtype=torch.int64, pin_memory=device.type == "cuda")
    np.concatenate(numbers, out=packed.numpy())
    return list(packed.to(device, non_blocking=True).split([len(part) for part in numbers]))


class DeviceTextures:
    """Textures of backgrounds in a device's memory, those used last kept up to a bound."""

    def __init__(self, device: torch.device, num_bytes: int) -> None:
        self._device, self._num_bytes = device, num_bytes
        self._kept: OrderedDict[Shown, Tensor] = OrderedDict()

    def get(self, shown: Shown) -> Tensor | None:
        """Return a texture's texels ``[X]`` int32, if they are here."""
        if shown in self._kept:
            self._kept.move_to_end(shown)
        return self._kept.get(shown)

    def send(self, textures: Sequence[Shown], words: NDArray[np.uint32]) -> list[Tensor]:
        """Send textures whose texels stand one after another; frames of videos are not kept."""
        if not textures:
            return []
        packed = torch.empty(len(words), dtype=torch.int32, pin_memory=self._device.type == "cuda")
        packed.numpy()[:] = words.view(np.int32)
        counts = [num_texels(shown) for shown in textures]
        sent = packed.to(self._device, non_blocking=True).split(counts)
        for shown, texels in zip(textures, sent, strict=True):
            if not isinstance(shown.surface, Video):
                self._kept[shown] = texels.clone()  # of its own: the others of the copy may go sooner
        while sum(4 * len(texels) for texels in self._kept.values()) > self._num_bytes:
            self._kept.popitem(last=False)
        return list(sent)


def on_device(
    parameters: Parameters, bank: ObjectBank, device: torch.device, extra: Tensor | None = None
) -> DeviceParameters:
    """Send the parameters of a batch to a device; ``extra`` ``[X]`` int32 stands for theirs, if given."""
    arrays: list[NDArray[Any]] = [parameters.first, parameters.ints, parameters.reals]
    if len(parameters.effects):
        arrays += [parameters.subframes, parameters.effects]
    first, ints, reals, *exposure = _sent_together(arrays, device)
    return DeviceParameters(
        first,
        ints.view(-1, NUM_INTS),
        reals.view(torch.float64).view(-1, NUM_REALS),
        resident_texels(bank, device),
        _sent(parameters.extra, device) if extra is None else extra,
        parameters.size_hw,
        *([exposure[0], exposure[1].view(torch.float64).view(-1, NUM_EFFECTS)] if exposure else []),
    )


def render_on_device(
    parameters: Parameters,
    bank: ObjectBank,
    *,
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    scale: NDArray[np.float64],
    shift: NDArray[np.float64],
    segmentation: bool,
    tokens: tuple[int, int] | None,
    extra: Tensor | None = None,
) -> Rendered:
    """Draw prepared scenes with backend ``torch`` or ``triton``; see `smile_synth.compositing.render`."""
    clips, num_frames, (height, width) = parameters.num_clips, parameters.num_frames, parameters.size_hw
    count = clips * num_frames
    shape = (count, height, width, 3) if dtype == torch.uint8 else (count, 3, height, width)
    frames = torch.empty(shape, dtype=dtype, device=device)
    sent = on_device(parameters, bank, device, extra)
    labels = None
    if segmentation or (tokens and backend == "torch"):
        labels = torch.empty(count, height, width, dtype=torch.int16, device=device)
    coverage = None
    if backend == "torch":
        factor, offset = (torch.from_numpy(values).float().to(device) for values in (scale, shift))
        composite_torch(sent, frames, factor, offset, labels)
        if tokens and labels is not None:
            coverage = _coverage(labels, clips, *tokens)
    else:
        from smile_synth.compositing._triton import composite_triton  # Triton exists where it has a GPU

        counts = None
        if tokens:
            tubelet, patch = tokens
            number = num_frames // tubelet * (height // patch) * (width // patch)
            counts = torch.zeros(clips, number, dtype=torch.int32, device=device)
        composite_triton(
            sent, frames, scale.tolist(), shift.tolist(), labels, counts, tokens or (1, 1), num_frames
        )
        if tokens and counts is not None:
            coverage = counts.float() / (tokens[0] * tokens[1] ** 2)
    return Rendered(
        frames.view(clips, num_frames, *shape[1:]),
        labels.view(clips, num_frames, height, width) if segmentation and labels is not None else None,
        coverage,
    )


def _coverage(labels: Tensor, clips: int, tubelet: int, patch: int) -> Tensor:
    frames, (height, width) = len(labels) // clips, labels.shape[1:]
    blocks = (labels > 0).view(
        clips, frames // tubelet, tubelet, height // patch, patch, width // patch, patch
    )
    return blocks.float().mean(dim=(2, 4, 6)).flatten(1)
