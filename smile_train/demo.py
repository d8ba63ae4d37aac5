"""The demo: objects, a corpus, pretraining, motion probes and one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from smile_synth import Recipe, SyntheticClips, annotate, composite, generate, sample_scene
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
from smile_train.batch import Batch, normalise
from smile_train.config import MaskOptions, PretrainConfig
from smile_train.data.batches import StageData, open_data
from smile_train.data.sources import collate
from smile_train.distributed import has_fast_bf16
from smile_train.evaluate import (
    MotionProbe,
    MotionProbeOptions,
    MotionProbeResult,
    format_interval,
    load_encoder,
    token_displacement,
)
from smile_train.masking import MASK_DRAWS, Masker, seen_frames
from smile_train.materials import Materials, build_materials
from smile_train.models import load_student
from smile_train.report_motion import displacement_png
from smile_train.training.build import build_targets, build_teacher
from smile_train.training.logging import read_log
from smile_train.training.pretrain import PretrainResult, pretrain

CORPUS_CLIPS, SHEET_CLIPS, ARROW_CLIPS = 24, 8, 3
MOVING = 0.7  # pixels
SHIPPED = "smile-tiny-motion"
TARGET_WORDS = {
    "motion": "the exact motion of every token", "teacher": "the tokens of a frozen CLIP", "pixels": "pixels",
}  # fmt: skip
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
        shipped: motion probes of the encoder that ships with the project; None if its architecture differs.
    """

    page: Path
    corpus: Path
    pretrained: PretrainResult
    probe: MotionProbeResult
    shipped: MotionProbeResult | None


def demo_config(materials: Materials, overrides: Sequence[str] = ()) -> PretrainConfig:
    """Return the demo's training config with the given materials, in bfloat16 if the CPU supports it."""
    paths = [f"bank={materials.bank.path}", f"backgrounds={materials.train_backgrounds.path}"]
    return PretrainConfig.load("demo", [*paths, *["run.precision=bf16"] * has_fast_bf16(), *overrides])


def run_demo(
    out: Path,
    overrides: Sequence[str] = (),
    *,
    progress: Progress,
    num_train: int = 600,
    num_test: int = 400,
) -> DemoResult:
    """Run the whole demo in one folder. Finished parts of an earlier run are kept.

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

    run, steps, threads = out / "run", config.total_steps, torch.get_num_threads()
    pretrained = pretrain(
        config,
        run,
        on_log=lambda line: progress("pretraining", line["step"], steps, f"loss {line['loss']:.3f}"),
    )
    torch.set_num_threads(threads)  # the training has changed it to run.threads
    encoder, shipped = load_encoder(run), load_encoder(SHIPPED)
    options = MotionProbeOptions(num_train=num_train, num_test=num_test, seed=config.seed)
    with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16()):  # the readouts compute with NumPy
        probe = MotionProbe(
            encoder, materials.train, materials.heldout, options,
            progress=lambda done, total: progress("probes", done, total, ""),
        )  # fmt: skip
        own = probe(encoder)
        other = probe(shipped) if shipped.architecture == encoder.architecture else None
    scores = {**asdict(own), "shipped": other and asdict(other)}
    write_bytes(out / "probe.json", (json.dumps(scores, indent=1) + "\n").encode())
    page = out / "index.html"
    html = render_page(config, out, clips, own, other, predicted_motion(config, run, materials))
    write_bytes(page, html.encode())
    return DemoResult(page, corpus, pretrained, own, other)


def predicted_motion(config: PretrainConfig, run: Path, materials: Materials) -> dict[str, Any] | None:
    """Draw the exact and the predicted motion of clips with held-out objects and backgrounds.

    No token is masked. Of 24 clips, the first ones with a mean displacement of at least `MOVING` are drawn.

    Returns:
        ``clips``, a list with images ``exact`` and ``predicted`` (data URIs), and in pixels the mean length
        of the exact displacements (``no_motion``) and of the prediction errors (``error``). Over all tokens
        of the 24 clips that move by at least `MOVING`: ``cosine``, the mean cosine of exact and predicted
        displacements, and ``gain``, their ratio of lengths, by which the predicted arrows are enlarged.
        None without a motion target.
    """
    if all(target.kind != "motion" for target in config.targets):
        return None
    source, student = config.resolved_stages[0].sources[0], load_student(run)
    recipe = Recipe.load(source.recipe or "motion", [*source.overrides, "objects.split=test"])
    token_size = config.student.tubelet_size, config.student.patch_size
    height, width = recipe.size
    grid = recipe.num_frames // token_size[0], height // token_size[1], width // token_size[1]
    sources, count = materials.heldout, CORPUS_CLIPS
    scenes = [sample_scene(recipe, sources, seed=config.seed, index=k) for k in range(count)]
    frames = np.stack([composite(scene, sources) for scene in scenes])
    exact = np.stack([token_displacement(annotate(scene, sources), token_size) for scene in scenes])
    mask = torch.zeros(exact.shape[:2], dtype=torch.bool)
    with torch.inference_mode():
        values = student(
            normalise(torch.from_numpy(frames).permute(0, 1, 4, 2, 3)), mask, 0, tokens="visible"
        )
        targets = build_targets(config, build_teacher(config, recipe.size))
        predicted = targets.displacement(values[:, : mask.shape[1]])[:, :, 0].double().numpy()
    moving = np.linalg.norm(exact, axis=2) >= MOVING
    true, guess = exact[moving], predicted[moving]
    lengths = np.linalg.norm(true, axis=1), np.linalg.norm(guess, axis=1)
    gain = max(1.0, round(float(lengths[0].mean() / max(lengths[1].mean(), 1e-6)), 1))
    shown = [k for k in range(count) if _mean_length(exact[k]) >= MOVING][:ARROW_CLIPS]
    clips = [
        {
            "exact": displacement_png(frames[k], exact[k], grid),
            "predicted": displacement_png(frames[k], gain * predicted[k], grid),
            "no_motion": f"{_mean_length(exact[k]):.2f}",
            "error": f"{_mean_length(predicted[k] - exact[k]):.2f}",
        }
        for k in shown
    ]
    cosine = float(((true * guess).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-6)).mean())
    return {"clips": clips, "cosine": f"{cosine:.2f}", "gain": f"{gain:g}"}


def _mean_length(vectors: NDArray[np.float64]) -> float:
    return float(np.nanmean(np.linalg.norm(vectors, axis=1)))


def mask_images(config: PretrainConfig, stage: StageData, index: int) -> list[dict[str, str]]:
    """Draw a clip and its visible tokens with a trajectory mask and with the mask of the training.

    Returns:
        For each mask, ``kind`` and ``png`` (a data URI). The image has one column per tubelet, with the clip
        above its visible tokens.
    """
    clip = stage.sources[0].clips([index])[0]
    batch = collate([index], [clip])
    patch, tubelet = config.student.patch_size, config.student.tubelet_size
    frames, height, width = clip.frames.shape[:3]
    grid = (frames // tubelet, height // patch, width // patch)
    images = []
    own = stage.options.mask
    for kind in dict.fromkeys(("trajectory", own.kind)):
        options = own if kind == own.kind else MaskOptions()
        masker = Masker(options, grid, patch_size=patch, tubelet_size=tubelet, seed=config.seed)
        labels = {**batch.labels, MASK_DRAWS: masker.draw([index])}
        mask = masker(Batch(batch.indices, batch.frames, labels))[0].numpy()
        pairs = np.concatenate([clip.frames, seen_frames(clip.frames, mask, grid)], axis=1)
        columns = [image.repeat(2, 0).repeat(2, 1) for image in pairs[::tubelet]]
        images.append({"kind": kind, "png": png_uri(contact_sheet(columns, columns=len(columns)))})
    return images


def render_page(
    config: PretrainConfig,
    out: Path,
    clips: SyntheticClips,
    probe: MotionProbeResult,
    shipped: MotionProbeResult | None,
    arrows: dict[str, Any] | None,
) -> str:
    """Return the page: results, clips, masks, loss and probes in one file without external links."""
    log, corpus = read_log(out / "run"), out / "corpus"
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
        "no training (baseline)": (steps, [line["baseline_loss"] for line in log]),
    }
    chart = line_chart(
        losses, x_label="step", y_label="loss", title="loss over steps",
        smooth=max(len(log) // 40, 1),
    )  # fmt: skip
    tasks = [task_rows(probe, shipped, name) for name in probe.num_classes]
    template = page_environment("smile_train").get_template("demo.html")
    return template.render(
        title="A tiny encoder, pretrained without natural video",
        clips=shown,
        masks=mask_images(config, open_data(config).stages[0], crowded),
        tasks=tasks,
        loss_chart=chart,
        learned=[task for task in tasks if task["learned"]],
        steps=config.total_steps,
        num_clips=config.total_steps * config.batch_size,
        rate=f"{log[-1]['clips_per_second']:.0f}",
        seed=config.seed,
        probe=probe,
        num_objects=len(clips.sources.objects),
        arrows=arrows,
        moving=MOVING,
        targets=" and ".join(TARGET_WORDS[target.kind] for target in config.targets),
        shipped=SHIPPED if shipped else None,
        size="x".join(str(n) for n in (clips.recipe.num_frames, *clips.recipe.size)),
    )


def task_rows(probe: MotionProbeResult, shipped: MotionProbeResult | None, name: str) -> dict[str, Any]:
    """Return a probe's task for the template: its name, classes and rows of scores in percent."""
    titled = [("this encoder" if row.features == "encoder" else row.features, row) for row in probe.rows]
    if shipped:
        titled += [(SHIPPED, row) for row in shipped.rows if row.features == "encoder"]
    rows = [
        {
            "features": title,
            "own": title == "this encoder",
            "accuracy": f"{100 * row.accuracy:.1f}",
            "interval": format_interval(row.low, row.high),
            "margin": format_interval(*row.margin, signed=True) if row.margin else "",
            "low": 100 * row.low,
            "width": 100 * (row.high - row.low),
            "at": 100 * row.accuracy,
            "learned": row.margin is not None and row.margin[0] > 0,
        }
        for title, row in titled
        if row.task == name
    ]
    return {
        "name": name, "num_classes": probe.num_classes[name],
        "chance": f"{100 * probe.most_frequent[name]:.1f}", "rows": rows,
        "accuracy": rows[0]["accuracy"], "random": rows[1]["accuracy"], "learned": rows[0]["learned"],
    }  # fmt: skip
