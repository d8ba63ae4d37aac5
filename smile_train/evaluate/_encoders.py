"""Frozen encoders: models of this project and of other libraries with one interface."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_synth.core.errors import UserError
from smile_train.batch import normalise
from smile_train.models import Encoder, VideoClassifier, check_finite

# Fields of an encoder's config without influence on its outputs.
_NO_INFLUENCE = {"drop_path", "checkpointing"}


class FrozenEncoder(ABC):
    """A frozen encoder of clips.

    Attributes:
        name: for tables.
        architecture: everything except the weights; encoders of equal architecture have the same random
            counterparts.
        digest: of weights and architecture; identifies cached features.
        num_frames, side: length and frame side (pixels) of a clip.
        num_layers: number of blocks whose tokens can be read.
    """

    def __init__(
        self, name: str, model: nn.Module, architecture: str, clip_shape: tuple[int, int], num_layers: int
    ) -> None:
        """Freeze a model; ``clip_shape`` is (num_frames, side)."""
        self.name, self.architecture, self.num_layers = name, architecture, num_layers
        self.num_frames, self.side = clip_shape
        check_finite(f"encoder '{name}'", dict(model.named_parameters()))
        self._model = model.eval().requires_grad_(False)
        self.digest = _digest(model, architecture)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self._model.parameters()).device

    def to(self, device: torch.device) -> Self:
        """Move the weights; returns the encoder itself."""
        self._model.to(device)
        return self

    @torch.no_grad()
    def encode(self, frames: Tensor, layer: int = -1) -> Tensor:
        """Return tokens ``[B, T', N, C]`` float32 of clips ``[B, T, 3, H, W]`` uint8.

        ``layer`` k returns the output of block k, counted from 0; -1 the output after the last norm.

        Raises:
            UserError: no such layer, or NaN or infinite tokens.
        """
        self.check_layer(layer)
        tokens = self._encode(frames.to(self.device), layer).float()
        if not bool(tokens.isfinite().all()):
            raise UserError(f"encoder '{self.name}': its tokens of a clip are NaN or infinite")
        return tokens

    def check_layer(self, layer: int) -> None:
        """Raise a `UserError` if the encoder has no such layer."""
        if not -1 <= layer < self.num_layers:
            allowed = f"-1..{self.num_layers - 1}" if self.num_layers else "-1"
            raise UserError(f"layer {layer}: this encoder has {allowed} (-1 is after the last norm)")

    @abstractmethod
    def _encode(self, frames: Tensor, layer: int) -> Tensor: ...

    @abstractmethod
    def reinitialised(self, seed: int) -> FrozenEncoder:
        """Return an encoder of the same architecture with random weights, on the same device."""


class VideoEncoder(FrozenEncoder):
    """An encoder of this project.

    Attributes:
        encoder: the encoder.
        classifier: the fine-tuned classifier with its weights; None for a pretrained encoder.
    """

    def __init__(self, name: str, encoder: Encoder, classifier: VideoClassifier | None = None) -> None:
        """Freeze an encoder, and the classifier that it belongs to.

        Raises:
            UserError: its frames are not square.
        """
        config = encoder.config
        if config.size_hw[0] != config.size_hw[1]:
            raise UserError(f"checkpoint '{name}': reads {config.size_hw} frames, expected square ones")
        fields = {key: value for key, value in asdict(config).items() if key not in _NO_INFLUENCE}
        self.encoder, self.classifier = encoder, classifier
        model = nn.ModuleList([encoder, *([] if classifier is None else [classifier])])
        super().__init__(
            name, model, json.dumps(fields), (config.num_frames, config.size_hw[0]), config.depth
        )

    def _encode(self, frames: Tensor, layer: int) -> Tensor:
        clips, encoder = normalise(frames), self.encoder
        tokens = encoder(clips) if layer < 0 else block_output(encoder.blocks[layer], encoder, clips)
        by_time: Tensor = tokens.unflatten(1, (encoder.config.grid_thw[0], -1))
        return by_time

    @torch.no_grad()
    def classify(self, frames: Tensor) -> Tensor:
        """Return class probabilities ``[B, num_classes]`` of the fine-tuned classifier.

        Raises:
            ValueError: the encoder has no classifier.
        """
        if self.classifier is None:
            raise ValueError(f"encoder '{self.name}' has no classifier")
        logits: Tensor = self.classifier(normalise(frames.to(self.device)))
        return logits.float().softmax(1)

    def reinitialised(self, seed: int) -> VideoEncoder:
        """See `FrozenEncoder.reinitialised`."""
        generator = torch.Generator().manual_seed(10_000 + seed)
        encoder = Encoder(self.encoder.config, generator=generator)
        return VideoEncoder(f"random {seed}", encoder).to(self.device)


class LibraryEncoder(FrozenEncoder):
    """A model of another library. Image models encode every frame separately."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        forward: Callable[[Any, Tensor, int], Tensor],
        *,
        mean_std: tuple[tuple[float, ...], tuple[float, ...]],
        clip_shape: tuple[int, int],
        num_layers: int,
        rebuild: Callable[[], nn.Module] | None = None,
    ) -> None:
        """Freeze a model.

        Args:
            name: for tables.
            model: the model.
            forward: called with the model, normalised clips ``[B, T, 3, side, side]`` and a layer; returns
                tokens ``[B, T', N, C]``.
            mean_std: of the model's pixels in 0..1, per channel.
            clip_shape: (num_frames, side) of its clips.
            num_layers: number of blocks that ``forward`` can read.
            rebuild: builds the model with random weights from torch's global generator; by default the
                modules of a copy reset their parameters.
        """
        self._forward, self._mean_std, self._rebuild = forward, mean_std, rebuild
        shapes = {n: list(t.shape) for n, t in model.state_dict().items()}
        architecture = json.dumps([type(model).__name__, shapes, *mean_std, *clip_shape])
        super().__init__(name, model, architecture, clip_shape, num_layers)

    def _encode(self, frames: Tensor, layer: int) -> Tensor:
        images, size = frames.flatten(0, 1).float() / 255, (self.side, self.side)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in self._mean_std)
        return self._forward(self._model, ((images - mean) / std).unflatten(0, frames.shape[:2]), layer)

    def reinitialised(self, seed: int) -> LibraryEncoder:
        """See `FrozenEncoder.reinitialised`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(10_000 + seed)
            model = self._rebuild() if self._rebuild else _reset(self._model)
        return LibraryEncoder(
            f"random {seed}", model, self._forward, mean_std=self._mean_std,
            clip_shape=(self.num_frames, self.side), num_layers=self.num_layers, rebuild=self._rebuild,
        ).to(self.device)  # fmt: skip


def block_output(block: nn.Module, model: nn.Module, *arguments: Tensor) -> Tensor:
    """Run a model and return the output of one of its blocks."""
    outputs: list[Tensor] = []
    hook = block.register_forward_hook(lambda *call: outputs.append(call[2]))
    try:
        model(*arguments)
    finally:
        hook.remove()
    return outputs[0]


def _reset(model: nn.Module) -> nn.Module:
    """Return a copy with random weights: by each module's own method, else normal with the same spread."""
    model = copy.deepcopy(model).cpu()
    done: set[int] = set()
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if reset:
            reset()
            done |= {id(p) for p in module.parameters(recurse=False)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in done:
                parameter.normal_(0, float(parameter.std()) if parameter.numel() > 1 else 0.0)
    return model


def _digest(model: nn.Module, architecture: str) -> str:
    sha = hashlib.sha256(architecture.encode())
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
