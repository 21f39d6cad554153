"""Campaigns: a round is a fit and a selection, stopping loses nothing, the guard, skips, ties, people at a prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from tercet.datasets import simulated_annotator, simulated_preferences
from tercet.designs import (
    CRITERIA,
    AnnotationLoop,
    LabelStore,
    PromptAnnotator,
    candidate_pairs,
    prequential,
    select_pairs,
)
from tercet.designs.campaigns import Proposal, campaign_history
from tercet.designs.campaigns.arguments import check_count
from tercet.designs.campaigns.history import recent_z
from tercet.inference import laplace, log_loss, reward, spearman, win_probability
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead, MLPHead

MODEL = BradleyTerry(LinearHead(2.0))
Opener = Callable[..., AnnotationLoop]


class World:
    """Named items with known rewards, an annotator who answers by them, and the pairs that were asked."""

    def __init__(self, seed: int, n: int = 30) -> None:
        data = simulated_preferences(n, 4, 1, key=seed)
        self.items = Items(data.items.features, ids=[f"item {k}" for k in range(n)], prompt=np.arange(n) % 5)
        self.rewards = data.rewards
        self.asked: list[tuple[Any, Any]] = []
        self.answer = simulated_annotator(self.items, self.rewards, quality=3.0, key=seed)

    def __call__(self, first: Any, second: Any) -> Any:
        self.asked.append((first, second))
        return self.answer(first, second)

    @property
    def unordered(self) -> list[frozenset[Any]]:
        return [frozenset(pair) for pair in self.asked]


@pytest.fixture
def world(seed: int) -> World:
    return World(seed)


@pytest.fixture
def open_loop(world: World, tmp_path: Path, seed: int) -> Iterator[Opener]:
    """A campaign on a store of this name; each call reopens it, as another process would."""
    opened = []

    def opener(name: str = "labels.db", items: Items | None = None, **settings: Any) -> AnnotationLoop:
        opened.append(LabelStore(tmp_path / name))
        given: dict[str, Any] = {"model": MODEL, "batch": 10, "key": seed} | settings
        return AnnotationLoop(world.items if items is None else items, opened[-1], **given)

    yield opener
    for store in opened:
        store.close()


def run(loop: AnnotationLoop, annotator: Any, budget: int, who: str = "Ann", **settings: Any) -> int:
    return loop.run(annotator, budget, who=who, progress=False, **settings)


def test_a_campaign_fills_its_budget_and_asks_nothing_twice(world: World, open_loop: Opener) -> None:
    loop = open_loop()
    assert run(loop, world, 35) == 35
    assert len(world.asked) == len(set(world.unordered)) == 35
    assert [batch.facts["labels"] for batch in loop.store.rounds()] == [0, 10, 20, 30]
    assert Counter(query.round for query in loop.store.queries()) == {1: 10, 2: 10, 3: 10, 4: 5}
    assert [query.criterion for query in loop.store.queries()] == ["random"] * 10 + ["greedy V"] * 25
    answers = loop.comparisons()
    assert answers is not None
    names = world.items.names
    assert [(names[i], names[j]) for i, j in answers.pairs] == world.asked
    assert answers.outcome.tolist() == [world.answer(*pair) for pair in world.asked]
    assert answers.annotator_ids == ("Ann",)
    assert spearman(reward(loop.fit(), world.items).mean, world.rewards) > 0.3


def test_same_key_same_campaign_other_key_another(world: World, open_loop: Opener, seed: int) -> None:
    asked = []
    for name, key in (("a", seed), ("b", seed), ("c", seed + 1)):
        world.asked.clear()
        run(open_loop(name, key=key), world, 20)
        asked.append(list(world.asked))
    assert asked[0] == asked[1]
    assert set(asked[0][:10]) != set(asked[2][:10])


def test_a_round_is_a_fit_and_a_selection(world: World, open_loop: Opener) -> None:
    """The second batch is what `select_pairs` picks under the fit of the first, as predicted by that fit."""
    pool = candidate_pairs(world.items, "all")
    loop = open_loop(candidates=pool, criterion=CRITERIA["greedy D"], target="in-prompt")
    run(loop, world, 10)
    first, fit = loop.comparisons(), loop.fit()
    assert first is not None
    run(loop, world, 20)
    expected = select_pairs(
        world.items, fit, 10, candidates=pool, criterion="greedy D", target="in-prompt", exclude=first
    ).chosen
    queries = [query for query in loop.store.queries() if query.round == 2]
    place = {name: k for k, name in enumerate(world.items.names)}
    pairs = np.array([[place[query.first], place[query.second]] for query in queries])
    np.testing.assert_array_equal(np.sort(pairs), np.sort(expected))
    np.testing.assert_allclose([query.prediction for query in queries], win_probability(fit, world.items, pairs))
    assert loop.store.rounds()[1].criterion == "greedy D"


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize(
    ("stop", "after"), [("quit", 0), ("quit", 7), (KeyboardInterrupt, 10), (KeyboardInterrupt, 13), (Stop, 7)]
)
def test_a_stop_loses_nothing_and_the_campaign_goes_on(
    world: World, open_loop: Opener, stop: Any, after: int, seed: int
) -> None:
    run(open_loop("whole"), world, 25)
    whole = list(world.asked)
    world.asked.clear()

    def impatient(first: Any, second: Any) -> Any:
        if len(world.asked) == after:
            if stop == "quit":
                return "quit"
            raise stop
        return world(first, second)

    loop = open_loop("stopped")
    if stop == "quit":
        assert run(loop, impatient, 25) == after
    else:
        with pytest.raises(stop):
            run(loop, impatient, 25)
    assert loop.store.count() == after
    loop.store.close()
    assert run(open_loop("stopped"), world, 25) == 25
    assert world.asked == whole


def test_the_first_item_is_drawn_at_random(world: World, open_loop: Opener) -> None:
    """Also where candidates are listed in order, in random and designed rounds; false alarms 1e-6 (binomial)."""
    loop = open_loop(candidates="all", batch=60)
    run(loop, world, 60)
    run(loop, world, 120)
    place = {name: k for k, name in enumerate(world.items.names)}
    lower = [place[first] < place[second] for first, second in world.asked]
    assert scipy.stats.binomtest(sum(lower[:60]), 60).pvalue > 1e-6
    assert scipy.stats.binomtest(sum(lower[60:]), 60).pvalue > 1e-6


def test_ties_and_numbers(world: World, open_loop: Opener) -> None:
    replies = iter(["tie", "first", "second", 0.25, True])
    loop = open_loop()
    run(loop, lambda first, second: next(replies), 5)
    answers = loop.comparisons()
    assert answers is not None
    assert answers.outcome.tolist() == [0.5, 1.0, 0.0, 0.25, 1.0]


def test_skips_are_for_others(world: World, open_loop: Opener) -> None:
    loop, seen = open_loop(), Counter[Any]()

    def picky(first: Any, second: Any) -> Any:
        seen[frozenset((first, second))] += 1
        return "skip" if len(seen) % 3 == 0 else world.answer(first, second)

    assert run(loop, picky, 20, max_skips=2) == 20  # never reached: no two in a row are skipped
    assert set(seen.values()) == {1}
    skipped = [label.query for label in loop.store.labels() if label.outcome is None]
    assert len(skipped) == len(seen) - 20 > 5
    world.asked.clear()
    assert run(loop, world, 20 + len(skipped), who="Bob") == 20 + len(skipped)
    by = {label.query for label in loop.store.labels() if label.annotator == "Bob"}
    assert set(skipped) <= by
    assert loop.history()["skipped"].sum() == len(skipped)


def test_a_run_ends_where_everything_is_skipped(world: World, open_loop: Opener) -> None:
    loop = open_loop()
    with pytest.warns(UserWarning, match="'Ann' skipped 12 pairs in a row: stopped"):
        assert run(loop, lambda first, second: "skip", 20, max_skips=12) == 0
    assert len(loop.store.labels()) == 12
    assert loop.comparisons() is None
    with pytest.raises(ValueError, match="holds no answers yet; collect some first"):
        loop.fit()


def test_a_budget_that_is_reached_asks_nothing(world: World, open_loop: Opener) -> None:
    loop = open_loop()
    assert run(loop, world, 0) == 0
    assert loop.store.rounds() == []
    run(loop, world, 12)
    world.asked.clear()
    assert run(loop, world, 12) == run(loop, world, 5) == 12
    assert world.asked == []


@pytest.mark.parametrize("budget", [-1, True])
def test_invalid_budgets(world: World, open_loop: Opener, budget: Any) -> None:
    with pytest.raises(ValueError, match="budget must be a whole number of at least 0"):
        run(open_loop(), world, budget)
    assert world.asked == []


@pytest.mark.parametrize("number", [0, 2.5, float("nan"), None, "3"])
def test_invalid_counts(number: Any) -> None:
    with pytest.raises(ValueError, match="batch must be a whole number of at least 1, got"):
        check_count("batch", number, least=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch must be a whole number of at least 1"),
        ({"random_share": 1.5}, r"random_share must be in \[0, 1\]"),
        ({"criterion": "best"}, "criterion must be one of"),
    ],
)
def test_invalid_settings(open_loop: Opener, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_loop(**settings)


@pytest.mark.parametrize("candidates", ["all", "in-prompt", "array"])
def test_too_small_a_pool_is_an_error_before_anything_is_asked(
    world: World, open_loop: Opener, candidates: str
) -> None:
    given = [[i, i + 1] for i in range(25)] + [[1, 0]] * 50 if candidates == "array" else candidates
    left = {"all": 435, "in-prompt": 75, "array": 25}[candidates]
    loop = open_loop(candidates=given)
    with pytest.raises(ValueError, match=f"the budget needs {left + 1} more pairs, but only {left} candidate pairs"):
        run(loop, world, left + 1)
    assert (world.asked, loop.store.rounds()) == ([], [])
    run(loop, lambda a, b: "quit" if len(world.asked) == 8 else world(a, b), 10)  # two are pending
    with pytest.raises(ValueError, match=f"{left - 10 + 1} more pairs, .* only {left - 10} candidate"):
        run(loop, world, left + 1)
    assert len(world.asked) == 8


def test_a_pool_that_is_used_up_by_skips(world: World, open_loop: Opener) -> None:
    loop = open_loop(candidates=[[i, i + 1] for i in range(14)])
    skip = iter([True, True] + [False] * 100)
    with pytest.warns(UserWarning, match="no candidate pair is left to ask 'Ann': 2 labels are missing"):
        assert run(loop, lambda a, b: "skip" if next(skip) else world(a, b), 14) == 12
    assert len(loop.store.labels()) == 14


def test_a_store_of_other_items_is_refused(world: World, open_loop: Opener) -> None:
    loop = open_loop()
    loop.store.propose(1, [Proposal("item 1", "stranger", "random"), Proposal("item 1", "item 2", "random")], "random")
    with pytest.raises(ValueError, match=r"names 1 item\(s\) that are not among these 30, for example 'stranger'"):
        run(loop, world, 5)
    assert world.asked == []


def test_an_invalid_answer_is_an_error_and_the_others_are_stored(world: World, open_loop: Opener) -> None:
    replies = iter(["first", "tie", "both"])
    loop = open_loop()
    with pytest.raises(ValueError, match=r"an answer is one of .* got 'both'"):
        run(loop, lambda a, b: next(replies), 10)
    assert loop.store.count() == 2


def test_items_without_names_go_by_position(world: World, open_loop: Opener) -> None:
    items = Items(world.items.features)
    annotator = simulated_annotator(items, world.rewards)
    loop = open_loop(items=items)
    assert run(loop, annotator, 12) == 12
    assert {type(name) for query in loop.store.queries() for name in (query.first, query.second)} == {int}
    with pytest.raises(ValueError, match="ids of items must be texts or whole numbers"):
        run(open_loop("other", items=Items(world.items.features, ids=[(k,) for k in range(30)])), annotator, 5)


def test_history_compares_predictions_with_answers(world: World, open_loop: Opener) -> None:
    loop = open_loop()
    run(loop, world, 32)
    history, answers = loop.history(), loop.comparisons()
    assert answers is not None
    assert history["round"].tolist() == [1, 2, 3, 4]
    assert history["labels"].tolist() == [0, 10, 20, 30]
    assert history["asked"].tolist() == history["answered"].tolist() == [10, 10, 10, 2]
    assert history["log_loss"][0] == history["expected_log_loss"][0] == pytest.approx(np.log(2))
    assert history["z"][0] == 0.0
    assert np.isnan(history["expected_reduction"][0])
    for k in (1, 2):
        known, batch = answers.take(np.arange(10 * k)), answers.take(np.arange(10 * k, 10 * k + 10))
        fit = laplace(MODEL, world.items, known)
        predicted = win_probability(fit, world.items, batch.pairs)
        assert history["log_loss"][k] == pytest.approx(log_loss(predicted, batch.outcome))
        assert history["expected_log_loss"][k] == pytest.approx(log_loss(predicted, predicted))
        gaps = [world.items.features[i] - world.items.features[j] for i in range(30) for j in range(i)]
        covariance = np.linalg.inv(fit.precision_factor @ fit.precision_factor.T)
        now = float(np.mean([gap @ covariance @ gap for gap in gaps]))
        assert history["target_variance"][k] == pytest.approx(now)
        assert history["expected_reduction"][k] > history["random_reduction"][k] > 0
        assert history["prior_sd"][k] == 2.0
    assert (history["target_variance"][1:] > history["target_variance"][1:].shift(-1).fillna(0)).all()


def test_history_of_an_empty_campaign(open_loop: Opener) -> None:
    history = open_loop().history()
    assert len(history) == 0
    assert {"labels", "expected_reduction", "random_reduction", "log_loss", "z"} <= set(history.columns)


def test_random_share(world: World, open_loop: Opener) -> None:
    loop = open_loop(random_share=0.3, candidates="all")
    run(loop, world, 30)
    counts = Counter((query.round, query.criterion) for query in loop.store.queries())
    assert counts == {
        (1, "random"): 10, (2, "random"): 3, (2, "greedy V"): 7, (3, "random"): 3, (3, "greedy V"): 7,
    }  # fmt: skip
    assert len(set(world.unordered)) == 30
    all_random = open_loop("other", random_share=1.0)
    run(all_random, world, 20)
    assert {query.criterion for query in all_random.store.queries()} == {"random"}


def test_the_guard_mixes_in_random_pairs_when_predictions_fail(world: World, open_loop: Opener) -> None:
    """An annotator who answers by the rewards for 40 labels, then against them, makes the model overconfident."""

    def fickle(first: Any, second: Any) -> Any:
        answer = world(first, second)
        return answer if len(world.asked) <= 40 else 1.0 - answer

    loop = open_loop(batch=20, model=BradleyTerry(LinearHead(5.0)))
    run(loop, fickle, 40)
    assert loop.history()["random_share"].tolist()[1:] == [0.0]
    with pytest.warns(UserWarning, match=r"overconfident: .* standard deviations above.* 50% of this batch is random"):
        run(loop, fickle, 80)
    history = loop.history()
    assert history["z"][2] > 3
    assert history["random_share"].tolist()[1:] == [0.0, 0.0, 0.5]
    counts = Counter(query.criterion for query in loop.store.queries() if query.round == 4)
    assert counts == {"random": 10, "greedy V": 10}


def test_the_guard_forgets_what_is_long_past(world: World, open_loop: Opener) -> None:
    """Twenty wrong predictions, then ten calibrated ones; each round with its own inflation."""
    store = open_loop().store
    for number, (size, inflation) in enumerate([(20, 4.0), (10, 2.0)], start=1):
        proposals = [Proposal(f"item {number}", f"item {k + 5}", "x", 0.9) for k in range(size)]
        store.propose(number, proposals, "x", {"labels": 0, "inflation": inflation})
    outcomes = [0.0] * 20 + [1.0] * 9 + [0.0]
    for query, outcome in zip(store.queries(), outcomes, strict=True):
        store.record(query.id, outcome, "Ann")
    assert recent_z(store) == pytest.approx(prequential([0.9] * 30, outcomes, [4.0] * 20 + [2.0] * 10).z)
    assert recent_z(store) > 3
    assert recent_z(store, 10) == pytest.approx(0.0)
    assert campaign_history(store)["z"][0] == pytest.approx(prequential([0.9] * 20, [0.0] * 20, 4.0).z)


def test_the_same_name_in_two_processes(world: World, open_loop: Opener) -> None:
    """The answer that the other process stored first stands; this one warns and continues."""
    other = open_loop().store

    def slow(first: Any, second: Any) -> Any:
        query = other.pending("Ann")[0]
        if query.id == 3:
            other.record(query.id, 0.25, "Ann")
        return world(first, second)

    with pytest.warns(UserWarning, match="answered query 3 with 0.25 .* the first answer stands"):
        assert run(open_loop(), slow, 10) == 10
    assert [label.outcome for label in other.labels()][2] == 0.25


def test_a_round_that_another_process_proposed_first(world: World, open_loop: Opener) -> None:
    other, theirs = open_loop().store, [Proposal("item 1", "item 2", "theirs", 0.5)]

    def slow(*arguments: Any) -> Any:
        other.propose(2, theirs, "theirs")
        return laplace(*arguments)

    loop = open_loop(inference=slow)
    run(loop, world, 10)
    run(loop, world, 11)
    assert [tuple(query[2:5]) for query in other.queries() if query.round == 2] == [("item 1", "item 2", "theirs")]
    assert set(world.asked[-1]) == {"item 1", "item 2"}


def test_stopping_curve_of_what_is_left(world: World, open_loop: Opener) -> None:
    loop = open_loop(candidates="in-prompt")  # 75 pairs
    run(loop, world, 20)
    curve = loop.stopping_curve(55)
    assert len(curve) == 56
    run(loop, world, 30)
    assert curve["variance"][0] == pytest.approx(loop.history()["target_variance"][2])
    with pytest.raises(ValueError, match="45 candidates left, got 46"):
        loop.stopping_curve(46)


@pytest.mark.slow
def test_networks_and_annotators(world: World, open_loop: Opener) -> None:
    for model in (BradleyTerry(MLPHead(widths=(8,), prior_sd=1.0)), BradleyTerry(LinearHead(1.0), annotators=True)):
        loop = open_loop(f"{type(model.head).__name__}.db", model=model, batch=20)
        run(loop, world, 20)
        assert run(loop, world, 40, who="Bob") == 40
        assert loop.history()["expected_reduction"][1] > 0


def at_prompt(*typed: str | type[BaseException]) -> tuple[PromptAnnotator, list[str]]:
    lines, shown = iter(typed), []

    def ask(prompt: str) -> str:
        shown.append(prompt)
        line = next(lines)
        if not isinstance(line, str):
            raise line
        return line

    return PromptAnnotator({"a": "Tea, please."}, "Which is politer?", ask, shown.append), shown


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("l", "first"), (" LEFT ", "first"), ("r", "second"), ("right", "second"), ("t", "tie"), ("tie", "tie"),
        ("s", "skip"), ("skip", "skip"), ("q", "quit"), ("quit", "quit"), (EOFError, "quit"),
        (KeyboardInterrupt, "quit"),
    ],
)  # fmt: skip
def test_a_person_types(typed: Any, answer: str) -> None:
    person, shown = at_prompt(typed)
    assert person("a", "b") == answer
    assert shown[:4] == ["", "Which is politer?", "  left:  Tea, please.", "  right: b"]


def test_a_person_mistypes_and_is_asked_again() -> None:
    person, shown = at_prompt("", "first!", "r")
    assert person("a", "b") == "second"
    assert [line for line in shown if "is not one of these" in line] == [
        "'' is not one of these.",
        "'first!' is not one of these.",
    ]


def test_a_person_runs_a_campaign(world: World, open_loop: Opener, capsys: pytest.CaptureFixture[str]) -> None:
    person, _ = at_prompt("l", "t", "s", "r", KeyboardInterrupt)
    loop = open_loop()
    assert loop.run(person, 10, who="Cyd") == 3
    assert [label.outcome for label in loop.store.labels()] == [1.0, 0.5, None, 0.0]
    assert capsys.readouterr().err == ""  # no progress bar between the questions


def test_comparisons_know_who_answered(world: World, open_loop: Opener) -> None:
    loop = open_loop()
    for budget, who in ((3, "Bob"), (5, "Ann"), (6, "Bob")):
        run(loop, world, budget, who)
    answers = loop.comparisons()
    assert isinstance(answers, Comparisons)
    assert answers.annotator is not None
    assert answers.annotator_ids == ("Bob", "Ann")
    assert answers.annotator.tolist() == [0, 0, 0, 1, 1, 0]
