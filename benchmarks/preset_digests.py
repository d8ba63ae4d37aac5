"""Digest the scenes, frames and labels of every preset, and compare them with those of an earlier run.

    python3.11 benchmarks/preset_digests.py --out FILE.json   # then with python3.12, or after a change

The first run writes the file. Every later run compares its digests with the file and fails where one
differs. Digests hold for one kind of processor and the versions named in the file; across processors
poses agree to 1e-9. Natural video is replaced by images, so that no codec takes part; long clips are cut.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import record
from numpy.typing import NDArray

from smile_synth import BackgroundFolder, ObjectBank, Recipe, annotate, build_bank, composite, sample_scenes
from smile_synth.annotations import query_points
from smile_synth.backgrounds import write_images
from smile_synth.core.rng import RandomStream
from smile_synth.objects import CutOutOptions
from smile_synth.sources import Sources

PRESETS = Path(__file__).parents[1] / "configs" / "synth"
MOST_FRAMES = 12  # longer clips are cut, to keep the run short
LABELS = (
    "segmentation", "amodal_masks", "modal_masks", "amodal_boxes_xyxy", "modal_boxes_xyxy",
    "oriented_boxes_xy", "visibility", "in_frame", "depth_order", "occluded_by",
)  # fmt: skip


class Digest:
    """sha256 of arrays, one after another, whatever their order in memory."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, values: object) -> None:
        array: NDArray = np.ascontiguousarray(values)
        self._sha.update(f"{array.dtype.kind}{array.shape}".encode() + array.tobytes())

    def text(self) -> str:
        return self._sha.hexdigest()[:24]


def numbers(values: dict[str, object]) -> list[float]:
    """Return the drawn numbers of a layer or clip; their names may change without a change of the scene."""
    return sorted(value for value in values.values() if isinstance(value, float))


def digests(num_clips: int) -> dict[str, dict[str, str]]:
    found = {}
    with tempfile.TemporaryDirectory() as name:
        build_bank(["builtin:shapes"], Path(name) / "bank", cut=CutOutOptions(max_side=64))
        bank = ObjectBank.open(Path(name) / "bank")
        write_images(Path(name) / "images", count=5, seed=0)
        images = BackgroundFolder(Path(name) / "images")
        for path in sorted(PRESETS.glob("*.yaml")):
            recipe = Recipe.load(path)
            changes = ["backgrounds=[{kind: image}]"] * any(e.kind == "video" for e in recipe.backgrounds)
            if recipe.num_frames > MOST_FRAMES:
                changes.append(f"num_frames={MOST_FRAMES}")
            recipe = Recipe.load(path, changes)
            parts = {part: Digest() for part in ("scenes", "frames", "labels", "flow", "tracks")}
            for scene in sample_scenes(recipe, Sources(bank, images), seed=0, indices=range(num_clips)):
                for array in ("object_to_frame", "opacity", "depth", "gain", "bias", "level"):
                    parts["scenes"].add(getattr(scene, array))
                for factors in (scene.factors, *(layer.factors for layer in scene.layers)):
                    parts["scenes"].add(numbers(factors))
                parts["frames"].add(composite(scene, Sources(bank, images)))
                annotation = annotate(scene, Sources(bank, images))
                for label in LABELS:
                    values = getattr(annotation.labels, label)
                    # The committed digests are of unsigned numbers; segmentations are int16.
                    parts["labels"].add(values.astype(np.uint16) if label == "segmentation" else values)
                flow = annotation.flow(0, scene.num_frames - 1)
                for values in (flow.flow_xy, flow.valid, flow.occluded, flow.leaves):
                    parts["flow"].add(values)
                rng = RandomStream(0, scene.index, "digest")
                for kind in ("grid", "objects", "edges"):
                    tracks = annotation.tracks(query_points(annotation, kind, count=20, rng=rng))
                    parts["tracks"].add(tracks.points_xy)
                    parts["tracks"].add(tracks.visible)
            found[path.stem] = {part: digest.text() for part, digest in parts.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    own, python = digests(options.clips), platform.python_version()
    if not options.out.exists():
        record.write(options.out, {"clips": options.clips, "pythons": [python], "presets": own})
        print(f"{len(own)} presets written")
        return
    known = json.loads(options.out.read_text())
    wrong = [
        f"{preset}: {part} differ"
        for preset, parts in known["presets"].items()
        for part, digest in parts.items()
        if own.get(preset, {}).get(part) != digest
    ]
    if wrong:
        sys.exit("\n".join(wrong))
    if python not in known["pythons"]:
        record.write(options.out, {**known, "pythons": [*known["pythons"], python]})
    print(f"{len(own)} presets, the same scenes, frames and labels")


if __name__ == "__main__":
    main()
