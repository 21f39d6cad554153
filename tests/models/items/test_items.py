"""Items: what they accept, what they keep, what they answer to bad input, and projections of them."""

import re

import jax
import numpy as np
import pytest
from containers import assert_frozen_pytree

from tercet.models import Items, project
from tercet.models.items import Projection

X = np.arange(6.0).reshape(3, 2)


def with_value(array, index, value):
    changed = np.array(array, dtype=float)
    changed[index] = value
    return changed


BAD = {
    "nan feature": (
        lambda: Items(with_value(X, (1, 0), np.nan)),
        "NaN or infinite.*1 row.*\\(1, 0\\).*drop",
    ),
    "infinite feature": (lambda: Items(with_value(X, (2, 1), np.inf)), "features.*NaN or infinite"),
    "flat features": (lambda: Items([1.0, 2.0]), "features must have 2 dimension.*\\(2,\\)"),
    "no items": (lambda: Items(np.zeros((0, 3))), "features is empty"),
    "text features": (lambda: Items([["a", "b"]]), "features must be numbers"),
    "repeated ids": (lambda: Items(X, ids=["a", "b", "a"]), "ids has 1 repeated.*unique"),
    "too few ids": (lambda: Items(X, ids=["a", "b"]), "ids has 2 name.*3 row"),
    "prompts of another length": (lambda: Items(X, prompt=[0, 1]), "features 3, prompt 2"),
    "too many components": (lambda: project(Items(X), 3), "components must be between 1 and.*2.*got 3"),
    "projected twice": (lambda: project(project(Items(X), 1), 1), "projected already"),
    "constant features": (lambda: project(Items(np.ones((3, 2))), 1), "same features"),
    "projection of another width": (
        lambda: project(Items(np.ones((3, 4))), project(Items(X), 1).projection),
        "4 columns, the projection expects 2",
    ),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_with_what_to_do(build, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        build()


def test_half_precision_becomes_single_and_integers_double():
    assert Items(X.astype(np.float16)).features.dtype == np.float32
    assert Items(X.astype(np.float32)).features.dtype == np.float32
    assert Items(X.astype(int)).features.dtype == np.float64


def test_large_finite_features_are_not_taken_for_infinite():
    """The sum overflows, no entry does."""
    assert len(Items(np.full((4, 2), 3e38, dtype=np.float32))) == 4


def test_items_keep_ids_prompts_and_projection_when_taken():
    items = project(Items(X, ids=["a", "b", "c"], prompt=["p", "q", "p"]), 1)
    kept = items.take(np.array([True, False, True]))
    assert kept.names == ("a", "c")
    assert kept.prompt.tolist() == [0, 0]
    assert kept.projection is items.projection
    np.testing.assert_array_equal(kept.features, items.features[[0, 2]])


def test_projection_is_principal_components_with_one_scale(rng):
    raw = rng.normal(size=(60, 5)) @ np.diag([3.0, 2, 1, 0.5, 0.1]) + 7.0
    items = project(Items(raw), 3)
    left, singular, _ = np.linalg.svd(raw - raw.mean(0), full_matrices=False)
    scores = left[:, :3] * singular[:3]
    signs = np.sign((scores * items.features).sum(0))
    np.testing.assert_allclose(items.features, scores * signs / np.sqrt(scores.var(0).mean()), atol=1e-9)
    np.testing.assert_allclose(project(Items(raw), items.projection).features, items.features)
    assert items.projection.same_as(project(Items(raw), 3).projection)
    assert not items.projection.same_as(project(Items(raw), 2).projection)


def test_items_are_a_frozen_pytree():
    assert_frozen_pytree(
        project(Items(np.random.default_rng(0).normal(size=(5, 3)), ids=list("abcde"), prompt=[0, 0, 1, 1, 1]), 2)
    )


def test_projection_is_a_pytree():
    made = jax.tree.map(lambda leaf: leaf + 1, Projection(np.zeros(2), np.eye(2), 1.0))
    assert made.scale == 2.0
