"""smile-synth as a user types it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smile_synth.cli import main
from smile_synth.cli._output import resumable
from smile_synth.core.errors import UserError, WorkerKilledError

SMALL = ["size=[32,32]", "num_frames=2", "objects.side=[12]", "motion.0.extent=[5,20]"]


Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(command_line: Run) -> Run:
    return partial(command_line, main)


@pytest.fixture(scope="module")
def bank(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli bänk")
    for k, name in enumerate(("cat", "dog")):
        rgba = np.full((18, 24, 4), 255, np.uint8)
        rgba[..., k] = 30
        (folder / "objects" / name).mkdir(parents=True)
        Image.fromarray(rgba).save(folder / "objects" / name / "0.png")
    (folder / "objects" / "dog" / "broken.png").write_bytes(b"\x89PNG nothing more")
    done = run("bank", "build", folder / "objects", "--out", folder / "out.bank")
    assert "2 objects in" in done.stdout and "1 rejected" in done.stdout
    assert "broken.png" in done.stderr
    return folder / "out.bank"


def test_bank_info_shows_classes(run: Run, bank: Path) -> None:
    out = run("bank", "info", bank).stdout
    assert "cat" in out and "dog" in out and "2 objects in 2 classes" in out


def test_bank_show_merge_verify_and_export(run: Run, bank: Path, tmp_path: Path) -> None:
    run("bank", "show", bank, "--out", tmp_path / "s.png", "--side", "40", "--background", "10,200,30")
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size == (80, 56) and sheet.getpixel((1, 1)) == (10, 200, 30)
    refused = run(
        "bank", "show", bank, "--out", tmp_path / "s.png", "--background", "256,0,0", expect=2
    ).stderr
    assert "background '256,0,0': expected white, black, R,G,B (each 0..255) or an image file" in refused
    refused = run("bank", "show", bank, "--out", tmp_path / "s.png", "--classes", "cta", expect=2).stderr
    assert "has no class 'cta'; did you mean 'cat'?" in refused
    drawn = run("bank", "build", "drawn:5", "--out", tmp_path / "drawn.bank", "--licence", "mine").stdout
    assert "5 objects in" in drawn and "read as" not in drawn
    both = run("bank", "merge", bank, tmp_path / "drawn.bank", "--out", tmp_path / "both.bank").stdout
    assert "7 objects in" in both and "0 near-duplicates skipped" in both
    assert "7 objects, all unchanged" in run("bank", "verify", tmp_path / "both.bank").stdout
    texels = tmp_path / "both.bank" / "texels.bin"
    data = bytearray(texels.read_bytes())
    data[-9] ^= 1
    texels.write_bytes(data)
    assert "is damaged: texels of object 6" in run("bank", "verify", tmp_path / "both.bank", expect=2).stderr
    out = run("bank", "export", bank, "--out", tmp_path / "cut outs", "--classes", "cat").stdout
    assert "1 objects in" in out and (tmp_path / "cut outs" / "cat" / "000000.png").is_file()


def test_bank_build_prints_the_format_and_the_rejected_objects(run: Run, tmp_path: Path) -> None:
    for k, name in enumerate(("a", "b")):
        (tmp_path / "pairs" / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pairs" / "masks").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (200, 60 * k, 10)).save(tmp_path / "pairs" / "images" / f"{name}.png")
        mask = np.zeros((30, 40), np.uint8)
        mask[5:25, 8 * k : 8 * k + 24] = 255
        Image.fromarray(mask).save(tmp_path / "pairs" / "masks" / f"{name}.png")
    command = ["bank", "build", tmp_path / "pairs", "--out", tmp_path / "out.bank"]
    done = run(*command)
    assert f"{tmp_path / 'pairs'}: read as pairs" in done.stdout
    assert "1 objects in" in done.stdout and "1 rejected: truncated by the image's border 1" in done.stdout
    assert "rejected: images/a.png#255: truncated" in done.stderr
    assert "exists; choose another folder" in run(*command, expect=2).stderr
    assert "2 objects in" in run(*command, "--overwrite", "--max-truncation", "1").stdout
    shown = run("bank", "info", tmp_path / "out.bank").stdout
    assert "up to 32" in shown and "not recorded" in shown and "(pairs): 2 objects" in shown


def test_a_second_generate_writes_nothing(run: Run, bank: Path, tmp_path: Path) -> None:
    command = [
        "generate", "smile-gaussian", *SMALL, "--bank", bank, "--out", tmp_path / "c", "--num-clips", "2",
        "--seed", "0", "--size", "64x64", "--fps", "5", "--workers", "1",
    ]  # fmt: skip
    assert "(2 written now)" in run(*command).stdout
    assert "(0 written now)" in run(*command).stdout
    assert len(list((tmp_path / "c" / "clips").glob("*.mp4"))) == 2


def test_preview_draws_one_row_per_clip(run: Run, bank: Path, tmp_path: Path) -> None:
    run("preview", "smile-linear-noise", "size=[32,32]", "objects.side=[12]", "--bank", bank, "--num-clips", "3",
        "--out", tmp_path / "p.png")  # fmt: skip
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (8 * 228 + 4, 3 * 232)  # enlarged sevenfold
        assert np.asarray(image).std() > 10


def test_help_and_version(run: Run) -> None:
    assert "preview" in run("--help").stdout
    assert run("--version").stdout.startswith("smile-video 0.")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["preview", "smile-gausian", "--bank", "BANK", "--out", "p.png"], "did you mean 'smile-gaussian'?"),
        (["preview", "no/such.yaml", "--bank", "BANK", "--out", "p.png"], "no such file"),
        (["preview", "smile-gaussian", "--bank", "missing", "--out", "p.png"], "missing"),
        (["preview", "smile-gaussian", "--bank", "BANK", "--out", "p.jpg"], "expected a .png file"),
        (["preview", "smile-gaussian-image", "--bank", "BANK", "--out", "p.png"], "give a folder of images as backgrounds"),
        (["preview", "smile-gaussian", "objects.cuont=3", "--bank", "BANK", "--out", "p.png"], "did you mean 'count'?"),
        (["preview", "smile-gaussian", "motion.0.extent=[9,5]", "--bank", "BANK", "--out", "p.png"], "low 9.0 above high"),
        (["generate", "smile-gaussian", "--bank", "BANK", "--out", "c", "--num-clips", "1", "--seed", "0", "--size", "9"],
         "expected HEIGHTxWIDTH"),
        (["bank", "build", "empty", "--out", "b"], "empty"),
        (["bank", "build", "builtin:shape", "--out", "b"], "builtin:shapes"),
        (["bank", "info", "empty"], "empty"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Run, bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    message = run(*(bank if a == "BANK" else a for a in arguments), expect=2).stderr.strip()
    assert expected in message and len(message.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_all_mistakes_of_a_recipe_at_once(run: Run, bank: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "size: [32, 32]\nnum_frame: 4\nbackgrounds: [{kind: solid, color: [0, 0, 300]}]\n"
        "objects:\n  side: [-3]\nmotion:\n  - {family: smile-gausian}\n"
    )
    lines = run("recipes", "show", recipe, expect=2).stderr.strip().splitlines()
    assert len(lines) == 4
    for line, where in zip(sorted(lines), ("r.yaml:2: num_frame:", "r.yaml:3: backgrounds.0.color.2:", "r.yaml:5: objects.side.0:",
                                           "r.yaml:7: motion.0.family:"), strict=True):  # fmt: skip
        assert where in line
    assert "did you mean 'num_frames'?" in lines[0] or any("did you mean 'num_frames'?" in x for x in lines)


@pytest.mark.slow
def test_ctrl_c_says_how_to_continue_and_leaves_no_partial_files(bank: Path, tmp_path: Path) -> None:
    command = [
        # A background job ignores SIGINT, and so would the processes that it starts.
        "env", "--default-signal=INT",
        sys.executable, "-m", "smile_synth.cli", "generate", "smile-gaussian", *SMALL, "--bank", str(bank),
        "--out", str(tmp_path / "c"), "--num-clips", "50000", "--seed", "0", "--workers", "2",
    ]  # fmt: skip
    # A terminal's Ctrl-C reaches the whole group, the workers too.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            deadline = time.monotonic() + 120
            while len(list((tmp_path / "c" / "clips").glob("*.mp4"))) < 3:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            _, message = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "run the same command again to resume" in message and "Traceback" not in message
    assert not list((tmp_path / "c").rglob("*.part")) and not (tmp_path / "c" / ".lock").exists()


def test_a_killed_worker_says_how_to_resume() -> None:
    message = "killed; finished work is kept: run the same command again to resume"
    with pytest.raises(UserError, match=message), resumable():
        raise WorkerKilledError("killed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["foo"], "No such command 'foo'; see "),
        (["bank", "show"], "Missing argument 'BANK'; see "),
        (["bank", "show", "b.bank", "--uot", "x.png"], "No such option: --uot"),
        (["bank", "show", "b.bank", "--out", "x.png", "--count", "0"], "Invalid value for '--count'"),
    ],
)
def test_wrong_use_of_a_command_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    printed = run(*arguments, expect=2)
    assert printed.stderr.startswith("error: ") and printed.stderr.count("\n") == 1
    assert message in printed.stderr and not printed.stdout


def test_a_group_without_a_command_prints_its_help(run: Run) -> None:
    printed = run("bank", expect=2)
    assert "Build, inspect and convert object banks." in printed.stdout and not printed.stderr
