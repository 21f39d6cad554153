"""Size classes: data are filled up to one of few sizes, so that compiled programs serve data that grow."""

from __future__ import annotations

import numpy as np

COARSE = 4096
"""Up to this size classes are powers of two; above it they are an eighth of one apart."""
STEPS = 8


def size_class(n: int, coarse: int = COARSE) -> int:
    """Least class of at least n: a power of two up to `coarse`, above it a multiple of an eighth of one.

    A program is compiled once for each class. Up to `coarse` that is once a doubling, and less than half of a class is
    filling; above it less than a ninth is, because there the time a call runs is worth more than the compiler's.

    Parameters
    ----------
    n : how many there are, at least 0; 0 is a class of its own
    coarse : where the finer classes begin, a power of two

    Examples
    --------
    >>> from tercet.models._size_classes import size_class
    >>> [size_class(n) for n in (1, 2, 3, 40, 45, 64, 65, 4096, 4097, 9000)]
    [1, 2, 4, 64, 64, 64, 128, 4096, 4608, 9216]
    """
    if n < 1:
        return 0
    power = 1 << (n - 1).bit_length()
    if power <= coarse:
        return power
    step = max(power // 2 // STEPS, 1)
    return -(-n // step) * step


def padded(array: np.ndarray, size: int, value: float = 0) -> np.ndarray:
    """The array filled up with `value` to `size` rows."""
    fill = size - len(array)
    if fill < 0:
        raise ValueError(f"an array of {len(array)} rows does not fit into {size}.")
    return np.concatenate([array, np.full((fill, *array.shape[1:]), value, array.dtype)]) if fill else array
