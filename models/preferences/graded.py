"""Comparisons answered on a scale: "much better" to "much worse", and Rao and Kupper's ties as its smallest case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy.special import expit

from tercet.models._inputs import is_concrete
from tercet.models.preferences.answers import GradedAnswers
from tercet.models.preferences.comparison_models import ComparisonModel


@dataclass(frozen=True)
class Graded(ComparisonModel):
    """Ordered answers Y = 0, ..., K - 1 (0: second much better): P(Y >= k | r) = 1 / (1 + exp(c_k - r)).

    The cuts c_1 < ... < c_(K-1) are symmetric, c_k = -c_(K-k), so that a pair means the same either way round: sites
    `cut_gaps` [floor(K / 2) for odd K, one fewer for even], LogNormal(0, 1), the distances from 0 outwards, and
    `cuts` [K - 1]. Outcomes are Y / (K - 1). The Fisher information of r is sum_k (dp_k / dr)^2 / p_k.

    Parameters
    ----------
    head, order_effect, annotators : see `ComparisonModel`
    levels : K, at least 3; odd: the middle one is a tie

    References
    ----------
    Agresti (1992), Analysis of ordinal paired comparison data, Applied Statistics 41.

    Examples
    --------
    >>> from tercet.inference import laplace
    >>> from tercet.models import AbilityHead, Comparisons, Graded, Items
    >>> answers = Comparisons([0, 0, 0, 1], [1, 1, 2, 2], [1.0, 0.75, 0.5, 0.25])
    >>> laplace(Graded(AbilityHead(1.0), levels=5), Items.named("abc"), answers).mean()["ability"].round(1).tolist()
    [0.4, -0.6, 0.2]
    """

    levels: int = 5
    smallest: ClassVar[int] = 3

    def __post_init__(self) -> None:
        if self.levels < self.smallest:
            raise ValueError(f"levels must be at least {self.smallest}, got {self.levels}; two are BradleyTerry.")

    def check(self, items: Any, comparisons: Any) -> None:
        super().check(items, comparisons)
        outcome = comparisons.outcome
        if not is_concrete(outcome):
            return
        off = np.abs(outcome * (self.levels - 1) - np.round(outcome * (self.levels - 1))) > 1e-6
        if off.any():
            grid = ", ".join(f"{k / (self.levels - 1):g}" for k in range(self.levels))
            raise ValueError(
                f"{type(self).__name__} with {self.levels} levels needs outcomes {grid}; got {off.sum()} other(s), "
                f"such as {outcome[off][0]:g}. Set levels to the number of answers on the scale, or use BradleyTerry."
            )

    @property
    def answers(self) -> GradedAnswers:
        return GradedAnswers(self.levels)

    def derived(self, sites: Mapping[str, Any]) -> dict[str, Any]:
        return {"cuts": sites["cut_gaps"] @ self.answers.from_gaps.T}

    def answer(self, logit: Any) -> Any:
        ((site, count),) = self.answers.auxiliaries
        gaps = numpyro.sample(site, dist.LogNormal(0.0, 1.0).expand([count]).to_event(1))
        cuts = numpyro.deterministic("cuts", self.derived({site: gaps})["cuts"])
        return dist.OrderedLogistic(logit, cuts)

    def encode(self, outcome: Any) -> Any:
        return (outcome * (self.levels - 1) + 0.5).astype(int)

    def information(self, logit: Any, sites: Mapping[str, Any]) -> Any:
        above = self._above(logit, sites)
        slopes = -np.diff(above * (1.0 - above), axis=-1)
        return (np.square(slopes) / np.maximum(-np.diff(above, axis=-1), 1e-300)).sum(axis=-1)

    def probabilities(self, logit: Any, sites: Mapping[str, Any]) -> np.ndarray:
        """P(Y = 0), ..., P(Y = K - 1) [..., K]."""
        return -np.diff(self._above(logit, sites), axis=-1)

    def _above(self, logit: Any, sites: Mapping[str, Any]) -> np.ndarray:
        """P(Y >= k), k = 0, ..., K [..., K + 1]."""
        inner = expit(np.asarray(logit)[..., None] - np.asarray(sites["cuts"]))
        ends = np.ones((*inner.shape[:-1], 1))
        return np.concatenate([ends, inner, 0.0 * ends], axis=-1)


@dataclass(frozen=True)
class RaoKupper(Graded):
    """Ties where neither is better by a threshold: P(first) = 1 / (1 + exp(c - r)), P(second) = 1 / (1 + exp(c + r)).

    c > 0 is the site `cut_gaps` [1], log theta of the paper: two equal items tie with probability tanh(c / 2).
    `Davidson` is the other model of ties, with tails that fall half as fast.

    Parameters
    ----------
    head, order_effect, annotators : see `ComparisonModel`
    levels : 3

    References
    ----------
    Rao and Kupper (1967), JASA 62, equation 2.5.
    """

    levels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels != 3:
            raise ValueError(f"Rao and Kupper's model has 3 levels, got {self.levels}; use Graded.")
