"""Find the configs and assets that ship with the project, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from smile_synth.core.errors import UserError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(kind: Literal["configs", "assets"]) -> Path:
    """Return the folder of shipped configs or assets."""
    installed = _PACKAGE / "_shipped" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def find_config(name_or_path: str | Path, kind: Literal["synth", "train"]) -> Path:
    """Return the path of a preset's YAML file, or the given path of a file.

    Raises:
        UserError: neither a preset nor a file; the message lists the presets.
    """
    text = str(name_or_path)
    presets = {path.stem: path for path in sorted((shipped("configs") / kind).glob("*.yaml"))}
    if text in presets:
        return presets[text]
    path = Path(text)
    if path.is_file():
        return path
    what = "recipe" if kind == "synth" else "config"
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise UserError(f"{what} '{text}': no such file")
    hint = nearest(text, presets)
    raise UserError(f"{what} '{text}': no such preset, there are {', '.join(presets)}{hint}")
