import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from cutting import save

from smile_synth.core.errors import UserError
from smile_synth.core.texture import Texture
from smile_synth.objects import CutOutOptions, ObjectBank, ObjectInfo, build_bank


def soft_rgba(height: int, width: int, seed: int) -> np.ndarray:
    """Random colours; alpha without zeros and of many values, so that nothing is cropped or softened."""
    rng = np.random.default_rng(seed)
    rgba = rng.integers(0, 256, (height, width, 4), np.uint8)
    rgba[..., 3] = rng.integers(100, 256, (height, width), np.uint8)
    return rgba


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    save(folder / "cat" / "1.png", soft_rgba(5, 7, 1))
    save(folder / "cat" / "2.png", soft_rgba(6, 4, 2))
    save(folder / "animal" / "dog" / "1.png", soft_rgba(8, 3, 3))
    return folder


def build(source: Path, out: Path, **options: object) -> ObjectBank:
    build_bank([source], out, cut=CutOutOptions(min_side=1), **options)
    return ObjectBank.open(out)


def test_texels_read_back(source: Path, tmp_path: Path) -> None:
    bank = build(source, tmp_path / "bank")
    assert len(bank) == 3
    assert bank.class_names == ["animal/dog", "cat"]
    assert bank.class_ids.tolist() == [0, 1, 1] and bank.class_ids.dtype == np.int32
    assert bank.heights.tolist() == [8, 5, 6] and bank.widths.tolist() == [3, 7, 4]
    assert bank.heights.dtype == bank.widths.dtype == np.int32
    for object_id, rgba in enumerate([soft_rgba(8, 3, 3), soft_rgba(5, 7, 1), soft_rgba(6, 4, 2)]):
        texture = bank.texture(object_id)
        expected = Texture.from_straight_rgba(rgba)
        assert (texture.height, texture.width) == rgba.shape[:2]
        np.testing.assert_array_equal(texture.texels, expected.texels)
        alpha = rgba[..., 3:].astype(float)
        np.testing.assert_array_equal(
            texture.level(0)[..., :3], np.floor(rgba[..., :3] * (alpha / 255) + 0.5).astype(np.uint8)
        )
    assert np.shares_memory(bank.texture(1).texels, bank.texels)
    assert not bank.texture(1).texels.flags.writeable
    assert bank.texels.shape == (bank.texel_offsets[-1], 4)


def test_info(source: Path, tmp_path: Path) -> None:
    (source / "index.csv").write_text(
        "file,licence,src_item\ncat/1.png,CC BY 2.0,photo.jpg\nanimal/dog/1.png,,photo.jpg\n"
    )
    bank = build(source, tmp_path / "bank")
    info = bank.info(1)
    assert info == ObjectInfo(
        object_id=1,
        class_name="cat",
        height=5,
        width=7,
        texel_offset=8 * 3 + 4 * 2 + 2 * 1 + 1,
        source="cat/1.png",
        source_image="photo.jpg",
        image_key="photo.jpg",
        annotation_id="",
        licence="CC BY 2.0",
        split=info.split,
        original_height=5,
        original_width=7,
        fill=round(float(soft_rgba(5, 7, 1)[..., 3].mean()) / 255, 4),
        thickness=info.thickness,
        truncation=0.0,
        covered=0.0,
        largest_part=info.largest_part,
        perceptual_hash=info.perceptual_hash,
        content_sha256=info.content_sha256,
        attributes="{}",
    )
    assert bank.info(np.int64(2)).source_image == "cat/2.png"
    assert bank.info(2).licence == "" and bank.info(0).source_image == "photo.jpg"
    for ask in (bank.info, bank.texture):
        for wrong in (-1, 3):
            with pytest.raises(ValueError, match=f"object_id must be in 0..2, got {wrong}"):
                ask(wrong)


def test_select(source: Path, tmp_path: Path) -> None:
    bank = build(source, tmp_path / "bank", val_fraction=0.0, test_fraction=0.0)
    everything = bank.select()
    assert everything.tolist() == [0, 1, 2] and everything.dtype == np.int64
    assert bank.select(classes=["cat"]).tolist() == [1, 2]
    assert bank.select(split="train", classes=["cat", "animal/dog"]).tolist() == [0, 1, 2]
    with pytest.raises(UserError, match=r"has no class 'cats'; did you mean 'cat'\?"):
        bank.select(classes=["cats"])
    with pytest.raises(UserError, match=r"has no object of the classes cat in split 'val'"):
        bank.select(split="val", classes=["cat"])
    with pytest.raises(UserError, match=r"has no object of the classes \(none given\)"):
        bank.select(classes=[])
    with pytest.raises(UserError, match="split 'training': allowed are train, val, test"):
        bank.select(split="training")


def test_equality_and_repr(source: Path, tmp_path: Path) -> None:
    bank = build(source, tmp_path / "bank", val_fraction=0.0, test_fraction=0.0)
    again = build(source, tmp_path / "again", val_fraction=0.0, test_fraction=0.0)
    other = build(source, tmp_path / "other", val_fraction=1.0, test_fraction=0.0)
    assert bank == again and hash(bank) == hash(again) and bank != other and bank != "another type"
    assert repr(bank) == f"ObjectBank('{tmp_path / 'bank'}', 3 objects, 2 classes)"
    selection = bank.selection(balance="class-balanced")
    assert selection == selection and len({selection, bank.selection()}) == 2
    assert repr(selection) == "Selection(ids=[3], uniform=False)"


def test_pickle_maps_the_file_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bank = build(source, Path("bank"))
    data = pickle.dumps(bank)
    assert len(data) < 500
    monkeypatch.chdir(source)
    copy = pickle.loads(data)
    assert copy.digest == bank.digest and copy.path == str(tmp_path / "bank")
    np.testing.assert_array_equal(copy.texels, bank.texels)
    save(source / "cat" / "3.png", soft_rgba(3, 5, 9))
    build(source, tmp_path / "bank", overwrite=True)
    with pytest.raises(UserError, match="was rebuilt while in use"):
        pickle.loads(data)


def test_digest_depends_on_pixels_classes_and_splits_only(source: Path, tmp_path: Path) -> None:
    first = build(source, tmp_path / "a").digest
    elsewhere = tmp_path / "other" / "name"
    shutil.copytree(source, elsewhere)
    assert build(elsewhere, tmp_path / "b").digest == first

    rgba = soft_rgba(5, 7, 1)
    rgba[4, 6, 2] ^= 128
    save(elsewhere / "cat" / "1.png", rgba)
    assert build(elsewhere, tmp_path / "c").digest != first

    renamed = tmp_path / "renamed"
    shutil.copytree(source, renamed)
    (renamed / "cat").rename(renamed / "lynx")
    bank = build(renamed, tmp_path / "d", test_fraction=1.0, val_fraction=0.0)
    same_split = build(source, tmp_path / "e", test_fraction=1.0, val_fraction=0.0)
    np.testing.assert_array_equal(bank.texels, same_split.texels)
    assert bank.digest != same_split.digest
    assert same_split.digest != first


def test_open_refuses_other_folders_and_damaged_banks(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere': no such folder"):
        ObjectBank.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="is not an object bank: it has no readable bank.json"):
        ObjectBank.open(source)
    out = tmp_path / "bank"
    build(source, out)
    with pytest.raises(UserError, match="texels.bin': not a folder"):
        ObjectBank.open(out / "texels.bin")

    header = (out / "bank.json").read_text()
    (out / "bank.json").write_text(header.replace('"format_version": 2', '"format_version": 9'))
    with pytest.raises(UserError, match="has the format smile-object-bank 9, expected smile-object-bank 2"):
        ObjectBank.open(out)
    (out / "bank.json").write_text("[3]")
    with pytest.raises(UserError, match="is not an object bank"):
        ObjectBank.open(out)
    (out / "bank.json").write_text(header)

    texels = (out / "texels.bin").read_bytes()
    (out / "texels.bin").write_bytes(texels[:-3])
    with pytest.raises(UserError, match=f"texels.bin has {len(texels) - 3} bytes, expected {len(texels)}"):
        ObjectBank.open(out)
    (out / "texels.bin").write_bytes(texels)

    index = (out / "index.parquet").read_bytes()
    table = pyarrow.parquet.ParquetFile(out / "index.parquet").read()
    pyarrow.parquet.write_table(table.slice(1), out / "index.parquet")
    with pytest.raises(UserError, match="index.parquet does not match bank.json"):
        ObjectBank.open(out)
    (out / "index.parquet").write_bytes(index[:40])
    with pytest.raises(UserError, match="is damaged"):
        ObjectBank.open(out)
    (out / "index.parquet").unlink()
    with pytest.raises(UserError, match="is damaged"):
        ObjectBank.open(out)
    (out / "index.parquet").write_bytes(index)
    ObjectBank.open(out)


def test_index_of_several_row_groups_is_read_on_first_use(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "bank"
    whole = build(source, out, val_fraction=0.5)
    table = whole.index
    assert table["class_name"].to_pylist() == ["animal/dog", "cat", "cat"]
    # One row group per object, so that every one brings a dictionary of its own.
    pyarrow.parquet.write_table(table, out / "index.parquet", row_group_size=1)
    pieces = ObjectBank.open(out)
    assert pieces.digest == whole.digest and pieces.class_names == whole.class_names
    np.testing.assert_array_equal(pieces.class_ids, whole.class_ids)
    assert [pieces.info(i) for i in range(3)] == [whole.info(i) for i in range(3)]

    opened = [ObjectBank.open(out), ObjectBank.open(out)]
    build(source, out, test_fraction=1.0, val_fraction=0.0, overwrite=True)
    with pytest.raises(UserError, match="was rebuilt while in use"):
        opened[0].info(0)
    (out / "index.parquet").unlink()
    with pytest.raises(UserError, match="is damaged"):
        opened[1].info(0)


def test_verify_finds_a_changed_texel(source: Path, tmp_path: Path) -> None:
    bank = build(source, tmp_path / "bank")
    bank.verify()
    texels = bytearray((tmp_path / "bank" / "texels.bin").read_bytes())
    texels[4 * bank.texel_offsets[1] + 5] ^= 1
    (tmp_path / "bank" / "texels.bin").write_bytes(texels)
    with pytest.raises(UserError, match="texels of object 1"):
        ObjectBank.open(tmp_path / "bank").verify()


def test_header_lists_the_sources(source: Path, tmp_path: Path) -> None:
    bank = build(source, tmp_path / "bank")
    header = json.loads((tmp_path / "bank" / "bank.json").read_text())
    assert header == {
        "format": "smile-object-bank",
        "format_version": 2,
        "num_objects": 3,
        "num_rejected": 0,
        "digest": bank.digest,
        "sources": [{"given": str(source), "format": "rgba", "num_objects": 3, "num_rejected": {}}],
    }
