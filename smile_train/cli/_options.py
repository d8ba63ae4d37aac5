"""Options and arguments of several commands, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Config = Annotated[str, Argument(metavar="CONFIG", help="Name of a preset or path of a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    Argument(metavar="[KEY=VALUE]...", help="Overrides of config keys, for example batch_size=64."),
]
OptionalRun = Annotated[
    Path | None, Option("--out", help="Folder of the run; an unfinished run there is continued.")
]
Run = Annotated[Path, Option("--out", help="Folder of the run; an unfinished run there is continued.")]
NewFolder = Annotated[Path, Option("--out", help="The new folder to write.")]
Scores = Annotated[Path | None, Option("--out", help="The .json file to write the scores to.")]
Strict = Annotated[bool, Option("--strict", help="Fail if a file of the data cannot be read.")]
DryRun = Annotated[
    bool, Option("--dry-run", help="Check config and data, print the cost and the time, train nothing.")
]
ClipsPerSecond = Annotated[
    float | None,
    Option(
        "--clips-per-second", min=0.001, metavar="RATE",
        help="For --dry-run: the rate of all processes together; default: the last rate in the log of --out.",
    ),
]  # fmt: skip
Processes = Annotated[
    int, Option("--processes", min=1, help="For --dry-run: number of processes, one per GPU.")
]
Encoder = Annotated[
    str,
    Option(
        "--checkpoint",
        help="The name of a shipped encoder (smile-tiny-motion); a run's folder or one of its weights files "
        "or checkpoints; a VideoMAE or SMILE file; a folder of smile-train export or of transformers; "
        "timm:NAME@FILE; clip:NAME@WEIGHTS.",
    ),
]
NumFrames = Annotated[
    int | None,
    Option("--num-frames", min=1, help="Frames of a clip, if the checkpoint does not say it; default 16."),
]
Side = Annotated[
    int | None,
    Option("--side", min=1, help="Frame side in pixels, if the checkpoint does not say it; default 224."),
]
Device = Annotated[str, Option("--device", help="auto, cpu or cuda.")]
Cache = Annotated[
    Path | None, Option("--cache", help="Folder that keeps features, so that a second run is fast.")
]
Decoders = Annotated[int, Option("--workers", min=1, help="Decoding processes, for each process.")]
VideoSource = Annotated[
    Path, Argument(metavar="VIDEOS", help="A folder with one folder per class, or a list of videos.")
]
NumTrain = Annotated[int, Option("--num-train", min=50, help="Training clips of each probe.")]
NumTest = Annotated[int, Option("--num-test", min=50, help="Test clips of each probe.")]
ProbeBank = Annotated[Path, Option("--bank", help="Object bank with train and test splits.")]
TrainBackgrounds = Annotated[
    Path | None, Option("--train-backgrounds", help="Folder of images for the training clips.")
]
TestBackgrounds = Annotated[
    Path | None, Option("--test-backgrounds", help="Folder of other images, for the test clips.")
]
ProbeSeed = Annotated[int, Option("--seed", min=0, help="Seed of clips, random encoders and intervals.")]
Layer = Annotated[
    int, Option("--layer", min=-1, help="Block to read, counted from 0; -1: after the last norm.")
]
