"""Work spread over processes, its results in order; nothing outlives the process that asked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from smile_synth.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
# Results that wait for their turn, per process.
AHEAD = 4


def in_order(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    start: Callable[..., None] | None = None,
    arguments: Sequence[Any] = (),
) -> Iterator[Result]:
    """Yield ``work(item)`` for every item, in order; few results are kept waiting in memory.

    Args:
        work: a function of a module.
        items: what to work on; sent to the processes a few at a time.
        workers: processes; with 1 everything happens in this one.
        start: called once in every process, with ``arguments``.
        arguments: for ``start``.

    Raises:
        UserError: a process was killed.
    """
    if workers == 1 or len(items) < 2:
        if start:
            start(*arguments)
        yield from map(work, items)
        return
    # Fork and the threads of decoders and parquet readers do not mix.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(items)), context, initializer=_start, initargs=(start, tuple(arguments))
    )
    try:
        ahead: deque[Future[Result]] = deque()
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; what is done is kept, the same command "
            "goes on, fewer workers need less"
        ) from ChildProcessError()
    finally:
        pool.shutdown(cancel_futures=True)


def _start(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    if start:
        start(*arguments)


def _leave_with_parent() -> None:
    """A killed parent cannot tell its workers to stop, and they would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
