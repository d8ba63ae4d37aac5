"""Find what looks wrong with clips."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from smile_synth.core.errors import counted
from smile_synth.recipe import Recipe
from smile_synth.visualize._measure import ClipMeasure
from smile_synth.visualize._source import Fault
from smile_synth.visualize._statistics import check_recipe

_SEVERITIES = ("error", "warning", "note")
# Colours of a clip count as clipped above this share of values at 0 or 255.
CLIPPED_SHARE = 0.25
# A class counts as rare or dominant by this ratio to the median class, once there are enough objects.
IMBALANCE = 10.0
# Bits of 192 in which the hashes of two near-duplicates may differ.
NEAR_BITS = 6


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at.

    Attributes:
        severity: ``error``: unusable; ``warning``: looks wrong; ``note``: worth a look.
        kind: a short name.
        text: one sentence with numbers.
        indices: clips that it is about; empty: all of them.
    """

    severity: Literal["error", "warning", "note"]
    kind: str
    text: str
    indices: tuple[int, ...] = ()


def find_problems(
    clips: Sequence[ClipMeasure], recipe: Recipe | None = None, faults: Sequence[Fault] = ()
) -> list[Finding]:
    """Find what is wrong, the worst first: files, empty clips, hidden objects, colours, classes, duplicates.

    Args:
        clips: measured clips.
        recipe: what they were drawn from; None: not known.
        faults: of the source as a whole.
    """
    findings = []
    for kind in dict.fromkeys(fault.kind for fault in faults):
        first, *more = [fault.text for fault in faults if fault.kind == kind]
        findings.append(Finding("error", kind, f"{first}{f' and {len(more)} more' if more else ''}."))
    if not clips:
        return [*findings, Finding("note", "no clips", "The source has no clips.")]
    findings += _files(clips)
    findings += _empty(clips, recipe)
    findings += _still(clips)
    clipped = [clip.index for clip in clips if clip.clipped > CLIPPED_SHARE]
    if clipped:
        text = (
            f"{counted(len(clipped), 'clip')} with more than {CLIPPED_SHARE:.0%} of the values at 0 or 255."
        )
        findings.append(Finding("warning", "clipped colours", text, tuple(clipped)))
    findings += _classes(clips)
    findings += _duplicates(clips)
    if recipe is not None:
        findings += _recipe_differences(recipe, clips)
    return sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))


def _files(clips: Sequence[ClipMeasure]) -> list[Finding]:
    by_kind: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for clip in clips:
        for fault in clip.faults:
            by_kind[fault.kind].append((clip.index, fault.text))
    return [
        Finding(
            "error",
            kind,
            f"{counted(len(items), 'clip')}; the first: {items[0][1]}.",
            _unique(i for i, _ in items),
        )
        for kind, items in sorted(by_kind.items())
    ]


def _empty(clips: Sequence[ClipMeasure], recipe: Recipe | None) -> list[Finding]:
    out = []
    labelled = [clip for clip in clips if clip.labelled]
    empty = [c.index for c in labelled if not any(item.ever_visible for item in c.objects)]
    may_be_empty = recipe is not None and recipe.objects.count[0] == 0 and not recipe.mixture
    if empty and not may_be_empty:
        text = f"{counted(len(empty), 'clip')} without any visible object."
        out.append(Finding("warning", "empty clips", text, tuple(empty)))
    hidden = [c.index for c in labelled for item in c.objects if not item.ever_visible]
    if hidden:
        text = f"{len(hidden)} of {sum(len(c.objects) for c in labelled)} objects are never visible."
        out.append(Finding("warning", "objects never visible", text, _unique(hidden)))
    return out


def _still(clips: Sequence[ClipMeasure]) -> list[Finding]:
    still = [clip for clip in clips if clip.still]
    moving = [c.index for c in still if c.labelled and any(item.speed > 0.05 for item in c.objects)]
    if moving:
        text = f"{counted(len(moving), 'clip')} whose labels move while all frames are equal."
        return [Finding("warning", "frozen frames", text, tuple(moving))]
    if still:
        text = f"{counted(len(still), 'clip')} in which nothing moves."
        return [Finding("note", "still clips", text, tuple(clip.index for clip in still))]
    return []


def _classes(clips: Sequence[ClipMeasure]) -> list[Finding]:
    counts = Counter(item.class_name for clip in clips for item in clip.objects)
    if len(counts) < 2 or counts.total() < 10 * len(counts):
        return []  # too few objects to distinguish imbalance from chance
    typical = float(np.median(list(counts.values())))
    out = []
    name, count = counts.most_common(1)[0]
    if count > IMBALANCE * typical:
        text = f"'{name}' has {count} objects, the median class {typical:g}."
        out.append(Finding("warning", "class imbalance", text))
    rare = [name for name, count in counts.items() if count * IMBALANCE < typical]
    if rare:
        text = (
            f"{len(rare)} classes have less than a tenth of the median class: '{rare[0]}' {counts[rare[0]]}."
        )
        out.append(Finding("warning", "rare classes", text))
    return out


def _duplicates(clips: Sequence[ClipMeasure]) -> list[Finding]:
    groups: dict[str, list[int]] = defaultdict(list)
    for clip in clips:
        if clip.digest:
            groups[clip.digest].append(clip.index)
    same = [group for group in groups.values() if len(group) > 1]
    out = []
    if same:
        count, example = (
            counted(sum(len(group) - 1 for group in same), "clip"),
            ", ".join(map(str, same[0][:5])),
        )
        text = f"{count} with the same pixels as another one, for example {example}."
        out.append(Finding("warning", "duplicates", text, _unique(i for group in same for i in group)))
    near = near_duplicates([clip for clip in clips if len(groups.get(clip.digest, ())) == 1])
    if near:
        a, b = near[0]
        text = f"{len(near)} pairs of clips look nearly the same, for example {a} and {b}."
        out.append(Finding("note", "near-duplicates", text, _unique(i for pair in near for i in pair)))
    return out


def near_duplicates(clips: Sequence[ClipMeasure]) -> list[tuple[int, int]]:
    """Return pairs of clips whose hashes differ in up to `NEAR_BITS` bits; plain clips are left out."""
    hashed = [(clip.index, clip.difference_hash) for clip in clips if clip.difference_hash is not None]
    if len(hashed) < 2:
        return []
    bits = np.unpackbits(np.stack([value for _, value in hashed]), axis=1)
    textured = np.flatnonzero((bits.mean(axis=1) > 0.2) & (bits.mean(axis=1) < 0.8))
    pairs = []
    for at, row in enumerate(textured[:-1]):
        others = textured[at + 1 :]
        close = others[(bits[others] != bits[row]).sum(axis=1) <= NEAR_BITS]
        pairs += [(hashed[row][0], hashed[other][0]) for other in close]
    return pairs


def _recipe_differences(recipe: Recipe, clips: Sequence[ClipMeasure]) -> list[Finding]:
    out = []
    for check in check_recipe(recipe, clips):
        if check.inside >= 1:
            continue
        if check.is_share:
            share = float(check.measured[0])
            text = f"{check.key}: expected {check.low:.1%}, found {share:.1%} of {check.count}."
            out.append(Finding("warning", "share differs from the recipe", text))
        else:
            text = (
                f"{check.key}: {1 - check.inside:.1%} of {check.count} values are outside "
                f"{check.low:g} .. {check.high:g}."
            )
            out.append(Finding("warning", "outside the recipe's range", text))
    return out


def _unique(indices: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(indices))
