"""Make every kind of page from what needs no download, and take their images for README and docs.

uv run python benchmarks/page_images.py --work runs/images --out docs/images   # needs Chromium; minutes
"""

from __future__ import annotations

import argparse
import io
import shutil
import time
from pathlib import Path

from chromium import Page, chromium
from PIL import Image

from smile_synth import BackgroundFolder, ObjectBank, Recipe, build_bank, generate
from smile_synth.recipe import presets
from smile_synth.sources import Sources
from smile_synth.visualize import make_comparison, make_gallery, make_report, open_corpus
from smile_train.config import PretrainConfig
from smile_train.materials import build_materials
from smile_train.report import report_run
from smile_train.training.pretrain import pretrain

STEPS, CLIP = 80, 6


def make_pages(work: Path) -> None:
    """Write gallery.html, report.html, compare.html and run.html; earlier corpora and runs are kept."""
    images = build_materials(work / "materials").train_backgrounds
    if not (work / "objects.bank").exists():
        build_bank(["builtin:shapes", "builtin:photos"], work / "objects.bank")
    bank = ObjectBank.open(work / "objects.bank")
    sources = Sources(bank, images)
    for name in ("smile-linear-image", "tracking-hard"):
        generate(
            Recipe.load(name),
            sources,
            out=work / name,
            num_clips=32,
            seed=1,
            size_hw=(160, 160),
            workers=2,
        )
    # Videos of a corpus replace natural video.
    both = work / "backgrounds"
    shutil.copytree(images.path, both, dirs_exist_ok=True)
    shutil.copytree(work / "smile-linear-image" / "clips", both / "videos", dirs_exist_ok=True)
    corpora = [open_corpus(work / name, sources=sources) for name in ("smile-linear-image", "tracking-hard")]
    overrides = [
        f"bank={work / 'objects.bank'}",
        f"stages.0.steps={STEPS}",
        "batch_size=8",
        "stages.0.optimiser.warmup_steps=10",
    ]
    pretrain(PretrainConfig.load("tiny-cpu", overrides), work / "run")
    pages = {
        "gallery": make_gallery(presets(), Sources(bank, BackgroundFolder(both)), workers=2)[0],
        "report": make_report(corpora[0], workers=2).html,
        "compare": make_comparison(*corpora, workers=2),
        "run": report_run(work / "run")[0],
    }
    for name, page in pages.items():
        (work / f"{name}.html").write_text(page)


def take(page: Page, path: Path, width: int, height: int, *, dark: bool = False) -> None:
    page.look(width, height, dark=dark)
    page.run("document.documentElement.style.scrollbarWidth = 'none'")
    time.sleep(2)  # videos near the window load and show their first frame
    Image.open(io.BytesIO(page.image())).convert("RGB").save(path, quality=82, optimize=True)
    assert not page.complaints, page.complaints


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, help="Folder for corpora, run and pages.")
    parser.add_argument("--out", required=True, type=Path, help="Folder for the images.")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    make_pages(given.work)
    with chromium() as browser:

        def opened(name: str, part: str = "") -> Page:
            return browser.open((given.work / f"{name}.html").resolve().as_uri() + part)

        take(opened("gallery"), given.out / "gallery.jpg", 1280, 1010)
        take(opened("report"), given.out / "report.jpg", 1280, 760)
        take(opened("compare"), given.out / "compare.jpg", 1280, 900, dark=True)
        viewer = opened("report", f"#clip-{CLIP}")
        viewer.wait(f"viewer.dataset.ready === '{CLIP}'")
        viewer.run("for (const name of ['modal', 'tracks']) document.getElementById('on-' + name).click()")
        viewer.run("go(Math.floor(detail.num_frames / 2))")
        take(viewer, given.out / "viewer.jpg", 1280, 900)
        run = opened("run")
        run.run("document.getElementById('components').scrollIntoView()")
        take(run, given.out / "run.jpg", 1280, 760, dark=True)


if __name__ == "__main__":
    main()
