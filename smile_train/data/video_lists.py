"""Labelled real videos as their publishers list them, and splits that share no group."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError, nearest

SUFFIXES = (".mp4", ".avi", ".webm", ".mov", ".mkv", ".m4v", ".gif")
Int = NDArray[np.int64]
_SHOWN = 3


@dataclass(frozen=True)
class LabelledVideo:
    """One video.

    Attributes:
        path: the file.
        name: how it is called in messages and results.
        label: its class.
        group: videos that must stay on one side of a split (one source, one person); by default itself.
    """

    path: Path
    name: str
    label: str
    group: str


@dataclass(frozen=True)
class Split:
    """Which videos are learned from and which are asked about.

    Attributes:
        train, test: indices into the videos.
        name: for tables.
    """

    train: Int
    test: Int
    name: str


def find_videos(source: str | Path) -> list[Path]:
    """Return the videos of a folder (subfolders included), or the one file.

    Raises:
        UserError: nothing there.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"videos '{source}': no such file or folder")
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise UserError(f"videos '{source}': holds no video ({', '.join(SUFFIXES)})")
    return found


def read_videos(
    source: str | Path,
    *,
    root: str | Path | None = None,
    group: str | None = None,
    allow_missing: bool = False,
) -> list[LabelledVideo]:
    """Read labelled videos from a folder or a list.

    What the source is, is seen from it:

    - a folder: ``class/*.mp4``, the folder below it is the class;
    - ``.json``: Something-Something v2, ``[{"id", "template"}, ...]``, the class is the template; or
      Kinetics, ``{youtube_id: {"annotations": {"label", "segment"}}}``;
    - a table with a ``youtube_id`` column: Kinetics; files are ``[label/]id_start_end.*`` or ``id.*``;
    - lines ``id;label``: Something-Something's csv, the test answers of v2 among them;
    - other text: one ``path label`` a line, separated by a comma, a tab or the last space (VideoMAE, SMILE,
      UCF101's trainlist). Labels are whole numbers. Lines without a label (UCF101's testlist) take the
      file's folder as class; `read_official` does so for both lists when one has none.

    Args:
        source: see above.
        root: folder that paths in a list are relative to; by default the list's own.
        group: regular expression searched in the file name; what its first group (or all of it) matches is
            the video's group.
        allow_missing: keep listed files that are not there; who reads them finds and tells them.

    Raises:
        UserError: nothing there, not such a list, files that are missing (named), labels that are no numbers,
            one file in two groups.
    """
    path = Path(source)
    _check_root(root)
    if path.is_dir():
        videos = _read_folder(path)
    elif path.is_file():
        videos = _named(path, _read_list(path, Path(root) if root else path.parent), allow_missing)
    else:
        raise UserError(f"videos '{source}': no such file or folder")
    return _grouped(videos, group)


def read_official(
    train: str | Path,
    test: str | Path,
    *,
    root: str | Path | None = None,
    group: str | None = None,
    allow_missing: bool = False,
) -> tuple[list[LabelledVideo], Split]:
    """Read the publisher's training and test lists (or folders) as one set with its split.

    Without ``group`` a file that stands on both sides is found whatever the two lists call it. The other
    arguments are those of `read_videos`.

    Raises:
        UserError: as `read_videos`; both hold the same group, or a test class has no training video.
    """
    sides = [
        read_videos(source, root=root, group=group, allow_missing=allow_missing) for source in (train, test)
    ]
    numbered = [all(v.label.isdecimal() for v in side) for side in sides]
    if numbered[0] != numbered[1]:  # UCF101: numbers in one list, none in the other
        sides = [[replace(v, label=v.path.parent.name) for v in side] for side in sides]
    videos = [*sides[0], *sides[1]]
    # Two folders, or two lists in different ones, may call different files alike and one file differently.
    names = _below_common([Path(os.path.abspath(v.path)) for v in videos])
    groups = _below_common([v.path.resolve() for v in videos]) if group is None else [v.group for v in videos]
    videos = [replace(v, name=n, group=g) for v, n, g in zip(videos, names, groups, strict=True)]
    _check_files(videos)
    first = len(sides[0])
    split = Split(np.arange(first), np.arange(first, len(videos)), "official")
    check_split(videos, split)
    return videos, split


def read_hmdb(
    annotations: str | Path,
    *,
    root: str | Path,
    number: int = 1,
    group: str | None = None,
    allow_missing: bool = False,
) -> tuple[list[LabelledVideo], Split]:
    """Read one of HMDB51's splits: ``<class>_test_split<n>.txt``, lines ``file 1`` (train) or ``2`` (test).

    Args:
        annotations: the folder of these files.
        root: ``class/file``.
        number: 1, 2 or 3.
        group, allow_missing: see `read_videos`.

    Raises:
        UserError: no such files, videos that are missing, both sides share a group.
    """
    _check_root(root)
    files = sorted(Path(annotations).glob(f"*_test_split{number}.txt"))
    if not files:
        raise UserError(f"splits '{annotations}': holds no *_test_split{number}.txt")
    videos: list[LabelledVideo] = []
    sides: list[str] = []
    for file in files:
        label = file.name.removesuffix(f"_test_split{number}.txt")
        for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            name, _, side = line.strip().rpartition(" ")
            if side in ("1", "2"):
                video = Path(root) / label / name.strip()
                videos.append(LabelledVideo(video, f"{label}/{name.strip()}", label, ""))
                sides.append(side)
    videos = _grouped(_named(Path(annotations), videos, allow_missing), group)
    side_of = np.array(sides)
    split = Split(np.flatnonzero(side_of == "1"), np.flatnonzero(side_of == "2"), f"split {number}")
    check_split(videos, split)
    return videos, split


def k_fold(videos: Sequence[LabelledVideo], folds: int, *, seed: int = 0) -> list[Split]:
    """Return ``folds`` splits of about equal class shares, groups kept together.

    Raises:
        UserError: a class lives in fewer groups than there are folds; names them.
    """
    groups_of: defaultdict[str, set[str]] = defaultdict(set)
    for video in videos:
        groups_of[video.label].add(video.group)
    small = sorted(label for label, groups in groups_of.items() if len(groups) < folds)
    if small:
        told = ", ".join(f"'{label}' ({len(groups_of[label])})" for label in small[:_SHOWN])
        more = f" and {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
        raise UserError(
            f"{folds} folds need {folds} videos or groups of every class, too few in: {told}{more}; "
            "leave these out, or choose fewer folds"
        )
    from sklearn.model_selection import StratifiedGroupKFold  # takes seconds, and needed here alone

    labels, groups = [v.label for v in videos], [v.group for v in videos]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = splitter.split(np.zeros(len(videos)), labels, groups)
    return [Split(train, test, f"fold {k}") for k, (train, test) in enumerate(parts)]


def leave_one_group_out(videos: Sequence[LabelledVideo]) -> list[Split]:
    """Return one split per group: it is asked about, all others are learned from.

    Raises:
        UserError: one group only.
    """
    groups = np.array([v.group for v in videos])
    names = sorted(set(groups.tolist()))
    if len(names) < 2:
        raise UserError(f"leave-one-group-out needs two groups, all videos are of '{names[0]}'")
    return [Split(np.flatnonzero(groups != g), np.flatnonzero(groups == g), g) for g in names]


def low_shot(videos: Sequence[LabelledVideo], split: Split, shots: int, *, seed: int = 0) -> Split:
    """Return the split with ``shots`` training videos of every class, chosen by the seed alone.

    Raises:
        UserError: a class has fewer.
    """
    rng = np.random.default_rng([seed, shots])
    labels = np.array([videos[int(i)].label for i in split.train])
    chosen = []
    for label in sorted(set(labels.tolist())):
        own = split.train[labels == label]
        if len(own) < shots:
            raise UserError(f"{shots} shots: class '{label}' has {len(own)} training videos in {split.name}")
        chosen.append(rng.choice(own, shots, replace=False))
    return Split(np.sort(np.concatenate(chosen)), split.test, f"{split.name}, {shots} shots, seed {seed}")


def check_split(videos: Sequence[LabelledVideo], split: Split, *, classes: bool = True) -> None:
    """Refuse a split that would flatter: shared groups, or (where ``classes``) classes that were never shown.

    Raises:
        UserError: names them.
    """
    train, test = ([videos[int(i)] for i in side] for side in (split.train, split.test))
    if not train or not test:
        raise UserError(f"split '{split.name}': has {len(train)} training and {len(test)} test videos")
    shared = sorted({v.group for v in train} & {v.group for v in test})
    if shared:
        raise UserError(f"split '{split.name}': training and test share {_some(shared, 'groups')}")
    if not classes:
        return
    unseen = sorted({v.label for v in test} - {v.label for v in train})
    if unseen:
        raise UserError(f"split '{split.name}': no training video of {_some(unseen, 'test classes')}")
    if len({v.label for v in train}) < 2:
        raise UserError(f"split '{split.name}': all training videos are of class '{train[0].label}'")


def _check_root(root: str | Path | None) -> None:
    if root is not None and not Path(root).is_dir():
        raise UserError(f"root '{root}': no such folder")


def _read_folder(root: Path) -> list[LabelledVideo]:
    videos = [
        LabelledVideo(path, path.relative_to(root).as_posix(), path.relative_to(root).parts[0], "")
        for path in find_videos(root)
    ]
    loose = [v.name for v in videos if v.path.parent == root]
    if loose:
        raise UserError(f"videos '{root}': expected a folder per class, outside of one: {_some(loose)}")
    return videos


def _read_list(path: Path, root: Path) -> list[LabelledVideo]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list '{path}': cannot be read as text: {error}") from None
    if path.suffix.lower() == ".json":
        return _read_json(path, text, root)
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"list '{path}': is empty")
    if "youtube_id" in lines[0][1].split(","):
        return _read_kinetics_table(path, text, root)
    if re.fullmatch(r"\d+;.+", lines[0][1]):
        return _something([_fields(path, number, line) for number, line in lines], root)
    return _read_plain(path, lines, root)


def _read_plain(path: Path, lines: list[tuple[int, str]], root: Path) -> list[LabelledVideo]:
    rows: list[tuple[int, str, str]] = []
    for number, line in lines:
        separator = next((s for s in ("\t", ",") if s in line), " ")
        name, found, label = line.rpartition(separator)
        if not found or Path(line).suffix.lower() in SUFFIXES:
            name, label = line, ""
        rows.append((number, name.strip(), label.strip()))
    labelled = [row for row in rows if row[2]]
    if labelled and len(labelled) < len(rows):
        number = next(number for number, _, label in rows if not label)
        raise UserError(f"{path}:{number}: has no label, other lines have one; expected 'path label'")
    for number, _, label in labelled:
        if not re.fullmatch(r"\d+", label):
            raise UserError(f"{path}:{number}: label '{label}' is no whole number; expected 'path label'")
    return [
        LabelledVideo(root / name, name, label or Path(name).parent.name or path.stem, "")
        for _, name, label in rows
    ]


def _read_json(path: Path, text: str, root: Path) -> list[LabelledVideo]:
    try:
        content = json.loads(text)
        if isinstance(content, dict):
            notes = {name: entry["annotations"] for name, entry in content.items()}
            rows = [(name, str(note["label"]), note.get("segment", ())) for name, note in notes.items()]
            return _kinetics(rows, root)
        return _something([(str(entry["id"]), entry["template"]) for entry in content], root)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f'list \'{path}\': expected [{{"id": ..., "template": ...}}, ...] of Something-Something v2 or '
            '{youtube_id: {"annotations": {"label": ..., "segment": ...}}} of Kinetics; a list without '
            "labels, as for the test of Something-Something v2, cannot be used"
        ) from None


def _read_kinetics_table(path: Path, text: str, root: Path) -> list[LabelledVideo]:
    rows = list(csv.DictReader(text.splitlines()))
    if not rows or any(not row.get("label") for row in rows):
        raise UserError(f"list '{path}': expected the columns label, youtube_id, time_start, time_end")
    return _kinetics(
        [(row["youtube_id"], row["label"], (row.get("time_start"), row.get("time_end"))) for row in rows],
        root,
    )


def _kinetics(rows: Iterable[tuple[str, str, Sequence[Any]]], root: Path) -> list[LabelledVideo]:
    """Return the videos of (youtube_id, label, (start, end) in seconds or nothing)."""
    files = {p.stem: p for p in sorted(root.rglob("*")) if p.suffix.lower() in SUFFIXES}
    videos = []
    for name, label, segment in rows:
        try:
            start, end = (int(float(seconds)) for seconds in segment)
            trimmed = f"{name}_{start:06d}_{end:06d}"
        except (TypeError, ValueError):
            trimmed = name
        found = files.get(trimmed) or files.get(name) or root / label / f"{trimmed}.mp4"
        videos.append(LabelledVideo(found, trimmed, label, ""))
    return videos


def _fields(path: Path, number: int, line: str) -> tuple[str, str]:
    name, found, label = line.partition(";")
    if not found or not label:
        raise UserError(f"{path}:{number}: has no label; expected 'id;label'")
    return name, label


def _something(pairs: Iterable[tuple[str, str]], root: Path) -> list[LabelledVideo]:
    """Return the videos of (id, template); brackets stand where the templates of v2 have theirs."""
    files = {p.stem: p for p in sorted(root.iterdir()) if p.suffix.lower() in SUFFIXES}
    return [
        LabelledVideo(files.get(i, root / f"{i}.webm"), i, re.sub(r"[\[\]]", "", template), "")
        for i, template in pairs
    ]


def _named(path: Path, videos: list[LabelledVideo], allow_missing: bool) -> list[LabelledVideo]:
    """Refuse a list that names missing files (unless these are allowed) or a file twice."""
    missing = [v.name for v in videos if not v.path.is_file()]
    if missing and (not allow_missing or len(missing) == len(videos)):
        raise UserError(f"list '{path}': {len(missing)} of {len(videos)} files are missing: {_some(missing)}")
    twice = [name for name, count in Counter(v.name for v in videos).items() if count > 1]
    if twice:
        raise UserError(f"list '{path}': names more than once: {_some(twice)}")
    return videos


def _below_common(paths: list[Path]) -> list[str]:
    """Return paths below the folder that holds them all: the same on every machine."""
    top = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(top).as_posix() for path in paths]


def _grouped(videos: list[LabelledVideo], pattern: str | None) -> list[LabelledVideo]:
    if pattern is None:
        # A class may hold a file of the same name as another class's, and a list one file under two names.
        first: dict[Path, str] = {}
        return [replace(v, group=first.setdefault(v.path.resolve(), v.name)) for v in videos]
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"group '{pattern}': not a regular expression: {error}") from None
    matches = [compiled.search(v.path.name) for v in videos]
    without = [v.name for v, match in zip(videos, matches, strict=True) if match is None]
    if without:
        raise UserError(f"group '{pattern}': finds nothing in {_some(without)}")
    grouped = [
        replace(v, group=match.group(1 if compiled.groups else 0))
        for v, match in zip(videos, matches, strict=True)
        if match is not None
    ]
    _check_files(grouped)
    return grouped


def _check_files(videos: Sequence[LabelledVideo]) -> None:
    first: dict[Path, LabelledVideo] = {}
    for video in videos:
        other = first.setdefault(video.path.resolve(), video)
        if other.group != video.group:
            raise UserError(
                f"'{other.name}' and '{video.name}': are one file, in the groups '{other.group}' and "
                f"'{video.group}'"
            )


def select_classes(videos: Sequence[LabelledVideo], classes: Sequence[str]) -> list[LabelledVideo]:
    """Return the videos of some classes.

    Raises:
        UserError: a class that no video has.
    """
    known = {v.label for v in videos}
    for name in classes:
        if name not in known:
            raise UserError(f"class '{name}': no video has it{nearest(name, known)}")
    return [v for v in videos if v.label in set(classes)]


def _some(names: Iterable[str], what: str = "") -> str:
    names = list(names)
    told = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what + ' ' if what else ''}{told}{more}"
