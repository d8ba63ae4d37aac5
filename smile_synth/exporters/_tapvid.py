"""TAP-Vid: pickles as published, and samples in the form of its Kubric training data."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations import query_points
from smile_synth.core.clip import Tracks
from smile_synth.core.rng import RandomStream
from smile_synth.corpus import npz_bytes
from smile_synth.exporters._base import ExportedClip, Exporter, ExportSource, Values, write

_CLIPS_PER_FILE = 100  # bounds the memory


def _tracks(clip: ExportedClip) -> tuple[NDArray[np.float64], Tracks]:
    """Return queries (frame, x, y) ``[P, 3]`` and their tracks: half on objects, half on a grid.

    Points that are not visible in their own frame (drawn on an edge) are left out.
    """
    annotation, scene = clip.annotation, clip.annotation.scene
    count = max(1, clip.source.points // 2)
    rng = RandomStream(scene.seed, scene.index, "exported points")
    kinds = ("objects", "grid")
    queries = np.concatenate([query_points(annotation, kind, count=count, rng=rng) for kind in kinds])
    tracks = annotation.tracks(queries)
    visible = tracks.visible[np.arange(len(queries)), queries[:, 0].astype(int)]
    return queries[visible], Tracks(tracks.points_xy[visible], tracks.visible[visible], tracks.layer[visible])


def _write_clip(clip: ExportedClip, out: Path) -> tuple[str, Values]:
    _, tracks = _tracks(clip)
    height, width = clip.source.size_hw
    points = np.nan_to_num(tracks.points_xy / [width, height]).clip(0, 1).astype(np.float32)
    return clip.name, {"video": clip.frames, "points": points, "occluded": ~tracks.visible}


def _finish(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    files = -(-len(source.corpus) // _CLIPS_PER_FILE)
    for number in range(files):
        examples = dict(islice(records, _CLIPS_PER_FILE))
        write(out / f"{number:04d}_of_{files:04d}.pkl", pickle.dumps(examples, protocol=4))


def _write_kubric_clip(clip: ExportedClip, out: Path) -> None:
    queries, tracks = _tracks(clip)
    sample = npz_bytes(
        video=(clip.frames.astype(np.float32) / 127.5 - 1).astype(np.float32),
        query_points=queries[:, [0, 2, 1]].astype(np.float32),
        target_points=np.nan_to_num(tracks.points_xy).astype(np.float32),
        occluded=~tracks.visible,
    )
    write(out / f"{clip.name}.npz", sample)


TAPVID = Exporter("tapvid", _write_clip, _finish, needs_sources=True)
TAPVID_KUBRIC = Exporter("tapvid-kubric", _write_kubric_clip, needs_sources=True)
