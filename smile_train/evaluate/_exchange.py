"""Exchange of results between the processes of torchrun."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from smile_train.distributed import World

Value = TypeVar("Value")
# Rank 0 trains probes while the other processes wait for its next result.
TIMEOUT = timedelta(days=7)


class Exchange:
    """Sends picklable values to rank 0 and back, through a gloo group with a long timeout."""

    def __init__(self, world: World) -> None:
        """Create the group; every process of the world does this at the same point."""
        self.world = world
        self._group: Any = dist.new_group(backend="gloo", timeout=TIMEOUT) if world.size > 1 else None

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes in rank order on rank 0, an empty list elsewhere."""
        if self._group is None:
            return [value]
        found: list[Value] | None = [value] * self.world.size if self.world.rank == 0 else None
        dist.gather_object(value, found, group=self._group)
        return found or []

    def broadcast(self, value: Value) -> Value:
        """Return rank 0's value on every process."""
        if self._group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self._group)
        return values[0]
