"""Pairs of items that could be asked, and who could be asked: what `select_pairs` chooses from."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from tercet.designs.criteria.criterion import Criterion
from tercet.designs.criteria.pools import SecondMoment
from tercet.designs.pairs.candidates import Scheme, listed_pairs
from tercet.designs.pairs.draw_pool import DrawPool, draw_pool
from tercet.designs.pairs.pair_objectives import AbstractPairCandidates
from tercet.designs.pairs.pool import PairPool
from tercet.designs.pairs.registry import CRITERIA
from tercet.designs.pairs.target_moments import Target, of_two_items, target_matrix
from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.inference.posteriors.posterior import Posterior
from tercet.inference.preferences.reward_view import RewardView, comparison_model, on
from tercet.models._inputs import KeyLike
from tercet.models.items.items import Items
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.heads import LinearInParameters

BY_DRAWS = "'BALD (draws)', 'EPIG (draws)' or 'BatchBALD (joint entropy)'"


@dataclass(frozen=True, eq=False)
class PairCandidates(AbstractPairCandidates):
    """Pairs of items that could be asked: what `select` chooses from.

    Attributes
    ----------
    items, pairs : the candidates
    annotator : int [m], who would answer each (None: anybody)
    annotator_ids : names of the annotators
    """

    items: Items
    pairs: Int[np.ndarray, "m 2"]
    annotator: Int[np.ndarray, " m"] | None = None
    annotator_ids: tuple[Hashable, ...] = ()

    @property
    def criteria(self) -> Mapping[str, Criterion]:
        """The criteria that pairs know by name."""
        return CRITERIA

    def __len__(self) -> int:
        return len(self.pairs)

    def asking(self, posterior: Posterior | RewardView, annotators: str | Sequence[Hashable]) -> PairCandidates:
        """Every pair with every one of these annotators ("all": all that the fit knows), pair after pair."""
        known = _known_annotators(posterior)
        wanted = known if isinstance(annotators, str) and annotators == "all" else tuple(annotators)
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted or len(set(wanted)) < len(wanted):
            raise ValueError(
                f'annotators must be "all" or different names among the {len(known)} of the fit '
                f"({', '.join(map(repr, known[:5]))}{', ...' if len(known) > 5 else ''}), got {annotators!r}."
            )
        positions = np.array([known.index(name) for name in wanted])
        pairs, who = np.repeat(self.pairs, len(positions), axis=0), np.tile(positions, len(self.pairs))
        return PairCandidates(self.items, pairs, who, known)

    def pool(self, posterior: Posterior | RewardView, target: Target) -> PairPool:
        """These candidates under a posterior, its rewards as a Gaussian; features out of memory are read as needed."""
        pool = self.pool_of_items(posterior, target)
        return pool if pool.rewards.features.in_memory else pool.narrowed()

    def pool_of_items(self, posterior: Posterior | RewardView, target: Target) -> PairPool:
        """The same, features left where they are: only pools made from it, by `of`, answer every question."""
        view = on(posterior, self.items)
        if self.annotator is not None:
            raise ValueError(f"annotators= needs a criterion that works by posterior draws: {BY_DRAWS}.")
        _check_definite(view.posterior)
        model, rewards, asked = view.model, view.gaussian, view.answers
        rows = rewards.rows(self.pairs, model.covariates(len(self.pairs)))
        sites = {} if model.link is not None else view.posterior.mean()
        return PairPool(
            rows=rows,
            root=rewards.root,
            information=model.information(rewards.mean_of(rows), sites),
            target=_target_moment(view, target),
            items=self.items,
            model=model,
            sites=sites,
            rewards=rewards,
            asked=None if asked is None else asked.pairs,
        )

    def draw_pool(self, posterior: Posterior | RewardView, draws: int) -> DrawPool:
        """These candidates under at most this many draws of a posterior, each annotator with a precision."""
        return draw_pool(on(posterior, self.items), self.pairs, self.annotator, draws)

    def picks(self, chosen: np.ndarray) -> Int[np.ndarray, "b 2"]:
        """The pairs at these positions."""
        return np.asarray(self.pairs[chosen])

    def annotators(self, chosen: np.ndarray) -> Int[np.ndarray, " b"] | None:
        """Who would answer the candidates at these positions, as positions among the annotators of the fit."""
        return None if self.annotator is None else self.annotator[chosen]

    def table(self, chosen: np.ndarray, pool: PairPool | DrawPool, gains: np.ndarray) -> Any:
        """DataFrame of the chosen pairs: ids, gain, and what the posterior says of each."""
        import pandas as pd

        names, pairs, picked, who = self.items.names, self.picks(chosen), pool.take(chosen), self.annotators(chosen)
        moments = picked.difference
        asked = {} if who is None else {"annotator": [self.annotator_ids[a] for a in who]}
        return pd.DataFrame(
            {
                "first": [names[i] for i in pairs[:, 0]],
                "second": [names[j] for j in pairs[:, 1]],
                **asked,
                "gain": gains,
                "difference_mean": moments.mean,
                "difference_sd": moments.sd,
                "win_probability": picked.expected_outcome,
            }
        )


def pair_candidates(
    view: RewardView,
    candidates: Scheme | int | ArrayLike,
    exclude: Comparisons | ArrayLike | None,
    key: KeyLike,
    n: int | None = None,
) -> PairCandidates:
    """The candidates of `select_pairs`: the same arguments give the same pairs."""
    return PairCandidates(view.items, listed_pairs(view.items, candidates, key, exclude, n))


def _target_moment(view: RewardView, target: Target) -> SecondMoment:
    """The second moment of the target rows, in which covariates have no part: reward differences are aimed at."""
    features, head = view.gaussian.features, view.model.head
    if not isinstance(target, Items):
        matrix = target_matrix(features, view.items, target)
    elif not isinstance(head, LinearInParameters):
        raise ValueError(
            f"target=Items needs a linear head or {BY_DRAWS}; or add the target items to `items` and give "
            "target as pairs of them."
        )
    else:
        others = head.features(view.of(target).items)  # raw embeddings are projected as those of the fit were
        if head.per_item or others.shape[1] != features.shape[1]:
            raise ValueError("target items need the same features as the items of the fit (projected alike).")
        matrix = of_two_items(others)
    return SecondMoment(np.pad(matrix, (0, len(view.gaussian.effects))))


def _known_annotators(posterior: Posterior | RewardView) -> tuple[Hashable, ...]:
    posterior = posterior.posterior if isinstance(posterior, RewardView) else posterior
    if not comparison_model(posterior).annotators:
        raise ValueError("annotators= needs a fit of a model with annotators=True, which learns their precisions.")
    asked = posterior.comparisons
    if asked is not None and asked.annotator_ids is not None:
        return asked.annotator_ids
    return tuple(range(posterior.draws(1)["precision"].shape[1]))


def _check_definite(posterior: Posterior) -> None:
    """Raise where a Gaussian posterior has no covariance."""
    if not isinstance(posterior, GaussianPosterior):
        return
    factor = posterior.precision_factor
    smallest = float(factor.diagonal().min())
    if not (np.isfinite(factor).all() and smallest > 0):
        raise ValueError(
            "the precision of this posterior is not positive definite (its factor must be finite with a positive "
            f"diagonal; the smallest entry is {smallest:g}): some parameter is not determined. Fit again with a finite "
            "prior_sd."
        )
