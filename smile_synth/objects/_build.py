"""Build a bank: read sources, prepare every cut-out on all cores, write the folder whole or not at all.

While it is built a bank stands beside its place, as ``.<name>.part``: the textures so far, and a journal
with a line per batch of items. A build that was killed truncates the textures to the last whole line and
goes on from there. Batches are written in order, so the bytes do not depend on the number of processes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from smile_synth.core.errors import UserError
from smile_synth.core.rng import MAX_SEED
from smile_synth.core.texture import Texture
from smile_synth.io.images import Reject
from smile_synth.objects._bank import FORMAT_VERSION, TEXELS, ObjectInfo, read_header, write_tables
from smile_synth.objects._cutout import CutOutOptions, prepare
from smile_synth.objects._duplicates import Appearance, DuplicateIndex, appearance_of
from smile_synth.objects._item import Item, ReadOptions, Rejected
from smile_synth.objects._sources import list_items
from smile_synth.parallel.workers import in_order

# Items a process is handed at once, and a line of the journal holds.
BATCH = 16
JOURNAL, PLAN, LOCK = "journal.jsonl", "plan.json", ".lock"


@dataclass(frozen=True)
class RejectedItem:
    """An item that did not become an object.

    Attributes:
        given: the source, as given.
        source: the item, relative to that source.
        reason: why.
    """

    given: str
    source: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without details."""
        return self.reason.split(":")[0]


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        path: the bank's folder, absolute.
        digest: of the bank.
        num_objects: in the bank.
        formats: of each source, in order.
        rejected: every item left out.
    """

    path: str
    digest: str
    num_objects: int
    formats: tuple[str, ...]
    rejected: tuple[RejectedItem, ...]


@dataclass(frozen=True)
class _Made:
    """An object as a process hands it over; the row lacks its number, place and split."""

    row: ObjectInfo
    texels: bytes
    appearance: Appearance


@dataclass(frozen=True)
class _Batch:
    source_number: int
    items: Sequence[Item]


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

    A build that was stopped goes on where it was when called again with the same arguments. Unusable
    items are left out and listed in the report and in ``report.json``.

    Args:
        sources: paths in any of the formats of ``FORMATS``, or ``builtin:shapes``, ``builtin:photos``,
            ``drawn:COUNT``.
        out: the bank's folder; appears whole or not at all.
        seed: of the split, and of what is drawn.
        cut: how cut-outs are prepared and filtered.
        format: of all sources that are paths; None: recognised, each on its own.
        images: folder that the file names of an annotation file are relative to; None: looked for.
        crowd: take COCO's crowd regions, too.
        licence: of images whose source does not state one.
        val_fraction: share of source images for validation, 0..1; which ones is decided by hash.
        test_fraction: likewise for testing; the rest is for training.
        overwrite: replace a bank that stands at ``out``.
        workers: processes; the bytes do not depend on it.
        progress: called with (items done, items in all).

    Raises:
        UserError: no sources, an unknown, missing or empty one or one without a usable cut-out, an option
            out of its range, ``out`` exists and is not a bank to be overwritten, or the disk is full.
    """
    out = Path(out).resolve()
    cut = cut or CutOutOptions()
    cut.check()
    _check_options(seed, val_fraction, test_fraction, workers)
    check_out(out, overwrite)
    given = _checked(sources)
    read = ReadOptions(seed, images, crowd)
    listed = [list_items(source, format, read) for source in given]
    formats = tuple(name for name, _ in listed)
    batches = [
        _Batch(number, items[start : start + BATCH])
        for number, (_, items) in enumerate(listed)
        for start in range(0, len(items), BATCH)
    ]
    split = SplitRule(seed, val_fraction, test_fraction)
    plan = _plan(given, listed, cut, read, split, licence)
    with _part_folder(out, plan) as part:
        with closing(_Writer(part, given, cut.duplicate_distance, split, licence)) as bank:
            total = sum(len(batch.items) for batch in batches)
            done = sum(len(batch.items) for batch in batches[: bank.batches_done])
            waiting = batches[bank.batches_done :]
            if progress:
                progress(done, total)
            work = partial(make_objects, cut=cut)
            # Processes take a second to start: not worth it for a few images.
            processes = workers if len(waiting) >= 4 else 1
            results = in_order(work, [batch.items for batch in waiting], workers=processes)
            for batch, made in zip(waiting, results, strict=True):
                bank.append(batch.source_number, made)
                done += len(batch.items)
                if progress:
                    progress(done, total)
            digest = bank.finish(formats)
        publish(part, out)
    return BuildReport(str(out), digest, len(bank.rows), formats, tuple(bank.rejected))


def _checked(sources: Sequence[str | Path] | str | Path) -> list[str]:
    if isinstance(sources, str | Path):
        return [str(sources)]
    if not sources:
        raise UserError("no object source given, expected folders, annotation files or builtin:shapes")
    return [str(source) for source in sources]


def _check_options(seed: int, val_fraction: float, test_fraction: float, workers: int) -> None:
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"seed must be in 0..2^63-1, got {seed}")
    if workers < 1:
        raise UserError(f"workers must be at least 1, got {workers}")
    if not (val_fraction >= 0 and test_fraction >= 0 and val_fraction + test_fraction <= 1):
        raise UserError(
            f"val_fraction and test_fraction must be at least 0 and together at most 1, "
            f"got {val_fraction} and {test_fraction}"
        )


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse a place that is taken.

    Raises:
        UserError: something stands there that is not to be overwritten, or is no bank.
    """
    if not out.exists() and not out.is_symlink():
        return
    if not overwrite:
        raise UserError(f"'{out}' exists; choose another folder or overwrite it")
    # Never delete a folder that this module did not make.
    read_header(out)


@dataclass(frozen=True)
class SplitRule:
    """Which side of the split an image is on: a function of its key alone."""

    seed: int
    val_fraction: float
    test_fraction: float

    def side_of(self, image_key: str) -> str:
        """Return ``train``, ``val`` or ``test``."""
        bits = hashlib.sha256(f"{self.seed}/{image_key}".encode()).digest()[:6]
        place = int.from_bytes(bits, "big") / 2**48
        if place < self.val_fraction:
            return "val"
        return "test" if place < self.val_fraction + self.test_fraction else "train"


def _plan(
    given: list[str],
    listed: list[tuple[str, Sequence[Item]]],
    cut: CutOutOptions,
    read: ReadOptions,
    split: SplitRule,
    licence: str,
) -> str:
    """Describe a build to the last item: what a stopped one must agree on to be continued."""
    items = hashlib.sha256()
    stamp = cache(_stamp)  # one annotation file stands behind many items
    for source, (_, found) in zip(given, listed, strict=True):
        items.update(f"{source}\0{stamp(Path(source))}\n".encode("utf-8", "surrogateescape"))
        for item in found:
            files = [value for value in vars(item).values() if isinstance(value, Path)]
            stamps = " ".join(map(stamp, files))
            items.update(f"{item.source}\0{stamps}\n".encode("utf-8", "surrogateescape"))
    options: dict[str, Any] = {
        **asdict(cut),
        **asdict(read),
        **asdict(split),
        "licence": licence,
        "format": FORMAT_VERSION,
    }
    options["formats"] = [name for name, _ in listed]
    return json.dumps({"items": items.hexdigest(), **options}, indent=1, default=str)


def _stamp(path: Path) -> str:
    try:
        state = path.stat()
    except OSError:
        return "missing"
    return f"{state.st_size} {state.st_mtime_ns}"


@contextmanager
def _part_folder(out: Path, plan: str) -> Iterator[Path]:
    """Yield the folder a bank is built in, with what a stopped build of the same plan left there."""
    part = out.with_name(f".{out.name}.part")
    with told("cannot write", out):
        part.mkdir(parents=True, exist_ok=True)
        lock = (part / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"'{out}': another process is building this bank") from None
        with told("cannot write", out):
            before = part / PLAN
            if not before.is_file() or before.read_text("utf-8") != plan:
                for name in (TEXELS, JOURNAL):
                    (part / name).unlink(missing_ok=True)
                before.write_text(plan, "utf-8")
        try:
            with told("cannot write", out):
                yield part
        except UserError as error:
            if not isinstance(error.__cause__, OSError):
                shutil.rmtree(part, ignore_errors=True)  # a mistake in the input: nothing to go on with
            raise


@contextmanager
def told(what: str, path: Path) -> Iterator[None]:
    """Turn an operating system's refusal into one clear line."""
    try:
        yield
    except OSError as error:
        kept = "; what is done is kept, the same command goes on" if error.errno == errno.ENOSPC else ""
        raise UserError(f"{what} '{path}': {error.strerror or error}{kept}") from error


def make_objects(items: Iterable[Item], cut: CutOutOptions) -> list[_Made | Rejected]:
    """Read items and prepare what is in them, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata is no concern of ours
        return list(_make_objects(items, cut))


def _make_objects(items: Iterable[Item], cut: CutOutOptions) -> Iterator[_Made | Rejected]:
    for item in items:
        try:
            for found in item.cut_outs():
                if isinstance(found, Rejected):
                    yield found
                    continue
                try:
                    prepared = prepare(found, cut)
                except Reject as reason:
                    yield Rejected(found.source, str(reason))
                    continue
                texture = Texture.from_straight_rgba(prepared.rgba)
                data = texture.texels.tobytes()
                appearance = appearance_of(texture)
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
                    perceptual_hash=f"{appearance.perceptual_hash:016x}",
                    content_sha256=hashlib.sha256(data).hexdigest(),
                    attributes=json.dumps(dict(found.attributes), sort_keys=True, ensure_ascii=False),
                )
                yield _Made(row, data, appearance)
        except Reject as reason:
            yield Rejected(item.source, str(reason))


class _Writer:
    """Appends objects to the unfinished bank, batch by batch."""

    def __init__(
        self, part: Path, given: list[str], duplicate_distance: int, split: SplitRule, licence: str
    ) -> None:
        self.rows: list[ObjectInfo] = []
        self.rejected: list[RejectedItem] = []
        self.batches_done = 0
        self._kept = Counter[int]()
        self._part, self._given, self._split, self._licence = part, given, split, licence
        self._duplicates = DuplicateIndex(duplicate_distance)
        self._end = 0
        self._read_journal()

    def _read_journal(self) -> None:
        journal = self._part / JOURNAL
        whole = 0
        if journal.is_file():
            data = journal.read_bytes()
            whole = data.rfind(b"\n") + 1
            for line in data[:whole].splitlines():
                entry = json.loads(line)
                for row, thumbnail in zip(entry["rows"], entry["thumbnails"], strict=True):
                    info = ObjectInfo(**row)
                    self._keep(entry["source_number"], info, _appearance(info, bytes.fromhex(thumbnail)))
                self.rejected += [RejectedItem(**item) for item in entry["rejected"]]
                self._end = entry["end"]
                self.batches_done += 1
        self._texels = (self._part / TEXELS).open("ab")
        self._journal = journal.open("ab")
        self._texels.truncate(self._end)
        self._journal.truncate(whole)

    def _keep(self, source_number: int, row: ObjectInfo, appearance: Appearance) -> None:
        self.rows.append(row)
        self._kept[source_number] += 1
        self._duplicates.add(appearance, row.source)

    def append(self, source_number: int, made: Sequence[_Made | Rejected]) -> None:
        """Write what a batch gave: textures first, then the line that says they are there."""
        given = self._given[source_number]
        first_row, first_rejected = len(self.rows), len(self.rejected)
        thumbnails = []
        for item in made:
            if isinstance(item, Rejected):
                self.rejected.append(RejectedItem(given, item.source, item.reason))
                continue
            twin = self._duplicates.find(item.appearance)
            if twin is not None:
                reason = f"near-duplicate: of {twin}"
                self.rejected.append(RejectedItem(given, item.row.source, reason))
                continue
            row = replace(
                item.row,
                object_id=len(self.rows),
                texel_offset=self._end // 4,
                split=self._split.side_of(item.row.image_key),
                licence=item.row.licence or self._licence,
            )
            self._texels.write(item.texels)
            self._end += len(item.texels)
            self._keep(source_number, row, item.appearance)
            thumbnails.append(item.appearance.thumbnail.tobytes().hex())
        self._texels.flush()
        entry = {
            "source_number": source_number,
            "rows": [asdict(row) for row in self.rows[first_row:]],
            "thumbnails": thumbnails,
            "rejected": [asdict(item) for item in self.rejected[first_rejected:]],
            "end": self._end,
        }
        self._journal.write(json.dumps(entry, ensure_ascii=False).encode("utf-8") + b"\n")
        self._journal.flush()
        self.batches_done += 1

    def close(self) -> None:
        """Close the files; what was appended stays."""
        self._texels.close()
        self._journal.close()

    def finish(self, formats: Sequence[str]) -> str:
        """Write the tables, leave nothing of the journal, and return the digest.

        Raises:
            UserError: a source gave no object at all.
        """
        summaries: list[dict[str, Any]] = []
        for number, given in enumerate(self._given):
            dropped = [item for item in self.rejected if item.given == given]
            if not self._kept[number]:
                first = dropped[0]
                raise UserError(
                    f"object source '{given}': none of {len(dropped)} items is usable, "
                    f"first {first.source}: {first.reason}"
                )
            kinds = Counter(item.kind for item in dropped)
            summaries.append(
                {
                    "given": given,
                    "format": formats[number],
                    "num_objects": self._kept[number],
                    "num_rejected": dict(kinds.most_common()),
                }
            )
        sync(self._texels)
        digest = write_tables(self._part, self.rows, [asdict(item) for item in self.rejected], summaries)
        for name in (JOURNAL, PLAN, LOCK):
            (self._part / name).unlink(missing_ok=True)
        return digest


def _appearance(row: ObjectInfo, thumbnail: bytes) -> Appearance:
    side = round((len(thumbnail) / 4) ** 0.5)
    pixels = np.frombuffer(thumbnail, np.uint8).reshape(side, side, 4)
    return Appearance(int(row.perceptual_hash, 16), pixels, row.width / row.height)


def publish(part: Path, out: Path) -> None:
    """Rename the finished folder to its place, setting an older bank aside until it stands."""
    _sync_folder(part)
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    _sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(file: BinaryIO) -> None:
    """Wait until a file's bytes are on disk."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
