"""Object banks of 1,000, 10,000 and 60,000 objects: build, open, memory of a worker, random reads.

    uv run python benchmarks/bank.py build --folder DIR
    uv run python benchmarks/bank.py use --folder DIR --out benchmarks/results/bank.json

The objects are drawn shapes of 256 pixels saved as PNG with alpha; a larger folder holds the same 1,000
files under more names, because drawing them is not what is measured. Beside the bank stands the plain
way: a list of files, each opened by PIL when it is drawn. Building takes 22 GB of disk and some minutes and
is told in time of the processors, which other work on the machine does not change much; using takes a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from PIL import Image
from rich.console import Console
from rich.table import Table

from smile_synth import ObjectBank, build_bank
from smile_synth.objects import CutOutOptions, export_bank
from smile_synth.parallel import workers

DISTINCT, SIDE, REPEATS = 1000, 256, 5
# What a worker of a DataLoader does: open the bank by its pickled form, read, tell its own memory.
WORKER = """
import json, sys, time
from pathlib import Path
def own_mb():  # what no other process can share: the mapped file is everyone's
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) / 1024
start = time.perf_counter()
import smile_synth.scene, smile_synth.compositing  # what it needs in any case
imported = time.perf_counter() - start
from smile_synth.objects import ObjectBank
import numpy as np
def per_second(ids, use):
    start = time.perf_counter()
    used = sum(use(bank.texture(int(i)).texels) for i in ids)
    seconds = time.perf_counter() - start
    return len(ids) / seconds, used / seconds
imports = own_mb()
start = time.perf_counter()
bank = ObjectBank.open(sys.argv[1])
opened = time.perf_counter() - start
ids = np.random.default_rng(0).integers(0, len(bank), 20000)
first, _ = per_second(ids[:2000], lambda texels: texels.copy().nbytes)
lookups, _ = per_second(ids, lambda texels: 0)
copies, copied = per_second(ids[:2000], lambda texels: texels.copy().nbytes)
print(json.dumps({
    "import_seconds": imported, "open_seconds": opened, "imports_mb": imports, "own_mb": own_mb(),
    "first_reads_per_s": first, "lookups_per_s": lookups, "copies_per_s": copies,
    "copied_gb_per_s": copied / 1e9,
}))
"""


def cut_outs(folder: Path) -> list[Path]:
    """Draw the distinct objects and save them as PNG."""
    build_bank(
        [f"drawn:{DISTINCT}"],
        folder / "drawn.bank",
        cut=CutOutOptions(min_side=1),
        workers=os.cpu_count() or 1,
    )
    export_bank(ObjectBank.open(folder / "drawn.bank"), folder / "drawn")
    files = sorted((folder / "drawn").rglob("*.png"))
    for file in files:  # drawn at 192 pixels
        with Image.open(file) as image:
            scale = SIDE / max(image.size)
            image.resize(
                (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
            ).save(file)
    return files


def build(folder: Path, size: int, workers: int) -> None:
    """Build a bank of ``size`` objects from files, and note how long it took."""
    files = sorted((folder / "drawn").rglob("*.png")) or cut_outs(folder)
    source = folder / f"source-{size}"
    for k in range(size):
        place = source / files[k % len(files)].parent.name / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            os.link(files[k % len(files)], place)
    busy, start = processor_seconds(), time.perf_counter()
    report = build_bank(
        [source],
        folder / f"{size}.bank",
        cut=CutOutOptions(duplicate_distance=-1),
        workers=workers,
        overwrite=True,
    )
    seconds, busy = time.perf_counter() - start, processor_seconds() - busy
    row = {
        "objects": report.num_objects,
        "build_seconds": round(seconds, 2),
        "build_processor_seconds": round(busy, 2),
        "built_per_processor_second": round(report.num_objects / busy, 1),
    }
    (folder / f"build-{size}.json").write_text(json.dumps(row))


def processor_seconds() -> float:
    """Return the time that this process and its ended children have computed."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def use(folder: Path, size: int) -> dict[str, Any]:
    """Open a bank as a worker does and read from it; medians of processes started one after another."""
    out = folder / f"{size}.bank"
    command = [sys.executable, "-c", WORKER, out]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(REPEATS)
    ]
    result = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    result["slowest_open_seconds"] = max(run["open_seconds"] for run in runs)
    names = sorted((folder / f"source-{size}").rglob("*.png"))
    chosen = np.random.default_rng(0).integers(0, len(names), 300)
    start = time.perf_counter()
    for k in chosen:
        with Image.open(names[k]) as image:
            np.asarray(image.convert("RGBA"))
    plain = len(chosen) / (time.perf_counter() - start)
    gigabytes = sum(file.stat().st_size for file in out.iterdir()) / 1e9
    built = json.loads((folder / f"build-{size}.json").read_text())
    return {**built, "gigabytes": gigabytes, "plain_opens_per_s": plain, **result}


def main() -> None:
    """Build banks of every size, or measure how they are used, print a table and write the result."""
    workers.START_METHOD = "spawn"  # nobody tells the time of processes that another one has started
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["build", "use"])
    parser.add_argument("--folder", type=Path, required=True, help="where the banks are kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 60_000])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.what == "build":
        for size in arguments.sizes:
            build(arguments.folder, size, cores)
        return
    rows = [use(arguments.folder, size) for size in arguments.sizes]
    table = Table("", *(f"{row['objects']:,}" for row in rows))
    for key in rows[0]:
        table.add_row(key, *(f"{row[key]:,.4g}" for row in rows))
    Console().print(table)
    if arguments.out:
        record.write(arguments.out, {"max_side": SIDE, "workers": cores, "repeats": REPEATS, "rows": rows})


if __name__ == "__main__":
    main()
