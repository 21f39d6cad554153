"""Annotation campaigns: fit, select, ask, store, refit; the state of a campaign is what its store holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.designs.campaigns.annotators import QUIT, Annotator, PromptAnnotator
from tercet.designs.campaigns.arguments import Candidates, Key, check_count
from tercet.designs.campaigns.batches import RANDOM, Batch, design_batch, random_batch, remaining_pairs
from tercet.designs.campaigns.guard import guarded_share
from tercet.designs.campaigns.history import campaign_history
from tercet.designs.campaigns.label_store import LabelStore
from tercet.designs.campaigns.labels import LabelConflictError, Proposal, Query
from tercet.designs.campaigns.stopping import stopping_curve
from tercet.designs.campaigns.stored_answers import item_positions, queried_pairs, stored_comparisons
from tercet.designs.criteria.criterion import Criterion, as_criterion
from tercet.designs.pairs.candidates import RANDOM as LISTED
from tercet.designs.pairs.registry import CRITERIA
from tercet.designs.pairs.target_moments import Target
from tercet.designs.select import DEFAULT
from tercet.inference.laplace import laplace
from tercet.inference.posteriors.gaussian import GaussianPosterior
from tercet.models._inputs import as_generator
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import BradleyTerry, ComparisonModel
from tercet.models.preferences.comparisons import Comparisons

if TYPE_CHECKING:
    import pandas as pd

Inference = Callable[[ComparisonModel, Items, Comparisons], GaussianPosterior]
"""How a model is fitted to the answers about items."""


@dataclass(frozen=True, eq=False)
class AnnotationLoop:
    """A campaign: which pairs annotators compare next, which were asked before, and what the answers tell.

    Nothing is kept in memory: opened again on the same store, it continues where it stopped, also in the middle of a
    batch. Several processes may work on one store; two people who answer at the same moment may be shown the same
    pair, and then both answers count.

    The first batch is random. Before each later one the model is fitted to all answers so far, its prior scale
    included, and predicts the answers to the batch. If recent answers show that the model is overconfident (z above 3,
    see `prequential`), half of each batch is random, with a warning, until they no longer do. Which item of a pair
    comes first is random.

    Parameters
    ----------
    items : Items, named by texts or whole numbers; the store knows items without names by their positions, so their
        order must not change
    store : LabelStore
    model : default `BradleyTerry()`, a linear head with the prior scale learned at each refit
    criterion, candidates, target : as in `select_pairs`; random candidates are drawn anew each round
    batch : labels a round
    random_share : share of random pairs in every batch, in [0, 1]
    inference : how the model is fitted, a function of (model, items, comparisons) such as `laplace`
    key : int seed or JAX key

    Examples
    --------
    >>> import os, tempfile
    >>> from tercet.datasets import simulated_annotator, simulated_prompts
    >>> from tercet.designs import AnnotationLoop, LabelStore
    >>> items, rewards = simulated_prompts(20, 5, 8)
    >>> folder = tempfile.TemporaryDirectory()
    >>> with LabelStore(os.path.join(folder.name, "labels.db")) as store:
    ...     loop = AnnotationLoop(items, store, batch=20)
    ...     loop.run(simulated_annotator(items, rewards), budget=60, who="simulated", progress=False)
    ...     loop.history()["labels"].tolist()
    60
    [0, 20, 40]
    >>> folder.cleanup()
    """

    items: Items
    store: LabelStore
    model: ComparisonModel = field(default_factory=BradleyTerry)
    _: KW_ONLY
    criterion: str | Criterion = DEFAULT
    batch: int = 50
    candidates: Candidates = "random"
    target: Target = None
    random_share: float = 0.0
    inference: Inference = laplace
    key: Key = 0

    def __post_init__(self) -> None:
        as_criterion(self.criterion, CRITERIA)
        check_count("batch", self.batch, least=1)
        if not 0.0 <= self.random_share <= 1.0:
            raise ValueError(f"random_share must be in [0, 1], got {self.random_share}.")

    def comparisons(self) -> Comparisons | None:
        """Every answer so far with its annotator, skips left out; None where there is none."""
        return stored_comparisons(self.store, self._positions)

    def fit(self) -> GaussianPosterior:
        """The model fitted to every answer so far."""
        answers = self.comparisons()
        if answers is None:
            raise ValueError(
                f"{self.store.path} holds no answers yet; collect some first: loop.run(annotator, budget)."
            )
        return self.inference(self.model, self.items, answers)

    def run(
        self, annotator: Annotator, budget: int, who: str = "annotator", *, progress: bool = True, max_skips: int = 100
    ) -> int:
        """Ask until the store holds `budget` answers, the annotator quits, or no candidate is left.

        Each answer is stored before the next pair is shown: an exception, Ctrl-C or a power failure loses nothing, and
        the same call continues. Where the budget has been reached, nothing is asked. Pairs that this annotator skips
        are not shown to them again, but to others.

        Parameters
        ----------
        annotator : function of two ids that gives "first", "second", "tie", "skip", a number in [0, 1] or "quit"; or a
            `PromptAnnotator`
        budget : answers in the store at the end, those it holds already included; skips do not count
        who : name of the annotator
        progress : show a progress bar (never to a person at a prompt)
        max_skips : consecutive skips after which the run ends, with a warning

        Returns
        -------
        int
            Number of answers in the store.

        Raises
        ------
        ValueError
            Too few candidate pairs are left for this budget; an answer of another kind; a store of other items. Answers
            given before are stored.
        """
        self.check_budget(budget, who)
        hidden = not progress or isinstance(annotator, PromptAnnotator)
        skips = 0
        with tqdm(total=budget, initial=self.store.count(), desc="asking", unit="label", disable=hidden) as bar:
            while skips < max_skips and (query := self.next_query(who, budget)) is not None:
                answer = annotator(*self.names(query))
                if isinstance(answer, str) and answer == QUIT:
                    return self.store.count()
                answered = self._record(query, answer, who)
                skips = 0 if answered else skips + 1
                bar.update(answered)
        if skips == max_skips:
            warnings.warn(f"{who!r} skipped {skips} pairs in a row: stopped.", stacklevel=2)
        elif (missing := budget - self.store.count()) > 0:
            warnings.warn(f"no candidate pair is left to ask {who!r}: {missing} labels are missing.", stacklevel=2)
        return self.store.count()

    def check_budget(self, budget: int, who: str) -> None:
        """Raise ValueError, before anybody is asked, where there are too few candidates for the budget.

        Parameters
        ----------
        budget, who : as in `run`
        """
        check_count("budget", budget, least=0)
        missing = budget - self.store.count() - len(self.store.pending(who))
        if missing <= 0 or isinstance(self.candidates, (int, np.integer)):
            return
        left = len(self._left(self.key))
        sampled = isinstance(self.candidates, str) and self.candidates == "random" and left >= LISTED
        if left < missing and not sampled:
            raise ValueError(
                f"the budget needs {missing} more pairs, but only {left} candidate pairs are left that have not been "
                "asked: lower the budget or widen candidates."
            )

    def next_query(self, who: str, budget: int) -> Query | None:
        """The query to show next, of a new round where none is pending: for interfaces of other kinds.

        The answer goes to `loop.store.record(query.id, answer, who)`, as in `run` and `annotation_widget`.

        Parameters
        ----------
        who, budget : as in `run`

        Returns
        -------
        Query or None
            None where the store holds `budget` answers, or no candidate is left.
        """
        missing = budget - self.store.count()
        if missing <= 0:
            return None
        pending = self.store.pending(who)
        if not pending and self.propose(min(self.batch, missing)):
            pending = self.store.pending(who)
        return pending[0] if pending else None

    def names(self, query: Query) -> tuple[Hashable, Hashable]:
        """Names of the first and the second item of a query, as `items` has them."""
        ((first, second),) = queried_pairs(self.store, [query], self._positions)
        return self.items.names[first], self.items.names[second]

    def propose(self, size: int | None = None) -> int:
        """Fit, choose the pairs of the next round and store them as queries; fewer where fewer are left.

        Parameters
        ----------
        size : number of pairs, by default `batch`

        Returns
        -------
        int
            Number of queries in the new round.
        """
        size = self.batch if size is None else size
        check_count("size", size, least=1)
        number = len(self.store.rounds()) + 1
        rng = as_generator(self.key).spawn(number)[-1]  # each round has its own stream, also after a restart
        pairs = self._left(int(rng.integers(2**31)))
        size = min(size, len(pairs))
        if size == 0:
            return 0
        answers = self.comparisons()
        batch = random_batch(pairs, size, rng) if answers is None else self._design(answers, pairs, size, rng)
        names = self.items.names
        proposals = [
            Proposal(names[i], names[j], criterion, float(p))
            for (i, j), criterion, p in zip(batch.pairs, batch.criteria, batch.prediction, strict=True)
        ]
        criterion = RANDOM if answers is None else as_criterion(self.criterion, CRITERIA).name
        self.store.propose(number, proposals, criterion, batch.facts)  # nothing where another process was first
        return size

    def history(self) -> pd.DataFrame:
        """What each round was expected to bring and what it brought; see `campaign_history`."""
        return campaign_history(self.store)

    def stopping_curve(self, labels: int) -> pd.DataFrame:
        """Expected target variance after a number of further labels; see `stopping_curve`."""
        return stopping_curve(
            self.items, self.fit(), labels,
            candidates=self.candidates, criterion=self.criterion, target=self.target,
            exclude=self._asked(), key=self.key,
        )  # fmt: skip

    @cached_property
    def _positions(self) -> dict[int | str, int]:
        return item_positions(self.items)

    def _asked(self) -> np.ndarray:
        return queried_pairs(self.store, self.store.queries(), self._positions)

    def _left(self, key: Key) -> np.ndarray:
        return remaining_pairs(self.items, self.candidates, self._asked(), key)

    def _design(self, answers: Comparisons, pairs: np.ndarray, size: int, rng: np.random.Generator) -> Batch:
        share, z = guarded_share(self.store, self.random_share)
        batch = design_batch(
            self.items, self.inference(self.model, self.items, answers), pairs, size,
            criterion=as_criterion(self.criterion, CRITERIA), target=self.target, random_share=share, rng=rng,
        )  # fmt: skip
        return batch._replace(facts={"labels": len(answers), "recent_z": z, **batch.facts})

    def _record(self, query: Query, answer: object, who: str) -> bool:
        try:
            return self.store.record(query.id, answer, who).outcome is not None
        except LabelConflictError as error:  # the same name in another process: the first answer stands
            warnings.warn(str(error), stacklevel=3)
            return False
