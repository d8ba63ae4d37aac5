"""What the student predicts, and how far it is from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_synth.core.errors import UserError, nearest
from smile_train.config import HeadOptions, TargetOptions
from smile_train.models import Teacher, pick_tokens

EPS = 1e-6


@dataclass(frozen=True)
class _Part:
    """A stretch of a token's target with a loss of its own: pixels, or one layer of the teacher."""

    options: HeadOptions
    start: int
    stop: int
    weight: float


class Targets:
    """What a run predicts: the targets of its heads, side by side in every token, and their loss.

    One linear head predicts them all, which is the same as one for each.

    Attributes:
        options: of the run.
        width: values per token.
    """

    def __init__(
        self, options: TargetOptions, *, patch_size: int, tubelet_size: int, teacher: Teacher | None = None
    ) -> None:
        """Describe the targets of a student with such tokens.

        Raises:
            ValueError: a head wants a teacher and there is none.
        """
        self.options, self.patch_size, self.tubelet_size = options, patch_size, tubelet_size
        self.teacher = teacher
        self._parts: list[_Part] = []
        for head in options.heads:
            if head.kind == "teacher" and teacher is None:
                raise ValueError("a target of kind teacher needs a teacher")
            widths: tuple[int, ...] = (tubelet_size * patch_size**2 * 3,)
            if head.kind == "teacher" and teacher is not None:
                widths = teacher.widths
            for width in widths:
                start = self._parts[-1].stop if self._parts else 0
                self._parts.append(_Part(head, start, start + width, head.weight / len(widths)))
        self.width = self._parts[-1].stop

    def __call__(self, frames: Tensor) -> Tensor:
        """Return the targets of all tokens, float32 ``[B, N, width]``, of uint8 clips ``[B, T, 3, H, W]``.

        The teacher looks once, however many heads and masks there are.
        """
        tokens: list[Tensor] = []
        if self.teacher is not None:
            tokens = list(self.teacher.look(frames).split(self.teacher.widths, dim=-1))
        values: list[Tensor] = []
        for head in self.options.heads:
            if head.kind == "teacher":
                values += [normalise_tokens(head.norm, layer) for layer in tokens]
            else:
                pixels = frames.float() / 255
                values.append(
                    pixel_targets(pixels, self.patch_size, self.tubelet_size, normalise=head.per_patch)
                )
        return values[0] if len(values) == 1 else torch.cat(values, dim=-1)

    def pick(self, values: Tensor, mask: Tensor, num_masked: int | None = None) -> Tensor:
        """Return the tokens ``[B, P, width]`` that the loss is on, in the student's order (`pick_tokens`)."""
        return pick_tokens(values, mask, num_masked, self.options.tokens)

    def loss(self, predicted: Tensor, wanted: Tensor) -> Tensor:
        """Return the weighted sum of the heads' losses, in float32; layers of a teacher share their weight.

        Args:
            predicted: ``[B, P, width]``.
            wanted: alike.

        Raises:
            ValueError: the shapes differ.
        """
        if predicted.shape != wanted.shape:
            raise ValueError(f"prediction is {list(predicted.shape)} but target {list(wanted.shape)}")
        total: Tensor | None = None
        for part in self._parts:
            pair = (tensor[..., part.start : part.stop].float() for tensor in (predicted, wanted))
            loss = LOSSES[part.options.loss](*pair) * part.weight
            total = loss if total is None else total + loss
        assert total is not None
        return total

    def loss_of_mean(self, values: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of predicting for every token its clip's mean over ``values [B, N, width]``."""
        return self.loss(values.mean(1, keepdim=True).expand_as(wanted), wanted)


def _cosine(predicted: Tensor, wanted: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(predicted, wanted, dim=-1, eps=EPS).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
    "cosine": _cosine,
}


def pixel_targets(clips01: Tensor, patch_size: int, tubelet_size: int, *, normalise: bool = True) -> Tensor:
    """Cut clips into one vector of pixels per token (VideoMAE, arXiv 2203.12602).

    Args:
        clips01: float `[B, T, 3, H, W]`, 0..1, not normalised by any mean.
        patch_size: side of a token in pixels.
        tubelet_size: frames a token spans.
        normalise: z-score each channel within each token (unbiased variance, 1e-6 added to the
            standard deviation; He et al., arXiv 2111.06377, sec. 4.1).

    Returns:
        float32 `[B, N, tubelet_size * patch_size^2 * 3]`, tokens as the student's, channel last within.

    Raises:
        ValueError: a shape that the token does not divide.
    """
    batch, frames, channels, height, width = clips01.shape
    if frames % tubelet_size or height % patch_size or width % patch_size:
        raise ValueError(
            f"clips {list(clips01.shape)} do not divide into tokens of "
            f"{tubelet_size}x{patch_size}x{patch_size}"
        )
    t, h, w = frames // tubelet_size, height // patch_size, width // patch_size
    blocks = clips01.float().reshape(batch, t, tubelet_size, channels, h, patch_size, w, patch_size)
    pixels = blocks.permute(0, 1, 4, 6, 2, 5, 7, 3).reshape(batch, t * h * w, -1, channels)
    return (_zscore(pixels, 2) if normalise else pixels).flatten(2)


def zscore_over_clip(tokens: Tensor) -> Tensor:
    """Z-score each channel over the tokens of its clip (SMILE's targets, arXiv 2504.00527).

    Unbiased variance; 1e-6 is added to the standard deviation. `[B, N, C]` -> float32 `[B, N, C]`.
    """
    return _zscore(tokens.float(), 1)


def layernorm_per_token(tokens: Tensor) -> Tensor:
    """Z-score each token over its channels (LayerNorm without weights). `[B, N, C]` -> float32 alike."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=EPS)


TOKEN_NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "zscore": zscore_over_clip,
    "layernorm": layernorm_per_token,
    "none": lambda tokens: tokens.float(),
}


def normalise_tokens(kind: str, tokens: Tensor) -> Tensor:
    """Normalise a teacher's tokens in a way named in `TOKEN_NORMS`. `[B, N, C]` -> float32 `[B, N, C]`.

    Raises:
        UserError: the kind has no such name.
    """
    if kind not in TOKEN_NORMS:
        allowed = ", ".join(TOKEN_NORMS)
        raise UserError(f"unknown target norm '{kind}' (one of {allowed}){nearest(kind, TOKEN_NORMS)}")
    return TOKEN_NORMS[kind](tokens)


def _zscore(values: Tensor, dim: int) -> Tensor:
    std, mean = torch.std_mean(values, dim, keepdim=True)
    return (values - mean) / (std + EPS)
