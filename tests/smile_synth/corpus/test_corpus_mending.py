"""Whatever happens to a corpus is named, and mended to the same bytes; nothing is silently incomplete."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smile_synth import ObjectBank, Recipe, UserError, build_bank, generate
from smile_synth.corpus import Corpus, extend, regenerate, repair, verify
from smile_synth.corpus import _verify as verifying
from smile_synth.sources import Sources

Digests = Callable[[Path], dict[str, str]]
SHARDS: dict[str, Any] = {"layout": "shards", "clips_per_shard": 3}
FOLDER: dict[str, Any] = {"layout": "folder"}


@pytest.fixture(scope="module", params=["folder", "shards"])
def made(
    request: pytest.FixtureRequest, bank: ObjectBank, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A corpus of seven clips, never to be touched."""
    folder = tmp_path_factory.mktemp("made") / "corpus"
    settings = FOLDER if request.param == "folder" else SHARDS
    generate(recipe, Sources(bank), out=folder, num_clips=7, seed=0, labels=["tracks"], **settings)
    return folder


@pytest.fixture
def corpus(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "copy"))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[600] ^= 4
    path.write_bytes(data)


def victim(corpus: Path, index: int, name: str) -> Path:
    row = Corpus(corpus).row(index)
    return corpus / next(member["file"] for member in row["members"] if member["name"] == name)


def test_a_whole_corpus_has_no_faults(made: Path, bank: ObjectBank) -> None:
    seen: list[tuple[int, int]] = []
    assert verify(made) == verify(made, deep=True) == []
    assert verify(made, sources=Sources(bank), progress=lambda done, total: seen.append((done, total))) == []
    assert seen[-1] == (7, 7)


@pytest.mark.parametrize("name", ["scene", "json", "tracks.npz", "mp4"])
@pytest.mark.parametrize("harm", [cut, alter, Path.unlink])
def test_harm_is_named_and_mended(
    corpus: Path, made: Path, bank: ObjectBank, digests: Digests, harm: Callable[[Path], None], name: str
) -> None:
    path = victim(corpus, 4, name)
    harm(path)
    file = path.relative_to(corpus).as_posix()
    faults = verify(corpus, deep=True)
    assert faults and {fault.file for fault in faults} == {file}
    assert bool(verify(corpus)) == (harm is not alter)
    report = repair(corpus, Sources(bank))
    assert not report.left
    assert {fault.file for fault in report.mended} == {file}
    if Corpus(corpus).header.layout == "folder":
        assert [fault.index for fault in report.mended] == [4]
    assert digests(corpus) == digests(made)
    assert verify(corpus, deep=True, sources=Sources(bank)) == []
    assert repair(corpus, Sources(bank)).mended == ()


def test_only_what_is_bad_is_made_again(
    corpus: Path, bank: ObjectBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Corpus(corpus).header.layout == "folder":
        cut(victim(corpus, 4, "json"))
    else:
        with victim(corpus, 4, "json").open("r+b") as file:
            file.seek(Corpus(corpus).row(4)["members"][1]["offset"])
            file.write(b"?")
    asked: list[Any] = []
    real = verifying.make_members
    monkeypatch.setattr(
        verifying, "make_members", lambda job, scene, names: asked.append(names) or real(job, scene, names)
    )
    repair(corpus, Sources(bank))
    assert asked == [["json"]]


def test_strangers_are_named(corpus: Path) -> None:
    (corpus / "notes.txt").write_text("mine")
    assert [str(fault) for fault in verify(corpus)] == ["notes.txt: is not in the manifest"]


def test_a_wrong_image_with_a_right_hash_is_found_by_rendering(
    tmp_path: Path, bank: ObjectBank, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smile_synth.corpus import _generate as generating

    with monkeypatch.context() as patch:
        patch.setattr(generating, "draw_frames", lambda scenes, bank, images, frames: frames.fill(90))
        generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=1, seed=0)
    assert verify(tmp_path / "c", deep=True) == []
    (fault,) = verify(tmp_path / "c", sources=Sources(bank))
    assert str(fault) == "clips/000000.mp4: is not what its scene gives (clip 0)"


def test_another_version_is_told_and_nothing_is_overwritten(
    corpus: Path, bank: ObjectBank, digests: Digests
) -> None:
    path = victim(corpus, 4, "tracks.npz")
    header = json.loads((corpus / "corpus.json").read_text())
    header["versions"]["av"] = "1.2.3"
    (corpus / "corpus.json").write_text(json.dumps(header))
    # The same bytes all the same: nothing to tell.
    assert verify(corpus, sources=Sources(bank)) == []
    path.unlink()
    assert repair(corpus, Sources(bank)).left == ()
    with pytest.raises(UserError, match=r"holds another corpus: versions.av is '1.2.3' there and '"):
        generate(Corpus(corpus).header.resolved_recipe, Sources(bank), out=corpus, num_clips=7, seed=0, labels=["tracks"],
                 layout=Corpus(corpus).header.layout, clips_per_shard=Corpus(corpus).header.clips_per_shard)  # fmt: skip


def test_what_cannot_be_made_the_same_is_left(
    corpus: Path, bank: ObjectBank, digests: Digests, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = victim(corpus, 4, "mp4")
    alter(path) if path.suffix == ".mp4" else cut(path)
    before = digests(corpus)
    header = json.loads((corpus / "corpus.json").read_text())
    header["versions"]["av"] = "1.2.3"
    (corpus / "corpus.json").write_text(json.dumps(header))
    before["corpus.json"] = digests(corpus)["corpus.json"]
    monkeypatch.setattr(verifying, "make_members", lambda job, scene, names: dict.fromkeys(names, b"other"))
    report = repair(corpus, Sources(bank))
    assert not report.mended and {fault.file for fault in report.left} == {
        path.relative_to(corpus).as_posix()
    }
    assert "made again it has another sha256; versions differ: av 1.2.3 then, " in report.left[0].what
    assert digests(corpus) == before


@pytest.mark.parametrize("harm", [cut, lambda path: path.write_bytes(b"PAR1 nothing")])
def test_a_damaged_manifest_is_named_and_mended(
    corpus: Path, made: Path, bank: ObjectBank, digests: Digests, harm: Callable[[Path], None]
) -> None:
    harm(corpus / "manifest.parquet")
    if Corpus(made).header.layout == "folder":
        alter(corpus / "labels" / "000003.json")  # nothing vouches for it now
    with pytest.raises(
        UserError, match=r"manifest.parquet': is damaged .* 'smile-synth corpus repair' mends it"
    ):
        Corpus(corpus)
    assert "is damaged" in str(verify(corpus)[0])
    report = repair(corpus, Sources(bank))
    assert "made again with all clips" in str(report.mended[0])
    assert digests(corpus) == digests(made)


def test_a_damaged_header_and_no_corpus_are_one_line(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no corpus.json; not a corpus of ours"):
        Corpus(tmp_path)
    cut(corpus / "corpus.json")
    with pytest.raises(UserError, match=r"corpus.json is damaged"):
        verify(corpus)


def test_generate_refuses_to_go_on_over_damage(corpus: Path, bank: ObjectBank, recipe: Recipe) -> None:
    header = Corpus(corpus).header
    settings: dict[str, Any] = {
        "seed": 0, "labels": ["tracks"], "layout": header.layout, "clips_per_shard": header.clips_per_shard,
    }  # fmt: skip
    cut(victim(corpus, 4, "mp4"))
    with pytest.raises(UserError, match="'smile-synth corpus repair' mends it"):
        generate(recipe, Sources(bank), out=corpus, num_clips=8, **settings)
    repair(corpus, Sources(bank))
    generate(recipe, Sources(bank), out=corpus, num_clips=8, **settings)
    assert verify(corpus, deep=True) == []
    with pytest.raises(UserError, match="was begun with 8 clips; num-clips can be raised, not lowered to 7"):
        generate(recipe, Sources(bank), out=corpus, num_clips=7, **settings)


def test_an_extended_corpus_is_one_made_so_at_once(
    corpus: Path,
    bank: ObjectBank,
    recipe: Recipe,
    tmp_path: Path,
    digests: Digests,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from smile_synth.corpus import _generate as generating

    header = Corpus(corpus).header
    with monkeypatch.context() as patch:
        patch.setattr(generating, "draw_frames", None)  # no new media
        assert extend(corpus, ["flow", "segmentation"], Sources(bank)).written == 7
        assert extend(corpus, ["flow"], Sources(bank)).written == 0
    whole = tmp_path / "whole"
    generate(
        recipe, Sources(bank), out=whole, num_clips=7, seed=0, labels=["flow", "tracks", "segmentation"],
        layout=header.layout, clips_per_shard=header.clips_per_shard,
    )  # fmt: skip
    assert digests(corpus) == digests(whole)
    with pytest.raises(UserError, match=r"labels 'flaw': allowed are .*; did you mean 'flow'\?"):
        extend(corpus, ["flaw"], Sources(bank))


def test_extending_does_not_bless_damage(corpus: Path, bank: ObjectBank) -> None:
    row = Corpus(corpus).row(4)
    member = next(member for member in row["members"] if member["name"] == "mp4")
    with (corpus / member["file"]).open("r+b") as file:
        file.seek(member["offset"] + 100)
        file.write(b"?")
    with pytest.raises(UserError, match=r"clip 4 is not as the manifest says \(sha256 of its mp4 differs\)"):
        extend(corpus, ["flow"], Sources(bank))
    # Begun, not finished: nobody reads it by mistake, and mending finishes it.
    with pytest.raises(UserError, match=r"is not finished: its clips lack flow.npz"):
        Corpus(corpus)
    assert repair(corpus, Sources(bank)).mended
    assert extend(corpus, ["flow"], Sources(bank)).num_clips == 7
    assert verify(corpus, deep=True, sources=Sources(bank)) == []


def test_one_clip_is_made_again(corpus: Path, bank: ObjectBank, tmp_path: Path) -> None:
    victim(corpus, 2, "scene").unlink()
    same = regenerate(corpus, 2, Sources(bank), out=tmp_path / "again")
    assert same == {
        name: True
        for name in ("scenes/000002.scene", "labels/000002.json", "tracks/000002.npz", "clips/000002.mp4")
    }
    assert all((tmp_path / "again" / name).is_file() for name in same)
    with pytest.raises(UserError, match=r"index 7: corpus .* has the clips 0\.\.6"):
        regenerate(corpus, 7, Sources(bank), out=tmp_path / "again")


def test_a_changed_bank_is_refused(corpus: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (20, 20), (1, 2, 3, 255)).save(tmp_path / "a.png")
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "a.png").rename(tmp_path / "in" / "a" / "0.png")
    build_bank([tmp_path / "in"], tmp_path / "bank")
    other = ObjectBank.open(tmp_path / "bank")
    for attempt in (
        lambda: repair(corpus, Sources(other)), lambda: extend(corpus, ["flow"], Sources(other)),
        lambda: regenerate(corpus, 0, Sources(other), out=tmp_path / "again"), lambda: verify(corpus, sources=Sources(other)),
    ):  # fmt: skip
        with pytest.raises(UserError, match="is not the bank th"):
            attempt()


@pytest.mark.parametrize("settings", [FOLDER, SHARDS], ids=["folder", "shards"])
@pytest.mark.parametrize("after", [0, 1, 4, 9, 17])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
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


def test_a_place_that_cannot_be_written_is_one_line(bank: ObjectBank, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written: (Not a directory|File exists)"):
        generate(recipe, Sources(bank), out=tmp_path / "file" / "c", num_clips=1, seed=0)
