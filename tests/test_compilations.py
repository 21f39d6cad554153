"""Nothing is compiled twice: how many programs each call may need, the first time, again, and after growth.

A call that closes over its data, or bakes a learned number into a program, needs a new one for other data, and fails.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from compilations import Allowed, compilations, programs_needed
from scipy.special import expit

from tercet.designs import AnnotationLoop, LabelStore, select_pairs
from tercet.inference import fisher_information, laplace, nuts, svi
from tercet.models import (
    AbilityHead,
    BradleyTerry,
    Comparisons,
    Davidson,
    Graded,
    Items,
    LinearHead,
    MLPHead,
    RaoKupper,
)

N, DIM, SIZE = 31, 7, 40  # a shape of no other test: what others compiled does not count for these
ITEMS = Items(np.random.default_rng(0).normal(size=(N, DIM)))


def answers(size: int, key: int, levels: int = 2) -> Comparisons:
    rng = np.random.default_rng([key, 5])
    first = rng.integers(N, size=size)
    second = (first + rng.integers(1, N, size=size)) % N
    chance = expit((ITEMS.features[first] - ITEMS.features[second]).sum(axis=1) + rng.logistic(size=size))
    outcome = np.rint(chance * (levels - 1)) / (levels - 1)
    return Comparisons(first, second, outcome, annotator=np.arange(size) % 3)


def ties(size: int, key: int) -> Comparisons:
    return answers(size, key, levels=3)


def grades(size: int, key: int) -> Comparisons:
    return answers(size, key, levels=5)


def regression(size: int, key: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([key, 6])
    x = rng.normal(size=(size, 3))
    return x, x @ [1.0, 2.0, 3.0] + rng.normal(size=size)


def linear_model(x: Any, y: Any) -> None:
    """A user's model."""
    weights = numpyro.sample("weights", dist.Normal(0.0, 2.0).expand([3]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    with numpyro.plate("row", len(x)):
        numpyro.sample("y", dist.Normal(x @ weights, noise), obs=y)


def fitted(model: Any) -> Callable[[Any], Any]:
    return lambda data: laplace(model, ITEMS, data)


def shown(model: Any) -> Callable[[Any], Any]:
    return lambda data: laplace(model, ITEMS, data).to_arviz(draws=40)


def chains_in_its_units(data: Comparisons) -> Any:
    fit = laplace(Davidson(), ITEMS, data)
    return nuts(fit.model, ITEMS, data, warmup=5, samples=10, start=fit)


CALLS: dict[str, tuple[Callable[[Any], Any], Callable[[int, int], Any], Allowed]] = {
    "laplace, Bradley-Terry": (fitted(BradleyTerry(order_effect=True)), answers, Allowed(0, 0, 0)),
    "laplace, Davidson": (fitted(Davidson()), ties, Allowed(0, 0, 0)),
    "laplace, graded": (fitted(Graded(AbilityHead(), levels=5)), grades, Allowed(0, 0, 0)),
    "laplace, Rao and Kupper": (fitted(RaoKupper()), ties, Allowed(0, 0, 0)),
    "laplace, annotators, scale learned": (fitted(BradleyTerry(annotators=True)), answers, Allowed(12, 0, 0)),
    "laplace, a network": (fitted(BradleyTerry(MLPHead(widths=(4,)))), answers, Allowed(30, 0, 10)),
    "laplace, a user's model": (lambda data: laplace(linear_model, *data), regression, Allowed(6, 0, 3)),
    "to_arviz, Bradley-Terry": (shown(BradleyTerry()), answers, Allowed(2, 0, 0)),
    "to_arviz, Davidson": (shown(Davidson()), ties, Allowed(2, 0, 0)),
    "to_arviz, annotators": (shown(BradleyTerry(annotators=True)), answers, Allowed(6, 0, 0)),
    "nuts": (lambda data: nuts(BradleyTerry(), ITEMS, data, warmup=5, samples=10), answers, Allowed(6, 0, 0)),
    "nuts, in Laplace's units": (chains_in_its_units, ties, Allowed(5, 0, 0)),
    "svi": (lambda data: svi(BradleyTerry(), ITEMS, data, steps=20), answers, Allowed(10, 0, 0)),
    "select_pairs": (
        lambda data: select_pairs(ITEMS, laplace(BradleyTerry(), ITEMS, data), 5),
        answers,
        Allowed(0, 0, 0),
    ),
    "fisher_information": (
        lambda data: fisher_information(BradleyTerry(LinearHead(1.0)), {"weights": np.ones(DIM)}, ITEMS, data),
        answers,
        Allowed(4, 0, 4),
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:the chains have not converged", "ignore:the ELBO was still rising")
def test_calls_compile_no_more_than_the_table_says(name: str) -> None:
    call, data, allowed = CALLS[name]
    needed = programs_needed(call, data, SIZE)
    assert all(found <= most for found, most in zip(needed, allowed, strict=True)), f"{needed}, allowed {allowed}"


def test_another_known_scale_is_another_argument() -> None:
    data = answers(SIZE, 3)
    for sd, most in ((0.7, 8), (1.9, 0)):
        with compilations() as found:
            laplace(BradleyTerry(LinearHead(sd), annotators=True), ITEMS, data)
        assert found.programs <= most


def test_a_call_that_closes_over_its_data_is_caught() -> None:
    """The negative control: the same regression with its data as constants."""

    def closed(data: tuple[np.ndarray, np.ndarray]) -> None:
        x, y = map(jnp.asarray, data)
        jax.jit(jax.grad(lambda w: jnp.sum(jnp.square(y - x @ w))))(jnp.ones(3))

    needed = programs_needed(closed, regression, SIZE)
    assert needed.again > 0


def test_a_program_follows_what_a_function_refers_to() -> None:
    """A user's model is compiled anew where a number that it refers to has changed, and only there."""
    scale = 1.0

    def model(y: Any) -> None:
        numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0.0, scale)), 1.0), obs=y)

    def posterior_mean() -> float:
        return float(laplace(model, np.array(3.0)).center[0])

    assert posterior_mean() == pytest.approx(1.5)
    with compilations() as found:
        posterior_mean()
    assert found.programs == 0
    scale = 2.0
    assert posterior_mean() == pytest.approx(2.4)


def test_a_model_that_looks_at_its_data_in_python_still_works() -> None:
    def model(group: Any, y: Any) -> None:
        levels = int(np.asarray(group).max()) + 1
        means = numpyro.sample("means", dist.Normal(0.0, 1.0).expand([levels]).to_event(1))
        numpyro.sample("y", dist.Normal(means[group], 1.0).to_event(1), obs=y)

    fit = laplace(model, np.array([0, 0, 1]), np.array([1.0, 3.0, -1.0]))
    np.testing.assert_allclose(fit.mean()["means"], [4.0 / 3.0, -0.5], atol=1e-8)


def test_a_campaign_with_ties_needs_five_programs(tmp_path: Path) -> None:
    """Twelve rounds, 50 to 600 answers."""
    rng = np.random.default_rng(0)
    items = Items(rng.normal(size=(60, DIM)))

    def annotator(first: int, second: int) -> float:
        gap = (items.features[first] - items.features[second]).sum() + rng.logistic()
        return 0.5 if abs(gap) < 0.5 else float(gap > 0)

    with LabelStore(tmp_path / "labels.db") as store, compilations() as found:
        loop = AnnotationLoop(items, store, model=Davidson(), batch=50)
        assert loop.run(annotator, 600, progress=False) == 600
        loop.fit()
    assert found.programs <= 5
