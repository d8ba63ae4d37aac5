"""Videos and a list of them, one line ``path label`` each, as VideoMAE and mmaction2 train on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smile_synth.core.errors import UserError, check_name
from smile_synth.exporters._base import ExportedClip, Exporter, ExportSource, Values, write
from smile_synth.io.videos import encode_ffv1

_OBJECT_CLASS = "class"
_NO_VALUE = "none"
_JOINED_BY = "+"


def _write_clip(clip: ExportedClip, out: Path) -> tuple[str, str]:
    """Write the video of a clip; return its path in the folder, and the name of its class."""
    corpus = clip.source.corpus
    suffix = "mp4" if corpus.header.media == "h264" else "mkv"
    is_stored = corpus.header.media in ("h264", "ffv1")
    data = corpus.read(clip.index, suffix) if is_stored else encode_ffv1(clip.frames, corpus.header.fps)
    name = f"videos/{clip.name}.{suffix}"
    write(out / name, data)
    values = [_text(clip, value) for value in _values(clip).get(clip.source.options.label, ())]
    return name, _JOINED_BY.join(sorted(set(values))) or _NO_VALUE


def _values(clip: ExportedClip) -> Values:
    """Return the values of a clip by the names of labels: of the clip itself, or of each of its objects."""
    found: Values = {_OBJECT_CLASS: [item["class_name"] for item in clip.objects]}
    for factors in clip.object_factors:
        for name, value in factors.items():
            found.setdefault(name, []).append(value)
    return {**found, **{name: [value] for name, value in clip.factors.items()}}


def _text(clip: ExportedClip, value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        raise UserError(
            f"label '{clip.source.options.label}': is {value:g} in clip {clip.index}; a class is a text or a "
            "whole number"
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _finish(source: ExportSource, records: Iterator[Any], out: Path) -> None:
    videos, option = list[tuple[str, str]](records), source.options.label
    found = {label for _, label in videos}
    # All classes of the bank, so that two corpora of one bank have the same numbers.
    classes = sorted(found.union(source.corpus.header.classes if option == _OBJECT_CLASS else ()))
    if found == {_NO_VALUE}:
        names = {name for index in source.corpus for name in _values(ExportedClip(source, index))}
        check_name("label", option, sorted(names))
    lines = [f"{name} {classes.index(label)}\n" for name, label in videos]
    write(out / "train.csv", "".join(lines).encode())
    write(out / "classes.txt", "".join(f"{name}\n" for name in classes).encode())


LIST = Exporter("list", _write_clip, _finish)
