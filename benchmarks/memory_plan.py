"""Memory of pretraining by size and by option: estimated from formulas.

    uv run python benchmarks/memory_plan.py --out benchmarks/results/memory_plan.json

For one student pass of eight clips of 16x224x224 with 80 % of the tokens masked, in bf16 and with fused
attention: frames, targets and activations that the backward pass needs; and weights, their copies in bf16,
gradients and AdamW's moments. The teacher's weights and temporary buffers come on top.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import record
import torch
from rich.console import Console

from smile_train.models import StudentConfig
from smile_train.training.cost import cost_of

SIZES = ("small", "base", "large", "huge")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "`decoder_chunk: 1`": {"decoder_chunk": 1},
    "`checkpointing`": {"checkpointing": True},
    "both": {"checkpointing": True, "decoder_chunk": 1},
}
CLIPS, MASKED, TARGET_DIM = 8, 1248, 768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sizes: dict[str, dict[str, Any]] = {}
    for size in SIZES:
        kept = {}
        for way, options in WAYS.items():
            config = StudentConfig.of_size(size, target_dim=TARGET_DIM, **options)
            cost = cost_of(config, num_masked=MASKED, precision=torch.bfloat16)
            kept[way] = cost.memory_bytes(CLIPS) - cost.state_bytes
        sizes[size] = {"kept_bytes": kept, "state_bytes": cost.state_bytes}
    Console().print(sizes)
    record.write(arguments.out, {"clips": CLIPS, "sizes": sizes})


if __name__ == "__main__":
    main()
