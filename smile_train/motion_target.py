"""The motion target: its parts, their losses, and the predictions that need no training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_train.batch import Batch
from smile_train.config import MotionTarget

EPS = 1e-6
MOTION_BETA = 0.1
LINEAR_SCALE = 10.0
# Classes of an owner's rank from the front. The last class holds all larger ranks too.
DEPTH_CLASSES = 4
# For the part same_object: values per embedding, temperature, and number of compared tokens per clip.
EMBEDDING_WIDTH, TEMPERATURE, COMPARED_TOKENS = 16, 0.1, 64


class MotionPart(NamedTuple):
    """A part of a motion target.

    Attributes:
        width: number of predicted values per token; with ``per_offset``, per token and offset.
        per_offset: whether the part is predicted for each offset.
        loss: returns the mean loss of predictions and targets ``[B, P, ..., width]``, with weights
            ``[B, P, ...]``.
        baseline: returns a prediction ``[B, 1, ..., width]`` that needs no training, for targets
            ``[B, N, ..., width]``.
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

    def __init__(
        self,
        options: MotionTarget,
        token_thw: tuple[int, int, int],
        label_offsets: tuple[int, ...] = (),
    ) -> None:
        """Store the options.

        Args:
            options: options of the target.
            token_thw: frames, rows and columns of a token.
            label_offsets: offsets of the motion labels, in their order; by default those of the options.
        """
        self._part_weights = {name: getattr(options, name) for name in MOTION_PARTS if getattr(options, name)}
        self._num_offsets = len(options.offsets)
        order = label_offsets or tuple(options.offsets)
        self._offset_places = [order.index(offset) for offset in options.offsets]
        self._background_weight = options.background_weight
        self._token = token_thw
        chosen = {name: MOTION_PARTS[name] for name in self._part_weights}
        self._offset_widths = {name: part.width for name, part in chosen.items() if part.per_offset}
        self._other_widths = {name: part.width for name, part in chosen.items() if not part.per_offset}
        self.width = sum(self._offset_widths.values()) * self._num_offsets + sum(self._other_widths.values())

    def build(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """See `targets.Target.build`. Tokens of natural videos have the weight 0."""
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
        """See `targets.Target.baseline`: no motion, shares of visible tokens and ranks, equal embeddings."""
        parts = self._split(values)
        return self._join({name: MOTION_PARTS[name].baseline(value) for name, value in parts.items()})

    def loss(
        self, prediction: Tensor, target: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `targets.Target.loss`; weights are ``[B, P, D + 1]``."""
        assert weights is not None
        predictions, targets, parts = self._split(prediction), self._split(target), {}
        for name in self._part_weights:
            part = MOTION_PARTS[name]
            own = weights[..., :-1] if part.per_offset else weights[..., -1]
            parts[name] = part.loss(predictions[name], targets[name], own)
        total = torch.stack([weight * parts[name] for name, weight in self._part_weights.items()]).sum()
        return total, parts if len(parts) > 1 else {}

    def displacement(self, values: Tensor) -> Tensor:
        """Return the displacements in pixels, ``[B, P, D, 2]``, of predicted values.

        Raises:
            ValueError: the target has no displacement.
        """
        if "displacement" not in self._part_weights:
            raise ValueError("this motion target has no displacement")
        value = self._split(values)["displacement"]
        return value.sign() * value.abs().expm1()

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
        per_offset = [parts[name] for name in self._offset_widths]
        flat = [torch.cat(per_offset, dim=-1).flatten(2)] if per_offset else []
        return torch.cat([*flat, *(parts[name] for name in self._other_widths)], dim=-1)


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


def _smooth_l1(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    losses = F.smooth_l1_loss(prediction, target, beta=MOTION_BETA, reduction="none")
    return weighted_mean(losses.mean(-1), weights)


def _binary(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    losses = F.binary_cross_entropy_with_logits(prediction, target, reduction="none")
    return weighted_mean(losses.mean(-1), weights)


def _cross_entropy(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    return weighted_mean(-(target * prediction.log_softmax(-1)).sum(-1), weights)


def _contrastive(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the supervised contrastive loss of embeddings (Khosla et al., arXiv 2004.11362, eq. 2).

    Tokens of a clip are compared with each other. If there are more than `COMPARED_TOKENS`, that many evenly
    spaced tokens are compared. The loss is low if tokens of the same owner have similar embeddings and other
    tokens have different ones. A token without another token of its owner has no loss. Tokens of unlabelled
    layers have no loss either: all these layers have the same number.
    """
    count = min(prediction.shape[1], COMPARED_TOKENS)
    chosen = torch.arange(count, device=prediction.device) * prediction.shape[1] // count
    owners, weights = target[:, chosen, 0], weights[:, chosen]
    vectors = F.normalize(prediction[:, chosen], dim=-1)
    itself = torch.eye(count, dtype=torch.bool, device=owners.device)
    with torch.autocast(vectors.device.type, enabled=False):
        similarity = vectors @ vectors.transpose(1, 2) / TEMPERATURE
    log_shares = similarity.masked_fill(itself, -math.inf).log_softmax(-1).masked_fill(itself, 0.0)
    same = (owners[:, :, None] == owners[:, None]) & ~itself
    num_same = same.sum(-1)
    losses = -(log_shares * same).sum(-1) / num_same.clamp(min=1)
    return weighted_mean(losses, weights * ((num_same > 0) & (owners >= 0)))


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


def token_grid(batch: Batch, token_thw: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return the number of tokens of a clip along time, height and width."""
    frames, _, height, width = batch.frames.shape[1:]
    time, rows, columns = token_thw
    return frames // time, height // rows, width // columns


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of losses with weights of the same shape; 0 if all weights are 0."""
    return (losses * weights).sum() / weights.sum().clamp(min=EPS)
