"""Equality by structure: two objects are equal, and hash alike, where their fields are.

JAX keeps a compiled program for each value of a static argument: references that were built alike share theirs.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from functools import cached_property, partial
from numbers import Number
from typing import Any, ClassVar

import jax
import numpy as np


class Structural:
    """Base of frozen dataclasses (declared with `eq=False`) that compare and hash by the structure of their fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @cached_property
    def _structure(self) -> Hashable:
        return type(self), *(structure(getattr(self, field.name)) for field in fields(self))

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Structural) and self._structure == other._structure)

    def __hash__(self) -> int:
        return hash(self._structure)


def structure(value: object) -> Hashable:
    """Hashable key of a value: distributions and other pytrees by class and leaves, arrays by dtype, shape and content.

    A `functools.partial` goes by its parts, any other function by itself, what cannot be hashed by its identity.
    """
    # As a tuple, a mapping keeps the order of its keys: it is the order in which priors are drawn from.
    leaves, tree = jax.tree.flatten(tuple(value.items()) if isinstance(value, Mapping) else value)
    return tree, *map(_leaf, leaves)


def _leaf(leaf: object) -> Hashable:
    if isinstance(leaf, partial):
        return structure((leaf.func, leaf.args, tuple(leaf.keywords.items())))
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if isinstance(leaf, (np.ndarray, jax.Array, Number)):
        array = np.asarray(leaf)
        return array.dtype.str, array.shape, array.tobytes()
    return leaf if isinstance(leaf, Hashable) else id(leaf)
