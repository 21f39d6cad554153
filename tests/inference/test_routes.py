"""The exact Newton route and the general one give one answer; handlers are obeyed; the evidence is at its top."""

import math
import re
from dataclasses import fields, replace

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.integrate
from numpyro.handlers import condition, scale, substitute
from scipy.special import expit
from scipy.stats import halfnorm, norm

from tercet.inference import LaplaceOptions, TrainingOptions, laplace
from tercet.inference.posteriors.gaussian import SiteGaussian, UnconstrainedGaussian
from tercet.inference.preferences.prior_scale import general_evidence, linear_evidence
from tercet.models import (
    AbilityHead,
    BradleyTerry,
    Comparisons,
    Davidson,
    Graded,
    Items,
    LinearHead,
    MLPHead,
    RaoKupper,
    Thurstone,
)
from tercet.models.preferences.heads import HYPERPRIOR_SD


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
        (Davidson(LinearHead(1.0), order_effect=True), {"weights": True, "levels": 3}),
        (Graded(AbilityHead(1.0), levels=4, order_effect=True), {"weights": True, "levels": 4}),
        (Graded(LinearHead(1.0), levels=5), {"levels": 5}),
        (RaoKupper(AbilityHead(1.0)), {"levels": 3}),
    ],
    ids=str,
)
def test_both_routes_agree(model, data, make_data):
    items, answers = make_data(**data)
    exact, general = laplace(model, items, answers), laplace(wrapped(model), items, answers)
    assert isinstance(exact, SiteGaussian)
    assert isinstance(general, UnconstrainedGaussian)
    assert exact.diagnostics["converged"]
    assert general.diagnostics["converged"]
    for a, b in zip(moments(exact), moments(general), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)
    if not math.isinf(model.prior_sd):
        assert exact.diagnostics["log_evidence"] == pytest.approx(general.diagnostics["log_evidence"], abs=1e-7)


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
    plain = laplace(model, items, answers)
    fixed = laplace(condition(model, data={"order_effect": 2.0}), items, answers)
    assert len(fixed.center) == 3
    assert np.abs(fixed.center - plain.mean()["weights"]).max() > 1e-3
    with pytest.raises(ValueError, match=r"'order_effect' was given a value by .*substitute.*use .*condition"):
        laplace(substitute(model, data={"order_effect": 2.0}), items, answers)

    def narrow(items, comparisons):
        model.with_prior_sd(0.1)(items, comparisons)

    expected = laplace(model.with_prior_sd(0.1), items, answers)
    np.testing.assert_allclose(moments(laplace(narrow, items, answers))[0], moments(expected)[0], atol=1e-8)


def test_a_scale_fixed_by_a_handler_is_not_ignored(make_data):
    """A learned scale fixed by a handler gives the rewards of that scale."""
    items, answers = make_data()
    fixed = laplace(condition(BradleyTerry(LinearHead()), data={"prior_sd": 0.2}), items, answers)
    expected = laplace(BradleyTerry(LinearHead(0.2)), items, answers)
    at_mode = fixed.constrain(fixed.center[None])["weights"][0]
    np.testing.assert_allclose(at_mode, expected.center, atol=1e-8)


@pytest.mark.parametrize("model", [BradleyTerry(LinearHead(), order_effect=True), Thurstone(AbilityHead())], ids=str)
def test_learned_scale_is_the_mode_of_its_evidence_and_prior(model, make_data):
    """Over a grid: Laplace evidence plus the half-Normal log prior of log s is nowhere larger."""
    items, answers = make_data(n=20, m=400)
    fit = laplace(model, items, answers)
    best = fit.diagnostics["prior_sd"]

    def objective(sd):
        evidence = laplace(model.with_prior_sd(sd), items, answers).diagnostics["log_evidence"]
        return evidence + halfnorm.logpdf(sd, scale=HYPERPRIOR_SD) + np.log(sd)

    top = objective(best)
    curve = [objective(sd) for sd in best * np.geomspace(0.25, 4, 12)]
    assert max(curve) <= top + 1e-4
    assert max(curve[0], curve[-1]) < top - 0.1
    exact = laplace(model.with_prior_sd(best), items, answers)
    np.testing.assert_allclose(fit.center, exact.center, atol=1e-7)
    assert fit.diagnostics["log_evidence"] == pytest.approx(exact.diagnostics["log_evidence"], abs=1e-8)


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


@pytest.mark.parametrize("model", [BradleyTerry(LinearHead(), order_effect=True), Thurstone(AbilityHead())], ids=str)
def test_evidence_of_the_general_route_is_that_of_the_linear_one(model, make_data):
    items, answers = make_data(weights=True)
    options = LaplaceOptions()
    linear = linear_evidence(model.with_prior_sd(1.0).linear_form(items, answers), options)[0]
    general = general_evidence(model, items, answers, key=0, options=options)[0]
    for log_sd in (-1.5, 0.0, 1.0):
        assert general(log_sd) == pytest.approx(linear(log_sd), abs=1e-6)


@pytest.mark.parametrize("curvature", ["exact", pytest.param("gauss-newton", marks=pytest.mark.slow)])
def test_learned_scale_of_a_model_without_linear_form(curvature, make_data):
    """Annotators: evidence of fixed-scale fits plus the scale's prior, largest at the scale found."""
    items, answers = make_data(m=60)
    asked = replace(answers, annotator=np.arange(60) % 3)
    options = LaplaceOptions(curvature=curvature)
    fit = laplace(BradleyTerry(LinearHead(), annotators=True), items, asked, options=options)
    best = fit.diagnostics["prior_sd"]
    evidence = {
        sd: laplace(fit.model.with_prior_sd(sd), items, asked, options=options).diagnostics["log_evidence"]
        for sd in (0.7 * best, best, 1.4 * best)
    }
    found = {sd: value + halfnorm.logpdf(sd, scale=HYPERPRIOR_SD) + np.log(sd) for sd, value in evidence.items()}
    assert found[best] == max(found.values())
    assert fit.diagnostics["log_evidence"] == pytest.approx(evidence[best], abs=1e-6)


@pytest.mark.parametrize("outcome", [0.0, 0.5], ids=["separable", "undecided"])
def test_learned_scale_stays_finite_where_the_evidence_alone_would_not(outcome):
    """Answers that never contradict would send the scale to infinity, all ties to zero; the prior holds it."""
    items = Items(np.linspace(-1, 1, 8)[:, None])
    first, second = np.triu_indices(8, 1)
    answers = Comparisons(first, second, np.full(28, outcome))
    fit = laplace(BradleyTerry(LinearHead()), items, answers)
    assert fit.diagnostics["converged"]
    low, high = LaplaceOptions().prior_sd_range
    assert 2 * low < fit.diagnostics["prior_sd"] < high / 10


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


OPTIONS = {
    "tolerance": 1e-5,
    "max_steps": 7,
    "curvature": "gauss-newton",
    "prior_sd_range": (0.5, 2.0),
    "training": TrainingOptions(rounds=1),
}
EXACT, GENERAL = {"tolerance", "max_steps"}, {"tolerance", "max_steps", "curvature"}
NETWORK, LEARNED = {"tolerance", "max_steps", "training"}, {"prior_sd_range"}
ROUTES = {
    "exact Newton, scale fixed": (BradleyTerry(LinearHead(1.0)), EXACT),
    "exact Newton, scale learned": (BradleyTerry(LinearHead()), EXACT | LEARNED),
    "exact Newton, no prior": (Thurstone(AbilityHead(math.inf)), EXACT),
    "exact Newton, ties": (Davidson(LinearHead(1.0)), EXACT),
    "general, scale fixed": (BradleyTerry(LinearHead(1.0), annotators=True), GENERAL),
    "general, scale learned": (Davidson(LinearHead(), annotators=True), GENERAL | LEARNED),
    "general, a NumPyro model": (wrapped(BradleyTerry(LinearHead(1.0))), GENERAL),
    "general, a handler": (scale(BradleyTerry(LinearHead()), scale=0.5), GENERAL),
    "last layer, scale fixed": (BradleyTerry(MLPHead(1.0, widths=(4,))), NETWORK),
    "last layer, scale learned": (BradleyTerry(MLPHead(widths=(4,))), NETWORK | LEARNED),
    "last layer, general, scale fixed": (BradleyTerry(MLPHead(1.0, widths=(4,)), annotators=True), NETWORK | GENERAL),
    "last layer, general, scale learned": (
        BradleyTerry(MLPHead(widths=(4,)), annotators=True),
        NETWORK | GENERAL | LEARNED,
    ),
}


def test_the_table_of_options_is_complete():
    default = LaplaceOptions()
    assert set(OPTIONS) == {option.name for option in fields(LaplaceOptions)}
    assert all(value != getattr(default, name) for name, value in OPTIONS.items())


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("route", ROUTES)
def test_an_option_that_a_route_does_not_read_is_an_error(route, option, make_data, monkeypatch):
    """Every route and every option: refused with what is read instead, or accepted."""
    model, read = ROUTES[route]
    items, answers = make_data(n=6, m=12)
    options = LaplaceOptions(**{option: OPTIONS[option]})
    passed = []

    class SearchedError(Exception):
        """The options have been accepted."""

    def searched(self, route, *names):
        check(self, route, *names)
        passed.append(set(names))
        raise SearchedError

    check = LaplaceOptions.check_read
    monkeypatch.setattr(LaplaceOptions, "check_read", searched)
    if option in read:
        with pytest.raises(SearchedError):
            laplace(model, items, answers, options=options)
        assert passed == [read]
    else:
        message = rf"LaplaceOptions\({option}={re.escape(repr(OPTIONS[option]))}\) is not read by .*, which reads"
        with pytest.raises(ValueError, match=message) as error:
            laplace(model, items, answers, options=options)
        assert set(re.findall(r"\w+", str(error.value).split("which reads")[1].split(";")[0])) == read


def test_options_that_are_read_change_the_fit(make_data):
    """Fewer steps, a looser tolerance, a narrower range of scales."""
    items, answers = make_data()
    model = BradleyTerry(LinearHead())
    fit = laplace(model, items, answers)
    narrow = laplace(model, items, answers, options=LaplaceOptions(prior_sd_range=(20.0, 30.0)))
    assert narrow.diagnostics["prior_sd"] == pytest.approx(20.0, rel=0.01)
    assert fit.diagnostics["prior_sd"] < 20.0
    fixed = BradleyTerry(LinearHead(2.0))
    loose = laplace(fixed, items, answers, options=LaplaceOptions(tolerance=0.1))
    assert loose.diagnostics["steps"] < laplace(fixed, items, answers).diagnostics["steps"]
    with pytest.warns(UserWarning, match="Newton stopped after 1 steps"):
        laplace(fixed, items, answers, options=LaplaceOptions(max_steps=1))
