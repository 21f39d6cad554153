"""The bundled words and teams: what the files promise, and that answers are those of the ratings."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import scipy.stats

from tercet.datasets import american_league_1987, word_valence
from tercet.datasets.preferences import RatedItems
from tercet.models import project

FALSE_ALARM = 1e-6


@pytest.fixture(scope="module")
def words() -> RatedItems:
    return word_valence()


def test_words_are_what_their_note_says(words: RatedItems) -> None:
    assert words.items.features.shape == (4000, 384)
    assert words.ratings.shape == (4000, 10)
    assert words.ratings.dtype.kind == "i"
    assert words.ratings.min() >= -4
    assert words.ratings.max() <= 4
    names = words.items.ids
    assert names is not None
    assert len(set(names)) == 4000
    assert list(names) == sorted(names)
    assert all(name.isascii() and name.islower() and name.isalpha() and len(name) >= 3 for name in names)


def test_embeddings_have_unit_length_to_half_precision(words: RatedItems) -> None:
    """Entries below 1 are rounded by at most 2^-12, relative 2^-11: |norm - 1| <= 2^-11."""
    norms = np.linalg.norm(words.items.features.astype(float), axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=2.0**-11)
    assert len(np.unique(words.items.features, axis=0)) == 4000


def test_words_come_projected_where_asked(words: RatedItems) -> None:
    projected = word_valence(8).items
    np.testing.assert_array_equal(projected.features, project(words.items, 8).features)
    assert projected.ids == words.items.ids


def test_ratings_mean_what_words_mean(words: RatedItems) -> None:
    assert words.items.ids is not None
    of = dict(zip(words.items.ids, words.mean_rating, strict=True))
    np.testing.assert_allclose(list(of.values()), [np.mean(row) for row in words.ratings.tolist()])
    assert np.mean([of[w] for w in ("love", "happy", "great", "joy") if w in of]) > 2
    assert np.mean([of[w] for w in ("murder", "hate", "cruel", "grief") if w in of]) < -2


def test_package_ships_provenance_and_both_licences_within_its_size() -> None:
    folder = resources.files("tercet.datasets")
    assert len(folder.joinpath("word_valence.npz").read_bytes()) < 4_000_000
    note = folder.joinpath("WORD_VALENCE.md").read_text(encoding="utf-8")
    for phrase in (
        "The MIT License (MIT)", "Copyright (c) 2016 C.J. Hutto", "THE SOFTWARE IS PROVIDED",
        "Apache License, Version 2.0", "http://www.apache.org/licenses/LICENSE-2.0", "all-MiniLM-L6-v2",
        "Hutto, C.J. and Gilbert",
    ):  # fmt: skip
        assert phrase in note


def test_expected_outcome_counts_all_choices_of_raters(words: RatedItems, rng: np.random.Generator) -> None:
    pairs = rng.permutation(4000)[:40].reshape(20, 2)
    counted = []
    for i, j in pairs:
        votes = [(a > b) + 0.5 * (a == b) for a in words.ratings[i].tolist() for b in words.ratings[j].tolist()]
        counted.append(np.mean(votes))
    np.testing.assert_allclose(words.expected_outcome(pairs), counted)
    np.testing.assert_allclose(words.expected_outcome(pairs[:, ::-1]), 1 - np.array(counted))


def test_answers_have_the_frequencies_of_the_ratings(words: RatedItems, seed: int) -> None:
    """Outcomes 0, 0.5, 1 of 12 pairs asked 1,500 times each, against the table of all 100 choices of raters."""
    pairs = np.random.default_rng(seed).permutation(4000)[:24].reshape(12, 2)
    answers = words.answer(np.repeat(pairs, 1500, axis=0), key=seed)
    np.testing.assert_array_equal(answers.pairs, np.repeat(pairs, 1500, axis=0))
    outcomes = answers.outcome.reshape(12, 1500)
    assert set(np.unique(outcomes)) <= {0.0, 0.5, 1.0}
    for (i, j), row in zip(pairs, outcomes, strict=True):
        gaps = np.sign(words.ratings[i].astype(int)[:, None] - words.ratings[j].astype(int)[None, :])
        chance = np.array([(gaps == sign).mean() for sign in (-1, 0, 1)])
        counts = np.array([(row == value).sum() for value in (0.0, 0.5, 1.0)])
        assert counts[chance == 0].sum() == 0
        if (chance > 0).sum() > 1:
            test = scipy.stats.chisquare(counts[chance > 0], 1500 * chance[chance > 0])
            assert test.pvalue > FALSE_ALARM / 12


def test_answers_are_reproducible_and_differ_between_keys(words: RatedItems, seed: int) -> None:
    pairs = np.random.default_rng(seed).permutation(4000).reshape(2000, 2)
    one, again, other = (words.answer(pairs, key=k).outcome for k in (seed, seed, seed + 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_taken_items_keep_their_ratings(words: RatedItems) -> None:
    some = words.take([5, 3])
    assert words.items.ids is not None
    assert some.items.ids == (words.items.ids[5], words.items.ids[3])
    np.testing.assert_array_equal(some.ratings, words.ratings[[5, 3]])
    np.testing.assert_array_equal(some.expected_outcome([[0, 1]]), words.expected_outcome([[5, 3]]))


@pytest.mark.parametrize(
    ("pairs", "message"), [([[0, 4000]], "out of range"), ([[7, 7]], "against itself"), ([1, 2], "shape")]
)
def test_impossible_questions_are_refused(words: RatedItems, pairs: list, message: str) -> None:
    for ask in (words.answer, words.expected_outcome):
        with pytest.raises(ValueError, match=message):
            ask(pairs)


def test_baseball_has_thirteen_games_a_pairing_and_the_published_table() -> None:
    teams, games = american_league_1987()
    assert teams.names == ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
    assert (games.outcome == 1).all()
    wins = np.zeros((7, 7))
    np.add.at(wins, (games.first, games.second), games.weight)
    np.testing.assert_array_equal((wins + wins.T)[~np.eye(7, dtype=bool)], 13)
    assert wins.astype(int).tolist() == [
        [0, 7, 9, 7, 7, 9, 11],
        [6, 0, 7, 5, 11, 9, 9],
        [4, 6, 0, 7, 7, 8, 12],
        [6, 8, 6, 0, 6, 7, 10],
        [6, 2, 6, 7, 0, 7, 12],
        [4, 4, 5, 6, 6, 0, 6],
        [2, 4, 1, 3, 1, 7, 0],
    ]
