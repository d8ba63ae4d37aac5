"""Frames: one folder of PNG images per clip."""

from __future__ import annotations

from pathlib import Path

from smile_synth.exporters._base import ExportedClip, Exporter, write_frames


def _write_clip(clip: ExportedClip, out: Path) -> None:
    write_frames(clip, out / clip.name, "{:05d}.png")


FRAMES = Exporter("frames", _write_clip)
