"""manifest.parquet: one row per clip, written and read in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import atomic_write, sync_folder

MANIFEST = "manifest.parquet"
REPAIR = "repair the corpus to write it again"  # the end of messages about damaged files
_BATCH_ROWS = 1024  # in a row group, and in memory
Row = dict[str, Any]

_TEXT, _NUMBER = pa.string(), pa.int64()
_MEMBER = {"name": _TEXT, "file": _TEXT, "offset": _NUMBER, "bytes": _NUMBER, "sha256": _TEXT}
_SCHEMA = pa.schema(
    {
        "index": _NUMBER,
        "scene_digest": _TEXT,
        "factors": _TEXT,  # JSON: of the clip and of every object
        "file": _TEXT,  # first file of the media
        "offset": _NUMBER,  # of the first byte of the media in it
        "bytes": _NUMBER,  # of all files of the media
        "sha256": _TEXT,  # of their content, one after another
        "num_objects": _NUMBER,
        "classes": pa.list_(_TEXT),
        "families": pa.list_(_TEXT),
        "mean_visibility": pa.float64(),
        "min_visibility": pa.float64(),
        "members": pa.list_(pa.struct(_MEMBER)),
    }
)


def make_row(
    index: int,
    members: Mapping[str, bytes],
    places: Mapping[str, tuple[str, int]],
    media: Sequence[str],
) -> Row:
    """Describe a clip by its files.

    Args:
        index: of the clip.
        members: name -> content of all files.
        places: name -> (file, offset of its first byte).
        media: names of the media files.

    Raises:
        UserError: the labels cannot be read, or belong to another scene.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    try:
        labels = orjson.loads(members["json"])
        if (labels["index"], labels["scene_digest"]) != (index, digests["scene"]):
            raise ValueError("they belong to another scene")
        objects = labels["objects"]
        factors = [orjson.loads(part["factors"]) for part in (labels, *objects)]
        visibility = np.array(
            [v for item in objects for v in item["visibility"] if v is not None], np.float64
        )
        classes, families = ([item[key] for item in objects] for key in ("class_name", "family"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{places['json'][0]}': the labels are damaged: {error}") from None
    content = digests[media[0]]
    if len(media) > 1:
        content = hashlib.sha256(b"".join(members[name] for name in media)).hexdigest()
    return {
        "index": index,
        "scene_digest": digests["scene"],
        "factors": orjson.dumps({"clip": factors[0], "objects": factors[1:]}).decode(),
        "file": places[media[0]][0],
        "offset": places[media[0]][1],
        "bytes": sum(len(members[name]) for name in media),
        "sha256": content,
        "num_objects": len(objects),
        "classes": classes,
        "families": families,
        "mean_visibility": float(visibility.mean()) if len(visibility) else None,
        "min_visibility": float(visibility.min()) if len(visibility) else None,
        "members": [
            dict(zip(_MEMBER, (name, *places[name], len(data), digests[name]), strict=True))
            for name, data in members.items()
        ],
    }


@contextmanager
def new_manifest(folder: Path) -> Iterator[Callable[[Row], None]]:
    """Yield a function that appends a row; the manifest appears when the block succeeds.

    Raises:
        UserError: it cannot be written.
    """
    rows: list[Row] = []

    def write_batch() -> None:
        writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        rows.clear()

    def append(row: Row) -> None:
        rows.append(row)
        if len(rows) == _BATCH_ROWS:
            write_batch()

    with (
        atomic_write(folder / MANIFEST) as file,
        pq.ParquetWriter(file, _SCHEMA, compression="zstd") as writer,
    ):
        yield append
        if rows:
            write_batch()
    sync_folder(folder)


def read_manifest(folder: Path) -> pa.Table:
    """Return the manifest of a corpus; a table without rows if there is none yet.

    Raises:
        UserError: it is damaged.
    """
    return pa.Table.from_batches(_batches(folder), _SCHEMA)


def read_rows(folder: Path) -> Iterator[Row]:
    """Yield the rows of the manifest in order; none if there is no manifest yet.

    Raises:
        UserError: it is damaged.
    """
    for batch in _batches(folder):
        yield from batch.to_pylist()


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    path = folder / MANIFEST
    if not path.exists():
        return
    try:
        with pq.ParquetFile(path) as file:
            if not file.schema_arrow.equals(_SCHEMA):
                raise pa.ArrowInvalid("its columns are not those of a manifest")
            yield from file.iter_batches(_BATCH_ROWS, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"'{path}': is damaged ({reason}); {REPAIR}") from None
