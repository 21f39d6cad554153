"""Fisher information against its definition: the covariance of the score under the model itself."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.handlers import scale

from tercet.inference import fisher_information
from tercet.inference.posteriors.fisher_families import family_information
from tercet.inference.preferences import comparison_information
from tercet.models import AbilityHead, BradleyTerry, Comparisons, Davidson, LinearHead, Thurstone
from tercet.models.preferences.distributions import SoftBernoulli
from tercet.models.preferences.links import Logistic, Probit

X = np.array([[0.4, -1.0], [1.2, 0.3], [-0.5, 0.8]])
A = np.array([[1.0, 0.3], [0.2, 1.5]])


def covariance(t):
    return A @ A.T * jnp.exp(t[0])


FAMILIES = {
    "bernoulli logits": lambda t: dist.BernoulliLogits(X @ t),
    "bernoulli probs": lambda t: dist.BernoulliProbs(jax.nn.sigmoid(X @ t) ** 2),
    "soft bernoulli": lambda t: SoftBernoulli(X @ t, Logistic()),
    "probit": lambda t: SoftBernoulli(X @ t, Probit()),
    "categorical logits": lambda t: dist.CategoricalLogits(jnp.stack([X @ t, t[0] * X[:, 1], jnp.zeros(3)], -1)),
    "categorical probs": lambda t: dist.CategoricalProbs(jax.nn.softmax(jnp.stack([X @ t, X[:, 0]], -1))),
    "ordered": lambda t: dist.OrderedLogistic(X @ t, np.array([-0.7, 0.5])),
    "normal": lambda t: dist.Normal(X @ t, jnp.exp(X[:, 0] * t[1])),
    "log normal": lambda t: dist.LogNormal(X @ t, jnp.exp(t[0])),
    "multivariate normal": lambda t: dist.MultivariateNormal(X * t, covariance(t)),
    "poisson": lambda t: dist.Poisson(jnp.exp(X @ t)),
    "exponential": lambda t: dist.Exponential(jnp.exp(X @ t)),
    "gamma": lambda t: dist.Gamma(jnp.exp(X @ t), jnp.exp(t[0])),
    "binomial logits": lambda t: dist.BinomialLogits(X @ t, total_count=np.array([3, 5, 9])),
    "binomial probs": lambda t: dist.BinomialProbs(jax.nn.sigmoid(X @ t), total_count=7),
    "to event": lambda t: dist.Normal(X * t, jnp.exp(t[0])).to_event(1),
    "expanded": lambda t: dist.Poisson(jnp.exp(t[0] - t[1])).expand([3]),
}
THETA = np.array([0.3, -0.6])
WEIGHT = np.array([1.0, 2.0, 0.5])


def design(family):
    def model(weight=1.0):
        t = numpyro.sample("t", dist.Normal(0, 1).expand([2]).to_event(1))
        with numpyro.plate("n", 3), scale(scale=weight):
            numpyro.sample("y", family(t))

    return model


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_closed_forms_are_the_covariance_of_the_score(family, seed):
    """Weighted scores of 20,000 simulated answers: every entry within five of its standard errors."""
    found = fisher_information(design(family), {"t": THETA}, weight=WEIGHT)
    draws = family(THETA).sample(jax.random.key(seed + 11), (20_000,))
    scores = jax.jit(jax.vmap(jax.jacrev(lambda t, y: family(t).log_prob(y)), in_axes=(None, 0)))(THETA, draws)
    products = np.asarray(jnp.einsum("snp,snq,n->spq", scores, scores, WEIGHT))
    error = products.std(0) / np.sqrt(len(products))
    assert (np.abs(found - products.mean(0)) < 5 * error + 1e-9).all()
    np.testing.assert_allclose(found, found.T, atol=1e-12)


def test_every_family_is_covered():
    """The table above holds one of each class that has a closed form."""
    classes = [c for c in family_information.registry if c is not object]
    classes += [SoftBernoulli]  # says its own
    seen = [family(THETA) for family in FAMILIES.values()]
    assert [c for c in classes if not any(isinstance(fn, c) for fn in seen)] == []


def test_families_without_closed_form_are_simulated(seed):
    """Student's t with scale s: information about the location is (v + 1) / ((v + 3) s^2)."""

    def model():
        m = numpyro.sample("m", dist.Normal(0, 1))
        with numpyro.plate("n", 4), scale(scale=2.0):
            numpyro.sample("y", dist.StudentT(5.0, m, 2.0))

    with pytest.raises(ValueError, match=r"'y' has the family StudentT.*samples=10_000"):
        fisher_information(model, {"m": 0.2})
    exact = 2 * 4 * 6 / (8 * 4)
    found = fisher_information(model, {"m": 0.2}, samples=20_000, key=seed)
    # four answers a sample; a squared score has relative sd below 1.5
    assert found[0, 0] == pytest.approx(exact, rel=5 * 1.5 / np.sqrt(80_000))
    again = fisher_information(model, {"m": 0.2}, samples=20_000, key=seed)
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("order", [False, True])
@pytest.mark.parametrize("head", [LinearHead(1.0), AbilityHead(1.0)], ids=str)
@pytest.mark.parametrize("family", [BradleyTerry, Thurstone, Davidson])
def test_comparisons_in_closed_form(family, head, order, make_data):
    """D' diag(w v) D and J' I J are the same matrix; outcomes play no part."""
    items, answers = make_data(n=6, m=20, weights=True)
    model = family(head, order_effect=order)
    sites = {head.site: np.linspace(-1, 1, head.size(items))}
    sites |= {"order_effect": 0.4} if order else {}
    sites |= {"tie_strength": 0.8} if family is Davidson else {}
    closed = comparison_information(model, sites, items, answers)
    # names sorted: [ability], order_effect, tie_strength, [weights]; the closed form has the head, then the order
    place = ravel_pytree(sites)[1](jnp.arange(float(sum(np.size(value) for value in sites.values()))))
    rows = np.r_[np.asarray(place[head.site]), place.get("order_effect", ())].astype(int)
    whole = fisher_information(model, sites, items, answers)
    np.testing.assert_allclose(closed, whole[np.ix_(rows, rows)], atol=1e-9)
    flipped = Comparisons(answers.first, answers.second, 1 - answers.outcome, answers.weight)
    np.testing.assert_array_equal(closed, comparison_information(model, sites, items, flipped))


def test_answers_add_up_and_weights_count(make_data):
    items, answers = make_data(n=6, m=20, weights=True)
    model, sites = BradleyTerry(LinearHead(1.0)), {"weights": np.array([0.5, -0.2, 1.0])}
    parts = [comparison_information(model, sites, items, answers.take(rows)) for rows in ([0, 1, 2], np.arange(3, 20))]
    np.testing.assert_allclose(sum(parts), comparison_information(model, sites, items, answers), atol=1e-10)


def test_events_are_weighted_as_wholes():
    """Plate of 2 answers with 2 entries each: a weight belongs to the answer, not to the entry."""

    def model():
        m = numpyro.sample("m", dist.Normal(0, 1).expand([2]).to_event(1))
        with numpyro.plate("n", 2), scale(scale=jnp.array([1.0, 3.0])):
            numpyro.sample("y", dist.Normal(m * jnp.array([[1.0, 2.0], [1.0, 2.0]]), 1.0).to_event(1))

    np.testing.assert_allclose(fisher_information(model, {"m": np.zeros(2)}), np.diag([4.0, 16.0]), atol=1e-12)


def test_observed_or_not_is_the_same_design():
    def model(y=None):
        rate = numpyro.sample("rate", dist.Exponential(1.0))
        with numpyro.plate("count", 3):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    expected = [[3 / 4.0]]
    np.testing.assert_allclose(fisher_information(model, {"rate": 4.0}), expected)
    np.testing.assert_allclose(fisher_information(model, {"rate": 4.0}, np.array([1, 2, 9])), expected)


def test_questions_without_an_answer_are_refused(make_data):
    items, answers = make_data()
    with pytest.raises(ValueError, match="no observations besides the given sites"):
        fisher_information(lambda: numpyro.sample("t", dist.Normal(0, 1)), {"t": 0.0})
    with pytest.raises(ValueError, match="with annotators use fisher_information"):
        comparison_information(BradleyTerry(annotators=True), {}, items, answers)
    with pytest.raises(ValueError, match="weights"):  # deterministic under a learned scale: no parameter of the model
        fisher_information(BradleyTerry(LinearHead()), {"weights": np.zeros(3)}, items, answers)

    def masked():
        t = numpyro.sample("t", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(t, 1).expand([2]).mask(jnp.array([True, False])).to_event(1))

    with pytest.raises(ValueError, match="observation is masked"):
        fisher_information(masked, {"t": 0.0})
