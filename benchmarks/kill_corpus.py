"""Kill `generate` at random moments and fill the disk under it; the same command must end byte-identical.

    uv run python benchmarks/kill_corpus.py --out benchmarks/results/kill_corpus.json

Every trial begins with an empty folder. Run as root it also writes to a file system that is too small, which
then grows.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console

from smile_synth import build_bank
from smile_synth.corpus import verify

RECIPE = """
size: [32, 32]
num_frames: 3
backgrounds: [{kind: noise}]
objects: {count: 2, side: [10, 14]}
motion: [{family: constant-velocity, speed: [1.0, 3.0]}]
"""


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(work: Path, out: Path, layout: str, clips: int) -> subprocess.Popen[str]:
    arguments = [
        "generate", work / "recipe.yaml", "--bank", work / "bank", "--out", out, "--num-clips", clips,
        "--seed", 0, "--layout", layout, "--clips-per-shard", 50, "--labels", "tracks", "--workers", 2,
    ]  # fmt: skip
    command = [sys.executable, "-m", "smile_synth.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(work: Path, out: Path, layout: str, clips: int) -> None:
    process = start(work, out, layout, clips)
    _, told = process.communicate()
    if process.returncode:
        raise SystemExit(f"continuing failed: {told}")


def kill_trials(
    work: Path, layout: str, clips: int, trials: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    began = time.perf_counter()
    finish(work, work / layout, layout, clips)
    whole, seconds = digests(work / layout), time.perf_counter() - began
    results = []
    for trial in range(trials):
        out = work / f"{layout}{trial}"
        after = float(rng.uniform(0.1, 1.0) * seconds)
        process = start(work, out, layout, clips)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        killed = process.returncode == -signal.SIGKILL
        standing = len(list(out.rglob("*.scene"))) + len(list(out.glob("shards/*.parts/*")))
        standing += 50 * len(list(out.glob("shards/*.tar")))
        finish(work, out, layout, clips)
        same = digests(out) == whole
        results.append(
            {
                "layout": layout, "killed_after_seconds": round(after, 2), "killed": killed,
                "clips_standing": standing, "byte_identical": same, "faults": len(verify(out, deep=True)),
            }
        )  # fmt: skip
    return results


def full_disk(work: Path, layout: str, clips: int) -> dict[str, Any] | None:
    """Write to 1 MB of memory, then give it room; None where nothing may be mounted."""
    out = work / f"full {layout}"
    out.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", out], capture_output=True
    ).returncode:
        return None
    try:
        process = start(work, out / "c", layout, clips)
        _, told = process.communicate()
        subprocess.run(["mount", "-o", "remount,size=512m", out], check=True)
        finish(work, out / "c", layout, clips)
        same = digests(out / "c") == digests(work / layout)
        line = [text for text in told.splitlines() if "error" in text][-1:]
        return {
            "layout": layout, "exit_code": process.returncode, "byte_identical": same,
            "lines": len(told.strip().splitlines()), "told_no_space": "No space left" in "".join(line),
        }  # fmt: skip
    finally:
        subprocess.run(["umount", out], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=15, help="of each layout")
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "recipe.yaml").write_text(RECIPE)
        build_bank(["builtin:shapes"], work / "bank")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        kills = [
            result
            for layout in ("folder", "shards")
            for result in kill_trials(work, layout, arguments.clips, arguments.trials, rng)
        ]
        disks = [full_disk(work, layout, arguments.clips) for layout in ("folder", "shards")]
    Console().print(kills, disks)
    record.write(
        arguments.out, {"clips": arguments.clips, "kills": kills, "full_disk": [d for d in disks if d]}
    )


if __name__ == "__main__":
    main()
