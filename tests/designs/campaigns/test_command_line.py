"""`tercet-select`: every kind of input and output, the same pairs as in Python, one line for every error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tercet.datasets import simulated_preferences
from tercet.designs import CRITERIA, LabelStore, select_pairs
from tercet.designs.campaigns import Proposal
from tercet.designs.campaigns.command_line import EPILOG, Job, main
from tercet.inference import laplace
from tercet.models import BradleyTerry, Comparisons, Items, project

ROOT = Path(__file__).parents[3]
COLUMNS = ["first", "second", "gain", "difference_mean", "difference_sd", "win_probability"]
PROMPTS, RESPONSES = 8, 5
Run = Callable[..., tuple[int, str, list[str]]]


class Files:
    """A folder with features, names, prompts and labels, and what is in them."""

    def __init__(self, folder: Path, seed: int) -> None:
        data = simulated_preferences(PROMPTS * RESPONSES, 4, 60, key=seed)
        self.folder, self.answers = folder, data.comparisons
        self.names = [f"item,{k}" for k in range(len(data.items))]
        self.items = Items(data.items.features, prompt=np.arange(len(data.items)) // RESPONSES)
        self.labels = pd.DataFrame(
            {"first": self.answers.first, "second": self.answers.second, "outcome": self.answers.outcome}
        )
        np.save(folder / "f.npy", data.items.features)
        self.labels.to_csv(folder / "labels.csv", index=False)

    def expected(self, items: Items | None = None, **settings: Any) -> pd.DataFrame:
        known = self.items if items is None else items
        given: dict[str, Any] = {"exclude": self.answers} | settings
        return select_pairs(known, laplace(BradleyTerry(), known, self.answers), 5, **given).table


@pytest.fixture
def files(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.chdir(tmp_path)
    return Files(tmp_path, seed)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output, lines of the standard error."""

    def call(*words: Any, job: Job | None = None) -> tuple[int, str, list[str]]:
        try:
            code = main([str(word) for word in words], job)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()

    return call


BASIC = ("--features", "f.npy", "--labels", "labels.csv", "--budget", 5)


def command(*words: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "tercet.designs.campaigns.command_line", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_help_is_complete_and_imports_nothing_heavy(run: Run) -> None:
    code, out, error = run("--help")
    assert (code, error) == (0, [])
    for word in ("example:", "--labels labels.csv", "first, second, outcome", "skip", "exit code", ".safetensors"):
        assert word in out
    listed = EPILOG.split("criteria:\n")[1].split(";")[0].replace("(default)", "").replace("\n", " ")
    names = [name.strip() for name in listed.split(",")]
    assert len(names) > 5
    assert set(names) <= set(CRITERIA)
    probe = (
        "import sys\nfrom tercet.designs.campaigns.command_line import main\n"
        "try: main(['--help'])\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stderr
    loaded = {name.partition(".")[0] for name in said.split()}
    assert "tercet" in loaded
    assert loaded.isdisjoint({"numpy", "jax", "pandas", "scipy", "numpyro"})


def test_the_command_is_installed_under_its_name() -> None:
    project_file = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, function = project_file["project"]["scripts"]["tercet-select"].partition(":")
    assert getattr(import_module(module), function) is main


def test_a_real_process(files: Files) -> None:
    """Only pairs on the standard output, messages on the standard error; an error is one line and code 2."""
    done = command(*BASIC)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(done.stdout)), files.expected())
    assert all(line.startswith("tercet-select: ") for line in done.stderr.splitlines())
    failed = command(*BASIC, "--out", "nowhere/next.csv")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == "tercet-select: error: there is no folder nowhere for the output next.csv.\n"


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_outputs(files: Files, run: Run, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    Path(f"next.{suffix}").write_text("what was there before")
    code, out, _ = run(*BASIC, "--out", f"next.{suffix}")
    assert (code, out) == (0, "")
    path = Path(f"next.{suffix}")
    if suffix == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        found = pd.DataFrame(rows)
    else:
        found = pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)
    pd.testing.assert_frame_equal(found, files.expected())
    assert sorted(entry.name for entry in Path().iterdir()) == sorted(["f.npy", "labels.csv", f"next.{suffix}"])


def write_features(kind: str, features: np.ndarray) -> list[str]:
    path = f"g.{kind.partition(' ')[0]}"
    if kind == "npz":
        np.savez(path, features)
    elif kind == "npz by name":
        np.savez(path, a=np.ones(3), b=features)
        return [path, "--name", "b"]
    elif kind == "safetensors":
        pytest.importorskip("safetensors.numpy").save_file({"x": features}, path)
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        pd.DataFrame({"id": range(len(features)), "x": list(features)}).to_parquet(path)
    else:
        cube = features.reshape(PROMPTS, RESPONSES, -1)
        np.save(path, cube.transpose(1, 0, 2) if "turned" in kind else cube)
        return [path, "--axes", "responses, prompts"] if "turned" in kind else [path]
    return [path]


@pytest.mark.parametrize("kind", ["npz", "npz by name", "safetensors", "parquet", "npy", "npy turned"])
def test_features(files: Files, run: Run, kind: str) -> None:
    words = write_features(kind, files.items.features)
    code, out, error = run("--features", *words, *BASIC[2:])
    assert code == 0, error
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(out)), files.expected())


def write_labels(kind: str, files: Files) -> str:
    table = files.labels
    if kind == "words":
        words = {1.0: "first", 0.0: "second"}
        table.assign(outcome=table["outcome"].map(words), more="ignored").to_csv("l.csv", index=False)
        return "l.csv"
    if kind == "store":
        with LabelStore("l.db") as store:
            rows = [Proposal(int(i), int(j), "random") for i, j in files.answers.pairs]
            store.propose(1, rows, "random")
            for query, outcome in zip(store.queries(), table["outcome"], strict=True):
                store.record(query.id, outcome, "Ann")
        return "l.db"
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        table.to_parquet("l.parquet")
        return "l.parquet"
    table.to_json("l.jsonl", orient="records", lines=True)
    return "l.jsonl"


@pytest.mark.parametrize("kind", ["words", "store", "parquet", "jsonl"])
def test_labels(files: Files, run: Run, kind: str) -> None:
    code, out, error = run("--features", "f.npy", "--budget", 5, "--labels", write_labels(kind, files))
    assert code == 0, error
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(out)), files.expected())


@pytest.mark.parametrize("kind", ["csv", "txt", "jsonl"])
def test_names_and_prompts(files: Files, run: Run, kind: str) -> None:
    prompts = [f"prompt {k // RESPONSES}" for k in range(len(files.names))]
    table = pd.DataFrame({"id": files.names, "prompt": prompts})
    if kind == "txt":
        Path("ids.txt").write_text("\n".join(files.names) + "\n")
    elif kind == "csv":
        table.to_csv("ids.csv", index=False)
    else:
        table.to_json("ids.jsonl", orient="records", lines=True)
    named = files.labels.assign(**{c: [files.names[i] for i in files.labels[c]] for c in ("first", "second")})
    named.to_csv("labels.csv", index=False)
    words = ["--ids", f"ids.{kind}"]
    settings: dict[str, Any] = {}
    if kind != "txt":
        words += ["--candidates", "in-prompt", "--target", "in-prompt"]
        settings = {"candidates": "in-prompt", "target": "in-prompt"}
    code, out, error = run(*BASIC, *words)
    assert code == 0, error
    items = Items(files.items.features, files.names, files.items.prompt)
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(out)), files.expected(items, **settings))


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["--criterion", "greedy D"], {"criterion": "greedy D"}),
        (["--candidates", "all", "--key", "3"], {"candidates": "all", "key": 3}),
        (["--candidates", "30", "--key", "7"], {"candidates": 30, "key": 7}),
        (["--candidates", "few.csv"], {"candidates": [[k, 39 - k] for k in range(15)]}),
        (["--target", "few.csv"], {"target": [[k, 39 - k] for k in range(15)]}),
        (["--target", "f.npy"], {}),
    ],
)
def test_options_are_those_of_select_pairs(files: Files, run: Run, words: list[str], settings: dict[str, Any]) -> None:
    pd.DataFrame([[k, 39 - k] for k in range(15)], columns=["first", "second"]).to_csv("few.csv", index=False)
    code, out, error = run(*BASIC, *words)
    assert code == 0, error
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(out)), files.expected(**settings))


def test_components(files: Files, run: Run) -> None:
    code, out, error = run(*BASIC, "--components", 2)
    assert code == 0, error
    expected = files.expected(project(Items(files.items.features), 2))
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(out)), expected)


def test_excluded_and_skipped_pairs_are_not_asked(files: Files, run: Run) -> None:
    """Of ten pairs two are skipped and three excluded: no more than the other five can be chosen."""
    pool = pd.DataFrame([[k, 39 - k] for k in range(10)], columns=["first", "second"])
    pool.to_csv("pool.csv", index=False)
    pool[["second", "first"]].set_axis(["first", "second"], axis=1)[2:4].to_csv("no.csv", index=False)  # turned round
    pool[4:5].to_json("never.jsonl", orient="records", lines=True)
    apart = files.labels[(files.labels["first"] + files.labels["second"]) != 39]
    pd.concat([apart, pool[:2].assign(outcome="skip")]).to_csv("labels.csv", index=False)
    words = ("--candidates", "pool.csv", "--exclude", "no.csv", "--exclude", "never.jsonl")
    code, out, error = run(*BASIC, *words)
    assert code == 0, error
    found = pd.read_csv(StringIO(out))
    assert sorted(found["first"]) == [5, 6, 7, 8, 9]
    code, out, error = run(*BASIC[:-1], 6, *words)
    assert (code, out) == (2, "")
    assert "between 0 and the 5 candidates left, got 6" in error[-1]


def test_what_is_pending_in_a_store_is_not_asked_again(files: Files, run: Run) -> None:
    with LabelStore("l.db") as store:
        rows = [Proposal(0, 1, "x"), Proposal(2, 3, "x"), Proposal(4, 5, "x")]
        store.propose(1, rows, "x")
        store.record(1, "tie", "Ann")
        store.record(2, "skip", "Ann")
    pd.DataFrame([[0, 1], [3, 2], [4, 5], [6, 7]], columns=["first", "second"]).to_csv("pool.csv", index=False)
    code, out, error = run("--features", "f.npy", "--labels", "l.db", "--budget", 1, "--candidates", "pool.csv")
    assert code == 0, error
    found = pd.read_csv(StringIO(out))
    assert found[["first", "second"]].to_numpy().tolist() == [[6, 7]]


@pytest.mark.parametrize("labels", [None, "first,second,outcome\n", "first,second,outcome\n0,1,skip\n"])
def test_without_labels_a_random_batch(files: Files, run: Run, labels: str | None) -> None:
    words = ["--features", "f.npy", "--budget", 8]
    if labels is not None:
        Path("none.csv").write_text(labels)
        words += ["--labels", "none.csv"]
    code, out, error = run(*words)
    assert code == 0, error
    assert "tercet-select: no labels yet: a random batch" in error
    found = pd.read_csv(StringIO(out))
    assert list(found.columns) == COLUMNS
    pairs = {frozenset(pair) for pair in found[["first", "second"]].to_numpy().tolist()}
    assert len(pairs) == 8
    assert labels is None or frozenset((0, 1)) not in pairs
    assert found["gain"].isna().all()
    assert run(*words)[1] == out
    assert run(*words, "--key", 1)[1] != out
    assert run("--features", "f.npy", "--budget", 781)[0] == 2


@pytest.mark.parametrize("labels", [[], ["--labels", "labels.csv"]])
def test_a_budget_of_zero_is_an_empty_table(files: Files, run: Run, labels: list[str]) -> None:
    code, out, error = run("--features", "f.npy", "--budget", 0, *labels)
    assert code == 0, error
    assert out == ",".join(COLUMNS) + "\n"


def test_quiet(files: Files, run: Run) -> None:
    assert run(*BASIC, "--quiet")[2] == []
    assert len(run(*BASIC)[2]) > 2


LABELS = "first,second,outcome\n0,1,1\n"
MISTAKES: list[tuple[tuple[Any, ...], str, str]] = [
    (("--budget", "many"), "", "invalid int value: 'many'"),
    (("--colour", "red"), "", "unrecognized arguments: --colour red"),
    (("--budget", "-1"), "", "between 0 and the"),
    (("--budget", "781"), "", "between 0 and the"),
    (("--features", "absent.npy"), "", "there is no file absent.npy"),
    (("--features", "labels.csv"), LABELS, "labels.csv is none of .npy, .safetensors, .parquet"),
    (("--features", "x.npy"), "", "x.npy is no .npy file"),
    (("--features", "x.npz"), "", "x.npz is not an .npz file"),
    (("--features", "two.npz"), "", "two.npz holds the arrays a, b; choose one by --name"),
    (("--features", "two.npz", "--name", "c"), "", "two.npz holds the arrays a, b"),
    (("--features", "nan.npy"), "", "NaN or infinite"),
    (("--labels", "absent.csv"), "", "there is no file absent.csv"),
    (("--labels", "labels.txt"), "", "labels are a table (.csv, .jsonl, .parquet) or a store"),
    (("--labels", "absent.db"), "", "there is no file absent.db"),
    (("--labels", "x.db"), "", "x.db is not a label store"),
    ((), "a,b\n1,2\n", "labels.csv needs the column(s) first, second, outcome; it has a, b"),
    ((), "", "labels.csv cannot be read"),
    ((), LABELS + "0,40,1\n", "labels.csv, row 2: there is no item '40' among the 40 items, which are named '0'"),
    ((), LABELS + "0,,1\n", "row 2: there is no item ''"),
    ((), LABELS + "3,3,1\n", "row 2: '3' is compared with itself"),
    (
        (),
        LABELS + "3,4,2\n",
        "row 2: the outcome must be a number from 0 to 1 or one of first, tie, second, skip, got '2'",
    ),
    ((), LABELS + "3,4,\n", "row 2: the outcome must be"),
    ((), LABELS + "3,4,nan\n", "row 2: the outcome must be"),
    (("--ids", "short.txt"), LABELS, "ids has 2 name(s) for 40 row(s)"),
    (("--criterion", "best"), LABELS, "criterion must be one of"),
    (("--candidates", "nearest"), LABELS, "--candidates must be random, all, in-prompt, cross-prompt, a number"),
    (("--candidates", "in-prompt"), LABELS, "needs Items(..., prompt=...)"),
    (("--target", "in-prompt"), LABELS, "needs Items(..., prompt=...)"),
    (("--target", "everything"), LABELS, "--target must be all, in-prompt, a table of pairs"),
    (("--exclude", "absent.csv"), LABELS, "there is no file absent.csv"),
    (("--components", "9"), LABELS, "components"),
    (("--out", "next.txt"), LABELS, "the output must end in .csv, .jsonl, .parquet"),
    (("--out", "nowhere/next.csv"), LABELS, "there is no folder nowhere"),
    (("--out", "labels.csv"), LABELS, "the output labels.csv is also an input"),
    (("--out", "folder.csv"), LABELS, "folder.csv"),
]


@pytest.mark.parametrize(("words", "labels", "message"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_line_and_nothing_is_written(
    files: Files, run: Run, words: tuple[Any, ...], labels: str, message: str
) -> None:
    Path("labels.csv").write_text(labels)
    for name in ("x.npy", "x.npz", "x.db"):
        Path(name).write_text("nothing that can be read")
    np.savez("two.npz", a=np.eye(3), b=np.eye(3))
    np.save("nan.npy", np.where(np.eye(40), np.nan, 1.0))
    Path("short.txt").write_text("a\nb\n")
    Path("folder.csv").mkdir()
    before = {path: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    given = ["--features", "f.npy", "--budget", 5, "--quiet"]
    given += [] if labels == "" and words else ["--labels", "labels.csv"]
    given += [] if "--out" in words else ["--out", "next.csv"]
    code, out, error = run(*given, *words)
    assert (code, out) == (2, "")
    assert len(error) == 1
    assert error[0].startswith("tercet-select: error: ")
    assert message in error[0]
    assert {path: path.read_bytes() for path in Path().iterdir() if path.is_file()} == before


def test_what_was_written_before_survives_a_failing_write(
    files: Files, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("next.csv").write_text("yesterday's")

    def full(self: Any, path: Path, **settings: Any) -> None:
        Path(path).write_text("first,sec")
        raise OSError("No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    code, _, error = run(*BASIC, "--out", "next.csv", "--quiet")
    assert (code, error) == (2, ["tercet-select: error: No space left on device"])
    assert Path("next.csv").read_text() == "yesterday's"
    assert sorted(entry.name for entry in Path().iterdir()) == ["f.npy", "labels.csv", "next.csv"]


def test_warnings_are_one_line(files: Files, run: Run) -> None:
    """A warning of several lines becomes one; warnings for developers are not shown."""

    def warn(*_: Any) -> None:
        warnings.warn("the evidence\nis flat", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    assert run(*BASIC, job=warn) == (0, "", ["tercet-select: warning: the evidence is flat"])


def test_interruption(files: Files, run: Run) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    assert run(*BASIC, job=stop) == (130, "", ["tercet-select: interrupted; nothing was written."])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="shell pipelines")
def test_a_reader_that_leaves_early_is_no_error(files: Files) -> None:
    line = f"'{sys.executable}' -m tercet.designs.campaigns.command_line --features f.npy --budget 700 --quiet | true"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_its_output_answered_becomes_its_input(files: Files, run: Run) -> None:
    assert run(*BASIC, "--out", "next.csv", "--quiet")[0] == 0
    answered = pd.read_csv("next.csv").assign(outcome=0.5)
    pd.concat([files.labels, answered[["first", "second", "outcome"]]]).to_csv("labels.csv", index=False)
    code, out, error = run(*BASIC)
    assert code == 0, error
    again = pd.read_csv(StringIO(out))
    known = files.answers.extend(Comparisons(answered["first"], answered["second"], answered["outcome"]))
    expected = select_pairs(files.items, laplace(BradleyTerry(), files.items, known), 5, exclude=known)
    np.testing.assert_array_equal(again[["first", "second"]], expected.chosen)
