"""Compare the scenes of every preset between Python versions, byte for byte.

    python3.11 benchmarks/scene_digests.py --out FILE.json   # then the same with python3.12 and python3.13

Every run adds its own version's digests to the file and fails where an earlier one's differ. They hold
for one kind of processor and the versions named there; across processors poses agree to 1e-9.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path

import record

from smile_synth import BackgroundFolder, ObjectBank, Recipe, build_bank, sample_scenes
from smile_synth.backgrounds._drawn import write_pictures
from smile_synth.objects import CutOutOptions

PRESETS = Path(__file__).parents[1] / "configs" / "synth"


def digests(num_clips: int) -> dict[str, str]:
    """Return the sha256 of the first scenes of every preset; natural video is replaced by pictures."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        build_bank(["builtin:shapes"], Path(name) / "bank", cut=CutOutOptions(max_side=64))
        bank = ObjectBank.open(Path(name) / "bank")
        write_pictures(Path(name) / "pictures", count=5, seed=0)
        pictures = BackgroundFolder(Path(name) / "pictures")
        for path in sorted(PRESETS.glob("*.yaml")):
            recipe = Recipe.load(path)
            if any(entry.kind == "video" for entry in recipe.backgrounds):
                recipe = Recipe.load(path, ["backgrounds=[{kind: image}]"])
            scenes = sample_scenes(recipe, bank, pictures, seed=0, indices=range(num_clips))
            data = b"".join(scene.to_bytes() for scene in scenes)
            found[path.stem] = hashlib.sha256(data).hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    known = json.loads(options.out.read_text())["by_python"] if options.out.exists() else {}
    own = digests(options.clips)
    wrong = [
        f"{preset}: differs from Python {version}"
        for version, others in known.items()
        for preset in own
        if others.get(preset) != own[preset]
    ]
    by_python = {**known, platform.python_version(): own}
    record.write(options.out, {"clips": options.clips, "by_python": by_python})
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(own)} presets, {len(by_python)} versions of Python, the same bytes")


if __name__ == "__main__":
    main()
