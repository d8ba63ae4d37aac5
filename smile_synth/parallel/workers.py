"""Work spread over processes, and memory shared with them; nothing outlives the process that asked."""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import lru_cache
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError
from smile_synth.parallel.cluster import Cluster

Item = TypeVar("Item")
Result = TypeVar("Result")
# Fork and the threads of decoders and parquet readers do not mix: workers are forks of a process that has
# loaded this library and does nothing else. It starts with the first of them and ends with its caller.
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
# Results that wait for their turn, per process.
AHEAD = 4
# Of glibc's malloc.h; bytes, 32 MiB is the most that it takes for the second.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEPT = -1, -3, 2**25


class Workers:
    """Processes of the caller, until it closes them."""

    def __init__(
        self, count: int, *, start: Callable[..., None] | None = None, arguments: Sequence[Any] = ()
    ) -> None:
        """Name ``count`` processes, each started when there is work for it.

        Args:
            count: processes.
            start: called once in every process, with ``arguments``.
            arguments: for ``start``.

        Raises:
            UserError: this process may not start others.
        """
        if multiprocessing.current_process().daemon:
            raise UserError(
                f"workers={count}: a DataLoader's worker cannot start processes of its own; ask for 0"
            )
        context = multiprocessing.get_context(START_METHOD)
        context.set_forkserver_preload(["smile_synth"])
        self._pool = ProcessPoolExecutor(
            count, context, initializer=_start, initargs=(start, tuple(arguments))
        )
        self._processes: list[BaseProcess] = []

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Have a process do ``work(*arguments)``; ``work`` is a function of a module."""
        try:
            with _interrupts_wait():
                future = self._pool.submit(work, *arguments)
        except BrokenProcessPool:
            raise self._killed() from ChildProcessError()
        # Executors name their processes in public from 3.14 on only.
        self._processes = list(self._pool._processes.values())
        return future

    def result(self, future: Future[Result]) -> Result:
        """Wait for what `submit` promised.

        Raises:
            UserError: a process was killed.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            raise self._killed() from ChildProcessError()

    def _killed(self) -> UserError:
        # The pool's own thread waits for its processes: only one can be told how each ended.
        self._pool.shutdown()
        # The others were ended because of it.
        codes = {process.exitcode for process in self._processes} - {None, 0}
        guilty = codes - {-signal.SIGTERM} or codes
        causes = [
            f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            for code in sorted(code for code in guilty if code is not None)
        ]
        return UserError(
            f"a worker process was killed {' and '.join(causes)}, perhaps for want of memory; what is done "
            "is kept, the same command goes on, fewer workers need less"
        )

    def close(self, *, at_once: bool = False) -> None:
        """End the processes, after what they are doing or at once."""
        if at_once:
            for process in self._processes:
                process.kill()
        self._pool.shutdown(cancel_futures=True)


def in_order(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    start: Callable[..., None] | None = None,
    arguments: Sequence[Any] = (),
    cluster: Cluster | None = None,
) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in order; few results are kept waiting in memory.

    Args:
        work: a function of a module.
        items: what to work on; sent to the processes a few at a time.
        workers: processes; with 1 everything happens in this one.
        start: called once in every process, with ``arguments``.
        arguments: for ``start``.
        cluster: whose processes work, instead of this machine's; the caller closes it.

    Raises:
        UserError: a process was killed.
    """
    if not items:
        return
    if cluster:
        cluster.prepare(start, arguments)
        yield from _ahead(cluster, work, items, AHEAD * cluster.count)
        return
    if workers == 1 or len(items) < 2:
        if start:
            start(*arguments)
        yield from map(work, items)
        return
    with closing(Workers(min(workers, len(items)), start=start, arguments=arguments)) as pool:
        yield from _ahead(pool, work, items, AHEAD * workers)


def _ahead(
    pool: Workers | Cluster, work: Callable[[Item], Result], items: Sequence[Item], most: int
) -> Iterator[Result]:
    ahead: deque[Any] = deque()
    for item in items:
        ahead.append(pool.submit(work, item))
        if len(ahead) > most:
            yield pool.result(ahead.popleft())
    while ahead:
        yield pool.result(ahead.popleft())


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Start processes with Ctrl-C blocked: it reaches all of a terminal's, and the parent decides to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    leave_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # whoever started what this is a fork of
    cv2.setNumThreads(1)
    _keep_memory()
    if start:
        start(*arguments)


def _keep_memory() -> None:
    """Have the C library keep some of what is freed.

    Clip after clip needs the same few megabytes. By default glibc may give them back to the system every
    time, and clearing the pages that come instead takes as long as making the labels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_MMAP_THRESHOLD, _KEPT)


def leave_with_parent() -> None:
    """End this process with its parent: a killed one cannot tell workers to stop, who would wait for ever."""
    parent = multiprocessing.parent_process()

    def leave() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


class Place(NamedTuple):
    """Where a process finds the memory of another.

    Attributes:
        process: that it belongs to.
        descriptor: its file there.
        number: no two buffers of a process have the same.
        num_bytes: of it.
    """

    process: int
    descriptor: int
    number: int
    num_bytes: int


class SharedBuffer:
    """Memory that workers write into. It has no name that could be left behind: it goes with its last map.

    Attributes:
        place: for the workers' `attach`.
    """

    _count = 0

    def __init__(self, num_bytes: int) -> None:
        """Make it. Raises UserError where the system has no such memory (Linux has)."""
        if not hasattr(os, "memfd_create"):
            raise UserError("worker processes that share memory need Linux; ask for workers=0")
        descriptor = os.memfd_create("smile", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, num_bytes)
        self._map = mmap.mmap(descriptor, num_bytes)
        SharedBuffer._count += 1
        self.place = Place(os.getpid(), descriptor, SharedBuffer._count, num_bytes)

    def array(self) -> NDArray[np.uint8]:
        """Return all of it ``[num_bytes]``; views of this array keep it alive."""
        return np.frombuffer(self._map, np.uint8)


class SharedBuffers:
    """Buffers that are used again when nobody looks at them any more."""

    def __init__(self) -> None:
        """Begin with none."""
        self._free: list[SharedBuffer] = []

    def take(self, num_bytes: int) -> SharedBuffer:
        """Return a buffer of at least ``num_bytes``."""
        while self._free:
            buffer = self._free.pop()
            if buffer.place.num_bytes >= num_bytes:
                return buffer
        return SharedBuffer(max(num_bytes, 1))

    def lend(self, buffer: SharedBuffer) -> NDArray[np.uint8]:
        """Return a buffer's bytes; it is free again when the last view of them is gone."""
        array = buffer.array()
        weakref.finalize(array, self._free.append, buffer)
        return array


@lru_cache(maxsize=16)
def attach(place: Place) -> NDArray[np.uint8]:
    """Return the bytes of another process's buffer, in a worker of it."""
    descriptor = os.open(f"/proc/{place.process}/fd/{place.descriptor}", os.O_RDWR)
    try:
        shared = mmap.mmap(descriptor, place.num_bytes)
    finally:
        os.close(descriptor)
    return np.frombuffer(shared, np.uint8)
