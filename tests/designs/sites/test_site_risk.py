"""Sites that lower the variance of the risk, against that variance from scratch, pick by pick.

The oracles take only public functions, and follow the picks that were made: exact ties then do no harm.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.handlers
import pytest

from tercet.designs import (
    SITE_CRITERIA,
    select_sites,
)
from tercet.inference.posteriors import SampledPosterior
from tercet.inference.posteriors.context import Context
from tercet.models import LossSurface
from tercet.models.space import Frame

RTOL = 1e-8
MAY_STOP = pytest.mark.filterwarnings("ignore:no candidate left brings any target nearer")


CASES = [
    *itertools.product(["plane"], ["normal", "log-normal", "gamma", "student"], [6]),
    ("line", "gamma", 6),
    ("date line", "log-normal", 6),
    ("five dimensions", "normal", 0),
    ("five dimensions", "student", 0),
    ("globe", "normal", 4),
    ("globe", "log-normal", 0),
    ("plane", "gamma", 0),
]


@pytest.mark.parametrize(("space", "family", "basis"), CASES)
def test_greedy_v_equals_the_variance_from_scratch(space: str, family: str, basis: int, rng: Any, build: Any) -> None:
    problem = build(space, rng, family, basis)
    picked = problem.select(4)
    order = picked.chosen.tolist()
    scale = problem.variance([])
    for step, index in enumerate(order):
        before = problem.variance(order[:step])
        gains = np.array([before - problem.variance([*order[:step], other]) for other in range(12)])
        np.testing.assert_allclose(picked.gains[step], gains[index], rtol=1e-6, atol=RTOL * scale)
        free = np.setdiff1d(np.arange(12), order[:step])
        assert gains[index] >= gains[free].max() - RTOL * scale
        after = problem.variance(order[: step + 1])
        np.testing.assert_allclose(picked.table["risk_sd"][step] ** 2, after, rtol=RTOL, atol=RTOL * scale)


def test_level_and_basis_are_what_the_design_takes_them_for(rng: Any, build: Any) -> None:
    problem = build("plane", rng)
    model = problem.model
    with numpyro.handlers.seed(rng_seed=0):
        trace = numpyro.handlers.trace(model).get_trace(*problem.posterior.context.args)
    prior = trace["level"]["fn"]
    coordinates = jnp.asarray(model.frame.coordinates(problem.target))
    np.testing.assert_allclose(model.functions(coordinates) * problem.scales, problem.basis(problem.target), atol=1e-12)
    np.testing.assert_allclose([prior.loc, prior.scale], [model.center, 2 * model.spread])


def test_one_target_is_labelled_itself_with_the_gain_of_a_conjugate_normal(rng: Any) -> None:
    """Far from the one label there is: variance v = a^2 + s^2 - s^4 / (a^2 + s^2 + noise), gain v^2 / (v + noise)."""
    grid = np.linspace(0, 1, 21)[:, None]
    frame = Frame("plane", (0.0,), 1.0)
    model = LossSurface(frame, family="normal", kernel="squared exponential", basis=0, spread=0.4)
    values = {"level": 0.0, "amplitude": 0.7, "length": 0.2, "noise": 0.3}
    samples = {name: np.full((2, 3), value) for name, value in values.items()}
    context = Context(model, ([[500.0]], np.zeros(1)), {}, x64=True)
    posterior = SampledPosterior("nuts", context, {"converged": True}, samples, {})
    at = int(rng.integers(21))
    picked = select_sites(grid, posterior, 1, target=grid[at : at + 1])
    a, s, noise = 0.49, 0.64, 0.09
    v = a + s - s**2 / (a + s + noise)
    assert picked.chosen.tolist() == [at]
    np.testing.assert_allclose(picked.gains, v**2 / (v + noise), rtol=RTOL)


@pytest.mark.parametrize("basis", [6, 0])
def test_random_batch_of_everything_gains_what_the_picks_gain(basis: int, rng: Any, build: Any) -> None:
    """In whatever order all are labelled, the variance falls by the same in the end."""
    problem = build("plane", rng, "log-normal", basis)
    picked = problem.select(12)
    np.testing.assert_allclose(picked.gains.sum(), picked.expected_random, rtol=1e-7)
    few = problem.select(4)
    assert few.gains.sum() >= few.expected_random > 0


def test_costs_buy_the_best_gain_per_cost(rng: Any, build: Any) -> None:
    problem = build("plane", rng)
    cost = rng.uniform(0.5, 3.0, 12)
    picked = problem.select(6.0, cost=cost)
    order, left = picked.chosen.tolist(), 6.0
    for step, index in enumerate(order):
        before = problem.variance(order[:step])
        free = [k for k in range(12) if k not in order[:step] and cost[k] <= left + 1e-9]
        worth = {k: (before - problem.variance([*order[:step], k])) / cost[k] for k in free}
        assert worth[index] >= max(worth.values()) * (1 - 1e-6)
        left -= cost[index]
    assert np.delete(cost, order).min() > left >= 0
    np.testing.assert_array_equal(picked.table["cost"], cost[order])


def test_labels_on_their_way_count(rng: Any, joined: Any, taken: Any, build: Any) -> None:
    """`existing` replaces the sites of the fit: after three picks the fourth is the one of a batch of four."""
    problem = build("plane", rng)
    batch = problem.select(4)
    pending = joined(problem.existing, taken(problem.candidates, batch.chosen[:3]))
    then = problem.select(1, existing=pending, exclude=batch.chosen[:3])
    assert then.chosen.tolist() == [batch.chosen[3]]
    np.testing.assert_allclose(then.gains, batch.gains[3:], rtol=1e-6)


@MAY_STOP
@pytest.mark.parametrize("criterion", SITE_CRITERIA)
def test_every_criterion_serves_sites(criterion: str, rng: Any, build: Any) -> None:
    problem = build("date line", rng)
    picked = problem.select(4, criterion=criterion)
    assert len(set(picked.chosen.tolist())) == len(picked.gains)
    assert criterion == "k-centre" or len(picked.gains) == 4
    again = problem.select(4, criterion=SITE_CRITERIA[criterion])
    np.testing.assert_array_equal(picked.chosen, again.chosen)
    if criterion == "posterior variance":
        seen, points = problem.existing, problem.candidates
        whole = problem.prior(seen, seen) + problem.noise * np.eye(len(seen))
        edge = problem.prior(seen, points)
        variance = np.diag(problem.prior(points, points) - edge.T @ np.linalg.solve(whole, edge))
        np.testing.assert_allclose(picked.gains, np.sort(variance)[::-1][:4], rtol=1e-7)
        np.testing.assert_allclose(picked.table["surface_sd"] ** 2, picked.gains, rtol=1e-7)
