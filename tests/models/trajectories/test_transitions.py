"""Inverses, Gaussian log densities of all pairs and mixtures of them: NumPy, SciPy, loops, finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tercet.models.trajectories.transitions import PENALTY, SnapshotMixture, gaussian_log_densities, inverse_and_log_det

invert = jax.jit(inverse_and_log_det)
densities = jax.jit(gaussian_log_densities)


def positive(rng: np.random.Generator, *batch: int, dim: int) -> np.ndarray:
    """Covariances [*batch, d, d] with a condition number of at most 1e4."""
    basis = np.linalg.qr(rng.normal(size=(*batch, dim, dim)))[0]
    return (basis * 10.0 ** rng.uniform(-2, 2, (*batch, 1, dim))) @ np.swapaxes(basis, -1, -2)


@pytest.mark.precision
@pytest.mark.parametrize("dim", [1, 2, 3, 4, 5, 6])
def test_inverse_and_log_determinant(dim: int, rng: np.random.Generator, bits: int) -> None:
    """Of matrices of condition 1e4, to 1e5 rounding errors of the entries of the inverse's own size."""
    matrix = positive(rng, 3, 4, dim=dim)
    inverse, log_det, sound = invert(jnp.asarray(matrix.astype(float if bits == 64 else np.float32)))
    accuracy = 1e5 * np.finfo(inverse.dtype).eps
    expected = np.linalg.inv(matrix)
    error = np.abs(inverse - expected) / np.abs(expected).max(axis=(-2, -1), keepdims=True)
    assert error.max() < accuracy
    np.testing.assert_allclose(log_det, np.linalg.slogdet(matrix)[1], atol=accuracy)
    assert (sound == 1.0).all()


@pytest.mark.parametrize("dim", [2, 5])
def test_what_is_not_positive_definite_is_told_and_harms_no_neighbour(dim: int, rng: np.random.Generator) -> None:
    """Indefinite, singular, zero, NaN, infinite: identity, 0, 0; no derivative; the sound matrix as if alone."""
    bad = [-np.eye(dim), np.diag([1.0] * (dim - 1) + [-1e-3]), np.ones((dim, dim)), np.zeros((dim, dim))]
    bad += [np.full((dim, dim), np.nan), np.full((dim, dim), np.inf)]
    good = positive(rng, dim=dim)
    matrix = jnp.asarray(np.stack([*bad, good]))
    (inverse, log_det, sound), moved = jax.jvp(invert, (matrix,), (jnp.ones_like(matrix),))
    np.testing.assert_array_equal(sound, [0.0] * 6 + [1.0])
    np.testing.assert_array_equal(inverse[:6], np.tile(np.eye(dim), (6, 1, 1)))
    np.testing.assert_array_equal(log_det[:6], 0.0)
    np.testing.assert_allclose(inverse[6], np.linalg.inv(good), rtol=1e-8, atol=1e-8)
    assert (moved[0][:6] == 0.0).all()
    assert (moved[1][:6] == 0.0).all()
    assert np.isfinite(moved[0]).all()


@pytest.mark.parametrize("dim", [1, 3, 5])
def test_derivatives_of_the_inverse(dim: int, rng: np.random.Generator) -> None:
    """Forwards against central differences along a symmetric direction, backwards against forwards."""
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    matrix, along = (basis * rng.uniform(0.5, 2.0, dim)) @ basis.T, rng.normal(size=(dim, dim))
    along = along + along.T
    pull = rng.normal(size=(dim, dim)), rng.normal()

    def total(matrix: jax.Array) -> jax.Array:
        inverse, log_det, _ = inverse_and_log_det(matrix)
        return (inverse * pull[0]).sum() + log_det * pull[1]

    both = jax.jit(lambda m: (jax.jvp(total, (m,), (jnp.asarray(along),))[1], jax.grad(total)(m)))
    forwards, gradient = both(jnp.asarray(matrix))

    def truth(m: np.ndarray) -> float:
        return float((np.linalg.inv(m) * pull[0]).sum() + np.linalg.slogdet(m)[1] * pull[1])

    h = 1e-5
    numeric = (truth(matrix + h * along) - truth(matrix - h * along)) / (2 * h)
    np.testing.assert_allclose(forwards, numeric, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose((np.asarray(gradient) * along).sum(), forwards, rtol=1e-9, atol=1e-9)


@pytest.mark.precision
@pytest.mark.parametrize("dim", [1, 3])
def test_log_densities_are_scipys(dim: int, rng: np.random.Generator, bits: int) -> None:
    """Own and shared covariances, far from the origin.

    The quadratic form is a sum of terms as large as (largest distance from the points' mean / smallest sd)^2: so many
    rounding errors, and no more, whatever the origin (the points themselves are rounded: their origin is exact here).
    """
    real = float if bits == 64 else np.float32
    means, points = rng.normal(size=(2, 5, dim)) + 1024.0, rng.normal(size=(7, dim)) + 1024.0
    means, points = means.astype(np.float32).astype(float), points.astype(np.float32).astype(float)
    basis = np.linalg.qr(rng.normal(size=(2, 5, dim, dim)))[0]
    own = (basis * rng.uniform(0.1, 1.0, (2, 5, 1, dim)) ** 2) @ np.swapaxes(basis, -1, -2)
    reach = np.abs(np.concatenate([means.reshape(-1, dim), points]) - points.mean(axis=0)).max() * np.sqrt(dim) / 0.1
    for covariances in (own, own[:, :1]):
        found = densities(*(jnp.asarray(a.astype(real)) for a in (means, covariances, np.stack([points] * 2))))
        assert found.shape == (2, 5, 7)
        wide = np.broadcast_to(covariances, own.shape)
        expected = [
            [scipy.stats.multivariate_normal(means[k, i], wide[k, i]).logpdf(points) for i in range(5)]
            for k in range(2)
        ]
        np.testing.assert_allclose(found, expected, atol=(30 * reach**2 + 1e4) * np.finfo(real).eps)


def test_a_distant_cloud_costs_no_digits(rng: np.random.Generator) -> None:
    """Moving everything by 2^30 sds, which no rounding touches, changes next to nothing."""
    means, points = (np.round(rng.normal(size=(n, 2)) * 1024) / 1024 for n in (4, 6))
    covariances = np.broadcast_to(np.array([[1.0, 0.3], [0.3, 2.0]]), (4, 2, 2))
    near, far = (densities(means + shift, jnp.asarray(covariances), points + shift) for shift in (0.0, 2.0**30))
    np.testing.assert_allclose(far, near, atol=1e-6)


def test_failed_covariances_give_the_penalty(rng: np.random.Generator) -> None:
    """Only in their own rows, and no gradient anywhere is NaN."""
    covariances = np.stack([np.eye(2), -np.eye(2), np.full((2, 2), np.nan)])
    means, points = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))

    @jax.jit
    def both(means: jax.Array, covariances: jax.Array, points: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        found = gaussian_log_densities(means, covariances, points)
        total = jax.grad(lambda *given: gaussian_log_densities(*given).sum(), (0, 1, 2))
        return found, total(means, covariances, points)

    found, gradients = both(*map(jnp.asarray, (means, covariances, points)))
    np.testing.assert_array_equal(found[1:], PENALTY)
    np.testing.assert_allclose(found[0], scipy.stats.multivariate_normal(means[0]).logpdf(points))
    assert all(np.isfinite(gradient).all() for gradient in gradients)


COUNTS = (3, 1, 4)


@pytest.fixture
def mixture(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Three snapshots of five centres, of which the second lacks two and the third one."""
    weights = np.log(rng.dirichlet(np.ones(5), 3))
    weights[1, 3:], weights[2, 4:] = -np.inf, -np.inf
    weights -= scipy.special.logsumexp(weights, axis=1, keepdims=True)
    means = rng.normal(size=(3, 5, 2))
    return {"means": means, "covariances": 0.1 + positive(rng, 3, 5, dim=2), "log_weights": weights}


def brute_force(mixture: dict[str, np.ndarray], points: np.ndarray, jackknife: bool = False) -> np.ndarray:
    """Particle by particle and centre by centre."""
    found, n = [], mixture["means"].shape[1]
    for y, k in zip(points, np.repeat(range(3), COUNTS), strict=True):
        shares = np.exp(mixture["log_weights"][k]) if "log_weights" in mixture else np.full(n, 1 / n)
        laws = [
            scipy.stats.multivariate_normal(mixture["means"][k, i], mixture["covariances"][k, i if own else 0])
            for i in range(n)
            for own in [mixture["covariances"].shape[1] == n]
        ]
        p = np.array([law.pdf(y) for law in laws])
        f = (shares * p).sum()
        here = shares > 0
        bias = (np.square(p / f - 1.0)[here] / here.sum()).sum() / (here.sum() - 1.0) / 2.0
        found.append(np.log(f) + (bias if jackknife else 0.0))
    return np.array(found)


@pytest.mark.parametrize("jackknife", [False, True], ids=["plain", "jackknife"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
def test_law_is_the_mixture(
    weighted: bool, jackknife: bool, mixture: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    """Unequal counts, own and shared covariances, centres that only fill up."""
    points = rng.normal(size=(sum(COUNTS), 2))
    if not weighted:
        mixture.pop("log_weights")
    for covariances in (mixture["covariances"], mixture["covariances"][:, :1]):
        given = mixture | {"covariances": covariances}
        law = SnapshotMixture(counts=COUNTS, jackknife=jackknife, **{k: jnp.asarray(v) for k, v in given.items()})
        assert (law.batch_shape, law.event_shape) == ((8,), (2,))
        found = jax.jit(law.log_prob)(jnp.asarray(points))
        np.testing.assert_allclose(found, brute_force(given, points, jackknife), rtol=1e-8, atol=1e-8)


def test_samples_have_the_mixtures_moments(mixture: dict[str, np.ndarray], seed: int) -> None:
    """Mean and second moments of each snapshot within 6 standard errors (false alarm below 1e-7 in all)."""
    law = SnapshotMixture(counts=COUNTS, **{k: jnp.asarray(v) for k, v in mixture.items()})
    draws = np.asarray(jax.jit(law.sample, static_argnums=1)(jax.random.key(seed), (4000,)))
    assert draws.shape == (4000, 8, 2)
    shares, means = np.exp(mixture["log_weights"]), mixture["means"]
    second = mixture["covariances"] + means[..., :, None] * means[..., None, :]
    for k, rows in enumerate(np.split(np.arange(8), np.cumsum(COUNTS)[:-1])):
        x = draws[:, rows].reshape(-1, 2)
        squares = x[:, :, None] * x[:, None, :]
        for found, expected in ((x, shares[k] @ means[k]), (squares, np.tensordot(shares[k], second[k], 1))):
            error = found.std(axis=0) / np.sqrt(len(x))
            assert (np.abs(found.mean(axis=0) - expected) < 6 * error).all()


@pytest.mark.precision
def test_law_is_finite_wherever_the_moments_went(bits: int) -> None:
    """Particles and centres 1e9 sds apart, widths of 1e12, no width at all: finite log densities and gradients."""
    real = jnp.float64 if bits == 64 else jnp.float32
    means = jnp.array([[[0.0], [1e3]], [[-1e3], [1e-3]], [[1e3], [-1e3]]], real)
    covariances = jnp.array([[1e-12, 1e-12], [1e12, 1.0], [0.0, 1.0]], real)[:, :, None, None]
    points = jnp.array([[0.0], [1e3], [-1e3], [7.0], [0.1], [0.2], [1.0], [1e-5]], real)

    @jax.jit
    def both(means: jax.Array, covariances: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        def logs(means: jax.Array, covariances: jax.Array) -> jax.Array:
            return SnapshotMixture(means, covariances, COUNTS).log_prob(points)

        return logs(means, covariances), jax.grad(lambda *given: logs(*given).sum(), (0, 1))(means, covariances)

    found, gradients = both(means, covariances)
    assert np.isfinite(found).all()
    assert all(np.isfinite(gradient).all() for gradient in gradients)
