"""From COCO to a tracking corpus in MOT and COCO-VID.

Builds a bank from COCO's instances, generates a corpus for trackers, exports it, and scores a simple
tracker with motmetrics. The tracker receives the boxes of visible objects and links them from frame to frame
by their overlap. Without a path of COCO's annotations, the script draws a small data set in COCO's format.
"""

import json
import sys
from pathlib import Path

import motmetrics
import numpy as np
import pandas as pd

from smile_synth import Recipe, Sources, build_bank, export, generate

BOX = ["X", "Y", "Width", "Height"]


def small_coco(folder: Path) -> Path:
    """Write rendered images with masks in COCO's format; return the path of the annotations."""
    build_bank("drawn:48", folder / "drawn.bank")
    recipe = Recipe.load("one-factor-still", ["objects.count=3"])
    generate(recipe, Sources.open(folder / "drawn.bank"), out=folder / "corpus", num_clips=12, seed=0)
    export(folder / "corpus", "coco", folder / "coco")
    return folder / "coco" / "annotations" / "instances.json"


def link_boxes(truth: pd.DataFrame, threshold: float = 0.3) -> pd.DataFrame:
    """Give new ids to boxes: the id of the box in the frame before that overlaps most."""
    seen = truth[truth.Visibility > 0.5].copy()
    ids, last, next_id = np.zeros(len(seen), int), np.zeros((0, 4)), 1
    last_ids: list[int] = []
    for _, rows in seen.groupby(level="FrameId").indices.items():
        boxes = seen.iloc[rows][BOX].to_numpy()
        overlap = 1 - motmetrics.distances.iou_matrix(boxes, last, max_iou=1) if len(last) else None
        for k, row in enumerate(rows):
            best = int(np.nanargmax(overlap[k])) if overlap is not None else -1
            if best >= 0 and overlap[k, best] >= threshold:
                ids[row] = last_ids[best]
                overlap[:, best] = 0  # an id is given once a frame
            else:
                ids[row], next_id = next_id, next_id + 1
        last, last_ids = boxes, [ids[row] for row in rows]
    frames = seen.index.get_level_values("FrameId")
    return seen.set_index(pd.MultiIndex.from_arrays([frames, ids], names=["FrameId", "Id"]))


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
        truth = motmetrics.io.loadtxt(sequence / "gt" / "gt.txt", fmt=motmetrics.io.Format.MOT16)
        for name, found in (("ground truth", truth), ("linked boxes", link_boxes(truth))):
            scored[name].append(motmetrics.utils.compare_to_groundtruth(truth, found, "iou", distth=0.5))
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
