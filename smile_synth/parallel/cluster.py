"""Work on the machines of a Ray cluster, with the interface of `smile_synth.parallel.workers.Workers`.

Every piece of work is a task without state: Ray gives it to another process when its own is killed, or
its machine is gone. All machines must see the same files at the same paths.
"""

from __future__ import annotations

import logging
import socket
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import cv2

from smile_synth.core.errors import UserError

# Deaths of processes or machines that one piece of work may meet.
_RETRIES = 8


class Cluster:
    """A connection to a Ray cluster, until it is closed.

    Attributes:
        count: processors when it was made.
        gpus: likewise.
    """

    def __init__(self, address: str) -> None:
        """Connect to a cluster that runs.

        Args:
            address: ``auto`` (the one that runs on this machine) or HOST:PORT of its head.

        Raises:
            UserError: Ray is not installed, or no cluster answers.
        """
        try:
            import ray
        except ImportError:
            raise UserError("ray: is not installed; pip install 'smile-video[ray]'") from None
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        try:
            if self._ours:
                _knock(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"ray '{address}': no cluster answers ({reason}); 'ray start --head' begins one"
            ) from None
        resources = self._ray.cluster_resources()
        self.count, self.gpus = max(1, int(resources.get("CPU", 1))), int(resources.get("GPU", 0))

    def prepare(self, start: Callable[..., None] | None, arguments: Sequence[Any], *, gpus: int = 0) -> None:
        """Have every process call ``start(*arguments)`` before its first work; it has ``gpus`` of its own."""
        self._start = self._ray.put((uuid.uuid4().hex, start, tuple(arguments)))
        self._do = self._ray.remote(_do).options(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)

    def submit(self, work: Callable[..., Any], item: Any) -> Any:
        """Have a process do ``work(item)``; ``work`` is a function of a module."""
        return self._do.remote(self._start, work, item)

    def result(self, future: Any) -> Any:
        """Wait for what `submit` promised.

        Raises:
            UserError: the work's own, or it met death too often.
        """
        try:
            return self._ray.get(future)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"ray: a process died {_RETRIES + 1} times over the same clips ({reason}); what is done is "
                "kept, the same command goes on"
            ) from None

    def close(self) -> None:
        """Leave the cluster, unless the caller had joined it."""
        if self._ours:
            self._ray.shutdown()


_started = ""


def _do(setup: tuple[str, Callable[..., None] | None, tuple[Any, ...]], work: Any, item: Any) -> Any:
    global _started
    key, start, arguments = setup
    if key != _started:
        cv2.setNumThreads(1)
        if start:
            start(*arguments)
        _started = key
    return work(item)


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens: Ray itself would ask again for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()
