"""smile-synth bank ..."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer import Argument, Option

from smile_synth.cli import _options as options
from smile_synth.cli._options import split_names
from smile_synth.cli._output import bar, check_suffix, console, errors, print_labelled, resumable, save_png
from smile_synth.cli._progress import progress_bar
from smile_synth.core.errors import UserError

if TYPE_CHECKING:
    from smile_synth.objects import Rejected

bank_app = typer.Typer(help="Build, inspect and convert object banks.", no_args_is_help=True)

MIN_THICKNESS_HELP = (
    "Smallest allowed diameter of the largest circle inside the cut-out, as a share of its long side."
)
PYTHON_ARGUMENTS = (
    "crowd", "images", "format", "min_side", "min_thickness", "max_truncation", "max_covered",
    "min_largest_part", "duplicate_distance",
)  # fmt: skip
MIN_HINT_COUNT = 10  # rejected items
BankSeed = Annotated[int, Option("--seed", min=0, help="Seed of drawn objects and of the splits.")]


@bank_app.command("build")
def bank_build(
    sources: Annotated[
        list[str],
        Argument(
            metavar="SOURCE...",
            help="Folders or annotation files, whose format is detected automatically: COCO, LVIS, "
            "YouTube-VIS, SA-1B or LabelMe json, YOLO segmentation, VOC, DAVIS, YouTube-VOS, MOSE, "
            "images/ + masks/, cut-outs with alpha (class/n.png), plain images; "
            "or drawn:COUNT, builtin:shapes, builtin:photos.",
        ),
    ],
    out: Annotated[
        Path | None, Option("--out", help="Folder of the new bank; not needed with --dry-run.")
    ] = None,
    *,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print how sources are read and what a sample gives; write nothing.")
    ] = False,
    format_name: Annotated[
        str | None,
        Option(
            "--format",
            help="One of rgba, coco, youtube-vis, sa1b, labelme, yolo, voc, davis, pairs, images.",
        ),
    ] = None,
    images: Annotated[Path | None, Option(help="Folder of the images of annotation files.")] = None,
    crowd: Annotated[bool, Option("--crowd", help="Use COCO's crowd regions too.")] = False,
    max_side: Annotated[int, Option(min=8, help="Longest side of a cut-out in pixels.")] = 256,
    erode: Annotated[float, Option(min=0, help="Pixels removed along a cut-out's edge.")] = 0.0,
    feather: Annotated[float, Option(min=0, help="Pixels over which alpha rises at the edge.")] = 0.0,
    min_side: Annotated[int, Option(min=1, help="Shortest allowed side of a cut-out in pixels.")] = 16,
    min_thickness: Annotated[float, Option(min=0, max=1, help=MIN_THICKNESS_HELP)] = 0.05,
    max_truncation: Annotated[
        float, Option(min=0, max=1, help="Largest allowed share of the outline on the image's border.")
    ] = 0.05,
    max_covered: Annotated[
        float, Option(min=0, max=1, help="Largest allowed share of pixels that smaller objects contain too.")
    ] = 0.5,
    min_largest_part: Annotated[
        float, Option(min=0, max=1, help="Smallest allowed share of pixels in the largest connected part.")
    ] = 0.5,
    duplicates: options.Duplicates = 4,
    licence: Annotated[str, Option(help="Licence of sources that do not state one.")] = "",
    seed: BankSeed = 0,
    val: options.ValShare = 0.1,
    test: options.TestShare = 0.1,
    workers: options.Workers,
    overwrite: options.Overwrite = False,
) -> None:
    """Build an object bank from segmented objects. If stopped, run the same command again to resume."""
    from smile_synth.objects import CutOutOptions, build_bank

    if out is None and not dry_run:
        raise UserError("out: missing; expected the folder of the new bank, or --dry-run")
    cut = CutOutOptions(
        max_side=max_side, erode=erode, feather=feather, min_side=min_side, min_thickness=min_thickness,
        max_truncation=max_truncation, max_covered=max_covered, min_largest_part=min_largest_part,
        duplicate_distance=duplicates,
    )  # fmt: skip
    if out is None or dry_run:
        with _in_option_words():
            _print_preview(sources, seed=seed, cut=cut, format=format_name, images=images, crowd=crowd)
        return
    with resumable(), _in_option_words(), progress_bar("build bank", "images") as progress:
        report = build_bank(
            sources, out, seed=seed, cut=cut, format=format_name, images=images, crowd=crowd, licence=licence,
            val_fraction=val, test_fraction=test, overwrite=overwrite, workers=workers, progress=progress,
        )  # fmt: skip
    for source, format_found in zip(sources, report.formats, strict=True):
        _print_format(source, format_found)
    _print_rejected(report.rejected, report.notes, f", all in {out / 'report.json'}")
    kinds = Counter(item.kind for item in report.rejected)
    counts = ": " + _counts(kinds) if kinds else ""
    console.print(f"{report.num_objects} objects in {out}, {len(report.rejected)} rejected{counts}")


def _print_format(source: str, format_found: str) -> None:
    from smile_synth.objects import FORMATS

    if format_found in FORMATS:
        console.print(f"{source}: read as {format_found}")


def _print_rejected(rejected: Sequence[Rejected], notes: Sequence[str], where: str = "") -> None:
    """Print notes, the first rejected items, and the option that helps against a frequent reason."""
    from smile_synth.objects import HINTS

    for note in notes:
        print_labelled("note", note)
    for item in rejected[:10]:
        print_labelled("rejected", f"{item.source}: {item.reason}")
    if len(rejected) > 10:
        errors.print(f"... and {len(rejected) - 10} more{where}")
    for kind, count in Counter(item.kind for item in rejected).most_common(1):
        if kind in HINTS and count >= MIN_HINT_COUNT:
            print_labelled("hint", f"{count} rejected as {kind}: {_option_words(HINTS[kind])}")


def _print_preview(sources: Sequence[str], **how: Any) -> None:
    from smile_synth.objects import preview_sources

    for preview in preview_sources(sources, **how):
        _print_format(preview.given, preview.format)
        console.print(
            f"tried {preview.num_tried} of {preview.num_images} images: {preview.classes.total()} objects, "
            f"{len(preview.rejected)} rejected"
        )
        if preview.classes:
            console.print(_count_table("class", preview.classes.most_common(40)))
        _print_rejected(preview.rejected, preview.notes)


def _option_words(text: str) -> str:
    """Replace the Python arguments in a message by options: ``crowd=True`` by ``--crowd``."""

    def option(match: re.Match[str]) -> str:
        name = {"duplicate_distance": "duplicates"}.get(match[1], match[1].replace("_", "-"))
        return f"--{name}" + (" " if match[3] and not match[2] else "")

    return re.sub(rf"\b({'|'.join(PYTHON_ARGUMENTS)})=(True\b)?(?=(\S?))", option, text)


@contextmanager
def _in_option_words() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise type(error)(_option_words(str(error))) from error


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


@bank_app.command("info")
def bank_info(
    bank_path: options.BankFolder,
    num_classes: Annotated[
        int, Option("--top", min=1, help="Number of the most frequent classes shown.")
    ] = 40,
) -> None:
    """Print a bank's classes, sizes, licences and sources."""
    from smile_synth.objects import ObjectBank, read_header

    bank = ObjectBank.open(bank_path)
    splits = bank.index["split"].to_pylist()
    table = Table("class", "objects", "", "median size (h x w)", "train / val / test", title=str(bank_path))
    classes = Counter(bank.class_ids.tolist()).most_common()
    for class_id, count in classes[:num_classes]:
        ids = (bank.class_ids == class_id).nonzero()[0]
        middle = len(ids) // 2
        height, width = sorted(bank.heights[ids])[middle], sorted(bank.widths[ids])[middle]
        of_split = Counter(splits[i] for i in ids)
        table.add_row(
            bank.class_names[class_id], str(count), bar(count, classes[0][1]), f"{height} x {width}",
            " / ".join(str(of_split[split]) for split in ("train", "val", "test")),
        )  # fmt: skip
    if len(classes) > num_classes:
        rest = sum(count for _, count in classes[num_classes:])
        table.add_row(f"{len(classes) - num_classes} more", str(rest))
    console.print(table)
    longest = [max(size) for size in zip(bank.heights.tolist(), bank.widths.tolist(), strict=True)]
    console.print(_size_table(longest, (16, 32, 64, 96, 128, 192, 256, 512)))
    licences = Counter(name or "not recorded" for name in bank.index["licence"].to_pylist())
    console.print(_count_table("licence", licences.most_common(20)))
    for source in read_header(Path(bank.path))["sources"]:
        rejected = _counts(Counter(source["num_rejected"]))
        console.print(
            f"from {source['given']} ({source['format']}): {source['num_objects']} objects"
            + (f"; rejected: {rejected}" if rejected else "")
        )
    console.print(f"{len(bank)} objects in {len(bank.class_names)} classes, digest {bank.digest[:16]}")


def _size_table(sides: list[int], bounds: tuple[int, ...]) -> Table:
    """Count the sides between the bounds, upper bounds included."""
    counts = Counter(next((f"up to {bound}" for bound in bounds if side <= bound), "more") for side in sides)
    names = [*(f"up to {bound}" for bound in bounds), "more"]
    return _count_table("long side, pixels", [(name, counts[name]) for name in names if counts[name]])


def _count_table(title: str, counts: Sequence[tuple[str, int]]) -> Table:
    table = Table(title, "objects", "")
    most = max(count for _, count in counts)
    for name, count in counts:
        table.add_row(name, str(count), bar(count, most))
    return table


@bank_app.command("show")
def bank_show(
    bank_path: options.BankFolder,
    out: options.PngFile,
    classes: options.Classes = "",
    split: options.Split = None,
    count: Annotated[int, Option(min=1, help="Number of objects, evenly spaced.")] = 64,
    side: Annotated[int, Option(min=16, help="Side of a cell in pixels.")] = 128,
    background: Annotated[str, Option(help="white, black, R,G,B (each 0..255) or an image file.")] = "white",
) -> None:
    """Draw a contact sheet of a bank's objects."""
    from smile_synth.objects import ObjectBank
    from smile_synth.visualize import object_sheet

    check_suffix(out, ".png")
    bank = ObjectBank.open(bank_path)
    ids = bank.select(split=split, classes=split_names(classes) or None)
    if len(ids) > count:
        ids = ids[[i * len(ids) // count for i in range(count)]]
    save_png(out, object_sheet(bank, ids, background=_parse_background(background), side=side))
    console.print(f"{len(ids)} objects in {out}")


def _parse_background(text: str) -> Any:
    """Return a colour (R, G, B) or an image ``[H, W, 3]`` uint8."""
    from smile_synth.io.images import Reject, load_rgb

    parts = {"white": "255,255,255", "black": "0,0,0"}.get(text, text).split(",")
    if len(parts) == 3 and all(part.isdecimal() and int(part) < 256 for part in parts):
        return tuple(int(part) for part in parts)
    try:
        return load_rgb(Path(text).read_bytes())
    except (OSError, Reject):
        raise UserError(
            f"background '{text}': expected white, black, R,G,B (each 0..255) or an image file"
        ) from None


@bank_app.command("merge")
def bank_merge(
    bank_paths: Annotated[list[Path], Argument(metavar="BANK...", help="Folders of object banks.")],
    out: options.NewBank,
    resplit: Annotated[bool, Option("--resplit", help="Draw new splits for all objects.")] = False,
    seed: BankSeed = 0,
    val: options.ValShare = 0.1,
    test: options.TestShare = 0.1,
    duplicates: options.Duplicates = 4,
    overwrite: options.Overwrite = False,
) -> None:
    """Merge banks into one and skip near-duplicates of an earlier bank's objects."""
    from smile_synth.objects import ObjectBank, merge_banks

    banks = [ObjectBank.open(path) for path in bank_paths]
    with progress_bar("merge banks", "objects") as progress:
        _, kept, dropped = merge_banks(
            banks, out, resplit=resplit, seed=seed, val_fraction=val, test_fraction=test,
            duplicate_distance=duplicates, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    console.print(f"{kept} objects in {out}, {dropped} near-duplicates skipped")


@bank_app.command("verify")
def bank_verify(bank_path: options.BankFolder) -> None:
    """Read every pixel of a bank and compare it with the index."""
    from smile_synth.objects import ObjectBank

    bank = ObjectBank.open(bank_path)
    with progress_bar("verify bank", "objects") as progress:
        bank.verify(progress)
    console.print(f"{len(bank)} objects, all unchanged; digest {bank.digest[:16]}")


@bank_app.command("export")
def bank_export(
    bank_path: options.BankFolder,
    out: options.NewFolder,
    classes: options.Classes = "",
    split: options.Split = None,
) -> None:
    """Write a bank's objects as class/number.png with alpha, and an index.csv."""
    from smile_synth.objects import ObjectBank, export_bank

    bank = ObjectBank.open(bank_path)
    ids = bank.select(split=split, classes=split_names(classes) or None)
    with progress_bar("export bank", "objects") as progress:
        count = export_bank(bank, out, ids, progress=progress)
    console.print(f"{count} objects in {out}")
