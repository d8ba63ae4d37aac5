"""What a small CLIP has learned: zero-shot accuracy, and nearest neighbours of its patch tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from smile_synth import Recipe, Sources, annotate
from smile_synth.streaming import token_coverage
from smile_train.config import TeacherOptions, TeacherTrainingConfig
from smile_train.materials import Materials
from smile_train.models import LOCAL, load_clip, load_teacher
from smile_train.training.captions import RenderedImages, caption_of, facts_of, normalise_images, objects_of

SPLITS = {"train": "training objects, new renders", "test": "held-out objects"}
BATCH = 256


@torch.no_grad()
def score_teacher(
    folder: Path, recipe: Recipe, materials: Materials, config: TeacherTrainingConfig, *, num_images: int
) -> dict[str, Any]:
    """Measure a CLIP on new images of one object each, over held-out backgrounds.

    Zero-shot, for objects of the training split and of the test split: the prompts are all captions of the
    bank, and the best one gives class, color and texture. Classes without an object in both splits are left
    out. Neighbours, for the test split: the nearest patch token (cosine) of another image, for tokens at
    least half covered by an object.

    Args:
        folder: of the model in open_clip's format.
        recipe: of its training images.
        materials: with the test split and the held-out backgrounds.
        config: of its training.
        num_images: of each split.
    """
    bank = materials.bank
    captions = [caption_of(bank, number) for number in range(len(bank))]
    facts = [{**facts_of(bank, number), "caption": captions[number]} for number in range(len(bank))]
    prompts = {caption: facts[number] for number, caption in reversed([*enumerate(captions)])}
    model = load_clip(f"{LOCAL}{folder}")
    teacher = load_teacher(
        TeacherOptions(model=f"{LOCAL}{folder}"), size_hw=recipe.size, patch_size=config.patch_size,
        tubelet_size=1,
    )  # fmt: skip
    tokenizer = open_clip.SimpleTokenizer(context_length=config.context_length)
    texts = model.encode_text(tokenizer(list(prompts)), normalize=True)
    result: dict[str, Any] = {"num_images": num_images, "num_prompts": len(prompts), "zero_shot": {}}
    for split, name in SPLITS.items():
        single = _single_object(recipe, materials, split)
        images, objects, coverage = _render(
            single, materials.heldout, config.seed + 1, num_images, config.patch_size
        )
        found = [model.encode_image(normalise_images(part), normalize=True) for part in images.split(BATCH)]
        best = (torch.cat(found) @ texts.T).argmax(1).tolist()
        guesses = [list(prompts.values())[number] for number in best]
        result["zero_shot"][name] = _accuracies(guesses, [facts[number] for number in objects])
        if split == "test":
            tokens = torch.cat([teacher.encode(part[:, None]) for part in images.split(BATCH)])
            classes = [facts[number]["class"] for number in objects]
            result["patch_neighbours"] = _patch_neighbours(tokens, coverage, classes)
    return result


def _single_object(recipe: Recipe, materials: Materials, split: str) -> Recipe:
    """Return the recipe with one object of a split."""
    bank = materials.bank
    sides = [{bank.info(int(i)).class_name for i in bank.select(split=side)} for side in SPLITS]
    update = {"split": split, "count": (1, 1), "classes": sorted(sides[0] & sides[1])}
    return recipe.model_copy(update={"objects": recipe.objects.model_copy(update=update)})


def _render(
    recipe: Recipe, sources: Sources, seed: int, num_images: int, patch_size: int
) -> tuple[Tensor, list[int], Tensor]:
    """Return images ``[N, 3, H, W]``, the ids of their objects and the coverage ``[N, patches]``."""
    clips = RenderedImages(recipe, sources, seed=seed)(range(num_images))
    images = torch.from_numpy(np.concatenate([clip.frames for clip in clips])).permute(0, 3, 1, 2)
    scenes = [clip.scene for clip in clips if clip.scene is not None]
    coverage = [token_coverage(annotate(s, sources).segmentation, 1, patch_size) for s in scenes]
    return images, [objects_of(scene)[0] for scene in scenes], torch.from_numpy(np.stack(coverage))


def _accuracies(guesses: list[dict[str, str]], facts: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    """Return how often each fact is guessed, beside the share of its most frequent value."""
    rows: dict[str, dict[str, float]] = {}
    for key in ("class", "color", "texture", "caption"):
        pairs = [(g.get(key), fact[key]) for g, fact in zip(guesses, facts, strict=True) if key in fact]
        if pairs:
            values = Counter(fact for _, fact in pairs)
            rows[key] = {
                "accuracy": round(sum(guess == fact for guess, fact in pairs) / len(pairs), 4),
                "most_frequent": round(max(values.values()) / len(pairs), 4),
                "num_values": len(values),
                "num_images": len(pairs),
            }
    return rows


def _patch_neighbours(tokens: Tensor, coverage: Tensor, classes: list[str]) -> dict[str, float]:
    """Return how often the nearest neighbour of an object's token, in another image, is of its class."""
    share = coverage.flatten()
    kept = ((share >= 0.5) | (share == 0)).nonzero()[:, 0]
    vectors = F.normalize(tokens.flatten(0, 1)[kept], dim=1)
    owner, is_object = kept // coverage.shape[1], share[kept] >= 0.5
    label = torch.from_numpy(np.unique(classes, return_inverse=True)[1])[owner]
    nearest = []
    for part in torch.arange(len(kept)).split(512):
        similar = vectors[part] @ vectors.T
        nearest.append(similar.masked_fill_(owner[part][:, None] == owner[None], -2).argmax(1))
    neighbour = torch.cat(nearest)[is_object]
    same_class = (label[neighbour] == label[is_object]) & is_object[neighbour]
    frequency = label[is_object].bincount() / is_object.sum()
    return {
        "object_finds_object": round(float(is_object[neighbour].float().mean()), 4),
        "share_of_object_tokens": round(float(is_object.float().mean()), 4),
        "object_finds_same_class": round(float(same_class.float().mean()), 4),
        "same_class_by_chance": round(float(frequency.square().sum() * is_object.float().mean()), 4),
        "num_object_tokens": int(is_object.sum()),
    }
