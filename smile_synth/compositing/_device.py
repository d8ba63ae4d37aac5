"""A batch on a device: parameters are sent, texels stay there."""

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
    EFFECTS,
    ENTRY,
    IMAGE,
    Parameters,
    TextureVersion,
    as_numbers,
    num_texels,
    words_of,
)
from smile_synth.objects import ObjectBank
from smile_synth.scene import Video

_resident: WeakKeyDictionary[ObjectBank, dict[torch.device, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class DeviceRecords:
    """A structured array on a device: ``words`` ``[N, W]`` int64 are its records in words of 8 bytes."""

    words: Tensor
    dtype: np.dtype[np.void]

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.words)

    def __getitem__(self, name: str) -> Tensor:
        """Return a field ``[N, ...]``, int64 or float64."""
        kind = self.dtype[name]
        columns = self.nested(name).words
        values = columns.view(torch.float64) if kind.base == np.float64 else columns
        return values.reshape(len(self), *kind.shape)

    def nested(self, name: str) -> DeviceRecords:
        """Return a field that is a record."""
        assert self.dtype.fields is not None
        kind, offset = self.dtype.fields[name][:2]
        return DeviceRecords(self.words[:, offset // 8 : (offset + kind.itemsize) // 8], kind)

    def take(self, rows: Tensor | slice) -> DeviceRecords:
        """Return some of the records."""
        return DeviceRecords(self.words[rows], self.dtype)


@dataclass(frozen=True, eq=False)
class DeviceParameters:
    """`Parameters` on a device; ``bank`` and ``extra`` are texels ``[X]`` int32.

    ``effects`` is None if no clip has camera effects; ``plain`` is the result of `is_plain`.
    """

    num_frames: int
    size_hw: tuple[int, int]
    first: Tensor
    subframes: Tensor
    entries: DeviceRecords
    effects: DeviceRecords | None
    bank: Tensor
    extra: Tensor
    plain: bool


def is_plain(parameters: Parameters) -> bool:
    """Return whether the batch has only affine layers of unchanged colours, without camera effects.

    Images must not need their border rule, or show noise instead of their colours.
    """
    entries = parameters.entries
    image = (entries["fixed_point"] == 1) & (entries["wraps"] == 0) & (entries["shows_noise"] == 0)
    return bool(
        not len(parameters.effects)
        and (entries["plain_color"] == 1).all()
        and (image | (entries["kind"] != IMAGE)).all()
        and (entries["inverse"][:, 2, :2] == 0).all()
    )


def on_device(
    parameters: Parameters, bank: ObjectBank, device: torch.device, extra: Tensor | None = None
) -> DeviceParameters:
    """Send the parameters of a batch to a device; ``extra`` ``[X]`` int32 replaces theirs, if given."""
    arrays = (
        parameters.first, parameters.subframes, as_numbers(parameters.entries), as_numbers(parameters.effects)
    )  # fmt: skip
    first, subframes, entries, effects = _send_together(arrays, device)
    return DeviceParameters(
        parameters.num_frames,
        parameters.size_hw,
        first,
        subframes,
        DeviceRecords(entries, ENTRY),
        DeviceRecords(effects, EFFECTS) if len(effects) else None,
        _resident_texels(bank, device),
        _send(parameters.extra, device) if extra is None else extra,
        is_plain(parameters),
    )


def _resident_texels(bank: ObjectBank, device: torch.device) -> Tensor:
    """Return the bank's texels as int32 words on a device; they are sent once."""
    tensors = _resident.setdefault(bank, {})
    if device not in tensors:
        tensors[device] = _send(words_of(bank.texels), device)
    return tensors[device]


def _send(words: NDArray[np.uint32], device: torch.device) -> Tensor:
    # A copy of at least one word: torch warns of read-only memory, and kernels need a pointer.
    texels = torch.from_numpy(np.append(words, np.uint32(0)).view(np.int32))
    return texels.to(device)


def _send_together(arrays: Sequence[NDArray[np.int64]], device: torch.device) -> list[Tensor]:
    """Send arrays in one copy, which is asynchronous on a GPU."""
    numbers = np.concatenate([array.reshape(-1) for array in arrays])
    packed: Any = torch.empty(len(numbers), dtype=torch.int64, pin_memory=device.type == "cuda")
    packed.numpy()[:] = numbers
    parts = packed.to(device, non_blocking=True).split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


class DeviceTextures:
    """Background textures in a device's memory; the least recently used ones are dropped beyond a limit."""

    def __init__(self, device: torch.device, num_bytes: int) -> None:
        self._device, self._num_bytes = device, num_bytes
        self._kept: OrderedDict[TextureVersion, Tensor] = OrderedDict()

    def get(self, version: TextureVersion) -> Tensor | None:
        """Return a texture's texels ``[X]`` int32 if they are on the device."""
        if version in self._kept:
            self._kept.move_to_end(version)
        return self._kept.get(version)

    def send(self, textures: Sequence[TextureVersion], words: NDArray[np.uint32]) -> list[Tensor]:
        """Send textures, given by their texels one after another; frames of videos are not kept."""
        if not textures:
            return []
        packed = torch.empty(len(words), dtype=torch.int32, pin_memory=self._device.type == "cuda")
        packed.numpy()[:] = words.view(np.int32)
        counts = [num_texels(version) for version in textures]
        sent = packed.to(self._device, non_blocking=True).split(counts)
        for version, texels in zip(textures, sent, strict=True):
            if not isinstance(version.surface, Video):
                self._kept[version] = texels.clone()  # a copy, to free the others of this group separately
        while sum(4 * len(texels) for texels in self._kept.values()) > self._num_bytes:
            self._kept.popitem(last=False)
        return list(sent)
