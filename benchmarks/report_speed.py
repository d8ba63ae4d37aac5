r"""Time `smile-synth report` on corpora, and how soon its pages are open and play in Chromium.

smile-synth generate smile-linear-image --bank B --backgrounds P --out c500 --num-clips 500 --seed 0
smile-synth generate smile-gaussian-image "size=[64,64]" --bank B --backgrounds P --out c2000 \
    --num-clips 2000 --seed 0
uv run python benchmarks/report_speed.py c500 c2000 --out benchmarks/results/report_speed.json
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from chromium import Browser, chromium
from record import write

from smile_synth.corpus import Corpus

OPENINGS = 5


def make(corpus: Path, page: Path, num_clips: int) -> float:
    """Write a corpus's report as a user does; returns seconds, the start of the program among them."""
    program = [sys.executable, "-c", "from smile_synth.cli import main; main()"]
    began = time.perf_counter()
    subprocess.run(
        [*program, "report", corpus, "--out", page, "--num-clips", str(num_clips)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - began


def opened(browser: Browser, page: Path) -> tuple[float, float]:
    """Return ms from asking for the page to its load event, and from pointing at a clip to its motion."""
    tab = browser.open(page.as_uri())
    tab.look(1280, 900)
    tab.wait("performance.timing.loadEventEnd > 0")
    loaded = tab.run("performance.getEntriesByType('navigation')[0].loadEventEnd")
    tab.run("document.querySelector('#grid li').scrollIntoView({block: 'center'})")
    tab.wait("document.querySelector('#grid video')?.readyState >= 2")
    playing = """new Promise((done) => {
      const video = document.querySelector('#grid video'), began = performance.now();
      const look = (now, { mediaTime }) => mediaTime > 0
        ? done(performance.now() - began) : video.requestVideoFrameCallback(look);
      video.requestVideoFrameCallback(look);
      video.closest('button').dispatchEvent(new PointerEvent('pointerenter'));
    })"""
    first = tab.run(playing)
    tab.call("Page.close")
    return loaded, first


def spread(values: tuple[float, ...]) -> dict[str, int]:
    return {name: round(of(values)) for name, of in (("median", median), ("lowest", min), ("highest", max))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("corpora", nargs="+", type=Path)
    parser.add_argument("--out", required=True, type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for corpus in given.corpora:
            reader = Corpus(corpus)
            count = len(reader.indices)
            page = Path(folder) / "report.html"
            seconds = make(corpus, page, count)
            loads, plays = zip(*(opened(browser, page) for _ in range(OPENINGS)), strict=True)
            rows.append(
                {
                    "clips": count,
                    "frames_hw": list(reader.frames(reader.indices[0]).shape[:3]),
                    "layout": reader.header.layout,
                    "seconds": round(seconds, 1),
                    "page_mb": round(page.stat().st_size / 1e6, 2),
                    "videos": page.read_text().count('id="video-'),
                    "load_ms": spread(loads),
                    "first_play_ms": spread(plays),
                }
            )
            print(rows[-1])
    write(given.out, {"openings": OPENINGS, "workers": 2, "rows": rows})


if __name__ == "__main__":
    main()
