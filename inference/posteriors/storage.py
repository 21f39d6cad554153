"""Posteriors on disk: one .npz file with numbers and a JSON header, written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tercet
from tercet.inference.posteriors.context import Context
from tercet.inference.posteriors.posterior import GaussianPosterior, Posterior, SampledPosterior
from tercet.models.items.projection import FeatureMap, Projection
from tercet.models.preferences.comparison_models import BradleyTerry, Davidson, Thurstone
from tercet.models.preferences.graded import Graded, RaoKupper
from tercet.models.preferences.heads import AbilityHead, Head, LinearHead
from tercet.models.preferences.mlp_head import HiddenFeatures, MLPHead
from tercet.models.preferences.pointwise import PointwiseClassifier

FORMAT = 2
_MODELS = (BradleyTerry, Thurstone, Davidson, Graded, RaoKupper, PointwiseClassifier)
_KNOWN: dict[str, Any] = {cls.__name__: cls for cls in (*_MODELS, LinearHead, AbilityHead, MLPHead)}


def save(posterior: Posterior, path: str | Path) -> Path:
    """Write `posterior` to `path` (.npz is appended where missing). The data are not stored, names are."""
    target = Path(path)
    target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
    maps = _maps(posterior.context.projection)
    header = {
        "format": FORMAT,
        "tercet": tercet.__version__,
        "kind": posterior.kind,
        "model": _describe(posterior.context.model),
        "coords": posterior.context.coords,
        "diagnostics": dict(posterior.diagnostics),
        "layout": getattr(posterior, "layout", None),
    }
    arrays = _arrays(posterior) | {f"projection/{name}": values for name, values in maps.items()}
    try:
        text = json.dumps(header)
    except TypeError as error:
        raise ValueError(f"names of items and annotators must be str or numbers to be saved: {error}") from None
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **arrays | {"header": np.array(text)})  # type: ignore[arg-type]
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return target


def load(path: str | Path, *args: Any, model: Callable[..., Any] | None = None, **kwargs: Any) -> Any:
    """Read a posterior back.

    Parameters
    ----------
    path : file written by `Posterior.save`
    *args, **kwargs : the data of the fit, needed only for `log_likelihood`, `log_density`, `to_arviz`
    model : the NumPyro model, needed only where it is not one of tercet's own

    Returns
    -------
    Posterior
        Answers every question about rewards, draws and means without the data, for tercet's own linear models
        and for chains; a Gaussian over constrained sites needs its model and data to transform them.

    Examples
    --------
    >>> import tempfile, os
    >>> from tercet.models import AbilityHead, BradleyTerry, Comparisons, Items
    >>> from tercet.inference import laplace, load
    >>> items = Items.named(["tea", "coffee"])
    >>> fit = laplace(BradleyTerry(AbilityHead(1.0)), items, Comparisons([0], [1], [1]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = load(fit.save(os.path.join(folder, "drinks")))
    >>> bool((again.center == fit.center).all())
    True
    """
    try:
        # opened here: np.load leaves a broken file open
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            arrays = {name: file[name] for name in file.files if name != "header"}
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a posterior saved by tercet, or is cut short: {error}") from error
    if header["format"] > FORMAT:
        raise ValueError(
            f"{path} was written by tercet {header['tercet']} in format {header['format']}; this version reads "
            f"up to {FORMAT}: upgrade tercet."
        )
    maps = {n.removeprefix("projection/"): v for n, v in arrays.items() if n.startswith("projection/")}
    if header.get("scale") is not None:  # format 1 kept this number apart
        maps["scale"] = header["scale"]
    context = Context(
        model=model if model is not None else _restore(header["model"]),
        args=args if args or kwargs else None,
        kwargs=kwargs,
        x64=True if header["kind"] == "laplace" else None,
        saved_coords=header["coords"],
        saved_projection=_feature_map(maps),
    )
    return _rebuild(header, arrays, context)


def _arrays(posterior: Posterior) -> dict[str, np.ndarray]:
    if isinstance(posterior, GaussianPosterior):
        return {"center": posterior.center, "precision_factor": posterior.precision_factor}
    assert isinstance(posterior, SampledPosterior)
    samples = {f"samples/{name}": values for name, values in posterior.samples.items()}
    return samples | {f"statistics/{name}": values for name, values in posterior.statistics.items()}


def _maps(projection: FeatureMap | None) -> dict[str, np.ndarray]:
    """The numbers of a feature map, by name."""
    if projection is None:
        return {}
    if isinstance(projection, HiddenFeatures):
        kernels = {f"kernel_{k}": kernel for k, kernel in enumerate(projection.kernels)}
        return _maps(projection.before) | kernels | {f"bias_{k}": bias for k, bias in enumerate(projection.biases)}
    if not isinstance(projection, Projection):
        raise ValueError(f"items were projected by {type(projection).__name__}, which tercet cannot save.")
    basis = {} if projection.basis is None else {"basis": projection.basis}
    return {"center": projection.center, "scale": np.array(projection.scale)} | basis


def _feature_map(maps: dict[str, np.ndarray]) -> FeatureMap | None:
    before = None
    if "center" in maps:
        before = Projection(maps["center"], maps.get("basis"), float(maps["scale"]))
    depth = sum(name.startswith("kernel_") for name in maps)
    if not depth:
        return before
    layers = range(depth)
    return HiddenFeatures(before, tuple(maps[f"kernel_{k}"] for k in layers), tuple(maps[f"bias_{k}"] for k in layers))


def _rebuild(header: dict[str, Any], arrays: dict[str, np.ndarray], context: Context) -> Posterior:
    if "center" in arrays:
        layout = header["layout"]
        return GaussianPosterior(
            header["kind"],
            context,
            header["diagnostics"],
            arrays["center"],
            arrays["precision_factor"],
            None if layout is None else tuple((name, length) for name, length in layout),
        )
    samples = {n.removeprefix("samples/"): v for n, v in arrays.items() if n.startswith("samples/")}
    statistics = {n.removeprefix("statistics/"): v for n, v in arrays.items() if n.startswith("statistics/")}
    return SampledPosterior(header["kind"], context, header["diagnostics"], samples, statistics)


def _describe(model: Any) -> dict[str, Any] | None:
    if type(model).__name__ not in _KNOWN or _KNOWN[type(model).__name__] is not type(model):
        return None
    values = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    fields = {name: _describe(value) if isinstance(value, Head) else value for name, value in values.items()}
    return {"class": type(model).__name__, "fields": fields}


def _restore(description: dict[str, Any] | None) -> Any:
    if description is None:
        return None
    fields = {n: _restore(v) if isinstance(v, dict) else v for n, v in description["fields"].items()}
    fields |= {n: tuple(v) for n, v in fields.items() if isinstance(v, list)}
    return _KNOWN[description["class"]](**fields)
