"""Memory that was freed and that allocators keep for later."""

import ctypes
import gc

import pyarrow as pa


def release_memory() -> None:
    """Give freed memory back to the system: that of Arrow and, with glibc, that of C and Python.

    A long job calls it between two steps that both need much memory. Garbage in cycles, which
    torch's export leaves, is freed first.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
