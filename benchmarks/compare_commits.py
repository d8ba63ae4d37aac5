"""Compare the speeds of two checkouts: one process of each, and both run the same case in turn.

    git worktree add /tmp/old COMMIT && (cd /tmp/old && uv sync)
    uv run python benchmarks/compare_commits.py /tmp/old [--out FILE.json]

Every checkout uses its own environment and one thread. A number is the lowest processor time of all turns in
milliseconds per clip, or per scene, so that other programs on the machine change it little.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import record

HERE = Path(__file__).resolve()
CLIPS = 40
NORMALISED = {"out_dtype": "float32", "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
CASES = (
    "render, black", "render, noise", "render, float32", "labels", "geometry", "segmentation",
    "sample one scene", "sample a batch", "clips[i].frames",
)  # fmt: skip


def functions(bank_folder: Path) -> tuple[str, dict[str, Callable[[int], object]]]:
    """Return a digest of the scenes, and the function of every case, which makes clip ``i``."""
    from smile_synth import (
        ObjectBank,
        Recipe,
        SyntheticClips,
        annotate,
        build_bank,
        composite,
        render,
        sample_scene,
        sample_scenes,
    )
    from smile_synth.objects import CutOutOptions
    from smile_synth.sources import Sources

    build_bank(["builtin:shapes"], bank_folder, cut=CutOutOptions(max_side=256))
    sources = Sources(ObjectBank.open(bank_folder))
    recipe = Recipe.load("smile-gaussian")
    black = sample_scenes(recipe, sources, seed=0, indices=range(CLIPS))
    noise = sample_scenes(Recipe.load("smile-gaussian-noise"), sources, seed=0, indices=range(CLIPS))
    clips = SyntheticClips(recipe, sources, seed=0, num_clips=CLIPS)
    digest = hashlib.sha256("".join(scene.digest for scene in black + noise).encode()).hexdigest()
    kinds: tuple[Callable[[int], object], ...] = (
        lambda i: composite(black[i], sources),
        lambda i: composite(noise[i], sources),
        lambda i: render([black[i]], sources, **NORMALISED),  # type: ignore[arg-type]
        lambda i: annotate(black[i], sources).labels,
        lambda i: annotate(black[i], sources).geometry,
        lambda i: annotate(black[i], sources).segmentation,
        lambda i: sample_scene(recipe, sources, seed=0, index=i),
        # The first call samples all scenes as one batch; the later calls return from this batch.
        lambda i: i or sample_scenes(recipe, sources, seed=0, indices=range(CLIPS)),
        lambda i: clips[i].frames,
    )
    return digest, dict(zip(CASES, kinds, strict=True))


def work() -> None:
    """Print a digest of the scenes; then, for every case read from stdin, its milliseconds per clip."""
    with tempfile.TemporaryDirectory() as folder:
        digest, cases = functions(Path(folder) / "bank")
        for case in cases.values():
            case(0)
        print(digest, flush=True)
        for line in sys.stdin:
            case = cases[line.strip()]
            began = time.process_time()
            for i in range(CLIPS):
                case(i)
            print(1000 * (time.process_time() - began) / CLIPS, flush=True)


class Checkout:
    """A process that runs the cases in a checkout."""

    def __init__(self, root: Path) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = {**os.environ, **threads, "PYTHONPATH": str(root)}
        self._process = subprocess.Popen(
            [root / ".venv" / "bin" / "python", HERE, "--worker"], cwd=root, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip

    def read(self) -> str:
        """Return the next line that the process prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("a checkout's process ended, see its error above")
        return line

    def milliseconds(self, case: str) -> float:
        """Run a case once."""
        assert self._process.stdin is not None
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        return float(self.read())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", type=Path, help="checkout of the old commit, with its environment")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    checkouts = [Checkout(options.old.resolve()), Checkout(HERE.parents[1])]
    digests = [checkout.read() for checkout in checkouts]
    if digests[0] != digests[1]:
        print("note: the two commits sample different scenes")
    rows = {}
    for case in options.only:
        turns = [[checkout.milliseconds(case) for checkout in checkouts] for _ in range(options.turns)]
        old, new = (min(times) for times in zip(*turns, strict=True))
        rows[case] = {"old": round(old, 4), "new": round(new, 4), "ratio": round(new / old, 3)}
        print(f"{case:20s} old {old:.3f} ms, new {new:.3f} ms, new / old {new / old:.3f}", flush=True)
    for checkout in checkouts:
        checkout.close()
    if options.out:
        commit = subprocess.run(
            ["git", "-C", options.old, "rev-parse", "--short=12", "HEAD"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        record.write(options.out, {"turns": options.turns, "old_commit": commit, "rows": rows})


if __name__ == "__main__":
    work() if sys.argv[1:] == ["--worker"] else main()
