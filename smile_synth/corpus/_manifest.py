"""manifest.parquet: one row per clip, written and read a few at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import appearing

MANIFEST = "manifest.parquet"
_ROWS = 1024  # in one group, and in memory
Row = dict[str, Any]

_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("scene_digest", pa.string()),
        ("factors", pa.string()),  # JSON: of the clip, and of every object
        ("file", pa.string()),  # the media's first file
        ("offset", pa.int64()),  # of its first byte
        ("bytes", pa.int64()),  # of all the media's files
        ("sha256", pa.string()),  # of their content, one after another
        ("num_objects", pa.int64()),
        ("classes", pa.list_(pa.string())),
        ("families", pa.list_(pa.string())),
        ("mean_visibility", pa.float64()),
        ("min_visibility", pa.float64()),
        (
            "members",
            pa.list_(
                pa.struct(
                    [
                        ("name", pa.string()),
                        ("file", pa.string()),
                        ("offset", pa.int64()),
                        ("bytes", pa.int64()),
                        ("sha256", pa.string()),
                    ]
                )
            ),
        ),
    ]
)


def make_row(
    index: int,
    members: Mapping[str, bytes],
    places: Mapping[str, tuple[str, int]],
    media: Iterable[str],
    labels: Mapping[str, Any] | None = None,
) -> Row:
    """Describe a clip by its files.

    Args:
        index: of the clip.
        members: name -> content.
        places: name -> (file, offset of its first byte).
        media: the names among them that are media.
        labels: what the manifest lists of the label file, if that is known.

    Raises:
        UserError: the labels cannot be read, or are of another scene.
    """
    media = list(media)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    scene_digest = digests["scene"]
    try:
        read = json.loads(members["json"]) if labels is None else labels
        objects = read["objects"]
        if (read["index"], read["scene_digest"]) != (index, scene_digest):
            raise ValueError("they are of another scene")
        seen = np.array([v for item in objects for v in item["visibility"] if v is not None], np.float64)
        # All of them are JSON already.
        of_objects = ", ".join(item["factors"] for item in objects)
        factors = f'{{"clip": {read["factors"]}, "objects": [{of_objects}]}}'
        if labels is None:
            json.loads(factors)
        classes = [item["class_name"] for item in objects]
        families = [item["family"] for item in objects]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{places['json'][0]}': labels are damaged: {error}") from None
    content = digests[media[0]]
    if len(media) > 1:
        content = hashlib.sha256(b"".join(members[name] for name in media)).hexdigest()
    return {
        "index": index,
        "scene_digest": scene_digest,
        "factors": factors,
        "file": places[media[0]][0],
        "offset": places[media[0]][1],
        "bytes": sum(len(members[name]) for name in media),
        "sha256": content,
        "num_objects": len(objects),
        "classes": classes,
        "families": families,
        "mean_visibility": float(seen.mean()) if len(seen) else None,
        "min_visibility": float(seen.min()) if len(seen) else None,
        "members": [
            {
                "name": name,
                "file": places[name][0],
                "offset": places[name][1],
                "bytes": len(data),
                "sha256": digests[name],
            }
            for name, data in members.items()
        ],
    }


class ManifestWriter:
    """Writes rows in order; the manifest appears when the block ends well."""

    def __init__(self, folder: Path) -> None:
        self._appearing = appearing(folder / MANIFEST)
        self._rows: list[Row] = []

    def __enter__(self) -> ManifestWriter:
        """Begin."""
        self._writer = pq.ParquetWriter(self._appearing.__enter__(), _SCHEMA, compression="zstd")
        return self

    def add(self, row: Row) -> None:
        """Append a row."""
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._rows, schema=_SCHEMA))
        self._rows.clear()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish, unless something went wrong."""
        if kind is None and self._rows:
            self._flush()
        self._writer.close()
        self._appearing.__exit__(kind, error, trace)


def read_manifest(folder: Path) -> pa.Table:
    """Return a corpus's manifest; without rows where there is none yet.

    Raises:
        UserError: damaged.
    """
    return pa.Table.from_batches(_batches(folder), _SCHEMA)


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    path = folder / MANIFEST
    if not path.exists():
        return
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(_SCHEMA):
                raise pa.ArrowInvalid("other columns than expected")
            yield from file.iter_batches(_ROWS, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"'{path}': is damaged ({reason}); 'smile-synth corpus repair' mends it") from None


def read_rows(folder: Path) -> Iterator[Row]:
    """Yield the manifest's rows in order; none where there is no manifest.

    Raises:
        UserError: damaged.
    """
    for batch in _batches(folder):
        yield from batch.to_pylist()
