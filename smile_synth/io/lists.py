"""Read lists of files as other tools write them: a path per line, often with a label, or a table."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smile_synth.core.errors import UserError
from smile_synth.io.matching import match_files
from smile_synth.io.notices import notice

# Names of columns, the first is preferred.
_PATHS = (
    "path", "video_path", "clip_path", "file_path", "filepath", "filename", "file_name", "file", "video",
    "video_name", "clip_name", "clip", "name", "youtube_id", "video_id", "id",
)  # fmt: skip
_LABELS = (
    "label", "class", "class_name", "label_name", "category", "action", "template", "tag", "target",
    "label_id", "class_id", "class_index", "class_idx",
)  # fmt: skip
_OTHERS = {
    "", "unnamed: 0", "index", "frames", "num_frames", "total_frames", "n_frames", "start", "end",
    "time_start", "time_end", "split", "subset", "is_cc", "duration", "fps", "width", "height", "shape",
    "format",
}  # fmt: skip
_SEPARATORS = "\t,;"
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")
_NUMBER = r"-?\d+(?:\.0+)?"
_QUOTED = re.compile(r"""(["'])((?:(?!\1).|\1\1)+)\1(?:\s*[,;]\s*|\s+|$)(.*)""")


@dataclass(frozen=True)
class Row:
    """One entry of a list.

    Attributes:
        line: its number in the file, from 1.
        path: as written, without quotes.
        label: as text; empty where there is none. Whole numbers have no leading zeros and no decimals.
        columns: all values by name in lower case, for a table with a first line of names.
    """

    line: int
    path: str
    label: str
    columns: dict[str, str]


def read_text(path: Path, what: str) -> str:
    """Return the text of a list in UTF-8, or UTF-16 with a byte order mark.

    Args:
        path: the file.
        what: the kind of list, for messages.

    Raises:
        UserError: the file cannot be read, or is not such text.
    """
    try:
        data = path.read_bytes()
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except OSError as error:
        raise UserError(f"{what} '{path}': cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{what} '{path}': cannot be read as text: line {line} is not UTF-8; expected a folder or a text "
            "file of paths"
        ) from None
    if "\0" in text:
        raise UserError(f"{what} '{path}': cannot be read as text; expected a folder or a text file of paths")
    return text


def read_rows(path: Path, suffixes: Sequence[str], what: str = "list") -> list[Row]:
    """Return the entries of a list; empty lines and lines that start with # are left out.

    A line is a path, then a label after a tab, a comma, a semicolon or spaces. A number between them is the
    number of frames. Paths with spaces or separators may be in quotes, and need none if they end in a known
    suffix. A first line of column names is recognised.

    Args:
        path: the file.
        suffixes: of the listed files.
        what: see `read_text`.

    Raises:
        UserError: see `read_text`; no entry, or a row of a table with missing columns.
    """
    text = read_text(path, what)
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1)]
    lines = [(n, line) for n, line in lines if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{what} '{path}': is empty")
    ends_in_suffix = re.compile(
        rf"(.*(?:{'|'.join(map(re.escape, suffixes))}))(?:\s*[{_SEPARATORS}]\s*|\s+|$)(.*)", re.IGNORECASE
    )
    found = _header(lines[0][1])
    if found is None:
        return [_row(n, line, ends_in_suffix) for n, line in lines]
    separator, names = found
    if separator != " ":
        # A quoted value may contain line breaks.
        start = text.index(lines[0][1])
        body = io.StringIO(text[start:], newline="")
        before = text[:start].count("\n")
        try:
            reader = csv.reader(body, delimiter=separator, skipinitialspace=True)
            cells = [(before + reader.line_num, [cell.strip() for cell in row]) for row in reader]
        except csv.Error as error:
            raise UserError(f"{what} '{path}': cannot be read as a table: {error}") from None
    else:
        cells = [(n, line.split()) for n, line in lines]
    by_line = dict(lines)
    key, label_key = (_first(group, names) for group in (_PATHS, _LABELS))
    rows = []
    for n, values in cells[1:]:
        if len(values) == len(names):
            columns = dict(zip(names, values, strict=True))
            rows.append(Row(n, columns[key], _label(columns.get(label_key, "")), columns))
        elif any(values) and names[0] == key:  # a separator inside a path
            rows.append(_row(n, by_line.get(n, separator.join(values)), ends_in_suffix))
        elif any(values):
            raise UserError(f"{path}:{n}: has {len(values)} columns, the first line has {len(names)}")
    if not rows:
        raise UserError(f"{what} '{path}': is empty below its first line")
    return rows


def listed_files(path: Path, root: Path, names: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    r"""Return the names of a list's files as they are below ``root``; files may be missing.

    ``/`` replaces ``\`` if only that file exists. If the first absolute path does not exist, the absolute
    paths were written on another machine: their files are found by the end of the name, and a notice says
    so; see `smile_synth.io.matching.match_files`.

    Args:
        path: the list.
        root: folder that relative names start from.
        names: as in the list.
        suffixes: of files that the list can name.
    """
    found = [_with_slashes(root, name) for name in names]
    absolute = [number for number, name in enumerate(names) if _ABSOLUTE.match(name)]
    if not absolute or (root / found[absolute[0]]).exists():
        return found
    foreign = [number for number in absolute if not (root / found[number]).exists()]
    matches = match_files(
        [[names[number]] for number in foreign], [], below=root, noun="file",
        suitable=lambda file: file.suffix.lower() in suffixes,
    )  # fmt: skip
    for place, file in matches.paths.items():
        found[foreign[place]] = file.relative_to(root).as_posix()
    if matches.note:
        notice(f"list '{path}': {matches.note}")
    return found


def _with_slashes(root: Path, name: str) -> str:
    other = name.replace("\\", "/")
    return other if other != name and not (root / name).exists() and (root / other).exists() else name


def _header(line: str) -> tuple[str, list[str]] | None:
    """Return separator and names of columns in lower case if a line holds names of columns."""
    for separator in (*_SEPARATORS, " "):
        cells = line.split() if separator == " " else next(csv.reader([line], delimiter=separator))
        names = [cell.strip().lower() for cell in cells]
        has_path, has_label = (any(name in group for name in names) for group in (_PATHS, _LABELS))
        if has_path and (has_label or all(name in _OTHERS or name in _PATHS for name in names)):
            return separator, names
    return None


def _first(group: Iterable[str], names: list[str]) -> str:
    return next((name for name in group if name in names), "")


def _row(line: int, text: str, ends_in_suffix: re.Pattern[str]) -> Row:
    """Split a line into path and label."""
    quoted = _QUOTED.fullmatch(text)
    if quoted:
        return Row(line, quoted[2].replace(quoted[1] * 2, quoted[1]), _label(quoted[3]), {})
    numbered = rf"(.+?)((?:\s*[{_SEPARATORS}\s]\s*{_NUMBER}){{1,3}})[{_SEPARATORS}\s]*"
    known = ends_in_suffix.fullmatch(text) or re.fullmatch(numbered, text)
    if known:
        return Row(line, known[1].strip(), _label(known[2]), {})
    for separator in (*_SEPARATORS, " "):
        path, found, label = text.partition(";") if separator == ";" else text.rpartition(separator)
        if found and "/" not in label:
            return Row(line, path.strip(), _label(label), {})
    return Row(line, text, "", {})


def _label(text: str) -> str:
    """Return the label in the text after a path; -1 stands for none."""
    text = text.strip(_SEPARATORS + " ")
    if re.fullmatch(rf"{_NUMBER}(?:[{_SEPARATORS}\s]+{_NUMBER}){{0,2}}", text):
        number = int(float(re.split(rf"[{_SEPARATORS}\s]+", text)[-1]))
        return "" if number == -1 else str(number)
    text = re.sub(rf"^(?:{_NUMBER}\s*[{_SEPARATORS}]\s*)+", "", text)  # numbers of frames before a name
    quoted = _QUOTED.fullmatch(text)
    return quoted[2].replace(quoted[1] * 2, quoted[1]) if quoted else text
