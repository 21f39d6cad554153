"""Snapshots: what they accept, what they keep, and what they answer to bad input."""

import re

import numpy as np
import pytest
from containers import assert_frozen_pytree

from tercet.models import Snapshots

X = np.arange(6.0).reshape(3, 2)


def with_value(array, index, value):
    changed = np.array(array, dtype=float)
    changed[index] = value
    return changed


BAD = {
    "times that stand still": (lambda: Snapshots([X, X], [1.0, 1.0]), "times must increase.*sort"),
    "snapshots of two widths": (lambda: Snapshots([X, X[:, :1]], [0, 1]), "widths \\[1, 2\\]"),
    "times of another length": (lambda: Snapshots([X, X], [0, 1, 2]), "particles 2, times 3"),
    "nan particle": (
        lambda: Snapshots([X, with_value(X, (0, 0), np.nan)], [0, 1]),
        "particles\\[1\\] has NaN",
    ),
    "nothing observed": (lambda: Snapshots([X], [0], observed=[False, False]), "at least one true"),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_with_what_to_do(build, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        build()


def test_snapshots_are_a_frozen_pytree():
    assert_frozen_pytree(Snapshots([X, X[:2]], [0, 1], names=["u", "v"], observed=[True, False]))
