"""A posterior as a set of draws: Markov chains, or the members of an ensemble."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tercet.inference.posteriors.evaluation import Draws
from tercet.inference.posteriors.posterior import Posterior
from tercet.models._inputs import KeyLike, as_generator
from tercet.models._pytree import pytree


@pytree("kind", "context")
@dataclass(frozen=True, eq=False)
class SampledPosterior(Posterior):
    """Draws of Markov chains, or members of an ensemble.

    Attributes
    ----------
    kind, context, diagnostics : as of every `Posterior`
    samples : dict of arrays [chains, draws, ...]
    statistics : dict of arrays [chains, draws], such as `diverging`
    """

    samples: Draws
    statistics: Draws

    @property
    def chains(self) -> int:
        """Number of chains."""
        return int(next(iter(self.samples.values())).shape[0])

    @cached_property
    def _flat(self) -> Draws:
        return {name: values.reshape(-1, *values.shape[2:]) for name, values in self.samples.items()}

    def draws(self, n: int = 1000, key: KeyLike = 0) -> Draws:
        """Choose n draws at random, without replacement where there are enough."""
        total = len(next(iter(self._flat.values())))
        index = as_generator(key).choice(total, size=n, replace=n > total)
        return {name: values[index] for name, values in self._flat.items()}

    def mean(self) -> Draws:
        """Average over all draws."""
        return {name: np.asarray(values.mean(axis=0)) for name, values in self._flat.items()}

    def arrays(self) -> Draws:
        """Samples and statistics, by the names they have in files."""
        samples = {f"samples/{name}": values for name, values in self.samples.items()}
        return samples | {f"statistics/{name}": values for name, values in self.statistics.items()}

    def _chains(self, draws: int | None, key: KeyLike) -> tuple[Draws, Draws]:
        length = next(iter(self.samples.values())).shape[1]
        wanted = length if draws is None else max(1, min(length, draws // self.chains))
        kept = np.linspace(0, length - 1, wanted).round().astype(int)  # evenly thinned: still Markov chains

        def flat(values: np.ndarray) -> np.ndarray:
            return values[:, kept].reshape(-1, *values.shape[2:])

        return {n: flat(v) for n, v in self.samples.items()}, {n: flat(v) for n, v in self.statistics.items()}
