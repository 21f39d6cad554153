"""Elementwise work over many candidates, in blocks that stay in the cache, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

BLOCK = 32_768
"""Candidates at once: a handful of arrays of so many numbers fit in a core's cache."""
SERIAL = 4 * BLOCK  # below this, threads cost more than they bring
T = TypeVar("T")


def in_blocks(work: Callable[[slice], T], size: int, block: int = BLOCK) -> list[T]:
    """`work` on every block of `size` candidates, in order.

    NumPy lets go of the interpreter in its loops, so that threads share the work; each block is computed alone, and the
    numbers are those of one block after the other.
    """
    parts = [slice(start, min(start + block, size)) for start in range(0, size, block)]
    if size < SERIAL:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return list(threads.map(work, parts))
