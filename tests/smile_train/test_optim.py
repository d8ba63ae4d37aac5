import pytest
import torch

from smile_train.models import Student, StudentConfig
from smile_train.training.optim import lr_at, make_adamw, parameter_groups

SCHEDULE = {"base_lr": 8e-4, "warmup_lr": 1e-6, "final_lr": 1e-5, "warmup_steps": 10, "total_steps": 30}


def rate(step: int, **change: float) -> float:
    return lr_at(step, **(SCHEDULE | change))  # type: ignore[arg-type]


def test_only_tensors_of_two_or_more_dimensions_decay() -> None:
    student = Student(StudentConfig.of_size("tiny", target_dim=5), generator=torch.Generator().manual_seed(0))
    student.encoder.norm.weight.requires_grad = False
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    decayed, others = ([names[id(p)] for p in group["params"]] for group in parameter_groups(student, 0.05))
    assert "encoder.blocks.0.attn.qkv.weight" in decayed and "decoder.head.weight" in decayed
    assert all(name.endswith(("bias", "norm1.weight", "norm2.weight", "norm.weight")) for name in others)
    assert "encoder.blocks.0.attn.q_bias" in others and "decoder.norm.weight" in others
    assert sorted([*decayed, *others, "encoder.norm.weight"]) == sorted(names.values())


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
