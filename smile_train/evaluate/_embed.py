"""Embeddings: one feature per video, in a file with the settings that produced it."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import atomic_write
from smile_train.data.video import ReadOptions, ViewOptions
from smile_train.data.video_lists import find_videos
from smile_train.evaluate._encoders import FrozenEncoder
from smile_train.evaluate._extract import Extractor
from smile_train.evaluate._features import Pooling, encoder_feature

SUFFIXES = (".parquet", ".npz")


@dataclass(frozen=True)
class EmbedReport:
    """The result of `embed_videos`.

    Attributes:
        num_videos: rows of the file.
        num_windows: clips of all videos.
        width: values per video.
        broken: (video, reason) of files that could not be read.
    """

    num_videos: int
    num_windows: int
    width: int
    broken: list[tuple[str, str]]


def embed_videos(
    videos: str | Path,
    encoder: FrozenEncoder,
    out: str | Path,
    *,
    view: ViewOptions | None = None,
    layer: int = -1,
    pooling: Pooling = "mean",
    extractor: Extractor | None = None,
    strict: bool = False,
) -> EmbedReport:
    """Write one feature per video: encoder tokens, averaged over tokens, then over clips.

    Under torchrun the videos are spread over the processes, and rank 0 writes the file.

    Args:
        videos: a file or folder.
        encoder: see `load_encoder`.
        out: ``.parquet`` or ``.npz`` with the columns video, num_windows, feature, and the settings.
        view: how videos become clips.
        layer: see `FrozenEncoder.encode`.
        pooling: ``mean`` over all tokens, or ``frames``, the mean of each time.
        extractor: computes the features; sets cache, decoding processes and ranks.
        strict: refuse files that cannot be read.

    Raises:
        UserError: no videos, none readable, unknown suffix of ``out``, or names that it cannot hold.
    """
    out, root, extractor = Path(out), Path(videos), extractor or Extractor()
    if out.suffix not in SUFFIXES:
        raise UserError(f"out '{out}': expected a .parquet or .npz file")
    paths = find_videos(videos)
    names = [path.name if path == root else path.relative_to(root).as_posix() for path in paths]
    not_utf8 = [name for name in names if name.encode(errors="ignore").decode() != name]
    if not_utf8 and out.suffix == ".parquet":
        raise UserError(f"video {ascii(not_utf8[0])}: .parquet holds UTF-8 names only; use .npz")
    read = ReadOptions.of(view or ViewOptions(), num_frames=encoder.num_frames, side=encoder.side)
    found = extractor(paths, [encoder_feature(encoder, layer, pooling)], read, names=names)
    if strict and found.broken:
        raise UserError(f"video '{found.broken[0][0]}': {found.broken[0][1]}")
    if not len(found.readable):
        reason = found.broken[0][1]
        raise UserError(f"videos '{videos}': none of {len(paths)} could be read; the first: {reason}")
    width = 0
    if found.features:
        values = found.features["encoder"]
        width = values.shape[1]
        settings = {"encoder": encoder.name, "encoder_digest": encoder.digest, "layer": layer,
                    "pooling": pooling, **read.model_dump(mode="json")}  # fmt: skip
        _write(out, [names[i] for i in found.readable], found.num_clips, values, json.dumps(settings))
    width = extractor.exchange.broadcast(width)
    return EmbedReport(len(found.readable), int(found.num_clips.sum()), width, found.broken)


def read_embeddings(*files: str | Path) -> tuple[list[str], NDArray[np.float32], dict[str, Any]]:
    """Return names, features ``[N, C]`` and settings of files of `embed_videos`.

    Raises:
        UserError: not such a file, or files with different settings.
    """
    names: list[str] = []
    features: list[NDArray[np.float32]] = []
    settings: dict[str, Any] = {}
    for path in map(Path, files):
        try:
            if path.suffix == ".npz":
                with path.open("rb") as opened, np.load(opened) as file:
                    own = json.loads(str(file["settings"]))
                    names += file["video"].tolist()
                    features.append(file["feature"])
            else:
                table = pq.read_table(path)
                own = json.loads((table.schema.metadata or {})[b"settings"])
                names += table["video"].to_pylist()
                features.append(np.array(table["feature"].to_pylist(), np.float32))
        except (
            OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, pa.ArrowException
        ) as error:  # fmt: skip
            reason = str(error).partition("\n")[0]
            raise UserError(f"'{path}': not a file of smile-train embed: {reason}") from None
        different = sorted(k for k in {**settings, **own} if settings.get(k) != own.get(k))
        if settings and different:
            raise UserError(f"'{files[0]}' and '{path}': were made with different {', '.join(different)}")
        settings = own
    return names, np.concatenate(features), settings


def _write(
    out: Path, names: list[str], counts: NDArray[np.int64], features: NDArray[np.float32], settings: str
) -> None:
    with atomic_write(out) as file:
        if out.suffix == ".npz":
            np.savez(
                file, video=np.array(names), num_windows=counts, feature=features, settings=np.array(settings)
            )
        else:
            table = pa.table({"video": names, "num_windows": counts, "feature": list(features)})
            pq.write_table(table.replace_schema_metadata({"settings": settings}), file)
