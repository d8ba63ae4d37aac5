"""Scores of an encoder on labelled videos, with those of its controls on the same splits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from smile_synth.core.errors import UserError
from smile_train.config import Count, Options, Whole
from smile_train.data.video import ReadOptions, ViewOptions
from smile_train.data.video_lists import LabelledVideo
from smile_train.data.video_splits import Split, check_split, low_shot
from smile_train.evaluate._attentive import AttentiveKind, attentive
from smile_train.evaluate._encoders import FrozenEncoder, VideoEncoder
from smile_train.evaluate._extract import Extracted, Extractor
from smile_train.evaluate._features import CONTROLS, Feature, classifier_feature, encoder_feature
from smile_train.evaluate._load import load_encoder
from smile_train.evaluate._readouts import knn, linear, retrieval
from smile_train.evaluate._results import (
    ENCODER,
    RANDOM,
    Labels,
    ScoreRow,
    Tally,
    VideoEvaluation,
    score_rows,
)
from smile_train.evaluate._temporal import TEMPORAL, variants_feature

Float32 = NDArray[np.float32]
Float = NDArray[np.float64]
Int = NDArray[np.int64]
ProtocolName = Literal["linear", "knn", "attentive", "retrieval", "order", "speed", "classifier"]
ControlName = Literal["random", "metadata", "color", "pixels", "flow", "teacher"]
CLASSIFIER = "classifier"
# By protocol and kind of features: the fraction of correct predictions of each video.
Scores = dict[str, dict[str, Float]]


class EvaluateOptions(Options):
    """What is measured, and how."""

    protocols: Annotated[list[ProtocolName], Field(min_length=1)] = ["linear"]
    """classifier (the head of a fine-tuned model); on frozen features: linear (ridge regression), knn,
    attentive, retrieval, order (of frames), speed (of frames)."""
    controls: list[ControlName] = ["random", "teacher", "metadata", "color", "pixels", "flow"]
    """random: encoders with random weights. teacher: an image model, averaged over frames. metadata: size and
    length of the file. color: time-averaged. pixels: mean colours of every frame. flow: histograms."""
    read: ViewOptions = ViewOptions()
    """How videos become clips. Features are averaged over clips and crops (multi-view test)."""
    layer: Annotated[int, Field(ge=-1)] = -1
    """Block whose tokens are used, counted from 0; -1 is after the last norm."""
    pooling: Literal["mean", "mean-std", "mean-max-min", "frames"] = "mean"
    """mean: over all tokens. mean-std, mean-max-min: also the standard deviation, or the largest and the
    smallest value, of each channel. frames: mean of each time. The protocol attentive uses all tokens."""
    attentive: AttentiveKind = "query"
    """query: attention of one learned query. block: a cross-attention block with MLP and norms."""
    shots: list[Count] = []
    """Besides the whole training set, training sets with so many videos per class."""
    shot_seeds: Count = 3
    """Random draws of each of these training sets."""
    random_encoders: Count = 3
    """Number of encoders of the control random."""
    teacher: str = "clip:tiny-clip"
    """Image model of the control teacher."""
    seed: Whole = 0
    """Of folds, random encoders, probes and the bootstrap."""


def evaluate_videos(
    encoder: FrozenEncoder,
    videos: Sequence[LabelledVideo],
    splits: Sequence[Split],
    options: EvaluateOptions | None = None,
    *,
    extractor: Extractor | None = None,
    strict: bool = False,
) -> VideoEvaluation:
    """Score an encoder and its controls on the same videos, splits and readouts.

    Under torchrun the videos are spread over the processes, and rank 0 trains the probes.

    Args:
        encoder: see `load_encoder`.
        videos: all videos.
        splits: of ``videos``.
        options: what is measured.
        extractor: computes the features; sets cache, decoding processes and ranks.
        strict: refuse files that cannot be read.

    Returns:
        The scores, on every rank.

    Raises:
        UserError: a split shares groups or tests classes without training videos, files are broken (all, or
            any if strict), an option does not fit the encoder or the number of videos.
    """
    options, extractor = options or EvaluateOptions(), extractor or Extractor()
    _check(encoder, videos, splits, options)
    run = _Run(encoder, options, extractor)
    sides = ("test",) if run.only_classifier else ("train", "test")
    used = np.unique(np.concatenate([getattr(split, side) for split in splits for side in sides]))
    found = run.extract([videos[i] for i in used], run.pooled, "features")
    if strict and found.broken:
        name, reason = found.broken[0]
        raise UserError(f"video '{name}': {reason} ({len(found.broken)} in all)")
    if not len(found.readable):
        raise UserError(f"none of {len(used)} videos could be read; the first: {found.broken[0][1]}")
    readable = [videos[i] for i in used[found.readable]]
    splits = _restricted(splits, used[found.readable], len(videos))
    if not run.only_classifier:
        _check(encoder, readable, splits, options)
    scores, left_out = run.scores(readable, splits, found)
    rows: list[ScoreRow] = []
    for protocol, correct in scores.items():
        chance = 1 / len(TEMPORAL[protocol].classes) if protocol in TEMPORAL else None
        rows += score_rows(protocol, correct, run.labels, chance)
    result = VideoEvaluation(
        encoder={"name": encoder.name, "digest": encoder.digest},
        rows=rows,
        videos=[v.name for v in readable],
        labels=[v.label for v in readable],
        groups=[v.group for v in readable],
        splits=[{"name": s.name, "train": s.train.tolist(), "test": s.test.tolist()} for s in splits],
        broken=found.broken,
        left_out=left_out,
        settings={**options.model_dump(mode="json"), "num_frames": encoder.num_frames, "side": encoder.side},
    )
    return extractor.exchange.broadcast(result)


def _check(
    encoder: FrozenEncoder, videos: Sequence[LabelledVideo], splits: Sequence[Split], options: EvaluateOptions
) -> None:
    """Check videos and options before features are computed, which may take hours."""
    encoder.check_layer(options.layer)
    classes = any(protocol not in TEMPORAL for protocol in options.protocols)
    for split in splits:
        check_split(videos, split, classes=classes)
        for shots in options.shots:
            low_shot(videos, split, shots)
    if CLASSIFIER in options.protocols:
        known = set(_class_names(encoder))
        unknown = sorted({videos[i].label for split in splits for i in split.test} - known)
        if unknown:
            raise UserError(f"protocol 'classifier': '{encoder.name}' has no class '{unknown[0]}'")


def _class_names(encoder: FrozenEncoder) -> tuple[str, ...]:
    """Return the class names of a fine-tuned encoder.

    Raises:
        UserError: the encoder has no classifier.
    """
    classifier = encoder.classifier if isinstance(encoder, VideoEncoder) else None
    if classifier is None:
        raise UserError(f"protocol 'classifier': '{encoder.name}' is not a fine-tuned model")
    return classifier.config.class_names


def _restricted(splits: Sequence[Split], kept: Int, num_videos: int) -> list[Split]:
    """Return splits as indices into the kept videos."""
    position = np.full(num_videos, -1)
    position[kept] = np.arange(len(kept))
    train_test = [(position[split.train], position[split.test]) for split in splits]
    return [
        Split(train[train >= 0], test[test >= 0], split.name)
        for split, (train, test) in zip(splits, train_test, strict=True)
    ]


class _Run:
    """The protocols of one evaluation.

    Attributes:
        only_classifier: whether no frozen features are needed.
        pooled: the features that are read from every video.
        labels: of the readable videos.
    """

    labels: Labels

    def __init__(self, encoder: FrozenEncoder, options: EvaluateOptions, extractor: Extractor) -> None:
        self._encoder, self._options, self._extractor = encoder, options, extractor
        self._read = ReadOptions.of(options.read, num_frames=encoder.num_frames, side=encoder.side)
        self.only_classifier = set(options.protocols) == {CLASSIFIER}
        self._encoders, self._controls = {}, []
        if not self.only_classifier:
            self._encoders = {ENCODER: encoder}
            if "random" in options.controls:
                randoms = [encoder.reinitialised(options.seed + k) for k in range(options.random_encoders)]
                self._encoders |= {f"{RANDOM}{k}": random for k, random in enumerate(randoms)}
            self._controls = [self._control(name) for name in options.controls if name != "random"]
        layer, pooling = options.layer, options.pooling
        self._frozen = [encoder_feature(e, layer, pooling, name) for name, e in self._encoders.items()]
        self._frozen += self._controls
        self.pooled = list(self._frozen)
        if CLASSIFIER in options.protocols and isinstance(encoder, VideoEncoder):
            self.pooled.append(classifier_feature(encoder, CLASSIFIER))

    def _control(self, name: str) -> Feature:
        if name != "teacher":
            return CONTROLS[name]
        device, teacher = self._encoder.device, self._options.teacher
        model = load_encoder(teacher, num_frames=self._encoder.num_frames, device=device)
        return encoder_feature(model, name=f"frames of {teacher}")

    def extract(
        self, videos: Sequence[LabelledVideo], features: Sequence[Feature], what: str, **more: Any
    ) -> Extracted:
        """Compute features of videos; ``more`` is passed to the extractor."""
        options = {"read": self._read, "what": what, "names": [v.name for v in videos], **more}
        return self._extractor([v.path for v in videos], features, **options)

    def scores(
        self, videos: Sequence[LabelledVideo], splits: Sequence[Split], found: Extracted
    ) -> tuple[Scores, list[tuple[str, str, str]]]:
        """Return the scores of all protocols, and (video, protocol, reason) of the videos left out.

        Every rank extracts features; the scores are computed on rank 0 and empty elsewhere.
        """
        self._videos, self._splits = videos, splits
        labels, groups = np.array([v.label for v in videos]), np.array([v.group for v in videos])
        self.labels = Labels(labels, groups, self._options.seed)
        scores: Scores = {}
        left_out: list[tuple[str, str, str]] = []
        for protocol in self._options.protocols:
            if protocol in TEMPORAL:
                left_out += self._temporal(protocol, scores)
            elif protocol == CLASSIFIER:
                if found.features:
                    scores[CLASSIFIER] = {ENCODER: self._classifier(found.features[CLASSIFIER])}
            else:
                features = self._tokens(found) if protocol == "attentive" else self._of(found, self._frozen)
                for name, x in features:
                    self._read_out(protocol, name, x, scores)
        return scores, left_out

    def _of(self, found: Extracted, features: Sequence[Feature]) -> Iterator[tuple[str, Float32]]:
        """Yield some of the extracted features, none except on rank 0."""
        yield from ((f.name, found.features[f.name]) for f in features if found.features)

    def _tokens(self, found: Extracted) -> Iterator[tuple[str, Float32]]:
        """Yield tokens of encoders, in memory-mapped files deleted after use, and the pooled controls."""
        for name, encoder in self._encoders.items():
            tokens = encoder_feature(encoder, self._options.layer, "tokens", name)
            with tempfile.TemporaryDirectory(dir=self._extractor.cache) as folder:
                what = f"tokens of {name}"
                yield from self._of(
                    self.extract(self._videos, [tokens], what, memory_map=Path(folder)), [tokens]
                )
        yield from self._of(found, self._controls)

    def _read_out(self, protocol: str, name: str, x: Float32, scores: Scores) -> None:
        """Add the scores of one protocol on one kind of features."""
        draws = self._draws() if protocol != "retrieval" else [("", self._splits)]
        for number, (remark, splits) in enumerate(draws, 1):
            tallies: dict[str, Tally] = {}
            for split in splits:
                for title, correct in self._correct(protocol, x, split).items():
                    tallies.setdefault(title, Tally(len(x))).add(split.test, correct)
            for title, tally in tallies.items():
                scores.setdefault(title + remark, {})[name] = tally.mean()
            if self._extractor.progress:
                self._extractor.progress(f"{protocol} of {name}", number, len(draws))

    def _draws(self) -> list[tuple[str, Sequence[Split]]]:
        """Return the whole training sets, then every number of shots in all its draws."""
        seeds = range(self._options.seed, self._options.seed + self._options.shot_seeds)
        draws: list[tuple[str, Sequence[Split]]] = [("", self._splits)]
        for shots in self._options.shots:
            drawn = [low_shot(self._videos, split, shots, seed=k) for split in self._splits for k in seeds]
            draws.append((f", {shots} shots", drawn))
        return draws

    def _correct(self, protocol: str, x: Float32, split: Split) -> dict[str, NDArray[np.bool_]]:
        """Return which test videos are correct, by the title of the score."""
        options, device, y = self._options, self._encoder.device, self.labels.labels
        rows = (x, y, split.train, split.test)
        if protocol == "retrieval":
            hits = retrieval(*rows, device=device)
            return {f"retrieval R@{k}": hit for k, hit in hits.items()}
        if protocol == "linear":
            predicted = linear(*rows, groups=self.labels.groups, seed=options.seed, device=device)
        elif protocol == "knn":
            predicted = knn(*rows, device=device)
        else:
            predicted = attentive(*rows, kind=options.attentive, seed=options.seed, device=device)
        return {protocol: np.asarray(predicted == y[split.test])}

    def _classifier(self, probabilities: Float32) -> Float:
        """Return which test videos the fine-tuned head classifies correctly."""
        predicted = np.array(_class_names(self._encoder))[probabilities.argmax(1)]
        tally = Tally(len(self._videos))
        for split in self._splits:
            tally.add(split.test, predicted[split.test] == self.labels.labels[split.test])
        return tally.mean()

    def _temporal(self, protocol: str, scores: Scores) -> list[tuple[str, str, str]]:
        """Add the scores of a temporal protocol; returns the videos that it leaves out."""
        task = TEMPORAL[protocol]
        variants = [variants_feature(feature, task) for feature in self._frozen]
        found = self.extract(self._videos, variants, protocol, read=task.read(self._read), skip_short=True)
        if not len(found.readable):
            raise UserError(f"protocol '{protocol}': all {len(self._videos)} videos are {found.broken[0][1]}")
        splits = _restricted(self._splits, found.readable, len(self._videos))
        for split in splits:
            if min(len(split.train), len(split.test)) == 0:
                raise UserError(
                    f"protocol '{protocol}': '{split.name}' has {len(split.train)} training and "
                    f"{len(split.test)} test videos that are long enough"
                )
        count, seed, device = len(task.classes), self._options.seed, self._encoder.device
        y = np.tile(task.classes, len(found.readable))
        groups = self.labels.groups[found.readable].repeat(count)

        def rows(videos: Int) -> Int:
            return (videos[:, None] * count + np.arange(count)).ravel()

        for name, values in self._of(found, variants):
            x, tally = values.reshape(len(y), -1), Tally(len(self._videos))
            for split in splits:
                test = rows(split.test)
                predicted = linear(x, y, rows(split.train), test, groups=groups, seed=seed, device=device)
                tally.add(found.readable[split.test], (predicted == y[test]).reshape(-1, count).mean(1))
            scores.setdefault(protocol, {})[name] = tally.mean()
        return [(name, protocol, reason) for name, reason in found.broken]
