"""The posterior contract: every kind of posterior answers the same questions in the same way."""

import json
from dataclasses import FrozenInstanceError
from functools import cache
from importlib.metadata import version

import jax
import numpy as np
import pytest
from numpyro.infer.util import log_density

from tercet.datasets import simulated_preferences
from tercet.inference import TrainingOptions, ensemble, laplace, load, nuts, reward, svi
from tercet.models import BradleyTerry, Comparisons, Davidson, Items, LinearHead, MLPHead, project

pytestmark = pytest.mark.xdist_group("contract")  # one worker fits the posteriors, once

LEGACY = int(version("arviz").split(".")[0]) < 1
M = 200

METHODS = {
    "laplace, exact": (laplace, BradleyTerry(LinearHead(1.0), order_effect=True), {}),
    "laplace, scale learned": (laplace, BradleyTerry(), {}),
    "laplace, general": (laplace, Davidson(LinearHead(1.0), annotators=True), {}),
    "nuts": (
        nuts,
        BradleyTerry(LinearHead(1.0), order_effect=True),
        {"warmup": 300, "samples": 500, "chains": 2},
    ),
    "laplace, last layer": (laplace, BradleyTerry(MLPHead(1.0, widths=(6,))), {}),
    "ensemble": (
        ensemble,
        BradleyTerry(MLPHead(1.0, widths=(6,)), order_effect=True),
        {"members": 4, "options": TrainingOptions(learning_rate=0.01)},
    ),
    "svi, full": (svi, Davidson(LinearHead(1.0)), {"steps": 3000}),
    "svi, diagonal": (svi, BradleyTerry(LinearHead(1.0)), {"family": "diagonal", "steps": 3000}),
}


@cache
def data():
    """Projected items with names, weighted answers with ties by named annotators."""
    truth = simulated_preferences(20, 6, M, key=5)
    raw = Items(truth.items.features + 3.0, ids=[f"word {k}" for k in range(20)])
    who = np.arange(M) % 3
    outcome = np.where(np.arange(M) % 7 == 0, 0.5, truth.comparisons.outcome)
    answers = Comparisons(
        truth.comparisons.first,
        truth.comparisons.second,
        outcome,
        1.0 + who,
        who,
        annotator_ids=["ann", "bob", "cy"],
    )
    return raw, project(raw, 3), answers


@cache
def fit(name):
    method, model, options = METHODS[name]
    with jax.enable_x64(True):
        return method(model, *data()[1:], key=1, **options)


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def posterior(name):
    return fit(name)


def width(posterior):
    """Length of the site `weights`: features, or units of the last hidden layer."""
    last_layer = posterior.context.projection is not data()[1].projection
    return 6 if last_layer or isinstance(posterior.context.model.head, MLPHead) else 3


def fitted_items(posterior):
    """Items as the fitted model sees them: hidden features where that is a last layer."""
    return posterior.context.args[0]


def test_it_converged_and_says_so(posterior):
    assert posterior.diagnostics["converged"] is True
    for value in posterior.diagnostics.values():
        assert np.isfinite(value)


def test_draws_depend_on_the_key_alone(posterior):
    first, again, other = (
        posterior.draws(50, key=3),
        posterior.draws(50, key=np.int64(3)),
        posterior.draws(50, 4),
    )
    assert "weights" in first
    for site, values in first.items():
        assert values.shape[0] == 50
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(values, again[site])
        assert not np.array_equal(values, other[site])
    assert first["weights"].shape == (50, width(posterior))


def test_mean_is_that_of_the_draws(posterior):
    """Five standard errors of 4,000 draws (of the chains: they are the same draws)."""
    mean, draws = posterior.mean(), posterior.draws(4000, key=2)
    assert set(mean) == set(draws)
    for site, values in draws.items():
        assert np.shape(mean[site]) == values.shape[1:]
        assert (np.abs(values.mean(0) - mean[site]) < 7 * values.std(0) / np.sqrt(len(values)) + 1e-12).all()


def test_log_density_is_numpyros(posterior):
    model, items, answers = posterior.context.model, fitted_items(posterior), data()[2]
    draws = posterior.draws(5)
    ours = posterior.log_density(draws)
    latent = posterior.context.problem.latent

    @jax.jit
    def numpyros(sites):
        return log_density(model, (items, answers), {}, sites)[0]

    theirs = [float(numpyros({n: jax.numpy.asarray(draws[n][k]) for n in latent})) for k in range(5)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_log_likelihood_is_pointwise_and_weighted(posterior):
    """Its sum over answers, by the model's own probabilities and weights."""
    items, answers = fitted_items(posterior), data()[2]
    model = posterior.context.model
    draws = posterior.draws(4)
    found = posterior.log_likelihood(draws)
    assert list(found) == ["outcome"]
    assert found["outcome"].shape == (4, M)
    for k in range(4):
        sites = {name: values[k] for name, values in draws.items()}
        r = (
            items.features @ sites["weights"]
            if width(posterior) == items.features.shape[1]
            else model.head.rewards(sites, items)
        )
        logit = r[answers.first] - r[answers.second] + sites.get("order_effect", 0.0)
        if model.annotators:
            logit = logit * sites["precision"][answers.annotator]
        if isinstance(model, Davidson):
            p = model.probabilities(logit, sites)
            terms = np.log(p[np.arange(M), (2 * answers.outcome).astype(int)])
        else:
            p, y = model.expected_outcome(logit, sites), answers.outcome
            terms = y * np.log(p) + (1 - y) * np.log(1 - p)
        np.testing.assert_allclose(found["outcome"][k], answers.weight * terms, rtol=1e-8)


def test_draws_without_a_site_are_refused(posterior):
    with pytest.raises(ValueError, match=r"draws lack the site\(s\)"):
        posterior.log_density({"wrong": np.zeros(3)})


def test_arviz_container_has_groups_dims_and_names(posterior):
    container = posterior.to_arviz(draws=40, key=1)
    groups = set(container.groups()) if LEGACY else set(container.children)
    expected = {"posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data"}
    assert groups == expected
    sites = container["posterior"]
    chains, drawn = {"nuts": (2, 20), "ensemble": (1, 4)}.get(posterior.kind, (4, 10))
    unit = "unit" if isinstance(posterior.context.model.head, MLPHead) else "feature"
    assert sites["weights"].dims == ("chain", "draw", unit)
    assert sites["weights"].shape == (chains, drawn, width(posterior))
    assert not any(variable.endswith("_base") for variable in sites.data_vars)
    if posterior.context.model.annotators:
        assert sites["precision"].dims == ("chain", "draw", "annotator")
        assert list(sites["annotator"].values) == ["ann", "bob", "cy"]
    for group in ("log_likelihood", "posterior_predictive"):
        assert container[group]["outcome"].dims == ("chain", "draw", "comparison")
    assert container["observed_data"]["outcome"].dims == ("comparison",)
    for group in expected:
        for values in container[group].data_vars.values():
            assert np.isfinite(values.values).all()
    draws = {site: sites[site].values.reshape(-1, *sites[site].shape[2:]) for site in sites.data_vars}
    if set(posterior.context.problem.latent) <= set(draws):
        again = posterior.log_likelihood(draws)["outcome"].reshape(chains, -1, M)
        np.testing.assert_allclose(container["log_likelihood"]["outcome"].values, again, rtol=1e-6)
    lean = posterior.to_arviz(draws=40, log_likelihood=False)
    assert "log_likelihood" not in (set(lean.groups()) if LEGACY else set(lean.children))


def test_it_is_frozen(posterior):
    for field in ("kind", "diagnostics", "context"):
        with pytest.raises(FrozenInstanceError):
            setattr(posterior, field, None)


def test_save_and_load_give_the_same_answers(posterior, name, tmp_path):
    """With its data a loaded posterior answers everything; names, diagnostics and projection ride along."""
    (raw, items, answers), known = data(), fitted_items(posterior)
    again = load(posterior.save(tmp_path / "fit"), known, answers)
    assert again.kind == posterior.kind
    assert dict(again.diagnostics) == dict(posterior.diagnostics)
    assert again.context.model == posterior.context.model
    assert again.context.coords == posterior.context.coords
    with jax.enable_x64(True):
        draws, loaded = posterior.draws(20, key=9), again.draws(20, key=9)
        for site, values in draws.items():
            np.testing.assert_allclose(values, loaded[site], rtol=1e-12)
        np.testing.assert_allclose(again.log_likelihood(loaded)["outcome"], posterior.log_likelihood(draws)["outcome"])
    np.testing.assert_allclose(reward(again, raw).mean, reward(posterior, items).mean)
    np.testing.assert_allclose(reward(again, known).mean, reward(posterior, items).mean)


def test_loaded_without_data_it_scores_raw_embeddings_or_says_what_it_lacks(posterior, tmp_path):
    raw, items, _ = data()
    again = load(posterior.save(tmp_path / "fit.npz"))
    if posterior.kind in ("nuts", "ensemble") or getattr(posterior, "layout", None) is not None:
        if posterior.kind == "ensemble":  # only differences have a common origin
            found = reward(again, raw.take([0, 3])).mean
            assert np.diff(found) == pytest.approx(np.diff(reward(posterior, items).mean[[0, 3]]))
            return
        np.testing.assert_allclose(reward(again, raw.take([0, 3])).mean, reward(posterior, items).mean[[0, 3]])
    draws = posterior.draws(3)
    with pytest.raises(ValueError, match=r"loaded without its data.*load\(path, \*data"):
        again.log_likelihood(draws)
    with pytest.raises(ValueError, match="loaded without its data"):
        again.to_arviz()


def test_broken_files_are_told(posterior, tmp_path):
    path = posterior.save(tmp_path / "fit")
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"is not a posterior saved by tercet, or is cut short"):
            load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.npz"]
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.npz")


def test_a_posterior_of_a_newer_format_is_refused(tmp_path):
    path = fit("laplace, exact").save(tmp_path / "fit")
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["header"])) | {"format": 99}
    np.savez(path, **arrays | {"header": np.array(json.dumps(header))})
    with pytest.raises(ValueError, match=r"format 99.*upgrade tercet"):
        load(path)


def test_own_models_are_given_again(tmp_path):
    """A wrapped model is nobody's but the user's: without it a loaded Gaussian says so."""
    _, items, answers = data()
    model = lambda *args: BradleyTerry(LinearHead(1.0))(*args)  # noqa: E731
    path = laplace(model, items, answers).save(tmp_path / "own")
    with pytest.raises(ValueError, match="loaded without its model"):
        load(path, items, answers).draws(3)
    again = load(path, items, answers, model=model)
    np.testing.assert_allclose(again.mean()["weights"], laplace(model, items, answers).mean()["weights"])


def test_memory_is_asked_for_before_it_is_taken():
    with pytest.raises(ValueError, match="pass log_likelihood=False or fewer draws"):
        fit("laplace, exact").to_arviz(draws=40, max_bytes=8.0 * M * 39)


@pytest.fixture(params=["laplace, exact", "nuts"])
def container(request):
    return fit(request.param).to_arviz(draws=400)


@pytest.fixture
def az():
    import arviz
    import matplotlib.pyplot as plt

    yield arviz
    plt.close("all")


PLOTS = ["plot_trace", "plot_forest", "plot_rank", "plot_ess", "plot_autocorr", "plot_pair"]
PLOTS += ["plot_posterior"] if LEGACY else ["plot_dist"]


@pytest.mark.parametrize("plot", PLOTS)
def test_arviz_plots_of_real_posteriors(plot, container, az):
    assert getattr(az, plot)(container, var_names=["weights"]) is not None


def test_arviz_tables_of_real_posteriors(container, az, tmp_path):
    """Summary, leave-one-out, comparison of models, Pareto k, and a netCDF round trip."""
    assert {"mean", "sd", "r_hat"} <= set(az.summary(container).columns)
    loo = az.loo(container, pointwise=True)
    assert loo.pareto_k.shape == (M,)
    assert az.plot_khat(loo) is not None
    worse = fit("laplace, scale learned").to_arviz(draws=400)
    assert len(az.compare({"one": container, "other": worse})) == 2
    container.to_netcdf(str(tmp_path / "fit.nc"))
    again = az.from_netcdf(str(tmp_path / "fit.nc"))
    np.testing.assert_array_equal(again["posterior"]["weights"].values, container["posterior"]["weights"].values)
    if not LEGACY:
        assert az.plot_ppc_pava(container) is not None


@pytest.mark.skipif(LEGACY, reason="ArviZ 1.x only")
def test_loo_of_an_approximate_posterior(az):
    made = fit("laplace, exact").to_arviz(draws=400)
    stats = made["sample_stats"]
    approximate = az.loo_approximate_posterior(made, stats["log_p"], stats["log_q"], pointwise=True)
    assert abs(float(approximate.elpd) - float(az.loo(made).elpd)) < 2
