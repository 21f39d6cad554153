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
from tercet.inference.context import Context
from tercet.inference.posterior import GaussianPosterior, Posterior, SampledPosterior
from tercet.models.preferences import BradleyTerry, Davidson, Thurstone
from tercet.models.projection import Projection
from tercet.models.reward_heads import AbilityHead, Head, LinearHead

FORMAT = 1
_KNOWN: dict[str, Any] = {cls.__name__: cls for cls in (BradleyTerry, Thurstone, Davidson, LinearHead, AbilityHead)}


def save(posterior: Posterior, path: str | Path) -> Path:
    """Write `posterior` to `path` (.npz is appended where missing). The data are not stored, names are."""
    target = Path(path)
    target = target if target.suffix == ".npz" else target.with_name(target.name + ".npz")
    projection = posterior.context.projection
    header = {
        "format": FORMAT,
        "tercet": tercet.__version__,
        "kind": posterior.kind,
        "model": _describe(posterior.context.model),
        "coords": posterior.context.coords,
        "diagnostics": dict(posterior.diagnostics),
        "layout": getattr(posterior, "layout", None),
        "scale": None if projection is None else projection.scale,
    }
    arrays = _arrays(posterior)
    if projection is not None:
        arrays |= {"projection/center": projection.center, "projection/basis": projection.basis}
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
    projection = None
    if header["scale"] is not None:
        center, basis = arrays.pop("projection/center"), arrays.pop("projection/basis")
        projection = Projection(center, basis, header["scale"])
    context = Context(
        model=model if model is not None else _restore(header["model"]),
        args=args if args or kwargs else None,
        kwargs=kwargs,
        x64=True if header["kind"] == "laplace" else None,
        saved_coords=header["coords"],
        saved_projection=projection,
    )
    return _rebuild(header, arrays, context)


def _arrays(posterior: Posterior) -> dict[str, np.ndarray]:
    if isinstance(posterior, GaussianPosterior):
        return {"center": posterior.center, "precision_factor": posterior.precision_factor}
    assert isinstance(posterior, SampledPosterior)
    samples = {f"samples/{name}": values for name, values in posterior.samples.items()}
    return samples | {f"statistics/{name}": values for name, values in posterior.statistics.items()}


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
    return _KNOWN[description["class"]](**fields)
