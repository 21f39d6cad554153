"""The widget of `annotation_widget`: what the page is shown, and which of the answers that come back count.

The page draws one dictionary, `view`, and sends `{"ask": number of the pair it shows, "answer": ...}`. Only an answer
to the pair that is shown counts; a second one, from an impatient hand or another tab, comes too late for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import anywidget
import traitlets

from tercet.designs.campaigns.campaign import AnnotationLoop
from tercet.designs.campaigns.label_store import WORDS, Ask, LabelConflictError, LabelStore
from tercet.designs.campaigns.prequential import ALARM

CHOOSING = "choosing the next pairs ..."
ANSWERS = tuple(WORDS)
AGAIN = "again"
"""What the page sends to try once more where a proposal has failed."""
GUARD = "The model was too sure of its recent predictions: part of this batch is random. See loop.history()."


class PairWidget(anywidget.AnyWidget):
    """Two cards, four buttons, a line; made by `annotation_widget`.

    Attributes
    ----------
    view : dict
        What the page shows: `state` ("asking", "busy", "stuck" where a proposal failed, "done"), number of the `ask`,
        texts `left` and `right`, `answered` of `budget`, `question`, a `line` that is an `alarm` or not, and the
        `turn`, which grows with every view: the page waits for the next one after an answer.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    view = traitlets.Dict().tag(sync=True)

    def __init__(
        self, loop: AnnotationLoop, budget: int, who: str, texts: Mapping[Any, str] | None, question: str
    ) -> None:
        super().__init__(view={"turn": 0, "question": question, "budget": int(budget)})
        self._loop, self._who, self._texts = loop, who, texts or {}
        self._one_at_a_time = Lock()
        self._advance()
        self.on_msg(self._heard)

    def _heard(self, _widget: Any, message: Any, _buffers: Any) -> None:
        """What the page sent. Nothing is raised: a message has no cell under which an error would be seen."""
        if not isinstance(message, dict):
            return
        with self._one_at_a_time:  # each open tab may have a thread of its own
            asked = (self.view["state"], self.view["ask"])
            if asked == ("stuck", None) and message == {"answer": AGAIN}:
                self._guarded()
            elif asked == ("asking", message.get("ask")) and message.get("answer") in ANSWERS:
                self._guarded(message["answer"])

    def _guarded(self, answer: str | None = None) -> None:
        """Store an answer and go on; where that fails, say so and what has become of the answer."""
        stored = answer is None
        try:
            warning = "" if answer is None else self._store(self.view["ask"], answer)
            stored = True
            self._advance(warning)
        except (Exception, KeyboardInterrupt) as error:
            what = str(error) or type(error).__name__
            if stored:
                self._show("stuck", None, f"The next pairs could not be chosen; every answer is stored. {what}", True)
            else:
                self._show("asking", self.view["ask"], f"This answer is not stored: {what}", True)

    def _store(self, ask: int, answer: str) -> str:
        with self._store_here() as store:
            try:
                store.record(ask, answer, self._who)
            except LabelConflictError as error:  # the same name elsewhere: that answer stands
                return str(error)
        return ""

    def _advance(self, warning: str = "") -> None:
        """Show the next pair, or that there is none."""
        with self._store_here() as store:
            loop, budget, rounds = replace(self._loop, store=store), self.view["budget"], len(store.rounds())
            answered = store.count()
            if answered < budget and not store.pending(self._who):
                self._show("busy", None, CHOOSING, answered=answered)
            ask = loop.next_ask(self._who, budget)
            answered = store.count()
            latest = store.rounds()[rounds:]
        if latest and latest[-1].facts.get("recent_z", 0.0) > ALARM:
            warning = f"{warning} {GUARD}".strip()
        if ask is not None:
            self._show("asking", ask.id, warning, bool(warning), answered=answered, **self._cards(ask))
        elif answered >= budget:
            self._show("done", None, f"Done: the store holds {answered} answers.", answered=answered)
        else:
            line = f"No candidate pair is left to ask {self._who!r}: the store holds {answered} answers."
            self._show("done", None, line, True, answered=answered)

    def _cards(self, ask: Ask) -> dict[str, str]:
        left, right = (str(self._texts.get(name, name)) for name in self._loop.names(ask))
        return {"left": left, "right": right}

    def _show(self, state: str, ask: int | None, line: str = "", alarm: bool = False, **changes: Any) -> None:
        shown = {"state": state, "ask": ask, "line": line, "alarm": alarm, "turn": self.view["turn"] + 1}
        self.view = {**self.view, **changes, **shown}

    @contextmanager
    def _store_here(self) -> Iterator[LabelStore]:
        """The store opened anew: messages may come on another thread than the cell's, connections keep to theirs."""
        with LabelStore(self._loop.store.path, create=False) as store:
            yield store
