"""Refinement: the fixed point against the direct optimum, recovery, the volatility it cannot learn, early stops."""

from __future__ import annotations

import warnings

import numpy as np
import numpyro.distributions as dist
import pytest

from tercet.inference.trajectories.bridges import bridge_objective, multimarginal_bridge
from tercet.inference.trajectories.path_regression import sample_steps
from tercet.inference.trajectories.refinement import refine_reference
from tercet.models import (
    ReferenceSDE,
    Snapshots,
    brownian,
    constant_volatility,
    lotka_volterra,
    ornstein_uhlenbeck,
    proportional_volatility,
)

PULL = ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility(0.5))
TRUTH = {"alpha": 1.0, "beta": 0.4, "gamma": 0.4, "delta": 0.1}


def relaxing(rng: np.random.Generator, counts: tuple[int, ...] = (50, 40, 45)) -> Snapshots:
    """Independent populations of an Ornstein-Uhlenbeck process with rate 1, level 2 and volatility 0.5."""
    found = []
    for k, n in enumerate(counts):
        decay = np.exp(-0.5 * k)
        x = rng.normal(0.0, 0.4, (n, 1))
        found.append(2.0 + (x - 2.0) * decay + np.sqrt(0.125 * (1 - decay**2)) * rng.normal(size=(n, 1)))
    return Snapshots(found, 0.5 * np.arange(len(counts)))


def hunted(rng: np.random.Generator, particles: int = 60, count: int = 6, volatility: float = 0.05) -> Snapshots:
    """Independent populations of predators and prey, by Euler-Maruyama."""
    found = []
    for k in range(count):
        x = np.array([5.0, 4.0]) + 0.1 * rng.normal(size=(particles, 2))
        for _ in range(200 * k):
            drift = x * np.stack([1.0 - 0.4 * x[:, 1], 0.1 * x[:, 0] - 0.4], axis=1)
            x = x + drift / 200 + volatility * x * rng.normal(size=x.shape) / np.sqrt(200)
        found.append(x)
    return Snapshots(found, np.arange(count, dtype=float), names=["prey", "predator"])


def test_alternation_reaches_the_optimum_of_the_bridge_objective(rng: np.random.Generator, seed: int) -> None:
    cells = relaxing(rng)
    start = {"rate": [0.5], "level": [1.0]}
    direct = refine_reference(PULL, cells, start, method="bridge", iterations=100)
    assert direct.converged
    turns = refine_reference(PULL, cells, start, iterations=60, path_steps=10, key=seed)
    assert turns.converged
    assert turns.history["objective"].iloc[-1] < turns.history["objective"].iloc[0]
    # The paths of the alternation are drawn: its objective is above the optimum by their noise.
    gap = turns.history["objective"].iloc[-1] - direct.history["objective"].iloc[-1]
    assert -1e-3 < gap < 2.0
    assert direct.history["objective"].is_monotonic_decreasing
    gradient = bridge_objective(PULL, direct.theta, cells).gradient
    assert np.abs(gradient["level"]).max() < 0.5  # the prior's pull, over 45 particles


def test_alternation_cannot_learn_the_volatility(rng: np.random.Generator, seed: int) -> None:
    # Of a Brownian bridge in S steps sum dX^2 = |y - x|^2 / S + sigma^2 dt (1 - 1 / S): sigma is the one assumed.
    sde = ReferenceSDE(brownian(1), constant_volatility())
    cells = Snapshots([rng.normal(0.0, 1.0, (400, 1)), rng.normal(0.0, 1.0, (400, 1))], [0.0, 2.0])
    for assumed in (0.3, 3.0):
        whole = multimarginal_bridge(sde, {"volatility": assumed}, cells)
        for count in (2, 16):
            steps = sample_steps(whole, count, seed)
            moves = (steps.after - steps.before)[..., 0]
            found = np.square(moves).sum(axis=1)
            expected = np.square(moves.sum(axis=1)) / count + assumed**2 * 2.0 * (1 - 1 / count)
            error = assumed**2 * 2.0 * np.sqrt(2 * (count - 1)) / count / np.sqrt(len(found))
            assert abs((found - expected).mean()) < 6 * error
    refined = refine_reference(
        ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility()),
        relaxing(rng),
        {"rate": [1.0], "level": [2.0], "volatility": 0.8},
    )
    assert refined.theta["volatility"] == 0.8


def test_priors_count(rng: np.random.Generator) -> None:
    narrow = ornstein_uhlenbeck(1).with_priors(level=dist.Normal(5.0, 1e-3).expand([1]).to_event(1))
    sde = ReferenceSDE(narrow, constant_volatility(0.5))
    for method in ("alternate", "bridge"):
        found = refine_reference(sde, relaxing(rng), {"rate": [0.5], "level": [5.0]}, method=method, iterations=100)
        assert found.theta["level"] == pytest.approx(5.0, abs=0.05)


@pytest.mark.parametrize("method", ["alternate", pytest.param("bridge", marks=pytest.mark.slow)])
def test_recovery(rng: np.random.Generator, seed: int, method: str) -> None:
    # Sampling sd of these rates is 1 to 4 %; 20 % is five of them.
    cells = hunted(rng)
    sde = ReferenceSDE(lotka_volterra(), proportional_volatility())
    start = {"alpha": 0.8, "beta": 0.5, "gamma": 0.5, "delta": 0.13, "volatility": 0.08}
    held = hunted(rng).take([2, 4])
    found = refine_reference(sde, cells, start, method=method, held_out=held, iterations=60, key=seed)
    assert found.converged
    for site, value in TRUTH.items():
        assert found.theta[site] == pytest.approx(value, rel=0.2)
    assert found.bridge.converged
    assert found.history["held_out"].iloc[-1] < found.history["held_out"].iloc[0] + 0.1
    if method == "bridge":
        assert 0.04 < found.theta["volatility"] < 0.12  # overestimated, as documented


def test_early_stop_is_said(rng: np.random.Generator) -> None:
    cells, start = relaxing(rng), {"rate": [0.1], "level": [0.0]}
    for method in ("alternate", "bridge"):
        with pytest.warns(UserWarning, match="has not converged"):
            found = refine_reference(PULL, cells, start, method=method, iterations=1, tolerance=1e-9)
        assert not found.converged
        assert found.reason
        assert len(found.history) >= 2


def test_same_key_same_answer(rng: np.random.Generator, seed: int) -> None:
    cells = relaxing(rng, (20, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = (
            refine_reference(PULL, cells, {"rate": [1.0], "level": [1.0]}, iterations=2, key=seed) for _ in range(2)
        )
    assert one.theta["rate"] == two.theta["rate"]


def test_bad_input(rng: np.random.Generator) -> None:
    cells, start = relaxing(rng, (10, 10)), {"rate": [1.0], "level": [1.0]}
    with pytest.raises(ValueError, match="nothing to learn"):
        refine_reference(ReferenceSDE(brownian(1), constant_volatility()), cells, {"volatility": 1.0})
    with pytest.raises(ValueError, match="method must be"):
        refine_reference(PULL, cells, start, method="em")
    with pytest.raises(ValueError, match="held-out times"):
        refine_reference(PULL, cells, start, held_out=Snapshots([[[0.0]]], [9.0]))
    with pytest.raises(ValueError, match="held_out must be"):
        refine_reference(PULL, cells, start, held_out=Snapshots([[[0.0, 1.0]]], [0.1]))
    with pytest.raises(ValueError, match="support"):
        refine_reference(PULL, cells, {"rate": [-1.0], "level": [1.0]})
    with pytest.raises(ValueError, match="at least two snapshots"):
        refine_reference(PULL, cells.take([0]), start)
    with pytest.raises(ValueError, match="explode"):
        refine_reference(PULL, cells, {"rate": [1e6], "level": [1.0]})
