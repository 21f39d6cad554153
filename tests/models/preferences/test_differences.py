"""The design matrix of comparisons by its products, in every form it is held in, against the matrix written out."""

import numpy as np
import pytest

from tercet.models import open_embeddings
from tercet.models._operators import Dense, product_of
from tercet.models.items.features import Identity, InMemory
from tercet.models.preferences.differences import Differences, GraphDifferences, order_covariate

N, M, DIM = 9, 60, 4


def written_out(features, first, second, covariates):
    rows = features[first] - features[second]
    return rows if covariates is None else np.column_stack([rows, covariates])


@pytest.fixture
def pairs(rng):
    first = rng.integers(N, size=M)
    return first, (first + rng.integers(1, N, size=M)) % N


@pytest.fixture(params=["none", "order", "others"])
def covariates(request, rng):
    return {"none": None, "order": order_covariate(M), "others": rng.normal(size=(M, 2))}[request.param]


KINDS = {
    "graph": lambda x, *rest: GraphDifferences(InMemory(x), *rest),
    "identity": lambda x, *rest: GraphDifferences(Identity(N), *rest),
    "read": lambda x, *rest: Differences(open_embeddings(x, block_bytes=8 * DIM * 7), *rest),
    "dense": lambda x, *rest: Differences(InMemory(x), *rest).dense(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_equal_the_matrix(kind, covariates, pairs, rng):
    features = np.eye(N) if kind == "identity" else rng.normal(size=(N, DIM))
    matrix = written_out(features, *pairs, covariates)
    rows = KINDS[kind](features, *pairs, covariates)
    theta, values, weights = rng.normal(size=matrix.shape[1]), rng.normal(size=M), rng.random(M)
    root, some = rng.normal(size=(matrix.shape[1], 3)), rng.permutation(M)[:7]
    assert (len(rows), rows.shape) == (M, matrix.shape)
    np.testing.assert_allclose(rows.matvec(theta), matrix @ theta, atol=1e-12)
    np.testing.assert_allclose(rows.rmatvec(values), matrix.T @ values, atol=1e-12)
    np.testing.assert_allclose(rows.gram(weights), matrix.T @ (weights[:, None] * matrix), atol=1e-11)
    np.testing.assert_allclose(rows.matmat(root), matrix @ root, atol=1e-12)
    np.testing.assert_allclose(rows.squared_norms(root), np.square(matrix @ root).sum(axis=1), atol=1e-11)
    np.testing.assert_allclose(rows.squared_norms(root[:, :1]), np.square(matrix @ root[:, 0]), atol=1e-11)
    np.testing.assert_allclose(rows.along(rows.levels(theta), some), matrix[some] @ theta, atol=1e-12)
    np.testing.assert_allclose(product_of(rows.factors(root), np.ones(3)), matrix @ root @ np.ones(3), atol=1e-12)
    np.testing.assert_allclose(rows.row(5), matrix[5], atol=1e-15)
    for index in (some, slice(3, 20, 2), weights > 0.5):
        np.testing.assert_allclose(rows.take(index).matvec(theta), matrix[index] @ theta, atol=1e-12)
    np.testing.assert_allclose(rows.subsample(4).rmatvec(values[::4]), matrix[::4].T @ values[::4], atol=1e-12)
    eta, pulled = rows.matvec_rmatvec(theta, lambda eta, part: np.square(eta) * weights[part])
    np.testing.assert_allclose(eta, matrix @ theta, atol=1e-12)
    np.testing.assert_allclose(pulled, matrix.T @ (np.square(eta) * weights), atol=1e-11)


def test_the_order_covariate_costs_one_number(pairs):
    rows = GraphDifferences(Identity(N), *pairs, order_covariate(M)).take(np.arange(0, M, 3))
    assert rows.covariates.shape == (20, 1)
    assert rows.covariates.strides == (0, 0)


@pytest.mark.parametrize(("count", "expected"), [(M, GraphDifferences), (5, Dense)])
@pytest.mark.parametrize("order", [False, True])
def test_the_smaller_operator_is_chosen_and_both_mean_the_same(count, expected, order, pairs, rng):
    """Features far from zero and items that never occur change nothing."""
    features = rng.normal(size=(N, DIM)) + 100.0
    first, second = pairs[0][:count], pairs[1][:count]
    first[: min(count, N - 1)] = np.arange(min(count, N - 1))
    second[:4], second[4:] = 8, np.where(first[4:] == 8, 7, 8)
    covariates = order_covariate(count) if order else None
    rows = Differences(InMemory(features), first, second, covariates).compact()
    assert isinstance(rows, expected)
    matrix = written_out(features, first, second, covariates)
    theta = rng.normal(size=matrix.shape[1])
    np.testing.assert_allclose(rows.matvec(theta), matrix @ theta, atol=1e-9)
    np.testing.assert_allclose(rows.gram(np.ones(count)), matrix.T @ matrix, atol=1e-9)


def test_dense_gram_adds_up_over_blocks(rng):
    """More rows than one block holds."""
    matrix, weights = rng.normal(size=(9000, 3)), rng.random(9000)
    np.testing.assert_allclose(Dense(matrix).gram(weights), matrix.T @ (weights[:, None] * matrix), rtol=1e-10)
