"""Embeddings on disk: every kind of storage in both axis orders, fits against those in memory, broken files."""

import sys
import warnings

import numpy as np
import pytest

from tercet.datasets import simulated_prompts
from tercet.inference import (
    LaplaceOptions,
    TrainingOptions,
    ensemble,
    fit_pointwise,
    laplace,
    reward,
    reward_difference,
    win_probability,
)
from tercet.models import (
    BradleyTerry,
    Comparisons,
    Items,
    LinearHead,
    MLPHead,
    Thurstone,
    open_embeddings,
    project,
)
from tercet.models.items.on_disk import OnDisk

PROMPTS, RESPONSES, D = 7, 5, 4
FEW = 8 * D * 3  # bytes of three rows: little data are read in many blocks


class Dataset:
    """What is used of a Hugging Face dataset."""

    def __init__(self, **columns):
        self.columns, self.shown, self.asked = columns, list(columns), []

    @property
    def column_names(self):
        return list(self.columns)

    def with_format(self, kind, columns):
        assert kind == "numpy"
        self.shown = columns
        return self

    def __len__(self):
        return len(self.columns["x"])

    def __getitem__(self, rows):
        self.asked.append(rows)
        return {name: self.columns[name][rows] for name in self.shown}


@pytest.fixture
def cube(rng):
    return rng.normal(size=(PROMPTS, RESPONSES, D)).astype(np.float32)


def write(kind, array, folder):
    """The array in a file of this kind; datasets and arrays are given as they are."""
    flat = array.reshape(-1, array.shape[-1])
    if kind == "npy":
        np.save(folder / "x.npy", array)
        return folder / "x.npy", {}
    if kind == "safetensors":
        pytest.importorskip("safetensors").numpy.save_file({"x": array, "y": array[:1]}, folder / "x.safetensors")
        return folder / "x.safetensors", {"name": "x"}
    if kind == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        table = arrow.table({"id": np.arange(len(flat)), "x": list(flat)})
        parquet.write_table(table, folder / "x.parquet", row_group_size=4)
        return folder / "x.parquet", {}
    if kind == "dataset":
        return Dataset(id=np.arange(len(flat)), x=flat), {"name": "x"}
    return array, {}


@pytest.fixture(params=["npy", "safetensors", "parquet", "dataset", "array"])
def stored(request, tmp_path):
    if request.param == "safetensors":
        pytest.importorskip("safetensors.numpy")
    return lambda array: write(request.param, array, tmp_path)


def test_rows_of_a_matrix_are_those_in_memory(stored, cube):
    flat = cube.reshape(-1, D)
    source, options = stored(flat)
    found = open_embeddings(source, block_bytes=FEW, **options)
    assert found.shape == (PROMPTS * RESPONSES, D)
    np.testing.assert_allclose(found[:], flat, rtol=1e-7)
    for key in (slice(3, 20), np.array([9, 2, 2, 30]), np.arange(35) % 4 == 0, slice(0, 35, 6), [5]):
        np.testing.assert_allclose(found[key], flat[key], rtol=1e-7)
    np.testing.assert_allclose(np.concatenate([block for _, block in found.blocks()]), flat, rtol=1e-7)
    np.testing.assert_allclose(found.take([4, 1, 7])[[2, 0]], flat[[7, 4]], rtol=1e-7)
    mean, variance = found.moments
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-6)
    np.testing.assert_allclose(variance, flat.var(0), rtol=1e-5)
    assert found.prompt is None


@pytest.mark.parametrize("kind", ["npy", "safetensors", "array"])
@pytest.mark.parametrize("axes", [None, "prompts, responses", "responses, prompts"])
def test_both_axis_orders_give_the_same_items(kind, axes, cube, tmp_path):
    """In the order of prompts, then responses; prompts are known."""
    if kind == "safetensors":
        pytest.importorskip("safetensors.numpy")
    turned = np.ascontiguousarray(cube.swapaxes(0, 1)) if axes == "responses, prompts" else cube
    source, options = write(kind, turned, tmp_path)
    items = Items(open_embeddings(source, axes=axes, **options))
    np.testing.assert_array_equal(items.features[:], cube.reshape(-1, D))
    np.testing.assert_array_equal(items.prompt, np.repeat(np.arange(PROMPTS), RESPONSES))
    picked = items.take([8, 30, 3])
    np.testing.assert_array_equal(picked.features[:], cube.reshape(-1, D)[[8, 30, 3]])
    assert picked.prompt.tolist() == [1, 2, 0]


def test_a_dataset_is_asked_for_the_rows_and_the_column_only(cube):
    dataset = Dataset(id=np.arange(35), x=cube.reshape(-1, D))
    found = open_embeddings(dataset, name="x")
    np.testing.assert_array_equal(found[[3, 1]], cube.reshape(-1, D)[[3, 1]])
    assert dataset.asked[-1].tolist() == [1, 3]
    with pytest.raises(ValueError, match=r"has 2 choices of a column, .*; say which by name"):
        open_embeddings(dataset)


@pytest.mark.parametrize("model", [BradleyTerry, Thurstone])
@pytest.mark.parametrize("order", [False, True])
def test_the_streamed_fit_is_the_one_in_memory(model, order, rng, tmp_path):
    """Mode, precision, evidence and learned scale, to 1e-10; more comparisons than items and fewer."""
    features = rng.normal(size=(40, D)) + 3.0
    np.save(tmp_path / "x.npy", features)
    streamed = Items(open_embeddings(tmp_path / "x.npy", block_bytes=FEW))
    for m in (15, 300):
        first = rng.integers(40, size=m)
        answers = Comparisons(first, (first + rng.integers(1, 40, size=m)) % 40, rng.random(m), rng.random(m) + 0.5)
        for head in (LinearHead(1.0), LinearHead()):
            here, there = (laplace(model(head, order), items, answers) for items in (Items(features), streamed))
            atol = 1e-10 if head.prior_sd else 1e-6  # Brent's method stops within rounding of where it did
            np.testing.assert_allclose(there.center, here.center, atol=atol)
            np.testing.assert_allclose(
                there.precision_factor, here.precision_factor, rtol=1e-9 if head.prior_sd else 1e-5
            )
            assert there.diagnostics["log_evidence"] == pytest.approx(here.diagnostics["log_evidence"], abs=1e-8)


def test_scores_stream(rng, tmp_path):
    features = rng.normal(size=(40, D))
    np.save(tmp_path / "x.npy", features)
    items, streamed = Items(features), Items(open_embeddings(tmp_path / "x.npy"))
    first = rng.integers(40, size=100)
    answers = Comparisons(first, (first + 7) % 40, rng.random(100), annotator=rng.integers(3, size=100))
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    pairs = rng.permutation(40).reshape(-1, 2)
    for question in (
        reward,
        lambda f, i: reward_difference(f, i, pairs, chunk=6),
        lambda f, i: (win_probability(f, i, pairs, chunk=6),),
    ):
        for here, there in zip(question(fit, items), question(fit, streamed), strict=True):
            np.testing.assert_allclose(there, here, rtol=1e-12)
    who = laplace(BradleyTerry(LinearHead(1.0), annotators=True), items, answers)
    in_chunks = win_probability(who, streamed, answers, chunk=6)
    np.testing.assert_allclose(in_chunks, win_probability(who, items, answers))


def test_projections_and_networks_stream(rng, tmp_path):
    """Raw embeddings on disk: projected as they are read, trained on by minibatches, scored by ensembles."""
    raw, rewards = simulated_prompts(30, 2, D, key=1)
    np.save(tmp_path / "x.npy", raw.features)
    streamed = Items(open_embeddings(tmp_path / "x.npy", block_bytes=FEW))
    first = rng.integers(60, size=400)
    second = (first + rng.integers(1, 60, size=400)) % 60
    answers = Comparisons(first, second, (rewards[first] > rewards[second]).astype(float))
    for components in (2, None):
        here, there = project(Items(raw.features), components), project(streamed, components)
        np.testing.assert_allclose(there.features[:], here.features, atol=1e-10)
    options = TrainingOptions(learning_rate=0.01, rounds=5, patience=5)
    model = BradleyTerry(MLPHead(widths=(4,)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "training stopped")
        fits = [ensemble(model, items, answers, members=2, options=options) for items in (here, there)]
        layers = [laplace(model, items, answers, options=LaplaceOptions(training=options)) for items in (here, there)]
    pairs = rng.permutation(60).reshape(-1, 2)
    for one, other in (fits, layers):
        wanted = reward_difference(one, here, pairs).mean
        np.testing.assert_allclose(reward_difference(other, there, pairs).mean, wanted, atol=1e-4)
        np.testing.assert_allclose(reward_difference(other, streamed, pairs).mean, wanted, atol=1e-4)
        scores = reward(other, streamed).mean
        np.testing.assert_allclose(scores[pairs[:, 0]] - scores[pairs[:, 1]], wanted, atol=1e-4)
    from sklearn.linear_model import LogisticRegression

    classified = [fit_pointwise(LogisticRegression(), items, answers)(items) for items in (here, there)]
    np.testing.assert_allclose(classified[1], classified[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["npy", "safetensors", "parquet"])
def test_a_file_that_is_cut_short_is_told(kind, cube, tmp_path):
    if kind == "safetensors":
        pytest.importorskip("safetensors.numpy")
    path, options = write(kind, cube, tmp_path)
    whole = path.read_bytes()
    for size in (0, 20, len(whole) // 2, len(whole) - 8):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"is no .* file.*, or is cut short"):
            open_embeddings(path, **options)


@pytest.mark.parametrize("kind", ["npy", "safetensors", "parquet"])
def test_a_file_that_changes_under_our_hands_is_told(kind, cube, tmp_path):
    if kind == "safetensors":
        pytest.importorskip("safetensors.numpy")
    path, options = write(kind, cube, tmp_path)
    found = open_embeddings(path, **options)
    found[:2]
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"has changed \([\d,]+ bytes when opened, [\d,]+ now\); open it again"):
        found[:2]
    path.unlink()
    with pytest.raises(ValueError, match="is gone; open it again"):
        found[:2]


def test_one_missing_number_among_many_is_told(cube, tmp_path):
    cube[4, 2, 1] = np.nan
    np.save(tmp_path / "x.npy", cube)
    items = Items(open_embeddings(tmp_path / "x.npy", block_bytes=FEW))
    with pytest.raises(ValueError, match=r"x.npy, rows 21 to 23, has NaN or infinite values in 1 row"):
        laplace(BradleyTerry(LinearHead(1.0)), items, Comparisons([0], [1], [1.0]))


def test_refusals(cube, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", cube)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    (tmp_path / "x.csv").write_text("1,2")
    for call, message in (
        (lambda: open_embeddings(cube[0, 0]), r"must have shape \[n, d\]"),
        (lambda: open_embeddings(cube[0], axes="responses, prompts"), "is for three dimensions"),
        (lambda: open_embeddings(cube, axes="rows"), "axes must be"),
        (lambda: open_embeddings(tmp_path / "x.csv"), "is none of .npy, .safetensors, .parquet"),
        (lambda: open_embeddings(tmp_path / "x.npy", name="x"), "holds one array"),
        (lambda: open_embeddings(tmp_path / "words.npy"), "must hold numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_embeddings(tmp_path / "nowhere.npy")
    items = Items(open_embeddings(tmp_path / "x.npy"))
    answers = Comparisons([0, 1], [2, 3], [1.0, 0.0])
    fit = laplace(BradleyTerry(LinearHead(1.0)), items, answers)
    with pytest.raises(ValueError, match=r"features on disk.*load what is needed"):
        fit.to_arviz()
    assert isinstance(items.features, OnDisk)
    for suffix, module in ((".safetensors", "safetensors"), (".parquet", "pyarrow")):
        (tmp_path / f"y{suffix}").write_bytes(b"")
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r"pip install 'tercet\[embeddings\]'"):
            open_embeddings(tmp_path / f"y{suffix}")


def test_parquet_lists_of_unequal_length_are_told(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for rows, message in (([[1.0, 2.0], [3.0]], "lists of"), ([[1.0, 2.0], None], "without missing ones")):
        parquet.write_table(arrow.table({"x": rows}), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match=message):
            open_embeddings(tmp_path / "x.parquet")[:]
