"""Fisher information of any NumPyro model at any design: J' I(eta) J over the answers the model would give.

eta are the parameters of each answer's distribution, J their derivative in the model's own parameters by automatic
differentiation, and I(eta) the closed form of the family. The observed Hessian is something else and has another
name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from jax.scipy.special import polygamma
from jaxtyping import Float
from numpyro.handlers import seed, substitute, trace

from tercet.inference.posteriors.problem import Problem, log_prob, own_arrays_as_jax
from tercet.models._inputs import as_key
from tercet.models.items.items import Items
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.comparisons import Comparisons
from tercet.models.preferences.distributions import SoftBernoulli

Family = Callable[[Any], tuple[Any, Callable[[Any], Any]]]
"""Distribution -> (eta [..., k], function from eta to its information [..., k, k])."""


def fisher_information(
    model: Callable[..., Any],
    sites: dict[str, Any],
    *args: Any,
    samples: int | None = None,
    key: Any = 0,
    **kwargs: Any,
) -> Float[np.ndarray, "p p"]:
    """Expected information of the answers of `model(*args)` about the sites given.

    I(theta) = sum over answers of J' I(eta) J, J = d eta / d theta.

    Parameters
    ----------
    model : NumPyro model
    sites : dict of values (constrained)
        The parameters theta and where they are; every other sample site of the model is an answer, whether it has
        been observed or not, so a design is asked about by calling the model without observations.
    *args, **kwargs : arguments of the model: its data, or its design
    samples : number of simulated scores, for answers whose family has no closed form here
    key : int seed or JAX key, for simulated scores

    Returns
    -------
    array [p, p]
        In the order of `jax.flatten_util.ravel_pytree(sites)`: names sorted, each flattened.

    Raises
    ------
    ValueError
        A family without closed form and no `samples`.

    References
    ----------
    Lehmann and Casella (1998), Theory of Point Estimation, section 2.6.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> from tercet.inference import fisher_information
    >>> def model(n):
    ...     rate = numpyro.sample("rate", dist.Exponential(1.0))
    ...     with numpyro.plate("count", n):
    ...         numpyro.sample("y", dist.Poisson(rate))
    >>> round(float(fisher_information(model, {"rate": 4.0}, 12)[0, 0]), 4)
    3.0
    """
    with jax.enable_x64(True):
        args, kwargs = own_arrays_as_jax((args, kwargs))
        theta, unravel = ravel_pytree({name: jnp.asarray(value, float) for name, value in sites.items()})

        def at(flat: Any) -> dict[str, Any]:
            fixed = substitute(seed(model, as_key(key)), data=unravel(flat))
            found = trace(fixed).get_trace(*args, **kwargs)
            unknown = [n for n in sites if n not in found or found[n]["type"] not in ("sample", "param")]
            if unknown:
                raise ValueError(
                    f"the model has no sample site named {unknown[0]!r}, it has "
                    f"{[n for n, s in found.items() if s['type'] == 'sample']}; where a head learns its scale, give it "
                    "one first (model.with_prior_sd(...))."
                )
            return {n: s for n, s in found.items() if n not in sites}

        return _program(at, theta)(theta, samples, key)


def likelihood_information(
    problem: Problem, z: np.ndarray, samples: int | None = None, key: Any = 0
) -> Float[np.ndarray, "p p"]:
    """Fisher information [p, p] of a problem's observed sites about its unconstrained vector."""

    def at(flat: Any) -> dict[str, Any]:
        return _observed(problem.replay(problem.constrain_one(flat)))

    with problem.precision():
        theta = jnp.asarray(z)
        return problem.kept("information", lambda: _program(at, theta))(theta, samples, key)


def prior_precision(problem: Problem, z: np.ndarray) -> Float[np.ndarray, "p p"]:
    """Hessian [p, p] of minus the log prior of a problem's unconstrained vector, Jacobian included."""

    def minus_log_prior(flat: Any) -> Any:
        answers = _observed(problem.replay(problem.constrain_one(flat))).values()
        return problem.potential(flat) + sum(jnp.sum(log_prob(site)) for site in answers)

    with problem.precision():
        return np.asarray(problem.kept("prior", lambda: jax.jit(jax.hessian(minus_log_prior)))(jnp.asarray(z)))


def comparison_information(
    model: ComparisonModel, sites: dict[str, Any], items: Items, comparisons: Comparisons
) -> Float[np.ndarray, "p p"]:
    """Closed form for comparisons: D' diag(w v) D about the head's parameters, v the information of one answer.

    Parameters
    ----------
    model : Bradley-Terry, Thurstone or Davidson
    sites : dict with the head's site [p], and `order_effect`, `tie_strength` where the model has them
    items, comparisons : the design (outcomes are not used)

    Returns
    -------
    array [p, p]
        With an order effect its row and column come last.
    """
    if model.annotators:
        raise ValueError("with annotators use fisher_information(model, sites, items, comparisons).")
    from tercet.models.preferences.heads import LinearInParameters

    if not isinstance(model.head, LinearInParameters):
        raise ValueError(f"{type(model.head).__name__} is not linear in its parameters; use fisher_information.")
    rows = model.design(items, comparisons).compact()
    theta = np.hstack([np.asarray(sites[name], dtype=np.float64) for name in (model.head.site, *model.effects)])
    return rows.gram(comparisons.weights * model.information(rows.matvec(theta), sites))


def _observed(sites: dict[str, Any]) -> dict[str, Any]:
    """The observed sites of a trace (factors, which observe nothing, left out)."""
    seen = {n: s for n, s in sites.items() if s["type"] == "sample" and s["is_observed"]}
    return {n: s for n, s in seen.items() if not isinstance(s["fn"], dist.Unit)}


def _program(at: Callable[[Any], dict[str, Any]], theta: Any) -> Callable[[Any, int | None, Any], np.ndarray]:
    """Information [p, p] as a function of (theta, samples, key); what has a closed form is compiled once."""
    families: dict[str, Family | None] = {}

    def look(flat: Any) -> None:  # traced, not run: only the classes are looked at
        for name, site in at(flat).items():
            if site["type"] == "sample" and not isinstance(site["fn"], dist.Unit):
                base = _unwrap(site["fn"])
                families[name] = next((family for cls, family in _FAMILIES if isinstance(base, cls)), None)

    jax.eval_shape(look, theta)
    if not families:
        raise ValueError("the model gives no answers besides the sites named: there is nothing to learn from.")
    closed = [jax.jit(_closed(at, name, family)) for name, family in families.items() if family]
    unknown = [name for name, family in families.items() if family is None]

    def run(theta: Any, samples: int | None, key: Any) -> np.ndarray:
        total = np.zeros((len(theta), len(theta)))
        for part in closed:
            total += np.asarray(part(theta))
        for name in unknown:
            total += _simulated(at, theta, name, samples, key)
        return total

    return run


def _closed(at: Callable[[Any], dict[str, Any]], name: str, family: Family) -> Callable[[Any], Any]:
    """Function from theta to J' I(eta) J [p, p] of one site."""

    def parameters(flat: Any) -> Any:
        fn = at(flat)[name]["fn"]
        eta = family(_unwrap(fn))[0]
        batch = fn.shape()[: len(fn.shape()) - _unwrap(fn).event_dim]
        return jnp.broadcast_to(eta, (*batch, eta.shape[-1]))

    def contribution(flat: Any) -> Any:
        site = at(flat)[name]
        base = _unwrap(site["fn"])
        eta, jacobian = parameters(flat), jax.jacfwd(parameters)(flat)  # [..., k], [..., k, p]
        weight = jnp.asarray(_scaled(site, 1.0))  # one an answer: its entries share it
        weight = weight.reshape(weight.shape + (1,) * (site["fn"].event_dim - base.event_dim))
        inner = family(base)[1](eta) * jnp.broadcast_to(weight, eta.shape[:-1])[..., None, None]
        return jnp.einsum("...ip,...ij,...jq->pq", jacobian, inner, jacobian)

    return contribution


def _simulated(at: Callable[[Any], dict[str, Any]], theta: Any, name: str, samples: int | None, key: Any) -> np.ndarray:
    if samples is None:
        found: list[str] = []
        jax.eval_shape(lambda flat: found.append(type(_unwrap(at(flat)[name]["fn"])).__name__), theta)
        raise ValueError(
            f"site {name!r} has the family {found[0]}, whose Fisher information has no closed form "
            "here; pass samples=10_000 (and a key) to average simulated scores."
        )

    def draw(flat: Any, key: Any) -> tuple[Any, Any]:
        site = at(flat)[name]
        answers = site["fn"].sample(key, (samples,))
        shape = jax.eval_shape(site["fn"].log_prob, answers[0]).shape
        return answers, jnp.broadcast_to(_scaled(site, 1.0), shape).ravel()

    answers, weight = jax.jit(draw)(theta, as_key(key))

    def log_likelihood(flat: Any, answer: Any) -> Any:
        return jnp.atleast_1d(at(flat)[name]["fn"].log_prob(answer)).ravel()

    by = jax.jacfwd if len(theta) <= len(weight) else jax.jacrev

    def outer(answer: Any) -> Any:
        scores = by(log_likelihood)(theta, answer)  # [answers, p]: independent, so their outer products add
        return (scores * weight[:, None]).T @ scores

    batch = max(1, min(samples, 256, 1_000_000 // max(1, len(weight))))
    return np.asarray(jax.jit(lambda values: jax.lax.map(outer, values, batch_size=batch).mean(axis=0))(answers))


def _scaled(site: dict[str, Any], value: Any) -> Any:
    return value if site["scale"] is None else site["scale"] * value


def _unwrap(fn: Any) -> Any:
    while isinstance(fn, (dist.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)):
        if isinstance(fn, dist.MaskedDistribution) and fn._mask is not True:
            raise ValueError("a masked answer: give the model only the observations that count.")
        fn = fn.base_dist
    return fn


def _scalar(name: str, information: Callable[[Any], Any]) -> Family:
    return lambda fn: (jnp.asarray(getattr(fn, name), float)[..., None], lambda eta: information(eta)[..., None])


def _bernoulli_logits(eta: Any) -> Any:
    return jax.nn.sigmoid(eta) * jax.nn.sigmoid(-eta)


def _soft_bernoulli(fn: Any) -> tuple[Any, Callable[[Any], Any]]:
    return fn.logits[..., None], lambda eta: SoftBernoulli(eta[..., 0], fn.link).fisher_information()[1]


def _categorical(fn: Any) -> tuple[Any, Callable[[Any], Any]]:
    def information(eta: Any) -> Any:
        p = jax.nn.softmax(eta, axis=-1)
        return p[..., None] * jnp.eye(p.shape[-1]) - p[..., :, None] * p[..., None, :]

    return fn.logits, information


def _normal(fn: Any) -> tuple[Any, Callable[[Any], Any]]:
    def information(eta: Any) -> Any:
        inverse = eta[..., 1] ** -2
        return jnp.stack([inverse, 2.0 * inverse], axis=-1)[..., None] * jnp.eye(2)

    return jnp.stack(jnp.broadcast_arrays(fn.loc, fn.scale), axis=-1), information


def _gamma(fn: Any) -> tuple[Any, Callable[[Any], Any]]:
    def information(eta: Any) -> Any:
        shape, rate = eta[..., 0], eta[..., 1]
        rows = [[polygamma(1, shape), -1.0 / rate], [-1.0 / rate, shape / rate**2]]
        return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)

    return jnp.stack(jnp.broadcast_arrays(fn.concentration, fn.rate), axis=-1), information


def _multivariate_normal(fn: Any) -> tuple[Any, Callable[[Any], Any]]:
    d = fn.event_shape[0]
    covariance = jnp.broadcast_to(fn.covariance_matrix, (*fn.batch_shape, d, d))
    location = jnp.broadcast_to(fn.loc, (*fn.batch_shape, d))

    def information(eta: Any) -> Any:
        inverse = jnp.linalg.inv(eta[..., d:].reshape(*eta.shape[:-1], d, d))
        kron = jnp.einsum("...ij,...kl->...ikjl", inverse, inverse).reshape(*eta.shape[:-1], d * d, d * d)
        top = jnp.concatenate([inverse, jnp.zeros((*eta.shape[:-1], d, d * d))], axis=-1)
        bottom = jnp.concatenate([jnp.zeros((*eta.shape[:-1], d * d, d)), 0.5 * kron], axis=-1)
        return jnp.concatenate([top, bottom], axis=-2)

    return jnp.concatenate([location, covariance.reshape(*fn.batch_shape, d * d)], axis=-1), information


def _binomial(fn: Any) -> tuple[Any, Callable[[Any], Any]]:
    eta = fn.logits
    count = fn.total_count
    return eta[..., None], lambda eta: (count * _bernoulli_logits(eta[..., 0]))[..., None, None]


_FAMILIES: list[tuple[Any, Family]] = [
    (SoftBernoulli, _soft_bernoulli),
    (dist.BernoulliLogits, _scalar("logits", _bernoulli_logits)),
    (dist.BernoulliProbs, _scalar("probs", lambda p: 1.0 / (p * (1.0 - p)))),
    ((dist.CategoricalLogits, dist.CategoricalProbs), _categorical),  # ordered families are of the second kind
    ((dist.Normal, dist.LogNormal), _normal),
    (dist.MultivariateNormal, _multivariate_normal),
    (dist.Poisson, _scalar("rate", lambda rate: 1.0 / rate)),
    (dist.Exponential, _scalar("rate", lambda rate: rate**-2)),
    (dist.Gamma, _gamma),
    ((dist.BinomialLogits, dist.BinomialProbs), _binomial),
]
