"""Where clips come from: a corpus, or a recipe whose clips are rendered now."""

from __future__ import annotations

import json
import shlex
import zipfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations import annotate
from smile_synth.compositing import composite
from smile_synth.core.clip import Annotator, Clip, Labels
from smile_synth.core.errors import UserError
from smile_synth.corpus import MANIFEST, Corpus, CorpusHeader, verify
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene
from smile_synth.scene import Factor, Scene
from smile_synth.sources import Sources
from smile_synth.visualize._stored import StoredLabels

UInt8 = NDArray[np.uint8]
Arrays = dict[str, NDArray[Any]]
Factors = Mapping[str, Factor]
Value = TypeVar("Value")
# Stand-ins in a command for the paths of sources that are not known.
_BANK, _BACKGROUNDS = "OBJECTS.bank", "BACKGROUNDS"
# What damaged files raise.
_UNREADABLE = (UserError, OSError, ValueError, LookupError, TypeError, av.FFmpegError, zipfile.BadZipFile)


@dataclass(frozen=True)
class Fault:
    """Something about a source or a clip that cannot be used.

    Attributes:
        kind: a short name; reports count faults by it.
        text: the details.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One clip of a source, as far as it can be read.

    Attributes:
        index: of the clip.
        frames: ``[T, H, W, 3]`` uint8; None: unreadable.
        annotation: its labels; None: unreadable.
        factors: drawn values of the clip.
        object_factors: drawn values of each labelled object.
        scene: None: unreadable.
        num_bytes: of the media; 0 for a rendered clip.
        fps: frames per second.
        faults: what is unreadable or differs from the manifest.
    """

    index: int
    frames: UInt8 | None = None
    annotation: Annotator | None = None
    factors: Factors = field(default_factory=dict)
    object_factors: Sequence[Factors] = ()
    scene: Scene | None = None
    num_bytes: int = 0
    fps: float = 8.0
    faults: tuple[Fault, ...] = ()

    @property
    def labels(self) -> Labels | None:
        """Return all labels; None: unreadable."""
        return None if self.annotation is None else self.annotation.labels

    @property
    def clip(self) -> Clip | None:
        """Return frames and labels; None where one of them is unreadable."""
        if self.frames is None or self.annotation is None:
            return None
        return Clip(self.frames, self.fps, self.annotation)


@dataclass(frozen=True)
class RecipeSource:
    """Clips 0 .. num_clips - 1 of a recipe, each rendered when it is read.

    Attributes:
        name: preset or file of the recipe.
        recipe: with the overrides applied.
        sources: objects and backgrounds.
        seed: of the clips.
        num_clips: number of clips.
        overrides: as they were given, for `command`.
        size_hw: frame size in pixels; None: the recipe's.
        faults: none; as in `CorpusSource`.
    """

    name: str
    recipe: Recipe
    sources: Sources
    seed: int
    num_clips: int
    overrides: tuple[str, ...] = ()
    size_hw: tuple[int, int] | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def indices(self) -> range:
        """Return the indices of the clips."""
        return range(self.num_clips)

    def read(self, index: int) -> Sample:
        """Sample, render and label a clip."""
        scene = sample_scene(self.recipe, self.sources, seed=self.seed, index=index)
        scene = scene.scaled_to(self.size_hw or scene.size_hw)
        frames, annotation = composite(scene, self.sources), annotate(scene, self.sources)
        object_factors = [layer.factors for layer in scene.layers if layer.labelled]
        return Sample(index, frames, annotation, scene.factors, object_factors, scene, fps=scene.fps)

    def command(self, index: int) -> str:
        """Return the command line that renders the clip again."""
        parts = [self.name, *self.overrides, "--bank", str(self.sources.objects.path)]
        if self.sources.backgrounds is not None:
            parts += ["--backgrounds", str(self.sources.backgrounds.path)]
        if self.size_hw is not None:
            parts += ["--size", f"{self.size_hw[0]}x{self.size_hw[1]}"]
        return _view_command(parts, self.seed, index)


@dataclass(frozen=True)
class CorpusSource:
    """Clips of a corpus, finished or not.

    Attributes:
        corpus: the corpus.
        indices: clips of which at least the scene is there.
        recipe: None: of another version.
        faults: of the corpus as a whole.
        clip_faults: clip index -> faults of its files.
        sources: what the corpus was made from; None: not given.
    """

    corpus: Corpus
    indices: tuple[int, ...]
    recipe: Recipe | None
    faults: tuple[Fault, ...]
    clip_faults: Mapping[int, Sequence[Fault]]
    sources: Sources | None

    @property
    def name(self) -> str:
        """Return the path of the folder."""
        return str(self.corpus.path)

    def read(self, index: int) -> Sample:
        """Read scene, labels and media of a clip; each of them may be unreadable."""
        faults = list(self.clip_faults.get(index, ()))

        def attempt(what: str, read: Callable[[], Value]) -> Value | None:
            try:
                return read()
            except _UNREADABLE as error:
                reason = str(error).partition("\n")[0] or type(error).__name__
                faults.append(Fault(f"{what} unreadable", f"clip {index}: {reason}"))
                return None

        scene = attempt("scene", lambda: self.corpus.scene(index))
        kinds = self.corpus.header.labels
        found = {kind: attempt(kind, partial(self.corpus.arrays, index, kind)) for kind in kinds}
        arrays = {kind: values for kind, values in found.items() if values is not None}
        stored = attempt("labels", lambda: self._stored(index, scene, arrays))
        stored = stored or {"factors": {}, "objects": []}
        annotation = stored.get("annotation")
        frames = attempt("media", lambda: self.corpus.frames(index))
        if frames is not None and annotation is not None:
            expected = annotation.segmentation.shape
            if frames.shape[:3] != expected:
                text = f"clip {index}: its media have the shape {frames.shape[:3]}, its labels {expected}"
                faults.append(Fault("media and labels differ", text))
                frames = None
        object_factors = [item["factors"] for item in stored["objects"]]
        return Sample(
            index, frames, annotation, stored["factors"], object_factors, scene, self._num_bytes(index),
            self.corpus.header.fps, tuple(faults),
        )  # fmt: skip

    def _stored(self, index: int, scene: Scene | None, arrays: Mapping[str, Arrays]) -> dict[str, Any]:
        """Return the label file with its factors decoded, and the labels as ``annotation``."""
        stored = self.corpus.labels(index)
        found = len(stored["objects"]), stored["num_frames"]
        if scene is not None:
            expected = sum(layer.labelled for layer in scene.layers), scene.num_frames
            if found != expected:
                raise ValueError(f"labels of {found} objects and frames, the scene has {expected}")
        for item in (stored, *stored["objects"]):
            item["factors"] = json.loads(item["factors"])
        exact = annotate(scene, self.sources) if scene is not None and self.sources is not None else None
        annotation = StoredLabels(
            stored,
            exact=exact,
            kinds=tuple(arrays),
            read_kind=arrays.__getitem__,
        )
        _ = annotation.labels  # raises here where the file is damaged
        return {**stored, "annotation": annotation}

    def _num_bytes(self, index: int) -> int:
        return 0 if isinstance(self.corpus, _NoManifest) else int(self.corpus.row(index)["bytes"])

    def command(self, index: int) -> str:
        """Return the command line that renders the clip again."""
        header = self.corpus.header
        bank = _BANK if self.sources is None else str(self.sources.objects.path)
        parts = [str(self.corpus.path / "recipe.yaml"), "--bank", bank]
        if header.background_digest:
            folder = self.sources.backgrounds if self.sources else None
            parts += ["--backgrounds", str(folder.path) if folder else _BACKGROUNDS]
        if self.recipe is not None and tuple(header.size_hw) != self.recipe.size:
            parts += ["--size", f"{header.size_hw[0]}x{header.size_hw[1]}"]
        if self.recipe is not None and header.fps != self.recipe.fps:
            parts += ["--fps", f"{header.fps:g}"]
        return _view_command(parts, header.seed, index)


Source = CorpusSource | RecipeSource


def _view_command(parts: list[str], seed: int, index: int) -> str:
    clip = ["--seed", str(seed), "--index", str(index), "--out", f"clip-{index}.mp4"]
    return shlex.join(["smile-synth", "view", *parts, *clip])


class _NoManifest(Corpus):
    """A corpus in the folder layout whose `generate` was interrupted before it wrote a manifest."""

    def __init__(self, path: Path) -> None:
        self.path, self.header, self.indices = path, CorpusHeader.read(path), range(0)

    def __reduce__(self) -> tuple[Any, ...]:
        return _NoManifest, (self.path,)

    def read(self, index: int, name: str) -> bytes:
        """Return the content of one file of a clip."""
        folder = {"scene": "scenes", "json": "labels"}.get(name, "clips")
        if name.endswith(".npz"):
            folder, name = name.removesuffix(".npz"), "npz"
        return (self.path / folder / f"{index:06d}.{name}").read_bytes()


def open_corpus(path: Path, *, sources: Sources | None = None) -> CorpusSource:
    """Open a corpus, finished or not, and look for missing, cut and altered files.

    Args:
        path: folder of the corpus.
        sources: what the corpus was made from; flow, tracks and licences are computed with it.

    Raises:
        UserError: the folder has no corpus, its corpus.json is damaged, or other sources.
    """
    header = CorpusHeader.read(path)
    if sources is not None:
        sources.check(header.bank_digest, header.background_digest, of=f"corpus '{path}'")
    faults: list[Fault] = []
    clip_faults: dict[int, list[Fault]] = defaultdict(list)
    recipe = None
    try:
        recipe = header.resolved_recipe
    except UserError as error:
        faults.append(Fault("recipe unreadable", str(error).partition("\n")[0]))
    corpus: Corpus = _NoManifest(path)
    indices = tuple(sorted(int(file.stem) for file in path.glob("scenes/*.scene")))
    try:
        listed = Corpus(path, unfinished=True)
        if (path / MANIFEST).exists():  # perhaps of a finished part without clips
            corpus, indices = listed, tuple(listed.indices)
            for fault in verify(path):
                found = faults if fault.index is None else clip_faults[fault.index]
                found.append(Fault("corpus damaged" if fault.index is None else "file damaged", str(fault)))
        else:
            faults.append(
                Fault(
                    "manifest missing", "the last run on this corpus did not finish; run it again to continue"
                )
            )
    except UserError as error:
        faults.append(Fault("manifest unreadable", str(error).partition("\n")[0]))
    return CorpusSource(corpus, indices, recipe, tuple(faults), dict(clip_faults), sources)
