"""Exceptions that the command line prints as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable


class UserError(Exception):
    """A mistake in the user's input, described in one line.

    Several mistakes found together are joined by newlines, one per line. The command line prints the
    message without a traceback and exits with code 2.
    """


class WorkerKilledError(UserError):
    """A worker process was killed, perhaps because memory ran out."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``"1 clip"``, ``"2 clips"``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def check_name(what: str, name: str, allowed: Collection[str]) -> None:
    """Check that a name is allowed.

    Raises:
        UserError: it is not, for example ``"layout 'shard': allowed are folder, shards; did you mean ..."``.
    """
    if name not in allowed:
        raise UserError(f"{what} '{name}': allowed are {', '.join(allowed)}{nearest(name, allowed)}")
