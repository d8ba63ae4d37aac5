"""Checkpoints as other people's training code writes them: read, or refused in one line by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from smile_synth import UserError
from smile_train.evaluate import load_encoder
from smile_train.models import (
    Encoder,
    EncoderConfig,
    Student,
    StudentConfig,
    build_encoder,
    read_tensors,
    to_transformers_config,
    to_transformers_names,
)

CONFIG = EncoderConfig(width=64, depth=2, heads=1, num_frames=4, size_hw=(8, 8), patch_size=4, mlp_ratio=2.0)
SIZE: dict[str, Any] = {"num_frames": 4, "size_hw": (8, 8)}
Tensors = dict[str, Tensor]


def encoder(seed: int = 0, config: EncoderConfig = CONFIG) -> Encoder:
    return Encoder(config, generator=torch.Generator().manual_seed(seed)).eval()


def student() -> Student:
    config = StudentConfig(encoder=CONFIG, decoder_width=8, decoder_depth=1, decoder_heads=1, target_dim=5)
    return Student(config, generator=torch.Generator().manual_seed(0)).eval()


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def equal(path: Path, expected: Encoder) -> bool:
    """Return whether a file gives the tokens of an encoder."""
    clips = torch.linspace(-1, 1, 2 * 4 * 3 * 64).view(2, 4, 3, 8, 8)
    return torch.equal(build_encoder(path, **SIZE)(clips), expected(clips))


OWN = encoder().state_dict()
OTHER = encoder(1).state_dict()
WRAPPED: dict[str, object] = {
    "DDP": {"model": prefixed("module.", OWN)},
    "torch.compile": {"model": prefixed("_orig_mod.", OWN)},
    "both": prefixed("module._orig_mod.", OWN),
    "FSDP": prefixed("_fsdp_wrapped_module.", OWN),
    "compiled blocks": {name.replace("blocks.1.", "blocks.1._orig_mod."): t for name, t in OWN.items()},
    "Lightning": {"state_dict": {**prefixed("model.", OWN), "criterion.weight": torch.ones(3)}, "epoch": 3},
    "mmcv": {"state_dict": {**prefixed("backbone.", OWN), "cls_head.fc_cls.bias": torch.ones(3)}},
    "encoder": prefixed("encoder.", OWN),
    "student and teacher": {**prefixed("student.", OTHER), **prefixed("teacher.", OWN)},
    "student": {**prefixed("student.backbone.", OWN), "student.head.weight": torch.ones(3)},
    "momentum": {**prefixed("module.momentum_encoder.", OTHER), **prefixed("module.base_encoder.", OWN)},
    "any": prefixed("video.tower.net.", OWN),
    "model_state": {"model_state": OWN, "optimizer_state": {"lr": 0.1}, "cfg": "TRAIN: true"},
    "teacher": {"student": prefixed("backbone.", OTHER), "teacher": prefixed("backbone.", OWN)},
    "ema": {"epoch": 4, "model_ema": OWN, "optimizer": {"state": {}, "param_groups": []}},
    "containers": {"state": {"model": OWN, "step": 4}},
    "numbers": {"model": {**OWN, "num_batches": 7, "version": "1.0", "scale": 0.5}},
    "NumPy scalars": {"model": OWN, "best": np.float64(3.5), "epoch": np.int64(4), "loss": np.float32(0.5)},
    "NumPy arrays": {name: tensor.numpy() for name, tensor in OWN.items()},
    "empty first": {"model": {}, "state_dict": OWN},
    "half": {"model": {name: tensor.double() for name, tensor in OWN.items()}},
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_containers_and_prefixes(tmp_path: Path, wrapped: str) -> None:
    torch.save(WRAPPED[wrapped], tmp_path / "weights.pth")
    assert equal(tmp_path / "weights.pth", encoder())


@pytest.mark.parametrize("name", ["a.pth", "a.pth.tar", "a.pyth", "a.bin", "a.ckpt", "a.pt", "a.pkl", "a"])
def test_suffixes(tmp_path: Path, name: str) -> None:
    torch.save(OWN, tmp_path / name)
    assert equal(tmp_path / name, encoder())
    if "." in name:
        with pytest.raises(UserError, match="no such checkpoint file"):
            build_encoder(tmp_path / f"missing.{name.partition('.')[2]}")


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "ema.module."])
def test_pretraining_weights_below_a_prefix(tmp_path: Path, prefix: str) -> None:
    torch.save({"model": prefixed(prefix, student().state_dict())}, tmp_path / "a.pth")
    assert equal(tmp_path / "a.pth", student().encoder)


def test_wide_encoders_have_their_published_heads(tmp_path: Path) -> None:
    giant = EncoderConfig(
        width=1408, depth=1, heads=16, num_frames=2, size_hw=(8, 8), patch_size=4, mlp_ratio=1 / 11
    )
    torch.save({"module": prefixed("model.", encoder(0, giant).state_dict())}, tmp_path / "a.pth")
    assert build_encoder(tmp_path / "a.pth", num_frames=2, size_hw=(8, 8)).config.heads == 16


class Other:
    """A class of somebody's training code."""


PATCHES_3D, PATCHES_2D = torch.zeros(8, 3, 2, 4, 4), torch.zeros(8, 3, 4, 4)
REFUSED: dict[str, tuple[object, str]] = {
    "code": ({"model": OWN, "args": Other()}, "holds more than plain values; code in files is not run"),
    "nothing": ({"epoch": 3}, "no table of tensors at the top or under 'model' or 'module'"),
    "list": ([torch.zeros(3)], "no table of tensors"),
    "NaN": ({**OWN, "norm.bias": OWN["norm.bias"] / 0}, "1 of 30 tensors hold NaN .* the first is norm.bias"),
    "infinite": ({"model": {**OWN, "norm.bias": OWN["norm.bias"] + torch.inf}}, "its training diverged"),
    "V-JEPA": (
        prefixed(
            "module.backbone.",
            {
                "pos_embed": torch.zeros(1, 8, 8),
                "patch_embed.proj.weight": PATCHES_3D,
                "blocks.0.attn.qkv.bias": torch.zeros(24),
                "blocks.0.mlp.fc1.weight": torch.zeros(32, 8),
            },
        ),
        r"holds a video ViT with key biases \(as of V-JEPA\) checkpoint",
    ),
    "image ViT": ({"cls_token": torch.zeros(8), "patch_embed.proj.weight": PATCHES_2D}, "is a plain ViT checkpoint"),
    "SlowFast": ({"model_state": {"s1.pathway0_stem.conv.weight": PATCHES_3D}}, "is a SlowFast checkpoint"),
    "ResNet": ({"conv1.weight": PATCHES_2D, "layer1.0.conv1.weight": PATCHES_2D}, "is a ResNet checkpoint"),
    "TimeSformer": ({"model.blocks.0.temporal_attn.qkv.weight": torch.zeros(3)}, "is a TimeSformer checkpoint"),
    "Swin": (
        {"backbone.layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(3)}, "is a Swin checkpoint"
    ),
    "MViT": ({"blocks.0.attn.rel_pos_h": torch.zeros(3)}, "is a MViT checkpoint"),
    "CLIP": ({"visual.conv1.weight": PATCHES_2D}, "is a CLIP checkpoint"),
    "unknown": ({"features.0.weight": torch.zeros(3)}, "is a non-VideoMAE checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_supported_is_named(tmp_path: Path, kind: str) -> None:
    content, message = REFUSED[kind]
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=message) as caught:
        build_encoder(tmp_path / "a.pth", **SIZE)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_gives_nan_is_refused(tmp_path: Path) -> None:
    large = {name: tensor * 1e30 if name.endswith("weight") else tensor for name, tensor in OWN.items()}
    torch.save(large, tmp_path / "a.pth")
    loaded = load_encoder(tmp_path / "a.pth", num_frames=4, side=8)
    with pytest.raises(UserError, match=r"encoder '.*a\.pth': its tokens of a clip are NaN or infinite"):
        loaded.encode(torch.full((1, 4, 3, 8, 8), 200, dtype=torch.uint8))


# --- folders of transformers


def write_parts(folder: Path, tensors: Tensors, name: str, save: Callable[[Tensors, Path], None]) -> None:
    """Write a model in two files with their index."""
    stem, _, suffix = name.rpartition(".")
    files = [f"{stem}-0000{k}-of-00002.{suffix}" for k in (1, 2)]
    names = sorted(tensors)
    weight_map = {}
    for k, file in enumerate(files):
        part = {n: tensors[n].contiguous() for n in names[k::2]}
        save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def hub(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """Write config.json of `CONFIG`; the tensors are named as transformers does."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**to_transformers_config(CONFIG), **config}))
    save_file({n: t.contiguous() for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


def test_weights_of_transformers_in_every_file(tmp_path: Path) -> None:
    tensors = prefixed("videomae.", to_transformers_names(OWN))
    folders = [hub(tmp_path / str(k), tensors) for k in range(5)]
    for folder in folders[1:]:
        (folder / "model.safetensors").unlink()
    torch.save(tensors, folders[1] / "pytorch_model.bin")
    torch.save(prefixed("module.", tensors), folders[2] / "pytorch_model.bin")
    write_parts(folders[3], tensors, "model.safetensors", lambda part, file: save_file(part, file))
    write_parts(folders[4], tensors, "pytorch_model.bin", lambda part, file: torch.save(part, file))
    for folder in folders:
        assert equal(folder, encoder())
    assert equal(folders[1] / "pytorch_model.bin", encoder())
    assert read_tensors(folders[3] / "model.safetensors.index.json").keys() == tensors.keys()
    (folders[4] / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"pytorch_model-00002-of-00002\.bin: no such checkpoint file"):
        build_encoder(folders[4])
    (folders[4] / "pytorch_model.bin.index.json").write_text("[]")
    with pytest.raises(UserError, match="no index of a model in parts"):
        build_encoder(folders[4])
    (folders[1] / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"expected one of model\.safetensors, .* beside config.json, found"):
        build_encoder(folders[1])


def test_an_encoder_without_a_last_norm(tmp_path: Path) -> None:
    tensors = {n: t for n, t in to_transformers_names(OWN).items() if not n.startswith("layernorm.")}
    folder = hub(tmp_path / "pooling", {**prefixed("videomae.", tensors), "mask_token": torch.zeros(1, 1, 4)})
    clips = torch.linspace(-1, 1, 4 * 3 * 64).view(1, 4, 3, 8, 8)
    loaded = build_encoder(folder)
    assert not loaded.config.final_norm
    assert torch.equal(loaded(clips), encoder().encode_tokens(clips))
    random = load_encoder(folder).reinitialised(0)
    assert random.encode(torch.zeros(1, 4, 3, 8, 8, dtype=torch.uint8)).shape == (1, 2, 4, 64)


def test_a_config_may_omit_default_values(tmp_path: Path) -> None:
    folder = hub(tmp_path / "a", to_transformers_names(OWN))
    config = json.loads((folder / "config.json").read_text())
    del config["tubelet_size"], config["num_frames"]
    (folder / "config.json").write_text(json.dumps(config))
    assert build_encoder(folder).config == EncoderConfig(**{**vars(CONFIG), "num_frames": 16})
    del config["image_size"], config["patch_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"file \[64, 3, 2, 4, 4\], model \[64, 3, 2, 16, 16\]"):
        build_encoder(folder)


@pytest.mark.slow
def test_models_of_transformers_that_need_care(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vision: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    clip = (torch.arange(4 * 3 * 64) % 200).to(torch.uint8).view(1, 4, 3, 8, 8)

    def saved(name: str, model: Any) -> str:
        model.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    masked = saved("mae", transformers.ViTMAEModel(transformers.ViTMAEConfig(**vision)))
    loaded = load_encoder(masked, num_frames=4)
    assert loaded.encode(clip).shape == (1, 4, 5, 16)
    assert torch.equal(loaded.encode(clip), loaded.encode(clip))
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    mit = {"mit_hidden_size": 16, "mit_intermediate_size": 8, "mit_num_hidden_layers": 1}
    config = transformers.XCLIPConfig(
        text_config=text, vision_config={**vision, **mit, "mit_num_attention_heads": 1, "num_frames": 4},
        projection_dim=16, prompt_num_attention_heads=2,
    )  # fmt: skip
    xclip = load_encoder(saved("xclip", transformers.XCLIPModel(config)))
    assert (xclip.num_frames, xclip.encode(clip).shape) == (4, (1, 4, 1, 16))
    # A classifier has no pooler; one with random weights must not be read.
    labelled = saved("vit", transformers.ViTForImageClassification(transformers.ViTConfig(**vision)))
    first, again = (load_encoder(labelled, num_frames=4).encode(clip) for _ in range(2))
    assert torch.equal(first, again) and first.shape == (1, 4, 5, 16)
    dropped = saved("drop", transformers.ViTModel(transformers.ViTConfig(**vision)))
    file = tmp_path / "drop" / "model.safetensors"
    save_file(
        {n: t for n, t in read_tensors(file).items() if ".1." not in n}, file, metadata={"format": "pt"}
    )
    with pytest.raises(UserError, match=r"its files lack \d+ tensors, the first is .*\.1\."):
        load_encoder(dropped)
    words = transformers.BertConfig(**{**text, "vocab_size": 20})
    with pytest.raises(UserError, match="'bert' is not a transformer of images or video"):
        load_encoder(saved("bert", transformers.BertModel(words)))
