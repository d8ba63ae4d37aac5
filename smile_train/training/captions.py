"""Rendered images with captions, for the training and the scores of a small CLIP."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import open_clip
import torch
from torch import Tensor

from smile_synth import ObjectBank, Recipe, Sources, composite, sample_scenes
from smile_synth.scene import Scene, StoredImage
from smile_train.data.sources import TrainingClip

OBJECTS = "objects"


def facts_of(bank: ObjectBank, object_id: int) -> dict[str, str]:
    """Return color and texture of an object, where the bank has them, and its class."""
    info = bank.info(object_id)
    attributes = json.loads(info.attributes)
    kept = {key: attributes[key] for key in ("color", "texture") if key in attributes}
    return {**kept, "class": info.class_name}


def caption_of(bank: ObjectBank, object_id: int) -> str:
    """Return the caption of an object, for example "a red striped star" or "a cat"."""
    return " ".join(["a", *facts_of(bank, object_id).values()]).replace("_", " ")


def objects_of(scene: Scene) -> list[int]:
    """Return the bank's ids of a scene's objects, the front-most first."""
    surfaces = [scene.layers[k].surface for k in scene.front_to_back(0)[:-1]]
    return [s.texture_id for s in surfaces if isinstance(s, StoredImage)]


def normalise_images(images: Tensor) -> Tensor:
    """Return float images by CLIP's mean and std, from uint8 ``[B, 3, H, W]``."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN, device=images.device).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD, device=images.device).view(3, 1, 1)
    return (images.float() / 255 - mean) / std


class RenderedImages:
    """Returns the first frames of a recipe's clips by index.

    The label ``objects`` has the bank's ids of their objects, the front-most first, padded with -1.
    """

    def __init__(self, recipe: Recipe, sources: Sources, *, seed: int) -> None:
        """Describe the images."""
        self._recipe, self._sources, self._seed = recipe, sources, seed

    def __call__(self, indices: Sequence[int]) -> list[TrainingClip]:
        """Render images ``[1, H, W, 3]``."""
        most, clips = self._recipe.objects.count[1], []
        for scene in sample_scenes(self._recipe, self._sources, seed=self._seed, indices=indices):
            objects = objects_of(scene)
            padded = np.array(objects + [-1] * (most - len(objects)), np.int64)
            clips.append(TrainingClip(composite(scene, self._sources)[:1], {OBJECTS: padded}, scene))
        return clips
