"""Measure clips per second of a training step, and of a plain version of the published one, side by side.

    uv run python benchmarks/step.py --frames 8 --side 112 --batch 2 8 --repeats 3 \\
        --out benchmarks/results/step.json
    uv run python benchmarks/step.py --device cuda --size base --batch 96 --compile --out step_gpu.json

The published step: teacher in fp32, attention as scores, softmax and product, all tokens embedded and then
picked by boolean indexing, as are targets and positions, and AdamW with PyTorch's defaults. The student runs
in autocast on a GPU, as ours, and in fp32 on a CPU. Both steps train the same student with the same frozen
CLIP ViT-B/16 (random weights, so nothing is downloaded), masks and clips. Both have one teacher pass and one
student pass per mask. The two steps alternate. A third step predicts exact motion beside CLIP's tokens; its
labels are given. On a CPU our step in bf16 computes attention as two products and a softmax, as in training;
"fused attention" shows the other way. On a CPU with one thread, processor time is measured, on
which other work on the machine has little effect.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import open_clip
import record
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from smile_train.batch import Batch, normalise
from smile_train.config import MaskOptions, MotionTarget, TargetOptions, TeacherOptions, TeacherTarget
from smile_train.masking import MASK_DRAWS, Masker
from smile_train.models import Student, StudentConfig, make_teacher, set_fused_attention
from smile_train.targets import Targets, zscore_over_clip
from smile_train.training.cost import cost_of, peak_tflops
from smile_train.training.optim import make_adamw, parameter_groups

TUBELET, PATCH = 2, 16
# All parts of the motion target, to two times.
MOTION = MotionTarget(offsets=[0, 1], linear=0.1, visibility=0.1, camera=0.1, depth=0.1, same_object=0.1)


def published_forward(student: Student, clips: Tensor, mask: Tensor) -> Tensor:
    """Predict the masked tokens as the published code does, with our student's weights."""
    encoder, decoder, batch = student.encoder, student.decoder, len(clips)
    weights = encoder.patch_embed.proj
    embedded = F.conv3d(clips.transpose(1, 2), weights.weight, weights.bias, stride=weights.stride)
    x = embedded.flatten(2).transpose(1, 2) + encoder.position
    x = x[~mask].reshape(batch, -1, x.shape[-1])
    for block in encoder.blocks:
        x = block(x)
    x = student.encoder_to_decoder(encoder.norm(x))
    position = student.position.expand(batch, -1, -1)
    visible = x + position[~mask].reshape(batch, -1, x.shape[-1])
    hidden = student.mask_token + position[mask].reshape(batch, -1, x.shape[-1])
    x = torch.cat([visible, hidden], dim=1)
    for block in decoder.blocks:
        x = block(x)
    out: Tensor = decoder.head(decoder.norm(x[:, -hidden.shape[1] :]))
    return out


@lru_cache
def motion_labels(clips: int, tokens: int, device: torch.device) -> dict[str, Tensor]:
    """Return random labels of motion for `MOTION`."""
    generator, axes = torch.Generator().manual_seed(0), (clips, len(MOTION.offsets), tokens)
    labels = {
        name: 5 * torch.randn(*axes, *shape, generator=generator)
        for name, shape in (("displacement", (2,)), ("spread", (2,)), ("linear", (2, 2)), ("camera", (2,)))
    }
    numbers = torch.randint(0, 3, (clips, tokens), generator=generator).to(torch.int16)
    labels |= {"visibility": labels["spread"][..., 0] > 0, "valid": torch.ones(axes, dtype=torch.bool)}
    labels |= {"object": numbers, "depth": numbers}
    return {f"motion_{name}": value.to(device) for name, value in labels.items()}


class Steps:
    """A student, a frozen teacher of CLIP ViT-B/16's shape with random weights, and training steps.

    Attributes:
        cost: of a clip in our step.
        peak_tflops: of the device in bf16; None where it is unknown.
        student, teacher: the teacher is in bf16.
        masker: makes the masks.
    """

    def __init__(
        self, size: str, *, frames: int, side: int, masks: int, device: torch.device,
        options: Sequence[TargetOptions] = (TeacherTarget(),),
    ) -> None:  # fmt: skip
        logging.getLogger().setLevel(logging.ERROR)  # open_clip warns about random weights
        self.device, self.masks = device, masks
        clip = open_clip.create_model("ViT-B-16-quickgelu", load_weights=False, force_image_size=side)
        teachers = [
            make_teacher(
                copy.deepcopy(clip.visual), TeacherOptions(precision=precision), size_hw=(side, side),
                frame_stride=TUBELET,
            ).to(device)
            for precision in ("auto", "bf16")  # autocast would cast frozen weights again in every pass
        ]  # fmt: skip
        self._exact_teacher, self.teacher = teachers
        self._targets, self._bf16_targets = (
            Targets(options, patch_size=PATCH, tubelet_size=TUBELET, teacher=teacher) for teacher in teachers
        )
        config = StudentConfig.of_size(
            size, target_dim=self._targets.width, num_frames=frames, size_hw=(side, side)
        )
        self.student = Student(config, generator=torch.Generator().manual_seed(0)).to(device).train()
        self._optimiser = make_adamw(self.student, lr=1e-4)
        groups = parameter_groups(self.student, weight_decay=0.05)
        self._plain_optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))
        self.masker = Masker(
            MaskOptions(kind="tube", ratio=0.8), config.grid_thw, patch_size=PATCH, tubelet_size=TUBELET,
            seed=0,
        )  # fmt: skip
        self.cost = cost_of(
            config, self.teacher, num_masked=self.masker.num_masked, masks_per_clip=masks,
            precision=torch.bfloat16,
        )  # fmt: skip
        self.peak_tflops = peak_tflops(device, torch.bfloat16)

    def compile(self) -> None:
        """Compile our step."""
        self.student.compile()
        self.teacher.compile()

    def _autocast(self, dtype: torch.dtype) -> Any:
        return torch.autocast(self.device.type, dtype) if dtype != torch.float32 else nullcontext()

    def _batch(self, frames: Tensor) -> Batch:
        draws = self.masker.draw(range(len(frames)), self.masks).to(self.device)
        labels = motion_labels(len(frames), self.student.config.num_tokens, self.device)
        return Batch(torch.arange(len(frames)), frames, {MASK_DRAWS: draws, **labels})

    def ours(self, frames: Tensor, dtype: torch.dtype, *, fused: bool | None = None) -> Tensor:
        """Do our step with frames ``[B, T, 3, H, W]`` uint8; returns the loss of the last mask.

        With ``fused=None`` attention is computed as in training: fused, except in bf16 on a CPU.
        """
        in_bf16_on_cpu = self.device.type == "cpu" and dtype == torch.bfloat16
        set_fused_attention(self.student, not in_bf16_on_cpu if fused is None else fused)
        self._optimiser.zero_grad(set_to_none=True)
        batch = self._batch(frames)
        targets = self._targets if dtype == torch.float32 else self._bf16_targets
        built, inputs = targets.build(batch), normalise(frames)
        for number in range(self.masks):
            with self._autocast(dtype):
                mask = self.masker(batch, number)
                predicted = self.student(inputs, mask, self.masker.num_masked)
                loss = targets.losses(predicted, built, mask, self.masker.num_masked)["loss"]
            (loss / self.masks).backward()
        self._optimiser.step()
        return loss.detach()

    def published(self, frames: Tensor) -> Tensor:
        """Do the published step; as `ours`."""
        self._plain_optimiser.zero_grad(set_to_none=True)
        batch = self._batch(frames)
        with sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():  # without TF32, which `Teacher.encode` allows
                values = zscore_over_clip(self._exact_teacher(frames))
            inputs = normalise(frames)
            for number in range(self.masks):
                mask = self.masker(batch, number)
                with self._autocast(torch.bfloat16 if self.device.type == "cuda" else torch.float32):
                    predicted = published_forward(self.student, inputs, mask)
                    expected = values[mask].reshape(len(frames), -1, values.shape[-1])
                    loss = F.mse_loss(predicted.float(), expected)
                (loss / self.masks).backward()
        self._plain_optimiser.step()
        return loss.detach()

    def difference(self, frames: Tensor) -> float:
        """Return the largest difference of the predictions of both with the same weights."""
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            mask, inputs = self.masker(self._batch(frames)), normalise(frames)
            own = self.student(inputs, mask, self.masker.num_masked)
            return float((published_forward(self.student, inputs, mask) - own).abs().max())


def measure(
    steps: Steps, with_motion: Steps, frames: Tensor, *, repeats: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """Alternate steps; returns clips per second of each kind, and on a GPU its peak memory per clip."""
    cases: dict[str, Callable[[], Tensor]] = {
        "published step": lambda: steps.published(frames),
        "ours, fp32": lambda: steps.ours(frames, torch.float32),
        "ours, fp32, with a motion target": lambda: with_motion.ours(frames, torch.float32),
        "ours, bf16": lambda: steps.ours(frames, torch.bfloat16),
        "ours, bf16, with a motion target": lambda: with_motion.ours(frames, torch.bfloat16),
    }
    if not frames.is_cuda:
        cases["ours, bf16, fused attention"] = lambda: steps.ours(frames, torch.bfloat16, fused=True)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    losses, peaks, cuda = dict[str, float](), dict[str, float](), frames.is_cuda
    for repeat in range(repeats + 1):  # the first is a warm-up
        for name, step in cases.items():
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            began = clock()
            losses[name] = round(float(step()), 4)
            if repeat:
                seconds[name].append(clock() - began)
            if cuda:
                peaks[name] = torch.cuda.max_memory_allocated() / 2**20 / len(frames)
    base = statistics.median(seconds["published step"])
    rows: dict[str, Any] = {}
    for name, taken in seconds.items():
        median = statistics.median(taken)
        row = rows[name] = {
            "clips_per_second": round(len(frames) / median, 3),
            "slowest": round(len(frames) / max(taken), 3),
            "fastest": round(len(frames) / min(taken), 3),
            "times_published": round(base / median, 2),
            "last_loss": losses[name],
        }
        if steps.peak_tflops:
            rate = row["clips_per_second"] * steps.cost.step_gflops
            row["mfu"] = round(rate / (1000 * steps.peak_tflops), 4)
        if cuda:
            row["peak_mib_per_clip"] = round(peaks[name], 1)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", default="small")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, nargs="+", default=[2])
    parser.add_argument("--masks", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="our step through torch.compile")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, side = torch.device(arguments.device), arguments.side
    steps, with_motion = (
        Steps(
            arguments.size, frames=arguments.frames, side=side, masks=arguments.masks, device=device,
            options=options,
        )
        for options in ((TeacherTarget(),), (TeacherTarget(), MOTION))
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shape = (max(arguments.batch), arguments.frames, 3, side, side)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
    # Both steps are the same: predictions agree with the same weights.
    difference = steps.difference(frames[:2])
    if arguments.compile:
        steps.compile()
        with_motion.compile()
    clock = time.perf_counter if device.type == "cuda" or arguments.threads > 1 else time.process_time
    results = {
        str(batch): measure(steps, with_motion, frames[:batch], repeats=arguments.repeats, clock=clock)
        for batch in arguments.batch
    }
    columns = ("clips_per_second", "slowest", "fastest", "times_published", "mfu", "peak_mib_per_clip")
    table = Table("batch", "step", *columns)
    for batch, rows in results.items():
        for name, row in rows.items():
            table.add_row(batch, name, *(str(row.get(column, "")) for column in columns))
    Console().print(table)
    settings = {key: str(value) for key, value in vars(arguments).items() if key not in ("out", "batch")}
    record.write(
        arguments.out,
        {
            "settings": settings,
            "step_gflops_per_clip": round(steps.cost.step_gflops, 1),
            "largest_difference": difference,
            "by_batch": results,
        },
    )


if __name__ == "__main__":
    main()
