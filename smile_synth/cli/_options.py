"""Options and arguments of several commands, each declared once, and how their values are read."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

import smile_synth
from smile_synth.cli._output import console, errors, print_labelled
from smile_synth.cli._progress import progress_bar
from smile_synth.core.errors import UserError, counted

if TYPE_CHECKING:
    from smile_synth.sources import Sources


def _print_version(show: bool) -> None:
    if show:
        console.print(f"smile-video {smile_synth.__version__}", highlight=False)
        raise typer.Exit


def _available_cores() -> int:
    from smile_synth.parallel.workers import available_cores

    return available_cores()


Version = Annotated[
    bool, Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]
Recipe = Annotated[str, Argument(metavar="RECIPE", help="Name of a preset or path of a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    Argument(metavar="[KEY=VALUE]...", help="Overrides of recipe keys, for example objects.count=3."),
]
Corpus = Annotated[Path, Argument(metavar="CORPUS", help="Folder of a corpus.")]
CorpusOrRecipe = Annotated[
    str,
    Argument(metavar="CORPUS|RECIPE", help="Folder of a corpus, name of a preset or path of a YAML file."),
]
BankFolder = Annotated[Path, Argument(metavar="BANK", help="Folder of an object bank.")]
Bank = Annotated[Path, Option("--bank", help="Folder of an object bank.")]
OptionalBank = Annotated[
    Path | None, Option("--bank", help="Folder of the object bank of the recipe or corpus.")
]
Backgrounds = Annotated[
    Path | None,
    Option("--backgrounds", help="Folder of background images and videos, or a text file of their paths."),
]
Strict = Annotated[bool, Option("--strict", help="Fail if a background file cannot be read completely.")]
Workers = Annotated[
    int,
    Option(
        "--workers", min=1, default_factory=_available_cores, show_default="all cores",
        help="Number of worker processes; the output does not depend on it.",
    ),
]  # fmt: skip
Seed = Annotated[int, Option("--seed", min=0, max=2**63 - 1, help="Seed of all random choices.")]
Fps = Annotated[
    float | None,
    Option("--fps", min=0.1, help="Frames per second of videos; default: fps of the recipe or corpus."),
]
Size = Annotated[
    str | None,
    Option(
        "--size", metavar="HxW",
        help="Frame height and width in pixels, with the recipe's aspect; default: size of the recipe.",
    ),
]  # fmt: skip
PageFile = Annotated[Path, Option("--out", help="The .html file to write.")]
PngFile = Annotated[Path, Option("--out", help="The .png file to write.")]
NewFolder = Annotated[Path, Option("--out", help="The new folder to write.")]
NewBank = Annotated[Path, Option("--out", help="Folder of the new bank.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Replace an existing bank.")]
ValShare = Annotated[
    float, Option("--val", min=0, max=1, help="Share of the images in the validation split.")
]
TestShare = Annotated[float, Option("--test", min=0, max=1, help="Share of the images in the test split.")]
Duplicates = Annotated[
    int,
    Option(
        "--duplicates", min=-1, max=7,
        help="Largest distance, in bits, between the perceptual hashes of near-duplicates; -1 keeps all.",
    ),
]  # fmt: skip
Classes = Annotated[str, Option("--classes", metavar="A,B", help="Use only these classes.")]
Split = Annotated[str | None, Option("--split", help="Use only this split: train, val or test.")]


def split_names(text: str) -> list[str]:
    """Read ``A,B``."""
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read ``HxW``.

    Raises:
        UserError: not two positive whole numbers.
    """
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise UserError(f"size '{text}': expected HEIGHTxWIDTH in pixels, for example 224x224")
    return int(match[1]), int(match[2])


def open_sources(bank: Path, backgrounds: Path | None, strict: bool = False) -> Sources:
    """Open a bank and backgrounds, and print which background files cannot be used.

    Raises:
        UserError: with ``strict``, if any file cannot be read completely.
    """
    from smile_synth.io.files import printable
    from smile_synth.sources import Sources

    with progress_bar("index backgrounds", "files") as progress:
        sources = Sources.open(bank, backgrounds, progress=progress)
    folder = sources.backgrounds
    if folder is not None and folder.passed_over:
        print_labelled("passed over", f"{backgrounds}: {folder.passed_over}, neither images nor videos")
    for text, count in (Counter(text for _, text in folder.scaled) if folder else {}).items():
        print_labelled("note", f"backgrounds: {counted(count, 'image')} of {text}, scaled to 8 bits")
    if folder is None or not (folder.unreadable or folder.cut_short):
        return sources
    faults = [("skipped", *item) for item in folder.unreadable]
    faults += [("cut short", *item) for item in folder.cut_short]
    for label, file, reason in faults[:20]:
        print_labelled(label, f"{printable(str(file))}: {reason}")
    more = f" ({len(faults) - 20} of them not listed)" if len(faults) > 20 else ""
    counts = (
        f"{len(folder)} images and videos in use, {len(folder.unreadable)} files skipped, "
        f"{len(folder.cut_short)} videos cut short{more}"
    )
    if strict:
        raise UserError(f"backgrounds '{backgrounds}': {counts}; --strict allows none")
    errors.print(f"backgrounds: {counts}")
    return sources
