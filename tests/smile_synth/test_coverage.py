from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from smile_synth.compositing._oracle import _sample_layer
from smile_synth.core import geometry
from smile_synth.core.coverage import layer_views, level_of_detail, level_start
from smile_synth.scene import Solid, StoredImage
from smile_synth.sources import Sources

GROUND = Solid((0, 0, 0))


def test_the_level_is_half_the_log_of_texels_per_pixel() -> None:
    scales = [[1, 1], [0.5, 0.5], [0.25, 1.0], [0.2, 0.2], [8, 8]]
    levels = level_of_detail(geometry.scaling(scales), 40, 64)
    np.testing.assert_allclose(levels, [0, 1, 1, np.log2(5), 0], atol=1e-12)


def test_the_level_does_not_depend_on_place_rotation_or_shear() -> None:
    shear = np.eye(3)
    shear[0, 1] = 0.7
    turned = geometry.compose(
        geometry.translation([100, -30]), geometry.rotation(37), shear, geometry.scaling([0.3, 0.2])
    )
    np.testing.assert_allclose(level_of_detail(turned[None], 40, 64), [-0.5 * np.log2(0.06)])


def test_the_level_ends_at_the_last_mip_level() -> None:
    tiny = geometry.scaling([[1e-3, 1e-3]])
    assert level_of_detail(tiny, 40, 64).tolist() == [6.0]
    assert level_of_detail(tiny, 1, 1).tolist() == [0.0]


def test_under_perspective_the_level_is_that_of_the_middle() -> None:
    tilted = np.eye(3)
    tilted[2, 0] = 1 / 64  # w is 1.5 in the middle of 64 columns
    points = np.array([[32.0, 20.0], [32.001, 20.0], [32.0, 20.001]])
    mapped = geometry.apply(tilted, points)
    area = abs(np.linalg.det((mapped[1:] - mapped[0]) / 0.001))
    np.testing.assert_allclose(level_of_detail(tilted[None], 40, 64), [-0.5 * np.log2(area)], atol=1e-4)


def test_levels_start_one_after_another() -> None:
    assert level_start(5, 7, 0) == (0, 5, 7)
    assert level_start(5, 7, 1) == (35, 3, 4)
    assert level_start(5, 7, 2) == (47, 2, 2)


def window_of(surface: StoredImage, pose: np.ndarray, level: float) -> tuple[int, ...]:
    """Return the window of one pose in a frame of 16 x 23."""
    size = [(surface.height, surface.width)]
    views = layer_views([0], size, pose[None, None], np.full((1, 1), level), np.ones((1, 1)), (16, 23))
    return tuple(views["window"][0, 0].tolist())


@given(
    st.sampled_from(["bar", "board", "card", "disc", "dot", "pole", "tall", "tiny"]),
    st.floats(-np.log2(20), 3),
    st.floats(-np.log2(20), 3),
    st.floats(-180, 180),
    st.floats(-1, 1),
    st.sampled_from([0.0, 0.5, -1.2]),
)
def test_a_window_holds_every_pixel_that_the_renderer_draws(
    studio: Any, name: str, zoom_x: float, zoom_y: float, degrees: float, shear_x: float, tilt_x: float
) -> None:
    surface = studio.object(name)
    shear, tilt = np.eye(3), np.eye(3)
    shear[0, 1], tilt[2, 0] = shear_x, tilt_x / surface.width
    pose = geometry.compose(
        geometry.translation([11.3, 7.8]),
        geometry.rotation(degrees),
        shear,
        geometry.scaling([2.0**zoom_x, 2.0**zoom_y]),
        tilt,
        geometry.translation([-surface.width / 2, -surface.height / 2]),
    )
    scene = studio.scene(GROUND, studio.sheet(surface, pose), size_hw=(16, 23), frames=1)
    centers = np.stack(np.meshgrid(np.arange(23), np.arange(16)), axis=-1).reshape(-1, 2) + 0.5
    _, alpha = _sample_layer(scene, 1, 0, pose, centers, Sources(studio.bank))
    x0, y0, x1, y1 = np.maximum(window_of(surface, pose, float(scene.level[1, 0])), 0)
    outside = np.ones((16, 23), bool)
    outside[y0:y1, x0:x1] = False
    assert not alpha.reshape(16, 23)[outside].any()


def test_a_window_may_exceed_the_frame(studio: Any) -> None:
    x0, y0, x1, y1 = window_of(studio.object("board"), geometry.translation([-4, 3]), 0.0)
    assert (x0, y0) == (-6, 1) and x1 >= 5 and y1 >= 12


def test_a_window_with_a_horizon_is_three_frames_wide(studio: Any) -> None:
    tilted = np.eye(3)
    tilted[2, 0] = -1 / 4  # the horizon is column 4 of 8
    assert window_of(studio.object("board"), tilted, 0.0) == (-23, -16, 46, 32)
