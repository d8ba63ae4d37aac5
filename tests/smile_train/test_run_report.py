"""The page of a run: collapses and broken runs are findings, and images show what the student does."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smile_synth import UserError
from smile_train.config import PretrainConfig
from smile_train.models import load_student, save_model, steps_of
from smile_train.report import (
    analyse_clips,
    best_by_probe,
    find_collapse,
    find_probe_problems,
    find_run_problems,
    last_attention,
    losses_by_coverage,
    neighbours,
    pca_colors,
    report_run,
)
from smile_train.training.pretrain import pretrain

RNG = np.random.default_rng


def test_features_that_lose_rank_are_a_finding() -> None:
    fresh = RNG(1).normal(size=(20, 3, 16))
    assert not find_collapse(RNG(2).normal(size=(20, 3, 16)), fresh)
    one = RNG(3).normal(size=(20, 3, 1)) * RNG(4).normal(size=16)
    (finding,) = find_collapse(one, fresh)
    assert finding.kind == "features collapse" and "effective rank of 1.0" in finding.text


def lines(losses: list[float], mean: float = 1.0) -> list[dict[str, Any]]:
    return [{"step": k + 1, "loss": loss, "baseline_loss": mean} for k, loss in enumerate(losses)]


def test_problems_of_curves_are_findings() -> None:
    falling = np.linspace(1.0, 0.4, 60).tolist()
    assert not find_run_problems(lines(falling), 60)
    kinds = {
        "no log": [],
        "not finished": falling[:50],
        "loss not finite": [*falling[:-1], float("nan")],
        "loss does not fall": falling[::-1],
        "not below the baseline": np.linspace(3.0, 1.2, 60).tolist(),
    }
    for kind, losses in kinds.items():
        assert kind in {finding.kind for finding in find_run_problems(lines(losses), 60)}, kind


def with_probes(scores: list[float], ranks: list[float]) -> list[dict[str, Any]]:
    """Return a log whose every second line has a probe; the first weights have a score of .3 and rank 20."""
    log = lines(np.linspace(1.0, 0.4, 2 * len(scores)).tolist())
    for line, score, rank in zip(log[1::2], scores, ranks, strict=True):
        line |= {"score": score, "probe/direction": score, "baseline_probe/direction": 0.3}
        line |= {"probe/rank": rank, "baseline_probe/rank": 20.0}
    return log


def test_probes_that_do_not_rise_and_ranks_that_fall_are_findings() -> None:
    rising = with_probes([0.3, 0.5, 0.8, 0.8, 0.7], [19.0, 18, 17, 17, 12])
    assert not find_probe_problems(rising) and not find_probe_problems(lines([1.0, 0.5]))
    best = best_by_probe(rising)
    assert best is not None and best["step"] == 8 and best_by_probe(lines([1.0])) is None
    (still,) = find_probe_problems(with_probes([0.9, 0.3, 0.25, 0.34], [19.0] * 4))
    assert still.kind == "probes do not rise" and "score of the last 3 probes is 29.7 %" in still.text
    for rank in (4.9, 2.9):
        (collapsed,) = find_probe_problems(with_probes([0.5, 0.6], [18.0, rank]))
        assert collapsed.kind == "features collapse" and f"is {rank}; it was 20.0" in collapsed.text
    assert not find_probe_problems(with_probes([0.5], [5.1]))


def test_neighbours_and_colours() -> None:
    features = np.array([[1.0, 0], [0.9, 0.1], [-1, 0.1], [-0.9, 0], [0.8, 0.0]])
    near = neighbours(features, 2)
    assert near.shape == (5, 2) and set(near[0]) == {1, 4} and near[2, 0] == 3
    tokens = RNG(5).normal(size=(2, 6, 4)) * [10, 1, 1, 1]
    colors = pca_colors(tokens)
    assert colors.shape == (2, 6, 3) and colors.dtype == np.uint8
    assert abs(np.corrcoef(colors[..., 0].ravel(), tokens[..., 0].ravel())[0, 1]) > 0.95


@pytest.fixture(scope="module")
def trained(shared_config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    pretrain(PretrainConfig.load(shared_config_file), folder)
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_tensorboard_gets_images_and_animations(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(trained / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    title = "clips, and their visible tokens"
    images, animations = board.Images(title), board.Images(f"{title}, animated")
    assert [image.step for image in images] == [image.step for image in animations] == [1, 2, 4, 6]
    with Image.open(io.BytesIO(animations[-1].encoded_image_string)) as animation:
        assert (animation.format, animation.size, animation.n_frames) == ("GIF", (4 * 32, 2 * 32), 4)
    with Image.open(io.BytesIO(images[-1].encoded_image_string)) as image:
        assert image.size == (2 * 4 * 32, 2 * 32)  # four clips side by side, at two tubelets
        tokens = np.asarray(image)[32:].reshape(4, 8, 2 * 4 * 4, 8, 3)
        hidden = (tokens == 128).all(axis=(1, 3, 4))
    assert hidden.sum() == 4 * 2 * int(0.75 * 16)


def test_a_checkpoint_is_a_student_too(trained: Path) -> None:
    file = trained / "checkpoints" / "00000006.pt"
    assert steps_of(file) == steps_of(trained) == steps_of(trained / "student.safetensors") == 6
    given, expected = load_student(file).state_dict(), load_student(trained).state_dict()
    assert given.keys() == expected.keys() and all(torch.equal(given[n], expected[n]) for n in expected)
    file_copy = trained / "checkpoints" / "00000007.pt"
    file_copy.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"00000007\.pt: not a checkpoint of plain tensors"):
        load_student(file_copy)
    file_copy.unlink()


def test_attention_is_that_of_the_last_block(run: Path) -> None:
    student = load_student(run)
    inputs = torch.from_numpy(RNG(6).normal(size=(1, 4, 3, 32, 32)).astype(np.float32))
    found = last_attention(student, inputs)
    assert found.shape == (32, 32) and np.allclose(found.sum(axis=1), 1)
    block: Any = student.encoder.blocks[-1]
    given: list[torch.Tensor] = []
    block.attn.register_forward_hook(lambda _, x, out: given.extend([x[0], out]))
    with torch.no_grad():
        student.encode(inputs)
        x, out = given
        # One head at a time from the definition: softmax(q k / sqrt(d)) v, then the projection.
        attention, width = block.attn, x.shape[-1]
        bias = torch.cat([attention.q_bias, torch.zeros(width), attention.v_bias])
        q, k, v = (x[0] @ attention.qkv.weight.T + bias).split(width, dim=1)
        size = width // attention.num_heads
        heads, mixed = [], []
        for h in range(attention.num_heads):
            part = slice(h * size, (h + 1) * size)
            heads.append((q[:, part] @ k[:, part].T / size**0.5).softmax(-1))
            mixed.append(heads[-1] @ v[:, part])
        assert torch.allclose(attention.proj(torch.cat(mixed, 1)), out[0], atol=1e-5)
    assert np.allclose(torch.stack(heads).mean(0).numpy(), found, atol=1e-6)


def test_the_page_of_a_run(run: Path, browser: Any, moving_squares: Path) -> None:
    analysis = analyse_clips(run, num_clips=6)
    known = np.isfinite(analysis.errors)
    assert np.array_equal(known, analysis.mask) and analysis.teacher is None
    assert sum(count for _, count in losses_by_coverage(analysis).values()) == analysis.mask.sum()
    assert np.isfinite(analysis.displacement).all() and np.abs(analysis.displacement).max() > 0.9
    video = next((moving_squares / "test" / "left").glob("*.mp4"))
    page, findings = report_run(run, num_clips=6, video=video)
    assert "Squared error by coverage" in page
    assert "exact motion" in page and "DIS flow" in page and "untrained student: endpoint error" in page
    assert not {finding.severity for finding in findings} & {"error"}
    (run / "report.html").write_text(page)
    assert (
        "learning rate" in page
        and "gradient norm" in page
        and "http://" not in page.replace("http://www.w3", "")
    )
    opened = browser.open(f"file://{run / 'report.html'}")
    opened.look(390, 800)
    opened.wait("canvas.dataset.ready")
    seen = "canvas.toDataURL()"
    before = opened.run(seen)
    opened.run("canvas.focus()")
    opened.key("ArrowRight", 39)
    assert opened.run(seen) != before and "column" in opened.run(
        "document.getElementById('query').textContent"
    )
    assert opened.run("document.documentElement.scrollWidth") <= 390
    assert not opened.complaints


def test_a_broken_run_still_has_a_page(run: Path, tmp_path: Path) -> None:
    score = {"task": "motion", "features": "encoder", "accuracy": 0.5, "low": 0.4, "high": 0.6}
    for step in (2, 10):
        (run / f"probe-{step}.json").write_text(json.dumps({"step": step, "rows": [score]}))
    (run / "probe-3.json").write_text("{")
    (run / "student.safetensors").unlink()
    page, findings = report_run(run)
    assert "50.0" in page and "probe-3.json cannot be read" in page and "motion over steps" in page
    assert page.index("after 2 steps") < page.index("after 10 steps")
    assert [f.kind for f in findings if f.severity == "error"] == ["no analysis of clips"]
    (run / "log.jsonl").unlink()
    assert "exact motion" not in page
    assert {f.kind for f in report_run(run)[1]} >= {"no log", "no analysis of clips"}
    with pytest.raises(UserError, match=r"neither config\.yaml nor log\.jsonl"):
        report_run(tmp_path / "nothing")


def test_a_video_that_cannot_be_read_is_named(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(UserError, match=r"video '.*empty\.mp4': is empty"):
        analyse_clips(run, num_clips=4, video=tmp_path / "empty.mp4")


def test_a_collapsed_student_is_a_finding(run: Path, tmp_path: Path) -> None:
    collapsed = Path(shutil.copytree(run, tmp_path / "collapsed"))
    student = load_student(collapsed)
    with torch.no_grad():
        student.encoder.norm.weight.zero_()
    save_model(collapsed / "student.safetensors", student)
    assert "features collapse" in {f.kind for f in report_run(collapsed, num_clips=8)[1]}


def test_squared_errors_leave_out_targets_that_are_classes(config_file: Path, tmp_path: Path) -> None:
    changes = ["stages.0.steps=2", "stages.0.optimiser.warmup_steps=1"]
    config = PretrainConfig.load(config_file, [*changes, "targets=[{kind: motion, visibility: 1}]"])
    pretrain(config, tmp_path / "motion")
    assert np.isnan(analyse_clips(tmp_path / "motion", num_clips=4).errors).all()
    assert "Squared error by coverage" not in report_run(tmp_path / "motion", num_clips=4)[0]
