"""What the student predicts for each token, and the loss of the prediction.

`TARGETS` maps the kind of a target in a config to its class. A new target needs a class with the members of
`Target`, an options group in `smile_train.config`, and an entry in `TARGETS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_train.batch import Batch
from smile_train.config import MotionTarget, PixelTarget, TargetOptions, TeacherTarget
from smile_train.models import Teacher, Tokens, pick_tokens

EPS = 1e-6
MOTION_BETA = 0.1
LINEAR_SCALE = 10.0
# Ranks of owners from the front; the last class holds all further ranks.
DEPTH_CLASSES = 4
# Of the part same_object: values of an embedding, temperature, and compared tokens of a clip.
EMBEDDING_WIDTH, TEMPERATURE, COMPARED_TOKENS = 16, 0.1, 128
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


class MotionPart(NamedTuple):
    """A part of a motion target.

    Attributes:
        width: predicted values per token, and per offset if there is one value for each offset.
        per_offset: whether it is predicted for each offset.
        loss: mean loss of predictions and targets ``[B, P, ..., width]`` with weights ``[B, P, ...]``.
        baseline: of targets ``[B, N, ..., width]``, a prediction ``[B, 1, ..., width]``.
    """

    width: int
    per_offset: bool
    loss: Callable[[Tensor, Tensor, Tensor], Tensor]
    baseline: Callable[[Tensor], Tensor]


class Motion:
    """The exact motion of the token's owner (`smile_synth.core.clip.TokenMotion`).

    Values of a token: all per-offset parts of the first offset, then those of the next offset, then the
    other parts. Weights of a token: one per offset, then one for the other parts.
    """

    def __init__(self, options: MotionTarget, context: Context) -> None:
        """Store the options."""
        self._part_weights = {name: getattr(options, name) for name in MOTION_PARTS if getattr(options, name)}
        self._num_offsets = len(options.offsets)
        order = context.motion_offsets or tuple(options.offsets)
        self._offset_places = [order.index(offset) for offset in options.offsets]
        self._background_weight = options.background_weight
        self._token = context.tubelet_size, context.patch_size, context.patch_size
        chosen = {name: MOTION_PARTS[name] for name in self._part_weights}
        self._offset_widths = {name: part.width for name, part in chosen.items() if part.per_offset}
        self._other_widths = {name: part.width for name, part in chosen.items() if not part.per_offset}
        self.width = sum(self._offset_widths.values()) * self._num_offsets + sum(self._other_widths.values())

    def build(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """See `Target.build`. Tokens of natural videos have the weight 0."""
        labels, grid = batch.labels, token_grid(batch, self._token)
        if "motion_valid" not in labels:  # all clips of the batch are natural videos
            empty = batch.frames.new_zeros((len(batch), math.prod(grid), 1), dtype=torch.float32)
            return empty.expand(-1, -1, self.width), empty.expand(-1, -1, self._num_offsets + 1)
        parts = {name: self._values(name, labels, grid) for name in self._part_weights}
        valid = labels["motion_valid"][:, self._offset_places].float().transpose(1, 2)  # [B, N, D]
        has_scene = valid.amax((1, 2), keepdim=True).expand(-1, valid.shape[1], -1)
        weights = torch.cat([valid, has_scene], dim=2)
        in_background = labels["motion_object"][..., None] == 0
        return self._join(parts), torch.where(in_background, self._background_weight * weights, weights)

    def baseline(self, values: Tensor) -> Tensor:
        """See `Target.baseline`: no motion, the shares of visible tokens and of ranks, equal embeddings."""
        parts = self._split(values)
        return self._join({name: MOTION_PARTS[name].baseline(value) for name, value in parts.items()})

    def loss(
        self, prediction: Tensor, target: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `Target.loss`; weights are ``[B, P, D + 1]``."""
        assert weights is not None
        predictions, targets, parts = self._split(prediction), self._split(target), {}
        for name in self._part_weights:
            part = MOTION_PARTS[name]
            own = weights[..., :-1] if part.per_offset else weights[..., -1]
            parts[name] = part.loss(predictions[name], targets[name], own)
        total = torch.stack([weight * parts[name] for name, weight in self._part_weights.items()]).sum()
        return total, parts if len(parts) > 1 else {}

    def _values(self, name: str, labels: dict[str, Tensor], grid_thw: tuple[int, int, int]) -> Tensor:
        """Return the targets of a part, ``[B, N, D, width]`` or ``[B, N, width]``."""
        if name == "depth":
            ranks = front_ranks(labels["motion_depth"].unflatten(1, (grid_thw[0], -1))).flatten(1)
            return F.one_hot(ranks, DEPTH_CLASSES).float()
        if name == "same_object":  # only the first value is used
            return labels["motion_object"].float()[..., None].expand(-1, -1, EMBEDDING_WIDTH)
        value = labels[f"motion_{name}"][:, self._offset_places].float().transpose(1, 2)
        if name == "visibility":
            return value[..., None]
        return LINEAR_SCALE * value.flatten(3) if name == "linear" else value.sign() * value.abs().log1p()

    def _split(self, values: Tensor) -> dict[str, Tensor]:
        """Return the parts of ``[B, N, width]`` by name."""
        widths, others = self._offset_widths, self._other_widths
        per_offset, rest = values.tensor_split([self.width - sum(others.values())], dim=2)
        per_offset = per_offset.unflatten(2, (self._num_offsets, sum(widths.values())))
        return {
            **dict(zip(widths, per_offset.split([*widths.values()], -1), strict=True)),
            **dict(zip(others, rest.split([*others.values()], -1), strict=True)),
        }

    def _join(self, parts: dict[str, Tensor]) -> Tensor:
        """Return ``[B, N, width]``; the inverse of `_split`."""
        joined = (
            [torch.cat([parts[name] for name in self._offset_widths], -1).flatten(2)]
            if self._offset_widths
            else []
        )
        return torch.cat([*joined, *(parts[name] for name in self._other_widths)], dim=-1)


def front_ranks(depth: Tensor) -> Tensor:
    """Return the rank from the front of each token among the owners that its tubelet shows.

    Args:
        depth: ``[B, T, N]``, number of layers behind the owner of each token.

    Returns:
        int64 ``[B, T, N]``: the number of different larger depths in the tubelet, at most
        `DEPTH_CLASSES` - 1. 0 is the front-most owner.
    """
    ranks, left = torch.zeros_like(depth, dtype=torch.int64), depth
    for _ in range(DEPTH_CLASSES - 1):
        left = left.masked_fill(left == left.amax(-1, keepdim=True), -1)
        ranks += left >= 0
    return ranks


def _mean_loss(loss: Loss, prediction: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of a loss in `LOSSES` over the tokens; weights are ``[B, P, 1]``."""
    if weights is None:
        return loss(prediction, target)
    return _weighted_mean(loss(prediction, target, reduction="none").mean(-1), weights[..., 0])


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses * weights).sum() / weights.sum().clamp(min=EPS)


def _smooth_l1(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    losses = F.smooth_l1_loss(prediction, target, beta=MOTION_BETA, reduction="none")
    return _weighted_mean(losses.mean(-1), weights)


def _binary(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(prediction, target, reduction="none")
    return _weighted_mean(losses.mean(-1), weights)


def _cross_entropy(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    return _weighted_mean(-(target * prediction.log_softmax(-1)).sum(-1), weights)


def _contrastive(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the supervised contrastive loss of embeddings (Khosla et al., arXiv 2004.11362, eq. 2).

    Tokens of a clip are compared with each other; of many tokens, `COMPARED_TOKENS` at equal steps. Tokens
    of an owner attract, others repel. A token without another token of its owner has no loss; neither has
    one of an unlabelled layer, since several layers share its number.
    """
    count = min(prediction.shape[1], COMPARED_TOKENS)
    chosen = torch.arange(count, device=prediction.device) * prediction.shape[1] // count
    owners, weights = target[:, chosen, 0], weights[:, chosen]
    vectors, itself = (
        F.normalize(prediction[:, chosen], dim=-1),
        torch.eye(count, device=owners.device).bool(),
    )
    with torch.autocast(vectors.device.type, enabled=False):
        similarity = vectors @ vectors.transpose(1, 2) / TEMPERATURE
    log_shares = similarity.masked_fill(itself, -math.inf).log_softmax(-1).masked_fill(itself, 0.0)
    same = (owners[:, :, None] == owners[:, None]) & ~itself
    num_same = same.sum(-1)
    losses = -(log_shares * same).sum(-1) / num_same.clamp(min=1)
    return _weighted_mean(losses, weights * ((num_same > 0) & (owners >= 0)))


def _zero(values: Tensor) -> Tensor:
    return torch.zeros_like(values[:, :1])


MOTION_PARTS = {
    "displacement": MotionPart(2, True, _smooth_l1, _zero),
    "spread": MotionPart(2, True, _smooth_l1, _zero),
    "linear": MotionPart(4, True, _smooth_l1, _zero),
    "visibility": MotionPart(1, True, _binary, lambda v: torch.logit(v.mean(1, keepdim=True), eps=0.01)),
    "camera": MotionPart(2, True, _smooth_l1, _zero),
    "depth": MotionPart(
        DEPTH_CLASSES, False, _cross_entropy, lambda v: v.mean(1, keepdim=True).clamp(min=0.01).log()
    ),
    "same_object": MotionPart(EMBEDDING_WIDTH, False, _contrastive, _zero),
}
TARGETS: dict[str, Callable[..., Target]] = {"teacher": TeacherTokens, "pixels": Pixels, "motion": Motion}


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
        self._token = tubelet_size, patch_size, patch_size
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


def token_grid(batch: Batch, token_thw: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the number of tokens of a clip along time, height and width."""
    frames, _, height, width = batch.frames.shape[1:]
    time, rows, columns = token_thw
    return frames // time, height // rows, width // columns


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
