"""Read configurations: presets by name, files that extend others, and overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from smile_synth.io.resources import find_config
from smile_synth.io.strict_yaml import StrictModel, load

Config = TypeVar("Config", bound=StrictModel)


def load_config(model: type[Config], name_or_path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a training preset by name, or a YAML file, with ``key.path=value`` overrides.

    A file may extend another one: ``extends: NAME``, a preset or a path relative to the file. Its other keys
    are applied on top, like overrides: mappings are merged, other values replace, and ``a.0.b: value``
    changes one value inside.

    Raises:
        UserError: unknown preset, missing file, or mistakes in it, all at once.
    """
    return load(model, find_config(name_or_path, "train"), overrides, find_base=_find_base)


def _find_base(file: Path, name: str) -> Path:
    beside = file.parent / name
    return beside if beside.is_file() else find_config(name, "train")
