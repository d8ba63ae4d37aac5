"""Run a shipped study and write its summary, with where it was run.

    uv run python benchmarks/study.py motion-pattern --work runs/study \\
        --out benchmarks/results/study_motion_pattern.json

A killed run continues. Writes the plot beside the summary, as .svg.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import record
from rich.console import Console

from smile_synth.io.strict_yaml import dump
from smile_synth.parallel import workers
from smile_train.ablate import PLOT, SUMMARY, Cell, Study, StudyRun
from smile_train.ablate._run import SCORES


def main() -> None:
    workers.START_METHOD = "spawn"  # nobody tells the time of processes that another one has started
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", action="store_true", help="train nothing; write the seeds that are done")
    arguments = parser.parse_intermixed_args()  # overrides may stand after the options
    console = Console()
    run = StudyRun(Study.load(arguments.study, arguments.overrides), arguments.work)
    environment = record.environment()
    if not arguments.report:
        estimate = run.estimate()
        minutes = estimate.cells * estimate.seconds_each / 60
        console.print(f"{estimate.cells} runs, about {minutes:.0f} minutes")
    began = time.perf_counter()
    last = ""

    def stage(what: str, done: int, total: int, remark: str) -> None:
        nonlocal last
        if what != last:
            last = what
            console.print(f"{(time.perf_counter() - began) / 60:6.1f} min  {what}")

    if not arguments.report:
        run.run(progress=stage)
    run.report()
    summary = json.loads((arguments.work / SUMMARY).read_text())
    result = {
        "study": arguments.study,
        "overrides": arguments.overrides,
        "about": run.study.about,
        "settings": dump(run.study),
        # Of training and probes, over all runs. Several processes may share a study.
        "minutes": round(sum(_seconds(cell) for cell in run.cells if cell.seed in summary["seeds"]) / 60, 1),
        **summary,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    result["environment"] = environment
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    arguments.out.with_suffix(".svg").write_text((arguments.work / PLOT).read_text())


def _seconds(cell: Cell) -> float:
    return float(json.loads((cell.folder / SCORES).read_text())["seconds"])


if __name__ == "__main__":
    main()
