"""Work on the machines of a Ray cluster, with the interface of `smile_synth.parallel.workers.Workers`.

Tasks keep no state: when a process is killed or a machine is lost, Ray runs its tasks again elsewhere. All
machines must see the same files at the same paths.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2

from smile_synth.core.errors import UserError, WorkerKilledError

# How often Ray runs a task again after its process or machine died.
_MAX_RETRIES = 8


class Cluster:
    """A connection to a Ray cluster, until it is closed.

    Attributes:
        num_cpus: CPU cores of the cluster when the connection was made.
        num_gpus: GPUs of the cluster when the connection was made.
    """

    def __init__(self, address: str) -> None:
        """Connect to a running cluster.

        Args:
            address: ``auto`` (the cluster of this machine) or HOST:PORT of the head node.

        Raises:
            UserError: Ray is not installed, or no cluster answers.
        """
        try:
            import ray
        except ImportError:
            raise UserError("ray: is not installed; pip install 'smile-video[ray]'") from None
        self._ray: Any = ray
        self._connected_here = not ray.is_initialized()
        try:
            if self._connected_here:
                _check_reachable(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"ray '{address}': no cluster answers ({reason}); 'ray start --head' starts one"
            ) from None
        resources = self._ray.cluster_resources()
        self.num_cpus = max(1, int(resources.get("CPU", 1)))
        self.num_gpus = int(resources.get("GPU", 0))

    def pool(self, context: Any, *, gpus: int = 0) -> ClusterPool:
        """Return a pool whose tasks receive ``context`` and have ``gpus`` GPUs each."""
        run = self._ray.remote(_run).options(num_cpus=1, num_gpus=gpus, max_retries=_MAX_RETRIES)
        return ClusterPool(self._ray, run, self._ray.put(context))

    def close(self) -> None:
        """Disconnect, unless the caller had connected before."""
        if self._connected_here:
            self._ray.shutdown()


@dataclass(frozen=True)
class ClusterPool:
    """Runs tasks of one context on a cluster."""

    _ray: Any
    _run: Any
    _context: Any

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Start ``work(context, *arguments)``; ``work`` is a module-level function (it must be picklable)."""
        # Ray replaces references among the arguments by their values, but not those inside a list.
        return self._run.remote([self._context], work, *arguments)

    def result(self, future: Any) -> Any:
        """Wait for a future and return its result, or raise the exception of its task.

        Raises:
            WorkerKilledError: a process died too often during the task.
        """
        try:
            return self._ray.get(future)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise WorkerKilledError(
                f"ray: a process died {_MAX_RETRIES + 1} times during the same task ({reason})"
            ) from None


def _run(reference: list[Any], work: Callable[..., Any], *arguments: Any) -> Any:
    return work(_context(reference[0]), *arguments)


@lru_cache(maxsize=1)
def _context(reference: Any) -> Any:
    """Fetch the context of a pool; a process of the cluster may serve several pools."""
    import ray

    cv2.setNumThreads(1)
    return ray.get(reference)


def _check_reachable(address: str) -> None:
    """Raise OSError if no process listens at the address; Ray itself would retry for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()
