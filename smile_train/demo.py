"""The whole way, once: objects -> corpus -> pretraining -> probes -> one page."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.figure
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from smile_synth import Recipe, SyntheticClips, generate
from smile_synth.io.atomic import write_bytes
from smile_synth.visualize import contact_sheet, frame_strip, overlay
from smile_train.config import PretrainConfig
from smile_train.data.synthetic import token_coverage
from smile_train.evaluate import MotionExamination, examine_motion, format_interval, load_encoder
from smile_train.masking import Masker, seen_frames
from smile_train.materials import Materials, build_materials
from smile_train.training.logging import read_log
from smile_train.training.pretrain import PretrainResult, pretrain

CORPUS_CLIPS = 24
UInt8 = NDArray[np.uint8]
Stage = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        page: the HTML page.
        corpus: folder of the labelled corpus.
        pretrained: the run.
        examination: probes of the trained student beside their controls.
    """

    page: Path
    corpus: Path
    pretrained: PretrainResult
    examination: MotionExamination


def demo_config(materials: Materials, overrides: list[str]) -> PretrainConfig:
    """Return the demo's training configuration on the given materials."""
    own = [f"bank={materials.bank.path}", f"backgrounds={materials.train_backgrounds.path}"]
    return PretrainConfig.load("demo", [*own, *overrides])


def run_demo(
    out: Path, overrides: list[str], *, stage: Stage, num_train: int = 1200, num_test: int = 800
) -> DemoResult:
    """Do everything below one folder; what an earlier run finished is not done again.

    Args:
        out: the folder.
        overrides: key.path=value for the training configuration.
        stage: called with (what is being done, done, in all, remark).
        num_train, num_test: clips of each probe.
    """
    materials = build_materials(
        out / "materials", progress=lambda done, total: stage("object bank", done, total, "")
    )
    config = demo_config(materials, overrides)
    recipe = Recipe.load(config.recipe or "demo", config.recipe_overrides)
    corpus = out / "corpus"
    generate(
        recipe, materials.train, out=corpus, num_clips=CORPUS_CLIPS,
        seed=config.seed, progress=lambda done, total, _: stage("corpus", done, total, ""),
    )  # fmt: skip
    clips = SyntheticClips(recipe, materials.train, seed=config.seed, num_clips=CORPUS_CLIPS)
    strips = [frame_strip(overlay(clips[i], scale=2)) for i in range(8)]
    Image.fromarray(contact_sheet(strips, columns=1, gap=0)).save(out / "contact_sheet.png")

    run = out / "run"
    pretrained = pretrain(
        config, run, on_step=lambda done, total, loss: stage("pretraining", done, total, f"loss {loss:.3f}")
    )
    examination = examine_motion(
        load_encoder(run), materials.train, materials.heldout,
        seed=config.seed, num_train=num_train, num_test=num_test,
        progress=lambda done, total: stage("probes", done, total, ""),
    )  # fmt: skip
    write_bytes(out / "probe.json", (json.dumps(asdict(examination), indent=1) + "\n").encode())
    page = out / "index.html"
    write_bytes(page, render_page(config, corpus, run, clips, examination, materials).encode())
    return DemoResult(page, corpus, pretrained, examination)


def mask_images(config: PretrainConfig, clips: SyntheticClips, index: int) -> list[tuple[str, UInt8]]:
    """Draw what a student sees of one clip under a tube mask and under a trajectory mask.

    Returns (kind, ``[2 * side, ., 3]`` uint8): one column per tubelet, the clip above what is left of it.
    """
    clip = clips[index]
    patch, tubelet = config.student.patch_size, config.student.tubelet_size
    frames, height, width = clip.frames.shape[:3]
    grid = (frames // tubelet, height // patch, width // patch)
    coverage = torch.from_numpy(token_coverage(clip.segmentation, tubelet, patch))[None]
    batch = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)[None]
    images = []
    for kind in ("tube", "trajectory"):
        options = config.mask.model_copy(update={"kind": kind, "object_tokens": "coverage"})
        masker = Masker(options, grid, patch_size=patch, tubelet_size=tubelet, seed=config.seed)
        mask = masker(torch.tensor([index]), batch, coverage=coverage)[0].numpy()
        both = np.concatenate([clip.frames, seen_frames(clip.frames, mask, grid)], axis=1)
        columns = list(both[::tubelet])
        images.append(
            (kind, contact_sheet([c.repeat(2, 0).repeat(2, 1) for c in columns], columns=len(columns)))
        )
    return images


def loss_curve(log: list[dict[str, Any]]) -> str:
    """Draw the loss over the steps as inline SVG."""
    steps = np.array([line["step"] for line in log])
    losses = np.array([line["loss"] for line in log])
    figure = matplotlib.figure.Figure(figsize=(7.2, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="#0072b2", alpha=0.25, linewidth=0.8)
    width = max(len(losses) // 40, 1)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    axes.plot(steps[width - 1 :], smooth, color="#0072b2", linewidth=2, label=f"mean of {width} steps")
    means = np.convolve([line["loss_of_mean"] for line in log], np.ones(width) / width, mode="valid")
    axes.plot(
        steps[width - 1 :], means, color="#d55e00", linestyle="--", label="of predicting the clip's mean"
    )
    axes.set(xlabel="step", ylabel="loss (MSE on masked tokens)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _png(image: UInt8) -> str:
    data = io.BytesIO()
    Image.fromarray(image).save(data, format="PNG", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def render_page(
    config: PretrainConfig,
    corpus: Path,
    run: Path,
    clips: SyntheticClips,
    examination: MotionExamination,
    materials: Materials,
) -> str:
    """Return the page: clips, masks, loss and probes in one file that needs no network."""
    shown = []
    for index in range(CORPUS_CLIPS):
        labels = json.loads((corpus / "labels" / f"{index:06d}.json").read_text())
        objects = ", ".join(f"{o['class_name']} ({o['family']})" for o in labels["objects"])
        video = base64.b64encode((corpus / "clips" / f"{index:06d}.mp4").read_bytes()).decode()
        shown.append({"index": index, "objects": objects, "video": video})
    crowded = max(range(CORPUS_CLIPS), key=lambda i: float(clips[i].labels.modal_masks.mean()))
    masks = [{"kind": kind, "png": _png(image)} for kind, image in mask_images(config, clips, crowded)]
    tasks = []
    for task in dict.fromkeys(row.task for row in examination.rows):
        rows = [row for row in examination.rows if row.task == task]
        tasks.append(
            {
                "name": task,
                "num_classes": examination.num_classes[task],
                "chance": f"{100 * examination.most_frequent[task]:.1f}",
                "rows": [
                    {
                        "features": "this encoder" if row.features == "encoder" else row.features,
                        "accuracy": f"{100 * row.accuracy:.1f}",
                        "interval": format_interval(row.low, row.high),
                        "low": 100 * row.low,
                        "width": 100 * (row.high - row.low),
                        "at": 100 * row.accuracy,
                        "own": row.features == "encoder",
                        "margin": format_interval(*row.margin, signed=True) if row.margin else "",
                    }
                    for row in rows
                ],
            }
        )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("smile_train", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    log = read_log(run)
    return environment.get_template("demo.html").render(
        clips=shown,
        masks=masks,
        tasks=tasks,
        loss_svg=loss_curve(log),
        steps=config.steps,
        num_clips=config.steps * config.batch_size,
        rate=f"{log[-1]['clips_per_second']:.0f}",
        seed=config.seed,
        examination=examination,
        num_objects=len(materials.bank),
        size="x".join(str(n) for n in (clips.recipe.num_frames, *clips.recipe.size)),
    )
