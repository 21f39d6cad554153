"""The two ways to hold D theta = X theta[first] - X theta[second], against the matrix written out."""

import numpy as np
import pytest

from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items, LinearHead, Thurstone
from tercet.models.preferences.linear_form import DenseRows, GraphRows, design_rows

N, M, DIM = 9, 60, 4


def written_out(features, first, second, order):
    features = np.eye(N) if features is None else features
    rows = features[first] - features[second]
    return np.column_stack([rows, np.ones(len(first))]) if order else rows


@pytest.fixture
def pairs(rng):
    first = rng.integers(N, size=M)
    return first, (first + rng.integers(1, N, size=M)) % N


@pytest.mark.parametrize("order", [False, True], ids=["plain", "order"])
@pytest.mark.parametrize("kind", ["graph", "identity", "dense"])
def test_rows_equal_the_matrix(kind, order, pairs, rng):
    features = None if kind == "identity" else rng.normal(size=(N, DIM))
    first, second = pairs
    matrix = written_out(features, first, second, order)
    rows = DenseRows(matrix) if kind == "dense" else GraphRows(features, N, first, second, order)
    theta, values, weights = rng.normal(size=matrix.shape[1]), rng.normal(size=M), rng.random(M)
    np.testing.assert_allclose(rows.predict(theta), matrix @ theta, atol=1e-12)
    np.testing.assert_allclose(rows.pull(values), matrix.T @ values, atol=1e-12)
    np.testing.assert_allclose(rows.gram(weights), matrix.T @ (weights[:, None] * matrix), atol=1e-11)


@pytest.mark.parametrize(("count", "expected"), [(M, GraphRows), (5, DenseRows)])
@pytest.mark.parametrize("order", [False, True])
def test_the_smaller_operator_is_chosen_and_both_mean_the_same(count, expected, order, pairs, rng):
    """Features far from zero and items that never occur change nothing."""
    features = rng.normal(size=(N, DIM)) + 100.0
    first, second = pairs[0][:count], pairs[1][:count]
    first[: min(count, N - 1)] = np.arange(min(count, N - 1))
    second[:4], second[4:] = 8, np.where(first[4:] == 8, 7, 8)
    rows = design_rows(features, N, first, second, order)
    assert isinstance(rows, expected)
    matrix = written_out(features, first, second, order)
    theta = rng.normal(size=matrix.shape[1])
    np.testing.assert_allclose(rows.predict(theta), matrix @ theta, atol=1e-9)
    np.testing.assert_allclose(rows.gram(np.ones(count)), matrix.T @ matrix, atol=1e-9)


def test_dense_gram_adds_up_over_blocks(rng):
    """More rows than one block holds."""
    matrix, weights = rng.normal(size=(9000, 3)), rng.random(9000)
    np.testing.assert_allclose(DenseRows(matrix).gram(weights), matrix.T @ (weights[:, None] * matrix), rtol=1e-10)


@pytest.mark.parametrize("model", [BradleyTerry(LinearHead(2.0), order_effect=True), Thurstone(AbilityHead(np.inf))])
def test_gradient_and_precision_are_derivatives(model, pairs, rng):
    """Central differences of the log posterior and of its gradient."""
    comparisons = Comparisons(*pairs, rng.random(M), weight=rng.random(M) + 0.5)
    form = model.linear_form(Items(rng.normal(size=(N, DIM))), comparisons)
    theta = 0.5 * rng.normal(size=len(form.prior_precision))
    _, gradient, eta = form.value_and_gradient(theta)
    steps = 1e-5 * np.eye(len(theta))
    up, down = ([form.value_and_gradient(theta + sign * s) for s in steps] for sign in (1, -1))
    numeric = np.array([(a[0] - b[0]) / 2e-5 for a, b in zip(up, down, strict=True)])
    np.testing.assert_allclose(gradient, numeric, atol=1e-6)
    hessian = np.array([(b[1] - a[1]) / 2e-5 for a, b in zip(up, down, strict=True)])
    np.testing.assert_allclose(form.precision(eta), hessian, atol=1e-6)
