"""Frozen encoders of any origin behind one face, so that all are measured by the same code."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import safetensors
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_synth.errors import UserError, nearest
from smile_train.checkpoint import load_student
from smile_train.data import IMAGENET_MEAN, IMAGENET_STD, normalise
from smile_train.export import from_transformers
from smile_train.models import (
    STUDENT_SIZES,
    Encoder,
    Student,
    StudentConfig,
    load_clip,
    load_student_weights,
)

PUBLISHED_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")


class FrozenEncoder(Protocol):
    """What evaluation asks of an encoder.

    Attributes:
        name: for tables.
        digest: of weights and form; features are kept under it.
        num_frames, side: of the clips it reads.
        width: of a token.
        num_layers: blocks whose tokens can be asked for.
    """

    name: str
    digest: str
    num_frames: int
    side: int
    width: int
    num_layers: int

    def tokens(self, frames: Tensor, layer: int = -1) -> Tensor:
        """Return tokens ``[B, T', N, width]`` float32 of clips ``[B, T, 3, H, W]`` uint8.

        ``layer`` -1 is after the last norm, k the output of block k, counted from 0.
        """
        ...

    def reinitialised(self, seed: int) -> FrozenEncoder:
        """Return the same shape with random weights."""
        ...


class VideoEncoder:
    """A student's encoder; see `FrozenEncoder`."""

    def __init__(self, name: str, encoder: Encoder) -> None:
        """Freeze an encoder."""
        config = encoder.config
        if config.size_hw[0] != config.size_hw[1]:
            raise UserError(f"checkpoint '{name}': reads {config.size_hw} frames, only square ones are read")
        self.name, self.encoder = name, encoder.eval().requires_grad_(False)
        self.num_frames, self.side, self.width = config.num_frames, config.size_hw[0], config.width
        self.num_layers = config.depth
        self.digest = _digest(encoder, json.dumps(asdict(config)))

    @torch.no_grad()
    def tokens(self, frames: Tensor, layer: int = -1) -> Tensor:
        """See `FrozenEncoder.tokens`."""
        _check_layer(layer, self.num_layers)
        parameter = next(self.encoder.parameters())
        clips = normalise(frames.to(parameter.device))
        if layer < 0:
            out: Tensor = self.encoder(clips)
        else:
            found: list[Tensor] = []
            hook = self.encoder.blocks[layer].register_forward_hook(lambda *parts: found.append(parts[2]))
            try:
                self.encoder(clips)
            finally:
                hook.remove()
            out = found[0]
        grid = self.encoder.config.grid_thw
        return out.float().reshape(len(clips), grid[0], grid[1] * grid[2], -1)

    def reinitialised(self, seed: int) -> VideoEncoder:
        """See `FrozenEncoder.reinitialised`."""
        student = Student(self.encoder.config, generator=torch.Generator().manual_seed(10_000 + seed))
        device = next(self.encoder.parameters()).device
        return VideoEncoder(f"random {seed}", student.encoder.to(device))


class FrameEncoder:
    """An image model that looks at every frame by itself; see `FrozenEncoder`. One token a frame."""

    num_layers = 0

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        num_frames: int,
        side: int,
        config: str,
        timm_name: str = "",
    ) -> None:
        """Freeze a model that gives ``[B, width]`` of normalised pictures ``[B, 3, side, side]``."""
        self.name, self.model = name, model.eval().requires_grad_(False)
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (mean, std))
        self.num_frames, self.side, self._config, self._timm_name = num_frames, side, config, timm_name
        self.digest = _digest(model, f"{config} {mean} {std} {num_frames} {side}")
        self.width = int(self.tokens(torch.zeros(1, 1, 3, side, side, dtype=torch.uint8)).shape[-1])

    @torch.no_grad()
    def tokens(self, frames: Tensor, layer: int = -1) -> Tensor:
        """See `FrozenEncoder.tokens`; frames of another size are resized."""
        _check_layer(layer, 0)
        device = next(self.model.parameters()).device
        pictures = frames.flatten(0, 1).to(device).float() / 255
        if pictures.shape[-1] != self.side:
            size = (self.side, self.side)
            pictures = F.interpolate(pictures, size, mode="bilinear", antialias=True, align_corners=False)
        out: Tensor = self.model((pictures - self.mean.to(device)) / self.std.to(device))
        return out.float().reshape(*frames.shape[:2], 1, -1)

    def reinitialised(self, seed: int) -> FrameEncoder:
        """See `FrozenEncoder.reinitialised`.

        Raises:
            UserError: not a model of timm.
        """
        if not self._timm_name:
            raise UserError(f"encoder '{self.name}': has no random counterpart; use controls without random")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(10_000 + seed)
            model = timm.create_model(self._timm_name, num_classes=0)
        return FrameEncoder(
            f"random {seed}", model, mean=_triple(self.mean), std=_triple(self.std),
            num_frames=self.num_frames, side=self.side, config=self._config, timm_name=self._timm_name,
        )  # fmt: skip


def load_encoder(
    source: str | Path, *, num_frames: int | None = None, side: int | None = None
) -> FrozenEncoder:
    """Load an encoder from wherever it comes.

    Args:
        source: a run's folder or its ``student.safetensors``; a folder of a transformers VideoMAE; a file of
            VideoMAE's or SMILE's published form (``.pth``, ``.pt``, ``.bin``, ``.safetensors``);
            ``timm:NAME@FILE`` (``timm:NAME`` for weights that timm has at hand); ``clip:NAME@WEIGHTS`` or
            ``clip:tiny-clip``. The last two look at every frame by itself.
        num_frames, side: of the clips, where the file does not tell them; 16 and 224 as published.

    Raises:
        UserError: nothing there, no encoder in it, or a model that its library does not know.
    """
    text = str(source)
    if text.startswith("timm:"):
        return _from_timm(text, num_frames or 16)
    if text.startswith("clip:"):
        return _from_clip(text, num_frames or 16)
    path = Path(source)
    if (path / "config.json").is_file():
        return VideoEncoder(text, from_transformers(path))
    if path.is_dir() or not path.exists():
        return VideoEncoder(text, load_student(path).encoder)
    if path.suffix not in PUBLISHED_SUFFIXES:
        raise UserError(f"checkpoint '{path}': expected one of {', '.join(PUBLISHED_SUFFIXES)}")
    shapes, own = _shapes(path)
    if own:
        return VideoEncoder(text, load_student(path).encoder)
    config = _published_form(path, shapes, num_frames or 16, side or 224)
    encoder = Encoder(config, generator=torch.Generator().manual_seed(0))
    load_student_weights(encoder, path)
    return VideoEncoder(text, encoder)


def _shapes(path: Path) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Return the shape of every tensor of a file, and whether it describes a student of ours."""
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, "pt") as opened:
                names = list(opened.keys())
                own = "student" in (opened.metadata() or {})
                return {name: tuple(opened.get_slice(name).get_shape()) for name in names}, own
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"checkpoint '{path}': not a file of plain tensors: {reason}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"checkpoint '{path}': not a safetensors file: {error}") from None
    if isinstance(content, dict):
        content = content.get("model", content.get("module", content))
    if not isinstance(content, Mapping):
        raise UserError(f"checkpoint '{path}': holds no table of tensors")
    return {str(n): tuple(v.shape) for n, v in content.items() if isinstance(v, Tensor)}, False


def _published_form(
    path: Path, shapes: Mapping[str, tuple[int, ...]], num_frames: int, side: int
) -> StudentConfig:
    """Read a form off VideoMAE's parameter names; heads are 64 channels wide, as published."""
    inner = {name.removeprefix("encoder."): shape for name, shape in shapes.items()}
    kernel = inner.get("patch_embed.proj.weight", ())
    depth = len({name.split(".")[1] for name in inner if name.startswith("blocks.")})
    if len(kernel) != 5 or not depth:
        raise UserError(
            f"checkpoint '{path}': holds no video encoder (no patch_embed.proj of five dimensions and blocks)"
        )
    width, _, tubelet, patch, _ = kernel
    known = {size["width"]: size["heads"] for size in STUDENT_SIZES.values()}
    try:
        return StudentConfig(
            width=width, depth=depth, heads=known.get(width, max(width // 64, 1)), decoder_width=8,
            decoder_depth=1, decoder_heads=1, target_dim=1, num_frames=num_frames, size_hw=(side, side),
            patch_size=patch, tubelet_size=tubelet, mlp_ratio=inner["blocks.0.mlp.fc1.weight"][0] / width,
        )  # fmt: skip
    except (ValueError, KeyError) as error:
        raise UserError(f"checkpoint '{path}': {error}") from None


def _from_timm(text: str, num_frames: int) -> FrameEncoder:
    name, _, weights = text.removeprefix("timm:").partition("@")
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise UserError(f"encoder '{text}': timm knows no such model{nearest(name, known)}")
    if weights and not Path(weights).is_file():
        raise UserError(f"encoder '{text}': no file '{weights}'")
    try:
        model: Any = timm.create_model(name, pretrained=not weights, num_classes=0, checkpoint_path=weights)
    except Exception as error:  # timm raises whatever its downloads and readers raise
        raise UserError(f"encoder '{text}': cannot be loaded: {' '.join(str(error).split())[:200]}") from None
    data = model.pretrained_cfg
    return FrameEncoder(
        text, model, mean=tuple(data["mean"]), std=tuple(data["std"]), num_frames=num_frames,
        side=int(data["input_size"][1]), config=name, timm_name=name,
    )  # fmt: skip


def _from_clip(text: str, num_frames: int) -> FrameEncoder:
    name, _, weights = text.removeprefix("clip:").partition("@")
    visual = load_clip(name, pretrained=weights or None).visual
    mean, std = getattr(visual, "image_mean", IMAGENET_MEAN), getattr(visual, "image_std", IMAGENET_STD)
    size = visual.image_size
    return FrameEncoder(
        text, visual, mean=tuple(mean), std=tuple(std), num_frames=num_frames,
        side=int(size[0] if isinstance(size, tuple) else size), config=name,
    )  # fmt: skip


def _digest(model: nn.Module, form: str) -> str:
    sha = hashlib.sha256(form.encode())
    for name, tensor in sorted(model.state_dict().items()):
        sha.update(
            name.encode() + tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return sha.hexdigest()


def _check_layer(layer: int, num_layers: int) -> None:
    if not -1 <= layer < num_layers:
        allowed = f"-1..{num_layers - 1}" if num_layers else "-1"
        raise UserError(f"layer {layer}: this encoder has {allowed} (-1 is after the last norm)")


def _triple(values: Tensor) -> tuple[float, ...]:
    return tuple(float(v) for v in values.flatten())
