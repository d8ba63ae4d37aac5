"""Start and stop streams a thousand times, and count what is left: processes, shared memory, descriptors.

    uv run python benchmarks/stream_cycles.py --out benchmarks/results/stream_cycles.json

Streams end in turn by closing them, by an exception, by Ctrl-C and by `kill -9` of a worker. Most end while
their workers still start, when most can go wrong; every `--full-every`th takes batches from them first.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import record

from smile_synth import Recipe, Sources, UserError, build_bank, stream
from smile_synth.streaming import ClipStream, StreamBatch

DEADLINE = 120.0  # seconds, for the first batch of a worker


class Stop(Exception):
    """An error of the caller."""


def _fail() -> None:
    raise Stop


def _kill_a_worker() -> None:
    victim = multiprocessing.active_children()[0]
    os.kill(victim.pid or 0, signal.SIGKILL)


# How a stream ends: what happens while one of its batches is used, and the expected exception.
WAYS: dict[str, tuple[Callable[[], None], type[BaseException]]] = {
    "closed": (_fail, Stop),
    "an exception": (_fail, Stop),
    "Ctrl-C": (lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt),
    "a worker killed": (_kill_a_worker, UserError),
}


def shared_memory() -> int:
    """Return the number of this process's mappings of shared memory."""
    return Path("/proc/self/maps").read_text().count("memfd:smile")


def from_workers(batches: Iterator[StreamBatch]) -> Iterator[StreamBatch]:
    """Skip the batches that were made before the workers had started; only workers use shared memory.

    Raises:
        TimeoutError: the workers have not started within `DEADLINE`.
    """
    began, before = time.monotonic(), shared_memory()
    while shared_memory() == before:
        if time.monotonic() - began > DEADLINE:
            raise TimeoutError(f"no batch of a worker within {DEADLINE} s")
        time.sleep(0.02)
        next(batches)
    return batches


def cycle(way: str, clip_stream: ClipStream, full: bool) -> None:
    """Use a stream and end it."""
    happens, expected = WAYS[way]
    batches = iter(clip_stream)
    last: StreamBatch = next(batches)
    if full:
        last = next(from_workers(batches))
    try:
        if way == "closed":
            return
        happens()
        for last in batches:  # noqa: B007 - the memory of this batch must outlive the stream
            pass
    except expected:
        return
    finally:
        clip_stream.close()
        assert int(last.frames.sum()) >= 0
    raise AssertionError(f"{way}: no exception was raised")


def left() -> dict[str, int]:
    """Count what belongs to this process, or has a name of ours."""
    gc.collect()
    names = [name for name in os.listdir("/dev/shm") if name.startswith(("smile", "psm_"))]
    return {
        "processes left": len(children()),
        "shared memory left": shared_memory() + len(names),
        "descriptors left": len(os.listdir("/proc/self/fd")),
        "memory, MB": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20,
    }


def children() -> list[int]:
    """Return the processes below this one, but for those of Python that watch for leaks or fork others."""
    processes: dict[int, tuple[int, str]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
            processes[int(path.parent.name)] = int(fields[1]), (path.parent / "cmdline").read_text()
        except OSError:
            continue
    ours = {pid: line for pid, (parent, line) in processes.items() if parent == os.getpid()}
    helpers = {pid for pid, line in ours.items() if "resource_tracker" in line or "forkserver" in line}
    return [*ours.keys() - helpers, *(pid for pid, (parent, _) in processes.items() if parent in helpers)]


def run(
    recipe: Recipe,
    sources: Sources,
    *,
    cycles: int,
    full_every: int,
    workers: int = 1,
) -> dict[str, Any]:
    """Start and stop streams; returns what is left more than after the first."""
    # A shell's background jobs are started deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    ways: Counter[str] = Counter()
    seconds = []
    before: dict[str, int] = {}
    for number in range(cycles + 1):  # the first leaves what Python starts once
        way = list(WAYS)[number % len(WAYS)]
        began = time.perf_counter()
        clip_stream = stream(recipe, sources, batch_size=2, seed=number, workers=workers)
        cycle(way, clip_stream, number % full_every == full_every - 1)
        if not number:
            before = left()
            continue
        seconds.append(time.perf_counter() - began)
        ways[way] += 1
    after = left()
    return {
        "cycles": cycles,
        "with batches from workers": sum(n % full_every == full_every - 1 for n in range(1, cycles + 1)),
        "workers": workers,
        "ways": dict(ways),
        **{name: after[name] - before[name] for name in after},
        "seconds of a cycle, median": round(statistics.median(seconds), 3),
        "seconds of a cycle, highest": round(max(seconds), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--full-every", type=int, default=25)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_bank(["builtin:shapes"], Path(folder) / "bank")
        recipe = Recipe.load("smile-gaussian", ["num_frames=4", "size=[64,64]"])
        result = run(
            recipe, Sources.open(Path(folder) / "bank"), cycles=arguments.cycles,
            full_every=arguments.full_every, workers=arguments.workers,
        )  # fmt: skip
    record.write(arguments.out, result)


if __name__ == "__main__":
    main()
