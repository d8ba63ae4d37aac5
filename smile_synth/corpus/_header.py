"""corpus.json: everything that decides a corpus's bytes, but for the sources themselves."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pydantic

from smile_synth.backgrounds import BackgroundFolder
from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe

FORMAT = "smile-corpus-2"
HEADER = "corpus.json"
LAYOUTS = ("folder", "shards")
# Versions of what touches bytes; libx264, ffv1, libpng and libwebp come inside av and OpenCV.
_PACKAGES = ("smile-video", "numpy", "av", "numba", "opencv-python-headless", "pycocotools", "pyarrow")


@dataclass(frozen=True)
class CorpusHeader:
    """What is written in corpus.json.

    Attributes:
        recipe: as resolved, every value written out.
        recipe_digest, bank_digest, background_digest: what the scenes are drawn from.
        seed: of the corpus.
        num_clips: of the whole corpus.
        size_hw: frame size in pixels.
        fps: of the media.
        media: a key of `MEDIA`.
        quality: of H.264, 0 (best) to 51.
        layout: ``folder`` or ``shards``.
        clips_per_shard: clips in one tar.
        labels: label kinds beside the objects', in their order in `KINDS`.
        part: (i, n) where this folder is one of n parts of the corpus, else None.
        classes: all classes of the bank; their place + 1 is the category id of every exporter.
        licences: of the bank's objects, with how many have each; of the backgrounds.
        versions: of what touches bytes.
        extensions: label kind -> versions, where other ones than those made it later.
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
    extensions: dict[str, dict[str, str]] = field(default_factory=dict)
    format: str = FORMAT

    @classmethod
    def read(cls, folder: Path) -> CorpusHeader:
        """Read a corpus's header.

        Raises:
            UserError: no corpus of ours, or a damaged header.
        """
        path = folder / HEADER
        if not path.is_file():
            raise UserError(f"corpus '{folder}': holds no {HEADER}; not a corpus of ours")
        try:
            values = json.loads(path.read_text())
            if values.get("format") != FORMAT:
                raise UserError(
                    f"corpus '{folder}': is of format {values.get('format')!r}, this version reads {FORMAT!r}"
                )
            for name in ("size_hw", "labels", "classes", "part"):
                values[name] = None if values[name] is None else tuple(values[name])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise UserError(f"corpus '{folder}': {HEADER} is damaged: {error}") from None

    def write(self, folder: Path) -> None:
        """Write corpus.json, and recipe.yaml beside it for people and for `Recipe.load`."""
        write_bytes(folder / "recipe.yaml", self.resolved_recipe.to_yaml().encode())
        write_bytes(folder / HEADER, (json.dumps(asdict(self), indent=1, sort_keys=True) + "\n").encode())

    @cached_property
    def resolved_recipe(self) -> Recipe:
        """The recipe to draw from.

        Raises:
            UserError: this version reads other recipes.
        """
        try:
            return Recipe.model_validate_json(json.dumps(self.recipe))
        except pydantic.ValidationError as error:
            raise UserError(
                f"the corpus's recipe is of another version: {error.errors()[0]['msg']}"
            ) from None

    @property
    def num_frames(self) -> int:
        """Frames of every clip."""
        return int(self.recipe["num_frames"])

    @property
    def indices(self) -> range:
        """The clips in this folder: all, or those of its part."""
        if self.part is None:
            return range(self.num_clips)
        i, n = self.part
        unit = self.clips_per_shard if self.layout == "shards" else 1
        units = -(-self.num_clips // unit)
        return range(units * i // n * unit, min(units * (i + 1) // n * unit, self.num_clips))

    def differences(self, other: CorpusHeader) -> list[str]:
        """Tell in which values another corpus differs, one line each, nested keys by their path."""
        mine, its = _flat(asdict(self)), _flat(asdict(other))
        return [
            f"{key} is {_short(mine.get(key))} there and {_short(its.get(key))} now"
            for key in sorted(mine.keys() | its.keys())
            if mine.get(key) != its.get(key)
        ]

    def joined_by(self, wanted: CorpusHeader, out: Path) -> CorpusHeader:
        """Return the header of this corpus grown to what a command wants.

        Raises:
            UserError: it is another corpus, or has more clips already.
        """
        labels = tuple(dict.fromkeys((*self.labels, *wanted.labels)))
        grown = replace(self, num_clips=wanted.num_clips, labels=labels)
        different = grown.differences(replace(wanted, labels=labels, extensions=self.extensions))
        # A digest says no more than the values it is made of, where those are told.
        told = [line for line in different if "_digest" not in line] or different
        if told:
            more = f" and {len(told) - 5} more" if len(told) > 5 else ""
            raise UserError(f"out '{out}': holds another corpus: {', '.join(told[:5])}{more}")
        if wanted.num_clips < self.num_clips:
            raise UserError(
                f"out '{out}': was begun with {self.num_clips} clips; num-clips can be raised, not lowered "
                f"to {wanted.num_clips}"
            )
        if self.part and wanted.num_clips != self.num_clips:
            raise UserError(
                f"out '{out}': is a part of {self.num_clips} clips; raise num-clips after the merge"
            )
        return grown


def versions() -> dict[str, str]:
    """Return the present versions of what touches bytes."""
    return {**{name: version(name) for name in _PACKAGES}, "zlib": zlib.ZLIB_RUNTIME_VERSION}


def licences(bank: ObjectBank, backgrounds: BackgroundFolder | None) -> dict[str, Any]:
    """Sum up under which licences a corpus's sources are."""
    names = Counter(name or "not recorded" for name in bank.index["licence"].to_pylist())
    summary: dict[str, Any] = {"objects": dict(sorted(names.items()))}
    if backgrounds is not None:
        summary["backgrounds"] = {"not recorded": len(backgrounds)}
    return summary


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(map(repr, value[:3]))}, ... {len(value)} in all]"
    return repr(value)


def _flat(values: Any, path: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        items: Any = values.items()
    elif isinstance(values, list | tuple) and any(isinstance(value, dict) for value in values):
        items = enumerate(values)
    else:
        return {path: list(values) if isinstance(values, tuple) else values}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flat(value, f"{path}.{key}" if path else str(key))
    return flat
