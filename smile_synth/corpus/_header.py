"""corpus.json: everything that decides the bytes of a corpus, except the content of its sources."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pydantic

from smile_synth.core.errors import UserError, counted
from smile_synth.io.atomic import write_bytes
from smile_synth.recipe import Recipe, flattened
from smile_synth.sources import Sources

FORMAT = "smile-corpus-3"
HEADER = "corpus.json"
RECIPE = "recipe.yaml"
LAYOUTS = ("folder", "shards")
# Packages whose versions affect bytes. libx264, ffv1, libpng and libwebp are part of av and OpenCV.
_PACKAGES = (
    "smile-video",
    "numpy",
    "av",
    "numba",
    "opencv-python-headless",
    "orjson",
    "pycocotools",
    "pyarrow",
)
_MAX_DIFFERENCES = 5


@dataclass(frozen=True)
class CorpusHeader:
    """The content of corpus.json.

    Attributes:
        recipe: all values of the recipe.
        recipe_digest, bank_digest, background_digest: of what the scenes are drawn from.
        seed: of the corpus.
        num_clips: of the whole corpus, not only of a part.
        size_hw: frame size in pixels.
        fps: frames per second of the media.
        media: a key of `MEDIA`.
        quality: of H.264, 0 (best) to 51.
        layout: ``folder`` or ``shards``.
        clips_per_shard: clips in one tar file.
        labels: label kinds in addition to the object labels, in the order of `KINDS`.
        part: (i, n) if this folder is part i of n of the corpus, else None.
        classes: all classes of the bank; category ids of exporters are positions here, from 1.
        licences: number of objects and backgrounds with each licence.
        versions: of the packages that affect bytes.
        format: of this file.
    """

    recipe: dict[str, Any]
    recipe_digest: str
    bank_digest: str
    background_digest: str
    seed: int
    num_clips: int
    size_hw: tuple[int, int]
    fps: float
    media: str
    quality: int
    layout: str
    clips_per_shard: int
    labels: tuple[str, ...]
    part: tuple[int, int] | None
    classes: tuple[str, ...]
    licences: dict[str, Any]
    versions: dict[str, str]
    format: str = FORMAT

    @classmethod
    def read(cls, folder: Path) -> CorpusHeader:
        """Read the header of a corpus.

        Raises:
            UserError: the folder is not a corpus, or its header is damaged or of another format.
        """
        path = folder / HEADER
        if not path.is_file():
            raise UserError(f"corpus '{folder}': is not a corpus, it has no {HEADER}")
        try:
            values = json.loads(path.read_text())
            if values.get("format") != FORMAT:
                raise UserError(
                    f"corpus '{folder}': has format {values.get('format')!r}, this version reads {FORMAT!r}"
                )
            for name in ("size_hw", "labels", "classes", "part"):
                values[name] = None if values[name] is None else tuple(values[name])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(f"corpus '{folder}': {HEADER} is damaged: {error}") from None

    def __hash__(self) -> int:
        """Hash the values that identify a corpus."""
        return hash((self.recipe_digest, self.bank_digest, self.background_digest, self.seed, self.num_clips))

    def write(self, folder: Path) -> None:
        """Write corpus.json, and recipe.yaml for people and for `Recipe.load`."""
        write_bytes(folder / RECIPE, self.resolved_recipe.to_yaml().encode())
        write_bytes(folder / HEADER, (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode())

    @cached_property
    def resolved_recipe(self) -> Recipe:
        """The recipe of the scenes.

        Raises:
            UserError: it is a recipe of another version.
        """
        try:
            return Recipe.model_validate_json(json.dumps(self.recipe))
        except pydantic.ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UserError(f"the recipe of the corpus is of another version: {message}") from None

    @property
    def num_frames(self) -> int:
        """Number of frames of every clip."""
        return int(self.recipe["num_frames"])

    @property
    def indices(self) -> range:
        """The clips in this folder: all, or those of its part, which can be empty."""
        if self.part is None:
            return range(self.num_clips)
        i, n = self.part
        unit = self.clips_per_shard if self.layout == "shards" else 1
        units = -(-self.num_clips // unit)
        return range(units * i // n * unit, min(units * (i + 1) // n * unit, self.num_clips))

    def differences(self, other: CorpusHeader) -> list[tuple[str, str, str]]:
        """Return (key, own value, other value) of all values that differ; nested keys as paths."""
        own_values, other_values = flattened(asdict(self)), flattened(asdict(other))
        return [
            (key, _short(own_values.get(key)), _short(other_values.get(key)))
            for key in sorted(own_values.keys() | other_values.keys())
            if own_values.get(key) != other_values.get(key)
        ]

    def grown_to(self, requested: CorpusHeader, out: Path) -> CorpusHeader:
        """Return this header with the clips and the additional labels of a requested one.

        Raises:
            UserError: the requested corpus is another one, or has fewer clips.
        """
        labels = tuple(dict.fromkeys((*self.labels, *requested.labels)))
        grown = replace(self, num_clips=requested.num_clips, labels=labels)
        different = grown.differences(replace(requested, labels=labels))
        if different:
            lines = [f"{key} is {own} there and {other} now" for key, own, other in different]
            raise UserError(f"out '{out}': holds another corpus: {listed(lines)}")
        if requested.num_clips < self.num_clips:
            raise UserError(
                f"out '{out}': has {self.num_clips} clips; num_clips can grow, not shrink to "
                f"{requested.num_clips}"
            )
        if self.part and requested.num_clips != self.num_clips:
            raise UserError(
                f"out '{out}': is a part of {counted(self.num_clips, 'clip')}; merge the parts before "
                "num_clips grows"
            )
        return grown


def listed(lines: list[str]) -> str:
    """Join differences to one line; digests only where no other value differs, and few of them."""
    lines = [line for line in lines if "_digest" not in line] or lines
    more = f" and {len(lines) - _MAX_DIFFERENCES} more" if len(lines) > _MAX_DIFFERENCES else ""
    return ", ".join(lines[:_MAX_DIFFERENCES]) + more


def current_versions() -> dict[str, str]:
    """Return the installed versions of the packages that affect bytes."""
    return {**{name: version(name) for name in _PACKAGES}, "zlib": zlib.ZLIB_RUNTIME_VERSION}


def count_licences(sources: Sources) -> dict[str, Any]:
    """Return the number of objects, and of backgrounds if there are any, with each licence."""
    names = Counter(name or "not recorded" for name in sources.objects.index["licence"].to_pylist())
    summary: dict[str, Any] = {"objects": dict(sorted(names.items()))}
    if sources.backgrounds is not None:
        summary["backgrounds"] = {"not recorded": len(sources.backgrounds)}
    return summary


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(map(repr, value[:3]))}, ... {len(value)} in all]"
    return repr(value)
