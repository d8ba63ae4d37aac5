"""The command line of smile-synth; the only module of this package that prints."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import smile_synth
from smile_synth.core.errors import UserError

app = typer.Typer(
    help="Turn segmented objects into procedurally animated, labelled clips.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
bank_app = typer.Typer(help="Build and look at object banks.", no_args_is_help=True)
app.add_typer(bank_app, name="bank")
recipes_app = typer.Typer(help="List, show, compare and check recipes.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
corpus_app = typer.Typer(help="Look at corpora, check, mend, extend and merge them.", no_args_is_help=True)
app.add_typer(corpus_app, name="corpus")
console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True, highlight=False)

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A preset's name or the path of a YAML file.")
]
OverridesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, for example objects.count=3.")
]
BankOption = Annotated[Path, typer.Option("--bank", help="Folder of an object bank.")]
BackgroundsOption = Annotated[
    Path | None,
    typer.Option(
        "--backgrounds",
        help="Folder of images and videos, or a text file of their paths, for image and video backgrounds.",
    ),
]
OptionalBankOption = Annotated[Path | None, typer.Option("--bank", help="Folder of an object bank.")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes, all cores unless given; bytes do not depend on it."),
]
CorpusLabelsOption = Annotated[
    str,
    typer.Option(
        "--labels", metavar="A,B", help="Beside the objects': segmentation, tracks, flow, backward-flow."
    ),
]
CorpusArgument = Annotated[Path, typer.Argument(metavar="CORPUS", help="Folder of a corpus.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Fail if a background file cannot be read, or not to its end.")
]


def run_app(typer_app: typer.Typer) -> None:
    """Run a command line: a user's mistake is one line and exit code 2, Ctrl-C ends cleanly with 130."""
    try:
        typer_app()
    except UserError as error:
        for line in str(error).splitlines():
            errors.print(f"[red]error[/red]: {escape(line)}")
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as leaving:
        # typer turns Ctrl-C into this exit code and says nothing.
        if isinstance(leaving, SystemExit) and leaving.code != 130:
            raise
        errors.print("stopped; the same command continues where it left off")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; that is no mistake, but stdout must not be flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def main() -> None:
    """Run smile-synth."""
    run_app(app)


def print_version(show: bool) -> None:
    """Print the project's version and leave."""
    if show:
        console.print(f"smile-video {smile_synth.__version__}", highlight=False)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=print_version, is_eager=True, help="Show the version and leave.")
]


@app.callback()
def _options(version: VersionOption = False) -> None:
    pass


class Update(Protocol):
    """Tells a progress bar how far the work is."""

    def __call__(self, done: int, total: int, /, *, what: str = "", remark: str = "") -> None:
        """Show ``done`` of ``total``; ``what`` starts a new count under another name."""


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Update]:
    """Show progress with rate and time left; yields a callback."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(what, total=None, rate="", remark="")
        name = what

        def update(done: int, total: int, /, *, what: str = "", remark: str = "") -> None:
            nonlocal name
            if what and what != name:
                name = what
                progress.reset(task, description=what)
            speed = progress.tasks[task].speed
            rate = f"{speed:.1f}/s" if speed else ""
            progress.update(task, completed=done, total=total, rate=rate, remark=remark)

        yield update


BankArgument = Annotated[Path, typer.Argument(metavar="BANK", help="Folder of an object bank.")]
NewBankOption = Annotated[Path, typer.Option("--out", help="Folder of the new bank.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace a bank that stands there.")]
ValOption = Annotated[float, typer.Option("--val", min=0, max=1, help="Share of images for validation.")]
TestOption = Annotated[float, typer.Option("--test", min=0, max=1, help="Share of images for testing.")]
DuplicatesOption = Annotated[
    int,
    typer.Option(
        "--duplicates", min=-1, max=7,
        help="Bits in which near-duplicates' perceptual hashes may differ; -1 keeps all.",
    ),
]  # fmt: skip
ClassesOption = Annotated[str, typer.Option("--classes", metavar="A,B", help="Only these classes.")]
SplitOption = Annotated[str | None, typer.Option("--split", help="Only train, val or test.")]


@bank_app.command("build")
def bank_build(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders or annotation files, each recognised by itself: cut-outs with alpha "
            "(class/n.png), COCO or LVIS json, VOC, DAVIS, images/ + masks/, plain images; "
            "or drawn:COUNT, builtin:shapes, builtin:photos.",
        ),
    ],
    out: NewBankOption,
    format_name: Annotated[
        str | None,
        typer.Option("--format", help="rgba, coco, voc, davis, pairs or images, for all sources given."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Images of a COCO or LVIS json, if not beside it.")
    ] = None,
    crowd: Annotated[bool, typer.Option("--crowd", help="Take COCO's crowd regions, too.")] = False,
    max_side: Annotated[int, typer.Option(min=8, help="Longest side of a cut-out in pixels.")] = 256,
    erode: Annotated[float, typer.Option(min=0, help="Pixels taken off a cut-out's edge.")] = 0.0,
    feather: Annotated[float, typer.Option(min=0, help="Pixels over which its alpha rises.")] = 0.0,
    min_side: Annotated[int, typer.Option(min=1, help="Shortest side of a usable cut-out in pixels.")] = 16,
    min_thickness: Annotated[
        float, typer.Option(min=0, max=1, help="Least width, as a share of the long side.")
    ] = 0.05,
    max_truncation: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of the outline on the image's border.")
    ] = 0.05,
    max_covered: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share that smaller objects claim, too.")
    ] = 0.5,
    min_largest_part: Annotated[
        float, typer.Option(min=0, max=1, help="Least share in its largest part, if cut from an image.")
    ] = 0.5,
    duplicates: DuplicatesOption = 4,
    licence: Annotated[
        str, typer.Option("--licence", help="Of images whose source does not state one.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn, and of the split.")] = 0,
    val: ValOption = 0.1,
    test: TestOption = 0.1,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; all cores unless given.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Build an object bank from segmented objects; a stopped build is continued."""
    from smile_synth.objects import FORMATS, CutOutOptions, build_bank

    cut = CutOutOptions(
        max_side, erode, feather, min_side, min_thickness, max_truncation, max_covered, min_largest_part,
        duplicates,
    )  # fmt: skip
    with progress_bar("reading", "images") as progress:
        report = build_bank(
            sources, out, seed=seed, cut=cut, format=format_name, images=images, crowd=crowd, licence=licence,
            val_fraction=val, test_fraction=test, overwrite=overwrite, workers=workers or os.cpu_count() or 1,
            progress=progress,
        )  # fmt: skip
    for source, format_found in zip(sources, report.formats, strict=True):
        if format_found in FORMATS:
            console.print(f"{escape(source)}: read as {format_found}")
    for item in report.rejected[:10]:
        errors.print(f"[yellow]rejected[/yellow] {escape(item.source)}: {escape(item.reason)}")
    if len(report.rejected) > 10:
        errors.print(f"... and {len(report.rejected) - 10} more, all in {escape(str(out / 'report.json'))}")
    kinds = Counter(item.kind for item in report.rejected).most_common()
    counts = ": " + ", ".join(f"{escape(kind)} {count}" for kind, count in kinds) if kinds else ""
    console.print(f"{report.num_objects} objects in {out}, {len(report.rejected)} rejected{counts}")


@bank_app.command("info")
def bank_info(
    bank_path: BankArgument,
    num_classes: Annotated[int, typer.Option("--top", min=1, help="Classes shown, most objects first.")] = 40,
) -> None:
    """Show what a bank holds: classes, sizes, licences, sources."""
    from smile_synth.objects import ObjectBank, read_header

    bank = ObjectBank.open(bank_path)
    splits = bank.index["split"].to_pylist()
    table = Table(title=escape(str(bank_path)))
    for column in ("class", "objects", "", "median size (h x w)", "train / val / test"):
        table.add_column(column)
    classes = Counter(bank.class_ids.tolist()).most_common()
    for class_id, count in classes[:num_classes]:
        ids = (bank.class_ids == class_id).nonzero()[0]
        middle = len(ids) // 2
        height, width = sorted(bank.heights[ids])[middle], sorted(bank.widths[ids])[middle]
        sides = Counter(splits[i] for i in ids)
        table.add_row(
            escape(bank.class_names[class_id]), str(count), _bar(count, classes[0][1]), f"{height} x {width}",
            " / ".join(str(sides[side]) for side in ("train", "val", "test")),
        )  # fmt: skip
    if len(classes) > num_classes:
        rest = sum(count for _, count in classes[num_classes:])
        table.add_row(f"{len(classes) - num_classes} more", str(rest))
    console.print(table)
    longest = [max(size) for size in zip(bank.heights.tolist(), bank.widths.tolist(), strict=True)]
    console.print(_histogram("long side, pixels", longest, (16, 32, 64, 96, 128, 192, 256, 512)))
    licences = Counter(name or "not recorded" for name in bank.index["licence"].to_pylist()).most_common()
    table = Table("licence", "objects", "")
    for name, count in licences[:20]:
        table.add_row(escape(name), str(count), _bar(count, licences[0][1]))
    console.print(table)
    for source in read_header(Path(bank.path))["sources"]:
        dropped = ", ".join(f"{kind} {count}" for kind, count in source["num_rejected"].items())
        left_out = escape(f"; left out: {dropped}" if dropped else "")
        kept = f"{source['num_objects']} objects"
        console.print(f"from {escape(source['given'])} ({source['format']}): {kept}{left_out}")
    console.print(f"{len(bank)} objects in {len(bank.class_names)} classes, digest {bank.digest[:16]}")


def _bar(value: int, largest: int, width: int = 24) -> str:
    return "█" * max(1, round(width * value / largest)) if value else ""


def _histogram(title: str, values: list[int], bounds: tuple[int, ...]) -> Table:
    """Count values up to and with each bound."""
    table = Table(title, "objects", "")
    places = Counter(next((b for b in bounds if value <= b), None) for value in values)
    most = max(places.values())
    for bound in (*bounds, None):
        if places[bound]:
            name = f"up to {bound}" if bound else f"over {bounds[-1]}"
            table.add_row(name, str(places[bound]), _bar(places[bound], most))
    return table


@bank_app.command("show")
def bank_show(
    bank_path: BankArgument,
    out: Annotated[Path, typer.Option("--out", help="A .png file.")],
    classes: ClassesOption = "",
    split: SplitOption = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Objects shown, evenly spaced.")] = 64,
    side: Annotated[int, typer.Option("--side", min=16, help="Of a cell in pixels.")] = 128,
    behind: Annotated[
        str, typer.Option("--behind", help="white, black, R,G,B or an image's file.")
    ] = "white",
) -> None:
    """Draw a contact sheet of a bank's objects."""
    from smile_synth.objects import ObjectBank
    from smile_synth.visualize import object_sheet

    check_png(out)
    bank = ObjectBank.open(bank_path)
    ids = bank.select(split=split, classes=_names(classes))
    if len(ids) > count:
        ids = ids[[i * len(ids) // count for i in range(count)]]
    save_image(out, object_sheet(bank, ids, behind=_behind(behind), side=side))
    console.print(f"{len(ids)} objects in {out}")


def _names(text: str) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] or None


def _behind(text: str) -> Any:
    colors = {"white": (255, 255, 255), "black": (0, 0, 0)}
    if text in colors:
        return colors[text]
    if re.fullmatch(r"\d+,\d+,\d+", text) and max(numbers := [int(part) for part in text.split(",")]) < 256:
        return tuple(numbers)
    try:
        import numpy as np

        with Image.open(text) as image:
            return np.asarray(image.convert("RGB"))
    except OSError:
        raise UserError(
            f"behind '{text}': expected white, black, R,G,B (each 0..255) or an image's file"
        ) from None


@bank_app.command("merge")
def bank_merge(
    bank_paths: Annotated[list[Path], typer.Argument(metavar="BANK...", help="Folders of object banks.")],
    out: NewBankOption,
    resplit: Annotated[bool, typer.Option("--resplit", help="Draw the split anew for all objects.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of a new split.")] = 0,
    val: ValOption = 0.1,
    test: TestOption = 0.1,
    duplicates: DuplicatesOption = 4,
    overwrite: OverwriteOption = False,
) -> None:
    """Put several banks into one; near-duplicates of an earlier bank's objects are left out."""
    from smile_synth.objects import ObjectBank, merge_banks

    banks = [ObjectBank.open(path) for path in bank_paths]
    with progress_bar("merging", "objects") as progress:
        _, kept, dropped = merge_banks(
            banks, out, resplit=resplit, seed=seed, val_fraction=val, test_fraction=test,
            duplicate_distance=duplicates, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    console.print(f"{kept} objects in {out}, {dropped} near-duplicates left out")


@bank_app.command("verify")
def bank_verify(bank_path: BankArgument) -> None:
    """Read every pixel of a bank and compare it with the index."""
    from smile_synth.objects import ObjectBank

    bank = ObjectBank.open(bank_path)
    with progress_bar("reading", "objects") as progress:
        bank.verify(progress)
    console.print(f"{len(bank)} objects, all as they were written; digest {bank.digest[:16]}")


@bank_app.command("export")
def bank_export(
    bank_path: BankArgument,
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    classes: ClassesOption = "",
    split: SplitOption = None,
) -> None:
    """Write a bank's objects as class/number.png with alpha, and index.csv beside them."""
    from smile_synth.objects import ObjectBank, export_bank

    bank = ObjectBank.open(bank_path)
    ids = bank.select(split=split, classes=_names(classes))
    with progress_bar("writing", "objects") as progress:
        count = export_bank(bank, out, ids, progress=progress)
    console.print(f"{count} objects in {out}")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Read HxW.

    Raises:
        UserError: not two whole numbers.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not int(match[1]) or not int(match[2]):
        raise UserError(f"size '{text}': expected HEIGHTxWIDTH in pixels, for example 224x224")
    return int(match[1]), int(match[2])


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def open_sources(bank: Path, backgrounds: Path | None, strict: bool) -> Any:
    """Open a bank and, if given, the background images and videos, telling what could not be read.

    Raises:
        UserError: with ``strict``, if any file could not be read to its end.
    """
    from smile_synth.backgrounds import BackgroundFolder
    from smile_synth.objects import ObjectBank
    from smile_synth.sources import Sources

    objects = ObjectBank.open(bank)
    if backgrounds is None:
        return Sources(objects)
    with progress_bar("indexing", "files") as progress:
        folder = BackgroundFolder(backgrounds, progress=progress)
    told = [("skipped", *item) for item in folder.unreadable]
    told += [("cut short", *item) for item in folder.cut_short]
    for what, file, reason in told[:20]:
        name = os.fsencode(file).decode(errors="backslashreplace")
        errors.print(f"[yellow]{what}[/yellow] {escape(name)}: {escape(reason)}")
    if told:
        more = f" ({len(told) - 20} of them not listed)" if len(told) > 20 else ""
        counts = (
            f"{len(folder)} images and videos in use, {len(folder.unreadable)} files skipped, "
            f"{len(folder.cut_short)} videos cut short{more}"
        )
        if strict:
            raise UserError(f"backgrounds '{backgrounds}': {counts}; --strict allows none")
        errors.print(f"backgrounds: {counts}")
    return Sources(objects, folder)


@app.command("generate")
def generate_command(
    recipe: RecipeArgument,
    bank: BankOption,
    out: Annotated[Path, typer.Option("--out", help="Folder of the corpus; an unfinished one is continued.")],
    num_clips: Annotated[int, typer.Option("--num-clips", min=1)],
    seed: Annotated[int, typer.Option("--seed", min=0)],
    overrides: OverridesArgument = None,
    backgrounds: BackgroundsOption = None,
    strict: StrictOption = False,
    size: Annotated[
        str | None, typer.Option("--size", metavar="HxW", help="Same aspect as the recipe's.")
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1)] = None,
    media: Annotated[
        str, typer.Option("--media", help="h264, or without loss ffv1, png, webp, npz.")
    ] = "h264",
    quality: Annotated[int, typer.Option("--quality", help="Of H.264, 0 (best) to 51.")] = 18,
    layout: Annotated[
        str, typer.Option("--layout", help="folder: one per kind; shards: tars of the WebDataset layout.")
    ] = "folder",
    clips_per_shard: Annotated[int, typer.Option("--clips-per-shard", min=1)] = 1000,
    labels: CorpusLabelsOption = "",
    export_formats: Annotated[
        str, typer.Option("--export", metavar="A,B", help="Formats to export to, too, below OUT-exports/.")
    ] = "",
    shard_index: Annotated[
        int | None, typer.Option("--shard-index", min=0, help="Which part of --num-shards to write.")
    ] = None,
    num_shards: Annotated[
        int | None,
        typer.Option(
            "--num-shards",
            min=1,
            help="Write one of so many parts, each to an --out of its own; 'corpus merge' joins them.",
        ),
    ] = None,
    workers: WorkersOption = None,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray", metavar="auto|HOST:PORT", help="Work on a Ray cluster whose machines share the folders."
        ),
    ] = None,
) -> None:
    """Write a labelled corpus: media, labels, scenes and a manifest; run again, it continues."""
    from smile_synth.corpus import generate
    from smile_synth.exporters import check_format, export
    from smile_synth.recipe import Recipe

    formats = _names(export_formats) or []
    for name in formats:
        check_format(name)

    loaded = Recipe.load(recipe, overrides or [])
    size_hw = parse_size(size)
    sources = open_sources(bank, backgrounds, strict)
    if shard_index is not None and num_shards is None:
        raise UserError("shard-index: give --num-shards, too")
    part = None if num_shards is None else (shard_index or 0, num_shards)
    with clip_progress("writing") as progress:
        summary = generate(
            loaded, sources, out=out, num_clips=num_clips, seed=seed, size_hw=size_hw, fps=fps,
            media=media, quality=quality, layout=layout, clips_per_shard=clips_per_shard,
            labels=_names(labels) or (), part=part, workers=workers or cores(), ray=ray, progress=progress,
        )  # fmt: skip
    console.print(
        f"{summary.num_clips} clips in {out} ({summary.written} written now), "
        f"{summary.num_bytes / 1e6:.1f} MB of media"
    )
    for name in formats:
        folder = out.with_name(f"{out.name}-exports") / name
        if folder.exists() and not summary.written:
            continue
        with progress_bar(f"exporting {name}", "clips") as progress_of_export:
            export(
                out, name, folder, sources=sources, workers=workers or cores(),
                progress=progress_of_export,
            )  # fmt: skip
        console.print(f"{out} as {name} in {folder}")


@app.command("export")
def export_command(
    corpus_path: CorpusArgument,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="frames, coco (also COCO-VID), youtube-vis, davis, mot, mots, tapvid, tapvid-kubric, flo, "
            "kitti-flow, flow-npz or native.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="A new folder.")],
    bank: OptionalBankOption = None,
    backgrounds: BackgroundsOption = None,
    step: Annotated[int, typer.Option("--step", help="Flow leads from frame t to t + step.")] = 1,
    points: Annotated[int, typer.Option("--points", min=1, help="Query points a clip.")] = 256,
    workers: WorkersOption = None,
) -> None:
    """Write a corpus in a format that other tools read; flow and points need the --bank it was made from."""
    from smile_synth.exporters import check_format, export

    check_format(format_name)
    sources = open_sources(bank, backgrounds, False) if bank else None
    with progress_bar("exporting", "clips") as progress:
        export(
            corpus_path, format_name, out, sources=sources, step=step, points=points,
            workers=workers or cores(), progress=progress,
        )  # fmt: skip
    console.print(f"{corpus_path} as {format_name} in {out}")


@contextmanager
def clip_progress(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """Show progress over clips with the size of their media."""
    with progress_bar(what, "clips") as progress:
        yield lambda done, total, size: progress(done, total, remark=f"{size / 1e9:.2f} GB")


@corpus_app.command("info")
def corpus_info(corpus_path: CorpusArgument) -> None:
    """Show what a corpus holds."""
    from smile_synth.corpus import Corpus

    corpus = Corpus(corpus_path)
    header = corpus.header
    kinds = ", ".join(("objects", *header.labels))
    console.print(
        f"{len(corpus)} clips of {header.num_frames}x{header.size_hw[0]}x{header.size_hw[1]}, "
        f"{header.media}, layout {header.layout}, labels: {kinds}, seed {header.seed}"
    )
    for source, names in header.licences.items():
        for name, count in names.items():
            console.print(f"licence of {count} {source}: {escape(name)}")


@corpus_app.command("verify")
def corpus_verify(
    corpus_path: CorpusArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Compare all content with the manifest.")] = False,
    rerender: Annotated[
        bool, typer.Option("--rerender", help="Make everything again from the scenes; needs --bank.")
    ] = False,
    bank: OptionalBankOption = None,
    backgrounds: BackgroundsOption = None,
    workers: WorkersOption = None,
) -> None:
    """Find every missing, cut, altered or stray file; exit code 1 if there is any."""
    from smile_synth.corpus import Corpus, verify

    if rerender and bank is None:
        raise UserError("rerender: needs the sources that the corpus was made from: --bank")
    sources = open_sources(bank, backgrounds, False) if rerender and bank else None
    with progress_bar("checking", "clips") as progress:
        faults = verify(
            corpus_path, deep=deep, sources=sources, workers=workers or cores(),
            progress=progress,
        )  # fmt: skip
    for fault in faults:
        errors.print(f"[red]fault[/red]: {escape(str(fault))}")
    if faults:
        raise typer.Exit(1)
    console.print(f"{len(Corpus(corpus_path))} clips, all as they were written")


@corpus_app.command("repair")
def corpus_repair(
    corpus_path: CorpusArgument,
    bank: BankOption,
    backgrounds: BackgroundsOption = None,
    workers: WorkersOption = None,
) -> None:
    """Make missing, cut and altered files again, and nothing else; exit code 1 if any cannot be."""
    from smile_synth.corpus import repair

    sources = open_sources(bank, backgrounds, False)
    with progress_bar("mending", "clips") as progress:
        report = repair(corpus_path, sources, workers=workers or cores(), progress=progress)
    for fault in report.mended:
        console.print(f"mended: {escape(str(fault))}")
    for fault in report.left:
        errors.print(f"[red]left[/red]: {escape(str(fault))}")
    console.print(f"{len(report.mended)} faults mended, {len(report.left)} left")
    if report.left:
        raise typer.Exit(1)


@corpus_app.command("regenerate")
def corpus_regenerate(
    corpus_path: CorpusArgument,
    bank: BankOption,
    index: Annotated[int, typer.Option("--index", help="Of the clip.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for its files.")],
    backgrounds: BackgroundsOption = None,
) -> None:
    """Make all files of one clip again and say whether they are bit for bit the same."""
    from smile_synth.corpus import regenerate

    sources = open_sources(bank, backgrounds, False)
    for file, same in regenerate(corpus_path, index, sources, out=out).items():
        console.print(f"{escape(str(out / file))}: {'the same bytes' if same else 'OTHER bytes'}")


@corpus_app.command("extend")
def corpus_extend(
    corpus_path: CorpusArgument,
    bank: BankOption,
    labels: CorpusLabelsOption,
    backgrounds: BackgroundsOption = None,
    workers: WorkersOption = None,
) -> None:
    """Add label kinds to a corpus without new media."""
    from smile_synth.corpus import extend

    sources = open_sources(bank, backgrounds, False)
    with clip_progress("adding") as progress:
        summary = extend(
            corpus_path, _names(labels) or (), sources, workers=workers or cores(), progress=progress
        )
    console.print(f"{summary.num_clips} clips in {corpus_path} ({summary.written} extended now)")


@corpus_app.command("merge")
def corpus_merge(
    parts: Annotated[list[Path], typer.Argument(metavar="PART...", help="All parts of one corpus.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the whole corpus.")],
) -> None:
    """Put the parts of a corpus together, as one process would have written it."""
    from smile_synth.corpus import merge

    with progress_bar("merging", "clips") as progress:
        summary = merge(parts, out, progress=progress)
    console.print(f"{summary.num_clips} clips in {out}")


@app.command("preview")
def preview_command(
    recipe: RecipeArgument,
    bank: BankOption,
    out: Annotated[Path, typer.Option("--out", help="Contact sheet, a .png file.")],
    overrides: OverridesArgument = None,
    backgrounds: BackgroundsOption = None,
    strict: StrictOption = False,
    num_clips: Annotated[int, typer.Option("--num-clips", min=1)] = 6,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Draw masks, boxes and trails.")
    ] = True,
    curves: Annotated[
        Path | None, typer.Option("--curves", help="Ways, speeds, sizes, ... over time, a .png file.")
    ] = None,
    animation: Annotated[
        Path | None, typer.Option("--animation", help="The clips side by side, a .gif or .mp4 file.")
    ] = None,
) -> None:
    """Draw a recipe's first clips: a contact sheet, curves over time, an animation."""
    from smile_synth.recipe import Recipe
    from smile_synth.sampling import sample_scenes
    from smile_synth.stream import SyntheticClips
    from smile_synth.visualize import contact_sheet, draw_labels, film_strip, motion_curves

    for name, path, suffixes in (
        ("out", out, (".png",)), ("curves", curves, (".png",)), ("animation", animation, (".gif", ".mp4")),
    ):  # fmt: skip
        if path is not None and path.suffix.lower() not in suffixes:
            raise UserError(f"{name} '{path}': expected a {' or '.join(suffixes)} file")
    loaded = Recipe.load(recipe, overrides or [])
    sources = open_sources(bank, backgrounds, strict)
    scenes = sample_scenes(loaded, sources, seed=seed, indices=range(num_clips))
    clips = SyntheticClips(loaded, sources, seed=seed, num_clips=num_clips)
    drawn = [clips[i] for i in range(num_clips)]
    frames = [draw_labels(clip) if labels else clip.frames for clip in drawn]
    save_image(out, contact_sheet([film_strip(each) for each in frames], columns=1, gap=0))
    written = [out]
    if curves is not None:
        save_image(curves, motion_curves(scenes, drawn))
        written.append(curves)
    if animation is not None:
        columns = -(-num_clips // (1 if num_clips < 3 else 2))
        sheets = [
            contact_sheet([each[t] for each in frames], columns=columns) for t in range(loaded.num_frames)
        ]
        save_animation(animation, sheets, loaded.fps)
        written.append(animation)
    console.print(f"{num_clips} clips in {', '.join(map(str, written))}")
    tell_targets(scenes)


def tell_targets(scenes: Any) -> None:
    """Say how many clips of those with an occlusion target missed it."""
    wanted = [scene.factors["occlusion.reached"] for scene in scenes if "occlusion.reached" in scene.factors]
    missed = wanted.count(0.0)
    if missed:
        errors.print(f"[yellow]occlusion[/yellow]: {missed} of {len(wanted)} clips missed their target")


def save_animation(path: Path, sheets: list[Any], fps: float) -> None:
    """Write images of one size as a .gif or .mp4.

    Raises:
        UserError: the place cannot be written.
    """
    import numpy as np

    from smile_synth.corpus import write_mp4

    height, width = (side - side % 2 for side in sheets[0].shape[:2])  # an mp4 needs even sides
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".mp4":
            write_mp4(path, np.stack(sheets)[:, :height, :width], fps)
        else:
            first, *rest = [Image.fromarray(sheet).quantize(128) for sheet in sheets]
            first.save(path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    except OSError as error:
        raise UserError(f"animation '{path}': cannot be written: {error.strerror or error}") from None


def check_png(path: Path) -> None:
    """Refuse another kind of file before any work is done.

    Raises:
        UserError: the name does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"out '{path}': expected a .png file")


def save_image(path: Path, picture: Any) -> None:
    """Write an image, making its folder.

    Raises:
        UserError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise UserError(f"out '{path}': cannot be written: {error.strerror or error}") from None


@app.command("atlas")
def atlas_command(
    out: Annotated[Path, typer.Option("--out", help="A .png file.")] = Path("atlas.png"),
) -> None:
    """Draw every motion family, curve, relation and camera move in one image."""
    from smile_synth.visualize import atlas

    if out.suffix.lower() != ".png":
        raise UserError(f"out '{out}': expected a .png file")
    save_image(out, atlas())
    console.print(f"the atlas in {out}")


@recipes_app.command("list")
def recipes_list() -> None:
    """List the presets with what they are."""
    from smile_synth.recipe import presets

    table = Table("preset", "what it is", box=None, pad_edge=False)
    for name, told in presets().items():
        table.add_row(name, escape(told))
    console.print(table)


@recipes_app.command("gallery")
def recipes_gallery(
    bank: BankOption,
    out: Annotated[Path, typer.Option("--out", help="A .html file.")] = Path("gallery.html"),
    backgrounds: BackgroundsOption = None,
    strict: StrictOption = False,
    num_clips: Annotated[int, typer.Option("--num-clips", min=1, help="Of each preset.")] = 2,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes; all cores.")] = None,
) -> None:
    """Lay out every preset as playing clips, on one page."""
    from smile_synth.recipe import presets
    from smile_synth.visualize import make_gallery

    check_suffix(out, ".html")
    sources = open_sources(bank, backgrounds, strict)
    with progress_bar("drawing", "presets") as progress:
        page, missing = make_gallery(
            presets(), sources, num_clips=num_clips, seed=seed,
            workers=workers or os.cpu_count() or 1, progress=progress,
        )  # fmt: skip
    save_text(out, page)
    for name, why in missing.items():
        errors.print(f"[yellow]not drawn[/yellow] {escape(name)}: {escape(why)}")
    console.print(f"{len(presets()) - len(missing)} presets in {out} ({len(page) / 1e6:.1f} MB)")


@recipes_app.command("show")
def recipes_show(recipe: RecipeArgument, overrides: OverridesArgument = None) -> None:
    """Print a recipe as it is read, every value written out."""
    from smile_synth.recipe import Recipe

    console.print(Recipe.load(recipe, overrides or []).to_yaml(), end="", highlight=False, markup=False)


@recipes_app.command("diff")
def recipes_diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A preset's name or the path of a YAML file.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Show every key in which two recipes differ."""
    from smile_synth.recipe import Recipe, differences

    found = differences(Recipe.load(first), Recipe.load(second))
    if not found:
        console.print("no difference")
        return
    table = Table("key", escape(first), escape(second))
    for key, a, b in found:
        table.add_row(escape(key), escape(a), escape(b))
    console.print(table)


@recipes_app.command("check")
def recipes_check(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    bank: Annotated[
        Path | None,
        typer.Option("--bank", help="Check classes and splits against this bank, and draw clips."),
    ] = None,
    backgrounds: BackgroundsOption = None,
    strict: StrictOption = False,
    num_clips: Annotated[int, typer.Option("--num-clips", min=1, help="Drawn with a bank.")] = 100,
) -> None:
    """Tell a recipe's mistakes, with file, line and key; with a bank, whether targets are reached."""
    from smile_synth.recipe import Recipe, check_classes
    from smile_synth.sampling import sample_scenes

    loaded = Recipe.load(recipe, overrides or [])
    if bank is not None:
        sources = open_sources(bank, backgrounds, strict)
        check_classes(loaded, sources.objects, recipe)
        scenes = sample_scenes(loaded, sources, seed=0, indices=range(num_clips))
        tell_targets(scenes)
    console.print(f"{escape(recipe)} is sound, digest {loaded.digest[:16]}")


@recipes_app.command("schema")
def recipes_schema(
    out: Annotated[Path | None, typer.Option("--out", help="A .json file; left out, it is printed.")] = None,
) -> None:
    """Write the JSON schema of recipes, for editors that complete and check YAML."""
    import json

    from smile_synth.recipe import recipe_schema

    text = json.dumps(recipe_schema(), indent=1) + "\n"
    if out is None:
        console.print(text, end="", highlight=False, markup=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"out '{out}': cannot be written: {error.strerror or error}") from None
    console.print(f"schema in {out}")


SourceArgument = Annotated[
    str, typer.Argument(metavar="CORPUS|RECIPE", help="A corpus folder, or a preset's name or YAML file.")
]
MaybeBankOption = Annotated[
    Path | None, typer.Option("--bank", help="Object bank: a recipe's; of a corpus, to tell the licences.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of a recipe's clips.")]
LookWorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes; all cores unless given.")
]


def open_source(
    source: str,
    overrides: list[str],
    bank: Path | None,
    backgrounds: Path | None,
    *,
    seed: int,
    num_clips: int,
    strict: bool = False,
) -> Any:
    """Open a corpus folder, or a recipe's first clips.

    Raises:
        UserError: neither of the two, or a recipe without a bank.
    """
    from smile_synth.recipe import Recipe
    from smile_synth.visualize import RecipeSource, open_corpus

    if Path(source).is_dir():
        if overrides:
            raise UserError(f"'{overrides[0]}': a corpus is as it was written; overrides are for recipes")
        sources = open_sources(bank, backgrounds, strict) if bank else None
        return open_corpus(Path(source), sources=sources)
    recipe = Recipe.load(source, overrides)
    if bank is None:
        raise UserError(f"recipe '{source}': needs an object bank (--bank DIR)")
    sources = open_sources(bank, backgrounds, strict)
    return RecipeSource(source, recipe, sources, seed, num_clips, tuple(overrides))


def check_suffix(path: Path, *suffixes: str) -> None:
    """Refuse another kind of file before any work is done.

    Raises:
        UserError: the name ends otherwise.
    """
    if path.suffix.lower() not in suffixes:
        raise UserError(f"out '{path}': expected a {' or '.join(suffixes)} file")


def save_text(path: Path, text: str) -> None:
    """Write a page, making its folder.

    Raises:
        UserError: the place cannot be written.
    """
    from smile_synth.corpus import write_bytes

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())
    except OSError as error:
        raise UserError(f"out '{path}': cannot be written: {error.strerror or error}") from None


@app.command("report")
def report_command(
    source: SourceArgument,
    out: Annotated[Path, typer.Option("--out", help="A .html file.")],
    overrides: OverridesArgument = None,
    bank: MaybeBankOption = None,
    backgrounds: BackgroundsOption = None,
    strict: StrictOption = False,
    num_clips: Annotated[
        int | None,
        typer.Option("--num-clips", min=1, help="A recipe's clips (60), or a corpus's in the grid (500)."),
    ] = None,
    seed: SeedOption = 0,
    workers: LookWorkersOption = None,
) -> None:
    """Lay out a corpus or a recipe as one page: clips that play, labels, statistics, health."""
    from smile_synth.visualize import make_report

    check_suffix(out, ".html")
    opened = open_source(
        source, overrides or [], bank, backgrounds, seed=seed, num_clips=num_clips or 60, strict=strict
    )
    with progress_bar("looking at", "clips") as progress:
        report = make_report(
            opened, num_shown=num_clips or 500, workers=workers or os.cpu_count() or 1, progress=progress
        )
    save_text(out, report.html)
    print_findings(report.findings)
    playing = f"{report.num_films} of them playing"
    console.print(f"{len(report.clips)} clips, {playing}, in {out} ({len(report.html) / 1e6:.1f} MB)")


@app.command("compare")
def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A corpus folder, or a recipe.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    out: Annotated[Path, typer.Option("--out", help="A .html file.")],
    bank: MaybeBankOption = None,
    backgrounds: BackgroundsOption = None,
    num_clips: Annotated[int, typer.Option("--num-clips", min=1, help="Of a recipe.")] = 60,
    seed: SeedOption = 0,
    workers: LookWorkersOption = None,
) -> None:
    """Lay two corpora or recipes side by side: keys that differ, distributions overlaid."""
    from smile_synth.visualize import make_comparison

    check_suffix(out, ".html")
    # The bank is a recipe's; a corpus has its own, and only licences would need it.
    sources = [
        open_source(
            name, [], None if Path(name).is_dir() else bank, backgrounds, seed=seed, num_clips=num_clips
        )
        for name in (first, second)
    ]
    with progress_bar("looking at", "clips") as progress:
        page = make_comparison(*sources, workers=workers or os.cpu_count() or 1, progress=progress)
    save_text(out, page)
    console.print(f"{first} and {second} in {out} ({len(page) / 1e6:.1f} MB)")


def print_findings(findings: Sequence[Any]) -> None:
    """Print the health section of a report."""
    for finding in findings:
        color = {"error": "red", "warning": "yellow", "note": "cyan"}[finding.severity]
        console.print(f"[{color}]{finding.severity}[/{color}] {finding.kind}: {escape(finding.text)}")


@app.command("view")
def view_command(
    source: SourceArgument,
    index: Annotated[int, typer.Option("--index", min=0, help="Which clip.")],
    out: Annotated[
        Path, typer.Option("--out", help="A .mp4, .gif or .png file; a .png is a strip of frames.")
    ],
    overrides: OverridesArgument = None,
    overlays: Annotated[
        str,
        typer.Option(
            "--overlay",
            help="Some of boxes, amodal-boxes, modal, amodal, tracks, flow, arrows, names, by commas.",
        ),
    ] = "",
    scale: Annotated[
        int | None,
        typer.Option("--scale", min=1, help="Enlarge by it; with overlays until a side has 224 pixels."),
    ] = None,
    bank: MaybeBankOption = None,
    backgrounds: BackgroundsOption = None,
    seed: SeedOption = 0,
    size: Annotated[
        str | None, typer.Option("--size", metavar="HxW", help="Of a recipe's clip; the recipe's aspect.")
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1, help="Of the film.")] = None,
) -> None:
    """Write one clip as a film or a strip, with its labels drawn over it."""
    from dataclasses import replace

    from smile_synth.visualize import check_overlays, overlay, save_clip

    check_suffix(out, ".mp4", ".gif", ".png")
    chosen = _names(overlays) or []
    check_overlays(chosen)
    opened = open_source(source, overrides or [], bank, backgrounds, seed=seed, num_clips=index + 1)
    size_hw = parse_size(size)
    if size_hw is not None:
        if Path(source).is_dir():
            raise UserError("size: a corpus is as it was written; --size is for recipes")
        opened = replace(opened, size_hw=size_hw)
    if index not in opened.indices:
        raise UserError(f"index {index}: '{source}' has {len(opened.indices)} clips, no such one")
    sample = opened.read(index)
    for fault in sample.faults:
        errors.print(f"[yellow]{fault.kind}[/yellow] {escape(fault.text)}")
    if sample.frames is None or (chosen and sample.clip is None):
        what = "frames" if sample.frames is None else "labels"
        raise UserError(f"clip {index} of '{source}': its {what} cannot be read")
    frames = (
        overlay(sample.clip, chosen, scale=scale if scale or chosen else 1) if sample.clip else sample.frames
    )
    save_clip(out, frames, fps or sample.fps)
    console.print(f"clip {index} in {out}")


if __name__ == "__main__":
    main()
