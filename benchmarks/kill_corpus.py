"""Kill `generate` at random subframes and fill the disk under it; the same command must end byte-identical.

    uv run python benchmarks/kill_corpus.py --out benchmarks/results/kill_corpus.json

Every trial begins with an empty folder. Run as root it also writes to a file system that is too small, which
then grows.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from rich.console import Console

from smile_synth import ObjectBank, Recipe, UserError, build_bank, generate
from smile_synth.corpus import verify
from smile_synth.sources import Sources

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


def write_corpus(work: Path, out: Path, layout: str, clips: int) -> None:
    """Do what the command line does, in a process of its own; a mistake's line goes to a file."""
    recipe = Recipe.load(work / "recipe.yaml")
    try:
        generate(
            recipe, Sources(ObjectBank.open(work / 'bank')), out=out, num_clips=clips, seed=0, layout=layout,
            clips_per_shard=20, labels=["tracks"],
        )  # fmt: skip
    except UserError as error:
        (work / "told").write_text(str(error))
        raise SystemExit(2) from None


# The modules are loaded once, so that the subframes fall into the work.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["smile_synth._public"])


def start(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = processes.Process(target=write_corpus, args=arguments)
    process.start()
    return process


def finish(*arguments: object) -> None:
    process = start(*arguments)
    process.join()
    if process.exitcode:
        raise SystemExit("continuing failed")


def wait_for(out: Path) -> None:
    """Return when a corpus is begun."""
    while not out.exists():
        time.sleep(0.001)


def clips_standing(out: Path) -> int:
    """Count the clips whose scene is there, in a folder, a shard or a piece of one."""
    names: set[str] = set()
    for path in out.glob("shards/**/*"):
        if path.is_file() and path.suffix != ".part":
            with tarfile.open(path) as tar:
                names.update(name for name in tar.getnames() if name.endswith(".scene"))
    return len(list(out.rglob("*.scene"))) + len(names)


def kill_trials(
    work: Path, layout: str, clips: int, trials: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    finish(work, work / layout, layout, clips)  # loads and compiles what is needed
    shutil.rmtree(work / layout)
    process = start(work, work / layout, layout, clips)
    wait_for(work / layout)
    began = time.perf_counter()
    process.join()
    whole, seconds = digests(work / layout), time.perf_counter() - began
    results = []
    for trial in range(trials):
        out = work / f"{layout}{trial}"
        after = float(rng.uniform(0.0, 0.95) * seconds)
        process = start(work, out, layout, clips)
        wait_for(out)
        process.join(after)
        process.kill()
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        standing = clips_standing(out)
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
    """Write to half a megabyte of memory, then give it room; None where nothing may be mounted."""
    out = work / f"full {layout}"
    out.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", out], capture_output=True
    ).returncode:
        return None
    try:
        process = start(work, out / "c", layout, clips)
        process.join()
        subprocess.run(["mount", "-o", "remount,size=512m", out], check=True)
        finish(work, out / "c", layout, clips)
        told = (work / "told").read_text()
        return {
            "layout": layout, "exit_code": process.exitcode,
            "byte_identical": digests(out / "c") == digests(work / layout),
            "lines": len(told.splitlines()), "told_no_space": "No space left" in told,
        }  # fmt: skip
    finally:
        subprocess.run(["umount", out], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=15, help="of each layout")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "recipe.yaml").write_text(RECIPE)
        build_bank(["builtin:shapes"], work / "bank")
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
