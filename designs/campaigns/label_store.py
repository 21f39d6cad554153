"""The durable store of labels: one SQLite file, one transaction a label.

Labels are expensive. A label is acknowledged when `record` returns; from then on it is in the file, once, whatever
happens to the process or to the power. This module, `labels` and `store_file` import the standard library only, so
that opening a store is instant.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from tercet.designs.campaigns import store_file
from tercet.designs.campaigns.labels import (
    Facts,
    Label,
    Proposal,
    Query,
    Round,
    as_outcome,
    check_proposal,
    unchanged,
)

LABELS = "SELECT ask, annotator, outcome, answered FROM label"


class LabelStore:
    """Open the store of labels at `path`, or create it.

    Several processes may write at once. While one has it open, the files beside it that end in -wal and -shm are part
    of the store: copy or move it when nobody has it open.

    Parameters
    ----------
    path : of the SQLite file
    create : make the file where there is none (False: that is an error)
    wait : seconds to wait for another process that is writing, before an error

    Raises
    ------
    ValueError
        The file is not a label store, or one of a newer version; it is left unchanged.
    FileNotFoundError
        There is no such file (`create=False`), or no such folder.
    OSError
        Anything the disk refuses, on opening and later: full, not writable, damaged. What was acknowledged is stored.

    Examples
    --------
    >>> import os, tempfile
    >>> from tercet.designs.campaigns import LabelStore, Proposal
    >>> folder = tempfile.TemporaryDirectory()
    >>> with LabelStore(os.path.join(folder.name, "labels.db")) as store:
    ...     store.propose(1, [Proposal("tea", "coffee", "random"), Proposal("tea", "milk", "random")], "random")
    ...     query = store.pending("Ann")[0]
    ...     store.record(query.id, "first", "Ann").outcome, len(store.pending("Ann"))
    True
    (1.0, 1)
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = True, wait: float = 30.0) -> None:
        self.path, self.wait = Path(path), wait
        if not self.path.exists():
            if not create or not self.path.parent.is_dir():
                missing = self.path if not create else self.path.parent
                raise FileNotFoundError(f"there is no {'file' if not create else 'folder'} {missing}.")
            with self._errors():
                store_file.create(self.path)
        store_file.check_header(self.path)
        with self._errors():
            self._connection = store_file.connect(self.path, wait)

    def reopen(self) -> LabelStore:
        """Open the same file once more, as another thread must: SQLite connections belong to one thread."""
        return LabelStore(self.path, create=False, wait=self.wait)

    def propose(self, number: int, proposals: Sequence[Proposal], criterion: str, facts: Facts | None = None) -> bool:
        """Store round `number` with all its queries, or none of it.

        Parameters
        ----------
        number : 1 for the first round, then one more than the last
        proposals : best first
        criterion : of the round
        facts : numbers and texts by name, kept as JSON

        Returns
        -------
        bool
            False where this round is in the store already, for example from another process: its queries stand.
        """
        rows = [(number, *check_proposal(proposal)) for proposal in proposals]
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

    def record(self, query: int, answer: object, annotator: str) -> Label:
        """Store one answer; once this returns, it is acknowledged.

        The same answer given again by the same annotator, as after a retry, is one label.

        Parameters
        ----------
        query : number of the query
        answer : "first", "second", "tie", "skip", or a number in [0, 1] (1: the first is preferred)
        annotator : name of the person who answers

        Raises
        ------
        LabelConflictError
            This annotator has answered this query differently before; the first answer stands.
        """
        outcome = as_outcome(answer)
        with self._transaction() as connection:
            if connection.execute("SELECT 1 FROM ask WHERE id = ?", (query,)).fetchone() is None:
                raise ValueError(f"there is no query {query} in {self.path}.")
            before = connection.execute(f"{LABELS} WHERE ask = ? AND annotator = ?", (query, annotator)).fetchone()
            if before is not None:
                return unchanged(Label(*before), outcome)
            label = Label(query, annotator, outcome, _now())
            connection.execute("INSERT INTO label (ask, annotator, outcome, answered) VALUES (?, ?, ?, ?)", label)
        return label

    def pending(self, annotator: str) -> list[Query]:
        """Queries that nobody has answered and this annotator has not skipped, the oldest first."""
        return self._queries(
            "WHERE NOT EXISTS (SELECT 1 FROM label WHERE label.ask = ask.id "
            "AND (label.outcome IS NOT NULL OR label.annotator = ?))",
            annotator,
        )

    def queries(self) -> list[Query]:
        """Every pair that was ever proposed, in order."""
        return self._queries("")

    def labels(self) -> list[Label]:
        """Every answer, skips included, in the order in which they were stored."""
        return [Label(*row) for row in self._read(f"{LABELS} ORDER BY id")]

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

    def _queries(self, where: str, *values: str) -> list[Query]:
        columns = "id, round, first, second, criterion, prediction"
        return [Query(*row) for row in self._read(f"SELECT {columns} FROM ask {where} ORDER BY id", *values)]

    def _read(self, statement: str, *values: str) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one writer at a time: the second writer sees what the first has written."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk may have rolled it back already
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise errors of SQLite as an OSError that says what is stored and what to do."""
        try:
            yield
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.DatabaseError as error:
            raise OSError(
                f"label store {self.path}: {error}. Every acknowledged label is stored; what was being written is not. "
                "Solve this (a full or read-only disk, another program that has locked the file), then try again."
            ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
