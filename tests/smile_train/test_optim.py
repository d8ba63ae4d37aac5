"""Parameter groups, schedules and the average of the weights."""

import pytest
import torch
from torch import nn

from smile_train.models import ClassifierConfig, Student, StudentConfig, VideoClassifier
from smile_train.training.optim import WeightAverage, lr_at, make_adamw, parameter_groups, set_lr

SCHEDULE = {"base_lr": 8e-4, "warmup_lr": 1e-6, "final_lr": 1e-5, "warmup_steps": 10, "total_steps": 30}


def rate(step: int, **change: float) -> float:
    return lr_at(step, **(SCHEDULE | change))  # type: ignore[arg-type]


CONFIG = StudentConfig.of_size("tiny", target_dim=5, num_frames=2, size_hw=(16, 16))


def student() -> Student:
    return Student(CONFIG, generator=torch.Generator().manual_seed(0))


def classifier() -> VideoClassifier:
    config = ClassifierConfig(encoder=CONFIG.encoder, num_classes=3)
    return VideoClassifier(config, generator=torch.Generator().manual_seed(0))


def decay_and_scale(model: nn.Module, layer_decay: float) -> dict[str, tuple[float, float]]:
    """Weight decay and factor of the learning rate by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.05, layer_decay=layer_decay)
    return {
        names[id(parameter)]: (group["weight_decay"], group.get("lr_scale", 1.0))
        for group in groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_norms_biases_and_the_mask_token_have_no_weight_decay(layer_decay: float) -> None:
    model = student()
    model.encoder.norm.weight.requires_grad = False
    found = decay_and_scale(model, layer_decay)
    assert sorted([*found, "encoder.norm.weight"]) == sorted(name for name, _ in model.named_parameters())
    for name, (decay, _) in found.items():
        free = name.endswith(("bias", "norm1.weight", "norm2.weight", "norm.weight", "mask_token"))
        assert decay == (0 if free else 0.05), name


def test_layers_have_their_own_learning_rates() -> None:
    """The patch embedding is layer 0, then 4 blocks, then the rest."""
    for model, prefix in ((student(), "encoder."), (classifier(), "")):
        scale = {name: value for name, (_, value) in decay_and_scale(model, 0.5).items()}
        assert scale[f"{prefix}patch_embed.proj.weight"] == scale[f"{prefix}patch_embed.proj.bias"] == 0.5**5
        assert scale[f"{prefix}blocks.0.attn.q_bias"] == 0.5**4
        assert scale[f"{prefix}blocks.3.mlp.fc2.weight"] == 0.5
        rest = [name for name in scale if not name.startswith((f"{prefix}patch", f"{prefix}blocks"))]
        assert {scale[name] for name in rest} == {1.0}
        assert ("decoder.blocks.0.attn.qkv.weight" if prefix else "head.weight") in rest


def test_the_learning_rate_is_set_by_layer() -> None:
    optimiser = make_adamw(classifier(), lr=1.0, layer_decay=0.5)
    set_lr(optimiser, 0.2)
    assert {group["lr"] for group in optimiser.param_groups} == {0.2 * 0.5**k for k in range(6)}
    plain = make_adamw(classifier(), lr=1.0)
    set_lr(plain, 0.2)
    assert [group["lr"] for group in plain.param_groups] == [0.2, 0.2]


def test_an_average_lags_behind() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.5)
    nn.init.ones_(model.weight)
    for expected in (0.5, 0.75):
        average.update(model)
        assert float(average.tensors["weight"]) == expected


def test_adamw_decays_by_group() -> None:
    model = torch.nn.Linear(3, 2)
    torch.nn.init.ones_(model.weight)
    torch.nn.init.ones_(model.bias)
    optimizer = make_adamw(model, lr=0.1, weight_decay=0.5)
    assert optimizer.defaults["betas"] == (0.9, 0.95) and optimizer.defaults["fused"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight, torch.full((2, 3), 0.95))
    torch.testing.assert_close(model.bias, torch.ones(2))


def test_rate_rises_linearly_then_falls_along_a_cosine() -> None:
    assert rate(0) == 1e-6
    assert rate(5) == pytest.approx((1e-6 + 8e-4) / 2)
    assert rate(10) == pytest.approx(8e-4)
    assert rate(15) == pytest.approx(1e-5 + (8e-4 - 1e-5) * (1 + 0.5**0.5) / 2)
    assert rate(20) == pytest.approx((8e-4 + 1e-5) / 2)
    assert rate(30) == rate(99) == 1e-5
    rates = [rate(step) for step in range(31)]
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)


def test_schedules_without_warmup_or_of_warmup_alone() -> None:
    assert rate(0, warmup_steps=0) == pytest.approx(8e-4)
    assert rate(29, warmup_steps=30) == pytest.approx(1e-6 + (8e-4 - 1e-6) * 29 / 30)
    assert rate(30, warmup_steps=30) == 1e-5


def test_impossible_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="step must not be negative, got -1"):
        rate(-1)
    for warmup in (-1, 31):
        with pytest.raises(ValueError, match=r"warmup_steps must lie in 0\.\.total_steps \(30\)"):
            rate(0, warmup_steps=warmup)
