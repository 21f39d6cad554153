"""Log probabilities of answers with auxiliary parameters: they sum to one, and their derivatives are derivatives."""

import numpy as np
import pytest

from tercet.models import Davidson, Graded
from tercet.models.preferences.answers import DavidsonAnswers, GradedAnswers

ANSWERS = [DavidsonAnswers(), *(GradedAnswers(levels) for levels in (3, 4, 5, 7))]
STEP = 1e-5


@pytest.fixture(params=ANSWERS, ids=str)
def case(request, rng):
    answers = request.param
    log_auxiliary = rng.normal(size=sum(site.size for site in answers.auxiliaries))
    outcome = rng.integers(answers.levels, size=40) / (answers.levels - 1)
    return answers, 3.0 * rng.normal(size=40), log_auxiliary, outcome


def test_derivatives_are_derivatives(case):
    """Central differences of the log probability, and of its first derivatives, in the logit and each log auxiliary."""
    answers, eta, log_auxiliary, outcome = case
    _, of_logit, of_auxiliary = answers.scores(eta, log_auxiliary, outcome)
    own, mixed, square = answers.curvatures(eta, log_auxiliary, outcome)
    first = np.column_stack([of_logit, of_auxiliary])
    second = -np.block([[own[:, None, None], mixed[:, None, :]], [mixed[:, :, None], square]])
    for k, step in enumerate(STEP * np.eye(first.shape[1])):
        up, down = (answers.scores(eta + s * step[0], log_auxiliary + s * step[1:], outcome) for s in (1, -1))
        np.testing.assert_allclose((up.value - down.value) / (2 * STEP), first[:, k], atol=1e-7)
        change = np.column_stack([up.logit - down.logit, up.auxiliary - down.auxiliary])
        np.testing.assert_allclose(change / (2 * STEP), second[:, :, k], atol=1e-6)


def test_probabilities_sum_to_one_and_the_information_is_the_expected_curvature(case):
    answers, eta, log_auxiliary, _ = case
    outcomes = [np.full(len(eta), outcome) for outcome in np.linspace(0, 1, answers.levels)]
    p = np.exp([answers.log_probability(eta, log_auxiliary, outcome) for outcome in outcomes])
    np.testing.assert_allclose(p.sum(axis=0), 1.0)
    parts = zip(*(answers.curvatures(eta, log_auxiliary, outcome) for outcome in outcomes), strict=True)
    for own, part in zip(answers.information(eta, log_auxiliary), parts, strict=True):
        np.testing.assert_allclose(np.einsum("km,km...->m...", p, np.stack(part)), own, atol=1e-12)


@pytest.mark.parametrize(("model", "answers"), [(Davidson(), ANSWERS[0]), (Graded(levels=5), ANSWERS[3])])
def test_they_are_those_of_the_distribution(model, answers, rng):
    """The models' own probabilities, from other formulas; and logarithms that stay finite far out."""
    eta, log_auxiliary = 2.0 * rng.normal(size=30), 0.5 * rng.normal(size=sum(s.size for s in answers.auxiliaries))
    ((name, length),) = answers.auxiliaries
    sites = {name: np.exp(log_auxiliary) if length else np.exp(log_auxiliary[0])}
    expected = model.probabilities(eta, sites | model.derived(sites))
    for k, outcome in enumerate(np.linspace(0, 1, answers.levels)):
        found = answers.log_probability(eta, log_auxiliary, np.full(30, outcome))
        np.testing.assert_allclose(np.exp(found), expected[:, k], rtol=1e-10)
    far = answers.log_probability(np.array([-2000.0, 2000.0]), log_auxiliary, np.array([1.0, 0.0]))
    assert np.isfinite(far).all()
    assert (far < -500).all()
