"""The frozen teacher: clips in, image tokens out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_synth.core.errors import UserError
from smile_train.config import TeacherOptions
from smile_train.models._config import Size
from smile_train.models._towers import ImageTower, load_tower, wrap_tower


class Teacher(nn.Module):
    """A frozen image model that gives tokens of chosen layers, frame by frame.

    By default those of the last layer, after the final norm and before the projection, without the class
    token (arXiv 2504.00527). Tokens are in the student's order: time, rows, columns. The teacher is always
    in evaluation mode and has no gradients.

    Attributes:
        options: of the run.
        grid_hw: tokens along height and width, after any interpolation.
        widths: channels of each chosen layer. A token holds the layers side by side.
        width: channels of a token, the sum of the widths.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, tower: ImageTower, options: TeacherOptions, *, frame_stride: int, grid_hw: Size
    ) -> None:
        """Freeze an image model.

        Args:
            tower: the image model.
            options: precision, pixel statistics and size of the images.
            frame_stride: step between the encoded frames, the student's tubelet size.
            grid_hw: the student's tokens along height and width. Other grids are interpolated to it.
        """
        from open_clip.constants import IMAGENET_MEAN, IMAGENET_STD, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

        super().__init__()
        self.options, self.frame_stride, self.grid_hw = options, frame_stride, grid_hw
        self.tower = tower.eval().requires_grad_(False)
        if options.precision == "bf16":
            self.tower.bfloat16()
        self.widths = tower.widths
        self.width = sum(tower.widths)
        mean, std = {
            "own": (tower.mean, tower.std),
            "clip": (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD),
            "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        }[options.normalisation]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        if options.compile:
            self.compile()

    def train(self, mode: bool = True) -> Teacher:
        """Keep evaluation mode, also when a parent module is set to training mode."""
        return super().train(False)

    def encode(self, frames: Tensor) -> Tensor:
        """Return the tokens of clips, without gradients.

        Args:
            frames: uint8 ``[B, T, 3, H, W]``.

        Returns:
            ``[B, T / frame_stride * h * w, width]``.

        Raises:
            ValueError: frames of another size than the model's, if no ``input_size`` to resize to is given.
        """
        with torch.no_grad(), tf32_matmul():
            tokens: Tensor = self(frames)
        return tokens

    def forward(self, frames: Tensor) -> Tensor:
        """Do what `encode` does, with gradients enabled and at the precision of the caller."""
        used = frames[:, :: self.frame_stride]
        batch, time = used.shape[:2]
        images = used.flatten(0, 1).float() / 255
        size_hw = self.tower.image_size_hw
        if tuple(images.shape[-2:]) != size_hw:
            if self.options.input_size is None:
                raise ValueError(f"the teacher needs {size_hw} frames, got {tuple(images.shape[-2:])}")
            images = F.interpolate(images, size_hw, mode="bicubic", antialias=True)
        images = (images - self.mean) / self.std
        if self.options.precision == "auto":
            layers = self.tower(images)
        else:
            with torch.autocast(frames.device.type, enabled=False):
                layers = self.tower(images.to(next(self.tower.parameters()).dtype))
        grids = self.tower.grids_hw
        resized = [self._on_grid(tokens, grid) for tokens, grid in zip(layers, grids, strict=True)]
        return torch.cat(resized, dim=-1).reshape(batch, -1, self.width)

    def gflops(self, num_frames: int) -> float:
        """Return the cost of a clip of ``num_frames`` frames in GFLOP, 2 per multiply-add."""
        return self.tower.gflops() * (num_frames // self.frame_stride)

    def _on_grid(self, tokens: Tensor, grid_hw: Size) -> Tensor:
        if grid_hw == self.grid_hw:
            return tokens
        maps = tokens.transpose(1, 2).unflatten(2, grid_hw)
        maps = F.interpolate(maps.float(), self.grid_hw, mode="bilinear", antialias=True)
        return maps.flatten(2).transpose(1, 2)


@contextmanager
def tf32_matmul() -> Iterator[None]:
    """Allow TF32 in float32 matrix products on CUDA inside the block.

    A frozen teacher needs no more precision, and TF32 is several times faster than float32 there.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def load_teacher(options: TeacherOptions, *, size_hw: Size, patch_size: int, tubelet_size: int) -> Teacher:
    """Load the teacher of a student with the given frame size, patch and tubelet.

    Raises:
        UserError: unknown model, weights that cannot be loaded or do not fit, layers, norm or projection
            that the model lacks, or a token grid that differs from the student's, without interpolation.
    """
    grid = (size_hw[0] // patch_size, size_hw[1] // patch_size)
    input_hw = options.input_size or size_hw
    tower = load_tower(options, input_hw)
    other = [own for own in tower.grids_hw if own != grid]
    if other and options.grid == "match":
        own = other[0]
        own_patch = [size // n for size, n in zip(input_hw, own, strict=True)]
        fitting = [n * side for n, side in zip(grid, own_patch, strict=True)]
        raise UserError(
            f"teacher '{options.model}': has {own[0]}x{own[1]} patches at {input_hw[0]}x{input_hw[1]}, the "
            f"student {grid[0]}x{grid[1]}; choose a teacher with patch size {patch_size}, "
            f"teacher.input_size={fitting} or teacher.grid=interpolate"
        )
    return Teacher(tower, options, frame_stride=tubelet_size, grid_hw=grid)


def make_teacher(visual: Any, options: TeacherOptions, *, size_hw: Size, frame_stride: int) -> Teacher:
    """Freeze a loaded image model as a teacher with its own token grid.

    Args:
        visual: ``model.visual`` of an open_clip model, or a timm model.
        options: of the teacher; its model and weights are not loaded.
        size_hw: height and width of the images in pixels.
        frame_stride: step between the encoded frames.

    Raises:
        UserError: as `load_teacher`.
    """
    tower = wrap_tower(visual, options, size_hw)
    return Teacher(tower, options, frame_stride=frame_stride, grid_hw=tower.grids_hw[0])
