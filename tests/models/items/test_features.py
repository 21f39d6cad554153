"""Every kind of features against the matrix written out: products, sums over blocks, moments, subsets, maps."""

import numpy as np
import pytest
import scipy.sparse

from tercet.models import Items, open_embeddings
from tercet.models.items import Projection
from tercet.models.items.chunked import open_dask
from tercet.models.items.features import Identity, InMemory

N, D = 11, 4


def chunked(x):
    da = pytest.importorskip("dask.array")
    return open_dask(da.from_array(x, chunks=((5, 1, len(x) - 6), (1, x.shape[1] - 1))))


KINDS = {
    "array": InMemory,
    "32 bit": lambda x: InMemory(x.astype(np.float32)),
    "identity": lambda x: Identity(N),
    "some of the identity": lambda x: Identity(N + 3, np.array([3, 1, 12, 4, 8, 9, 13, 0, 7, 6, 2])),
    "on disk": lambda x: open_embeddings(x, block_bytes=8 * D * 3),
    "chunked": chunked,
}


@pytest.fixture(params=KINDS)
def features(request, rng):
    return KINDS[request.param](rng.normal(size=(N, D)) + 3.0)


def test_products_are_those_of_the_matrix(features, rng):
    x = features[:]
    close = {"rtol": 1e-5 if x.dtype == np.float32 else 1e-10, "atol": 1e-5 if x.dtype == np.float32 else 1e-10}
    assert features.shape == x.shape == (len(features), x.shape[1])
    vector, matrix = rng.normal(size=x.shape[1]), rng.normal(size=(x.shape[1], 3))
    values, weights = rng.normal(size=N), rng.random(N)
    np.testing.assert_allclose(features @ vector, x @ vector, **close)
    np.testing.assert_allclose(features @ matrix, x @ matrix, **close)
    np.testing.assert_allclose(features.levels(vector), x @ vector, **close)
    np.testing.assert_allclose(features.rmatvec(values), x.T @ values, **close)
    np.testing.assert_allclose(features.gram(weights), x.T @ (weights[:, None] * x), **close)
    middle = scipy.sparse.random_array((N, N), density=0.3, rng=rng, format="csr")
    np.testing.assert_allclose(features.sandwich(middle), x.T @ middle.toarray() @ x, **close)
    rows = features.map_products(matrix, lambda product, own: product * own[:, None], values)
    np.testing.assert_allclose(np.concatenate(rows), (x @ matrix) * values[:, None], **close)
    table = features.tabulate(matrix, square_in_single, 3)
    np.testing.assert_allclose(np.asarray(table), np.square(x @ matrix), rtol=1e-4, atol=1e-4)
    assert table.dtype == np.float32


def square_in_single(product):
    return np.square(product).astype(np.float32)


def test_moments_are_those_of_the_rows(features):
    x = np.asarray(features[:], np.float64)
    mean, variance = features.moments
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(variance, x.var(axis=0), rtol=1e-6)
    assert features.total_variance == pytest.approx(x.var(axis=0).sum(), rel=1e-6)
    center, scatter = features.scatter()
    np.testing.assert_allclose(center, x.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scatter, np.cov(x.T, bias=True) * N, atol=1e-6 * np.abs(scatter).max())
    np.testing.assert_allclose(sum(features.map_blocks(np.sum)), x.sum(), rtol=1e-6)
    np.testing.assert_allclose(features.sum_blocks(lambda rows: rows.sum(axis=0)), x.sum(axis=0), rtol=1e-6)


def test_subsets_maps_and_copies_in_memory(features):
    x = features[:]
    some = np.array([7, 2, 2, 9])
    np.testing.assert_array_equal(features.take(some)[:], x[some])
    np.testing.assert_array_equal(features.take(some).take([3, 0])[:], x[[9, 7]])
    np.testing.assert_array_equal(features[3:6], x[3:6])
    loaded = features.loaded()
    assert loaded.in_memory
    np.testing.assert_array_equal(loaded[:], np.asarray(x, np.float64))
    projection = Projection(np.zeros(x.shape[1]), np.eye(x.shape[1])[:, :2], 0.5)
    np.testing.assert_allclose(features.mapped(projection)[:], 2.0 * x[:, :2], rtol=1e-6)
    assert features.mapped(projection).shape == (N, 2)


def test_no_rows_at_all():
    empty = InMemory(np.empty((0, 3)))
    assert (empty @ np.ones(3)).shape == (0,)
    np.testing.assert_array_equal(empty.rmatvec(np.empty(0)), np.zeros(3))


def test_constant_features_have_no_variance():
    """Of a large mean: what is left is rounding."""
    for x in (np.full((9, 2), 1e6 + 0.1), open_embeddings(np.full((9, 2), 1e6 + 0.1))):
        assert Items(x).operator.total_variance == 0.0


def test_items_show_arrays_as_they_are(rng):
    x = rng.normal(size=(N, D))
    away = open_embeddings(x)
    assert Items(InMemory(x)).features is x
    assert Items(away).features is Items(away).operator is away
    assert Items(x).operator.in_memory
    assert not Items(away).operator.in_memory
