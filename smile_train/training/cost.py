"""What a step costs, known before it is run: parameters, operations and memory, part by part."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smile_train.config import PretrainConfig
from smile_train.models import Student

# Dense bf16 matrix work that was reached on these GPUs, or that their maker states, in TFLOP/s.
PEAK_TFLOPS = {"H200": 790.0, "H100": 790.0, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.0}
PARTS = ("encoder.patch_embed", "encoder.blocks", "encoder", "encoder_to_decoder", "decoder")


@dataclass(frozen=True)
class Cost:
    """What pretraining one clip costs.

    Attributes:
        parameters: of each part.
        forward_gflops: of each part for one pass, 2 per multiply-add, matrix work alone.
        step_gflops: of a clip in a step: all student passes forward and backward, and the teacher's pass.
        saved_bytes: kept from one student pass for its backward pass, per clip, in the forward precision.
        state_bytes: weights (in bf16, too, where that is computed in), gradients, optimiser, averaged weights
            and teacher.
        num_tokens, num_visible: of a clip.
    """

    parameters: dict[str, int]
    forward_gflops: dict[str, float]
    step_gflops: float
    saved_bytes: int
    state_bytes: int
    num_tokens: int
    num_visible: int


def cost_of(
    config: PretrainConfig, student: Student, teacher: nn.Module | None, *, num_masked: int, bf16: bool
) -> Cost:
    """Count what a clip costs, by running it without any data (on PyTorch's meta device).

    Args:
        config: the run.
        student, teacher: of the run; they stay as they are.
        num_masked: tokens that a mask hides.
        bf16: half of the bytes are kept from a forward pass in 16 bits.
    """
    form = student.config
    empty = _on_meta(student).train()
    clip = torch.empty(1, form.num_frames, 3, *form.size_hw, device="meta")
    mask = torch.zeros(1, form.num_tokens, dtype=torch.bool, device="meta")
    seen: dict[int, int] = {}
    weights = {parameter.untyped_storage()._cdata for parameter in empty.parameters()}

    def note(tensor: Tensor) -> Tensor:
        # Weights are kept anyway; fused attention keeps no matrix of tokens by tokens, which the meta device
        # makes; views share their storage.
        square = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] >= form.num_tokens - num_masked
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and not square:
            seen[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            predicted = empty(clip, mask, num_masked, tokens=config.target.tokens)
        forward = counter.get_total_flops()
        counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
        predicted.sum().backward()
        both = counter.get_total_flops()
    by_part = {part: float(counts.get(f"Student.{part}", 0)) for part in PARTS}
    # Modules contain each other: what stands before is taken out.
    by_part["encoder.blocks"] = float(
        sum(
            n
            for name, n in counts.items()
            if name.startswith("Student.encoder.blocks.") and name.count(".") == 3
        )
    )
    embedding = (
        2.0 * (form.num_tokens - num_masked) * next(iter(student.encoder.patch_embed.parameters())).numel()
    )
    by_part["encoder.patch_embed"] = by_part["encoder.patch_embed"] or embedding
    by_part["encoder"] -= by_part["encoder.blocks"] + by_part["encoder.patch_embed"]
    by_part["other"] = forward - sum(by_part.values())
    parameters = {part: _count(student.get_submodule(part)) for part in PARTS}
    parameters["encoder"] -= parameters["encoder.blocks"] + parameters["encoder.patch_embed"]
    parameters["other"] = _count(student) - sum(parameters.values())
    names = {"encoder": "encoder, rest", "other": "mask token"}
    passes = max(stage.masks_per_clip for stage in config.stages)
    teacher_flops = 0.0
    if teacher is not None:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            _on_meta(teacher)(clip)
        teacher_flops = float(counter.get_total_flops())
        by_part["teacher"], parameters["teacher"] = teacher_flops, _count(teacher)
    trained = _count(student)
    copies = 4 + bool(config.ema_decay)  # weights, gradients, two subframes
    casts = 2 * trained if bf16 else 0  # weights in 16 bits, kept from the forward to the backward pass
    return Cost(
        parameters={names.get(part, part): count for part, count in parameters.items() if count},
        forward_gflops={names.get(part, part): flops / 1e9 for part, flops in by_part.items() if flops > 0},
        step_gflops=(both * passes + teacher_flops) / 1e9,
        saved_bytes=sum(seen.values()) // (2 if bf16 else 1),
        state_bytes=4 * (copies * trained + (_count(teacher) if teacher is not None else 0)) + casts,
        num_tokens=form.num_tokens,
        num_visible=form.num_tokens - num_masked,
    )


def peak_tflops(config: PretrainConfig, device: torch.device) -> float | None:
    """Return the device's peak in TFLOP/s, or None where it is neither given nor known."""
    if config.peak_tflops is not None or device.type != "cuda":
        return config.peak_tflops
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def _on_meta(module: nn.Module) -> Any:
    # A copy first would double the memory for a subframe; tensors are replaced while it is copied.
    memo = {id(t): torch.empty_like(t, device="meta") for t in module.buffers()}
    memo |= {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    return copy.deepcopy(module, memo)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
