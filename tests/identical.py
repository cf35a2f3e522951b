"""Arrays that must be the same to the last bit."""

import numpy as np


def assert_identical(found: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """Fail, saying how many values differ, unless both have the same type, shape and bytes."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), what
    word = np.dtype(f"u{found.dtype.itemsize}")
    np.testing.assert_array_equal(
        np.ascontiguousarray(found).view(word),
        np.ascontiguousarray(expected).view(word),
        err_msg=what,
    )
