"""A run as one page: its curves, what it sees, what it has learned, whether its features collapsed."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.visualize import Finding, contact_sheet, line_chart, mp4_uri, page_environment, png_uri
from smile_train.config import PretrainConfig
from smile_train.data.synthetic import normalise, open_data, training_batches
from smile_train.evaluate import effective_rank
from smile_train.masking import seen_frames
from smile_train.models import Student, load_student, pick_tokens
from smile_train.training.logging import read_log
from smile_train.training.pretrain import build_teacher, make_masker, make_targets

Float = NDArray[np.float64]
UInt8 = NDArray[np.uint8]
# Features are called collapsed below this effective rank, or below this share of the untrained encoder's.
LEAST_RANK, LEAST_SHARE = 3.0, 0.25
_BATCH = 4
_SIDE = 128
_MAX_ATTENTION = 1600
# What stands first, and how its axis is named; any other number of the log gets a chart, too.
_CURVES = {
    "loss": "loss",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "clips_per_second": "clips per second",
    "data_wait": "share of time waiting",
}


@dataclass(frozen=True)
class Inside:
    """What a student and its teacher make of K clips with N tokens each.

    Attributes:
        frames: ``[K, T, H, W, 3]`` uint8.
        fps: of the clips.
        names: K descriptions.
        grid: tokens along time, height and width.
        coverage: ``[K, N]`` share of each token that objects own.
        mask: ``[K, N]`` bool, True is hidden.
        errors: ``[K, N]`` mean squared error of every token that the loss is on; NaN elsewhere.
        tokens: ``[K, N, C]`` of the encoder, nothing hidden.
        fresh: ``[K, N, C]`` of an untrained encoder of the same form.
        teacher: ``[K, N, D]``; None without a teacher.
        attention: ``[N, N]`` of the last block for the first clip, mean over heads, rows sum to 1; None where
            there are too many tokens.
    """

    frames: UInt8
    fps: float
    names: tuple[str, ...]
    grid: tuple[int, int, int]
    coverage: Float
    mask: NDArray[np.bool_]
    errors: Float
    tokens: Float
    fresh: Float
    teacher: Float | None
    attention: Float | None


def look_inside(run: Path, *, num_clips: int = 32) -> Inside:
    """Show clips of the run's last stage to its last student: rendered ones it was not trained on.

    Raises:
        UserError: no config or student there, or its sources have gone.
    """
    config = PretrainConfig.load(run / "config.yaml")
    student = load_student(run)
    form = student.config
    data = open_data(config)
    teacher = build_teacher(config, data.size_hw, data.num_frames)
    targets = make_targets(config, teacher)
    masker = make_masker(config, config.stages[-1], student)
    start = -(-config.total_steps * config.batch_size // _BATCH)
    stage = replace(data.stages[-1], first_step=start, end_step=start + -(-num_clips // _BATCH))
    untrained = Student(form, generator=torch.Generator().manual_seed(config.seed)).eval()
    batches = training_batches(
        stage, seed=config.seed, batch_size=_BATCH, start_step=start, patch_size=form.encoder.patch_size,
        tubelet_size=form.encoder.tubelet_size, workers=0,
    )  # fmt: skip
    names = ("indices", "frames", "coverage", "mask", "errors", "tokens", "fresh", "teacher")
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    with torch.no_grad():
        for batch in batches:
            mask = masker(batch.indices, batch.frames, coverage=batch.coverage, boxes_xyxy=batch.boxes_xyxy)
            inputs, which = normalise(batch.frames), config.target.tokens
            predicted = student(inputs, mask, masker.num_masked, tokens=which)
            wanted = targets.pick(targets(batch.frames), mask, masker.num_masked)
            places = torch.arange(form.num_tokens).expand(len(mask), -1)[..., None]
            places = pick_tokens(places, mask, masker.num_masked, which)[..., 0]
            error = (predicted - wanted).square().mean(-1)
            found = {
                "indices": batch.indices, "frames": batch.frames, "coverage": batch.coverage, "mask": mask,
                "errors": torch.full(mask.shape, math.nan).scatter(1, places, error),
                "tokens": student.encode(inputs), "fresh": untrained.encode(inputs),
            }  # fmt: skip
            if teacher is not None:
                found["teacher"] = teacher.encode(batch.frames)
            for name, value in found.items():
                parts[name].append(value)
    whole = {name: torch.cat(values)[:num_clips] for name, values in parts.items() if values}
    scenes = [
        stage.source_of(index, seed=config.seed, batch_size=_BATCH).clips([index])[0].scene
        for index in whole["indices"].tolist()
    ]
    arrays = {name: np.asarray(value.double().numpy()) for name, value in whole.items()}
    attention = None
    if form.num_tokens <= _MAX_ATTENTION:
        attention = last_attention(student, normalise(whole["frames"][:1]))
    classes = [[layer.class_name for layer in scene.layers if layer.labelled] for scene in scenes]
    return Inside(
        frames=np.asarray(whole["frames"].permute(0, 1, 3, 4, 2).contiguous().numpy()),
        fps=scenes[0].fps,
        names=tuple(", ".join(each) or "no objects" for each in classes),
        grid=form.grid_thw,
        coverage=arrays["coverage"],
        mask=np.asarray(whole["mask"].numpy()),
        errors=arrays["errors"],
        tokens=arrays["tokens"],
        fresh=arrays["fresh"],
        teacher=arrays.get("teacher"),
        attention=attention,
    )


@torch.no_grad()
def last_attention(student: Student, inputs: torch.Tensor) -> Float:
    """Return the attention ``[N, N]`` of the encoder's last block for one clip, mean over heads."""
    caught: list[torch.Tensor] = []
    block: Any = student.encoder.blocks[-1]
    hook = block.attn.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    student.encode(inputs)
    hook.remove()
    x, attention = caught[0][0], block.attn
    query, key, _ = (x @ attention.qkv.weight.T).view(len(x), 3, attention.num_heads, -1).unbind(1)
    query = query + attention.q_bias.view(attention.num_heads, -1)
    scores = torch.einsum("qhc,khc->hqk", query, key) / math.sqrt(query.shape[-1])
    return np.asarray(scores.softmax(-1).mean(0).double().numpy())


def find_collapse(tokens: Float, fresh: Float) -> list[Finding]:
    """Compare the rank of clip features ``[K, N, C]`` (mean over tokens) with an untrained encoder's."""
    rank, before = (effective_rank(torch.from_numpy(each.mean(axis=1))) for each in (tokens, fresh))
    if rank >= LEAST_RANK and rank >= LEAST_SHARE * before:
        return []
    text = f"The clips' features have an effective rank of {rank:.1f}, before training it was {before:.1f}."
    return [Finding("warning", "features collapse", text)]


def find_run_problems(log: Sequence[dict[str, Any]], steps: int | None) -> list[Finding]:
    """Look for what is wrong with a run's curves; ``steps`` is what its config asks for."""
    if not log:
        return [Finding("error", "no log", "There is no log.jsonl, or it is empty.")]
    found = []
    done = int(log[-1].get("step", 0))
    if steps is not None and done < steps:
        found.append(Finding("note", "not finished", f"{done} of {steps} steps are done."))
    losses = np.array([line.get("loss", math.nan) for line in log], np.float64)
    last = losses[-max(len(losses) // 20, 1) :]
    if not np.isfinite(losses).all():
        at = log[int(np.argmin(np.isfinite(losses)))].get("step")
        found.append(Finding("error", "loss not finite", f"The loss is not a number at step {at}."))
    elif len(losses) >= 40 and last.mean() >= losses[: len(last)].mean():
        found.append(
            Finding("warning", "loss does not fall", f"It ends at {last.mean():.3f}, where it began.")
        )
    means = np.array([line.get("loss_of_mean", math.nan) for line in log], np.float64)[-len(last) :]
    if np.isfinite(last).all() and np.isfinite(means).all() and last.mean() >= means.mean():
        text = f"The loss ends at {last.mean():.3f}; predicting the clip's mean gives {means.mean():.3f}."
        found.append(Finding("warning", "no better than the mean", text))
    return found


def neighbours(features: Float, count: int) -> NDArray[np.int64]:
    """Return the nearest other clips ``[K, count]`` by the cosine of features ``[K, C]`` about their mean."""
    centred = features - features.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    likeness = centred @ centred.T
    np.fill_diagonal(likeness, -np.inf)
    return np.asarray(np.argsort(-likeness, axis=1, kind="stable")[:, :count])


def pca_colors(tokens: Float) -> UInt8:
    """Colour tokens ``[K, N, C]`` by their first three principal components, ``[K, N, 3]`` uint8."""
    flat = tokens.reshape(-1, tokens.shape[-1])
    centred = flat - flat.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    parts = centred @ axes[:, ::-1][:, :3]
    low, high = np.percentile(parts, [2, 98], axis=0)
    shares = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.asarray(np.round(255 * shares).astype(np.uint8).reshape(*tokens.shape[:2], 3))


def losses_by_kind(inside: Inside) -> dict[str, tuple[float, int]]:
    """Return mean error and number of the tokens that the loss is on, by how far objects cover them."""
    kinds = {
        "objects, more than half": inside.coverage > 0.5,
        "objects, at the edge": (inside.coverage > 0) & (inside.coverage <= 0.5),
        "background": inside.coverage == 0,
    }
    found = {name: inside.errors[chosen & np.isfinite(inside.errors)] for name, chosen in kinds.items()}
    return {name: (float(e.mean()) if len(e) else math.nan, len(e)) for name, e in found.items()}


def token_statistics(inside: Inside) -> list[tuple[str, float, float, float, float]]:
    """Return (whose, mean length, mean spread of a channel, effective rank of tokens, of clips) of each."""
    rows = []
    for name, tokens in (
        ("student", inside.tokens),
        ("untrained", inside.fresh),
        ("teacher", inside.teacher),
    ):
        if tokens is not None:
            flat = tokens.reshape(-1, tokens.shape[-1])
            some = flat[:: max(1, len(flat) // 2000)]
            rank, of_clips = (effective_rank(torch.from_numpy(each)) for each in (some, tokens.mean(axis=1)))
            length = float(np.linalg.norm(flat, axis=1).mean())
            rows.append((name, length, float(flat.std(axis=0).mean()), rank, of_clips))
    return rows


def report_run(run: Path, *, num_clips: int = 32) -> tuple[str, list[Finding]]:
    """Lay out a run as one page without network; what is missing is said there.

    Args:
        run: folder of a run, finished or not.
        num_clips: clips shown to its student.

    Returns:
        The page and what looks wrong.

    Raises:
        UserError: the folder holds no run at all.
    """
    if not (run / "config.yaml").is_file() and not (run / "log.jsonl").is_file():
        raise UserError(f"run '{run}': neither config.yaml nor log.jsonl there")
    log, findings, steps = read_log(run), [], None
    try:
        steps = PretrainConfig.load(run / "config.yaml").total_steps
    except UserError as error:
        findings.append(Finding("error", "config", f"{str(error).splitlines()[0]}."))
    findings += find_run_problems(log, steps)
    inside = None
    try:
        inside = look_inside(run, num_clips=num_clips)
    except (UserError, RuntimeError) as error:
        findings.append(Finding("error", "no look inside", f"{str(error).splitlines()[0]}."))
    if inside is not None:
        findings += find_collapse(inside.tokens, inside.fresh)
    last = log[-1] if log else {}
    facts = [("steps", f"{last.get('step', 0)}{f' of {steps}' if steps else ''}")]
    facts += [(name, f"{last[key]:.4g}") for key, name in _CURVES.items() if key in last]
    html = page_environment("smile_train").get_template("run.html").render(
        title=f"Run: {run}",
        facts=facts,
        findings=findings,
        curves=_curves(log),
        probes=(probes := _probes(run)),
        probe_curves=_probe_curves(probes),
        inside=None if inside is None else _images(inside),
    )  # fmt: skip
    return html, findings


def _curves(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = dict.fromkeys(
        k for line in log for k, v in line.items() if isinstance(v, int | float) and k != "step"
    )
    width = max(len(log) // 40, 1)
    charts = []
    for key in [k for k in _CURVES if k in keys] + [k for k in keys if k not in _CURVES]:
        if key == "loss_of_mean":
            continue
        series = {"loss": ["loss", *[k for k in ("loss_of_mean",) if k in keys]]}.get(key, [key])
        lines = {
            name.replace("loss_of_mean", "of predicting the clip's mean"): (
                [line["step"] for line in log if name in line], [line[name] for line in log if name in line]
            )
            for name in series
        }  # fmt: skip
        label = _CURVES.get(key, key)
        svg = line_chart(lines, x_label="step", y_label=label, title=f"{label} over steps", smooth=width)
        charts.append({"title": label, "svg": Markup(svg)})
    return charts


def _probes(run: Path) -> list[dict[str, Any]]:
    """Read scores that `smile-train probe --out RUN/probe*.json` left in the run's folder, by steps."""
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
    """Draw the scores of every task over the steps at which they were taken, where there are several."""
    scores: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
    for probe in probes:
        for row in probe["rows"] if probe["step"] is not None else ():
            steps, values = scores.setdefault(row["task"], {}).setdefault(row["features"], ([], []))
            steps.append(probe["step"])
            values.append(100 * row["accuracy"])
    charts = []
    for task, lines in scores.items():
        if max(len(set(steps)) for steps, _ in lines.values()) > 1:
            title = f"{task} over steps"
            svg = line_chart(lines, x_label="step", y_label="accuracy %", title=title)
            charts.append({"title": title, "svg": Markup(svg)})
    return charts


def _images(inside: Inside) -> dict[str, Any]:
    """Lay out what `look_inside` found for the template."""
    time, height, width = inside.grid
    tubelet = inside.frames.shape[1] // time
    side = max(1, _SIDE // max(inside.frames.shape[2:4]))

    def strip(images: Sequence[UInt8]) -> str:
        large = [p.repeat(side, 0).repeat(side, 1) for p in images]
        return png_uri(contact_sheet(large, columns=len(large)))

    def enlarged(colors: NDArray[Any], k: int) -> list[UInt8]:
        grid = colors[k].reshape(time, height, width, -1)
        patch = inside.frames.shape[2] // height, inside.frames.shape[3] // width
        return [np.asarray(g.repeat(patch[0], 0).repeat(patch[1], 1)) for g in grid]

    crowded = np.argsort(-inside.coverage.mean(axis=1), kind="stable")[:3]
    masks, components = [], []
    colors = {"student": pca_colors(inside.tokens), "untrained student": pca_colors(inside.fresh)}
    if inside.teacher is not None:
        colors["teacher"] = pca_colors(inside.teacher)
    for k in crowded.tolist():
        shown = list(inside.frames[k, ::tubelet])
        seen = list(seen_frames(inside.frames[k], inside.mask[k], inside.grid)[::tubelet])
        masks.append({"name": inside.names[k], "rows": [("clip", strip(shown)), ("seen", strip(seen))]})
        rows = [("clip", strip(shown)), *((name, strip(enlarged(c, k))) for name, c in colors.items())]
        components.append({"name": inside.names[k], "rows": rows})
    near = neighbours(inside.tokens.mean(axis=1), min(5, len(inside.frames) - 1))

    def film(k: int) -> dict[str, str]:
        frames = inside.frames[k].repeat(side, 1).repeat(side, 2)
        return {"uri": mp4_uri(frames, inside.fps, crf=28), "name": inside.names[k]}

    queries = np.linspace(0, len(inside.frames) - 1, min(6, len(inside.frames))).round().astype(int)
    attention = None
    if inside.attention is not None:
        most = inside.attention.max(axis=1, keepdims=True)
        levels = np.round(255 * inside.attention / most).astype(np.uint8)
        attention = {
            "grid": inside.grid,
            "levels": base64.b64encode(levels.tobytes()).decode(),
            "start": int(np.argmax(inside.coverage[0])),
            "frames": [png_uri(frame) for frame in inside.frames[0, ::tubelet]],
        }
    return {
        "losses": [(name, f"{loss:.4f}", count) for name, (loss, count) in losses_by_kind(inside).items()],
        "statistics": token_statistics(inside),
        "masks": masks,
        "components": components,
        "neighbours": [{"query": film(int(q)), "found": [film(int(k)) for k in near[q]]} for q in queries],
        "attention": None if attention is None else Markup(json.dumps(attention)),
        "num_clips": len(inside.frames),
    }
