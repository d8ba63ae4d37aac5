"""Dense flow: Middlebury .flo in Sintel's folders, KITTI's 16-bit PNG, npz."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from smile_synth.core.clip import Flow
from smile_synth.corpus import image_bytes, npz_bytes
from smile_synth.exporters._base import ExportedClip, Exporter, write

_UNKNOWN = 1e10  # Middlebury: a value above 1e9 means "flow unknown"
_KITTI_LARGEST = 511.9  # pixels; 16 bits hold 512


def _flo_bytes(flow: Flow) -> bytes:
    """Return a .flo file (Baker et al., "A database and evaluation methodology for optical flow", 2011)."""
    height, width = flow.valid.shape
    values = np.where(flow.valid[..., None], flow.flow_xy, np.float32(_UNKNOWN))
    return b"PIEH" + struct.pack("<ii", width, height) + values.astype("<f4").tobytes()


def _mask_bytes(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()


def _write_sintel_clip(clip: ExportedClip, out: Path) -> None:
    """Write Sintel's folders; the flow file of a frame has the flow that begins in it."""
    root = out / "training"
    for t, frame in enumerate(clip.frames, 1):
        write(root / "clean" / clip.name / f"frame_{t:04d}.png", image_bytes(frame, ".png"))
    for t0, t1 in clip.source.flow_pairs:
        flow = clip.annotation.flow(t0, t1)
        name = f"frame_{t0 + 1:04d}"
        write(root / "flow" / clip.name / f"{name}.flo", _flo_bytes(flow))
        masks = {"occlusions": flow.occluded, "outofframe": flow.leaves, "invalid": ~flow.valid}
        for folder, mask in masks.items():
            write(root / folder / clip.name / f"{name}.png", _mask_bytes(mask))


def _kitti_bytes(flow: Flow, valid: np.ndarray) -> bytes:
    """Return KITTI's flow image: red 64 u + 2^15, green 64 v + 2^15, blue 1 where it is valid."""
    valid = valid & (np.abs(flow.flow_xy) < _KITTI_LARGEST).all(axis=2)
    encoded = np.round(flow.flow_xy.astype(np.float64) * 64 + 2**15)
    blue_green_red = np.stack([valid, encoded[..., 1] * valid, encoded[..., 0] * valid], axis=2)
    return cv2.imencode(".png", blue_green_red.astype(np.uint16))[1].tobytes()


def _write_kitti_clip(clip: ExportedClip, out: Path) -> None:
    """Write KITTI's folders; every pair of frames is a scene with its own number."""
    root = out / "training"
    pairs = clip.source.flow_pairs
    first = (clip.index - clip.source.corpus.indices.start) * len(pairs)
    for number, (t0, t1) in enumerate(pairs, first):
        flow = clip.annotation.flow(t0, t1)
        for t, suffix in ((t0, "10"), (t1, "11")):
            write(root / "image_2" / f"{number:06d}_{suffix}.png", image_bytes(clip.frames[t], ".png"))
        visible = flow.valid & ~flow.occluded & ~flow.leaves
        for folder, valid in (("flow_occ", flow.valid), ("flow_noc", visible)):
            write(root / folder / f"{number:06d}_10.png", _kitti_bytes(flow, valid))


def _write_npz_clip(clip: ExportedClip, out: Path) -> None:
    for t0, t1 in clip.source.flow_pairs:
        flow = clip.annotation.flow(t0, t1)
        arrays = {name: getattr(flow, name) for name in ("flow_xy", "valid", "occluded", "leaves")}
        write(out / clip.name / f"{t0:05d}_{t1:05d}.npz", npz_bytes(**arrays))


FLO = Exporter("flo", _write_sintel_clip, needs_sources=True)
KITTI_FLOW = Exporter("kitti-flow", _write_kitti_clip, needs_sources=True)
FLOW_NPZ = Exporter("flow-npz", _write_npz_clip, needs_sources=True)
