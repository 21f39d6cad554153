"""The annotation widget on the kernel's side: which messages count, what is stored, what the page is sent."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tercet.designs import AnnotationLoop, LabelStore, annotation_widget
from tercet.designs.campaigns import Proposal, pair_widget
from tercet.designs.campaigns.pair_widget import CHOOSING, GUARD, PairWidget
from tercet.inference import laplace
from tercet.models import BradleyTerry, Items, LinearHead

Opener = Callable[..., AnnotationLoop]
WIDGET = Path(pair_widget.__file__)


@pytest.fixture
def open_loop(tmp_path: Path, rng: np.random.Generator, seed: int) -> Iterator[Opener]:
    """A campaign in batches of four on one store; each call reopens it, as a restarted kernel would."""
    items = Items(rng.standard_normal((12, 3)), ids=[f"item {k}" for k in range(12)])
    opened = []

    def opener(wait: float = 30.0, **settings: Any) -> AnnotationLoop:
        opened.append(LabelStore(tmp_path / "labels.db", wait=wait))
        given: dict[str, Any] = {"model": BradleyTerry(LinearHead(1.0)), "batch": 4, "candidates": "all", "key": seed}
        return AnnotationLoop(items, opened[-1], **given | settings)

    yield opener
    for store in opened:
        store.close()


def send(widget: PairWidget, message: Any) -> None:
    """Deliver a message as the page sends it."""
    widget._handle_msg({"content": {"data": {"method": "custom", "content": message}}, "buffers": []})


def press(widget: PairWidget, answer: str) -> dict[str, Any]:
    send(widget, {"query": widget.view["query"], "answer": answer})
    return widget.view


def views(widget: PairWidget) -> list[dict[str, Any]]:
    """Every view from now on."""
    seen: list[dict[str, Any]] = []
    widget.observe(lambda change: seen.append(change["new"]), "view")
    return seen


def outcomes(loop: AnnotationLoop) -> list[float | None]:
    return [label.outcome for label in loop.store.labels()]


def test_a_campaign_from_the_first_pair_to_the_last(open_loop: Opener) -> None:
    """Every answer is in the store before the next pair is shown; between batches the page shows that it is busy."""
    loop = open_loop()
    texts = {f"item {k}": f"<b>{k}</b>\n  as it is" for k in range(11)}
    widget = annotation_widget(loop, 6, "Ann", texts, "Which is politer?")
    seen = views(widget)
    stored: list[int] = []
    widget.observe(lambda change: stored.append(len(loop.store.labels())), "view")
    names = []
    for answer in ("first", "tie", "skip", "second", "first", "second", "tie"):
        query = loop.store.pending("Ann")[0]
        names += [query.first, query.second]
        shown = widget.view
        assert (shown["state"], shown["query"], shown["question"]) == ("asking", query.id, "Which is politer?")
        assert (shown["left"], shown["right"]) == tuple(texts.get(str(n), str(n)) for n in (query.first, query.second))
        press(widget, answer)
    assert outcomes(loop) == [1.0, 0.5, None, 0.0, 1.0, 0.0, 0.5]
    assert {label.annotator for label in loop.store.labels()} == {"Ann"}
    assert [batch.facts["labels"] for batch in loop.store.rounds()] == [0, 3]
    assert [view["state"] for view in seen] == ["asking"] * 3 + ["busy"] + ["asking"] * 3 + ["done"]
    assert stored == [1, 2, 3, 4, 4, 5, 6, 7]
    assert [view["answered"] for view in seen] == [1, 2, 2, 3, 3, 4, 5, 6]
    assert seen[3]["message"] == CHOOSING
    assert widget.view["message"] == "Done: the store holds 6 answers."
    assert [view["revision"] for view in seen] == list(range(seen[0]["revision"], seen[0]["revision"] + len(seen)))


def test_it_asks_what_run_asks(open_loop: Opener, tmp_path: Path) -> None:
    loop = open_loop()
    widget = annotation_widget(loop, 8)
    shown = []
    while widget.view["state"] == "asking":
        shown.append((widget.view["left"], widget.view["right"]))
        press(widget, "first")
    asked: list[Any] = []

    def first(*pair: Any) -> str:
        asked.append(pair)
        return "first"

    with LabelStore(tmp_path / "other.db") as other:
        AnnotationLoop(loop.items, other, loop.model, batch=4, candidates="all", key=loop.key).run(
            first, 8, progress=False
        )
    assert shown == asked


def test_late_and_invalid_messages_are_ignored(open_loop: Opener) -> None:
    loop = open_loop()
    widget = annotation_widget(loop, 8)
    query = widget.view["query"]
    press(widget, "first")
    before, messages = widget.view, [{"query": query, "answer": "second"}, {"query": query, "answer": "first"}]
    messages += [{"query": query + 1, "answer": answer} for answer in ("quit", "retry", "", None, 0.5, ["first"])]
    messages += [{"answer": "first"}, {"answer": "retry"}, {"query": None, "answer": "first"}, {"query": "2"}, {}]
    for message in [*messages, "first", None, 3, []]:
        send(widget, message)
    assert widget.view == before
    assert outcomes(loop) == [1.0]


def test_answers_during_a_fit_and_after_the_end_are_ignored(open_loop: Opener) -> None:
    hands: list[threading.Thread] = []

    def slow(*arguments: Any) -> Any:
        assert widget.view["state"] == "busy"
        hands.append(threading.Thread(target=send, args=(widget, {"query": last, "answer": "second"})))
        hands[0].start()
        return laplace(*arguments)

    loop = open_loop(inference=slow)
    widget = annotation_widget(loop, 5)
    for _ in range(3):
        press(widget, "first")
    last = widget.view["query"]
    press(widget, "tie")
    hands[0].join(60)
    assert outcomes(loop) == [1.0, 1.0, 1.0, 0.5]
    last = widget.view["query"]
    assert press(widget, "first")["state"] == "done"
    send(widget, {"query": last, "answer": "second"})
    send(widget, {"query": None, "answer": "second"})
    assert outcomes(loop) == [1.0, 1.0, 1.0, 0.5, 1.0]


def test_messages_may_come_on_another_thread(open_loop: Opener) -> None:
    """As from JupyterLab, which gives widgets a thread of their own where the kernel has one."""
    loop = open_loop()
    widget = annotation_widget(loop, 6)
    while widget.view["state"] == "asking":
        hand = threading.Thread(target=press, args=(widget, "first"))
        hand.start()
        hand.join(60)
        assert not widget.view["warning"]
    assert outcomes(loop) == [1.0] * 6


def test_after_a_restart_the_same_cell_goes_on(open_loop: Opener) -> None:
    first = open_loop()
    widget = annotation_widget(first, 6)
    for answer in ("first", "skip", "tie"):
        press(widget, answer)
    shown = {name: widget.view[name] for name in ("query", "left", "right", "answered")}
    first.store.close()
    again = annotation_widget(open_loop(), 6)
    assert {name: again.view[name] for name in shown} == shown
    while again.view["state"] == "asking":
        press(again, "second")
    assert again.view["answered"] == 6
    assert annotation_widget(open_loop(), 6).view["state"] == "done"


def test_a_pair_that_was_answered_elsewhere(open_loop: Opener) -> None:
    """Under the same name: a different answer is refused with a message, the same answer is one label."""
    loop = open_loop()
    widget = annotation_widget(loop, 8, "Ann")
    loop.store.record(widget.view["query"], "tie", "Ann")
    query = widget.view["query"]
    assert "the first answer stands" in press(widget, "first")["message"]
    assert widget.view["warning"]
    assert widget.view["query"] == query + 1
    loop.store.record(query + 1, "second", "Ann")
    assert press(widget, "second")["message"] == ""
    assert outcomes(loop) == [0.5, 0.0]
    assert widget.view["answered"] == 2


def test_a_store_that_cannot_be_written(open_loop: Opener, tmp_path: Path) -> None:
    """The pair stays, the message says why, and the same answer is stored once that is solved."""
    loop = open_loop(wait=0.05)
    widget = annotation_widget(loop, 8)
    before = widget.view
    other = sqlite3.connect(tmp_path / "labels.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for turn in (1, 2):
        after = press(widget, "first")
        assert after["message"].startswith("This answer is not stored: label store")
        assert "locked" in after["message"]
        assert after["warning"]
        kept = ("state", "query", "left", "right", "answered")
        assert [after[name] for name in kept] == [before[name] for name in kept]
        assert after["revision"] == before["revision"] + turn  # the page waits for a change
    other.execute("ROLLBACK")
    other.close()
    after = press(widget, "first")
    assert (after["answered"], after["message"], after["warning"]) == (1, "", False)
    os.rename(tmp_path / "labels.db", tmp_path / "away.db")
    assert "not stored: there is no file" in press(widget, "first")["message"]


@pytest.mark.parametrize("error", [ValueError("no optimum"), KeyboardInterrupt()])
def test_a_proposal_that_fails(open_loop: Opener, error: BaseException) -> None:
    failing = [True]

    def fit(*arguments: Any) -> Any:
        if failing:
            raise error
        return laplace(*arguments)

    loop = open_loop(inference=fit)
    widget = annotation_widget(loop, 6)
    for _ in range(4):
        press(widget, "first")
    assert widget.view["state"] == "failed"
    assert widget.view["warning"]
    assert "every answer is stored. " + (str(error) or "KeyboardInterrupt") in widget.view["message"]
    assert widget.view["answered"] == loop.store.count() == 4
    send(widget, {"query": None, "answer": "first"})
    send(widget, {"answer": "retry"})
    assert widget.view["state"] == "failed"
    failing.clear()
    send(widget, {"answer": "retry"})
    assert (widget.view["state"], widget.view["message"]) == ("asking", "")
    while widget.view["state"] == "asking":
        press(widget, "first")
    assert outcomes(loop) == [1.0] * 6


def test_a_pool_that_is_used_up_by_skips(open_loop: Opener) -> None:
    widget = annotation_widget(open_loop(candidates=[[k, k + 1] for k in range(5)]), 5)
    for answer in ("skip", "first", "first", "first", "first"):
        press(widget, answer)
    assert widget.view["state"] == "done"
    assert widget.view["message"] == "No candidate pair is left to ask 'me': the store holds 4 answers."
    assert widget.view["warning"]


def test_overconfidence_is_shown(open_loop: Opener) -> None:
    """Predictions of 0.99 that were all wrong; the campaign warns as well."""
    loop = open_loop()
    pairs = [(f"item {i}", f"item {j}") for i in range(4) for j in range(5, 10)]
    loop.store.propose(1, [Proposal(*pair, "x", 0.99) for pair in pairs], "x", {"labels": 0, "inflation": 1.0})
    for query in loop.store.queries()[:-1]:
        loop.store.record(query.id, "second", "me")
    widget = annotation_widget(loop, 25)
    seen = views(widget)
    with pytest.warns(UserWarning, match="the model is overconfident"):
        press(widget, "second")
    assert (seen[-1]["message"], seen[-1]["warning"]) == (GUARD, True)
    assert press(widget, "second")["message"] == ""


def test_bad_input_is_an_error_of_the_cell(open_loop: Opener) -> None:
    loop = open_loop()
    with pytest.raises(ValueError, match="budget must be a whole number of at least 0, got -1"):
        annotation_widget(loop, -1)
    with pytest.raises(ValueError, match="the budget needs 67 more pairs, but only 66 candidate pairs are left"):
        annotation_widget(loop, 67)
    assert loop.store.rounds() == []
    loop.store.propose(1, [Proposal("item 1", "stranger", "random")], "random")
    with pytest.raises(ValueError, match=r"names 1 item\(s\) that are not among these 12"):
        annotation_widget(loop, 5)


def test_the_page_gets_script_and_style_that_never_interpret_a_text(open_loop: Opener) -> None:
    widget = annotation_widget(open_loop(), 5)
    script, style = (WIDGET.with_suffix(suffix).read_text(encoding="utf-8") for suffix in (".js", ".css"))
    state = widget.get_state()
    assert (str(state["_esm"]), str(state["_css"])) == (script, style)
    assert state["view"] == widget.view
    assert "textContent" in script
    for door in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert door not in script
    assert "application/vnd.jupyter.widget-view+json" in widget._repr_mimebundle_()[0]  # type: ignore[index]


def test_without_anywidget_it_says_what_to_install() -> None:
    code = """
import sys
sys.modules["anywidget"] = None
from tercet.designs import *
try:
    annotation_widget(AnnotationLoop.__new__(AnnotationLoop), 5)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "annotation_widget needs anywidget: pip install 'tercet[widget]'.\n", done.stderr
