"""Object banks of 1,000, 10,000 and 60,000 objects: build, open, memory of a worker, random reads.

    uv run python benchmarks/bank.py --out benchmarks/results/bank.json

The objects are drawn shapes of 256 pixels saved as PNG with alpha; a larger folder holds the same 1,000
files under more names, because drawing them is not what is measured. Beside the bank stands the plain
way: a list of files, each opened by PIL when it is drawn. About 16 GB of disk and 10 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import record
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from smile_synth import ObjectBank, build_bank
from smile_synth.objects import CutOutOptions, export_bank

DISTINCT, SIDE = 1000, 256
# What a worker of a DataLoader does: open the bank by its pickled form, read, tell its own memory.
WORKER = """
import json, sys, time
from pathlib import Path
def own_mb():  # what no other process can share: the mapped file is everyone's
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous")) / 1024
import smile_synth.scene, smile_synth.compositing  # what it needs in any case
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
    "open_seconds": opened, "imports_mb": imports, "own_mb": own_mb(), "first_reads_per_s": first,
    "lookups_per_s": lookups, "copies_per_s": copies, "copied_gb_per_s": copied / 1e9,
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


def measure(folder: Path, files: list[Path], count: int, workers: int) -> dict[str, Any]:
    """Build a bank of ``count`` objects and use it."""
    source, out = folder / f"source-{count}", folder / f"{count}.bank"
    for k in range(count):
        place = source / files[k % len(files)].parent.name / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[k % len(files)], place)
    start = time.perf_counter()
    report = build_bank([source], out, cut=CutOutOptions(duplicate_distance=-1), workers=workers)
    seconds = time.perf_counter() - start
    runs = [
        json.loads(
            subprocess.run(
                [sys.executable, "-c", WORKER, out], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    ]
    result = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    names = sorted(source.rglob("*.png"))
    chosen = np.random.default_rng(0).integers(0, len(names), 300)
    start = time.perf_counter()
    for k in chosen:
        with Image.open(names[k]) as image:
            np.asarray(image.convert("RGBA"))
    plain = len(chosen) / (time.perf_counter() - start)
    size = sum(file.stat().st_size for file in out.iterdir())
    shutil.rmtree(out)
    shutil.rmtree(source)
    return {
        "objects": report.num_objects,
        "build_seconds": seconds,
        "built_per_s": report.num_objects / seconds,
        "gigabytes": size / 1e9,
        "plain_opens_per_s": plain,
        **result,
    }


def main() -> None:
    """Measure every size, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 60_000])
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    arguments = parser.parse_args()
    workers = os.cpu_count() or 1
    console = Console()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        files = cut_outs(Path(name))
        rows = [measure(Path(name), files, size, workers) for size in track(arguments.sizes, console=console)]
    table = Table("", *(f"{row['objects']:,}" for row in rows))
    for key in rows[0]:
        table.add_row(key, *(f"{row[key]:,.4g}" for row in rows))
    console.print(table)
    if arguments.out:
        record.write(arguments.out, {"max_side": SIDE, "workers": workers, "rows": rows})


if __name__ == "__main__":
    main()
