"""How many programs a call compiles: first, again with other data and numbers, and after growth by half.

Sizes are filled up to classes, which shows in no result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from numpyro.infer.util import potential_energy

from tercet.inference import (
    choose_reference,
    fit_reference,
    forecast,
    guided_paths,
    multimarginal_bridge,
    refine_reference,
)
from tercet.inference.trajectories import bridge_objective, conditioned_moments, conditioned_paths
from tercet.models import (
    ReferenceSDE,
    SnapshotModel,
    Snapshots,
    brownian,
    constant_volatility,
    ornstein_uhlenbeck,
    proportional_volatility,
    simulate,
)
from tercet.models.trajectories import snapshots as snapshot_module
from tercet.models.trajectories.snapshots import FilledSnapshots

PULL = {"rate": [0.4], "level": [1.0]}


def cells(rng: np.random.Generator, sizes: list[int]) -> Snapshots:
    times = np.arange(len(sizes)) * rng.uniform(0.9, 1.1)
    return Snapshots([rng.normal(0.5 * k, 1.0, (n, 1)) for k, n in enumerate(sizes)], times)


def pull(volatility: float | None = None) -> ReferenceSDE:
    return ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility(volatility))


def bridge_and_paths(data: Snapshots, number: float) -> None:
    whole = multimarginal_bridge(pull(number), PULL, data)
    last = data.times[-1]
    whole.paths([0.0, 0.4 * last * number, last], n=sum(data.counts) // 3)


def gradient(data: Snapshots, number: float) -> None:
    bridge_objective(pull(number), PULL, data)


def between(data: Snapshots, number: float) -> None:
    ends = [cloud[: min(data.counts)] for cloud in data.particles[:2]]
    conditioned_moments(pull(number), PULL, *ends, start=0.0, stop=1.0, times=[0.3 * number], relinearise=1)


def guided(data: Snapshots, number: float) -> None:
    ends = [cloud[0] for cloud in data.particles[:2]]
    guided_paths(pull(number), PULL, *ends, start=0.0, stop=1.0, n=min(data.counts), steps=5)


def refined(data: Snapshots, number: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that two iterations do not settle
        refine_reference(pull(number), data, PULL, iterations=2, path_steps=3)


def paths_of_a_reference(data: Snapshots, number: float) -> None:
    simulate(pull(number), PULL, data.particles[0], data.times, step=0.3 * number)


def fitted(data: Snapshots, _: float) -> None:
    fit_reference(SnapshotModel(pull()), data, starts=1)


def chosen(data: Snapshots, _: float) -> None:
    choose_reference({"still": SnapshotModel(ReferenceSDE(brownian(1), constant_volatility()))}, data, starts=1)


class Row(NamedTuple):
    """A call of data and a known number, and the most programs that its first call may compile."""

    call: Callable[[Snapshots, float], None]
    first: int


# Half of these are copies of an array to the device, which JAX compiles for each shape.
TABLE = {
    "a bridge and its paths": Row(bridge_and_paths, 18),
    "the bridge objective": Row(gradient, 12),
    "moments between two snapshots": Row(between, 6),
    "guided paths": Row(guided, 10),
    "refinement": Row(refined, 25),
    "simulation": Row(paths_of_a_reference, 4),
    "a fit": Row(fitted, 25),
    "a choice": Row(chosen, 40),
}


@pytest.mark.parametrize("case", TABLE)
def test_other_data_and_numbers_compile_nothing(case: str, rng: np.random.Generator) -> None:
    call, most = TABLE[case]
    sizes = [20, 21, 19]
    with compilations() as first:
        call(cells(rng, sizes), 0.8)
    assert first.programs <= most
    with compilations() as again:
        call(cells(rng, sizes), 0.7)
    assert again.programs == 0, "other data of the same shape"
    with compilations() as growth:
        call(cells(rng, [30, 32, 28]), 0.9)
    assert growth.programs == 0, "unequal sizes, grown by half, of the same class"


def test_a_doubling_compiles_once(rng: np.random.Generator) -> None:
    counts = []
    for n in (40, 60, 64, 65, 97, 128):
        with compilations() as found:
            simulate(pull(0.5), PULL, rng.normal(size=(n, 1)), [0.0, 1.0, 2.0])
        counts.append(found.programs)
    assert counts[0] > 0
    assert counts[3] > 0
    assert counts[1:3] == counts[4:] == [0, 0]


def test_a_function_that_closes_over_its_data_is_caught(rng: np.random.Generator) -> None:
    def closing(data: np.ndarray) -> None:
        held = jnp.asarray(data)
        jax.jit(lambda x: (held * x).sum())(2.0)

    closing(rng.normal(size=5))
    with compilations() as found:
        closing(rng.normal(size=5))
    assert found.programs == 1


def unfilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are classes of their own."""
    for name in ("bridge_problem", "conditioning", "guided_proposals", "path_regression"):
        module = f"tercet.inference.trajectories.{name}.size_class"
        monkeypatch.setattr(module, lambda n, coarse=0: n)
    monkeypatch.setattr("tercet.models.trajectories.simulation.size_class", lambda n, coarse=0: n)


def results(data: Snapshots) -> list[Any]:
    sde = ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility(0.8))
    whole = multimarginal_bridge(sde, PULL, data)
    ends = [cloud[:5] for cloud in data.particles[:2]]
    span = {"start": 0.0, "stop": 1.0, "times": [0.2, 0.5, 0.6]}
    guide = guided_paths(sde, PULL, *(end[0] for end in ends), start=0.0, stop=1.0, n=5, steps=5)
    objective = bridge_objective(ReferenceSDE(sde.drift, constant_volatility()), PULL | {"volatility": 0.8}, data)
    return [
        *(part for b in whole.bridges for part in (b.f, b.g, b.coupling, b.objective, b.error, b.iterations)),
        whole.paths([0.0, 0.4, 1.3, data.times[-1]], n=7, key=3),
        whole.marginal(0.7, 5, key=1),
        conditioned_paths(sde, PULL, *ends, **span, key=2),
        *conditioned_moments(sde, PULL, *ends, **span, relinearise=1),
        guide.paths,
        guide.log_weights,
        guide.effective_sample_size,
        objective.value,
        *objective.gradient.values(),
        simulate(sde, PULL, data.particles[0], data.times, step=0.3, key=4),
    ]


def test_filling_shows_in_no_bridge_path_or_draw(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    data = cells(rng, [5, 9, 6])
    filled = results(data)
    unfilled(monkeypatch)
    for got, expected in zip(filled, results(data), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


MODELS = {
    "first": SnapshotModel(pull()),
    "consecutive": SnapshotModel(pull(), "consecutive", jackknife=True),
    "state-dependent": SnapshotModel(ReferenceSDE(ornstein_uhlenbeck(1), proportional_volatility()), "consecutive"),
    "gaussian": SnapshotModel(pull(), start="gaussian"),
    "summary": SnapshotModel(pull(), "consecutive", start="summary"),
    "simulated": SnapshotModel(pull(), "consecutive", paths=3, path_steps=4),
    "simulated, gaussian": SnapshotModel(pull(), start="gaussian", paths=3, path_steps=4),
}


@pytest.mark.parametrize("case", MODELS)
def test_filling_shows_in_no_likelihood(case: str, rng: np.random.Generator) -> None:
    """Nor in its gradient; that in the weights of the particles, which the sandwich takes, is finite."""
    model, data = MODELS[case], cells(rng, [5, 9, 6])
    filled = FilledSnapshots(data)
    assert filled.counts == (8, 16, 16)
    sites = {"rate": np.zeros(1), "level": np.full(1, 0.5), "volatility": np.zeros(())}
    if model.start == "gaussian":
        sites |= {"cloud_mean": np.zeros(1), "cloud_sd": np.zeros(1)}

    @jax.jit
    def evaluate(data: Snapshots, weights: tuple[Any, ...], sites: dict[str, Any]) -> Any:
        def potential(sites: dict[str, Any], weights: tuple[Any, ...]) -> Any:
            return potential_energy(model, (data,), {"weights": weights}, sites)

        return potential(sites, weights), *jax.grad(potential, argnums=(0, 1))(sites, weights)

    found, expected = (evaluate(d, tuple(np.ones(n) for n in d.counts), sites) for d in (filled, data))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    for got, right in zip(jax.tree.leaves(found[:2]), jax.tree.leaves(expected[:2]), strict=True):
        np.testing.assert_allclose(got, right, rtol=1e-10, atol=1e-10)
    for got, right, count in zip(found[2], expected[2], data.counts, strict=True):
        np.testing.assert_allclose(got[:count], right, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(got[count:], 0.0, atol=1e-10)


def test_filling_shows_in_no_fit(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = MODELS["first"], cells(rng, [9, 12, 10])
    fit = fit_reference(model, data, starts=1)
    monkeypatch.setattr(snapshot_module, "size_class", lambda n, coarse=0: n)
    other = fit_reference(model, data, starts=1)
    np.testing.assert_allclose(fit.center, other.center, rtol=1e-6)
    np.testing.assert_allclose(fit.diagnostics["log_evidence"], other.diagnostics["log_evidence"], rtol=1e-10)
    assert fit.snapshots is data
    assert len(fit.log_likelihood(fit.draws(2))["snapshots"][0]) == 22
    assert forecast(fit, [3.0], particles=5, draws=2).particles.shape == (2, 1, 5, 1)
