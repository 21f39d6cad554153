"""The widget of `annotation_widget`: what the page is shown, and which of the answers that come back count.

The page draws one dictionary, `view`, and sends `{"query": number of the query it shows, "answer": ...}`. Only an
answer to the query that is shown counts; a second one, by a double click or from another tab, is ignored.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Lock

import anywidget
import traitlets

from tercet.designs.campaigns.annotators import Texts
from tercet.designs.campaigns.campaign import AnnotationLoop
from tercet.designs.campaigns.labels import OUTCOMES, LabelConflictError, Query
from tercet.designs.campaigns.prequential_check import OVERCONFIDENT

CHOOSING = "Choosing the next pairs ..."
RETRY = "retry"
"""What the page sends to try again where a proposal has failed."""
GUARD = "The model was overconfident in its recent predictions: part of this batch is random. See loop.history()."


class PairWidget(anywidget.AnyWidget):
    """Two cards, four buttons and a message; made by `annotation_widget`.

    Parameters
    ----------
    loop, budget, who, texts, question : as in `annotation_widget`

    Attributes
    ----------
    view : dict
        What the page shows: `state` ("asking", "busy", "failed" where a proposal failed, "done"), number of the
        `query`, texts `left` and `right`, `answered` of `budget`, `question`, a `message` and whether it is a
        `warning`, and `revision`, which grows with every view: after an answer the page waits for the next one.
    """

    _esm = Path(__file__).with_suffix(".js")
    _css = Path(__file__).with_suffix(".css")
    view = traitlets.Dict().tag(sync=True)

    def __init__(self, loop: AnnotationLoop, budget: int, who: str, texts: Texts | None, question: str) -> None:
        super().__init__(view={"revision": 0, "question": question, "budget": int(budget)})
        self._loop, self._who, self._texts = loop, who, texts or {}
        self._lock = Lock()
        self._advance()
        self.on_msg(self._receive)

    def _receive(self, _widget: object, content: object, _buffers: object) -> None:
        """Act on a message of the page. Nothing is raised: no cell would show the error."""
        if not isinstance(content, dict):
            return
        with self._lock:  # each open tab may have a thread of its own
            shown = (self.view["state"], self.view["query"])
            if shown == ("failed", None) and content == {"answer": RETRY}:
                self._proceed()
            elif shown == ("asking", content.get("query")) and content.get("answer") in tuple(OUTCOMES):
                self._proceed(content["answer"])

    def _proceed(self, answer: str | None = None) -> None:
        """Store an answer and show the next pair; where that fails, say why and whether the answer is stored."""
        stored = answer is None
        try:
            message = "" if answer is None else self._store(self.view["query"], answer)
            stored = True
            self._advance(message)
        except (Exception, KeyboardInterrupt) as error:
            reason = str(error) or type(error).__name__
            if stored:
                message = f"The next pairs could not be chosen; every answer is stored. {reason}"
                self._show("failed", None, message, warning=True)
            else:
                self._show("asking", self.view["query"], f"This answer is not stored: {reason}", warning=True)

    def _store(self, query: int, answer: str) -> str:
        # Messages may arrive on another thread than the cell's: the store is opened anew for each.
        with self._loop.store.reopen() as store:
            try:
                store.record(query, answer, self._who)
            except LabelConflictError as error:  # the same name elsewhere: the first answer stands
                return str(error)
        return ""

    def _advance(self, message: str = "") -> None:
        """Show the next pair, or that there is none."""
        with self._loop.store.reopen() as store:
            loop, budget, rounds = replace(self._loop, store=store), self.view["budget"], len(store.rounds())
            answered = store.count()
            if answered < budget and not store.pending(self._who):
                self._show("busy", None, CHOOSING, answered=answered)
            query = loop.next_query(self._who, budget)
            answered = store.count()
            new = store.rounds()[rounds:]
        z = new[-1].facts.get("recent_z", 0.0) if new else 0.0
        if isinstance(z, float) and z > OVERCONFIDENT:
            message = f"{message} {GUARD}".strip()
        if query is not None:
            self._show("asking", query.id, message, warning=bool(message), answered=answered, **self._cards(query))
        elif answered >= budget:
            self._show("done", None, f"Done: the store holds {answered} answers.", answered=answered)
        else:
            message = f"No candidate pair is left to ask {self._who!r}: the store holds {answered} answers."
            self._show("done", None, message, warning=True, answered=answered)

    def _cards(self, query: Query) -> dict[str, str]:
        left, right = (str(self._texts.get(name, name)) for name in self._loop.names(query))
        return {"left": left, "right": right}

    def _show(
        self, state: str, query: int | None, message: str = "", *, warning: bool = False, **changes: str | int
    ) -> None:
        shown = {"state": state, "query": query, "message": message, "warning": warning}
        self.view = {**self.view, **changes, **shown, "revision": self.view["revision"] + 1}
