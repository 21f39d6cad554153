"""Size classes: how much is filled up, and how many classes a doubling has."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.models._size_classes import COARSE, padded, size_class


def test_classes_hold_their_data_and_are_few() -> None:
    sizes = np.arange(1, 4 * COARSE)
    classes = np.array([size_class(int(n)) for n in sizes])
    assert (classes >= sizes).all()
    assert (classes < 2 * sizes).all()
    assert (classes[sizes > COARSE] <= 1.125 * sizes[sizes > COARSE]).all()
    assert (np.diff(classes) >= 0).all()
    assert (np.array([size_class(int(n)) for n in classes]) == classes).all()
    assert len(set(classes[sizes <= COARSE])) == 1 + int(np.log2(COARSE))
    assert len(set(classes[(sizes > COARSE) & (sizes <= 2 * COARSE)])) == 8


def test_padding_keeps_what_was_there() -> None:
    cloud = np.arange(6.0).reshape(3, 2)
    filled = padded(cloud, 4, -1.0)
    np.testing.assert_array_equal(filled[:3], cloud)
    np.testing.assert_array_equal(filled[3:], [[-1.0, -1.0]])
    assert padded(np.array([1, 2]), 4).dtype == np.array([1, 2]).dtype
    with pytest.raises(ValueError, match="3 rows does not fit into 2"):
        padded(cloud, 2)
