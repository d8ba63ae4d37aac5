"""The VideoMAE encoder (Tong et al., arXiv 2203.12602) and the layers that all models share.

Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smile_train.models._config import EncoderConfig

NORM_EPS = 1e-6
INIT_STD = 0.02


def layer_norm(width: int) -> nn.LayerNorm:
    """Return a LayerNorm with the published eps."""
    return nn.LayerNorm(width, eps=NORM_EPS)


def make_blocks(
    width: int, depth: int, heads: int, *, mlp_ratio: float, drop_path: float = 0.0
) -> nn.ModuleList:
    """Return pre-norm transformer blocks with biases for queries and values only, as published."""
    # Imported here: timm takes seconds to import, and many commands build no model.
    from timm.models.eva import EvaBlock

    last = max(depth - 1, 1)
    norm = partial(nn.LayerNorm, eps=NORM_EPS)
    return nn.ModuleList(
        EvaBlock(width, heads, mlp_ratio=mlp_ratio, drop_path=drop_path * i / last, norm_layer=norm)
        for i in range(depth)
    )


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, checkpointing: bool, after: Sequence[int] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Apply blocks to tokens ``[B, N, C]``, optionally with activation checkpointing.

    Returns:
        The tokens after the last block, and those after each block whose number is in ``after``, ascending.
    """
    kept = []
    for number, block in enumerate(blocks):
        if checkpointing and torch.is_grad_enabled():
            # Restores the random state, so that drop path drops the same branches again.
            x = checkpoint(block, x, use_reentrant=False)
        else:
            x = block(x)
        if number in after:
            kept.append(x)
    return x, kept


def set_fused_attention(model: nn.Module, fused: bool) -> None:
    """Compute attention in all blocks by torch's fused function, or as two products and a softmax.

    The results differ by rounding only.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):  # an attention layer of timm
            cast(Any, module).fused_attn = fused


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all linear and convolutional layers as in VideoMAE, in module order."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv3d):
            # VideoMAE keeps PyTorch's default here: uniform in +-1/sqrt(fan in), the bias too.
            bound = layer.weight[0].numel() ** -0.5
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


def truncated_normal(tensor: Tensor, std: float, limit: float, generator: torch.Generator) -> None:
    """Fill a tensor from a normal distribution, truncated to +-``limit``."""
    nn.init.trunc_normal_(tensor, std=std, a=-limit, b=limit, generator=generator)


def position_table(config: EncoderConfig, width: int) -> Tensor:
    """Return the fixed position table ``[N, width]`` of a clip's tokens."""
    if config.positions == "joint":
        return _sine_cosine(config.num_tokens, width)
    # Time, row and column get a third of the channels each; the remaining channels are zero.
    share = width // 6 * 2
    axes = torch.meshgrid(*(torch.arange(n) for n in config.grid_thw), indexing="ij")
    tables = [_sine_cosine(n, share) for n in config.grid_thw]
    parts = [table[axis.flatten()] for table, axis in zip(tables, axes, strict=True)]
    return F.pad(torch.cat(parts, dim=1), (0, width - 3 * share))


def _sine_cosine(length: int, width: int) -> Tensor:
    """Return the table ``[length, width]`` of "Attention is all you need" (arXiv 1706.03762), sec. 3.5."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    column = torch.arange(width)
    angle = position / 10000 ** (2 * (column // 2).double() / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class PatchEmbed(nn.Module):
    """Embeds tubelets: a Conv3d with stride = kernel, computed for the given tokens only."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.width, kernel, stride=kernel)

    def forward(self, clips: Tensor, tokens: Tensor | None) -> Tensor:
        config = self.config
        expected = (config.num_frames, 3, *config.size_hw)
        if clips.shape[1:] != expected:
            raise ValueError(f"clips must be [B, {', '.join(map(str, expected))}], got {list(clips.shape)}")
        t, h, w = config.grid_thw
        patches = clips.reshape(-1, t, config.tubelet_size, 3, h, config.patch_size, w, config.patch_size)
        patches = patches.permute(0, 1, 4, 6, 3, 2, 5, 7)
        if tokens is None:
            patches = patches.reshape(len(clips), t * h * w, -1)
        else:
            clip = torch.arange(len(clips), device=tokens.device)[:, None]
            patches = patches[clip, tokens // (h * w), tokens // w % h, tokens % w].flatten(2)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Trunk(nn.Module):
    """Patch embedding, positions and blocks: the shared part of `Encoder` and `VideoClassifier`.

    Attributes:
        encoder_config: shape of the encoder.
    """

    position: Tensor

    def __init__(self, config: EncoderConfig, generator: torch.Generator) -> None:
        super().__init__()
        # Library layers draw initial weights from the global generator: keep its state.
        with torch.random.fork_rng(devices=[]):
            self.patch_embed = PatchEmbed(config)
            self.blocks = make_blocks(
                config.width, config.depth, config.heads, mlp_ratio=config.mlp_ratio,
                drop_path=config.drop_path,
            )  # fmt: skip
        self.register_buffer("position", position_table(config, config.width), persistent=False)
        self.encoder_config = config
        initialise(self, generator)

    def encode_tokens(self, clips: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return tokens ``[B, V, width]`` after the last block, before any norm."""
        return self.encode_blocks(clips, tokens)[0]

    def encode_blocks(
        self, clips: Tensor, tokens: Tensor | None = None, after: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """Return `encode_tokens`, and the tokens after each block whose number is in ``after``, ascending."""
        position = self.position if tokens is None else self.position[tokens]
        x: Tensor = self.patch_embed(clips, tokens) + position
        return run_blocks(self.blocks, x, self.encoder_config.checkpointing, after)

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Return the model's output from tokens ``[B, V, width]`` after the last block."""
        raise NotImplementedError

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return the layer patterns of parameter names that timm's layer decay reads."""
        return {"stem": r"^patch_embed", "blocks": r"^blocks\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Return the names of tensors of two or more dimensions without weight decay."""
        return set()


class Encoder(Trunk):
    """Encode the visible tokens of clips.

    Args:
        config: shape of the encoder.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, config: EncoderConfig, *, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.config = config
        self.norm = layer_norm(config.width) if config.final_norm else nn.Identity()

    def forward(self, clips: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Encode clips.

        Args:
            clips: float ``[B, T, 3, H, W]``, normalised by ImageNet's mean and standard deviation.
            tokens: int64 ``[B, V]``, indices of the visible tokens; default all. The cost falls with V.

        Returns:
            Tokens after the last LayerNorm if the encoder has one, ``[B, V, width]``.

        Raises:
            ValueError: the shape of the clips differs from the configuration.
        """
        return self.forward_head(self.encode_tokens(clips, tokens))

    def forward_head(self, tokens: Tensor) -> Tensor:
        """Return the tokens after the last LayerNorm."""
        out: Tensor = self.norm(tokens)
        return out
