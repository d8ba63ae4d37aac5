"""Several processes under torchrun: who am I, one student on all of them, whole tensors for checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
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
    """This process among all.

    Attributes:
        rank: 0 .. size - 1; process 0 writes.
        size: processes.
        device: of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process writes files and tells progress."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values


def choose_device(wanted: str) -> torch.device:
    """Return the device of a run.

    Raises:
        UserError: no such device, or CUDA is wanted and there is none.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"device '{wanted}': expected auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device 'cuda': there is none on this machine; use device=cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def join_world(wanted: str) -> Iterator[World]:
    """Join the processes that torchrun started, or stand alone; leaves them at the end if it joined.

    Raises:
        UserError: CUDA is wanted and there is none, or fewer GPUs than processes on this machine.
    """
    device, size = choose_device(wanted), int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        place = int(os.environ["LOCAL_RANK"])
        if place >= torch.cuda.device_count():
            raise UserError(
                f"torchrun started process {place + 1} on this machine, which has "
                f"{torch.cuda.device_count()} GPUs; lower --nproc-per-node"
            )
        device = torch.device("cuda", place)
        torch.cuda.set_device(device)
    joins = not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        if joins:
            dist.destroy_process_group()


def spread(student: nn.Module, parallel: Literal["ddp", "fsdp"], world: World) -> nn.Module:
    """Return what to call in the student's place, so that gradients are means over all processes.

    ddp wraps a copy per process; fsdp (FSDP2) changes the student itself, block by block.
    """
    if world.size == 1:
        return student
    if parallel == "ddp":
        return DistributedDataParallel(student, gradient_as_bucket_view=True)
    from torch.distributed.fsdp import fully_shard  # takes seconds, and needed here alone

    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in student.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(student, mesh=mesh)
    return student


def gradients_stay(model: nn.Module, stay: bool) -> AbstractContextManager[None]:
    """Return a context in which a backward pass keeps its gradients to this process, where ``stay``."""
    if isinstance(model, DistributedDataParallel) and stay:
        return model.no_sync()
    if hasattr(model, "set_requires_gradient_sync"):  # an FSDPModule
        cast(Any, model).set_requires_gradient_sync(not stay)
    return nullcontext()


def whole(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor in main memory, put together where it is spread over processes."""
    tensor = tensor.detach()
    if _is_spread(tensor):
        tensor = cast(Any, tensor).full_tensor()
    return tensor.to("cpu", copy=True)


def spread_like(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole tensor as ``like`` lies: on its device, or spread over processes as it is."""
    value = value.to(like.device, like.dtype)
    if _is_spread(like):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value, cast(Any, like).device_mesh, cast(Any, like).placements)
    return value


def _is_spread(tensor: Tensor) -> bool:
    """Tell a DTensor without importing it, which takes seconds."""
    return hasattr(tensor, "device_mesh")


def optimiser_tensors(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """Return an optimiser's state by the names of the parameters, whole, for any number of processes."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: {key: whole(value) for key, value in state.items()}
        for parameter, state in optimiser.state.items()
    }


def load_optimiser_tensors(
    model: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, dict[str, Any]]
) -> None:
    """Load what `optimiser_tensors` returned, on any number of processes."""
    parameters = dict(model.named_parameters())
    for name, state in tensors.items():
        parameter = parameters[name]
        optimiser.state[parameter] = {
            # The step count is no part of the parameter: it stays whole.
            key: value.to(parameter.device, copy=True) if value.ndim == 0 else spread_like(value, parameter)
            for key, value in state.items()
        }


def load_whole(named: Iterable[tuple[str, Tensor]], tensors: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into those of the same names, which may be spread over processes."""
    with torch.no_grad():
        for name, tensor in named:
            tensor.copy_(spread_like(tensors[name], tensor))
