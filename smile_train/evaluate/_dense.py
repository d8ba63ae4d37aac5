"""Dense probes: flow and point tracks from the tokens of a frozen encoder, with controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_synth import Recipe, annotate
from smile_synth.annotations import query_points
from smile_synth.core.errors import UserError
from smile_synth.sources import Sources
from smile_train.data.video import ReadOptions, ViewOptions, read_windows
from smile_train.evaluate._dense_readouts import (
    TokenGrid,
    fit_displacement,
    match_points,
    read_displacement,
    tapvid_accuracy,
    token_displacement,
    token_flow,
)
from smile_train.evaluate._encoders import FrozenEncoder
from smile_train.evaluate._features import BATCH
from smile_train.evaluate._motion import NUM_RANDOM
from smile_train.evaluate._motion_clips import SEEDS, render_clips
from smile_train.evaluate._statistics import bootstrap_interval, paired_difference

Float = NDArray[np.float64]
Scores = dict[str, Float]
# A token moves if its true displacement is at least this, in pixels.
MOVING = 0.5
# Points per clip; those in the first frames of tubelets are followed.
NUM_POINTS = 64
NO_MOTION, DIS = "no motion", "DIS flow"


@dataclass(frozen=True)
class DenseOptions:
    """What a dense probe measures.

    Attributes:
        train_recipe: of the clips that the readout is fitted on.
        test_recipe: of the test clips.
        num_train, num_test: synthetic clips.
        layer: see `FrozenEncoder.encode`.
        window: see `match_points`.
        seed: of clips, random encoders and the bootstrap.
    """

    train_recipe: str = "motion"
    test_recipe: str = "probe-flow"
    num_train: int = 400
    num_test: int = 200
    layer: int = -1
    window: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class DenseRow:
    """One measure of one kind of features.

    Attributes:
        measure: name and unit.
        features: ``encoder``, ``random encoders (3)`` or the name of a control.
        value: mean over clips.
        low, high: 95 % bootstrap interval over clips.
        margin: 95 % interval (low, high) of encoder minus random encoders; only in the encoder's row.
    """

    measure: str
    features: str
    value: float
    low: float
    high: float
    margin: tuple[float, float] | None = None


@dataclass(frozen=True)
class DenseResult:
    """All measures of an encoder and its controls.

    Attributes:
        rows: one per measure and kind of features.
        num_train, num_test, num_videos: synthetic clips for fit and test, and readable videos.
        broken: (video, reason) of files that could not be read.
        settings: everything else that the values depend on, except weights and sources.
    """

    rows: list[DenseRow]
    num_train: int
    num_test: int
    num_videos: int
    broken: list[tuple[str, str]]
    settings: dict[str, object]


class _Clips(NamedTuple):
    """Clips with their motion.

    Attributes:
        frames: ``[V, T, 3, side, side]`` uint8.
        displacement: ``[V, N, 2]`` pixels; NaN where it is not known.
        queries: per clip ``[P, 3]`` time in tubelets, x and y in pixels; empty for real clips.
        tracks: per clip ``[P, T', 2]`` pixels; NaN up to the query's time and where a point is not visible.
    """

    frames: Tensor
    displacement: Float
    queries: list[Float]
    tracks: list[Float]


def probe_dense(
    encoder: FrozenEncoder,
    train: Sources,
    test: Sources,
    options: DenseOptions | None = None,
    *,
    videos: Sequence[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> DenseResult:
    """Measure how well motion can be read from the tokens of an encoder.

    Flow: a linear readout of the displacement of each token, fitted on synthetic clips with objects of the
    bank's train split; its endpoint error on clips with objects of the test split, and its distance to DIS
    flow on the middle clip of each video. Tracks: feature matching, see `match_points`.

    Args:
        encoder: see `load_encoder`.
        train, test: sources of the synthetic clips, with the same bank.
        options: numbers of clips, recipes.
        videos: real videos.
        progress: called with (encoders done, all encoders).

    Raises:
        UserError: the tokens form no grid, or none of the videos can be read.
    """
    options = options or DenseOptions()
    grid = TokenGrid.of(encoder, options.layer)
    fit = _synthetic("train", options.train_recipe, train, encoder, grid, options)
    tests = {"": _synthetic("test", options.test_recipe, test, encoder, grid, options)}
    broken: list[tuple[str, str]] = []
    if videos:
        tests["real: "], broken = _real(videos, encoder, grid)
    scores = {"encoder": _encoder_scores(encoder, fit, tests, grid, options)}
    for k in range(NUM_RANDOM):
        if progress:
            progress(1 + k, 1 + NUM_RANDOM)
        random = encoder.reinitialised(options.seed + k)
        scores[f"random {k}"] = _encoder_scores(random, fit, tests, grid, options)
    scores[NO_MOTION] = {}
    for kind, clips in tests.items():
        scores[NO_MOTION] |= _flow_scores(kind, np.zeros_like(clips.displacement), clips)
    still = [np.repeat(q[:, None, 1:], grid.times, 1) for q in tests[""].queries]
    scores[NO_MOTION] |= _track_scores(still, tests[""])
    scores[DIS] = _flow_scores("", token_flow(tests[""].frames, grid.token_size), tests[""])
    if progress:
        progress(1 + NUM_RANDOM, 1 + NUM_RANDOM)
    settings = {
        "encoder": encoder.name, "digest": encoder.digest, "num_frames": encoder.num_frames,
        "side": encoder.side, "layer": options.layer, "window": options.window, "seed": options.seed,
        "train_recipe": options.train_recipe, "test_recipe": options.test_recipe,
    }  # fmt: skip
    return DenseResult(
        _rows(scores, options.seed), options.num_train, options.num_test, len(videos) - len(broken), broken,
        settings,
    )  # fmt: skip


def _synthetic(
    split: str, recipe: str, sources: Sources, encoder: FrozenEncoder, grid: TokenGrid, options: DenseOptions
) -> _Clips:
    """Render clips with objects of one split of the bank."""
    loaded = Recipe.load(recipe, [f"num_frames={encoder.num_frames}", f"objects.split={split}"])
    count = options.num_train if split == "train" else options.num_test
    seed = SEEDS[split] + options.seed
    frames, scenes = render_clips(loaded, sources, encoder.side, seed, count)
    displacement = np.empty((count, grid.times * grid.side**2, 2))
    queries: list[Float] = []
    tracks: list[Float] = []
    for scene, out in zip(scenes, displacement, strict=True):
        annotation = annotate(scene.scaled_to((encoder.side, encoder.side)), sources)
        out[:] = token_displacement(annotation, grid.token_size)
        if split == "test":
            points = query_points(annotation, "objects", count=NUM_POINTS, seed=seed)
            points = points[points[:, 0] % grid.tubelet_size == 0]
            found = annotation.tracks(points)
            points[:, 0] //= grid.tubelet_size
            known = found.visible[:, :: grid.tubelet_size] & (np.arange(grid.times) > points[:, :1])
            tracks.append(np.where(known[..., None], found.points_xy[:, :: grid.tubelet_size], np.nan))
            queries.append(points)
    return _Clips(frames, displacement, queries, tracks)


def _real(
    videos: Sequence[Path], encoder: FrozenEncoder, grid: TokenGrid
) -> tuple[_Clips, list[tuple[str, str]]]:
    """Read the middle clip of every video, with DIS flow as its motion."""
    read = ReadOptions.of(ViewOptions(clips=1), num_frames=encoder.num_frames, side=encoder.side)
    clips, broken = [], []
    for path in videos:
        try:
            clips.append(torch.from_numpy(next(read_windows(path, read))).permute(0, 3, 1, 2))
        except UserError as error:
            broken.append((str(path), str(error)))
    if not clips:
        raise UserError(f"video '{broken[0][0]}': {broken[0][1]} (none of {len(videos)} can be read)")
    frames = torch.stack(clips)
    return _Clips(frames, token_flow(frames, grid.token_size), [], []), broken


def _encoder_scores(
    encoder: FrozenEncoder,
    fit: _Clips,
    tests: Mapping[str, _Clips],
    grid: TokenGrid,
    options: DenseOptions,
) -> Scores:
    """Return the measures of an encoder by clip."""

    def batches(clips: _Clips) -> Iterator[tuple[Tensor, Float]]:
        for first, part in enumerate(clips.frames.split(BATCH)):
            tokens = encoder.encode(part, options.layer)
            yield tokens.flatten(1, 2), clips.displacement[first * BATCH :][: len(part)]

    readout = fit_displacement(batches(fit))
    scores: Scores = {}
    for kind, clips in tests.items():
        predicted: list[Float] = []
        tracks: list[Float] = []
        queries = iter(clips.queries)  # of no real clip
        for tokens, _ in batches(clips):
            predicted.append(read_displacement(readout, tokens))
            maps = tokens.unflatten(1, (grid.times, grid.side, grid.side))
            for features, points in zip(maps, queries, strict=False):
                scaled = torch.from_numpy(points / [1, grid.patch_size, grid.patch_size])
                found = match_points(features, scaled, window=options.window)
                tracks.append(found.numpy() * grid.patch_size)
        scores |= _flow_scores(kind, np.concatenate(predicted), clips)
        if tracks:
            scores |= _track_scores(tracks, clips)
    return scores


def _flow_scores(kind: str, predicted: Float, clips: _Clips) -> Scores:
    """Return the endpoint error of every clip over all tokens, and that and the cosine over moving tokens."""
    true = clips.displacement
    errors, length = np.linalg.norm(predicted - true, axis=-1), np.linalg.norm(true, axis=-1)
    # A prediction of no motion has no direction; its cosine counts as 0.
    lengths = np.maximum(length * np.linalg.norm(predicted, axis=-1), 1e-9)
    cosines, moving = (predicted * true).sum(-1) / lengths, length >= MOVING
    return {
        f"{kind}flow, px": _mean(errors),
        f"{kind}moving tokens, px": _mean(np.where(moving, errors, np.nan)),
        f"{kind}moving tokens, cosine": _mean(np.where(moving, cosines, np.nan)),
    }


def _track_scores(predicted: Sequence[Float], clips: _Clips) -> Scores:
    """Return the mean distance of every clip's points, and their TAP-Vid accuracy in percent."""
    side = clips.frames.shape[-1]
    distances = [
        np.linalg.norm(p - true, axis=-1).ravel() for p, true in zip(predicted, clips.tracks, strict=True)
    ]
    accuracy = [100 * tapvid_accuracy(distance, side) for distance in distances]
    return {
        "tracks, px": np.concatenate([_mean(d[None]) for d in distances]),
        "tracks, TAP-Vid %": np.concatenate([_mean(a[None]) for a in accuracy]),
    }


def _mean(values: Float) -> Float:
    """Return the mean of each row, NaN left out; NaN for a row without values."""
    known = np.isfinite(values)
    empty = np.full(len(values), np.nan)
    return np.asarray(
        np.divide(np.where(known, values, 0).sum(1), known.sum(1), out=empty, where=known.any(1))
    )


def _rows(scores: Mapping[str, Scores], seed: int) -> list[DenseRow]:
    """Return the rows, measure by measure; random encoders share one."""
    rows = []
    for measure, encoder in scores["encoder"].items():
        randoms = np.mean([scores[f"random {k}"][measure] for k in range(NUM_RANDOM)], axis=0)
        shown = {"encoder": encoder, f"random encoders ({NUM_RANDOM})": randoms}
        shown |= {name: scores[name][measure] for name in (NO_MOTION, DIS) if measure in scores[name]}
        known = np.isfinite(encoder)
        if not known.any():
            continue
        for name, values in shown.items():
            interval = bootstrap_interval(values[known], seed=seed)
            margin = None
            if name == "encoder":
                difference = paired_difference(values[known], randoms[known], seed=seed)
                margin = (difference.low, difference.high)
            rows.append(DenseRow(measure, name, float(values[known].mean()), *interval, margin))
    return rows
