"""Synthetic training clips: rendered when they are needed, or read from a written corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from smile_synth import Recipe, annotate, composite, sample_scenes
from smile_synth.annotations import Annotation
from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream
from smile_synth.corpus import Corpus
from smile_synth.scene import Scene, StoredImage
from smile_synth.sources import Sources
from smile_synth.streaming import motion_labels, token_coverage
from smile_train.data.sources import BOXES, TrainingClip
from smile_train.masking import upright_boxes


class LabelOptions(NamedTuple):
    """Which labels the clips of a source have.

    Attributes:
        token_size: (tubelet_size, patch_size).
        motion_offsets: of `Annotation.token_motion`; empty without labels of motion.
    """

    token_size: tuple[int, int]
    motion_offsets: tuple[int, ...] = ()


class RenderedSource:
    """Clips that are rendered when they are needed: clip i is that of (recipe, sources, seed, i)."""

    def __init__(
        self, recipe: Recipe, sources: Sources, labels: LabelOptions, *, seed: int, name: str
    ) -> None:
        """Describe the clips and their labels."""
        self.recipe, self.sources, self.labels, self.seed = recipe, sources, labels, seed
        self.size_hw, self.num_frames, self.name = recipe.size, recipe.num_frames, name
        self.digest = recipe.digest + sources.objects.digest
        self.digest += sources.backgrounds.digest if sources.backgrounds else ""

    def clips(self, indices: Sequence[int]) -> list[TrainingClip]:
        """Sample the scenes together, and render them one by one."""
        scenes = sample_scenes(self.recipe, self.sources, seed=self.seed, indices=indices)
        return [self._render(scene) for scene in scenes]

    def _render(self, scene: Scene) -> TrainingClip:
        annotation = annotate(scene, self.sources)
        labels = synthetic_labels(annotation.segmentation, scene, annotation, self.labels)
        return TrainingClip(composite(scene, self.sources), labels, scene)


class CorpusSource:
    """Clips of a written corpus: every clip once per epoch, in a new order in each epoch.

    Attributes:
        unreadable: (file, reason) of clips that are not used.
    """

    def __init__(
        self, folder: str | Path, labels: LabelOptions, *, seed: int, sources: Sources | None = None
    ) -> None:
        """Open the corpus. Labels of motion need the ``sources`` of its clips.

        Raises:
            UserError: not a finished corpus, without a complete clip, or of other sources.
        """
        self.corpus, self.seed, self.name = Corpus(folder), seed, str(folder)
        self.labels, self._sources = labels, sources
        damaged = self.corpus.damaged()
        self.unreadable = [(file, f"{reason} (clip {index})") for index, file, reason in damaged]
        damaged_indices = {index for index, _, _ in damaged}
        self._clips = [index for index in self.corpus if index not in damaged_indices]
        if not self._clips:
            raise UserError(f"corpus '{folder}': has no complete clip")
        self.size_hw, self.num_frames = self.corpus.header.size_hw, self.corpus.header.num_frames
        rows = zip(self.corpus, self.corpus.column("scene_digest"), self.corpus.column("sha256"), strict=True)
        used = [(scene, media) for index, scene, media in rows if index not in damaged_indices]
        self.digest = hashlib.sha256(json.dumps(used).encode()).hexdigest()

    def __len__(self) -> int:
        """Return the number of clips that are used."""
        return len(self._clips)

    def clips(self, indices: Sequence[int]) -> list[TrainingClip]:
        """Read the clips at these positions of the endless sequence of epochs.

        Raises:
            UserError: a file is missing or damaged.
        """
        return [self._read(index) for index in indices]

    def _read(self, index: int) -> TrainingClip:
        epoch, position = divmod(index, len(self._clips))
        number = self._clips[_epoch_order(self.seed, epoch, len(self._clips))[position]]
        frames, scene = self.corpus.frames(number), self.corpus.scene(number)
        segmentation = np.zeros(frames.shape[:3], np.int16)
        for label, item in enumerate(self.corpus.labels(number)["objects"], 1):
            segmentation[coco_mask.decode(item["modal_rle"]).transpose(2, 0, 1) > 0] = label
        with_motion = self.labels.motion_offsets and self._sources is not None
        annotation = annotate(scene, self._sources) if with_motion and self._sources else None
        return TrainingClip(frames, synthetic_labels(segmentation, scene, annotation, self.labels), scene)


@lru_cache(maxsize=4)
def _epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return RandomStream(seed, epoch, "corpus order").permutation(count)


def synthetic_labels(
    segmentation: NDArray[np.int16], scene: Scene, annotation: Annotation | None, options: LabelOptions
) -> dict[str, NDArray[Any]]:
    """Return the labels of a synthetic clip, without the batch axis.

    ``coverage`` and ``boxes_xyxy``; with offsets and an annotation also those of `motion_labels`.
    """
    labels: dict[str, NDArray[Any]] = {
        "coverage": token_coverage(segmentation, *options.token_size),
        BOXES: object_boxes(scene),
    }
    if options.motion_offsets and annotation is not None:
        motion = annotation.token_motion(options.token_size, options.motion_offsets)
        labels |= motion_labels(motion)
    return labels


def object_boxes(scene: Scene) -> NDArray[np.float32]:
    """Return the boxes of labelled objects as if they were not rotated, float32 ``[K, T, 4]`` pixels."""
    objects = [
        (number, layer.surface)
        for number, layer in enumerate(scene.layers)
        if layer.labelled and isinstance(layer.surface, StoredImage)
    ]
    sizes_hw = np.array([(s.height, s.width) for _, s in objects], np.float64).reshape(-1, 2)
    poses = scene.object_to_frame[[number for number, _ in objects]]
    return np.asarray(upright_boxes(poses, sizes_hw), np.float32)
