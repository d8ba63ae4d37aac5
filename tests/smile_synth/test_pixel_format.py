"""Colours of frames that are converted for encoders, and back."""

from __future__ import annotations

import os

import numpy as np
import pytest

from smile_synth.io.pixel_format import PixelFormat

RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def planes(rgb: np.ndarray) -> list[np.ndarray]:
    """Y ``[H, W]``, U and V ``[H / 2, W / 2]`` of an RGB frame."""
    height, width = rgb.shape[:2]
    flat = PixelFormat().from_rgb(rgb, "yuv420p").to_ndarray()
    colour = flat[height:].reshape(2, height // 2, width // 2)
    return [flat[:height], *colour]


@pytest.mark.parametrize(
    ("rgb", "yuv"), [(RED, (81, 90, 240)), (BLUE, (41, 240, 110)), (WHITE, (235, 128, 128)), (BLACK, (16, 128, 128))]
)  # fmt: skip
def test_colours_follow_bt_601(rgb: tuple[int, ...], yuv: tuple[int, ...]) -> None:
    for plane, value in zip(planes(np.full((16, 32, 3), rgb, np.uint8)), yuv, strict=True):
        assert np.abs(plane.astype(int) - value).max() <= 1


def test_chroma_is_the_mean_of_2x2_pixels() -> None:
    frame = np.full((16, 32, 3), RED, np.uint8)
    frame[:, 1::2] = BLUE
    _, u, v = planes(frame)
    assert np.abs(u.astype(int) - (90 + 240) / 2).max() <= 1
    assert np.abs(v.astype(int) - (240 + 110) / 2).max() <= 1


@pytest.mark.parametrize("size_hw", [(2, 2), (6, 10), (48, 34), (16, 130)])
def test_random_frames_of_any_size_follow_the_formula(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    y, u, v = planes(frame)
    rgb = frame / 255.0
    shared = rgb.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    # ITU-R BT.601-7, 2.5: of R, G and B from 0 to 1.
    assert np.abs(y - (rgb @ [65.481, 128.553, 24.966] + 16)).max() < 0.502
    assert np.abs(u - (shared @ [-37.797, -74.203, 112.0] + 128)).max() < 0.502
    assert np.abs(v - (shared @ [112.0, -93.786, -18.214] + 128)).max() < 0.502


@pytest.mark.parametrize("size_hw", [(32, 30), (64, 66)])
def test_converted_frames_stay_valid_after_the_next_conversion(size_hw: tuple[int, int]) -> None:
    rng, convert = np.random.default_rng(0), PixelFormat()
    frames = [np.full((*size_hw, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(20)]
    kept = [convert.from_rgb(frame, "yuv420p") for frame in frames]
    for frame, later in zip(frames, kept, strict=True):
        assert np.abs(convert.to_rgb(later).astype(int) - frame).max() <= 3


@pytest.mark.parametrize("exact", [True, False])
def test_a_frame_is_converted_and_back(exact: bool) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    frame = np.stack(np.broadcast_arrays(ramp, ramp[::-1], ramp[:32, None]), axis=-1)
    convert = PixelFormat()
    back = convert.to_rgb(convert.from_rgb(np.ascontiguousarray(frame), "yuv420p"), exact=exact)
    assert np.abs(back.astype(int) - frame).max() <= 6
    assert np.array_equal(convert.to_rgb(convert.from_rgb(back, "rgb24")), back)


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="only Linux lists threads")
def test_sizes_may_change_and_no_thread_is_started() -> None:
    before, convert = len(os.listdir("/proc/self/task")), PixelFormat()
    for height, width in ((8, 16), (64, 48), (8, 16)):
        frame = np.full((height, width, 3), WHITE, np.uint8)
        assert np.array_equal(convert.to_rgb(convert.from_rgb(frame, "yuv420p")), frame)
    assert len(os.listdir("/proc/self/task")) == before
