"""What looks wrong with clips, said plainly."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from smile_synth.recipe import Recipe
from smile_synth.visualize._source import Fault
from smile_synth.visualize._statistics import ClipMeasure, intentions

# A clip is called clipped above this share of values at 0 or 255.
CLIPPED_SHARE = 0.25
# A class is called rare or dominant by this ratio to the median class, once there are enough objects.
IMBALANCE = 10.0
# Bits of 192 in which the looks of two clips may differ and still count as near-duplicates.
NEAR_BITS = 6


@dataclass(frozen=True)
class Finding:
    """Something a person should look at.

    Attributes:
        severity: ``error``: cannot be used as it is; ``warning``: looks wrong; ``note``: worth knowing.
        kind: a short name.
        text: one sentence with numbers.
        indices: clips it is about; empty: all of them.
    """

    severity: Literal["error", "warning", "note"]
    kind: str
    text: str
    indices: tuple[int, ...] = ()


def find_problems(
    clips: Sequence[ClipMeasure], recipe: Recipe | None = None, faults: Sequence[Fault] = ()
) -> list[Finding]:
    """Look for what is wrong, the worst first: files, empty clips, hidden objects, colours, classes, doubles.

    Args:
        clips: as measured.
        recipe: what they were meant to be; None: not known.
        faults: of the source as a whole.
    """
    found = [Finding("error", fault.kind, f"{fault.text}.") for fault in faults]
    if not clips:
        return [*found, Finding("error", "no clips", "There is not a single clip.")]
    found += _files(clips)
    found += _empty(clips, recipe)
    found += _colors(clips)
    found += _classes(clips)
    found += _doubles(clips)
    if recipe is not None:
        found += _intent(recipe, clips)
    order = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: order[finding.severity])


def _files(clips: Sequence[ClipMeasure]) -> list[Finding]:
    by_kind: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for clip in clips:
        for fault in clip.faults:
            by_kind[fault.kind].append((clip.index, fault.text))
    return [
        Finding("error", kind, f"{_clips(len(items))}; the first: {items[0][1]}.", tuple(i for i, _ in items))
        for kind, items in sorted(by_kind.items())
    ]


def _empty(clips: Sequence[ClipMeasure], recipe: Recipe | None) -> list[Finding]:
    out = []
    wanted = recipe is None or recipe.objects.count[0] > 0 or bool(recipe.mixture)
    labelled = [clip for clip in clips if clip.labelled]
    empty = [c.index for c in labelled if not any(item.ever_visible for item in c.objects)]
    if empty and wanted:
        out.append(
            Finding(
                "warning", "empty clips", f"{_clips(len(empty))} without any visible object.", tuple(empty)
            )
        )
    hidden = [(c.index, item) for c in labelled for item in c.objects if not item.ever_visible]
    if hidden:
        text = f"{len(hidden)} of {sum(len(c.objects) for c in labelled)} objects are never visible."
        out.append(Finding("warning", "objects never visible", text, _unique(i for i, _ in hidden)))
    still = [c.index for c in clips if c.still]
    moving = [c.index for c in labelled if c.still and any(item.speed > 0.05 for item in c.objects)]
    if moving:
        text = f"{_clips(len(moving))} whose labels move while all frames are equal."
        out.append(Finding("warning", "frozen frames", text, tuple(moving)))
    elif still:
        out.append(
            Finding("note", "still clips", f"{_clips(len(still))} in which nothing moves.", tuple(still))
        )
    return out


def _colors(clips: Sequence[ClipMeasure]) -> list[Finding]:
    clipped = [clip.index for clip in clips if clip.clipped > CLIPPED_SHARE]
    if not clipped:
        return []
    text = f"{_clips(len(clipped))} with more than {CLIPPED_SHARE:.0%} of the values at 0 or 255."
    return [Finding("warning", "clipped colours", text, tuple(clipped))]


def _classes(clips: Sequence[ClipMeasure]) -> list[Finding]:
    counts = Counter(item.class_name for clip in clips for item in clip.objects)
    if len(counts) < 2 or counts.total() < 10 * len(counts):
        return []  # too few to tell chance from imbalance
    typical = float(np.median(list(counts.values())))
    out = []
    common = [name for name, count in counts.most_common() if count > IMBALANCE * typical]
    if common:
        text = f"'{common[0]}' has {counts[common[0]]} objects, the median class {typical:g}."
        out.append(Finding("warning", "class imbalance", text))
    rare = [name for name, count in counts.items() if count * IMBALANCE < typical]
    if rare:
        text = (
            f"{len(rare)} classes have less than a tenth of the median class, '{rare[0]}' {counts[rare[0]]}."
        )
        out.append(Finding("warning", "rare classes", text))
    return out


def _doubles(clips: Sequence[ClipMeasure]) -> list[Finding]:
    groups: dict[str, list[int]] = defaultdict(list)
    for clip in clips:
        if clip.digest:
            groups[clip.digest].append(clip.index)
    same = [group for group in groups.values() if len(group) > 1]
    out = []
    if same:
        count = _clips(sum(len(group) - 1 for group in same))
        text = f"{count} to the pixel as another one, for example {_list(same[0])}."
        out.append(Finding("warning", "duplicates", text, _unique(i for group in same for i in group)))
    near = near_duplicates([clip for clip in clips if len(groups.get(clip.digest, ())) == 1])
    if near:
        a, b = near[0]
        text = f"{len(near)} pairs of clips look nearly the same, for example {a} and {b}."
        out.append(Finding("note", "near-duplicates", text, _unique(i for pair in near for i in pair)))
    return out


def near_duplicates(clips: Sequence[ClipMeasure]) -> list[tuple[int, int]]:
    """Return pairs of clip indices whose looks differ in up to `NEAR_BITS` bits; plain ones do not count."""
    known = [(clip.index, clip.look) for clip in clips if clip.look is not None]
    if len(known) < 2:
        return []
    bits = np.unpackbits(np.stack([look for _, look in known]), axis=1)
    busy = np.flatnonzero((bits.mean(axis=1) > 0.2) & (bits.mean(axis=1) < 0.8))
    pairs = []
    for at, row in enumerate(busy[:-1]):
        others = busy[at + 1 :]
        close = others[(bits[others] != bits[row]).sum(axis=1) <= NEAR_BITS]
        pairs += [(known[row][0], known[other][0]) for other in close]
    return pairs


def _intent(recipe: Recipe, clips: Sequence[ClipMeasure]) -> list[Finding]:
    out = []
    for intent in intentions(recipe, clips):
        if intent.is_share and intent.inside < 1:
            got = float(intent.measured[0])
            text = f"{intent.key}: wanted {intent.low:.1%}, found {got:.1%} of {intent.count}."
            out.append(Finding("warning", "share differs from the recipe", text))
        elif not intent.is_share and intent.inside < 1:
            text = (
                f"{intent.key}: {1 - intent.inside:.1%} of {intent.count} values lie outside "
                f"{intent.low:g} .. {intent.high:g}."
            )
            out.append(Finding("warning", "outside the recipe's range", text))
    return out


def _clips(count: int) -> str:
    return f"{count} clip" if count == 1 else f"{count} clips"


def _unique(indices: object) -> tuple[int, ...]:
    return tuple(dict.fromkeys(indices))  # type: ignore[call-overload]


def _list(indices: Sequence[int]) -> str:
    return ", ".join(str(i) for i in indices[:5]) + (" ..." if len(indices) > 5 else "")
