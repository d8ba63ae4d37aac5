"""Every command of docs/kinetics.md runs, on a few generated videos in the layout of Kinetics."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.distributed.run import get_args_parser

from smile_synth.cli import main as synth_main
from smile_synth.io.videos import write_mp4
from smile_train.cli import main as train_main

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "kinetics.md").read_text()
CLASSES = ("abseiling", "zumba")
MODULE = ["-m", "smile_train.cli"]


def blocks(language: str) -> list[str]:
    """Return the blocks of the page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def joined(block: str) -> list[str]:
    """Return the lines of a block; a line that ends in a backslash continues on the next one."""
    return block.replace("\\\n", " ").splitlines()


def commands() -> list[list[str]]:
    """Return the commands of the page, without those of the job file."""
    return [shlex.split(line) for line in joined("".join(blocks("sh"))) if line]


def small_arguments() -> dict[str, list[str]]:
    """Return the arguments that the page gives for a first try, by command."""
    (block,) = (block for block in blocks("text") if block.startswith("pretrain"))
    return {words[0]: words[1:] for words in map(shlex.split, joined(block))}


def without_torchrun(command: list[str]) -> list[str]:
    if command[0] != "torchrun":
        return command
    return ["smile-train", *command[command.index(MODULE[0]) + len(MODULE) :]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects, and videos of two classes as folders, tables of Kinetics and lists of Something-Something."""
    folder = tmp_path_factory.mktemp("kinetics")
    rng = np.random.default_rng(0)
    ssv2: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for side, count in (("train", 4), ("val", 1)):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for number, label in enumerate(CLASSES):
            for k in range(count):
                name = f"{side}{label[:3]}{k:03d}"
                path = folder / "k400" / side / label / f"{name}_000005_000015.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                frames = rng.integers(0, 255, (20, 6, 8, 3), np.uint8)
                frames[..., number] = 255
                write_mp4(path, frames.repeat(8, axis=1).repeat(8, axis=2), 25)
                rows.append(f"{label},{name},5,15,{side}")
                ident = f"{len(ssv2['train']) + len(ssv2['validation'])}"
                other = folder / "ssv2" / "videos" / f"{ident}.mp4"
                other.parent.mkdir(parents=True, exist_ok=True)
                other.write_bytes(path.read_bytes())
                entry = {"id": ident, "template": f"Moving [{label}] up"}
                ssv2["validation" if side == "val" else side].append(entry)
        (folder / "k400" / f"{side}.csv").write_text("\n".join(rows) + "\n")
    for side, entries in ssv2.items():
        (folder / "ssv2" / f"{side}.json").write_text(json.dumps(entries))
    for k in range(8):
        path = folder / "objects" / f"class{k % 2}" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        rgba = np.full((20, 18, 4), 255, np.uint8)
        rgba[..., :3] = rng.integers(0, 256, 3)
        Image.fromarray(rgba).save(path)
    return folder


def check_job(place: Path, run: Callable[[list[str]], str]) -> None:
    """Check the job file: its shell syntax, torchrun's arguments, and the command of each process."""
    (job,) = blocks("bash")
    (place / "job.sh").write_text(job)
    subprocess.run(["bash", "-n", place / "job.sh"], check=True)
    (line,) = (line for line in joined(job) if line.startswith("srun"))
    line = line.replace("$SLURM_NNODES", "2").replace("$SLURM_JOB_ID", "7").replace("$head", "node1")
    srun, torchrun, *arguments = shlex.split(line)
    assert (srun, torchrun) == ("srun", "torchrun")
    parsed = get_args_parser().parse_args(arguments)
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.rdzv_endpoint) == ("2", "8", "node1:29500")
    assert "all 4 steps are done" in run(["smile-train", *parsed.training_script_args])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_of_the_page_runs(
    place: Path, command_line: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    small, shown = small_arguments(), [block.strip() for block in blocks("text")]

    def run(command: list[str]) -> str:
        main = {"smile-train": train_main, "smile-synth": synth_main}[command[0]]
        extra = small.get(command[1], []) if "--num-videos" not in command else []
        printed: str = command_line(main, *command[1:], *extra).stdout
        return printed

    used = set[str]()
    for command in commands():
        used.add(command[1] if command[0] == "smile-train" else command[0])
        if command == ["sbatch", "job.sh"]:
            check_job(place, run)
        elif command[0] == "torchrun" and "pretrain" in command:
            inner = without_torchrun(command)
            # A free port instead of the default one, which another test may use.
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
            done = subprocess.run(
                [*launch, *MODULE, *inner[1:], *small["pretrain"]], capture_output=True, text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("4 steps in runs/smile") == 1  # only rank 0 prints
        elif "--num-videos" in command:
            monkeypatch.setenv("COLUMNS", "80")
            printed = "\n".join(line.rstrip() for line in run(command).splitlines())
            assert printed.strip() in shown
        else:
            run(without_torchrun(command))
    assert {"pretrain", "finetune", "report", "evaluate", "compare", "export", "sbatch", "torchrun"} <= used
    for result in ("k400/test.json", "k400-scratch/test.json", "ssv2/test.json", "probe/test.json"):
        assert json.loads((place / "runs" / result).read_text())
