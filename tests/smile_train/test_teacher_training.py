"""Training of the tiny CLIP."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smile_synth import ObjectBank, UserError
from smile_synth.backgrounds import BackgroundFolder, write_images
from smile_train.config import TeacherTrainingConfig
from smile_train.materials import Materials
from smile_train.models import load_clip
from smile_train.training.captions import caption_of
from smile_train.training.teacher import contrastive_loss, train_teacher


def test_pairs_with_the_same_caption_are_positives() -> None:
    images = torch.eye(3)
    texts = torch.eye(3)
    scale = torch.tensor(50.0)
    apart = contrastive_loss(images, texts, scale, torch.tensor([0, 1, 2]))
    assert float(apart) < 1e-6
    same = contrastive_loss(images, texts[[1, 0, 2]], scale, torch.tensor([0, 0, 2]))
    assert float(same) == pytest.approx((25 + 25 + 0) / 3, rel=1e-3)


def test_trains_resumes_and_writes_what_open_clip_loads(train_bank: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", count=3, seed=0, size=64)
    pictures = BackgroundFolder(tmp_path / "images")
    materials = Materials(ObjectBank.open(train_bank), pictures, pictures)
    config = TeacherTrainingConfig.load(
        "tiny-clip",
        ["steps=3", "batch_size=4", "optimiser.warmup_steps=1", "run.workers=0", "run.checkpoint_every=1",
         "vision_layers=1", "text_layers=1", "text_width=8", "text_heads=2"],
    )  # fmt: skip
    result = train_teacher(config, materials, tmp_path / "clip", num_images=20)
    assert result["zero_shot"]["held-out objects"]["class"]["num_values"] == 2
    again = train_teacher(config, materials, tmp_path / "clip", num_images=20)  # nothing left to do
    assert again == result
    assert load_clip(f"local-dir:{tmp_path / 'clip'}").visual.image_size == (64, 64)
    with pytest.raises(UserError, match="a run with other settings or sources: seed is 0 there and 1 now"):
        train_teacher(config.model_copy(update={"seed": 1}), materials, tmp_path / "clip", num_images=20)
    assert caption_of(materials.bank, 0) in ("a class0", "a class1")
