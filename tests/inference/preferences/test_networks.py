"""Networks: the model written out, training, last-layer Laplace, ensembles, what is refused."""

import jax
import numpy as np
import pytest
import scipy.stats
from numpyro.infer.util import log_density
from scipy.special import expit

from tercet.datasets import annotate, annotation_pairs, simulated_prompts
from tercet.inference import (
    LaplaceOptions,
    TrainingOptions,
    ensemble,
    laplace,
    nuts,
    reward,
    reward_difference,
    spearman,
    svi,
    train,
    win_probability,
)
from tercet.models import (
    AbilityHead,
    BradleyTerry,
    Comparisons,
    Davidson,
    Items,
    LinearHead,
    MLPHead,
    PointwiseClassifier,
    project,
)

pytestmark = pytest.mark.xdist_group("networks")
QUICK = TrainingOptions(learning_rate=0.01, rounds=150, patience=5)


@pytest.fixture(scope="module")
def bent():
    """A truth that no linear head can tell: 400 items in three dimensions, 4,000 answers."""
    items = simulated_prompts(400, 1, 3, prompt_variance=0.0, key=1).items
    x = items.features
    rewards = 2.0 * x[:, 0] * x[:, 1] + np.sin(2.0 * x[:, 2])
    pairs = annotation_pairs(items, rewards, "cross-prompt", 10, key=1)
    return project(items, None), rewards, annotate(rewards, pairs, 3.0, key=1)


@pytest.fixture(scope="module")
def fitted(bent):
    with jax.enable_x64(True):
        return laplace(BradleyTerry(MLPHead(widths=(16, 8))), bent[0], bent[2], options=LaplaceOptions(training=QUICK))


def test_the_density_is_the_formula(rng):
    items = Items(rng.normal(size=(30, 4)))
    sites = {
        "kernel_0": rng.normal(size=(4, 3)), "bias_0": rng.normal(size=3),
        "kernel_1": rng.normal(size=(3, 2)), "bias_1": rng.normal(size=2), "weights": rng.normal(size=2),
    }  # fmt: skip
    head, answers = MLPHead(1.5, widths=(3, 2)), Comparisons([0, 1], [2, 3], [1.0, 0.3])
    hidden = np.maximum(
        0, np.maximum(0, items.features @ sites["kernel_0"] + sites["bias_0"]) @ sites["kernel_1"] + sites["bias_1"]
    )
    r = hidden @ sites["weights"]
    np.testing.assert_allclose(head.rewards(sites, items), r, rtol=1e-12)
    d = r[[0, 1]] - r[[2, 3]]
    normal, unit = scipy.stats.norm, 1.0 / np.sqrt(2 * 2 * 0.5 * (1 - 1 / np.pi))
    prior = (
        normal(0, np.sqrt(1 / 4)).logpdf(sites["kernel_0"]).sum()
        + normal(0, np.sqrt(2 / 3)).logpdf(sites["kernel_1"]).sum()
    )
    prior += normal.logpdf(sites["bias_0"]).sum() + normal.logpdf(sites["bias_1"]).sum()
    prior += normal(0, 1.5 * unit).logpdf(sites["weights"]).sum()
    likelihood = np.log(expit(d[0])) + 0.3 * np.log(expit(d[1])) + 0.7 * np.log(expit(-d[1]))
    found = log_density(BradleyTerry(head), (items, answers), {}, sites)[0]
    assert float(found) == pytest.approx(prior + likelihood, rel=1e-10)


def test_prior_sd_is_about_that_of_a_random_difference(seed):
    """Within a third: the scale counts every hidden unit as if its input were standard normal."""
    rng = np.random.default_rng(seed)
    items = project(Items(rng.normal(size=(300, 10)) * np.linspace(0.2, 3.0, 10) + 4.0), None)
    model = BradleyTerry(MLPHead(1.5))
    with jax.enable_x64(False):
        from tercet.inference.posteriors.sites import prior_draw

        answers = Comparisons([0], [1], [1.0])
        draws = jax.vmap(lambda key: prior_draw(model, key, items, answers))(
            jax.random.split(jax.random.key(seed), 200)
        )
    r = np.asarray(model.head.rewards(draws, items))
    assert np.sqrt((r[:, :150] - r[:, 150:]).var()) == pytest.approx(1.5, rel=1 / 3)


def test_a_network_learns_what_a_linear_head_cannot(bent, fitted):
    items, rewards, answers = bent
    linear = laplace(BradleyTerry(), items, answers)
    assert fitted.diagnostics["converged"]
    assert spearman(reward(fitted, items).mean, rewards) > 0.9
    assert spearman(reward(linear, items).mean, rewards) < 0.8


def test_the_last_layer_is_a_linear_head_on_hidden_features(bent, fitted):
    """Its posterior is that of the exact route on these features, with the scale it chose."""
    items, _, answers = bent
    hidden = fitted.context.args[0]
    scale = fitted.diagnostics["prior_sd"]
    again = laplace(BradleyTerry(LinearHead(scale)), hidden, answers)
    np.testing.assert_array_equal(again.center, fitted.center)
    np.testing.assert_array_equal(again.precision_factor, fitted.precision_factor)
    assert hidden.features.shape == (400, 8)
    raw = items.features * items.projection.scale + items.projection.center
    for same in (items, raw, Items(raw), hidden):
        np.testing.assert_allclose(reward(fitted, same).mean, hidden.features @ fitted.center, atol=1e-9)
    with pytest.raises(ValueError, match="projected differently"):
        reward(fitted, project(Items(raw * 2.0), None))


def test_training_minimises_the_held_out_loss(bent):
    """The round kept is the best one; its loss is that of its own sites, written out."""
    items, _, answers = bent
    model = BradleyTerry(MLPHead(widths=(16,)))
    found = train(model, items, answers, members=2, key=3, options=QUICK)
    lowest = found.held_out_log_loss.min(axis=0)
    kept = found.held_out_log_loss[found.best, [0, 1]]
    assert (kept <= lowest + 2e-4).all()
    assert (kept < found.held_out_log_loss[0]).all()
    assert found.held_out.sum() == round(0.1 * len(answers))
    test = answers.take(found.held_out)
    r = model.head.rewards(found.sites, items)
    assert r.shape == (2, 400)
    d = r[:, test.first] - r[:, test.second]
    np.testing.assert_allclose(-np.log(expit(np.where(test.outcome == 1, d, -d))).mean(axis=1), kept, rtol=1e-4)
    again = train(model, items, answers, members=2, key=3, options=QUICK)
    np.testing.assert_array_equal(found.sites["weights"], again.sites["weights"])
    assert not np.array_equal(found.sites["weights"][0], found.sites["weights"][1])


def test_the_gradient_steps_are_those_of_the_log_posterior(rng):
    """One step of Adam from the start, full batch: every entry moves by the learning rate, against its gradient."""
    items = project(Items(rng.normal(size=(40, 3))), None)
    answers = Comparisons(np.arange(20), np.arange(20, 40), rng.random(20), weight=rng.random(20) + 0.5)
    from tercet.inference.preferences.training import _Networks

    model = BradleyTerry(MLPHead(1.0, widths=(4,)))
    with jax.enable_x64(False):
        networks = _Networks(model, items, 20, 1e-4, separate=False)
        (batches,) = networks.minibatches(answers, rng.permutation(20), 20, 1, np.ones((1, 20)))
        z, state = networks.start(jax.random.key(0), 1, networks.held_out(answers)[0])
        after, _ = networks.steps(z, state, batches)
    with jax.enable_x64(True):
        sites = {name: np.asarray(value[0], np.float64) for name, value in z.items()}
        slope = jax.grad(lambda s: log_density(model, (items, answers), {}, s)[0])(sites)
    for name, value in z.items():
        moved = np.asarray(after[name] - value)[0]
        clear = np.abs(slope[name]) > 1e-3
        np.testing.assert_allclose(moved[clear], 1e-4 * np.sign(slope[name])[clear], rtol=0.02)


def test_networks_on_data_of_their_own_are_those_trained_alone(bent):
    """Two sets of answers side by side; where both sets are the same, so are the held-out losses of equal starts."""
    items, rewards, answers = bent
    model = BradleyTerry(MLPHead(widths=(8,)))
    flipped = Comparisons(answers.first, answers.second, 1.0 - answers.outcome)
    both = train(model, items, [answers, flipped], key=2, options=QUICK)
    shared = train(model, items, answers, members=2, key=2, options=QUICK)
    same = min(len(both.held_out_log_loss), len(shared.held_out_log_loss), 5)
    np.testing.assert_allclose(both.held_out_log_loss[:same, 0], shared.held_out_log_loss[:same, 0], rtol=1e-3)
    r = model.head.rewards(both.sites, items)
    assert spearman(r[0], rewards) > 0.85
    assert spearman(r[1], rewards) < -0.85
    with pytest.raises(ValueError, match="sets of one length"):
        train(model, items, [answers, answers.take(np.arange(100))])


def test_members_of_an_ensemble_disagree_away_from_the_data(bent):
    items, rewards, answers = bent
    fit = ensemble(BradleyTerry(MLPHead(widths=(16,))), items, answers, members=4, options=QUICK)
    assert fit.diagnostics["members"] == 4
    far = Items(np.concatenate([items.features, 6.0 * items.features]), projection=items.projection)
    here, there = (np.column_stack([np.arange(0, 200), np.arange(200, 400)]) + shift for shift in (0, 400))
    assert reward_difference(fit, far, there).sd.mean() > 3 * reward_difference(fit, far, here).sd.mean()
    assert spearman(reward(fit, items).mean, rewards) > 0.9
    r = fit.context.model.head.rewards(fit.draws(4), items)
    p = expit(r[:, here[:, 0]] - r[:, here[:, 1]]).mean(axis=0)
    np.testing.assert_allclose(win_probability(fit, items, here), p, rtol=1e-9)


def test_other_likelihoods_go_through_the_last_layer(bent):
    """Ties, annotators and classes: the held-out scale by draws where no closed form is."""
    items, rewards, answers = bent
    outcome = np.where(np.arange(len(answers)) % 9 == 0, 0.5, answers.outcome)
    ties = Comparisons(answers.first, answers.second, outcome).take(np.arange(1500))
    head, options = MLPHead(widths=(8,)), LaplaceOptions(training=QUICK)
    for model in (Davidson(head), PointwiseClassifier(head)):
        fit = laplace(model, items, ties, options=options)
        assert isinstance(fit.context.model, type(model))
        assert spearman(reward(fit, items).mean, rewards) > 0.75


@pytest.mark.filterwarnings("ignore:the chains have not converged")  # hidden units can change places
def test_small_networks_under_nuts_and_svi(rng):
    items = project(Items(rng.normal(size=(12, 2))), None)
    answers = Comparisons(rng.integers(0, 6, 40), rng.integers(6, 12, 40), rng.integers(0, 2, 40).astype(float))
    model = BradleyTerry(MLPHead(1.0, widths=(3,)))
    chains = nuts(model, items, answers, warmup=60, samples=60, chains=2, target_accept=0.95)
    guide = svi(model, items, answers, family="diagonal", steps=2000)
    pairs = np.array([[0, 6], [1, 7]])
    for fit in (chains, guide):
        assert (win_probability(fit, items, pairs) > 0).all()
        assert (reward_difference(fit, items, pairs).sd > 0).all()


def test_refusals(rng):
    raw = Items(rng.normal(size=(30, 3)) + 50.0)
    answers = Comparisons([0, 1, 2], [3, 4, 5], [1, 0, 1])
    for fit in (laplace, ensemble):
        with pytest.raises(ValueError, match=r"standardise them first, items = project\(items, None\)"):
            fit(BradleyTerry(MLPHead()), raw, answers)
    items = project(raw, None)
    with pytest.raises(ValueError, match=r"networks, MLPHead, got LinearHead"):
        ensemble(BradleyTerry(), items, answers)
    with pytest.raises(ValueError, match="two comparisons"):
        ensemble(BradleyTerry(MLPHead()), items, answers.take([0]))
    with pytest.raises(ValueError, match="expects 3 features, the items have 2"):
        MLPHead(widths=(2,)).rewards(
            {"kernel_0": np.ones((3, 2)), "bias_0": np.ones(2), "weights": np.ones(2)}, Items(np.ones((2, 2)))
        )
    for widths in ((), (0,)):
        with pytest.raises(ValueError, match="at least 1, got"):
            MLPHead(widths=widths)
    with pytest.raises(ValueError, match="needs a prior scale"):
        MLPHead(np.inf)
    with pytest.raises(ValueError, match="all items have the same features"):
        project(Items(np.ones((3, 2))), None)
    with pytest.raises(ValueError, match="diverged"):
        train(BradleyTerry(MLPHead()), items, answers, options=TrainingOptions(learning_rate=1e30, rounds=1))
    with pytest.raises(ValueError, match="must be positive"):
        TrainingOptions(rounds=0)


def test_a_training_that_is_cut_short_says_so(bent):
    items, _, answers = bent
    with pytest.warns(UserWarning, match="training stopped after 2 rounds"):
        found = train(BradleyTerry(MLPHead(widths=(4,))), items, answers, options=TrainingOptions(rounds=2))
    assert not found.converged


def test_interrupted_training_leaves_nothing_behind(bent, monkeypatch):
    """Ctrl-C in the third round: the data are untouched, and the next fit is what it would have been."""
    from tercet.inference.preferences import training

    items, _, answers = bent
    model, before = BradleyTerry(MLPHead(widths=(4,))), items.features.copy()
    wanted = train(model, items, answers, key=5, options=QUICK)
    score, calls = training._Networks.score, []

    def interrupted(self, *args):
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return score(self, *args)

    monkeypatch.setattr(training._Networks, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(model, items, answers, key=5, options=QUICK)
    monkeypatch.undo()
    np.testing.assert_array_equal(items.features, before)
    np.testing.assert_array_equal(
        train(model, items, answers, key=5, options=QUICK).sites["weights"], wanted.sites["weights"]
    )


def test_a_variational_gaussian_that_would_fill_the_memory_is_refused(rng):
    items = project(Items(rng.normal(size=(200, 100))), None)
    with pytest.raises(ValueError, match=r"10,\d+ parameters.*project the items first"):
        svi(BradleyTerry(MLPHead()), items, Comparisons([0], [1], [1.0]), family="diagonal")


def test_abilities_have_no_hidden_layers():
    with pytest.raises(ValueError, match="leaves nothing to classify by"):
        PointwiseClassifier(AbilityHead())
