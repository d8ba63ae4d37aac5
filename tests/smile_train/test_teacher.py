"""Teachers: the tiny CLIP that ships, refusals, token order; and the command that trains one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from smile_synth import ObjectBank, UserError
from smile_synth.backgrounds import BackgroundFolder, write_pictures
from smile_synth.resources import shipped
from smile_train.config import TeacherTrainingConfig
from smile_train.materials import Materials
from smile_train.models import load_clip, load_teacher
from smile_train.train_teacher import contrastive_loss, describe, train_teacher


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
    teacher = load_teacher("tiny-clip", size_hw=(64, 64), patch_size=16, tubelet_size=2)
    clips = torch.rand(2, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    tokens = teacher(clips)
    assert tokens.shape == (2, 2 * 16, 128)
    # The image embedding of this CLIP is the projected mean of exactly these tokens.
    visual = load_clip("tiny-clip").visual
    mean = torch.tensor(visual.image_mean).view(3, 1, 1)
    std = torch.tensor(visual.image_std).view(3, 1, 1)
    with torch.no_grad():
        embedding = visual((clips[1, 2:3] - mean) / std)
    torch.testing.assert_close(
        tokens[1, 16:].mean(0, keepdim=True) @ visual.proj, embedding, rtol=1e-4, atol=1e-5
    )
    # Odd frames are not looked at.
    changed = clips.clone()
    changed[:, 1::2] = 0
    torch.testing.assert_close(teacher(changed), tokens)


def test_teacher_is_frozen_and_can_take_imagenet_statistics() -> None:
    teacher = load_teacher("tiny-clip", size_hw=(64, 64), patch_size=16, tubelet_size=2)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.train().training
    other = load_teacher(
        "tiny-clip", size_hw=(64, 64), patch_size=16, tubelet_size=2, normalisation="imagenet"
    )
    np.testing.assert_allclose(other.mean.ravel(), [0.485, 0.456, 0.406], rtol=1e-6)
    np.testing.assert_allclose(teacher.mean.ravel(), [0.4815, 0.4578, 0.4082], atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "ViT-B-61"}, "open_clip knows no such model; did you mean 'ViT-B-16'"),
        ({"model": "ViT-B-16-quickgelu"}, "needs pretrained weights: a file, or one of .*openai"),
        ({"model": "local-dir:nowhere"}, "no open_clip_config.json"),
        ({"model": "ViT-B-16", "pretrained": "no_such_tag"}, "cannot be loaded"),
        ({"model": "RN50", "pretrained": "WEIGHTS"}, "cannot be loaded|vision transformer"),
    ],
)
def test_weights_that_cannot_be_had_are_one_line(
    arguments: dict[str, str], message: str, tmp_path: Path
) -> None:
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"not weights")
    arguments = {k: str(weights) if v == "WEIGHTS" else v for k, v in arguments.items()}
    with pytest.raises(UserError, match=message) as caught:
        load_teacher(**arguments, size_hw=(224, 224), patch_size=16, tubelet_size=2)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_patches_must_be_the_students() -> None:
    with pytest.raises(UserError, match="has 4x4 patches at 64x64, the student 8x8"):
        load_teacher("tiny-clip", size_hw=(64, 64), patch_size=8, tubelet_size=2)
    with pytest.raises(UserError, match="takes square frames, got 64x32"):
        load_teacher("tiny-clip", size_hw=(64, 32), patch_size=16, tubelet_size=2)


def test_pairs_with_the_same_caption_are_positives() -> None:
    images = torch.eye(3)
    texts = torch.eye(3)
    scale = torch.tensor(50.0)
    apart = contrastive_loss(images, texts, scale, torch.tensor([0, 1, 2]))
    assert float(apart) < 1e-6
    same = contrastive_loss(images, texts[[1, 0, 2]], scale, torch.tensor([0, 0, 2]))
    assert float(same) == pytest.approx((25 + 25 + 0) / 3, rel=1e-3)


def test_trains_resumes_and_writes_what_open_clip_loads(train_bank: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", count=3, seed=0, size=64)
    pictures = BackgroundFolder(tmp_path / "pictures")
    materials = Materials(ObjectBank.open(train_bank), pictures, pictures)
    config = TeacherTrainingConfig.load(
        "tiny-clip",
        ["steps=3", "batch_size=4", "warmup_steps=1", "workers=0", "checkpoint_every=1", "vision_layers=1",
         "text_layers=1", "text_width=8", "text_heads=2"],
    )  # fmt: skip
    result = train_teacher(config, materials, tmp_path / "clip", num_pictures=20)
    assert result["zero_shot"]["held-out objects"]["class"]["num_values"] == 2
    again = train_teacher(config, materials, tmp_path / "clip", num_pictures=20)  # nothing left to do
    assert again == result
    assert load_clip(f"local-dir:{tmp_path / 'clip'}").visual.image_size == (64, 64)
    with pytest.raises(UserError, match="another config"):
        train_teacher(config.model_copy(update={"seed": 1}), materials, tmp_path / "clip", num_pictures=20)
    assert describe(materials.bank, 0) in ("a class0", "a class1")
