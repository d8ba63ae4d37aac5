"""Rendering with every backend."""

from typing import Any

import numpy as np
import pytest
import torch

from smile_synth.compositing import composite
from smile_synth.scene import Scene

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ("oracle", "cpu", "torch", "triton")


def device_of(backend: str) -> str:
    if backend == "triton":
        pytest.importorskip("triton")
    return DEVICE if backend in ("torch", "triton") else "cpu"


def draw(studio: Any, scene: Scene, backend: str) -> np.ndarray:
    return composite(scene, studio.sources, backend=backend, device=device_of(backend))
