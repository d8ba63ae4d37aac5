"""The page of a pretraining run: curves, masks, losses by token, features, attention, collapse."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from smile_synth import annotate
from smile_synth.core.errors import UserError
from smile_synth.visualize import Finding, contact_sheet, line_chart, mp4_uri, page_environment, png_uri
from smile_train.batch import Batch, normalise
from smile_train.config import PretrainConfig
from smile_train.data.batches import StageData, open_data
from smile_train.data.sources import Source, TrainingClip, collate
from smile_train.data.synthetic import RenderedSource
from smile_train.data.video import ReadOptions, ViewOptions, read_windows
from smile_train.evaluate import effective_rank, token_displacement
from smile_train.masking import MASK_DRAWS, seen_frames
from smile_train.models import Student, load_student, pick_tokens
from smile_train.report_motion import motion_examples
from smile_train.training.build import CONFIG, build_masker, build_targets, build_teacher
from smile_train.training.logging import read_log

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
# Features have collapsed if their effective rank is below this, or below this fraction of that of an
# untrained encoder.
MIN_RANK, MIN_RANK_FRACTION = 3.0, 0.25
DEFAULT_FPS = 8.0
_BATCH = 4
_SIDE = 128
_MAX_ATTENTION_TOKENS = 1600
_BASELINE = "baseline_"
# Charts that come first, and the names of their axes; every other number of the log has a chart, too.
_CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "clips_per_second": "clips per second",
    "data_wait": "fraction of time waiting",
}


@dataclass(frozen=True)
class ClipAnalysis:
    """The outputs of a student and its teacher for K clips of N tokens.

    Attributes:
        frames: ``[K, T, H, W, 3]`` uint8.
        fps: frames per second of the clips.
        names: K descriptions.
        grid: tokens along time, height and width.
        coverage: ``[K, N]`` fraction of each token that objects cover.
        displacement: ``[K, N, 2]`` exact motion, see `token_displacement`; NaN for clips of no recipe.
        mask: ``[K, N]`` bool, True is hidden.
        errors: ``[K, N]`` mean squared error of the predicted tokens; NaN for others, and with a target of
            kind motion, whose values are also classes and embeddings.
        tokens: ``[K, N, C]`` of the encoder without a mask.
        untrained: ``[K, N, C]`` of an untrained encoder of the same architecture.
        teacher: ``[K, N, D]``; None without a teacher.
        attention: ``[N, N]`` of the last block for the first clip, mean over heads, rows sum to 1; None for
            too many tokens.
    """

    frames: UInt8
    fps: float
    names: tuple[str, ...]
    grid: tuple[int, int, int]
    coverage: Float
    displacement: Float
    mask: NDArray[np.bool_]
    errors: Float
    tokens: Float
    untrained: Float
    teacher: Float | None
    attention: Float | None


@torch.no_grad()
def analyse_clips(run: Path, *, num_clips: int = 32, video: Path | None = None) -> ClipAnalysis:
    """Run the last student on clips of the last stage that it was not trained on.

    The middle of ``video`` replaces the last clip.

    Raises:
        UserError: no config or student, missing sources, or a video that cannot be read.
    """
    config, student = PretrainConfig.load(run / CONFIG), load_student(run)
    encoder_config = student.config.encoder
    data = open_data(config)
    teacher = build_teacher(config, data.size_hw)
    targets = build_targets(config, teacher)
    masker = build_masker(config, len(config.stages) - 1, student.config).at(1.0)
    untrained = Student(student.config, generator=torch.Generator().manual_seed(config.seed)).eval()
    start = config.total_steps * config.batch_size
    indices, drawn = list(range(start, start + num_clips)), _clips(config, data.stages[-1], start, num_clips)
    token_size = encoder_config.tubelet_size, encoder_config.patch_size
    clips, displacement = [clip for _, clip in drawn], [_displacement(*pair, token_size) for pair in drawn]
    if video is not None:
        clips[-1] = _read_video(video, clips[0].frames.shape)
        displacement[-1] = np.full_like(displacement[0], np.nan)
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, num_clips, _BATCH):
        some = indices[first : first + _BATCH]
        batch = collate(some, clips[first : first + _BATCH])
        labels = {**batch.labels, MASK_DRAWS: masker.draw(some)}
        batch = Batch(batch.indices, batch.frames, labels)
        mask, inputs, which = masker(batch), normalise(batch.frames), config.predicted_tokens
        predicted = student(inputs, mask, masker.num_masked, tokens=which)
        expected = pick_tokens(torch.cat(targets.build(batch).values, -1), mask, masker.num_masked, which)
        places = torch.arange(mask.shape[1]).expand(len(mask), -1)[..., None]
        places = pick_tokens(places, mask, masker.num_masked, which)[..., 0]
        predicted = predicted[:, : places.shape[1]]  # without the predictions of encoder blocks
        errors = torch.full(mask.shape, math.nan)
        if all(target.kind != "motion" for target in config.targets):
            errors = errors.scatter(1, places, (predicted - expected).square().mean(-1))
        found = {
            "frames": batch.frames, "coverage": labels.get("coverage", torch.zeros(mask.shape)), "mask": mask,
            "errors": errors,
            "tokens": student.encode(inputs), "untrained": untrained.encode(inputs),
        }  # fmt: skip
        if teacher is not None:
            found["teacher"] = teacher.encode(batch.frames)
        for name, value in found.items():
            parts.setdefault(name, []).append(value)
    whole = {name: torch.cat(values) for name, values in parts.items()}
    attention = None
    if encoder_config.num_tokens <= _MAX_ATTENTION_TOKENS:
        attention = last_attention(student, normalise(whole["frames"][:1]))
    arrays: dict[str, Any] = {
        name: np.asarray(whole[name].double().numpy()) for name in whole if name not in ("frames", "mask")
    }
    return ClipAnalysis(
        frames=np.asarray(whole["frames"].permute(0, 1, 3, 4, 2).contiguous().numpy()),
        fps=clips[0].scene.fps if clips[0].scene else DEFAULT_FPS,
        names=tuple(_describe(clip) for clip in clips),
        grid=encoder_config.grid_thw,
        displacement=np.stack(displacement),
        mask=np.asarray(whole["mask"].numpy()),
        attention=attention,
        **{"teacher": None, **arrays},
    )


def _clips(
    config: PretrainConfig, stage: StageData, start: int, count: int
) -> list[tuple[Source, TrainingClip]]:
    """Return the clips from index ``start`` on, from the sources of the last clips of a stage."""
    first = stage.first_step * config.batch_size
    drawn = [max(start - 1 - k, first) for k in range(count)]
    sources = [stage.source_of(index, seed=config.seed, batch_size=config.batch_size) for index in drawn]
    return [(source, source.clips([start + k])[0]) for k, source in enumerate(sources)]


def _displacement(source: Source, clip: TrainingClip, token_size: tuple[int, int]) -> Float:
    if isinstance(source, RenderedSource) and clip.scene is not None:
        return token_displacement(annotate(clip.scene, source.sources), token_size)
    frames, height, width = clip.frames.shape[:3]
    patches = (height // token_size[1]) * (width // token_size[1])
    return np.full((frames // token_size[0] * patches, 2), np.nan)


def _read_video(video: Path, shape: tuple[int, ...]) -> TrainingClip:
    """Read the middle of a video as a clip ``[T, H, W, 3]``."""
    frames, height, width = shape[:3]
    if height != width:
        raise UserError(f"video '{video}': needs a run with square frames, not {height}x{width}")
    read = ReadOptions.of(ViewOptions(clips=1), num_frames=frames, side=height)
    try:
        return TrainingClip(next(read_windows(video, read)))
    except UserError as error:
        raise UserError(f"video '{video}': {error}") from None


def _describe(clip: TrainingClip) -> str:
    if clip.scene is None:
        return "video"
    return ", ".join(layer.class_name for layer in clip.scene.layers if layer.labelled) or "no objects"


@torch.no_grad()
def last_attention(student: Student, inputs: Tensor) -> Float:
    """Return the attention ``[N, N]`` of the encoder's last block for one clip, mean over heads."""
    block: Any = student.encoder.blocks[-1]
    outputs: list[Tensor] = []
    # The fused attention never computes the weights; without it they pass through this (inactive) dropout.
    fused, block.attn.fused_attn = block.attn.fused_attn, False
    hook = block.attn.attn_drop.register_forward_hook(lambda *call: outputs.append(call[2]))
    try:
        student.encode(inputs)
    finally:
        hook.remove()
        block.attn.fused_attn = fused
    return np.asarray(outputs[0][0].mean(0).double().numpy())


def find_collapse(tokens: Float, untrained: Float) -> list[Finding]:
    """Compare the rank of clip features ``[K, N, C]`` (mean over tokens) with an untrained encoder's."""
    rank, before = (effective_rank(torch.from_numpy(each.mean(axis=1))) for each in (tokens, untrained))
    if rank >= MIN_RANK and rank >= MIN_RANK_FRACTION * before:
        return []
    text = f"The clips' features have an effective rank of {rank:.1f}; before training it was {before:.1f}."
    return [Finding("warning", "features collapse", text)]


def find_run_problems(log: Sequence[dict[str, Any]], steps: int | None) -> list[Finding]:
    """Check the curves of a run; ``steps`` is the number of steps in its config."""
    if not log:
        return [Finding("error", "no log", "log.jsonl is missing or empty.")]
    found = []
    done = int(log[-1].get("step", 0))
    if steps is not None and done < steps:
        found.append(Finding("note", "not finished", f"{done} of {steps} steps are done."))
    losses, baseline = (
        np.array([line.get(name, math.nan) for line in log], np.float64) for name in ("loss", "baseline_loss")
    )
    count = max(len(losses) // 20, 1)
    last, last_baseline = losses[-count:].mean(), baseline[-count:].mean()
    if not np.isfinite(losses).all():
        step = log[int(np.argmin(np.isfinite(losses)))].get("step")
        found.append(Finding("error", "loss not finite", f"The loss is not a number at step {step}."))
    elif len(losses) >= 40 and last >= losses[:count].mean():
        found.append(Finding("warning", "loss does not fall", f"It ends at {last:.3f}, not below its start."))
    if last >= last_baseline:  # False for NaN
        text = f"The loss ends at {last:.3f}; the baseline is {last_baseline:.3f}."
        found.append(Finding("warning", "not below the baseline", text))
    return found


def find_probe_problems(log: Sequence[dict[str, Any]]) -> list[Finding]:
    """Check the motion probes in a log: features that collapse, and scores that do not rise."""
    probed = [line for line in log if "probe/rank" in line]
    if not probed:
        return []
    found, last = [], probed[-1]
    rank, before = last["probe/rank"], last["baseline_probe/rank"]
    if rank < max(MIN_RANK, MIN_RANK_FRACTION * before):
        text = f"In the probes at step {last['step']} the effective rank is {rank:.1f}; it was {before:.1f}."
        found.append(Finding("warning", "features collapse", text))
    scores = [100 * line["score"] for line in probed]
    tasks = [name for name in last if name.startswith("probe/") and name != "probe/rank"]
    baseline = 100 * sum(last[_BASELINE + name] for name in tasks) / len(tasks)
    count = min(len(scores), 3)
    recent = sum(scores[-count:]) / count
    if count > 1 and recent <= baseline and log[-1]["loss"] < log[0]["loss"]:
        text = (
            f"The loss falls, but the mean score of the last {count} probes is {recent:.1f} %; that of the "
            f"first weights is {baseline:.1f} %."
        )
        found.append(Finding("warning", "probes do not rise", text))
    return found


def best_by_probe(log: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the line of the checkpoint that `smile-train pretrain` keeps as the best by probe."""
    lines = [line for line in log if "probe/rank" in line]
    return max(lines, key=lambda line: (line["score"], line["step"]), default=None)


def neighbours(features: Float, count: int) -> NDArray[np.int64]:
    """Return the nearest other clips ``[K, count]`` by the cosine of centred features ``[K, C]``."""
    centred = features - features.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    cosines = centred @ centred.T
    np.fill_diagonal(cosines, -np.inf)
    return np.asarray(np.argsort(-cosines, axis=1, kind="stable")[:, :count])


def pca_colors(tokens: Float) -> UInt8:
    """Colour tokens ``[K, N, C]`` by their first three principal components, ``[K, N, 3]`` uint8."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    centred = flat - flat.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    parts = centred @ axes[:, ::-1][:, :3]
    low, high = np.percentile(parts, [2, 98], axis=0)
    shares = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.asarray(np.round(255 * shares).astype(np.uint8).reshape(*tokens.shape[:2], 3))


def losses_by_coverage(analysis: ClipAnalysis) -> dict[str, tuple[float, int]]:
    """Return mean error and number of the predicted tokens, by their coverage by objects."""
    kinds = {
        "objects, more than half": analysis.coverage > 0.5,
        "objects, at the edge": (analysis.coverage > 0) & (analysis.coverage <= 0.5),
        "background": analysis.coverage == 0,
    }
    errors = {name: analysis.errors[chosen & np.isfinite(analysis.errors)] for name, chosen in kinds.items()}
    return {name: (float(e.mean()) if len(e) else math.nan, len(e)) for name, e in errors.items()}


def token_statistics(analysis: ClipAnalysis) -> list[tuple[str, float, float, float, float]]:
    """Return (model, mean norm, mean standard deviation of a channel, rank of tokens, of clips) of each."""
    rows = []
    models = {"student": analysis.tokens, "untrained": analysis.untrained, "teacher": analysis.teacher}
    for name, tokens in models.items():
        if tokens is not None:
            flat = tokens.reshape(-1, tokens.shape[-1])
            samples = flat[:: max(1, len(flat) // 2000)]
            ranks = [effective_rank(torch.from_numpy(each)) for each in (samples, tokens.mean(axis=1))]
            norm = float(np.linalg.norm(flat, axis=1).mean())
            rows.append((name, norm, float(flat.std(axis=0).mean()), ranks[0], ranks[1]))
    return rows


def report_run(run: Path, *, num_clips: int = 32, video: Path | None = None) -> tuple[str, list[Finding]]:
    """Render the page of a run; missing parts become findings.

    Args:
        run: folder of a run, finished or not.
        num_clips: clips that the student encodes.
        video: a real video, shown with its optical flow and the motion that is read from the tokens.

    Returns:
        The page (HTML without external links) and the findings.

    Raises:
        UserError: the folder holds no run.
    """
    if not (run / CONFIG).is_file() and not (run / "log.jsonl").is_file():
        raise UserError(f"run '{run}': neither {CONFIG} nor log.jsonl there")
    log, findings, steps, analysis = read_log(run), [], None, None
    try:
        steps = PretrainConfig.load(run / CONFIG).total_steps
    except UserError as error:
        findings.append(Finding("error", "config", f"{str(error).splitlines()[0]}."))
    findings += find_run_problems(log, steps) + find_probe_problems(log)
    try:
        analysis = analyse_clips(run, num_clips=num_clips, video=video)
        if not any(finding.kind == "features collapse" for finding in findings):
            findings += find_collapse(analysis.tokens, analysis.untrained)
    except (UserError, RuntimeError) as error:
        findings.append(Finding("error", "no analysis of clips", f"{str(error).splitlines()[0]}."))
    last, probes = log[-1] if log else {}, _probes(run)
    facts = [("steps", f"{last.get('step', 0)}{f' of {steps}' if steps else ''}")]
    facts += [(name, f"{last[key]:.4g}") for key, name in _CURVES.items() if key in last]
    if best := best_by_probe(log):
        facts.append(("best step by probe, used below", f"{best['step']} ({100 * best['score']:.1f} %)"))
    html = page_environment("smile_train").get_template("run.html").render(
        title=f"Run: {run}", facts=facts, findings=findings, curves=curves(log), probes=probes,
        probe_curves=_probe_curves(probes), analysis=None if analysis is None else _images(analysis),
    )  # fmt: skip
    return html, findings


def curves(log: Sequence[dict[str, Any]], only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return a chart of every number of the log and its baseline, loss and probes first; or ``only`` some."""
    keys = dict.fromkeys(
        k for line in log for k, v in line.items() if isinstance(v, int | float) and k != "step"
    )
    probes = [key for key in keys if key.startswith("probe/")]
    first = [key for key in dict.fromkeys(("loss", *probes, *_CURVES)) if key in keys]
    charts = []
    others = [key for key in keys if key not in first and not key.startswith(_BASELINE)]
    for key in (key for key in [*first, *others] if not only or key in only):
        names = {key: key, _BASELINE + key: "baseline"}
        lines = {
            names[name]: (
                [line["step"] for line in log if name in line],
                [line[name] for line in log if name in line],
            )
            for name in names
            if name in keys
        }
        label = _CURVES.get(key, key)
        smooth = max(len(lines[key][0]) // 40, 1)
        charts.append(_chart(lines, label, f"{label} over steps", smooth=smooth))
    return charts


def _chart(
    lines: dict[str, tuple[list[int], list[float]]], label: str, title: str, smooth: int = 1
) -> dict[str, Any]:
    svg = line_chart(lines, x_label="step", y_label=label, title=title, smooth=smooth)
    return {"title": title, "svg": svg}


def _probes(run: Path) -> list[dict[str, Any]]:
    """Read the scores of `smile-train probe --out RUN/probe*.json`, in the order of their steps."""
    found: list[dict[str, Any]] = []
    for path in sorted(run.glob("probe*.json")):
        try:
            read = json.loads(path.read_text())
            keys = ("task", "features", "accuracy", "low", "high")
            rows = [{key: row[key] for key in keys} for row in read["rows"]]
            step = None if read.get("step") is None else int(read["step"])
            found.append({"name": path.name, "step": step, "rows": rows})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            found.append({"name": f"{path.name} cannot be read", "step": None, "rows": []})
    return sorted(found, key=lambda probe: -1 if probe["step"] is None else probe["step"])


def _probe_curves(probes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a chart of every task with scores at several steps."""
    scores: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for probe in probes:
        for row in probe["rows"] if probe["step"] is not None else ():
            steps, values = scores.setdefault(row["task"], {}).setdefault(row["features"], ([], []))
            steps.append(probe["step"])
            values.append(100 * row["accuracy"])
    return [
        _chart(lines, "accuracy %", f"{task} over steps")
        for task, lines in scores.items()
        if max(len(set(steps)) for steps, _ in lines.values()) > 1
    ]


def _images(analysis: ClipAnalysis) -> dict[str, Any]:
    """Return images and numbers of an analysis for the template."""
    time, height, width = analysis.grid
    tubelet = analysis.frames.shape[1] // time
    side = max(1, _SIDE // max(analysis.frames.shape[2:4]))

    def strip(images: Sequence[UInt8]) -> str:
        large = [p.repeat(side, 0).repeat(side, 1) for p in images]
        return png_uri(contact_sheet(large, columns=len(large)))

    def enlarged(colors: NDArray[Any], k: int) -> list[UInt8]:
        grid = colors[k].reshape(time, height, width, -1)
        patch = analysis.frames.shape[2] // height, analysis.frames.shape[3] // width
        return [np.asarray(g.repeat(patch[0], 0).repeat(patch[1], 1)) for g in grid]

    crowded = np.argsort(-analysis.coverage.mean(axis=1), kind="stable")[:3]
    masks, components = [], []
    colors = {"student": pca_colors(analysis.tokens), "untrained student": pca_colors(analysis.untrained)}
    if analysis.teacher is not None:
        colors["teacher"] = pca_colors(analysis.teacher)
    for k in crowded.tolist():
        shown = list(analysis.frames[k, ::tubelet])
        visible = list(seen_frames(analysis.frames[k], analysis.mask[k], analysis.grid)[::tubelet])
        rows = [("clip", strip(shown)), ("visible tokens", strip(visible))]
        masks.append({"name": analysis.names[k], "rows": rows})
        rows = [("clip", strip(shown)), *((name, strip(enlarged(c, k))) for name, c in colors.items())]
        components.append({"name": analysis.names[k], "rows": rows})
    nearest = neighbours(analysis.tokens.mean(axis=1), min(5, len(analysis.frames) - 1))

    def video(k: int) -> dict[str, str]:
        frames = analysis.frames[k].repeat(side, 1).repeat(side, 2)
        return {"uri": mp4_uri(frames, analysis.fps, crf=28), "name": analysis.names[k]}

    queries = np.linspace(0, len(analysis.frames) - 1, min(6, len(analysis.frames))).round().astype(int)
    attention = None
    if analysis.attention is not None:
        most = analysis.attention.max(axis=1, keepdims=True)
        levels = np.round(255 * analysis.attention / most).astype(np.uint8)
        attention = {
            "grid": analysis.grid,
            "levels": base64.b64encode(levels.tobytes()).decode(),
            "start": int(np.argmax(analysis.coverage[0])),
            "frames": [png_uri(frame) for frame in analysis.frames[0, ::tubelet]],
        }
    return {
        "losses": [
            (name, f"{loss:.4f}", count)
            for name, (loss, count) in losses_by_coverage(analysis).items()
            if count
        ],
        "statistics": token_statistics(analysis),
        "masks": masks,
        "components": components,
        "neighbours": [
            {"query": video(int(q)), "found": [video(int(k)) for k in nearest[q]]} for q in queries
        ],
        "attention": None if attention is None else Markup(json.dumps(attention)),
        "num_clips": len(analysis.frames),
        "motion": motion_examples(
            analysis.frames, analysis.displacement,
            {"student": analysis.tokens, "untrained student": analysis.untrained},
            grid=analysis.grid, names=analysis.names,
        ),
    }  # fmt: skip
