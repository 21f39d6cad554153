"""Simulated annotation: schemes against loops, error rates against closed forms and simulation."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from scipy.special import expit

from tercet.datasets import (
    annotate,
    annotation_error,
    annotation_pairs,
    simulated_annotator,
    simulated_prompts,
    simulated_rewards,
)
from tercet.models import Items


@pytest.mark.parametrize(("variance", "right"), [(1, 0.67486), (2, 0.72521), (4, 0.77799), (10, 0.84280)])
def test_error_rates_known_to_five_digits(variance, right):
    assert 1.0 - annotation_error(math.sqrt(variance / 2.0)) == pytest.approx(right, abs=5e-6)


def test_error_rates_of_the_paper():
    whole = [annotation_error(beta) for beta in (0.5, 0.7, 1.0, 3.0, 5.0, 10.0)]
    np.testing.assert_allclose(whole, [0.369, 0.327, 0.275, 0.122, 0.076, 0.039], atol=5.1e-4)
    assert annotation_error(0.5, within=0.5) == pytest.approx(0.404, abs=5e-4)
    assert annotation_error(10.0, within=0.5) == pytest.approx(0.055, abs=5e-4)
    assert annotation_error(0.0) == pytest.approx(0.5)


@pytest.mark.parametrize("quality", [0.3, 2.0])
def test_error_rate_is_the_integral(quality):
    sd = quality * math.sqrt(2.0 * 0.6)
    for link, function in (("logistic", expit), ("probit", scipy.stats.norm.cdf)):
        right = scipy.integrate.quad(lambda z: function(abs(sd * z)) * scipy.stats.norm.pdf(z), -9, 9)[0]  # noqa: B023
        assert annotation_error(quality, 0.6, link) == pytest.approx(1 - right, abs=1e-7)


@pytest.mark.parametrize("prompt_variance", [0.0, 0.5])
def test_answers_are_wrong_as_often_as_the_formula_says(seed, prompt_variance):
    """Five standard errors of 20,000 answers; linear truth in 400 dimensions, whose rewards are nearly normal."""
    items, rewards = simulated_prompts(2000, 10, 400, prompt_variance=prompt_variance, key=seed)
    pairs = annotation_pairs(items, rewards, "random", 10, key=seed)
    answers = annotate(rewards, pairs, 1.0, key=seed)
    wrong = (answers.outcome == 1) != (rewards[pairs[:, 0]] > rewards[pairs[:, 1]])
    wanted = annotation_error(1.0, 1.0 - prompt_variance)
    # Responses to a prompt share their part of the variance, up to the chance of 2,000 prompts.
    assert wrong.mean() == pytest.approx(wanted, abs=5 * math.sqrt(wanted * (1 - wanted) / 20_000) + 0.005)


def test_perfect_answers_are_never_wrong(rng):
    rewards = rng.normal(size=50)
    pairs = np.column_stack([np.arange(49), np.arange(1, 50)])
    for quality in (math.inf, -1.0):
        answers = annotate(rewards, pairs, quality, key=1)
        np.testing.assert_array_equal(answers.outcome == 1, rewards[pairs[:, 0]] > rewards[pairs[:, 1]])
    tied = annotate(np.r_[np.zeros(40), 1.0], np.column_stack([np.arange(0, 40, 2), np.arange(1, 40, 2)]), -1.0, key=0)
    assert set(tied.outcome) == {0.0, 1.0}


def test_schemes_pick_what_their_names_say(rng):
    prompt = rng.permutation(np.repeat([0, 1, 2], [4, 5, 7]))
    items, rewards = Items(np.eye(16), prompt=prompt), rng.normal(size=16)
    ranks = np.empty(16, int)
    for p in range(3):
        mine = np.flatnonzero(prompt == p)
        ranks[mine[np.argsort(rewards[mine])]] = np.arange(len(mine))
    size = np.array([4, 5, 7])
    for scheme, per_prompt in (("random", 3), ("similar", 2), ("diverse", 2)):
        pairs = annotation_pairs(items, rewards, scheme, per_prompt, key=2)
        assert (prompt[pairs[:, 0]] == prompt[pairs[:, 1]]).all()
        assert np.bincount(prompt[pairs[:, 0]]).tolist() == [per_prompt] * 3
        assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == 3 * per_prompt
        low, high = np.sort(ranks[pairs], axis=1).T
        if scheme == "diverse":
            assert (low + high == size[prompt[pairs[:, 0]]] - 1).all()
            assert sorted(low.tolist()) == [0, 0, 0, 1, 1, 1]
        if scheme == "similar":
            assert (high - low == 1).all()
            assert (np.abs(low + 0.5 - (size[prompt[pairs[:, 0]]] - 1) / 2) <= 1).all()
    pairs = annotation_pairs(items, rewards, "cross-prompt", 200, key=3)
    assert (prompt[pairs[:, 0]] != prompt[pairs[:, 1]]).all()
    # Every response to other prompts is as likely a partner: a chi-squared test at one in ten thousand.
    of_first = pairs[(prompt[pairs] == 0).any(axis=1)]
    partner = np.where(prompt[of_first[:, 0]] == 0, of_first[:, 1], of_first[:, 0])
    assert set(partner) == set(np.flatnonzero(prompt != 0))


def test_cross_prompt_partners_are_drawn_evenly(seed):
    prompt = np.repeat([0, 1, 2], [2, 3, 5])
    pairs = annotation_pairs(Items(np.eye(10), prompt=prompt), np.arange(10.0), "cross-prompt", 4000, key=seed)
    joint = np.zeros((10, 10))
    np.add.at(joint, (pairs[:, 0], pairs[:, 1]), 1.0)
    joint = joint + joint.T
    expected = np.zeros((10, 10))
    for i in range(10):
        for j in range(10):
            if prompt[i] != prompt[j]:
                for a in (i, j):
                    size = (prompt == prompt[a]).sum()
                    expected[i, j] += 4000 / size / (10 - size)
    upper = np.triu_indices(10, 1)
    used = expected[upper] > 0
    assert not joint[upper][~used].any()
    statistic = (np.square(joint[upper] - expected[upper])[used] / expected[upper][used]).sum()
    assert scipy.stats.chi2(used.sum() - 1).sf(statistic) > 1e-5


def test_orientation_is_even(seed):
    items, rewards = simulated_prompts(3000, 4, 2, key=seed)
    pairs = annotation_pairs(items, rewards, "diverse", key=seed)
    up = (rewards[pairs[:, 0]] > rewards[pairs[:, 1]]).mean()
    assert up == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(3000))


@pytest.mark.parametrize("truth", ["linear", "MLP"])
def test_share_of_variance_between_prompts(seed, truth):
    items, rewards = simulated_prompts(3000, 8, 6, prompt_variance=0.7, truth=truth, key=seed)
    x = items.features.reshape(3000, 8, 6)
    between = x.mean(axis=1).var(axis=0) - x.var(axis=1, ddof=1).mean(axis=0) / 8
    np.testing.assert_allclose(between / (between + x.var(axis=1, ddof=1).mean(axis=0)), 0.7, atol=0.05)
    assert rewards.std() == pytest.approx(1.0)
    fitted = np.linalg.lstsq(np.column_stack([items.features, np.ones(len(rewards))]), rewards, rcond=None)[0]
    left = (rewards - np.column_stack([items.features, np.ones(len(rewards))]) @ fitted).var()
    assert left < 1e-20 if truth == "linear" else left > 0.05


def test_another_truth_for_the_same_items():
    items, rewards = simulated_prompts(50, 4, 6, key=1)
    again = simulated_rewards(items, "linear", key=2)
    assert abs(np.corrcoef(again, rewards)[0, 1]) < 0.99
    assert again.std() == pytest.approx(1.0)
    assert np.linalg.lstsq(items.features - items.features.mean(0), again, rcond=None)[1][0] < 1e-18
    with pytest.raises(ValueError, match="truth must be"):
        simulated_rewards(items, "tree")


def test_prompts_may_vary_in_directions_of_their_own():
    items, _ = simulated_prompts(4000, 2, 8, prompt_directions=2, key=0)
    between = items.features.reshape(4000, 2, 8).prod(axis=1).mean(axis=0)
    np.testing.assert_allclose(between, np.r_[np.full(2, 2.0), np.zeros(6)], atol=0.2)


def test_refusals(rng):
    items = Items(np.eye(5), prompt=[0, 0, 0, 0, 1])
    with pytest.raises(ValueError, match=r"prompt 1 has 1 response\(s\): 0 diverse pair\(s\), not 1"):
        annotation_pairs(items, np.arange(5.0), "diverse")
    with pytest.raises(ValueError, match="prompt of each item"):
        annotation_pairs(Items(np.eye(5)), np.arange(5.0))
    with pytest.raises(ValueError, match="at least two prompts"):
        annotation_pairs(Items(np.eye(2), prompt=[0, 0]), np.arange(2.0), "cross-prompt")
    with pytest.raises(ValueError, match="scheme must be one of"):
        annotation_pairs(items, np.arange(5.0), "best")
    with pytest.raises(ValueError, match="all rewards are equal"):
        annotate(np.ones(3), [[0, 1]])
    with pytest.raises(ValueError, match="prompt_variance"):
        simulated_prompts(prompt_variance=1.0)
    with pytest.raises(ValueError, match="truth"):
        simulated_prompts(truth="tree")


def test_simulated_annotator_answers_as_annotate_does(seed):
    """Shares of right answers, ties and skips; binomial, false-alarm rate 1e-6 each."""
    items, rewards = simulated_prompts(30, 4, 3, key=seed)
    ask = simulated_annotator(items, rewards, quality=1.5, ties=0.2, skips=0.1, key=seed)
    pairs = [(i, j) for i in range(120) for j in range(i)][:2000]
    said = [ask(i, j) for i, j in pairs]
    assert scipy.stats.binomtest(said.count("skip"), 2000, 0.1).pvalue > 1e-6
    assert scipy.stats.binomtest(said.count(0.5), 2000, 0.2).pvalue > 1e-6
    clear = [(i, j, y) for (i, j), y in zip(pairs, said, strict=True) if y in (0.0, 1.0)]
    expected = np.array([expit(1.5 * (rewards[i] - rewards[j]) / rewards.std()) for i, j, _ in clear])
    excess = sum(y for _, _, y in clear) - expected.sum()
    assert abs(excess) < 4.9 * np.sqrt((expected * (1 - expected)).sum())


def test_simulated_annotator_never_contradicts_itself(seed):
    items, rewards = simulated_prompts(5, 4, 3, key=seed)
    named = Items(items.features, ids=[f"answer {k}" for k in range(20)])
    one, again = (simulated_annotator(named, rewards, skips=0.2, key=seed) for _ in range(2))
    other = simulated_annotator(named, rewards, skips=0.2, key=seed + 1)
    pairs = [(f"answer {i}", f"answer {j}") for i in range(20) for j in range(i)]
    said = [one(*pair) for pair in pairs]
    assert said == [again(*pair) for pair in reversed(pairs)][::-1]
    assert said == [y if y == "skip" else 1.0 - y for y in (again(second, first) for first, second in pairs)]
    assert said != [other(*pair) for pair in pairs]


@pytest.mark.parametrize("wrong", [{"rewards": [1.0, 2.0]}, {"ties": -0.1}, {"ties": 0.6, "skips": 0.5}])
def test_simulated_annotator_refuses(wrong):
    items, rewards = simulated_prompts(5, 4, 3)
    with pytest.raises(ValueError, match=r"need a reward for each|must be probabilities"):
        simulated_annotator(items, **{"rewards": rewards} | wrong)
