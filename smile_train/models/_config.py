"""Configurations of the student, its encoder and the video classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from smile_synth.core.errors import UserError, nearest
from smile_train.config import StudentOptions

Size = tuple[int, int]


class StudentSize(NamedTuple):
    """Widths, depths and heads of one named student size."""

    width: int
    depth: int
    heads: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int


STUDENT_SIZES = {
    "tiny": StudentSize(128, 4, 4, 64, 2, 2),
    "small": StudentSize(384, 12, 6, 192, 4, 3),
    "base": StudentSize(768, 12, 12, 384, 4, 6),
    "large": StudentSize(1024, 24, 16, 512, 4, 8),
    "huge": StudentSize(1280, 32, 16, 640, 4, 8),
}


def student_size(name: str) -> StudentSize:
    """Return the entry of `STUDENT_SIZES`.

    Raises:
        UserError: unknown name.
    """
    if name not in STUDENT_SIZES:
        allowed = ", ".join(STUDENT_SIZES)
        raise UserError(f"unknown student size '{name}' (one of {allowed}){nearest(name, STUDENT_SIZES)}")
    return STUDENT_SIZES[name]


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        if getattr(config, name) <= 0:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")


def _check_multiple(name: str, value: int, by_name: str, by: int) -> None:
    if value % by:
        raise ValueError(f"{name} {value} must be a multiple of {by_name} {by}")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The ViT encoder: the clip it reads and its widths.

    Attributes:
        width, depth, heads: channels of a token, number of blocks, attention heads.
        num_frames: frames of a clip, a multiple of `tubelet_size`.
        size_hw: height and width of a frame in pixels, multiples of `patch_size`.
        patch_size: side of a token in pixels.
        tubelet_size: frames of a token.
        mlp_ratio: hidden width of a block's MLP / width.
        drop_path: drop probability of the last block's residual branches (stochastic depth, arXiv
            1603.09382). It rises linearly from 0 at the first block.
        positions: fixed sine-cosine table over the token index ("joint", as published), or over time, row
            and column in separate channels ("separable"), which small students learn faster.
        checkpointing: recompute each block in the backward pass (arXiv 1604.06174): less memory, about a
            third more work, the same result.
        final_norm: whether a LayerNorm follows the last block.

    Raises:
        ValueError: a value that is not positive, or a size that is not a multiple of its divisor.
    """

    width: int
    depth: int
    heads: int
    num_frames: int = 16
    size_hw: Size = (224, 224)
    patch_size: int = 16
    tubelet_size: int = 2
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    positions: Literal["joint", "separable"] = "joint"
    checkpointing: bool = False
    final_norm: bool = True

    def __post_init__(self) -> None:
        _check_positive(
            self, "width", "depth", "heads", "num_frames", "patch_size", "tubelet_size", "mlp_ratio"
        )
        if min(self.size_hw) <= 0:
            raise ValueError(f"size_hw must be positive, got {self.size_hw}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be in [0, 1), got {self.drop_path}")
        _check_multiple("num_frames", self.num_frames, "tubelet_size", self.tubelet_size)
        _check_multiple("height", self.size_hw[0], "patch_size", self.patch_size)
        _check_multiple("width of size_hw", self.size_hw[1], "patch_size", self.patch_size)
        _check_multiple("width", self.width, "heads", self.heads)

    @classmethod
    def of_size(cls, size: str, **fields: Any) -> EncoderConfig:
        """Return the encoder of a size in `STUDENT_SIZES`; ``fields`` are further attributes.

        Raises:
            UserError: unknown size.
            ValueError: as the class.
        """
        named = student_size(size)
        return cls(width=named.width, depth=named.depth, heads=named.heads, **fields)

    @property
    def grid_thw(self) -> tuple[int, int, int]:
        """Number of tokens along time, height and width."""
        height, width = self.size_hw
        return self.num_frames // self.tubelet_size, height // self.patch_size, width // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Number of tokens of a clip. Token (t, h, w) of the grid has the index (t * H + h) * W + w."""
        t, h, w = self.grid_thw
        return t * h * w


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The student: an encoder of visible tokens and a decoder of masked tokens.

    Attributes:
        encoder: its encoder. The decoder has the same positions, MLP ratio and checkpointing.
        decoder_width, decoder_depth, decoder_heads: of the decoder.
        target_dim: values per token that the decoder predicts.
        own_target_dims: values per token of each further decoder. Further decoders have the same shape.
        encoder_blocks: blocks of the encoder after which a norm and a linear layer predict all values.
        decoder_chunk: number of clips that are decoded at a time. Each chunk is recomputed in the backward
            pass, so the decoder's memory does not grow with the batch. 0 decodes the whole batch in one pass.

    Raises:
        ValueError: a value that is not positive, or a width that is not a multiple of the heads.
    """

    encoder: EncoderConfig
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    target_dim: int
    own_target_dims: tuple[int, ...] = ()
    encoder_blocks: tuple[int, ...] = ()
    decoder_chunk: int = 0

    def __post_init__(self) -> None:
        _check_positive(self, "decoder_width", "decoder_depth", "decoder_heads", "target_dim")
        _check_multiple("decoder_width", self.decoder_width, "decoder_heads", self.decoder_heads)
        if any(not 0 <= block < self.encoder.depth for block in self.encoder_blocks):
            raise ValueError(
                f"encoder_blocks: the encoder has the blocks 0..{self.encoder.depth - 1}, got "
                f"{list(self.encoder_blocks)}"
            )
        if self.decoder_chunk < 0:
            raise ValueError(f"decoder_chunk must not be negative, got {self.decoder_chunk}")

    @classmethod
    def of_size(cls, size: str, *, target_dim: int, decoder_chunk: int = 0, **fields: Any) -> StudentConfig:
        """Return the student of a size in `STUDENT_SIZES`; ``fields`` are attributes of `EncoderConfig`.

        Raises:
            UserError: unknown size.
            ValueError: as the classes.
        """
        named = student_size(size)
        return cls(
            encoder=EncoderConfig.of_size(size, **fields),
            decoder_width=named.decoder_width, decoder_depth=named.decoder_depth,
            decoder_heads=named.decoder_heads, target_dim=target_dim, decoder_chunk=decoder_chunk,
        )  # fmt: skip

    @classmethod
    def from_options(
        cls, options: StudentOptions, *, num_frames: int, size_hw: Size, target_dim: int
    ) -> StudentConfig:
        """Return the student of a run for clips of the given length and size.

        Raises:
            UserError: the frames are not a multiple of the tubelet, or height or width not of the patch.
        """
        try:
            return cls.of_size(
                **options.model_dump(exclude={"patch_filters"}),  # only the initial weights depend on it
                num_frames=num_frames, size_hw=size_hw, target_dim=target_dim,
            )  # fmt: skip
        except ValueError as error:
            raise UserError(f"student: {error}") from None

    @property
    def prediction_dim(self) -> int:
        """Values per token that all decoders predict together."""
        return self.target_dim + sum(self.own_target_dims)

    @property
    def grid_thw(self) -> tuple[int, int, int]:
        """Number of tokens along time, height and width."""
        return self.encoder.grid_thw

    @property
    def num_tokens(self) -> int:
        """Number of tokens of a clip."""
        return self.encoder.num_tokens

    @property
    def depth(self) -> int:
        """Number of blocks of the encoder."""
        return self.encoder.depth


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The video classifier of fine-tuning: an encoder, mean pooling and a linear head.

    Attributes:
        encoder: its encoder.
        num_classes: number of scores per clip.
        head_init_scale: factor of the head's initial weights. The published 0.001 gives nearly equal
            scores for all classes at the start.
        class_names: in the order of the scores; empty if unknown.

    Raises:
        ValueError: `num_classes` is not positive, or differs from the number of names.
    """

    encoder: EncoderConfig
    num_classes: int
    head_init_scale: float = 1e-3
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_positive(self, "num_classes")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")

    @property
    def depth(self) -> int:
        """Number of blocks of the encoder."""
        return self.encoder.depth
