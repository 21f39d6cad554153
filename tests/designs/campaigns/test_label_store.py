"""The label store with killed processes, two writers, full disks, other files: no label is lost or duplicated."""

from __future__ import annotations

import ast
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.designs.campaigns import LabelConflictError, LabelStore, Proposal, Query, label_store, labels, store_file
from tercet.designs.campaigns.labels import as_outcome
from tercet.designs.campaigns.store_file import VERSION

FOUR = [Proposal("a", "b", "greedy V", 0.7), Proposal("c", "d", "random"), Proposal(1, 2, "x"), Proposal("1", 2, "x")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    with LabelStore(tmp_path / "labels.db") as opened:
        assert opened.propose(1, FOUR, "greedy V", {"labels": 0, "note": "héllo"})
        yield opened


def run(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def start(code: str, *arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_only_the_standard_library_is_imported() -> None:
    """By the modules themselves, and by what is imported with them, apart from the lazy loader."""
    for module in (label_store, labels, store_file):
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name.partition(".")[0] for name in names} - {"tercet"} <= sys.stdlib_module_names
    code = "import sys; from tercet.designs.campaigns import LabelStore; LabelStore; print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in run(code).stdout.split()}
    assert "tercet" in loaded
    assert loaded.isdisjoint({"numpy", "jax", "jaxtyping", "scipy", "pandas", "numpyro", "tqdm", "matplotlib"})


def test_what_goes_in_comes_out_also_after_closing(tmp_path: Path, store: LabelStore) -> None:
    before = datetime.now(UTC)
    answers = ["first", "skip", np.float64(0.25), 1]
    for query, answer in zip(store.queries(), answers, strict=True):
        store.record(query.id, answer, "Zoë")
    store.close()
    with LabelStore(tmp_path / "labels.db", create=False) as again:
        assert again.queries() == [
            Query(1, 1, "a", "b", "greedy V", 0.7),
            Query(2, 1, "c", "d", "random", None),
            Query(3, 1, 1, 2, "x", None),
            Query(4, 1, "1", 2, "x", None),  # a text that looks like a number stays a text
        ]
        assert [(label.query, label.annotator, label.outcome) for label in again.labels()] == [
            (1, "Zoë", 1.0), (2, "Zoë", None), (3, "Zoë", 0.25), (4, "Zoë", 1.0),
        ]  # fmt: skip
        (batch,) = again.rounds()
        assert (batch.number, batch.criterion, batch.facts) == (1, "greedy V", {"labels": 0, "note": "héllo"})
        times = [datetime.fromisoformat(text) for text in (batch.proposed, *(a.answered for a in again.labels()))]
        assert times == sorted(times)
        assert all(moment.utcoffset().total_seconds() == 0 for moment in times)  # type: ignore[union-attr]
        assert abs((times[-1] - before).total_seconds()) < 60
        assert again.count() == 3


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [("first", 1.0), ("second", 0.0), ("tie", 0.5), ("skip", None), (0, 0.0), (True, 1.0), (np.float32(0.5), 0.5)],
)
def test_answers_in_words_and_numbers(answer: Any, outcome: float | None) -> None:
    assert as_outcome(answer) == outcome


@pytest.mark.parametrize("answer", ["left", "0.5", "", None, -0.1, 1.1, float("nan"), [1], object()])
def test_invalid_answers(store: LabelStore, answer: Any) -> None:
    with pytest.raises(ValueError, match="an answer is one of first, tie, second, skip, or a number from 0 to 1"):
        store.record(1, answer, "Ann")
    assert store.labels() == []


def test_retry_is_one_label_and_a_change_of_mind_is_refused(store: LabelStore) -> None:
    first = store.record(1, "first", "Ann")
    assert store.record(1, 1.0, "Ann") == first
    skipped = store.record(2, "skip", "Ann")
    assert store.record(2, "skip", "Ann") == skipped
    with pytest.raises(
        LabelConflictError, match=r"'Ann' answered query 1 with 1\.0 at .* now with 0\.0: the first answer"
    ):
        store.record(1, "second", "Ann")
    with pytest.raises(LabelConflictError, match=r"with skip at .* now with"):
        store.record(2, "tie", "Ann")
    assert store.labels() == [first, skipped]
    store.record(1, "second", "Bob")  # another person may see it otherwise
    assert store.count() == 2
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):  # nor can another program double a label
        store._connection.execute("INSERT INTO label (ask, annotator, answered) VALUES (1, 'Ann', 'now')")


def test_pending_is_what_nobody_answered_and_oneself_did_not_skip(store: LabelStore) -> None:
    def left(annotator: str) -> list[int]:
        return [query.id for query in store.pending(annotator)]

    assert left("Ann") == [1, 2, 3, 4]
    store.record(1, "tie", "Ann")
    store.record(2, "skip", "Ann")
    assert left("Ann") == [3, 4]
    assert left("Bob") == [2, 3, 4]
    store.record(2, "first", "Bob")
    assert left("Bob") == left("Cyd") == [3, 4]


def test_rounds_come_one_after_the_other_and_once(store: LabelStore) -> None:
    assert not store.propose(1, [Proposal("x", "y", "random")], "random")
    with pytest.raises(ValueError, match="round 3 was proposed after round 1; the next one is 2"):
        store.propose(3, FOUR, "random")
    assert store.propose(2, [], "random")
    assert len(store.queries()) == 4
    assert [batch.number for batch in store.rounds()] == [1, 2]


@pytest.mark.parametrize("bad", [1.5, None, True, 2**63, ("a", "b"), b"a"])
def test_ids_that_cannot_be_stored(store: LabelStore, bad: Any) -> None:
    with pytest.raises(ValueError, match="ids of items must be texts or whole numbers"):
        store.propose(2, [Proposal("fine", "pair", "random"), Proposal("a", bad, "random")], "random")
    assert len(store.queries()) == 4
    assert len(store.rounds()) == 1


def test_a_round_is_stored_whole_or_not_at_all(store: LabelStore) -> None:
    with pytest.raises(ValueError, match="'a' twice"):
        store.propose(2, [Proposal("b", "c", "x"), Proposal("a", "a", "x")], "x")
    store._connection.execute(
        "CREATE TRIGGER t BEFORE INSERT ON ask WHEN new.first = 9 BEGIN SELECT RAISE(FAIL, 'no'); END"
    )
    with pytest.raises(OSError, match="no"):
        store.propose(2, [Proposal(7, 8, "x"), Proposal(9, 8, "x")], "x")
    assert (len(store.queries()), len(store.rounds())) == (4, 1)
    assert store.propose(2, [Proposal(np.int64(7), np.int32(8), "x")], "x")
    assert store.queries()[-1][2:4] == (7, 8)


def test_unknown_query_is_refused(store: LabelStore) -> None:
    with pytest.raises(ValueError, match="there is no query 99"):
        store.record(99, "tie", "Ann")


def test_every_commit_waits_for_the_disk(store: LabelStore) -> None:
    def setting(name: str) -> Any:
        return store._connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert setting("journal_mode") == "wal"
    assert setting("synchronous") == 2  # FULL
    assert setting("user_version") == VERSION


# The child acknowledges each label on its standard output, once `record` has returned.
LABELLER = """
import sys
from tercet.designs.campaigns import LabelStore, Proposal
print("start", flush=True)
with LabelStore(sys.argv[1]) as store:
    while True:
        for query in store.pending("Ann"):
            store.record(query.id, query.id % 3 / 2, "Ann")
            print(query.id, flush=True)
        number = len(store.rounds()) + 1
        store.propose(number, [Proposal(f"item {k}", k, "random") for k in range(8)], "random")
"""


def label_until_killed(path: Path, delay: float) -> list[int]:
    """Queries that a labeller has acknowledged before SIGKILL, `delay` seconds after it starts to open the store."""
    child = start(LABELLER, path)
    assert child.stdout is not None
    assert child.stdout.readline() == "start\n"
    time.sleep(delay)
    child.kill()
    said = child.communicate()[0]
    assert child.returncode == -9
    return [int(line) for line in said.splitlines(keepends=True) if line.endswith("\n")]


def survive(path: Path, delays: list[float]) -> int:
    """Kill labellers of one store repeatedly; number of acknowledged labels."""
    acknowledged: list[int] = []
    for kills, delay in enumerate(delays, start=1):
        acknowledged += label_until_killed(path, delay)
        with LabelStore(path) as store:
            times = Counter(label.query for label in store.labels())
            outcomes = {label.query: label.outcome for label in store.labels()}
            sizes = Counter(query.round for query in store.queries())
        assert set(times.values()) <= {1}
        assert set(acknowledged) <= set(times)
        assert len(times) - len(acknowledged) <= kills  # at most the one that was under way
        assert outcomes == {query: query % 3 / 2 for query in times}
        assert set(sizes.values()) <= {8}
    assert len(acknowledged) == len(set(acknowledged))  # no resumed campaign asks again
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return len(acknowledged)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_hundred_kills_lose_and_double_nothing(tmp_path: Path, seed: int) -> None:
    """Ten stores, the labeller of each killed ten times: while it creates, opens or writes the store; two at a time."""
    rng = random.Random(seed)
    delays = [[rng.uniform(0.0, 0.04) for _ in range(10)] for _ in range(10)]
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda k: survive(tmp_path / f"{k}.db", delays[k]), range(10))
    assert sum(found) > 0


WRITER = """
import sys
from tercet.designs.campaigns import LabelConflictError, LabelStore, Proposal
path, annotator, mine = sys.argv[1], sys.argv[2], float(sys.argv[3])
with LabelStore(path) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    print("proposed", store.propose(1, [Proposal(annotator, k, "random") for k in range(60)], "random"))
    for query in store.queries():
        store.record(query.id, mine, annotator)
        try:
            print("shared", query.id, store.record(query.id, mine, "both").outcome)
        except LabelConflictError:
            print("refused", query.id)
"""


def test_two_writers_at_once(tmp_path: Path) -> None:
    """Both create the store, propose the first round, answer everything, and disagree under a shared name."""
    names = {"Ann": 1.0, "Bob": 0.0}
    line = [sys.executable, "-c", WRITER, str(tmp_path / "labels.db")]
    writers = [
        subprocess.Popen([*line, name, str(mine)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, mine in names.items()
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    said = []
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        said.append(writer.communicate()[0].splitlines())
        assert writer.returncode == 0
    assert sorted(lines[0] for lines in said) == ["proposed False", "proposed True"]
    with LabelStore(tmp_path / "labels.db", create=False) as store:
        queries, labels = store.queries(), store.labels()
    assert len(queries) == 60
    assert len({query.first for query in queries}) == 1
    by = {
        name: {label.query: label.outcome for label in labels if label.annotator == name} for name in (*names, "both")
    }
    assert len(labels) == 180
    assert by["Ann"] == {query.id: 1.0 for query in queries}
    assert by["Bob"] == {query.id: 0.0 for query in queries}
    shared = [line.split() for lines in said for line in lines if line.startswith("shared")]
    assert {int(query): float(outcome) for _, query, outcome in shared} == by["both"]
    assert len(shared) == sum(line.startswith("refused") for lines in said for line in lines) == 60


LIMITED = """
import resource, sys
from tercet.designs.campaigns import LabelStore
with LabelStore(sys.argv[1]) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    for query in store.pending("Ann"):
        try:
            store.record(query.id, "first", "Ann")
        except OSError as error:
            print(error)
            break
        print(query.id)
    try:
        store.propose(2, store.queries(), "random")
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.record(query.id, "first", "Ann")
    print(query.id)
"""


@pytest.mark.skipif(os.name != "posix", reason="RLIMIT_FSIZE")
def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """The operating system refuses to write more: acknowledged labels are stored, and with space work continues."""
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        store.propose(1, [Proposal("item", k, "random") for k in range(500)], "random")
    done = run(LIMITED, path, path.stat().st_size + 100_000)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    errors = [line for line in lines if not line.isdigit()]
    acknowledged = [int(line) for line in lines if line.isdigit()]
    assert len(errors) == 2
    for error in errors:
        assert error.startswith(f"label store {path}: ")
        assert "Every acknowledged label is stored; what was being written is not" in error
    assert 1 < len(acknowledged) < 500
    with LabelStore(path) as store:
        assert [label.query for label in store.labels()] == acknowledged
        assert len(store.rounds()) == 1


def test_full_disk(store: LabelStore, tmp_path: Path) -> None:
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    proposals = [Proposal("x" * 500, k, "random") for k in range(100)]
    with pytest.raises(OSError, match=r"database or disk is full\. Every acknowledged label is stored"):
        store.propose(2, proposals, "random")
    assert (len(store.queries()), len(store.rounds())) == (4, 1)
    store.record(1, "tie", "Ann")  # there is room left on a page
    store._connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert store.propose(2, proposals, "random")
    assert store.count() == 1


def test_damaged_store(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with LabelStore(path) as store:
        store.propose(1, [Proposal("item", k, "random") for k in range(500)], "random")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"label store .*: database disk image is malformed"), LabelStore(path) as store:
        store.record(store.pending("Ann")[-1].id, "tie", "Ann")


def foreign(kind: str, path: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "other database":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE label (ask, annotator, outcome, answered)")
        connection.close()
    else:
        content = {
            "text": b"first,second,outcome\n" * 20,
            "empty": b"",
            "short": b"SQLite format 3\0",
            "noise": os.urandom(300),
        }
        path.write_bytes(content[kind])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "is not a label store but a file of another kind"),
        ("noise", "is not a label store but a file of another kind"),
        ("empty", "is not a label store but an empty file"),
        ("short", "is not a label store but an SQLite database of another kind"),
        ("other database", "is not a label store but an SQLite database of another kind; it was left unchanged"),
        ("folder", "is a folder, not a label store"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    foreign(kind, path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(ValueError, match=message):
        LabelStore(path)
    assert (None if path.is_dir() else path.read_bytes()) == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_store_of_a_newer_version_is_refused_and_left_alone(store: LabelStore, tmp_path: Path) -> None:
    store.record(1, "tie", "Ann")
    store._connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    store.close()
    before = store.path.read_bytes()
    with pytest.raises(ValueError, match=rf"newer tercet \(version {VERSION + 1} .* up to {VERSION}\).*upgrade tercet"):
        LabelStore(store.path)
    assert store.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [store.path]


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*labels\.db"):
        LabelStore(tmp_path / "labels.db", create=False)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        LabelStore(tmp_path / "nowhere" / "labels.db")
    assert list(tmp_path.iterdir()) == []


def test_another_program_holds_the_file(store: LabelStore) -> None:
    with LabelStore(store.path, wait=0.05) as other:
        store._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(OSError, match="database is locked"):
            other.record(1, "tie", "Ann")
        store._connection.execute("COMMIT")
        assert other.record(1, "tie", "Ann").outcome == 0.5


def test_a_store_leaves_one_file_behind(store: LabelStore, tmp_path: Path) -> None:
    store.record(1, "tie", "Ann")
    store.close()
    assert list(tmp_path.iterdir()) == [store.path]
