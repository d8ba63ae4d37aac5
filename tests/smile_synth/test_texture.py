import numpy as np
import pytest

from smile_synth.core.texture import Texture, level_sizes_hw


def test_levels_halve_down_to_one_texel() -> None:
    assert level_sizes_hw(5, 7) == [(5, 7), (3, 4), (2, 2), (1, 1)]
    assert level_sizes_hw(1, 9) == [(1, 9), (1, 5), (1, 3), (1, 2), (1, 1)]
    assert level_sizes_hw(1, 1) == [(1, 1)]


def test_colour_is_premultiplied_and_rounded_half_up() -> None:
    rgba = np.array([[[255, 3, 200, 128], [255, 255, 255, 0], [7, 8, 9, 255]]], np.uint8)
    # 3 * 128 / 255 = 1.506, 200 * 128 / 255 = 100.39
    expected = [[[128, 2, 100, 128], [0, 0, 0, 0], [7, 8, 9, 255]]]
    np.testing.assert_array_equal(Texture.from_straight_rgba(rgba).level(0), expected)


def test_a_level_is_the_mean_of_the_unrounded_level_before() -> None:
    values = np.array([[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 0]], np.uint8)
    rgba = np.stack([values, values, values, np.full_like(values, 255)], axis=-1)
    texture = Texture.from_straight_rgba(rgba)
    np.testing.assert_array_equal(texture.level(1)[..., 0], [[1, 1], [1, 0]])  # .5, .5, .5, .25
    assert texture.level(2)[0, 0, 0] == 0  # .4375, not the .75 of the rounded ones


def test_an_odd_side_is_padded_with_nothing_or_with_its_edge() -> None:
    rgba = np.full((1, 3, 4), (200, 100, 40, 255), np.uint8)
    transparent = Texture.from_straight_rgba(rgba).level(1)
    np.testing.assert_array_equal(transparent, [[[100, 50, 20, 128], [50, 25, 10, 64]]])
    edge = Texture.from_straight_rgba(rgba, pad="edge").level(1)
    np.testing.assert_array_equal(edge, [[[200, 100, 40, 255], [200, 100, 40, 255]]])


def test_levels_are_views_that_follow_one_another() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    texture = Texture.from_straight_rgba(rgba)
    assert texture.texels.shape == (35 + 12 + 4 + 1, 4)
    np.testing.assert_array_equal(texture.level(2).reshape(-1, 4), texture.texels[47:51])
    assert np.shares_memory(texture.level(1), texture.texels)


@pytest.mark.parametrize(
    "rgba",
    [
        np.zeros((5, 7, 3), np.uint8),
        np.zeros((5, 7), np.uint8),
        np.zeros((5, 7, 4), np.float32),
        np.zeros((0, 7, 4), np.uint8),
    ],
)
def test_anything_but_rgba_pixels_is_refused(rgba: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 4\]"):
        Texture.from_straight_rgba(rgba)


def test_texels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="a 5x7 texture has 52 uint8 RGBA texels"):
        Texture(np.zeros((51, 4), np.uint8), 5, 7)
