"""What a label store holds: proposals, queries, labels and rounds, and how answers and ids are written in it.

Imports the standard library only, like `label_store`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Hashable, Mapping
from types import MappingProxyType
from typing import NamedTuple, SupportsFloat, SupportsIndex

OUTCOMES: Mapping[str, float | None] = MappingProxyType({"first": 1.0, "tie": 0.5, "second": 0.0, "skip": None})
"""Outcome of each answer that is a word; None where the query was skipped."""

Facts = Mapping[str, int | float | str | None]
"""What was known when a round was proposed: numbers and texts by name."""


class Proposal(NamedTuple):
    """A pair to be compared.

    Attributes
    ----------
    first, second : ids of the two items, texts or whole numbers
    criterion : name of the criterion that chose the pair
    prediction : predicted probability that the first is preferred; None where nothing was predicted
    """

    first: Hashable
    second: Hashable
    criterion: str
    prediction: float | None = None


class Query(NamedTuple):
    """A proposal in the store, put to the annotators.

    Attributes
    ----------
    id : number of the query, from 1
    round : number of its round
    first, second, criterion, prediction : as in `Proposal`
    """

    id: int
    round: int
    first: int | str
    second: int | str
    criterion: str
    prediction: float | None


class Label(NamedTuple):
    """An answer to a query.

    Attributes
    ----------
    query : number of the query
    annotator : name of the person who answered
    outcome : 1 the first is preferred, 0 the second, 0.5 a tie, None skipped
    answered : time of the answer (UTC, ISO 8601)
    """

    query: int
    annotator: str
    outcome: float | None
    answered: str


class Round(NamedTuple):
    """A batch of queries.

    Attributes
    ----------
    number : 1, 2, ...
    proposed : time of the proposal (UTC, ISO 8601)
    criterion : name of the criterion of the round
    facts : numbers and texts by name, known at that time
    """

    number: int
    proposed: str
    criterion: str
    facts: Facts


class LabelConflictError(ValueError):
    """An annotator answered a query a second time, differently: the first answer stands."""


def as_outcome(answer: object) -> float | None:
    """Outcome in [0, 1] of an answer given as a word or a number; None where the query was skipped."""
    if isinstance(answer, str) and answer in OUTCOMES:
        return OUTCOMES[answer]
    try:
        value = float(answer) if isinstance(answer, SupportsFloat | SupportsIndex) else math.nan
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"an answer is one of {', '.join(OUTCOMES)}, or a number from 0 to 1, got {answer!r}.")
    return value


def as_id(value: object) -> int | str:
    """Id of an item as the store keeps it: a text or a whole number."""
    if isinstance(value, str):
        return str(value)
    number = operator.index(value) if isinstance(value, SupportsIndex) else 2**63
    if isinstance(value, bool) or not -(2**63) <= number < 2**63:
        raise ValueError(f"ids of items must be texts or whole numbers of 64 bits to be stored, got {value!r}.")
    return number


def check_proposal(proposal: Proposal) -> Proposal:
    """The proposal with its ids as the store keeps them; an error where both are the same."""
    first, second = as_id(proposal.first), as_id(proposal.second)
    if first == second:
        raise ValueError(f"a pair has two different items, got {first!r} twice.")
    prediction = None if proposal.prediction is None else float(proposal.prediction)
    return Proposal(first, second, proposal.criterion, prediction)


def unchanged(before: Label, outcome: float | None) -> Label:
    """The label already given, where the new outcome is the same; an error otherwise."""
    if before.outcome == outcome:
        return before
    old, new = ("skip" if one is None else one for one in (before.outcome, outcome))
    raise LabelConflictError(
        f"{before.annotator!r} answered query {before.query} with {old} at {before.answered} and now with {new}: the "
        "first answer stands. To ask for this pair again, propose it in a new round."
    )
