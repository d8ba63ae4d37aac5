"""The VideoMAE-style student: an encoder of visible tokens and a decoder of masked tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smile_train.models._config import StudentConfig
from smile_train.models._encoder import (
    INIT_STD,
    Encoder,
    initialise,
    layer_norm,
    make_blocks,
    position_table,
    run_blocks,
    truncated_normal,
)

# Which tokens are predicted.
Tokens = Literal["masked", "visible", "all"]


def split_tokens(mask: Tensor, num_masked: int | None = None) -> tuple[Tensor, Tensor]:
    """Split the tokens of a mask into visible and masked tokens.

    Args:
        mask: bool ``[B, N]``, True = masked, the same count in every row.
        num_masked: that count. Skips the check, which would synchronise the GPU.

    Returns:
        Ascending token indices, int64: visible ``[B, N - M]`` and masked ``[B, M]``.

    Raises:
        ValueError: rows with different counts (checked only without ``num_masked``).
    """
    if num_masked is None:
        counts = mask.sum(1).tolist()
        num_masked = int(counts[0])
        if any(count != num_masked for count in counts):
            raise ValueError(
                f"every row of a mask must have the same count, got {min(counts)}..{max(counts)}"
            )
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - num_masked
    return order[:, :num_visible], order[:, num_visible:]


def pick_tokens(
    values: Tensor, mask: Tensor, num_masked: int | None = None, which: Tokens = "masked"
) -> Tensor:
    """Pick tokens in the order of the student's predictions.

    Args:
        values: ``[B, N, C]``.
        mask, num_masked: see `split_tokens`.
        which: masked tokens, visible tokens, or all: the visible before the masked. Ascending within each.

    Returns:
        ``[B, P, C]``.

    Raises:
        ValueError: rows with different counts, or a mask of another shape.
    """
    if mask.shape != values.shape[:2]:
        raise ValueError(f"mask must be {list(values.shape[:2])}, got {list(mask.shape)}")
    visible, masked = split_tokens(mask, num_masked)
    tokens = {"masked": masked, "visible": visible, "all": torch.cat([visible, masked], dim=1)}[which]
    return values.gather(1, tokens[..., None].expand(-1, -1, values.shape[2]))


class Decoder(nn.Module):
    """Predict ``target_dim`` values of decoder tokens."""

    def __init__(self, config: StudentConfig, target_dim: int) -> None:
        super().__init__()
        self.config = config
        width, mlp_ratio = config.decoder_width, config.encoder.mlp_ratio
        self.blocks = make_blocks(width, config.decoder_depth, config.decoder_heads, mlp_ratio=mlp_ratio)
        self.norm = layer_norm(width)
        self.head = nn.Linear(width, target_dim)

    def forward(self, x: Tensor, predicted: slice) -> Tensor:
        """Return predictions ``[B, P, target_dim]`` for a slice of the tokens ``[B, N, decoder_width]``."""
        chunk = self.config.decoder_chunk
        if not chunk:
            return self._decode(x, predicted)
        if not torch.is_grad_enabled():
            return torch.cat([self._decode(part, predicted) for part in x.split(chunk)])
        parts = [checkpoint(self._decode, part, predicted, use_reentrant=False) for part in x.split(chunk)]
        return torch.cat(parts)

    def _decode(self, x: Tensor, predicted: slice) -> Tensor:
        x, _ = run_blocks(self.blocks, x, self.config.encoder.checkpointing)
        out: Tensor = self.head(self.norm(x[:, predicted]))
        return out


class Student(nn.Module):
    """Predict the targets of masked tokens from the visible tokens.

    Args:
        config: shape of the student.
        generator: CPU generator of the initial weights.
    """

    position: Tensor

    def __init__(self, config: StudentConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_width
        self.encoder = Encoder(config.encoder, generator=generator)
        with torch.random.fork_rng(devices=[]):
            self.decoder = Decoder(config, config.target_dim)
            self.encoder_to_decoder = nn.Linear(config.encoder.width, width, bias=False)
        initialise(self.decoder, generator)
        initialise(self.encoder_to_decoder, generator)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        truncated_normal(self.mask_token, INIT_STD, INIT_STD, generator)
        self.register_buffer("position", position_table(config.encoder, width), persistent=False)
        # Drawn last, so that a student without them has the same initial weights.
        with torch.random.fork_rng(devices=[]):
            self.own_decoders = nn.ModuleList(Decoder(config, dim) for dim in config.own_target_dims)
            self.block_heads = nn.ModuleList(
                nn.Sequential(
                    layer_norm(config.encoder.width), nn.Linear(config.encoder.width, config.prediction_dim)
                )
                for _ in config.encoder_blocks
            )
        initialise(self.own_decoders, generator)
        initialise(self.block_heads, generator)

    def forward(
        self, clips: Tensor, mask: Tensor, num_masked: int | None = None, *, tokens: Tokens = "masked"
    ) -> Tensor:
        """Predict the masked tokens.

        Args:
            clips: float ``[B, T, 3, H, W]``, normalised by ImageNet's mean and standard deviation.
            mask, num_masked: see `split_tokens`.
            tokens: which tokens are predicted: masked, visible or all.

        Returns:
            ``[B, P, prediction_dim]``, in the order of `pick_tokens`: first the values of the decoder, then
            those of each further decoder. With ``encoder_blocks`` the predictions after each of these
            blocks for the V visible tokens follow along the axis of tokens: ``[B, P + V + ..., ...]``.

        Raises:
            ValueError: a shape that differs from the configuration, or rows with different counts.
        """
        visible, masked = self._split(mask, num_masked)
        x, inner = self.encoder.encode_blocks(clips, visible, self.config.encoder_blocks)
        x = self.encoder_to_decoder(self.encoder.forward_head(x))
        # Attention does not depend on the order of the tokens, so no scatter to token order is needed.
        x = torch.cat([x + self.position[visible], self.mask_token + self.position[masked]], dim=1)
        first, last = visible.shape[1], x.shape[1]
        predicted = {"masked": slice(first, last), "visible": slice(0, first), "all": slice(0, last)}[tokens]
        out: Tensor = self.decoder(x, predicted)
        if self.own_decoders:
            out = torch.cat([out, *(decoder(x, predicted) for decoder in self.own_decoders)], dim=2)
        if self.block_heads:
            heads = zip(self.block_heads, inner, strict=True)
            out = torch.cat([out, *(head(tokens) for head, tokens in heads)], dim=1)
        return out

    def encode(self, clips: Tensor, mask: Tensor | None = None, num_masked: int | None = None) -> Tensor:
        """Encode the visible tokens (without a mask all tokens); arguments as `forward`.

        Returns:
            Tokens after the encoder's last LayerNorm, ``[B, N - M, width]``, in token order.
        """
        tokens = None if mask is None else self._split(mask, num_masked)[0]
        out: Tensor = self.encoder(clips, tokens)
        return out

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return the layer patterns of parameter names that timm's layer decay reads."""
        return {"stem": r"^encoder\.patch_embed", "blocks": r"^encoder\.blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Return the names of tensors of two or more dimensions without weight decay, as published."""
        return {"mask_token"}

    def _split(self, mask: Tensor, num_masked: int | None) -> tuple[Tensor, Tensor]:
        if mask.shape[1:] != (self.config.num_tokens,):
            raise ValueError(f"mask must be [B, {self.config.num_tokens}], got {list(mask.shape)}")
        return split_tokens(mask, num_masked)
