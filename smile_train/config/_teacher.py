"""The configuration of the training of a small CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smile_train.config._presets import load_config
from smile_train.config._shared import Count, OptimiserOptions, Options, PathText, RunOptions, Whole


class TeacherTrainingConfig(Options):
    """Training of a small CLIP on rendered images with captions."""

    recipe: PathText
    """A synth preset or a path. The first frame of each clip is an image."""
    seed: Whole = 0
    """Of the data and the initial weights."""
    steps: Count
    """Steps of the contrastive training."""
    batch_size: Count
    """Images per step."""
    optimiser: OptimiserOptions = OptimiserOptions()
    """Optimiser and schedule."""
    vision_width: Count
    """Width of the image tower."""
    vision_layers: Count
    """Blocks of the image tower."""
    vision_heads: Count
    """Attention heads of the image tower."""
    patch_size: Count
    """Side of a token in pixels."""
    text_width: Count
    """Width of the text tower."""
    text_layers: Count
    """Blocks of the text tower."""
    text_heads: Count
    """Attention heads of the text tower."""
    context_length: Count
    """Longest caption in tokens."""
    embed_dim: Count
    """Width of the space shared by images and text."""
    run: RunOptions = RunOptions()
    """How the run computes and what it keeps."""

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Sequence[str] = ()) -> TeacherTrainingConfig:
        """Read a preset by name, or a YAML file; errors as `PretrainConfig.load`."""
        return load_config(cls, name_or_path, overrides)
