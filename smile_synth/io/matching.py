"""Find the files that annotations and lists name, also where the names were written on another machine."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from smile_synth.core.errors import counted
from smile_synth.io.files import walk

# Label Studio writes eight hexadecimal digits before the name of an uploaded file.
UPLOAD_PREFIX = re.compile(r"[0-9a-f]{8}-(?=.)")


class Matches(NamedTuple):
    """The files of names: by position, and why the others have none."""

    paths: dict[int, Path]
    problems: dict[int, str]
    note: str


def match_files(
    wanted: Sequence[Sequence[str]],
    folders: Sequence[Path],
    *,
    below: Path,
    suitable: Callable[[Path], bool],
    noun: str = "image",
) -> Matches:
    """Find one file for each image or video, given its possible names.

    A name is first searched as it is, in all folders. Names without a file are compared again after
    `normal_parts`, with all suitable files below a folder: the file must be the only one that ends with the
    longest possible part of the name, and each file belongs to one entry only.

    Args:
        wanted: possible names of each entry, best first.
        folders: folders that the names are relative to.
        below: folder whose files are compared by the end of their names.
        suitable: whether a path is a file of the right kind, by its name.
        noun: what an entry is, for messages.
    """
    paths: dict[int, Path] = {}
    for number, names in enumerate(wanted):
        candidates = (folder / name for folder in folders for name in names)
        # os.path.isfile, unlike Path.is_file, returns False for names that the system refuses.
        path = next((path for path in candidates if os.path.isfile(path)), None)
        if path is not None:
            paths[number] = path
    problems: dict[int, str] = {}
    lost = [number for number in range(len(wanted)) if number not in paths]
    index = _index(below, suitable) if lost else {}
    found = {number: _by_tail(wanted[number], index) for number in lost}
    claims = Counter(files[0] for files in found.values() if len(files) == 1)
    claims.update(set(paths.values()))
    exact = len(paths)
    for number, files in found.items():
        if len(files) > 1:
            shown = ", ".join(path.relative_to(below).as_posix() for path in files[:2])
            problems[number] = f"ambiguous name: {len(files)} files end with it: {shown}"
        elif files and claims[files[0]] > 1:
            problems[number] = f"ambiguous name: several {noun}s end with {files[0].name}"
        elif files:
            paths[number] = files[0]
    by_tail = len(paths) - exact
    first = next((names[0] for number, names in enumerate(wanted) if number in found and number in paths), "")
    note = f"{counted(by_tail, noun)} found by the end of the name, first '{first}'" if by_tail else ""
    return Matches(paths, problems, note)


def normal_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a path in one form, whatever system or tool wrote it.

    Backslashes are separators; drives, servers, ``.`` and ``..`` are dropped; percent-encoding is decoded;
    text is in Unicode's form C without case, spaces are underscores. ``?d=`` marks a path in Label Studio's
    addresses.
    """
    if "?d=" in name:
        name = name.partition("?d=")[2]
    elif re.match(r"[a-z][a-z0-9+]+://", name):
        name = urlsplit(name).path
    name = unquote(name) if re.search(r"%[0-9A-Fa-f]{2}", name) else name
    name = unicodedata.normalize("NFC", name).casefold().replace("\\", "/").replace(" ", "_")
    return tuple(part for part in re.sub(r"^[a-z]:", "", name).split("/") if part not in ("", ".", ".."))


def _index(below: Path, suitable: Callable[[Path], bool]) -> dict[str, list[tuple[tuple[str, ...], Path]]]:
    """Return all suitable files below a folder by the last part of their names."""
    index: dict[str, list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
    for path in walk(below)[0]:
        if suitable(path):
            # A file name with a percent sign is no address.
            parts = normal_parts(path.relative_to(below).as_posix().replace("%", "%25"))
            for key in {parts[-1], UPLOAD_PREFIX.sub("", parts[-1])}:
                index[key].append((parts, path))
    return index


def _by_tail(names: Sequence[str], index: dict[str, list[tuple[tuple[str, ...], Path]]]) -> list[Path]:
    """Return the files that share the longest end with one of the names."""
    for name in names:
        parts = normal_parts(name)
        if not parts:
            continue
        files = index.get(parts[-1]) or index.get(UPLOAD_PREFIX.sub("", parts[-1])) or []
        if files:
            lengths = [_common_end(parts[:-1], found[:-1]) for found, _ in files]
            return [path for (_, path), length in zip(files, lengths, strict=True) if length == max(lengths)]
    return []


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
