"""The VideoMAE-style student: an encoder of visible tokens, a decoder of masked ones, a classifier.

Tong et al., "VideoMAE", arXiv 2203.12602. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smile_synth.core.errors import UserError, nearest
from smile_train.config import StudentOptions
from smile_train.models._weights import check_fit, kind_of, read_tensors

NORM_EPS = 1e-6
INIT_STD = 0.02
# Which tokens are predicted.
Tokens = Literal["masked", "visible", "all"]
# VideoMAE's fine-tuning recipe: a head this close to zero starts from equal scores for every class.
HEAD_INIT_SCALE = 1e-3


class StudentSize(TypedDict):
    """Widths, depths and heads of one named size."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int


def _size(width: int, depth: int, heads: int, *decoder: int) -> StudentSize:
    return StudentSize(
        width=width,
        depth=depth,
        heads=heads,
        decoder_width=decoder[0],
        decoder_depth=decoder[1],
        decoder_heads=decoder[2],
    )


STUDENT_SIZES: dict[str, StudentSize] = {
    "tiny": _size(128, 4, 4, 64, 2, 2),
    "small": _size(384, 12, 6, 192, 4, 3),
    "base": _size(768, 12, 12, 384, 4, 6),
    "large": _size(1024, 24, 16, 512, 4, 8),
    "huge": _size(1280, 32, 16, 640, 4, 8),
}


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """Describe a student: the clip it reads, its widths and what it predicts per token.

    Attributes:
        num_frames: frames of a clip, a multiple of `tubelet_size`.
        size_hw: height and width of a frame in pixels, multiples of `patch_size`.
        patch_size: side of a token in pixels.
        tubelet_size: frames a token spans.
        width, depth, heads: of the encoder.
        decoder_width, decoder_depth, decoder_heads: of the decoder.
        mlp_ratio: hidden width of a block's MLP over its width.
        target_dim: predicted values per token.
        drop_path: probability of dropping the encoder's last residual branches (stochastic depth,
            arXiv 1603.09382), rising linearly from 0 at the first block.
        positions: sine-cosine table over the joint token index, as published, or over time, row and
            column apart, from which a small student learns what is next to what far sooner.
        checkpointing: compute the inside of every block again in the backward pass (arXiv 1604.06174): less
            memory, about a third more work, the same result.
        decoder_chunk: clips that are decoded at a time, each chunk computed again in the backward pass, so
            that the decoder's memory does not grow with the batch; 0 decodes the batch at once.

    Raises:
        ValueError: a size that is not positive or does not divide as it must.
    """

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    target_dim: int
    num_frames: int = 16
    size_hw: tuple[int, int] = (224, 224)
    patch_size: int = 16
    tubelet_size: int = 2
    mlp_ratio: float = 4
    drop_path: float = 0.0
    positions: Literal["joint", "separable"] = "joint"
    checkpointing: bool = False
    decoder_chunk: int = 0

    def __post_init__(self) -> None:
        for name in (
            "width", "depth", "heads", "decoder_width", "decoder_depth", "decoder_heads", "target_dim",
            "num_frames", "patch_size", "tubelet_size", "mlp_ratio",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if min(self.size_hw) <= 0:
            raise ValueError(f"size_hw must be positive, got {self.size_hw}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        if self.decoder_chunk < 0:
            raise ValueError(f"decoder_chunk must not be negative, got {self.decoder_chunk}")
        for name, value, by_name, by in (
            ("num_frames", self.num_frames, "tubelet_size", self.tubelet_size),
            ("height", self.size_hw[0], "patch_size", self.patch_size),
            ("width of size_hw", self.size_hw[1], "patch_size", self.patch_size),
            ("width", self.width, "heads", self.heads),
            ("decoder_width", self.decoder_width, "decoder_heads", self.decoder_heads),
        ):
            if value % by:
                raise ValueError(f"{name} {value} must be a multiple of {by_name} {by}")

    @classmethod
    def of_size(
        cls,
        size: str,
        *,
        target_dim: int,
        num_frames: int = 16,
        size_hw: tuple[int, int] = (224, 224),
        patch_size: int = 16,
        tubelet_size: int = 2,
        drop_path: float = 0.0,
        positions: Literal["joint", "separable"] = "joint",
        checkpointing: bool = False,
        decoder_chunk: int = 0,
    ) -> StudentConfig:
        """Return the configuration of a size named in `STUDENT_SIZES`.

        Raises:
            UserError: the size has no such name.
            ValueError: as the class.
        """
        if size not in STUDENT_SIZES:
            allowed = ", ".join(STUDENT_SIZES)
            raise UserError(f"unknown student size '{size}' (one of {allowed}){nearest(size, STUDENT_SIZES)}")
        return cls(
            **STUDENT_SIZES[size],
            target_dim=target_dim,
            num_frames=num_frames,
            size_hw=size_hw,
            patch_size=patch_size,
            tubelet_size=tubelet_size,
            drop_path=drop_path,
            positions=positions,
            checkpointing=checkpointing,
            decoder_chunk=decoder_chunk,
        )

    @classmethod
    def from_options(
        cls, options: StudentOptions, *, num_frames: int, size_hw: tuple[int, int], target_dim: int
    ) -> StudentConfig:
        """Return the configuration of a run's student for clips of a given length and size.

        Raises:
            UserError: frames are no multiple of the tubelet, or height or width of the patch.
        """
        try:
            return cls.of_size(
                **options.model_dump(), num_frames=num_frames, size_hw=size_hw, target_dim=target_dim
            )
        except ValueError as error:
            raise UserError(f"student: {error}") from None

    @property
    def grid_thw(self) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        height, width = self.size_hw
        return self.num_frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of a clip; token (t, h, w) of the grid has the index (t * H + h) * W + w."""
        t, h, w = self.grid_thw
        return t * h * w


def split_tokens(mask: Tensor, num_masked: int | None = None) -> tuple[Tensor, Tensor]:
    """Split the tokens of a mask into visible and masked ones.

    Args:
        mask: bool `[B, N]`, True = masked, the same count in every row.
        num_masked: that count. Given, it is trusted and the device is not waited for.

    Returns:
        Ascending token indices, int64: visible `[B, N - M]` and masked `[B, M]`.

    Raises:
        ValueError: rows with different counts (checked only without `num_masked`).
    """
    if num_masked is None:
        counts = mask.sum(1).tolist()
        num_masked = int(counts[0])
        if any(count != num_masked for count in counts):
            raise ValueError(f"every row of a mask must hide equally many, got {min(counts)}..{max(counts)}")
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    num_visible = mask.shape[1] - num_masked
    return order[:, :num_visible], order[:, num_visible:]


def pick_tokens(
    values: Tensor, mask: Tensor, num_masked: int | None = None, which: Tokens = "masked"
) -> Tensor:
    """Pick tokens in the order in which a student predicts them.

    Args:
        values: `[B, N, C]`.
        mask: bool `[B, N]`, True = masked, the same count in every row.
        num_masked: that count. Given, it is trusted and the device is not waited for.
        which: masked tokens, visible ones, or all: the visible before the masked. Ascending within each.

    Returns:
        `[B, P, C]`.

    Raises:
        ValueError: rows with different counts, or a mask of another shape.
    """
    if mask.shape != values.shape[:2]:
        raise ValueError(f"mask must be {list(values.shape[:2])}, got {list(mask.shape)}")
    visible, masked = split_tokens(mask, num_masked)
    tokens = {"masked": masked, "visible": visible, "all": torch.cat([visible, masked], dim=1)}[which]
    return values.gather(1, tokens[..., None].expand(-1, -1, values.shape[2]))


def _position_table(num_tokens: int, width: int) -> Tensor:
    """Return the sine-cosine table `[N, C]` of "Attention is all you need" (arXiv 1706.03762), sec. 3.5."""
    position = torch.arange(num_tokens, dtype=torch.float64)[:, None]
    column = torch.arange(width)
    angle = position / 10000 ** (2 * (column // 2).double() / width)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def _positions(config: StudentConfig, width: int) -> Tensor:
    """Return the fixed position table `[N, width]` of a student's tokens."""
    if config.positions == "joint":
        return _position_table(config.num_tokens, width)
    # A third of the channels for each of time, row and column; what three do not divide stays zero.
    share = width // 6 * 2
    axes = torch.meshgrid(*(torch.arange(n) for n in config.grid_thw), indexing="ij")
    tables = [_position_table(n, share) for n in config.grid_thw]
    parts = [table[axis.flatten()] for table, axis in zip(tables, axes, strict=True)]
    return F.pad(torch.cat(parts, dim=1), (0, width - 3 * share))


class _Linear(nn.Linear):
    def __init__(self, inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        nn.init.xavier_uniform_(self.weight, generator=generator)
        if bias:
            nn.init.zeros_(self.bias)

    def reset_parameters(self) -> None:
        """Do nothing: PyTorch would draw from the global generator here."""


class _Conv3d(nn.Conv3d):
    def __init__(self, outputs: int, kernel: tuple[int, int, int], generator: torch.Generator) -> None:
        super().__init__(3, outputs, kernel, stride=kernel)
        # VideoMAE leaves this layer at PyTorch's default: uniform in +-1/sqrt(fan in), the bias too.
        bound = self.weight[0].numel() ** -0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)

    def reset_parameters(self) -> None:
        """Do nothing: PyTorch would draw from the global generator here."""


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=NORM_EPS)


class _PatchEmbed(nn.Module):
    """Embeds tubelets: a Conv3d whose stride is its kernel, computed for the chosen tokens only."""

    def __init__(self, config: StudentConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = _Conv3d(config.width, kernel, generator)

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


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = _Linear(width, 3 * width, generator, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = _Linear(width, width, generator)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).view(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.fc1 = _Linear(width, hidden, generator)
        self.fc2 = _Linear(hidden, width, generator)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class _Block(nn.Module):
    def __init__(
        self, width: int, heads: int, mlp_ratio: float, drop_path: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = _norm(width)
        self.attn = _Attention(width, heads, generator)
        self.norm2 = _norm(width)
        self.mlp = _MLP(width, int(width * mlp_ratio), generator)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.attn(self.norm1(x)))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        """Drop the branch of random clips and scale up the others, so that the mean stays.

        Draws from torch's global generator like every dropout layer; a checkpoint keeps its state.
        """
        if not self.training or self.drop_path == 0:
            return branch
        keep = 1 - self.drop_path
        return branch * (torch.rand(len(branch), 1, 1, device=branch.device) < keep).to(branch.dtype) / keep


def _through(blocks: nn.ModuleList, x: Tensor, checkpointing: bool) -> Tensor:
    for block in blocks:
        # The state of the generator is kept, so that drop path drops the same again.
        again = checkpointing and torch.is_grad_enabled()
        x = checkpoint(block, x, use_reentrant=False) if again else block(x)
    return x


class _Trunk(nn.Module):
    """Patch embedding, positions and blocks: what the encoder and the classifier share."""

    position: Tensor

    def __init__(self, config: StudentConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = _PatchEmbed(config, generator)
        self.register_buffer("position", _positions(config, config.width), persistent=False)
        last = max(config.depth - 1, 1)
        self.blocks = nn.ModuleList(
            _Block(config.width, config.heads, config.mlp_ratio, config.drop_path * i / last, generator)
            for i in range(config.depth)
        )

    def _tokens(self, clips: Tensor, tokens: Tensor | None) -> Tensor:
        position = self.position if tokens is None else self.position[tokens]
        x: Tensor = self.patch_embed(clips, tokens) + position
        return _through(self.blocks, x, self.config.checkpointing)


class Encoder(_Trunk):
    """Encode the visible tokens of clips.

    Args:
        config: its form.
        generator: CPU generator of the initial weights.
    """

    def __init__(self, config: StudentConfig, *, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        self.norm = _norm(config.width)

    def forward(self, clips: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Encode clips.

        Args:
            clips: float `[B, T, 3, H, W]`, normalised as in training.
            tokens: int64 `[B, V]`, the tokens to look at; all of them by default. The cost falls with V.

        Returns:
            Tokens after the last LayerNorm, `[B, V, width]`.

        Raises:
            ValueError: the clips have another shape than the configuration.
        """
        out: Tensor = self.norm(self._tokens(clips, tokens))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: StudentConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        width = config.decoder_width
        self.blocks = nn.ModuleList(
            _Block(width, config.decoder_heads, config.mlp_ratio, 0.0, generator)
            for _ in range(config.decoder_depth)
        )
        self.norm = _norm(width)
        self.head = _Linear(width, config.target_dim, generator)

    def forward(self, x: Tensor, predicted: slice) -> Tensor:
        chunk = self.config.decoder_chunk
        if not chunk:
            return self._decode(x, predicted)
        if not torch.is_grad_enabled():
            return torch.cat([self._decode(part, predicted) for part in x.split(chunk)])
        parts = [checkpoint(self._decode, part, predicted, use_reentrant=False) for part in x.split(chunk)]
        return torch.cat(parts)

    def _decode(self, x: Tensor, predicted: slice) -> Tensor:
        x = _through(self.blocks, x, self.config.checkpointing)
        out: Tensor = self.head(self.norm(x[:, predicted]))
        return out


class Student(nn.Module):
    """Predict the targets of masked tokens from the visible ones.

    Args:
        config: its form.
        generator: CPU generator of the initial weights.
    """

    position: Tensor

    def __init__(self, config: StudentConfig, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, generator=generator)
        self.decoder = _Decoder(config, generator)
        self.encoder_to_decoder = _Linear(config.width, config.decoder_width, generator, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.decoder_width))
        nn.init.trunc_normal_(self.mask_token, std=INIT_STD, a=-INIT_STD, b=INIT_STD, generator=generator)
        table = _positions(config, config.decoder_width)
        self.register_buffer("position", table, persistent=False)

    def forward(
        self, clips: Tensor, mask: Tensor, num_masked: int | None = None, *, tokens: Tokens = "masked"
    ) -> Tensor:
        """Predict the masked tokens.

        Args:
            clips: float `[B, T, 3, H, W]`, normalised as in training.
            mask: bool `[B, N]`, True = masked, the same count in every row.
            num_masked: that count. Given, it is trusted and the device is not waited for.
            tokens: which tokens are predicted: masked, visible or all.

        Returns:
            `[B, P, target_dim]`, in the order of `pick_tokens`.

        Raises:
            ValueError: a shape that does not fit the configuration, or rows with different counts.
        """
        visible, masked = self._split(mask, num_masked)
        x: Tensor = self.encoder_to_decoder(self.encoder(clips, visible))
        # Attention does not see the order of its tokens: visible before masked spares a scatter.
        x = torch.cat([x + self.position[visible], self.mask_token + self.position[masked]], dim=1)
        first, last = visible.shape[1], x.shape[1]
        predicted = {"masked": slice(first, last), "visible": slice(0, first), "all": slice(0, last)}[tokens]
        out: Tensor = self.decoder(x, predicted)
        return out

    def encode(self, clips: Tensor, mask: Tensor | None = None, num_masked: int | None = None) -> Tensor:
        """Encode the visible tokens, all of them without a mask; arguments as `forward`.

        Returns:
            Tokens after the encoder's last LayerNorm, `[B, N - M, width]`, in token order.
        """
        tokens = None if mask is None else self._split(mask, num_masked)[0]
        out: Tensor = self.encoder(clips, tokens)
        return out

    def _split(self, mask: Tensor, num_masked: int | None) -> tuple[Tensor, Tensor]:
        if mask.shape[1:] != (self.config.num_tokens,):
            raise ValueError(f"mask must be [B, {self.config.num_tokens}], got {list(mask.shape)}")
        return split_tokens(mask, num_masked)


class VideoClassifier(_Trunk):
    """Classify clips from the mean of all tokens: the form of VideoMAE's fine-tuning.

    Args:
        config: its form; the decoder's part is not used.
        num_classes: scores per clip.
        generator: CPU generator of the initial weights.

    Raises:
        ValueError: `num_classes` is not positive.
    """

    def __init__(self, config: StudentConfig, num_classes: int, *, generator: torch.Generator) -> None:
        super().__init__(config, generator)
        if num_classes <= 0:
            raise ValueError(f"num_classes must be positive, got {num_classes}")
        self.fc_norm = _norm(config.width)
        self.head = _Linear(config.width, num_classes, generator)
        std = INIT_STD * HEAD_INIT_SCALE
        nn.init.trunc_normal_(self.head.weight, std=std, a=-2 * std, b=2 * std, generator=generator)

    def forward(self, clips: Tensor) -> Tensor:
        """Return scores (logits) `[B, num_classes]` of float clips `[B, T, 3, H, W]`."""
        out: Tensor = self.head(self.fc_norm(self._tokens(clips, None).mean(1)))
        return out


def load_student_weights(model: Student | Encoder | VideoClassifier, path: str | Path) -> None:
    """Load a checkpoint into a model.

    Reads `.safetensors` and pickles of tensors, with the weights at the top or under `model` or
    `module`, in the published pretraining form (`encoder.*` and a decoder) or fine-tuning form (no
    prefix, `fc_norm`, `head`). A `Student` needs the whole pretraining form. An `Encoder` takes either;
    from the fine-tuning form its norm is `fc_norm`. A `VideoClassifier` takes either; from the
    pretraining form its `fc_norm` and `head` keep their initial values.

    Raises:
        UserError: the file is missing or unreadable, of another kind, or its tensors do not fit the model.
    """
    path = Path(path)
    found = read_tensors(path)
    kind = kind_of(found)
    allowed = ("pretraining",) if isinstance(model, Student) else ("pretraining", "fine-tuning")
    if kind not in allowed:
        wanted_kinds = " or ".join(f"a {name} checkpoint" for name in allowed)
        raise UserError(f"{path}: holds a {kind} checkpoint; {type(model).__name__} needs {wanted_kinds}")
    wanted = model.state_dict()
    if kind == "pretraining" and not isinstance(model, Student):
        found = {n.removeprefix("encoder."): v for n, v in found.items() if n.startswith("encoder.")}
        if isinstance(model, VideoClassifier):
            # The pretraining norm acts per token; fine-tuning replaces it by one of the mean token.
            found = {n: v for n, v in found.items() if not n.startswith("norm.")}
            wanted = {n: v for n, v in wanted.items() if not n.startswith(("fc_norm.", "head."))}
    elif isinstance(model, Encoder):
        found = {n.replace("fc_norm.", "norm."): v for n, v in found.items() if not n.startswith("head.")}
    check_fit(path, found, wanted)
    model.load_state_dict(found, strict=False)
