"""Files of weights: read without running code, told apart, and held against a model."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from smile_synth.core.errors import UserError

# Where files keep their weights beside other things.
CONTAINERS = ("model", "module", "state_dict", "teacher")
SHOWN_MISFITS = 3


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors`` file or of a pickle that holds nothing but plain values.

    Raises:
        UserError: the file is missing, damaged or needs code to be read, or holds no table of tensors at the
            top or under one of `CONTAINERS`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            # Published checkpoints carry their command line's Namespace, which holds plain values.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no pickle fails in any way
        reason = why_unreadable(error)
        raise UserError(f"{path}: not a checkpoint of plain tensors: {reason}") from error
    if isinstance(content, dict):
        inner = [content[name] for name in CONTAINERS if isinstance(content.get(name), dict)]
        content = inner[0] if inner else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        names = "' or '".join(CONTAINERS)
        raise UserError(f"{path}: no table of tensors at the top or under '{names}'")
    return content


def why_unreadable(error: Exception) -> str:
    """Return in one line why a file of weights could not be read."""
    if isinstance(error, pickle.UnpicklingError):  # PyTorch's text advises to run what is in it
        return "damaged, or it holds more than plain values, and code in files is not run"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """Return what the names of a checkpoint say it is; "pretraining" and "fine-tuning" are VideoMAE's."""
    has = tensors.__contains__
    if any(name.startswith("videomae.") for name in tensors):
        return "transformers VideoMAE"
    if any(name.startswith("visual.") for name in tensors):
        return "CLIP"
    if has("encoder.patch_embed.proj.weight"):
        return "pretraining"
    if has("cls_token") or has("pos_embed"):
        return "plain ViT"
    if has("patch_embed.proj.weight") and has("fc_norm.weight"):
        return "fine-tuning"
    return "non-VideoMAE"


def check_fit(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Hold the tensors of a file against those of a model.

    Raises:
        UserError: names or shapes differ; the first few are named.
    """

    def shape(tensors: Mapping[str, Tensor], name: str) -> str:
        return str(list(tensors[name].shape)) if name in tensors else "nothing"

    names = [*wanted, *(name for name in found if name not in wanted)]
    lines = [
        f"{name} (file {shape(found, name)}, model {shape(wanted, name)})"
        for name in names
        if shape(found, name) != shape(wanted, name)
    ]
    if lines:
        more = f" and {len(lines) - SHOWN_MISFITS} more" if len(lines) > SHOWN_MISFITS else ""
        count = f"{len(lines)} tensors do" if len(lines) > 1 else "1 tensor does"
        shown = ", ".join(lines[:SHOWN_MISFITS])
        raise UserError(f"{path}: {count} not fit the model: {shown}{more}")
