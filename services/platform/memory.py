"""Memory that was freed and that allocators keep for later."""

import ctypes

import pyarrow as pa


def release_memory() -> None:
    """Give freed memory back to the system: that of Arrow and, with glibc, that of C and Python.

    For between two steps of a long job that each need much: together they would need the sum.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
