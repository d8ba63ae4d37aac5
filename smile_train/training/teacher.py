"""Training of a small CLIP on rendered images with captions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import open_clip
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_synth import Recipe
from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.streaming import StepBatches
from smile_train.batch import Batch
from smile_train.config import TeacherTrainingConfig, fixed_values
from smile_train.data.batches import worker_batches
from smile_train.distributed import World
from smile_train.materials import Materials
from smile_train.training.captions import OBJECTS, RenderedImages, caption_of, normalise_images
from smile_train.training.teacher_scores import score_teacher
from smile_train.training.trainer import LogLine, Phase, Task, train

WEIGHTS = "open_clip_model.safetensors"
MODEL_CONFIG = "open_clip_config.json"
RESULT = "result.json"


def train_teacher(
    config: TeacherTrainingConfig,
    materials: Materials,
    out: str | Path,
    *,
    num_images: int = 2000,
    on_log: Callable[[LogLine], None] | None = None,
) -> dict[str, Any]:
    """Train a CLIP, or continue the run in ``out``; write it in open_clip's format and return its scores.

    Args:
        config: the run.
        materials: objects and backgrounds.
        out: folder of the run.
        num_images: of each test.
        on_log: called with every line of the log.

    Raises:
        UserError: the recipe's frames are not square, and as `train`.
    """
    task = TeacherTask(config, materials)
    train(task, out, on_log=on_log)
    scores = score_teacher(Path(out), task.recipe, materials, config, num_images=num_images)
    result = {**scores, "config": json.loads(config.model_dump_json())}
    write_bytes(Path(out) / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    return result


class TeacherTask(Task):
    """The contrastive training of a CLIP; see `Task`.

    Attributes:
        recipe: of the images.
    """

    name = "training of the CLIP"

    def __init__(self, config: TeacherTrainingConfig, materials: Materials) -> None:
        """Build the model."""
        self.run, self.seed, self.batch_size = config.run, config.seed, config.batch_size
        self.recipe, self._sources = Recipe.load(config.recipe), materials.train
        if self.recipe.size[0] != self.recipe.size[1]:
            raise UserError(f"recipe '{config.recipe}': a CLIP needs square images, got {self.recipe.size}")
        self.model, self._description = build_clip(config, self.recipe.size[0])
        self._tokenizer = open_clip.SimpleTokenizer(context_length=config.context_length)
        self.phases = [Phase(0, config.steps, config.optimiser, samples_per_step=config.batch_size)]
        digests = [self.recipe.digest, materials.bank.digest, materials.train_backgrounds.digest]
        self.settings = {**fixed_values(config), "sources": digests}

    def settings_of(self, world: World) -> dict[str, Any]:
        """See `Task.settings_of`. The loss compares all images of a batch, so the batch is not divided."""
        if world.size * self.run.accumulate > 1:
            raise UserError("the training of a CLIP needs run.accumulate=1 and a single process")
        return {}

    def batches(self, phase: Phase, start_step: int, world: World) -> Generator[Batch, None, None]:
        """See `Task.batches`."""
        steps = StepBatches(self.batch_size, num_steps=phase.end_step, start_step=start_step)
        images = RenderedImages(self.recipe, self._sources, seed=self.seed)
        yield from worker_batches(images, steps, workers=self.run.workers)

    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        """See `Task.losses`."""
        log_scale = self.model.logit_scale
        assert isinstance(log_scale, Tensor)
        with torch.no_grad():
            log_scale.clamp_(0, math.log(100))  # as CLIP does
        bank = self._sources.objects
        captions = [
            " and ".join(caption_of(bank, number) for number in numbers if number >= 0)
            for numbers in batch.labels[OBJECTS].tolist()
        ]
        unique = list(dict.fromkeys(captions))  # many images share a caption: encode each once
        tokens = self._tokenizer(unique).to(batch.frames.device)
        images, texts, scale = model(normalise_images(batch.frames[:, 0]), tokens)
        places = torch.tensor([unique.index(caption) for caption in captions], device=texts.device)
        yield {"loss": contrastive_loss(images, texts[places], scale, places)}

    def finish(self, out: Path, world: World) -> None:
        """See `Task.finish`: write the model in open_clip's format, in half precision."""
        halves = {name: tensor.half().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        write_bytes(out / WEIGHTS, safetensors.torch.save(halves))
        write_bytes(out / MODEL_CONFIG, (json.dumps(self._description, indent=1) + "\n").encode())


def build_clip(config: TeacherTrainingConfig, image_size: int) -> tuple[Any, dict[str, Any]]:
    """Return an untrained open_clip model and the config from which open_clip builds it.

    The image embedding is the mean of the patch tokens after the final norm, because a student predicts the
    patch tokens: these must carry the meaning.
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
