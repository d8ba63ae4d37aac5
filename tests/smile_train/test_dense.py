"""Dense probes: linear readouts of displacement, and point tracks by feature matching."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from smile_synth import Recipe, UserError, annotate, sample_scene
from smile_synth.backgrounds import write_images
from smile_synth.sources import Sources
from smile_train.evaluate import (
    DenseOptions,
    TokenGrid,
    VideoEncoder,
    fit_displacement,
    match_points,
    probe_dense,
    read_displacement,
    tapvid_accuracy,
    token_flow,
)
from smile_train.models import Encoder, EncoderConfig
from smile_train.report_motion import motion_examples

RNG = np.random.default_rng


def encoder(**changes: object) -> VideoEncoder:
    settings: dict[str, Any] = {"num_frames": 6, "size_hw": (32, 32), "patch_size": 8, **changes}
    config = EncoderConfig(**{"width": 16, "depth": 1, "heads": 2, **settings})
    return VideoEncoder("e", Encoder(config, generator=torch.Generator().manual_seed(0)))


def test_a_readout_of_one_feature_has_the_weights_of_ridge_regression() -> None:
    """On the log scale y = 3 x + 1; the smallest penalty, 1e-4 of the variance, divides the slope by 1.0001."""
    x = np.arange(12.0).reshape(6, 2) / 10
    displacement = np.stack([np.expm1(3 * x + 1), -np.expm1(x)], -1)
    tokens = torch.from_numpy(np.stack([x, np.full_like(x, 7.0)], -1))  # and a constant feature
    displacement[4, 1], tokens[4, 1, 0] = np.nan, 1e6  # is left out
    readout = fit_displacement([(tokens[:4], displacement[:4]), (tokens[4:], displacement[4:])])
    slope = 3 / 1.0001
    assert readout.weight[:, 0].tolist() == pytest.approx([slope, 0])
    mean = np.delete(x.ravel(), 9).mean()
    assert readout.bias.tolist() == pytest.approx([3 * mean + 1 - slope * mean, -mean + mean / 1.0001])
    predicted = read_displacement(readout, torch.tensor([[0.5, 7.0]]))
    assert predicted[0] == pytest.approx([math.expm1(2.5), -math.expm1(0.5)], rel=1e-3)


def test_features_that_hold_the_displacement_have_no_error() -> None:
    true = RNG(1).normal(size=(7, 12, 2)) * 3
    logs = np.sign(true) * np.log1p(np.abs(true))
    tokens = torch.from_numpy(np.concatenate([RNG(2).normal(size=(7, 12, 3)), 5 * logs + 2], -1))
    predicted = read_displacement(fit_displacement([(tokens[:5], true[:5])]), tokens[5:])
    assert np.linalg.norm(predicted - true[5:], axis=-1).max() < 0.01
    frames = RNG(3).integers(0, 255, (7, 3, 32, 32, 3), np.uint8)
    true[2] = np.nan
    (synthetic, real) = motion_examples(
        frames, true, {"perfect": tokens.numpy()}, grid=(3, 2, 2), names=list("abcdefg")
    )
    titles = [title for title, _ in synthetic["rows"]]
    assert titles == ["exact motion", "perfect: endpoint error 0.00 px"]
    assert real["name"].startswith("c; endpoint error of no motion") and real["rows"][0][0] == "DIS flow"
    assert not motion_examples(frames, np.full_like(true, np.nan), {}, grid=(3, 2, 2), names="abcdefg")


def test_unique_features_are_followed_exactly() -> None:
    """Every feature moves by one column, and by two rows in the last step, in a map of 3 x 5 x 7 tokens."""
    first = torch.eye(35).view(5, 7, 35)
    features = torch.stack([first, first.roll(1, 1), first.roll((2, 2), (0, 1))])
    queries = torch.tensor([[0, 1.5, 0.5], [0, 4.5, 2.5], [1, 2.25, 1.5], [0, 2.0, 1.5]], dtype=torch.float64)
    found = match_points(features, queries)
    expected = [
        [[1.5, 0.5], [2.5, 0.5], [3.5, 2.5]],
        [[4.5, 2.5], [5.5, 2.5], [6.5, 4.5]],
        [[2.25, 1.5], [2.25, 1.5], [3.5, 3.5]],  # nearest to the token at 2.5
        [[2.0, 1.5], [3.0, 1.5], [4.0, 3.5]],  # between two tokens
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    features[2, 4, 0] = features[2, 2, 3]  # a copy, far away
    features[2, 2, 3] += 0.3 * first[0, 0]
    assert match_points(features, queries[:1])[0, 2].tolist() == pytest.approx([0.5, 4.5], abs=1e-4)
    near = match_points(features, queries[:1], window=2.0)
    assert near[0, 2].tolist() == pytest.approx([3.5, 2.5], abs=1e-4)


def test_tapvid_thresholds_are_those_of_256_pixels() -> None:
    distance = np.array([0.4, 0.5, 1.5, 7.9, 20.0, np.nan])  # in a frame of 128 pixels
    found = tapvid_accuracy(distance, 128)
    np.testing.assert_allclose(found, [1.0, 0.8, 0.6, 0.2, 0.0, np.nan])


def test_the_flow_of_a_token_is_the_mean_over_its_pixels() -> None:
    texture = cv2.GaussianBlur(RNG(4).integers(0, 255, (64, 96, 3), np.uint8), (0, 0), 2.0)
    texture = cv2.normalize(texture, np.empty_like(texture), 0, 255, cv2.NORM_MINMAX)
    shifts = (0, 2, 2, 3)  # the content moves left by 2 px in the first tubelet, by 1 px in the second
    clip = torch.from_numpy(np.stack([texture[8:56, 8 + x :][:, :64] for x in shifts])).permute(0, 3, 1, 2)
    flow = token_flow(clip[None], (2, 16)).reshape(2, 3, 4, 2)
    assert np.abs(flow[0, 1, 1:3] - [-2, 0]).max() < 0.2 and np.abs(flow[1, 1, 1:3] - [-1, 0]).max() < 0.2
    single = token_flow(clip[None], (1, 16)).reshape(4, 12, 2)
    assert np.abs(single[1]).max() < 0.2 and np.isnan(single[3]).all() and np.isfinite(single[:3]).all()


def test_a_dense_probe_has_a_row_per_measure_and_control(train_bank: Path, moving_squares: Path) -> None:
    folder = train_bank.parent / "dense images"
    write_images(folder, count=3, seed=0, size=64)
    sources, like = Sources.open(train_bank, folder), encoder()
    steps: list[tuple[int, int]] = []
    videos = [next((moving_squares / "test" / "left").glob("*.mp4")), train_bank.parent / "none.mp4"]
    result = probe_dense(
        like, sources, sources, DenseOptions(num_train=12, num_test=6, seed=3), videos=videos,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    flow = ["encoder", "random encoders (3)", "no motion", "DIS flow"]
    expected = {
        **dict.fromkeys(("flow, px", "moving tokens, px", "moving tokens, cosine"), flow),
        **dict.fromkeys(("tracks, px", "tracks, TAP-Vid %"), flow[:3]),
        **dict.fromkeys(("real: flow, px", "real: moving tokens, px"), flow[:3]),
        "real: moving tokens, cosine": flow[:3],
    }  # fmt: skip
    assert [(r.measure, r.features) for r in result.rows] == [
        (m, f) for m, fs in expected.items() for f in fs
    ]
    assert result.num_videos == 1 and result.broken[0][0].endswith("none.mp4") and steps[-1] == (4, 4)
    values = {(row.measure, row.features): row for row in result.rows}
    assert all(row.low <= row.value <= row.high for row in result.rows)
    # The baseline, from scenes of the test split at this size.
    recipe = Recipe.load("probe-flow", ["num_frames=6", "objects.split=test"])
    lengths = []
    for index in range(6):
        scene = sample_scene(recipe, sources, seed=2003, index=index).scaled_to((32, 32))
        motion = annotate(scene, sources).token_motion((2, 8), [0])
        lengths.append(np.linalg.norm(motion.displacement_xy[0][motion.valid[0]], axis=-1).mean())
    assert values["flow, px", "no motion"].value == pytest.approx(np.mean(lengths), rel=1e-5)
    assert values["moving tokens, cosine", "no motion"].value == 0


def test_an_encoder_without_a_grid_of_tokens_is_refused() -> None:
    assert TokenGrid.of(encoder()) == (3, 4, 2, 8)
    with pytest.raises(UserError, match="3x1 tokens for clips of 6x32x32; dense readouts need a square"):
        TokenGrid.of(encoder(patch_size=32))
