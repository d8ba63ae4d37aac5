"""The files of clips: sample the scene, label it, render it, encode it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations import annotate
from smile_synth.compositing import draw_frames
from smile_synth.corpus._header import CorpusHeader
from smile_synth.corpus._labels import KINDS, labels_bytes
from smile_synth.corpus._media import MEDIA, Members
from smile_synth.sampling import sample_scenes
from smile_synth.scene import Scene
from smile_synth.sources import Sources

_RENDERED_PIXELS = 2**22  # of the clips rendered at once: 12 MB, five clips of 16x224x224


@dataclass(frozen=True)
class CorpusJob:
    """What a process needs to make any clip of a corpus.

    Attributes:
        header: of the corpus.
        sources: objects and backgrounds of the scenes.
        out: folder of the corpus.
        overwrite: make all files again, including existing ones.
    """

    header: CorpusHeader
    sources: Sources
    out: Path
    overwrite: bool = False


def sample_job_scenes(job: CorpusJob, indices: Sequence[int]) -> list[Scene]:
    """Sample the scenes of clips at the frame size of the corpus."""
    if not indices:
        return []
    header = job.header
    scenes = sample_scenes(header.resolved_recipe, job.sources, seed=header.seed, indices=indices)
    return [scene.scaled_to(header.size_hw) for scene in scenes]


def label_files(job: CorpusJob, scene: Scene, names: Sequence[str]) -> Members:
    """Make the scene file and the label files of a clip, those that are in ``names``.

    Raises:
        UserError: the sources are not those of the scene.
    """
    annotation = annotate(scene, job.sources)
    files: Members = {}
    for name in names:
        kind = name.removesuffix(".npz")
        if name == "scene":
            files[name] = scene.to_bytes()
        elif name == "json":
            files[name] = labels_bytes(annotation)
        elif kind in KINDS:
            files[name] = KINDS[kind](annotation)
    return files


def render(job: CorpusJob, scenes: Sequence[Scene]) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames ``[T, H, W, 3]`` of clips; few clips are rendered at once.

    Raises:
        UserError: the sources are not those of a scene.
    """
    num_frames, size_hw = job.header.num_frames, job.header.size_hw
    together = max(1, _RENDERED_PIXELS // (num_frames * size_hw[0] * size_hw[1]))
    for first in range(0, len(scenes), together):
        some = scenes[first : first + together]
        frames = np.empty((len(some), num_frames, *size_hw, 3), np.uint8)
        draw_frames(some, job.sources, frames)
        yield from frames


def encode(header: CorpusHeader, frames: NDArray[np.uint8]) -> Members:
    """Encode frames ``[T, H, W, 3]`` as the media files of a clip."""
    return MEDIA[header.media].encode(frames, header.fps, header.quality)


def make_files(job: CorpusJob, scene: Scene, names: Sequence[str]) -> Members:
    """Make files of a clip from its scene.

    Raises:
        UserError: the sources are not those of the scene.
    """
    files = label_files(job, scene, names)
    if not files.keys() >= set(names):
        media = encode(job.header, next(render(job, [scene])))
        files |= {name: media[name] for name in names if name in media}
    return files
