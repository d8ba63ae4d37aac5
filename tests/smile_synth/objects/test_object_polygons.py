import tracemalloc

import numpy as np
import pytest

from smile_synth.objects import _polygons
from smile_synth.objects._polygons import coverage, union_coverage


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def test_a_rectangle_covers_its_pixels_by_area() -> None:
    along_x = np.clip(np.arange(1, 11) - 2.5, 0, 1) - np.clip(np.arange(1, 11) - 7.5, 0, 1)
    along_y = np.clip(np.arange(1, 12) - 3.25, 0, 1) - np.clip(np.arange(1, 12) - 9.0, 0, 1)
    expected = np.floor(np.outer(along_y, along_x) * 255 + 0.5)
    np.testing.assert_array_equal(union_coverage([box(2.5, 3.25, 7.5, 9.0)], 11, 10), expected)
    assert expected[5, 2] == expected[5, 7] == 128 and expected[3, 4] == 191


def test_simple_rings_agree_with_the_outlines_of_built_in_objects() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        angle = (np.arange(9) + rng.random(9)) / 9 * 2 * np.pi
        radius = rng.uniform(2, 9, 9)
        ring = np.stack([8 + radius * np.cos(angle), 7 + radius * np.sin(angle)], axis=1)
        for given in (ring, ring[::-1]):
            np.testing.assert_allclose(
                union_coverage([given], 12, 13).astype(int), coverage([ring], 12, 13), atol=1
            )


def test_rings_are_united_and_may_cross_themselves() -> None:
    left, right = box(1, 1, 4.5, 3), box(3.25, 1, 6, 3)[::-1]
    np.testing.assert_array_equal(
        union_coverage([left, right], 4, 7), union_coverage([box(1, 1, 6, 3)], 4, 7)
    )
    half_each = union_coverage([box(2.25, 0, 2.5, 1), box(2.5, 0, 2.75, 1)], 1, 4)
    np.testing.assert_array_equal(half_each, [[0, 0, 128, 0]])
    hourglass = np.array([[0, 0], [6, 0], [0, 8], [6, 8]], float)
    assert union_coverage([hourglass], 8, 6).sum() / 255 == pytest.approx(24, abs=0.05)
    # A hole, joined to the outside by a cut that is walked both ways.
    keyhole = np.array(
        [[0, 0], [7, 0], [7, 5], [0, 5], [0, 2], [2, 2], [2, 4], [5, 4], [5, 1], [2, 1], [2, 2], [0, 2]]
    )
    expected = np.full((5, 7), 255)
    expected[1:4, 2:5] = 0
    np.testing.assert_array_equal(union_coverage([keyhole.astype(float)], 5, 7), expected)


def test_rings_may_leave_the_image() -> None:
    np.testing.assert_array_equal(union_coverage([box(-1e30, -4, 1.5, 1e30)], 2, 3), [[255, 128, 0]] * 2)
    assert not union_coverage([box(5, 7, 6, 9)], 2, 3).any()


def test_bands_of_rows_give_the_same_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = np.array([[3, 2], [290, 40], [250, 180], [11, 199]], float)
    whole = union_coverage([ring], 200, 300)
    monkeypatch.setattr(_polygons, "BAND_VALUES", 1000)
    np.testing.assert_array_equal(union_coverage([ring], 200, 300), whole)
    tracemalloc.start()
    union_coverage([ring * 4], 800, 1200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 800 * 1200 * 1.2
