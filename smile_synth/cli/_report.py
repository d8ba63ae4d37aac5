"""smile-synth report, compare and view."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from smile_synth.cli import _options as options
from smile_synth.cli._options import open_sources, parse_size, split_names
from smile_synth.cli._output import check_suffix, console, print_findings, print_labelled
from smile_synth.cli._progress import progress_bar
from smile_synth.core.errors import UserError, counted

if TYPE_CHECKING:
    from smile_synth.sources import Sources

NUM_CLIPS_HELP = "Number of a recipe's clips (60) or of a corpus's clips in the grid (500)."
OVERLAYS_HELP = "Some of boxes, amodal-boxes, modal, amodal, tracks, flow, arrows, names."
SCALE_HELP = "Factor to enlarge by; with overlays by default until a side has 224 pixels, else 1."


def report_command(
    source: options.CorpusOrRecipe,
    overrides: options.Overrides = None,
    *,
    out: options.PageFile,
    bank: options.OptionalBank = None,
    backgrounds: options.Backgrounds = None,
    strict: options.Strict = False,
    num_clips: Annotated[int | None, Option(min=1, help=NUM_CLIPS_HELP)] = None,
    seed: options.Seed = 0,
    workers: options.Workers,
) -> None:
    """Write a page about a corpus or a recipe: clips that play, labels, statistics, health."""
    from smile_synth.io.atomic import write_bytes
    from smile_synth.visualize import make_report

    check_suffix(out, ".html")
    sources = open_sources(bank, backgrounds, strict) if bank else None
    opened = _open_source(source, overrides or [], sources, seed, num_clips or 60)
    with progress_bar("report", "clips") as progress:
        report = make_report(opened, num_shown=num_clips or 500, workers=workers, progress=progress)
    write_bytes(out, report.html.encode())
    print_findings(report.findings)
    size = f"{len(report.html) / 1e6:.1f} MB"
    console.print(
        f"{counted(len(report.clips), 'clip')}, {report.num_videos} of them playing, in {out} ({size})"
    )


def compare_command(
    first: Annotated[str, Argument(metavar="A", help="Folder of a corpus, or a recipe.")],
    second: Annotated[str, Argument(metavar="B", help="Folder of a corpus, or a recipe.")],
    *,
    out: options.PageFile,
    bank: options.OptionalBank = None,
    backgrounds: options.Backgrounds = None,
    num_clips: Annotated[int, Option(min=1, help="Number of clips of a recipe.")] = 60,
    seed: options.Seed = 0,
    workers: options.Workers,
) -> None:
    """Write a page that compares two corpora or recipes: keys that differ, distributions overlaid."""
    from smile_synth.io.atomic import write_bytes
    from smile_synth.visualize import make_comparison

    check_suffix(out, ".html")
    sources = open_sources(bank, backgrounds) if bank else None
    opened = [
        # The bank is that of the recipes: a corpus may have another.
        _open_source(name, [], None if Path(name).is_dir() else sources, seed, num_clips)
        for name in (first, second)
    ]
    with progress_bar("compare", "clips") as progress:
        page = make_comparison(*opened, workers=workers, progress=progress)
    write_bytes(out, page.encode())
    console.print(f"{first} and {second} in {out} ({len(page) / 1e6:.1f} MB)")


def view_command(
    source: options.CorpusOrRecipe,
    overrides: options.Overrides = None,
    *,
    index: Annotated[int, Option(min=0, help="Index of the clip.")],
    out: Annotated[Path, Option(help="A .mp4, .gif or .png file; a .png is a strip of frames.")],
    overlays: Annotated[str, Option("--overlay", metavar="A,B", help=OVERLAYS_HELP)] = "",
    scale: Annotated[int | None, Option(min=1, help=SCALE_HELP)] = None,
    bank: options.OptionalBank = None,
    backgrounds: options.Backgrounds = None,
    seed: options.Seed = 0,
    size: options.Size = None,
    fps: options.Fps = None,
) -> None:
    """Write one clip as a video or a strip of frames, with its labels drawn over it."""
    from smile_synth.visualize import check_overlays, overlay, save_clip

    check_suffix(out, ".mp4", ".gif", ".png")
    chosen = split_names(overlays)
    check_overlays(chosen)
    sources = open_sources(bank, backgrounds) if bank else None
    opened = _open_source(source, overrides or [], sources, seed, index + 1, parse_size(size))
    if index not in opened.indices:
        raise UserError(f"index {index}: '{source}' has {counted(len(opened.indices), 'clip')}")
    sample = opened.read(index)
    for fault in sample.faults:
        print_labelled(fault.kind, fault.text)
    if sample.frames is None or (chosen and sample.clip is None):
        what = "frames" if sample.frames is None else "labels"
        raise UserError(f"clip {index} of '{source}': its {what} cannot be read")
    frames = sample.frames
    if sample.clip is not None:
        frames = overlay(sample.clip, chosen, scale=scale if scale or chosen else 1)
    save_clip(out, frames, fps or sample.fps)
    console.print(f"clip {index} in {out}")


def _open_source(
    source: str,
    overrides: list[str],
    sources: Sources | None,
    seed: int,
    num_clips: int,
    size_hw: tuple[int, int] | None = None,
) -> Any:
    """Open a corpus folder, or a recipe's first clips.

    Raises:
        UserError: neither of the two, a recipe without a bank, or a recipe's options for a corpus.
    """
    from smile_synth.recipe import Recipe
    from smile_synth.visualize import RecipeSource, open_corpus

    if Path(source).is_dir():
        if overrides or size_hw:
            raise UserError(
                f"{overrides[0] if overrides else '--size'}: only for recipes, '{source}' is a corpus"
            )
        return open_corpus(Path(source), sources=sources)
    recipe = Recipe.load(source, overrides)
    if sources is None:
        raise UserError(f"recipe '{source}': needs an object bank (--bank DIR)")
    opened = RecipeSource(source, recipe, sources, seed, num_clips, tuple(overrides))
    return replace(opened, size_hw=size_hw) if size_hw else opened
