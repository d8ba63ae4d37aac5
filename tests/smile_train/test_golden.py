"""The losses of tiny-cpu's first steps, as they were when they were last looked at.

`SMILE_WRITE_GOLDEN=1 uv run pytest tests/smile_train/test_golden.py` writes them anew, after a change that is meant.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from smile_train.config import PretrainConfig
from smile_train.training.logging import read_log
from smile_train.training.pretrain import pretrain

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_cpu_losses.json"
STEPS = 100


@pytest.mark.slow
def test_losses_of_tiny_cpu_are_the_golden_ones(train_bank: Path, tmp_path: Path) -> None:
    own = [f"bank={train_bank}", f"steps={STEPS}", "batch_size=4", "masks_per_clip=1", "workers=0"]
    schedule = ["optimiser.warmup_steps=20", "optimiser.lr_per_256=0.064"]
    pretrain(PretrainConfig.load("tiny-cpu", [*own, *schedule]), tmp_path / "run")
    losses = [line["loss"] for line in read_log(tmp_path / "run")]
    if os.environ.get("SMILE_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({"first": losses[:20], "last": losses[-1]}, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert losses[:20] == pytest.approx(golden["first"], rel=1e-3)
    assert losses[-1] == pytest.approx(golden["last"], rel=2e-2)
    assert len(losses) == STEPS and losses[-1] < 0.9 * losses[0]
