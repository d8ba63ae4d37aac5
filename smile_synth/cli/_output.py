"""What the command lines print, and how they end."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from smile_synth.core.cache import cache_problem
from smile_synth.core.errors import UserError, WorkerKilledError
from smile_synth.io.notices import Notice

# No markup and no emoji codes: names of files and classes may contain [brackets] and :colons:.
console = Console(soft_wrap=True, markup=False, emoji=False)
errors = Console(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)

# Typer exports only this subclass of the error for unknown options, missing arguments and bad values.
_UsageError: Any = typer.BadParameter.__bases__[0]


def run_app(typer_app: typer.Typer) -> None:
    """Run a command line: exit code 2 and one line per mistake of the user, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal may lack a character
    if problem := cache_problem():
        print_labelled("note", problem)
    try:
        with _printed_notices():
            exit_code = typer_app(standalone_mode=False) or 0
    except UserError as error:
        for line in str(error).splitlines():
            print_labelled("error", line, "red")
        sys.exit(2)
    except _UsageError as error:
        # Without any argument typer has printed the help; the message is then empty.
        if message := error.format_message().strip().rstrip("."):
            help_command = f"; see {error.ctx.command_path} --help" if error.ctx else ""
            print_labelled("error", message + help_command, "red")
        sys.exit(2)
    if exit_code == 130:  # typer turns Ctrl-C into this code without a message
        errors.print("stopped; run the same command again to resume")
    sys.exit(exit_code)


@contextmanager
def _printed_notices() -> Iterator[None]:
    """Print the notices of a block as single lines, and other warnings as before."""
    show = warnings.showwarning

    def show_notice(message: Any, category: Any, *place: Any, **options: Any) -> None:
        if issubclass(category, Notice):
            print_labelled("note", str(message))
        else:
            show(message, category, *place, **options)

    with warnings.catch_warnings():
        warnings.showwarning = show_notice
        yield


@contextmanager
def resumable() -> Iterator[None]:
    """Extend the error of a killed worker, for commands that resume when they are run again.

    Raises:
        UserError: a worker was killed.
    """
    try:
        yield
    except WorkerKilledError as error:
        raise UserError(f"{error}; finished work is kept: run the same command again to resume") from error


def print_labelled(label: str, text: str, color: str = "yellow") -> None:
    """Print ``label: text`` to stderr, the label in a colour."""
    errors.print(Text.assemble((label, color), f": {text}"))


def print_findings(findings: Sequence[Any]) -> None:
    """Print the health section of a report."""
    for finding in findings:
        color = {"error": "red", "warning": "yellow", "note": "cyan"}[finding.severity]
        console.print(Text.assemble((finding.severity, color), f" {finding.kind}: {finding.text}"))


def print_missed_targets(scenes: Sequence[Any]) -> None:
    """Print how many of the scenes with an occlusion target missed it."""
    reached = [scene.factors["occlusion.reached"] for scene in scenes if "occlusion.reached" in scene.factors]
    missed = reached.count(0.0)
    if missed:
        print_labelled("occlusion", f"{missed} of {len(reached)} clips missed their target")


def bar(value: int, largest: int) -> str:
    """Return a bar of a table's row."""
    block = "#" if console.options.ascii_only else "█"
    return block * max(1, round(24 * value / largest)) if value else ""


def check_suffix(path: Path, *suffixes: str, option: str = "out") -> None:
    """Refuse a file of another kind before any work is done.

    Raises:
        UserError: the path has another suffix.
    """
    if path.suffix.lower() not in suffixes:
        raise UserError(f"{option} '{path}': expected a {' or '.join(suffixes)} file")


def save_png(path: Path, image: Any) -> None:
    """Write an image ``[H, W, 3]`` uint8 as PNG and make its folder.

    Raises:
        UserError: the file cannot be written.
    """
    from PIL import Image

    from smile_synth.io.atomic import write_bytes

    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG")
    write_bytes(path, data.getvalue())
