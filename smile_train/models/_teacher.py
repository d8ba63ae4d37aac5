"""Frozen teachers: image transformers of open_clip and timm; a clip in, patch tokens out.

Both libraries are imported where they are used: they take seconds to load, and many runs need no teacher.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.resources import shipped
from smile_train.config import TeacherOptions
from smile_train.models._token_cache import TokenCache
from smile_train.models._weights import check_fit, read_tensors

TINY_CLIP = "tiny-clip"
LOCAL, TIMM = "local-dir:", "timm:"
# What OpenAI's files hold beside the weights.
OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")

Size = tuple[int, int]


class Teacher(nn.Module):
    """A frozen image transformer that gives the patch tokens of chosen blocks, frame by frame.

    By default those of the last block, after the final norm and before the projection, without the class
    token (arXiv 2504.00527). They stand in the student's order: time, rows, columns. It never leaves
    evaluation mode, and nothing in it takes a gradient.

    Attributes:
        options: of the run.
        grid_hw: patches along height and width that it gives, after any interpolation.
        widths: channels of each chosen layer, which stand one after the other in a token.
        width: channels of a token, their sum.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        visual: Any,
        options: TeacherOptions | None = None,
        *,
        frame_stride: int = 2,
        grid_hw: Size | None = None,
    ) -> None:
        """Take an image tower.

        Args:
            visual: ``model.visual`` of an open_clip model, or a vision transformer of timm.
            options: which layers, how they are finished and how pixels are fed; the defaults if left out.
            frame_stride: every how many frames one is looked at, the student's tubelet size.
            grid_hw: patches to interpolate to; its own if left out.

        Raises:
            UserError: it is no vision transformer, or has not what the options ask for.
        """
        from open_clip.timm_model import TimmModel
        from open_clip.transformer import VisionTransformer

        super().__init__()
        self.options = options = options or TeacherOptions()
        trunk = visual.trunk if isinstance(visual, TimmModel) else visual
        own = isinstance(trunk, VisionTransformer)
        if not own and not (hasattr(trunk, "forward_intermediates") and hasattr(trunk, "patch_embed")):
            raise UserError(
                f"teacher: needs a vision transformer with patch tokens, got {type(trunk).__name__}"
            )
        blocks = trunk.transformer.resblocks if own else trunk.blocks
        width = trunk.transformer.width if own else trunk.embed_dim
        self.image_size_hw: Size = tuple(trunk.image_size if own else trunk.patch_embed.img_size)
        self.own_grid_hw: Size = tuple(trunk.grid_size if own else trunk.patch_embed.grid_size)
        self.grid_hw = grid_hw or self.own_grid_hw
        self.frame_stride = frame_stride
        self.layers = _layers(options, len(blocks))
        self._norm, self._projection = _finish(trunk, options, own)
        self._own = own
        self.trunk = trunk.eval().requires_grad_(False)
        if options.precision == "bf16":
            self.trunk.bfloat16()
        channels = width if self._projection is None else self._projection.shape[1]
        self.widths = (channels,) * len(self.layers)
        self.width = sum(self.widths)
        mean, std = _statistics(visual, options.normalisation)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if options.compile:
            self.compile()
        self._cache = TokenCache(options.cache, self.digest()) if options.cache else None

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode, whatever the student does."""
        return super().train(False)

    def digest(self) -> str:
        """Return what its tokens depend on, hashed: options, weights, grid, libraries."""
        used = self.options.model_dump(exclude={"cache", "compile", "model", "pretrained"})
        packages = {name: version(name) for name in ("torch", "open_clip_torch", "timm")}
        facts = [used, packages, self.grid_hw, self.image_size_hw, self.frame_stride]
        sha = hashlib.sha256(json.dumps(facts).encode())
        for name, tensor in sorted(self.trunk.state_dict().items()):
            sha.update(name.encode() + tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def look(self, frames: Tensor) -> Tensor:
        """Return what `forward` does, of uint8 clips ``[B, T, 3, H, W]``; from the cache what it has."""
        if self._cache is None:
            tokens: Tensor = self(frames.float() / 255)
            return tokens
        return self._cache(frames, lambda missing: self(missing.float() / 255))

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Return tokens ``[B, T / frame_stride * h * w, width]`` of clips ``[B, T, 3, H, W]`` in 0..1.

        Raises:
            ValueError: frames of another size than its own, where none is given to resize them to.
        """
        frames = clips[:, :: self.frame_stride]
        batch, time = frames.shape[:2]
        images = frames.flatten(0, 1)
        if tuple(images.shape[-2:]) != self.image_size_hw:
            if self.options.input_size is None:
                raise ValueError(
                    f"the teacher takes {self.image_size_hw} frames, got {tuple(clips.shape[-2:])}"
                )
            images = F.interpolate(images, self.image_size_hw, mode="bicubic", antialias=True)
        images = (images - self.mean) / self.std
        if self.options.precision == "auto":
            tokens: Tensor = self._layer_tokens(images)
        else:
            with torch.autocast(clips.device.type, enabled=False):
                tokens = self._layer_tokens(images.to(next(self.trunk.parameters()).dtype))
        return tokens.reshape(batch, time * tokens.shape[1], self.width)

    def _layer_tokens(self, images: Tensor) -> Tensor:
        found = self.trunk.forward_intermediates(
            images, indices=list(self.layers), stop_early=True, intermediates_only=True, output_fmt="NLC"
        )
        layers: list[Tensor] = found["image_intermediates"] if self._own else found
        order = sorted(set(self.layers))
        return torch.cat([self._finished(layers[order.index(layer)]) for layer in self.layers], dim=-1)

    def _finished(self, tokens: Tensor) -> Tensor:
        if self._norm is not None:
            tokens = self._norm(tokens)
        if self._projection is not None:
            tokens = tokens @ self._projection
        if self.grid_hw != self.own_grid_hw:
            image = tokens.transpose(1, 2).unflatten(2, self.own_grid_hw)
            image = F.interpolate(image.float(), self.grid_hw, mode="bilinear", antialias=True)
            tokens = image.flatten(2).transpose(1, 2)
        return tokens


def _layers(options: TeacherOptions, num_blocks: int) -> tuple[int, ...]:
    outside = [layer for layer in options.layers if not -num_blocks <= layer < num_blocks]
    if outside:
        raise UserError(
            f"teacher.layers: {outside[0]} given, but '{options.model}' has blocks 0..{num_blocks - 1} "
            f"(or -{num_blocks}..-1, counted from the last)"
        )
    return tuple(layer % num_blocks for layer in options.layers)


def _finish(trunk: Any, options: TeacherOptions, own: bool) -> tuple[nn.Module | None, Tensor | None]:
    """Return the final norm and the projection, where they are wanted."""
    norm: nn.Module | None = None
    if options.final_norm:
        if own and getattr(trunk, "attn_pool", None) is not None:
            raise UserError(
                f"teacher '{options.model}': pools before its final norm, so that tokens have none; use "
                "final_norm=false"
            )
        if not own and not hasattr(trunk, "norm"):
            raise UserError(f"teacher '{options.model}': has no final norm of tokens; use final_norm=false")
        # timm moves the norm behind the pooling where the mean of tokens is classified.
        norm = trunk.ln_post if own else trunk.fc_norm if isinstance(trunk.norm, nn.Identity) else trunk.norm
    if not options.projection:
        return norm, None
    if not own or trunk.proj is None:
        raise UserError(f"teacher '{options.model}': has no projection of tokens; use projection=false")
    return norm, trunk.proj


def _statistics(visual: Any, wanted: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    if wanted == "imagenet":
        return IMAGENET_MEAN, IMAGENET_STD
    if wanted == "clip":
        return OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    if hasattr(visual, "image_mean"):
        return tuple(visual.image_mean), tuple(visual.image_std)
    return tuple(visual.pretrained_cfg["mean"]), tuple(visual.pretrained_cfg["std"])


def load_teacher(options: TeacherOptions, *, size_hw: Size, patch_size: int, tubelet_size: int) -> Teacher:
    """Load the teacher of a student with the given frame size, patch and tubelet.

    Raises:
        UserError: unknown model, weights that cannot be had or do not fit, layers or a norm that it has not,
            or patches that are not the student's and are not to be interpolated.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    model, grid = options.model, (size_hw[0] // patch_size, size_hw[1] // patch_size)
    input_hw = options.input_size or size_hw
    if model.startswith(TIMM):
        visual = _load_timm(model, options.pretrained)
    else:
        loaded = load_clip(
            model, pretrained=options.pretrained, force_quick_gelu=options.force_quick_gelu, size_hw=input_hw
        )
        visual = loaded.visual
    trunk = visual.trunk if isinstance(visual, TimmModel) else visual
    if not isinstance(trunk, VisionTransformer) and hasattr(trunk, "set_input_size"):
        _check_divides(model, input_hw, tuple(trunk.patch_embed.patch_size))
        trunk.set_input_size(img_size=input_hw)
    interpolated = grid if options.grid == "interpolate" else None
    teacher = Teacher(visual, options, frame_stride=tubelet_size, grid_hw=interpolated)
    if teacher.grid_hw != grid:
        own_patch = [size // n for size, n in zip(input_hw, teacher.own_grid_hw, strict=True)]
        fitting = [n * side for n, side in zip(grid, own_patch, strict=True)]
        raise UserError(
            f"teacher '{model}': has {teacher.grid_hw[0]}x{teacher.grid_hw[1]} patches at "
            f"{input_hw[0]}x{input_hw[1]}, the student {grid[0]}x{grid[1]}; choose a teacher with patch size "
            f"{patch_size}, teacher.input_size={fitting} or teacher.grid=interpolate"
        )
    return teacher


def load_clip(
    model: str,
    *,
    pretrained: str | None = None,
    force_quick_gelu: bool = False,
    size_hw: Size | None = None,
) -> Any:
    """Load an open_clip model in evaluation mode.

    Args:
        model: ``tiny-clip`` (ships with the project), an open_clip name, or ``local-dir:FOLDER``.
        pretrained: a tag of open_clip or a file of weights, for a name.
        force_quick_gelu: OpenAI's weights need it when they are loaded from a file.
        size_hw: another input size than the model's own.

    Raises:
        UserError: unknown model, weights that cannot be had, or OpenAI's without QuickGELU.
    """
    import open_clip
    from open_clip.transformer import VisionTransformer

    name = f"{LOCAL}{shipped('assets') / TINY_CLIP}" if model == TINY_CLIP else model
    local = name.startswith(LOCAL)
    if local and not (Path(name.removeprefix(LOCAL)) / "open_clip_config.json").is_file():
        raise UserError(f"teacher '{model}': no open_clip_config.json in that folder")
    known = open_clip.list_models()
    if not local and ":" not in name and name not in known:
        raise UserError(f"teacher '{model}': open_clip knows no such model{nearest(name, known)}")
    if not local and ":" not in name and not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UserError(
            f"teacher '{model}': needs pretrained weights: a file, or one of {', '.join(tags) or '(none)'}"
        )
    openai = _read_openai(Path(pretrained)) if pretrained and Path(pretrained).is_file() else None
    quick = force_quick_gelu or name not in known or open_clip.get_model_config(name).get("quick_gelu")
    if openai is not None and not quick:
        other = f"take {name}-quickgelu, or" if f"{name}-quickgelu" in known else "set"
        raise UserError(
            f"teacher '{model}': '{pretrained}' holds OpenAI's weights, trained with QuickGELU; with this "
            f"model's GELU its features would be silently wrong; {other} force_quick_gelu=true"
        )
    disabled = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            # A QuickGELU mismatch gives silently wrong features: refuse it.
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            logging.disable()  # the reason is in the exception
            if openai is None:
                loaded = open_clip.create_model(
                    name,
                    pretrained=pretrained,
                    force_quick_gelu=force_quick_gelu,
                    require_pretrained=True,
                )
            else:
                loaded = open_clip.create_model(name, force_quick_gelu=force_quick_gelu, load_weights=False)
                loaded.load_state_dict({key: value.float() for key, value in openai.items()})
            if pretrained and Path(pretrained).is_file():
                _set_statistics(loaded.visual, name)
            if size_hw and isinstance(loaded.visual, VisionTransformer):
                _check_divides(model, size_hw, tuple(loaded.visual.patch_size))
                if tuple(loaded.visual.image_size) != tuple(size_hw):
                    loaded = _resized(loaded, name, size_hw, force_quick_gelu)
    except UserError:
        raise
    except Exception as error:  # open_clip raises whatever its downloads and readers raise
        reason = " ".join(str(error).split())[:400]
        raise UserError(
            f"teacher '{model}' (weights: {pretrained or 'own folder'}): cannot be loaded: {reason}"
        ) from None
    finally:
        logging.disable(disabled)
    return loaded.eval()


def _resized(model: Any, name: str, size_hw: Size, force_quick_gelu: bool) -> Any:
    """Return the model for another input size, positions interpolated in float32, whatever is stored."""
    import open_clip
    from open_clip.model import resize_pos_embed

    other = open_clip.create_model(
        name, force_quick_gelu=force_quick_gelu, force_image_size=tuple(size_hw), load_weights=False
    )
    weights = {key: value.float() for key, value in model.state_dict().items()}
    resize_pos_embed(weights, other)
    other.load_state_dict(weights)
    other.visual.image_mean, other.visual.image_std = model.visual.image_mean, model.visual.image_std
    return other


def _set_statistics(visual: Any, name: str) -> None:
    """Give a model read from a file the pixel statistics of its published weights, where these agree."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    published = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    if len({(tuple(one["mean"]), tuple(one["std"])) for one in published}) == 1:
        visual.image_mean, visual.image_std = published[0]["mean"], published[0]["std"]


def _read_openai(path: Path) -> dict[str, Tensor] | None:
    """Return the weights of a file in OpenAI's form (a TorchScript archive or its state); None of others."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("constants.pkl") for name in archive.namelist())
        if scripted:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # PyTorch would rather have torch.export
                    tensors: dict[str, Tensor] = torch.jit.load(str(path), map_location="cpu").state_dict()
            except RuntimeError as error:
                raise UserError(
                    f"{path}: damaged TorchScript archive: {str(error).splitlines()[0]}"
                ) from None
            return {name: tensor for name, tensor in tensors.items() if name not in OPENAI_EXTRAS}
    try:
        tensors = read_tensors(path)
    except UserError:
        return None  # another format: open_clip reads it, or says why not
    if not any(name in tensors for name in OPENAI_EXTRAS) and "openai" not in path.name.lower():
        return None
    return {name: tensor for name, tensor in tensors.items() if name not in OPENAI_EXTRAS}


def _load_timm(model: str, pretrained: str | None) -> Any:
    import timm

    name = model.removeprefix(TIMM)
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise UserError(f"teacher '{model}': timm knows no such model{nearest(name.split('.')[0], known)}")
    if not pretrained:
        raise UserError(f"teacher '{model}': needs pretrained weights from a local file: teacher.pretrained")
    tensors = read_tensors(Path(pretrained))
    trunk = timm.create_model(name, pretrained=False, num_classes=0)
    if not hasattr(trunk, "blocks") or not hasattr(trunk, "patch_embed"):
        raise UserError(f"teacher '{model}': is no vision transformer with patch tokens")
    # Files of training runs wrap the network; timm's own filter knows the layouts of other projects.
    tensors = {key.removeprefix("module.").removeprefix("backbone."): v for key, v in tensors.items()}
    adapt = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    try:
        tensors = adapt(tensors, trunk) if adapt else tensors
    except (KeyError, RuntimeError, AttributeError, IndexError) as error:
        raise UserError(
            f"{pretrained}: does not fit timm's '{name}': {' '.join(str(error).split())}"
        ) from None
    wanted = trunk.state_dict()
    tensors = {key: v for key, v in tensors.items() if key in wanted or not key.startswith("head")}
    check_fit(Path(pretrained), tensors, wanted)
    trunk.load_state_dict(tensors)
    return trunk.eval()


def _check_divides(model: str, size_hw: Size, patch_hw: Size) -> None:
    if size_hw[0] % patch_hw[0] or size_hw[1] % patch_hw[1]:
        raise UserError(
            f"teacher '{model}': frames of {size_hw[0]}x{size_hw[1]} do not divide into its patches of "
            f"{patch_hw[0]}x{patch_hw[1]}; give teacher.input_size, height and width in multiples of them"
        )
