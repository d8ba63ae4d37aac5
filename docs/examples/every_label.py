"""Rendering a clip and reading every label.

Prints the shape of each label and draws them: masks, boxes, names, tracks, and the flow to the next frame.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from smile_synth import Recipe, Sources, annotate, build_bank, composite, query_points, sample_scene
from smile_synth.core.clip import Clip
from smile_synth.visualize import contact_sheet, flow_colors, frame_strip, overlay


def main(out: Path, *, recipe: str = "tracking-hard", overrides: tuple[str, ...] = ()) -> Clip:
    """Render one clip and write ``labels.png``; return the clip."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "objects.bank").exists():
        build_bank("drawn:200", out / "objects.bank")
    sources = Sources.open(out / "objects.bank")
    scene = sample_scene(Recipe.load(recipe, overrides), sources, seed=0, index=0)  # all random choices
    annotation = annotate(scene, sources)
    clip = Clip(composite(scene, sources), scene.fps, annotation)
    labels = annotation.labels
    print(f"{scene}\nframes {clip.frames.shape} {clip.frames.dtype}")
    for name in ("amodal_masks", "modal_masks", "depth_order", "occluded_by"):
        print(f"{name} {getattr(labels, name).shape}")
    for name in ("amodal_boxes_xyxy", "modal_boxes_xyxy", "oriented_boxes_xy", "visibility", "in_frame"):
        print(f"{name} {getattr(labels, name).shape}, NaN where an object is not there")
    print(f"segmentation {clip.segmentation.shape}, 0 is the background")
    print(f"classes {labels.class_names}")
    last = len(clip.frames) - 1
    flow = clip.flow(0, last)
    print(f"flow from frame 0 to {last}: {flow.flow_xy.shape}, {flow.occluded.mean():.1%} become hidden")
    tracks = clip.tracks(query_points(annotation, "objects", count=64, seed=0))
    print(f"tracks {tracks.points_xy.shape}, visible {tracks.visible.mean():.1%}")
    tokens = annotation.token_motion((2, 16), offsets=[0, 1])
    print(f"motion of tokens {tokens.displacement_xy.shape}, valid {tokens.valid.mean():.1%}")
    motion = annotation.object_motion()
    print(f"fastest object: {np.nanmax(np.linalg.norm(motion.velocity_xy, axis=-1)):.1f} px per frame")
    drawn = [overlay(clip, kinds, scale=1) for kinds in ((), ("modal",), ("boxes", "names"), ("tracks",))]
    flows = np.stack([flow_colors(clip.flow(t, min(t + 1, last))) for t in range(last + 1)])
    rows = [frame_strip(frames) for frames in (*drawn, flows)]
    Image.fromarray(contact_sheet(rows, columns=1, gap=0)).save(out / "labels.png")
    return clip


if __name__ == "__main__":
    main(Path("runs/every-label"))
