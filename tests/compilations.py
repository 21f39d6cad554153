"""How often XLA compiles while something runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jax import monitoring

COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass
class Compilations:
    """`count` programs were compiled so far, or read from the persistent cache."""

    count: int = 0


_RUNNING: list[Compilations] = []


def _listen(event: str, duration: float, **_: object) -> None:
    if event == COMPILED:
        for counter in _RUNNING:
            counter.count += 1


monitoring.register_event_duration_secs_listener(_listen)


@contextmanager
def compilations() -> Iterator[Compilations]:
    """Count the compilations of a block: `with compilations() as found: ...; assert found.count == 0`."""
    counter = Compilations()
    _RUNNING.append(counter)
    try:
        yield counter
    finally:
        _RUNNING.remove(counter)
