"""The command line of smile-train; the only folder of this package that prints."""

from __future__ import annotations

import typer

from smile_synth.cli import Version, run_app
from smile_train.cli._evaluate import (
    compare_command,
    embed_command,
    evaluate_command,
    probe_command,
    probe_dense_command,
)
from smile_train.cli._output import describe_step, print_teacher_scores, quiet_unless_rank_0
from smile_train.cli._studies import (
    ablate_command,
    demo_command,
    export_command,
    quickstart_command,
    report_command,
)
from smile_train.cli._train import finetune_command, pretrain_command, teacher_command, train_probe_command

app = typer.Typer(
    help="Pretrain video encoders on procedurally animated clips, fine-tune them, and measure them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("pretrain")(pretrain_command)
app.command("finetune")(finetune_command)
app.command("train-probe")(train_probe_command)
app.command("teacher")(teacher_command)
app.command("embed")(embed_command)
app.command("evaluate")(evaluate_command)
app.command("compare")(compare_command)
app.command("probe")(probe_command)
app.command("probe-dense")(probe_dense_command)
app.command("ablate")(ablate_command)
app.command("report")(report_command)
app.command("export")(export_command)
app.command("demo")(demo_command)
app.command("quickstart")(quickstart_command)


@app.callback()
def _options(version: Version = False) -> None:
    quiet_unless_rank_0()


def main() -> None:
    """Run smile-train."""
    run_app(app)


__all__ = ["app", "describe_step", "main", "print_teacher_scores"]
