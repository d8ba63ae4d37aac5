"""Dense flow: Middlebury .flo in Sintel's folders, KITTI's 16-bit PNG, npz."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from smile_synth.core.clip import Flow
from smile_synth.corpus import image_bytes, npz_bytes
from smile_synth.exporters._base import ExportedClip, Exporter, write

_UNKNOWN = 1e10  # Middlebury: above 1e9 a flow is not known


def _flo_bytes(flow: Flow) -> bytes:
    """Return a .flo file (Baker et al., "A database and evaluation methodology for optical flow", 2011)."""
    height, width = flow.valid.shape
    values = np.where(flow.valid[..., None], flow.flow_xy, np.float32(_UNKNOWN))
    return b"PIEH" + struct.pack("<ii", width, height) + values.astype("<f4").tobytes()


def _mask_bytes(mask: np.ndarray) -> bytes:
    return cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()


def _sintel(clip: ExportedClip, out: Path) -> None:
    """Write Sintel's folders; a frame has the flow that begins at it."""
    root = out / "training"
    for t, frame in enumerate(clip.frames):
        write(root / "clean" / clip.name / f"frame_{t + 1:04d}.png", image_bytes(frame, ".png"))
    for t0, t1 in clip.source.pairs:
        flow = clip.annotation.flow(t0, t1)
        name = f"frame_{t0 + 1:04d}"
        write(root / "flow" / clip.name / f"{name}.flo", _flo_bytes(flow))
        for folder, mask in (
            ("occlusions", flow.occluded), ("outofframe", flow.leaves), ("invalid", ~flow.valid),
        ):  # fmt: skip
            write(root / folder / clip.name / f"{name}.png", _mask_bytes(mask))


def _kitti_bytes(flow: Flow, valid: np.ndarray) -> bytes:
    """Return KITTI's flow image: red 64 u + 2^15, green 64 v + 2^15, blue whether it is valid."""
    valid = valid & (np.abs(flow.flow_xy) < 511.9).all(axis=2)
    encoded = np.round(flow.flow_xy.astype(np.float64) * 64 + 2**15)
    blue_green_red = np.stack([valid, encoded[..., 1] * valid, encoded[..., 0] * valid], axis=2)
    return cv2.imencode(".png", blue_green_red.astype(np.uint16))[1].tobytes()


def _kitti(clip: ExportedClip, out: Path) -> None:
    """Write KITTI's folders; every pair of frames is a scene of its own, numbered through."""
    root = out / "training"
    pairs = clip.source.pairs
    first = (clip.index - clip.source.corpus.indices.start) * len(pairs)
    for number, (t0, t1) in enumerate(pairs, first):
        flow = clip.annotation.flow(t0, t1)
        for t, suffix in ((t0, "10"), (t1, "11")):
            write(root / "image_2" / f"{number:06d}_{suffix}.png", image_bytes(clip.frames[t], ".png"))
        write(root / "flow_occ" / f"{number:06d}_10.png", _kitti_bytes(flow, flow.valid))
        seen = flow.valid & ~flow.occluded & ~flow.leaves
        write(root / "flow_noc" / f"{number:06d}_10.png", _kitti_bytes(flow, seen))


def _npz(clip: ExportedClip, out: Path) -> None:
    for t0, t1 in clip.source.pairs:
        flow = clip.annotation.flow(t0, t1)
        arrays = {name: getattr(flow, name) for name in ("flow_xy", "valid", "occluded", "leaves")}
        write(out / clip.name / f"{t0:05d}_{t1:05d}.npz", npz_bytes(**arrays))


FLO = Exporter(_sintel, needs_bank=True)
KITTI = Exporter(_kitti, needs_bank=True)
FLOW_NPZ = Exporter(_npz, needs_bank=True)
