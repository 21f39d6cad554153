"""Who answers: any callable of two ids, such as a person at a prompt, in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

QUIT = "quit"
"""Answer of an annotator who stops; all answers before it are stored, and the campaign can go on later."""

Reply = Literal["first", "second", "tie", "skip", "quit"]

Annotator = Callable[[Hashable, Hashable], str | float]
"""Ids of two items in; "first", "second", "tie", "skip", a number in [0, 1] (1: the first) or "quit" out."""

Texts = Mapping[Any, str]
"""What to show for each id; an id that is missing is shown itself."""

REPLIES: Mapping[str, Reply] = {
    "l": "first", "r": "second", "t": "tie", "s": "skip", "q": "quit",
    "left": "first", "right": "second", "tie": "tie", "skip": "skip", "quit": "quit",
}  # fmt: skip
MENU = "[l]eft, [r]ight, [t]ie, [s]kip, [q]uit? "


@dataclass(frozen=True)
class PromptAnnotator:
    """A person who reads two items and types l, r, t, s or q (or the words left, right, tie, skip, quit).

    The end of the input and Ctrl-C mean quit: every answer given so far is stored.

    Parameters
    ----------
    texts : what to show for each id (default: the id itself)
    question : shown above each pair
    ask : function that shows a prompt and reads a line
    show : function that shows a line

    Examples
    --------
    >>> from tercet.designs import PromptAnnotator
    >>> typed = iter(["I don't know", "l"])
    >>> person = PromptAnnotator({"a": "Tea, please."}, ask=lambda prompt: next(typed), show=lambda line: None)
    >>> person("a", "b")
    'first'
    """

    texts: Texts | None = None
    question: str = "Which one is better?"
    ask: Callable[[str], str] = input
    show: Callable[[str], object] = print

    def __call__(self, first: Hashable, second: Hashable) -> Reply:
        """Show the pair, the first on the left, and read the answer."""
        for line in ("", self.question, f"  left:  {self._text(first)}", f"  right: {self._text(second)}"):
            self.show(line)
        while True:
            try:
                typed = self.ask(MENU).strip().lower()
            except (EOFError, KeyboardInterrupt):
                return "quit"
            if typed in REPLIES:
                return REPLIES[typed]
            self.show(f"{typed!r} is not one of these.")

    def _text(self, name: Hashable) -> str:
        return str(name) if self.texts is None else self.texts.get(name, str(name))
