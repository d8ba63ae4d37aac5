"""Measures, findings and the page of the report, on corpora with planted faults."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from smile_synth import ObjectBank, Recipe, UserError, annotate, generate
from smile_synth.io.strict_yaml import parse
from smile_synth.io.videos import write_mp4
from smile_synth.sources import Sources
from smile_synth.visualize import (
    ClipMeasure,
    RecipeSource,
    Report,
    check_recipe,
    find_problems,
    make_report,
    measure,
    open_corpus,
    summarise,
)
from smile_synth.visualize._measure import longest_run, power_spectrum, spectrum_exponent

RECIPE = """
size: [40, 56]
num_frames: 4
backgrounds: [{kind: one-over-f, weight: 3.0}, {kind: gradient}]
objects: {count: [1, 2], side: [12, 16], side_jitter: 0.1, classes: [smooth, disc, card]}
motion:
  - {family: constant-velocity, speed: [2.0, 4.0], rotation: {rate: 5.0}}
  - {family: still}
"""


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return parse(Recipe, RECIPE, name="recipe")


@pytest.fixture(scope="module")
def sound(bank: ObjectBank, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "a <corpus>"
    generate(recipe, Sources(bank), out=folder, num_clips=12, seed=0)
    return folder


@pytest.fixture
def corpus(sound: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(sound, tmp_path / "corpus"))


def measures(folder: Path) -> list[ClipMeasure]:
    source = open_corpus(folder)
    return [measure(source.read(index)) for index in source.indices]


def findings(folder: Path) -> dict[str, tuple[int, ...]]:
    source = open_corpus(folder)
    found = find_problems(measures(folder), source.recipe, source.faults)
    return {finding.kind: finding.indices for finding in found}


def test_a_sound_corpus_is_measured_as_it_was_drawn(sound: Path, recipe: Recipe) -> None:
    clips = measures(sound)
    statistics = summarise(clips)
    assert statistics.num_clips == 12 and 12 <= statistics.num_objects <= 24
    moving = [item for clip in clips for item in clip.objects if item.family == "constant-velocity"]
    for item in moving:
        assert item.speed == pytest.approx(item.factors["path.speed_px_per_frame"], abs=1e-6)
        assert item.rotation == pytest.approx(item.factors["rotation_degrees_per_frame"], abs=1e-6)
        assert item.displacement == pytest.approx(item.factors["net_displacement_px"], abs=1e-6)
    assert moving and all(
        item.speed == 0 for clip in clips for item in clip.objects if item.family == "still"
    )
    assert statistics.center_shares.sum() + statistics.outside == pytest.approx(1)
    assert set(statistics.classes) <= {"smooth", "disc", "card"} and len(statistics.exponents) == 12
    checks = check_recipe(recipe, clips)
    assert all(check.inside == 1 for check in checks), checks
    keys = {check.key for check in checks}
    assert {"constant-velocity: speed", "objects.count", "motion: still", "backgrounds: one-over-f"} <= keys


def test_differences_from_the_recipe_are_found(sound: Path) -> None:
    clips = measures(sound)
    other = parse(
        Recipe, RECIPE.replace("[2.0, 4.0]", "[9.0, 9.5]").replace("[12, 16]", "[30]"), name="other"
    )
    outside = {i.key: i.inside for i in check_recipe(other, clips)}
    assert outside["constant-velocity: speed"] == 0 and outside["objects.side and side_jitter"] == 0
    rare = parse(Recipe, RECIPE.replace("family: still", "family: still, weight: 1000"), name="rare")
    texts = [f.text for f in find_problems(clips, rare) if f.kind == "share differs from the recipe"]
    assert any(text.startswith("motion: constant-velocity: expected 0.1%") for text in texts)


def test_nothing_is_found_in_a_sound_corpus(sound: Path) -> None:
    assert not set(findings(sound)) - {"still clips", "near-duplicates"}


def spoil(corpus: Path, index: int, frames: NDArray[np.uint8]) -> None:
    write_mp4(corpus / "clips" / f"{index:06d}.mp4", frames, 8.0)


def test_unreadable_missing_and_cut_files_are_found(corpus: Path) -> None:
    (corpus / "clips" / "000003.mp4").write_bytes(b"no video")
    (corpus / "clips" / "000004.mp4").unlink()
    scene = corpus / "scenes" / "000005.scene"
    scene.write_bytes(scene.read_bytes()[:-20])
    labels = corpus / "labels" / "000006.json"
    labels.write_text(labels.read_text()[:200])
    header = corpus / "corpus.json"
    header.write_text(header.read_text().replace('"backgrounds"', '"backgronds"'))
    found = findings(corpus)
    assert found["media unreadable"] == (3, 4) and found["file damaged"] == (3, 4, 5, 6)
    assert found["scene unreadable"] == (5,) and found["labels unreadable"] == (6,)
    assert "recipe unreadable" in found


@pytest.mark.slow
def test_without_a_manifest_the_clips_are_read_from_their_files(corpus: Path) -> None:
    (corpus / "manifest.parquet").unlink()
    spoil(corpus, 7, np.zeros((3, 40, 56, 3), np.uint8))
    (corpus / "scenes" / "000011.scene").unlink()
    found = findings(corpus)
    assert found["media and labels differ"] == (7,) and "manifest missing" in found
    assert len(open_corpus(corpus).indices) == 11
    assert make_report(open_corpus(corpus), workers=2).num_videos == 10


def test_media_that_differ_from_the_manifest_are_found(corpus: Path) -> None:
    spoil(corpus, 2, np.zeros((3, 40, 56, 3), np.uint8))
    assert findings(corpus)["file damaged"] == (2,)


def empty_objects(corpus: Path, index: int, keep: int) -> None:
    """Make all but the first ``keep`` objects of a clip invisible in its label file.

    Without a manifest no size is recorded that the altered file would contradict.
    """
    (corpus / "manifest.parquet").unlink(missing_ok=True)
    path = corpus / "labels" / f"{index:06d}.json"
    stored = json.loads(path.read_text())
    for item in stored["objects"][keep:]:
        height, width = stored["size_hw"]
        size = height * width
        nothing = ""
        while True:
            digit = size & 31
            size >>= 5
            more = not (size == 0 and not digit & 16)
            nothing += chr((digit | (32 if more else 0)) + 48)
            if not more:
                break
        item["modal_rle"] = [{"size": [height, width], "counts": nothing}] * stored["num_frames"]
    path.write_text(json.dumps(stored))


def test_empty_clips_and_hidden_objects_are_found(corpus: Path) -> None:
    two = [clip.index for clip in measures(corpus) if len(clip.objects) == 2]
    empty_objects(corpus, two[0], 0)
    empty_objects(corpus, two[1], 1)
    found = findings(corpus)
    assert found["empty clips"] == (two[0],)
    assert found["objects never visible"] == (two[0], two[1])


def test_clipped_colours_frozen_frames_and_duplicates_are_found(corpus: Path) -> None:
    (corpus / "manifest.parquet").unlink()
    frames = open_corpus(corpus).read(1).frames
    spoil(corpus, 1, np.where(frames > 100, np.uint8(255), np.uint8(0)))
    moving = next(c.index for c in measures(corpus)[2:] if any(item.speed > 1 for item in c.objects))
    spoil(corpus, moving, np.repeat(open_corpus(corpus).read(moving).frames[:1], 4, axis=0))
    others = [index for index in range(2, 12) if index != moving]
    shutil.copy(corpus / "clips" / f"{others[0]:06d}.mp4", corpus / "clips" / f"{others[1]:06d}.mp4")
    found = findings(corpus)
    assert found["clipped colours"] == (1,)
    assert found["frozen frames"] == (moving,)
    assert found["duplicates"] == (others[0], others[1])


def test_class_imbalance_is_found(sound: Path) -> None:
    clip = next(clip for clip in measures(sound) if clip.objects)
    item = clip.objects[0]
    crowd = [replace(item, class_name=name) for name in ["a"] * 200 + ["b"] * 9 + ["c"] * 8]
    kinds = {f.kind: f.text for f in find_problems([replace(clip, objects=tuple(crowd))])}
    assert "'a' has 200 objects, the median class 9." in kinds["class imbalance"]


def test_no_clips_at_all(corpus: Path, tmp_path: Path) -> None:
    for name in ("scenes", "clips", "labels"):
        shutil.rmtree(corpus / name)
    (corpus / "manifest.parquet").unlink()
    report = make_report(open_corpus(corpus))
    assert [f.kind for f in report.findings] == ["manifest missing", "no clips"]
    with pytest.raises(UserError, match=r"corpus\.json"):
        open_corpus(tmp_path)


def test_shards_and_other_media_are_read_alike(
    bank: ObjectBank, recipe: Recipe, sound: Path, tmp_path: Path
) -> None:
    generate(recipe, Sources(bank), out=tmp_path / "tar", num_clips=3, seed=0, layout="shards", media="ffv1")
    source = open_corpus(tmp_path / "tar")
    assert source.indices == (0, 1, 2) and not source.faults
    found, expected = source.read(2), open_corpus(sound).read(2)
    assert not found.faults and found.object_factors == expected.object_factors and found.num_bytes > 0
    assert found.frames is not None and found.frames.shape == (4, 40, 56, 3)
    (tar,) = (tmp_path / "tar" / "shards").glob("*.tar")
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    kinds = findings(tmp_path / "tar")
    assert kinds["media unreadable"][-1] == 2 and kinds["labels unreadable"] == (2,)


def test_run_lengths_and_spectrum() -> None:
    assert longest_run(np.array([1, 1, 0, 1, 1, 1, 0], bool)) == 3 and longest_run(np.zeros(0, bool)) == 0
    rng = np.random.default_rng(1)
    side = 256
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    noise = np.fft.fft2(rng.normal(size=(side, side)))
    for exponent in (0.0, 1.0, 1.5):
        image = np.fft.ifft2(noise / frequency**exponent).real
        found = spectrum_exponent(power_spectrum(100 * image / image.std()))
        assert found == pytest.approx(exponent, abs=0.2)


@pytest.fixture(scope="module")
def report(sound: Path, bank: ObjectBank) -> Report:
    return make_report(open_corpus(sound, sources=Sources(bank)))


class Checker(HTMLParser):
    """Checks the structure of a page without a browser."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.unnamed: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in (
            "meta",
            "link",
            "input",
            "img",
            "rect",
            "line",
            "polyline",
            "circle",
            "path",
            "use",
            "br",
        ):
            self.open.append(tag)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        if (tag == "img" and "alt" not in given) or (tag == "svg" and not given.get("aria-label")):
            self.unnamed.append(str(given))

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("rect", "line", "polyline", "circle", "path", "use"):
            raise AssertionError(f"</{tag}> closes {self.open[-1:]}")


def test_the_page_is_complete_and_needs_no_network(report: Report) -> None:
    checked = Checker(report.html)
    assert not checked.open and not checked.unnamed
    assert len(checked.ids) == len(set(checked.ids))
    assert all(address.startswith(("data:", "#")) for address in checked.addresses)
    assert "a &lt;corpus&gt;" in report.html and "a <corpus>" not in report.html
    assert report.num_videos == 12 and {f"video-{k}" for k in range(12)} <= set(checked.ids)


def test_any_number_of_workers_makes_the_same_page(sound: Path, bank: ObjectBank, report: Report) -> None:
    assert make_report(open_corpus(sound, sources=Sources(bank)), workers=2).html == report.html


def test_without_sources_the_page_says_why_there_is_no_flow(
    sound: Path, recipe: Recipe, bank: ObjectBank, report: Report, tmp_path: Path
) -> None:
    reason = "flow and tracks: not stored in this corpus"
    assert reason in make_report(open_corpus(sound)).html and reason not in report.html
    generate(recipe, Sources(bank), out=tmp_path / "c", num_clips=1, seed=0, labels=("flow",))
    html = make_report(open_corpus(tmp_path / "c")).html
    assert "tracks: not stored in this corpus" in html and reason not in html


def test_with_little_room_some_videos_are_left_out(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_corpus(sound)
    monkeypatch.setattr("smile_synth.visualize._report._ROOM", 28_000)
    fewer = make_report(source)
    assert 0 < fewer.num_videos < 12 and f"{12 - fewer.num_videos} of them have no video" in fewer.html
    some = make_report(source, num_shown=5)
    assert "5 of 12 clips are shown, evenly spaced" in some.html and len(some.clips) == 12


def test_a_recipe_is_reported_like_the_corpus_it_would_write(
    bank: ObjectBank, recipe: Recipe, sound: Path
) -> None:
    source = RecipeSource("my recipe.yaml", recipe, Sources(bank), seed=0, num_clips=3, overrides=("fps=8",))
    rendered, read = (measure(s.read(2)) for s in (source, open_corpus(sound)))
    assert [item.speed for item in rendered.objects] == [item.speed for item in read.objects]
    stored = np.round(rendered.objects[0].visibility, 4)  # four decimals in a corpus
    assert np.array_equal(stored, read.objects[0].visibility)
    words = shlex.split(source.command(2))
    assert words[:4] == ["smile-synth", "view", "my recipe.yaml", "fps=8"] and words[-4:-2] == [
        "--index",
        "2",
    ]
    assert "not recorded" in make_report(source).html  # licences


def test_the_page_in_a_browser(report: Report, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(report.html)
    page = browser.open(f"file://{tmp_path / 'report.html'}")
    page.look(1280, 900)
    assert page.run("matches.textContent") == "12 of 12 clips"

    # A clip plays while it has the mouse pointer.
    page.run("document.querySelector('#card-3').scrollIntoView({block: 'center'})")
    page.wait("document.querySelector('#card-3 video')?.readyState >= 2")
    page.point("#card-3 .card")
    page.wait("document.querySelector('#card-3 video').currentTime > 0")
    page.point("h1")
    page.wait("document.querySelector('#card-3 video').paused")

    # Filters count right.
    rows = json.loads(re.search(r'id="data">(.*?)</script>', report.html)[1])["clips"]
    page.run("filters.elements.family.value = 'still'; filters.dispatchEvent(new Event('input'))")
    assert page.run("listed.length") == sum("still" in row["families"] for row in rows) > 0
    page.run("filters.elements.count.value = '2'; filters.dispatchEvent(new Event('input'))")
    both = [row for row in rows if "still" in row["families"] and len(row["classes"]) == 2]
    assert page.run("document.querySelectorAll('#grid li').length") == len(both)
    page.run("filters.reset()")
    page.wait("listed.length === 12")
    page.run("filters.elements.sort.value = '-speed'; filters.dispatchEvent(new Event('input'))")
    fastest = sorted(rows, key=lambda row: (-row["speed"], row["index"]))
    assert page.run("listed.map((clip) => clip.index)") == [row["index"] for row in fastest]
    page.run("filters.reset()")
    page.wait("listed[0].index === 0")

    # The viewer by keyboard: Enter opens, keys step, toggle and close.
    page.run("document.querySelector('#card-0 button').focus()")
    page.key("ArrowRight", 39)
    assert page.run("document.activeElement.closest('li').id") == "card-1"
    page.key("Enter", 13, "\r")
    page.wait("viewer.dataset.ready === '1'")
    assert page.run("images.length") == 4
    seen = "canvas.toDataURL()"
    with_boxes = page.run(seen)
    for key in "bn":
        page.key(key, ord(key.upper()), key)
    plain = page.run(seen)
    assert plain != with_boxes
    still = page.run("detail.objects.every((item) => item.family === 'still')")
    for key in "bxmatfrn":
        page.key(key, ord(key.upper()), key)
        assert page.run(seen) != plain or (key == "r" and still), key
        page.key(key, ord(key.upper()), key)
        assert page.run(seen) == plain, key
    page.key("ArrowRight", 39)
    assert page.run("[frame, scrub.value]") == [1, "1"]
    page.key("PageDown", 34)
    page.wait("viewer.dataset.ready === '2'")
    page.key(" ", 32, " ")
    page.wait("frame > 0")
    page.key("Escape", 27)
    page.wait("!viewer.open")
    page.wait("document.activeElement.closest('li')?.id === 'card-2'")

    # Labels in the page are those of the folder, and nothing is wider than a phone's screen.
    page.run("location.hash = '#clip-5'")
    page.wait("viewer.dataset.ready === '5'")
    page.look(390, 800, dark=True)
    assert page.run("[document.documentElement.scrollWidth, viewer.scrollWidth].every((w) => w <= 390)")
    masks = page.run("masksOf().map((of) => of.modal.map((mask) => mask.reduce((a, b) => a + b)))")
    expected = report.clips[5]
    assert len(masks) == len(expected.objects) and min(map(min, masks)) > 0
    assert not page.complaints


def test_masks_in_the_page_are_those_of_the_corpus(
    sound: Path, bank: ObjectBank, report: Report, browser: Any, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text(report.html)
    page = browser.open(f"file://{tmp_path / 'report.html'}#clip-4")
    page.wait("viewer.dataset.ready === '4'")
    labels = open_corpus(sound).read(4).labels
    assert labels is not None
    for kind, masks in (("modal", labels.modal_masks), ("amodal", labels.amodal_masks)):
        found = np.array(page.run(f"masksOf().map((of) => of.{kind}.map((mask) => [...mask]))"), bool)
        assert np.array_equal(found.reshape(masks.shape), masks)
    source = open_corpus(sound, sources=Sources(bank))
    flow = annotate(source.corpus.scene(4), Sources(bank)).flow(0, 1)
    found = np.array(page.run("detail.flow.fields[0]"), np.float64).reshape(
        *page.run("detail.flow.size_hw"), 2
    )
    largest = page.run("detail.flow.largest")
    # The page has the flow at the centres of a coarser grid, in 1/127 of the longest vector of the clip.
    rows, columns = (
        ((np.arange(n) + 0.5) * size / n).astype(int)
        for size, n in zip(flow.valid.shape, found.shape, strict=False)
    )
    assert np.allclose(found * largest / 127, flow.flow_xy[rows][:, columns], atol=largest / 127)
    assert not page.complaints
