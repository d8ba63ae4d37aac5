"""The cost of a step: against the published numbers, torch's counter and measured memory."""

from __future__ import annotations

from dataclasses import replace

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from smile_train.config import TeacherOptions
from smile_train.models import (
    ClassifierConfig,
    Student,
    StudentConfig,
    Teacher,
    Tokens,
    VideoClassifier,
    make_teacher,
)
from smile_train.training.cost import Cost, cost_of, peak_tflops

BASE = StudentConfig.of_size("base", target_dim=768)
TINY = StudentConfig.of_size("tiny", target_dim=96, num_frames=6, size_hw=(64, 48), patch_size=8)
SEVERAL = replace(TINY, own_target_dims=(5, 3), encoder_blocks=(1, 2))
MASKED = 100  # of TINY's 144 tokens


def clip_b16() -> Teacher:
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(
            512, open_clip.CLIPVisionCfg(layers=12, width=768, patch_size=16, image_size=224)
        )
    visual.image_mean, visual.image_std = (0.5,) * 3, (0.5,) * 3
    return make_teacher(visual, TeacherOptions(), size_hw=(224, 224), frame_stride=2)


def student(config: StudentConfig) -> Student:
    return Student(config, generator=torch.Generator().manual_seed(0))


def tiny_batch(clips: int) -> tuple[Tensor, Tensor]:
    mask = torch.rand(clips, TINY.num_tokens, generator=torch.Generator().manual_seed(0)).argsort(1) < MASKED
    return torch.zeros(clips, 6, 3, 64, 48), mask


def test_costs_are_those_of_the_published_step() -> None:
    """ViT-B, 16x224x224, 320 of 1568 tokens visible, CLIP ViT-B/16 on 8 frames."""
    cost = cost_of(BASE, clip_b16(), num_masked=1248, masks_per_clip=2)
    forward = cost.forward_gflops
    assert forward["patch embedding"] == pytest.approx(0.75, abs=0.01)
    assert forward["encoder"] == pytest.approx(58.1, abs=0.05)
    assert forward["decoder"] == pytest.approx(37.3 + 0.19, abs=0.05)  # with the projection to its width
    assert forward["head"] == pytest.approx(0.7, abs=0.05)
    assert forward["teacher"] == pytest.approx(281, abs=0.5)
    # Published: 297 forward and backward, and 874 with two masks, with all tokens embedded. Here only the
    # visible tokens are embedded, 2.95 GF less, forward and for the gradient of the weights.
    student_gflops = (cost.step_gflops - forward["teacher"]) / 2
    assert student_gflops == pytest.approx(297 - 2 * 2.95, abs=0.7)
    assert cost.step_gflops == pytest.approx(874 - 4 * 2.95, abs=1)
    assert (cost.num_tokens, cost.num_visible) == (1568, 320)


def test_each_stage_has_its_own_cost() -> None:
    teacher = clip_b16()
    one, two = (cost_of(BASE, teacher, num_masked=1248, masks_per_clip=n).step_gflops for n in (1, 2))
    assert two / one == pytest.approx((874 - 4 * 2.95) / (578 - 2 * 2.95), rel=2e-3)
    fewer = cost_of(BASE, teacher, num_masked=784).step_gflops
    assert fewer > 1.2 * one


@pytest.mark.parametrize(
    ("config", "tokens"), [(TINY, "masked"), (TINY, "visible"), (TINY, "all"), (SEVERAL, "masked")]
)
def test_operations_are_those_that_torch_counts(config: StudentConfig, tokens: Tokens) -> None:
    model, (clips, mask) = student(config), tiny_batch(1)
    # Fused attention recomputes in its backward pass, and torch counts that; the formula does not.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        predicted = model(clips, mask, MASKED, tokens=tokens)
        forward = counter.get_total_flops()
        predicted.sum().backward()
    cost = cost_of(config, num_masked=MASKED, tokens=tokens)
    assert sum(cost.forward_gflops.values()) == pytest.approx(forward / 1e9, rel=1e-6)
    assert cost.step_gflops == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-6)


def test_parameters_are_those_of_the_models() -> None:
    for config in (TINY, SEVERAL, StudentConfig.of_size("small", target_dim=7, num_frames=4, mlp_ratio=2.5)):
        assert sum(cost_of(config).parameters.values()) == sum(
            p.numel() for p in student(config).parameters()
        )
    config = ClassifierConfig(encoder=TINY.encoder, num_classes=11)
    model = VideoClassifier(config, generator=torch.Generator().manual_seed(0))
    assert sum(cost_of(config).parameters.values()) == sum(p.numel() for p in model.parameters())
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tiny_batch(1)[0])
    gflops = sum(cost_of(config).forward_gflops.values())
    assert gflops == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-6)


def kept_bytes(config: StudentConfig, clips: int, precision: torch.dtype) -> int:
    """Bytes that autograd keeps from a forward pass, without weights."""
    model = student(config)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", precision, enabled=precision != torch.float32),
    ):
        model(*tiny_batch(clips), MASKED)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_that_autograd_keeps(precision: torch.dtype, checkpointing: bool) -> None:
    """Within 15 %, without frames and targets. With checkpointing one recomputed block each comes on top."""
    config = replace(TINY, encoder=replace(TINY.encoder, checkpointing=checkpointing))
    measured = (kept_bytes(config, 3, precision) - kept_bytes(config, 1, precision)) / 2
    per_token = 8 + precision.itemsize * 14
    if checkpointing:
        measured += per_token * (44 * 128 + 144 * 64)
    pixels, targets = 144 * 384 * 5, (144 + 3 * MASKED) * 96 * 4
    cost = cost_of(config, num_masked=MASKED, precision=precision)
    assert cost.activation_bytes - pixels - targets == pytest.approx(measured, rel=0.15)


def test_memory_of_a_process() -> None:
    def cost(**fields: object) -> Cost:
        return cost_of(TINY, num_masked=MASKED, **fields)  # type: ignore[arg-type]

    weights = sum(cost().parameters.values())
    assert cost().state_bytes == 16 * weights  # weights, gradients, two moments
    assert cost(average=True, precision=torch.bfloat16).state_bytes == (20 + 2) * weights
    plain = cost()
    assert plain.memory_bytes(5) == 16 * weights + 5 * plain.activation_bytes
    assert plain.memory_bytes(5, shards=4) == 4 * weights + 5 * plain.activation_bytes
    chunked = cost_of(replace(TINY, decoder_chunk=2), num_masked=MASKED)
    assert chunked.activation_bytes < plain.activation_bytes
    assert chunked.memory_bytes(2) > plain.memory_bytes(2) > chunked.memory_bytes(1)  # no gain at one chunk
    assert chunked.memory_bytes(20) < plain.memory_bytes(20)


def test_vit_l_trains_with_batches_of_eight_on_24_gigabytes() -> None:
    plain = StudentConfig.of_size("large", target_dim=768)
    lean = replace(plain, encoder=replace(plain.encoder, checkpointing=True), decoder_chunk=1)
    full, less = (cost_of(c, num_masked=1248, precision=torch.bfloat16) for c in (plain, lean))
    # Half of the memory is left for buffers of the backward pass and the allocator.
    assert 18 * 300e6 < full.state_bytes == less.state_bytes < full.memory_bytes(8) < 12e9
    assert less.memory_bytes(8) - less.state_bytes < 0.3 * (full.memory_bytes(8) - full.state_bytes)


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 494),
        ("NVIDIA H100 PCIe", 756, 378),
        ("NVIDIA H200", 989, 494),
        ("NVIDIA A100-SXM4-80GB", 312, 156),
        ("NVIDIA GeForce RTX 4090", 165, 82.6),
        ("NVIDIA GeForce GTX 1080", None, None),
    ],
)
def test_peaks_depend_on_device_and_precision(
    name: str, bf16: float | None, fp32: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    device = torch.device("cuda")
    assert peak_tflops(device, torch.bfloat16) == peak_tflops(device, torch.float16) == bf16
    assert peak_tflops(device, torch.float32) == fp32
    assert peak_tflops(torch.device("cpu"), torch.bfloat16) is None
