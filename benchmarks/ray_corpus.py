"""Write a corpus on a Ray cluster of two nodes of which one is killed midway; it must be that of one process.

    uv run --extra ray python benchmarks/ray_corpus.py --out benchmarks/results/ray_corpus.json

Both nodes run on this machine. One process of the other node is killed before, alone.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import ray
import record
from ray.cluster_utils import Cluster
from rich.console import Console

from smile_synth import ObjectBank, Recipe, build_bank, generate
from smile_synth.corpus import verify
from smile_synth.sources import Sources

OVERRIDES = ["size=[96,96]", "num_frames=8", "objects.side=[24,32]", "motion.0.extent=[20,70]"]


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def workers_of(node: Any) -> list[int]:
    """Return the processes of a node that work, the children of its raylet."""
    (raylet,) = (info.process.pid for info in node.all_processes["raylet"])
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and b"ray::" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has gone
            continue
    return found


def trial(layout: str, clips: int, work: Path, bank: ObjectBank) -> dict[str, Any]:
    recipe = Recipe.load("smile-gaussian-noise", OVERRIDES)
    settings: dict[str, Any] = {
        "num_clips": clips, "seed": 0, "layout": layout, "clips_per_shard": 100, "labels": ["tracks"],
    }  # fmt: skip
    began = time.perf_counter()
    generate(recipe, Sources(bank), out=work / f"{layout} alone", **settings)
    alone = time.perf_counter() - began
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    told: dict[str, Any] = {}
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        reached: dict[int, threading.Event] = {clips // 4: threading.Event(), clips // 2: threading.Event()}

        def progress(done: int, total: int, size: int) -> None:
            for count, event in reached.items():
                if done >= count:
                    event.set()

        def disturb() -> None:
            first, second = reached
            reached[first].wait()
            victims = workers_of(node)
            for process in victims:
                os.kill(process, signal.SIGKILL)
            told["processes_killed"] = len(victims)
            reached[second].wait()
            told["node_killed_after_clips"] = second
            cluster.remove_node(node, allow_graceful=False)
            told["nodes_left"] = sum(n["Alive"] for n in ray.nodes())

        killer = threading.Thread(target=disturb)
        killer.start()
        began = time.perf_counter()
        out = work / f"{layout} ray"
        generate(recipe, Sources(bank), out=out, ray="auto", progress=progress, **settings)
        seconds = time.perf_counter() - began
        killer.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    return {
        "layout": layout, "clips": clips, **told, "seconds": round(seconds, 1),
        "seconds_of_one_process": round(alone, 1), "faults": len(verify(out, deep=True)),
        "byte_identical": digests(out) == digests(work / f"{layout} alone"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        build_bank(["builtin:shapes"], work / "bank")
        bank = ObjectBank.open(work / "bank")
        trials = [trial(layout, arguments.clips, work, bank) for layout in ("folder", "shards")]
    Console().print(trials)
    record.write(arguments.out, {"overrides": OVERRIDES, "ray": ray.__version__, "trials": trials})


if __name__ == "__main__":
    main()
