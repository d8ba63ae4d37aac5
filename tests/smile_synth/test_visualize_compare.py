"""Comparison, gallery, notebook HTML, and the commands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smile_synth import Clip, ObjectBank, Recipe, SyntheticClips, generate, sample_scene
from smile_synth.cli import main
from smile_synth.io.strict_yaml import parse
from smile_synth.sources import Sources
from smile_synth.visualize import (
    RecipeSource,
    distribution_distance,
    make_comparison,
    make_gallery,
    page_environment,
)

RECIPE = """
size: [24, 32]
num_frames: 3
backgrounds: [{kind: gradient}]
objects: {count: 2, side: [10], classes: [smooth, disc]}
motion: [{family: constant-velocity, speed: [1.0, 1.5]}]
"""


def source(bank: ObjectBank, text: str = RECIPE, name: str = "slow") -> RecipeSource:
    return RecipeSource(name, parse(Recipe, text, name=name), Sources(bank), seed=0, num_clips=4)


def test_distances_of_distributions() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert distribution_distance(a, a[::-1]) == 0 and distribution_distance(a, a + 10) == 1
    assert distribution_distance(a, np.array([2.5])) == 0.5
    assert np.isnan(distribution_distance(a, np.zeros(0)))


def test_differing_keys_and_distributions_are_shown(bank: ObjectBank) -> None:
    fast = source(bank, RECIPE.replace("[1.0, 1.5]", "[3.0, 4.0]"), "fast")
    done: list[tuple[int, int]] = []
    page = make_comparison(source(bank), fast, progress=lambda n, total: done.append((n, total)))
    assert done == [(n, 8) for n in range(1, 9)]
    assert re.search(
        r"motion\.0\.speed</th><td><code>\[1\.0, 1\.5\]</code></td><td><code>\[3\.0, 4\.0\]", page
    )
    charts = re.findall(r"<h3>([^<]*)</h3><svg", page)
    # The quantity that differs most is first; six histograms and the spectrum have a legend of both names.
    assert charts[0] == "Speed" and len(charts) == 9
    assert page.count('<i class="s1"></i>fast</span>') == 7
    assert page.count("data:video/mp4;base64,") == 8
    assert "equal in every key" in make_comparison(source(bank), source(bank))


def test_the_gallery_has_playing_clips_of_every_recipe(
    bank: ObjectBank, browser: Any, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(RECIPE)
    bad.write_text(RECIPE.replace("disc", "dics"))
    page, missing = make_gallery({str(good): "two <objects>", str(bad): "none"}, Sources(bank))
    assert list(missing) == [str(bad)] and "did you mean 'disc'" in missing[str(bad)]
    assert page.count("data:video/mp4") == 2 and "two &lt;objects&gt;" in page
    (tmp_path / "gallery.html").write_text(page)
    opened = browser.open(f"file://{tmp_path / 'gallery.html'}")
    opened.look(390, 800)
    opened.wait("document.querySelector('video').readyState >= 2")
    opened.point("video")
    opened.wait("document.querySelector('video').currentTime > 0")
    opened.point("#all", click=True)
    opened.wait("[...document.querySelectorAll('video')].every((video) => !video.paused)")
    assert opened.run("document.documentElement.scrollWidth") <= 390 and not opened.complaints


def test_page_colours_have_enough_contrast_in_light_and_dark() -> None:
    css = page_environment().get_template("page.css").render()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in css.split("prefers-color-scheme: dark")
    )

    def luminance(color: str) -> float:
        values = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    for scheme in (light, dark):
        for paper in ("paper", "card"):
            # WCAG 2: 4.5 for text, 3 for lines of a chart.
            for ink in ("ink", "soft", "accent", "error", "warning", "note"):
                assert contrast(scheme[ink], scheme[paper]) >= 4.5, (ink, paper)
            for k in range(6):
                assert contrast(scheme[f"s{k}"], scheme[paper]) >= 3, (k, paper)


def test_notebook_html(bank: ObjectBank) -> None:
    recipe = parse(Recipe, RECIPE.replace("smooth", "smooth"), name="recipe")
    clip: Clip = SyntheticClips(recipe, Sources(bank), seed=0, num_clips=1)[0]
    assert clip._repr_html_().startswith('<video src="data:video/mp4')  # type: ignore[attr-defined]
    drawn = sample_scene(recipe, Sources(bank), seed=0, index=0)._repr_html_()  # type: ignore[attr-defined]
    assert drawn.count("<polygon") == 4 and "constant-velocity" in drawn
    assert "10 objects in 10 classes" in bank._repr_html_()  # type: ignore[attr-defined]
    assert "num_frames: 3" in recipe._repr_html_()  # type: ignore[attr-defined]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["smile-synth", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_commands(
    bank: ObjectBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    corpus = tmp_path / "corpus"
    generate(Recipe.load(recipe), Sources(bank), out=corpus, num_clips=3, seed=5, size_hw=(48, 64), fps=5)
    one = ["--workers", "1"]
    assert run(monkeypatch, "report", corpus, "--out", tmp_path / "r.html", "--bank", bank.path, *one) == 0
    assert (
        "3 clips, 3 of them playing" in capsys.readouterr().out
        and (tmp_path / "r.html").stat().st_size > 9000
    )
    assert run(monkeypatch, "compare", corpus, recipe, "--bank", bank.path, "--num-clips", "2",
               "--out", tmp_path / "c.html", *one) == 0  # fmt: skip
    assert "equal in every key" in (tmp_path / "c.html").read_text()

    # The command in a report writes the same bytes as the corpus has.
    again = tmp_path / "again.mp4"
    assert run(monkeypatch, "view", corpus / "recipe.yaml", "--bank", bank.path, "--size", "48x64", "--fps", "5",
               "--seed", "5", "--index", "2", "--out", again) == 0  # fmt: skip
    assert again.read_bytes() == (corpus / "clips" / "000002.mp4").read_bytes()
    labelled = ["view", corpus, "--index", "0", "--overlay", "modal,tracks", "--out", tmp_path / "v.gif"]
    assert run(monkeypatch, *labelled, "--bank", bank.path) == 0
    capsys.readouterr()

    (corpus / "labels" / "000001.json").unlink()
    wrong = {
        tuple(labelled): "tracks: not stored in this corpus",
        ("view", corpus, "--index", "9", "--out", "v.png"): "index 9: ",
        ("view", corpus, "--index", "0", "--out", "v.avi"): "expected a .mp4 or .gif or .png file",
        ("view", corpus, "--index", "0", "--overlay", "box", "--out", "v.png"): "did you mean 'boxes'?",
        ("view", corpus, "--index", "1", "--overlay", "boxes", "--out", "v.png"): "its labels cannot be read",
        ("view", corpus, "--index", "0", "--size", "8x8", "--out", "v.png"): "only for recipes",
        ("report", tmp_path, "--out", "r.html"): "corpus.json",
        ("report", corpus, "size=[8,8]", "--out", "r.html"): "only for recipes",
        ("report", recipe, "--out", "r.html"): "needs an object bank",
        ("compare", corpus, corpus, "--out", "c.htm"): "expected a .html file",
    }
    for arguments, message in wrong.items():
        assert run(monkeypatch, *arguments) == 2
        assert message in capsys.readouterr().err
