"""Arguments that functions of this wing share: their types, and a check of counts."""

from __future__ import annotations

import jax
import numpy as np
from numpy.typing import ArrayLike

from tercet.designs.pairs.candidates import Scheme
from tercet.models.preferences.comparisons import Comparisons

Key = int | jax.Array
"""An int seed or a JAX key."""

Candidates = Scheme | int | ArrayLike
"""Pairs to choose from: a scheme by name, a number of random pairs, an array [m, 2], or a mask [n, n]."""

Exclude = Comparisons | ArrayLike | None
"""Pairs that are not to be compared (again), either way round."""


def check_count(name: str, value: object, least: int) -> None:
    """Raise where `value` is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
