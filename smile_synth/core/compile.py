"""Compile kernels with numba, with a cache on disk that follows every source file a kernel may use.

numba's own cache looks only at the file of the kernel itself: after a change of a constant or of an inlined
function in another file the old machine code would still run. Here the cache folder's name holds a digest of
the sources. For this to be complete, a kernel uses only names of its own folder and of `smile_synth.core`.
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
    """Compile a function when it is first called; use as ``@kernel`` or ``@kernel(error_model="numpy")``.

    Kernels release the GIL. Without a cache folder that can be written they are compiled in every process.

    Args:
        function: to compile.
        error_model: ``python`` raises ZeroDivisionError, ``numpy`` gives inf or NaN and is faster.
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
    except RuntimeError:  # numba found no folder that it can write
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
