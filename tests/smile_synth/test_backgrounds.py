import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile_synth.backgrounds import ImageFolder, write_pictures
from smile_synth.errors import UserError


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    picture(5, 7).save(tmp_path / "b.png")
    picture(9, 4, seed=1).save(tmp_path / "sub" / "a.BMP")
    picture(3, 3, seed=2).save(tmp_path / "c.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_pictures_are_listed_by_path_with_their_sizes(folder: Path) -> None:
    images = ImageFolder(folder)
    assert [file.name for file in images.files] == ["b.png", "c.jpg", "a.BMP"]
    assert images.sizes_hw == [(5, 7), (3, 3), (9, 4)]
    assert len(images) == 3 and images.unreadable == []


def test_a_texture_is_the_opaque_picture_padded_by_its_edge(folder: Path) -> None:
    texture = ImageFolder(folder).texture(0)
    expected = np.array(picture(5, 7))
    np.testing.assert_array_equal(texture.level(0)[..., :3], expected)
    assert (texture.texels[:, 3] == 255).all()
    # 5 x 7 halves to 3 x 4; the last texel is a copy of the corner.
    np.testing.assert_array_equal(texture.level(1)[2, 3, :3], expected[4, 6])


def test_the_camera_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    picture(5, 7).save(tmp_path / "a.png", exif=exif)
    images = ImageFolder(tmp_path)
    assert images.sizes_hw == [(7, 5)]
    np.testing.assert_array_equal(images.texture(0).level(0)[..., :3], np.rot90(np.array(picture(5, 7)), -1))


def test_the_digest_is_of_names_and_contents_not_of_the_place(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digest = ImageFolder(folder).digest
    copy = tmp_path_factory.mktemp("copy") / "elsewhere"
    shutil.copytree(folder, copy)
    assert ImageFolder(copy).digest == digest
    (copy / "b.png").rename(copy / "bb.png")
    renamed = ImageFolder(copy).digest
    picture(5, 7, seed=5).save(copy / "bb.png")
    assert len({digest, renamed, ImageFolder(copy).digest}) == 3


def test_unreadable_files_are_left_out_and_listed(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    images = ImageFolder(folder)
    assert len(images) == 3
    assert [file.name for file, _ in images.unreadable] == ["broken.png"]
    assert "cannot identify image" in images.unreadable[0][1]


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backgrounds '.*nowhere': no such folder"):
        ImageFolder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"expected pictures \(\.jpg, .*\), found none"):
        ImageFolder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="found 1 unreadable ones"):
        ImageFolder(tmp_path)


def test_a_picture_that_changed_or_went_is_refused(folder: Path) -> None:
    images = ImageFolder(folder)
    picture(5, 8).save(folder / "b.png")
    with pytest.raises(UserError, match=r"b\.png': has changed since the folder was opened"):
        images.texture(0)
    (folder / "c.jpg").unlink()
    with pytest.raises(UserError, match=r"c\.jpg': cannot be read"):
        images.texture(1)
    data = (folder / "sub" / "a.BMP").read_bytes()
    (folder / "sub" / "a.BMP").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"a\.BMP': cannot be read"):
        images.texture(2)


def test_textures_are_kept_up_to_a_bound(folder: Path) -> None:
    images = ImageFolder(folder, cache_bytes=1)
    first = images.texture(0)
    assert images.texture(0) is first
    images.texture(1)
    assert images.texture(0) is not first
    roomy = ImageFolder(folder)
    assert roomy.texture(2) is roomy.texture(2)


def test_a_copy_for_a_worker_starts_with_an_empty_cache(folder: Path) -> None:
    images = ImageFolder(folder)
    images.texture(0)
    size = len(pickle.dumps(images))
    copy = pickle.loads(pickle.dumps(images))
    assert copy.digest == images.digest and copy.sizes_hw == images.sizes_hw
    images.texture(2)
    assert len(pickle.dumps(images)) == size


def test_drawn_pictures_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_pictures(tmp_path / name, count=4, seed=seed, size=24)
    names = ["000-one-over-f.png", "001-gradient.png", "002-dead-leaves.png", "003-one-over-f.png"]
    assert sorted(file.name for file in (tmp_path / "a").iterdir()) == names
    for name in names:
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b and a != c
    assert ImageFolder(tmp_path / "a").sizes_hw == [(24, 24)] * 4
    shades = [np.unique(np.array(Image.open(tmp_path / "a" / name)).reshape(-1, 3), axis=0) for name in names]
    assert min(len(colors) for colors in shades) > 20


def test_more_drawn_pictures_leave_the_first_as_they_were(tmp_path: Path) -> None:
    write_pictures(tmp_path / "few", count=2, seed=3, size=16)
    write_pictures(tmp_path / "many", count=5, seed=3, size=16)
    for file in (tmp_path / "few").iterdir():
        assert (tmp_path / "many" / file.name).read_bytes() == file.read_bytes()
