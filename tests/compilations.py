"""Counting what XLA compiles, and what a table allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

EVENT = "/jax/core/compile/backend_compile_duration"
"""JAX records it for each program that it compiles, or takes from its persistent cache."""


@dataclass
class Count:
    """Number of programs so far."""

    programs: int = 0


@contextmanager
def compilations() -> Iterator[Count]:
    """Count the programs compiled inside the block, on any thread."""
    count, active = Count(), [True]

    def listen(event: str, _: float, **__: Any) -> None:
        count.programs += active[0] and event == EVENT

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield count
    finally:
        active[0] = False  # listeners cannot be taken off again one by one


class Allowed(NamedTuple):
    """Programs that a call may need: the first time, with other data of the same shapes, and after growth by half."""

    first: int
    again: int
    grown: int


def programs_needed(call: Callable[..., object], data: Callable[[int, int], Any], size: int) -> Allowed:
    """Programs that a call needs on data(size, key): first, on other data of this size, on half as many again."""
    counts = []
    for count, key in ((size, 0), (size, 1), (size + size // 2, 2)):
        given = data(count, key)
        with compilations() as found:
            call(given)
        counts.append(found.programs)
    return Allowed(*counts)
