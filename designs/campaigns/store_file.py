"""The file of a label store: its tables, how it is created, and how it is told from other files."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from pathlib import Path

VERSION = 1
APPLICATION_ID = 0x74657263  # "terc", bytes 68 to 71 of the file

SCHEMA = f"""
BEGIN;
CREATE TABLE round (
    number INTEGER PRIMARY KEY,
    proposed TEXT NOT NULL,   -- UTC
    criterion TEXT NOT NULL,
    facts TEXT NOT NULL       -- JSON: what was known when this round was proposed
);
CREATE TABLE ask (            -- a query
    id INTEGER PRIMARY KEY,
    round INTEGER NOT NULL REFERENCES round (number),
    first NOT NULL CHECK (typeof(first) IN ('integer', 'text')),
    second NOT NULL CHECK (typeof(second) IN ('integer', 'text') AND second IS NOT first),
    criterion TEXT NOT NULL,  -- of this query: that of the round, or random
    prediction REAL           -- probability that the first is preferred, as predicted before any answer
);
CREATE TABLE label (
    id INTEGER PRIMARY KEY,
    ask INTEGER NOT NULL REFERENCES ask (id),
    annotator TEXT NOT NULL,
    outcome REAL CHECK (outcome BETWEEN 0 AND 1),  -- 1: the first is preferred, 0.5: a tie, NULL: skipped
    answered TEXT NOT NULL,   -- UTC
    UNIQUE (ask, annotator)
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""


def connect(path: Path, wait: float) -> sqlite3.Connection:
    """Open a store that exists, with `wait` seconds for a lock; every commit is on disk when it returns."""
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(address, uri=True, timeout=wait, isolation_level=None)
    try:
        for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {setting}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(path: Path) -> None:
    """Make an empty store under another name and link it to this one: never half a store, never another replaced."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        draft = Path(folder) / "draft"
        with contextlib.closing(sqlite3.connect(draft, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
        with contextlib.suppress(FileExistsError):  # another process was first: its store will do
            os.link(draft, path)
    if os.name == "posix":  # the name, too, must survive a power failure
        handle = os.open(path.parent, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def check_header(path: Path) -> None:
    """Raise where this is not a label store; the bytes are read here, as SQLite leaves files beside what it opens."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a label store; name a file in it.")
    with open(path, "rb") as stream:
        header = stream.read(100)
    if not header.startswith(b"SQLite format 3\0") or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        kind = "an SQLite database of another kind" if header.startswith(b"SQLite") else "a file of another kind"
        raise ValueError(
            f"{path} is not a label store but {kind if header else 'an empty file'}; it was left unchanged: name "
            "another file, or one that does not exist yet."
        )
    version = int.from_bytes(header[60:64], "big")
    if version > VERSION:
        raise ValueError(
            f"{path} was written by a newer tercet (version {version} of the store; this one reads up to {VERSION}); "
            "it was left unchanged: upgrade tercet."
        )
