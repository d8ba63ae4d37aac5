"""What is looked at: clips of a corpus folder, or of a recipe that is rendered now. The one reader here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smile_synth.annotations import annotate
from smile_synth.compositing import composite
from smile_synth.core.clip import Annotator, Clip, Labels
from smile_synth.core.errors import UserError
from smile_synth.corpus import Corpus, labels_to_json
from smile_synth.io.pixel_format import PixelFormat
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.sampling import sample_scene
from smile_synth.scene import Scene
from smile_synth.sources import Sources
from smile_synth.visualize._stored import StoredAnnotation

UInt8 = NDArray[np.uint8]
# Where the bank or the backgrounds of a corpus are not known, a command names them like this.
BANK, BACKGROUNDS = "OBJECTS.bank", "BACKGROUNDS"


@dataclass(frozen=True)
class Fault:
    """Something about a source or a clip that could not be used.

    Attributes:
        kind: what reports count by.
        text: the details.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Sample:
    """One clip as it was found.

    Attributes:
        index: of the clip.
        frames: ``[T, H, W, 3]`` uint8; None: cannot be read.
        annotation: source of the labels; None: cannot be read.
        stored: the label file's plain data, see `smile_synth.corpus.labels_to_json`; None: cannot be read.
        scene: None where it cannot be read.
        num_bytes: of the media; 0 of a rendered clip.
        fps: frames per second.
        faults: what could not be read, or differs from the manifest.
    """

    index: int
    frames: UInt8 | None = None
    annotation: Annotator | None = None
    stored: dict[str, Any] | None = None
    scene: Scene | None = None
    num_bytes: int = 0
    fps: float = 8.0
    faults: tuple[Fault, ...] = ()

    @property
    def labels(self) -> Labels | None:
        """All labels, see `Labels`; None: cannot be read."""
        return None if self.annotation is None else self.annotation.labels

    @property
    def clip(self) -> Clip | None:
        """Frames and labels; None where either cannot be read."""
        if self.frames is None or self.annotation is None:
            return None
        return Clip(self.frames, self.fps, self.annotation)


class Source(Protocol):
    """Clips by index, and what is known of all of them. Travels to worker processes."""

    name: str
    recipe: Recipe | None
    indices: Sequence[int]
    faults: tuple[Fault, ...]
    bank: ObjectBank | None

    def read(self, index: int) -> Sample:
        """Return a clip; what is wrong with it stands in its faults."""

    def command(self, index: int) -> str:
        """Return the command that renders the clip anew."""


@dataclass(frozen=True)
class RecipeSource:
    """Clips 0 .. num_clips - 1 of a recipe, rendered when asked for."""

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
        """Return the clips' indices."""
        return range(self.num_clips)

    def read(self, index: int) -> Sample:
        """Draw, render and label a clip."""
        scene = sample_scene(self.recipe, self.sources, seed=self.seed, index=index)
        scene = scene.scaled_to(self.size_hw or scene.size_hw)
        annotation = annotate(scene, self.sources)
        frames = composite(scene, self.sources)
        stored = _with_factors(labels_to_json(annotation))
        return Sample(index, frames, annotation, stored, scene, fps=scene.fps)

    def command(self, index: int) -> str:
        """Return the command that renders the clip anew."""
        parts = ["smile-synth", "view", self.name, *self.overrides, "--bank", str(self.sources.objects.path)]
        if self.sources.backgrounds is not None:
            parts += ["--backgrounds", str(self.sources.backgrounds.path)]
        if self.size_hw is not None:
            parts += ["--size", f"{self.size_hw[0]}x{self.size_hw[1]}"]
        return _command(parts, self.seed, index)


@dataclass(frozen=True)
class CorpusSource:
    """Clips of a corpus folder, finished or not.

    Shards and media other than mp4 are read by `Corpus`, which needs the manifest; one file after the other
    is read here, so that what stands of an unfinished folder can be looked at.
    """

    path: Path
    recipe: Recipe | None
    indices: tuple[int, ...]
    header: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    sources: Sources | None = None
    reader: Corpus | None = None

    @property
    def name(self) -> str:
        """Return the folder as it was given."""
        return str(self.path)

    def read(self, index: int) -> Sample:
        """Read a clip's scene, labels and media; each may fail by itself."""
        faults: list[Fault] = []
        scene_path, clip_path, label_path = _paths(self.path, index)
        scene = stored = frames = data = None
        try:
            scene = self.reader.scene(index) if self.reader else Scene.from_bytes(scene_path.read_bytes())
        except (OSError, UserError) as error:
            faults.append(_fault("scene", scene_path, error))
        annotation = None
        try:
            text = self.reader.read(index, "json") if self.reader else label_path.read_bytes()
            stored = _with_factors(json.loads(text))
            annotation = StoredAnnotation(stored, scene)
            _ = annotation.labels
        except (OSError, UserError, ValueError, KeyError, TypeError, IndexError) as error:
            stored = annotation = None
            faults.append(_fault("labels", label_path, error))
        try:
            if self.reader:
                frames = self.reader.frames(index)
            else:
                data = clip_path.read_bytes()
                frames = read_frames(clip_path)
        except (OSError, UserError) as error:
            faults.append(_fault("media", clip_path, error))
        row = self.rows.get(index)
        if data is not None and row is not None and len(data) != row["bytes"]:
            what = f"{clip_path.name} has {len(data)} bytes, the manifest says {row['bytes']}"
            faults.append(Fault("media altered", what))
        if frames is not None and annotation is not None:
            shape = annotation.segmentation.shape
            if frames.shape[:3] != shape:
                what = f"{clip_path.name} has {frames.shape[:3]} frames, rows and columns, the labels {shape}"
                faults.append(Fault("media and labels differ", what))
                frames = None
        fps = scene.fps if scene else float(self.header.get("fps", 8.0))
        num_bytes = int(row["bytes"]) if self.reader and row else len(data or b"")
        return Sample(index, frames, annotation, stored, scene, num_bytes, fps, tuple(faults))

    def command(self, index: int) -> str:
        """Return the command that renders the clip anew."""
        bank = BANK if self.sources is None else str(self.sources.objects.path)
        parts = ["smile-synth", "view", str(self.path / "recipe.yaml"), "--bank", bank]
        if self.header.get("background_digest"):
            folder = self.sources.backgrounds if self.sources else None
            parts += ["--backgrounds", str(folder.path) if folder else BACKGROUNDS]
        size = self.header.get("size_hw")
        if size and self.recipe is not None and tuple(size) != self.recipe.size:
            parts += ["--size", f"{size[0]}x{size[1]}"]
        fps = self.header.get("fps")
        if fps and self.recipe is not None and fps != self.recipe.fps:
            parts += ["--fps", f"{fps:g}"]
        return _command(parts, self.header.get("seed", "SEED"), index)


def _command(parts: list[str], seed: object, index: int) -> str:
    return shlex.join([*parts, "--seed", str(seed), "--index", str(index), "--out", f"clip-{index}.mp4"])


def _paths(folder: Path, index: int) -> tuple[Path, Path, Path]:
    name = f"{index:06d}"
    return (
        folder / "scenes" / f"{name}.scene",
        folder / "clips" / f"{name}.mp4",
        folder / "labels" / f"{name}.json",
    )


def _fault(what: str, path: Path, error: Exception) -> Fault:
    if isinstance(error, FileNotFoundError):
        return Fault(f"{what} missing", f"no {path.name}")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return Fault(f"{what} unreadable", f"{path.name}: {reason}")


def read_frames(path: Path) -> UInt8:
    """Decode a video ``[T, H, W, 3]`` uint8.

    Raises:
        UserError: no video, or damaged.
    """
    try:
        with av.open(str(path)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            convert = PixelFormat()
            frames = [convert.to_rgb(frame) for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise UserError(f"not a video that can be read ({type(error).__name__})") from None
    if not frames:
        raise UserError("holds no frames")
    return np.stack(frames)


def open_corpus(path: Path, *, sources: Sources | None = None) -> CorpusSource:
    """Open a corpus folder, whatever state it is in.

    Raises:
        UserError: the folder holds no corpus.
    """
    header_path = path / "corpus.json"
    if not header_path.is_file():
        raise UserError(f"corpus '{path}': no corpus.json there")
    faults: list[Fault] = []
    header, recipe, rows = {}, None, {}
    try:
        header = dict(json.loads(header_path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        faults.append(_fault("corpus.json", header_path, error))
    try:
        recipe = Recipe.load(path / "recipe.yaml")
    except UserError as error:
        kind = "recipe missing" if not (path / "recipe.yaml").exists() else "recipe unreadable"
        faults.append(Fault(kind, str(error).splitlines()[0]))
    try:
        table = pq.read_table(path / "manifest.parquet", columns=["index", "bytes"])
        rows = {row["index"]: row for row in table.to_pylist()}
    except FileNotFoundError:
        faults.append(Fault("manifest missing", "no manifest.parquet: the corpus was not written to its end"))
    except (OSError, pa.ArrowException, KeyError) as error:
        faults.append(_fault("manifest", path / "manifest.parquet", error))
    found = {
        int(file.stem) for name in ("scenes", "clips", "labels") for file in (path / name).glob("*.*")
        if file.stem.isdecimal()
    }  # fmt: skip
    reader = None
    if header.get("layout", "folder") != "folder" or header.get("media", "h264") != "h264":
        try:
            reader = Corpus(path, unfinished=True)
            found = set(reader.indices)
        except UserError as error:
            faults.append(_fault("corpus", path, error))
    if sources is not None and "bank_digest" in header:
        sources.check(header["bank_digest"], header.get("background_digest", ""), of=f"corpus '{path}'")
    return CorpusSource(
        path, recipe, tuple(sorted(found | set(rows))), header, rows, tuple(faults), sources, reader
    )


def _with_factors(stored: dict[str, Any]) -> dict[str, Any]:
    """Read the factors, which a label file holds as text so that every clip has the same types."""
    for item in (stored, *stored["objects"]):
        item["factors"] = json.loads(item["factors"])
    return stored
