"""Frozen encoders of any origin behind one face, so that all are measured by the same code."""

from __future__ import annotations

import copy
import hashlib
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import safetensors
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_synth.core.errors import UserError, nearest
from smile_train.data.synthetic import IMAGENET_MEAN, IMAGENET_STD, normalise
from smile_train.export import from_folder
from smile_train.models import (
    STUDENT_SIZES,
    Encoder,
    Student,
    StudentConfig,
    load_clip,
    load_student_weights,
    read_tensors,
)
from smile_train.training.checkpoint import CHECKPOINTS, STUDENT, load_student

PUBLISHED_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
# What of a student's configuration a frozen encoder and its random counterparts do not depend on.
BESIDE_THE_ENCODER = {
    "decoder_width", "decoder_depth", "decoder_heads", "decoder_chunk", "target_dim", "drop_path",
    "checkpointing",
}  # fmt: skip


class FrozenEncoder(Protocol):
    """What evaluation asks of an encoder.

    Attributes:
        name: for tables.
        form: everything but the weights; encoders of one form share their random counterparts.
        digest: of weights and form; features are kept under it.
        num_frames, side: of the clips it reads.
        width: of a token.
        num_layers: blocks whose tokens can be asked for.
        device: where it is.
    """

    name: str
    form: str
    digest: str
    num_frames: int
    side: int
    width: int
    num_layers: int

    @property
    def device(self) -> torch.device:
        """See above."""
        ...

    def to(self, device: torch.device) -> Self:
        """Move it, and return it."""
        ...

    def tokens(self, frames: Tensor, layer: int = -1) -> Tensor:
        """Return tokens ``[B, T', N, width]`` float32 of clips ``[B, T, 3, H, W]`` uint8.

        ``layer`` -1 is after the last norm, k the output of block k, counted from 0.
        """
        ...

    def reinitialised(self, seed: int) -> FrozenEncoder:
        """Return the same shape with random weights, on the same device."""
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
        fields = asdict(config)
        self.form = json.dumps({k: v for k, v in fields.items() if k not in BESIDE_THE_ENCODER})
        self.digest = _digest(encoder, json.dumps(fields))  # features are kept under it: as it always was

    @property
    def device(self) -> torch.device:
        """See `FrozenEncoder`."""
        return next(self.encoder.parameters()).device

    def to(self, device: torch.device) -> VideoEncoder:
        """See `FrozenEncoder.to`."""
        self.encoder.to(device)
        return self

    @torch.no_grad()
    def tokens(self, frames: Tensor, layer: int = -1) -> Tensor:
        """See `FrozenEncoder.tokens`."""
        _check_layer(layer, self.num_layers)
        clips = normalise(frames.to(self.device))
        out = self.encoder(clips) if layer < 0 else _after(self.encoder.blocks[layer], self.encoder, clips)
        grid = self.encoder.config.grid_thw
        return out.float().reshape(len(clips), grid[0], grid[1] * grid[2], -1)

    def reinitialised(self, seed: int) -> VideoEncoder:
        """See `FrozenEncoder.reinitialised`."""
        student = Student(self.encoder.config, generator=torch.Generator().manual_seed(10_000 + seed))
        return VideoEncoder(f"random {seed}", student.encoder).to(self.device)


class LibraryEncoder:
    """A model of another library; see `FrozenEncoder`. Image models look at every frame by itself."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        look: Callable[[nn.Module, Tensor, int], Tensor],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        num_frames: int,
        side: int,
        num_layers: int,
        anew: Callable[[], nn.Module] | None = None,
    ) -> None:
        """Freeze a model.

        Args:
            name: for tables.
            model: of any library.
            look: called with the model, clips ``[B, T, 3, side, side]``, normalised, and a layer; gives
                tokens ``[B, T', N, width]``.
            mean, std: of its pixels in 0..1.
            num_frames, side: of the clips it reads.
            num_layers: blocks that ``look`` can read.
            anew: draws the model again, from torch's global state; left out, its modules do so themselves.
        """
        self.name, self.model, self._look, self._anew = name, model.eval().requires_grad_(False), look, anew
        self._pixels = {"mean": mean, "std": std}
        self.num_frames, self.side, self.num_layers = num_frames, side, num_layers
        shapes = {n: list(t.shape) for n, t in model.state_dict().items()}
        self.form = json.dumps([type(model).__name__, shapes, mean, std, num_frames, side])
        self.digest = _digest(model, self.form)
        self.width = int(self.tokens(torch.zeros(1, num_frames, 3, side, side, dtype=torch.uint8)).shape[-1])

    @property
    def device(self) -> torch.device:
        """See `FrozenEncoder`."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device) -> LibraryEncoder:
        """See `FrozenEncoder.to`."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def tokens(self, frames: Tensor, layer: int = -1) -> Tensor:
        """See `FrozenEncoder.tokens`; frames of another size are resized."""
        _check_layer(layer, self.num_layers)
        images = frames.flatten(0, 1).to(self.device).float() / 255
        if images.shape[-1] != self.side:
            size = (self.side, self.side)
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in self._pixels.values())
        clips = ((images - mean) / std).unflatten(0, frames.shape[:2])
        return self._look(self.model, clips, layer).float()

    def reinitialised(self, seed: int) -> LibraryEncoder:
        """See `FrozenEncoder.reinitialised`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(10_000 + seed)
            model = self._anew() if self._anew else _redrawn(self.model)
        return LibraryEncoder(
            f"random {seed}", model, self._look, num_frames=self.num_frames, side=self.side,
            num_layers=self.num_layers, anew=self._anew, **self._pixels,
        ).to(self.device)  # fmt: skip


def _after(block: nn.Module, model: nn.Module, *arguments: Tensor) -> Tensor:
    """Run a model and return what one of its blocks gave."""
    found: list[Tensor] = []
    hook = block.register_forward_hook(lambda *parts: found.append(parts[2]))
    try:
        model(*arguments)
    finally:
        hook.remove()
    return found[0]


def _redrawn(model: nn.Module) -> nn.Module:
    """Return a copy with weights as its modules draw them; others with the spread that they have."""
    model = copy.deepcopy(model).cpu()
    drawn: set[int] = set()
    for module in model.modules():
        draw = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if draw:
            draw()
            drawn |= {id(p) for p in module.parameters(recurse=False)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in drawn:
                parameter.normal_(0, float(parameter.std()) if parameter.numel() > 1 else 0.0)
    return model


def load_encoder(
    source: str | Path,
    *,
    num_frames: int | None = None,
    side: int | None = None,
    device: torch.device | None = None,
) -> FrozenEncoder:
    """Load an encoder from wherever it comes.

    Args:
        source: a run's folder, its ``student.safetensors`` or one of its checkpoints; a folder that
            `export_run` wrote (but ONNX); a folder of transformers, where VideoMAE does not need the library;
            a file of VideoMAE's or SMILE's published form (``.pth``, ``.pt``, ``.bin``, ``.safetensors``);
            ``timm:NAME@FILE`` (``timm:NAME`` for weights that timm has at hand); ``clip:NAME@WEIGHTS`` or
            ``clip:tiny-clip``. Image models look at every frame by itself.
        num_frames, side: of the clips, where the file does not tell them; 16 and 224 as published.
        device: left out, the CPU.

    Raises:
        UserError: nothing there, no encoder in it, one that reads other clips than was asked for, or a model
            that its library does not know.
    """
    encoder = _load(str(source), num_frames, side)
    for what, wanted, own in (("frames", num_frames, encoder.num_frames), ("px", side, encoder.side)):
        if wanted not in (None, own):
            raise UserError(f"encoder '{source}': reads clips of {own} {what}, not of {wanted}")
    return encoder.to(device) if device else encoder


def _load(text: str, num_frames: int | None, side: int | None) -> FrozenEncoder:
    if text.startswith("timm:"):
        return _from_timm(text, num_frames or 16)
    if text.startswith("clip:"):
        return _from_clip(text, num_frames or 16)
    path = Path(text)
    if (path / "config.json").is_file():
        known = from_folder(path)
        return VideoEncoder(text, known) if known else _from_transformers(text, num_frames or 16)
    if path.is_dir() or not path.exists() or _of_ours(path):
        return VideoEncoder(text, load_student(path).encoder)
    if path.suffix not in PUBLISHED_SUFFIXES:
        raise UserError(f"checkpoint '{path}': expected one of {', '.join(PUBLISHED_SUFFIXES)}")
    shapes = {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()}
    config = _published_form(path, shapes, num_frames or 16, side or 224)
    encoder = Encoder(config, generator=torch.Generator().manual_seed(0))
    load_student_weights(encoder, path)
    return VideoEncoder(text, encoder)


def _of_ours(path: Path) -> bool:
    """Return whether a file is a student, or a checkpoint in the folder of a run."""
    if path.suffix == ".pt":
        return path.parent.name == CHECKPOINTS and (path.parent.parent / STUDENT).is_file()
    if path.suffix != ".safetensors":
        return False
    try:
        with safetensors.safe_open(path, "pt") as opened:
            return "student" in (opened.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"checkpoint '{path}': not a safetensors file: {error}") from None


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


def _from_timm(text: str, num_frames: int) -> LibraryEncoder:
    import timm  # takes seconds, and needed here alone

    name, _, weights = text.removeprefix("timm:").partition("@")
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise UserError(f"encoder '{text}': timm knows no such model{nearest(name, known)}")
    if weights and not Path(weights).is_file():
        raise UserError(f"encoder '{text}': no file '{weights}'")
    try:
        model: Any = timm.create_model(name, pretrained=not weights, num_classes=0, checkpoint_path=weights)
    except Exception as error:  # timm raises whatever its downloads and readers raise
        raise UserError(f"encoder '{text}': cannot be loaded: {_short(error)}") from None
    data = model.pretrained_cfg
    # Vision transformers have blocks that give tokens; what others have gives maps of several sizes.
    blocks = len(model.blocks) if isinstance(model, timm.models.VisionTransformer) else 0
    return LibraryEncoder(
        text, model, _look_by_frame, mean=tuple(data["mean"]), std=tuple(data["std"]),
        num_frames=num_frames, side=int(data["input_size"][1]), num_layers=blocks,
        anew=partial(timm.create_model, name, num_classes=0),
    )  # fmt: skip


def _from_clip(text: str, num_frames: int) -> LibraryEncoder:
    name, _, weights = text.removeprefix("clip:").partition("@")
    visual = load_clip(name, pretrained=weights or None).visual
    mean, std = getattr(visual, "image_mean", IMAGENET_MEAN), getattr(visual, "image_std", IMAGENET_STD)
    size = visual.image_size
    return LibraryEncoder(
        text, visual, _look_by_frame, mean=tuple(mean), std=tuple(std), num_frames=num_frames,
        side=int(size[0] if isinstance(size, tuple) else size), num_layers=0,
    )  # fmt: skip


def _look_by_frame(model: Any, clips: Tensor, layer: int) -> Tensor:
    images = clips.flatten(0, 1)
    tokens = model(images)[:, None] if layer < 0 else _after(model.blocks[layer], model, images)
    return torch.as_tensor(tokens.unflatten(0, clips.shape[:2]))


def _from_transformers(text: str, num_frames: int) -> LibraryEncoder:
    """Load an image or video model through transformers; its folder says which."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise UserError(f"encoder '{text}': needs the library transformers, but for VideoMAE") from None
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModel.from_pretrained(text, local_files_only=True)
    except Exception as error:  # it raises whatever its readers raise
        raise UserError(f"encoder '{text}': cannot be loaded: {_short(error)}") from None
    model = getattr(model, "vision_model", model)  # of a model of images and text
    config = model.config
    side = getattr(config, "image_size", getattr(config, "crop_size", None))
    frames = getattr(config, "num_frames", getattr(config, "frames_per_clip", None))
    if side is None or not hasattr(config, "num_hidden_layers"):
        raise UserError(f"encoder '{text}': '{config.model_type}' is no transformer of images or video")
    given = Path(text) / "preprocessor_config.json"
    pixels = json.loads(given.read_text(encoding="utf-8")) if given.is_file() else {}
    return LibraryEncoder(
        text, model, _look_at_video if frames else _look_at_images,
        mean=tuple(pixels.get("image_mean", IMAGENET_MEAN)), std=tuple(pixels.get("image_std", IMAGENET_STD)),
        num_frames=frames or num_frames, side=side if isinstance(side, int) else side[0],
        num_layers=config.num_hidden_layers,
    )  # fmt: skip


def _look_at_images(model: Any, clips: Tensor, layer: int) -> Tensor:
    out = model(pixel_values=clips.flatten(0, 1), output_hidden_states=True)
    pooled = getattr(out, "pooler_output", None)
    last = out.last_hidden_state if pooled is None else pooled[:, None]
    return torch.as_tensor(
        (last if layer < 0 else out.hidden_states[layer + 1]).unflatten(0, clips.shape[:2])
    )


def _look_at_video(model: Any, clips: Tensor, layer: int) -> Tensor:
    options = {"output_hidden_states": True}
    if "skip_predictor" in inspect.signature(model.forward).parameters:  # V-JEPA 2 predicts, too
        options["skip_predictor"] = True
    out = model(**{model.main_input_name: clips}, **options)
    tokens = out.last_hidden_state if layer < 0 else out.hidden_states[layer + 1]
    # The times stand one after the other in V-JEPA 2; others have a class token, or keep places together.
    times = clips.shape[1] // model.config.tubelet_size if model.config.model_type == "vjepa2" else 1
    return torch.as_tensor(tokens.unflatten(1, (times, -1)))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


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
