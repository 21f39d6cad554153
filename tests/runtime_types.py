"""The checks of annotations that the tests run under: beartype, but which options there are is ours to say.

A `Literal` is checked as a string, a posterior and a key as anything: a wrong option or object has to reach the code,
whose `ValueError` says what to do.
"""

from __future__ import annotations

import re
import types
from functools import reduce, wraps
from operator import or_
from typing import Any, Literal, Union, get_args, get_origin

import jax
import numpy as np
from beartype import beartype
from jaxtyping import config

CHECKS = 5_000
"""Calls that are checked in one test: half a second. Loops that call the same functions on prove nothing more."""
left = CHECKS
KeyLike = Union[int, np.integer[Any], jax.Array]  # noqa: UP007


def check(function: Any) -> Any:
    """Beartype on a function whose literals are read as strings."""
    notes = getattr(function, "__annotations__", None)
    if isinstance(notes, dict):
        function.__annotations__ = {name: _relaxed(note) for name, note in notes.items()}
    checked = beartype(function)

    @wraps(checked)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global left
        left -= 1
        if left < 0:
            config.update("jaxtyping_disable", True)
        return checked(*args, **kwargs)

    return counted


def renew() -> None:
    """Check the next calls again."""
    global left
    left = CHECKS
    config.update("jaxtyping_disable", False)


def _relaxed(note: Any) -> Any:
    if isinstance(note, str):
        return Any if re.search("Posterior|KeyLike", note) else re.sub(r"Literal\[[^\]]*\]", "str", note)
    if getattr(note, "__name__", "") == "Posterior":
        return Any
    if get_origin(note) is Literal:
        return reduce(or_, {type(value) for value in get_args(note)})
    if note == KeyLike:
        return Any
    if get_origin(note) in (Union, types.UnionType):
        return Union[tuple(_relaxed(part) for part in get_args(note))]  # noqa: UP007
    return note
