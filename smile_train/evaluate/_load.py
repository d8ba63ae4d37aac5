"""Loading of frozen encoders from files and from other libraries."""

from __future__ import annotations

import importlib
import inspect
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smile_synth.core.errors import UserError, nearest
from smile_train.batch import IMAGENET_MEAN, IMAGENET_STD
from smile_train.evaluate._encoders import FrozenEncoder, LibraryEncoder, VideoEncoder, block_output
from smile_train.models import VideoClassifier, build_encoder, load_clip, load_model

DEFAULT_FRAMES = 16


def load_encoder(
    source: str | Path,
    *,
    num_frames: int | None = None,
    side: int | None = None,
    device: torch.device | None = None,
) -> FrozenEncoder:
    """Load an encoder.

    Args:
        source: the name of a shipped encoder (``smile-tiny-motion``); a run's folder, its
            ``student.safetensors``, ``classifier.safetensors`` or one of its checkpoints; a folder of
            `export_run` (except ONNX); a folder of transformers (VideoMAE is read without that library); a
            file in VideoMAE's or SMILE's published format (``.pth``, ``.pt``,
            ``.bin``, ``.safetensors``); ``timm:NAME@FILE``, or ``timm:NAME`` for weights that timm finds or
            downloads; ``clip:NAME@WEIGHTS`` or ``clip:tiny-clip``.
        num_frames, side: of the clips, if the source does not say them; 16 and 224 by default.
        device: the CPU by default.

    Raises:
        UserError: no such source, no encoder in it, an unknown name, or an encoder of other clips than
            ``num_frames`` and ``side``.
    """
    text = str(source)
    foreign = _is_foreign_transformers(Path(text))
    if text.startswith("timm:"):
        encoder: FrozenEncoder = _from_timm(text, num_frames or DEFAULT_FRAMES)
    elif text.startswith("clip:"):
        encoder = _from_clip(text, num_frames or DEFAULT_FRAMES)
    elif foreign:
        encoder = _from_transformers(text, num_frames or DEFAULT_FRAMES)
    else:
        encoder = _from_file(text, num_frames, side)
    for what, given, own in (("frames", num_frames, encoder.num_frames), ("px", side, encoder.side)):
        if given not in (None, own):
            raise UserError(f"encoder '{source}': reads clips of {own} {what}, not of {given}")
    encoder = encoder.to(device) if device else encoder
    if foreign:
        _check_forward(encoder)
    return encoder


def _from_file(text: str, num_frames: int | None, side: int | None) -> VideoEncoder:
    encoder = build_encoder(text, num_frames=num_frames, size_hw=(side, side) if side else None)
    return VideoEncoder(text, encoder, _classifier(text))


def _classifier(text: str) -> VideoClassifier | None:
    """Return the fine-tuned classifier of a file or run of smile-train; None for other sources."""
    try:
        model = load_model(text)
    except UserError:  # `build_encoder` has read it, so it is another format
        return None
    return model if isinstance(model, VideoClassifier) else None


def _from_timm(text: str, num_frames: int) -> LibraryEncoder:
    import timm  # its import takes seconds

    name, _, weights = text.removeprefix("timm:").partition("@")
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise UserError(f"encoder '{text}': timm has no such model{nearest(name, known)}")
    if weights and not Path(weights).is_file():
        raise UserError(f"encoder '{text}': no file '{weights}'")
    try:
        model: Any = timm.create_model(name, pretrained=not weights, num_classes=0, checkpoint_path=weights)
    except Exception as error:  # downloads and readers raise errors of any type
        raise UserError(f"encoder '{text}': cannot be loaded: {_one_line(error)}") from None
    data = model.pretrained_cfg
    # Blocks of vision transformers return tokens; those of other models return maps of several sizes.
    num_blocks = len(model.blocks) if isinstance(model, timm.models.VisionTransformer) else 0
    return LibraryEncoder(
        text, model, _encode_frames, mean_std=(tuple(data["mean"]), tuple(data["std"])),
        clip_shape=(num_frames, int(data["input_size"][1])), num_layers=num_blocks,
        rebuild=partial(timm.create_model, name, num_classes=0),
    )  # fmt: skip


def _from_clip(text: str, num_frames: int) -> LibraryEncoder:
    name, _, weights = text.removeprefix("clip:").partition("@")
    visual = load_clip(name, pretrained=weights or None).visual
    mean, std = getattr(visual, "image_mean", IMAGENET_MEAN), getattr(visual, "image_std", IMAGENET_STD)
    size = visual.image_size
    return LibraryEncoder(
        text, visual, _encode_frames, mean_std=(tuple(mean), tuple(std)),
        clip_shape=(num_frames, int(size[0] if isinstance(size, tuple) else size)), num_layers=0,
    )  # fmt: skip


def _encode_frames(model: Any, clips: Tensor, layer: int) -> Tensor:
    images = clips.flatten(0, 1)
    tokens = model(images)[:, None] if layer < 0 else block_output(model.blocks[layer], model, images)
    return torch.as_tensor(tokens.unflatten(0, clips.shape[:2]))


def _is_foreign_transformers(folder: Path) -> bool:
    """Return whether a folder holds a transformers model other than VideoMAE."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") != "videomae"


def _from_transformers(text: str, num_frames: int) -> LibraryEncoder:
    """Load an image or video model with transformers; its config says which."""
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise UserError(f"encoder '{text}': needs the package transformers") from None
    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = transformers.AutoModel.from_pretrained(
            text, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # its readers raise errors of any type
        raise UserError(f"encoder '{text}': cannot be loaded: {_one_line(error)}") from None
    missing = sorted(info["missing_keys"])
    if hasattr(model, "vision_model"):  # of a model of images and text
        missing = [name for name in missing if name.startswith("vision_model.")]
        model = model.vision_model
    # Without its weights the pooler would be random; the mean of the tokens is read instead.
    lacking = [name for name in missing if "pooler." not in name]
    if lacking:
        raise UserError(f"encoder '{text}': its files lack {len(lacking)} tensors, the first is {lacking[0]}")
    config = model.config
    side = getattr(config, "image_size", getattr(config, "crop_size", None))
    frames = getattr(config, "num_frames", getattr(config, "frames_per_clip", None))
    if side is None or not hasattr(config, "num_hidden_layers"):
        raise UserError(f"encoder '{text}': '{config.model_type}' is not a transformer of images or video")
    file = Path(text) / "preprocessor_config.json"
    pixels = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    mean, std = pixels.get("image_mean", IMAGENET_MEAN), pixels.get("image_std", IMAGENET_STD)
    # X-CLIP reads the frames of its clips one after the other, as images.
    as_images = not frames or config.model_type.startswith("xclip")
    encode = partial(_encode_images, pooled=not missing) if as_images else _encode_video
    return LibraryEncoder(
        text, model, encode, mean_std=(tuple(mean), tuple(std)),
        clip_shape=(frames or num_frames, side if isinstance(side, int) else side[0]),
        num_layers=config.num_hidden_layers,
    )  # fmt: skip


def _check_forward(encoder: FrozenEncoder) -> None:
    """Run a model of transformers twice on one clip.

    Raises:
        UserError: it cannot be run, or gives other tokens the second time.
    """
    shape = (1, encoder.num_frames, 3, encoder.side, encoder.side)
    clip = (torch.arange(math.prod(shape)) % 251).to(torch.uint8).view(shape)
    try:
        first, second = encoder.encode(clip), encoder.encode(clip)
    except UserError:
        raise
    except Exception as error:  # models of many kinds raise errors of any type
        raise UserError(f"encoder '{encoder.name}': is not supported: {_one_line(error)}") from None
    if not torch.allclose(first, second, rtol=1e-2, atol=1e-2 * float(first.std(correction=0))):
        raise UserError(f"encoder '{encoder.name}': is not supported: its tokens of a clip are random")


def _unmasked(model: Any, num_images: int) -> dict[str, Any]:
    """Return the arguments for ViT-MAE to encode all patches in order; by default it drops random ones."""
    if model.config.model_type != "vit_mae":
        return {}
    model.config.mask_ratio = 0.0
    patches = model.embeddings.patch_embeddings.num_patches
    order = torch.arange(patches, device=model.device, dtype=torch.float32)
    return {"noise": order.expand(num_images, -1)}


def _encode_images(model: Any, clips: Tensor, layer: int, *, pooled: bool) -> Tensor:
    images = clips.flatten(0, 1)
    out = model(pixel_values=images, output_hidden_states=True, **_unmasked(model, len(images)))
    pooled_tokens = getattr(out, "pooler_output", None) if pooled else None
    last = out.last_hidden_state if pooled_tokens is None else pooled_tokens[:, None]
    tokens = last if layer < 0 else out.hidden_states[layer + 1]
    return torch.as_tensor(tokens.unflatten(0, clips.shape[:2]))


def _encode_video(model: Any, clips: Tensor, layer: int) -> Tensor:
    options = {"output_hidden_states": True}
    if "skip_predictor" in inspect.signature(model.forward).parameters:  # of V-JEPA 2
        options["skip_predictor"] = True
    out = model(**{model.main_input_name: clips}, **options)
    tokens = out.last_hidden_state if layer < 0 else out.hidden_states[layer + 1]
    # V-JEPA 2 orders tokens by time; others have a class token or order them by place.
    times = clips.shape[1] // model.config.tubelet_size if model.config.model_type == "vjepa2" else 1
    return torch.as_tensor(tokens.unflatten(1, (times, -1)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
