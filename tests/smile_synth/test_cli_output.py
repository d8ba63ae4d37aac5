"""Progress in logs, odd names, and terminals that lack characters."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from smile_synth.cli import main, progress_bar, run_app
from smile_synth.io.notices import notice
from smile_synth.objects import build_bank


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_every_few_seconds_and_a_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_bar("generate", "clips", clock=clock) as update:
        for done in range(1001):
            update(done, 1000, remark="0.52 GB")
            clock.now += 0.125
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 25
    assert lines[0] == "generate: 40 of 1000 clips, 8.0/s, 2 min 0 s left, 0.52 GB"
    assert lines[11] == "generate: 480 of 1000 clips, 8.0/s, 1 min 5 s left, 0.52 GB"
    assert lines[-1] == "generate: 1000 of 1000 clips, 8.0/s, took 2 min 5 s, 0.52 GB"


def test_short_work_prints_no_progress_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_bar("verify", "clips", clock=clock) as update:
        for done in range(4):
            update(done, 3)
            clock.now += 1.2
    assert capsys.readouterr().err == ""


def test_work_of_an_earlier_run_does_not_count_into_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_bar("generate", "clips", clock=clock) as update:
        update(900, 1000)
        clock.now += 20
        update(910, 1000)
    assert capsys.readouterr().err == "generate: 910 of 1000 clips, 0.5/s, 3 min 0 s left\n"


def test_a_new_count_starts_a_new_rate_and_slow_work_counts_per_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = Clock()
    with progress_bar("demo", "", clock=clock) as update:
        update(0, 10)
        clock.now += 30
        update(10, 10)
        update(0, 300, what="pretrain")
        clock.now += 60
        update(2, 300, what="pretrain")
    assert capsys.readouterr().err.splitlines() == [
        "demo: 10 of 10, 0.3/s, took 30 s",
        "pretrain: 2 of 300, 2.0/min, 2 h 29 min left",
    ]


def test_the_last_state_is_printed_when_the_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with pytest.raises(RuntimeError), progress_bar("repair", "clips", clock=clock) as update:
        update(0, 9)
        clock.now += 6
        update(3, 9)
        clock.now += 1
        update(4, 9)
        raise RuntimeError
    assert capsys.readouterr().err.splitlines()[-1].startswith("repair: 4 of 9 clips")


@pytest.fixture
def folder_with_markup(tmp_path: Path) -> Iterator[Path]:
    """Yield a folder whose name closes a markup tag that was never opened, and names an emoji."""
    folder = tmp_path / "set[/red] :cat:"
    (folder / "objects" / "do[bold]g").mkdir(parents=True)
    Image.fromarray(np.full((18, 24, 4), 255, np.uint8)).save(folder / "objects" / "do[bold]g" / "0.png")
    (folder / "objects" / "do[bold]g" / "[red]broken.png").write_bytes(b"\x89PNG nothing more")
    yield folder


def test_brackets_and_colons_in_names_are_printed_as_they_are(
    folder_with_markup: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = folder_with_markup / "o.bank"
    for command in (
        ["bank", "build", str(folder_with_markup / "objects"), "--out", str(bank), "--workers", "1"],
        ["bank", "info", str(bank)],
        ["bank", "export", str(bank), "--out", str(folder_with_markup / "cut")],
    ):
        monkeypatch.setattr(sys, "argv", ["smile-synth", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
    printed = capsys.readouterr()
    assert f"1 objects in {bank}, 1 rejected" in printed.out
    assert f"1 objects in {folder_with_markup / 'cut'}" in printed.out
    assert "do[bold]g" in printed.out
    assert "do[bold]g/[red]broken.png" in printed.err


def test_a_terminal_without_block_characters_gets_plain_ones(
    folder_with_markup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = folder_with_markup / "bänk"
    build_bank([folder_with_markup / "objects"], bank)
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["smile-synth", "bank", "info", str(bank)])
    with pytest.raises(SystemExit) as ended:
        main()
    sys.stdout.flush()
    assert ended.value.code == 0
    assert b"########" in printed.getvalue() and b"b\\xe4nk" in printed.getvalue()


@pytest.mark.filterwarnings("default::smile_synth.io.notices.Notice")
def test_a_notice_is_printed_as_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command()(lambda: notice("'data': the file system has no file locks"))
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        run_app(app)
    assert ended.value.code == 0
    assert capsys.readouterr().err.splitlines() == ["note: 'data': the file system has no file locks"]
