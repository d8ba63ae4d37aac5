"""Several processes under torchrun: ranks, the wrapped model, full tensors for checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from smile_synth.core.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among all processes of a run.

    Attributes:
        rank: 0 .. size - 1. Rank 0 writes files and prints.
        size: number of processes.
        device: of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        return self.sum(values) / self.size

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank. Values are pickled."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def env_rank() -> int:
    """Return the rank that torchrun gave to this process; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def choose_device(name: str) -> torch.device:
    """Return the device auto, cpu or cuda.

    Raises:
        UserError: another name, or cuda without a GPU.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device '{name}': expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': this machine has no GPU; use device=cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def has_fast_bf16() -> bool:
    """Return whether the CPU has instructions for bfloat16; False with torch before 2.10."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16"))


@contextmanager
def join_world(device_name: str) -> Iterator[World]:
    """Join the processes that torchrun started, and leave them at the end. Without torchrun, be alone.

    Raises:
        UserError: cuda without a GPU, or fewer GPUs than processes on this machine.
    """
    device, size = choose_device(device_name), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        number = int(os.environ["LOCAL_RANK"])
        if number >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started process {number + 1} on this machine, which has "
                f"{torch.cuda.device_count()} GPUs; lower --nproc-per-node"
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    joins = not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        if joins:
            dist.destroy_process_group()


def wrap_model(model: nn.Module, parallel: Literal["ddp", "fsdp"], world: World) -> nn.Module:
    """Return the module to call instead of the model, so that gradients are means over all processes.

    ddp keeps a copy of the model in every process. fsdp (FSDP2) shards the parameters of the model itself,
    block by block.
    """
    if world.size == 1:
        return model
    if parallel == "ddp":
        return DistributedDataParallel(model, gradient_as_bucket_view=True)
    from torch.distributed.fsdp import fully_shard  # the import takes seconds

    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in reversed([*model.modules()]):  # inner lists first, as fully_shard requires
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def no_sync(model: nn.Module, active: bool) -> AbstractContextManager[None]:
    """Return a context in which backward passes do not exchange gradients, where ``active``."""
    if isinstance(model, DistributedDataParallel) and active:
        return model.no_sync()
    if hasattr(model, "set_requires_gradient_sync"):  # a module of FSDP2
        cast(Any, model).set_requires_gradient_sync(not active)
    return nullcontext()


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor in main memory, gathered where it is sharded over processes."""
    tensor = tensor.detach()
    if hasattr(tensor, "full_tensor"):  # a DTensor, whose import takes seconds
        tensor = cast(Any, tensor).full_tensor()
    return tensor.to("cpu", copy=True)


@torch.no_grad()
def copy_full(source: Tensor, out: Tensor) -> None:
    """Copy a full tensor into ``out``, which may be sharded over processes."""
    source = source.to(out.device, out.dtype)
    if hasattr(out, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        source = distribute_tensor(source, cast(Any, out).device_mesh, cast(Any, out).placements)
    out.copy_(source)
