"""Score a shipped encoder on synthetic motion and on real videos; its model card shows the result.

    uv run python benchmarks/shipped_encoder.py smile-tiny-motion --videos actions_weizmann \\
        --group "^p[0-9]+" --work runs/shipped --out benchmarks/results/smile_tiny_motion.json

The videos are in one folder per class; one group of them is tested at a time.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import record

from smile_train.ablate import StudyVideos
from smile_train.evaluate import (
    MOTION_TASKS,
    EvaluateOptions,
    Extractor,
    MotionProbeOptions,
    evaluate_videos,
    load_encoder,
    probe_motion,
)
from smile_train.materials import build_materials

TASKS = ("direction", "rotation", "motion family", "speed", "count")
SETTINGS = (
    EvaluateOptions(protocols=["linear", "knn"], controls=["random", "flow"]),
    EvaluateOptions(protocols=["linear"], controls=["random", "flow"], pooling="mean-max-min"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder")
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    environment = record.environment()
    encoder = load_encoder(arguments.encoder)
    videos, splits = StudyVideos(path=str(arguments.videos), group=arguments.group).splits()
    real = {
        settings.pooling: evaluate_videos(
            encoder, videos, splits, settings, extractor=Extractor(arguments.work / "features")
        )
        for settings in SETTINGS
    }
    materials = build_materials(arguments.work / "materials")
    options = MotionProbeOptions({name: MOTION_TASKS[name] for name in TASKS}, num_train=600, num_test=400)
    synthetic = probe_motion(encoder, materials.train, materials.heldout, options)
    result = {
        "encoder": arguments.encoder,
        "videos": f"{arguments.videos.name}, {len(videos)} videos in {len(splits)} groups",
        "real": {pooling: [_short(row) for row in scores.rows] for pooling, scores in real.items()},
        "num_train": options.num_train,
        "num_test": options.num_test,
        "num_classes": synthetic.num_classes,
        "synthetic": [_short(row) for row in synthetic.rows],
        "environment": environment,
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _short(row: Any) -> dict[str, Any]:
    """Return a row of scores without the values of single videos."""
    content = asdict(row)
    return {
        name: content[name]
        for name in ("protocol", "task", "features", "accuracy", "low", "high", "margin")
        if name in content
    }


if __name__ == "__main__":
    main()
