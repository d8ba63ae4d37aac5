"""Names and configurations of VideoMAE in transformers (the same in its releases 4 and 5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smile_synth.core.errors import UserError
from smile_train.models._config import EncoderConfig
from smile_train.models._encoder import NORM_EPS

# The published names -> those of transformers.
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_TOP = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
    "fc_norm": "fc_norm",
    "head": "classifier",
}
# Of VideoMAEConfig.
_DEFAULTS = {
    "image_size": 224, "patch_size": 16, "num_frames": 16, "tubelet_size": 2, "hidden_size": 768,
    "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
}  # fmt: skip
_QKV = ("query", "key", "value")


def to_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of an `Encoder` or `VideoClassifier`, without the prefix ``videomae.``."""
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if not name.startswith("blocks."):
            out[f"{_TOP[module]}.{leaf}"] = tensor
            continue
        _, number, inner = module.split(".", 2)
        layer = f"encoder.layer.{number}."
        if inner in _BLOCK:
            out[f"{layer}{_BLOCK[inner]}.{leaf}"] = tensor
        elif inner == "attn.qkv":
            for part, rows in zip(_QKV, tensor.chunk(3), strict=True):
                out[f"{layer}attention.attention.{part}.weight"] = rows
        else:  # attn.q_bias, attn.v_bias
            out[f"{layer}attention.attention.{leaf}"] = tensor
    return out


def from_transformers_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the encoder's and classifier's tensors to the published names; drop a decoder."""
    blocks = {new: old for old, new in _BLOCK.items()}
    top = {new: old for old, new in _TOP.items()}
    out: dict[str, Tensor] = {}
    qkv: dict[str, dict[str, Tensor]] = {}
    for full_name, tensor in tensors.items():
        name = full_name.removeprefix("videomae.")
        module, _, leaf = name.rpartition(".")
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", module)
        if module in top:
            out[f"{top[module]}.{leaf}"] = tensor
        elif match and match[2] in blocks:
            out[f"blocks.{match[1]}.{blocks[match[2]]}.{leaf}"] = tensor
        elif match and leaf in ("q_bias", "v_bias"):
            out[f"blocks.{match[1]}.attn.{leaf}"] = tensor
        elif match and (part := match[2].rpartition(".")[2]) in _QKV:
            if leaf == "weight":
                qkv.setdefault(match[1], {})[part] = tensor
            elif part != "key":  # release 5 saves q_bias as query.bias
                out[f"blocks.{match[1]}.attn.{part[0]}_bias"] = tensor
    for number, parts in qkv.items():
        if len(parts) == len(_QKV):
            out[f"blocks.{number}.attn.qkv.weight"] = torch.cat([parts[part] for part in _QKV])
    return out


def to_transformers_config(config: EncoderConfig) -> dict[str, Any]:
    """Return the entries of transformers' ``config.json`` for an encoder.

    Raises:
        UserError: separable positions or frames that are not square.
    """
    if config.positions != "joint":
        raise UserError("format 'transformers': needs joint positions, the student has separable positions")
    if config.size_hw[0] != config.size_hw[1]:
        raise UserError(f"format 'transformers': needs square frames, the student has {config.size_hw}")
    return {
        "model_type": "videomae",
        "image_size": config.size_hw[0],
        "patch_size": config.patch_size,
        "num_channels": 3,
        "num_frames": config.num_frames,
        "tubelet_size": config.tubelet_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": NORM_EPS,
        "qkv_bias": True,
        "attention_probs_dropout_prob": 0.0,
        "hidden_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
    }


def from_transformers_config(path: Path, config: Mapping[str, Any]) -> EncoderConfig:
    """Return the encoder of transformers' ``config.json`` at ``path``; it may omit default values.

    Raises:
        UserError: wrong entries.
    """
    config = {**_DEFAULTS, **config}
    try:
        side, width = int(config["image_size"]), config["hidden_size"]
        return EncoderConfig(
            width=width, depth=config["num_hidden_layers"], heads=config["num_attention_heads"],
            num_frames=config["num_frames"], size_hw=(side, side), patch_size=config["patch_size"],
            tubelet_size=config["tubelet_size"], mlp_ratio=config["intermediate_size"] / width,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{path}': not the config of a VideoMAE: {error}") from None
