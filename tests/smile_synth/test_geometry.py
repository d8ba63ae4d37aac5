import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smile_synth.core import geometry

COORDINATE = st.floats(-1e4, 1e4)


def test_a_quarter_turn_is_clockwise_on_the_screen() -> None:
    right = [[1.0, 0.0]]
    np.testing.assert_allclose(geometry.apply(geometry.rotation(90), right), [[0.0, 1.0]], atol=1e-15)


def test_compose_applies_its_last_argument_first() -> None:
    pose = geometry.compose(
        geometry.translation([10, 20]),
        geometry.rotation(90),
        geometry.scaling([2, 3]),
        geometry.translation([1, 1]),
    )
    # (4, 5) -> (5, 6) -> (10, 18) -> (-18, 10) -> (-8, 30)
    np.testing.assert_allclose(geometry.apply(pose, [[4.0, 5.0]]), [[-8.0, 30.0]], atol=1e-12)


def test_builders_work_on_batches() -> None:
    angles = np.array([[0.0, 30.0, 60.0], [90.0, 120.0, 150.0]])
    batch = geometry.rotation(angles)
    assert batch.shape == (2, 3, 3, 3)
    np.testing.assert_array_equal(batch[1, 2], geometry.rotation(150.0))
    offsets = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(geometry.translation(offsets)[2], geometry.translation([4, 5]))
    np.testing.assert_array_equal(geometry.scaling(offsets)[2], geometry.scaling([4, 5]))


@given(COORDINATE, COORDINATE, st.floats(-720, 720), st.floats(0.01, 100), st.floats(0.01, 100))
def test_invert_undoes_a_transform(
    x: float, y: float, degrees: float, scale_x: float, scale_y: float
) -> None:
    pose = geometry.compose(
        geometry.translation([x, y]), geometry.rotation(degrees), geometry.scaling([scale_x, scale_y])
    )
    points = np.array([[0.0, 0.0], [3.0, -7.0], [x, y]])
    there_and_back = geometry.apply(geometry.invert(pose), geometry.apply(pose, points))
    np.testing.assert_allclose(there_and_back, points, atol=1e-7)


def test_invert_refuses_a_transform_that_squashes() -> None:
    with pytest.raises(ValueError, match="singular"):
        geometry.invert(geometry.scaling([1, 0]))


def test_points_behind_the_horizon_have_no_image() -> None:
    tilted = np.eye(3)
    tilted[2, 0] = -0.5  # the horizon is the line x = 2
    mapped = geometry.apply(tilted, [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]])
    np.testing.assert_allclose(mapped[0], [2.0, 2.0])
    assert np.isnan(mapped[1:]).all()


def test_apply_maps_each_batch_entry_with_its_own_transform() -> None:
    transforms = geometry.translation([[1, 0], [0, 2]])
    points = np.array([[1.0, 1.0], [5.0, 7.0], [0.0, 0.0]])
    mapped = geometry.apply(transforms, points)
    assert mapped.shape == (2, 3, 2)
    np.testing.assert_array_equal(mapped[1], points + [0, 2])


def test_affine_is_the_product_of_its_parts() -> None:
    center, scale, shear, middle = np.array([[3.0, 4.0], [2.0, 5.0], [0.5, 0.25], [1.0, 7.0]])
    shearing = np.array([[1, 0.5, 0], [0.25, 1, 0], [0, 0, 1]])
    expected = geometry.compose(
        geometry.translation(center),
        geometry.rotation(30),
        shearing,
        geometry.scaling(scale),
        geometry.translation(-middle),
    )
    found = geometry.affine(center, np.array(30.0), scale, shear, middle)
    np.testing.assert_allclose(found, expected, atol=1e-12)
