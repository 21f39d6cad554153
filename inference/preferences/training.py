"""Training a comparison model with a network as its head: minibatches, early stopping, members side by side."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy
from tqdm import tqdm

from tercet.inference.posteriors.options import TrainingOptions
from tercet.inference.posteriors.sites import log_prob, prior_draw
from tercet.models._inputs import as_generator, as_jax, as_key
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.mlp_head import MLPHead, check_standardised

Data = TypeVar("Data", Items, Comparisons)

STEPS = 16  # minibatches handed over at once
LEAST_STEPS = 20  # between two looks at the held-out comparisons
SETTLED = 2e-4  # nats of held-out log loss that count as no better
EVALUATED = 4096  # held-out comparisons scored at once


class Training(NamedTuple):
    """Networks trained side by side.

    Attributes
    ----------
    sites : dict of arrays [members, ...], constrained, at the best pass of each member
    held_out_log_loss : array [rounds + 1, members], in nats, the first at the start
    best : int array [members], the round that was kept
    converged : whether every member had stopped improving before the last round allowed
    held_out : bool array [m], the comparisons that were held out
    """

    sites: dict[str, np.ndarray]
    held_out_log_loss: np.ndarray
    best: np.ndarray
    converged: bool
    held_out: np.ndarray


def train(
    model: ComparisonModel,
    items: Items,
    comparisons: Comparisons | Sequence[Comparisons],
    members: int = 1,
    key: Any = 0,
    options: TrainingOptions | None = None,
    bootstrap: bool = False,
    progress: bool = False,
) -> Training:
    """Maximise the posterior of a comparison model by minibatches, from `members` prior draws, in 32 bit.

    A step follows the gradient of log p(theta) + (m / b) sum log p(y | theta) over the b comparisons of a batch, an
    unbiased estimate of that of the log posterior of all m. Members share batches and the held-out comparisons.

    Parameters
    ----------
    model : BradleyTerry(MLPHead()) or another comparison model with a network
    items, comparisons : its data; a sequence of sets of comparisons of one length trains a network on each, as studies
        over seeds and qualities of annotation need
    members : networks, trained side by side in one vectorised program (of a sequence: as many as it has sets)
    key : int seed or JAX key
    options : TrainingOptions
    bootstrap : give each comparison a Poisson(1) weight, another for each member
    progress : show a progress bar

    Returns
    -------
    Training
    """
    options = options or TrainingOptions()
    if not isinstance(model.head, MLPHead):
        raise ValueError(
            f"training is for networks, MLPHead, got {type(model.head).__name__}: its exact posterior is laplace(...)."
        )
    sets = [comparisons] if isinstance(comparisons, Comparisons) else list(comparisons)
    members = members if isinstance(comparisons, Comparisons) else len(sets)
    if members < 1 or min(map(len, sets)) < 2 or len(set(map(len, sets))) > 1:
        raise ValueError(
            "training needs a member and two comparisons (one to learn from, one held out), sets of one length; got "
            f"members={members} and sets of {sorted(set(map(len, sets)))} comparison(s)."
        )
    if len({answers.annotator_ids for answers in sets}) > 1:
        raise ValueError("sets of comparisons trained side by side must share one list of annotators (annotator_ids).")
    for answers in sets:
        model.check(items, answers)
    check_standardised(items)
    rng = as_generator(key)
    out = np.zeros(len(sets[0]), bool)
    out[rng.permutation(len(out))[: max(1, round(options.held_out * len(out)))]] = True
    held, kept = (_together([answers.take(rows) for answers in sets]) for rows in (out, ~out))
    size = kept.first.shape[-1]
    weights = rng.poisson(1.0, (members, size)) if bootstrap else np.ones((members, size))
    with jax.enable_x64(False):
        networks = _Networks(model, items, size, options.learning_rate, len(sets) > 1)
        found = _until_no_better(networks, held, kept, weights, as_key(key), options, rng, progress)
        return found._replace(held_out=out)


def _until_no_better(
    networks: _Networks, held: Comparisons, kept: Comparisons, weights: np.ndarray, key: Any,
    options: TrainingOptions, rng: np.random.Generator, progress: bool,
) -> Training:  # fmt: skip
    size, left = kept.first.shape[-1], held.first.shape[-1]
    tests = list(networks.minibatches(held, np.arange(left), min(EVALUATED, left), 1, np.ones((1, left))))
    z, state = networks.start(key, len(weights), tests[0])
    best_z = z
    history, lowest = [networks.score(z, tests)], np.full(len(weights), np.inf)
    best = np.zeros(len(weights), int)
    batch = min(options.batch, size)
    passes = -(-LEAST_STEPS // (size // batch))
    with tqdm(total=options.rounds, desc="training", unit="round", disable=not progress) as bar:
        for now in range(1, options.rounds + 1):
            rows = np.concatenate([rng.permutation(size) for _ in range(passes)])
            for batches in networks.minibatches(kept, rows, batch, STEPS, weights):
                z, state = networks.steps(z, state, *batches)
            history.append(networks.score(z, tests))
            better = history[-1] < lowest - SETTLED
            lowest, best = np.where(better, history[-1], lowest), np.where(better, now, best)
            best_z = jax.tree.map(partial(_choose, better), z, best_z)
            bar.update()
            bar.set_postfix(held_out=f"{lowest.mean():.4f}")
            if (now - best).min() >= options.patience:
                break
    if not np.isfinite(lowest).all():
        raise ValueError(
            "training diverged: the held-out log loss was never finite; lower TrainingOptions(learning_rate=...) or "
            "standardise the features."
        )
    converged = bool((len(history) - 1 - best >= options.patience).all())
    if not converged:
        warnings.warn(
            f"training stopped after {options.rounds} rounds while held-out answers were still predicted better; raise "
            "TrainingOptions(rounds=...).",
            stacklevel=4,
        )
    return Training(networks.sites(best_z, tests[0]), np.stack(history), best, converged, np.empty(0, bool))


def _choose(better: np.ndarray, new: Any, old: Any) -> Any:
    return jnp.where(jnp.asarray(better).reshape((-1,) + (1,) * (new.ndim - 1)), new, old)


class _Networks:
    """The networks of a training, all members at once. Its programs are compiled once for a model and its shapes."""

    def __init__(self, model: ComparisonModel, items: Items, size: int, learning_rate: float, own: bool) -> None:
        self.model, self.items, self.size = model, items, size
        self.bare = Items(np.zeros((1, items.features.shape[1]), np.float32))  # a minibatch before its features
        self.own = own  # whether each member has comparisons of its own
        self.learning_rate = learning_rate

    def minibatches(
        self, answers: Comparisons, rows: np.ndarray, batch: int, most: int, weights: np.ndarray
    ) -> Iterator[tuple[Any, Any]]:
        """Batches of these rows, `most` stacked at once, each with its own items; what does not fill one is left."""
        count = len(rows) // batch
        calls = -(-count // most)
        for call in np.split(rows[: (count // calls) * calls * batch], calls):
            parts = call.reshape(-1, batch)
            yield as_jax(self._gather(answers, parts)), jnp.asarray(weights[:, parts].swapaxes(0, 1), jnp.float32)

    def _gather(self, answers: Comparisons, rows: np.ndarray) -> tuple[Items, Comparisons]:
        """Comparisons `rows` [steps, batch], each batch with the items it is about: leaves [steps, (sets,) ...]."""
        part = jax.tree.map(lambda leaf: np.moveaxis(leaf[..., rows], -2, 0), answers)
        ends = np.concatenate([part.first, part.second], axis=-1)
        features = self.items.features[ends.reshape(-1)].astype(np.float32).reshape(*ends.shape, -1)
        first = np.broadcast_to(np.arange(rows.shape[1]), part.first.shape)
        return _with(self.bare, features=features), _with(part, first=first, second=first + rows.shape[1])

    def start(self, key: Any, members: int, test: tuple[Any, Any]) -> tuple[Any, Any]:
        """Unconstrained prior draws [members, ...] of every site, and the optimiser's state."""
        z = _start(self.model, self.own, jax.random.split(key, members), _first(test))
        return z, optax.adam(self.learning_rate).init(z)

    def steps(self, z: Any, state: Any, batches: Any, weights: Any) -> tuple[Any, Any]:
        """Sites and state after a step on each of these minibatches."""
        return _steps(self.model, self.own, z, state, batches, weights, self.size, self.learning_rate)

    def score(self, z: Any, tests: list[tuple[Any, Any]]) -> np.ndarray:
        """Held-out log loss [members]."""
        parts = [np.asarray(_score(self.model, self.own, z, _first(test))) for test in tests]
        return -np.sum(parts, axis=0)[:, 0] / np.sum(parts, axis=0)[:, 1]

    def sites(self, z: Any, test: tuple[Any, Any]) -> dict[str, np.ndarray]:
        """Constrained sites [members, ...], in 64 bit."""
        found = _sites(self.model, self.own, z, _first(test))
        return {name: np.asarray(value, np.float64) for name, value in found.items()}


def _first(batches: tuple[Any, Any]) -> Any:
    """The data of the first of some minibatches, without their weights."""
    return jax.tree.map(lambda leaf: leaf[0], batches[0])


def _axis(own: bool) -> int | None:
    return 0 if own else None


@partial(jax.jit, static_argnums=(0, 1))
def _start(model: ComparisonModel, own: bool, keys: Any, data: Any) -> Any:
    def of_one(key: Any, data: Any) -> Any:
        z = prior_draw(model, key, *data)
        # A learned scale starts at 1: from a draw near zero a network of rewards near zero learns nothing.
        return z | {name: jnp.zeros_like(value) for name, value in z.items() if name == "prior_sd"}

    return jax.vmap(of_one, (0, _axis(own)))(keys, data)


@partial(jax.jit, static_argnums=(0, 1))
def _steps(
    model: ComparisonModel, own: bool, z: Any, state: Any, batches: Any, weights: Any, size: Any, learning_rate: Any
) -> tuple[Any, Any]:
    optimiser = optax.adam(learning_rate)

    def loss(z: Any, data: Any, weight: Any) -> Any:
        items, answers = data
        scaled = _with(answers, weight=answers.weight * (size / weight.shape[-1]) * weight)
        return potential_energy(model, (items, scaled), {}, z) / size

    def step(carry: Any, batch: Any) -> tuple[Any, None]:
        z, state = carry
        gradient = jax.vmap(jax.grad(loss), (0, _axis(own), 0))(z, *batch)
        change, state = optimiser.update(gradient, state)
        return (optax.apply_updates(z, change), state), None

    return jax.lax.scan(step, (z, state), (batches, weights))[0]


@partial(jax.jit, static_argnums=(0, 1))
def _score(model: ComparisonModel, own: bool, z: Any, data: Any) -> Any:
    """Log likelihood and weight [members, 2] of some comparisons."""

    def of_one(z: Any, data: Any) -> Any:
        found = trace(substitute(seed(model, 0), data=_constrained(model, z, data))).get_trace(*data)
        observed = [s for s in found.values() if s["type"] == "sample" and s["is_observed"]]
        total = sum(jnp.sum(log_prob(site)) for site in observed)
        return jnp.stack([total, jnp.sum(data[1].weight)])

    return jax.vmap(of_one, (0, _axis(own)))(z, data)


@partial(jax.jit, static_argnums=(0, 1))
def _sites(model: ComparisonModel, own: bool, z: Any, data: Any) -> Any:
    return jax.vmap(partial(_constrained, model), (0, _axis(own)))(z, data)


def _constrained(model: ComparisonModel, z: Any, data: Any) -> Any:
    return constrain_fn(model, data, {}, z, return_deterministic=True)


def _together(sets: list[Comparisons]) -> Comparisons:
    """Sets of one length as one object of arrays [sets, m]; a single set keeps its arrays [m]."""
    weighted = [_with(answers, weight=answers.weights) for answers in sets]
    return jax.tree.map(lambda *leaves: np.stack(leaves) if len(sets) > 1 else leaves[0], *weighted)


def _with(data: Data, **fields: Any) -> Data:
    """The same object with other arrays, unchecked: batched ones, traced ones, weights of zero."""
    again = copy.copy(data)
    for name, value in fields.items():
        object.__setattr__(again, name, value)
    return again
