"""The exact Newton route and the general one give one answer; handlers are obeyed; the evidence is at its top."""

import math
import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.integrate
from numpyro.handlers import condition, scale, substitute
from scipy.special import expit
from scipy.stats import norm

from tercet.inference import LaplaceOptions, laplace
from tercet.inference.evidence import _general, _linear, learn_prior_sd
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Davidson, Items, LinearHead, Thurstone


def wrapped(model):
    """The same model, no longer known as one of ours: the general route."""
    return lambda *args: model(*args)


def moments(fit):
    """Mean and covariance of every real site, in the order of names."""
    sites = fit.unravel(np.arange(float(len(fit.center))))
    order = np.concatenate([np.atleast_1d(sites[name]) for name in sorted(sites)]).astype(int)
    return fit.center[order], (fit.root @ fit.root.T)[np.ix_(order, order)]


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (BradleyTerry(LinearHead(1.0)), {}),
        (BradleyTerry(LinearHead(1.0), order_effect=True), {"weights": True}),
        (BradleyTerry(AbilityHead(1.5), order_effect=True), {"soft": True}),
        (BradleyTerry(AbilityHead(math.inf)), {"m": 400, "soft": True}),
        (Thurstone(LinearHead(2.0)), {"weights": True, "soft": True}),
        (Thurstone(AbilityHead(0.7), order_effect=True), {"weights": True}),
    ],
    ids=str,
)
def test_both_routes_agree(model, data, make_data):
    items, answers = make_data(**data)
    exact, general = laplace(model, items, answers), laplace(wrapped(model), items, answers)
    assert exact.layout is not None
    assert general.layout is None
    assert exact.diagnostics["converged"]
    assert general.diagnostics["converged"]
    for a, b in zip(moments(exact), moments(general), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)
    if not math.isinf(model.prior_sd):
        assert exact.diagnostics["log_evidence"] == pytest.approx(
            general.diagnostics["log_evidence"], abs=1e-7
        )


def test_handlers_are_obeyed(make_data):
    """Half the likelihood is half the weights; another prior is another prior; a fixed site stays fixed."""
    items, answers = make_data()
    model = BradleyTerry(LinearHead(1.0), order_effect=True)
    halved = laplace(scale(model, scale=0.5), items, answers)
    # scale halves the prior too: a prior sd sqrt 2 larger
    weights = Comparisons(answers.first, answers.second, answers.outcome, np.full(len(answers), 0.5))
    form = model.linear_form(items, weights)
    _, gradient, _ = form.with_prior_precision(form.prior_precision / 2).value_and_gradient(
        np.append(halved.unravel(halved.center)["weights"], halved.unravel(halved.center)["order_effect"])
    )
    np.testing.assert_allclose(gradient, 0, atol=1e-8)
    for handler in (condition, substitute):
        fixed = laplace(handler(model, data={"order_effect": 2.0}), items, answers)
        assert len(fixed.center) == 3
        assert np.abs(fixed.center - laplace(model, items, answers).center[:3]).max() > 1e-3

    def narrow(items, comparisons):
        with numpyro.handlers.reparam(config={}):
            model.with_prior_sd(0.1)(items, comparisons)

    expected = laplace(model.with_prior_sd(0.1), items, answers)
    np.testing.assert_allclose(moments(laplace(narrow, items, answers))[0], moments(expected)[0], atol=1e-8)


def test_another_prior_by_substitution_is_not_ignored(make_data):
    """A learned scale fixed by a handler gives the rewards of that scale."""
    items, answers = make_data()
    fixed = laplace(substitute(BradleyTerry(LinearHead()), data={"prior_sd": 0.2}), items, answers)
    expected = laplace(BradleyTerry(LinearHead(0.2)), items, answers)
    np.testing.assert_allclose(fixed.mean()["weights"], expected.center, atol=0.05 * expected.root.std())
    at_mode = fixed.constrain(fixed.center[None])["weights"][0]
    np.testing.assert_allclose(at_mode, expected.center, atol=1e-8)


@pytest.mark.parametrize(
    "model", [BradleyTerry(LinearHead(), order_effect=True), Thurstone(AbilityHead())], ids=str
)
def test_learned_scale_maximises_the_evidence(model, make_data):
    items, answers = make_data(n=20, m=400)
    fit = laplace(model, items, answers)
    best = fit.diagnostics["prior_sd"]
    grid = [laplace(model.with_prior_sd(s * best), items, answers) for s in np.geomspace(0.25, 4, 13)]
    curve = [g.diagnostics["log_evidence"] for g in grid]
    assert max(curve) <= fit.diagnostics["log_evidence"] + 1e-4
    assert curve[0] < fit.diagnostics["log_evidence"] - 0.01
    assert not fit.diagnostics["prior_sd_at_bound"]


def test_evidence_of_one_weight_is_the_integral():
    """One dimension, many answers: Laplace's evidence against adaptive integration (error of order 1 / n)."""
    items = Items([[0.0], [1.0]])
    answers = Comparisons([0, 0], [1, 1], [1.0, 0.0], weight=[130.0, 70.0])
    head = LinearHead(1.0)
    tau = head.unit(items)

    def joint(w):
        return expit(-w) ** 130 * expit(w) ** 70 * norm.pdf(w, scale=tau)

    integral = scipy.integrate.quad(joint, -3, 2, points=[-0.6], epsabs=0)[0]
    fit = laplace(BradleyTerry(head), items, answers)
    assert fit.diagnostics["log_evidence"] == pytest.approx(np.log(integral), abs=2 / 200)


@pytest.mark.parametrize(
    "model", [BradleyTerry(LinearHead(), order_effect=True), Thurstone(AbilityHead())], ids=str
)
def test_evidence_of_the_general_route_is_that_of_the_linear_one(model, make_data):
    items, answers = make_data(weights=True)
    options = LaplaceOptions()
    linear, general = (make(model, (items, answers), {}, 0, options) for make in (_linear, _general))
    for log_sd in (-1.5, 0.0, 1.0):
        assert general(log_sd)[0] == pytest.approx(linear(log_sd)[0], abs=1e-6)


def test_learned_scale_of_a_model_without_linear_form(make_data):
    """Davidson: the scale found is a maximum of the fixed-scale fits' own evidence."""
    items, answers = make_data()
    tied = Comparisons(answers.first, answers.second, np.where(np.arange(150) % 5 == 0, 0.5, answers.outcome))
    fit = laplace(Davidson(LinearHead()), items, tied)
    best = fit.diagnostics["prior_sd"]
    evidence = {
        s: laplace(Davidson(LinearHead(s * best)), items, tied).diagnostics["log_evidence"]
        for s in (0.7, 1.0, 1.4)
    }
    assert evidence[1.0] >= max(evidence.values())
    assert fit.diagnostics["log_evidence"] == pytest.approx(evidence[1.0], abs=1e-6)


def test_evidence_at_its_upper_bound_warns():
    """Answers that never contradict: the likelihood keeps rising with the scale."""
    items = Items(np.linspace(-1, 1, 8)[:, None])
    first, second = np.triu_indices(8, 1)
    answers = Comparisons(first, second, np.zeros(28))
    with pytest.warns(UserWarning, match=r"evidence keeps rising up to prior_sd = 30.*separable"):
        fit = laplace(BradleyTerry(LinearHead()), items, answers)
    assert fit.diagnostics["prior_sd_at_bound"]


def test_evidence_at_its_lower_bound_is_told_without_a_warning():
    """Answers that carry no preference: the scale goes to its floor, which harms nobody."""
    items = Items(np.random.default_rng(0).normal(size=(6, 2)))
    first, second = np.triu_indices(6, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = learn_prior_sd(
            BradleyTerry(LinearHead()),
            items,
            Comparisons(first, second, np.full(15, 0.5)),
            options=LaplaceOptions(),
        )
    assert found["prior_sd_at_bound"]
    assert found["prior_sd"] < 0.06


def test_data_by_keyword(make_data):
    items, answers = make_data()
    for model in (BradleyTerry(LinearHead()), Davidson(LinearHead(1.0))):
        a, b = laplace(model, items, answers), laplace(model, items=items, comparisons=answers)
        np.testing.assert_allclose(a.center, b.center)


def test_prior_in_numpyro_is_the_one_of_the_linear_form(make_data):
    """A model written in plain NumPyro with the same prior: the two definitions are one."""
    items, answers = make_data()
    D = items.features[answers.first] - items.features[answers.second]
    tau = 1.3 * LinearHead(1.3).unit(items)

    def plain(D, y):
        w = numpyro.sample("w", dist.Normal(0, tau).expand([3]).to_event(1))
        numpyro.sample("y", dist.BernoulliLogits(D @ w), obs=y)

    np.testing.assert_allclose(
        laplace(plain, D, answers.outcome).center,
        laplace(BradleyTerry(LinearHead(1.3)), items, answers).center,
        atol=1e-8,
    )
