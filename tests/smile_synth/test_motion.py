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

from smile_synth.motion import (
    FAMILIES,
    KeyTimesParameters,
    PathRequest,
    draw_curve,
    draw_key_times,
    draw_path,
    interpolate,
)
from smile_synth.objects import ObjectBank

PUBLISHED = KeyTimesParameters()
KEYS: dict[str, dict[str, Any]] = {
    "smile-gaussian": {"extent": [10.0, 25.0]},
    "smile-linear": {"speed": 3.0},
    "still": {},
    "constant-velocity": {"speed": [0.5, 2.0]},
    "oscillation": {"amplitude": [2.0, 6.0], "period": [3.0, 9.0]},
    "orbit": {"radius": [2.0, 6.0], "turn": [10.0, 90.0]},
}


def parameters_of(family: str, **keys: Any) -> Any:
    text = json.dumps({"family": family, **KEYS[family], **keys})
    return FAMILIES[family].parameters.model_validate_json(text)


def request_of(
    frames: int, box_wh: Any = (9.0, 5.0), size_hw: tuple[int, int] = (40, 50), **options: Any
) -> Any:
    boxes = np.array(np.broadcast_to(np.asarray(box_wh, float), (frames, 2)))
    key_times = options.get("key_times", [0.0, frames - 1.0] if frames > 1 else [0.0])
    return PathRequest(frames, size_hw, boxes, np.array(key_times, float))


def path_of(family: str, request: PathRequest, seed: int = 0, **keys: Any) -> Any:
    return draw_path(parameters_of(family, **keys), request, rng=np.random.default_rng(seed))


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
def test_paths_follow_their_generator(family: str) -> None:
    first, same, other = (path_of(family, request_of(7), seed).center_xy for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


@given(st.integers(0, 10**6), st.integers(1, 20), st.sampled_from(sorted(set(FAMILIES) - {"smile-gaussian"})))
def test_the_box_stays_inside_where_it_can(seed: int, frames: int, family: str) -> None:
    # The whole travel, 2 * 19 or 2 * 6 px, and the growing box fit into 60 x 70.
    boxes = np.linspace([9, 5], [13, 7], frames)
    slow = {"speed": [0.5, 2.0]} if family == "constant-velocity" else {}
    keys = {"speed": 3.0} if family == "smile-linear" else slow
    request = request_of(frames, boxes, (60, 70))
    center = path_of(family, request, seed, **keys).center_xy
    if family == "smile-linear":  # clipped at its key frames
        boxes, center = boxes[[0, -1]], center[[0, -1]]
    assert (center - boxes / 2 >= -1e-9).all()
    assert (center + boxes / 2 <= np.array([70, 60]) + 1e-9).all()


@pytest.mark.parametrize("family", ["still", "constant-velocity", "oscillation", "orbit"])
def test_a_path_that_cannot_stay_inside_is_centred(family: str) -> None:
    request = request_of(8, (48.0, 5.0), (40, 50))
    keys = {"constant-velocity": {"speed": [6.0, 6.0]}, "still": {}}.get(family, {})
    center = path_of(family, request, seed=2, **keys).center_xy
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


def test_the_gaussian_path_takes_whole_points_or_what_lies_between() -> None:
    every = path_of("smile-gaussian", request_of(48)).center_xy
    positions = np.linspace(0, 47, 16)
    whole = path_of("smile-gaussian", request_of(16)).center_xy
    np.testing.assert_array_equal(whole, every[np.round(positions).astype(int)])
    between = path_of("smile-gaussian", request_of(16), whole_samples=False).center_xy
    for axis in (0, 1):
        expected = np.interp(positions, np.arange(48), every[:, axis])
        np.testing.assert_allclose(between[:, axis], expected, atol=1e-9)


def test_the_gaussian_extent_is_cut_to_the_frame() -> None:
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


# --- key frames and curves


def test_key_times_are_whole_frames_from_first_to_last() -> None:
    counts = []
    for seed in range(600):
        times = draw_key_times(16, PUBLISHED, rng=np.random.default_rng(seed))
        assert times[0] == 0 and times[-1] == 15
        assert (np.diff(times) >= 1).all() and (times == np.round(times)).all()
        counts.append(len(times) - 2)
        if len(times) == 3:
            assert 5 <= times[1] <= 10  # 7.5 moved by at most 2.5
    np.testing.assert_allclose(np.bincount(counts) / 600, [0.5, 0.3, 0.2], atol=0.06)


@pytest.mark.parametrize(("frames", "expected"), [(1, [0.0]), (2, [0.0, 1.0])])
def test_clips_of_one_and_two_frames_have_no_inner_keys(frames: int, expected: list[float]) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        assert draw_key_times(frames, KeyTimesParameters(jitter=0.5), rng=rng).tolist() == expected


def test_inner_probabilities_sum_to_one() -> None:
    with pytest.raises(ValidationError, match=r"must sum to 1, got 0\.9"):
        KeyTimesParameters(inner_probability=[0.5, 0.4])


def test_a_segment_is_even_speeds_up_or_slows_down() -> None:
    seen = set()
    for seed in range(40):
        values = interpolate(
            np.array([0.0, 4.0]), np.array([[0.0], [16.0]]), 5, rng=np.random.default_rng(seed)
        )
        seen.add(tuple(values[:, 0].tolist()))
    assert seen == {(0, 4, 8, 12, 16), (0, 1, 4, 9, 16), (0, 7, 12, 15, 16)}


def test_easings_are_drawn_as_published() -> None:
    middles = [
        interpolate(np.array([0.0, 2.0]), np.array([[0.0], [4.0]]), 3, rng=np.random.default_rng(seed))[1, 0]
        for seed in range(1000)
    ]
    shares = [np.mean(np.array(middles) == value) for value in (2.0, 1.0, 3.0)]
    np.testing.assert_allclose(shares, [0.7, 0.15, 0.15], atol=0.04)


def test_interpolation_goes_through_its_keys_in_every_dimension() -> None:
    keys, values = np.array([0.0, 2.0, 6.0]), np.array([[1.0, -1.0], [5.0, 2.0], [3.0, 8.0]])
    for seed in range(10):
        drawn = interpolate(keys, values, 7, rng=np.random.default_rng(seed))
        assert drawn.shape == (7, 2)
        np.testing.assert_allclose(drawn[[0, 2, 6]], values)


def test_a_curve_changes_by_at_most_its_rate_and_starts_where_told() -> None:
    for seed in range(30):
        curve = draw_curve(
            np.array([7.0, -2.0]), 0.5, np.array([0.0, 3.0, 8.0]), 9, rng=np.random.default_rng(seed)
        )
        assert curve[0].tolist() == [7.0, -2.0]
        assert (np.abs(curve[3] - curve[0]) <= 1.5).all() and (np.abs(curve[8] - curve[3]) <= 2.5).all()
    assert draw_curve(np.zeros(1), 0.5, np.zeros(1), 1, rng=np.random.default_rng(0)).tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("constant-velocity", {"speed": [3.0, 1.0]}, r"speed is \[low, high\], got low 3\.0 above high 1\.0"),
        ("constant-velocity", {"speed": [-1.0, 1.0]}, "speed must not be negative"),
        ("orbit", {"radius": [3.0, 1.0]}, "radius is"),
        ("orbit", {"turn": [3.0, 1.0]}, "turn is"),
        ("oscillation", {"amplitude": [3.0, 1.0]}, "amplitude is"),
        ("oscillation", {"period": [3.0, 1.0]}, "period is"),
        ("smile-gaussian", {"extent": [3.0, 1.0]}, "extent is"),
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


@pytest.mark.parametrize(("name", "preset"), [("gaussian", "smile-gaussian"), ("linear", "smile-linear")])
def test_presets_move_as_the_published_sampler(
    bank: ObjectBank, reference: Path, benchmark: ModuleType, name: str, preset: str
) -> None:
    published = json.loads((reference / "smile_motion.json").read_text())[name]
    values = benchmark.measure(preset, bank, num_clips=1500)
    wrong = [
        f"{quantity} p{row['percentile']}: {row['reference']:.4g}, ours {row['ours']:.4g}"
        for quantity in benchmark.QUANTITIES
        for row in benchmark.compare(values[quantity], published[quantity])
        if abs(row["difference_percent"]) > 2 + 2 * row["standard_error_percent"]
    ]
    assert not wrong
