"""Read lists and folders of labelled videos in the formats of their publishers."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.files import walk
from smile_synth.io.videos import SUFFIXES

_SHOWN = 3


@dataclass(frozen=True)
class LabelledVideo:
    """One video.

    Attributes:
        path: of the file.
        name: in messages and results.
        label: its class.
        group: videos of one source or one person, which belong on one side of a split; by default its name.
    """

    path: Path
    name: str
    label: str
    group: str


def find_videos(source: str | Path) -> list[Path]:
    """Return the videos of a folder and its subfolders, or the one file. Hidden files are skipped.

    Raises:
        UserError: no such file or folder, or no video in it.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"videos '{source}': no such file or folder")
    found = [p for p in walk(path)[0] if _is_video(p) and not _is_hidden(p.relative_to(path))]
    if not found:
        raise UserError(f"videos '{source}': holds no video ({', '.join(SUFFIXES)})")
    return found


def list_videos(
    source: str | Path, *, root: str | Path | None = None, labelled: bool = True
) -> list[LabelledVideo]:
    """Return the labelled videos of a folder or a list. No video file is opened, and files may be missing.

    The format is detected automatically:

    - a folder: ``class/*.mp4``; the class is the folder below ``source``;
    - ``.json`` of Something-Something v2: ``[{"id", "template"}, ...]``; the class is the template;
    - ``.json`` of Kinetics: ``{youtube_id: {"annotations": {"label", "segment"}}}``;
    - a table with a ``youtube_id`` column: Kinetics; the files are ``[label/]id_start_end.*`` or ``id.*``;
    - lines ``id;label``: the csv files of Something-Something, for example the test answers of v2;
    - other text: lines ``path label``, separated by a comma, a tab or the last space (VideoMAE, SMILE, the
      trainlist of UCF101). Labels are whole numbers. If no line has a label (the testlist of UCF101), the
      class is the folder of the file.

    Args:
        source: a folder or a list.
        root: folder of the paths in a list; by default the folder of the list.
        labelled: False also accepts videos outside of class folders. Their label is empty.

    Raises:
        UserError: nothing there, an unknown format, labels that are no numbers, a file named twice.
    """
    path = Path(source)
    if root is not None and not Path(root).is_dir():
        raise UserError(f"root '{root}': no such folder")
    if path.is_dir():
        videos = _read_folder(path, labelled)
    elif path.is_file():
        videos = _read_list(path, Path(root) if root else path.parent)
    else:
        raise UserError(f"videos '{source}': no such file or folder")
    repeated = [name for name, count in Counter(v.name for v in videos).items() if count > 1]
    if repeated:
        raise UserError(f"list '{path}': names more than once: {some(repeated)}")
    return [replace(v, group=v.name) for v in videos]


def read_videos(
    source: str | Path,
    *,
    root: str | Path | None = None,
    group: str | None = None,
    allow_missing: bool = False,
) -> list[LabelledVideo]:
    """Read the labelled videos of a folder or a list, and check that the files exist.

    Args:
        source, root: see `list_videos`.
        group: regular expression, searched in the file name. The match of its first group (or all of it) is
            the group of the video. By default only links to the same file are one group.
        allow_missing: keep listed files that are missing; the reader of the videos reports them.

    Raises:
        UserError: see `list_videos`; files are missing; one file is in two groups.
    """
    videos = list_videos(source, root=root)
    check_files_exist(videos, source, allow_missing=allow_missing)
    return group_videos(videos, group)


def select_classes(videos: Sequence[LabelledVideo], classes: Sequence[str]) -> list[LabelledVideo]:
    """Return the videos of some classes.

    Raises:
        UserError: no video is of a class.
    """
    labels = {v.label for v in videos}
    for name in classes:
        if name not in labels:
            raise UserError(f"class '{name}': no video has it{nearest(name, labels)}")
    return [v for v in videos if v.label in set(classes)]


# --- checks and groups


def check_files_exist(
    videos: Sequence[LabelledVideo], source: str | Path, *, allow_missing: bool = False
) -> None:
    """Check that the files of a list exist; with ``allow_missing``, that at least one does.

    Raises:
        UserError: names the first missing files.
    """
    if allow_missing and any(v.path.is_file() for v in videos):
        return
    missing = [v.name for v in videos if not v.path.is_file()]
    if missing:
        raise UserError(
            f"list '{source}': {len(missing)} of {len(videos)} files are missing: {some(missing)}"
        )


def group_videos(videos: Sequence[LabelledVideo], pattern: str | None) -> list[LabelledVideo]:
    """Return the videos with their groups; see `read_videos`.

    Raises:
        UserError: not a regular expression, no match in a file name, or one file in two groups.
    """
    if pattern is None:
        first: dict[str, str] = {}
        return [replace(v, group=first.setdefault(real_path(v.path), v.name)) for v in videos]
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"group '{pattern}': not a regular expression: {error}") from None
    matches = [compiled.search(v.path.name) for v in videos]
    without = [v.name for v, match in zip(videos, matches, strict=True) if not match]
    if without:
        raise UserError(f"group '{pattern}': finds nothing in {some(without)}")
    number = 1 if compiled.groups else 0
    grouped = [replace(v, group=m.group(number)) for v, m in zip(videos, matches, strict=True) if m]
    check_groups(grouped)
    return grouped


def check_groups(videos: Sequence[LabelledVideo]) -> None:
    """Check that links to one file are in one group.

    Raises:
        UserError: names both links.
    """
    first: dict[str, LabelledVideo] = {}
    for video in videos:
        other = first.setdefault(real_path(video.path), video)
        if other.group != video.group:
            raise UserError(
                f"'{other.name}' and '{video.name}': are one file, in the groups '{other.group}' and "
                f"'{video.group}'"
            )


def real_path(path: Path) -> str:
    """Return the path of a file without links."""
    # Resolving every path whole takes a system call for each of its folders.
    return os.path.realpath(path) if path.is_symlink() else os.path.join(_real_folder(path.parent), path.name)


@lru_cache(maxsize=65536)
def _real_folder(folder: Path) -> str:
    return os.path.realpath(folder)


def some(names: Sequence[str], what: str = "", *, counts: Sequence[int] | None = None) -> str:
    """Return the first names for a message, each with its count if given, and the number of the others."""
    beside = [f" ({count})" for count in counts] if counts else [""] * len(names)
    shown = ", ".join(f"'{name}'{count}" for name, count in zip(names[:_SHOWN], beside, strict=False))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {shown}{more}".strip()


# --- formats


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_folder(root: Path, labelled: bool) -> list[LabelledVideo]:
    names = [path.relative_to(root).as_posix() for path in find_videos(root)]
    outside = [name for name in names if "/" not in name]
    if outside and labelled:
        raise UserError(f"videos '{root}': expected a folder per class, outside of one: {some(outside)}")
    return [LabelledVideo(root / name, name, name.rpartition("/")[0].partition("/")[0], "") for name in names]


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
        return _something([_id_and_label(path, number, line) for number, line in lines], root)
    return _read_plain(path, lines, root)


def _read_plain(path: Path, lines: list[tuple[int, str]], root: Path) -> list[LabelledVideo]:
    rows: list[tuple[int, str, str]] = []
    for number, line in lines:
        separator = next((s for s in ("\t", ",") if s in line), " ")
        name, found, label = line.rpartition(separator)
        if not found or _is_video(Path(line)):
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
    """Return the videos of rows (youtube_id, label, (start, end) in seconds or nothing)."""
    files = {p.stem: p for p in walk(root)[0] if _is_video(p)}
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


def _id_and_label(path: Path, number: int, line: str) -> tuple[str, str]:
    name, _, label = line.partition(";")
    if not label:
        raise UserError(f"{path}:{number}: has no label; expected 'id;label'")
    return name, label


def _something(pairs: Iterable[tuple[str, str]], root: Path) -> list[LabelledVideo]:
    """Return the videos of pairs (id, template). Templates of v2 have brackets, labels have not."""
    files = {p.stem: p for p in sorted(root.iterdir()) if _is_video(p)}
    return [
        LabelledVideo(files.get(i, root / f"{i}.webm"), i, re.sub(r"[\[\]]", "", template), "")
        for i, template in pairs
    ]
