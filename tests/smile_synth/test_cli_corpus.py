"""`smile-synth corpus ...` and `export` as a user types them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile_synth.cli import main
from smile_synth.objects import build_bank

Run = Callable[..., tuple[str, str]]
SMALL = ["smile-gaussian", "size=[32,32]", "num_frames=2", "objects.side=[12]", "motion.0.extent=[5,20]"]


@pytest.fixture(scope="module")
def run(command_line: Run) -> Run:
    return partial(command_line, main)


@pytest.fixture(scope="module")
def bank_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli corpus")
    for k, name in enumerate(("cat", "dog")):
        rgba = np.full((18, 24, 4), 255, np.uint8)
        rgba[..., k] = 30
        (folder / "objects" / name).mkdir(parents=True)
        Image.fromarray(rgba).save(folder / "objects" / name / "0.png")
    build_bank([folder / "objects"], folder / "out.bank", licence="CC0")
    return folder / "out.bank"


@pytest.mark.parametrize("out", ["c", "."])
def test_the_exports_of_a_grown_corpus_hold_all_clips(
    run: Run, bank_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path / "c" if out == "." else tmp_path)
    for count in (1, 2, 2):
        run(
            "generate", *SMALL, "--bank", bank_path, "--out", out, "--num-clips", count, "--seed", 0,
            "--workers", 1, "--export", "mot",
        )  # fmt: skip
        sequences = [path for path in (tmp_path / "c-exports" / "mot").rglob("gt.txt")]
        assert len(sequences) == count


def test_a_corpus_is_generated_extended_verified_repaired_and_exported(
    run: Run, bank_path: Path, tmp_path: Path
) -> None:
    corpus, bank = tmp_path / "c", ["--bank", bank_path]
    common = ["--seed", 0, "--layout", "shards", "--clips-per-shard", 2, "--workers", 1]
    out, _ = run(
        "generate", *SMALL, *bank, "--out", corpus, "--num-clips", 3, *common, "--export", "davis,mot"
    )
    assert "(3 written now)" in out and "MB of media" in out
    assert (tmp_path / "c-exports" / "davis" / "ImageSets").is_dir() and (
        tmp_path / "c-exports" / "mot"
    ).is_dir()
    run("generate", *SMALL, *bank, "--out", corpus, "--num-clips", 3, *common, "--export", "davis,mot")
    out, _ = run("corpus", "info", corpus)
    assert "3 clips of 2x32x32, h264, layout shards, labels: objects, seed 0" in out
    assert "licence of 2 objects: CC0" in out
    out, _ = run("generate", *SMALL, *bank, "--out", corpus, "--num-clips", 3, *common, "--labels", "tracks")
    assert "(3 written now)" in out
    out, _ = run("corpus", "verify", corpus, "--rerender", *bank, "--workers", 1)
    assert "3 clips, all unchanged" in out
    shard = corpus / "shards" / "000000.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    out, stderr = run("corpus", "verify", corpus, "--deep", "--workers", 1, expect=1)
    assert "fault: shards/000000.tar: is altered: sha256 of scene differs (clip 0)" in stderr
    out, _ = run("corpus", "repair", corpus, *bank, "--workers", 1)
    assert "1 faults repaired, 0 remain" in out
    run("export", corpus, "--format", "tapvid", "--out", tmp_path / "tap", *bank, "--workers", 1)
    assert list((tmp_path / "tap").glob("*.pkl"))


def test_parts_are_merged(run: Run, bank_path: Path, tmp_path: Path) -> None:
    parts = [tmp_path / "0", tmp_path / "1"]
    for i, part in enumerate(parts):
        run("generate", *SMALL, "--bank", bank_path, "--out", part, "--num-clips", 3, "--seed", 0, "--workers", 1,
            "--shard-index", i, "--num-shards", 2)  # fmt: skip
    out, _ = run("corpus", "merge", *parts, "--out", tmp_path / "whole")
    assert "3 clips in" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["corpus", "verify", "missing"], "corpus 'missing': is not a corpus, it has no corpus.json"),
        (["corpus", "verify", "missing", "--rerender"], "--rerender: needs the --bank of the corpus"),
        (["corpus", "merge", "missing", "--out", "o"], "corpus 'missing': is not a corpus, it has no corpus.json"),
        (["export", "missing", "--format", "cocoo", "--out", "o"], "did you mean 'coco'?"),
        (["generate", *SMALL, "--bank", "BANK", "--out", "o", "--num-clips", "1", "--seed", "0", "--media", "mp4"],
         "media 'mp4': allowed are h264"),
        (["generate", *SMALL, "--bank", "BANK", "--out", "o", "--num-clips", "1", "--seed", "0", "--shard-index", "1"],
         "--shard-index 1: needs --num-shards, greater than the index"),
        (["generate", *SMALL, "--bank", "BANK", "--out", "o", "--num-clips", "1", "--seed", "0", "--export", "coc"],
         "did you mean 'coco'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    run: Run,
    bank_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    _, stderr = run(*(str(bank_path) if a == "BANK" else a for a in arguments), expect=2)
    assert message in stderr and len(stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
