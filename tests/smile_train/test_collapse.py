import pytest
import torch

from smile_train.collapse import effective_rank


def test_effective_rank_counts_directions() -> None:
    corners = torch.eye(4).repeat(3, 1)  # four points around their mean: three directions, alike
    assert effective_rank(corners) == pytest.approx(3)
    assert effective_rank(torch.cat([corners, 7 * torch.ones(12, 2)], dim=1)) == pytest.approx(3)
    line = torch.linspace(-1, 2, 9)[:, None] * torch.tensor([[1.0, 2.0, -1.0]])
    assert effective_rank(line) == pytest.approx(1, abs=1e-6)
    assert 1 < effective_rank(line + 0.01 * corners[:9, :3]) < 2
    assert effective_rank(torch.ones(5, 3)) == 0
