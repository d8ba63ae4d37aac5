"""Intervals, paired differences and the effective rank."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smile_train.evaluate import bootstrap_interval, effective_rank, paired_difference


def test_an_interval_has_the_width_of_the_binomial_and_does_not_depend_on_memory() -> None:
    correct = np.arange(500) % 2 == 0
    low, high = bootstrap_interval(correct, seed=0)
    assert low < 0.5 < high and 0.07 < high - low < 0.10  # +- 1.96 sqrt(.25 / 500)
    many = np.arange(3000) % 3 == 0  # drawn in several parts
    drawn = np.random.default_rng(4).integers(0, 3000, (2000, 3000))
    assert bootstrap_interval(many, seed=4) == pytest.approx(np.percentile(many[drawn].mean(1), [2.5, 97.5]))


def test_intervals_resample_groups() -> None:
    values = np.repeat([0.0, 1.0], 50).repeat(4)
    alone = bootstrap_interval(values, seed=0)
    grouped = bootstrap_interval(values, np.arange(100).astype(str).repeat(4), seed=0)
    assert alone[1] - alone[0] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    assert (grouped[1] - grouped[0]) / (alone[1] - alone[0]) == pytest.approx(2, rel=0.1)


def test_a_difference_is_paired_and_has_a_smallest_significant_value() -> None:
    values = np.arange(400) % 2 == 0
    same = paired_difference(values, values, np.arange(400).astype(str), seed=0)
    assert (same.mean, same.low, same.high, same.smallest, same.num_groups) == (0, 0, 0, 1 / 400, 400)
    better = paired_difference(values, np.zeros(400), np.arange(40).repeat(10), seed=0)
    assert better.mean == 0.5 and better.smallest == 1 / 40  # every group has the same difference
    with pytest.raises(ValueError, match="of the same videos, got 3, 2 and 3"):
        paired_difference(values[:3], values[:2], np.arange(3), seed=0)


def test_effective_rank_counts_directions() -> None:
    corners = torch.eye(4).repeat(3, 1)  # four points around their mean: three equal directions
    assert effective_rank(corners) == pytest.approx(3)
    assert effective_rank(torch.cat([corners, 7 * torch.ones(12, 2)], dim=1)) == pytest.approx(3)
    line = torch.linspace(-1, 2, 9)[:, None] * torch.tensor([[1.0, 2.0, -1.0]])
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert 1 < effective_rank(line + 0.01 * corners[:9, :3]) < 2
    assert effective_rank(torch.ones(5, 3)) == 0
