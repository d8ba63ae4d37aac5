"""Progress of long commands: a bar on a terminal, a plain line every few seconds in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from smile_synth.cli._output import errors

SECONDS_BETWEEN_LINES = 5.0


class Update(Protocol):
    """Reports progress."""

    def __call__(self, done: int, total: int, /, *, what: str = "", remark: str = "") -> None:
        """Show ``done`` of ``total``; a new ``what`` starts a new count."""


@contextmanager
def progress_bar(what: str, unit: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Update]:
    """Show count, rate and time left on stderr; yields a callback.

    Args:
        what: the work, for example ``verify``.
        unit: what is counted, for example ``clips``.
        clock: current time in seconds.
    """
    if not errors.is_terminal:
        lines = _Lines(what, unit, clock)
        try:
            yield lines
        finally:
            lines.finish()
        return
    columns = (
        _column("{task.description}"), BarColumn(), MofNCompleteColumn(), _column(unit),
        _column("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        _column("{task.fields[remark]}"),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(what, total=None, rate="", remark="")

        def update(done: int, total: int, /, *, what: str = "", remark: str = "") -> None:
            shown = progress.tasks[task]
            if what and what != shown.description:
                progress.reset(task, description=what)
            rate = _rate(shown.speed or 0.0)
            progress.update(task, completed=done, total=total, rate=rate, remark=remark)

        yield update


def _column(text: str) -> TextColumn:
    return TextColumn(text, markup=False)


class _Lines:
    """Prints a plain line every few seconds, and a last one after long work."""

    def __init__(self, what: str, unit: str, clock: Callable[[], float]) -> None:
        self._what, self._unit, self._clock = what, unit, clock
        self._start = self._printed_at = clock()
        self._first: tuple[int, float] | None = None
        self._line = self._printed = ""

    def __call__(self, done: int, total: int, /, *, what: str = "", remark: str = "") -> None:
        now = self._clock()
        if what and what != self._what:
            self._what, self._start, self._first = what, now, None
        # The first call may count the work of an earlier run; results arrive in batches, so wait a second.
        first_done, first_time = self._first = self._first or (done, now)
        seconds = now - first_time
        speed = (done - first_done) / seconds if seconds >= 1.0 else 0.0
        parts = [f"{self._what}: {done} of {total} {self._unit}".rstrip(), _rate(speed)]
        if done >= total:
            parts.append(f"took {_duration(now - self._start)}")
        elif speed:
            parts.append(f"{_duration((total - done) / speed)} left")
        self._line = ", ".join(part for part in (*parts, remark) if part)
        if now - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._print(now)

    def finish(self) -> None:
        """Print the last state, unless the work was too short for any line."""
        if self._printed and self._line != self._printed:
            self._print(self._clock())

    def _print(self, now: float) -> None:
        self._printed, self._printed_at = self._line, now
        errors.print(self._line)


def _rate(per_second: float) -> str:
    if per_second >= 0.1:
        return f"{per_second:.1f}/s"
    return f"{60 * per_second:.1f}/min" if per_second >= 0.1 / 60 else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
