"""Score an encoder on labelled videos, beside its controls on the same splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_synth.io.strict_yaml import StrictModel
from smile_train.config import Count, Whole
from smile_train.data.video import ReadOptions, ViewOptions, file_facts, is_short
from smile_train.data.video_lists import LabelledVideo, Split, check_split, low_shot
from smile_train.evaluate._encoders import FrozenEncoder, VideoEncoder, load_encoder
from smile_train.evaluate._extract import PLAIN, EncoderFeature, Extracted, Feature, Pooling, extract
from smile_train.evaluate._protocols import PROTOCOLS, Protocol, linear, retrieval
from smile_train.evaluate._scores import Difference, group_interval, paired_difference
from smile_train.evaluate._temporal import TEMPORAL
from smile_train.training.finetune import FinetuneOptions, finetune

Float32 = NDArray[np.float32]
Float = NDArray[np.float64]
Progress = Callable[[int, int], None]
ProtocolName = Literal["linear", "knn", "attentive", "retrieval", "finetune", "order", "speed"]
RANDOM, TOO_SHORT = "random encoders", "too short"
SCHEMA = 1


class EvaluateOptions(StrictModel):
    """What is measured, and how.

    Attributes:
        protocols: linear (ridge), knn, attentive, retrieval, finetune, order and speed (of the frames).
        read: how videos become clips; ``clips`` and ``crops`` are those of multi-view testing.
        layer: block whose tokens are read, counted from 0; -1 is after the last norm.
        pooling: mean over all tokens, or frames, which keeps the times apart. The attentive probe reads all
            tokens whatever stands here.
        shots: besides the whole training set, subsets with so many videos a class; low-shot.
        shot_seeds: how often each of these is drawn.
        random_encoders: randomly initialised encoders of the same shape.
        teacher: an image model whose frame features, averaged, are a control; null is none.
        finetune: of the protocol finetune.
        seed: of folds, probes and the bootstrap.
    """

    protocols: Annotated[list[ProtocolName], Field(min_length=1)] = ["linear"]
    read: ViewOptions = ViewOptions()
    layer: Annotated[int, Field(ge=-1)] = -1
    pooling: Literal["mean", "frames"] = "mean"
    shots: list[Count] = []
    shot_seeds: Count = 3
    random_encoders: Whole = 3
    teacher: str | None = "clip:tiny-clip"
    finetune: FinetuneOptions = FinetuneOptions()
    seed: Whole = 0


@dataclass(frozen=True)
class ScoreRow:
    """One score.

    Attributes:
        protocol: and what it is asked, for example ``linear, 5 shots``.
        features: what it is answered from.
        accuracy: over test videos; those of several folds or draws together.
        low, high: 95 % bootstrap interval over groups.
        per_class: mean of the classes' accuracies.
        chance: the share of the most frequent class among the test videos; NaN where it says nothing.
        num_videos, num_groups: tested.
        margin: encoder minus random encoders, paired by video; for the encoder only.
        by_video: share of right answers by video, in the order of `VideoEvaluation.videos`; NaN where it
            was never tested.
        by_seed: accuracy of each random encoder; for their row only.
    """

    protocol: str
    features: str
    accuracy: float
    low: float
    high: float
    per_class: float
    chance: float
    num_videos: int
    num_groups: int
    margin: Difference | None
    by_video: list[float] = field(repr=False)
    by_seed: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class VideoEvaluation:
    """All scores of one encoder and its controls.

    Attributes:
        encoder: its name and digest.
        rows: one per protocol and kind of features.
        videos, labels, groups: one per readable video.
        splits: names and sizes.
        broken: (video, reason) of files that could not be read.
        left_out: (video, protocol, reason) that a question about time leaves out: too short for it, or broken
            where only it looks.
        settings: everything the scores depend on, beside videos and weights.
    """

    encoder: dict[str, str]
    rows: list[ScoreRow]
    videos: list[str]
    labels: list[str]
    groups: list[str]
    splits: list[dict[str, Any]]
    broken: list[tuple[str, str]]
    left_out: list[tuple[str, str, str]]
    settings: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write as JSON; NaN becomes null."""
        content = {"schema": SCHEMA, **asdict(self)}
        text = json.dumps(_without_nan(content), indent=1, allow_nan=False)
        write_bytes(Path(path), (text + "\n").encode())


def evaluate_videos(
    encoder: FrozenEncoder,
    videos: Sequence[LabelledVideo],
    splits: Sequence[Split],
    options: EvaluateOptions | None = None,
    *,
    cache: Path | None = None,
    workers: int = 1,
    strict: bool = False,
    stage: Callable[[str, int, int], None] | None = None,
) -> VideoEvaluation:
    """Score an encoder and its controls on the same videos, splits and readouts.

    Controls of every frozen protocol: random encoders of the same shape, the file's size and length alone,
    time-averaged colour, mean colours of every frame, flow histograms, and the frame features of an image
    model averaged. Fine-tuning has training from scratch, and the same features without a video encoder,
    read off by the linear probe.

    Args:
        encoder: see `load_encoder`.
        videos: the set.
        splits: of it; a video that several of them test counts by its mean.
        options: what is measured.
        cache: folder for features; see `extract`.
        workers: processes that decode.
        strict: refuse a set with files that cannot be read.
        stage: called with (what is being done, done, in all).

    Raises:
        UserError: a split shares groups or tests classes it never showed, broken files (all, or any when
            strict), too few videos for a request.
    """
    options = options or EvaluateOptions()
    classes = any(protocol not in TEMPORAL for protocol in options.protocols)
    # What cannot be done is said before features are computed for minutes.
    for split in splits:
        check_split(videos, split, classes=classes)
        for shots in options.shots:
            low_shot(videos, split, shots)
    if "finetune" in options.protocols and not isinstance(encoder, VideoEncoder):
        raise UserError(f"protocol 'finetune': '{encoder.name}' is no video encoder of ours")
    read = ReadOptions.of(options.read, num_frames=encoder.num_frames, side=encoder.side)
    run = _Run(list(videos), options, read, cache, workers, stage or (lambda what, done, total: None))
    randoms = [encoder.reinitialised(options.seed + k) for k in range(options.random_encoders)]
    features = run.features(encoder, randoms, options.pooling)
    everything = run.extract("features", features, read)
    if strict and everything.broken:
        name, reason = everything.broken[0]
        raise UserError(f"video '{name}': {reason} ({len(everything.broken)} in all)")
    if not len(everything.readable):
        raise UserError(f"none of {len(videos)} videos could be read; the first: {everything.broken[0][1]}")
    kept = run.restrict(everything.readable, splits, classes)
    rows: list[ScoreRow] = []
    left_out: list[tuple[str, str, str]] = []
    for protocol in options.protocols:
        if protocol in ("linear", "knn"):
            rows += run.probed(protocol, everything.features.items(), kept)
        elif protocol == "attentive":
            tokens = run.features(encoder, randoms, "tokens")
            rows += run.probed(protocol, run.with_tokens(everything, tokens), kept)
        elif protocol == "retrieval":
            rows += run.retrieved(everything.features, kept)
        elif protocol == "finetune":
            rows += run.finetuned(encoder, randoms, everything, kept)
        else:
            found, short = run.temporal(protocol, features, everything.readable, kept)
            rows += found
            left_out += short
    chosen = [run.videos[int(i)] for i in everything.readable]
    return VideoEvaluation(
        encoder={"name": encoder.name, "digest": encoder.digest},
        rows=rows,
        videos=[v.name for v in chosen],
        labels=[v.label for v in chosen],
        groups=[v.group for v in chosen],
        splits=[{"name": s.name, "train": s.train.tolist(), "test": s.test.tolist()} for s in kept],
        broken=everything.broken,
        left_out=left_out,
        settings={**options.model_dump(mode="json"), "num_frames": read.num_frames, "side": read.side},
    )


class _Run:
    """What all protocols of one evaluation share."""

    def __init__(
        self,
        videos: list[LabelledVideo],
        options: EvaluateOptions,
        read: ReadOptions,
        cache: Path | None,
        workers: int,
        stage: Callable[[str, int, int], None],
    ) -> None:
        self.videos, self.options, self.read = videos, options, read
        self.cache, self.workers, self.stage = cache, workers, stage
        self.labels = self.groups = np.array([], np.str_)

    def features(
        self, encoder: FrozenEncoder, randoms: Sequence[FrozenEncoder], pooling: Pooling
    ) -> list[Feature]:
        """Return the encoder's features and those of its controls."""
        layer = self.options.layer
        found: list[Feature] = [EncoderFeature(encoder, layer, pooling)]
        found += [EncoderFeature(r, layer, pooling, f"random {k}") for k, r in enumerate(randoms)]
        if self.options.teacher:
            teacher = load_encoder(self.options.teacher, num_frames=encoder.num_frames, device=encoder.device)
            found.append(EncoderFeature(teacher, name=f"frames of {self.options.teacher}"))
        return [*found, *PLAIN]

    def extract(
        self,
        what: str,
        features: Sequence[Feature],
        read: ReadOptions,
        only: NDArray[np.int64] | None = None,
    ) -> Extracted:
        """Extract features of all videos or some."""
        chosen = self.videos if only is None else [self.videos[int(i)] for i in only]
        return extract(
            [v.path for v in chosen], features, read, cache=self.cache, workers=self.workers,
            names=[v.name for v in chosen], progress=lambda done, total: self.stage(what, done, total),
        )  # fmt: skip

    def with_tokens(
        self, everything: Extracted, features: Sequence[Feature]
    ) -> Iterator[tuple[str, Float32]]:
        """Yield all features by name, encoders' as tokens: those of one encoder are in memory at a time."""
        tokens = {f.name: f for f in features if isinstance(f, EncoderFeature) and f.pooling == "tokens"}
        for name, pooled in everything.features.items():
            if name not in tokens:
                yield name, pooled
                continue
            found = self.extract(f"tokens of {name}", [tokens[name]], self.read, only=everything.readable)
            yield name, found.features[name]

    def restrict(self, readable: NDArray[np.int64], splits: Sequence[Split], classes: bool) -> list[Split]:
        """Return the splits in places of readable videos, and check what is left of them."""
        place = np.full(len(self.videos), -1)
        place[readable] = np.arange(len(readable))
        self.labels = np.array([self.videos[int(i)].label for i in readable])
        self.groups = np.array([self.videos[int(i)].group for i in readable])
        kept = []
        for split in splits:
            train, test = (place[side][place[side] >= 0] for side in (split.train, split.test))
            kept.append(Split(train, test, split.name))
            check_split([self.videos[int(i)] for i in readable], kept[-1], classes=classes)
        return kept

    def _draws(self, splits: Sequence[Split]) -> list[tuple[str, list[Split]]]:
        """Return the whole training sets, then every number of shots in all its draws."""
        videos = [
            LabelledVideo(Path(), str(k), str(label), str(group))
            for k, (label, group) in enumerate(zip(self.labels, self.groups, strict=True))
        ]
        options = self.options
        found = [("", list(splits))]
        for shots in options.shots:
            drawn = [
                low_shot(videos, split, shots, seed=options.seed + k)
                for split in splits
                for k in range(options.shot_seeds)
            ]
            found.append((f", {shots} shots", drawn))
        return found

    def probed(
        self, protocol: str, values: Iterable[tuple[str, Float32]], splits: Sequence[Split]
    ) -> list[ScoreRow]:
        """Return the rows of a probe on frozen features."""
        draws = self._draws(splits)
        right: dict[str, dict[str, Float]] = {remark: {} for remark, _ in draws}
        for name, x in values:
            for number, (remark, drawn) in enumerate(draws):
                right[remark][name] = self._answered(PROTOCOLS[protocol], x, drawn)
                self.stage(f"{protocol} of {name}", number + 1, len(draws))
        return [row for remark, scores in right.items() for row in self._rows(protocol + remark, scores)]

    def _answered(self, probe: Protocol, x: Float32, splits: Sequence[Split]) -> Float:
        tally = _Tally(len(self.labels))
        for split in splits:
            train, test = split.train, split.test
            answers = probe(x[train], self.labels[train], self.groups[train], x[test], self.options.seed)
            tally.add(test, answers == self.labels[test])
        return tally.mean()

    def retrieved(self, values: dict[str, Float32], splits: Sequence[Split]) -> list[ScoreRow]:
        """Return R@k: test videos ask, training videos answer."""
        right: dict[int, dict[str, Float]] = {}
        for name, x in values.items():
            tallies: dict[int, _Tally] = {}
            for split in splits:
                found = retrieval(
                    x[split.train], self.labels[split.train], x[split.test], self.labels[split.test]
                )
                for k, hit in found.items():
                    tallies.setdefault(k, _Tally(len(self.labels))).add(split.test, hit)
            for k, tally in tallies.items():
                right.setdefault(k, {})[name] = tally.mean()
        return [row for k, scores in right.items() for row in self._rows(f"retrieval R@{k}", scores)]

    def finetuned(
        self,
        encoder: FrozenEncoder,
        randoms: Sequence[FrozenEncoder],
        everything: Extracted,
        splits: Sequence[Split],
    ) -> list[ScoreRow]:
        """Return the rows of fine-tuning: from the encoder's weights, from scratch, and linear ones."""
        paths = [self.videos[int(i)].path for i in everything.readable]
        rows = []
        for remark, drawn in self._draws(splits):
            right: dict[str, Float] = {}
            for name, start in {
                "encoder": encoder,
                **{f"random {k}": r for k, r in enumerate(randoms)},
            }.items():
                assert isinstance(start, VideoEncoder)
                tally = _Tally(len(paths))
                for number, split in enumerate(drawn, 1):
                    what = f"finetune {name}, {number}/{len(drawn)}"
                    answers = finetune(
                        start, [paths[i] for i in split.train], self.labels[split.train],
                        [paths[i] for i in split.test], self.read, self.options.finetune,
                        seed=self.options.seed,
                        progress=partial(self.stage, what),
                    )  # fmt: skip
                    tally.add(split.test, answers == self.labels[split.test])
                right[name] = tally.mean()
            for name, x in everything.features.items():
                if name not in right:  # has no weights that could be trained
                    right[f"{name}, linear"] = self._answered(linear, x, drawn)
            rows += self._rows(f"finetune{remark}", right)
        return rows

    def temporal(
        self,
        protocol: str,
        features: Sequence[Feature],
        readable: NDArray[np.int64],
        splits: Sequence[Split],
    ) -> tuple[list[ScoreRow], list[tuple[str, str, str]]]:
        """Return the rows of a question about time, and the videos that it leaves out."""
        kind = TEMPORAL[protocol]
        read = kind.read(self.read)
        if read.clips == 0:
            read = read.model_copy(update={"clips": 1})
        names = [self.videos[int(i)].name for i in readable]
        long = np.array([not is_short(file_facts(self.videos[int(i)].path), read) for i in readable])
        left_out = [(name, protocol, TOO_SHORT) for name, fits in zip(names, long, strict=True) if not fits]
        if not long.any():
            raise UserError(f"protocol '{protocol}': all {len(long)} videos are too short for it")
        found = self.extract(protocol, [kind(f) for f in features], read, only=readable[long])
        # Where each video's features are; some may be broken where only this question looks.
        place = np.full(len(readable), -1)
        place[np.flatnonzero(long)[found.readable]] = np.arange(len(found.readable))
        long = place >= 0
        left_out += [(name, protocol, reason) for name, reason in found.broken]
        asked = np.array(kind.answers)
        right: dict[str, Float] = {}
        for name, values in found.features.items():
            tally = _Tally(len(readable))
            for split in splits:
                sides = [side[long[side]] for side in (split.train, split.test)]
                if min(map(len, sides)) == 0:
                    raise UserError(
                        f"protocol '{protocol}': '{split.name}' has {len(sides[0])} training and "
                        f"{len(sides[1])} test videos that are long enough"
                    )
                (train_x, train_y, groups), (test_x, test_y, _) = (
                    (
                        values[place[side]].reshape(len(side) * len(asked), -1),
                        np.tile(asked, len(side)),
                        self.groups[side].repeat(len(asked)),
                    )
                    for side in sides
                )
                answers = linear(train_x, train_y, groups, test_x, self.options.seed)
                tally.add(sides[1], (answers == test_y).reshape(-1, len(asked)).mean(1))
            right[name] = tally.mean()
        return self._rows(protocol, right, chance=1 / len(asked)), left_out

    def _rows(self, protocol: str, right: dict[str, Float], chance: float | None = None) -> list[ScoreRow]:
        randoms = [name for name in right if name.startswith("random ")]
        average = np.stack([right[name] for name in randoms]).mean(0) if randoms else None
        rows = [self._row(protocol, "encoder", right["encoder"], chance)]
        if average is not None:
            tested = ~np.isnan(average)
            seed, groups = self.options.seed, self.groups[tested]
            margin = paired_difference(right["encoder"][tested], average[tested], groups, seed=seed)
            rows[0] = self._row(protocol, "encoder", right["encoder"], chance, margin=margin)
            name = f"{RANDOM} ({len(randoms)})"
            by_seed = [float(np.nanmean(right[r])) for r in randoms]
            rows.append(self._row(protocol, name, average, chance, by_seed=by_seed))
        plain = [name for name in right if name != "encoder" and name not in randoms]
        return rows + [self._row(protocol, name, right[name], chance) for name in plain]

    def _row(
        self,
        protocol: str,
        features: str,
        right: Float,
        chance: float | None,
        *,
        margin: Difference | None = None,
        by_seed: Sequence[float] = (),
    ) -> ScoreRow:
        tested = ~np.isnan(right)
        values, labels, groups = right[tested], self.labels[tested], self.groups[tested]
        low, high = group_interval(values, groups, seed=self.options.seed)
        counts = np.unique(labels, return_counts=True)[1]
        most = float(counts.max() / len(labels)) if chance is None else chance
        return ScoreRow(
            protocol=protocol,
            features=features,
            accuracy=float(values.mean()),
            low=low,
            high=high,
            per_class=float(np.mean([values[labels == label].mean() for label in np.unique(labels)])),
            chance=float("nan") if protocol.startswith("retrieval") else most,
            num_videos=len(values),
            num_groups=len(np.unique(groups)),
            margin=margin,
            by_video=right.tolist(),
            by_seed=list(by_seed),
        )


class _Tally:
    """Right answers by video, averaged over how often it was tested."""

    def __init__(self, num_videos: int) -> None:
        self.sums, self.counts = np.zeros(num_videos), np.zeros(num_videos)

    def add(self, test: NDArray[np.int64], right: NDArray[np.generic]) -> None:
        np.add.at(self.sums, test, np.asarray(right, np.float64))
        np.add.at(self.counts, test, 1)

    def mean(self) -> Float:
        """Return the mean of each; NaN where a video was never tested."""
        empty = np.full(len(self.sums), np.nan)
        return np.asarray(np.divide(self.sums, self.counts, out=empty, where=self.counts > 0))


def compare_evaluations(a: str | Path, b: str | Path) -> list[tuple[str, float, float, Difference]]:
    """Compare the encoders of two saved evaluations, paired by video.

    Returns:
        (protocol, accuracy of a, accuracy of b, difference a - b) per protocol that both have.

    Raises:
        UserError: not files of `VideoEvaluation.save`, or of other videos, splits or settings.
    """
    first, second = (_read_saved(Path(p)) for p in (a, b))
    for key, what in (("videos", "videos"), ("groups", "groups"), ("splits", "splits"), ("labels", "labels")):
        if first[key] != second[key]:
            raise UserError(f"'{a}' and '{b}': are of different {what}; evaluate both on the same")
    same = {"protocols", "random_encoders", "teacher", "num_frames", "side", "layer"}
    different = sorted(
        k for k in first["settings"] if k not in same and first["settings"][k] != second["settings"].get(k)
    )
    if different:
        raise UserError(f"'{a}' and '{b}': were made with different settings: {', '.join(different)}")
    scores = [
        {row["protocol"]: row for row in content["rows"] if row["features"] == "encoder"}
        for content in (first, second)
    ]
    common = [name for name in scores[0] if name in scores[1]]
    if not common:
        raise UserError(f"'{a}' and '{b}': have no protocol in common")
    groups = np.array(first["groups"])
    results = []
    for name in common:
        values = [np.array(s[name]["by_video"], np.float64) for s in scores]  # null becomes NaN
        tested = ~np.isnan(values[0]) & ~np.isnan(values[1])
        difference = paired_difference(
            values[0][tested], values[1][tested], groups[tested], seed=first["settings"]["seed"]
        )
        results.append((name, scores[0][name]["accuracy"], scores[1][name]["accuracy"], difference))
    return results


def _read_saved(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise KeyError
    except OSError as error:
        raise UserError(f"'{path}': cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"'{path}': not a file of smile-train evaluate") from None
    return content


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
