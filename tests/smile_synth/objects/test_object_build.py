import csv
import errno
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cutting import save
from PIL import Image

from smile_synth import objects
from smile_synth.core.errors import UserError
from smile_synth.io.images import Reject
from smile_synth.objects import BuildReport, CutOutOptions, ObjectBank, ObjectInfo, _writer, readers
from smile_synth.objects._cut_out import clean_edge, prepare
from smile_synth.objects._item import CutOut

SMALL = CutOutOptions(min_side=8)
DATA = Path(__file__).parents[3] / "../shared/data"


def build_bank(sources: Sequence[str | Path], out: Path, **options: object) -> BuildReport:
    """As the library's, for small images."""
    return objects.build_bank(sources, out, **{"cut": SMALL, **options})


def soft_rgba(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rgba = rng.integers(0, 256, (height, width, 4), np.uint8)
    rgba[..., 3] = rng.integers(100, 256, (height, width), np.uint8)
    return rgba


def prepared(rgba: np.ndarray, **options: object) -> np.ndarray:
    found = CutOut("thing", "1.png", "1.png", "key", rgba)
    return prepare(found, CutOutOptions(min_side=1, min_thickness=0, **options)).rgba


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def png16(rgba: np.ndarray) -> bytes:
    """A 16-bit RGBA PNG, written by hand."""
    height, width = rgba.shape[:2]

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([16, 6, 0, 0, 0])
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgba)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_same_bytes_every_time(tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / "src" / f"class{number % 2}" / f"{number}.png", soft_rgba(9 + number, 11, number))
    save(tmp_path / "src" / "class0" / "small.png", soft_rgba(3, 4))
    first = build_bank([tmp_path / "src"], tmp_path / "a")
    second = build_bank([tmp_path / "src"], tmp_path / "b")
    assert first.digest == second.digest and first.path == str(tmp_path / "a")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert list(contents(tmp_path / "a")) == ["bank.json", "index.parquet", "report.json", "texels.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "src"]


def test_split_goes_by_source_image(tmp_path: Path) -> None:
    source = tmp_path / "src"
    rows = ["file,source_image"]
    for number in range(240):
        save(source / "thing" / f"{number:03}.png", soft_rgba(8, 8, number))
        rows.append(f"thing/{number:03}.png,photo{number // 3}")
    (source / "index.csv").write_text("\n".join(rows))
    splits = {}
    for seed in (0, 1):
        build_bank([source], tmp_path / f"bank{seed}", seed=seed, val_fraction=0.2, test_fraction=0.3)
        bank = ObjectBank.open(tmp_path / f"bank{seed}")
        splits[seed] = [bank.info(i).split for i in range(len(bank))]
        assert all(len(set(splits[seed][i : i + 3])) == 1 for i in range(0, 240, 3))
        assert 24 <= splits[seed].count("val") <= 78  # 48 expected, +- 3 sigma of 80 photos
        assert 36 <= splits[seed].count("test") <= 108
        assert bank.select(split="val").tolist() == [i for i, s in enumerate(splits[seed]) if s == "val"]
    assert splits[0] != splits[1]


def test_every_unusable_item_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "src"
    save(source / "ok" / "good.png", soft_rgba(9, 10))
    save(source / "ok" / "twin.webp", soft_rgba(9, 10), lossless=True, exact=True)
    save(source / "ok" / "other.webp", soft_rgba(9, 10, 1), lossless=True, exact=True)
    save(source / "bad" / "clear.png", np.zeros((9, 10, 4), np.uint8))
    save(source / "bad" / "faint.png", np.full((9, 10, 4), 100, np.uint8))
    save(source / "bad" / "grey.png", np.zeros((9, 10), np.uint8))
    save(source / "bad" / "grey16.png", np.zeros((9, 10), np.uint16))
    save(source / "bad" / "grey16_key.png", np.zeros((9, 10), np.uint16), transparency=0)
    save(source / "bad" / "opaque.png", soft_rgba(9, 10)[..., :3])
    save(source / "bad" / "thin.png", soft_rgba(7, 40))
    frames = [Image.fromarray(soft_rgba(9, 10, seed)) for seed in (0, 1)]
    frames[0].save(source / "bad" / "moving.webp", save_all=True, append_images=frames[1:])
    (source / "bad" / "text.png").write_text("not an image")
    good = (source / "ok" / "good.png").read_bytes()
    (source / "bad" / "cut.png").write_bytes(good[: len(good) // 2])
    (source / "bad" / "zero.png").touch()
    (source / "bad" / "notes.txt").write_text("x")
    (source / "index.csv").write_text("file,licence\nok/good.png,CC0\nok/gone.png,CC0\n")
    calls: list[tuple[int, int]] = []
    report = build_bank([source], tmp_path / "bank", progress=lambda done, total: calls.append((done, total)))
    assert report.num_objects == 2
    reasons = {item.source: item.reason for item in report.rejected}
    assert reasons.pop("bad/cut.png").startswith("damaged image: ")
    assert reasons == {
        "bad/clear.png": "transparent everywhere",
        "bad/faint.png": "too faint: alpha is nowhere one half or more",
        "bad/grey.png": "no alpha channel: mode L",
        "bad/grey16.png": "no alpha channel: mode I;16",
        "bad/grey16_key.png": "no alpha channel: a transparent colour in mode I;16 is not supported",
        "bad/moving.webp": "animated image",
        "bad/notes.txt": "not an image",
        "bad/opaque.png": "no alpha channel: mode RGB",
        "bad/text.png": "not an image",
        "bad/thin.png": "too small: 7x40 pixels, the least side is 8",
        "bad/zero.png": "empty file",
        "ok/gone.png": "missing file: listed in index.csv",
        "ok/twin.webp": "near-duplicate: of ok/good.png",
    }
    written = json.loads((tmp_path / "bank" / "report.json").read_text())["rejected"]
    assert written == [vars(item) for item in report.rejected]
    assert json.loads((tmp_path / "bank" / "bank.json").read_text())["num_rejected"] == len(written) == 14
    assert calls == [(0, 16), (16, 16)]


def test_bad_sources_and_options(tmp_path: Path) -> None:
    good, out = tmp_path / "good", tmp_path / "bank"
    save(good / "a" / "1.png", soft_rgba(9, 10))
    (tmp_path / "empty" / "class").mkdir(parents=True)
    save(tmp_path / "useless" / "a" / "1.png", np.zeros((9, 9, 4), np.uint8))

    def refused(message: str, *sources: str | Path, **options: object) -> None:
        with pytest.raises(UserError, match=message):
            build_bank(sources, out, **options)
        assert not out.exists() and not list(tmp_path.glob(".*"))

    refused("no object source given")
    refused("missing': no such file or folder", tmp_path / "missing")
    refused("1.png': unknown format; expected a folder, or an annotation", good / "a" / "1.png")
    refused("empty': the folder is empty", good, tmp_path / "empty")
    refused("useless': none of 1 items is usable, first a/1.png: transparent", good, tmp_path / "useless")
    refused("^object source 'builtin:shape': allowed are .*did you mean 'builtin:shapes'", "builtin:shape")
    refused("1 <= min_side <= max_side, got 8 and 4", good, cut=replace(SMALL, max_side=4))
    refused("seed must be in", good, seed=-1)
    refused("together at most 1, got 0.6 and 0.5", good, val_fraction=0.6, test_fraction=0.5)
    refused("together at most 1, got nan", good, val_fraction=float("nan"))
    (good / "index.csv").write_text("name,licence\n1.png,CC0\n")
    refused("index.csv: no column 'file'; its columns are name, licence", good)
    (good / "index.csv").write_bytes(b"file\n\xff\xfe\n")
    refused("index.csv: not a readable CSV file", good)


def test_only_a_bank_is_overwritten_and_only_with_overwrite(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "deep" / "bank"
    save(source / "a" / "1.png", soft_rgba(9, 10))
    build_bank([source], out)
    before = contents(out)
    with pytest.raises(UserError, match="bank' exists; choose another folder or overwrite it"):
        build_bank([source], out)
    save(source / "a" / "2.png", np.zeros((9, 9, 4), np.uint8))
    (source / "a" / "1.png").unlink()
    with pytest.raises(UserError, match="none of 1 items is usable"):
        build_bank([source], out, overwrite=True)
    assert contents(out) == before
    save(source / "a" / "3.png", soft_rgba(11, 10))
    build_bank([source], out, overwrite=True)
    assert ObjectBank.open(out).heights.tolist() == [11]
    assert [path.name for path in out.parent.iterdir()] == ["bank"]
    with pytest.raises(UserError, match="is not an object bank"):
        build_bank([source], source, overwrite=True)
    assert (source / "a" / "3.png").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stopped_build_continues(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(75):
        rgba = soft_rgba(9 + number % 4, 11, number % 70)
        save(tmp_path / "src" / f"class{number % 2}" / f"{number}.png", rgba)
    save(tmp_path / "src" / "class0" / "grey.png", np.zeros((9, 10), np.uint8))
    build_bank([tmp_path / "src"], tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bank([tmp_path / "src"], tmp_path / "bank", progress=stop, workers=workers)
    assert not (tmp_path / "bank").exists()
    # A kill while writing leaves half a batch of texels and half a line.
    part = tmp_path / ".bank.part"
    for name in ("texels.bin", "journal.jsonl"):
        with (part / name).open("ab") as file:
            file.write(b"{half")
    calls: list[int] = []
    build_bank([tmp_path / "src"], tmp_path / "bank", progress=lambda done, _: calls.append(done))
    assert calls[0] == 32
    assert contents(tmp_path / "bank") == contents(tmp_path / "whole")
    assert not part.exists()


def test_texels_lost_in_a_power_failure_are_made_again(tmp_path: Path) -> None:
    for number in range(40):
        save(tmp_path / "src" / "a" / f"{number}.png", soft_rgba(9, 11, number))
    build_bank([tmp_path / "src"], tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_bank([tmp_path / "src"], tmp_path / "bank", progress=stop)
    os.truncate(tmp_path / ".bank.part" / "texels.bin", 16 * 4 * 150)  # inside the second batch
    calls: list[int] = []
    build_bank([tmp_path / "src"], tmp_path / "bank", progress=lambda done, _: calls.append(done))
    assert calls[0] == 16
    assert contents(tmp_path / "bank") == contents(tmp_path / "whole")


def test_a_stopped_build_with_another_plan_starts_again(tmp_path: Path) -> None:
    for number in range(40):
        save(tmp_path / "src" / "a" / f"{number}.png", soft_rgba(9, 11, number))

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    def start(**options: object) -> int:
        calls: list[int] = []
        build_bank(
            [tmp_path / "src"], tmp_path / "bank", overwrite=True,
            progress=lambda done, _: calls.append(done), **options,
        )  # fmt: skip
        return calls[0]

    def stopped() -> None:
        with pytest.raises(KeyboardInterrupt):
            build_bank([tmp_path / "src"], tmp_path / "bank", overwrite=True, progress=stop)

    stopped()
    assert start(cut=replace(SMALL, feather=1.0)) == 0
    stopped()
    os.utime(tmp_path / "src" / "a" / "1.png", (1, 1))  # an image was changed in between
    assert start() == 0
    stopped()
    assert start() == 16


def test_a_full_disk_keeps_finished_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        save(tmp_path / "src" / "a" / f"{number}.png", soft_rgba(9, 11, number))
    append = _writer.BankWriter.append

    def full(writer: _writer.BankWriter, row: ObjectInfo, texels: bytes) -> None:
        if row.source == "a/25.png":  # in the second batch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(writer, row, texels)

    with monkeypatch.context() as patched:
        patched.setattr(_writer.BankWriter, "append", full)
        with pytest.raises(UserError, match="bank.part': cannot be written: No space left on device"):
            build_bank([tmp_path / "src"], tmp_path / "bank")
    calls: list[int] = []
    build_bank([tmp_path / "src"], tmp_path / "bank", progress=lambda done, _: calls.append(done))
    assert calls[0] == 16


def test_two_formats_of_one_name_are_refused() -> None:
    formats = [objects.FORMATS[name] for name in ("voc", "coco", "voc")]
    with pytest.raises(ValueError, match="two formats have the name 'voc'"):
        readers.registry(formats)
    assert list(readers.registry(formats[1:])) == ["coco", "voc"]


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "src" / "a" / "1.png", soft_rgba(9, 10))
    with monkeypatch.context() as patched:

        def read_only(*_: object, **__: object) -> None:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        patched.setattr(Path, "mkdir", read_only)  # root, who may run this, writes anywhere else
        with pytest.raises(UserError, match="^'.*bank.part': cannot be written: Read-only file system$"):
            build_bank([tmp_path / "src"], tmp_path / "bank")
    with pytest.raises(UserError, match="1.png/.bank.part': cannot be written: Not a directory"):
        build_bank([tmp_path / "src"], tmp_path / "src" / "a" / "1.png" / "bank")


def test_two_builds_of_one_bank_exclude_each_other(tmp_path: Path) -> None:
    save(tmp_path / "src" / "a" / "1.png", soft_rgba(9, 10))

    def second(done: int, total: int) -> None:
        with pytest.raises(UserError, match="another process is building this bank"):
            build_bank([tmp_path / "src"], tmp_path / "bank")

    build_bank([tmp_path / "src"], tmp_path / "bank", progress=second)
    assert len(ObjectBank.open(tmp_path / "bank")) == 1


def test_folders_links_and_class_names(tmp_path: Path) -> None:
    source = tmp_path / "zoo"
    save(source / "1.png", soft_rgba(8, 9))
    save(source / "big cat" / "lion" / "1.png", soft_rgba(8, 9, 1))
    save(tmp_path / "elsewhere" / "1.PNG", soft_rgba(8, 9, 2), format="PNG")
    os.symlink(tmp_path / "elsewhere", source / "linked")
    os.symlink(source, source / "big cat" / "loop")
    report = build_bank([source], tmp_path / "bank")
    assert [(item.source, item.reason) for item in report.rejected] == [
        ("big cat/loop", "a link to a folder that is listed already")
    ]
    bank = ObjectBank.open(tmp_path / "bank")
    assert [bank.info(i).class_name for i in range(3)] == ["zoo", "big cat/lion", "linked"]
    assert [bank.info(i).source for i in range(3)] == ["1.png", "big cat/lion/1.png", "linked/1.PNG"]


def test_exif_orientation_and_16_bit(tmp_path: Path) -> None:
    rgba = soft_rgba(8, 11)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    save(tmp_path / "src" / "a" / "1.png", np.rot90(rgba), exif=exif)
    (tmp_path / "src" / "a" / "2.png").write_bytes(png16(rgba.astype(np.uint16) * 257))
    palette = Image.fromarray(rgba).quantize(200)
    palette.save(tmp_path / "src" / "a" / "3.png")
    build_bank([tmp_path / "src"], tmp_path / "bank", cut=replace(SMALL, duplicate_distance=-1))
    bank = ObjectBank.open(tmp_path / "bank")
    assert bank.heights.tolist() == [8, 8, 8]
    np.testing.assert_array_equal(bank.texture(0).texels, bank.texture(1).texels)
    np.testing.assert_array_equal(bank.texture(2).level(0)[..., 3], np.array(palette.convert("RGBA"))[..., 3])


def test_crop_is_tight() -> None:
    rgba = np.zeros((9, 12, 4), np.uint8)
    rgba[2:6, 3:10] = soft_rgba(4, 7)
    rgba[1, 4, 3] = 1
    out = prepared(rgba, max_side=50)
    np.testing.assert_array_equal(out, rgba[1:6, 3:10])


def test_shrinking_is_exact_area_averaging() -> None:
    rgba = soft_rgba(9, 15)
    rgba[1:4, 2:9, 3] = 0
    out = prepared(rgba, max_side=7)
    assert out.shape == (4, 7, 4)
    # Repeat every pixel so that each new pixel covers whole ones: its mean is the area average.
    fine = rgba.repeat(4, axis=0).repeat(7, axis=1).astype(float)
    fine[..., :3] *= fine[..., 3:]
    mean = fine.reshape(4, 9, 7, 15, 4).mean(axis=(1, 3))
    mean[..., :3] /= np.maximum(mean[..., 3:], 1e-9)
    np.testing.assert_array_equal(out, np.floor(mean + 0.5).astype(np.uint8))


def test_hidden_colour_does_not_matter() -> None:
    rgba = soft_rgba(40, 30)
    rgba[10:20, 5:25, 3] = 0
    other = rgba.copy()
    other[10:20, 5:25, :3] = 255
    np.testing.assert_array_equal(prepared(rgba, max_side=13), prepared(other, max_side=13))


def test_hard_edges_are_softened_inwards() -> None:
    rgba = np.zeros((12, 20, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[2:10, 2:12, 3] = 255
    rgba[5, 12:18, 3] = 255  # a thread one pixel thick
    out = prepared(rgba, max_side=50)
    given, alpha = rgba[2:10, 2:18, 3], out[..., 3].astype(int)
    np.testing.assert_array_equal(alpha >= 128, given == 255)
    assert (alpha <= given).all()
    assert alpha[0, 5] == (255 * 80 + 70) // 140 and alpha[1, 5] == 255 and alpha[0, 0] == 128
    np.testing.assert_array_equal(out[..., :3], rgba[2:10, 2:18, :3])
    soft = rgba.copy()
    soft[2, 2, 3] = 254
    np.testing.assert_array_equal(prepared(soft, max_side=50), soft[2:10, 2:18])


def test_faint_object_is_rejected_after_shrinking() -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[::8, :, 3] = 255
    with pytest.raises(Reject, match="alpha is nowhere one half"):
        prepared(rgba, max_side=8)


def test_clean_edge_removes_the_old_background() -> None:
    rgb = np.full((9, 11, 3), 250, np.uint8)
    rgb[:, 5:] = (10, 60, 90)
    alpha = np.zeros((9, 11), np.uint8)
    alpha[:, 5:] = 255
    alpha[:, 4] = 120  # mixed with the bright surroundings
    cleaned = clean_edge(rgb, alpha)
    assert (cleaned[2:7, 4] == (10, 60, 90)).all() and (cleaned[2:7, 5:9] == (10, 60, 90)).all()
    assert (cleaned[:, :4] == 250).all()


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data")
def test_real_cutouts(tmp_path: Path) -> None:
    birds = DATA / "objects_rendered" / "bird"
    report = build_bank(
        [DATA / "objects_photo", birds], tmp_path / "bank", cut=CutOutOptions(max_side=64, min_side=8)
    )
    num_birds = len(list(birds.glob("*.png")))
    assert report.num_objects == 82 + num_birds and not report.rejected
    bank = ObjectBank.open(tmp_path / "bank")
    bank.verify()
    assert max(bank.heights.max(), bank.widths.max()) == 64
    assert len(bank.class_names) == 24
    assert len(bank.select(classes=["bird"])) > num_birds
    with (DATA / "objects_photo/index.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    splits: dict[str, set[str]] = {}
    for object_id in range(82):
        info = bank.info(object_id)
        assert info.licence == rows[info.source]["licence"]
        assert info.source_image == rows[info.source]["src_item"]
        splits.setdefault(info.source_image, set()).add(info.split)
    assert len(splits) < 82 and all(len(sides) == 1 for sides in splits.values())
