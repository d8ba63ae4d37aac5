import io
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile_synth.backgrounds import BackgroundFolder, _index, write_images
from smile_synth.core.cache import cache_folder
from smile_synth.core.errors import UserError


def image(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    image(5, 7).save(tmp_path / "b.png")
    image(9, 4, seed=1).save(tmp_path / "sub" / "a.BMP")
    image(3, 3, seed=2).save(tmp_path / "c.jpg")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_images_are_listed_by_path_with_their_sizes(folder: Path) -> None:
    images = BackgroundFolder(folder)
    assert [file.name for file in images.files] == ["b.png", "c.jpg", "a.BMP"]
    assert images.sizes_hw == [(5, 7), (3, 3), (9, 4)]
    assert len(images) == 3 and images.unreadable == []


def test_a_texture_is_the_opaque_image_padded_by_its_edge(folder: Path) -> None:
    texture = BackgroundFolder(folder).texture(0)
    expected = np.array(image(5, 7))
    np.testing.assert_array_equal(texture.level(0)[..., :3], expected)
    assert (texture.texels[:, 3] == 255).all()
    # 5 x 7 halves to 3 x 4; the last texel is a copy of the corner.
    np.testing.assert_array_equal(texture.level(1)[2, 3, :3], expected[4, 6])


def test_the_camera_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    image(5, 7).save(tmp_path / "a.png", exif=exif)
    images = BackgroundFolder(tmp_path)
    assert images.sizes_hw == [(7, 5)]
    np.testing.assert_array_equal(images.texture(0).level(0)[..., :3], np.rot90(np.array(image(5, 7)), -1))


def test_the_digest_is_of_names_and_contents_not_of_the_place(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digest = BackgroundFolder(folder).digest
    copy = tmp_path_factory.mktemp("copy") / "elsewhere"
    shutil.copytree(folder, copy)
    assert BackgroundFolder(copy).digest == digest
    (copy / "b.png").rename(copy / "bb.png")
    renamed = BackgroundFolder(copy).digest
    image(5, 7, seed=5).save(copy / "bb.png")
    assert len({digest, renamed, BackgroundFolder(copy).digest}) == 3


def test_unreadable_files_are_skipped_and_listed(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    images = BackgroundFolder(folder)
    assert len(images) == 3
    assert [file.name for file, _ in images.unreadable] == ["broken.png"]
    assert images.unreadable[0][1] == "not an image"


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backgrounds '.*nowhere': no such folder or list"):
        BackgroundFolder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"expected images or videos \(\.jpg, .*\), found none"):
        BackgroundFolder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="found 1 unreadable ones"):
        BackgroundFolder(tmp_path)


def test_an_image_that_changed_or_was_removed_is_refused(folder: Path) -> None:
    images = BackgroundFolder(folder)
    image(5, 8).save(folder / "b.png")
    with pytest.raises(UserError, match=r"b\.png': has changed since the folder was opened"):
        images.texture(0)
    (folder / "c.jpg").unlink()
    with pytest.raises(UserError, match=r"c\.jpg': can no longer be read"):
        images.texture(1)
    data = (folder / "sub" / "a.BMP").read_bytes()
    (folder / "sub" / "a.BMP").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.BMP': can no longer be read"):
        images.texture(2)


def test_textures_are_cached_up_to_a_limit(folder: Path) -> None:
    images = BackgroundFolder(folder, cache_bytes=1)
    first = images.texture(0)
    assert images.texture(0) is first
    images.texture(1)
    assert images.texture(0) is not first
    roomy = BackgroundFolder(folder)
    assert roomy.texture(2) is roomy.texture(2)


def test_a_copy_for_a_worker_starts_with_an_empty_cache(folder: Path) -> None:
    images = BackgroundFolder(folder)
    images.texture(0)
    size = len(pickle.dumps(images))
    copy = pickle.loads(pickle.dumps(images))
    assert copy.digest == images.digest and copy.sizes_hw == images.sizes_hw
    images.texture(2)
    assert len(pickle.dumps(images)) == size


def test_generated_images_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_images(tmp_path / name, count=4, seed=seed, size=24)
    names = ["000-one-over-f.png", "001-gradient.png", "002-dead-leaves.png", "003-one-over-f.png"]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == names
    for name in names:
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b and a != c
    assert BackgroundFolder(tmp_path / "a").sizes_hw == [(24, 24)] * 4
    shades = [np.unique(np.array(Image.open(tmp_path / "a" / name)).reshape(-1, 3), axis=0) for name in names]
    assert min(len(colors) for colors in shades) > 20


def test_more_generated_images_do_not_change_the_first_ones(tmp_path: Path) -> None:
    write_images(tmp_path / "few", count=2, seed=3, size=16)
    write_images(tmp_path / "many", count=5, seed=3, size=16)
    for file in (tmp_path / "few").iterdir():
        assert (tmp_path / "many" / file.name).read_bytes() == file.read_bytes()


# --- bad and odd images


def test_unusual_image_modes_are_converted(tmp_path: Path) -> None:
    gray = np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800
    Image.fromarray(gray).save(tmp_path / "16-bit.png")
    Image.new("CMYK", (7, 5), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    palette = Image.new("P", (7, 5), 1)
    palette.putpalette([0, 0, 0, 9, 99, 199])
    palette.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    image(5, 7).save(tmp_path / "ein Bild für München ☂.png")
    images = BackgroundFolder(tmp_path)
    assert images.unreadable == []
    seen = {file.name: images.texture(i).level(0)[..., :3] for i, file in enumerate(images.files)}
    np.testing.assert_array_equal(seen["16-bit.png"][..., 2], gray >> 8)
    assert np.abs(seen["cmyk.jpg"].astype(int) - [255, 0, 0]).max() < 8
    assert (seen["palette.png"] == [9, 99, 199]).all()
    np.testing.assert_array_equal(seen["ein Bild für München ☂.png"], np.array(image(5, 7)))


def huge_png() -> bytes:
    """A PNG whose header promises 20000 x 20000 pixels."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "png")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", 20_000, 20_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_every_bad_image_has_one_clear_line(folder: Path) -> None:
    whole = (folder / "c.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "huge.png").write_bytes(huge_png())
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "sub" / "again").symlink_to(folder)
    images = BackgroundFolder(folder)
    assert len(images) == 3
    told = {file.name: reason for file, reason in images.unreadable}
    assert told.pop("cut.jpg").startswith("damaged image: ")
    assert told == {
        "again": "is a link to a folder that is listed already",
        "empty.png": "empty file",
        "gone.png": "missing file",
        "huge.png": "image too large: more than 90 million pixels",
        "loop.png": "unreadable file: Too many levels of symbolic links",
    }
    assert not any("\n" in reason for _, reason in images.unreadable)


# --- lists


def test_a_list_is_relative_to_its_own_folder_and_keeps_its_order(folder: Path) -> None:
    (folder / "sub" / "list.txt").write_text("# two\n../c.jpg\n\n  a.BMP \n../missing.png\n../sub\n")
    images = BackgroundFolder(folder / "sub" / "list.txt")
    assert [file.name for file in images.files] == ["c.jpg", "a.BMP"]
    assert [reason for _, reason in images.unreadable] == [
        "missing file",
        "is a folder",
    ]
    np.testing.assert_array_equal(images.texture(1).level(0)[..., :3], np.array(image(9, 4, seed=1)))
    with pytest.raises(UserError, match="expected a folder or a text file of paths"):
        BackgroundFolder(folder / "b.png")


# --- the cached index


def age(*files: Path) -> None:
    """Make files old enough for the index to use their times."""
    for file in files:
        os.utime(file, ns=(10**18, 10**18))


def test_opening_again_inspects_only_changed_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    age(*(file for file in folder.rglob("*") if file.is_file()))
    first = BackgroundFolder(folder)
    inspected: list[str] = []
    inspect = _index._inspect
    monkeypatch.setattr(_index, "_inspect", lambda file: inspected.append(file.name) or inspect(file))
    again = BackgroundFolder(folder)
    assert inspected == []
    assert (again.digest, again.sizes_hw, again.unreadable) == (
        first.digest,
        first.sizes_hw,
        first.unreadable,
    )
    image(6, 7).save(folder / "b.png")
    changed = BackgroundFolder(folder)
    assert inspected == ["b.png"] and changed.sizes_hw[0] == (6, 7) and changed.digest != first.digest
    BackgroundFolder(folder)
    assert inspected == ["b.png", "b.png"]  # too young: it may change again at the same time


def test_two_lists_in_one_folder_keep_their_own_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(*(file for file in folder.rglob("*") if file.is_file()))
    lists = [folder / "train.txt", folder / "val.txt"]
    lists[0].write_text("b.png\nsub/a.BMP\n")
    lists[1].write_text("c.jpg\n")
    first = [BackgroundFolder(path).digest for path in lists]
    inspected: list[Path] = []
    monkeypatch.setattr(_index, "_inspect", inspected.append)
    assert [BackgroundFolder(path).digest for path in lists] == first
    assert inspected == []


def test_equality_and_repr(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    copy = tmp_path_factory.mktemp("copy") / "elsewhere"
    shutil.copytree(folder, copy)
    images = BackgroundFolder(folder)
    assert images == BackgroundFolder(copy) and hash(images) == hash(BackgroundFolder(copy))
    assert repr(images) == f"BackgroundFolder('{folder}', 3 images, 0 videos)"
    (copy / "b.png").unlink()
    assert images != BackgroundFolder(copy) and images != "another type"


@pytest.mark.parametrize("harm", ["{", '{"format": 0}', '{"format": 2, "files": {"b.png": 3}}', "[]"])
def test_a_broken_cache_is_ignored(folder: Path, harm: str) -> None:
    age(*(file for file in folder.rglob("*") if file.is_file()))
    digest = BackgroundFolder(folder).digest
    for file in (cache_folder() / "backgrounds").iterdir():
        file.write_text(harm)
    assert BackgroundFolder(folder).digest == digest


def test_a_cache_that_cannot_be_written_is_ignored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    blocked = tmp_path_factory.mktemp("blocked") / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("SMILE_CACHE", str(blocked))
    assert len(BackgroundFolder(folder)) == 3
    assert blocked.read_text() == "no folder"


def test_the_environment_sets_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMILE_CACHE", "/a")
    assert cache_folder() == Path("/a")
    monkeypatch.delenv("SMILE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_folder() == Path("/b/smile-video")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert cache_folder() == Path("/c/.cache/smile-video")


def test_progress_counts_the_files_that_are_inspected(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    BackgroundFolder(folder, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
