"""The annotation widget from the kernel's side: which messages count, what is stored, what the page is told."""

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

from tercet.designs import AnnotationLoop, LabelStore, Proposal, annotation_widget
from tercet.designs.campaigns import campaign as campaign_module
from tercet.designs.campaigns import store_file
from tercet.designs.campaigns.pair_widget import CHOOSING, GUARD, PairWidget
from tercet.models import BradleyTerry, Items, LinearHead

Opener = Callable[..., AnnotationLoop]
WIDGET = Path(campaign_module.__file__).with_name("pair_widget.py")


@pytest.fixture
def open_loop(tmp_path: Path, rng: np.random.Generator, seed: int) -> Iterator[Opener]:
    """A campaign in batches of four on one store; each call opens it anew, as a restarted kernel would."""
    items = Items(rng.standard_normal((12, 3)), ids=[f"item {k}" for k in range(12)])
    opened = []

    def opener(**settings: Any) -> AnnotationLoop:
        opened.append(LabelStore(tmp_path / "labels.db"))
        given: dict[str, Any] = {"model": BradleyTerry(LinearHead(1.0)), "batch": 4, "candidates": "all", "key": seed}
        return AnnotationLoop(items, opened[-1], **given | settings)

    yield opener
    for store in opened:
        store.close()


def send(widget: PairWidget, message: Any) -> None:
    """What arrives when the page sends a message."""
    widget._handle_msg({"content": {"data": {"method": "custom", "content": message}}, "buffers": []})


def press(widget: PairWidget, answer: str) -> dict[str, Any]:
    send(widget, {"ask": widget.view["ask"], "answer": answer})
    return widget.view


def views(widget: PairWidget) -> list[dict[str, Any]]:
    """Every view from here on."""
    seen: list[dict[str, Any]] = []
    widget.observe(lambda change: seen.append(change["new"]), "view")
    return seen


def outcomes(loop: AnnotationLoop) -> list[float | None]:
    return [label.outcome for label in loop.store.labels()]


def test_a_campaign_from_the_first_pair_to_the_last(open_loop: Opener) -> None:
    """Every answer is in the store before the next pair is shown; between batches the page is told to wait."""
    loop = open_loop()
    texts = {f"item {k}": f"<b>{k}</b>\n  as it is" for k in range(11)}
    widget = annotation_widget(loop, 6, "Ann", texts, "Which is politer?")
    seen = views(widget)
    stored: list[int] = []
    widget.observe(lambda change: stored.append(len(loop.store.labels())), "view")
    names = []
    for answer in ("first", "tie", "skip", "second", "first", "second", "tie"):
        ask = loop.store.pending("Ann")[0]
        names += [ask.first, ask.second]
        shown = widget.view
        assert (shown["state"], shown["ask"], shown["question"]) == ("asking", ask.id, "Which is politer?")
        assert (shown["left"], shown["right"]) == tuple(texts.get(str(n), str(n)) for n in (ask.first, ask.second))
        press(widget, answer)
    assert outcomes(loop) == [1.0, 0.5, None, 0.0, 1.0, 0.0, 0.5]
    assert {label.annotator for label in loop.store.labels()} == {"Ann"}
    assert [batch.facts["labels"] for batch in loop.store.rounds()] == [0, 3]
    assert [view["state"] for view in seen] == ["asking"] * 3 + ["busy"] + ["asking"] * 3 + ["done"]
    assert stored == [1, 2, 3, 4, 4, 5, 6, 7]
    assert [view["answered"] for view in seen] == [1, 2, 2, 3, 3, 4, 5, 6]
    assert seen[3]["line"] == CHOOSING
    assert widget.view["line"] == "Done: the store holds 6 answers."
    assert [view["turn"] for view in seen] == list(range(seen[0]["turn"], seen[0]["turn"] + len(seen)))


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


def test_what_comes_late_or_is_no_answer_is_ignored(open_loop: Opener) -> None:
    loop = open_loop()
    widget = annotation_widget(loop, 8)
    ask = widget.view["ask"]
    press(widget, "first")
    before, messages = widget.view, [{"ask": ask, "answer": "second"}, {"ask": ask, "answer": "first"}]
    messages += [{"ask": ask + 1, "answer": answer} for answer in ("quit", "again", "", None, 0.5, ["first"])]
    messages += [{"answer": "first"}, {"answer": "again"}, {"ask": None, "answer": "first"}, {"ask": "2"}, {}]
    for message in [*messages, "first", None, 3, []]:
        send(widget, message)
    assert widget.view == before
    assert outcomes(loop) == [1.0]


def test_answers_during_a_fit_and_after_the_end_are_ignored(open_loop: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, real = open_loop(), campaign_module.laplace
    widget = annotation_widget(loop, 5)
    for _ in range(3):
        press(widget, "first")
    last, hands = widget.view["ask"], []

    def slow(*arguments: Any) -> Any:
        assert widget.view["state"] == "busy"
        hands.append(threading.Thread(target=send, args=(widget, {"ask": last, "answer": "second"})))
        hands[0].start()
        return real(*arguments)

    monkeypatch.setattr(campaign_module, "laplace", slow)
    press(widget, "tie")
    hands[0].join(60)
    assert outcomes(loop) == [1.0, 1.0, 1.0, 0.5]
    last = widget.view["ask"]
    assert press(widget, "first")["state"] == "done"
    send(widget, {"ask": last, "answer": "second"})
    send(widget, {"ask": None, "answer": "second"})
    assert outcomes(loop) == [1.0, 1.0, 1.0, 0.5, 1.0]


def test_messages_may_come_on_another_thread(open_loop: Opener) -> None:
    """As from JupyterLab, which gives widgets a thread of their own where the kernel has one."""
    loop = open_loop()
    widget = annotation_widget(loop, 6)
    while widget.view["state"] == "asking":
        hand = threading.Thread(target=press, args=(widget, "first"))
        hand.start()
        hand.join(60)
        assert not widget.view["alarm"]
    assert outcomes(loop) == [1.0] * 6


def test_after_a_restart_the_same_cell_goes_on(open_loop: Opener) -> None:
    first = open_loop()
    widget = annotation_widget(first, 6)
    for answer in ("first", "skip", "tie"):
        press(widget, answer)
    shown = {name: widget.view[name] for name in ("ask", "left", "right", "answered")}
    first.store.close()
    again = annotation_widget(open_loop(), 6)
    assert {name: again.view[name] for name in shown} == shown
    while again.view["state"] == "asking":
        press(again, "second")
    assert again.view["answered"] == 6
    assert annotation_widget(open_loop(), 6).view["state"] == "done"


def test_a_pair_that_was_answered_elsewhere(open_loop: Opener) -> None:
    """By the same name, otherwise: that answer stands and is said; the same answer again is one label."""
    loop = open_loop()
    widget = annotation_widget(loop, 8, "Ann")
    loop.store.record(widget.view["ask"], "tie", "Ann")
    ask = widget.view["ask"]
    assert "the first answer stands" in press(widget, "first")["line"]
    assert widget.view["alarm"]
    assert widget.view["ask"] == ask + 1
    loop.store.record(ask + 1, "second", "Ann")
    assert press(widget, "second")["line"] == ""
    assert outcomes(loop) == [0.5, 0.0]
    assert widget.view["answered"] == 2


def test_a_store_that_cannot_be_written(open_loop: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The pair stays, the line says why, and the same press works once that is mended."""
    monkeypatch.setattr(store_file, "WAIT", 0.05)
    loop = open_loop()
    widget = annotation_widget(loop, 8)
    before = widget.view
    other = sqlite3.connect(tmp_path / "labels.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for turn in (1, 2):
        after = press(widget, "first")
        assert after["line"].startswith("This answer is not stored: label store")
        assert "locked" in after["line"]
        assert after["alarm"]
        kept = ("state", "ask", "left", "right", "answered")
        assert [after[name] for name in kept] == [before[name] for name in kept]
        assert after["turn"] == before["turn"] + turn  # the page waits for a change
    other.execute("ROLLBACK")
    other.close()
    after = press(widget, "first")
    assert (after["answered"], after["line"], after["alarm"]) == (1, "", False)
    os.rename(tmp_path / "labels.db", tmp_path / "away.db")
    assert "not stored: there is no file" in press(widget, "first")["line"]


@pytest.mark.parametrize("error", [ValueError("no optimum"), KeyboardInterrupt()])
def test_a_proposal_that_fails(open_loop: Opener, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    loop, real, failing = open_loop(), campaign_module.laplace, [True]

    def laplace(*arguments: Any) -> Any:
        if failing:
            raise error
        return real(*arguments)

    monkeypatch.setattr(campaign_module, "laplace", laplace)
    widget = annotation_widget(loop, 6)
    for _ in range(4):
        press(widget, "first")
    assert widget.view["state"] == "stuck"
    assert widget.view["alarm"]
    assert "every answer is stored. " + (str(error) or "KeyboardInterrupt") in widget.view["line"]
    assert widget.view["answered"] == loop.store.count() == 4
    send(widget, {"ask": None, "answer": "first"})
    send(widget, {"answer": "again"})
    assert widget.view["state"] == "stuck"
    failing.clear()
    send(widget, {"answer": "again"})
    assert (widget.view["state"], widget.view["line"]) == ("asking", "")
    while widget.view["state"] == "asking":
        press(widget, "first")
    assert outcomes(loop) == [1.0] * 6


def test_a_pool_that_is_used_up_by_skips(open_loop: Opener) -> None:
    widget = annotation_widget(open_loop(candidates=[[k, k + 1] for k in range(5)]), 5)
    for answer in ("skip", "first", "first", "first", "first"):
        press(widget, answer)
    assert widget.view["state"] == "done"
    assert widget.view["line"] == "No candidate pair is left to ask 'me': the store holds 4 answers."
    assert widget.view["alarm"]


def test_an_overconfident_model_is_told(open_loop: Opener) -> None:
    """Predictions of 0.99 that all failed; the campaign warns as well."""
    loop = open_loop()
    pairs = [(f"item {i}", f"item {j}") for i in range(4) for j in range(5, 10)]
    loop.store.propose(1, [Proposal(*pair, "x", 0.99) for pair in pairs], "x", {"labels": 0, "inflation": 1.0})
    for ask in loop.store.asks()[:-1]:
        loop.store.record(ask.id, "second", "me")
    widget = annotation_widget(loop, 25)
    seen = views(widget)
    with pytest.warns(UserWarning, match="the model is overconfident"):
        press(widget, "second")
    assert (seen[-1]["line"], seen[-1]["alarm"]) == (GUARD, True)
    assert press(widget, "second")["line"] == ""


def test_bad_input_is_an_error_of_the_cell(open_loop: Opener) -> None:
    loop = open_loop()
    with pytest.raises(ValueError, match="budget must be a whole number of at least 0, got -1"):
        annotation_widget(loop, -1)
    with pytest.raises(ValueError, match="67 more pairs are to be asked, but only 66 candidate pairs are left"):
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
    assert done.stdout == "the widget needs an extra: pip install 'tercet[widget]'.\n", done.stderr
