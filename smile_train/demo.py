"""The demo: objects, a corpus, pretraining, motion probes and one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smile_synth import Recipe, SyntheticClips, generate
from smile_synth.io.atomic import write_bytes
from smile_synth.visualize import (
    contact_sheet,
    frame_strip,
    line_chart,
    mp4_uri,
    overlay,
    page_environment,
    png_uri,
)
from smile_train.batch import Batch
from smile_train.config import PretrainConfig
from smile_train.data.batches import StageData, open_data
from smile_train.data.sources import collate
from smile_train.evaluate import (
    MotionProbeOptions,
    MotionProbeResult,
    format_interval,
    load_encoder,
    probe_motion,
)
from smile_train.masking import MASK_DRAWS, Masker, seen_frames
from smile_train.materials import Materials, build_materials
from smile_train.training.logging import read_log
from smile_train.training.pretrain import PretrainResult, pretrain

CORPUS_CLIPS, SHEET_CLIPS = 24, 8
UInt8 = NDArray[np.uint8]
# (what, done, all, remark)
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class DemoResult:
    """The files and results of the demo.

    Attributes:
        page: the HTML page.
        corpus: folder of the labelled corpus.
        pretrained: the pretraining run.
        probe: motion probes of the student and of its controls.
    """

    page: Path
    corpus: Path
    pretrained: PretrainResult
    probe: MotionProbeResult


def demo_config(materials: Materials, overrides: Sequence[str] = ()) -> PretrainConfig:
    """Return the demo's training config with the given materials."""
    paths = [f"bank={materials.bank.path}", f"backgrounds={materials.train_backgrounds.path}"]
    return PretrainConfig.load("demo", [*paths, *overrides])


def run_demo(
    out: Path,
    overrides: Sequence[str] = (),
    *,
    progress: Progress,
    num_train: int = 1200,
    num_test: int = 800,
) -> DemoResult:
    """Run the whole demo in one folder; finished parts of an earlier run are kept.

    Args:
        out: the folder.
        overrides: key.path=value for the training config.
        progress: called with (what, done, all, remark).
        num_train, num_test: clips of each motion probe.
    """
    materials = build_materials(
        out / "materials", progress=lambda done, total: progress("object bank", done, total, "")
    )
    config = demo_config(materials, overrides)
    source = config.resolved_stages[0].sources[0]
    recipe = Recipe.load(source.recipe or "demo", source.overrides)
    corpus = out / "corpus"
    generate(
        recipe, materials.train, out=corpus, num_clips=CORPUS_CLIPS, seed=config.seed,
        progress=lambda done, total, _: progress("corpus", done, total, ""),
    )  # fmt: skip
    clips = SyntheticClips(recipe, materials.train, seed=config.seed, num_clips=CORPUS_CLIPS)
    strips = [frame_strip(overlay(clips[i], scale=2)) for i in range(SHEET_CLIPS)]
    Image.fromarray(contact_sheet(strips, columns=1, gap=0)).save(out / "contact_sheet.png")

    run, steps = out / "run", config.total_steps
    pretrained = pretrain(
        config,
        run,
        on_log=lambda line: progress("pretraining", line["step"], steps, f"loss {line['loss']:.3f}"),
    )
    options = MotionProbeOptions(num_train=num_train, num_test=num_test, seed=config.seed)
    probe = probe_motion(
        load_encoder(run), materials.train, materials.heldout, options,
        progress=lambda done, total: progress("probes", done, total, ""),
    )  # fmt: skip
    write_bytes(out / "probe.json", (json.dumps(asdict(probe), indent=1) + "\n").encode())
    page = out / "index.html"
    write_bytes(page, render_page(config, corpus, read_log(run), clips, probe, len(materials.bank)).encode())
    return DemoResult(page, corpus, pretrained, probe)


def mask_images(config: PretrainConfig, stage: StageData, index: int) -> list[dict[str, str]]:
    """Draw a clip and its visible tokens under a tube mask and under a trajectory mask.

    Returns:
        ``kind`` and ``png`` (a data URI) of each: one column per tubelet, the clip above its visible tokens.
    """
    clip = stage.sources[0].clips([index])[0]
    batch = collate([index], [clip])
    patch, tubelet = config.student.patch_size, config.student.tubelet_size
    frames, height, width = clip.frames.shape[:3]
    grid = (frames // tubelet, height // patch, width // patch)
    images = []
    for kind in ("tube", "trajectory"):
        options = stage.options.mask.model_copy(update={"kind": kind, "object_tokens": "coverage"})
        masker = Masker(options, grid, patch_size=patch, tubelet_size=tubelet, seed=config.seed)
        labels = {**batch.labels, MASK_DRAWS: masker.draw([index])}
        mask = masker(Batch(batch.indices, batch.frames, labels))[0].numpy()
        pairs = np.concatenate([clip.frames, seen_frames(clip.frames, mask, grid)], axis=1)
        columns = [image.repeat(2, 0).repeat(2, 1) for image in pairs[::tubelet]]
        images.append({"kind": kind, "png": png_uri(contact_sheet(columns, columns=len(columns)))})
    return images


def render_page(
    config: PretrainConfig,
    corpus: Path,
    log: Sequence[dict[str, Any]],
    clips: SyntheticClips,
    probe: MotionProbeResult,
    num_objects: int,
) -> str:
    """Return the page: clips, masks, loss and probes in one file without external links."""
    shown = []
    for index in range(CORPUS_CLIPS):
        labels = json.loads((corpus / "labels" / f"{index:06d}.json").read_text())
        objects = ", ".join(f"{o['class_name']} ({o['family']})" for o in labels["objects"])
        shown.append(
            {"index": index, "objects": objects, "video": mp4_uri(clips[index].frames, clips.recipe.fps)}
        )
    crowded = max(range(CORPUS_CLIPS), key=lambda i: float(clips[i].labels.modal_masks.mean()))
    steps = [line["step"] for line in log]
    losses = {
        "training": (steps, [line["loss"] for line in log]),
        "baseline": (steps, [line["baseline_loss"] for line in log]),
    }
    chart = line_chart(
        losses, x_label="step", y_label="loss (MSE on masked tokens)", title="loss over steps",
        smooth=max(len(log) // 40, 1),
    )  # fmt: skip
    template = page_environment("smile_train").get_template("demo.html")
    return template.render(
        title="A tiny encoder, pretrained without natural video",
        clips=shown,
        masks=mask_images(config, open_data(config).stages[0], crowded),
        tasks=[_task(probe, name) for name in probe.num_classes],
        loss_chart=chart,
        steps=config.total_steps,
        num_clips=config.total_steps * config.batch_size,
        rate=f"{log[-1]['clips_per_second']:.0f}",
        seed=config.seed,
        probe=probe,
        num_objects=num_objects,
        size="x".join(str(n) for n in (clips.recipe.num_frames, *clips.recipe.size)),
    )


def _task(probe: MotionProbeResult, name: str) -> dict[str, Any]:
    """Return the rows of a task for the template, in percent."""
    rows = [
        {
            "features": "this encoder" if row.features == "encoder" else row.features,
            "own": row.features == "encoder",
            "accuracy": f"{100 * row.accuracy:.1f}",
            "interval": format_interval(row.low, row.high),
            "margin": format_interval(*row.margin, signed=True) if row.margin else "",
            "low": 100 * row.low,
            "width": 100 * (row.high - row.low),
            "at": 100 * row.accuracy,
        }
        for row in probe.rows
        if row.task == name
    ]
    chance = f"{100 * probe.most_frequent[name]:.1f}"
    return {"name": name, "num_classes": probe.num_classes[name], "chance": chance, "rows": rows}
