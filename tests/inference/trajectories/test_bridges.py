"""Bridges: brute force, closed forms of Gaussians, ott itself, finite differences, invariances, bad input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from tercet.inference.trajectories.bridge_paths import MultimarginalBridge
from tercet.inference.trajectories.bridges import (
    bridge_objective,
    brownian_epsilon,
    multimarginal_bridge,
    sinkhorn_bridge,
)
from tercet.inference.trajectories.conditioning import conditioned_moments, conditioned_paths
from tercet.inference.trajectories.couplings import Bridge
from tercet.inference.trajectories.guided_proposals import guided_paths
from tercet.inference.trajectories.tiled_geometry import TransitionGeometry, transition_factors
from tercet.models import (
    Drift,
    ReferenceSDE,
    Snapshots,
    brownian,
    constant_volatility,
    lotka_volterra,
    ornstein_uhlenbeck,
    proportional_volatility,
)
from tercet.models.trajectories.transitions import gaussian_log_densities

WALK = ReferenceSDE(brownian(1), constant_volatility())
PULL = ReferenceSDE(ornstein_uhlenbeck(2), constant_volatility())
EATEN = ReferenceSDE(lotka_volterra(), proportional_volatility())
RATES = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1, "volatility": 0.1}


def pull(rng: np.random.Generator) -> dict[str, Any]:
    return {"rate": rng.uniform(0.3, 1.2, 2), "level": rng.normal(size=2), "volatility": rng.uniform(0.5, 1.0)}


def clouds(rng: np.random.Generator, counts: tuple[int, ...] = (12, 9, 15)) -> Snapshots:
    return Snapshots([rng.normal(size=(n, 2)) + 0.3 * k for k, n in enumerate(counts)], np.arange(len(counts)) * 0.7)


def log_density(theta: dict[str, Any], x: np.ndarray, y: np.ndarray, t: float) -> np.ndarray:
    """Ornstein-Uhlenbeck transition in closed form."""
    decay = np.exp(-theta["rate"] * t)
    mean = theta["level"] + (x - theta["level"]) * decay
    var = theta["volatility"] ** 2 * (1 - decay**2) / (2 * theta["rate"])
    return -0.5 * (((y[None] - mean[:, None]) ** 2 / var) + np.log(2 * np.pi * var)).sum(axis=-1)


def scaled(kernel: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Iterative scaling in NumPy, to the last bit."""
    u, v = np.ones_like(a), np.ones_like(b)
    for _ in range(20000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    return u[:, None] * kernel * v


def test_small_coupling_by_brute_force(rng: np.random.Generator) -> None:
    theta = pull(rng)
    x, y = rng.normal(size=(2, 2)), rng.normal(size=(3, 2))
    a, b = rng.dirichlet(np.full(2, 5.0)), rng.dirichlet(np.full(3, 5.0))
    bridge = sinkhorn_bridge(PULL, theta, x, y, start=0.5, stop=1.2, weights=(a, b), tolerance=1e-12, substeps=40)
    cost = -log_density(theta, x, y, 0.7)

    def objective(flat: np.ndarray) -> float:  # KL(P | a b' p), what is left of P after its marginals
        top = np.append(flat, a[0] - flat.sum())
        plan = np.stack([top, b - top])
        return float((plan * (cost + np.log(np.maximum(plan, 1e-300) / np.outer(a, b)))).sum())

    inside = {"type": "ineq", "fun": lambda flat: np.append(a[0] - flat.sum(), b[:2] - flat) - 1e-9}
    last = {"type": "ineq", "fun": lambda flat: b[2] - (a[0] - flat.sum()) - 1e-9}
    best = minimize(
        objective, a[0] * b[:2], method="SLSQP", bounds=[(1e-9, 1)] * 2, constraints=[inside, last], tol=1e-14
    )
    assert bridge.converged
    np.testing.assert_allclose(bridge.coupling[0, :2], best.x, atol=2e-5)
    np.testing.assert_allclose(bridge.objective, best.fun, atol=1e-7)
    np.testing.assert_allclose(bridge.coupling, scaled(np.outer(a, b) * np.exp(-cost), a, b), atol=1e-9)


@pytest.mark.parametrize("tile", [None, 5])
def test_marginals_and_potentials(rng: np.random.Generator, tile: int | None) -> None:
    cells = clouds(rng)
    weights = [None, rng.dirichlet(np.ones(9)), None]
    whole = multimarginal_bridge(PULL, pull(rng), cells, weights=weights, tolerance=1e-5, tile=tile)
    for bridge in whole.bridges:
        plan = bridge.coupling
        np.testing.assert_allclose(plan.sum(axis=1), bridge.source_weights, atol=1e-12)
        assert np.abs(plan.sum(axis=0) - bridge.target_weights).sum() < 1e-5
        logs = np.log(plan / np.outer(bridge.source_weights, bridge.target_weights))
        cost = bridge.f[:, None] + bridge.g - logs
        value = (plan * (cost + logs)).sum()
        np.testing.assert_allclose(bridge.objective, value, atol=1e-3 * (1 + abs(value)))


def test_tiles_equal_the_whole(rng: np.random.Generator) -> None:
    cells = clouds(rng)
    for sde, theta in ((PULL, pull(rng)), (EATEN, RATES)):
        near = Snapshots([np.exp(0.3 * cloud) for cloud in cells.particles], cells.times)
        one, two = (multimarginal_bridge(sde, theta, near, tolerance=1e-9, tile=tile) for tile in (None, 4))
        for p, q in zip(one.bridges, two.bridges, strict=True):
            np.testing.assert_allclose(p.coupling, q.coupling, atol=1e-8)
            np.testing.assert_allclose(p.objective, q.objective, rtol=1e-8)


def test_tiled_geometry_is_the_log_density(rng: np.random.Generator) -> None:
    means, points = rng.normal(size=(7, 3)), rng.normal(size=(10, 3))
    roots = rng.normal(size=(7, 3, 3))
    spread = roots @ roots.swapaxes(1, 2) + 0.5 * np.eye(3)
    for own in (spread, spread[0]):
        left, right = jax.jit(transition_factors)(jnp.asarray(means), jnp.asarray(own), jnp.asarray(points))
        full = jnp.asarray(np.broadcast_to(own, spread.shape))
        expected = jax.jit(gaussian_log_densities)(jnp.asarray(means), full, jnp.asarray(points))
        np.testing.assert_allclose(left @ right.T, expected, atol=1e-9)
        space, f, g = TransitionGeometry(left, right, 4), jnp.arange(7.0), jnp.arange(10.0)
        for axis, shift in ((1, np.asarray(g)[None]), (0, np.asarray(f)[:, None])):
            lse = jax.scipy.special.logsumexp((expected + shift) / 2.0, axis=axis) * 2.0
            np.testing.assert_allclose(space.apply_lse_kernel(f, g, 2.0, axis=axis)[0], lse, atol=1e-9)


def test_brownian_bridge_is_entropic_transport(rng: np.random.Generator) -> None:
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    sde = ReferenceSDE(brownian(2), constant_volatility())
    x, y, sigma, dt = rng.normal(size=(11, 2)), rng.normal(size=(8, 2)), 0.8, 1.7
    bridge = sinkhorn_bridge(sde, {"volatility": sigma}, x, y, start=0.0, stop=dt, tolerance=1e-10)
    space = pointcloud.PointCloud(jnp.asarray(x), jnp.asarray(y), epsilon=brownian_epsilon(sigma, dt))
    plain = jax.jit(lambda space: sinkhorn.Sinkhorn(threshold=1e-10)(linear_problem.LinearProblem(space)).matrix)(space)
    np.testing.assert_allclose(bridge.coupling, plain, atol=1e-9)
    assert brownian_epsilon(sigma, dt) == pytest.approx(2 * sigma**2 * dt)


def test_gaussian_coupling(rng: np.random.Generator) -> None:
    # Normals of sd s, t and a Brownian reference of variance v: covariance c with c / (s^2 t^2 - c^2) = 1 / v.
    s, t, v = rng.uniform(0.5, 2.0, 3)
    mass = np.linspace(-6, 6, 241)
    weight = np.exp(-0.5 * mass**2)
    bridge = sinkhorn_bridge(
        WALK,
        {"volatility": np.sqrt(v)},
        s * mass[:, None],
        1.0 + t * mass[:, None],
        start=0.0,
        stop=1.0,
        weights=(weight, weight),
        tolerance=1e-8,
        max_iterations=20000,
    )
    found = (bridge.coupling * np.outer(s * mass, t * mass)).sum()
    expected = (np.sqrt(v**2 + 4 * s**2 * t**2) - v) / 2
    assert found == pytest.approx(expected, rel=1e-6)


def test_permutations_and_shifts(rng: np.random.Generator) -> None:
    cells, theta = clouds(rng, (8, 11)), pull(rng)
    (x, y), order, other = cells.particles, rng.permutation(8), rng.permutation(11)
    plain = sinkhorn_bridge(PULL, theta, x, y, start=0.0, stop=0.7, tolerance=1e-9)
    mixed = sinkhorn_bridge(PULL, theta, x[order], y[other], start=5.0, stop=5.7, tolerance=1e-9)
    np.testing.assert_allclose(mixed.coupling, plain.coupling[order][:, other], atol=1e-8)
    np.testing.assert_allclose(mixed.objective, plain.objective, rtol=1e-8)


@pytest.mark.parametrize("sde", [PULL, EATEN], ids=["affine", "nonlinear"])
def test_envelope_gradient(rng: np.random.Generator, sde: ReferenceSDE) -> None:
    cells = clouds(rng)
    theta: dict[str, Any] = pull(rng)
    if sde is EATEN:
        cells = Snapshots([np.exp(0.3 * cloud) for cloud in cells.particles], cells.times)
        theta = {site: value * rng.uniform(0.9, 1.1) for site, value in RATES.items()} | {"volatility": 0.4}

    def value(site: str, move: float) -> float:
        moved = theta | {site: np.asarray(theta[site]) + move}
        return bridge_objective(sde, moved, cells, tolerance=1e-9, max_iterations=20000).value

    found = bridge_objective(sde, theta, cells, tolerance=1e-9, max_iterations=20000)
    for site in theta:
        slope = (value(site, 1e-5) - value(site, -1e-5)) / 2e-5
        np.testing.assert_allclose(found.gradient[site].sum(), slope, rtol=1e-5, atol=1e-5)


def test_unconverged_is_refused(rng: np.random.Generator) -> None:
    cells, theta = clouds(rng), pull(rng) | {"volatility": 0.05}
    with pytest.raises(RuntimeError, match="has not converged"):
        bridge_objective(PULL, theta, cells, tolerance=1e-12, max_iterations=3)
    with pytest.warns(UserWarning, match="has not converged"):
        whole = multimarginal_bridge(PULL, theta, cells, tolerance=1e-12, max_iterations=3)
    assert not whole.converged
    np.testing.assert_allclose(whole.bridges[0].coupling.sum(axis=1), 1 / 12)


def test_small_noise_is_annealed(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(30, 1)), rng.normal(size=(25, 1))
    bridge = sinkhorn_bridge(WALK, {"volatility": 0.02}, x, y, start=0.0, stop=1.0, max_iterations=200_000)
    assert bridge.converged  # costs up to 10^4 beside epsilon 1
    cdf = np.minimum.outer(np.arange(1, 31) / 30, np.arange(1, 26) / 25)
    monotone = np.diff(np.diff(cdf, axis=0, prepend=0), axis=1, prepend=0)
    cost = np.subtract.outer(np.sort(x[:, 0]), np.sort(y[:, 0])) ** 2
    best = (monotone * cost).sum()
    ours = (bridge.coupling * np.subtract.outer(x[:, 0], y[:, 0]) ** 2).sum()
    assert best - 1e-3 < ours < best + brownian_epsilon(0.02, 1.0) * np.log(30 * 25) + 1e-2


def test_brownian_bridge_in_between(rng: np.random.Generator) -> None:
    x, y, sigma = rng.normal(size=(4, 1)), rng.normal(size=(4, 1)), 0.7
    times = np.array([1.0, 1.5, 2.0, 3.5, 4.0])
    mean, spread = conditioned_moments(WALK, {"volatility": sigma}, x, y, start=1.0, stop=4.0, times=times)
    share = (times - 1.0) / 3.0
    np.testing.assert_allclose(mean[..., 0], x + share * (y - x), atol=1e-8)
    np.testing.assert_allclose(
        spread[..., 0, 0], np.broadcast_to(sigma**2 * 3.0 * share * (1 - share), (4, 5)), atol=1e-8
    )


@pytest.mark.parametrize("passes", [0, 1])
def test_ornstein_uhlenbeck_bridge_in_between(rng: np.random.Generator, passes: int) -> None:
    theta = pull(rng)
    x, y, times, T = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), np.array([0.4, 1.1]), 1.5
    settings = {"start": 0.0, "stop": T, "times": times, "substeps": 40, "relinearise": passes}
    mean, spread = conditioned_moments(PULL, theta, x, y, **settings)
    k, level = theta["rate"], theta["level"]
    unit = theta["volatility"] ** 2 / k
    for i, t in enumerate(times):
        # Ornstein and Uhlenbeck's bridge: sinh interpolation.
        w0, w1 = np.sinh(k * (T - t)) / np.sinh(k * T), np.sinh(k * t) / np.sinh(k * T)
        np.testing.assert_allclose(mean[:, i], level + w0 * (x - level) + w1 * (y - level), atol=1e-6)
        var = unit * np.sinh(k * t) * np.sinh(k * (T - t)) / np.sinh(k * T)
        np.testing.assert_allclose(spread[:, i], np.broadcast_to(np.diag(var), (3, 2, 2)), atol=1e-6)


def test_paths_are_jointly_gaussian(rng: np.random.Generator, seed: int) -> None:
    # Covariance of a Brownian bridge on [0, 1] is s (1 - t); false alarm of 6 standard errors: 1e-8.
    n, times = 20_000, np.array([0.3, 0.6])
    x, y = np.zeros((n, 1)), np.ones((n, 1))
    paths = conditioned_paths(WALK, {"volatility": 1.0}, x, y, start=0.0, stop=1.0, times=times, key=seed)[..., 0]
    expected = np.array([[0.21, 0.12], [0.12, 0.24]])
    slack = 6 * np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / n)
    assert (np.abs(np.cov(paths.T) - expected) < slack).all()
    assert (np.abs(paths.mean(axis=0) - times) < 6 * np.sqrt(np.diag(expected) / n)).all()


def test_chains_follow_the_couplings(rng: np.random.Generator, seed: int) -> None:
    whole = multimarginal_bridge(PULL, pull(rng), clouds(rng, (3, 4, 3)), tolerance=1e-10)
    n = 40_000
    forward, middle, backward = (whole.chains(n, seed + k, from_snapshot=k) for k in range(3))
    for chains in (forward, middle, backward):
        for k, bridge in enumerate(whole.bridges):
            share = np.zeros_like(bridge.coupling)
            np.add.at(share, (chains[:, k], chains[:, k + 1]), 1 / n)
            assert np.abs(share - bridge.coupling).max() < 6 * np.sqrt(bridge.coupling.max() / n)
    # Markov: the first and last given the middle.
    p, q = (bridge.coupling for bridge in whole.bridges)
    ends = p @ (q / q.sum(axis=1, keepdims=True))
    for chains in (forward, middle, backward):
        share = np.zeros_like(ends)
        np.add.at(share, (chains[:, 0], chains[:, 2]), 1 / n)
        assert np.abs(share - ends).max() < 6 * np.sqrt(ends.max() / n)


def test_paths_pass_through_particles(rng: np.random.Generator, seed: int) -> None:
    cells = clouds(rng)
    whole = multimarginal_bridge(PULL, pull(rng), cells)
    times = np.array([0.0, 0.2, 0.7, 0.9, 1.4])
    for origin in range(3):
        paths = whole.paths(times, n=30, key=seed, from_snapshot=origin)
        assert paths.shape == (30, 5, 2)
        for at, k in ((0, 0), (2, 1), (4, 2)):
            gaps = np.abs(paths[:, at, None] - cells.particles[k]).max(axis=-1)
            assert (gaps.min(axis=1) == 0).all()
    np.testing.assert_array_equal(whole.paths(times, 5, key=3), whole.paths(times, 5, key=3))
    assert whole.marginal(0.35, 11, seed).shape == (11, 2)
    bands = whole.bands([0.1, 0.8], levels=[0.1, 0.9], n=64)
    assert bands.quantiles.shape == (2, 2, 2)
    assert (bands.quantiles[0] <= bands.quantiles[1]).all()


def test_stratified_start(rng: np.random.Generator, seed: int) -> None:
    whole = multimarginal_bridge(PULL, pull(rng), clouds(rng))
    assert (np.bincount(whole.chains(24, seed)[:, 0], minlength=12) >= 1).all()


def test_guided_weights_are_equal_where_linear(rng: np.random.Generator, seed: int) -> None:
    theta = pull(rng)
    x, y = rng.normal(size=(2, 2))
    found = guided_paths(PULL, theta, x, y, start=0.0, stop=1.0, n=50, key=seed)
    assert found.effective_sample_size == pytest.approx(50, rel=1e-3)
    np.testing.assert_allclose(found.log_density, log_density(theta, x[None], y[None], 1.0)[0, 0], atol=1e-4)
    np.testing.assert_allclose(found.paths[:, [0, -1]], np.broadcast_to([x, y], (50, 2, 2)), atol=1e-5)


def well() -> ReferenceSDE:
    return ReferenceSDE(Drift(lambda theta, x, t: 2.0 * x * (1.0 - x**2), {}, ["x"]), constant_volatility(0.5))


def double_well_density(x: float, y: float, T: float, steps: int = 400) -> float:
    """Log p(y | x) on a grid, by short Gaussian steps."""
    grid = np.linspace(-2.5, 2.5, 801)
    h, width = T / steps, grid[1] - grid[0]
    mean = grid + 2.0 * grid * (1 - grid**2) * h
    kernel = np.exp(-0.5 * (grid[None] - mean[:, None]) ** 2 / (0.25 * h)) / np.sqrt(2 * np.pi * 0.25 * h)
    law = np.exp(-0.5 * (grid - (x + 2 * x * (1 - x**2) * h)) ** 2 / (0.25 * h)) / np.sqrt(2 * np.pi * 0.25 * h)
    for _ in range(steps - 1):
        law = (law * width) @ kernel
    return float(np.log(np.interp(y, grid, law)))


@pytest.mark.slow
def test_guided_density_of_a_double_well(seed: int) -> None:
    # p(y | x) by weights against a grid: the weights are right where the linearisation is not.
    settings = {"n": 4000, "steps": 100, "relinearise": 3, "key": seed}
    found = guided_paths(well(), {}, [-1.0], [0.3], start=0.0, stop=0.8, **settings)
    exact = double_well_density(-1.0, 0.3, 0.8)
    error = np.sqrt(1 / found.effective_sample_size - 1 / 4000)
    assert abs(found.log_density - exact) < 6 * error + 0.03
    assert abs(found.log_ratio) > 0.1
    assert found.effective_sample_size > 400


def test_relinearised_mean_settles() -> None:
    # At a fixed point the linearised process is the Gaussian about its own mean: one more pass does not move it.
    given = (well(), {}, [[-1.0]], [[0.3]])
    settings = {"start": 0.0, "stop": 0.8, "times": np.linspace(0.1, 0.7, 7), "substeps": 40}
    free, eight, nine = (conditioned_moments(*given, relinearise=r, **settings)[0] for r in (0, 8, 9))
    np.testing.assert_allclose(eight, nine, atol=2e-3)
    assert np.abs(free - eight).max() > 0.05


def test_bad_input(rng: np.random.Generator) -> None:
    cells, theta = clouds(rng), pull(rng)
    with pytest.raises(ValueError, match="at least two snapshots"):
        multimarginal_bridge(PULL, theta, cells.take([0]))
    with pytest.raises(ValueError, match="moves 1 coordinates"):
        multimarginal_bridge(WALK, {"volatility": 1.0}, cells)
    with pytest.raises(ValueError, match="lacks"):
        multimarginal_bridge(PULL, {"rate": [1.0, 1.0]}, cells)
    with pytest.raises(ValueError, match="every coordinate observed"):
        multimarginal_bridge(PULL, theta, Snapshots(cells.particles, cells.times, observed=[True, False]))
    with pytest.raises(ValueError, match="explode"):
        multimarginal_bridge(EATEN, RATES | {"alpha": 60.0}, Snapshots([np.exp(c) for c in cells.particles], [0, 1, 2]))
    with pytest.raises(ValueError, match="NaN"):
        sinkhorn_bridge(WALK, {"volatility": 1.0}, [[np.nan]], [[1.0]], start=0.0, stop=1.0)
    with pytest.raises(ValueError, match="times must increase"):
        sinkhorn_bridge(WALK, {"volatility": 1.0}, [[0.0]], [[1.0]], start=1.0, stop=1.0)
    with pytest.raises(ValueError, match="weights"):
        multimarginal_bridge(PULL, theta, cells, weights=[None, [1.0], None])
    whole = multimarginal_bridge(PULL, theta, cells)
    with pytest.raises(ValueError, match="within the snapshots'"):
        whole.paths([0.0, 2.0])
    with pytest.raises(ValueError, match="from_snapshot"):
        whole.paths([0.0], from_snapshot=3)
    assert isinstance(whole, MultimarginalBridge)
    assert isinstance(whole.bridges[0], Bridge)


def test_large_coupling_is_refused() -> None:
    bridge = sinkhorn_bridge(WALK, {"volatility": 1.0}, [[0.0]], [[1.0]], start=0.0, stop=1.0)
    wide = Bridge(**{**vars(bridge), "source": np.zeros((10**4, 1)), "target": np.zeros((10**4, 1))})
    with pytest.raises(ValueError, match="too large"):
        _ = wide.coupling
