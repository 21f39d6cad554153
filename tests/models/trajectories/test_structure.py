"""References that were built alike are equal, hash alike and share what was compiled; any other is not equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from compilations import compilations

from tercet.inference.posteriors.problem import Problem
from tercet.models import (
    Drift,
    ReferenceSDE,
    SnapshotModel,
    Snapshots,
    big_vortex,
    brownian,
    constant_volatility,
    coupled_springs,
    diagonal_volatility,
    gradient_field,
    lamb_oseen,
    lotka_volterra,
    ornstein_uhlenbeck,
    proportional_volatility,
    repressilator,
    simulate,
)
from tercet.models.trajectories.structure import content


def pull(theta: Any, x: Any, t: Any) -> Any:
    return -theta["rate"] * x


def push(theta: Any, x: Any, t: Any) -> Any:
    return theta["rate"] * x


def field(kind: str = "mlp", center: float = 0.0, **options: Any) -> Drift:
    return gradient_field([center, 0.0], [1.0, 2.0], kind, **options)


def own(function: Any = pull, sd: float = 1.0, names: tuple[str, ...] = ("x",), affine: bool = False) -> Drift:
    return Drift(function, {"rate": dist.LogNormal(0.0, sd)}, names, affine)


def correlated(root: np.ndarray) -> Drift:
    return lotka_volterra().with_priors(alpha=dist.MultivariateNormal(np.zeros(2), scale_tril=root))


KEY = jax.random.key(1)
BUILT_ALIKE: dict[str, Callable[[], Any]] = {
    "brownian": lambda: brownian(2),
    "ornstein_uhlenbeck": lambda: ornstein_uhlenbeck(2),
    "lotka_volterra": lotka_volterra,
    "repressilator": repressilator,
    "proteins": lambda: repressilator(protein=True),
    "big_vortex": big_vortex,
    "lamb_oseen": lambda: lamb_oseen(2),
    "coupled_springs": lambda: coupled_springs(2, 2),
    "linear field": lambda: field("linear"),
    "neural field": field,
    "prefixed": lambda: lotka_volterra().prefixed("second_"),
    "sum": lambda: big_vortex() + big_vortex().prefixed("second_"),
    "array prior": lambda: correlated(np.eye(2)),
    "constant": constant_volatility,
    "known constant": lambda: constant_volatility(0.5),
    "proportional": proportional_volatility,
    "diagonal": lambda: diagonal_volatility(2),
    "known diagonal": lambda: diagonal_volatility(2, [0.0, 1.0]),
    "own": own,
    "partial": lambda: own(partial(pull)),
    "reference": lambda: ReferenceSDE(lotka_volterra(), proportional_volatility()),
    "model": lambda: SnapshotModel(ReferenceSDE(brownian(1), constant_volatility()), start_sd=dist.HalfNormal(1.0)),
    "model with a key": lambda: SnapshotModel(ReferenceSDE(brownian(1), constant_volatility()), path_key=KEY),
}  # fmt: skip


@pytest.mark.parametrize("case", BUILT_ALIKE)
def test_built_alike_is_equal(case: str) -> None:
    one, other = BUILT_ALIKE[case](), BUILT_ALIKE[case]()
    assert one is not other
    assert one == other
    assert hash(one) == hash(other)
    assert {one: 1}[other] == 1
    for name, build in BUILT_ALIKE.items():
        assert (one == build()) == (name == case)


UNLIKE: dict[str, tuple[Any, Any]] = {
    "another function": (own(), own(push)),
    "another argument of a function": (own(partial(pull, 1)), own(partial(pull, 2))),
    "another name": (own(), own(names=("y",))),
    "more names": (brownian(2), brownian(3)),
    "another prior": (own(), own(sd=2.0)),
    "another family of priors": (own(), own().with_priors(rate=dist.HalfNormal(1.0))),
    "another array in a prior": (correlated(np.eye(2)), correlated(2.0 * np.eye(2))),
    "another order of the priors": (
        Drift(pull, {"rate": dist.HalfNormal(1.0), "level": dist.HalfNormal(1.0)}, ["x"]),
        Drift(pull, {"level": dist.HalfNormal(1.0), "rate": dist.HalfNormal(1.0)}, ["x"]),
    ),
    "affine or not": (own(), own(affine=True)),
    "another potential": (field("linear"), field("quadratic")),
    "another centre": (field(), field(center=1.0)),
    "another width": (field(width=3), field(width=4)),
    "another prefix": (own().prefixed("a_"), own().prefixed("b_")),
    "another volatility": (constant_volatility(0.5), constant_volatility(0.6)),
    "known or learned": (constant_volatility(0.5), constant_volatility()),
    "constant or proportional": (constant_volatility(0.5), proportional_volatility(0.5)),
    "another anchor": (
        SnapshotModel(ReferenceSDE(brownian(1), constant_volatility())),
        SnapshotModel(ReferenceSDE(brownian(1), constant_volatility()), anchor="consecutive"),
    ),
    "two lambdas": (own(lambda theta, x, t: -x), own(lambda theta, x, t: -x)),
    "something else": (brownian(1), "brownian"),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_any_difference_is_seen(case: str) -> None:
    one, other = UNLIKE[case]
    assert one != other
    assert one == one


def test_functions_that_cannot_be_hashed_go_by_identity() -> None:
    @dataclass
    class Scaled:
        factor: float

        def __call__(self, theta: Any, x: Any, t: Any) -> Any:
            return self.factor * x

    one, other = Scaled(1.0), Scaled(1.0)
    assert Drift(one, {}, ["x"]) == Drift(one, {}, ["x"])
    assert Drift(one, {}, ["x"]) != Drift(other, {}, ["x"])
    assert hash(Drift(one, {}, ["x"])) == hash(Drift(one, {}, ["x"]))


def test_keys_and_arrays_go_by_value() -> None:
    assert content(jax.random.key(3)) == content(jax.random.key(3))
    assert content(jax.random.key(3)) != content(jax.random.key(4))
    assert content(np.arange(3)) == content(np.arange(3))
    assert content(np.arange(3)) != content(np.arange(3.0))
    assert content(np.arange(4)) != content(np.arange(4).reshape(2, 2))


def slowed(share: float, theta: Any, x: Any, t: Any) -> Any:
    return -share * theta["rate"] * x


def test_references_of_one_structure_share_a_program() -> None:
    """Whatever their numbers are: they are arguments, and are heard."""

    def run(sd: float = 1.0, share: float = 1.0, noise: float = 1e-9, function: Any = slowed) -> np.ndarray:
        drift = own(partial(function, share), sd) + brownian(1).prefixed("b_")
        sde = ReferenceSDE(drift, constant_volatility(noise))
        return simulate(sde, {"rate": 1.0}, np.ones((2, 1)), [0.0, 1.0], step=0.05)

    first = run()
    with compilations() as found:
        np.testing.assert_array_equal(run(), first)
        np.testing.assert_array_equal(run(sd=2.0), first)
        np.testing.assert_allclose(run(share=2.0)[1], np.exp(-2.0), rtol=1e-4)
        assert np.abs(run(noise=1.0)[1] - np.exp(-1.0)).max() > 1e-3
    assert found.programs == 0
    with compilations() as found:
        run(function=lambda share, theta, x, t: share * theta["rate"] * x)
    assert found.programs > 0


def test_models_of_one_structure_share_the_programs_of_their_posterior(rng: np.random.Generator) -> None:
    def programs(data: Snapshots, anchor: str = "first", volatility: float = 0.5) -> Any:
        sde = ReferenceSDE(ornstein_uhlenbeck(1), constant_volatility(volatility))
        return Problem(SnapshotModel(sde, anchor), (data,), x64=True).programs

    data = [Snapshots([rng.normal(size=(n, 1)), rng.normal(size=(9, 1))], [0.0, 1.0], [name]) for n, name in NAMED]
    one = programs(data[0])
    assert one is programs(data[0], volatility=0.6)
    assert one is programs(data[1]), "other data of the same class of sizes, other names"
    assert one is not programs(data[2]), "twice the size"
    assert one is not programs(data[0], "consecutive")


NAMED = [(5, "x"), (7, "gene"), (12, "x")]


def test_references_are_static_arguments_or_pytrees() -> None:
    def diffusion(sde: ReferenceSDE, x: Any) -> Any:
        return sde.diffusion({}, x, 0.0)

    sde = ReferenceSDE(brownian(2), constant_volatility(2.0))
    np.testing.assert_allclose(jax.jit(diffusion, static_argnums=0)(sde, jnp.ones(2)), 4.0 * np.eye(2))
    run = jax.jit(lambda sde, x: diffusion(sde, x))
    np.testing.assert_allclose(run(sde, jnp.ones(2)), 4.0 * np.eye(2))
    np.testing.assert_allclose(run(ReferenceSDE(brownian(2), constant_volatility(3.0)), jnp.ones(2)), 9.0 * np.eye(2))
    assert run._cache_size() == 1


@pytest.mark.parametrize("case", BUILT_ALIKE)
def test_leaves_are_the_numbers_and_rebuild_the_value(case: str) -> None:
    value = BUILT_ALIKE[case]()
    leaves, tree = jax.tree.flatten(value)
    assert tree == jax.tree.structure(BUILT_ALIKE[case]())
    assert all(np.issubdtype(np.asarray(leaf).dtype, np.floating) for leaf in leaves)
    rebuilt = jax.tree.unflatten(tree, leaves)
    assert type(rebuilt) is type(value)
    assert rebuilt == value
    marks = [object() for _ in leaves]
    assert jax.tree.leaves(jax.tree.unflatten(tree, marks)) == marks


@pytest.mark.parametrize("case", ["another prior", "another centre", "another volatility"])
def test_other_numbers_are_the_same_structure(case: str) -> None:
    one, other = UNLIKE[case]
    assert jax.tree.structure(one) == jax.tree.structure(other)
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_numbers_that_a_drift_needs_to_know_stay_structure() -> None:
    def inverse(matrix: Any, theta: Any, x: Any, t: Any) -> Any:
        return jnp.asarray(np.linalg.inv(matrix)) @ x

    def reference(scale: float) -> ReferenceSDE:
        return ReferenceSDE(Drift(partial(inverse, scale * np.eye(1)), {}, ["x"]), constant_volatility(0.5))

    assert not jax.tree.leaves(reference(2.0))
    run = jax.jit(lambda sde, x: sde.b({}, x, 0.0))
    np.testing.assert_allclose([run(reference(s), jnp.ones(1))[0] for s in (2.0, 4.0)], [0.5, 0.25])
