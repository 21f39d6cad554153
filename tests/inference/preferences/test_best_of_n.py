"""Best of n against all subsets, ranking within prompts against scipy."""

from itertools import combinations, permutations

import numpy as np
import pytest
import scipy.stats

from tercet.inference import best_of_n, spearman_within_prompts


def brute_force(score, gold, n):
    """Average over all subsets, and over all orders in which equal scores could be broken."""
    picks = []
    for chosen in combinations(range(len(score)), n):
        best = max(score[i] for i in chosen)
        picks.append(np.mean([gold[i] for i in chosen if score[i] == best]))
    return np.mean(picks)


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_average_over_all_subsets(rng, tied):
    score = rng.integers(0, 3, 8).astype(float) if tied else rng.normal(size=8)
    gold = rng.normal(size=8)
    found = best_of_n(score, gold, n=range(1, 9))
    np.testing.assert_allclose(found.reward, [brute_force(score, gold, n) for n in range(1, 9)], rtol=1e-10)


def test_the_recursion_of_the_weights():
    """w_M = n / M, w_(i-1) = w_i (i - n) / (i - 1): read off with a gold reward that is one at a single rank."""
    M, n = 500, 30
    weights = np.array([best_of_n(np.arange(M), np.eye(M)[i], n=[n]).reward[0] for i in range(0, M, 7)])
    wanted = np.zeros(M)
    wanted[-1] = n / M
    for i in range(M, n, -1):
        wanted[i - 2] = wanted[i - 1] * (i - n) / (i - 1)
    np.testing.assert_allclose(weights, wanted[::7], rtol=1e-9, atol=1e-300)


def test_prompts_of_unequal_size_are_averaged_as_equals(rng):
    score, gold = rng.normal(size=9), rng.normal(size=9)
    prompt = np.array(list("abababaaa"))
    found = best_of_n(score, gold, prompt, n=[1, 3])
    assert found.prompts.tolist() == ["a", "b"]
    for row, name in zip(found.each, "ab", strict=True):
        mine = prompt == name
        np.testing.assert_allclose(row, [brute_force(score[mine], gold[mine], n) for n in (1, 3)])
    np.testing.assert_allclose(found.reward, found.each.mean(0))
    np.testing.assert_allclose(found.standard_error, found.each.std(0, ddof=1) / np.sqrt(2))


def test_a_perfect_score_gets_order_statistics(rng):
    """E max of n uniform numbers is n / (n + 1); the subsets of 20,000 draws come near it."""
    gold = rng.random(20_000)
    found = best_of_n(gold, gold)
    assert found.n.tolist() == [2, 5, 10, 30, 50, 100, 300, 500]
    np.testing.assert_allclose(found.reward, found.n / (found.n + 1), atol=5 * 0.3 / np.sqrt(20_000))


def test_n_beyond_the_responses_is_an_error():
    with pytest.raises(ValueError, match=r"from 1 to 2, the responses of the smallest prompt \('b'\); got \[3\]"):
        best_of_n([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], list("aaabb"), n=[3])
    with pytest.raises(ValueError, match="n must be numbers"):
        best_of_n([1, 2], [1, 2], n=[0])
    assert best_of_n([1.0], [4.0]).reward.tolist() == [4.0]


def test_spearman_within_prompts_is_scipys(rng):
    prompt = rng.integers(0, 5, 60)
    score, gold = rng.integers(0, 6, 60).astype(float), rng.normal(size=60)
    found = spearman_within_prompts(score, gold, prompt)
    wanted = [scipy.stats.spearmanr(score[prompt == p], gold[prompt == p]).statistic for p in range(5)]
    np.testing.assert_allclose(found.each, wanted, atol=1e-12)
    assert found.used == 5
    shuffled = rng.permutation(60)
    again = spearman_within_prompts(score[shuffled], gold[shuffled], prompt[shuffled])
    np.testing.assert_allclose(again.each, found.each, atol=1e-12)


def test_prompts_without_a_ranking_are_left_out():
    score, gold = [1, 2, 5, 7, 7, 3], [1, 2, 9, 1, 2, 0.5]
    found = spearman_within_prompts(score, gold, [0, 0, 1, 2, 2, 0])
    np.testing.assert_allclose(found.each[:1], [scipy.stats.spearmanr([1, 2, 3], [1, 2, 0.5]).statistic])
    assert np.isnan(found.each[1:]).all()
    assert found.used == 1
    assert np.isnan(found.standard_error)
    for order in permutations(range(2)):
        with pytest.raises(ValueError, match=r"none of 1 prompt\(s\) has a ranking"):
            spearman_within_prompts(np.array([1.0, 1.0])[list(order)], [1.0, 2.0], [0, 0])
