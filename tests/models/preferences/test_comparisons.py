"""Comparisons: what they accept, what they keep, and what they answer to bad input."""

import re

import jax
import numpy as np
import pandas as pd
import pytest
from containers import assert_frozen_pytree

from tercet.models import Comparisons, Items

X = np.arange(6.0).reshape(3, 2)


BAD = {
    "no comparisons": (lambda: Comparisons([], [], []), "first is empty.*at least one comparison"),
    "negative position": (lambda: Comparisons([-1], [0], [1]), "first\\[0\\] = -1 is out of range"),
    "fractional position": (lambda: Comparisons([0.5], [1], [1]), "first must be integer positions"),
    "infinite position": (lambda: Comparisons([np.inf], [1], [1]), "first must be integer positions"),
    "names as positions": (lambda: Comparisons(["a"], ["b"], [1]), "from_frame"),
    "item against itself": (lambda: Comparisons([0, 2], [1, 2], [1, 1]), "itself.*row 1.*item 2"),
    "outcome of -1": (
        lambda: Comparisons([0, 1], [1, 2], [1, -1]),
        "outcome\\[1\\] = -1.0.*outcome \\+ 1",
    ),
    "outcome of 2": (lambda: Comparisons([0], [1], [2]), "outcome\\[0\\] = 2.0 is outside"),
    "nan outcome": (lambda: Comparisons([0], [1], [np.nan]), "outcome has NaN"),
    "lengths": (lambda: Comparisons([0, 1], [1, 2], [1]), "lengths differ: first 2, second 2, outcome 1"),
    "weight of zero": (lambda: Comparisons([0], [1], [1], weight=[0.0]), "weight must be positive.*drop"),
    "weights of another length": (lambda: Comparisons([0], [1], [1], weight=[1, 1]), "weight 2"),
    "annotator unknown": (
        lambda: Comparisons([0], [1], [1], annotator=[2], annotator_ids=["x", "y"]),
        "annotator\\[0\\] = 2 is out of range of 2",
    ),
    "annotator names alone": (lambda: Comparisons([0], [1], [1], annotator_ids=["x"]), "without annotator"),
    "wins not square": (lambda: Comparisons.from_wins(np.ones((2, 3))), "square"),
    "wins against itself": (lambda: Comparisons.from_wins(np.ones((2, 2))), "zero diagonal"),
    "negative wins": (lambda: Comparisons.from_wins([[0, -1], [1, 0]]), "non-negative"),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_with_what_to_do(build, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        build()


def test_frames_by_name_and_by_position():
    people = pd.DataFrame({"name": ["tea", "coffee", "milk"], "a": [1.0, 2, 3], "b": [0, 1, 0], "of": ["x", "y", "x"]})
    items = Items.from_frame(people, ["a", "b"], id="name", prompt="of")
    assert items.names == ("tea", "coffee", "milk")
    assert items.prompt.tolist() == [0, 1, 0]
    games = pd.DataFrame({"w": ["milk", "tea"], "l": ["tea", "coffee"], "y": [1, 0.5], "n": [2, 3], "who": ["q", "p"]})
    answers = Comparisons.from_frame(games, items, "w", "l", "y", weight="n", annotator="who")
    assert answers.pairs.tolist() == [[2, 0], [0, 1]]
    assert (answers.weight.tolist(), answers.annotator.tolist()) == ([2, 3], [0, 1])
    assert answers.annotator_ids == ("q", "p")
    by_position = pd.DataFrame({"first": [0, 1], "second": [2, 0], "outcome": [1, 0]})
    assert Comparisons.from_frame(by_position, Items(X)).pairs.tolist() == [[0, 2], [1, 0]]
    with pytest.raises(ValueError, match=r"w holds 1 unknown name\(s\), for example 'juice'"):
        Comparisons.from_frame(games.assign(w=["juice", "tea"]), items, "w", "l", "y")


def test_wins_become_one_weighted_row_a_direction():
    games = Comparisons.from_wins([[0, 3], [2, 0]])
    assert games.pairs.tolist() == [[0, 1], [1, 0]]
    assert (games.outcome.tolist(), games.weight.tolist()) == ([1, 1], [3, 2])


def test_swap_take_and_extend():
    answers = Comparisons([0, 1, 2], [1, 2, 0], [1, 0.25, 0], weight=[1, 2, 3], annotator=[0, 1, 0])
    again = answers.swap().swap()
    assert jax.tree.all(jax.tree.map(np.array_equal, again, answers))
    assert answers.swap().outcome.tolist() == [0, 0.75, 1]
    last = answers.take([2])
    assert (last.first.tolist(), last.weight.tolist(), last.annotator_ids) == ([2], [3], (0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, answers.take([0, 1]).extend(last), answers))
    assert jax.tree.all(jax.tree.map(np.array_equal, answers.take(answers.outcome < 1), answers.take([1, 2])))
    plain = Comparisons([0], [1], [1])
    assert plain.extend(Comparisons([1], [2], [0], weight=[5])).weight.tolist() == [1, 5]
    with pytest.raises(ValueError, match="same annotator_ids"):
        answers.extend(plain)


def test_comparisons_are_a_frozen_pytree():
    assert_frozen_pytree(
        Comparisons([0, 1], [1, 2], [1, 0.5], weight=[1, 2], annotator=[0, 1], annotator_ids=["x", "y"])
    )
