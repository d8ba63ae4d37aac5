"""Filters of the patch embedding that respond to motion."""

from __future__ import annotations

import math

import torch

from smile_train.config import PretrainConfig
from smile_train.models import motion_energy_filters
from smile_train.training.build import build_student, build_targets


def test_filters_are_pairs_that_respond_to_one_velocity() -> None:
    filters = motion_energy_filters(torch.Size([400, 3, 2, 8, 8]), torch.Generator().manual_seed(3))
    assert filters.shape == (400, 3, 2, 8, 8) and filters.dtype == torch.float32
    torch.testing.assert_close(filters.flatten(1).norm(dim=1), torch.full((400,), 1.2))
    torch.testing.assert_close(filters.flatten(2).mean(2), torch.zeros(400, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(filters[:, 0] / 0.299, filters[:, 2] / 0.114, atol=1e-5, rtol=1e-4)

    # A grating with a period of 8 px that moves right by 1.5 px per frame, in four phases.
    x, t = torch.arange(8.0), torch.arange(2.0)[:, None]
    phases = torch.arange(4) * math.pi / 2

    def energy(velocity: float) -> torch.Tensor:
        waves = torch.stack([torch.cos(2 * math.pi / 8 * (x - velocity * t) + p) for p in phases])
        clips = waves[:, None, :, None, :].expand(4, 3, 2, 8, 8)
        response = torch.einsum("nctyx,bctyx->bn", filters, clips)
        return response.square().unflatten(1, (200, 2)).sum((0, 2))

    right, left = energy(1.5), energy(-1.5)
    selective = (right - left).abs() / (right + left)
    assert selective.quantile(0.5) > 0.1
    assert 60 < int((right > left).sum()) < 140


def test_the_option_replaces_three_quarters_of_the_filters(config_file: object) -> None:
    students = []
    for kind in ("random", "motion-energy"):
        changes = [f"student.patch_filters={kind}", "targets=[{kind: pixels}]"]
        config = PretrainConfig.load(str(config_file), changes)
        students.append(build_student(config, (32, 32), 4, build_targets(config, None)))
    random, filtered = (dict(student.named_parameters()) for student in students)
    changed = {name for name in random if not torch.equal(random[name], filtered[name])}
    assert changed == {"encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"}
    weights = [tensors["encoder.patch_embed.proj.weight"] for tensors in (random, filtered)]
    equal = (weights[0] == weights[1]).flatten(1).all(1)
    count = len(equal) * 3 // 4
    assert not equal[:count].any() and equal[count:].all()
    assert not filtered["encoder.patch_embed.proj.bias"][:count].any()
