"""Train a small CLIP on rendered images whose captions are known, and say what it can do."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smile_synth import ObjectBank, Recipe, SyntheticClips, annotate, composite, sample_scene
from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.scene import Scene, StoredImage
from smile_synth.stream import StepBatches
from smile_train.config import TeacherOptions, TeacherTrainingConfig
from smile_train.data.synthetic import start_worker, token_coverage
from smile_train.materials import Materials
from smile_train.models import load_clip, make_teacher
from smile_train.training.checkpoint import check_same_run, flat, load_checkpoint, save_checkpoint
from smile_train.training.logging import RunLog
from smile_train.training.optim import lr_at, make_adamw

WEIGHTS = "open_clip_model.safetensors"
MODEL_CONFIG = "open_clip_config.json"
RESULT = "result.json"


def describe(bank: ObjectBank, object_id: int) -> str:
    """Return the caption of one object, "a red striped star" or "a cat"."""
    info = bank.info(object_id)
    attributes = json.loads(info.attributes)
    words = [attributes[key] for key in ("color", "texture") if key in attributes]
    noun = info.class_name.replace("_", " ")
    return " ".join(["a", *words, noun])


def objects_of(scene: Scene) -> list[int]:
    """Return the bank's ids of a scene's objects, the front-most first."""
    surfaces = [scene.layers[k].surface for k in scene.front_to_back(0)[:-1]]
    return [s.texture_id for s in surfaces if isinstance(s, StoredImage)]


class _Captioned(Dataset[tuple[Tensor, str]]):
    def __init__(self, clips: SyntheticClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        clips = self.clips
        scene = sample_scene(clips.recipe, clips.sources, seed=clips.seed, index=index)
        frame = composite(scene, clips.sources)[0]
        caption = " and ".join(describe(clips.sources.objects, i) for i in objects_of(scene))
        return torch.from_numpy(frame).permute(2, 0, 1), caption


def build_clip(config: TeacherTrainingConfig, image_size: int) -> tuple[Any, dict[str, Any]]:
    """Return an untrained open_clip model and the config that open_clip rebuilds it from.

    The image embedding is the mean of the patch tokens after the final norm: the patch tokens are
    what a student is taught, so they must carry the meaning themselves.
    """
    model_config = {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": image_size,
            "patch_size": config.patch_size,
            "width": config.vision_width,
            "layers": config.vision_layers,
            "head_width": config.vision_width // config.vision_heads,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": config.context_length,
            "vocab_size": 49408,
            "width": config.text_width,
            "heads": config.text_heads,
            "layers": config.text_layers,
        },
    }
    torch.manual_seed(config.seed)
    model = open_clip.CLIP(**model_config)
    preprocess = {"mean": list(open_clip.OPENAI_DATASET_MEAN), "std": list(open_clip.OPENAI_DATASET_STD)}
    return model, {"model_cfg": model_config, "preprocess_cfg": preprocess}


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """Return CLIP's symmetric loss where every pair with the same caption is a positive.

    Radford et al., arXiv 2103.00020, with the targets of Yang et al., arXiv 2204.03610.

    Args:
        images, texts: ``[B, D]`` unit vectors, pair by pair.
        scale: what their products are multiplied by.
        labels: ``[B]`` int64, equal where captions are equal.
    """
    same = (labels[:, None] == labels[None]).float()
    targets = same / same.sum(1, keepdim=True)
    logits = scale * images @ texts.T
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def normalise_images(pictures: Tensor) -> Tensor:
    """Return uint8 images ``[B, 3, H, W]`` by CLIP's mean and std."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    return (pictures.float() / 255 - mean) / std


def train_teacher(
    config: TeacherTrainingConfig,
    materials: Materials,
    out: Path,
    *,
    num_images: int = 2000,
    on_step: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Train, or continue, a CLIP in ``out``; write it in open_clip's format and return its result.

    Raises:
        UserError: another run stands in ``out``, or the recipe's frames are not square.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    recipe = Recipe.load(config.recipe)
    if recipe.size[0] != recipe.size[1]:
        raise UserError(f"recipe '{config.recipe}': a CLIP takes square images, got {recipe.size}")
    model, description = build_clip(config, recipe.size[0])
    tokenizer = open_clip.SimpleTokenizer(context_length=config.context_length)
    optimiser = make_adamw(model, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    identity = {
        **flat(json.loads(config.model_dump_json())),
        "sources": recipe.digest + materials.bank.digest + materials.train_backgrounds.digest,
    }
    out.mkdir(parents=True, exist_ok=True)
    start = 0
    state = load_checkpoint(out)
    if state is not None:
        check_same_run(out, state["identity"], identity)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        start = int(state["step"])

    clips = SyntheticClips(
        recipe, materials.train, seed=config.seed,
        num_clips=config.steps * config.batch_size,
    )  # fmt: skip
    loader: DataLoader[Any] = DataLoader(
        _Captioned(clips),
        batch_sampler=StepBatches(config.batch_size, num_steps=config.steps, start_step=start),
        num_workers=config.workers,
        worker_init_fn=start_worker,
        multiprocessing_context="spawn" if config.workers else None,
        prefetch_factor=4 if config.workers else None,
    )
    log = RunLog(out, keep_steps=start)
    model.train()
    began = time.perf_counter()
    for step, (pictures, captions) in enumerate(loader, start):
        lr = lr_at(
            step, base_lr=config.lr, warmup_lr=0.0, final_lr=0.0, warmup_steps=config.warmup_steps,
            total_steps=config.steps,
        )  # fmt: skip
        for group in optimiser.param_groups:
            group["lr"] = lr
        unique = list(dict.fromkeys(captions))  # many images share a caption: encode each once
        images, texts, scale = model(normalise_images(pictures), tokenizer(unique))
        places = torch.tensor([unique.index(caption) for caption in captions])
        loss = contrastive_loss(images, texts[places], scale, places)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))  # as CLIP does
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(f"the loss is {value} at step {step}; lower lr")
        done = step + 1
        rate = (done - start) * config.batch_size / (time.perf_counter() - began)
        log.write(step=done, loss=value, lr=lr, images_per_second=round(rate, 1))
        if on_step:
            on_step(done, config.steps, value)
        if done % config.checkpoint_every == 0 or done == config.steps:
            learned = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            save_checkpoint(out, done, {**learned, "step": done, "identity": identity})

    halves = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(out / WEIGHTS, safetensors.torch.save(halves))
    write_bytes(out / MODEL_CONFIG, (json.dumps(description, indent=1) + "\n").encode())
    shipped = load_clip(f"local-dir:{out}")  # judge what a user will load
    result = {
        **examine_teacher(shipped, recipe, materials, config, num_images=num_images),
        "config": json.loads(config.model_dump_json()),
    }
    write_bytes(out / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    return result


@torch.no_grad()
def examine_teacher(
    model: Any,
    recipe: Recipe,
    materials: Materials,
    config: TeacherTrainingConfig,
    *,
    num_images: int,
) -> dict[str, Any]:
    """Measure zero-shot accuracy and patch-token neighbours on images that training never showed.

    All backgrounds are held out. Objects are asked apart: those of the train split in renders that are
    new, and those of the test split, which training never showed. Classes without a training object are
    left out (some photographs hold one object alone).

    Zero-shot: one object an image; the prompts are all captions that occur in the bank, and the best one
    names class, colour and texture at once. Neighbours, on the test split: the nearest patch token
    (cosine) of another image, for tokens at least half covered by an object.
    """
    bank = materials.bank
    prompts: dict[str, dict[str, str]] = {}
    for object_id in range(len(bank)):
        prompts.setdefault(describe(bank, object_id), _facts(bank, object_id))
    tokenizer = open_clip.SimpleTokenizer(context_length=config.context_length)
    texts = model.encode_text(tokenizer(list(prompts)), normalize=True)
    teacher = make_teacher(
        model.visual, TeacherOptions(), size_hw=tuple(model.visual.image_size), frame_stride=1
    )
    result: dict[str, Any] = {"num_images": num_images, "num_prompts": len(prompts), "zero_shot": {}}
    for split, name in (("train", "training objects, new renders"), ("test", "held-out objects")):
        pictures, truth, coverage = _single_objects(
            recipe,
            materials,
            split,
            seed=config.seed + 1,
            num_images=num_images,
            patch_size=config.patch_size,
        )
        parts = pictures.split(256)
        images = torch.cat([model.encode_image(normalise_images(part), normalize=True) for part in parts])
        best = [list(prompts)[i] for i in (images @ texts.T).argmax(1).tolist()]
        result["zero_shot"][name] = _accuracies(
            [{"caption": caption, **prompts[caption]} for caption in best],
            [{"caption": describe(bank, i), **_facts(bank, i)} for i in truth],
        )
        if split == "test":
            tokens = torch.cat([teacher.encode(part[:, None]) for part in parts])
            classes = [_facts(bank, i)["class"] for i in truth]
            result["patch_neighbours"] = _patch_neighbours(tokens, coverage, classes)
    return result


def _single_objects(
    recipe: Recipe, materials: Materials, split: str, *, seed: int, num_images: int, patch_size: int
) -> tuple[Tensor, list[int], NDArray[np.float32]]:
    """Render images ``[N, 3, H, W]`` of one object of a split each, over held-out backgrounds.

    Also returns the bank's ids of the objects and the coverage of every patch ``[N, patches]``.
    """
    bank, sources = materials.bank, materials.heldout
    sides = [{bank.info(int(i)).class_name for i in bank.select(split=side)} for side in ("train", "test")]
    objects = recipe.objects.model_copy(
        update={"split": split, "count": (1, 1), "classes": sorted(sides[0] & sides[1])}
    )
    single = recipe.model_copy(update={"objects": objects})
    pictures, truth, coverage = [], [], []
    for index in range(num_images):
        scene = sample_scene(single, sources, seed=seed, index=index)
        pictures.append(torch.from_numpy(composite(scene, sources)[0]).permute(2, 0, 1))
        truth.append(objects_of(scene)[0])
        segmentation = annotate(scene, sources).segmentation
        coverage.append(token_coverage(segmentation, 1, patch_size))
    return torch.stack(pictures), truth, np.stack(coverage)


def _accuracies(guesses: list[dict[str, str]], facts: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    """Return how often each fact was guessed, beside always guessing its most frequent value."""
    rows: dict[str, dict[str, float]] = {}
    for key in ("class", "color", "texture", "caption"):
        pairs = [
            (guess.get(key, ""), fact[key]) for guess, fact in zip(guesses, facts, strict=True) if key in fact
        ]
        values = [fact for _, fact in pairs]
        if not pairs:
            continue
        rows[key] = {
            "accuracy": round(float(np.mean([guess == fact for guess, fact in pairs])), 4),
            "most_frequent": round(max(values.count(v) for v in set(values)) / len(values), 4),
            "num_values": len(set(values)),
            "num_images": len(pairs),
        }
    return rows


def _facts(bank: ObjectBank, object_id: int) -> dict[str, str]:
    info = bank.info(object_id)
    attributes = json.loads(info.attributes)
    kept = {key: attributes[key] for key in ("color", "texture") if key in attributes}
    return {"class": info.class_name, **kept}


def _patch_neighbours(tokens: Tensor, coverage: NDArray[np.float32], classes: list[str]) -> dict[str, float]:
    """Return how often a token's nearest neighbour in another image is of the same kind."""
    n, per_image, _ = tokens.shape
    image = torch.arange(n).repeat_interleave(per_image)
    share = torch.from_numpy(coverage).flatten()
    kinds = np.array([name for name in classes for _ in range(per_image)], dtype=object)
    keep = ((share >= 0.5) | (share == 0)).nonzero()[:, 0]
    is_object = share[keep] >= 0.5
    vectors = F.normalize(tokens.flatten(0, 1)[keep], dim=1)
    owner, labels = image[keep], kinds[keep.numpy()]
    nearest = torch.empty(len(keep), dtype=torch.int64)
    for part in torch.arange(len(keep)).split(512):
        similar = vectors[part] @ vectors.T
        similar[owner[part][:, None] == owner[None]] = -2
        nearest[part] = similar.argmax(1)
    objects = is_object.nonzero()[:, 0]
    same_class = labels[objects.numpy()] == labels[nearest[objects].numpy()]
    same_class &= is_object[nearest[objects]].numpy()
    frequency = [float((labels[objects.numpy()] == name).mean()) for name in set(classes)]
    return {
        "object_finds_object": round(float(is_object[nearest[objects]].float().mean()), 4),
        "share_of_object_tokens": round(float(is_object.float().mean()), 4),
        "object_finds_same_class": round(float(same_class.mean()), 4),
        "same_class_by_chance": round(float(sum(f * f for f in frequency) * is_object.float().mean()), 4),
        "num_object_tokens": int(is_object.sum()),
    }
