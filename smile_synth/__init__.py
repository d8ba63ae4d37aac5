"""smile_synth: segmented objects and images become procedurally animated, labelled clips."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smile_synth._public import *  # noqa: F403 - type checkers see the names that __getattr__ returns

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the public names at their first use, because numba and SciPy take a second to load."""
    public = import_module("smile_synth._public")
    if name != "__all__" and name not in public.__all__:
        raise AttributeError(f"module 'smile_synth' has no attribute '{name}'")
    return getattr(public, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
