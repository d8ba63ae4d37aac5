"""Write a labelled corpus: one clip after the other, by index, resumable, the same bytes for any workers."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as coco_mask

from smile_synth.annotations import annotate
from smile_synth.backgrounds import BackgroundFolder
from smile_synth.clip import Labels
from smile_synth.compositing import composite
from smile_synth.corpus._video import check_encodable, write_bytes, write_mp4
from smile_synth.errors import UserError
from smile_synth.objects import ObjectBank
from smile_synth.recipe import Recipe
from smile_synth.scene import Scene, sample_scene
from smile_synth.workers import in_order

FORMAT = "smile-corpus-1"
_FOLDERS = ("scenes", "clips", "labels")
# Versions of what touches bytes.
_PACKAGES = ("smile-video", "numpy", "av", "numba", "pycocotools", "pyarrow")


@dataclass(frozen=True)
class Job:
    """What a worker needs to write any clip of the corpus."""

    recipe: Recipe
    bank: ObjectBank
    backgrounds: BackgroundFolder | None
    out: Path
    seed: int
    size_hw: tuple[int, int]
    fps: float


@dataclass(frozen=True)
class CorpusSummary:
    """What a run of `generate` did.

    Attributes:
        num_clips: clips of the corpus.
        written: clips written by this run; the others stood already.
        num_bytes: of the media.
    """

    num_clips: int
    written: int
    num_bytes: int


def generate(
    recipe: Recipe,
    bank: ObjectBank,
    backgrounds: BackgroundFolder | None = None,
    *,
    out: str | Path,
    num_clips: int,
    seed: int,
    size_hw: tuple[int, int] | None = None,
    fps: float | None = None,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> CorpusSummary:
    """Write clips 0 .. num_clips - 1 with their scenes and labels, then the manifest.

    Run again on the same folder it writes only what is missing; ``num_clips`` may be raised.

    Args:
        recipe: what the clips look like.
        bank: objects.
        backgrounds: pictures, where the recipe wants them.
        out: the corpus folder.
        num_clips: at least 1.
        seed: of the corpus.
        size_hw: frame size; the recipe's own when left out, else of the same aspect.
        fps: of the video; the recipe's own when left out.
        workers: processes; the bytes do not depend on it.
        progress: called with (clips done, clips in all).

    Raises:
        UserError: another corpus stands there, another writer is at work, or sizes do not fit.
    """
    if num_clips < 1:
        raise UserError(f"num-clips must be at least 1, got {num_clips}")
    if workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    size_hw = size_hw or recipe.size
    check_encodable(size_hw)
    out = Path(out)
    job = Job(recipe, bank, backgrounds, out, seed, size_hw, fps or recipe.fps)
    # Draw one scene before anything is written: a recipe that asks for what is not there fails here.
    sample_scene(recipe, bank, backgrounds, seed=seed, index=0).scaled_to(size_hw)
    identity = _identity(job)
    _check_existing(out, identity)
    try:
        for folder in _FOLDERS:
            (out / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
    with _only_writer(out):
        write_bytes(out / "recipe.yaml", recipe.to_yaml().encode())
        missing = [i for i in range(num_clips) if not all(p.exists() for p in _paths(out, i))]
        done = num_clips - len(missing)
        for _ in in_order(_work, missing, workers=workers, start=_start_worker, arguments=(job,)):
            done += 1
            if progress:
                progress(done, num_clips)
        num_bytes = _write_manifest(out, num_clips)
    return CorpusSummary(num_clips, len(missing), num_bytes)


def _identity(job: Job) -> dict[str, Any]:
    """What a folder must agree on to be continued."""
    return {
        "format": FORMAT,
        "recipe_digest": job.recipe.digest,
        "bank_digest": job.bank.digest,
        "background_digest": job.backgrounds.digest if job.backgrounds else "",
        "seed": job.seed,
        "size_hw": list(job.size_hw),
        "fps": job.fps,
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _check_existing(out: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds anything but this corpus."""
    corpus = out / "corpus.json"
    if not out.exists() or not any(out.iterdir()):
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_bytes(corpus, (json.dumps(identity, indent=1, sort_keys=True) + "\n").encode())
        except OSError as error:
            raise UserError(f"out '{out}': cannot be written: {error.strerror}") from None
        return
    if not corpus.is_file():
        raise UserError(f"out '{out}': is not empty and holds no corpus of ours; give a new folder")
    before = json.loads(corpus.read_text())
    different = [key for key in identity if identity[key] != before.get(key)]
    if different:
        what = ", ".join(f"{key} is {before.get(key)!r} there and {identity[key]!r} now" for key in different)
        raise UserError(f"out '{out}': holds another corpus: {what}")


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"out '{out}': another process is writing this corpus") from None
        try:
            yield
        finally:
            (out / ".lock").unlink(missing_ok=True)


def _paths(out: Path, index: int) -> tuple[Path, Path, Path]:
    name = f"{index:06d}"
    return out / "scenes" / f"{name}.scene", out / "clips" / f"{name}.mp4", out / "labels" / f"{name}.json"


_job: Job | None = None


def _start_worker(job: Job) -> None:
    global _job
    _job = job


def _work(index: int) -> int:
    assert _job is not None
    write_clip(_job, index)
    return index


def write_clip(job: Job, index: int) -> None:
    """Render and write one clip: scene, labels, then the media."""
    scene_path, clip_path, label_path = _paths(job.out, index)
    scene = sample_scene(job.recipe, job.bank, job.backgrounds, seed=job.seed, index=index).scaled_to(
        job.size_hw
    )
    write_bytes(scene_path, scene.to_bytes())
    labels = annotate(scene, job.bank, job.backgrounds).labels
    write_bytes(label_path, (json.dumps(labels_to_json(scene, labels), sort_keys=True) + "\n").encode())
    write_mp4(clip_path, composite(scene, job.bank, job.backgrounds), job.fps)


def labels_to_json(scene: Scene, labels: Labels) -> dict[str, Any]:
    """Return the labels of a clip as plain data; masks are COCO run lengths, NaN becomes null."""
    labelled = [layer for layer in scene.layers if layer.labelled]
    return {
        "index": scene.index,
        "scene_digest": scene.digest,
        "num_frames": scene.num_frames,
        "size_hw": list(scene.size_hw),
        "factors": scene.factors,
        "objects": [
            {
                "id": i + 1,
                "class_name": labels.class_names[i],
                "factors": layer.factors,
                "visibility": _plain(labels.visibility[i]),
                "in_frame": _plain(labels.in_frame[i]),
                "depth_order": labels.depth_order[i].tolist(),
                "modal_boxes_xyxy": _plain(labels.modal_boxes_xyxy[i]),
                "amodal_boxes_xyxy": _plain(labels.amodal_boxes_xyxy[i]),
                "modal_rle": _run_lengths(labels.modal_masks[i]),
                "amodal_rle": _run_lengths(labels.amodal_masks[i]),
            }
            for i, layer in enumerate(labelled)
        ],
    }


def _plain(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[Any]:
    """Return nested lists with None for NaN and four decimals, beyond which areas carry nothing."""
    rounded = np.round(values, 4).astype(object)
    rounded[np.isnan(values)] = None
    return list(rounded.tolist())


def _run_lengths(masks: np.ndarray[Any, np.dtype[np.bool_]]) -> list[dict[str, Any]]:
    encoded = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode()} for rle in encoded]


def _write_manifest(out: Path, num_clips: int) -> int:
    """Write one row per clip, from the files themselves; returns the bytes of the media."""
    rows: list[dict[str, Any]] = []
    for index in range(num_clips):
        scene_path, clip_path, label_path = _paths(out, index)
        data, labels = clip_path.read_bytes(), json.loads(label_path.read_text())
        visible = [v for item in labels["objects"] for v in item["visibility"] if v is not None]
        rows.append(
            {
                "index": index,
                "scene_digest": hashlib.sha256(scene_path.read_bytes()).hexdigest(),
                "file": clip_path.relative_to(out).as_posix(),
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "labels_sha256": hashlib.sha256(label_path.read_bytes()).hexdigest(),
                "num_objects": len(labels["objects"]),
                "classes": [item["class_name"] for item in labels["objects"]],
                "families": [item["factors"]["family"] for item in labels["objects"]],
                "mean_visibility": float(np.mean(visible)) if visible else None,
            }
        )
    partial = out / "manifest.parquet.part"
    pq.write_table(pa.Table.from_pylist(rows, schema=_MANIFEST), partial, compression="zstd")
    os.replace(partial, out / "manifest.parquet")
    return sum(row["bytes"] for row in rows)


_MANIFEST = pa.schema(
    [
        ("index", pa.int64()),
        ("scene_digest", pa.string()),
        ("file", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("labels_sha256", pa.string()),
        ("num_objects", pa.int64()),
        ("classes", pa.list_(pa.string())),
        ("families", pa.list_(pa.string())),
        ("mean_visibility", pa.float64()),
    ]
)
