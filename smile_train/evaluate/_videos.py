"""Embeddings of real videos: one row per video, in a file that says how it was made."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_train.data.video import ReadOptions, ViewOptions
from smile_train.data.video_lists import find_videos
from smile_train.evaluate._encoders import load_encoder
from smile_train.evaluate._extract import EncoderFeature, Progress, extract
from smile_train.training.pretrain import choose_device


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_videos` did.

    Attributes:
        num_videos: rows written.
        num_windows: of all videos.
        width: of a feature.
        broken: files that could not be read, with the reason.
    """

    num_videos: int
    num_windows: int
    width: int
    broken: list[tuple[str, str]]


def embed_videos(
    videos: str | Path,
    checkpoint: str | Path,
    out: str | Path,
    *,
    view: ViewOptions | None = None,
    layer: int = -1,
    pooling: Literal["mean", "frames"] = "mean",
    num_frames: int | None = None,
    side: int | None = None,
    device: str = "auto",
    cache: Path | None = None,
    workers: int = 1,
    strict: bool = False,
    progress: Progress | None = None,
) -> EmbedReport:
    """Write one feature per video: encoder tokens, averaged over tokens, then over windows.

    Args:
        videos: a file or folder.
        checkpoint: whatever `load_encoder` takes.
        out: ``.parquet`` or ``.npz``; columns video, num_windows, feature, and how they were made.
        view: how videos become clips.
        layer: block whose tokens are read; -1 is after the last norm.
        pooling: mean over all tokens, or frames, the mean of each time.
        num_frames, side: see `load_encoder`.
        device: auto, cpu or cuda.
        cache: folder for features; see `extract`.
        workers: processes that decode.
        strict: fail when a video cannot be read.
        progress: called with (videos done, videos in all).

    Raises:
        UserError: no videos, none readable, no checkpoint, unknown suffix of ``out``, names it cannot hold.
    """
    out = Path(out)
    if out.suffix not in (".parquet", ".npz"):
        raise UserError(f"out '{out}': expected a .parquet or .npz file")
    encoder = load_encoder(checkpoint, num_frames=num_frames, side=side, device=choose_device(device))
    read = ReadOptions.of(view or ViewOptions(), num_frames=encoder.num_frames, side=encoder.side)
    root = Path(videos)
    paths = find_videos(videos)
    names = [path.relative_to(root).as_posix() if root.is_dir() else path.name for path in paths]
    strange = [name for name in names if name.encode(errors="ignore").decode() != name]
    if strange and out.suffix == ".parquet":
        raise UserError(
            f"video {ascii(strange[0])}: its name is no UTF-8; .npz holds such names, .parquet does not"
        )
    found = extract(
        paths, [EncoderFeature(encoder, layer, pooling)], read, cache=cache, workers=workers, names=names,
        progress=progress,
    )  # fmt: skip
    if strict and found.broken:
        raise UserError(f"video '{found.broken[0][0]}': {found.broken[0][1]}")
    if not len(found.readable):
        raise UserError(
            f"videos '{videos}': none of {len(paths)} could be read; the first: {found.broken[0][1]}"
        )
    settings = {
        "encoder": encoder.name,
        "encoder_digest": encoder.digest,
        "layer": layer,
        "pooling": pooling,
        **read.model_dump(mode="json"),
    }
    features = found.features["encoder"]
    _write(out, [names[int(i)] for i in found.readable], found.num_clips.tolist(), features, settings)
    return EmbedReport(len(features), int(found.num_clips.sum()), features.shape[1], found.broken)


def read_embeddings(*files: str | Path) -> tuple[list[str], NDArray[np.float32], dict[str, Any]]:
    """Return names, features ``[N, C]`` and settings of one or more files of `embed_videos`.

    Raises:
        UserError: not such a file, or files made with different settings; names what differs.
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
            told = str(error).partition("\n")[0]
            raise UserError(f"'{path}': not a file of smile-train embed: {told}") from None
        different = sorted(k for k in {**settings, **own} if settings.get(k) != own.get(k))
        if settings and different:
            raise UserError(f"'{files[0]}' and '{path}': were made with different {', '.join(different)}")
        settings = own
    return names, np.concatenate(features), settings


def _write(
    out: Path, files: list[str], counts: list[int], features: NDArray[np.float32], settings: dict[str, object]
) -> None:
    partial = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            if out.suffix == ".npz":
                np.savez(
                    file, video=np.array(files), num_windows=np.array(counts), feature=features,
                    settings=np.array(json.dumps(settings)),
                )  # fmt: skip
            else:
                columns = {"video": files, "num_windows": counts, "feature": list(features)}
                table = pa.table(columns).replace_schema_metadata({"settings": json.dumps(settings)})
                pq.write_table(table, file)
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
