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

    NumPy lets go of the interpreter in its loops, so that threads share the work, a run of blocks each; every block is
    computed alone, and the numbers are those of one block after the other.
    """
    parts = [slice(start, min(start + block, size)) for start in range(0, size, block)]
    if size < SERIAL or (cores := os.cpu_count() or 1) == 1:
        return [work(part) for part in parts]
    share = -(-len(parts) // cores)
    runs = [parts[start : start + share] for start in range(0, len(parts), share)]
    with ThreadPoolExecutor(cores) as threads:
        found = threads.map(lambda run: [work(part) for part in run], runs)
        return [result for run in found for result in run]
