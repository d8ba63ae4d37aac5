"""Frozen CLIP teachers through open_clip: a clip in, patch tokens out."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD
from open_clip.model import resize_pos_embed
from torch import nn

from smile_synth.errors import UserError, nearest
from smile_synth.resources import shipped

TINY_CLIP = "tiny-clip"


class ClipTeacher(nn.Module):
    """A frozen CLIP image tower that gives the patch tokens of its last block.

    The tokens are those after the final norm and before the projection, without the class token
    (arXiv 2504.00527). They stand in the student's order: time, rows, columns.

    Attributes:
        width: channels of a token.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self, visual: Any, *, normalisation: Literal["clip", "imagenet"] = "clip", frame_stride: int = 2
    ) -> None:
        """Take the image tower of an open_clip model.

        Args:
            visual: ``model.visual``, a vision transformer.
            normalisation: pixel mean and std; the published code feeds ImageNet's to CLIP.
            frame_stride: every how many frames one is looked at, the student's tubelet size.
        """
        super().__init__()
        if not hasattr(visual, "forward_intermediates") or not hasattr(visual, "grid_size"):
            raise UserError(
                f"teacher: needs a vision transformer with patch tokens, got {type(visual).__name__}"
            )
        self.visual = visual.eval().requires_grad_(False)
        self.frame_stride = frame_stride
        self.grid_hw: tuple[int, int] = tuple(visual.grid_size)
        self.image_size_hw: tuple[int, int] = tuple(visual.image_size)
        self.width: int = visual.ln_post.normalized_shape[0]
        mean = visual.image_mean if normalisation == "clip" else IMAGENET_MEAN
        std = visual.image_std if normalisation == "clip" else IMAGENET_STD
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> ClipTeacher:
        """Stay in evaluation mode, whatever the student does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Return tokens ``[B, T / frame_stride * h * w, width]`` of clips ``[B, T, 3, H, W]`` in 0..1."""
        if tuple(clips.shape[-2:]) != self.image_size_hw:
            raise ValueError(f"the teacher takes {self.image_size_hw} frames, got {tuple(clips.shape[-2:])}")
        frames = clips[:, :: self.frame_stride]
        batch, time = frames.shape[:2]
        pictures = (frames.flatten(0, 1) - self.mean) / self.std
        result = self.visual.forward_intermediates(
            pictures, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
        tokens: torch.Tensor = result["image_intermediates"][-1]
        return tokens.reshape(batch, time * tokens.shape[1], self.width)


def load_clip(
    model: str,
    *,
    pretrained: str | None = None,
    force_quick_gelu: bool = False,
    image_size: int | None = None,
) -> Any:
    """Load an open_clip model in evaluation mode.

    Args:
        model: ``tiny-clip`` (ships with the project), an open_clip name, or ``local-dir:FOLDER``.
        pretrained: a tag of open_clip or a file of weights, for a name.
        force_quick_gelu: OpenAI's weights need it when they are loaded from a file.
        image_size: another input size than the model's own.

    Raises:
        UserError: unknown model, or weights that cannot be had.
    """
    name = f"local-dir:{shipped('assets') / TINY_CLIP}" if model == TINY_CLIP else model
    local = name.startswith("local-dir:")
    if local and not (Path(name.removeprefix("local-dir:")) / "open_clip_config.json").is_file():
        raise UserError(f"teacher '{model}': no open_clip_config.json in that folder")
    known = open_clip.list_models()
    if not local and ":" not in name and name not in known:
        raise UserError(f"teacher '{model}': open_clip knows no such model{nearest(name, known)}")
    if not local and ":" not in name and not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UserError(
            f"teacher '{model}': needs pretrained weights: a file, or one of {', '.join(tags) or '(none)'}"
        )
    level = logging.root.level
    try:
        with warnings.catch_warnings():
            # A QuickGELU mismatch gives silently wrong features: refuse it.
            warnings.filterwarnings("error", message="QuickGELU mismatch")
            logging.root.setLevel(logging.CRITICAL)  # the reason is in the exception
            loaded = open_clip.create_model(
                name,
                pretrained=pretrained,
                force_quick_gelu=force_quick_gelu,
                require_pretrained=True,
            )
            if image_size and tuple(loaded.visual.image_size) != (image_size, image_size):
                loaded = _resized(loaded, name, image_size, force_quick_gelu)
    except Exception as error:  # open_clip raises whatever its downloads and readers raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"teacher '{model}' (weights: {pretrained or 'own folder'}): cannot be loaded: {reason}"
        ) from None
    finally:
        logging.root.setLevel(level)
    return loaded.eval()


def _resized(model: Any, name: str, image_size: int, force_quick_gelu: bool) -> Any:
    """Return the model for another input size, positions interpolated in float32, whatever is stored."""
    other = open_clip.create_model(
        name, force_quick_gelu=force_quick_gelu, force_image_size=image_size, load_weights=False
    )
    weights = {key: value.float() for key, value in model.state_dict().items()}
    resize_pos_embed(weights, other)
    other.load_state_dict(weights)
    return other


def load_teacher(
    model: str,
    *,
    size_hw: tuple[int, int],
    patch_size: int,
    tubelet_size: int,
    pretrained: str | None = None,
    force_quick_gelu: bool = False,
    normalisation: Literal["clip", "imagenet"] = "clip",
) -> ClipTeacher:
    """Load a CLIP as the teacher of a student with the given frame size, patch and tubelet.

    Raises:
        UserError: see `load_clip`; or its patches are not the student's.
    """
    if size_hw[0] != size_hw[1]:
        raise UserError(f"teacher '{model}': takes square frames, got {size_hw[0]}x{size_hw[1]}")
    clip = load_clip(model, pretrained=pretrained, force_quick_gelu=force_quick_gelu, image_size=size_hw[0])
    teacher = ClipTeacher(clip.visual, normalisation=normalisation, frame_stride=tubelet_size)
    expected = (size_hw[0] // patch_size, size_hw[1] // patch_size)
    if teacher.grid_hw != expected:
        raise UserError(
            f"teacher '{model}': has {teacher.grid_hw[0]}x{teacher.grid_hw[1]} patches at "
            f"{size_hw[0]}x{size_hw[1]}, the student {expected[0]}x{expected[1]}; "
            f"choose a teacher with patch size {patch_size}"
        )
    return teacher
