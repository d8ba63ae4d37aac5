"""Read lists and folders of labelled videos in the formats of their publishers."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from smile_synth.core.errors import UserError, nearest
from smile_synth.io.files import entries, other_suffixes, walk, without_splits
from smile_synth.io.lists import Row, listed_files, read_rows, read_text
from smile_synth.io.videos import SUFFIXES, is_video
from smile_train.data.frame_folders import frame_folders

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

    Without video files, every folder of numbered images is a video; see `frame_folders`.

    Raises:
        UserError: no such file or folder, or no video in it.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"videos '{source}': no such file or folder")
    files = walk(path)[0]
    found = [p for p in files if is_video(p)] or frame_folders(files)
    if not found:
        raise UserError(f"videos '{source}': holds no video ({', '.join(SUFFIXES)})")
    return found


def passed_over(source: str | Path) -> str:
    """Return the numbers of files with other suffixes in a folder of videos, for example ``"2 .txt"``."""
    root = Path(source)
    files = walk(root)[0] if root.is_dir() else []
    folders = set() if any(map(is_video, files)) else set(frame_folders(files))
    return other_suffixes([file for file in files if file.parent not in folders], SUFFIXES)


def list_videos(
    source: str | Path, *, root: str | Path | None = None, labelled: bool = True
) -> list[LabelledVideo]:
    """Return the labelled videos of a folder or a list. No video file is opened, and files may be missing.

    The format is detected automatically:

    - a folder: ``class/*.mp4`` or ``split/class/*.mp4``; the class is the folder below ``source``, or below
      folders that are all named as splits (``train``, ``val``, ``test`` ...);
    - ``.json`` of Something-Something v2: ``[{"id", "template"}, ...]``; the class is the template;
    - ``.json`` of Kinetics: ``{youtube_id: {"annotations": {"label", "segment"}}}``;
    - a table with a ``youtube_id`` column: Kinetics; the files are ``[label/]id_start_end.*`` or ``id.*``;
    - lines ``id;label``: the csv files of Something-Something and Jester;
    - other tables, and lines ``path label`` or ``path frames label`` (VideoMAE, SMILE, TSN, mmaction2, the
      trainlist of UCF101); see `smile_synth.io.lists.read_rows`. Labels are numbers or names. If no line has
      a label (the testlist of UCF101), the class is the folder of the file.

    An entry of a list is a file, or a folder of numbered images. Files with absolute paths of another machine
    are found by the end of their names, and a notice says so.

    Args:
        source: a folder or a list.
        root: folder of the paths in a list; by default the folder of the list.
        labelled: False also accepts videos outside of class folders. Their label is empty.

    Raises:
        UserError: nothing there, an unknown format, labels of two kinds, a file named twice.
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
    if allow_missing and any(v.path.exists() for v in videos):
        return
    missing = [v.name for v in videos if not v.path.exists()]
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


def _read_folder(root: Path, labelled: bool) -> list[LabelledVideo]:
    names = [path.relative_to(root).as_posix() for path in find_videos(root)]
    outside = [name for name in names if "/" not in name]
    if outside and labelled:
        raise UserError(f"videos '{root}': expected a folder per class, outside of one: {some(outside)}")
    folders = without_splits([PurePosixPath(name).parent for name in names])
    if outside or any(folder == PurePosixPath() for folder in folders):
        folders = [PurePosixPath(name).parent for name in names]
    classes = [folder.parts[0] if folder.parts else "" for folder in folders]
    return [LabelledVideo(root / n, n, label, "") for n, label in zip(names, classes, strict=True)]


def _read_list(path: Path, root: Path) -> list[LabelledVideo]:
    if path.suffix.lower() == ".json":
        return _read_json(path, read_text(path, "list"), root)
    rows = read_rows(path, SUFFIXES)
    if "youtube_id" in rows[0].columns:
        return _read_kinetics_table(path, rows, root)
    names = listed_files(path, root, [row.path for row in rows], SUFFIXES)
    files = {} if any(is_video(Path(name)) for name in names) else _by_name(root)
    labelled = [(files.get(row.path, root / name), row) for name, row in zip(names, rows, strict=True)]
    _check_labels(path, rows)
    return [
        LabelledVideo(file, row.path, _label(row.label) or file.parent.name or path.stem, "")
        for file, row in labelled
    ]


def _check_labels(path: Path, rows: Sequence[Row]) -> None:
    """Check that all entries have a label, or none, and that labels are all numbers or all names."""
    labelled = [row for row in rows if row.label]
    if labelled and len(labelled) < len(rows):
        line = next(row.line for row in rows if not row.label)
        raise UserError(f"{path}:{line}: has no label, other lines have one; expected 'path label'")
    numbered = [row.label.isdecimal() for row in labelled]
    if any(numbered) and not all(numbered):
        row = labelled[numbered.index(False)]
        raise UserError(
            f"{path}:{row.line}: label '{row.label}' is no whole number, but other labels are; expected "
            "'path label'"
        )


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


def _read_kinetics_table(path: Path, rows: Sequence[Row], root: Path) -> list[LabelledVideo]:
    if not all(row.columns.get("label") for row in rows):
        raise UserError(f"list '{path}': expected the columns label, youtube_id, time_start, time_end")
    columns = [row.columns for row in rows]
    return _kinetics(
        [(c["youtube_id"], c["label"], (c.get("time_start"), c.get("time_end"))) for c in columns], root
    )


def _kinetics(rows: Iterable[tuple[str, str, Sequence[Any]]], root: Path) -> list[LabelledVideo]:
    """Return the videos of rows (youtube_id, label, (start, end) in seconds or nothing)."""
    files = {p.stem: p for p in walk(root)[0] if is_video(p)}
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


def _label(text: str) -> str:
    """Return a label without the brackets of the templates of Something-Something v2."""
    return re.sub(r"[\[\]]", "", text)


def _something(pairs: Iterable[tuple[str, str]], root: Path) -> list[LabelledVideo]:
    """Return the videos of pairs (id, template)."""
    files = _by_name(root)
    return [LabelledVideo(files.get(i, root / f"{i}.webm"), i, _label(text), "") for i, text in pairs]


def _by_name(root: Path) -> dict[str, Path]:
    """Return the videos and folders in a folder by their name without a suffix."""
    found = entries(root)
    return {p.name if p.is_dir() else p.stem: p for p in found if is_video(p) or p.is_dir()}
