"""Arrays that worker processes write and their parent reads without a copy."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray


class SharedArray(NamedTuple):
    """What a worker process needs to open an array of its parent.

    Attributes:
        memory: file, unique number and bytes of the memory, for `_mapped`.
        shape: of the array.
        dtype: of the array.
    """

    memory: tuple[str, int, int]
    shape: tuple[int, ...]
    dtype: str

    def open(self) -> NDArray[Any]:
        """Return the array, in the parent or in a worker process."""
        size = math.prod(self.shape)
        return np.frombuffer(_mapped(*self.memory), self.dtype, size).reshape(self.shape)


class SharedArrays:
    """Allocates arrays. Memory is used again after all views of its array are deleted.

    On Linux the memory has no name, so the system frees it after its last use, even if processes were killed.
    On other systems it is a file in TMPDIR, which is removed with the memory.
    """

    def __init__(self) -> None:
        """Start without memory."""
        self._free: list[_Memory] = []

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike) -> tuple[NDArray[Any], SharedArray]:
        """Return an array with undefined values, and what a task needs to open it."""
        size, dtype = math.prod(shape), np.dtype(dtype)
        large = [memory for memory in self._free if memory.num_bytes >= size * dtype.itemsize]
        memory = min(large, key=lambda memory: memory.num_bytes, default=None)
        if memory is None:
            self._free.clear()
            memory = _Memory(max(size * dtype.itemsize, 1))
        else:
            self._free.remove(memory)
        array = np.frombuffer(memory.map, dtype, size)
        # Views of views refer to this array, too.
        weakref.finalize(array, self._free.append, memory)
        shared = SharedArray((memory.file, memory.number, memory.num_bytes), shape, dtype.str)
        return array.reshape(shape), shared


class _Memory:
    """Memory that other processes map. Its file is closed with this object, its map with the last view."""

    _numbers = count()

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.number = num_bytes, next(_Memory._numbers)
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("smile", os.MFD_CLOEXEC)
            self.file = f"/proc/{os.getpid()}/fd/{descriptor}"
        else:  # macOS
            descriptor, self.file = tempfile.mkstemp(prefix="smile-")
            weakref.finalize(self, os.unlink, self.file)
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, num_bytes)
        self.map = mmap.mmap(descriptor, num_bytes)


@lru_cache(maxsize=32)
def _mapped(file: str, number: int, num_bytes: int) -> mmap.mmap:
    """Map the memory behind a file; the number tells apart memories whose file is the same."""
    descriptor = os.open(file, os.O_RDWR)
    try:
        return mmap.mmap(descriptor, num_bytes)
    finally:
        os.close(descriptor)
