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

_PER_FILE = 100


def _tracks(clip: ExportedClip) -> tuple[NDArray[np.float64], Tracks]:
    """Return queries (frame, x, y) and their tracks; half of the points on objects, half on a grid.

    Points that are owned by nothing that is seen in their own frame (drawn on an edge) are left out.
    """
    annotation, points = clip.annotation, clip.source.points
    scene = annotation.scene
    rng = RandomStream(scene.seed, scene.index, "exported points")
    queries = np.concatenate(
        [query_points(annotation, kind, count=max(1, points // 2), rng=rng) for kind in ("objects", "grid")]
    )
    tracks = annotation.tracks(queries)
    seen = tracks.visible[np.arange(len(queries)), queries[:, 0].astype(int)]
    return queries[seen], Tracks(tracks.points_xy[seen], tracks.visible[seen], tracks.layer[seen])


def _tapvid(clip: ExportedClip, out: Path) -> tuple[str, Values]:
    _, tracks = _tracks(clip)
    height, width = clip.source.corpus.header.size_hw
    points = np.nan_to_num(tracks.points_xy / [width, height]).clip(0, 1).astype(np.float32)
    return clip.name, {"video": clip.frames, "points": points, "occluded": ~tracks.visible}


def _pickles(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    """Write examples by name, a hundred in a file, so that no file fills the memory."""
    files = -(-len(source.corpus) // _PER_FILE)
    for number in range(files):
        examples = dict(islice(records, _PER_FILE))
        write(out / f"{number:04d}_of_{files:04d}.pkl", pickle.dumps(examples, protocol=4))


def _kubric(clip: ExportedClip, out: Path) -> None:
    queries, tracks = _tracks(clip)
    sample = npz_bytes(
        video=(clip.frames.astype(np.float32) / 127.5 - 1).astype(np.float32),
        query_points=queries[:, [0, 2, 1]].astype(np.float32),
        target_points=np.nan_to_num(tracks.points_xy).astype(np.float32),
        occluded=~tracks.visible,
    )
    write(out / f"{clip.name}.npz", sample)


TAPVID = Exporter(_tapvid, _pickles, needs_bank=True)
TAPVID_KUBRIC = Exporter(_kubric, needs_bank=True)
