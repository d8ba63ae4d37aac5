"""MOTChallenge: amodal boxes; and the sequence folder that MOTS shares."""

from __future__ import annotations

from pathlib import Path

from smile_synth.exporters._base import ExportedClip, Exporter, box_xywh, write, write_frames


def write_sequence(clip: ExportedClip, out: Path, lines: list[str]) -> None:
    """Write the folder of one sequence: frames from number 1, seqinfo.ini and gt/gt.txt."""
    folder = out / "train" / clip.name
    write_frames(clip, folder / "img1", "{:06d}.jpg", first=1)
    (height, width), fps = clip.source.size_hw, clip.source.corpus.header.fps
    info = (
        f"[Sequence]\nname={clip.name}\nimDir=img1\nframeRate={fps:g}\nseqLength={clip.source.num_frames}\n"
        f"imWidth={width}\nimHeight={height}\nimExt=.jpg\n"
    )
    write(folder / "seqinfo.ini", info.encode())
    write(folder / "gt" / "gt.txt", "".join(f"{line}\n" for line in lines).encode())


def _write_clip(clip: ExportedClip, out: Path) -> None:
    lines = []
    for t in range(clip.source.num_frames):
        for item in clip.objects:
            # 0: outside the frame; null: not present. A hidden object that is present keeps its row.
            in_frame = item["in_frame"][t]
            if not in_frame:
                continue
            x, y, width, height = box_xywh(item["amodal_boxes_xyxy"][t])
            category = clip.source.category_ids[item["class_name"]]
            # MOT's visibility is the visible share of the whole object, so the frame's border reduces it.
            visible = item["visibility"][t] * in_frame
            # The first pixel of a MOT sequence is 1.
            lines.append(
                f"{t + 1},{item['id']},{x + 1:g},{y + 1:g},{width:g},{height:g},1,{category},{visible:.4f}"
            )
    write_sequence(clip, out, lines)


MOT = Exporter("mot", _write_clip)
