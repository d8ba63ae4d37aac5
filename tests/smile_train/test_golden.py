"""The losses of the first steps of tiny-cpu are the golden ones.

`SMILE_WRITE_GOLDEN=1 uv run pytest tests/smile_train/test_golden.py` writes them, after an intended change.
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
    stage = [f"steps={STEPS}", "masks_per_clip=1", "optimiser.warmup_steps=20", "optimiser.base_lr=0.064"]
    own = [f"bank={train_bank}", "batch_size=4", "run.workers=0", *(f"stages.0.{line}" for line in stage)]
    pretrain(PretrainConfig.load("tiny-cpu", own), tmp_path / "run")
    losses = [line["loss"] for line in read_log(tmp_path / "run")]
    if os.environ.get("SMILE_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps({"first": losses[:20], "last": losses[-1]}, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert losses[:20] == pytest.approx(golden["first"], rel=1e-3)
    assert losses[-1] == pytest.approx(golden["last"], rel=2e-2)
    assert len(losses) == STEPS and losses[-1] < 0.9 * losses[0]
