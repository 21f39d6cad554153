"""What every container of data is: a frozen pytree, whose leaves are its arrays."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def assert_frozen_pytree(container: Any) -> None:
    """Leaves are the arrays, names ride along; rebuilding runs no check, so JAX may put tracers inside."""
    leaves, structure = jax.tree.flatten(container)
    assert jax.tree.structure(jax.tree.map(lambda leaf: leaf, container)) == structure
    doubled = jax.tree.map(lambda leaf: 2 * leaf, container)
    for got, was in zip(jax.tree.leaves(doubled), leaves, strict=True):
        np.testing.assert_array_equal(got, 2 * was)
    traced = jax.jit(lambda c: jax.tree.map(lambda leaf: jnp.asarray(leaf) + 1, c))(container)
    assert type(traced) is type(container)
    for got, was in zip(jax.tree.leaves(traced), leaves, strict=True):
        np.testing.assert_allclose(got, was + 1)
    with pytest.raises(FrozenInstanceError):
        container.ids = ("q",)
    for name in ("ids", "annotator_ids", "names", "observed", "metric"):
        assert getattr(traced, name, None) == getattr(container, name, None)
