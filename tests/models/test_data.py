"""Containers: what they accept, what they keep, and what they answer to bad input."""

import re
from dataclasses import FrozenInstanceError

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from tercet.models import Comparisons, Items, Sites, Snapshots, project
from tercet.models.items import Projection

X = np.arange(6.0).reshape(3, 2)


def with_value(array, index, value):
    changed = np.array(array, dtype=float)
    changed[index] = value
    return changed


BAD = {
    "nan feature": (
        lambda: Items(with_value(X, (1, 0), np.nan)),
        "NaN or infinite.*1 row.*\\(1, 0\\).*drop",
    ),
    "infinite feature": (lambda: Items(with_value(X, (2, 1), np.inf)), "features.*NaN or infinite"),
    "flat features": (lambda: Items([1.0, 2.0]), "features must have 2 dimension.*\\(2,\\)"),
    "no items": (lambda: Items(np.zeros((0, 3))), "features is empty"),
    "text features": (lambda: Items([["a", "b"]]), "features must be numbers"),
    "repeated ids": (lambda: Items(X, ids=["a", "b", "a"]), "ids has 1 repeated.*unique"),
    "too few ids": (lambda: Items(X, ids=["a", "b"]), "ids has 2 name.*3 row"),
    "prompts of another length": (lambda: Items(X, prompt=[0, 1]), "features 3, prompt 2"),
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
    "times that stand still": (lambda: Snapshots([X, X], [1.0, 1.0]), "times must increase.*sort"),
    "snapshots of two widths": (lambda: Snapshots([X, X[:, :1]], [0, 1]), "widths \\[1, 2\\]"),
    "times of another length": (lambda: Snapshots([X, X], [0, 1, 2]), "particles 2, times 3"),
    "nan particle": (
        lambda: Snapshots([X, with_value(X, (0, 0), np.nan)], [0, 1]),
        "particles\\[1\\] has NaN",
    ),
    "nothing observed": (lambda: Snapshots([X], [0], observed=[False, False]), "at least one true"),
    "swapped degrees": (lambda: Sites([[170.0, 50.0]], "sphere"), "latitude.*swapped.*latitude first"),
    "longitude off": (lambda: Sites([[50.0, 400.0]], "sphere"), "longitude.*\\[-180, 360\\]"),
    "sphere in 3 dimensions": (lambda: Sites(np.zeros((2, 3)), "sphere"), "latitude and longitude"),
    "unknown metric": (lambda: Sites(X, "torus"), '"plane" or "sphere", got \'torus\''),
    "too many components": (lambda: project(Items(X), 3), "components must be between 1 and.*2.*got 3"),
    "projected twice": (lambda: project(project(Items(X), 1), 1), "projected already"),
    "constant features": (lambda: project(Items(np.ones((3, 2))), 1), "same features"),
    "projection of another width": (
        lambda: project(Items(np.ones((3, 4))), project(Items(X), 1).projection),
        "4 columns, the projection expects 2",
    ),
}


@pytest.mark.parametrize(("build", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named_with_what_to_do(build, message):
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        build()


def test_half_precision_becomes_single_and_integers_double():
    assert Items(X.astype(np.float16)).features.dtype == np.float32
    assert Items(X.astype(np.float32)).features.dtype == np.float32
    assert Items(X.astype(int)).features.dtype == np.float64


def test_large_finite_features_are_not_taken_for_infinite():
    """The sum overflows, no entry does."""
    assert len(Items(np.full((4, 2), 3e38, dtype=np.float32))) == 4


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


def test_items_keep_ids_prompts_and_projection_when_taken():
    items = project(Items(X, ids=["a", "b", "c"], prompt=["p", "q", "p"]), 1)
    kept = items.take(np.array([True, False, True]))
    assert kept.names == ("a", "c")
    assert kept.prompt.tolist() == [0, 0]
    assert kept.projection is items.projection
    np.testing.assert_array_equal(kept.features, items.features[[0, 2]])


def test_projection_is_principal_components_with_one_scale(rng):
    raw = rng.normal(size=(60, 5)) @ np.diag([3.0, 2, 1, 0.5, 0.1]) + 7.0
    items = project(Items(raw), 3)
    left, singular, _ = np.linalg.svd(raw - raw.mean(0), full_matrices=False)
    scores = left[:, :3] * singular[:3]
    signs = np.sign((scores * items.features).sum(0))
    np.testing.assert_allclose(items.features, scores * signs / np.sqrt(scores.var(0).mean()), atol=1e-9)
    np.testing.assert_allclose(project(Items(raw), items.projection).features, items.features)
    assert items.projection.same_as(project(Items(raw), 3).projection)
    assert not items.projection.same_as(project(Items(raw), 2).projection)


CONTAINERS = {
    "items": project(Items(np.random.default_rng(0).normal(size=(5, 3)), ids=list("abcde"), prompt=[0, 0, 1, 1, 1]), 2),
    "comparisons": Comparisons([0, 1], [1, 2], [1, 0.5], weight=[1, 2], annotator=[0, 1], annotator_ids=["x", "y"]),
    "snapshots": Snapshots([X, X[:2]], [0, 1], names=["u", "v"], observed=[True, False]),
    "sites": Sites([[50.0, 4.0], [51.0, 5.0]], "sphere", ids=["here", "there"]),
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_are_frozen_pytrees(container):
    """Leaves are the arrays, names ride along; rebuilding runs no check, so JAX may put tracers inside."""
    leaves, structure = jax.tree.flatten(container)
    assert jax.tree.structure(jax.tree.map(lambda leaf: leaf, container)) == structure
    doubled = jax.tree.map(lambda leaf: 2 * leaf, container)
    for got, was in zip(jax.tree.leaves(doubled), leaves, strict=True):
        np.testing.assert_array_equal(got, 2 * was)
    traced = jax.jit(lambda c: jax.tree.map(lambda leaf: jnp.asarray(leaf) + 1, c))(container)
    assert type(traced) is type(container)
    for got, was in zip(jax.tree.leaves(traced), leaves, strict=True):
        np.testing.assert_allclose(got, was + 1)
    with pytest.raises(FrozenInstanceError):
        container.ids = ("q",)
    for name in ("ids", "annotator_ids", "names", "observed", "metric"):
        assert getattr(traced, name, None) == getattr(container, name, None)


def test_projection_is_a_pytree():
    made = jax.tree.map(lambda leaf: leaf + 1, Projection(np.zeros(2), np.eye(2), 1.0))
    assert made.scale == 2.0
