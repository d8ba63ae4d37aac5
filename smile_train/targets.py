"""What the student predicts for each token, and the loss of the prediction.

`TARGETS` maps the kind of a target in a config to its class. A new target is a class with the same three
members, an options group in `smile_train.config`, and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_train.batch import Batch
from smile_train.config import PixelTarget, TargetOptions, TeacherTarget
from smile_train.models import Teacher, Tokens, pick_tokens

EPS = 1e-6
Loss = Callable[[Tensor, Tensor], Tensor]


class Context(NamedTuple):
    """What a target may use.

    Attributes:
        patch_size, tubelet_size: of a token.
        teacher: None where no target is of kind teacher.
    """

    patch_size: int
    tubelet_size: int
    teacher: Teacher | None


class Target(Protocol):
    """One thing to predict for each token.

    Attributes:
        width: values per token.
    """

    width: int

    def build(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the target, float32 ``[B, N, width]``, and its valid tokens (None for all)."""
        ...

    def loss(self, prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """Return the mean loss over valid tokens; prediction and target are ``[B, P, width]`` float32."""
        ...


class TeacherTokens:
    """The tokens of a frozen teacher, normalised. The layers of the teacher share the weight."""

    def __init__(self, options: TeacherTarget, context: Context) -> None:
        """Raises ValueError without a teacher."""
        if context.teacher is None:
            raise ValueError("a target of kind teacher needs a teacher")
        self._teacher = context.teacher
        self._normalise, self._loss = TOKEN_NORMS[options.norm], LOSSES[options.loss]
        self.width = self._teacher.width

    def build(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """See `Target.build`."""
        layers = self._teacher.encode(batch.frames).split(self._teacher.widths, dim=-1)
        normalised = [self._normalise(layer) for layer in layers]
        return (normalised[0] if len(normalised) == 1 else torch.cat(normalised, dim=-1)), None

    def loss(self, prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """See `Target.loss`."""
        widths = self._teacher.widths
        pairs = zip(prediction.split(widths, dim=-1), target.split(widths, dim=-1), strict=True)
        return torch.stack([self._loss(*pair) for pair in pairs]).mean()


class Pixels:
    """The pixels of a token (VideoMAE, arXiv 2203.12602)."""

    def __init__(self, options: PixelTarget, context: Context) -> None:
        """Store the options."""
        self._patch_size, self._tubelet_size = context.patch_size, context.tubelet_size
        self._per_patch, self._loss = options.per_patch, LOSSES[options.loss]
        self.width = context.tubelet_size * context.patch_size**2 * 3

    def build(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """See `Target.build`."""
        clips = batch.frames.float() / 255
        return pixel_targets(clips, self._patch_size, self._tubelet_size, normalise=self._per_patch), None

    def loss(self, prediction: Tensor, target: Tensor, valid: Tensor | None) -> Tensor:
        """See `Target.loss`."""
        return self._loss(prediction, target)


TARGETS: dict[str, Callable[..., Target]] = {"teacher": TeacherTokens, "pixels": Pixels}


class Built(NamedTuple):
    """The values of all targets for a batch.

    Attributes:
        values: one ``[B, N, width]`` per target.
        valid: one bool ``[B, N]`` per target, None for all tokens.
    """

    values: list[Tensor]
    valid: list[Tensor | None]


class Targets:
    """All targets of a run, concatenated in every token. One linear layer of the student predicts them.

    Attributes:
        names: of the targets, for the log.
        width: values per token.
    """

    def __init__(
        self,
        options: Sequence[TargetOptions],
        *,
        patch_size: int,
        tubelet_size: int,
        teacher: Teacher | None = None,
        tokens: Tokens = "masked",
    ) -> None:
        """Build the targets.

        Args:
            options: one per target.
            patch_size, tubelet_size: of a token.
            teacher: for targets of kind teacher.
            tokens: which tokens the loss is computed on.

        Raises:
            ValueError: a target of kind teacher without a teacher.
        """
        context = Context(patch_size, tubelet_size, teacher)
        self._targets = [TARGETS[one.kind](one, context) for one in options]
        self._weights = [one.weight for one in options]
        self._widths = [target.width for target in self._targets]
        self._tokens = tokens
        kinds = [one.kind for one in options]
        self.names = [
            kind if kinds.count(kind) == 1 else f"{kind}-{kinds[:n].count(kind)}"
            for n, kind in enumerate(kinds)
        ]
        self.width = sum(self._widths)

    def build(self, batch: Batch) -> Built:
        """Compute the targets of all tokens of a batch."""
        built = [target.build(batch) for target in self._targets]
        return Built([values for values, _ in built], [valid for _, valid in built])

    def losses(self, prediction: Tensor, built: Built, mask: Tensor, num_masked: int) -> dict[str, Tensor]:
        """Return the losses of a prediction, by name.

        ``loss`` is the weighted sum, and ``loss/NAME`` that of each target if there are several.
        ``baseline_loss`` and ``baseline_loss/NAME`` are the losses of predicting, for every token, the mean
        of its clip. They carry no gradient.

        Args:
            prediction: ``[B, P, width]``, in the order of `pick_tokens`.
            built: of the same batch.
            mask: bool ``[B, N]``.
            num_masked: masked tokens of every row.

        Raises:
            ValueError: the shapes differ.
        """
        if prediction.shape[-1] != self.width:
            raise ValueError(f"prediction must be [B, P, {self.width}], got {list(prediction.shape)}")
        found: dict[str, Tensor] = {}
        parts = zip(self.names, self._targets, prediction.split(self._widths, dim=-1), *built, strict=True)
        for name, target, predicted, values, valid in parts:
            picked = pick_tokens(values, mask, num_masked, self._tokens)
            if valid is not None:
                valid = pick_tokens(valid[..., None], mask, num_masked, self._tokens)[..., 0]
            found[f"loss/{name}"] = target.loss(predicted.float(), picked, valid)
            with torch.no_grad():
                mean = values.mean(1, keepdim=True).expand_as(picked)
                found[f"baseline_loss/{name}"] = target.loss(mean, picked, valid)
        sums = {
            kind: sum(
                (
                    weight * found[f"{kind}/{name}"]
                    for name, weight in zip(self.names, self._weights, strict=True)
                ),
                start=prediction.new_zeros((), dtype=torch.float32),
            )
            for kind in ("loss", "baseline_loss")
        }
        return sums if len(self.names) == 1 else {**sums, **found}


def _cosine(prediction: Tensor, target: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(prediction, target, dim=-1, eps=EPS).mean()


LOSSES: dict[str, Loss] = {"l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss, "cosine": _cosine}


def pixel_targets(clips: Tensor, patch_size: int, tubelet_size: int, *, normalise: bool = True) -> Tensor:
    """Cut clips into one vector of pixels per token (VideoMAE, arXiv 2203.12602).

    Args:
        clips: float ``[B, T, 3, H, W]`` in 0..1, not normalised.
        patch_size: side of a token in pixels.
        tubelet_size: frames of a token.
        normalise: z-score each channel within each token (unbiased variance, 1e-6 added to the standard
            deviation; He et al., arXiv 2111.06377, sec. 4.1).

    Returns:
        float32 ``[B, N, tubelet_size * patch_size^2 * 3]``, in the token order of the student, channel last.

    Raises:
        ValueError: the clips do not divide into tokens.
    """
    batch, frames, channels, height, width = clips.shape
    if frames % tubelet_size or height % patch_size or width % patch_size:
        raise ValueError(
            f"clips {list(clips.shape)} do not divide into tokens of {tubelet_size}x{patch_size}x{patch_size}"
        )
    t, h, w = frames // tubelet_size, height // patch_size, width // patch_size
    blocks = clips.float().reshape(batch, t, tubelet_size, channels, h, patch_size, w, patch_size)
    pixels = blocks.permute(0, 1, 4, 6, 2, 5, 7, 3).reshape(batch, t * h * w, -1, channels)
    return (_zscore(pixels, 2) if normalise else pixels).flatten(2)


def zscore_over_clip(tokens: Tensor) -> Tensor:
    """Z-score each channel over the tokens of its clip (SMILE's targets, arXiv 2504.00527).

    Unbiased variance; 1e-6 is added to the standard deviation. ``[B, N, C]`` -> float32 ``[B, N, C]``.
    """
    return _zscore(tokens.float(), 1)


def layernorm_per_token(tokens: Tensor) -> Tensor:
    """Z-score each token over its channels. ``[B, N, C]`` -> float32 ``[B, N, C]``."""
    return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=EPS)


TOKEN_NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "zscore": zscore_over_clip,
    "layernorm": layernorm_per_token,
    "none": lambda tokens: tokens.float(),
}


def _zscore(values: Tensor, dim: int) -> Tensor:
    std, mean = torch.std_mean(values, dim, keepdim=True)
    return (values - mean) / (std + EPS)
