"""Compile kernels with numba and cache their machine code on disk.

numba's cache checks only the file of the kernel itself. After a change of a constant or an inlined function
in another file, the old machine code would still run. Therefore the cache folder's name contains a digest of
all source files that a kernel may use: those of its own folder and of `smile_synth.core`. A test checks that
kernels use no names of other folders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

from smile_synth.core.cache import cache_folder

_CORE = Path(__file__).resolve().parent

# A function that is compiled into the kernels that call it.
inlined = numba.njit(inline="always")


def kernel(function: Callable[..., Any] | None = None, *, error_model: str = "python") -> Any:
    """Compile a function at its first call; use as ``@kernel`` or ``@kernel(error_model="numpy")``.

    Kernels release the GIL. If the cache folder is not writable, every process compiles them again.

    Args:
        function: the function to compile.
        error_model: division by zero raises an error (``python``), or gives inf or NaN and is faster
            (``numpy``).
    """
    if function is None:
        return lambda decorated: kernel(decorated, error_model=error_model)
    options: dict[str, Any] = {"nogil": True, "error_model": error_model}
    config: Any = numba.config
    before = config.CACHE_DIR
    sources = Path(function.__code__.co_filename).resolve().parent
    folder = Path(before) if before else cache_folder() / "kernels"
    config.CACHE_DIR = str(folder / f"{sources.name}-{_digest(sources)}")
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # the cache folder is not writable
        return numba.njit(**options)(function)
    finally:
        config.CACHE_DIR = before


@lru_cache
def _digest(folder: Path) -> str:
    """Return a digest of the Python files of a folder and of `smile_synth.core`."""
    digest = hashlib.sha256()
    for path in (*sorted(_CORE.glob("*.py")), *sorted(folder.glob("*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]
