"""MOTS: visible masks as run lengths in MOTChallenge's folders."""

from __future__ import annotations

from pathlib import Path

from smile_synth.core.errors import UserError
from smile_synth.exporters._base import ExportedClip, Exporter
from smile_synth.exporters._mot import write_sequence

_MOST_OBJECTS = 999  # an id is 1000 x class + object


def _write_clip(clip: ExportedClip, out: Path) -> None:
    if len(clip.objects) > _MOST_OBJECTS:
        raise UserError(
            f"clip {clip.index}: has {len(clip.objects)} objects; a MOTS class holds {_MOST_OBJECTS}"
        )
    height, width = clip.source.size_hw
    lines = []
    for t in range(clip.source.num_frames):
        for item in clip.objects:
            if item["modal_boxes_xyxy"][t][0] is None:
                continue
            category = clip.source.category_ids[item["class_name"]]
            number = (_MOST_OBJECTS + 1) * category + item["id"]
            lines.append(f"{t + 1} {number} {category} {height} {width} {item['modal_rle'][t]['counts']}")
    write_sequence(clip, out, lines)


MOTS = Exporter("mots", _write_clip)
