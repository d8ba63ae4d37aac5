"""Lines about decisions that were made for the user, which the command line prints as ``note: ...``."""

from __future__ import annotations

import warnings


class Notice(UserWarning):
    """What was done, in one line."""


def notice(text: str) -> None:
    """Warn in one line."""
    warnings.warn(text, Notice, stacklevel=3)
