"""How often the regions proposed in plain images are objects that people marked, on a COCO folder.

    uv run python benchmarks/region_quality.py DATA --out benchmarks/results/region_quality.json

DATA holds ``images/`` and ``annotations.json`` (COCO instances). A region counts as an object where
it meets an annotated instance with an intersection over union of one half or more. This is a lower bound
for regions: much that can be cut out is of none of COCO's 80 classes, and is counted as wrong here. Found
instances are counted among all, and among those of at least the least size that is ever proposed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import record
from pycocotools.coco import COCO
from rich.console import Console
from rich.table import Table

from smile_synth.io.images import load_rgb
from smile_synth.objects._regions import AREA_SHARE, find_regions

HIT = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with images/ and annotations.json")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    coco = COCO(arguments.data / "annotations.json")
    overlaps: list[float] = []
    seconds: list[float] = []
    images_with_regions = instances = large = found = 0
    for image in coco.dataset["images"]:
        rgb = load_rgb((arguments.data / "images" / image["file_name"]).read_bytes())
        began = time.process_time()
        regions = find_regions(rgb)
        seconds.append(time.process_time() - began)
        images_with_regions += bool(regions)
        annotated = coco.loadAnns(coco.getAnnIds(image["id"], iscrowd=False))
        masks = [coco.annToMask(annotation).astype(bool) for annotation in annotated]
        iou = np.zeros((len(regions), len(masks)))
        for i, region in enumerate(regions):
            (y, x), (h, w) = region.corner_yx, region.alpha.shape
            inside = np.zeros(rgb.shape[:2], bool)
            inside[y : y + h, x : x + w] = region.alpha >= 128
            iou[i] = [(inside & mask).sum() / (inside | mask).sum() for mask in masks]
        overlaps += iou.max(axis=1, initial=0).tolist()
        instances += len(masks)
        large += sum(bool(mask.mean() >= AREA_SHARE[0]) for mask in masks)
        found += int((iou.max(axis=0, initial=0) >= HIT).sum())
    hits = sum(overlap >= HIT for overlap in overlaps)
    result = {
        "images": len(seconds),
        "images_with_regions": images_with_regions,
        "regions": len(overlaps),
        "regions_that_are_instances": hits,
        "instances": instances,
        "instances_large_enough": large,
        "instances_found": found,
        "cpu_seconds_per_image_median": round(statistics.median(seconds), 2),
        "cpu_seconds_per_image_highest": round(max(seconds), 2),
    }
    table = Table("regions of plain images", "")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)
    record.write(arguments.out, result)


if __name__ == "__main__":
    main()
