"""Evaluation, ablation and export on the command line: scores, and mistakes in one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from smile_synth.backgrounds import write_images
from smile_synth.io.videos import write_mp4
from smile_train.cli import main
from smile_train.evaluate import _attentive
from smile_train.models import EncoderConfig, Student, StudentConfig, save_model

ENCODER = EncoderConfig(width=16, depth=1, heads=2, num_frames=4, size_hw=(16, 16), patch_size=8)
CONFIG = StudentConfig(encoder=ENCODER, decoder_width=8, decoder_depth=1, decoder_heads=2, target_dim=4)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and videos of two classes; some files and lists with every mistake there is."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    (folder / "run").mkdir()
    student = Student(CONFIG, generator=torch.Generator().manual_seed(0))
    save_model(folder / "run" / "student.safetensors", student)
    names = [f"{label}/{label}{k}_g{k // 2}.mp4" for label in "ab" for k in range(4)]
    for name in names:
        (folder / "good" / name).parent.mkdir(parents=True, exist_ok=True)
        write_mp4(folder / "good" / name, rng.integers(0, 255, (9, 16, 24, 3), np.uint8), 10)
    for kind, files in {"single": [*names[3:]], "mixed": names}.items():
        for name in files:
            (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / kind / name).write_bytes((folder / "good" / name).read_bytes())
    (folder / "mixed" / "a" / "zero.mp4").touch()
    with av.open(str(folder / "mixed" / "b" / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    lists = {
        "all": [f"{name} {int(name[0] == 'b')}" for name in names],
        "train": [f"{name} 0" for name in names[::2]],
        "test": [f"{name} 0" for name in names[1::2]],
        "missing": [f"{names[0]} 0", "a/gone.mp4 0", "b/lost.mp4 1"],
        "words": [f"{names[0]} run", f"{names[4]} 1"],
    }
    for name, lines in lists.items():
        (folder / "good" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    torch.save({"model": {"head.weight": torch.zeros(2, 2)}}, folder / "head.pth")
    (folder / "junk.pth").write_bytes(b"junk")
    (folder / "study.yaml").write_text("about: x\nbase: demo\narms: {a: {}, b: {seed: 3}}\n")
    return folder


def typed(
    place: Path, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Run a command line in the folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["smile-train", *line.split()])
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err.strip()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evaluate single --checkpoint run --folds 2", "2 folds need 2 videos or groups of every class, too few in: 'a' (1)"),
        ("evaluate good/missing.txt --checkpoint run --folds 2", "2 of 3 files are missing: 'a/gone.mp4', 'b/lost.mp4'"),
        ("evaluate good/words.txt --checkpoint run", "words.txt:1: label 'run' is no whole number, but other labels are"),
        (
            "evaluate good/train.txt --test good/test.txt --checkpoint run --group _(g[0-9])",
            "split 'official': training and test share groups 'g0', 'g1'",
        ),
        ("evaluate good/train.txt --test good/train.txt --checkpoint run", "training and test share groups 'a/a0_g0.mp4'"),
        ("evaluate good/all.txt --checkpoint head.pth --folds 2", "checkpoint 'head.pth': holds no video encoder"),
        ("evaluate good/all.txt --checkpoint junk.pth --folds 2", "junk.pth: not a checkpoint of plain tensors"),
        ("evaluate good/all.txt --checkpoint good --folds 2", "checkpoint 'good': no student.safetensors there"),
        ("evaluate good/all.txt --checkpoint run --folds 2 --num-frames 8", "encoder 'run': reads clips of 4 frames, not of 8"),
        ("evaluate good/all.txt --checkpoint run --folds 2 --device tpu", "device 'tpu': expected auto, cpu or cuda"),
        ("evaluate mixed --checkpoint run --folds 2 --strict controls=[]", "video 'a/zero.mp4': is empty (2 in all)"),
        ("evaluate good/all.txt --checkpoint run --folds 2 --leave-one-group-out", "--folds and --leave-one-group-out: choose one"),
        ("evaluate good/train.txt --test good/test.txt --classes a --checkpoint run", "--classes: cannot be used with --test"),
        ("evaluate good/all.txt --checkpoint run read.crops=3 read.fit=pad", "crops: 3 crops need fit=crop, got fit=pad"),
        ("evaluate good/all.txt --root nowhere --checkpoint run", "root 'nowhere': no such folder"),
        ("embed mixed/a/zero.mp4 --checkpoint run --out f.npz", "none of 1 could be read; the first: is empty"),
        ("embed mixed/b/sound.mp4 --checkpoint run --out f.npz", "the first: holds no image, only sound or data"),
        ("embed good --checkpoint head.pth --out f.npz", "checkpoint 'head.pth': holds no video encoder"),
        ("probe --checkpoint head.pth --bank nowhere", "checkpoint 'head.pth': holds no video encoder"),
        ("probe-dense --checkpoint run --bank nowhere", "nowhere': no such folder"),
        ("ablate study.yaml --out s", "arm 'b': all arms have the same seeds"),
        ("ablate mask --out s --ray auto --num-shards 2", "--ray and --num-shards: choose one"),
        ("evaluate good/all.txt --checkpoint run --folds 2 protocols=[classifier]", "protocol 'classifier': 'run' is not a fine-tuned model"),
        ("evaluate good/all.txt --checkpoint run controls=[flows]", "flows"),
        ("export run --to transfomers --out x", "did you mean 'transformers'?"),
        ("export good --to transformers --out x", "checkpoint 'good': no student.safetensors there"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    before = sorted(place.rglob("*"))
    code, _, err = typed(place, line, monkeypatch, capsys)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert sorted(place.rglob("*")) == before


def test_dense_probes_are_printed_and_saved(
    place: Path,
    train_bank: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / "images", count=2, seed=0, size=32)
    line = (
        f"probe-dense --checkpoint run --bank {train_bank} --train-backgrounds {tmp_path}/images --num-train 50 "
        f"--test-backgrounds {tmp_path}/images --num-test 50 --videos good/a --window 1 --out {tmp_path}/dense.json"
    )
    code, out, _ = typed(place, line, monkeypatch, capsys)
    assert code == 0 and "this encoder" in out and "TAP-Vid" in out and "4 real videos" in out
    saved = json.loads((tmp_path / "dense.json").read_text())
    assert saved["settings"]["window"] == 1 and saved["num_train"] == 50
    rows = {(row["measure"], row["features"]): row["value"] for row in saved["rows"]}
    assert 0 < rows["flow, px", "no motion"] < rows["moving tokens, px", "no motion"]


def test_scores_come_with_controls_numbers_and_settings(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "protocols=[linear,retrieval] random_encoders=2 read.clips=2 shots=[1]"
    line = f"evaluate mixed --folds 2 --checkpoint run --out {tmp_path}/a.json {settings}"
    code, out, err = typed(place, line, monkeypatch, capsys)
    assert code == 0
    # A slow machine prints progress lines, too.
    assert [line for line in err.splitlines() if line.startswith("skipped")] == [
        "skipped: a/zero.mp4: is empty",
        "skipped: b/sound.mp4: holds no image, only sound or data",
    ]
    for name in (
        "linear: 8 videos in 8 groups", "linear, 1 shots", "retrieval R@1", "this encoder", "random encoders (2)",
        "frames of clip:tiny-clip", "size and length", "colour over time", "pixels per frame", "flow histograms",
        "8 groups and 2 classes, 2 split(s), 2 skipped", "most frequent class: 50.0",
        "not significant", "read.clips=2", "num_frames=4", "side=16", "seed=0",
    ):  # fmt: skip
        assert name in out, name
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {row["protocol"] for row in rows} >= {"linear", "linear, 1 shots", "retrieval R@1"}

    other = line.replace("a.json", "b.json").replace("clips=2", "clips=1")
    assert typed(place, other, monkeypatch, capsys)[0] == 0
    code, _, err = typed(place, f"compare {tmp_path}/a.json {tmp_path}/b.json", monkeypatch, capsys)
    assert code == 2 and "were made with different settings: read" in err and len(err.splitlines()) == 1
    code, out, _ = typed(place, f"compare {tmp_path}/a.json {tmp_path}/a.json", monkeypatch, capsys)
    assert code == 0 and "+0.0 .. +0.0" in out and "smallest" in out


@pytest.mark.slow
def test_two_processes_give_the_scores_of_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rank 0 runs here, rank 1 in another process; rank 0 alone trains, prints and writes."""
    monkeypatch.setattr(_attentive, "EPOCHS", 2)
    monkeypatch.setattr(_attentive, "MIN_STEPS", 2)
    settings = "protocols=[linear,attentive,order] controls=[flow] read.clips=1 read.stride_frames=1"
    line = f"evaluate mixed --folds 2 --checkpoint run {settings} --out {tmp_path}"
    assert typed(place, f"{line}/one.json", monkeypatch, capsys)[0] == 0
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ranks = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    other = subprocess.Popen(
        [sys.executable, "-m", "smile_train.cli", *f"{line}/other.json".split()], cwd=place,
        env={**os.environ, **ranks, "RANK": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    for name, value in {**ranks, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    code, out, _ = typed(place, f"{line}/two.json", monkeypatch, capsys)
    printed, _ = other.communicate(timeout=60)
    assert (code, other.returncode, printed) == (0, 0, b"") and "linear: 8 videos" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert one == two and len(one["rows"]) == 6 and len(one["broken"]) == 2


def test_missing_videos_are_skipped_on_request(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (place / "good" / "all.txt").read_text() + "b/lost.mp4 1\n"
    (tmp_path / "list.txt").write_text(text)
    line = f"evaluate {tmp_path}/list.txt --root good --checkpoint run --folds 2 controls=[]"
    code, _, err = typed(place, line, monkeypatch, capsys)
    assert code == 2 and "1 of 9 files are missing: 'b/lost.mp4'" in err
    code, out, err = typed(place, line + " --allow-missing", monkeypatch, capsys)
    assert code == 0 and "1 skipped" in out
    assert err == "skipped: b/lost.mp4: cannot be decoded: No such file or directory"
