"""Training a comparison model with a network as its head: minibatches, early stopping, several networks at once."""

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
from jaxtyping import Bool, Float, Int
from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import constrain_fn, potential_energy
from tqdm import tqdm

from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.options import TrainingOptions
from tercet.inference.posteriors.sites import JaxSites, log_prob, prior_draw
from tercet.models._inputs import KeyLike, as_generator, as_jax, as_key
from tercet.models._size_classes import padded, size_class
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.mlp_head import MLPHead

Container = TypeVar("Container", Items, Comparisons)
Data = tuple[Items, Comparisons]
"""Comparisons, filled up to a size class with weight zero, and the items they are about."""

STACKED = 16  # minibatches in one call of the compiled program
LEAST_STEPS = 20  # of a round, so that small data are not evaluated after every few steps
LEAST_GAIN = 2e-4  # nats of held-out log loss below which a round counts as no better
EVALUATED = 4096  # held-out comparisons evaluated at once


class Batches(NamedTuple):
    """Minibatches for one call.

    Attributes
    ----------
    data : items and comparisons, leaves [steps or more, ...]
    weights : of each comparison for each member [steps or more, members, batch or more]
    steps, rows : number of steps that are taken, and of comparisons in each
    """

    data: Data
    weights: jax.Array
    steps: int
    rows: int


class Training(NamedTuple):
    """Networks trained in one program.

    Attributes
    ----------
    sites : dict of arrays [members, ...], constrained, at the best round of each member
    held_out_log_loss : array [rounds + 1, members], in nats, the first at the start
    best : int array [members], the round that was kept
    converged : whether every member had stopped improving before the limit on rounds
    held_out : bool array [m], the comparisons that were held out
    """

    sites: Draws
    held_out_log_loss: Float[np.ndarray, "rounds members"]
    best: Int[np.ndarray, " members"]
    converged: bool
    held_out: Bool[np.ndarray, " m"]


def train(
    model: ComparisonModel,
    items: Items,
    comparisons: Comparisons | Sequence[Comparisons],
    *,
    members: int = 1,
    key: KeyLike = 0,
    options: TrainingOptions | None = None,
    bootstrap: bool = False,
    progress: bool = False,
) -> Training:
    """Maximise the posterior of a comparison model by minibatches, from draws of the prior, in 32 bit.

    A step follows the gradient of log p(theta) + (m / b) sum log p(y | theta) over the b comparisons of a batch, an
    unbiased estimate of that of the log posterior of all m. Members share batches and the held-out comparisons.

    Parameters
    ----------
    model : BradleyTerry(MLPHead()) or another comparison model with a network
    items, comparisons : its data; a sequence of sets of comparisons of one length trains a network on each, for studies
        over seeds or over the quality of annotation
    members : number of networks, trained in one vectorised program (of a sequence: as many as it has sets)
    key : int seed or JAX key
    options : TrainingOptions
    bootstrap : weight each comparison by a Poisson(1) variable, independent for each member
    progress : show a progress bar

    Returns
    -------
    Training

    Raises
    ------
    ValueError
        A head that is not a network, too few comparisons, sets of different lengths, features that are not
        standardised, or training that diverges.
    """
    options = options or TrainingOptions()
    sets = [comparisons] if isinstance(comparisons, Comparisons) else list(comparisons)
    members = members if isinstance(comparisons, Comparisons) else len(sets)
    _check(model, items, sets, members)
    rng = as_generator(key)
    out = np.zeros(len(sets[0]), bool)
    out[rng.permutation(len(out))[: max(1, round(options.held_out * len(out)))]] = True
    held_out, kept = (_stacked([answers.take(rows) for answers in sets]) for rows in (out, ~out))
    size = kept.first.shape[-1]
    weights = rng.poisson(1.0, (members, size)) if bootstrap else np.ones((members, size))
    with jax.enable_x64(False):
        networks = _Networks(model, items, size, options.learning_rate, len(sets) > 1)
        tests = networks.held_out(held_out)
        start = networks.start(as_key(key), members, tests[0])
        training = _stop_early(
            networks, start, tests, kept=kept, weights=weights, options=options, rng=rng, progress=progress
        )
    if not training.converged:
        warnings.warn(
            f"training stopped after {options.rounds} rounds while the held-out log loss was still falling; raise "
            "TrainingOptions(rounds=...).",
            stacklevel=2,
        )
    return training._replace(held_out=out)


def _check(model: ComparisonModel, items: Items, sets: list[Comparisons], members: int) -> None:
    if not isinstance(model.head, MLPHead):
        raise ValueError(
            f"training is for networks, MLPHead, got {type(model.head).__name__}: for this head use laplace(...)."
        )
    if members < 1 or min(map(len, sets)) < 2 or len(set(map(len, sets))) > 1:
        raise ValueError(
            "training needs a member and two comparisons (one to learn from, one held out), sets of one length; got "
            f"members={members} and sets of {sorted(set(map(len, sets)))} comparison(s)."
        )
    if len({answers.annotator_ids for answers in sets}) > 1:
        raise ValueError("sets of comparisons trained together must share one list of annotators (annotator_ids).")
    for answers in sets:
        model.check(items, answers)


def _stop_early(
    networks: _Networks,
    start: tuple[JaxSites, Any],
    tests: list[Data],
    *,
    kept: Comparisons,
    weights: np.ndarray,
    options: TrainingOptions,
    rng: np.random.Generator,
    progress: bool,
) -> Training:
    """Rounds of training until no member has improved on the held-out comparisons for `patience` rounds."""
    z, state = start
    size, members = kept.first.shape[-1], len(weights)
    batch = min(options.batch, size)
    passes = -(-LEAST_STEPS // (size // batch))
    best_z, best, lowest = z, np.zeros(members, int), np.full(members, np.inf)
    losses = [networks.score(z, tests)]
    with tqdm(total=options.rounds, desc="training", unit="round", disable=not progress) as bar:
        for round_ in range(1, options.rounds + 1):
            rows = np.concatenate([rng.permutation(size) for _ in range(passes)])
            for batches in networks.minibatches(kept, rows, batch, STACKED, weights):
                z, state = networks.steps(z, state, batches)
            losses.append(networks.score(z, tests))
            better = losses[-1] < lowest - LEAST_GAIN
            lowest, best = np.where(better, losses[-1], lowest), np.where(better, round_, best)
            best_z = _chosen(better, z, best_z)
            bar.update()
            bar.set_postfix(held_out=f"{lowest.mean():.4f}")
            if (round_ - best).min() >= options.patience:
                break
    if not np.isfinite(lowest).all():
        raise ValueError(
            "training diverged: the held-out log loss was never finite; lower TrainingOptions(learning_rate=...) or "
            "standardise the features."
        )
    converged = bool((len(losses) - 1 - best >= options.patience).all())
    return Training(networks.sites(best_z, tests[0]), np.stack(losses), best, converged, np.empty(0, bool))


class _Networks:
    """The networks of a training, all members at once. Its programs are compiled once for a model and its shapes.

    Parameters
    ----------
    model, items : the model and all items
    size : number of comparisons that are trained on
    learning_rate : of Adam
    separate : whether each member has comparisons of its own
    """

    def __init__(self, model: ComparisonModel, items: Items, size: int, learning_rate: float, separate: bool) -> None:
        self.model, self.items, self.size = model, items, size
        self.learning_rate, self.separate = learning_rate, separate
        self.template = Items(np.zeros((1, items.features.shape[1]), np.float32))  # of the items of a minibatch

    def held_out(self, answers: Comparisons) -> list[Data]:
        """Held-out comparisons, some at a time."""
        count = answers.first.shape[-1]
        parts = np.array_split(np.arange(count), -(-count // EVALUATED))
        return [as_jax(self._gather(answers, rows, size_class(len(parts[0])))) for rows in parts]

    def minibatches(
        self, answers: Comparisons, rows: np.ndarray, batch: int, most: int, weights: np.ndarray
    ) -> Iterator[Batches]:
        """Batches of these rows, at most `most` at once, each with its own items; an incomplete one is left out."""
        count = len(rows) // batch
        for part in np.array_split(rows[: count * batch].reshape(count, batch), -(-count // most)):
            steps = np.resize(part, (size_class(len(part)), batch))  # those after the last step are not taken
            of_members = padded(weights.T[steps].swapaxes(0, 1), size_class(batch)).transpose(1, 2, 0)
            data = self._gather(answers, steps, size_class(batch))
            data, of_members = as_jax((data, of_members.astype(np.float32)))
            yield Batches(data, of_members, len(part), batch)

    def _gather(self, answers: Comparisons, rows: np.ndarray, size: int) -> Data:
        """Comparisons `rows` [(steps,) batch], each batch with the items it is about, filled up to `size` of them.

        Leaves are [(steps,) (sets,) ...].
        """
        rows = np.asarray(rows)
        index = np.concatenate([rows, np.repeat(rows[..., :1], size - rows.shape[-1], axis=-1)], axis=-1)
        part = jax.tree.map(lambda leaf: _steps_first(leaf[..., index], rows.ndim), answers)
        ends = np.concatenate([part.first, part.second], axis=-1)
        features = self.items.features[ends.reshape(-1)].astype(np.float32).reshape(*ends.shape, -1)
        first = np.broadcast_to(np.arange(size), part.first.shape)
        weight = part.weight * (np.arange(size) < rows.shape[-1])
        filled = _with(part, first=first, second=first + size, weight=weight)
        return _with(self.template, features=features), filled

    def start(self, key: jax.Array, members: int, test: Data) -> tuple[JaxSites, Any]:
        """Unconstrained prior draws [members, ...] of every site, and the optimiser's state."""
        begun: tuple[JaxSites, Any] = _start(self.model, jax.random.split(key, members), test, separate=self.separate)
        return begun

    def steps(self, z: JaxSites, state: Any, batches: Batches) -> tuple[JaxSites, Any]:
        """Sites and state after a step on each of these minibatches."""
        after: tuple[JaxSites, Any] = _steps(
            self.model, z, state, batches, self.size, self.learning_rate, separate=self.separate
        )
        return after

    def score(self, z: JaxSites, tests: list[Data]) -> Float[np.ndarray, " members"]:
        """Held-out log loss of each member."""
        parts = [np.asarray(_score(self.model, z, test, separate=self.separate)) for test in tests]
        total = np.sum(parts, axis=0)
        return np.asarray(-total[:, 0] / total[:, 1])

    def sites(self, z: JaxSites, test: Data) -> Draws:
        """Constrained sites [members, ...], in 64 bit."""
        sites = _sites(self.model, z, test, separate=self.separate)
        return {name: np.asarray(value, np.float64) for name, value in sites.items()}


def _steps_first(leaf: np.ndarray, axes: int) -> np.ndarray:
    """Leaves [(sets,) (steps,) batch] with the steps first."""
    return np.moveaxis(leaf, -2, 0) if axes == 2 else leaf


def _axis(separate: bool) -> int | None:
    return 0 if separate else None


@partial(jax.jit, static_argnames="separate")
def _start(model: ComparisonModel, keys: jax.Array, data: Data, *, separate: bool) -> tuple[JaxSites, Any]:
    def of_one(key: jax.Array, data: Data) -> JaxSites:
        z = prior_draw(model, key, *data)
        # A learned scale starts at 1: networks whose rewards start near zero learn nothing.
        return z | {name: jnp.zeros_like(value) for name, value in z.items() if name == "prior_sd"}

    z: JaxSites = jax.vmap(of_one, (0, _axis(separate)))(keys, data)
    return z, optax.scale_by_adam().init(z)


@partial(jax.jit, static_argnames="separate")
def _steps(
    model: ComparisonModel,
    z: JaxSites,
    state: Any,
    batches: Batches,
    size: Any,
    learning_rate: Any,
    *,
    separate: bool,
) -> tuple[JaxSites, Any]:
    optimiser = optax.scale_by_adam()

    def loss(z: JaxSites, data: Data, weight: jax.Array) -> Any:
        items, answers = data
        scaled = _with(answers, weight=answers.weight * (size / batches.rows) * weight)
        return potential_energy(model, (items, scaled), {}, z) / size

    def step(k: jax.Array, carry: tuple[JaxSites, Any]) -> tuple[JaxSites, Any]:
        z, state = carry
        data, weight = jax.tree.map(lambda leaf: leaf[k], (batches.data, batches.weights))
        gradient = jax.vmap(jax.grad(loss), (0, _axis(separate), 0))(z, data, weight)
        change, state = optimiser.update(gradient, state)
        return jax.tree.map(lambda old, new: old - learning_rate * new, z, change), state

    moved: tuple[JaxSites, Any] = jax.lax.fori_loop(0, batches.steps, step, (z, state))
    return moved


@partial(jax.jit, static_argnames="separate")
def _score(model: ComparisonModel, z: JaxSites, data: Data, *, separate: bool) -> jax.Array:
    """Log likelihood and weight [members, 2] of some comparisons."""

    def of_one(z: JaxSites, data: Data) -> jax.Array:
        sites = trace(substitute(seed(model, 0), data=_constrained(model, z, data))).get_trace(*data)
        observed = [site for site in sites.values() if site["type"] == "sample" and site["is_observed"]]
        return jnp.stack([sum(jnp.sum(log_prob(site)) for site in observed), jnp.sum(jnp.asarray(data[1].weight))])

    return jax.vmap(of_one, (0, _axis(separate)))(z, data)


@partial(jax.jit, static_argnames="separate")
def _sites(model: ComparisonModel, z: JaxSites, data: Data, *, separate: bool) -> JaxSites:
    sites: JaxSites = jax.vmap(partial(_constrained, model), (0, _axis(separate)))(z, data)
    return sites


@jax.jit
def _chosen(better: jax.Array, new: JaxSites, old: JaxSites) -> JaxSites:
    """Where a member is better, its new sites, else the old ones."""

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)

    chosen: JaxSites = jax.tree.map(choose, new, old)
    return chosen


def _constrained(model: ComparisonModel, z: JaxSites, data: Any) -> JaxSites:
    sites: JaxSites = constrain_fn(model, data, {}, z, return_deterministic=True)
    return sites


def _stacked(sets: list[Comparisons]) -> Comparisons:
    """Sets of one length as one object of arrays [sets, m]; a single set keeps its arrays [m]."""
    weighted = [_with(answers.nameless(), weight=answers.weights) for answers in sets]
    stacked: Comparisons = jax.tree.map(lambda *leaves: np.stack(leaves) if len(sets) > 1 else leaves[0], *weighted)
    return stacked


def _with(data: Container, **fields: Any) -> Container:
    """The same object with other arrays, unchecked: batched ones, traced ones, weights of zero."""
    again = copy.copy(data)
    for name, value in fields.items():
        object.__setattr__(again, name, value)
    return again
