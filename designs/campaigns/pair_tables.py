"""Tables of pairs, labels and names in files: errors name the row, and a table is written completely or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tercet.designs.campaigns.label_store import LabelStore
from tercet.designs.campaigns.labels import OUTCOMES, Query, as_outcome
from tercet.models.preferences.comparisons import Comparisons

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".jsonl", ".parquet")
STORES = (".db", ".sqlite", ".sqlite3")


class Answers(NamedTuple):
    """The answers so far.

    Attributes
    ----------
    comparisons : the answers, skips left out; None where there is none
    asked : int array [k, 2], every pair that was asked or is pending
    """

    comparisons: Comparisons | None
    asked: np.ndarray


def read_table(path: Path) -> pd.DataFrame:
    """Read a .csv, .jsonl or .parquet file; cells of csv files stay texts."""
    import pandas as pd

    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is not one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True, dtype=False, convert_dates=False)
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError("parquet files need an extra: pip install 'tercet[embeddings]'.") from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix}: {error}") from error


def read_names(path: Path) -> tuple[list[str], list[str] | None]:
    """Names of the items, and their prompts where the file has that column, as texts."""
    if path.suffix == ".txt":
        return path.read_text(encoding="utf-8-sig").splitlines(), None
    table = _with_columns(path, read_table(path), ["id"])
    prompts = table["prompt"].astype(str).tolist() if "prompt" in table.columns else None
    return table["id"].astype(str).tolist(), prompts


def read_pairs(path: Path, positions: Mapping[str, int]) -> np.ndarray:
    """Positions [m, 2] of the items in the columns first and second."""
    return _pairs(path, _with_columns(path, read_table(path), ["first", "second"]), positions)


def read_answers(path: Path, positions: Mapping[str, int]) -> Answers:
    """Read labels from a table or a label store; pairs that were skipped, or are pending in a store, count as asked."""
    if path.suffix in STORES:
        return _from_store(path, positions)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"labels are a table ({', '.join(SUFFIXES)}) or a store ({', '.join(STORES)}), got {path}.")
    table = _with_columns(path, read_table(path), ["first", "second", "outcome"])
    pairs = _pairs(path, table, positions)
    outcomes = [_outcome(path, row, value) for row, value in enumerate(table["outcome"].tolist(), start=1)]
    return _answers(pairs, outcomes, pairs)


def positions_of(names: tuple[Hashable, ...]) -> dict[str, int]:
    """Position of each item by its name, as files write it."""
    return {str(name): position for position, name in enumerate(names)}


def check_output(path: Path, inputs: list[Path]) -> None:
    """Raise, before any work is done, where `write_table` would fail or would overwrite an input."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"the output must end in {', '.join(SUFFIXES)}, got {path}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for the output {path.name}.")
    if any(path.exists() and source.exists() and path.samefile(source) for source in inputs):
        raise ValueError(f"the output {path} is also an input; name another file.")


def write_table(table: pd.DataFrame, path: Path | None) -> None:
    """Write to a file in the format of its suffix, completely or not at all; None: csv to the standard output."""
    if path is None:
        sys.stdout.write(table.to_csv(index=False))
        sys.stdout.flush()
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        if path.suffix == ".csv":
            table.to_csv(draft, index=False)
        elif path.suffix == ".jsonl":
            table.to_json(draft, orient="records", lines=True, double_precision=15, force_ascii=False)
        else:
            table.to_parquet(draft, index=False)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _with_columns(path: Path, table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    missing = [name for name in names if name not in table.columns]
    if missing and len(table.columns):  # an empty .jsonl file has no columns at all
        raise ValueError(f"{path} needs the column(s) {', '.join(names)}; it has {', '.join(map(str, table.columns))}.")
    return table.reindex(columns=[*table.columns, *missing])


def _pairs(path: Path, table: pd.DataFrame, positions: Mapping[str, int]) -> np.ndarray:
    columns = [[str(name) for name in table[column].tolist()] for column in ("first", "second")]
    for row, (first, second) in enumerate(zip(*columns, strict=True), start=1):
        for name in (first, second):
            if name not in positions:
                raise ValueError(
                    f"{path}, row {row}: there is no item {name!r} among the {len(positions)} items, which are named "
                    f"{next(iter(positions))!r} and so on."
                )
        if first == second:
            raise ValueError(f"{path}, row {row}: {first!r} is compared with itself.")
    return np.array([[positions[name] for name in column] for column in columns], dtype=np.int64).reshape(2, -1).T


def _outcome(path: Path, row: int, value: object) -> float | None:
    """Outcome of a cell: a word, or a number, which is a text in csv."""
    try:
        return as_outcome(value if not isinstance(value, str) or value in OUTCOMES else float(value))
    except ValueError:
        allowed = f"a number from 0 to 1 or one of {', '.join(OUTCOMES)}"
        raise ValueError(f"{path}, row {row}: the outcome must be {allowed}, got {value!r}.") from None


def _from_store(path: Path, positions: Mapping[str, int]) -> Answers:
    import pandas as pd

    with LabelStore(path, create=False) as store:
        queries, labels = store.queries(), store.labels()
    pairs = _pairs(path, pd.DataFrame(queries, columns=list(Query._fields)), positions)
    row = {query.id: k for k, query in enumerate(queries)}
    return _answers(pairs[[row[label.query] for label in labels]], [label.outcome for label in labels], pairs)


def _answers(pairs: np.ndarray, outcomes: list[float | None], asked: np.ndarray) -> Answers:
    given = np.array([outcome is not None for outcome in outcomes], dtype=bool)
    if not given.any():
        return Answers(None, asked)
    kept = np.array([outcome for outcome in outcomes if outcome is not None])
    return Answers(Comparisons(pairs[given, 0], pairs[given, 1], kept), asked)
