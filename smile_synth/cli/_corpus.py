"""smile-synth generate, export and corpus ..."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from smile_synth.cli import _options as options
from smile_synth.cli._options import open_sources, parse_size, split_names
from smile_synth.cli._output import console, print_labelled, resumable
from smile_synth.cli._progress import progress_bar
from smile_synth.core.errors import UserError, counted

corpus_app = typer.Typer(help="Inspect, check, repair and merge corpora.", no_args_is_help=True)

LABELS_HELP = (
    "More labels: segmentation, tracks, flow, backward-flow. Boxes, masks, visibility and the other object "
    "labels are always written."
)
EXPORT_HELP = "Also export to these formats, into the folder OUT-exports/."
FORMATS_HELP = (
    "frames, coco (also COCO-VID), youtube-vis, yolo, davis, mot, mots, tapvid, tapvid-kubric, flo, "
    "kitti-flow, flow-npz, list (videos and lines 'path label') or native."
)
SHARD_INDEX_HELP = "Number, from 0, of the part that this command writes; see --num-shards."
LABEL_HELP = "Label of --format list: class (of the objects), or a factor such as family or num_objects."
NUM_SHARDS_HELP = (
    "Number of parts of the corpus; 'corpus merge' joins them. These parts are not the tar files of "
    "--layout shards."
)


def generate_command(
    recipe: options.Recipe,
    overrides: options.Overrides = None,
    *,
    bank: options.Bank,
    out: Annotated[Path, Option(help="Folder of the corpus; an existing corpus is completed.")],
    num_clips: Annotated[int, Option(min=1, help="Number of clips in the corpus.")],
    seed: options.Seed,
    backgrounds: options.Backgrounds = None,
    strict: options.Strict = False,
    size: options.Size = None,
    fps: options.Fps = None,
    media: Annotated[str, Option(help="h264, or lossless: ffv1, png, webp or npz.")] = "h264",
    quality: Annotated[int, Option(min=0, max=51, help="Quality of H.264, from 0 (best) to 51.")] = 18,
    layout: Annotated[str, Option(help="folder, or shards (WebDataset tar files).")] = "folder",
    clips_per_shard: Annotated[int, Option(min=1, help="Number of clips in a tar file.")] = 1000,
    labels: Annotated[str, Option(metavar="A,B", help=LABELS_HELP)] = "",
    export_formats: Annotated[str, Option("--export", metavar="A,B", help=EXPORT_HELP)] = "",
    shard_index: Annotated[int | None, Option(min=0, help=SHARD_INDEX_HELP)] = None,
    num_shards: Annotated[int | None, Option(min=1, help=NUM_SHARDS_HELP)] = None,
    workers: options.Workers,
    ray: Annotated[str | None, Option(metavar="auto|HOST:PORT", help="Run on this Ray cluster.")] = None,
) -> None:
    """Write a labelled corpus: media, labels, scenes, manifest. If stopped, run it again to resume."""
    from smile_synth.corpus import MANIFEST, generate
    from smile_synth.exporters import check_format, export
    from smile_synth.recipe import Recipe

    formats = split_names(export_formats)
    for name in formats:
        check_format(name)
    if shard_index is not None and (num_shards is None or shard_index >= num_shards):
        raise UserError(f"--shard-index {shard_index}: needs --num-shards, greater than the index")
    loaded, size_hw = Recipe.load(recipe, overrides or []), parse_size(size)
    sources = open_sources(bank, backgrounds, strict)
    with resumable(), progress_bar("generate", "clips") as progress:
        summary = generate(
            loaded, sources, out=out, num_clips=num_clips, seed=seed, size_hw=size_hw, fps=fps,
            media=media, quality=quality, layout=layout, clips_per_shard=clips_per_shard,
            labels=split_names(labels), part=None if num_shards is None else (shard_index or 0, num_shards),
            workers=workers, ray=ray,
            progress=lambda done, total, size: progress(done, total, remark=f"{size / 1e6:,.0f} MB"),
        )  # fmt: skip
    console.print(
        f"{counted(summary.num_clips, 'clip')} in {out} ({summary.written} written now), "
        f"{summary.num_bytes / 1e6:.1f} MB of media"
    )
    exports = out.resolve().with_name(f"{out.resolve().name}-exports")
    for name in formats:
        folder = exports / name
        # An export that is older than the manifest lacks the clips that were added since.
        if folder.exists() and folder.stat().st_mtime < (out / MANIFEST).stat().st_mtime:
            shutil.rmtree(folder)
        if not folder.exists():
            with progress_bar(f"export {name}", "clips") as progress:
                export(out, name, folder, sources=sources, workers=workers, progress=progress)
            console.print(f"{out} as {name} in {folder}")


def export_command(
    corpus_path: options.Corpus,
    *,
    format_name: Annotated[str, Option("--format", help=FORMATS_HELP)],
    out: options.NewFolder,
    bank: options.OptionalBank = None,
    backgrounds: options.Backgrounds = None,
    step: Annotated[int, Option(help="Flow is from frame t to frame t + step.")] = 1,
    points: Annotated[int, Option(min=1, help="Number of query points per clip.")] = 256,
    label: Annotated[str, Option(help=LABEL_HELP)] = "family",
    workers: options.Workers,
) -> None:
    """Write a corpus in another tool's format; flow and tracks need the corpus's --bank."""
    from smile_synth.exporters import ExportOptions, check_format, export

    check_format(format_name)
    sources = open_sources(bank, backgrounds) if bank else None
    with progress_bar(f"export {format_name}", "clips") as progress:
        export(
            corpus_path, format_name, out, sources=sources, workers=workers, progress=progress,
            options=ExportOptions(step=step, points=points, label=label),
        )  # fmt: skip
    console.print(f"{corpus_path} as {format_name} in {out}")


@corpus_app.command("info")
def corpus_info(corpus_path: options.Corpus) -> None:
    """Print a corpus's size, labels and licences."""
    from smile_synth.corpus import Corpus

    corpus = Corpus(corpus_path)
    header = corpus.header
    height, width = header.size_hw
    console.print(
        f"{counted(len(corpus), 'clip')} of {header.num_frames}x{height}x{width}, {header.media}, "
        f"layout {header.layout}, labels: {', '.join(('objects', *header.labels))}, seed {header.seed}"
    )
    for source, names in header.licences.items():
        for name, count in names.items():
            console.print(f"licence of {count} {source}: {name}")


@corpus_app.command("verify")
def corpus_verify(
    corpus_path: options.Corpus,
    *,
    deep: Annotated[bool, Option("--deep", help="Compare the content of all files too.")] = False,
    rerender: Annotated[bool, Option("--rerender", help="Render all clips again and compare.")] = False,
    bank: options.OptionalBank = None,
    backgrounds: options.Backgrounds = None,
    workers: options.Workers,
) -> None:
    """Find missing, truncated, changed and foreign files; exit code 1 if there are any."""
    from smile_synth.corpus import Corpus, verify

    if rerender and bank is None:
        raise UserError("--rerender: needs the --bank of the corpus")
    sources = open_sources(bank, backgrounds) if rerender and bank else None
    with progress_bar("verify", "clips") as progress:
        faults = verify(corpus_path, deep=deep, sources=sources, workers=workers, progress=progress)
    for fault in faults:
        print_labelled("fault", str(fault), "red")
    if faults:
        raise typer.Exit(1)
    console.print(f"{counted(len(Corpus(corpus_path)), 'clip')}, all unchanged")


@corpus_app.command("repair")
def corpus_repair(
    corpus_path: options.Corpus,
    *,
    bank: options.Bank,
    backgrounds: options.Backgrounds = None,
    workers: options.Workers,
) -> None:
    """Write missing, truncated and changed files again; exit code 1 if any fault remains."""
    from smile_synth.corpus import repair

    sources = open_sources(bank, backgrounds)
    with progress_bar("repair", "clips") as progress:
        report = repair(corpus_path, sources, workers=workers, progress=progress)
    for fault in report.repaired:
        console.print(f"repaired: {fault}")
    for fault in report.remaining:
        print_labelled("not repaired", str(fault), "red")
    console.print(f"{len(report.repaired)} faults repaired, {len(report.remaining)} remain")
    if report.remaining:
        raise typer.Exit(1)


@corpus_app.command("merge")
def corpus_merge(
    parts: Annotated[list[Path], Argument(metavar="PART...", help="Folders of all parts of a corpus.")],
    out: Annotated[Path, Option(help="Folder of the merged corpus.")],
) -> None:
    """Merge the parts of a corpus; the result equals the output of one process."""
    from smile_synth.corpus import merge

    with progress_bar("merge", "clips") as progress:
        summary = merge(parts, out, progress=progress)
    console.print(f"{counted(summary.num_clips, 'clip')} in {out}")
