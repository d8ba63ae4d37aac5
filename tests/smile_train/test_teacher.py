"""Teachers: the tiny CLIP that ships, refusals, token order, convolutional towers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smile_synth import UserError
from smile_synth.io.resources import shipped
from smile_train.config import TeacherOptions
from smile_train.models import Teacher, load_clip, load_teacher
from smile_train.models._clip import _set_statistics


def teacher_of(
    *, size_hw: tuple[int, int] = (64, 64), patch_size: int = 16, tubelet_size: int = 2, **options: Any
) -> Teacher:
    return load_teacher(
        TeacherOptions(**options), size_hw=size_hw, patch_size=patch_size, tubelet_size=tubelet_size
    )


def clips_of(*size_hw: int, batch: int = 2, frames: int = 4) -> Tensor:
    shape = (batch, frames, 3, *size_hw)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded_state(model: nn.Module) -> dict[str, Tensor]:
    """Weights that follow no global generator and give every block something to say."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: torch.randn(tensor.shape, generator=generator) * 0.2 + (tensor.ndim == 1 and "norm" in name)
        for name, tensor in model.state_dict().items()
    }


def test_tiny_clip_ships_small_and_in_open_clips_format() -> None:
    folder = shipped("assets") / "tiny-clip"
    assert (folder / "open_clip_model.safetensors").stat().st_size < 10e6
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert model.visual.image_size == (64, 64) and preprocess is not None


def test_committed_result_is_far_above_chance() -> None:
    result = json.loads((shipped("assets") / "tiny-clip" / "result.json").read_text())
    known, new = (result["zero_shot"][name] for name in ("training objects, new renders", "held-out objects"))
    for key in ("class", "color", "texture", "caption"):
        assert known[key]["accuracy"] > 2 * known[key]["most_frequent"]
    for key in ("color", "texture", "caption"):
        assert new[key]["accuracy"] > 2 * new[key]["most_frequent"]
    near = result["patch_neighbours"]
    assert near["object_finds_same_class"] > 5 * near["same_class_by_chance"]


def test_tokens_are_those_after_the_norm_in_the_students_order() -> None:
    teacher = teacher_of(size_hw=(64, 64), patch_size=16, tubelet_size=2)
    clips = clips_of(64, 64)
    tokens = teacher.encode(clips)
    assert tokens.shape == (2, 2 * 16, 128)
    # The image embedding of this CLIP is the projected mean of exactly these tokens.
    visual = load_clip("tiny-clip").visual
    mean = torch.tensor(visual.image_mean).view(3, 1, 1)
    std = torch.tensor(visual.image_std).view(3, 1, 1)
    with torch.no_grad():
        embedding = visual((clips[1, 2:3] / 255 - mean) / std)
    torch.testing.assert_close(
        tokens[1, 16:].mean(0, keepdim=True) @ visual.proj, embedding, rtol=1e-4, atol=1e-5
    )
    # Odd frames have no influence.
    changed = clips.clone()
    changed[:, 1::2] = 0
    torch.testing.assert_close(teacher.encode(changed), tokens)


def test_teacher_is_frozen_and_can_take_imagenet_statistics() -> None:
    teacher = teacher_of(size_hw=(64, 64), patch_size=16, tubelet_size=2)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.train().training
    other = teacher_of(normalisation="imagenet")
    np.testing.assert_allclose(other.mean.ravel(), [0.485, 0.456, 0.406], rtol=1e-6)
    np.testing.assert_allclose(teacher.mean.ravel(), [0.4815, 0.4578, 0.4082], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "ViT-B-61"}, "unknown to open_clip; did you mean 'ViT-B-16'"),
        ({"model": "ViT-B-16-quickgelu"}, "needs pretrained weights: a file, or one of .*openai"),
        ({"model": "local-dir:nowhere"}, "no open_clip_config.json"),
        ({"model": "ViT-B-16", "pretrained": "no_such_tag"}, "cannot be loaded"),
        ({"model": "RN50", "pretrained": "WEIGHTS"}, "cannot be loaded"),
    ],
)
def test_weights_that_cannot_be_loaded_are_one_line(
    arguments: dict[str, str], message: str, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"not weights")
    arguments = {k: str(weights) if v == "WEIGHTS" else v for k, v in arguments.items()}
    with pytest.raises(UserError, match=message) as caught:
        teacher_of(size_hw=(224, 224), **arguments)
    assert "\n" not in str(caught.value)


def test_patches_must_be_the_students() -> None:
    with pytest.raises(UserError, match="has 4x4 patches at 64x64, the student 8x8"):
        teacher_of(size_hw=(64, 64), patch_size=8, tubelet_size=2)
    with pytest.raises(
        UserError, match=r"choose .* patch size 8, teacher.input_size=\[128, 128\] or teacher.grid"
    ):
        teacher_of(patch_size=8)
    with pytest.raises(
        UserError, match="frames of 64x40 do not divide into its patches of 16x16; give teacher"
    ):
        teacher_of(size_hw=(64, 40))


def test_layers_norm_and_projection_are_chosen() -> None:
    visual, clips = load_clip("tiny-clip").visual, clips_of(64, 64)
    raw = teacher_of(layers=[-1], final_norm=False).encode(clips)
    normed = teacher_of().encode(clips)
    torch.testing.assert_close(visual.ln_post(raw), normed)
    projected = teacher_of(projection=True)
    assert projected.width == 64 and projected.widths == (64,)
    torch.testing.assert_close(projected.encode(clips), normed @ visual.proj)
    several = teacher_of(layers=[5, 0, -2, 0], final_norm=False)
    assert several.width == 4 * 128 and several.widths == (128,) * 4
    parts = several.encode(clips).split(128, dim=-1)
    torch.testing.assert_close(parts[0], raw)
    assert torch.equal(parts[1], parts[3]) and not torch.equal(parts[1], parts[2])
    torch.testing.assert_close(parts[2], teacher_of(layers=[4], final_norm=False).encode(clips))
    with pytest.raises(
        UserError, match=r"teacher.layers: 6 given, but 'tiny-clip' has blocks 0..5 \(or -6..-1"
    ):
        teacher_of(layers=[0, 6])


def test_another_size_interpolates_positions_and_another_grid_tokens() -> None:
    wide = teacher_of(size_hw=(64, 96))
    assert wide.grid_hw == (4, 6) and wide.encode(clips_of(64, 96)).shape == (2, 2 * 24, 128)
    # Frames of 32x32 with patches of 8 have the grid of the teacher's own 64x64 frames.
    resized = teacher_of(size_hw=(32, 32), patch_size=8, input_size=(64, 64))
    small = clips_of(32, 32) // 255 * 255  # black and white, whose enlargement is rounded below
    large = F.interpolate(small.flatten(0, 1) / 255, (64, 64), mode="bicubic", antialias=True)
    images = (large[::2] - resized.mean) / resized.std
    with torch.no_grad():
        tokens = teacher_of().tower(images)[0]
    torch.testing.assert_close(resized.encode(small), tokens.reshape(2, 32, 128))
    coarse = teacher_of(patch_size=32, grid="interpolate")
    assert coarse.grid_hw == (2, 2)
    tokens = coarse.encode(clips_of(64, 64))
    own = teacher_of().encode(clips_of(64, 64)).view(2, 2, 4, 4, 128)
    expected = F.interpolate(
        own.flatten(0, 1).permute(0, 3, 1, 2), (2, 2), mode="bilinear", antialias=True
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(tokens, expected.reshape(2, 8, 128))
    with pytest.raises(ValueError, match=r"the teacher needs \(64, 64\) frames, got \(32, 32\)"):
        teacher_of().encode(small)


def test_precision_is_the_runs_or_its_own() -> None:
    clips = clips_of(64, 64)
    exact = teacher_of().encode(clips)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher_of(precision="fp32").encode(clips), exact)
        as_run = teacher_of().encode(clips)
    half = teacher_of(precision="bf16")
    assert half.encode(clips).dtype == torch.bfloat16 and next(half.parameters()).dtype == torch.bfloat16
    for tokens in (as_run, half.encode(clips)):
        assert not torch.equal(tokens.float(), exact)
        assert F.cosine_similarity(tokens.float(), exact, dim=-1).min() > 0.99
    assert not half.encode(clips).requires_grad


@pytest.mark.parametrize("before", [False, True])
def test_tf32_is_allowed_while_the_teacher_runs(before: bool) -> None:
    matmul, teacher, seen = torch.backends.cuda.matmul, teacher_of(), []
    teacher.tower.register_forward_hook(lambda *_: seen.append(matmul.allow_tf32))
    default = matmul.allow_tf32
    try:
        matmul.allow_tf32 = before
        teacher.encode(clips_of(64, 64))
        assert seen == [True] and matmul.allow_tf32 is before
        with pytest.raises(ValueError, match="the teacher needs"):
            teacher.encode(clips_of(32, 32))
        assert matmul.allow_tf32 is before
    finally:
        matmul.allow_tf32 = default


def test_compiling_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[object] = []

    def compile_eagerly(function: Any, **_: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    clips = clips_of(64, 64)
    assert torch.equal(teacher_of(compile=True).encode(clips), teacher_of().encode(clips))
    assert len(compiled) == 1


TIMM_VITS = [
    "test_vit",
    "test_vit2",
    "test_vit3",
]  # class token; pooled mean with its own norm; SigLIP's pooling


def timm_file(name: str, folder: Path) -> tuple[nn.Module, str]:
    model = timm.create_model(name, pretrained=False)
    model.load_state_dict(seeded_state(model))
    torch.save({"teacher": {f"backbone.{k}": v for k, v in model.state_dict().items()}}, folder / "w.pth")
    return model.eval(), str(folder / "w.pth")


@pytest.mark.parametrize("name", TIMM_VITS)
def test_tokens_of_timm_are_those_after_its_last_norm(name: str, tmp_path: Path) -> None:
    model, path = timm_file(name, tmp_path)
    teacher = teacher_of(model=f"timm:{name}", pretrained=path, size_hw=(160, 160))
    assert teacher.grid_hw == (10, 10) and teacher.width == model.embed_dim
    clips = clips_of(160, 160, batch=1, frames=2)
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        tokens = model.fc_norm(model.forward_features((clips[:, 0] / 255 - mean) / std))
    torch.testing.assert_close(
        teacher.encode(clips), tokens[:, model.num_prefix_tokens :], rtol=1e-4, atol=1e-4
    )
    imagenet = teacher_of(
        model=f"timm:{name}", pretrained=path, size_hw=(160, 160), normalisation="imagenet", layers=[0, 1]
    )
    np.testing.assert_allclose(imagenet.mean.ravel(), [0.485, 0.456, 0.406], rtol=1e-6)
    assert imagenet.encode(clips).shape == (1, 100, 2 * model.embed_dim)


def test_timm_teachers_take_other_sizes_and_say_what_is_wrong(tmp_path: Path) -> None:
    _, path = timm_file("test_vit", tmp_path)
    teacher = teacher_of(model="timm:test_vit", pretrained=path, size_hw=(64, 96), tubelet_size=1)
    assert teacher.encode(clips_of(64, 96)).shape == (2, 4 * 24, 64)
    torch.save({"model": {"cls_token": torch.zeros(1, 1, 64)}}, tmp_path / "part.pth")
    for options, message in (
        (
            {"model": "timm:test_vitt", "pretrained": path},
            "unknown to timm; did you mean 'test_vit'",
        ),
        ({"model": "timm:test_vit"}, "needs pretrained weights from a local file: teacher.pretrained"),
        ({"model": "timm:test_vit", "pretrained": "nowhere.pth"}, "nowhere.pth: no such checkpoint file"),
        ({"model": "timm:test_resnet", "pretrained": path}, "tensors do not fit the model"),
        (
            {"model": "timm:test_vit", "pretrained": str(tmp_path / "part.pth")},
            "tensors do not fit the model",
        ),
        ({"model": "timm:test_vit2", "pretrained": path}, "tensors do not fit the model: .*and"),
        ({"model": "timm:test_vit", "pretrained": path, "projection": True}, "no projection of tokens"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            teacher_of(size_hw=(64, 64), **options)
        assert "\n" not in str(caught.value)


def test_weights_from_a_file_bring_the_statistics_of_their_model() -> None:
    """SigLIP is trained with other statistics than CLIP; open_clip stores them with its tags only."""
    for name, mean in (("ViT-B-16-SigLIP", 0.5), ("ViT-B-16", 0.48145466)):
        visual = type("Visual", (), {"image_mean": (9.0,) * 3, "image_std": (9.0,) * 3})()
        _set_statistics(visual, name)
        assert visual.image_mean[0] == pytest.approx(mean)
    mixed = type("Visual", (), {"image_mean": (9.0,) * 3, "image_std": (9.0,) * 3})()
    _set_statistics(mixed, "ViT-L-14")  # its published weights differ: open_clip's own are kept
    assert mixed.image_mean == (9.0,) * 3


SMALL_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


class Archive(nn.Module):
    """Weights by their dotted names, as OpenAI's archives hold them."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            owner: nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]  # type: ignore[assignment]
            owner.register_buffer(last, tensor)


@pytest.mark.parametrize("form", ["archive", "state"])
def test_openai_files_need_quick_gelu(form: str, tmp_path: Path) -> None:
    """Models of the same weights with and without QuickGELU, registered for this test alone."""
    for name, extra in (("small", {}), ("small-quickgelu", {"quick_gelu": True})):
        (tmp_path / f"{name}.json").write_text(json.dumps({**SMALL_CLIP, **extra}))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    try:
        model = open_clip.create_model("small-quickgelu", load_weights=False)
        tensors = {name: tensor.half() for name, tensor in seeded_state(model).items()}
        tensors |= {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
        path = tmp_path / "ViT.pt"
        if form == "archive":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.jit.save(torch.jit.script(Archive(tensors)), str(path))
        else:
            torch.save(tensors, path)
        with pytest.raises(
            UserError,
            match="holds OpenAI's weights, which were trained with QuickGELU; .* wrong features without an error; "
            "use small-quickgelu, or force_quick_gelu=true",
        ):
            teacher_of(model="small", pretrained=str(path), size_hw=(32, 32))
        clips = clips_of(32, 32)
        quick = teacher_of(model="small-quickgelu", pretrained=str(path), size_hw=(32, 32))
        forced = teacher_of(model="small", pretrained=str(path), force_quick_gelu=True, size_hw=(32, 32))
        assert torch.equal(quick.encode(clips), forced.encode(clips))
        # Other weights, not OpenAI's, load into either; GELU then gives other tokens, which is what was refused.
        save_file({k: v.float() for k, v in model.state_dict().items()}, tmp_path / "other.safetensors")
        other = str(tmp_path / "other.safetensors")
        one, two = (
            teacher_of(model=m, pretrained=other, size_hw=(32, 32)) for m in ("small", "small-quickgelu")
        )
        assert not torch.allclose(one.encode(clips), two.encode(clips), atol=1e-4)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(UserError):
            teacher_of(model="small-quickgelu", pretrained=str(path), size_hw=(32, 32))
    finally:
        for name in ("small", "small-quickgelu"):
            open_clip.factory._MODEL_CONFIGS.pop(name, None)
            (path_of := tmp_path / f"{name}.json").unlink()
            open_clip.factory._MODEL_CONFIG_PATHS[:] = [
                p for p in open_clip.factory._MODEL_CONFIG_PATHS if p != path_of
            ]


def test_costs_are_those_that_torch_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch does not count the operations of its fast path for attention.
    monkeypatch.setattr(torch.backends.mha, "_is_fastpath_enabled", False)
    _, path = timm_file("test_vit", tmp_path)
    timm_vit = {"model": "timm:test_vit", "pretrained": path}
    for options in ({}, {"layers": [2], "final_norm": False}, {"layers": [3, 1]}, timm_vit):
        teacher = teacher_of(**options)  # type: ignore[arg-type]
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            teacher.encode(clips_of(64, 64, batch=1))
        assert teacher.gflops(4) == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-6)


def test_feature_maps_of_timm_are_tokens(tmp_path: Path) -> None:
    """A ConvNeXt has steps of 4, 8, 16 and 32 pixels; the norm before its classifier acts on each position."""
    model, path = timm_file("test_convnext", tmp_path)
    options = {"model": "timm:test_convnext", "pretrained": path, "size_hw": (64, 96), "grid": "interpolate"}
    clips = clips_of(64, 96, batch=1)
    mean, std = (torch.tensor(model.pretrained_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        stages = model.forward_intermediates((clips[0, ::2] / 255 - mean) / std, intermediates_only=True)
        last = model.head.norm(stages[-1])
    teacher = teacher_of(**options)
    assert teacher.grid_hw == (4, 6) and teacher.widths == (64,)
    on_grid = F.interpolate(last, (4, 6), mode="bilinear", antialias=True)  # from 2x3
    torch.testing.assert_close(teacher.encode(clips)[0], on_grid.permute(0, 2, 3, 1).reshape(48, 64))
    several = teacher_of(**options, layers=[-1, 2], final_norm=False)
    assert several.widths == (64, 48)
    _, third = several.encode(clips)[0].split((64, 48), dim=-1)
    torch.testing.assert_close(third, stages[2].permute(0, 2, 3, 1).reshape(48, 48))
    with pytest.raises(
        UserError, match=r"has 2x3 patches at 64x96, the student 4x6; .*input_size=\[128, 192\]"
    ):
        teacher_of(**{**options, "grid": "match"})
    with pytest.raises(UserError, match="frames of 64x80 do not divide into its patches of 32x32"):
        teacher_of(**{**options, "size_hw": (64, 80)})
    with pytest.raises(UserError, match="has no projection of tokens; use projection=false"):
        teacher_of(**options, projection=True)


RESNET_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CONVNEXT_CLIP = {
    **RESNET_CLIP,
    "vision_cfg": {
        "image_size": 64, "timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
        "timm_proj": "linear",
    },
}  # fmt: skip


@pytest.mark.parametrize("architecture", ["resnet", "convnext"])
def test_convolutional_clip_towers_are_teachers(architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    config = {"model_cfg": RESNET_CLIP if architecture == "resnet" else CONVNEXT_CLIP, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    own = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    # Weights near zero make dead ReLUs and zeros everywhere: random ones of useful size.
    state = own.state_dict() | {
        name: torch.randn(t.shape, generator=torch.Generator().manual_seed(len(name)))
        * (2 / t[0].numel()) ** 0.5
        for name, t in own.state_dict().items()
        if t.ndim > 1
    }
    own.load_state_dict(state)
    save_file(state, folder / "open_clip_model.safetensors")
    teacher = teacher_of(model=f"local-dir:{folder}", size_hw=(96, 64), grid="interpolate")
    assert teacher.grid_hw == (6, 4) and teacher.width == (256 if architecture == "resnet" else 64)
    clips = clips_of(96, 64, batch=1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (own.visual.image_mean, own.visual.image_std))
    images = (clips[0, ::2] / 255 - mean) / std
    with torch.no_grad():
        if architecture == "resnet":
            visual = own.visual
            maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
        else:
            maps = own.visual.trunk.head.norm(own.visual.trunk.forward_features(images))
        on_grid = F.interpolate(maps, (6, 4), mode="bilinear", antialias=True)
    assert on_grid.std() > 0.1
    torch.testing.assert_close(
        teacher.encode(clips)[0], on_grid.permute(0, 2, 3, 1).reshape(48, -1), rtol=1e-4, atol=1e-4
    )
    assert teacher.gflops(4) > 2 * teacher_of(model=f"local-dir:{folder}", patch_size=32).gflops(2)
