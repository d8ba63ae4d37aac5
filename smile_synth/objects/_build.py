"""Build a bank: read sources, prepare every cut-out on all cores, write the folder whole or not at all.

An unfinished bank also contains a journal with one line per batch of items. A build that was killed
truncates the texels to the last complete line and continues from there. Batches are written in order, so the
bytes do not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from smile_synth.core.errors import UserError, counted
from smile_synth.core.rng import MAX_SEED
from smile_synth.core.texture import Texture, level_sizes_hw
from smile_synth.io.atomic import write_errors_for
from smile_synth.io.images import Reject
from smile_synth.objects._bank import FORMAT_VERSION, TEXELS, ObjectInfo
from smile_synth.objects._cut_out import CutOutOptions, prepare
from smile_synth.objects._duplicates import Fingerprint, fingerprint_of
from smile_synth.objects._item import SCALED, CutOut, Item, ReadOptions, Rejected
from smile_synth.objects._writer import (
    BankWriter,
    check_out,
    publish,
    remove_files,
    unfinished_folder,
)
from smile_synth.objects.readers import list_items
from smile_synth.parallel.workers import map_in_order

# Number of items in one task, which is also one line of the journal.
BATCH_SIZE = 16
JOURNAL, PLAN = "journal.jsonl", "plan.json"
# What helps against a reason to reject objects, in the words of `build_bank` and `CutOutOptions`.
HINTS = {
    "crowd region": "crowd=True uses crowd regions, as which CVAT writes brush masks",
    "no segmentation": "boxes without outlines cannot be cut out",
    "not an outline": "boxes, points and lines cannot be cut out",
    "too small": "min_side= is the least side",
    "too thin": "min_thickness= is the least thickness",
    "truncated by the image's border": "max_truncation= is the largest share",
    "mostly covered": "max_covered= is the largest share",
    "in pieces": "min_largest_part= is the least share",
    "near-duplicate": "duplicate_distance=-1 keeps all",
    "missing file": "images= is the folder of the images",
}


@dataclass(frozen=True)
class BuildReport:
    """The result of a build.

    Attributes:
        path: the bank's folder, absolute.
        digest: digest of the bank.
        num_objects: objects in the bank.
        formats: format of each source, in order.
        rejected: every rejected item.
        notes: assumptions that the readers made about the sources, one line each.
    """

    path: str
    digest: str
    num_objects: int
    formats: tuple[str, ...]
    rejected: tuple[Rejected, ...] = field(repr=False)
    notes: tuple[str, ...] = ()


class Source(NamedTuple):
    """A source as the caller named it, its format, and its items."""

    given: str
    format: str
    items: Sequence[Item]


class NewObject(NamedTuple):
    """An object from a worker process; its row lacks number, offset and split."""

    row: ObjectInfo
    texels: bytes
    fingerprint: Fingerprint


@dataclass(frozen=True)
class SplitRule:
    """The rule that assigns images to splits: a function of the image's key alone."""

    seed: int
    val_fraction: float
    test_fraction: float

    def check(self) -> None:
        """Check the range of every value.

        Raises:
            UserError: a value is out of its range.
        """
        if not 0 <= self.seed <= MAX_SEED:
            raise UserError(f"seed must be in 0..2^63-1, got {self.seed}")
        val, test = self.val_fraction, self.test_fraction
        if not (val >= 0 and test >= 0 and val + test <= 1):
            raise UserError(
                "val_fraction and test_fraction must be at least 0 and together at most 1, "
                f"got {val} and {test}"
            )

    def split_of(self, image_key: str) -> str:
        """Return ``train``, ``val`` or ``test``."""
        bits = hashlib.sha256(f"{self.seed}/{image_key}".encode()).digest()[:6]
        share = int.from_bytes(bits, "big") / 2**48
        if share < self.val_fraction:
            return "val"
        return "test" if share < self.val_fraction + self.test_fraction else "train"


def build_bank(
    sources: Sequence[str | Path] | str | Path,
    out: str | Path,
    *,
    seed: int = 0,
    cut: CutOutOptions | None = None,
    format: str | None = None,
    images: Path | None = None,
    crowd: bool = False,
    licence: str = "",
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    overwrite: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> BuildReport:
    """Build an object bank; the same sources and options give the same bytes.

    A stopped build continues where it ended when it is called again with the same arguments. Unusable
    items are rejected and listed in the report and in ``report.json``.

    Args:
        sources: paths in any of the formats of ``FORMATS``, or ``builtin:shapes``, ``builtin:photos``,
            ``drawn:COUNT``.
        out: the bank's folder; appears whole or not at all.
        seed: seed of the split and of drawn shapes.
        cut: how cut-outs are prepared and filtered.
        format: format of all sources that are paths; None: each source's format is detected.
        images: folder that the file names of an annotation file are relative to; None: search for it.
        crowd: also use COCO's crowd regions.
        licence: licence of images whose source does not state one.
        val_fraction: share 0..1 of source images for validation; a hash decides which ones.
        test_fraction: the same for testing; the rest is for training.
        overwrite: replace an existing bank at ``out``.
        workers: number of processes; the bytes do not depend on it.
        progress: called with (items done, items in total).

    Raises:
        UserError: no sources, an unknown, missing or empty one or one without a usable cut-out, an option
            out of its range, ``out`` exists and is not a bank to be overwritten, or the disk is full.

    Example:
        >>> build_bank("drawn:3", "drawn.bank").num_objects
        3
    """
    out = Path(out).resolve()
    cut, split = cut or CutOutOptions(), SplitRule(seed, val_fraction, test_fraction)
    cut.check()
    split.check()
    if workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    check_out(out, overwrite)
    named = [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    if not named:
        raise UserError("no object source given, expected folders, annotation files or builtin:shapes")
    read = ReadOptions(seed, images, crowd)
    listed = [Source(given, *list_items(given, format, read)) for given in named]
    formats = tuple(source.format for source in listed)
    options = {"cut": cut, "read": read, "split": split, "licence": licence, "formats": formats}
    with unfinished_folder(out) as part:
        with write_errors_for(out):
            _continue_or_clear(part, _plan(listed, options))
        with closing(Build(part, listed, cut.duplicate_distance, split, licence)) as build:
            build.run(cut, workers, progress)
            digest = build.finish()
        publish(part, out)
    scaled = Counter(json.loads(row.attributes).get(SCALED) for row in build.writer.rows)
    notes = [
        f"{counted(n, 'object')} from images of {text}, scaled to 8 bits"
        for text, n in scaled.items()
        if text
    ]
    return BuildReport(
        str(out), digest, len(build.writer.rows), formats, tuple(build.writer.rejected), (*read.notes, *notes)
    )


def _plan(sources: Sequence[Source], options: dict[str, object]) -> str:
    """Describe a build and all of its items; only a stopped build with the same plan is continued."""
    items = hashlib.sha256()
    stamp = cache(_stamp)  # many items share one annotation file
    for source in sources:
        items.update(f"{source.given}\0{stamp(Path(source.given))}\n".encode("utf-8", "surrogateescape"))
        for item in source.items:
            stamps = " ".join(map(stamp, item.files))
            items.update(f"{item.source}\0{stamps}\n".encode("utf-8", "surrogateescape"))
    plan = {"items": items.hexdigest(), "format_version": FORMAT_VERSION, **options}
    return json.dumps(plan, indent=1, default=str)


def _stamp(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns}"


def _continue_or_clear(part: Path, plan: str) -> None:
    """Remove the files of a stopped build unless it had the same plan."""
    path = part / PLAN
    if not path.is_file() or path.read_text("utf-8") != plan:
        remove_files(part)
        path.write_text(plan, "utf-8")


def make_objects(items: Iterable[Item], cut: CutOutOptions) -> list[NewObject | Rejected]:
    """Read items and prepare the objects in them, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        return [result for item in items for result in _objects_of(item, cut)]


def _objects_of(item: Item, cut: CutOutOptions) -> Iterator[NewObject | Rejected]:
    try:
        for found in item.cut():
            try:
                yield found if isinstance(found, Rejected) else _new_object(found, cut)
            except Reject as reason:
                yield Rejected(found.source, str(reason))
    except Reject as reason:
        yield Rejected(item.source, str(reason))


def _new_object(found: CutOut, cut: CutOutOptions) -> NewObject:
    prepared = prepare(found, cut)
    texture = Texture.from_straight_rgba(prepared.rgba)
    texels = texture.texels.tobytes()
    fingerprint = fingerprint_of(texture)
    row = ObjectInfo(
        object_id=-1,
        class_name=found.class_name,
        height=texture.height,
        width=texture.width,
        texel_offset=-1,
        source=found.source,
        source_image=found.source_image,
        image_key=found.image_key,
        annotation_id=found.annotation_id,
        licence=found.licence,
        split="",
        original_height=prepared.original_hw[0],
        original_width=prepared.original_hw[1],
        fill=round(prepared.fill, 4),
        thickness=round(prepared.thickness, 4),
        truncation=round(found.truncation, 4),
        covered=round(found.covered, 4),
        largest_part=round(prepared.largest_part, 4),
        perceptual_hash=f"{fingerprint.perceptual_hash:016x}",
        content_sha256=hashlib.sha256(texels).hexdigest(),
        attributes=json.dumps(dict(found.attributes), sort_keys=True, ensure_ascii=False),
    )
    return NewObject(row, texels, fingerprint)


def _all_rejected(rejected: Sequence[Rejected]) -> str:
    """Say why a source gives no object; name the option that helps if there is only one reason."""
    if not rejected:
        return "its images contain no objects"
    kinds = {item.kind for item in rejected}
    text = f"none of {len(rejected)} items is usable, first {rejected[0].source}: {rejected[0].reason}"
    hint = HINTS.get(rejected[0].kind) if len(kinds) == 1 else None
    return f"{text}; all have this reason: {hint}" if hint else text


class Build:
    """A bank that is being built, with a journal.

    Attributes:
        writer: the bank's files.
    """

    def __init__(
        self,
        part: Path,
        sources: Sequence[Source],
        duplicate_distance: int,
        split: SplitRule,
        licence: str,
    ) -> None:
        """Open the files in the folder ``part`` and read the journal of a stopped build."""
        self.writer = BankWriter(part, duplicate_distance)
        self._part, self._sources, self._split, self._licence = part, sources, split, licence
        self._num_objects = Counter[int]()  # by source
        self._batches_done = 0
        self._journal = (part / JOURNAL).open("a+b")
        self._read_journal()

    def _read_journal(self) -> None:
        """Restore the complete batches; after a power failure, texels of the last ones can be missing."""
        size = (self._part / TEXELS).stat().st_size
        complete, end, rows = 0, 0, self.writer.rows
        self._journal.seek(0)
        for line in self._journal:
            if not line.endswith(b"\n") or (entry := json.loads(line))["end"] > size:
                break
            rows += [ObjectInfo(**row) for row in entry["rows"]]
            self.writer.rejected += [Rejected(**item) for item in entry["rejected"]]
            self._num_objects[entry["source_number"]] += len(entry["rows"])
            self._batches_done += 1
            complete, end = complete + len(line), entry["end"]
        self._journal.truncate(complete)
        self.writer.truncate(end)
        texels = np.memmap(self._part / TEXELS, np.uint8, mode="r") if rows else np.empty(0, np.uint8)
        for row in rows:
            count = sum(h * w for h, w in level_sizes_hw(row.height, row.width))
            texture = Texture(texels.reshape(-1, 4)[row.texel_offset :][:count], row.height, row.width)
            self.writer.duplicates.add(fingerprint_of(texture), row.source)

    def run(self, cut: CutOutOptions, workers: int, progress: Callable[[int, int], None] | None) -> None:
        """Read and write all batches that are not in the journal."""
        batches = [
            (number, source.items[start : start + BATCH_SIZE])
            for number, source in enumerate(self._sources)
            for start in range(0, len(source.items), BATCH_SIZE)
        ]
        total = sum(len(items) for _, items in batches)
        done = sum(len(items) for _, items in batches[: self._batches_done])
        waiting = batches[self._batches_done :]
        if progress:
            progress(done, total)
        # Processes take a second to start, which is too long for a few images.
        processes = workers if len(waiting) >= 4 else 1
        work = partial(make_objects, cut=cut)
        results = map_in_order(work, [items for _, items in waiting], workers=processes)
        for (source_number, items), found in zip(waiting, results, strict=True):
            with write_errors_for(self._part):
                self._append(source_number, found)
            done += len(items)
            if progress:
                progress(done, total)

    def _append(self, source_number: int, found: Sequence[NewObject | Rejected]) -> None:
        """Write the objects of a batch: first their texels, then the line of the journal."""
        given, writer = self._sources[source_number].given, self.writer
        first_row, first_rejected = len(writer.rows), len(writer.rejected)
        for entry in found:
            if isinstance(entry, Rejected):
                writer.rejected.append(replace(entry, given=given))
            elif writer.is_new(given, entry.row.source, entry.fingerprint):
                split = self._split.split_of(entry.row.image_key)
                row = replace(entry.row, split=split, licence=entry.row.licence or self._licence)
                writer.append(row, entry.texels)
                writer.duplicates.add(entry.fingerprint, entry.row.source)
        writer.texels.flush()
        rows = [asdict(row) for row in writer.rows[first_row:]]
        line = {
            "source_number": source_number,
            "rows": rows,
            "end": writer.texels.tell(),
            "rejected": [asdict(item) for item in writer.rejected[first_rejected:]],
        }
        self._num_objects[source_number] += len(rows)
        self._journal.write(json.dumps(line, ensure_ascii=False).encode("utf-8") + b"\n")
        self._journal.flush()

    def finish(self) -> str:
        """Write the tables and return the digest.

        Raises:
            UserError: a source gave no object.
        """
        summaries = []
        for number, (given, format, _) in enumerate(self._sources):
            rejected = [item for item in self.writer.rejected if item.given == given]
            count = self._num_objects[number]
            if not count:
                shutil.rmtree(self._part)
                raise UserError(f"object source '{given}': {_all_rejected(rejected)}")
            reasons = dict(Counter(item.kind for item in rejected).most_common())
            summaries.append(
                {"given": given, "format": format, "num_objects": count, "num_rejected": reasons}
            )
        with write_errors_for(self._part):
            return self.writer.finish(summaries)

    def close(self) -> None:
        """Close the files; finished batches stay."""
        with write_errors_for(self._part):  # closing writes the buffers
            self.writer.close()
            self._journal.close()
