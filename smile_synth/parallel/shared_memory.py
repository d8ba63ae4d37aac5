"""Memory that worker processes write into and the parent reads without a copy."""

from __future__ import annotations

import mmap
import os
import weakref
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smile_synth.core.errors import UserError


class BufferAddress(NamedTuple):
    """Where another process finds a `SharedBuffer`.

    Attributes:
        process: id of the process that owns the buffer.
        descriptor: number of its file descriptor there.
        number: unique among the buffers of a process.
        num_bytes: size of the buffer.
    """

    process: int
    descriptor: int
    number: int
    num_bytes: int


class SharedBuffer:
    """Memory that workers write into. It has no name; the system frees it after its last use.

    Attributes:
        address: for `attach` in the workers.
    """

    _count = 0

    def __init__(self, num_bytes: int) -> None:
        """Allocate a buffer.

        Raises:
            UserError: the system is not Linux.
        """
        if not hasattr(os, "memfd_create"):
            raise UserError("worker processes that share memory need Linux; use workers=0")
        descriptor = os.memfd_create("smile", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, descriptor)
        os.ftruncate(descriptor, num_bytes)
        self._map = mmap.mmap(descriptor, num_bytes)
        SharedBuffer._count += 1
        self.address = BufferAddress(os.getpid(), descriptor, SharedBuffer._count, num_bytes)

    def array(self) -> NDArray[np.uint8]:
        """Return the whole buffer ``[num_bytes]``; views of this array keep it alive."""
        return np.frombuffer(self._map, np.uint8)


class SharedBuffers:
    """Shared buffers that are used again once no array refers to them."""

    def __init__(self) -> None:
        """Start without buffers."""
        self._free: list[SharedBuffer] = []

    def acquire(self, num_bytes: int) -> SharedBuffer:
        """Return a buffer of at least ``num_bytes``."""
        while self._free:
            buffer = self._free.pop()
            if buffer.address.num_bytes >= num_bytes:
                return buffer
        return SharedBuffer(max(num_bytes, 1))

    def array(self, buffer: SharedBuffer) -> NDArray[np.uint8]:
        """Return a buffer's bytes; the buffer is free again when the last view of them is deleted."""
        array = buffer.array()
        weakref.finalize(array, self._free.append, buffer)
        return array


@lru_cache(maxsize=16)
def attach(address: BufferAddress) -> NDArray[np.uint8]:
    """Return the bytes of another process's buffer, in a worker of that process."""
    descriptor = os.open(f"/proc/{address.process}/fd/{address.descriptor}", os.O_RDWR)
    try:
        shared = mmap.mmap(descriptor, address.num_bytes)
    finally:
        os.close(descriptor)
    return np.frombuffer(shared, np.uint8)
