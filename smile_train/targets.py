"""What the student predicts for each token, and the loss of the prediction.

`TARGETS` maps the kind of a target in a config to its class. A new target needs a class with the members of
`Target`, an options group in `smile_train.config`, and an entry in `TARGETS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_train.batch import Batch
from smile_train.config import MotionTarget, PixelTarget, TargetOptions, TeacherTarget
from smile_train.models import Teacher, Tokens, pick_tokens
from smile_train.motion_target import EPS, Motion, token_grid, weighted_mean

Loss = Callable[..., Tensor]


class Context(NamedTuple):
    """What a target needs besides its options.

    Attributes:
        patch_size, tubelet_size: of a token.
        teacher: None if no target is of kind teacher.
        motion_offsets: of the labels of motion, in their order; empty: those of the target.
    """

    patch_size: int
    tubelet_size: int
    teacher: Teacher | None
    motion_offsets: tuple[int, ...] = ()

    @property
    def token_thw(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a token."""
        return self.tubelet_size, self.patch_size, self.patch_size


class Target(Protocol):
    """One thing to predict for each token.

    Attributes:
        width: values per token.
    """

    width: int

    def build(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the target, float32 ``[B, N, width]``, and token weights ``[B, N, ...]`` or None."""
        ...

    def baseline(self, values: Tensor) -> Tensor:
        """Return a prediction that needs no training, broadcastable to the targets ``[B, N, width]``."""
        ...

    def loss(
        self, prediction: Tensor, target: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss, and the loss of each part by name; an empty dict if there is one part.

        Args:
            prediction, target: float32 ``[B, P, width]``.
            weights: of the tokens, ``[B, P, ...]``; None for equal weights.
        """
        ...


class TeacherTokens:
    """The normalised tokens of a frozen teacher. The loss is the mean of the losses of its layers."""

    def __init__(self, options: TeacherTarget, context: Context) -> None:
        """Store the options. Raises ValueError if the context has no teacher."""
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

    def baseline(self, values: Tensor) -> Tensor:
        """See `Target.baseline`: the mean over the clip."""
        return values.mean(1, keepdim=True)

    def loss(
        self, prediction: Tensor, target: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Target.loss`."""
        widths = self._teacher.widths
        pairs = zip(prediction.split(widths, dim=-1), target.split(widths, dim=-1), strict=True)
        return torch.stack([_mean_loss(self._loss, *pair, weights) for pair in pairs]).mean(), {}


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

    def baseline(self, values: Tensor) -> Tensor:
        """See `Target.baseline`: the mean over the clip."""
        return values.mean(1, keepdim=True)

    def loss(
        self, prediction: Tensor, target: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Target.loss`."""
        return _mean_loss(self._loss, prediction, target, weights), {}


def _motion(options: MotionTarget, context: Context) -> Motion:
    return Motion(options, context.token_thw, context.motion_offsets)


TARGETS: dict[str, Callable[..., Target]] = {"teacher": TeacherTokens, "pixels": Pixels, "motion": _motion}


class Built(NamedTuple):
    """The values of all targets for a batch.

    Attributes:
        values: one ``[B, N, width]`` per target.
        weights: of the tokens, one ``[B, N, ...]`` per target, None for equal weights.
        grid_thw: tokens of a clip along time, height and width.
    """

    values: list[Tensor]
    weights: list[Tensor | None]
    grid_thw: tuple[int, int, int]


class Targets:
    """All targets of a run, in the order in which the student predicts their values.

    The targets of the shared decoder come first, then those with a decoder of their own.

    Attributes:
        names: of the targets, for the log.
        width: values per token, over all targets.
        shared_width: those of the shared decoder.
        own_widths: those of each further decoder.
        encoder_blocks: blocks of the encoder after which some of the targets are predicted, ascending.
    """

    def __init__(
        self,
        options: Sequence[TargetOptions],
        *,
        patch_size: int,
        tubelet_size: int,
        teacher: Teacher | None = None,
        tokens: Tokens = "masked",
        motion_offsets: tuple[int, ...] = (),
        visible_weight: float | None = None,
    ) -> None:
        """Build the targets.

        Args:
            options: one per target.
            patch_size, tubelet_size: of a token.
            teacher: for targets of kind teacher.
            tokens: which tokens the loss is computed on.
            motion_offsets: of the labels of motion, in their order; by default those of the motion target.
            visible_weight: see `token_weights`; by default all tokens have the same weight.

        Raises:
            ValueError: a target of kind teacher is given without a teacher.
        """
        context = Context(patch_size, tubelet_size, teacher, motion_offsets)
        kinds = [one.kind for one in options]
        names = [
            kind if kinds.count(kind) == 1 else f"{kind}-{kinds[:n].count(kind)}"
            for n, kind in enumerate(kinds)
        ]
        order = sorted(range(len(options)), key=lambda n: options[n].decoder == "own")
        self.names, self._options = [names[n] for n in order], [options[n] for n in order]
        self._targets = [TARGETS[one.kind](one, context) for one in self._options]
        self._token = context.token_thw
        self._tokens, self._visible_weight = tokens, visible_weight
        self._widths = [target.width for target in self._targets]
        self.width = sum(self._widths)
        num_shared = sum(one.decoder == "shared" for one in options)
        self.shared_width, self.own_widths = sum(self._widths[:num_shared]), tuple(self._widths[num_shared:])
        self.encoder_blocks = tuple(sorted({block for one in options for block in one.encoder_blocks}))

    def build(self, batch: Batch) -> Built:
        """Compute the targets of all tokens of a batch."""
        built = [target.build(batch) for target in self._targets]
        grid = token_grid(batch, self._token)
        return Built([values for values, _ in built], [weights for _, weights in built], grid)

    def losses(self, prediction: Tensor, built: Built, mask: Tensor, num_masked: int) -> dict[str, Tensor]:
        """Return the losses of a prediction, by name.

        ``loss`` is the weighted sum over the targets. ``loss/NAME`` is the loss of one target, if there are
        several. ``loss/NAME.PART`` is the loss of one part of a target, if it has several.
        ``loss/NAME.blockN`` is the loss of a prediction after block N of the encoder. ``baseline_loss`` and
        ``baseline_loss/...`` are the same losses of the prediction `Target.baseline`; they have no gradient.

        Args:
            prediction: of the student, with ``width`` values per token.
            built: the result of `build` for the same batch.
            mask: bool ``[B, N]``, True = masked.
            num_masked: masked tokens of every row.

        Raises:
            ValueError: the prediction has another width.
        """
        if prediction.shape[-1] != self.width:
            raise ValueError(f"prediction must be [B, P, {self.width}], got {list(prediction.shape)}")
        predictions = self._predictions(prediction, mask.shape[1], num_masked)
        totals: dict[str, list[Tensor]] = {"loss": [], "baseline_loss": []}
        details: dict[str, Tensor] = {}
        for number, name, tokens, predicted in predictions:
            target, values, weights = self._targets[number], built.values[number], built.weights[number]
            if self._visible_weight is not None:
                own = token_weights(mask, built.grid_thw, self._visible_weight)
                weights = own if weights is None else weights * own
            picked = pick_tokens(values, mask, num_masked, tokens)
            if weights is not None:
                weights = pick_tokens(weights, mask, num_masked, tokens)
            results = {"loss": target.loss(predicted.float(), picked, weights)}
            with torch.no_grad():
                baseline = target.baseline(values).expand_as(picked)
                results["baseline_loss"] = target.loss(baseline, picked, weights)
            for kind, (total, parts) in results.items():
                totals[kind].append(self._options[number].weight * total)
                if len(predictions) > 1:
                    details[f"{kind}/{name}"] = total
                details |= {f"{kind}/{name}.{part}": loss for part, loss in parts.items()}
        return {**{kind: torch.stack(losses).sum() for kind, losses in totals.items()}, **details}

    def displacement(self, prediction: Tensor) -> Tensor:
        """Return predicted displacements in pixels, ``[B, P, D, 2]``, for the D offsets of the motion target.

        Args:
            prediction: of the student, ``[B, P, width]``.

        Raises:
            ValueError: no target predicts displacements.
        """
        for target, values in zip(self._targets, prediction.split(self._widths, dim=2), strict=True):
            if isinstance(target, Motion):
                return target.displacement(values.float())
        raise ValueError("no target predicts displacements")

    def _predictions(
        self, prediction: Tensor, num_tokens: int, num_masked: int
    ) -> list[tuple[int, str, Tokens, Tensor]]:
        """Return number of the target, name, tokens, and values of each prediction that has a loss."""
        visible = num_tokens - num_masked
        decoded = {"masked": num_masked, "visible": visible, "all": num_tokens}[self._tokens]
        blocks: list[int | None] = [None, *self.encoder_blocks]
        parts = prediction.split([decoded, *[visible] * len(self.encoder_blocks)], dim=1)
        return [
            (number, name, self._tokens, values)
            if block is None
            else (number, f"{name}.block{block}", "visible", values)
            for block, part in zip(blocks, parts, strict=True)
            for number, (name, values) in enumerate(
                zip(self.names, part.split(self._widths, dim=-1), strict=True)
            )
            if block is None or block in self._options[number].encoder_blocks
        ]


def token_weights(mask: Tensor, grid_thw: tuple[int, int, int], visible_weight: float) -> Tensor:
    """Return the weights of tokens in the loss, float32 ``[B, N, 1]``.

    A masked token has the weight 1, a visible one ``visible_weight`` / sqrt(distance to the nearest masked
    token). The distance is the largest of the distances along time, rows and columns, in tokens.
    """
    reached = mask.float().unflatten(1, grid_thw)[:, None]
    distance = torch.zeros_like(reached)
    for _ in range(max(grid_thw)):
        distance += 1 - reached
        reached = F.max_pool3d(reached, 3, stride=1, padding=1)  # everything within one more token
    weights = visible_weight / distance.flatten(1).clamp(min=1).sqrt()
    return weights.masked_fill(mask, 1.0)[..., None]


def _mean_loss(loss: Loss, prediction: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of a loss in `LOSSES` over the tokens; weights are ``[B, P, 1]``."""
    if weights is None:
        return loss(prediction, target)
    return weighted_mean(loss(prediction, target, reduction="none").mean(-1), weights[..., 0])


def _cosine(prediction: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    losses = 1 - F.cosine_similarity(prediction, target, dim=-1, eps=EPS)
    return losses.mean() if reduction == "mean" else losses[..., None]


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
