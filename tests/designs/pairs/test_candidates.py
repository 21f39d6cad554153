"""Candidate pairs against lists made by loops; uniformity by chi-square tests with a false-alarm rate of 1e-6."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.stats

from tercet.designs import candidate_pairs
from tercet.designs.pairs.candidates import _decode, _pairs_of
from tercet.models import Comparisons, Items

FALSE_ALARM = 1e-6
PROMPTS = np.array(["b", "a", "b", "c", "a", "b", "d"])
SCHEMES = ("random", "all", "in-prompt", "cross-prompt")


@pytest.fixture
def items() -> Items:
    return Items(np.eye(len(PROMPTS)), prompt=PROMPTS)


def listed(scheme: str, exclude: Any = ()) -> set[frozenset[int]]:
    same = {"random": None, "all": None, "in-prompt": True, "cross-prompt": False}[scheme]
    out = {frozenset(map(int, pair)) for pair in exclude}
    return {
        frozenset((i, j))
        for i, j in itertools.combinations(range(len(PROMPTS)), 2)
        if same is None or (PROMPTS[i] == PROMPTS[j]) == same
    } - out


def as_sets(pairs: np.ndarray) -> list[frozenset[int]]:
    return [frozenset(pair) for pair in pairs.tolist()]


def check_uniform(counts: Any, expected: float) -> None:
    statistic = np.square(np.asarray(counts) - expected).sum() / expected
    assert scipy.stats.chi2.sf(statistic, len(counts) - 1) > FALSE_ALARM


@pytest.mark.parametrize("exclude", [None, [], [[5, 0], [1, 4]]], ids=["nothing", "empty", "pairs"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_lists_exactly_the_pairs_of_brute_force(items: Items, scheme: str, exclude: Any) -> None:
    pairs = candidate_pairs(items, scheme, exclude=exclude)
    assert len(pairs) == len(set(as_sets(pairs)))
    assert set(as_sets(pairs)) == listed(scheme, exclude or ())
    if scheme != "random":
        assert (pairs[:, 0] < pairs[:, 1]).all()


@pytest.mark.parametrize("n", [0, 1, 4, "all"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_n_pairs_without_repetition(items: Items, scheme: str, n: Any, seed: int) -> None:
    everything = listed(scheme, [(0, 2)])
    size = len(everything) if n == "all" else min(n, len(everything))
    pairs = candidate_pairs(items, scheme, size, key=seed, exclude=[[2, 0]])
    assert pairs.shape == (size, 2)
    assert len(set(as_sets(pairs))) == size
    assert set(as_sets(pairs)) <= everything


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("n", [2, 3])
def test_draws_are_uniform_over_pairs_and_orientations(items: Items, scheme: str, n: int, seed: int) -> None:
    draws = 400
    keys = [int(k) for k in np.random.default_rng(seed).integers(2**40, size=draws)]
    drawn = np.concatenate([candidate_pairs(items, scheme, n, key=key) for key in keys])
    oriented = Counter(map(tuple, drawn.tolist()))
    everything = [pair for one in listed(scheme) for pair in itertools.permutations(sorted(one))]
    assert set(oriented) <= set(everything)
    # Without repetition a count varies less than a Poisson one: the test errs on the quiet side by little.
    check_uniform([oriented[pair] for pair in everything], n * draws / len(everything))


def test_large_random_sample_is_valid_distinct_and_uniform(seed: int) -> None:
    size, n = 100_000, 20_000
    items = Items(np.zeros((size, 1)))
    pairs = candidate_pairs(items, key=seed)
    assert pairs.shape == (n, 2)
    assert len(set(as_sets(pairs))) == n
    assert pairs.min() >= 0
    assert pairs.max() < size
    assert (pairs[:, 0] != pairs[:, 1]).all()
    check_uniform(np.bincount(pairs.ravel() // 1000, minlength=100), 2 * n / 100)
    low = pairs.min(axis=1) / size  # of two uniform positions: density 2 (1 - x)
    assert scipy.stats.kstest(low, lambda x: 1 - (1 - x) ** 2).pvalue > FALSE_ALARM


@pytest.mark.parametrize("sizes", [[2], [5], [3, 7, 2], [100_000], [3_000_000], [2, 4_000_000, 3]])
def test_decoding_is_exact_at_the_ends_of_rows(sizes: list[int], rng: Any) -> None:
    """Where row i of the triangle begins and ends, by integer arithmetic."""
    edges = np.cumsum([0, *sizes])
    groups = [np.arange(a, b) for a, b in itertools.pairwise(edges)]
    offset = 0
    for start, size in zip(edges.tolist(), sizes, strict=False):
        some = {0, 1, size // 2, size - 3, size - 2, *rng.integers(size - 1, size=20).tolist()}
        rows = sorted(i for i in some if 0 <= i < size - 1)
        begins = [offset + i * (2 * size - i - 1) // 2 for i in rows]
        ends = [begin + size - i - 2 for begin, i in zip(begins, rows, strict=True)]
        first, last = _decode(np.array(begins), groups), _decode(np.array(ends), groups)
        assert first.tolist() == [[start + i, start + i + 1] for i in rows]
        assert last.tolist() == [[start + i, start + size - 1] for i in rows]
        offset += size * (size - 1) // 2
    assert offset == _pairs_of(groups).sum()


def test_few_usable_pairs_among_very_many_are_found(rng: Any) -> None:
    """20,000 items of which 1 % answer another prompt: all pairs are too many to list."""
    prompt = (np.arange(20_000) % 100 == 0).astype(int)
    items = Items(np.zeros((20_000, 1)), prompt=prompt)
    for key in rng.integers(2**31, size=10).tolist():
        pairs = candidate_pairs(items, "cross-prompt", 3, key=key)
        assert (prompt[pairs].sum(axis=1) == 1).all()
        assert len(pairs) == 3
    with pytest.raises(ValueError, match="too many to list"):
        candidate_pairs(items, "cross-prompt")


def test_every_item_its_own_prompt_leaves_all_pairs_across() -> None:
    items = Items(np.eye(4), prompt=range(4))
    assert candidate_pairs(items, "cross-prompt").tolist() == [list(p) for p in itertools.combinations(range(4), 2)]
    with pytest.raises(ValueError, match="single item"):
        candidate_pairs(items, "in-prompt")


@pytest.mark.parametrize("as_comparisons", [False, True])
def test_explicit_pairs_keep_order_and_orientation(items: Items, as_comparisons: bool) -> None:
    given = np.array([[3, 1], [0, 6], [5, 2], [2, 4]])
    exclude: Any = [[6, 0], [3, 1]]
    if as_comparisons:
        exclude = Comparisons([6, 3], [0, 1], [1, 0.5])
    assert candidate_pairs(items, given).tolist() == given.tolist()
    assert candidate_pairs(items, given, exclude=exclude).tolist() == [[5, 2], [2, 4]]
    some = candidate_pairs(items, given, n=3, exclude=[[0, 6]])
    assert sorted(some.tolist()) == [[2, 4], [3, 1], [5, 2]]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_same_key_same_pairs(items: Items, scheme: str, seed: int) -> None:
    one, again = (candidate_pairs(items, scheme, 3, key=seed) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    others = [candidate_pairs(items, scheme, 3, key=seed + k).tolist() for k in range(1, 30)]
    assert any(other != one.tolist() for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheme": "nearest"}, "scheme must be"),
        ({"scheme": "all", "n": 22}, "only 21 are left"),
        ({"scheme": "in-prompt", "n": 5}, "only 4 are left"),
        ({"scheme": "cross-prompt", "n": 18}, "only 17 are left"),
        ({"scheme": "random", "n": 21, "exclude": [[0, 1]]}, "only 20 are left"),
        ({"scheme": [[0, 1]], "n": 2}, "only 1 are left"),
        ({"n": -1}, "must not be negative"),
        ({"scheme": [[0, 7]]}, r"pairs\[1\] = 7 is out of range"),
        ({"scheme": [[-1, 2]]}, "out of range"),
        ({"scheme": [[0, 1], [3, 3]]}, "against itself"),
        ({"scheme": [[0.5, 1.0]]}, "integer positions"),
        ({"scheme": [0, 1]}, r"shape \[m, 2\]"),
        ({"scheme": "all", "exclude": [[0, 9]]}, "out of range"),
        ({"scheme": "random", "n": 1, "exclude": [[0, 9]]}, "out of range"),
        ({"key": "seven"}, "key must be"),
    ],
)
def test_mistakes_are_named(items: Items, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        candidate_pairs(items, **arguments)


@pytest.mark.parametrize("scheme", ["in-prompt", "cross-prompt"])
def test_prompts_are_needed(scheme: Any) -> None:
    with pytest.raises(ValueError, match="prompt"):
        candidate_pairs(Items(np.eye(3)), scheme)


def test_too_many_pairs_to_list_ask_for_n() -> None:
    with pytest.raises(ValueError, match="pass n"):
        candidate_pairs(Items(np.zeros((20_000, 1))), "all")
