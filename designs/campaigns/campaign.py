"""Annotation campaigns: fit, select, ask, store, refit; what is known of a campaign is what its store holds."""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm  # not tqdm.auto: it warns where ipywidgets is missing

from tercet.designs.campaigns.annotators import QUIT, Annotator, PromptAnnotator
from tercet.designs.campaigns.batches import RANDOM, Batch, design_batch, distinct, random_batch
from tercet.designs.campaigns.campaign_history import campaign_history, recent_z
from tercet.designs.campaigns.label_store import Ask, LabelConflictError, LabelStore, Proposal, as_id
from tercet.designs.campaigns.prequential import ALARM
from tercet.designs.campaigns.stopping import stopping_curve
from tercet.designs.criteria.criterion import Criterion, as_criterion
from tercet.designs.pairs.candidates import RANDOM as LISTED
from tercet.designs.pairs.candidates import Scheme, listed_pairs
from tercet.designs.pairs.registry import CRITERIA
from tercet.designs.select import DEFAULT
from tercet.inference.posteriors.mode import laplace
from tercet.inference.posteriors.posterior import GaussianPosterior
from tercet.models._inputs import as_generator
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import BradleyTerry, ComparisonModel
from tercet.models.preferences.comparisons import Comparisons

if TYPE_CHECKING:
    import pandas as pd

GUARD_SHARE = 0.5
"""Share of random pairs in a batch once the model has shown itself overconfident."""
SKIPS = 100
"""So many skips in a row end a run."""


@dataclass(frozen=True, eq=False)
class AnnotationLoop:
    """A campaign: which pairs of items to ask next, whom was asked what, and what has been learned.

    It keeps nothing in memory: opened again on the same store, it goes on where it stopped, in the middle of a batch
    too. Several processes may work on one store; people who answer at the same moment may be shown the same pair, and
    then both answers count.

    The first batch is random. Before each later one the model is fitted anew, its prior scale included, on all
    answers so far, and predicts the batch before it is asked. If the answers to recent predictions show the model
    overconfident (z above 3, see `prequential`), half of each batch is random, with a warning, until they no longer
    do. Which item of a pair comes first is drawn at random.

    Parameters
    ----------
    items : Items, named by texts or whole numbers; the store knows items without names by their positions, so that
        their order must stay
    store : LabelStore
    model : default `BradleyTerry()`, a linear head with the prior scale learned at each refit
    criterion, candidates, target : as in `select_pairs`; random candidates are drawn anew each round
    batch : labels a round
    random_share : share of random pairs in every batch, in [0, 1]
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
    criterion: str | Criterion = DEFAULT
    batch: int = 50
    candidates: Scheme | int | ArrayLike = "random"
    target: Any = None
    random_share: float = 0.0
    key: Any = 0

    def __post_init__(self) -> None:
        as_criterion(self.criterion, CRITERIA)
        _check_count("batch", self.batch, least=1)
        if not 0.0 <= self.random_share <= 1.0:
            raise ValueError(f"random_share must be in [0, 1], got {self.random_share}.")

    def comparisons(self) -> Comparisons | None:
        """Every answer so far, skips left out, with who gave it; None where there is none."""
        asks = {ask.id: ask for ask in self.store.asks()}
        labels = [label for label in self.store.labels() if label.outcome is not None]
        if not labels:
            return None
        pairs = self._positions([asks[label.ask] for label in labels])
        who = list(dict.fromkeys(label.annotator for label in labels))
        codes = [who.index(label.annotator) for label in labels]
        outcome = np.array([label.outcome for label in labels], dtype=float)
        return Comparisons(pairs[:, 0], pairs[:, 1], outcome, None, codes, who)

    def fit(self) -> GaussianPosterior:
        """The model fitted on every answer so far."""
        answers = self.comparisons()
        if answers is None:
            raise ValueError(f"{self.store.path} holds no answers yet; ask some first: loop.run(annotator, budget).")
        return laplace(self.model, self.items, answers)

    def run(self, annotator: Annotator, budget: int, who: str = "annotator", progress: bool = True) -> int:
        """Ask until the store holds `budget` answers, the annotator quits, or no candidate is left.

        Each answer is stored before the next pair is shown: an exception, Ctrl-C or a power failure in the middle
        loses nothing, and the same call goes on from there. With a budget that is reached nothing is asked. What this
        annotator skips is not shown to them again; others are asked.

        Parameters
        ----------
        annotator : two ids in, "first", "second", "tie", "skip", a number in [0, 1] or "quit" out; or a
            `PromptAnnotator`
        budget : answers in the store at the end, those it holds already included; skips do not count
        who : name of the annotator
        progress : show a progress bar (a person at a prompt sees none)

        Returns
        -------
        int
            Answers in the store.

        Raises
        ------
        ValueError
            Too few candidate pairs are left for this budget; an answer that is none; a store of other items. What
            was answered before is stored.
        """
        self.check_budget(budget, who)
        hidden = not progress or isinstance(annotator, PromptAnnotator)
        skips = 0
        with tqdm(total=budget, initial=self.store.count(), desc="asking", unit="label", disable=hidden) as bar:
            while skips < SKIPS and (ask := self.next_ask(who, budget)) is not None:
                answer = annotator(*self.names(ask))
                if isinstance(answer, str) and answer == QUIT:
                    return self.store.count()
                answered = self._record(ask, answer, who)
                skips = 0 if answered else skips + 1
                bar.update(answered)
        if skips == SKIPS:
            warnings.warn(f"{who!r} skipped {SKIPS} pairs in a row: stopped.", stacklevel=2)
        elif (missing := budget - self.store.count()) > 0:
            warnings.warn(f"no candidate pair is left to ask {who!r}: {missing} labels are missing.", stacklevel=2)
        return self.store.count()

    def check_budget(self, budget: int, who: str) -> None:
        """Raise ValueError, before anybody is asked, where the candidates cannot fill the budget.

        Parameters
        ----------
        budget, who : as in `run`
        """
        _check_count("budget", budget, least=0)
        missing = budget - self.store.count() - len(self.store.pending(who))
        if missing <= 0 or isinstance(self.candidates, (int, np.integer)):
            return
        left = len(self._left(self.key))
        sampled = isinstance(self.candidates, str) and self.candidates == "random" and left >= LISTED
        if left < missing and not sampled:
            raise ValueError(
                f"{missing} more pairs are to be asked, but only {left} candidate pairs are left that have not been: "
                "lower the budget or widen candidates."
            )

    def next_ask(self, who: str, budget: int) -> Ask | None:
        """The pair to show next, of a new round where none is pending: for an interface of your own.

        The answer goes to `loop.store.record(ask.id, answer, who)`, as in `run` and `annotation_widget`.

        Parameters
        ----------
        who, budget : as in `run`

        Returns
        -------
        Ask or None
            None where the store holds `budget` answers, or no candidate is left.
        """
        missing = budget - self.store.count()
        if missing <= 0:
            return None
        pending = self.store.pending(who)
        if not pending and self.propose(min(self.batch, missing)):
            pending = self.store.pending(who)
        return pending[0] if pending else None

    def names(self, ask: Ask) -> tuple[Hashable, Hashable]:
        """Names of the two items of an ask, the first one first, as `items` has them."""
        (pair,) = self._positions([ask])
        return self.items.names[pair[0]], self.items.names[pair[1]]

    def propose(self, size: int | None = None) -> int:
        """Fit, choose the next round of pairs and store them as asks; fewer where fewer are left.

        Parameters
        ----------
        size : pairs, by default `batch`

        Returns
        -------
        int
            Number of asks in the new round.
        """
        size = self.batch if size is None else size
        _check_count("size", size, least=1)
        number = len(self.store.rounds()) + 1
        rng = as_generator(self.key).spawn(number)[-1]  # each round has its own stream, also after a restart
        pairs = self._left(int(rng.integers(2**31)))
        size = min(size, len(pairs))
        if size == 0:
            return 0
        answers = self.comparisons()
        batch = random_batch(pairs, size, rng) if answers is None else self._design(answers, pairs, size, rng)
        names = self.items.names
        asks = [
            Proposal(names[i], names[j], criterion, float(p))
            for (i, j), criterion, p in zip(batch.pairs, batch.criteria, batch.prediction, strict=True)
        ]
        rule = RANDOM if answers is None else as_criterion(self.criterion, CRITERIA).name
        self.store.propose(number, asks, rule, batch.facts)  # another process may have been first: its asks stand
        return size

    def history(self) -> pd.DataFrame:
        """What each round was expected to bring and what came of it; see `campaign_history`."""
        return campaign_history(self.store)

    def stopping_curve(self, labels: int) -> pd.DataFrame:
        """Expected target variance left by number of further labels; see `stopping_curve`."""
        return stopping_curve(
            self.items, self.fit(), labels,
            candidates=self.candidates, criterion=self.criterion, target=self.target,
            exclude=self._positions(self.store.asks()), key=self.key,
        )  # fmt: skip

    @cached_property
    def _position(self) -> dict[int | str, int]:
        return {as_id(name): place for place, name in enumerate(self.items.names)}

    def _positions(self, asks: list[Ask]) -> np.ndarray:
        """Pairs [m, 2] of positions of the items that were asked for."""
        names = {name for ask in asks for name in (ask.first, ask.second)}
        unknown = sorted(map(repr, names - self._position.keys()))
        if unknown:
            raise ValueError(
                f"{self.store.path} names {len(unknown)} item(s) that are not among these {len(self.items)}, for "
                f"example {unknown[0]}: it belongs to other items; open the store of these, or pass the items of that."
            )
        return np.array([[self._position[ask.first], self._position[ask.second]] for ask in asks], int).reshape(-1, 2)

    def _left(self, key: Any) -> np.ndarray:
        pairs = listed_pairs(self.items, self.candidates, key, self._positions(self.store.asks()))
        listed = isinstance(self.candidates, (str, int, np.integer))  # without repetition
        return pairs if listed else distinct(pairs, len(self.items))

    def _design(self, answers: Comparisons, pairs: np.ndarray, size: int, rng: np.random.Generator) -> Batch:
        z = recent_z(self.store)
        share = self.random_share
        if z > ALARM:
            share = max(share, GUARD_SHARE)
            warnings.warn(
                f"the model is overconfident: the log loss of its recent predictions is {z:.1f} standard deviations "
                f"above what it expected. Its uncertainties cannot be trusted for design: {share:.0%} of this batch "
                "is random. Consider another model (a network, annotators, ties) and look at loop.history().",
                stacklevel=3,
            )
        batch = design_batch(
            self.items, laplace(self.model, self.items, answers), pairs, size,
            criterion=as_criterion(self.criterion, CRITERIA), target=self.target, random_share=share, rng=rng,
        )  # fmt: skip
        return batch._replace(facts={"labels": len(answers), "recent_z": z} | batch.facts)

    def _record(self, ask: Ask, answer: Any, who: str) -> bool:
        try:
            return self.store.record(ask.id, answer, who).outcome is not None
        except LabelConflictError as error:  # the same name in another process: its answer stands
            warnings.warn(str(error), stacklevel=3)
            return False


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}.")
