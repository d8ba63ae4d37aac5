"""A tiny bank and a tiny recipe, in whose corpora every file is small."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile_synth import ObjectBank, Recipe, build_bank
from smile_synth.io.strict_yaml import parse

RECIPE = """
size: [24, 32]
num_frames: 3
backgrounds: [{kind: noise}]
objects: {count: 2, side: [10, 14]}
motion:
  - {family: constant-velocity, speed: [1.0, 3.0], rotation: {rate: 4.0}}
"""


@pytest.fixture(scope="session")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ObjectBank:
    """Four opaque rectangles of two classes."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(5)
    for k in range(4):
        rgba = rng.integers(0, 256, (18, 16 + k, 4), dtype=np.uint8)
        rgba[..., 3] = 255
        (folder / "rgba" / f"class{k % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgba).save(folder / "rgba" / f"class{k % 2}" / f"{k}.png")
    build_bank([folder / "rgba"], folder / "bank")
    return ObjectBank.open(folder / "bank")


@pytest.fixture(scope="session")
def recipe_text() -> str:
    """The recipe as YAML."""
    return RECIPE


@pytest.fixture(scope="session")
def recipe(recipe_text: str) -> Recipe:
    """Three frames of 24x32 with two objects."""
    return parse(Recipe, recipe_text, name="recipe")


@pytest.fixture(scope="session")
def digests() -> Callable[[Path], dict[str, str]]:
    """Return a function that gives the digest of every file of a folder."""

    def of(folder: Path) -> dict[str, str]:
        return {
            p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    return of
