"""Linear-noise moments: Ornstein-Uhlenbeck in closed form, SciPy's integrator, order of the error, explosions."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tercet.models.trajectories.families import lotka_volterra, ornstein_uhlenbeck
from tercet.models.trajectories.linear_noise import TransitionMoments, forward_only, linear_noise_moments
from tercet.models.trajectories.reference_sdes import (
    Drift,
    ReferenceSDE,
    Volatility,
)
from tercet.models.trajectories.volatilities import constant_volatility, proportional_volatility

ROOT = np.array([[0.5, 0.2, 0.0], [-0.3, 0.4, 0.6]])
OU = ReferenceSDE(
    ornstein_uhlenbeck(2), Volatility(lambda theta, x, t: jnp.asarray(ROOT.astype(x.dtype)), {}, state_free=True)
)
LV = ReferenceSDE(lotka_volterra(), proportional_volatility())
TIMES = np.array([0.5, 1.0, 2.0])


@lru_cache
def compiled(sde: ReferenceSDE, substeps: int) -> Callable[..., TransitionMoments]:
    """One program for each reference, number of substeps and shape of the question."""

    @jax.jit
    def run(theta: Any, starts: Any, times: Any, covariance: Any = None) -> TransitionMoments:
        return linear_noise_moments(sde, theta, starts, times, substeps=substeps, covariance=covariance, flow=True)

    return run


def ask(
    sde: ReferenceSDE, theta: Any, starts: Any, times: Any, substeps: int = 20, covariance: Any = None
) -> TransitionMoments:
    given = jax.tree.map(jnp.asarray, (theta, starts, times, covariance))
    return TransitionMoments(*map(np.asarray, compiled(sde, substeps)(*given)))


@pytest.fixture
def ou(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return {"rate": rng.uniform(0.2, 2.0, 2), "level": rng.normal(size=2)}, rng.normal(size=(4, 2)) * 3.0


@pytest.fixture
def lv(rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    """Rates within 20 % of (1, .4, .4, .1), starts from 1 to 8."""
    rates = dict(zip(("alpha", "beta", "gamma", "delta"), [1.0, 0.4, 0.4, 0.1], strict=True))
    return {s: r * rng.uniform(0.8, 1.2) for s, r in rates.items()} | {"volatility": 0.1}, rng.uniform(1, 8, (4, 2))


def per_particle(times: np.ndarray, n: int = 4) -> np.ndarray:
    return np.tile(times[:, None], (1, n))


def test_ornstein_uhlenbeck_in_closed_form_by_both_ways(ou: Any, rng: np.random.Generator) -> None:
    """Mean, covariance of three noises, flow; Runge-Kutta's error with steps of rate * h <= 0.1 is below 1e-5."""
    theta, starts = ou
    spread = np.cov(rng.normal(size=(2, 9)))
    quick = ask(OU, theta, starts, TIMES, covariance=spread)
    general = ask(OU, theta, starts, per_particle(TIMES), covariance=spread)
    own = ask(OU, theta, starts, TIMES, covariance=np.tile(spread, (4, 1, 1)))
    rates = np.add.outer(theta["rate"], theta["rate"])
    for k, t in enumerate(np.diff(TIMES, prepend=TIMES[:1]).cumsum()[1:]):
        decay = np.exp(-theta["rate"] * t)
        np.testing.assert_allclose(quick.mean[k], theta["level"] + decay * (starts - theta["level"]), atol=1e-4)
        added = ROOT @ ROOT.T * (1.0 - np.exp(-rates * t)) / rates
        np.testing.assert_allclose(quick.covariance[k, 1], added + np.outer(decay, decay) * spread, atol=1e-4)
        np.testing.assert_allclose(quick.flow[k, 2], np.diag(decay), atol=1e-4)
    for other, accuracy in ((general, 1e-10), (own, 1e-5)):  # own covariances go by the flow, not by Runge-Kutta
        for a, b in zip(quick, other, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=accuracy)


def exactly(theta: dict[str, float], start: np.ndarray, times: np.ndarray) -> TransitionMoments:
    """Moments of Lotka-Volterra with proportional noise by SciPy, the equations written out."""
    a, b, c, d, s = (theta[site] for site in ("alpha", "beta", "gamma", "delta", "volatility"))

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        m, S, phi = y[:2], y[2:6].reshape(2, 2), y[6:].reshape(2, 2)
        J = np.array([[a - b * m[1], -b * m[0]], [d * m[1], d * m[0] - c]])
        velocity = [a * m[0] - b * m[0] * m[1], d * m[0] * m[1] - c * m[1]]
        return np.concatenate([velocity, (J @ S + S @ J.T + np.diag((s * m) ** 2)).ravel(), (J @ phi).ravel()])

    begin = np.concatenate([start, np.zeros(4), np.eye(2).ravel()])
    found = solve_ivp(rate, times[[0, -1]], begin, "DOP853", times[1:], rtol=1e-12, atol=1e-13).y.T
    return TransitionMoments(found[:, :2], found[:, 2:6].reshape(-1, 2, 2), found[:, 6:].reshape(-1, 2, 2))


def test_error_is_of_fourth_order(lv: Any) -> None:
    """Against SciPy at 1e-12: twice the steps, a sixteenth of the error, in mean, covariance and flow."""
    theta, starts = lv
    truth = [exactly(theta, start, TIMES) for start in starts]
    errors = []
    for substeps in (20, 40):
        found = ask(LV, theta, starts, per_particle(TIMES), substeps)
        errors.append([
            np.sqrt(sum(np.square(part[:, i] - getattr(exact, name)).sum() for i, exact in enumerate(truth)))
            for name, part in found._asdict().items()
        ])  # fmt: skip
    assert (np.array(errors[1]) < 1e-4).all()
    ratio = np.array(errors[0]) / errors[1]
    assert ((ratio > 12.0) & (ratio < 21.0)).all(), ratio


def test_flow_is_the_derivative_of_the_mean(lv: Any) -> None:
    theta, starts = lv
    flow, h = ask(LV, theta, starts, per_particle(TIMES)).flow, 1e-5
    for j, unit in enumerate(np.eye(2)):
        ahead, behind = (ask(LV, theta, starts + s * unit, per_particle(TIMES)).mean for s in (h, -h))
        np.testing.assert_allclose(flow[..., j], (ahead - behind) / (2 * h), rtol=1e-3, atol=1e-3)


def test_covariance_of_the_start_is_carried_by_the_flow(lv: Any, rng: np.random.Generator) -> None:
    """S = S without it + Phi S_0 Phi': the equation is linear in S, whatever the drift."""
    theta, starts = lv
    spread = np.stack([np.cov(rng.normal(size=(2, 9))) for _ in starts])
    none = ask(LV, theta, starts, per_particle(TIMES), covariance=np.zeros((4, 2, 2)))
    found = ask(LV, theta, starts, per_particle(TIMES), covariance=spread)
    np.testing.assert_allclose(
        found.covariance, none.covariance + none.flow @ spread @ np.swapaxes(none.flow, -1, -2), rtol=1e-3, atol=1e-3
    )


def test_particles_may_have_times_of_their_own(lv: Any, rng: np.random.Generator) -> None:
    """Each as if all had its times; and without time in the drift only differences of times matter."""
    theta, starts = lv
    clock = np.cumsum(rng.uniform(0.1, 1.0, (3, 4)), axis=0)
    found = ask(LV, theta, starts, clock)
    shifted = ask(LV, theta, starts, clock + 100.0)
    for i in range(4):
        alone = ask(LV, theta, starts, per_particle(clock[:, i]))
        for part, one, later in zip(found, alone, shifted, strict=True):
            np.testing.assert_allclose(part[:, i], one[:, i], rtol=1e-12)
            np.testing.assert_allclose(later[:, i], part[:, i], rtol=1e-9, atol=1e-9)
    shared = ask(LV, theta, starts, TIMES)
    for part, one in zip(shared, ask(LV, theta, starts, per_particle(TIMES)), strict=True):
        np.testing.assert_allclose(part, one, rtol=1e-12)


def test_time_in_drift_and_volatility(rng: np.random.Generator) -> None:
    """B = cos(t), s = t: mean x + sin(t_1) - sin(t_0), variance (t_1^3 - t_0^3) / 3, flow 1; both ways."""
    drift = Drift(lambda theta, x, t: jnp.cos(t) * jnp.ones_like(x), {}, ["x"], affine=True)
    sde = ReferenceSDE(drift, Volatility(lambda theta, x, t: t, {}, state_free=True))
    starts = rng.normal(size=(4, 1))
    for clock in (TIMES, per_particle(TIMES)):
        found = ask(sde, {}, starts, clock)
        for k in (1, 2):
            np.testing.assert_allclose(found.mean[k - 1], starts + np.sin(TIMES[k]) - np.sin(TIMES[0]), atol=1e-6)
            np.testing.assert_allclose(found.covariance[k - 1], (TIMES[k] ** 3 - TIMES[0] ** 3) / 3.0, atol=1e-9)
        np.testing.assert_array_equal(found.flow, 1.0)


CUBE = ReferenceSDE(Drift(lambda theta, x, t: theta["pace"] * x**3, {}, ["x"]), constant_volatility(0.1))
ABSURD: dict[str, tuple[ReferenceSDE, list[list[float]], list[dict[str, Any]]]] = {
    "cube": (CUBE, [[0.1], [1.0], [-30.0], [0.0]], [{"pace": 1.0}, {"pace": 1e6}]),
    "predators": (
        LV,
        [[1.0, 2.0], [0.0, 1e-6]],
        [
            {"alpha": 1e6, "beta": 1e-6, "gamma": 1e6, "delta": 1e6, "volatility": 1e6},
            {"alpha": 1e-6, "beta": 1e6, "gamma": 1e-6, "delta": 1e6, "volatility": 1e-6},
        ],
    ),
    "linear": (
        OU,
        [[1.0, 2.0], [-3.0, 1e6]],
        [{"rate": [1e6, 1e-6], "level": [1.0, 1e6]}, {"rate": [-20.0, -1e6], "level": [1.0, 1e6]}],
    ),
}


@pytest.mark.precision
@pytest.mark.parametrize("case", ABSURD)
def test_explosions_stay_finite(case: str, bits: int) -> None:
    """Moments and their derivatives in parameters, forwards and backwards (all of order 1 backwards, by tanh)."""
    sde, starts, thetas = ABSURD[case]
    real = jnp.float64 if bits == 64 else jnp.float32

    def run(theta: Any) -> TransitionMoments:
        return linear_noise_moments(sde, theta, jnp.array(starts, real), jnp.array(TIMES.tolist(), real), substeps=5)

    @jax.jit
    def all_of_them(theta: Any) -> Any:
        total = jax.grad(lambda theta: sum(jnp.tanh(part).sum() for part in run(theta)[:2]))
        return jax.jvp(run, (theta,), (jax.tree.map(jnp.ones_like, theta),)), total(theta)

    for theta in thetas:
        found = all_of_them({site: jnp.array(value, real) for site, value in theta.items()})
        assert all(np.isfinite(part).all() for part in jax.tree.leaves(found))


def test_exploded_particles_leave_the_others_alone() -> None:
    """X' = x^3 from 1 leaves at t = 1/2 and is held far out; from 0.1 it is at (100 - 2 t)^(-1/2)."""
    found = ask(CUBE, {"pace": 1.0}, np.array([[0.1], [1.0], [-1.0], [0.1]]), per_particle(TIMES)).mean[..., 0]
    np.testing.assert_allclose(found[:, 0], (100.0 - 2.0 * (TIMES[1:] - 0.5)) ** -0.5, rtol=1e-9)
    assert (np.abs(found[:, 1:3]) > 10.0).all()
    assert (np.abs(found[1, 1:3]) > 1000.0).all()


def curve(parameters: Any, x: Any) -> Any:
    return {"wave": jnp.sin(parameters["a"] * x), "sum": jnp.exp(-parameters["b"]).sum() * x, "none": None}


def test_forward_only_is_the_same_function(rng: np.random.Generator) -> None:
    """Value, gradient, second derivative, under vmap; data are constants to it."""
    wrapped = forward_only(curve)
    given = jnp.asarray(rng.normal(size=4)), jnp.asarray(rng.normal(size=5))

    @jax.jit
    def both(z: Any, x: Any) -> list[list[Any]]:
        found = []
        for function in (curve, wrapped):

            def total(z: Any, x: Any, function: Any = function) -> Any:
                value = function({"a": z[0], "b": z[1:]}, x)
                return (value["wave"] ** 2).sum() + value["sum"].sum()

            backwards, again = jax.grad(total)(z, x), jax.jacrev(jax.grad(total))(z, x)
            found.append([total(z, x), backwards, jax.jacfwd(total)(z, x), jax.hessian(total)(z, x), again])
            found[-1].append(jax.vmap(total, (0, None))(jnp.stack([z, z + 1.0]), x))
            found[-1].append(jax.grad(total, 1)(z, x))
        return found

    *plain, by_data = both(*given)[0]
    *forwards, constant = both(*given)[1]
    for a, b in zip(plain, forwards, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    assert (by_data != 0.0).any()
    np.testing.assert_array_equal(constant, 0.0)


def test_forward_only_of_many_or_no_parameters() -> None:
    """Reverse mode stays: no custom rule, so data have gradients again."""
    for parameters, custom in ((jnp.ones(3), True), (jnp.ones(4), False), ({}, False)):
        wrapped = forward_only(lambda p, x: x * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(p)), most=3)
        assert ("custom_jvp" in str(jax.make_jaxpr(wrapped)(parameters, 2.0))) == custom


def test_forward_only_moments_have_the_gradient_of_moments(lv: Any) -> None:
    """The use it is for: reverse mode through the integrator, all paths of Lotka-Volterra."""
    theta, starts = lv

    @jax.jit
    def both(theta: Any, starts: Any, times: Any) -> list[Any]:
        def run(theta: Any, starts: Any, times: Any) -> TransitionMoments:
            return linear_noise_moments(LV, theta, starts, times, substeps=3)

        def total(function: Any) -> Any:
            return jax.grad(lambda theta: sum(jnp.sin(part).sum() for part in function(theta, starts, times)[:2]))

        return [total(run)(theta), total(forward_only(run))(theta)]

    plain, forwards = both(*jax.tree.map(jnp.asarray, (theta, starts, TIMES)))
    for site in theta:
        np.testing.assert_allclose(plain[site], forwards[site], rtol=1e-9, atol=1e-9)
