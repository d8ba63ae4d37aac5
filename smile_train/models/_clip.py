"""Loading of CLIP models of open_clip, with checks for weights that would load but give wrong features.

open_clip is imported inside the functions: it takes seconds to import, and many runs need no teacher.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.resources import shipped
from smile_train.models._config import Size
from smile_train.models._tensors import read_tensors

TINY_CLIP = "tiny-clip"
LOCAL = "local-dir:"
# Entries of OpenAI's files beside the weights.
OPENAI_EXTRAS = ("input_resolution", "context_length", "vocab_size")


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
        force_quick_gelu: replace GELU by QuickGELU; OpenAI's weights need it if they come from a file.
        size_hw: input size of a vision transformer, if not its own. Positions are interpolated.

    Raises:
        UserError: unknown model, weights that cannot be loaded, or OpenAI's weights without QuickGELU.
    """
    import open_clip
    from open_clip.transformer import VisionTransformer

    name = f"{LOCAL}{shipped('assets') / TINY_CLIP}" if model == TINY_CLIP else model
    _check_name(model, name, pretrained)
    file = Path(pretrained) if pretrained and Path(pretrained).is_file() else None
    openai = _read_openai(file) if file else None
    if openai is not None and not force_quick_gelu:
        _check_quick_gelu(model, name, file)
    with _one_line_errors(model, pretrained):
        if openai is None:
            loaded = open_clip.create_model(
                name, pretrained=pretrained, force_quick_gelu=force_quick_gelu, require_pretrained=True
            )
        else:
            loaded = open_clip.create_model(name, force_quick_gelu=force_quick_gelu, load_weights=False)
            loaded.load_state_dict({key: value.float() for key, value in openai.items()})
        if file:
            _set_statistics(loaded.visual, name)
        if size_hw and isinstance(loaded.visual, VisionTransformer):
            check_divides(model, size_hw, tuple(loaded.visual.patch_size))
            if tuple(loaded.visual.image_size) != tuple(size_hw):
                loaded = _resized(loaded, name, size_hw, force_quick_gelu)
    return loaded.eval()


def check_divides(model: str, size_hw: Size, patch_hw: Size) -> None:
    """Check that frames divide into a teacher's patches.

    Raises:
        UserError: they do not.
    """
    if size_hw[0] % patch_hw[0] or size_hw[1] % patch_hw[1]:
        raise UserError(
            f"teacher '{model}': frames of {size_hw[0]}x{size_hw[1]} do not divide into its patches of "
            f"{patch_hw[0]}x{patch_hw[1]}; give teacher.input_size, height and width in multiples of them"
        )


def _check_name(model: str, name: str, pretrained: str | None) -> None:
    import open_clip

    if name.startswith(LOCAL):
        if not (Path(name.removeprefix(LOCAL)) / "open_clip_config.json").is_file():
            raise UserError(f"teacher '{model}': no open_clip_config.json in that folder")
        return
    if ":" in name:  # another scheme of open_clip, e.g. hf-hub:
        return
    known = open_clip.list_models()
    if name not in known:
        raise UserError(f"teacher '{model}': unknown to open_clip{nearest(name, known)}")
    if not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UserError(
            f"teacher '{model}': needs pretrained weights: a file, or one of {', '.join(tags) or '(none)'}"
        )


def _check_quick_gelu(model: str, name: str, file: Path | None) -> None:
    import open_clip

    known = open_clip.list_models()
    if name in known and not open_clip.get_model_config(name).get("quick_gelu"):
        other = f"use {name}-quickgelu, or" if f"{name}-quickgelu" in known else "set"
        raise UserError(
            f"teacher '{model}': '{file}' holds OpenAI's weights, which were trained with QuickGELU; this "
            f"model's GELU would give wrong features without an error; {other} force_quick_gelu=true"
        )


@contextmanager
def _one_line_errors(model: str, pretrained: str | None) -> Iterator[None]:
    """Turn the errors of open_clip's downloads and readers into one line, and silence its logging."""
    disabled = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            # A QuickGELU mismatch gives wrong features without an error.
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            logging.disable()  # the exception holds the reason
            yield
    except UserError:
        raise
    except Exception as error:  # open_clip raises errors of any type
        reason = " ".join(str(error).split())[:400]
        raise UserError(
            f"teacher '{model}' (weights: {pretrained or 'own folder'}): cannot be loaded: {reason}"
        ) from None
    finally:
        logging.disable(disabled)


def _resized(model: Any, name: str, size_hw: Size, force_quick_gelu: bool) -> Any:
    """Return the model for another input size. Positions are interpolated in float32."""
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
    """Set the pixel statistics of a model from a file to those of its published weights, if all agree.

    open_clip stores the statistics with its tags, so a model that is read from a file has default ones.
    """
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    published = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    if len({(tuple(one["mean"]), tuple(one["std"])) for one in published}) == 1:
        visual.image_mean, visual.image_std = published[0]["mean"], published[0]["std"]


def _read_openai(path: Path) -> dict[str, Tensor] | None:
    """Return the weights of an OpenAI file (a TorchScript archive or its state); None for other files."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            scripted = any(name.endswith("constants.pkl") for name in archive.namelist())
        if scripted:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # PyTorch recommends torch.export
                    tensors: dict[str, Tensor] = torch.jit.load(str(path), map_location="cpu").state_dict()
            except RuntimeError as error:
                raise UserError(
                    f"{path}: damaged TorchScript archive: {str(error).splitlines()[0]}"
                ) from None
            return {name: tensor for name, tensor in tensors.items() if name not in OPENAI_EXTRAS}
    try:
        tensors = read_tensors(path)
    except UserError:
        return None  # another format: open_clip reads it or reports the error
    if not any(name in tensors for name in OPENAI_EXTRAS) and "openai" not in path.name.lower():
        return None
    return {name: tensor for name, tensor in tensors.items() if name not in OPENAI_EXTRAS}
