"""The cost of a training step, from formulas: parameters, operations and memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smile_train.models import ClassifierConfig, StudentConfig, Teacher, Tokens

# Dense tensor-core peaks in TFLOP/s: (bf16 and fp16, TF32), from NVIDIA's data sheets (the data sheets'
# figures "with sparsity" are twice as high). A longer name is matched before a shorter one.
PEAK_TFLOPS = {
    "H200 NVL": (835.0, 417.0),
    "H200": (989.0, 494.0),
    "H100 PCIe": (756.0, 378.0),
    "H100 NVL": (835.0, 417.0),
    "H100": (989.0, 494.0),  # SXM
    "A100": (312.0, 156.0),
    "L40S": (362.0, 183.0),
    "RTX 4090": (165.0, 82.6),
}
WEIGHT_BYTES, ADAMW_BYTES = 4, 8  # weights and gradients in float32, two moments


@dataclass(frozen=True)
class Cost:
    """The cost of training on one clip in one stage.

    Attributes:
        parameters: of each part.
        forward_gflops: of each part for one forward pass, 2 per multiply-add, matrix products only.
        step_gflops: of a clip in a step: forward and backward passes of all masks, and the teacher's pass.
            Recomputation under checkpointing is not counted, as usual for the MFU.
        activation_bytes: per clip, kept from the forward to the backward pass of one mask.
        chunk_bytes: recomputed at a time for `decoder_chunk` clips, for any number of clips.
        trained_bytes: weights, gradients, AdamW's moments, averaged weights. FSDP divides them.
        fixed_bytes: teacher, and copies of the weights in the precision of the forward pass.
        num_tokens, num_visible: of a clip.
    """

    parameters: dict[str, int]
    forward_gflops: dict[str, float]
    step_gflops: float
    activation_bytes: int
    chunk_bytes: int
    trained_bytes: int
    fixed_bytes: int
    num_tokens: int
    num_visible: int

    @property
    def state_bytes(self) -> int:
        """Memory of a process that does not depend on the number of clips, without sharding."""
        return self.trained_bytes + self.fixed_bytes

    def memory_bytes(self, clips: int, *, shards: int = 1) -> int:
        """Return the memory that a process needs, without the allocator's overhead.

        Args:
            clips: clips of one pass: batch size / processes / accumulation steps.
            shards: processes over which FSDP divides the trained state; 1 with DDP.
        """
        state = self.trained_bytes // shards + self.fixed_bytes
        return state + clips * self.activation_bytes + self.chunk_bytes


@dataclass(frozen=True)
class _Blocks:
    """Transformer blocks on ``tokens`` tokens."""

    depth: int
    width: int
    tokens: int
    mlp_ratio: float

    @property
    def parameters(self) -> int:
        """Weights of attention and MLP, biases (none for keys), two norms."""
        width, hidden = self.width, int(self.width * self.mlp_ratio)
        return self.depth * (4 * width**2 + 2 * width * hidden + hidden + 8 * width)

    @property
    def flops(self) -> float:
        """2 x weights x tokens; queries x keys and attention x values: 2 x tokens^2 x width each."""
        width, hidden = self.width, int(self.width * self.mlp_ratio)
        weights = 4 * width**2 + 2 * width * hidden
        return self.depth * (2.0 * self.tokens * weights + 4.0 * self.tokens**2 * width)

    def activation_bytes(self, itemsize: int, *, checkpointing: bool) -> int:
        """Bytes kept for the backward pass.

        Each block keeps two residuals in float32, and in the compute precision two norms, queries, keys,
        values, heads, and twice the hidden layer. With checkpointing each block keeps its input only, and
        one block at a time is recomputed.
        """
        values = self.tokens * self.width
        block = values * (2 * WEIGHT_BYTES + itemsize * (6 + 2 * self.mlp_ratio))
        if not checkpointing:
            return int(self.depth * block)
        return int(self.depth * values * WEIGHT_BYTES + block)


def cost_of(
    config: StudentConfig | ClassifierConfig,
    teacher: Teacher | None = None,
    *,
    num_masked: int = 0,
    masks_per_clip: int = 1,
    tokens: Tokens = "masked",
    precision: torch.dtype = torch.float32,
    average: bool = False,
) -> Cost:
    """Compute the cost of one stage of training.

    Args:
        config: of the student or classifier.
        teacher: of the targets, if any.
        num_masked: masked tokens of a clip; 0 for a classifier.
        masks_per_clip: student passes per clip.
        tokens: which tokens are predicted.
        precision: of the forward passes.
        average: whether averaged weights are kept.
    """
    encoder = config.encoder
    visible = encoder.num_tokens - num_masked
    patch = 3 * encoder.tubelet_size * encoder.patch_size**2
    blocks = _Blocks(encoder.depth, encoder.width, visible, encoder.mlp_ratio)
    itemsize = precision.itemsize
    parameters = {
        "patch embedding": (patch + 1) * encoder.width,
        "encoder": blocks.parameters + 2 * encoder.width,
    }
    flops = {"patch embedding": 2.0 * visible * patch * encoder.width, "encoder": blocks.flops}
    # Of the clip itself: uint8 frames, normalised frames, patches in the compute precision.
    pixels = encoder.num_tokens * patch
    activations = pixels * (1 + WEIGHT_BYTES) + visible * patch * itemsize
    activations += blocks.activation_bytes(itemsize, checkpointing=encoder.checkpointing)
    chunk = 0
    if isinstance(config, StudentConfig):
        width = config.decoder_width
        decoder = _Blocks(config.decoder_depth, width, encoder.num_tokens, encoder.mlp_ratio)
        predicted = {"masked": num_masked, "visible": visible, "all": encoder.num_tokens}[tokens]
        num_decoders, num_heads = 1 + len(config.own_target_dims), len(config.encoder_blocks)
        parameters["decoder"] = encoder.width * width + width
        parameters["decoder"] += num_decoders * (decoder.parameters + 2 * width)
        parameters["head"] = (width + 1) * config.prediction_dim
        parameters["head"] += num_heads * ((encoder.width + 1) * config.prediction_dim + 2 * encoder.width)
        flops["decoder"] = 2.0 * visible * encoder.width * width + num_decoders * decoder.flops
        flops["head"] = 2.0 * predicted * width * config.prediction_dim
        flops["head"] += 2.0 * num_heads * visible * encoder.width * config.prediction_dim
        # Targets of all tokens; of the predicted tokens: target, prediction and difference, in float32.
        predicted += num_heads * visible
        activations += (encoder.num_tokens + 3 * predicted) * config.prediction_dim * WEIGHT_BYTES
        kept = num_decoders * decoder.activation_bytes(itemsize, checkpointing=encoder.checkpointing)
        if config.decoder_chunk:
            chunk = config.decoder_chunk * kept // num_decoders
            kept = encoder.num_tokens * width * WEIGHT_BYTES
        activations += kept
    else:
        parameters["encoder"] -= 2 * encoder.width
        parameters["head"] = 2 * encoder.width + (encoder.width + 1) * config.num_classes
        flops["head"] = 2.0 * encoder.width * config.num_classes
    trained = sum(parameters.values())
    # The backward pass computes gradients of inputs and weights; the patch embedding has no input gradient.
    step = masks_per_clip * (3 * sum(flops.values()) - flops["patch embedding"])
    fixed = trained * itemsize if itemsize < WEIGHT_BYTES else 0
    if teacher is not None:
        flops["teacher"] = 1e9 * teacher.gflops(encoder.num_frames)
        parameters["teacher"] = sum(p.numel() for p in teacher.parameters())
        fixed += sum(p.numel() * p.element_size() for p in teacher.parameters())
        step += flops["teacher"]
    return Cost(
        parameters=parameters,
        forward_gflops={part: count / 1e9 for part, count in flops.items()},
        step_gflops=step / 1e9,
        activation_bytes=activations,
        chunk_bytes=chunk,
        trained_bytes=trained * (2 * WEIGHT_BYTES + ADAMW_BYTES + (WEIGHT_BYTES if average else 0)),
        fixed_bytes=fixed,
        num_tokens=encoder.num_tokens,
        num_visible=visible,
    )


def peak_tflops(device: torch.device, precision: torch.dtype) -> float | None:
    """Return the device's dense peak in TFLOP/s for matrix products; None for unknown devices.

    For float32 it is the TF32 peak of the tensor cores.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = next((peaks for part, peaks in PEAK_TFLOPS.items() if part in name), None)
    return known and known[precision == torch.float32]
