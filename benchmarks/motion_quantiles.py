"""Compare the motion of the SMILE presets with that of the published sampler, percentile by percentile.

    python benchmarks/motion_quantiles.py --reference FILE.json [--clips 10000] [--out FILE.json]

The reference holds per preset and quantity ``{"mean", "std", "percentiles": {"1": ..., "99": ...}}`` over
objects of 16 frames at 224 px. A difference is told in percent of the reference's p99 - p1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import record
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from smile_synth import ObjectBank, Recipe, build_bank, sample_scenes
from smile_synth.sources import Sources

Float = NDArray[np.float64]
PRESETS = {
    "smile-gaussian": "gaussian",
    "smile-linear": "linear",
    "smile-gaussian-faithful": "gaussian",
    "smile-linear-faithful": "linear",
}
BATCH = 250
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
QUANTITIES = (
    "extent_x",
    "extent_y",
    "mean_speed",
    "max_speed",
    "width0",
    "height0",
    "log_width_change",
    "log_height_change",
    "rotation_last_degrees",
    "max_abs_rotation_degrees",
    "center_x",
    "center_y",
)


def measure(
    preset: str,
    bank: ObjectBank,
    *,
    num_clips: int,
    seed: int = 0,
    overrides: Sequence[str] = (),
    progress: Callable[[int], None] | None = None,
) -> dict[str, Float]:
    """Draw clips and return each quantity of every object, taken from the scenes' poses alone."""
    recipe = Recipe.load(preset, overrides)
    poses, sizes = [], []
    for start in range(0, num_clips, BATCH):
        indices = range(start, min(start + BATCH, num_clips))
        for scene in sample_scenes(recipe, Sources(bank), seed=seed, indices=indices):
            for k, layer in enumerate(scene.layers[1:], start=1):
                poses.append(scene.object_to_frame[k])
                sizes.append((layer.surface.width, layer.surface.height))  # type: ignore[union-attr]
        if progress:
            progress(len(indices))
    pose, size_wh = np.array(poses), np.array(sizes, np.float64)
    center = pose[..., :2, :2] @ (size_wh / 2)[:, None, :, None]
    center_xy = center[..., 0] + pose[..., :2, 2]
    box_wh = np.linalg.norm(pose[..., :2, :2], axis=-2) * size_wh[:, None]
    degrees = np.rad2deg(np.unwrap(np.arctan2(pose[..., 1, 0], pose[..., 0, 0]), axis=1))
    speed = np.linalg.norm(np.diff(center_xy, axis=1), axis=-1)
    extent = np.ptp(center_xy, axis=1)
    change = np.log(box_wh[:, -1] / box_wh[:, 0])
    mean = center_xy.mean(axis=1)
    columns = (
        extent[:, 0], extent[:, 1], speed.mean(axis=1), speed.max(axis=1), box_wh[:, 0, 0], box_wh[:, 0, 1],
        change[:, 0], change[:, 1], degrees[:, -1], np.abs(degrees).max(axis=1), mean[:, 0], mean[:, 1],
    )  # fmt: skip
    return dict(zip(QUANTITIES, columns, strict=True))


def compare(values: Float, published: dict[str, Any]) -> list[dict[str, float]]:
    """Return one row per percentile: reference, ours, the standard error of ours, difference in %."""
    expected = {int(p): v for p, v in published["percentiles"].items()}
    span = expected[99] - expected[1]
    rows = []
    for p in PERCENTILES:
        ours = float(np.percentile(values, p))
        # An order statistic's error: the values one binomial standard deviation to either side.
        step = 100 * np.sqrt(p / 100 * (1 - p / 100) / len(values))
        low, high = np.percentile(values, [max(p - step, 0), min(p + step, 100)])
        rows.append(
            {
                "percentile": p,
                "reference": expected[p],
                "ours": ours,
                "standard_error": float(high - low) / 2,
                "difference_percent": 100 * (ours - expected[p]) / span,
                "standard_error_percent": 50 * float(high - low) / span,
            }
        )
    return rows


def any_bank(folder: Path) -> ObjectBank:
    """Build a bank of one square object: another's own aspect would show in the sizes."""
    (folder / "objects" / "square").mkdir(parents=True)
    Image.new("RGBA", (16, 16), (255, 255, 255, 255)).save(folder / "objects" / "square" / "0.png")
    build_bank([folder / "objects"], folder / "bank", val_fraction=0.0, test_fraction=0.0)
    return ObjectBank.open(folder / "bank")


def table_of(preset: str, rows_by_quantity: dict[str, list[dict[str, float]]]) -> Table:
    table = Table("quantity", "", title=f"{preset} (difference in % of p99 - p1)")
    for p in PERCENTILES:
        table.add_column(f"p{p}", justify="right")
    for quantity, rows in rows_by_quantity.items():
        table.add_row(quantity, "reference", *(f"{row['reference']:.4g}" for row in rows))
        table.add_row("", "ours", *(f"{row['ours']:.4g}" for row in rows))
        differences = [f"{row['difference_percent']:+.2f}" for row in rows]
        table.add_row("", "difference %", *differences, end_section=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    published = json.loads(options.reference.read_text())
    console = Console(width=120)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        bank = any_bank(Path(folder))
        for preset, name in PRESETS.items():
            task = progress.add_task(preset, total=options.clips)
            values = measure(
                preset,
                bank,
                num_clips=options.clips,
                seed=options.seed,
                # The published values are those before the last rounding to whole pixels.
                overrides=["objects.whole_pixels=false"],
                progress=lambda clips, task=task: progress.advance(task, clips),  # type: ignore[misc]
            )
            results[preset] = {q: compare(values[q], published[name][q]) for q in QUANTITIES}
    for preset, rows in results.items():
        console.print(table_of(preset, rows))
    if options.out:
        record.write(options.out, {"clips": options.clips, "seed": options.seed, "presets": results})


if __name__ == "__main__":
    main()
