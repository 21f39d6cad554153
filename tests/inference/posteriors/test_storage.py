"""Files: classes of the user's own, maps of features, classes that are not defined or must not be built."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tercet.inference import laplace, load, reward
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.gaussian import SiteGaussian
from tercet.models import BradleyTerry, Comparisons, Items, LinearHead, MLPHead, project
from tercet.models.items.features import InMemory
from tercet.models.preferences.comparison_models import ComparisonModel
from tercet.models.preferences.heads import LinearInParameters
from tercet.models.preferences.links import Probit

BUILT = []


@dataclass(frozen=True)
class PowerHead(LinearInParameters):
    """r(x) = x^power . w, with numbers and arrays among its fields."""

    power: int = 2
    scales: tuple[np.ndarray, ...] = ()

    site = "weights"
    plate = "feature"

    def features(self, items):
        return InMemory(items.features**self.power)


@dataclass(frozen=True)
class OwnThurstone(ComparisonModel):
    """A comparison model by its link."""

    note: str = ""

    link = Probit()


@dataclass(frozen=True)
class NotStorable:
    """A class that a file must not build."""

    command: str = ""

    def __post_init__(self):
        BUILT.append(self.command)


class OwnMap:
    """A map of features that is not storable."""

    def apply(self, features):
        return features

    def same_as(self, other):
        return self is other


@pytest.fixture
def data(rng):
    items = Items(rng.normal(size=(8, 2)), ids=list("abcdefgh"))
    first = rng.integers(8, size=30)
    return items, Comparisons(first, (first + rng.integers(1, 8, size=30)) % 8, rng.integers(0, 2, 30))


def edited(path, change):
    """The file with its header changed."""
    with np.load(path) as file:
        arrays = dict(file)
    header = json.loads(str(arrays["header"]))
    change(header)
    np.savez(path, **arrays | {"header": np.array(json.dumps(header))})
    return path


def test_own_heads_and_models_come_back_as_themselves(data, tmp_path):
    items, answers = data
    model = OwnThurstone(PowerHead(1.0, power=3, scales=(np.arange(3.0), np.eye(2))), note="of mine")
    fit = laplace(model, items, answers)
    again = load(fit.save(tmp_path / "own"))
    assert type(again.model) is OwnThurstone
    assert (again.model.note, again.model.head.power, again.model.head.prior_sd) == ("of mine", 3, 1.0)
    for one, other in zip(again.model.head.scales, model.head.scales, strict=True):
        np.testing.assert_array_equal(one, other)
    assert type(again) is type(fit)
    np.testing.assert_array_equal(again.center, fit.center)
    np.testing.assert_allclose(reward(again, items).mean, reward(fit, items).mean)
    assert again.context.coords["item"] == list("abcdefgh")
    again = load(tmp_path / "own.npz", items, answers)
    np.testing.assert_allclose(again.log_density(again.draws(3)), fit.log_density(fit.draws(3)))


def test_projections_and_hidden_layers_come_back(rng, tmp_path):
    """Raw embeddings are scored alike by what was saved and by what was loaded."""
    raw = Items(rng.normal(size=(12, 5)) * 3.0 + 2.0)
    projected, first = project(raw, 3), rng.integers(0, 6, 20)
    answers = Comparisons(first, first + 6, rng.integers(0, 2, 20))
    sites = {"kernel_0": rng.normal(size=(3, 4)), "bias_0": rng.normal(size=4)}
    hidden = MLPHead(widths=(4,)).feature_map(sites, projected.projection)
    for items in (projected, projected.mapped(hidden.after, hidden)):
        fit = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
        again = load(fit.save(tmp_path / "fit"))
        assert again.context.projection.same_as(items.projection)
        assert type(again.context.projection) is type(items.projection)
        np.testing.assert_allclose(reward(again, raw).mean, reward(fit, items).mean, atol=1e-9)
        np.testing.assert_allclose(reward(again, raw).variance, reward(fit, items).variance, atol=1e-9)


@pytest.mark.parametrize("name", ["elsewhere:TheirHead", "tercet.models.gone:Head", f"{__name__}:NotStorable"])
@pytest.mark.parametrize("part", ["model", "head"])
def test_without_the_class_of_its_model_a_posterior_has_none_and_says_so(data, tmp_path, name, part):
    items, answers = data
    model = OwnThurstone(PowerHead(1.0))
    fit = laplace(model, items, answers)

    def rename(header):
        (header["model"] if part == "model" else header["model"]["fields"]["head"])["class"] = name

    path = edited(fit.save(tmp_path / "fit"), rename)
    with pytest.warns(UserWarning, match=rf"class {name}, which has not been defined.*load\(\.\.\., model=\.\.\.\)"):
        again = load(path, items, answers)
    assert again.model is None
    np.testing.assert_array_equal(again.draws(3)["weights"], fit.draws(3)["weights"])
    with pytest.raises(ValueError, match="loaded without its model"):
        again.log_likelihood(again.draws(3))
    given = load(path, items, answers, model=model)  # no warning
    np.testing.assert_allclose(given.log_density(given.draws(3)), fit.log_density(fit.draws(3)))


def test_a_file_builds_storable_classes_only(data, tmp_path):
    """Not a class of the user's, of the standard library or of tercet that is not made for it."""
    fit = laplace(BradleyTerry(LinearHead(1.0)), *data)
    marker = tmp_path / "executed"
    fields = {"command": str(marker)}
    for name, given in (
        (f"{__name__}:NotStorable", fields),
        ("subprocess:Popen", {"args": {"tuple": ["touch", str(marker)]}}),
        ("os:system", fields),
        ("tercet.inference.posteriors.context:Context", {"model": None, "args": None}),
    ):

        def replace_model(header, name=name, given=given):
            header["model"] = {"class": name, "fields": given}

        path = edited(fit.save(tmp_path / "fit"), replace_model)
        with pytest.warns(UserWarning, match="has not been defined"):
            assert load(path).model is None
    assert BUILT == []
    assert not marker.exists()


def test_a_map_of_features_of_an_unknown_class_is_an_error(data, tmp_path):
    """Without it raw embeddings would be taken for features."""
    items = project(data[0], None)
    path = laplace(BradleyTerry(LinearHead(1.0)), items, data[1]).save(tmp_path / "fit")

    def rename(header):
        header["projection"]["class"] = "elsewhere:Map"

    with pytest.raises(ValueError, match=r"features .* class elsewhere:Map, which has not been defined"):
        load(edited(path, rename))


def test_a_class_whose_fields_have_changed_is_told(data, tmp_path):
    path = laplace(OwnThurstone(PowerHead(1.0)), *data).save(tmp_path / "fit")

    def rename(header):
        header["model"]["fields"]["colour"] = "red"

    with pytest.raises(ValueError, match=r"OwnThurstone with the fields .*'colour'.*fit again"):
        load(edited(path, rename))


def test_what_a_file_cannot_hold_is_told(data, tmp_path):
    """Names that JSON has no form for, and a projection that is not storable; a model that is not is left out."""
    items, answers = data
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    odd = replace(fit, context=Context(fit.model, None, saved_coords={"item": [b"a", b"b"]}))
    with pytest.raises(ValueError, match="names of items and annotators must be str or numbers"):
        odd.save(tmp_path / "odd")
    mapped = replace(fit, context=Context(fit.model, None, saved_projection=OwnMap()))
    with pytest.raises(ValueError, match="projection of the items cannot be saved: OwnMap is not Storable"):
        mapped.save(tmp_path / "mapped")
    assert list(tmp_path.iterdir()) == []
    function = SiteGaussian("laplace", Context(lambda: None, ()), {}, np.zeros(1), np.eye(1), (("z", 0),))
    assert load(function.save(tmp_path / "function")).model is None
