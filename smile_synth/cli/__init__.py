"""The command line of smile-synth; the only folder of this package that prints."""

from __future__ import annotations

import typer

from smile_synth.cli._bank import bank_app
from smile_synth.cli._corpus import corpus_app, export_command, generate_command
from smile_synth.cli._options import Version
from smile_synth.cli._output import (
    check_suffix,
    console,
    errors,
    print_findings,
    print_labelled,
    run_app,
)
from smile_synth.cli._progress import Update, progress_bar
from smile_synth.cli._recipes import preview_command, recipes_app
from smile_synth.cli._report import compare_command, report_command, view_command

app = typer.Typer(
    help="Turn segmented objects into procedurally animated, labelled clips.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(bank_app, name="bank")
app.add_typer(recipes_app, name="recipes")
app.add_typer(corpus_app, name="corpus")
app.command("generate")(generate_command)
app.command("export")(export_command)
app.command("preview")(preview_command)
app.command("report")(report_command)
app.command("compare")(compare_command)
app.command("view")(view_command)


@app.callback()
def _options(version: Version = False) -> None:
    pass


def main() -> None:
    """Run smile-synth."""
    run_app(app)


__all__ = [
    "Update",
    "Version",
    "app",
    "check_suffix",
    "console",
    "errors",
    "main",
    "print_findings",
    "print_labelled",
    "progress_bar",
    "run_app",
]
