"""Run tasks in several processes. Worker processes end when their parent ends."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import cv2

from smile_synth.core.errors import UserError, WorkerKilledError
from smile_synth.parallel.cluster import Cluster, ClusterPool

Item = TypeVar("Item")
Result = TypeVar("Result")
# A fork copies locks that threads of decoders or parquet readers may hold, but not these threads, so a forked
# worker could wait for such a lock forever. Workers are therefore forks of a server process that has imported
# this library and runs nothing else. It ends with this process.
START_METHOD = "forkserver" if sys.platform == "linux" else "spawn"
# Sockets have at most 104 bytes, of which multiprocessing adds up to 32 to TMPDIR.
MAX_TEMP_BYTES = 70
# Items per process that are submitted before the first result is read.
ITEMS_AHEAD = 4
# mallopt parameters of glibc's malloc.h, and their value in bytes; 32 MiB is the maximum of the second one.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _KEPT_BYTES = -1, -3, 2**25


def available_cores(control_groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of CPU cores that this process may use: its affinity, and its container's quota.

    Args:
        control_groups: folder of the control groups of Linux.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota(control_groups)
    return min(cores, max(1, math.ceil(quota))) if quota else cores


def _quota(folder: Path) -> float | None:
    """Return the cores that a container may use (control groups 2 or 1); None without a limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((folder / "cpu" / name).read_text() for name in names)
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # "max" is no number
        return None


def _start_method() -> str:
    """Return the start method; the server needs a socket in TMPDIR, whose path the system limits."""
    too_long = len(os.fsencode(tempfile.gettempdir())) > MAX_TEMP_BYTES
    return "spawn" if too_long else START_METHOD


def _modules_of(context: Any) -> list[str]:
    """Return the module that defines a function or the class of an object, except the main script."""
    defined = getattr(context, "func", context)  # of a functools.partial
    module = getattr(defined, "__module__", None)
    return [module] if module and module != "__main__" else []


class Workers:
    """A pool of worker processes of this machine. Each receives the context once."""

    def __init__(self, count: int, context: Any = None) -> None:
        """Create the pool; a process starts when there is work for it.

        Args:
            count: number of processes.
            context: first argument of every task. It is pickled here and unpickled once per process.

        Raises:
            UserError: this process is a worker of a DataLoader.
        """
        if multiprocessing.current_process().daemon:
            raise UserError(f"workers={count}: a DataLoader worker cannot start processes; use workers=0")
        processes = multiprocessing.get_context(_start_method())
        processes.set_forkserver_preload(["smile_synth._public", *_modules_of(context)])
        self._executor = ProcessPoolExecutor(
            count, processes, initializer=_set_up_process, initargs=(pickle.dumps(context),)
        )
        self._processes: list[BaseProcess] = []

    def submit(self, work: Callable[..., Result], *arguments: Any) -> Future[Result]:
        """Start ``work(context, *arguments)``; ``work`` is a module-level function (it must be picklable)."""
        try:
            with _sigint_blocked():
                future = self._executor.submit(_call_with_context, work, *arguments)
        except BrokenProcessPool:
            raise self._killed_error() from ChildProcessError()
        # ProcessPoolExecutor lists its processes publicly from Python 3.14 on only.
        self._processes = list(self._executor._processes.values())
        return future

    def result(self, future: Future[Result]) -> Result:
        """Wait for a future and return its result, or raise the exception of its task.

        Raises:
            WorkerKilledError: a process was killed.
        """
        try:
            return future.result()
        except BrokenProcessPool:
            raise self._killed_error() from ChildProcessError()

    def _killed_error(self) -> WorkerKilledError:
        # Only one thread can read how a process ended: let the executor's own thread finish first.
        self._executor.shutdown()
        # After one process died, the executor terminates the others.
        codes = {process.exitcode for process in self._processes} - {None, 0}
        first_codes = codes - {-signal.SIGTERM} or codes
        causes = [_cause(code) for code in sorted(code for code in first_codes if code is not None)]
        how = f" {' and '.join(causes)}" if causes else ""
        return WorkerKilledError(
            f"a worker process was killed{how}, perhaps because memory ran out; "
            "fewer workers need less memory"
        )

    def close(self, *, at_once: bool = False) -> None:
        """End the processes: after their current tasks, or immediately with ``at_once``."""
        if at_once:
            for process in self._processes:
                process.kill()
            self._close_unused_pipe_ends()
        self._executor.shutdown(cancel_futures=True)

    def _close_unused_pipe_ends(self) -> None:
        """Close this process's copies of the pipe ends that only its workers use.

        A killed worker may leave a part of a message in a pipe. The executor's thread waits for the rest for
        as long as any process has the other end open. ProcessPoolExecutor has no public access to its pipes.
        """
        executor: Any = self._executor
        if executor._result_queue is not None:  # the executor did not shut down before
            executor._result_queue._writer.close()
            executor._call_queue._reader.close()


def _cause(exit_code: int) -> str:
    """Return how a process ended; most real-time signals have no name."""
    if exit_code > 0:
        return f"with exit code {exit_code}"
    named = -exit_code in set(signal.Signals)
    return f"by {signal.Signals(-exit_code).name}" if named else f"by signal {-exit_code}"


def map_in_order(
    work: Callable[[Item], Result], items: Sequence[Item], *, workers: int, cluster: Cluster | None = None
) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in order. At most a few results per process are in memory.

    Args:
        work: a module-level function (it must be picklable), or a ``functools.partial`` of one. It is sent
            to each process once, with the arguments of the partial.
        items: sent to the processes one by one.
        workers: number of processes; with 1 all work runs in this process.
        cluster: runs the work instead of this machine's processes; the caller closes it.

    After an exception the processes are killed immediately, in the middle of their tasks.

    Raises:
        WorkerKilledError: a process was killed.
    """
    if cluster is not None:
        yield from _results(cluster.pool(work), items, ITEMS_AHEAD * cluster.num_cpus)
    elif workers == 1 or len(items) < 2:
        yield from map(work, items)
    else:
        own_pool = Workers(min(workers, len(items)), work)
        try:
            yield from _results(own_pool, items, ITEMS_AHEAD * workers)
        except BaseException:  # also Ctrl-C, and a caller that ends early
            own_pool.close(at_once=True)
            raise
        own_pool.close()


def _results(pool: Workers | ClusterPool, items: Sequence[Item], max_ahead: int) -> Iterator[Any]:
    futures: deque[Any] = deque()
    for item in items:
        futures.append(pool.submit(_call, item))
        if len(futures) > max_ahead:
            yield pool.result(futures.popleft())
    while futures:
        yield pool.result(futures.popleft())


def _call(work: Callable[[Item], Result], item: Item) -> Result:
    return work(item)


# --- inside a worker process

# The pickled context of this worker process's only pool; empty in all other processes.
_pickled_context = b""


@cache
def _context() -> Any:
    """Unpickle the context within the first task, so that its errors are errors of that task."""
    return pickle.loads(_pickled_context)


def _call_with_context(work: Callable[..., Result], *arguments: Any) -> Result:
    return work(_context(), *arguments)


def _set_up_process(pickled_context: bytes) -> None:
    global _pickled_context
    _pickled_context = pickled_context
    exit_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # for start methods that do not inherit it
    cv2.setNumThreads(1)
    _keep_freed_memory()


def exit_with_parent() -> None:
    """End this process when its parent ends: a killed parent cannot stop its workers."""
    parent = multiprocessing.parent_process()

    def wait_and_exit() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()


def _keep_freed_memory() -> None:
    """Let the C library keep freed memory.

    Every clip needs the same few megabytes. By default glibc may return them to the system after each clip,
    and clearing the new pages takes as long as computing the labels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Start processes with SIGINT blocked: a terminal sends Ctrl-C to all; only the parent handles it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
