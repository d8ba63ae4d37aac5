"""The command line of smile-synth; the only module of this package that prints."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import smile_synth
from smile_synth.errors import UserError

app = typer.Typer(
    help="Turn segmented objects into procedurally animated, labelled clips.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
bank_app = typer.Typer(help="Build and look at object banks.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")
console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True, highlight=False)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A preset's name or the path of a YAML file.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, for example objects.count=3.")
]
BankOption = Annotated[Path, typer.Option("--bank", help="Folder of an object bank.")]
BackgroundsOption = Annotated[
    Path | None, typer.Option("--backgrounds", help="Folder of pictures, for recipes with image backgrounds.")
]


def run_app(typer_app: typer.Typer) -> None:
    """Run a command line: a user's mistake is one line and exit code 2, Ctrl-C ends cleanly with 130."""
    try:
        typer_app()
    except UserError as error:
        for line in str(error).splitlines():
            errors.print(f"[red]error[/red]: {escape(line)}")
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as leaving:
        # typer turns Ctrl-C into this exit code and says nothing.
        if isinstance(leaving, SystemExit) and leaving.code != 130:
            raise
        errors.print("stopped; the same command continues where it left off")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; that is no mistake, but stdout must not be flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def main() -> None:
    """Run smile-synth."""
    run_app(app)


def print_version(show: bool) -> None:
    """Print the project's version and leave."""
    if show:
        console.print(f"smile-video {smile_synth.__version__}", highlight=False)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and leave.")
]


@app.callback()
def _options(version: VersionOption = False) -> None:
    pass


class Update(Protocol):
    """Tells a progress bar how far the work is."""

    def __call__(self, done: int, total: int, /, *, what: str = "", remark: str = "") -> None:
        """Show ``done`` of ``total``; ``what`` starts a new count under another name."""


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Update]:
    """Show progress with rate and time left; yields a callback."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(what, total=None, rate="", remark="")
        name = what

        def update(done: int, total: int, /, *, what: str = "", remark: str = "") -> None:
            nonlocal name
            if what and what != name:
                name = what
                progress.reset(task, description=what)
            speed = progress.tasks[task].speed
            rate = f"{speed:.1f}/s" if speed else ""
            progress.update(task, completed=done, total=total, rate=rate, remark=remark)

        yield update


@bank_app.command("build")
def bank_build(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Folders class/n.png, or builtin:shapes, builtin:photos."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new bank.")],
    max_side: Annotated[int, typer.Option(min=8, help="Longest side of a cut-out in pixels.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Of drawn shapes and of the split.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bank that stands there.")] = False,
) -> None:
    """Build an object bank from segmented objects."""
    from smile_synth.objects import build_bank

    with progress_bar("reading", "objects") as progress:
        report = build_bank(
            sources, out, max_side=max_side, seed=seed, overwrite=overwrite, progress=progress
        )
    for item in report.rejected[:20]:
        errors.print(f"[yellow]rejected[/yellow] {escape(item.source)}: {escape(item.reason)}")
    if len(report.rejected) > 20:
        errors.print(f"... and {len(report.rejected) - 20} more, all in {out / 'report.json'}")
    console.print(f"{report.num_objects} objects in {out}, {len(report.rejected)} rejected")


@bank_app.command("info")
def bank_info(
    bank_path: Annotated[Path, typer.Argument(metavar="BANK", help="Folder of an object bank.")],
) -> None:
    """Show what a bank holds."""
    from smile_synth.objects import ObjectBank

    bank = ObjectBank.open(bank_path)
    infos = [bank.info(i) for i in range(len(bank))]
    table = Table(
        "class", "objects", "median size (h x w)", "train / val / test", title=f"{escape(str(bank_path))}"
    )
    for name in bank.class_names:
        members = [info for info in infos if info.class_name == name]
        heights, widths = sorted(i.height for i in members), sorted(i.width for i in members)
        splits = Counter(info.split for info in members)
        middle = len(members) // 2
        table.add_row(
            escape(name), str(len(members)), f"{heights[middle]} x {widths[middle]}",
            " / ".join(str(splits[s]) for s in ("train", "val", "test")),
        )  # fmt: skip
    console.print(table)
    licences = Counter(info.licence or "not recorded" for info in infos)
    console.print("licences: " + ", ".join(f"{escape(name)} ({n})" for name, n in licences.most_common()))
    console.print(f"{len(bank)} objects in {len(bank.class_names)} classes, digest {bank.digest[:16]}")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read HxW.

    Raises:
        UserError: not two whole numbers.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise UserError(f"size '{text}': expected HEIGHTxWIDTH in pixels, for example 224x224")
    return int(match[1]), int(match[2])


def open_sources(bank: Path, backgrounds: Path | None) -> tuple[Any, Any]:
    """Open a bank and, if given, a folder of background pictures, telling what could not be read."""
    from smile_synth.backgrounds import ImageFolder
    from smile_synth.objects import ObjectBank

    opened = ObjectBank.open(bank)
    pictures = ImageFolder(backgrounds) if backgrounds else None
    for file, reason in pictures.unreadable if pictures else []:
        errors.print(f"[yellow]skipped[/yellow] {escape(str(file))}: {escape(reason)}")
    return opened, pictures


@app.command("generate")
def generate_command(
    recipe: RecipeArgument,
    bank: BankOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the corpus; an unfinished one is continued.")],
    num_clips: Annotated[int, typer.Option("--num-clips", min=1)],
    seed: Annotated[int, typer.Option("--seed", min=0)],
    overrides: OverridesArgument = None,
    backgrounds: BackgroundsOption = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="HxW", help="Same aspect as the recipe's.")
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1)] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, help="Processes; bytes do not depend on it.")
    ] = 1,
) -> None:
    """Write a labelled corpus: mp4, labels, scenes and a manifest."""
    from smile_synth.corpus import generate
    from smile_synth.recipe import Recipe

    loaded = Recipe.load(recipe, overrides or [])
    size_hw = parse_size(size)
    opened, pictures = open_sources(bank, backgrounds)
    with progress_bar("writing", "clips") as progress:
        summary = generate(
            loaded, opened, pictures, out=out, num_clips=num_clips, seed=seed, size_hw=size_hw, fps=fps,
            workers=workers, progress=progress,
        )  # fmt: skip
    console.print(
        f"{summary.num_clips} clips in {out} ({summary.written} written now), "
        f"{summary.num_bytes / 1e6:.1f} MB of video"
    )


@app.command("preview")
def preview_command(
    recipe: RecipeArgument,
    bank: BankOption,
    out: Annotated[Path, typer.Option("--out", help="A .png file.")],
    overrides: OverridesArgument = None,
    backgrounds: BackgroundsOption = None,
    num_clips: Annotated[int, typer.Option("--num-clips", min=1)] = 6,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Draw masks, boxes and trails.")
    ] = True,
) -> None:
    """Draw a contact sheet of a recipe's first clips: one row per clip."""
    from smile_synth.recipe import Recipe
    from smile_synth.stream import SyntheticClips
    from smile_synth.visualize import contact_sheet, draw_labels, film_strip

    if out.suffix.lower() != ".png":
        raise UserError(f"out '{out}': expected a .png file")
    loaded = Recipe.load(recipe, overrides or [])
    opened, pictures = open_sources(bank, backgrounds)
    clips = SyntheticClips(loaded, opened, pictures, seed=seed, num_clips=num_clips)
    strips = [film_strip(draw_labels(clips[i]) if labels else clips[i].frames) for i in range(num_clips)]
    save_picture(out, contact_sheet(strips, columns=1, gap=0))
    console.print(f"{num_clips} clips in {out}")


def save_picture(path: Path, picture: Any) -> None:
    """Write a picture, making its folder.

    Raises:
        UserError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise UserError(f"out '{path}': cannot be written: {error.strerror or error}") from None


@app.command("show")
def show_command(recipe: RecipeArgument, overrides: OverridesArgument = None) -> None:
    """Print a recipe as it is read, every value written out."""
    from smile_synth.recipe import Recipe

    console.print(Recipe.load(recipe, overrides or []).to_yaml(), end="", highlight=False, markup=False)


if __name__ == "__main__":
    main()
