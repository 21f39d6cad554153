"""Elementwise work over many candidates, in blocks that stay in the cache, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

BLOCK = 32_768
"""Candidates in a block: a handful of arrays of so many numbers fit in a core's cache."""
SERIAL = 4 * BLOCK
"""Below this many candidates threads cost more than they save."""
T = TypeVar("T")


def in_blocks(work: Callable[[slice], T], size: int, block: int = BLOCK) -> list[T]:
    """Results of `work` on every block of `size` candidates, in order.

    NumPy releases the interpreter lock in its loops, so that threads share the work, a run of blocks each. Each block
    is computed alone: the numbers do not depend on the number of threads.

    Parameters
    ----------
    work : function of a slice of the candidates
    size : number of candidates
    block : number of candidates in a block
    """
    parts = [slice(start, min(start + block, size)) for start in range(0, size, block)]
    if size < SERIAL or (cores := os.cpu_count() or 1) == 1:
        return [work(part) for part in parts]
    share = -(-len(parts) // cores)
    runs = [parts[start : start + share] for start in range(0, len(parts), share)]
    with ThreadPoolExecutor(cores) as threads:
        results = threads.map(lambda run: [work(part) for part in run], runs)
        return [result for run in results for result in run]
