"""From COCO to a tracking corpus in MOT and COCO-VID.

Builds a bank from COCO's instances, generates a corpus for trackers, exports it, and scores a simple
tracker with motmetrics. The tracker receives the boxes of visible objects and links them from frame to frame
by their overlap. Without a path of COCO's annotations, the script draws a small data set in COCO's format.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import motmetrics
import numpy as np
import pandas as pd

from smile_synth import Recipe, Sources, build_bank, export, generate


class Boxes(NamedTuple):
    """The boxes of a frame, ``[K]`` and ``[K, 4]``: x, y, width, height."""

    ids: np.ndarray
    boxes: np.ndarray


def read_boxes(sequence: Path, *, least_visible: float = 0.0) -> list[Boxes]:
    """Read a MOT sequence, frame by frame."""
    length = len(list((sequence / "img1").iterdir()))
    rows = np.loadtxt(sequence / "gt" / "gt.txt", delimiter=",", ndmin=2)
    rows = rows[rows[:, 8] >= least_visible]  # frame, id, x, y, width, height, 1, class, visible share
    frames = (rows[rows[:, 0] == number] for number in range(1, length + 1))
    return [Boxes(frame[:, 1].astype(int), frame[:, 2:6]) for frame in frames]


def small_coco(folder: Path) -> Path:
    """Write rendered images with masks in COCO's format; return the path of the annotations."""
    build_bank("drawn:48", folder / "drawn.bank")
    recipe = Recipe.load("one-factor-still", ["objects.count=3"])
    generate(recipe, Sources.open(folder / "drawn.bank"), out=folder / "corpus", num_clips=12, seed=0)
    export(folder / "corpus", "coco", folder / "coco")
    return folder / "coco" / "annotations" / "instances.json"


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return intersection over union ``[A, B]`` of boxes ``[., 4]``: x, y, width, height."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    common = (high - low).clip(0).prod(-1)
    return common / (a[:, 2:].prod(-1)[:, None] + b[:, 2:].prod(-1)[None] - common)


def link_boxes(frames: list[Boxes], threshold: float = 0.3) -> list[Boxes]:
    """Give new ids to boxes: the id of the box in the frame before that overlaps most."""
    linked: list[Boxes] = []
    last, next_id = Boxes(np.zeros(0, int), np.zeros((0, 4))), 1
    for frame in frames:
        overlap, ids = overlaps(frame.boxes, last.boxes), np.zeros(len(frame.ids), int)
        for k in range(len(ids)):
            best = int(overlap[k].argmax()) if overlap.shape[1] else -1
            if best >= 0 and overlap[k, best] >= threshold:
                ids[k] = last.ids[best]
                overlap[:, best] = 0  # an id is given once a frame
            else:
                ids[k], next_id = next_id, next_id + 1
        last = Boxes(ids, frame.boxes)
        linked.append(last)
    return linked


def compare(truth: list[Boxes], found: list[Boxes]) -> motmetrics.MOTAccumulator:
    """Match the boxes of every frame; boxes with an overlap below one half do not match."""
    matches = motmetrics.MOTAccumulator(auto_id=True)
    for a, b in zip(truth, found, strict=True):
        overlap = overlaps(a.boxes, b.boxes)
        matches.update(a.ids, b.ids, np.where(overlap < 0.5, np.nan, 1 - overlap))
    return matches


def main(
    out: Path,
    *,
    annotations: Path | None = None,
    num_clips: int = 20,
    recipe: str = "tracking-hard",
    overrides: tuple[str, ...] = (),
) -> pd.DataFrame:
    """Make the corpus in ``out`` and print the metrics; return them, one row per tracker."""
    annotations = annotations or small_coco(out / "small-coco")
    build_bank(annotations, out / "coco.bank")
    loaded = Recipe.load(recipe, overrides)
    generate(loaded, Sources.open(out / "coco.bank"), out=out / "corpus", num_clips=num_clips, seed=0)
    for name in ("mot", "coco"):
        export(out / "corpus", name, out / name)

    scored: dict[str, list[motmetrics.MOTAccumulator]] = {"ground truth": [], "linked boxes": []}
    for sequence in sorted((out / "mot" / "train").iterdir()):
        truth = read_boxes(sequence)
        seen = read_boxes(sequence, least_visible=0.5)
        scored["ground truth"].append(compare(truth, truth))
        scored["linked boxes"].append(compare(truth, link_boxes(seen)))
    table = pd.concat(
        motmetrics.metrics.create()
        .compute_many(each, metrics=["mota", "idf1", "num_switches"], generate_overall=True)
        .loc[["OVERALL"]]
        .rename({"OVERALL": name})
        for name, each in scored.items()
    )
    print(table)
    video = json.loads((out / "coco" / "annotations" / "instances.json").read_text())
    tracks = {(a["video_id"], a["instance_id"]) for a in video["annotations"]}
    print(f"COCO-VID: {len(video['videos'])} videos, {len(video['images'])} frames, {len(tracks)} tracks")
    return table


if __name__ == "__main__":
    main(Path("runs/coco-to-tracking"), annotations=Path(sys.argv[1]) if len(sys.argv) > 1 else None)
