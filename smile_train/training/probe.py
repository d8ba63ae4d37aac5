"""Linear and attentive probes: many heads, trained together on the tokens of one frozen encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smile_synth.core.errors import UserError
from smile_synth.io.atomic import write_bytes
from smile_train.batch import Batch, normalise
from smile_train.config import OptimiserOptions, ProbeConfig, ViewCountOptions
from smile_train.distributed import World
from smile_train.models import AttentiveHead, ClassifierConfig, Encoder, build_encoder
from smile_train.training.cost import cost_of
from smile_train.training.labelled_videos import (
    TEST,
    LabelledVideoTask,
    Progress,
    check_size,
    encoder_fields,
    random_encoder_config,
)
from smile_train.training.multi_view import Predictions, accuracies, class_numbers, describe_test
from smile_train.training.optim import parameter_groups
from smile_train.training.trainer import LogLine, Phase, TrainResult, train

MOMENTUM = 0.1  # of the running statistics, as in torch's batch normalisation


@dataclass(frozen=True)
class HeadSpec:
    """One head of a grid.

    Attributes:
        entry: number of its grid in the config.
        kind, layer, learning_rate, weight_decay: see `HeadGridOptions`.
    """

    entry: int
    kind: str
    layer: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True)
class ProbeResult(TrainResult):
    """The end of a probe.

    Attributes:
        test: content of ``test.json``.
    """

    test: dict[str, Any]


def probe(
    config: ProbeConfig,
    out: str | Path,
    *,
    on_log: Callable[[LogLine], None] | None = None,
    progress: Progress | None = None,
) -> ProbeResult:
    """Train heads on a frozen encoder, select one per grid and test it, or continue the run in ``out``.

    Besides the files of `train`, it writes ``config.yaml`` and ``test.json``: the validation accuracy of
    every head, and the test of the selected ones.

    Args:
        config: the run.
        out: its folder.
        on_log: called with every line of the log.
        progress: called with (videos done, videos in all) while videos are indexed and tested.

    Raises:
        UserError: videos or weights are missing or do not fit, and as `train`.
    """
    task = ProbeTask(config, Path(out), progress)
    result = train(task, out, on_log=on_log)
    return ProbeResult(result.folder, result.steps, result.last, result.clips_per_second, task.test)


class ProbeTask(LabelledVideoTask):
    """The training of heads on a frozen encoder; see `Task`.

    Attributes:
        encoder: is frozen.
        model: the heads.
        test: content of ``test.json`` after the test.
    """

    name = "probe"
    config: ProbeConfig
    model: ProbeHeads
    test: dict[str, Any]
    _world: World

    def __init__(self, config: ProbeConfig, out: Path, progress: Progress | None = None) -> None:
        """Open the videos and build encoder and heads; ``out`` keeps indices of videos."""
        super().__init__(config, out, progress)
        # The normalisation needs the statistics of a whole batch, so only the encoder's pass is divided.
        self.run = config.run.model_copy(update={"accumulate": 1})
        self.encoder = build_probe_encoder(self.config)
        specs = head_specs(self.config)
        check_layers(specs, self.encoder.config.depth)
        width, num_classes = self.encoder.config.width, len(self.sets.classes)
        self.model = ProbeHeads(specs, width, num_classes, seed=config.seed)
        options = OptimiserOptions(
            base_lr=max(spec.learning_rate for spec in specs), warmup_lr=0.0, final_lr=0.0,
            warmup_steps=self.epochs.steps(config.warmup_epochs),
        )  # fmt: skip
        self._set_data(self.encoder.config, options)
        both = {v.group for v in self.sets.validation} & {v.group for v in self.sets.test}
        if both:
            raise UserError(f"videos: validation and test share '{min(both)}'; select heads on other videos")

    def move(self, device: torch.device) -> None:
        """See `Task.move`."""
        self.encoder.to(device)
        if self.run.compile:
            for block in self.encoder.blocks:
                block.compile()

    def optimiser(self, phase: Phase) -> torch.optim.Optimizer:
        """See `Task.optimiser`: every head has its own learning rate and weight decay."""
        peak = phase.optimiser.base_lr
        groups = [
            {**group, "lr_scale": spec.learning_rate / peak}
            for spec, head in zip(self.model.specs, self.model.heads, strict=True)
            for group in parameter_groups(head, spec.weight_decay)
        ]
        if self.config.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=peak, momentum=0.9)
        return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.999), fused=True)

    def batches(self, phase: Phase, start_step: int, world: World) -> Generator[Batch, None, None]:
        """See `Task.batches`."""
        self._world = world  # for the statistics of a batch
        return super().batches(phase, start_step, world)

    def losses(self, model: nn.Module, batch: Batch, phase: Phase) -> Iterator[dict[str, Tensor]]:
        """See `Task.losses`: the sum over all heads, so that every head has the gradient of its own loss."""
        parts = [self.encode(part) for part in normalise(batch.frames).chunk(self.config.run.accumulate)]
        tokens = {layer: torch.cat([part[layer] for part in parts]) for layer in parts[0]}
        self.model.observe(tokens, self._world)
        scores = model(tokens).float().transpose(1, 2)
        numbers = batch.labels["class"][:, None].expand(-1, scores.shape[-1])
        losses = F.cross_entropy(scores, numbers, reduction="none").mean(0)
        values = {"loss": losses.sum()}
        for entry, grid in enumerate(self.config.heads):
            own = [number for number, spec in enumerate(self.model.specs) if spec.entry == entry]
            values[f"loss/{entry}-{grid.kind}"] = losses[own].mean()
        yield values

    @torch.no_grad()
    def encode(self, clips: Tensor) -> dict[int, Tensor]:
        """Return tokens ``[B, N, width]`` of normalised clips, by layer; their mean where that is enough."""
        encoder, layers = self.encoder, self.model.layers
        x = encoder.patch_embed(clips, None) + encoder.position
        found: dict[int, Tensor] = {}
        for number, block in enumerate(encoder.blocks):
            x = block(x)
            if number in layers:
                found[number] = x
        if -1 in layers:
            found[-1] = encoder.norm(x)
        attended = {spec.layer for spec in self.model.specs if spec.kind == "attentive"}
        return {
            layer: tokens if layer in attended else tokens.float().mean(1, keepdim=True)
            for layer, tokens in found.items()
        }

    def finish(self, out: Path, world: World) -> None:
        """See `Task.finish`: select a head of each grid on the validation videos, and test it."""
        earlier = self.earlier_test(out)
        if earlier is not None:
            self.test = earlier
            return
        self.model.eval()
        sets, specs = self.sets, self.model.specs
        found = self.predict(self._logits, sets.validation, ViewCountOptions(), world)
        scores = accuracies(found, class_numbers(sets.validation, sets.classes))
        grid = [
            {**asdict(spec), "validation_top1": top1, "validation_top5": top5}
            for spec, top1, top5 in zip(specs, scores["top1"], scores["top5"], strict=True)
        ]
        chosen = [
            max((n for n, spec in enumerate(specs) if spec.entry == entry), key=scores["top1"].__getitem__)
            for entry in range(len(self.config.heads))
        ]
        selected = [grid[number] for number in chosen]
        if sets.test:
            tested = self.predict(
                lambda clips: self._logits(clips)[:, chosen], sets.test, self.config.test, world,
                progress=self.progress,
            )  # fmt: skip
            own = [
                Predictions(tested.classes[:, n], tested.probabilities[:, n], tested.unreadable)
                for n in range(len(chosen))
            ]
            selected = [
                {**row, **describe_test(predictions, sets.test, sets.classes)}
                for row, predictions in zip(selected, own, strict=True)
            ]
        self.test = {**self.test_header(), "grid": grid, "selected": selected}
        if world.is_main:
            write_bytes(out / TEST, (json.dumps(self.test) + "\n").encode())

    def step_gflops(self, phase: Phase) -> float:
        """See `Task.step_gflops`: the encoder's pass; the heads are not counted."""
        shape = ClassifierConfig(encoder=self.encoder.config, num_classes=len(self.sets.classes))
        return sum(cost_of(shape).forward_gflops.values())

    def _logits(self, clips: Tensor) -> Tensor:
        scores: Tensor = self.model(self.encode(clips))
        return scores


class ProbeHeads(nn.Module):
    """All heads of a probe.

    Attributes:
        specs: of the heads.
        layers: that they read.
        heads: the modules.
    """

    def __init__(self, specs: Sequence[HeadSpec], width: int, num_classes: int, *, seed: int) -> None:
        """Build the heads; those of one kind and layer have equal initial weights."""
        super().__init__()
        self.specs, self.layers = tuple(specs), {spec.layer for spec in specs}
        self.norms = nn.ModuleDict({str(layer): BatchNorm(width) for layer in sorted(self.layers)})
        self.heads = nn.ModuleList(_head(spec.kind, width, num_classes, seed) for spec in specs)

    def observe(self, tokens: dict[int, Tensor], world: World) -> None:
        """Set the statistics of the batch, over all processes."""
        for layer, values in tokens.items():
            norm = self.norms[str(layer)]
            assert isinstance(norm, BatchNorm)
            norm.observe(values.float().mean(1), world)

    def forward(self, tokens: dict[int, Tensor]) -> Tensor:
        """Return scores ``[B, heads, num_classes]`` of tokens ``[B, N, width]`` by layer."""
        means = {layer: values.float().mean(1) for layer, values in tokens.items()}
        inputs = {
            "linear": {layer: self.norms[str(layer)](mean) for layer, mean in means.items()},
            "linear_plain": means,
            "attentive": tokens,
        }
        return torch.stack(
            [head(inputs[spec.kind][spec.layer]) for spec, head in zip(self.specs, self.heads, strict=True)],
            1,
        )


class BatchNorm(nn.Module):
    """Batch normalisation without parameters, with the statistics of all processes.

    torch's SyncBatchNorm needs a GPU. The input needs no gradient, so the statistics need none either.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        """Start with mean 0 and variance 1."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self._batch = self.mean, self.variance

    def observe(self, features: Tensor, world: World) -> None:
        """Set the statistics of a batch ``[B, width]``, and update the running ones."""
        mean = world.mean(features.mean(0))
        variance = world.mean((features - mean).square().mean(0))
        self._batch = mean, variance
        self.mean.lerp_(mean, MOMENTUM)
        self.variance.lerp_(variance, MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        """Return normalised features ``[B, width]``."""
        mean, variance = self._batch if self.training else (self.mean, self.variance)
        return (features - mean) / (variance + 1e-6).sqrt()


def head_specs(config: ProbeConfig) -> list[HeadSpec]:
    """Return all heads of all grids."""
    return [
        HeadSpec(entry, grid.kind, layer, learning_rate, weight_decay)
        for entry, grid in enumerate(config.heads)
        for layer in grid.layers
        for learning_rate in grid.learning_rates
        for weight_decay in grid.weight_decays
    ]


def check_layers(specs: Sequence[HeadSpec], depth: int) -> None:
    """Check that the encoder has the layers of all heads.

    Raises:
        UserError: it has fewer.
    """
    for spec in specs:
        if spec.layer >= depth:
            raise UserError(
                f"heads.{spec.entry}.layers: {spec.layer}: the encoder has the blocks 0..{depth - 1}; -1 is "
                "after the last norm"
            )


def build_probe_encoder(config: ProbeConfig) -> Encoder:
    """Return the frozen encoder.

    Raises:
        UserError: the weights are missing, or do not fit.
    """
    generator = torch.Generator().manual_seed(config.seed)
    if config.start_from is None:
        encoder = Encoder(random_encoder_config(config), generator=generator)
    else:
        fields = encoder_fields(config)
        given = {name: fields[name] for name in ("num_frames", "size_hw") if name in fields}
        encoder = build_encoder(config.start_from, **given)
        check_size(config, encoder.config)
        try:
            shape = replace(encoder.config, **fields)
        except ValueError as error:
            raise UserError(f"encoder: {error}") from None
        if shape != encoder.config:  # the weights do not depend on the length and size of the clips
            tensors = encoder.state_dict()
            encoder = Encoder(shape, generator=generator)
            encoder.load_state_dict(tensors)
    return encoder.eval().requires_grad_(False)


def _head(kind: str, width: int, num_classes: int, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    if kind == "attentive":
        return AttentiveHead(width, num_classes, generator=generator)
    head: nn.Linear = nn.utils.skip_init(nn.Linear, width, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.01, generator=generator)
    nn.init.zeros_(head.bias)
    return head
