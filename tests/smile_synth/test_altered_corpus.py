"""Altered files of a corpus give one line or a listed fault, never a traceback."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from smile_synth import ObjectBank, Recipe, UserError, generate
from smile_synth.cli import main
from smile_synth.corpus import MEDIA, Corpus, npz_bytes
from smile_synth.io.images import Reject
from smile_synth.io.strict_yaml import parse
from smile_synth.io.videos import encode_ffv1, encode_h264
from smile_synth.sources import Sources
from smile_synth.visualize import make_report, open_corpus

RECIPE = """
size: [16, 24]
num_frames: 3
backgrounds: [{kind: solid}]
objects: {count: [1, 2], side: [8, 10]}
motion: [{family: constant-velocity, speed: [1.0, 2.0]}]
"""


@pytest.fixture(scope="module")
def sound(bank: ObjectBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "corpus"
    recipe = parse(Recipe, RECIPE, name="recipe")
    generate(recipe, Sources(bank), out=folder, num_clips=4, seed=0, labels=["tracks", "flow"])
    return folder


def alter(corpus: Path, index: int, name: str) -> Path:
    """Overwrite a file of a clip with zeros; its length stays."""
    row = Corpus(corpus).row(index)
    path: Path = corpus / next(member["file"] for member in row["members"] if member["name"] == name)
    path.write_bytes(bytes(path.stat().st_size))
    return path


def _frames(count: int = 3, height: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, height, 24, 3), np.uint8)


@pytest.mark.parametrize("medium", MEDIA)
def test_every_decoder_refuses_damaged_bytes(medium: str) -> None:
    members = MEDIA[medium].encode(_frames(), 8.0, 18)
    rng = np.random.default_rng(1)
    for _ in range(60):
        altered = dict(members)
        name = list(members)[rng.integers(len(members))]
        data = bytearray(members[name])
        start = rng.integers(len(data))
        data[start : start + 8] = rng.bytes(len(data[start : start + 8]))
        altered[name] = bytes(data)
        with contextlib.suppress(Reject):
            assert MEDIA[medium].decode(altered).ndim == 4
    for worthless in (b"", bytes(300), b"RIFF" * 100):
        with pytest.raises(Reject):
            MEDIA[medium].decode({**members, next(iter(members)): worthless})


@pytest.mark.parametrize(
    ("medium", "data", "message"),
    [
        ("h264", encode_h264(_frames(3), 8.0)[:-20000], "cannot be decoded"),
        ("ffv1", encode_ffv1(_frames(1), 8.0)[:600], "holds no"),
        ("npz", npz_bytes(frames=np.zeros((3, 5, 7), np.uint8)), "holds no RGB frames"),
        ("npz", npz_bytes(images=_frames()), "holds no RGB frames"),
    ],
)
def test_the_message_names_the_problem(medium: str, data: bytes, message: str) -> None:
    (name,) = MEDIA[medium].names(3)
    with pytest.raises(Reject, match=message):
        MEDIA[medium].decode({name: data})


def test_images_of_two_sizes_are_refused() -> None:
    members = MEDIA["png"].encode(_frames(), 8.0, 18)
    members["001.png"] = cv2.imencode(".png", _frames(1, 5)[0])[1].tobytes()
    with pytest.raises(Reject, match="holds images of more than one size"):
        MEDIA["png"].decode(members)


@pytest.mark.parametrize("name", ["scene", "json", "tracks.npz", "mp4"])
def test_reading_an_altered_file_names_file_and_clip(sound: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "corpus"))
    path = alter(folder, 1, name)
    corpus = Corpus(folder)
    read = {
        "scene": corpus.scene,
        "json": corpus.labels,
        "tracks.npz": lambda index: corpus.arrays(index, "tracks"),
        "mp4": corpus.frames,
    }[name]
    read(0)
    with pytest.raises(UserError, match=rf"^'{path}': {name} of clip 1 is altered; repair the corpus"):
        read(1)


def test_without_a_manifest_the_decoder_finds_the_damage(sound: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "corpus"))
    path = alter(folder, 1, "mp4")
    (folder / "manifest.parquet").unlink()
    (fault,) = open_corpus(folder).read(1).faults
    assert fault.kind == "media unreadable"
    assert f"'{path}': cannot be decoded: " in fault.text and "(clip 1); repair the corpus" in fault.text


def test_commands_on_an_altered_corpus(
    sound: Path, bank: ObjectBank, tmp_path: Path, command_line: Any
) -> None:
    folder = Path(shutil.copytree(sound, tmp_path / "corpus"))
    names = ["scene", "json", "tracks.npz", "mp4"]
    kinds = ["scene", "labels", "tracks", "media"]
    for index, name in enumerate(names):
        alter(folder, index, name)
    page, one = tmp_path / "page.html", ["--workers", "1"]
    for arguments in ([], ["--bank", bank.path]):
        told = command_line(main, "report", folder, "--out", page, *one, *arguments)
        assert all(f"{kind} unreadable" in told.stdout + told.stderr for kind in kinds)
    command_line(main, "compare", folder, sound, "--out", page, *one)
    for index, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        view = ["view", folder, "--index", index, "--out", tmp_path / "v.png"]
        overlay = ["--overlay", "modal"] if name == "json" else []
        told = command_line(main, *view, *overlay, expect=2 if name in ("json", "mp4") else 0)
        assert f"{kind} unreadable" in told.stdout + told.stderr
    for index, form in ((0, "flo"), (1, "mot"), (3, "frames")):
        out = ["--out", tmp_path / "out", "--bank", bank.path]
        told = command_line(main, "export", folder, "--format", form, *out, *one, expect=2)
        assert f"of clip {index} is altered" in " ".join(told.stderr.split())
        assert "Traceback" not in told.stderr and not (tmp_path / "out").exists()


def test_a_clip_without_any_readable_file_is_reported(bank: ObjectBank, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    recipe = parse(Recipe, RECIPE, name="recipe")
    generate(recipe, Sources(bank), out=folder, num_clips=2, seed=0, layout="shards")
    shard = folder / "shards" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:600])
    report = make_report(open_corpus(folder))
    kinds = {finding.kind: finding.indices for finding in report.findings}
    assert all(kinds[f"{what} unreadable"] == (0, 1) for what in ("scene", "labels", "media"))
    assert report.num_videos == 0 and len(report.clips) == 2


def test_a_finished_part_without_clips_has_no_fault(bank: ObjectBank, tmp_path: Path) -> None:
    folder = tmp_path / "part"
    recipe = parse(Recipe, RECIPE, name="recipe")
    generate(recipe, Sources(bank), out=folder, num_clips=3, seed=0, part=(0, 4))
    source = open_corpus(folder)
    assert source.indices == () and not source.faults
    assert [(f.severity, f.kind) for f in make_report(source).findings] == [("note", "no clips")]
