"""The No-U-Turn sampler as two compiled programs, one that sets chains up and one that moves them some iterations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.inference.posteriors.programs import Programs, Sharing
from tercet.inference.posteriors.sharing import Numbers, compiled_once
from tercet.models._inputs import as_jax

CHUNK = 25
"""Iterations of one call: the progress bar moves after each."""
TRIALS = 16
"""Starting points tried for a chain whose first one has no finite density; NumPyro's own number is 100."""
RADIUS = 2.0
"""Half-width of the box, on the unconstrained scale, from which further starting points are drawn."""


class Chains(NamedTuple):
    """What chains passed through, after warmup.

    Attributes
    ----------
    z : array [chains, samples, p]
    diverging, potential : array [chains, samples]
    """

    z: np.ndarray
    diverging: np.ndarray
    potential: np.ndarray


@dataclass(frozen=True)
class Schedule:
    """How long chains run, how many, and how.

    Parameters
    ----------
    warmup, samples : iterations of each chain
    chains : number of chains
    target_accept : target acceptance probability
    progress : show a progress bar
    """

    warmup: int
    samples: int
    chains: int
    target_accept: float
    progress: bool

    def run(
        self,
        sharing: Sharing,
        points: np.ndarray,
        rng: np.random.Generator,
        coordinates: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Chains:
        """Chains from their starting points.

        Parameters
        ----------
        sharing : programs and numbers of the posterior
        points : array [chains, p]
        rng : of everything random
        coordinates : center [p] and root [p, p], optional: chains move in u with z = center + root u, and so are
            their starting points and results
        """
        begin, advance = _programs(sharing.programs, coordinates is not None, self.warmup, self.target_accept)
        others = rng.uniform(-RADIUS, RADIUS, (self.chains, TRIALS - 1, points.shape[1]))
        trials = np.concatenate([points[:, None], others], axis=1)
        keys = rng.integers(0, 2**32, (self.chains, 2), dtype=np.uint32)
        data = as_jax((sharing.numbers, coordinates))
        state, found = begin(*as_jax((keys, trials)), data)
        if not np.asarray(found).all():
            raise ValueError(
                f"no starting point with a finite density was found for {int((~np.asarray(found)).sum())} of "
                f"{self.chains} chains, in {TRIALS} trials; check the data and the priors."
            )
        total, parts = self.warmup + self.samples, []
        with tqdm(total=total, desc="nuts", disable=not self.progress, unit="step") as bar:
            for first in range(0, total, CHUNK):
                count = min(CHUNK, total - first)
                state, kept = advance(state, data, count)
                parts.append([np.asarray(values)[:count] for values in kept])
                bar.update(count)
        joined = (np.concatenate(own)[self.warmup :].swapaxes(0, 1) for own in zip(*parts, strict=True))
        return Chains(*joined)


@lru_cache(maxsize=64)
def _programs(
    programs: Programs, transformed: bool, warmup: int, target_accept: float
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two programs: (keys, trials, data) -> (state, found), and (state, data, count) -> (state, kept)."""

    def potential(numbers: Numbers, coordinates: tuple[jax.Array, jax.Array] | None) -> Callable[[jax.Array], Any]:
        if coordinates is None:
            return lambda z: programs.potential_at(z, numbers)
        center, root = coordinates
        return lambda u: programs.potential_at(center + root @ u, numbers)

    start, step = hmc(potential_fn_gen=potential, algo="NUTS")

    def begin(keys: jax.Array, trials: jax.Array, data: Any) -> Any:
        def chain(key: jax.Array, trials: jax.Array) -> Any:
            values, gradients = jax.lax.map(jax.value_and_grad(potential(*data)), trials)
            finite = jnp.isfinite(values) & jnp.isfinite(gradients).all(axis=1)
            state = start(
                trials[jnp.argmax(finite)], warmup, target_accept_prob=target_accept, model_args=data,
                rng_key=jax.random.wrap_key_data(key),
            )  # fmt: skip
            return state, finite.any()

        return jax.vmap(chain)(keys, trials)

    def advance(state: Any, data: Any, count: jax.Array) -> Any:
        def one(k: jax.Array, carry: Any) -> Any:
            state, kept = carry
            state = jax.vmap(lambda chain: step(chain, data))(state)
            now = state.z, state.diverging, state.potential_energy
            return state, jax.tree.map(lambda whole, value: whole.at[k].set(value), kept, now)

        now = state.z, state.diverging, state.potential_energy
        kept = jax.tree.map(lambda value: jnp.zeros((CHUNK, *value.shape), value.dtype), now)
        return jax.lax.fori_loop(0, count, one, (state, kept))

    return compiled_once(begin), jax.jit(advance)
