import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from smile_synth.core.rng import RandomStreams
from smile_synth.motion import (
    FAMILIES,
    OBJECT_CURVES,
    KeyTimesParameters,
    Request,
    draw_curve,
    draw_key_times,
    draw_path,
    interpolate,
)
from smile_synth.recipe import Recipe

PUBLISHED = KeyTimesParameters()
ROWS = 5
KEYS: dict[str, dict[str, Any]] = {
    "smile-gaussian": {"extent": [10.0, 25.0]},
    "smile-linear": {"speed": 3.0},
    "still": {},
    "constant-velocity": {"speed": [0.5, 2.0]},
    "axis-velocity": {"speeds": [-1.0, 0.0, 2.0]},
    "oscillation": {"amplitude": [2.0, 6.0], "period": [3.0, 9.0]},
    "orbit": {"radius": [2.0, 6.0], "turn": [10.0, 90.0]},
    "spiral": {"radius": [2.0, 6.0], "turn": [10.0, 90.0], "widening": [-0.5, 0.5]},
    "constant-acceleration": {"speed": [0.5, 1.0], "acceleration": 0.05},
    "jerk-limited": {"speed": [0.5, 1.0], "acceleration": 0.1, "jerk": 0.05},
    "key-framed": {"rate": 1.0},
    "key-values": {"amount": 3.0},
    "spline": {"waypoints": 4},
    "random-walk": {"step": 0.3},
    "ornstein-uhlenbeck": {"deviation": [1.0, 2.0], "memory": [3.0, 9.0]},
    "flicker": {"amount": [1.0, 3.0]},
    "bounce": {"speed": [1.0, 4.0]},
    "ballistic": {"speed": [1.0, 2.0], "gravity": [0.05, 0.1]},
    "stop-and-go": {"speed": [0.5, 2.0], "go": [2, 4], "stop": [1, 3], "turn": 90.0},
    "approach-recede": {"ratio": [1.5, 3.0], "period": [6.0, 12.0]},
    "pass-through": {},
    "re-enter": {},
}


def parameters_of(family: str, **keys: Any) -> Any:
    text = json.dumps({"family": family, **KEYS[family], **keys})
    return FAMILIES[family].parameters.model_validate_json(text)


def request_of(
    frames: int, box_wh: Any = (9.0, 5.0), size_hw: tuple[int, int] = (40, 50), **options: Any
) -> Request:
    rows = options.get("rows", 1)
    boxes = np.broadcast_to(np.asarray(box_wh, float), (frames, 2))
    frame_wh = np.array(size_hw[::-1], float)
    key_times = options.get("key_times", [0.0, frames - 1.0] if frames > 1 else [0.0])
    half = np.repeat(boxes[None] / 2, rows, axis=0)
    outer = np.stack([0 * frame_wh, frame_wh])
    return Request(frames, half, frame_wh - half, outer, np.repeat([key_times], rows, axis=0))


def draws(seed: int, rows: int = 1) -> RandomStreams:
    return RandomStreams(seed, np.arange(rows), "test")


class One:
    """The first row of a path."""

    def __init__(self, path: Any) -> None:
        self.center_xy = path.values[0]
        self.factors = {name: float(values[0]) for name, values in path.factors.items()}
        self.log_scale = None if path.log_scale is None else path.log_scale[0]


def path_of(family: str, request: Request, seed: int = 0, **keys: Any) -> Any:
    return One(draw_path(parameters_of(family, **keys), request, rng=draws(seed)))


# --- every family


@pytest.mark.parametrize("frames", [1, 2, 7, 60])
@pytest.mark.parametrize("family", FAMILIES)
def test_paths_have_a_place_per_frame(family: str, frames: int) -> None:
    path = path_of(family, request_of(frames))
    assert path.center_xy.shape == (frames, 2)
    assert path.center_xy.dtype == np.float64
    assert np.isfinite(path.center_xy).all()
    assert all(np.isfinite(value) for value in path.factors.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_paths_depend_on_the_seed(family: str) -> None:
    first, same, other = (path_of(family, request_of(7), seed).center_xy for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_all_families_are_tested() -> None:
    assert set(KEYS) == set(FAMILIES)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_makes_a_curve_of_any_dimensions(family: str, dims: int) -> None:
    shape = (ROWS, 9, dims)
    keys = np.repeat([[0.0, 4.0, 8.0]], ROWS, axis=0)
    request = Request(
        9, np.full(shape, -20.0), np.full(shape, 30.0), np.array([[-20.0] * dims, [30.0] * dims]), keys,
        unit="degrees", pixel=0.0,
    )  # fmt: skip
    path = draw_path(parameters_of(family), request, rng=draws(1, ROWS))
    assert path.values.shape == shape and np.isfinite(path.values).all()
    assert (path.values >= -20 - 1e-9).all() and (path.values <= 30 + 1e-9).all()
    assert all(values.shape == (ROWS,) for values in path.factors.values())
    assert not any(name.endswith(("_px", "px_per_frame")) for name in path.factors)
    if family != "still":
        assert np.ptp(path.values, axis=1).max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_does_not_depend_on_the_others(family: str) -> None:
    many = request_of(9, rows=ROWS, key_times=[0.0, 3.0, 8.0])
    together = draw_path(parameters_of(family), many, rng=RandomStreams(4, np.arange(ROWS) + 10, "path"))
    for row in range(ROWS):
        request = request_of(9, key_times=[0.0, 3.0, 8.0])
        alone = draw_path(parameters_of(family), request, rng=RandomStreams(4, [row + 10], "path"))
        np.testing.assert_array_equal(alone.values[0], together.values[row])


LEAVING = {"smile-gaussian", "approach-recede", "pass-through", "re-enter"}


@given(st.integers(0, 10**6), st.integers(1, 20), st.sampled_from(sorted(set(FAMILIES) - LEAVING)))
def test_the_box_stays_inside_if_possible(seed: int, frames: int, family: str) -> None:
    # The whole travel, and the growing box, fit into the frame.
    boxes = np.linspace([9, 5], [13, 7], frames)
    slow = {"speed": [0.5, 2.0]} if family == "constant-velocity" else {}
    keys = {"speed": 3.0} if family == "smile-linear" else slow
    request = request_of(frames, boxes, (80, 90))
    center = path_of(family, request, seed, **keys).center_xy
    if family == "smile-linear":  # clipped at its key frames
        boxes, center = boxes[[0, -1]], center[[0, -1]]
    assert (center - boxes / 2 >= -1e-9).all()
    assert (center + boxes / 2 <= np.array([90, 80]) + 1e-9).all()


@pytest.mark.parametrize("family", ["still", "constant-velocity", "oscillation", "orbit"])
def test_a_path_that_cannot_stay_inside_is_centred(family: str) -> None:
    request = request_of(8, (48.0, 5.0), (40, 50))
    keys = {"constant-velocity": {"speed": [6.0, 6.0]}, "still": {}}.get(family, {})
    center = path_of(family, request, seed=3, **keys).center_xy
    if family == "still":
        request = request_of(8, (60.0, 5.0), (40, 50))
        center = path_of(family, request, seed=2).center_xy
    # Too wide: half of what sticks out is on either side.
    assert center[:, 0].min() + center[:, 0].max() == pytest.approx(50)
    if family != "constant-velocity":
        assert (center[:, 1] >= 2.5 - 1e-9).all() and (center[:, 1] <= 37.5 + 1e-9).all()


# --- one by one


def test_constant_velocity_is_constant_at_the_drawn_speed_and_direction() -> None:
    path = path_of("constant-velocity", request_of(7))
    steps = np.diff(path.center_xy, axis=0)
    speed, direction = path.factors["speed_px_per_frame"], np.deg2rad(path.factors["direction_degrees"])
    assert 0.5 <= speed <= 2
    expected = speed * np.array([np.cos(direction), np.sin(direction)])
    np.testing.assert_allclose(steps, np.broadcast_to(expected, (6, 2)), atol=1e-12)


def test_directions_are_uniform_over_the_circle() -> None:
    drawn = [
        path_of("constant-velocity", request_of(2), seed).factors["direction_degrees"] for seed in range(400)
    ]
    counts, _ = np.histogram(drawn, 8, (0, 360))
    assert counts.min() > 25


def test_an_orbit_keeps_its_radius_and_turns_by_the_drawn_angle() -> None:
    senses = set()
    for seed in range(10):
        path = path_of("orbit", request_of(7), seed)
        turn, radius = np.deg2rad(path.factors["turn_degrees_per_frame"]), path.factors["radius_px"]
        assert 10 <= abs(path.factors["turn_degrees_per_frame"]) <= 90
        senses.add(turn > 0)
        steps = np.diff(path.center_xy, axis=0)
        np.testing.assert_allclose(np.hypot(*steps.T), 2 * radius * np.sin(abs(turn) / 2))
        cross = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
        angles = np.arctan2(cross, (steps[:-1] * steps[1:]).sum(axis=1))
        np.testing.assert_allclose(angles, turn, atol=1e-9)
    assert senses == {True, False}


def test_an_oscillation_is_a_sine_along_its_axis() -> None:
    path = path_of("oscillation", request_of(60), period=[8.0, 8.0])
    axis = np.deg2rad(path.factors["axis_degrees"])
    along, across = np.array([np.cos(axis), np.sin(axis)]), np.array([-np.sin(axis), np.cos(axis)])
    assert np.ptp(path.center_xy @ across) < 1e-9
    swing = path.center_xy @ along
    np.testing.assert_allclose(swing[8:], swing[:-8], atol=1e-9)
    np.testing.assert_allclose(swing[4:] - swing.mean(), swing.mean() - swing[:-4], atol=0.5)
    amplitude = path.factors["amplitude_px"]
    assert 2 * amplitude * np.cos(np.pi / 8) - 1e-9 <= np.ptp(swing) <= 2 * amplitude + 1e-9


def test_still_is_still() -> None:
    center = path_of("still", request_of(7)).center_xy
    np.testing.assert_array_equal(center, np.broadcast_to(center[0], (7, 2)))


def test_the_gaussian_path_has_the_drawn_extent_and_stays_in_the_frame() -> None:
    for seed in range(20):
        path = path_of("smile-gaussian", request_of(48), seed)  # every point is a frame
        extent = path.factors["extent_px"]
        np.testing.assert_allclose(np.ptp(path.center_xy, axis=0), extent)
        assert 10 <= extent <= 25
        assert (path.center_xy >= 0).all() and (path.center_xy <= [50, 40]).all()


def test_the_gaussian_path_takes_whole_points_or_interpolates() -> None:
    every = path_of("smile-gaussian", request_of(48)).center_xy
    positions = np.linspace(0, 47, 16)
    whole = path_of("smile-gaussian", request_of(16)).center_xy
    np.testing.assert_array_equal(whole, every[np.round(positions).astype(int)])
    between = path_of("smile-gaussian", request_of(16), whole_samples=False).center_xy
    for axis in (0, 1):
        expected = np.interp(positions, np.arange(48), every[:, axis])
        np.testing.assert_allclose(between[:, axis], expected, atol=1e-9)


def test_the_gaussian_extent_is_limited_by_the_frame() -> None:
    path = path_of("smile-gaussian", request_of(48, size_hw=(20, 50)), extent=[30.0, 40.0])
    np.testing.assert_allclose(np.ptp(path.center_xy, axis=0), 19)


def test_a_filter_wider_than_the_path_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"sigma must be at most num_points \(4\), got 8"):
        parameters_of("smile-gaussian", num_points=4)
    path = path_of("smile-gaussian", request_of(7), num_points=2, sigma=2.0)
    assert np.isfinite(path.center_xy).all()


def test_the_linear_path_moves_by_at_most_its_speed_and_straight_between_keys() -> None:
    for seed in range(20):
        request = request_of(9, (2.0, 2.0), (400, 500), key_times=[0, 3, 8])
        center = path_of("smile-linear", request, seed).center_xy
        for first, last in ((0, 3), (3, 8)):
            assert (np.abs(center[last] - center[first]) <= 3.0 * (last - first) + 1e-9).all()
            leg, steps = center[last] - center[first], center[first : last + 1] - center[first]
            np.testing.assert_allclose(steps[:, 0] * leg[1], steps[:, 1] * leg[0], atol=1e-6)


def test_bouncing_is_straight_and_even_between_the_walls() -> None:
    path = path_of("bounce", request_of(200))
    low, high = np.array([4.5, 2.5]), np.array([45.5, 37.5])
    steps = np.diff(path.center_xy, axis=0)
    clear = ((path.center_xy > low + 4) & (path.center_xy < high - 4)).all(axis=1)
    both = clear[:-1] & clear[1:]
    speed = path.factors["speed_px_per_frame"]
    np.testing.assert_allclose(np.hypot(*steps[both].T), speed, atol=1e-9)
    assert len({tuple(np.sign(step)) for step in steps[both]}) > 2  # it did bounce


def test_a_ballistic_path_is_a_parabola() -> None:
    path = path_of("ballistic", request_of(7))
    second = np.diff(path.center_xy, 2, axis=0)
    np.testing.assert_allclose(second[:, 0], 0, atol=1e-9)
    np.testing.assert_allclose(second[:, 1], path.factors["gravity_px_per_frame2"])
    assert path.center_xy[1, 1] <= path.center_xy[0, 1] + path.factors["gravity_px_per_frame2"]


def test_constant_acceleration_is_constant() -> None:
    path = path_of("constant-acceleration", request_of(9))
    second = np.diff(path.center_xy, 2, axis=0)
    np.testing.assert_allclose(second, np.broadcast_to(second[0], second.shape), atol=1e-9)
    assert np.hypot(*second[0]) == pytest.approx(path.factors["acceleration_px_per_frame2"])


def test_jerk_limited_acceleration_keeps_its_limits() -> None:
    for seed in range(10):
        center = path_of("jerk-limited", request_of(60), seed).center_xy
        assert (np.abs(np.diff(center, 2, axis=0)) <= 0.1 + 1e-9).all()
        assert (np.abs(np.diff(center, 3, axis=0)) <= 0.05 + 1e-9).all()


def test_stop_and_go_stops_and_goes() -> None:
    moving = []
    for seed in range(20):
        path = path_of("stop-and-go", request_of(60), seed)
        speeds = np.hypot(*np.diff(path.center_xy, axis=0).T)
        speed = path.factors["speed_px_per_frame"]
        assert np.isclose(speeds, 0, atol=1e-9).any() and np.isclose(speeds, speed).any()
        assert (np.isclose(speeds, 0, atol=1e-9) | np.isclose(speeds, speed)).all()
        moving.append(path.factors["moving_share"])
    assert 0.45 < np.mean(moving) < 0.75  # 3 frames of 5 on average


def test_an_approaching_object_grows_as_it_leaves_the_middle() -> None:
    for seed in range(10):
        path = path_of("approach-recede", request_of(24), seed)
        scale = np.exp(path.log_scale)
        assert scale[0] == 1
        offset = np.linalg.norm(path.center_xy - [25, 20], axis=1)
        np.testing.assert_allclose(offset / offset[0], scale)
        assert scale.max() / scale.min() <= path.factors["distance_ratio"] + 1e-9


def test_passing_through_comes_from_outside_and_leaves() -> None:
    half = np.array([4.5, 2.5])
    for seed in range(20):
        center = path_of("pass-through", request_of(9), seed).center_xy
        for end in (center[0], center[-1]):
            touching = np.concatenate([end + half, [50, 40] - (end - half)])
            assert touching.min() == pytest.approx(0, abs=1e-9)
        assert ((center[4] > 0) & (center[4] < [50, 40])).all()


def test_re_entering_is_inside_then_away_then_inside() -> None:
    half = np.array([4.5, 2.5])
    for seed in range(20):
        path = path_of("re-enter", request_of(60), seed, away=[0.2, 0.2])
        inside = ((path.center_xy + half > 1e-9) & (path.center_xy - half < np.array([50, 40]) - 1e-9)).all(
            axis=1
        )
        changes = np.flatnonzero(np.diff(inside.astype(int)))
        assert inside[0] and inside[-1] and len(changes) == 2
        assert abs((changes[1] - changes[0]) - 0.2 * 59) <= 1
        assert abs(path.factors["leaves_frame"] - changes[0]) <= 1


def test_a_spiral_widens_evenly() -> None:
    path = path_of("spiral", request_of(5, size_hw=(90, 90)), widening=[0.5, 0.5], turn=[90.0, 90.0])
    across = np.linalg.norm(path.center_xy[2] - path.center_xy[0])  # half a turn: both radii
    assert across == pytest.approx(2 * path.factors["radius_px"] + 2 * 0.5)


def test_an_ornstein_uhlenbeck_process_has_its_deviation_and_memory() -> None:
    request = request_of(3000, rows=4)
    parameters = parameters_of("ornstein-uhlenbeck", deviation=[2.0, 2.0], memory=[5.0, 5.0])
    values = draw_path(parameters, request, rng=draws(0, 4)).values
    values = values - values.mean(axis=1, keepdims=True)
    assert values.std() == pytest.approx(2, rel=0.08)
    kept = (values[:, 5:] * values[:, :-5]).mean() / (values**2).mean()
    assert kept == pytest.approx(np.exp(-1), abs=0.06)


def test_axis_velocity_takes_its_speeds_from_the_list() -> None:
    seen = set()
    for seed in range(40):
        path = path_of("axis-velocity", request_of(3), seed)
        seen.add((path.factors["speed_x_px_per_frame"], path.factors["speed_y_px_per_frame"]))
        np.testing.assert_allclose(
            np.diff(path.center_xy, axis=0)[0], list(path.factors.values())[:2], atol=1e-9
        )
    assert seen == {(x, y) for x in (-1, 0, 2) for y in (-1, 0, 2)}


def test_the_truncated_gaussian_path_is_whole() -> None:
    for seed in range(10):
        path = path_of("smile-gaussian", request_of(48), seed, truncate=True)
        np.testing.assert_array_equal(path.center_xy, np.round(path.center_xy))
        assert path.factors["extent_px"] == np.round(path.factors["extent_px"])


# --- key frames and curves


def test_key_times_are_whole_frames_from_first_to_last() -> None:
    times, counts = draw_key_times(16, PUBLISHED, rng=draws(0, 600))
    for row, count in zip(times, counts, strict=True):
        kept = row[:count]
        assert kept[0] == 0 and kept[-1] == 15 and (row[count:] == 15).all()
        assert (np.diff(kept) >= 1).all() and (kept == np.round(kept)).all()
        if count == 3:
            assert 5 <= kept[1] <= 10  # 7.5 moved by at most 2.5
    np.testing.assert_allclose(np.bincount(counts - 2) / 600, [0.5, 0.3, 0.2], atol=0.06)


@pytest.mark.parametrize(("frames", "expected"), [(1, [0.0]), (2, [0.0, 1.0])])
def test_clips_of_one_and_two_frames_have_no_inner_keys(frames: int, expected: list[float]) -> None:
    times, counts = draw_key_times(frames, KeyTimesParameters(jitter=0.5), rng=draws(0, 30))
    assert (counts == len(expected)).all() and (times[:, : len(expected)] == expected).all()


def test_inner_probabilities_sum_to_one() -> None:
    with pytest.raises(ValidationError, match=r"must sum to 1, got 0\.9"):
        KeyTimesParameters(inner_probability=[0.5, 0.4])


def test_segments_are_linear_accelerated_or_decelerated() -> None:
    keys, values = np.repeat([[0.0, 4.0]], 40, axis=0), np.repeat([[[0.0], [16.0]]], 40, axis=0)
    drawn = interpolate(keys, values, 5, rng=draws(0, 40))[..., 0]
    assert {tuple(row) for row in drawn.tolist()} == {(0, 4, 8, 12, 16), (0, 1, 4, 9, 16), (0, 7, 12, 15, 16)}


def test_easings_follow_the_published_or_given_weights() -> None:
    keys, values = np.repeat([[0.0, 2.0]], 1000, axis=0), np.repeat([[[0.0], [4.0]]], 1000, axis=0)
    middles = interpolate(keys, values, 3, rng=draws(0, 1000))[:, 1, 0]
    np.testing.assert_allclose([np.mean(middles == v) for v in (2.0, 1.0, 3.0)], [0.7, 0.15, 0.15], atol=0.04)
    held = interpolate(keys, values, 3, rng=draws(0, 1000), easing={"hold": 1.0})[:, 1, 0]
    assert (held == 0).all()
    quarter = interpolate(keys * 2, values, 5, rng=draws(0, 1000), easing={"smooth": 1.0})[:, 1, 0]
    assert (quarter == 4 * (3 / 16 - 2 / 64)).all()


def test_interpolation_passes_its_keys_in_every_dimension() -> None:
    keys, values = np.array([0.0, 2.0, 6.0]), np.array([[1.0, -1.0], [5.0, 2.0], [3.0, 8.0]])
    drawn = interpolate(np.repeat([keys], 10, 0), np.repeat([values], 10, 0), 7, rng=draws(0, 10))
    assert drawn.shape == (10, 7, 2)
    np.testing.assert_allclose(drawn[:, [0, 2, 6]], np.repeat([values], 10, 0))


def curve_of(name: str, frames: int = 9, rows: int = 30, **keys: Any) -> Any:
    recipe = Recipe.model_validate_json(
        json.dumps(
            {
                "backgrounds": [{"kind": "noise"}],
                "objects": {"side": [9]},
                "motion": [{"family": "still", name: keys}],
            }
        )
    )
    times = np.repeat([[0.0, 3.0, frames - 1.0]], rows, axis=0)
    return draw_curve(
        OBJECT_CURVES[name], getattr(recipe.motion[0], name), times, frames, rng=draws(0, rows)
    ).values


def test_a_key_framed_curve_starts_neutral_and_changes_by_at_most_its_rate() -> None:
    for name, neutral in (("log_scale", 0.0), ("rotation", 0.0), ("opacity", 1.0), ("gain", 1.0)):
        curve = curve_of(name, rate=0.05)
        assert (curve[:, 0] == neutral).all() and np.ptp(curve) > 0
        assert (np.abs(curve[:, 3] - curve[:, 0]) <= 0.15 + 1e-9).all()
        assert (np.abs(curve[:, 8] - curve[:, 3]) <= 0.25 + 1e-9).all()


def test_a_curve_keeps_its_bounds_and_its_start() -> None:
    assert (curve_of("rotation", family="constant-velocity", speed=1.0, start=[30.0, 40.0])[:, 0] >= 30).all()
    bounded = curve_of("rotation", family="constant-velocity", speed=9.0, low=-20.0, high=20.0)
    assert (np.abs(bounded) <= 20).all() and np.ptp(bounded[:, 0]) > 10
    opacity = curve_of("opacity", family="random-walk", step=0.5)
    assert opacity.min() >= 0 and opacity.max() <= 1


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        (
            "constant-velocity",
            {"speed": [3.0, 1.0]},
            r"speed\n.*should be \[low, high\], got low 3\.0 above high 1\.0",
        ),
        ("constant-velocity", {"speed": [-1.0, 1.0]}, "greater than or equal to 0"),
        ("orbit", {"radius": [3.0, 1.0]}, r"radius\n.*should be \[low, high\]"),
        ("orbit", {"turn": [3.0, 1.0]}, r"turn\n.*should be \[low, high\]"),
        ("oscillation", {"amplitude": [3.0, 1.0]}, r"amplitude\n.*should be \[low, high\]"),
        ("oscillation", {"period": [3.0, 1.0]}, r"period\n.*should be \[low, high\]"),
        ("smile-gaussian", {"extent": [3.0, 1.0]}, r"extent\n.*should be \[low, high\]"),
    ],
)
def test_ranges_are_ordered(family: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parameters_of(family, **keys)


# --- against the published sampler


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
        return importlib.import_module("motion_quantiles")


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize(("name", "preset"), [("gaussian", "smile-gaussian"), ("linear", "smile-linear")])
def test_presets_move_as_the_published_sampler(
    tmp_path: Path, reference: Path, benchmark: ModuleType, name: str, preset: str, faithful: bool
) -> None:
    published = json.loads((reference / "smile_motion.json").read_text())[name]
    preset += "-faithful" * faithful
    # Its rounding is the last step, after what the reference measured; the gaussian path's own is in it.
    overrides = ["objects.whole_pixels=false"] if faithful else []
    values = benchmark.measure(
        preset,
        benchmark.any_bank(tmp_path),
        num_clips=30_000 if name == "linear" else 8_000,
        overrides=overrides,
    )
    wrong = [
        f"{quantity} p{row['percentile']}: {row['reference']:.4g}, ours {row['ours']:.4g}"
        for quantity in benchmark.QUANTITIES
        for row in benchmark.compare(values[quantity], published[quantity])
        if abs(row["difference_percent"]) > 2
        and abs(row["difference_percent"]) > 2 * row["standard_error_percent"]
    ]
    assert not wrong
