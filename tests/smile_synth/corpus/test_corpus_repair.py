"""Every fault of a corpus is found and repaired to the same bytes; nothing is silently incomplete."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smile_synth import ObjectBank, Recipe, UserError, build_bank, generate
from smile_synth.corpus import Corpus, CorpusHeader, repair, verify
from smile_synth.sources import Sources

Digests = Callable[[Path], dict[str, str]]
SHARDS: dict[str, Any] = {"layout": "shards", "clips_per_shard": 3}
FOLDER: dict[str, Any] = {"layout": "folder"}


@pytest.fixture(scope="module", params=["folder", "shards"])
def made(
    request: pytest.FixtureRequest, bank: ObjectBank, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A corpus of seven clips that no test changes."""
    folder = tmp_path_factory.mktemp("made") / "corpus"
    settings = FOLDER if request.param == "folder" else SHARDS
    generate(recipe, Sources(bank), out=folder, num_clips=7, seed=0, labels=["tracks"], **settings)
    return folder


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[600] ^= 4
    path.write_bytes(data)


def file_to_damage(corpus: Path, index: int, name: str) -> Path:
    row = Corpus(corpus).row(index)
    return corpus / next(member["file"] for member in row["members"] if member["name"] == name)


def test_a_whole_corpus_has_no_faults(made: Path, bank: ObjectBank) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(made) == verify(made, deep=True) == []
    assert verify(made, sources=Sources(bank), progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (7, 7)


@pytest.mark.parametrize("name", ["scene", "json", "tracks.npz", "mp4"])
@pytest.mark.parametrize("damage", [cut, alter, Path.unlink])
def test_damage_is_found_and_repaired(
    corpus: Path, made: Path, bank: ObjectBank, digests: Digests, damage: Callable[[Path], None], name: str
) -> None:
    path = file_to_damage(corpus, 4, name)
    damage(path)
    file = path.relative_to(corpus).as_posix()
    faults = verify(corpus, deep=True)
    assert faults and {fault.file for fault in faults} == {file}
    assert bool(verify(corpus)) == (damage is not alter)
    report = repair(corpus, Sources(bank))
    assert not report.remaining
    assert {fault.file for fault in report.repaired} == {file}
    if Corpus(corpus).header.layout == "folder":
        assert [fault.index for fault in report.repaired] == [4]
    assert digests(corpus) == digests(made)
    assert verify(corpus, deep=True, sources=Sources(bank)) == []
    assert repair(corpus, Sources(bank)).repaired == ()


def test_only_damaged_files_are_made_again(
    corpus: Path, bank: ObjectBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Corpus(corpus).header.layout == "folder":
        cut(file_to_damage(corpus, 4, "json"))
    else:
        with file_to_damage(corpus, 4, "json").open("r+b") as file:
            file.seek(Corpus(corpus).row(4)["members"][1]["offset"])
            file.write(b"?")
    monkeypatch.setattr("smile_synth.corpus._clip_files.draw_frames", None)  # no new media
    assert len(repair(corpus, Sources(bank)).repaired) == 1
    assert verify(corpus, deep=True) == []


def test_names_of_repaired_files_are_on_disk(
    corpus: Path, bank: ObjectBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_to_damage(corpus, 4, "json")
    path.unlink()
    synced: list[tuple[Path, bool]] = []  # folder, whether the file existed then
    monkeypatch.setattr(
        "smile_synth.corpus._store.sync_folder", lambda folder: synced.append((folder, path.exists()))
    )
    repair(corpus, Sources(bank))
    assert (path.parent, True) in synced


def test_unknown_files_are_found(corpus: Path) -> None:
    (corpus / "notes.txt").write_text("mine")
    assert [str(fault) for fault in verify(corpus)] == ["notes.txt: is not in the manifest"]


def test_a_wrong_image_with_a_valid_hash_is_found_by_rendering(
    tmp_path: Path, bank: ObjectBank, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        gray = "smile_synth.corpus._clip_files.draw_frames"
        patch.setattr(gray, lambda scenes, sources, frames: frames.fill(90))
        generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=1, seed=0)
    assert verify(tmp_path / "c", deep=True) == []
    (fault,) = verify(tmp_path / "c", sources=Sources(bank))
    assert str(fault) == "clips/000000.mp4: differs from what its scene gives (clip 0)"


def test_another_version_is_reported_and_nothing_is_overwritten(
    corpus: Path, bank: ObjectBank, digests: Digests
) -> None:
    path = file_to_damage(corpus, 4, "tracks.npz")
    header = json.loads((corpus / "corpus.json").read_text())
    header["versions"]["av"] = "1.2.3"
    (corpus / "corpus.json").write_text(json.dumps(header))
    # The bytes are equal: no fault.
    assert verify(corpus, sources=Sources(bank)) == []
    path.unlink()
    assert repair(corpus, Sources(bank)).remaining == ()
    with pytest.raises(UserError, match=r"holds another corpus: versions.av is '1.2.3' there and '"):
        generate(Corpus(corpus).header.resolved_recipe, Sources(bank), out=corpus, num_clips=7, seed=0, labels=["tracks"],
                 layout=Corpus(corpus).header.layout, clips_per_shard=Corpus(corpus).header.clips_per_shard)  # fmt: skip


def test_a_file_that_would_get_other_bytes_is_kept(
    corpus: Path, bank: ObjectBank, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_to_damage(corpus, 4, "mp4")
    alter(path) if path.suffix == ".mp4" else cut(path)
    before = digests(corpus)
    header = json.loads((corpus / "corpus.json").read_text())
    header["versions"]["av"] = "1.2.3"
    (corpus / "corpus.json").write_text(json.dumps(header))
    before["corpus.json"] = digests(corpus)["corpus.json"]
    monkeypatch.setattr(
        "smile_synth.corpus._repair.make_files", lambda job, scene, names: dict.fromkeys(names, b"other")
    )
    report = repair(corpus, Sources(bank))
    assert not report.repaired and {fault.file for fault in report.remaining} == {
        path.relative_to(corpus).as_posix()
    }
    assert "made again it has another sha256; versions differ: av 1.2.3 then, " in report.remaining[0].what
    assert digests(corpus) == before


@pytest.mark.parametrize("damage", [cut, lambda path: path.write_bytes(b"PAR1 nothing")])
def test_a_damaged_manifest_is_found_and_repaired(
    corpus: Path, made: Path, bank: ObjectBank, digests: Digests, damage: Callable[[Path], None]
) -> None:
    damage(corpus / "manifest.parquet")
    if Corpus(made).header.layout == "folder":
        alter(corpus / "labels" / "000003.json")  # without a manifest its digest is unknown
    with pytest.raises(
        UserError, match=r"manifest.parquet': is damaged .*; repair the corpus to write it again"
    ):
        Corpus(corpus)
    assert "is damaged" in str(verify(corpus)[0])
    report = repair(corpus, Sources(bank))
    assert "made again with all clips" in str(report.repaired[0])
    assert digests(corpus) == digests(made)


def test_a_damaged_header_and_no_corpus_give_one_line(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a corpus, it has no corpus.json"):
        Corpus(tmp_path)
    cut(corpus / "corpus.json")
    with pytest.raises(UserError, match=r"corpus.json is damaged"):
        verify(corpus)


def test_generate_does_not_continue_a_damaged_corpus(corpus: Path, bank: ObjectBank, recipe: Recipe) -> None:
    header = Corpus(corpus).header
    settings: dict[str, Any] = {
        "seed": 0, "labels": ["tracks"], "layout": header.layout, "clips_per_shard": header.clips_per_shard,
    }  # fmt: skip
    cut(file_to_damage(corpus, 4, "mp4"))
    with pytest.raises(UserError, match="; repair the corpus to write it again"):
        generate(recipe, Sources(bank), out=corpus, num_clips=8, **settings)
    repair(corpus, Sources(bank))
    generate(recipe, Sources(bank), out=corpus, num_clips=8, **settings)
    assert verify(corpus, deep=True) == []
    with pytest.raises(UserError, match="has 8 clips; num_clips can grow, not shrink to 7"):
        generate(recipe, Sources(bank), out=corpus, num_clips=7, **settings)


def add_labels(corpus: Path, bank: ObjectBank, labels: list[str]) -> int:
    header = Corpus(corpus, unfinished=True).header
    settings: dict[str, Any] = {"layout": header.layout, "clips_per_shard": header.clips_per_shard}
    recipe = header.resolved_recipe
    return generate(recipe, Sources(bank), out=corpus, num_clips=7, seed=0, labels=labels, **settings).written


def test_labels_are_added_to_a_finished_corpus(
    corpus: Path, bank: ObjectBank, tmp_path: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("smile_synth.corpus._clip_files.draw_frames", None)  # no new media
        assert add_labels(corpus, bank, ["flow", "segmentation"]) == 7
        assert add_labels(corpus, bank, ["flow"]) == 0
    header = Corpus(corpus).header
    generate(
        header.resolved_recipe, Sources(bank), out=tmp_path / "whole", num_clips=7, seed=0,
        labels=["flow", "tracks", "segmentation"], layout=header.layout, clips_per_shard=header.clips_per_shard,
    )  # fmt: skip
    assert digests(corpus) == digests(tmp_path / "whole")


def test_adding_labels_does_not_record_damaged_files_as_valid(corpus: Path, bank: ObjectBank) -> None:
    row = Corpus(corpus).row(4)
    member = next(member for member in row["members"] if member["name"] == "mp4")
    with (corpus / member["file"]).open("r+b") as file:
        file.seek(member["offset"] + 100)
        file.write(b"?")
    with pytest.raises(UserError, match=r"clip 4 differs from the manifest \(sha256 of its mp4\)"):
        add_labels(corpus, bank, ["flow"])
    # The header lists flow, the manifest does not: the corpus cannot be read by mistake.
    with pytest.raises(UserError, match=r"is not finished: its clips have no flow.npz"):
        Corpus(corpus)
    assert repair(corpus, Sources(bank)).repaired
    add_labels(corpus, bank, ["flow"])
    assert verify(corpus, deep=True, sources=Sources(bank)) == []


def test_an_unfinished_corpus_is_one_fault_of_its_manifest(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path
) -> None:
    generate(recipe, Sources(bank), out=tmp_path, num_clips=1, seed=0)
    header = CorpusHeader.read(tmp_path)
    for changes, reason in (
        ({"labels": ("flow",)}, "its clips have no flow.npz"),
        ({"num_clips": 2}, "its manifest has 1 of 2 clips"),
    ):
        replace(header, **changes).write(tmp_path)
        reason += "; run the same command again to continue"
        assert list(map(str, verify(tmp_path))) == [f"manifest.parquet: the corpus is not finished: {reason}"]
        with pytest.raises(UserError, match=f"^corpus '{tmp_path}': is not finished: {reason}$"):
            Corpus(tmp_path)
    header.write(tmp_path)
    (tmp_path / "manifest.parquet").unlink()
    with pytest.raises(UserError, match="its manifest has 0 of 1 clip; "):
        Corpus(tmp_path)


def test_a_changed_bank_is_refused(corpus: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (1, 2, 3, 255)).save(tmp_path / "a.png")
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "a.png").rename(tmp_path / "in" / "a" / "0.png")
    build_bank([tmp_path / "in"], tmp_path / "bank")
    other = ObjectBank.open(tmp_path / "bank")
    for attempt in (
        lambda: repair(corpus, Sources(other)),
        lambda: verify(corpus, sources=Sources(other)),
    ):
        with pytest.raises(UserError, match="is not the bank of this corpus"):
            attempt()


@pytest.mark.parametrize("settings", [FOLDER, SHARDS], ids=["folder", "shards"])
@pytest.mark.parametrize("after", [0, 1, 4, 9, 17])
def test_a_full_disk_gives_one_line_and_the_same_call_continues(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path, digests: Digests, monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any], after: int,
) -> None:  # fmt: skip
    generate(recipe, Sources(bank), out=tmp_path / "whole", num_clips=4, seed=0, **settings)
    left = after

    def fsync(descriptor: int, real: Callable[[int], None] = os.fsync) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    out = tmp_path / "c"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        if after < 17 or settings is FOLDER:
            with pytest.raises(UserError, match=r"cannot be written: No space left on device"):
                generate(recipe, Sources(bank), out=out, num_clips=4, seed=0, **settings)
    assert not list(out.rglob("*.part")) and not (out / ".lock").exists()
    generate(recipe, Sources(bank), out=out, num_clips=4, seed=0, **settings)
    assert digests(out) == digests(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_gives_one_line(
    bank: ObjectBank, recipe: Recipe, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: (Not a directory|File exists)"):
        generate(recipe, Sources(bank), out=tmp_path / "file" / "c", num_clips=1, seed=0)
