"""TAP-Vid: pickles as published, and samples in the form of its Kubric training data.

Each has the visibility rule of its benchmark, which a text file beside the tracks states.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.annotations import Annotation, query_points
from smile_synth.core.clip import Tracks
from smile_synth.core.rng import RandomStream
from smile_synth.corpus import npz_bytes
from smile_synth.exporters._base import ExportedClip, Exporter, ExportSource, Values, write

Bool = NDArray[np.bool_]
Float = NDArray[np.float64]

_CLIPS_PER_FILE = 100  # bounds the memory
_RULE_FILE = "visibility.txt"
_RULE = """\
occluded is true in these cases:
- the point is outside the frame;
- {hidden};
- the object of the point is not present in the frame (opacity 0);
- perspective moves the point behind the camera; its position is then 0.
All other points are visible. Every track is visible in at least one frame.
Positions of occluded points are exact too{clipped}.
"""


def _tracks(clip: ExportedClip, rule: Callable[[Annotation, Tracks], Bool]) -> tuple[Float, Tracks]:
    """Return queries (frame, x, y) ``[P, 3]`` and their tracks: half on objects, half on a grid.

    Points that are not visible in their own frame (drawn on an edge) are left out.
    """
    annotation, scene = clip.annotation, clip.annotation.scene
    count = max(1, clip.source.options.points // 2)
    rng = RandomStream(scene.seed, scene.index, "exported points")
    kinds = ("objects", "grid")
    queries = np.concatenate([query_points(annotation, kind, count=count, rng=rng) for kind in kinds])
    tracks = annotation.tracks(queries)
    visible = rule(annotation, tracks)
    kept = visible[np.arange(len(queries)), queries[:, 0].astype(int)]
    return queries[kept], Tracks(tracks.points_xy[kept], visible[kept], tracks.layer[kept])


def _visible_at_point(annotation: Annotation, tracks: Tracks) -> Bool:
    """Return `Tracks.visible`: inside the frame, and no other surface owns the point itself."""
    return tracks.visible


def _visible_in_pixels(annotation: Annotation, tracks: Tracks) -> Bool:
    """Return ``[P, T]``: inside the frame, and one of the four nearest pixels shows the point's layer.

    The rule of ``challenges/point_tracking/dataset.py`` of Kubric, for surfaces at different depths.
    """
    owners = annotation.owner_layers
    frames, height, width = owners.shape
    points, visible = np.nan_to_num(tracks.points_xy), np.zeros(tracks.visible.shape, bool)
    column, row = np.floor(points - 0.5).astype(int).transpose(2, 0, 1)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        y, x = np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)
        visible |= owners[np.arange(frames), y, x] == tracks.layer[:, None]
    return visible & ((tracks.points_xy >= 0) & (tracks.points_xy <= (width, height))).all(axis=2)


def _write_clip(clip: ExportedClip, out: Path) -> tuple[str, Values]:
    _, tracks = _tracks(clip, _visible_at_point)
    height, width = clip.source.size_hw
    points = np.nan_to_num(tracks.points_xy / [width, height]).clip(0, 1).astype(np.float32)
    return clip.name, {"video": clip.frames, "points": points, "occluded": ~tracks.visible}


def _finish(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    files = -(-len(source.corpus) // _CLIPS_PER_FILE)
    for number in range(files):
        examples = dict(islice(records, _CLIPS_PER_FILE))
        write(out / f"{number:04d}_of_{files:04d}.pkl", pickle.dumps(examples, protocol=4))
    hidden = "another surface covers the point itself with an opacity of at least one half"
    text = _RULE.format(hidden=hidden, clipped=", but clipped to the frame")
    write(out / _RULE_FILE, text.encode())


def _write_kubric_clip(clip: ExportedClip, out: Path) -> None:
    queries, tracks = _tracks(clip, _visible_in_pixels)
    sample = npz_bytes(
        video=(clip.frames.astype(np.float32) / 127.5 - 1).astype(np.float32),
        query_points=queries[:, [0, 2, 1]].astype(np.float32),
        target_points=np.nan_to_num(tracks.points_xy).astype(np.float32),
        occluded=~tracks.visible,
    )
    write(out / f"{clip.name}.npz", sample)


def _finish_kubric(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    for _ in records:
        pass
    hidden = "none of the four pixels whose centres are nearest to the point shows the surface of the point"
    write(out / _RULE_FILE, _RULE.format(hidden=hidden, clipped="").encode())


TAPVID = Exporter("tapvid", _write_clip, _finish, needs_sources=True)
TAPVID_KUBRIC = Exporter("tapvid-kubric", _write_kubric_clip, _finish_kubric, needs_sources=True)
