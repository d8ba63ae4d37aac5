"""Fine-tuning of an encoder on labelled videos, as published for VideoMAE (arXiv 2203.12602)."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_synth.core.errors import UserError
from smile_synth.core.rng import RandomStream, RandomStreams
from smile_synth.io.atomic import write_bytes
from smile_train.batch import Batch, normalise
from smile_train.config import FinetuneConfig, MixingOptions, OptimiserOptions, ViewCountOptions
from smile_train.data.augmentation import seeded
from smile_train.data.labelled_sets import read_labelled_sets
from smile_train.distributed import World, choose_device
from smile_train.models import (
    CLASSIFIER,
    CLASSIFIER_AVERAGE,
    CLASSIFIER_BEST,
    ClassifierConfig,
    VideoClassifier,
    build_classifier,
    load_model,
)
from smile_train.training.cost import Cost, cost_of
from smile_train.training.labelled_videos import (
    TEST,
    Epochs,
    LabelledVideoTask,
    Progress,
    check_size,
    encoder_fields,
    random_encoder_config,
    with_absolute_paths,
)
from smile_train.training.multi_view import accuracies, class_numbers, describe_test
from smile_train.training.trainer import LogLine, Phase, TrainResult, WeightFiles, choose_precision, train

DROP_DRAWS = "drop_path_draws"
WEIGHTS = {"last": CLASSIFIER, "best": CLASSIFIER_BEST, "average": CLASSIFIER_AVERAGE}


@dataclass(frozen=True)
class FinetuneResult(TrainResult):
    """The end of a fine-tuning.

    Attributes:
        test: content of ``test.json``; None without test videos.
    """

    test: dict[str, Any] | None


class FinetunePlan(NamedTuple):
    """The size and cost of a fine-tuning.

    Attributes:
        classifier: its config.
        num_videos: for training.
        steps: in all.
        steps_per_epoch: not rounded.
        cost: of a clip.
        clips_per_pass: clips of a forward pass in a process.
        memory_bytes: of a process.
    """

    classifier: ClassifierConfig
    num_videos: int
    steps: int
    steps_per_epoch: float
    cost: Cost
    clips_per_pass: int
    memory_bytes: int


def finetune(
    config: FinetuneConfig,
    out: str | Path,
    *,
    on_log: Callable[[LogLine], None] | None = None,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Fine-tune a classifier and test it, or continue the run in ``out``.

    Besides the files of `train`, it writes ``config.yaml``, ``classifier.safetensors``, with validation
    videos ``classifier_best.safetensors``, and with test videos ``test.json``.

    Args:
        config: the run.
        out: its folder.
        on_log: called with every line of the log.
        progress: called with (videos done, videos in all) while videos are indexed and tested.

    Raises:
        UserError: videos or weights are missing or do not fit, and as `train`.
    """
    task = FinetuneTask(config, Path(out), progress)
    result = train(task, out, on_log=on_log)
    return FinetuneResult(result.folder, result.steps, result.last, result.clips_per_second, task.test)


def plan(
    config: FinetuneConfig,
    *,
    processes: int = 1,
    num_videos: int | None = None,
    num_classes: int | None = None,
) -> FinetunePlan:
    """Compute the size and cost of a fine-tuning. No video is opened, and nothing is written.

    Args:
        config: of the run.
        processes: of the run.
        num_videos, num_classes: of the training; if both are given, the lists of videos are not read.

    Raises:
        UserError: lists or weights are missing or do not fit.
    """
    if num_videos is None or num_classes is None:
        sets = read_labelled_sets(with_absolute_paths(config).videos, seed=config.seed)
        num_videos, num_classes = len(sets.train), len(sets.classes)
    run = config.run
    if config.batch_size % (processes * run.accumulate):
        raise UserError(
            f"batch_size {config.batch_size}: must be a multiple of {processes} processes x accumulate "
            f"{run.accumulate}"
        )
    classifier = (
        random_classifier_config(config, num_classes)
        if config.start_from is None
        else build_model(config, num_classes).config
    )
    epochs = Epochs(num_videos * config.repeats, config.batch_size)
    cost = _cost(config, classifier)
    clips = config.batch_size // (processes * run.accumulate)
    shards = processes if run.parallel == "fsdp" else 1
    return FinetunePlan(
        classifier, num_videos, max(epochs.steps(config.epochs), 1), epochs.num_clips / config.batch_size,
        cost, clips, cost.memory_bytes(clips, shards=shards),
    )  # fmt: skip


class FinetuneTask(LabelledVideoTask):
    """The fine-tuning of a classifier; see `Task`.

    Attributes:
        model: is trained.
        test: content of ``test.json`` after the test.
    """

    name = "fine-tuning"
    files = WeightFiles(CLASSIFIER, CLASSIFIER_AVERAGE, CLASSIFIER_BEST)
    config: FinetuneConfig
    model: VideoClassifier
    test: dict[str, Any] | None = None

    def __init__(self, config: FinetuneConfig, out: Path, progress: Progress | None = None) -> None:
        """Open the videos and build the classifier; ``out`` keeps indices of videos."""
        super().__init__(config, out, progress)
        classes = self.sets.classes
        self.model = build_model(self.config, len(classes), classes)
        self._drop_paths = use_clip_drop_paths(self.model)
        given = config.optimiser
        options = OptimiserOptions(
            **given.model_dump(exclude={"warmup_epochs"}), warmup_steps=self.epochs.steps(given.warmup_epochs)
        )
        self._set_data(self.model.config.encoder, options)
        if self.sets.validation:
            self.validate_every = max(self.epochs.steps(config.validate_every_epochs), 1)

    def settings_of(self, world: World) -> dict[str, Any]:
        """See `Task.settings_of`. There are none; the size of a batch is checked before files are written."""
        clips = self.batch_size // (world.size * self.run.accumulate)
        if clips % 2 and _mixes(self.config.mixing):
            raise UserError(
                f"batch_size {self.batch_size}: gives {clips} clips per pass on {world.size} processes with "
                f"accumulate {self.run.accumulate}; Mixup and CutMix need an even number"
            )
        return {}

    def batches(self, phase: Phase, start_step: int, world: World) -> Generator[Batch, None, None]:
        """See `Task.batches`. The random numbers of drop path come with the batch."""
        for batch in super().batches(phase, start_step, world):
            streams = RandomStreams(self.seed, batch.indices.numpy(), "drop path")
            draws = torch.from_numpy(streams.random_float32(len(self._drop_paths)))
            labels = {**batch.labels, DROP_DRAWS: draws}
            yield Batch(batch.indices, batch.frames, labels, batch.unreadable)

    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        """See `Task.losses`."""
        inputs, targets = mix_pairs(
            normalise(batch.frames), batch.labels["class"], batch.indices, self.config.mixing,
            num_classes=len(self.sets.classes), seed=self.seed,
        )  # fmt: skip
        for number, drop_path in enumerate(self._drop_paths):
            drop_path.draws = batch.labels[DROP_DRAWS][:, number]
        yield {"loss": F.cross_entropy(model(inputs).float(), targets)}

    def validate(self, world: World) -> dict[str, float]:
        """See `Task.validate`: one centre view per video."""
        videos = self.sets.validation
        self.model.eval()
        predictions = self.predict(self.model, videos, ViewCountOptions(), world)
        scores = accuracies(predictions, class_numbers(videos, self.sets.classes))
        return {f"validation/{name}": value for name, value in scores.items()} | {"score": scores["top1"]}

    def finish(self, out: Path, world: World) -> None:
        """See `Task.finish`: test, unless ``test.json`` has the result of this test."""
        videos, options = self.sets.test, self.config.test
        self.test = self.earlier_test(out)
        if self.test is not None or not videos:
            return
        model = load_model(out / WEIGHTS[options.weights]).to(world.device)
        predictions = self.predict(model, videos, options, world, progress=self.progress)
        self.test = {**self.test_header(), **describe_test(predictions, videos, self.sets.classes)}
        if world.is_main:
            write_bytes(out / TEST, (json.dumps(self.test) + "\n").encode())

    def step_gflops(self, phase: Phase) -> float:
        """See `Task.step_gflops`."""
        return _cost(self.config, self.model.config).step_gflops


def build_model(
    config: FinetuneConfig, num_classes: int, class_names: tuple[str, ...] = ()
) -> VideoClassifier:
    """Return the classifier with its initial weights.

    Raises:
        UserError: the weights are missing, or do not fit.
    """
    generator = torch.Generator().manual_seed(config.seed)
    if config.start_from is None:
        shape = random_classifier_config(config, num_classes, class_names)
        return VideoClassifier(shape, generator=generator)
    try:
        model = build_classifier(
            config.start_from, num_classes=num_classes, generator=generator, class_names=class_names,
            head_init_scale=config.head_init_scale, **encoder_fields(config),
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"encoder: {error}") from None
    check_size(config, model.config.encoder)
    return model


def random_classifier_config(
    config: FinetuneConfig, num_classes: int, class_names: tuple[str, ...] = ()
) -> ClassifierConfig:
    """Return the configuration of a classifier with random weights; raises as `random_encoder_config`."""
    return ClassifierConfig(
        encoder=random_encoder_config(config), num_classes=num_classes,
        head_init_scale=config.head_init_scale, class_names=class_names,
    )  # fmt: skip


class ClipDropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382) with random numbers of each clip.

    timm's DropPath draws from the global generator, so its results depend on the number of processes.

    Attributes:
        draws: float32 ``[B]``, uniform in 0..1. It is set before each forward pass in training.
    """

    draws: Tensor

    def __init__(self, probability: float) -> None:
        """Store the probability that a clip's branch is dropped."""
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[B, N, C]`` with the branches of some clips set to 0, and the others scaled."""
        if not self.training:
            return x
        kept = (self.draws >= self.probability).to(x.dtype) / (1 - self.probability)
        return x * kept[:, None, None]


def use_clip_drop_paths(model: VideoClassifier) -> list[ClipDropPath]:
    """Replace timm's DropPath modules by `ClipDropPath`, and return these."""
    from timm.layers.drop import DropPath  # the import takes seconds

    found = []
    for block in model.blocks:
        for name, module in list(block.named_children()):
            if isinstance(module, DropPath):
                found.append(ClipDropPath(module.drop_prob))
                setattr(block, name, found[-1])
    return found


def mix_pairs(
    inputs: Tensor, numbers: Tensor, indices: Tensor, options: MixingOptions, *, num_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Mix pairs of clips and their targets by Mixup or CutMix.

    The pairs are clips 2k and 2k + 1, and all draws are keyed by (seed, k), so the result does not depend on
    the number of processes. timm's `Mixup` gets one pair at a time: it would mix the first clip of a batch
    with the last one.

    Args:
        inputs: float ``[B, T, 3, H, W]``; may be overwritten. B is even where clips are mixed.
        numbers: int64 ``[B]`` class numbers.
        indices: int64 ``[B]`` clip indices, from an even one on.
        options: of the mixing.
        num_classes: K.
        seed: of the run.

    Returns:
        Inputs and targets ``[B, K]``.
    """
    from timm.data.mixup import Mixup, mixup_target  # the import takes seconds

    # timm has no types for these two.
    if not _mixes(options):
        target = mixup_target(numbers, num_classes, 1.0, options.label_smoothing)  # type: ignore[no-untyped-call]
        return inputs, target
    mixup = Mixup(  # type: ignore[no-untyped-call]
        options.mixup, options.cutmix, prob=options.probability, switch_prob=options.switch_probability,
        label_smoothing=options.label_smoothing, num_classes=num_classes,
    )  # fmt: skip
    targets, inputs = [], inputs.contiguous()
    for first in range(0, len(inputs), 2):
        pair = RandomStream(seed, int(indices[first]) // 2, "mixup")
        with seeded(pair.integer(2**32)):
            # timm mixes images: the frames of a clip are its channels. The view shares the memory of inputs.
            _, target = mixup(inputs[first : first + 2].flatten(1, 2), numbers[first : first + 2])
        targets.append(target)
    return inputs, torch.cat(targets)


def _mixes(options: MixingOptions) -> bool:
    return options.probability > 0 and (options.mixup > 0 or options.cutmix > 0)


def _cost(config: FinetuneConfig, classifier: ClassifierConfig) -> Cost:
    # A run on GPUs may be planned on a machine without one.
    on_gpu = config.run.device == "cuda" or choose_device(config.run.device).type == "cuda"
    precision = choose_precision(config.run.precision, torch.device("cuda" if on_gpu else "cpu"))
    return cost_of(classifier, precision=precision, average=config.run.ema_decay > 0)
