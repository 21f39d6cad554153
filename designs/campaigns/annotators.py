"""Who answers: any callable of two ids; here a person at a prompt, in a terminal or a notebook."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

QUIT = "quit"
"""What an annotator answers to stop; everything answered before is stored, and the campaign goes on another time."""

Annotator = Callable[[Hashable, Hashable], Any]
"""Ids of two items in; "first", "second", "tie", "skip", a number in [0, 1] (1: the first) or "quit" out."""

KEYS = {"l": "first", "r": "second", "t": "tie", "s": "skip", "q": QUIT}
WORDS = {"left": "first", "right": "second", "tie": "tie", "skip": "skip", "quit": QUIT}
MENU = "[l]eft, [r]ight, [t]ie, [s]kip, [q]uit? "


@dataclass(frozen=True)
class PromptAnnotator:
    """A person who reads two items and types l, r, t, s or q (or the words left, right, tie, skip, quit).

    The end of the input and Ctrl-C mean quit: nothing that was answered is lost.

    Parameters
    ----------
    texts : what to show for each id (default: the id itself)
    question : asked above each pair
    ask : reads a line after showing a prompt
    show : shows a line

    Examples
    --------
    >>> from tercet.designs import PromptAnnotator
    >>> typed = iter(["who knows", "l"])
    >>> person = PromptAnnotator({"a": "Tea, please."}, ask=lambda prompt: next(typed), show=lambda line: None)
    >>> person("a", "b")
    'first'
    """

    texts: Mapping[Any, str] | None = None
    question: str = "Which one is better?"
    ask: Callable[[str], str] = input
    show: Callable[[str], object] = print

    def __call__(self, first: Hashable, second: Hashable) -> str:
        """Show the pair, the first on the left, and read the answer."""
        for line in ("", self.question, f"  left:  {self._text(first)}", f"  right: {self._text(second)}"):
            self.show(line)
        while True:
            try:
                typed = self.ask(MENU).strip().lower()
            except (EOFError, KeyboardInterrupt):
                return QUIT
            if answer := KEYS.get(typed) or WORDS.get(typed):
                return answer
            self.show(f"{typed!r} is none of these.")

    def _text(self, name: Hashable) -> str:
        return str(name) if self.texts is None else self.texts.get(name, str(name))
