"""Drift families against formulas in NumPy, potentials against finite differences, the algebra, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.handlers import seed as seeded

from tercet.models.trajectories.families import (
    big_vortex,
    brownian,
    coupled_springs,
    lamb_oseen,
    lotka_volterra,
    ornstein_uhlenbeck,
    repressilator,
)
from tercet.models.trajectories.gradient_fields import gradient_field
from tercet.models.trajectories.reference_sdes import (
    Drift,
    ReferenceSDE,
    Volatility,
)
from tercet.models.trajectories.volatilities import (
    constant_volatility,
    diagonal_volatility,
    proportional_volatility,
)

SIGNED = {"level", "omega", "inflow", "center", "circulation", "rest", "push", "curvature", "weights", "bias", "out"}
CENTER, SCALE = np.array([1.0, -2.0, 0.5]), np.array([2.0, 0.5, 3.0])


def draw(priors: Any, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A value of every site, of the prior's shape; positive unless the site may have any sign."""
    found = {}
    for site, prior in priors.items():
        normal = rng.normal(size=prior.shape())
        found[site] = normal if site.removeprefix("second_") in SIGNED else np.exp(0.5 * normal)
    return found


def drifts(sde: ReferenceSDE, theta: Any, states: np.ndarray) -> np.ndarray:
    """B at states [n, d]."""
    values = sde.parameters(theta)
    return np.asarray(jax.jit(jax.vmap(sde.b, (None, 0, None)))(values, jnp.asarray(states), 0.0))


def known(drift: Drift) -> ReferenceSDE:
    return ReferenceSDE(drift, constant_volatility(1.0))


def hill(theta: Any, p: np.ndarray) -> np.ndarray:
    return theta["beta"] / (1.0 + (np.array([p[2], p[0], p[1]]) / theta["k"]) ** theta["n"])


def lotka(theta: Any, x: np.ndarray) -> np.ndarray:
    eaten = x[0] * x[1]
    return np.array([theta["alpha"] * x[0] - theta["beta"] * eaten, theta["delta"] * eaten - theta["gamma"] * x[1]])


def proteins(theta: Any, x: np.ndarray) -> np.ndarray:
    m, p = x[:3], x[3:]
    return np.concatenate([hill(theta, p) - theta["gamma"] * m, theta["rate"] * (m - p)])


def turning(theta: Any, x: np.ndarray) -> np.ndarray:
    across, up = x - theta["center"]
    return np.array([
        -theta["omega"] * up - theta["inflow"] * across,
        theta["omega"] * across - theta["inflow"] * up,
    ])  # fmt: skip


def whirls(theta: Any, x: np.ndarray) -> np.ndarray:
    total = np.zeros(2)
    for strength, core, center in zip(theta["circulation"], theta["core"], theta["center"], strict=True):
        r = np.hypot(*(x - center))
        speed = strength / (2.0 * np.pi * r) * (1.0 - np.exp(-((r / core) ** 2)))
        total += speed * np.array([-(x - center)[1], (x - center)[0]]) / r
    return total


def springs(theta: Any, x: np.ndarray) -> np.ndarray:
    """Three masses in the plane, each pulled to its neighbours or, at the ends, to the walls."""
    q, v = (x[:6] - theta["rest"]).reshape(3, 2), x[6:]
    walled = np.vstack([np.zeros(2), q, np.zeros(2)])
    pull = (walled[2:] - q) + (walled[:-2] - q)
    return np.concatenate([v, theta["stiffness"] * pull.ravel() - theta["damping"] * v])


FORMULAS: dict[str, tuple[Drift, Callable[[Any, np.ndarray], np.ndarray]]] = {
    "brownian": (brownian(3), lambda theta, x: np.zeros(3)),
    "ornstein_uhlenbeck": (ornstein_uhlenbeck(3), lambda theta, x: theta["rate"] * (theta["level"] - x)),
    "lotka_volterra": (lotka_volterra(), lotka),
    "repressilator": (repressilator(), lambda theta, x: hill(theta, x) - theta["gamma"] * x),
    "proteins": (repressilator(protein=True), proteins),
    "big_vortex": (big_vortex(), turning),
    "lamb_oseen": (lamb_oseen(3), whirls),
    "springs": (coupled_springs(3, 2), springs),
}


@pytest.mark.parametrize("family", FORMULAS)
def test_drift_is_its_formula(family: str, rng: np.random.Generator) -> None:
    drift, formula = FORMULAS[family]
    theta, states = draw(drift.priors, rng), np.exp(0.7 * rng.normal(size=(6, drift.dim)))
    found = drifts(known(drift), theta, states)
    assert found.shape == (6, drift.dim)
    np.testing.assert_allclose(found, [formula(theta, x) for x in states], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FORMULAS)
def test_affine_is_what_is_affine(family: str, rng: np.random.Generator) -> None:
    """b(x) + b(y) - b(x + y) - b(0) vanishes for all x, y just where the drift says it is affine."""
    drift = FORMULAS[family][0]
    theta = draw(drift.priors, rng)
    x, y = 0.5 + rng.random((2, 4, drift.dim))
    values = drifts(known(drift), theta, np.concatenate([x, y, x + y, 0.0 * x]))
    bend = np.abs(values[:4] + values[4:8] - values[8:12] - values[12:]).max()
    assert (bend < 1e-9) == drift.affine
    assert known(drift).affine == drift.affine
    assert not ReferenceSDE(drift, proportional_volatility(0.1)).affine


def potential_energy(potential: str, theta: Any, x: np.ndarray) -> float:
    z = (x - CENTER) / SCALE
    energy = -theta["push"] @ z
    if potential == "quadratic":
        A = np.zeros((3, 3))
        for k, (i, j) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]):
            A[i, j] += theta["curvature"][k] / 2.0
            A[j, i] += theta["curvature"][k] / 2.0
        energy += z @ A @ z / 2.0
    elif potential == "mlp":
        energy += theta["out"] @ np.tanh(theta["weights"] @ z + theta["bias"]) / np.sqrt(len(theta["out"]))
    return energy


@pytest.mark.parametrize("potential", ["linear", "quadratic", "mlp"])
def test_gradient_field_falls_down_its_potential(potential: str, rng: np.random.Generator) -> None:
    """In standardised coordinates: dz/dt = -strength dU/dz, by central differences of a potential written out."""
    drift = gradient_field(CENTER, SCALE, potential, width=5, strength=None)
    theta, states = draw(drift.priors, rng), CENTER + SCALE * rng.normal(size=(5, 3))
    found = drifts(known(drift), theta, states) / SCALE
    for x, velocity in zip(states, found, strict=True):
        slopes = [
            (potential_energy(potential, theta, x + e) - potential_energy(potential, theta, x - e)) / 2e-5
            for e in 1e-5 * np.diag(SCALE)
        ]
        np.testing.assert_allclose(velocity, -theta["strength"] * np.array(slopes), atol=1e-7)
    fixed = gradient_field(CENTER, SCALE, potential, width=5, strength=2.0)
    assert set(fixed.priors) == set(theta) - {"strength"}
    np.testing.assert_allclose(
        drifts(known(fixed), theta, states), drifts(known(drift), theta | {"strength": 2.0}, states), rtol=1e-12
    )


def test_gradient_fields_bound_holds_however_far(rng: np.random.Generator) -> None:
    """|b_i| <= strength scale_i (|push_i| + sum_h |out_h W_hi| / sqrt(width)), and no NaN in the Jacobian far out."""
    drift = gradient_field(CENTER, SCALE, strength=None)
    theta, states = draw(drift.priors, rng), rng.normal(size=(20, 3)) * 10.0 ** rng.integers(0, 12, (20, 1))
    bound = np.abs(theta["push"]) + np.abs(theta["out"][:, None] * theta["weights"]).sum(axis=0) / 4.0
    assert (np.abs(drifts(known(drift), theta, states)) <= theta["strength"] * SCALE * bound * (1 + 1e-9)).all()
    values = known(drift).parameters(theta)
    jacobians = jax.jit(jax.vmap(jax.jacfwd(lambda x: known(drift).b(values, x, 0.0))))(jnp.asarray(states))
    assert np.isfinite(jacobians).all()


def test_vortex_at_its_own_centre_is_still_and_smooth(rng: np.random.Generator) -> None:
    """There b = 0 and the Jacobian is a rotation at circulation / (2 pi core^2)."""
    sde = known(lamb_oseen())
    theta = sde.parameters(draw(lamb_oseen().priors, rng))
    center = theta["center"][0]
    np.testing.assert_allclose(drifts(sde, theta, np.asarray(center)[None]), 0.0, atol=1e-12)
    speed = float(theta["circulation"][0] / (2 * np.pi * theta["core"][0] ** 2))
    found = jax.jit(jax.jacfwd(lambda x: sde.b(theta, x, 0.0)))(center)
    np.testing.assert_allclose(found, speed * np.array([[0.0, -1.0], [1.0, 0.0]]), rtol=1e-6, atol=1e-9)


def test_repressilator_neither_overflows_nor_fails_below_zero(rng: np.random.Generator) -> None:
    """Absurd exponents and states that noise took below zero: full production, finite derivatives."""
    sde = known(repressilator())
    theta = sde.parameters({"beta": 3.0, "n": 300.0, "k": 1.0, "gamma": 0.5})
    states = jnp.array([[-1.0, 0.0, 1e8], [1e-300, 2.0, 1.0]])
    found = drifts(sde, theta, states)
    np.testing.assert_allclose(found[0], [0.5, 3.0, 3.0 - 0.5e8])
    slopes = jax.jit(jax.vmap(jax.jacfwd(sde.b, (0, 1)), (None, 0, None)))(theta, states, 0.0)
    assert all(np.isfinite(slope).all() for slope in jax.tree.leaves(slopes))


def test_sums_add_and_prefixes_tell_parameters_apart(rng: np.random.Generator) -> None:
    one, two = big_vortex(), big_vortex().prefixed("second_")
    both = one + two
    assert set(both.priors) == {f"{p}{site}" for p in ("", "second_") for site in ("omega", "inflow", "center")}
    assert both.names == one.names
    assert both.affine
    assert not (one + lamb_oseen().prefixed("second_")).affine
    theta, states = draw(both.priors, rng), rng.normal(size=(3, 2))
    second = {site.removeprefix("second_"): value for site, value in theta.items() if site.startswith("second_")}
    expected = [turning(theta, x) + turning(second, x) for x in states]
    np.testing.assert_allclose(drifts(known(both), theta, states), expected, rtol=1e-12, atol=1e-12)


def test_priors_are_changed_and_the_rest_kept() -> None:
    prior = dist.Normal(5.0, 1.0)
    drift = lotka_volterra().with_priors(alpha=prior)
    assert drift.priors["alpha"] is prior
    assert list(drift.priors) == list(lotka_volterra().priors)
    assert lotka_volterra().priors["alpha"] is not prior
    assert (drift.names, drift.affine, drift.dim) == (("prey", "predator"), False, 2)


VOLATILITIES: dict[str, tuple[Volatility, dict[str, Any], Callable[[np.ndarray], np.ndarray]]] = {
    "constant, known": (constant_volatility(0.5), {}, lambda x: 0.5 * np.eye(3)),
    "constant": (constant_volatility(), {"volatility": 0.7}, lambda x: 0.7 * np.eye(3)),
    "proportional, known": (proportional_volatility(0.5), {}, lambda x: np.diag(0.5 * x)),
    "proportional": (proportional_volatility(), {"volatility": 0.7}, lambda x: np.diag(0.7 * x)),
    "diagonal, known": (diagonal_volatility(3, [0, 1, 2]), {}, lambda x: np.diag([0.0, 1.0, 2.0])),
    "diagonal": (diagonal_volatility(3), {"volatility": np.arange(1.0, 4.0)}, lambda x: np.diag([1.0, 2.0, 3.0])),
    "scalar": (Volatility(lambda theta, x, t: 2.0, {}, True), {}, lambda x: 2.0 * np.eye(3)),
    "matrix": (
        Volatility(lambda theta, x, t: jnp.outer(x, jnp.arange(1.0, 5.0)), {}),
        {},
        lambda x: np.outer(x, np.arange(1.0, 5.0)),
    ),
}


@pytest.mark.precision
@pytest.mark.parametrize("form", VOLATILITIES)
def test_volatility_is_its_matrix(form: str, rng: np.random.Generator, bits: int) -> None:
    volatility, theta, formula = VOLATILITIES[form]
    sde = ReferenceSDE(brownian(3), volatility)
    x = rng.normal(size=3)
    values, state = sde.parameters(theta), jnp.asarray(x.astype(np.float64 if bits == 64 else np.float32))
    root, square = sde.volatility_matrix(values, state, 0.0), sde.diffusion(values, state, 0.0)
    assert root.dtype == square.dtype == state.dtype
    np.testing.assert_allclose(root, formula(x), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(square, formula(x) @ formula(x).T, rtol=1e-5, atol=1e-12)
    assert set(sde.priors) == set(theta)
    assert sde.affine == (not form.startswith(("proportional", "matrix")))


def test_whole_reference(seed: int) -> None:
    """Names, drift's priors first, and NumPyro sites within their supports."""
    sde = ReferenceSDE(ornstein_uhlenbeck(2), diagonal_volatility(2, prior=dist.HalfNormal(2.0)))
    assert (sde.dim, sde.names, list(sde.priors)) == (2, ("x0", "x1"), ["rate", "level", "volatility"])
    theta = seeded(sde.sample_parameters, seed)()
    assert {site: value.shape for site, value in theta.items()} == dict.fromkeys(sde.priors, (2,))
    assert (theta["rate"] > 0).all()
    assert (theta["volatility"] > 0).all()
    assert constant_volatility(prior=dist.HalfNormal(2.0)).priors["volatility"].scale == 2.0
    assert [coupled_springs(2, dim).names[1] for dim in (1, 2)] == ["position 2", "position 1y"]


OU = ReferenceSDE(ornstein_uhlenbeck(2), constant_volatility())
FULL = {"rate": [1.0, 2.0], "level": [0.0, 0.0], "volatility": 1.0}
NORMAL = dist.Normal(0.0, 1.0)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "missing": (lambda: OU.parameters({"rate": [1, 1]}), r"theta lacks \['level', 'volatility'\]; .*'rate'"),
    "shape": (lambda: OU.parameters(FULL | {"rate": 1.0}), r"theta\['rate'\] must have shape \(2,\), got \(\)"),
    "not finite": (lambda: OU.parameters(FULL | {"level": [0, np.nan]}), r"theta\['level'\] is not finite"),
    "no prior": (lambda: Drift(lambda theta, x, t: x, {"rate": 1.0}, ["x"]), "prior of 'rate' must be a NumPyro"),
    "no names": (lambda: Drift(lambda theta, x, t: x, {}, []), "distinct names"),
    "same names": (lambda: Drift(lambda theta, x, t: x, {}, ["x", "x"]), r"distinct names.*\('x', 'x'\)"),
    "other widths": (lambda: brownian(2) + brownian(3), "2 and 3 coordinates"),
    "shared site": (lambda: big_vortex() + big_vortex(), "'center'; tell them apart: .*prefixed"),
    "shared volatility": (
        lambda: ReferenceSDE(Drift(lambda theta, x, t: x, {"volatility": NORMAL}, ["x"]), constant_volatility()),
        "both have a parameter 'volatility'; prefix",
    ),
    "unknown prior": (
        lambda: lotka_volterra().with_priors(rate=NORMAL),
        r"no parameter 'rate' in this .*'alpha'",
    ),
    "prior of a number": (lambda: lotka_volterra().with_priors(alpha=1.0), "prior of 'alpha'"),
    "volatility's prior": (lambda: constant_volatility(prior=0.3), "prior of 'volatility'"),
    "diagonal's prior": (lambda: diagonal_volatility(2, prior=0.3), "prior of 'volatility'"),
    "no noise": (lambda: constant_volatility(0.0), "known volatility must be positive, got 0.0; leave it out"),
    "infinite noise": (lambda: proportional_volatility(np.inf), "must be positive, got inf"),
    "diagonal of another width": (lambda: diagonal_volatility(2, [1.0]), "2 volatilities"),
    "diagonal without noise": (lambda: diagonal_volatility(2, [0.0, 0.0]), "not all zero"),
    "no coordinates": (lambda: brownian(0), "dim must be at least 1"),
    "no vortices": (lambda: lamb_oseen(0), "vortices must be at least 1"),
    "no masses": (lambda: coupled_springs(0), "masses and dim must be at least 1, got 0 and 1"),
    "scale of zero": (lambda: gradient_field([0.0], [0.0]), "scale positive"),
    "scale of another width": (lambda: gradient_field([0.0], [1.0, 1.0]), r"\(1,\)"),
    "unknown potential": (lambda: gradient_field([0.0], [1.0], "cubic"), "potential must be .* got 'cubic'"),
    "no hidden units": (lambda: gradient_field([0.0], [1.0], width=0), "width must be at least 1, got 0"),
    "strength of nothing": (lambda: gradient_field([0.0], [1.0], strength=-1.0), "strength must be positive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build()
