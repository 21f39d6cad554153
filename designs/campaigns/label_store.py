"""The durable store of labels: one SQLite file, one transaction a label.

Labels are expensive. A label is acknowledged when `record` returns; from then on it is in the file, once, whatever
happens to the process or to the power. This module and `store_file` import the standard library only, so that a start
is instant.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tercet.designs.campaigns import store_file

WORDS = {"first": 1.0, "tie": 0.5, "second": 0.0, "skip": None}


class Proposal(NamedTuple):
    """A pair that is to be asked: ids of the two items, the criterion that chose it, what the model predicts."""

    first: Any
    second: Any
    criterion: str
    prediction: float | None = None


class Ask(NamedTuple):
    """A proposal in the store: its number, the round it belongs to."""

    id: int
    round: int
    first: int | str
    second: int | str
    criterion: str
    prediction: float | None


class Label(NamedTuple):
    """An answer: to which ask, by whom, when (UTC, ISO 8601); outcome 1 first, 0 second, 0.5 tie, None skipped."""

    ask: int
    annotator: str
    outcome: float | None
    answered: str


class Round(NamedTuple):
    """A batch: its number from 1, when it was proposed, by which criterion, and what was known then."""

    number: int
    proposed: str
    criterion: str
    facts: dict[str, Any]


class LabelConflictError(ValueError):
    """An ask was answered again by the same annotator, otherwise than before: the first answer stands."""


class LabelStore:
    """Open the store of labels at `path`, or create it.

    Several processes may write at once. While one has it open, the files beside it that end in -wal and -shm are part
    of the store: copy or move it when nobody has it open.

    Parameters
    ----------
    path : of the SQLite file
    create : make the file where there is none (False: that is an error)

    Raises
    ------
    ValueError
        The file is no label store, or one of a newer version; it is left as it is.
    FileNotFoundError
        There is no such file (`create=False`), or no such folder.
    OSError
        Anything the disk refuses, here and later: full, not writable, damaged. What was acknowledged is stored.

    Examples
    --------
    >>> import os, tempfile
    >>> from tercet.designs import LabelStore, Proposal
    >>> folder = tempfile.TemporaryDirectory()
    >>> with LabelStore(os.path.join(folder.name, "labels.db")) as store:
    ...     store.propose(1, [Proposal("tea", "coffee", "random"), Proposal("tea", "milk", "random")], "random")
    ...     ask = store.pending("Ann")[0]
    ...     store.record(ask.id, "first", "Ann").outcome, len(store.pending("Ann"))
    True
    (1.0, 1)
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = True) -> None:
        self.path = Path(path)
        if not self.path.exists():
            if not create or not self.path.parent.is_dir():
                missing = self.path if not create else self.path.parent
                raise FileNotFoundError(f"there is no {'file' if not create else 'folder'} {missing}.")
            with self._told():
                store_file.create(self.path)
        store_file.check_header(self.path)
        with self._told():
            self._connection = store_file.connect(self.path)

    def propose(
        self, number: int, proposals: Sequence[Proposal], criterion: str, facts: Mapping[str, Any] | None = None
    ) -> bool:
        """Store round `number` with all its asks, or none of it.

        Parameters
        ----------
        number : 1 for the first round, then one more than the last
        proposals : best first
        criterion : of the round
        facts : numbers and words by name, kept as JSON

        Returns
        -------
        bool
            False where this round is in the store already, for example from another process: its asks stand.
        """
        rows = [(number, *_checked(proposal)) for proposal in proposals]
        with self._transaction() as connection:
            last = connection.execute("SELECT coalesce(max(number), 0) FROM round").fetchone()[0]
            if number <= last:
                return False
            if number != last + 1:
                raise ValueError(f"round {number} was proposed after round {last}; the next one is {last + 1}.")
            connection.execute(
                "INSERT INTO round VALUES (?, ?, ?, ?)", (number, _now(), criterion, json.dumps(dict(facts or {})))
            )
            connection.executemany(
                "INSERT INTO ask (round, first, second, criterion, prediction) VALUES (?, ?, ?, ?, ?)", rows
            )
        return True

    def record(self, ask: int, answer: Any, annotator: str) -> Label:
        """Store one answer; once this returns, it is acknowledged.

        The same answer given again by the same annotator, as after a retry, is one label.

        Parameters
        ----------
        ask : number of the ask
        answer : "first", "second", "tie", "skip", or a number in [0, 1] (1: the first is preferred)
        annotator : who answers

        Raises
        ------
        LabelConflictError
            This annotator has answered this ask otherwise before; the first answer stands.
        """
        outcome = as_outcome(answer)
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM ask WHERE id = ?", (ask,)).fetchone() is None:
                raise ValueError(f"there is no ask {ask} in {self.path}.")
            before = connection.execute(
                "SELECT ask, annotator, outcome, answered FROM label WHERE ask = ? AND annotator = ?", (ask, annotator)
            ).fetchone()
            if before is not None:
                return _same(Label(*before), outcome)
            label = Label(ask, annotator, outcome, _now())
            connection.execute("INSERT INTO label (ask, annotator, outcome, answered) VALUES (?, ?, ?, ?)", label)
        return label

    def pending(self, annotator: str) -> list[Ask]:
        """Asks that nobody has answered and this annotator has not skipped, the oldest first."""
        return self._asks(
            "WHERE NOT EXISTS (SELECT 1 FROM label WHERE label.ask = ask.id "
            "AND (label.outcome IS NOT NULL OR label.annotator = ?))",
            annotator,
        )

    def asks(self) -> list[Ask]:
        """Everything that was ever proposed, in order."""
        return self._asks("")

    def labels(self) -> list[Label]:
        """Every answer, skips included, in the order in which they were stored."""
        return [Label(*row) for row in self._read("SELECT ask, annotator, outcome, answered FROM label ORDER BY id")]

    def rounds(self) -> list[Round]:
        """The batches so far."""
        rows = self._read("SELECT number, proposed, criterion, facts FROM round ORDER BY number")
        return [Round(number, proposed, criterion, json.loads(facts)) for number, proposed, criterion, facts in rows]

    def count(self) -> int:
        """Number of answers, skips not counted."""
        return int(self._read("SELECT count(*) FROM label WHERE outcome IS NOT NULL")[0][0])

    def close(self) -> None:
        """Close the file; what was acknowledged is in it."""
        self._connection.close()

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _asks(self, where: str, *values: Any) -> list[Ask]:
        columns = "id, round, first, second, criterion, prediction"
        return [Ask(*row) for row in self._read(f"SELECT {columns} FROM ask {where} ORDER BY id", *values)]

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._told():
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one writer at a time: whoever comes second sees what the first has written."""
        with self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have rolled it back already
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite says, in the user's terms."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.DatabaseError as error:
            raise OSError(
                f"label store {self.path}: {error}. What was acknowledged before is stored, what was being written is "
                "not: mend this (a full or read-only disk, another program that holds the file), then do it again."
            ) from error


def as_outcome(answer: Any) -> float | None:
    """Outcome in [0, 1] of an answer in words or numbers; None where it was skipped."""
    if isinstance(answer, str) and answer in WORDS:
        return WORDS[answer]
    try:
        value = math.nan if isinstance(answer, str) else float(answer)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"an answer is one of {', '.join(WORDS)}, or a number from 0 to 1, got {answer!r}.")
    return value


def as_id(value: Any) -> int | str:
    """Name of an item as the store keeps it: a text or a whole number."""
    if isinstance(value, str):
        return str(value)
    try:
        number = operator.index(value)
    except TypeError:
        number = 2**63
    if isinstance(value, bool) or not -(2**63) <= number < 2**63:
        raise ValueError(f"ids of items must be texts or whole numbers of 64 bits to be stored, got {value!r}.")
    return number


def _checked(proposal: Proposal) -> Proposal:
    first, second = as_id(proposal.first), as_id(proposal.second)
    if first == second:
        raise ValueError(f"a pair has two different items, got {first!r} twice.")
    prediction = None if proposal.prediction is None else float(proposal.prediction)
    return Proposal(first, second, proposal.criterion, prediction)


def _same(before: Label, outcome: float | None) -> Label:
    if before.outcome == outcome:
        return before
    said, now = ("skip" if one is None else one for one in (before.outcome, outcome))
    raise LabelConflictError(
        f"{before.annotator!r} answered ask {before.ask} by {said} at {before.answered} and now says {now}: the first "
        "answer stands. Propose the pair again to ask it again."
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
